//! The gossip engine: a pure state machine. No clock, socket, task or global randomness in here:
//! `now` and a seed come in, equal inputs give equal outputs.
//!
//! # Run loop
//!
//! Inputs are `handle_*`, commands are bare verbs, outputs are `poll_*`. After **every** input and
//! command the caller drains [`Engine::poll_transmit`] and [`Engine::poll_event`] until they answer
//! `None`, then arms one timer for [`Engine::poll_timeout`] and calls [`Engine::handle_timeout`] when
//! it is due. `now` never goes back. Nothing blocks, and no input can make a method panic.
//!
//! # Parts
//!
//! | file | holds |
//! |---|---|
//! | `member` | the member table and its lattice |
//! | `probe`, `suspicion` | failure detection: SWIM with Lifeguard |
//! | `credit` | how much one datagram is answered with |
//! | `contact` | whether this member itself is cut off |
//! | `features` | who understands what |
//! | `held` | whose records wait to be shown |
//! | `registrations` | what this member offers |
//! | `registry`, `items` | records, and the index that digests and sync work on |
//! | `merge` | what is heard about members and records meets what is known |
//! | `spread`, `broadcast` | push, gossip, piggyback |
//! | `sync` | anti-entropy by hash range |
//! | `observers`, `walk` | who looks through this member, and what they are told |
//! | `user_events`, `streams`, `replay` | what applications send to all members |
//! | `queries`, `answers` | what applications ask each other |
//! | `join` | joining, healing, leaving |
//! | `rate` | how often something may be done that others can provoke |
//! | `stats` | what a member counts |
//! | `housekeeping` | forgetting the long gone, voiding old tombstones |
//!
//! Sources: SWIM (Das, Gupta, Motivala, DSN 2002); Lifeguard (Dadgar, Phillips, Currey, 2018);
//! range-based set reconciliation (Meyer, 2022).

mod answers;
mod broadcast;
mod config;
mod contact;
mod conviction;
mod credit;
mod features;
mod held;
mod housekeeping;
mod items;
mod join;
mod member;
mod merge;
mod observers;
mod probe;
mod queries;
mod rate;
mod registrations;
mod registry;
mod replay;
mod sentinels;
mod spread;
mod stats;
mod streams;
mod suspicion;
mod sync;
mod timer;
mod user_events;
mod walk;

#[cfg(test)]
mod conviction_tests;
#[cfg(test)]
mod events_tests;
#[cfg(test)]
mod feature_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod records_tests;
#[cfg(test)]
mod sentinels_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidings_api::{Freshness, Generation, Instance, InstanceKey, Selector, ServiceName};

use self::broadcast::Broadcasts;
use self::contact::Contact;
use self::conviction::Sounding;
use self::credit::Credit;
use self::held::Held;
use self::housekeeping::HOUSEKEEPING_INTERVAL;
use self::items::{ItemKey, Items};
use self::join::{Join, Leave};
use self::member::{Member, Members};
use self::observers::Observers;
use self::probe::{Check, Loss, Probe};
use self::queries::Queries;
use self::rate::Rate;
use self::registry::{Registry, Stored};
use self::sentinels::Sentinels;
use self::spread::{Agreement, Fresh};
use self::suspicion::Suspicion;
use self::timer::{Timer, Timers};
use self::user_events::UserEvents;
use crate::wire::content::Content;
use crate::wire::message::{Alive, Record};
use crate::wire::{self, Features, Header, Message, Reader};

pub use self::answers::{Asked, QueryKey};
pub use self::config::EngineConfig;
pub use self::member::MemberState;
pub(crate) use self::merge::is_of_one_host;
pub use self::observers::Delivery;
pub use self::queries::{Outcome, QueryUpdate, Terms};
pub use self::stats::{EventStats, QueryStats, Stats};
pub use self::streams::{Heard, UserEvent};

/// Who this member is, for one start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name, unique in the cluster: 1 to 128 of `A-Za-z0-9._:-`.
    pub name: Arc<str>,
    /// Rises at every start of the same name.
    pub generation: Generation,
    /// Where other members reach it, over UDP and TCP alike.
    pub address: SocketAddr,
}

