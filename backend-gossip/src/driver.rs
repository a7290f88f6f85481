//! The one task of a member: it owns the engine, and everything that happens goes through it.
//!
//! Each [`turn`](Driver::turn) takes what woke the task and whatever else of the kind is there, up
//! to a bound, so that neither a flood of datagrams nor one of commands keeps the others waiting.
//! After every single input all outputs of the engine are drained; watches are published and
//! callers answered once, at the end of the turn, in this order: who has an answer finds it in the
//! views.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{
    Freshness, Health, Instance, InstanceKey, Publisher, Removal, Result, Selector, ServiceName,
    Watch,
};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use crate::Stats;
use crate::engine::{Engine, Event, Identity, MemberInfo, MemberState, QueryKey, Route, Terms};
use crate::events::{EventHub, Events};
use crate::key_file::KeyFile;
use crate::keyring::{Gate, KeyReport};
use crate::link::{LinkEvent, LinkKeys, Links};
use crate::members::{MemberTable, MemberWatch};
use crate::metrics::Metrics;
use crate::net::{self, Net};
use crate::queries::{Answers, Queries, QueryHub};
use crate::resolve::{Resolution, Seeds};
use crate::seal::{Counters, KeyId, Ring, SealKey, SealMode, Told};
use crate::state_dir::StateDir;
use crate::status::Board;
use crate::watch::Watches;

/// Commands that wait for the driver; callers wait when there are more.
pub(crate) const COMMANDS_WAITING_MAX: usize = 256;
/// What one turn takes of one kind. Large enough to make publishing once a turn worth it, small
/// enough that a turn stays below a few milliseconds.
const INPUTS_PER_TURN_MAX: usize = 64;
/// How long one turn handles frames of links, about: one that asks for the whole registry costs as much as
/// thousands of others, and whoever asks for it over and over must keep nobody waiting.
const TURN_TIME_MAX: Duration = Duration::from_millis(2);
/// Time between two looks for idle links, unused feeds, and whatever else may be a second late. Nearly
/// always there is a turn for another reason soon after; where not, as long again.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two times that metrics are handed over: a third of what those who collect them use to
/// take. More often would be the largest part of what an idle member costs.
const METRICS_INTERVAL: Duration = Duration::from_secs(5);
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
    SendEvent(ServiceName, Arc<[u8]>, Reply<u64>),
    Events(Reply<Events>),
    Query(ServiceName, Arc<[u8]>, Terms, Reply<Result<Answers>>),
    Queries(mpsc::WeakSender<Self>, Reply<Queries>),
    Answer(QueryKey, Option<Arc<[u8]>>),
    Stats(Reply<Stats>),
    ChangeKeys(KeyChange, Gate, Reply<Result<()>>),
    KeyReport(Reply<KeyReport>),
    Close,
    #[cfg(feature = "fault-injection")]
    CutOff(bool, Reply<()>),
    #[cfg(feature = "fault-injection")]
    Crash,
}

/// A step of changing the keys.
#[derive(Debug)]
pub(crate) enum KeyChange {
    Add(SealKey),
    Use(KeyId),
    Retire(KeyId),
    Mode(SealMode),
    /// By what the key file has now.
    Replace(Vec<SealKey>),
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
    /// The address that others reach this member at is found, and not configured.
    finds_address: bool,
    state: StateDir,
    ring: watch::Sender<Arc<Ring>>,
    key_file: KeyFile,
    seal_counters: Arc<Counters>,
    engine: Engine,
    watches: Watches,
    members: MemberTable,
    events: EventHub,
    queries: QueryHub,
    metrics: Metrics,
    board: Arc<Board>,
    /// What callers are told at the end of the turn.
    answers: Vec<Box<dyn FnOnce() + Send>>,
    /// Told once the cluster was joined.
    joined: Option<oneshot::Sender<()>>,
    next_sweep: Instant,
    next_metrics: Instant,
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
    Connection(io::Result<TcpStream>),
    Link(LinkEvent),
    Seeds(Resolution),
    Keys(Vec<SealKey>),
    /// `None` when the last handle is gone.
    Command(Option<Command>),
    Timer,
}

