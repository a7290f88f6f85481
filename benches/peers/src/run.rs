//! The work: what is done to a cluster, the same for every subject.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::time::{sleep, timeout};

use crate::board::{Goal, Outcome};
use crate::cluster::Cluster;
use crate::namespace;
use crate::options::{RunOptions, Work};
use crate::record::{Falsely, Record, What, milliseconds};
use crate::usage::{Memory, Usage};

/// Longest pause between two changes, drawn at random, so that they meet ticks at any phase.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The same where there are many: in quick succession, but not in step with anything.
const PAUSE_MAX_STRAGGLERS: Duration = Duration::from_millis(20);
/// For a node to do what it was told, beyond the time until others see it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many nodes are asked in a check.
const ASKED_MAX: usize = 10;
/// For reports that were under way when a check begins.
const CHECK_ATTEMPTS: usize = 20;
const CHECK_PAUSE: Duration = Duration::from_millis(250);

/// Does the work and prints what was measured.
pub(crate) async fn run(options: &RunOptions) -> Result<()> {
    let RunOptions { peer, n, work } = options;
    let rng_seed = work.rng_seed.unwrap_or_else(|| fastrand::u64(..));
    Record::Run {
        peer: peer.key(),
        title: peer.title().await,
        n: *n,
        rng_seed,
    }
    .emit()?;
    let replacements = work.kills + work.leaves.max(work.stragglers);
    let mut run = Run {
        cluster: Cluster::new(peer.peer(*n), *n + replacements + 1),
        work,
        rng: fastrand::Rng::with_seed(rng_seed),
        memory_before: Memory::now(&[])?,
    };
    run.cold_start(*n).await?;
    sleep(work.settle).await;
    run.check("after the start").await?;
    if work.stragglers > 0 {
        run.stragglers().await?;
    } else {
        run.measures().await?;
    }
    run.check("at the end").await
}

struct Run<'a> {
    cluster: Cluster,
    work: &'a Work,
    rng: fastrand::Rng,
    memory_before: Memory,
}