/// A link (TCP connection) that the driver has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Why nothing could be sent over a link to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkFailure {
    /// The host answers and says that nobody listens there: the process is gone.
    Refused,
    /// No answer in time, no route, or the link broke before the frame was written.
    Unreachable,
}

/// One frame to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// How it travels.
    pub route: Route,
    /// Its bytes.
    pub frame: Vec<u8>,
}

/// How a frame travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// One datagram; may be lost.
    Datagram(SocketAddr),
    /// Over the link to the member at this address: the open one, or a new one.
    Link(SocketAddr),
    /// Back over the link a frame came from; dropped where it is gone.
    Reply(LinkId),
}

/// What the driver and the application learn.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// What [`Engine::view`] answers for this service may have changed.
    Changed(ServiceName),
    /// The engine hears the cluster, or no longer does.
    Freshness(Freshness),
    /// A seed has answered with all it knows, or there are no seeds to ask.
    Joined,
    /// The members to keep a link open to, at these addresses, and no longer to those named before.
    /// One that is closed from the other side is opened again at once: where the process is gone that
    /// is refused, which [`Engine::handle_link_failure`] wants to know.
    Sentinels(Vec<SocketAddr>),
    /// The seeds should be resolved again and given to [`Engine::handle_seeds`].
    SeedsWanted,
    /// A newer generation took over this own registration.
    Superseded(InstanceKey),
    /// Somebody else has this member's name and started later; this member goes on under another.
    NameTaken {
        /// Where the other is.
        by: SocketAddr,
        /// The name from now on.
        renamed: Arc<str>,
    },
    /// [`Engine::leave`] is through: enough members have confirmed it, or its time is over.
    Left,
    /// From now on this link is an observer's.
    Observer(LinkId),
    /// There is no room for this observer: its link is to be closed once what waits is written.
    ObserverRefused(LinkId),
    /// An application sent an event, or some were missed.
    Heard(Heard),
    /// A member asks this one's application.
    Asked(Asked),
    /// A member has an own query, or answers it.
    QueryUpdate {
        /// As [`Engine::query`] answered.
        id: u64,
        /// What is new.
        update: QueryUpdate,
    },
    /// An own query is over.
    QueryEnded {
        /// As [`Engine::query`] answered.
        id: u64,
        /// What became of it at each member that was there when it was asked.
        outcomes: Vec<(Arc<str>, Outcome)>,
    },
    /// A member is in another state.
    Member {
        /// Who.
        member: Identity,
        /// The state it is in now.
        state: MemberState,
    },
}

/// A row of the member table, as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Who.
    pub identity: Identity,
    /// Alive, suspect, dead or left.
    pub state: MemberState,
    /// How often it had to refute, or raised its word, since its start.
    pub incarnation: u64,
    /// Smoothed time from a ping to its answer, where this member has pinged it: one member at a
    /// time in turn, so that in a big cluster it may be minutes old.
    pub round_trip: Option<Duration>,
    /// What its build understands beyond version 1, by its own word.
    pub features: Features,
}

/// The gossip engine of one member.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    cluster: u32,
    identity: Identity,
    me: u64,
    rng: Rng,
    timers: Timers,

    members: Members,
    registry: Registry,
    items: Items,
    registrations: BTreeMap<InstanceKey, Registration>,
    /// Greatest generation of any own registration so far.
    drawn: Option<Generation>,
    /// Version of the newest own record.
    version: u64,
    /// The floor to raise to, and when; see the registry.
    floor_pending: Option<(u64, Instant)>,
    /// How often this member contradicts records that are said to be its own.
    corrections: Rate,
    /// How often it goes on as a new start.
    restarts: Rate,
    /// How often members are forgotten for others.
    evictions: Rate,
    /// How often it knocks on who is gone because it is said to be itself.
    knocks: Rate,
    knocks_due: bool,
    /// When something was refused last because a bound was reached.
    refused: Option<Instant>,
    /// Records that overtook the news of their owner.
    orphans: VecDeque<Record>,

    probe: Option<Probe>,
    /// Whether the last probe went to the ring neighbour.
    turn: bool,
    checks: BTreeMap<u64, Check>,
    sequence: u64,
    loss: Loss,
    sounding: Option<Sounding>,
    /// How often suspects are challenged.
    challenges: Rate,
    sentinels: Sentinels,
    /// Lifeguard's local health: 0 is well; probes slow down by this factor plus one.
    awareness: u32,
    contact: Contact,
    held: Held,
    observers: Observers,

    broadcasts: Broadcasts<ItemKey>,
    /// Broadcasts that were not pushed yet.
    fresh: Fresh,
    /// Whose digest differed last, and since when there is one.
    sync_with: Option<(SocketAddr, Instant)>,
    /// When something was last spread.
    latest_news: Option<Instant>,
    agreement: Agreement,
    user_events: UserEvents,
    queries: Queries,

    join: Join,
    /// Whether what is being handled is the answer to a join.
    learning: bool,
    /// Whether the frame that is being handled accuses this member.
    accused: bool,
    /// What the frame that is being handled may be answered with.
    credit: Credit,
    leave: Option<Leave>,

    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    changed: BTreeSet<ServiceName>,
    /// The latest, until they are asked for.
    round_trips: VecDeque<Duration>,
    stats: Stats,
}

