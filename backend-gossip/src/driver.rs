//! The one task of a member: it owns the engine, and everything that happens goes through it.
//!
//! Each [`turn`](Driver::turn) takes what woke the task and whatever else of the kind is there, up
//! to a bound, so that neither a flood of datagrams nor one of commands keeps the others waiting.
//! After every single input all outputs of the engine are drained; watches are published and
//! callers answered once, at the end of the turn, in this order: who has an answer finds it in the
//! views.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{
    Freshness, Health, Instance, InstanceKey, Publisher, Removal, Result, Selector, Watch,
};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use crate::Stats;
use crate::engine::{Engine, Event, Identity, MemberInfo, MemberState, Route};
use crate::link::{LinkEvent, Links};
use crate::members::{MemberTable, MemberWatch};
use crate::metrics::Metrics;
use crate::net::Net;
use crate::resolve::{Resolution, Seeds};
use crate::state_dir::StateDir;
use crate::status::Board;
use crate::watch::Watches;

/// Commands that wait for the driver; callers wait when there are more.
pub(crate) const COMMANDS_WAITING_MAX: usize = 256;
/// What one turn takes of one kind. Large enough to make publishing once a turn worth it, small
/// enough that a turn stays below a few milliseconds.
const INPUTS_PER_TURN_MAX: usize = 64;
/// Time between two looks for idle links, unused feeds, and whatever else may be a second late.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How much longer than the engine's own bound a leave may take.
const LEAVE_GRACE: Duration = Duration::from_millis(100);

/// What a handle asks the driver for.
#[derive(Debug)]
pub(crate) enum Command {
    Register(Box<Instance>, Reply<Result<InstanceKey>>),
    Deregister(InstanceKey, Reply<Removal>),
    Health(InstanceKey, Health, Reply<Result<()>>),
    Watch(Selector, Reply<Result<Watch>>),
    Members(Reply<Vec<MemberInfo>>),
    WatchMembers(Reply<MemberWatch>),
    Stats(Reply<Stats>),
    Close,
    #[cfg(feature = "fault-injection")]
    CutOff(bool, Reply<()>),
    #[cfg(feature = "fault-injection")]
    Crash,
}

pub(crate) type Reply<T> = oneshot::Sender<T>;

/// The task's state. Fields are dropped in this order: once `commands` is gone, which is what
/// `close` waits for, the sockets are closed.
pub(crate) struct Driver {
    net: Net,
    links: Links,
    seeds: Seeds,
    /// The seeds' addresses, as they resolved last.
    resolved: Vec<SocketAddr>,
    state: StateDir,
    engine: Engine,
    watches: Watches,
    members: MemberTable,
    metrics: Metrics,
    board: Arc<Board>,
    /// What callers are told at the end of the turn.
    answers: Vec<Box<dyn FnOnce() + Send>>,
    /// Told once the cluster was joined.
    joined: Option<oneshot::Sender<()>>,
    next_sweep: Instant,
    leave_timeout: Duration,
    life: Life,
    commands: mpsc::Receiver<Command>,
}

/// How far the handle's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    /// The others are being told, until then at most.
    Leaving(Instant),
    Over,
}

/// What woke the task.
enum Wake {
    Datagrams,
    Connection(TcpStream),
    Link(LinkEvent),
    Seeds(Resolution),
    /// `None` when the last handle is gone.
    Command(Option<Command>),
    Timer,
}

/// What a driver is made of.
pub(crate) struct Parts {
    pub(crate) net: Net,
    pub(crate) seeds: Seeds,
    pub(crate) state: StateDir,
    pub(crate) engine: Engine,
    pub(crate) publisher: Publisher,
    pub(crate) board: Arc<Board>,
    pub(crate) joined: oneshot::Sender<()>,
    pub(crate) cluster: Arc<str>,
    pub(crate) leave_timeout: Duration,
    pub(crate) commands: mpsc::Receiver<Command>,
}

impl Driver {
    /// A driver that has met the seeds resolved so far.
    pub(crate) fn new(parts: Parts, resolution: Option<Resolution>) -> Self {
        let now = Instant::now();
        let mut driver = Self {
            net: parts.net,
            links: Links::new(),
            watches: Watches::new(parts.publisher, parts.engine.freshness()),
            members: MemberTable::new(),
            metrics: Metrics::new(parts.cluster),
            seeds: parts.seeds,
            resolved: Vec::new(),
            state: parts.state,
            engine: parts.engine,
            board: parts.board,
            answers: Vec::new(),
            joined: Some(parts.joined),
            next_sweep: now + SWEEP_INTERVAL,
            leave_timeout: parts.leave_timeout,
            life: Life::Open,
            commands: parts.commands,
        };
        driver.resolved = resolution.unwrap_or_default().addresses;
        driver.meet(now);
        driver.drain(now);
        driver.refresh();
        driver.settle();
        driver
    }

