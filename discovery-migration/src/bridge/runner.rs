//! The task of a bridge.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use tidings_api::{
    Discovery, Error, ErrorKind, InstanceKey, Registration, Result, Status, Views, Watch,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::ledger::{Job, Ledger, Scene, holder};
use super::peers::{Group, Peers, bridge_key};
use super::picture::Picture;
use super::report::{BridgeReport, BridgeState};
use super::{BRIDGE, BridgeOptions};

/// Calls to the target under way at once: enough to take over thousands of mirrors within a lease,
/// and no more than a backend's own limits.
const CALLS_MAX: usize = 64;
/// A look takes at most this share of the time, so that thousands of changes merge.
const LOOK_SHARE: u32 = 4;
/// How often a bridge gives a sign of life: often enough within the time that the target keeps its
/// mirrors after a crash, and no more than the target can bear.
const BEAT: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(1);
/// Signs of life within the time that the target keeps mirrors after a crash.
const BEATS_PER_CRASH: u32 = 20;
/// Signs of life that have to be missing before a bridge counts as silent: a quarter of that time,
/// which leaves the rest to take over in.
const BEATS_MISSING: u32 = 5;
/// How many times the others' silence a bridge that leaves waits for them.
const HANDOVER_SILENCES: u32 = 4;

pub(super) struct Runner {
    target: Arc<dyn Discovery>,
    sights: [Sights; 2],
    member: InstanceKey,
    ledger: Ledger,
    peers: Peers,
    state: BridgeState,
    /// What the target knows of the state.
    told: Option<BridgeState>,
    /// Since when it takes on nothing more.
    leaving: Option<Instant>,
    /// Who is told when it has ended, where somebody closes it.
    closing: Option<Closing>,
    calls: JoinSet<Call>,
    queue: Vec<Job>,
    /// The own registration is being renewed.
    beating: bool,
    /// It was refused.
    refused: bool,
    beat: Duration,
    report: Arc<Mutex<BridgeReport>>,
}

/// What is watched of one backend.
struct Sights {
    watches: Vec<Watch>,
    views: SelectAll<Views>,
    closed: bool,
}

/// A call to the target that has ended.
enum Call {
    Job(Job, Result<()>),
    Beat(BridgeState, Result<()>),
}

pub(super) type Closing = oneshot::Sender<Result<()>>;