/// An own registration: the instance in its newest form.
#[derive(Debug)]
struct Registration {
    instance: Arc<Instance>,
    superseded: bool,
}

impl Engine {
    /// A member that is alone until [`handle_seeds`](Self::handle_seeds) says whom to join.
    #[must_use]
    pub fn new(now: Instant, identity: Identity, config: EngineConfig, rng_seed: u64) -> Self {
        let mut rng = Rng::with_seed(rng_seed);
        let me = wire::member_hash(&identity.name);
        let word = Alive {
            features: config.features,
            ..alive(&identity)
        };
        let member = Member::new(now, &word);
        let mut engine = Self {
            cluster: wire::cluster_hash(&config.cluster),
            members: Members::new(me, member),
            registry: Registry::default(),
            items: Items::default(),
            registrations: BTreeMap::new(),
            drawn: None,
            version: 0,
            floor_pending: None,
            corrections: Rate::new(now, merge::CORRECTIONS_BURST, merge::CORRECTION_INTERVAL),
            restarts: Rate::new(now, merge::RESTARTS_BURST, merge::RESTART_INTERVAL),
            evictions: Rate::new(now, merge::EVICTIONS_BURST, merge::EVICTION_INTERVAL),
            knocks: Rate::new(now, merge::KNOCKS_BURST, merge::KNOCKS_INTERVAL),
            knocks_due: false,
            refused: None,
            orphans: VecDeque::new(),
            probe: None,
            turn: rng.bool(),
            checks: BTreeMap::new(),
            sequence: rng.u64(..1 << 20),
            loss: Loss::default(),
            sounding: None,
            challenges: Rate::new(
                now,
                conviction::CHALLENGES_BURST,
                conviction::CHALLENGE_INTERVAL,
            ),
            sentinels: Sentinels::default(),
            awareness: 0,
            contact: Contact::new(now),
            held: Held::default(),
            observers: Observers::default(),
            broadcasts: Broadcasts::default(),
            fresh: Fresh::new(now),
            sync_with: None,
            latest_news: None,
            agreement: Agreement::default(),
            user_events: UserEvents::default(),
            queries: Queries::default(),
            join: Join::default(),
            learning: false,
            accused: false,
            credit: Credit::default(),
            leave: None,
            timers: Timers::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            changed: BTreeSet::new(),
            round_trips: VecDeque::new(),
            stats: Stats::default(),
            config,
            identity,
            me,
            rng,
        };
        engine.index_member(me);
        engine.timers.set(Timer::Join, now + join::RETRY_FIRST);
        engine
            .timers
            .set(Timer::Housekeeping, now + HOUSEKEEPING_INTERVAL);
        engine
    }

    // Inputs.