    /// Runs until the handle is closed, dropped or crashed, and its sockets are closed.
    pub(crate) async fn run(mut self) {
        let timer = sleep_until(Instant::now().into());
        tokio::pin!(timer);
        while self.life != Life::Over {
            let due = self.due();
            if let Some(due) = due.filter(|due| *due != timer.deadline().into_std()) {
                timer.as_mut().reset(due.into());
            }
            let wake = tokio::select! {
                () = self.net.ready() => Wake::Datagrams,
                stream = self.net.accept() => Wake::Connection(stream),
                event = self.links.next() => Wake::Link(event),
                resolution = self.seeds.resolved() => Wake::Seeds(resolution),
                command = self.commands.recv(), if self.life == Life::Open => {
                    Wake::Command(command)
                }
                () = &mut timer, if due.is_some() => Wake::Timer,
            };
            if self.turn(wake) {
                // Whoever floods this task must not keep the runtime from its others.
                tokio::task::yield_now().await;
            }
        }
        self.net.flush();
        self.links.shutdown().await;
        self.state.close(&self.engine).await;
    }

    /// One turn; answers whether it left something of the kind for the next.
    fn turn(&mut self, wake: Wake) -> bool {
        let now = Instant::now();
        let mut room = INPUTS_PER_TURN_MAX;
        match wake {
            Wake::Datagrams => self.exchange_datagrams(now, &mut room),
            Wake::Connection(stream) => self.links.accept(now, stream),
            Wake::Link(event) => self.take_link_events(now, event, &mut room),
            Wake::Seeds(resolution) => self.take_seeds(now, resolution),
            Wake::Command(Some(command)) => self.take_commands(now, command, &mut room),
            Wake::Command(None) => self.leave(now),
            Wake::Timer => {}
        }
        // In every turn, so that timers are as punctual as the turns are short; and after what is
        // there to be read, so that no answer counts as missing because this task was late.
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.exchange_datagrams(now, &mut room);
            self.engine.handle_timeout(now);
        }
        self.drain(now);
        self.sweep(now);
        self.settle();
        room == 0
    }

    fn exchange_datagrams(&mut self, now: Instant, room: &mut usize) {
        self.net.flush();
        while *room > 0
            && let Some((from, bytes)) = self.net.receive()
        {
            *room -= 1;
            self.engine.handle_datagram(now, from, bytes);
            self.drain(now);
        }
    }

    fn take_link_events(&mut self, now: Instant, first: LinkEvent, room: &mut usize) {
        let mut next = Some(first);
        while *room > 0
            && let Some(event) = next
        {
            *room -= 1;
            match event {
                LinkEvent::Frame(link, frame) => self.engine.handle_link(now, link, &frame),
                LinkEvent::Failed(to, failure) => {
                    debug!(%to, ?failure, "link failed");
                    self.engine.handle_link_failure(now, to, failure);
                }
            }
            self.drain(now);
            next = self.links.try_next();
        }
    }

    fn take_commands(&mut self, now: Instant, first: Command, room: &mut usize) {
        let mut next = Some(first);
        while *room > 0
            && self.life == Life::Open
            && let Some(command) = next
        {
            *room -= 1;
            self.command(now, command);
            self.drain(now);
            next = self.commands.try_recv().ok();
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Register(instance, reply) => {
                let registered = self.engine.register(now, *instance);
                if let Ok(key) = &registered {
                    self.board.offered(key.clone());
                }
                self.answer(reply, registered);
            }
            Command::Deregister(key, reply) => {
                let removal = self.engine.deregister(now, &key);
                self.board.deregistered(&key);
                self.answer(reply, removal);
            }
            Command::Health(key, health, reply) => {
                let reported = self.engine.health(now, &key, health);
                if reported.is_ok() {
                    self.board.offered(key);
                }
                self.answer(reply, reported);
            }
            Command::Watch(selector, reply) => {
                let watch = self.watches.watch(selector, &self.engine);
                self.answer(reply, watch);
            }
            Command::Members(reply) => {
                let members = self.engine.members().collect();
                self.answer(reply, members);
            }
            Command::WatchMembers(reply) => {
                let watch = self.members.watch(&self.engine);
                self.answer(reply, watch);
            }
            Command::Stats(reply) => {
                let stats = self.stats();
                self.answer(reply, stats);
            }
            Command::Close => self.leave(now),
            #[cfg(feature = "fault-injection")]
            Command::CutOff(cut_off, reply) => {
                self.net.cut_off(cut_off);
                self.links.cut_off(cut_off);
                self.answer(reply, ());
            }
            #[cfg(feature = "fault-injection")]
            Command::Crash => {
                self.state = StateDir::default();
                self.life = Life::Over;
            }
        }
    }

    fn take_seeds(&mut self, now: Instant, resolution: Resolution) {
        debug!(addresses = ?resolution.addresses, "seeds resolved");
        if !resolution.addresses.is_empty() {
            self.resolved = resolution.addresses;
        }
        self.meet(now);
        self.refresh();
    }

    /// Gives the engine whom to ask: the seeds, and some of the members that are known from before,
    /// without this member itself.
    fn meet(&mut self, now: Instant) {
        let joined = self.engine.is_joined();
        let unresolved = self.resolved.is_empty() && !self.seeds.is_empty();
        let seeds = self.others(&self.resolved);
        // To the engine an empty list says that there is nobody to wait for.
        if !joined && seeds.is_empty() && !unresolved && !self.state.expects_members() {
            self.engine.handle_seeds(now, &[]);
        }
        let known = self.others(&self.state.candidates(joined));
        let others = [seeds, known].concat();
        if !others.is_empty() {
            self.engine.handle_seeds(now, &others);
        }
    }

    fn others(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let own = self.engine.identity().address;
        let others = addresses.iter().copied();
        others
            .filter(|address| *address != own && !self.net.is_own(*address))
            .collect()
    }

    fn leave(&mut self, now: Instant) {
        self.life = Life::Leaving(now + self.leave_timeout + LEAVE_GRACE);
        self.engine.leave(now);
    }

    /// Takes all outputs of the engine.
    fn drain(&mut self, now: Instant) {
        loop {
            while let Some(transmit) = self.engine.poll_transmit() {
                match transmit.route {
                    Route::Datagram(to) => self.net.send(to, transmit.frame),
                    Route::Link(to) => self.links.send(now, to, &transmit.frame),
                    Route::Reply(link) => self.links.reply(now, link, &transmit.frame),
                }
            }
            // Noting one may make the engine send.
            let Some(event) = self.engine.poll_event() else {
                return;
            };
            self.note(now, event);
        }
    }

    fn note(&mut self, now: Instant, event: Event) {
        match event {
            Event::Changed(service) => self.watches.changed(service),
            Event::Freshness(_) => self.refresh(),
            Event::Joined => {
                if let Some(joined) = self.joined.take() {
                    info!(cluster_members = self.engine.members().count(), "joined");
                    let _ = joined.send(());
                }
            }
            Event::SeedsWanted if self.seeds.is_empty() => self.meet(now),
            Event::SeedsWanted => self.seeds.resolve(),
            Event::Sentinels(addresses) => self.links.keep(now, addresses),
            Event::Superseded(key) => {
                info!(%key, "registration superseded by a newer owner");
                self.board.superseded(key);
            }
            Event::Left => self.life = Life::Over,
            Event::NameTaken { by, renamed } => {
                warn!(%by, %renamed, "another member has this name; going on under a new one");
                self.board.renamed(self.engine.identity().clone());
                self.members.changed();
            }
            Event::Member { member, state } => {
                self.state.touch();
                self.members.changed();
                log_member(&member, state);
            }
        }
    }

    /// Notes how well the cluster is heard, and why not.
    fn refresh(&mut self) {
        let freshness = match (self.engine.freshness(), self.seeds.problem()) {
            (Freshness::Stale { since, .. }, Some(problem)) => Freshness::Stale {
                since,
                reason: problem.clone(),
            },
            (freshness, _) => freshness,
        };
        self.board.freshness(freshness.clone());
        self.watches.mark(freshness);
    }

    fn sweep(&mut self, now: Instant) {
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.links.tend(now);
            self.state.tend(now, &self.engine);
            self.watches.sweep();
            self.metrics.record(&self.stats(), &self.engine);
            // It grows with what the network loses.
            self.board.crash_bound(self.engine.crash_bound());
        }
        if matches!(self.life, Life::Leaving(until) if until <= now) {
            self.life = Life::Over;
        }
    }

    /// Shows what the turn has changed: first in status and watches, then in the answers.
    fn settle(&mut self) {
        self.watches.publish(&self.engine);
        self.members.publish(&self.engine);
        for answer in self.answers.drain(..) {
            answer();
        }
    }

    /// When the next turn is due at the latest.
    fn due(&self) -> Option<Instant> {
        let sweep =
            self.links.want_tending() || self.state.wants_tending() || !self.watches.is_empty();
        let leave = match self.life {
            Life::Leaving(until) => Some(until),
            Life::Open | Life::Over => None,
        };
        let due = [
            self.engine.poll_timeout(),
            sweep.then_some(self.next_sweep),
            leave,
        ];
        due.into_iter().flatten().min()
    }

    fn stats(&self) -> Stats {
        Stats {
            engine: self.engine.stats(),
            net: self.net.stats(),
            links: self.links.stats(),
            views_published: self.watches.published(),
        }
    }

    fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, answer: T) {
        self.answers.push(Box::new(move || {
            // A caller that is gone needs no answer.
            let _ = reply.send(answer);
        }));
    }
}

/// Whatever ended the task, also a defect: readers and callers learn it.
impl Drop for Driver {
    fn drop(&mut self) {
        self.watches.close();
        self.board.close();
    }
}

fn log_member(member: &Identity, state: MemberState) {
    let (name, address) = (&member.name, member.address);
    match state {
        MemberState::Alive => info!(%name, %address, "member is alive"),
        MemberState::Suspect => debug!(%name, %address, "member is suspect"),
        MemberState::Dead => info!(%name, %address, "member is dead"),
        MemberState::Left => info!(%name, %address, "member has left"),
    }
}