/// What a driver is made of.
pub(crate) struct Parts {
    pub(crate) net: Net,
    pub(crate) seeds: Seeds,
    pub(crate) finds_address: bool,
    pub(crate) state: StateDir,
    pub(crate) ring: Arc<Ring>,
    pub(crate) key_file: KeyFile,
    pub(crate) seal_counters: Arc<Counters>,
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
        let (ring, keys) = watch::channel(parts.ring);
        let mut driver = Self {
            net: parts.net,
            links: Links::new(LinkKeys::new(keys, parts.seal_counters.clone())),
            watches: Watches::new(parts.publisher, parts.engine.freshness()),
            members: MemberTable::new(),
            events: EventHub::default(),
            queries: QueryHub::default(),
            metrics: Metrics::new(parts.cluster),
            seeds: parts.seeds,
            resolved: Vec::new(),
            finds_address: parts.finds_address,
            state: parts.state,
            ring,
            key_file: parts.key_file,
            seal_counters: parts.seal_counters,
            engine: parts.engine,
            board: parts.board,
            answers: Vec::new(),
            joined: Some(parts.joined),
            next_sweep: now + SWEEP_INTERVAL,
            next_metrics: now,
            leave_timeout: parts.leave_timeout,
            life: Life::Open,
            commands: parts.commands,
        };
        driver.resolved = resolution.unwrap_or_default().addresses;
        driver.tell_keys(now);
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
                keys = self.key_file.changed() => Wake::Keys(keys),
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
            Wake::Connection(Ok(stream)) => self.links.accept(now, stream),
            Wake::Connection(Err(error)) => {
                self.net.rest_from_accepting(now);
                self.links.do_with_fewer(now, &error);
            }
            Wake::Link(event) => self.take_link_events(now, event, &mut room),
            Wake::Seeds(resolution) => self.take_seeds(now, resolution),
            Wake::Keys(keys) => self.take_keys(now, keys),
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
        self.engine.tell_observers(now);
        self.drain(now);
        self.sweep(now);
        self.settle();
        room == 0
    }

    fn exchange_datagrams(&mut self, now: Instant, room: &mut usize) {
        self.net.flush();
        while let Some((from, bytes)) = self.net.receive(now, room) {
            self.engine.handle_datagram(now, from, bytes);
            self.drain(now);
        }
    }

    fn take_link_events(&mut self, now: Instant, first: LinkEvent, room: &mut usize) {
        let mut next = Some(first);
        while let Some(event) = next {
            *room -= 1;
            match event {
                LinkEvent::Frame(link, frame) => self.engine.handle_link(now, link, &frame),
                LinkEvent::Failed(to, failure) => {
                    debug!(%to, ?failure, "link failed");
                    self.engine.handle_link_failure(now, to, failure);
                }
            }
            self.drain(now);
            // What is taken is handled, so nothing is taken that there is no room for.
            let goes_on = *room > 0 && now.elapsed() < TURN_TIME_MAX;
            next = goes_on.then(|| self.links.try_next()).flatten();
        }
    }

    fn take_commands(&mut self, now: Instant, first: Command, room: &mut usize) {
        let mut next = Some(first);
        while let Some(command) = next {
            *room -= 1;
            self.command(now, command);
            self.drain(now);
            let goes_on = *room > 0 && self.life == Life::Open;
            next = goes_on.then(|| self.commands.try_recv().ok()).flatten();
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
            Command::SendEvent(name, payload, reply) => {
                let sequence = self.engine.send_event(now, name, payload);
                self.answer(reply, sequence);
            }
            Command::Events(reply) => {
                let events = self.events.subscribe(now, &self.engine);
                self.answer(reply, events);
            }
            Command::Query(name, payload, terms, reply) => {
                // They count among those that may be open.
                self.queries.end_dropped(&mut self.engine);
                let id = self.engine.query(now, name, payload, terms);
                let answers = id.map(|id| self.queries.open(id));
                self.answer(reply, answers);
            }
            Command::Queries(commands, reply) => {
                let queries = self.queries.subscribe(&mut self.engine, commands);
                self.answer(reply, queries);
            }
            Command::Answer(key, answer) => self.engine.answer_query(now, key, answer),
            Command::Stats(reply) => {
                let stats = self.stats();
                self.answer(reply, stats);
            }
            Command::ChangeKeys(change, gate, reply) => {
                let changed = self.change_keys(now, change, gate);
                self.answer(reply, changed);
            }
            Command::KeyReport(reply) => {
                let report = self.key_report();
                self.answer(reply, report);
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

    /// The key file has other keys: it is obeyed, whoever is parted by that.
    fn take_keys(&mut self, now: Instant, keys: Vec<SealKey>) {
        let first = keys.first().map(SealKey::id);
        if let Err(error) = self.change_keys(now, KeyChange::Replace(keys), Gate::Override) {
            warn!(%error, "the keys of the file are not taken over");
            return;
        }
        let report = self.key_report();
        let lacking = first.map_or(0, |id| report.lacking(id).count());
        if lacking > 0 {
            warn!(
                lacking,
                "members don't have the key that this one seals with now"
            );
        }
    }

    fn change_keys(&mut self, now: Instant, change: KeyChange, gate: Gate) -> Result<()> {
        let ring = self.ring.borrow().clone();
        let primary = ring.primary().map(SealKey::id);
        if gate == Gate::Check
            && let Some(refusal) = self.key_report().refuse(&change, primary)
        {
            return Err(refusal);
        }
        let ring = match change {
            KeyChange::Add(key) if ring.find(key.id()).is_some() => return Ok(()),
            KeyChange::Add(key) => ring.with(key)?,
            KeyChange::Use(id) => ring.using(id)?,
            KeyChange::Retire(id) => ring.without(id)?,
            KeyChange::Mode(mode) => ring.in_mode(mode)?,
            KeyChange::Replace(keys) => ring.with_keys(keys)?,
        };
        let Told { mode, uses, holds } = ring.told();
        info!(%mode, ?uses, ?holds, "keys changed");
        let ring = Arc::new(ring);
        self.net.set_ring(ring.clone());
        self.ring.send_replace(ring);
        self.tell_keys(now);
        Ok(())
    }

    fn tell_keys(&mut self, now: Instant) {
        let told = self.ring.borrow().told();
        self.engine.tell_seal(now, &told.to_bytes());
    }

    fn key_report(&self) -> KeyReport {
        let told = self.engine.seals();
        KeyReport::new(told.map(|(name, address, told)| (name, address, Told::from_bytes(told))))
    }

    /// Gives the engine whom to ask: the seeds, and some of the members that are known from before,
    /// without this member itself.
    fn meet(&mut self, now: Instant) {
        self.find_address(now);
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

    /// Looks whether this member is still where the others were told.
    fn find_address(&mut self, now: Instant) {
        if !self.finds_address || self.life != Life::Open {
            return;
        }
        let former = self.engine.identity().address;
        let targets = [&self.resolved[..], &self.state.candidates(false)].concat();
        let Some(address) = net::moved_to(self.net.local(), former, &targets) else {
            return;
        };
        info!(%former, %address, "others reach this member at another address now");
        self.engine.move_to(now, address);
        self.board.renamed(self.engine.identity().clone());
        self.members.changed();
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
            while let Some(delivery) = self.engine.poll_delivery() {
                let links = &delivery.links;
                for gone in self.links.deliver(now, links, &delivery.frame) {
                    self.engine.handle_link_closed(gone);
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
            Event::Observer(link) => self.links.set_observer(link),
            Event::ObserverRefused(link) => self.links.close(link),
            Event::Heard(heard) => self.events.tell(heard),
            Event::Asked(asked) => self.queries.ask(now, &mut self.engine, &asked),
            Event::QueryUpdate { id, update } => self.queries.update(&mut self.engine, id, update),
            Event::QueryEnded { id, outcomes } => self.queries.end(id, outcomes),
            Event::Left => self.life = Life::Over,
            Event::NameTaken { by, renamed } => {
                warn!(%by, %renamed, "another member has this name; going on under a new one");
                self.board.renamed(self.engine.identity().clone());
                self.members.changed();
                self.tell_keys(now);
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
            if self.engine.freshness() != Freshness::Live {
                self.find_address(now);
            }
            self.forget_observers();
            self.queries.end_dropped(&mut self.engine);
            self.net.give_back_room();
            self.state.tend(now, &self.engine);
            self.watches.sweep();
            self.record_metrics(now);
            // It grows with what the network loses.
            self.board.crash_bound(self.engine.crash_bound());
        }
        if matches!(self.life, Life::Leaving(until) if until <= now) {
            self.life = Life::Over;
        }
    }

    fn record_metrics(&mut self, now: Instant) {
        if now >= self.next_metrics {
            self.next_metrics = now + METRICS_INTERVAL;
            let (stats, waiting) = (self.stats(), self.net.waiting());
            self.metrics.record(&stats, waiting, &mut self.engine);
        }
    }

    /// Lets go of the observers whose links have ended.
    fn forget_observers(&mut self) {
        let links = self.engine.observers();
        let gone: Vec<_> = links.filter(|link| !self.links.is_open(*link)).collect();
        for link in gone {
            self.engine.handle_link_closed(link);
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
            sweep.then_some(self.next_sweep + SWEEP_INTERVAL),
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
            seal: self.seal_counters.stats(),
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

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(key) => write!(f, "add key {}", key.id()),
            Self::Use(id) => write!(f, "use key {id}"),
            Self::Retire(id) => write!(f, "retire key {id}"),
            Self::Mode(mode) => write!(f, "set seal {mode}"),
            Self::Replace(_) => f.write_str("reload keys"),
        }
    }
}