impl Runner {
    pub(super) fn new(
        source: Vec<Watch>,
        target: Vec<Watch>,
        handle: Arc<dyn Discovery>,
        options: &BridgeOptions,
        report: Arc<Mutex<BridgeReport>>,
    ) -> Self {
        let beat = beat(&handle.status());
        let (name, origin) = {
            let report = report.lock().unwrap_or_else(PoisonError::into_inner);
            (report.name.clone(), report.origin.clone())
        };
        let group = Group {
            origin: origin.clone(),
            selection: options.selection(),
        };
        let silence = beat * BEATS_MISSING;
        Self {
            target: handle,
            sights: [Sights::new(source), Sights::new(target)],
            member: bridge_key(options.name.clone()),
            ledger: Ledger::new(name, origin, options.hold),
            peers: Peers::new(options.name.clone(), group, silence, Instant::now()),
            state: BridgeState::Standby,
            told: None,
            leaving: None,
            closing: None,
            calls: JoinSet::new(),
            queue: Vec::new(),
            beating: false,
            refused: false,
            beat,
            report,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Closing>) {
        let mut ticks = interval(self.beat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_look = Instant::now();
        let mut is_due = true;
        loop {
            if is_due && Instant::now() >= next_look {
                let started = Instant::now();
                self.look();
                is_due = false;
                // Whoever looks too seldom takes everybody for silent, or nobody.
                next_look = Instant::now() + self.beat.min(started.elapsed() * LOOK_SHARE);
            }
            self.call();
            if self.is_over() {
                return self.end().await;
            }
            let [source, target] = &mut self.sights;
            tokio::select! {
                () = source.changed() => is_due = true,
                () = target.changed() => is_due = true,
                Some(call) = self.calls.join_next() => {
                    self.take_in(call);
                    is_due |= self.queue.is_empty();
                }
                _ = ticks.tick() => {
                    is_due = true;
                    self.renew();
                }
                () = tokio::time::sleep_until(next_look), if is_due => {}
                Some(reply) = commands.recv(), if self.closing.is_none() => {
                    self.closing = Some(reply);
                    self.leave(self.is_superseded(&self.target.status()));
                    is_due = true;
                }
            }
        }
    }

    /// Looks at everything, and says what follows from it.
    fn look(&mut self) {
        let now = Instant::now();
        let [source, target] = &self.sights;
        let (source, target) = (source.picture(), target.picture());
        let status = self.target.status();
        let mirrors = target.iter().filter(|there| there.is_mirror());
        self.peers
            .look(&target, mirrors.map(|there| holder(there)), now);
        if self.is_superseded(&status) && self.state != BridgeState::Superseded {
            tracing::warn!(name = %self.member.id(), "another bridge of this name took over");
            self.leave(true);
        }
        if self.leaving.is_none() {
            let state = match source.is_live() {
                true => BridgeState::Ready,
                false => BridgeState::Standby,
            };
            if self.state != state {
                self.state = state;
                self.renew();
            }
        }
        self.queue = self.ledger.look(Scene {
            source: &source,
            target: &target,
            status: &status,
            peers: &self.peers,
            now,
            takes: self.leaving.is_none(),
        });
        if self.is_done_waiting(&status, now) {
            self.queue = self.ledger.all();
        }
        self.publish(&source, &target, now);
    }

    /// Stops to take on anything, and waits for others to take over what there is.
    fn leave(&mut self, superseded: bool) {
        self.leaving = Some(Instant::now());
        self.state = match superseded {
            true => BridgeState::Superseded,
            false => BridgeState::Leaving,
        };
        self.renew();
    }

    /// Whether nobody is waited for any more by a bridge that leaves.
    fn is_done_waiting(&self, status: &Status, now: Instant) -> bool {
        let Some(leaving) = self.leaving else {
            return false;
        };
        let handover = self.peers.silence() * HANDOVER_SILENCES;
        let wait = match self.state {
            // To be sure of that: one that has just become ready may not have been heard of.
            BridgeState::Leaving if !self.peers.has_heirs(now) => {
                self.beat.max(status.bounds().visible)
            }
            // The newer one may not hear the source yet, and this one is in nobody's way.
            BridgeState::Superseded if self.closing.is_none() => handover.max(self.ledger.hold()),
            _ => handover,
        };
        now.saturating_duration_since(leaving) >= wait
    }

    /// Whether another bridge has registered under this one's name.
    fn is_superseded(&self, status: &Status) -> bool {
        let own = status.registration(&self.member);
        own.is_some_and(Registration::is_superseded)
    }

    fn is_over(&self) -> bool {
        let handed_over = self.leaving.is_some() && self.ledger.is_empty() && !self.beating;
        handed_over || self.sights[1].closed
    }

    /// Gives a sign of life, unless the last one is still under way. Not where another bridge has the
    /// name: that would take it back.
    fn renew(&mut self) {
        if self.beating || self.is_superseded(&self.target.status()) {
            return;
        }
        match self.peers.introduce(self.state) {
            Ok(entry) => {
                let (target, state) = (self.target.clone(), self.state);
                self.beating = true;
                self.calls.spawn(async move {
                    Call::Beat(state, target.register(entry).await.map(drop))
                });
            }
            Err(error) => tracing::error!(%error, "a bridge can't be registered"),
        }
    }

    /// Tells the target what there is to tell.
    fn call(&mut self) {
        while self.calls.len() < CALLS_MAX
            && let Some(job) = self.queue.pop()
        {
            self.ledger.start(&job);
            let target = self.target.clone();
            self.calls.spawn(async move {
                let result = match &job {
                    Job::Register(mirror) => target.register((**mirror).clone()).await.map(drop),
                    Job::Withdraw(key) => target.deregister(key).await.map(drop),
                };
                Call::Job(job, result)
            });
        }
    }

    fn take_in(&mut self, call: Result<Call, tokio::task::JoinError>) {
        match call {
            Ok(Call::Job(job, result)) => self.ledger.finish(&job, result, Instant::now()),
            Ok(Call::Beat(state, result)) => {
                self.beating = false;
                let refused = result.is_err();
                let status = self.target.status();
                let own = status.registration(&self.member);
                if !refused && own.is_some_and(Registration::is_registered) {
                    self.told = Some(state);
                }
                if !refused && state != self.state {
                    // It changed meanwhile, and others wait for that.
                    self.renew();
                }
                if let (Err(error), false) = (result, self.refused) {
                    tracing::warn!(%error, "the target refuses the registration of a bridge");
                }
                self.refused = refused;
            }
            Err(error) => {
                // What a backend was told that panics is not known any more: the bridge ends as well.
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    fn publish(&self, source: &Picture, target: &Picture, now: Instant) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.state = match self.state {
            // Ready is who the others know to be.
            BridgeState::Ready if self.told != Some(BridgeState::Ready) => BridgeState::Standby,
            state => state,
        };
        report.source = source.freshness().clone();
        report.target = target.freshness().clone();
        let since = self.ledger.unverified_since();
        report.unverified_for = since.map(|since| now.saturating_duration_since(since));
        report.mirrored = self.ledger.held().cloned().collect();
        report.skipped = self.ledger.skipped().clone();
        report.others = self.peers.list(now);
    }

    async fn end(mut self) {
        self.calls.shutdown().await;
        let target = self.sights[1].picture();
        let gone = self.target.deregister(&self.member).await;
        self.state = BridgeState::Closed;
        self.publish(&self.sights[0].picture(), &target, Instant::now());
        let Some(reply) = self.closing else {
            return;
        };
        let result = match gone {
            Ok(_) if !target.is_live() => {
                let message = format!("the target was not told: it is {}", target.freshness());
                Err(Error::new(ErrorKind::Unavailable, message))
            }
            gone => gone.map(drop),
        };
        let error = |error: Error| error.with_backend(BRIDGE).with_operation("close");
        // Whoever asked may have gone.
        let _ = reply.send(result.map_err(error));
    }
}

impl Sights {
    fn new(watches: Vec<Watch>) -> Self {
        Self {
            views: select_all(watches.iter().map(|watch| watch.clone().into_views())),
            watches,
            closed: false,
        }
    }

    fn picture(&self) -> Picture {
        Picture::of(&self.watches, self.closed)
    }

    /// Waits for news. Never returns after the handle was closed and that was said.
    async fn changed(&mut self) {
        if self.closed {
            return std::future::pending().await;
        }
        self.closed = self.views.next().await.is_none();
    }
}

/// How often a bridge into this target gives a sign of life.
fn beat(target: &Status) -> Duration {
    let beat = target.bounds().crashed / BEATS_PER_CRASH;
    beat.clamp(*BEAT.start(), *BEAT.end())
}