    /// A datagram has arrived.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, frame: &[u8]) {
        self.stats.datagrams_in += 1;
        self.handle_frame(now, Route::Datagram(from), frame);
    }

    /// A frame has arrived on a link.
    pub fn handle_link(&mut self, now: Instant, link: LinkId, frame: &[u8]) {
        self.handle_frame(now, Route::Reply(link), frame);
    }

    /// What was to go over a link to `to` did not.
    pub fn handle_link_failure(&mut self, now: Instant, to: SocketAddr, failure: LinkFailure) {
        if failure == LinkFailure::Refused
            && self.leave.is_none()
            && let Some(id) = self.members.at(to)
        {
            self.handle_refused(now, id);
        }
    }

    /// A deadline is reached.
    pub fn handle_timeout(&mut self, now: Instant) {
        // A process that was stopped finds its timers long overdue. What it did not hear meanwhile
        // says nothing about the others.
        if let Some(due) = self.timers.next()
            && now.saturating_duration_since(due) > self.config.probe_interval
        {
            self.after_pause(now);
        }
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Probe => self.probe(now),
                Timer::Push => self.push(now),
                Timer::Forward => self.forward(now),
                Timer::Gossip => self.gossip(now),
                Timer::Sync => self.sync(now),
                Timer::Streams => self.compare_settled(now),
                Timer::Pull => self.pull(now),
                Timer::Queries => self.tend_queries(now),
                Timer::Join => self.retry_join(now),
                Timer::CatchUp => self.catch_up(now),
                Timer::Heal => self.heal(now),
                Timer::Leave => self.announce_leave(now),
                Timer::Sentinels => self.link_sentinels(now),
                Timer::Held => self.release_overdue(now),
                Timer::Observers => self.tell_observers(now),
                Timer::Housekeeping => self.keep_house(now),
                Timer::Suspicion(id) => self.pursue_suspicion(now, id),
                Timer::Check(sequence) => self.end_check(now, sequence),
            }
        }
    }

    // Commands.

    /// Says something else of this member's keyring, opaque here, to all the others.
    pub fn tell_seal(&mut self, now: Instant, told: &[u8]) {
        if self.members.me().seal() == told || self.leave.is_some() {
            return;
        }
        let incarnation = self.members.me().incarnation;
        self.raise_word(now, incarnation, |me| me.tell_seal(told));
    }

    // Outputs.

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing to be told.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events
            .pop_front()
            .or_else(|| self.changed.pop_first().map(Event::Changed))
    }

    /// The time that the next of the latest answers to pings took. Nobody needs to ask.
    pub fn poll_round_trip(&mut self) -> Option<Duration> {
        self.round_trips.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    // Getters.

    /// Who this member is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How often this member refuted, or raised its word, since its start.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.members.me().incarnation
    }

    /// The selected instances of members that are alive or suspect, by key; the newest generation
    /// of each key.
    #[must_use]
    pub fn view(&self, selector: &Selector) -> Vec<Arc<Instance>> {
        self.registry.select(selector, |owner| self.is_shown(owner))
    }

    /// All members that are known, this one included.
    pub fn members(&self) -> impl Iterator<Item = MemberInfo> + '_ {
        self.members.iter().map(|(_, member)| MemberInfo {
            identity: identity(member),
            state: member.state,
            incarnation: member.incarnation,
            round_trip: member.round_trip(),
            features: member.features,
        })
    }

    /// How many members there are in a state, this one included.
    #[must_use]
    pub fn members_in(&self, state: MemberState) -> usize {
        let members = self.members.iter();
        members.filter(|(_, member)| member.state == state).count()
    }

    /// Number of records known, tombstones included.
    #[must_use]
    pub fn records(&self) -> usize {
        self.registry.len()
    }

    /// What the present members, this one included, have said of their keyrings.
    pub fn seals(&self) -> impl Iterator<Item = (Arc<str>, SocketAddr, &[u8])> {
        let present = self.members.iter().filter(|(_, m)| m.is_present());
        present.map(|(_, member)| (member.name.clone(), member.address, member.seal()))
    }

    /// Own registrations, and whether a newer generation took over.
    pub fn registrations(&self) -> impl Iterator<Item = (&InstanceKey, bool)> {
        self.registrations
            .iter()
            .map(|(key, registration)| (key, registration.superseded))
    }

    /// The digest of all that is replicated: equal on members that agree.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.items.digest()
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            broadcasts: self.broadcasts.len(),
            observers: self.observers.len(),
            events: self.event_stats(),
            ..self.stats
        }
    }

    /// From the moment a member falls silent to its instances having left all views, at most, in a
    /// cluster as large and as lossy as it is now: two probe intervals until a neighbour probes it,
    /// one for that probe to fail, the suspicion, and one to spread. A killed process whose host still
    /// answers is noticed in a fraction of that.
    #[must_use]
    pub fn crash_bound(&self) -> Duration {
        4 * self.config.probe_interval + self.shortest_suspicion()
    }

    // What the parts share.

    fn handle_frame(&mut self, now: Instant, route: Route, frame: &[u8]) {
        let mut reader = Reader::new(frame);
        let Ok(header) = Header::decode(&mut reader) else {
            self.stats.malformed += 1;
            return;
        };
        if header.cluster != self.cluster || header.sender == self.me {
            self.stats.foreign += 1;
            if header.cluster == self.cluster && self.leave.is_none() {
                self.credit = self.credit_for(route, header.sender, frame);
                self.hear_namesake(now, route, &mut reader);
            }
            return;
        }
        self.learning = matches!(route, Route::Reply(_)) && !self.is_joined();
        let tells_all = matches!(route, Route::Datagram(_)) && self.tells_all();
        self.fresh.teller = tells_all.then_some(header.sender);
        self.accused = false;
        self.begin_compare();
        self.credit = self.credit_for(route, header.sender, frame);
        if matches!(route, Route::Datagram(_)) && self.is_member_at(header.sender, route) {
            self.hear_proof(now, header.sender);
        }
        let mut answer = sync::Answer::default();
        while !reader.is_empty() {
            match Message::decode(&mut reader) {
                Ok(Some(message)) => {
                    self.handle_message(now, route, header.sender, message, &mut answer);
                }
                Ok(None) => {}
                Err(_) => {
                    self.stats.malformed += 1;
                    break;
                }
            }
        }
        self.learning = false;
        self.fresh.teller = None;
        self.answer(now, (route, header.sender), answer);
    }

    fn handle_message(
        &mut self,
        now: Instant,
        route: Route,
        sender: u64,
        message: Message,
        answer: &mut sync::Answer,
    ) {
        if let Route::Reply(link) = route
            && self.observers.contains(link)
            && !matches!(message, Message::Observing(_))
        {
            // Who looks on has no say.
            self.stats.foreign += 1;
            return;
        }
        if self.leave.is_some() {
            self.handle_while_leaving(now, route, sender, message);
            return;
        }
        if matches!(route, Route::Datagram(_)) && message.is_of_sync() {
            // The answer may be all there is, and the sender's address is anybody's claim.
            self.stats.foreign += 1;
            return;
        }
        match message {
            Message::Ping {
                sequence,
                target,
                digest,
            } => {
                self.handle_ping(now, route, sender, sequence, target);
                if self.is_member_at(sender, route) {
                    self.note_agreement(digest);
                }
            }
            Message::Ack { sequence, digest } => self.handle_ack(now, sender, sequence, digest),
            Message::PingRequest {
                sequence,
                target,
                refused,
            } => {
                self.handle_ping_request(now, (route, sender), sequence, target, refused);
            }
            Message::Nack { sequence } => self.handle_nack(now, sequence),
            Message::Alive(alive) => {
                self.handle_alive(now, route, sender, &alive);
                let told = member::stamp(alive.generation, alive.incarnation, MemberState::Alive);
                answer.told(wire::member_hash(&alive.name), told);
            }
            Message::Accuse(accuse) => {
                self.handle_accuse(now, &accuse);
                let state = accuse.verdict.into();
                let told = member::stamp(accuse.generation, accuse.incarnation, state);
                answer.told(accuse.member, told);
            }
            Message::Record(record) => self.handle_record(now, record),
            Message::Sync(ranges) => self.handle_sync(now, sender, &ranges, answer),
            Message::Have {
                first,
                last,
                entries,
            } => {
                self.handle_have(first, last, &entries, answer);
            }
            Message::Want(positions) => self.handle_want(&positions, answer),
            Message::SyncDone { digest } => self.handle_sync_done(now, sender, digest),
            Message::Observing(message) => self.handle_observing(now, route, message),
            Message::UserEvent(event) => self.handle_event(now, route, sender, event),
            Message::Streams(streams) => self.handle_streams(now, route, sender, streams),
            Message::Query(query) => self.handle_query(now, route, sender, query),
            Message::Answer(answer) => self.handle_answer(now, route, sender, answer),
        }
    }

    /// Stores a record of a known owner, and says so where a view changes.
    fn store(
        &mut self,
        now: Instant,
        owner: u64,
        key: &InstanceKey,
        version: u64,
        content: Option<Content>,
    ) {
        self.registry
            .put(owner, Stored::new(now, key, version, content));
        self.index_record(owner, key);
        self.note_changed(owner, key);
    }

    /// Notes that a record is another, or shown where it wasn't, or the other way round.
    fn note_changed(&mut self, owner: u64, key: &InstanceKey) {
        self.changed.insert(key.service().clone());
        self.observers.note_record(owner, key);
    }

    /// Whether the records of a member are shown in views.
    fn is_shown(&self, owner: u64) -> bool {
        let present = self.members.find(owner).is_some_and(Member::is_present);
        present && !self.held.contains(owner)
    }

    fn shortest_suspicion(&self) -> Duration {
        let members = self.members.others().len() + 1;
        let multiplier = self.config.suspicion_multiplier;
        let interval = self.config.probe_interval;
        Suspicion::shortest(multiplier, members, interval, self.doubt())
    }

    fn index_member(&mut self, id: u64) {
        if let Some(member) = self.members.find(id) {
            let (stamp, quiet) = (member.stamp(), !member.is_present());
            let changed = self.items.put(ItemKey::Member(id), stamp, quiet);
            if changed && !self.observers.is_empty() {
                for (key, _) in self.registry.of(id) {
                    self.observers.note_owner(id, key.service());
                }
            }
        }
    }

    fn index_record(&mut self, owner: u64, key: &InstanceKey) {
        if let Some(member) = self.members.find(owner)
            && let Some(stored) = self.registry.find(owner, key)
        {
            let stamp = wire::message::Stamp(member.generation, stored.version);
            self.items
                .put(ItemKey::record(owner, key), stamp, !member.is_present());
        }
    }

    /// Indexes the records of a member anew and reports their services: its presence has changed.
    fn index_records(&mut self, owner: u64) {
        for key in self.registry.keys_of(owner) {
            self.index_record(owner, &key);
            self.note_changed(owner, &key);
        }
    }

    fn header(&self) -> Header {
        Header {
            cluster: self.cluster,
            sender: self.me,
        }
    }

    /// A frame of these messages.
    fn frame(&self, messages: &[Message]) -> Vec<u8> {
        let mut frame = self.header().to_frame();
        for message in messages {
            message.encode(&mut frame);
        }
        frame
    }

    fn transmit(&mut self, route: Route, frame: Vec<u8>) {
        match route {
            Route::Datagram(_) => self.stats.datagrams_out += 1,
            Route::Link(_) | Route::Reply(_) => self.stats.link_frames_out += 1,
        }
        self.stats.bytes_out += frame.len() as u64;
        self.transmits.push_back(Transmit { route, frame });
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn report_member(&mut self, id: u64) {
        if let Some(member) = self.members.find(id) {
            let (member, state) = (identity(member), member.state);
            self.events.push_back(Event::Member { member, state });
        }
    }

    fn drop_record(&mut self, owner: u64, key: &InstanceKey) {
        self.registry.remove(owner, key);
        self.items.remove(&ItemKey::record(owner, key));
        self.note_changed(owner, key);
    }

    fn drop_records(&mut self, owner: u64) {
        for key in self.registry.keys_of(owner) {
            self.drop_record(owner, &key);
        }
    }
}

fn alive(identity: &Identity) -> Alive {
    Alive {
        name: identity.name.clone(),
        generation: identity.generation.number(),
        incarnation: 0,
        address: identity.address,
        floor: 0,
        newest: 0,
        seal: Box::default(),
        features: Features::NONE,
        unknown: Box::default(),
    }
}

fn identity(member: &Member) -> Identity {
    Identity {
        name: member.name.clone(),
        generation: Generation::new(member.generation),
        address: member.address,
    }
}
