//! The one task of an observer: it owns the session and the link.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Connection, Publisher, Result, Selector, Watch};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::feeds::Feeds;
use super::session::{Session, Step};
use super::{Board, ObserverStats};
use crate::key_file::KeyFile;
use crate::link::{LinkKeys, Single, SingleEvent};
use crate::resolve::{Resolution, Seeds};
use crate::seal::{Ring, SealKey};

/// Frames that one turn takes: see the driver of members.
const FRAMES_PER_TURN_MAX: usize = 64;
/// Time between two looks for unused feeds.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What a handle asks the driver for.
#[derive(Debug)]
pub(super) enum Command {
    Watch(Selector, oneshot::Sender<Result<Watch>>),
    Close,
    #[cfg(feature = "fault-injection")]
    CutOff(bool, oneshot::Sender<()>),
}

/// What a driver is made of.
pub(super) struct Parts {
    pub(super) session: Session,
    pub(super) seeds: Seeds,
    pub(super) ring: watch::Sender<Arc<Ring>>,
    pub(super) key_file: KeyFile,
    pub(super) keys: LinkKeys,
    pub(super) publisher: Publisher,
    pub(super) board: Arc<Board>,
    pub(super) live: oneshot::Sender<()>,
    pub(super) commands: mpsc::Receiver<Command>,
}

/// The task's state. Fields are dropped in this order: once `commands` is gone, which is what `close`
/// waits for, the socket is closed.
pub(super) struct Driver {
    link: Single,
    session: Session,
    seeds: Seeds,
    ring: watch::Sender<Arc<Ring>>,
    key_file: KeyFile,
    feeds: Feeds,
    board: Arc<Board>,
    stats: ObserverStats,
    /// Told once views are live.
    live: Option<oneshot::Sender<()>>,
    was_live: bool,
    reason: Option<Arc<str>>,
    next_sweep: Instant,
    over: bool,
    commands: mpsc::Receiver<Command>,
}

/// What woke the task.
enum Wake {
    Link(SingleEvent),
    Seeds(Resolution),
    Keys(Vec<SealKey>),
    /// `None` when the last handle is gone.
    Command(Option<Command>),
    Timer,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            link: Single::new(parts.keys),
            session: parts.session,
            seeds: parts.seeds,
            ring: parts.ring,
            key_file: parts.key_file,
            feeds: Feeds::new(parts.publisher),
            board: parts.board,
            stats: ObserverStats::default(),
            live: Some(parts.live),
            was_live: false,
            reason: None,
            next_sweep: Instant::now() + SWEEP_INTERVAL,
            over: false,
            commands: parts.commands,
        }
    }

    /// Runs until the handle is closed or dropped, and its socket is closed.
    pub(super) async fn run(mut self) {
        let timer = sleep_until(Instant::now().into());
        tokio::pin!(timer);
        while !self.over {
            let due = self.due();
            if let Some(due) = due.filter(|due| *due != timer.deadline().into_std()) {
                timer.as_mut().reset(due.into());
            }
            let wake = tokio::select! {
                event = self.link.next() => Wake::Link(event),
                resolution = self.seeds.resolved() => Wake::Seeds(resolution),
                keys = self.key_file.changed() => Wake::Keys(keys),
                command = self.commands.recv() => Wake::Command(command),
                () = &mut timer, if due.is_some() => Wake::Timer,
            };
            self.turn(wake);
        }
        self.feeds.close();
        self.link.shutdown().await;
    }

    fn turn(&mut self, wake: Wake) {
        let now = Instant::now();
        match wake {
            Wake::Link(event) => self.take_link_events(now, event),
            Wake::Seeds(resolution) => self.session.handle_seeds(now, &resolution.addresses),
            Wake::Keys(keys) => self.take_keys(keys),
            Wake::Command(Some(command)) => self.command(now, command),
            Wake::Command(None) => self.over = true,
            Wake::Timer => self.session.handle_timeout(now),
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.feeds.sweep(&mut self.session);
        }
        self.drain();
        self.settle(now);
    }

    fn take_link_events(&mut self, now: Instant, first: SingleEvent) {
        let mut next = Some(first);
        let mut room = FRAMES_PER_TURN_MAX;
        while let Some(event) = next {
            match event {
                SingleEvent::Frame(frame) => {
                    self.stats.frames_in += 1;
                    self.stats.bytes_in += frame.len() as u64;
                    self.session.handle_frame(now, &frame);
                }
                SingleEvent::Ended => self.session.handle_link_ended(now),
            }
            // Frames of a link that was given up just now must not be taken for the next one's.
            self.drain();
            room -= 1;
            next = if room > 0 { self.link.try_next() } else { None };
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Watch(selector, reply) => {
                self.feeds.watch(now, selector, &mut self.session, reply);
            }
            Command::Close => self.over = true,
            #[cfg(feature = "fault-injection")]
            Command::CutOff(cut_off, reply) => {
                if let Some(event) = self.link.cut_off(cut_off) {
                    self.take_link_events(now, event);
                }
                let _ = reply.send(());
            }
        }
    }

    /// The key file has other keys.
    fn take_keys(&mut self, keys: Vec<SealKey>) {
        let ring = self.ring.borrow().with_keys(keys);
        match ring {
            Ok(ring) => {
                info!(mode = %ring.mode(), "keys changed");
                self.ring.send_replace(Arc::new(ring));
            }
            Err(error) => warn!(%error, "the keys of the file are not taken over"),
        }
    }

    /// Takes all steps of the session.
    fn drain(&mut self) {
        while let Some(step) = self.session.poll_step() {
            match step {
                Step::Connect(to) => self.link.connect(to),
                Step::Send(frame) => {
                    self.stats.frames_out += 1;
                    self.stats.bytes_out += frame.len() as u64;
                    self.link.send(&frame);
                }
                Step::Disconnect => self.link.disconnect(),
                Step::ResolveSeeds => self.seeds.resolve(),
            }
        }
    }

    /// Shows what the turn has changed.
    fn settle(&mut self, now: Instant) {
        for service in self.session.take_changed() {
            self.feeds.changed(service);
        }
        let freshness = self.session.freshness();
        let reason = match freshness {
            tidings_api::Freshness::Live => None,
            tidings_api::Freshness::Stale { reason, .. } => Some(reason.clone()),
        };
        let live = freshness.is_live();
        if (live, &reason) != (self.was_live, &self.reason) {
            (self.was_live, self.reason) = (live, reason);
            self.feeds.freshness_changed();
        }
        self.stats.failovers = self.session.failovers();
        self.stats.records = self.session.records();
        let (crashed, member) = (self.session.crash_bound(), self.session.member());
        self.board.note(freshness, crashed, member);
        self.feeds.publish(now, &self.session);
        self.stats.views_published = self.feeds.published();
        self.board.lock().stats = self.stats;
        if live && let Some(live) = self.live.take() {
            let _ = live.send(());
        }
    }

    /// When the next turn is due at the latest.
    fn due(&self) -> Option<Instant> {
        let sweep = (!self.feeds.is_empty()).then_some(self.next_sweep);
        let due = [self.session.poll_timeout(), self.feeds.due(), sweep];
        due.into_iter().flatten().min()
    }
}

/// Whatever ended the task, also a defect: readers and callers learn it.
impl Drop for Driver {
    fn drop(&mut self) {
        self.feeds.close();
        self.board.lock().connection = Connection::Closed;
    }
}