impl Run<'_> {
    async fn measures(&mut self) -> Result<()> {
        self.idle().await?;
        for _ in 0..self.work.rounds {
            self.pause(PAUSE_MAX).await;
            self.change().await?;
        }
        for _ in 0..self.work.kills {
            self.pause(PAUSE_MAX).await;
            self.kill().await?;
            self.pause(PAUSE_MAX).await;
            self.join().await?;
        }
        for _ in 0..self.work.leaves {
            self.pause(PAUSE_MAX).await;
            self.leave().await?;
            self.pause(PAUSE_MAX).await;
            self.join().await?;
        }
        for percent in &self.work.loss {
            if let Err(reason) = self.lose(*percent).await? {
                let text = format!("loss skipped: {reason}");
                return Record::Note { text }.emit();
            }
        }
        Ok(())
    }

    async fn stragglers(&mut self) -> Result<()> {
        for _ in 0..self.work.stragglers {
            self.pause(PAUSE_MAX_STRAGGLERS).await;
            self.change().await?;
        }
        for _ in 0..self.work.stragglers {
            self.pause(PAUSE_MAX_STRAGGLERS).await;
            self.leave().await?;
            self.pause(PAUSE_MAX_STRAGGLERS).await;
            self.join().await?;
        }
        for _ in 0..self.work.kills {
            self.pause(PAUSE_MAX).await;
            self.kill().await?;
            self.pause(PAUSE_MAX).await;
            self.join().await?;
        }
        Ok(())
    }

    async fn cold_start(&mut self, n: usize) -> Result<()> {
        self.cluster.reserve(n);
        let board = self.cluster.board().clone();
        let start = board.expect(Goal::Everyone);
        let started = self.cluster.start_reserved(n);
        let (last_launch, outcome) = tokio::join!(started, board.reached(self.work.wait));
        let last_launch = last_launch?;
        let all = outcome.times.first().map(|time| start + *time);
        let since =
            |launch: Instant| all.map(|all| milliseconds(all.saturating_duration_since(launch)));
        Record::ColdStart {
            all: since(start),
            last: since(last_launch),
            missing: outcome.missed,
        }
        .emit()
    }

    async fn idle(&mut self) -> Result<()> {
        let pids = self.cluster.pids();
        let base = if pids.is_empty() {
            self.memory_before
        } else {
            Memory::default()
        };
        let verdicts = self.cluster.verdicts().await;
        self.cluster.board().take_false_downs();
        let before = Usage::now(&pids)?;
        sleep(self.work.idle).await;
        let after = Usage::now(&pids)?;
        let memory = Memory::now(&pids)?;
        Record::Idle {
            seconds: (after.at - before.at).as_secs_f64(),
            bytes: after.bytes - before.bytes,
            packets: after.packets - before.packets,
            cpu: milliseconds(after.cpu.saturating_sub(before.cpu)),
            rss_kib: memory.all - base.all,
            anonymous_kib: memory.anonymous - base.anonymous,
            falsely: self.falsely(verdicts).await,
        }
        .emit()
    }

    async fn change(&mut self) -> Result<()> {
        let (number, value) = (self.cluster.any(&mut self.rng), self.cluster.next_value());
        let board = self.cluster.board().clone();
        board.expect(Goal::Value(number, value));
        let update = timeout(PATIENCE, self.cluster.node(number)?.update(value));
        let (updated, outcome) = tokio::join!(update, board.reached(self.work.wait));
        updated.context("update took too long")??;
        self.round(What::Change, &outcome)
    }

    async fn kill(&mut self) -> Result<()> {
        let number = self.cluster.any_but_the_seed(&mut self.rng);
        let board = self.cluster.board().clone();
        let node = self.cluster.take(number)?;
        board.expect(Goal::Gone(number));
        let kill = timeout(PATIENCE, node.kill());
        let (killed, outcome) = tokio::join!(kill, board.reached(self.work.wait));
        killed.context("kill took too long")?;
        self.cluster.ensure_closed(number)?;
        self.round(What::Kill, &outcome)
    }

    async fn leave(&mut self) -> Result<()> {
        let number = self.cluster.any_but_the_seed(&mut self.rng);
        let board = self.cluster.board().clone();
        let node = self.cluster.take(number)?;
        board.expect(Goal::Gone(number));
        let leave = timeout(PATIENCE, node.leave());
        let (left, outcome) = tokio::join!(leave, board.reached(self.work.wait));
        if let Err(error) = left.context("leave took too long")? {
            let text = format!("leave: {error:#}");
            Record::Note { text }.emit()?;
        }
        self.cluster.ensure_closed(number)?;
        self.round(What::Leave, &outcome)
    }

    async fn join(&mut self) -> Result<()> {
        self.cluster.reserve(1);
        let board = self.cluster.board().clone();
        board.expect(Goal::Everyone);
        let start = self.cluster.start_reserved(1);
        let (started, outcome) = tokio::join!(start, board.reached(self.work.wait));
        started?;
        self.round(What::Join, &outcome)
    }

    /// A time with packet loss; the inner error says why there can't be one.
    async fn lose(&mut self, percent: u8) -> Result<Result<(), String>> {
        let verdicts = self.cluster.verdicts().await;
        self.cluster.board().take_false_downs();
        if let Err(reason) = namespace::lose(percent).await {
            return Ok(Err(reason));
        }
        sleep(self.work.loss_time).await;
        let falsely = self.falsely(verdicts).await;
        let dropped = match namespace::restore().await {
            Ok(dropped) => dropped,
            Err(reason) => return Ok(Err(reason)),
        };
        self.cluster.board().expect(Goal::Everyone);
        let healed = self.cluster.board().reached(self.work.wait).await;
        Record::Loss {
            percent,
            seconds: self.work.loss_time.as_secs_f64(),
            dropped,
            falsely,
            healed: (healed.missed == 0)
                .then(|| healed.times.first().copied().map_or(0.0, milliseconds)),
        }
        .emit()
        .map(Ok)
    }

    async fn falsely(&self, verdicts_before: Option<u64>) -> Falsely {
        let downs = self.cluster.board().take_false_downs();
        let verdicts = self.cluster.verdicts().await.zip(verdicts_before);
        Falsely {
            reports: downs.reports,
            nodes: downs.nodes,
            verdicts: verdicts.map(|(now, before)| now.saturating_sub(before)),
        }
    }

    /// Compares what nodes answer with what the board shows, so that no lost report goes unnoticed.
    async fn check(&mut self, when: &str) -> Result<()> {
        let (mut asked, mut differing) = (0, 0);
        for _ in 0..CHECK_ATTEMPTS {
            (asked, differing) = self.cluster.compare(ASKED_MAX).await?;
            if differing == 0 {
                break;
            }
            sleep(CHECK_PAUSE).await;
        }
        Record::Check {
            when: when.to_owned(),
            asked,
            differing,
        }
        .emit()
    }

    fn round(&self, what: What, outcome: &Outcome) -> Result<()> {
        Record::Round {
            what,
            times: outcome.times.iter().copied().map(milliseconds).collect(),
            missed: outcome.missed,
        }
        .emit()
    }

    async fn pause(&mut self, longest: Duration) {
        sleep(longest.mul_f64(self.rng.f64())).await;
    }
}
