//! HashiCorp's serf, as Debian packages it: a process a node.
//!
//! What an agent sees is read from its log the moment it is written: the log names every join,
//! failure, leave and update, at no cost while nothing happens. The agent is asked over RPC only
//! for what the log leaves out, the value of an updated tag.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::board::Board;
use crate::peer::{Node, Peer, Spot};

mod rpc;
use rpc::Rpc;

/// Where agents listen for RPC; loss spares it.
pub(crate) const RPC_PORT: u16 = 7373;

/// What to run, from Debian's package `serf`.
const PROGRAM: &str = "serf";
/// For an agent to be ready and to end; not a part of what is measured.
const PATIENCE: Duration = Duration::from_secs(60);

/// The version, as Debian knows it: the program itself says `0.8.2-dev` for years now.
pub(crate) async fn version() -> String {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat=${source:Upstream-Version}", PROGRAM])
        .output()
        .await;
    let version = query.ok().filter(|output| output.status.success());
    let version = version.and_then(|output| String::from_utf8(output.stdout).ok());
    version.map_or_else(
        || "?".to_owned(),
        |version| version.trim_end_matches("~ds1").to_owned(),
    )
}

#[derive(Debug)]
pub(crate) struct SerfGo;

#[async_trait]
impl Peer for SerfGo {
    async fn start(
        &self,
        spot: Spot,
        seed: Option<Spot>,
        board: Arc<Board>,
    ) -> Result<Box<dyn Node>> {
        let mut command = Command::new(PROGRAM);
        command
            .args(["agent", "-profile=lan", "-log-level=info", "-tag=value=0"])
            .arg(format!("-node={}", spot.name()))
            .arg(format!("-bind={}", spot.address()))
            .arg(format!("-rpc-addr={}", spot.address_at(RPC_PORT)));
        if let Some(seed) = seed {
            command.arg(format!("-join={}", seed.address()));
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut process = command
            .spawn()
            .context("start `serf` (Debian package serf)")?;
        let log = process.stdout.take().context("stdout is piped")?;
        let (ready, mut is_ready) = watch::channel(false);
        let rpc = Arc::new(Mutex::new(None));
        tokio::spawn(follow(spot, log, board, rpc.clone(), ready));
        // Once it logs it serves RPC too, and has joined.
        let up = timeout(PATIENCE, is_ready.wait_for(|ready| *ready)).await;
        let up = up.is_ok_and(|ready| ready.is_ok());
        ensure!(up, "agent {} did not start", spot.name());
        *rpc.lock().await = Some(Rpc::connect(spot.address_at(RPC_PORT)).await?);
        Ok(Box::new(SerfGoNode { process, rpc }))
    }
}

type SharedRpc = Arc<Mutex<Option<Rpc>>>;

/// Reports what the log tells until it ends with the agent.
async fn follow(
    spot: Spot,
    log: ChildStdout,
    board: Arc<Board>,
    rpc: SharedRpc,
    ready: watch::Sender<bool>,
) {
    let mut lines = BufReader::new(log).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains("Serf agent running!") {
            let _ = ready.send(true);
        }
        let Some((kind, Spot(subject))) = event(&line) else {
            continue;
        };
        match kind {
            "EventMemberJoin" => board.up(spot.0, subject),
            "EventMemberFailed" | "EventMemberLeave" | "EventMemberReap" => {
                board.down(spot.0, subject);
            }
            "EventMemberUpdate" => {
                if let Some(rpc) = rpc.lock().await.as_mut()
                    && let Ok(value) = rpc.value_of(&Spot(subject).name()).await
                {
                    board.value(spot.0, subject, value);
                }
            }
            _ => {}
        }
    }
}

/// `… [INFO] serf: EventMemberJoin: node-3 127.1.0.4`
fn event(line: &str) -> Option<(&str, Spot)> {
    let (_, event) = line.split_once("serf: ")?;
    let (kind, about) = event.split_once(": ")?;
    let spot = Spot::named(about.split_whitespace().next()?)?;
    Some((kind, spot))
}

struct SerfGoNode {
    process: Child,
    rpc: SharedRpc,
}

#[async_trait]
impl Node for SerfGoNode {
    async fn update(&self, value: u64) -> Result<()> {
        let mut rpc = self.rpc.lock().await;
        rpc.as_mut().context("no RPC")?.set_value(value).await
    }

    async fn kill(mut self: Box<Self>) {
        let _ = self.process.kill().await;
    }

    async fn leave(mut self: Box<Self>) -> Result<()> {
        if let Some(rpc) = self.rpc.lock().await.as_mut() {
            rpc.leave().await?;
        }
        timeout(PATIENCE, self.process.wait()).await??;
        Ok(())
    }

    async fn alive(&self) -> Result<Vec<usize>> {
        let mut rpc = self.rpc.lock().await;
        let names = rpc.as_mut().context("no RPC")?.alive().await?;
        let spots = names.iter().filter_map(|name| Spot::named(name));
        Ok(spots.map(|spot| spot.0).collect())
    }

    fn pid(&self) -> Option<u32> {
        self.process.id()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_from_the_log() {
        let line = "    2026/11/22 10:00:00 [INFO] serf: EventMemberJoin: node-3 127.1.0.4";
        assert_eq!(event(line), Some(("EventMemberJoin", Spot(3))));
        let line = "    2026/11/22 10:00:00 [INFO] serf: EventMemberUpdate: node-12";
        assert_eq!(event(line), Some(("EventMemberUpdate", Spot(12))));
        assert_eq!(
            event("    2026/11/22 10:00:00 [INFO] agent: joined: 1 nodes"),
            None
        );
    }
}
