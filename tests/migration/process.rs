//! One process of a fleet, as the test sees it: what it is told and what it says.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidings::Phase;
use tidings::moving::Side;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::member::now;
use crate::record::{Bounds, Sight};

/// How long anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// How often it is asked again.
const PAUSE: Duration = Duration::from_millis(200);
const SIGKILL: i32 = 9;

pub(crate) struct Process {
    pub(crate) name: String,
    /// The instance it offers, with its port.
    pub(crate) instance: Option<String>,
    child: Child,
    stdin: ChildStdin,
    said: mpsc::UnboundedReceiver<(u64, String)>,
    heard: Arc<Mutex<Heard>>,
}

/// What a process says without being asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// What it sees, where it looks others up.
    pub(crate) sight: Sight,
    /// The phases it has been in.
    pub(crate) walked: Vec<Phase>,
    /// The worst bounds of the sides it has used.
    pub(crate) bounds: Bounds,
    /// Why its view was stale, each time.
    pub(crate) stale: Vec<String>,
    /// How often it has changed its content.
    pub(crate) changes: u64,
}

impl Process {
    /// Starts a process; it says `ready` when it is.
    pub(crate) fn start(
        name: &str,
        config: &str,
        instance: Option<&str>,
        more: &[(&str, String)],
    ) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "one_member_of_the_fleet",
                "--ignored",
                "--nocapture",
            ])
            .env("MEMBER_CONFIG", config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(instance) = instance {
            command.env("MEMBER_INSTANCE", instance);
        }
        command.envs(more.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, said) = mpsc::unbounded_channel();
        let heard = Arc::<Mutex<Heard>>::default();
        tokio::spawn(listen(stdout, heard.clone(), sender));
        Self {
            name: name.to_owned(),
            instance: instance.map(ToOwned::to_owned),
            child,
            stdin,
            said,
            heard,
        }
    }

    /// What it has said so far without being asked.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    /// Whether its newest view has an instance.
    pub(crate) fn sees(&self, instance: &str) -> bool {
        let heard = self.heard.lock().unwrap();
        let newest = heard.sight.views.last();
        newest.is_some_and(|(_, names)| names.contains(instance))
    }

    /// Waits for a line that begins with this, and says when it was said.
    pub(crate) async fn hears(&mut self, what: &str) -> (u64, String) {
        self.hears_any(&[what]).await
    }

    /// Asks for a phase until the gate is open.
    pub(crate) async fn set_phase(&mut self, phase: Phase) {
        let mut last = String::new();
        let there = async {
            loop {
                match self.try_phase(phase).await {
                    Ok(()) => return,
                    Err(reason) => last = reason,
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let there = timeout(PATIENCE, there).await;
        let name = &self.name;
        assert!(there.is_ok(), "{name} never comes to {phase}: {last}");
    }

    /// Asks for a phase once.
    pub(crate) async fn try_phase(&mut self, phase: Phase) -> Result<(), String> {
        self.tell(&format!("phase {phase}")).await;
        let (_, answer) = self.hears_any(&["phase", "refused"]).await;
        match answer.strip_prefix("refused ") {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(()),
        }
    }

    pub(crate) async fn phase(&mut self) -> Phase {
        self.tell("plan ?").await;
        let (_, answer) = self.hears("plan").await;
        answer["plan ".len()..].parse().unwrap()
    }

    /// What it says about both ends.
    pub(crate) async fn preflight(&mut self) -> String {
        self.tell("preflight ?").await;
        self.hears("preflight").await.1
    }

    /// Waits until it says that it is in a phase by itself: what it has walked is known up to there.
    pub(crate) async fn reaches(&mut self, phase: Phase) {
        let there = async {
            while self.heard.lock().unwrap().walked.last() != Some(&phase) {
                tokio::time::sleep(PAUSE).await;
            }
        };
        let there = timeout(PATIENCE * 2, there).await;
        if there.is_err() {
            let reason = self.try_phase(phase).await;
            panic!("{} never reaches {phase} by itself: {reason:?}", self.name);
        }
    }

    /// Waits until it says that it hears a side, or doesn't.
    pub(crate) async fn finds(&mut self, side: Side, connected: bool) {
        let found = async {
            loop {
                self.tell(&format!("side {side}")).await;
                let (_, answer) = self.hears("side").await;
                if answer == format!("side {connected}") {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let found = timeout(PATIENCE, found).await;
        let name = &self.name;
        assert!(found.is_ok(), "{name}: {side} side heard: not {connected}");
    }

    /// Tells it to end and waits until it has; says when it was told.
    pub(crate) async fn finish(&mut self) -> u64 {
        self.tell("end").await;
        let (at, _) = self.hears("ending").await;
        self.hears("ended").await;
        let ended = timeout(PATIENCE, self.child.wait()).await;
        assert!(ended.unwrap().unwrap().success(), "{}", self.name);
        at
    }

    /// Kills it and says when.
    pub(crate) async fn kill(&mut self) -> u64 {
        let at = now();
        self.child.start_kill().unwrap();
        let ended = self.child.wait().await.unwrap();
        assert_eq!(
            ended.signal(),
            Some(SIGKILL),
            "{} was not killed",
            self.name
        );
        at
    }

    async fn tell(&mut self, text: &str) {
        let line = format!("{text}\n");
        self.stdin.write_all(line.as_bytes()).await.unwrap();
    }

    async fn hears_any(&mut self, what: &[&str]) -> (u64, String) {
        let heard = async {
            loop {
                let (at, text) = self.said.recv().await.expect("the process ended");
                if what.iter().any(|what| text.starts_with(what)) {
                    return (at, text);
                }
            }
        };
        let heard = timeout(PATIENCE, heard).await;
        heard.unwrap_or_else(|_| panic!("{} doesn't say {what:?}", self.name))
    }
}

/// Takes in what a process says; passes on what are answers.
async fn listen(
    stdout: ChildStdout,
    heard: Arc<Mutex<Heard>>,
    answers: mpsc::UnboundedSender<(u64, String)>,
) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let said = line
            .rsplit_once('@')
            .and_then(|(_, said)| said.split_once(' '));
        let Some((at, text)) = said else {
            continue;
        };
        let at: u64 = at.parse().unwrap();
        let mut heard = heard.lock().unwrap();
        if !heard.take(at, text) {
            let _ = answers.send((at, text.to_owned()));
        }
    }
}

impl Heard {
    /// Takes in a line, where it is no answer.
    fn take(&mut self, at: u64, text: &str) -> bool {
        let (what, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut numbers = rest
            .split(' ')
            .map_while(|number| number.parse::<u64>().ok());
        let mut number = || numbers.next().unwrap();
        match what {
            "view" => {
                self.sight.lookups = number();
                let names = rest.split_once(' ').map_or("", |(_, names)| names);
                let names = names.split(',').filter(|name| !name.is_empty());
                let names = names.map(ToOwned::to_owned).collect();
                self.sight.views.push((at, names));
            }
            "lookups" => {
                self.sight.lookups = number();
                self.sight.gap = self.sight.gap.max(number());
            }
            "back" => self.sight.back.push(text.to_owned()),
            "stale" => self.stale.push(rest.to_owned()),
            "changes" => self.changes = number(),
            "bounds" => self.bounds.worsen(Bounds {
                visible: number(),
                removed: number(),
                crashed: number(),
            }),
            "walks" => self.walked.push(rest.parse().unwrap()),
            _ => return false,
        }
        true
    }
}
