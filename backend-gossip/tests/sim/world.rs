//! The world: processes, the network between them, one clock and one queue of what comes next.
//!
//! Everything that happens is drawn from one seed and handled in one order, so that equal seeds
//! give equal runs, to the byte.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidings_api::{Generation, Instance, InstanceKey, Selector};
use tidings_gossip::engine::{self, Engine, EngineConfig, Identity, MemberState, Route, Transmit};

use crate::builds::Builds;
use crate::checkers::agreement::disagreement;
use crate::checkers::{Checkers, Limits, Outcome, Violation};
use crate::counters::Counters;
use crate::history::{Carrier, Ending, ProcessId, ProcessState, Seen, Snapshot};
use crate::links::{Context, LinkEvent, Links};
use crate::net::{Answer, CutId, HostId, Latency, Net};
use crate::process::{Clock, Input, Pace, Process};
use crate::queries::Queries;
use crate::trace::Trace;

/// How often the checkers get a picture of everybody while the world runs.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(500);
/// How often a driver looks after its links.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often a condition that is waited for is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The wall clock when the world begins, in microseconds.
const WALL_CLOCK_START: u64 = 1_700_000_000_000_000;

/// A place in the deployment: a member name, with the process that runs under it at the time.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) name: Arc<str>,
    pub(crate) cluster: Arc<str>,
    pub(crate) host: HostId,
    pub(crate) process: Option<ProcessId>,
    /// What the application offers, also over restarts.
    pub(crate) wanted: BTreeMap<InstanceKey, Instance>,
    /// Its wall clock against the world's, in microseconds.
    pub(crate) wall_clock: i64,
    pub(crate) generation: Generation,
}

/// What comes later.
#[derive(Debug)]
pub(crate) enum Event {
    Datagram(SocketAddr, SocketAddr, Arc<[u8]>),
    Link(LinkEvent),
    Input(ProcessId, Input),
    Timer(ProcessId),
    /// A slow process is through with what it was handling.
    Turn(ProcessId),
    /// A pause or a slow spell ends.
    Normal(ProcessId),
    Heal(CutId),
    /// A host's own loss ends.
    Clean(HostId),
    /// The weather of this number ends, if it is still the current one.
    Clear(u64),
    /// A process that has left is gone.
    Gone(ProcessId),
    /// A driver opens again the links that it is to keep.
    Sweep(ProcessId),
    Snapshot,
}

/// The simulated world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) config: EngineConfig,
    pub(crate) net: Net,
    pub(crate) slots: Vec<Slot>,
    pub(crate) processes: BTreeMap<ProcessId, Process>,
    /// Slots whose addresses the name service answers with.
    pub(crate) seeds: Vec<usize>,
    pub(crate) counters: Counters,
    pub(crate) rng: Rng,
    pub(crate) weathers: u64,
    /// Rises with all that applications ask for.
    pub(crate) turn: u64,
    /// What was sent last by anybody.
    pub(crate) last_frame: Arc<[u8]>,
    pub(crate) builds: Builds,
    pub(crate) queries: Queries,
    base: Instant,
    links: Links,
    queue: BTreeMap<(Duration, u64), Event>,
    queued: u64,
    started: u32,
    checkers: Checkers,
    trace: Trace,
    violation: Option<Violation>,
}

impl World {
    /// An empty world. `seed` draws everything but the plan.
    pub(crate) fn new(seed: u64, config: EngineConfig, latency: Latency, limits: &Limits) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            net: Net::new(latency),
            slots: Vec::new(),
            processes: BTreeMap::new(),
            seeds: Vec::new(),
            counters: Counters::default(),
            rng: Rng::with_seed(seed),
            weathers: 0,
            turn: 0,
            last_frame: Arc::default(),
            builds: Builds::default(),
            queries: Queries::default(),
            base: Instant::now(),
            links: Links::default(),
            queue: BTreeMap::new(),
            queued: 0,
            started: 0,
            checkers: Checkers::all(limits),
            trace: Trace::new(std::env::var_os("SIM_TRACE").is_some()),
            violation: None,
            config,
        };
        world.schedule(SNAPSHOT_INTERVAL, Event::Snapshot);
        world
    }

    /// A place for a member, on a host of its own. Nothing runs there yet.
    pub(crate) fn add_slot(&mut self, name: &str, cluster: &str) -> usize {
        self.slots.push(Slot {
            name: name.into(),
            cluster: cluster.into(),
            host: self.net.add_host(),
            process: None,
            wanted: BTreeMap::new(),
            wall_clock: self.rng.i64(-2_000_000..2_000_000),
            generation: Generation::default(),
        });
        self.slots.len() - 1
    }

    /// Starts a process in a slot where none runs, and tells it the seeds.
    pub(crate) fn start(&mut self, slot: usize) -> ProcessId {
        let seeds = self.seed_addresses();
        self.start_with_seeds(slot, seeds)
    }

    /// Starts a process in a slot where none runs, with these seeds.
    pub(crate) fn start_with_seeds(&mut self, slot: usize, seeds: Vec<SocketAddr>) -> ProcessId {
        let id = ProcessId(self.started);
        self.started += 1;
        let wall_clock = self.wall_clock(slot);
        let place = &mut self.slots[slot];
        assert_eq!(
            place.process.replace(id),
            None,
            "{} runs already",
            place.name
        );
        place.generation = wall_clock.max(Generation::new(place.generation.number() + 1));
        let identity = Identity {
            name: place.name.clone(),
            generation: place.generation,
            address: place.host.address(),
        };
        let (host, cluster) = (place.host, place.cluster.clone());
        let ahead = Duration::from_micros(self.rng.u64(0..10_000_000));
        let clock = Clock::new(self.base, ahead, self.rng.u32(0..300));
        let build = self.builds.next();
        self.builds.note(&identity, build);
        let config = build.configure(EngineConfig {
            cluster: cluster.to_string(),
            ..self.config.clone()
        });
        let mut engine = Engine::new(
            clock.at(self.now),
            identity.clone(),
            config,
            self.rng.u64(..),
        );
        engine.listen_to_queries(build.knows_events());
        self.net.occupy(host, id);
        self.links.start(id);
        self.trace
            .step(self.now, &format!("{id} starts as {identity:?}"));
        let process = Process::new((id, slot, host), build, cluster.clone(), engine, clock);
        self.processes.insert(id, process);
        self.see(&Seen::Started {
            process: id,
            cluster: &cluster,
            identity: &identity,
        });
        self.update_cut_off();
        self.schedule(SWEEP_INTERVAL, Event::Sweep(id));
        self.drain(id);
        self.input(id, Input::Seeds(seeds));
        for instance in self.slots[slot].wanted.clone().into_values() {
            self.offer(id, instance);
        }
        id
    }

    /// Ends the process of a slot.
    pub(crate) fn end(&mut self, id: ProcessId, how: Ending) {
        let Some(process) = self.processes.remove(&id) else {
            return;
        };
        self.trace.step(self.now, &format!("{id} ends: {how:?}"));
        self.add_stats(&process);
        if let Some(timer) = process.timer {
            self.queue.remove(&timer);
        }
        let silent = how == Ending::Silenced;
        // In this order: links look at the network as it was for the goodbye.
        self.with_links(|links, context| links.end(context, id, silent));
        self.net.vacate(process.host, silent);
        self.slots[process.slot].process = None;
        self.see(&Seen::Ended { process: id, how });
        self.update_cut_off();
    }

    /// Runs until a moment.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub(crate) fn run_until(&mut self, until: Duration) -> Outcome {
        while let Some(entry) = self
            .queue
            .first_entry()
            .filter(|entry| entry.key().0 <= until)
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.counters.events += 1;
            self.handle(event);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        self.now = until;
        Ok(())
    }

    /// Runs for a while.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub(crate) fn run_for(&mut self, time: Duration) -> Outcome {
        self.run_until(self.now + time)
    }

    /// Runs until all members agree on everything, and says how long that took.
    ///
    /// # Errors
    /// The first rule that was broken, or the one that they still disagree on.
    pub(crate) fn run_until_agreed(&mut self, within: Duration) -> Outcome<Duration> {
        let begin = self.now;
        loop {
            let Some((checker, seen)) = disagreement(&self.snapshot()) else {
                return Ok(self.now - begin);
            };
            if self.now >= begin + within {
                return Err(Violation {
                    checker,
                    at: self.now,
                    seen: format!("not within {within:?}: {seen}"),
                });
            }
            self.run_for(LOOK_INTERVAL)?;
        }
    }

    /// Tells the checkers that the strict rules begin: everybody agrees.
    pub(crate) fn settled(&mut self) {
        self.trace.step(self.now, "settled");
        self.see(&Seen::Settled);
    }

    /// All running processes that mean to stay.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let staying = self.processes.values().filter(|process| !process.leaving);
        Snapshot {
            processes: staying.map(state).collect(),
        }
    }

    /// The process that runs in a slot.
    ///
    /// # Panics
    /// Where none does.
    pub(crate) fn process(&self, slot: usize) -> &Process {
        let id = self.slots[slot].process;
        let process = id.and_then(|id| self.processes.get(&id));
        process.expect("a process runs in the slot")
    }

    /// The run so far as one number.
    pub(crate) fn digest(&self) -> u64 {
        self.trace.digest()
    }

    /// Adds up what the engines counted themselves, at the end of a run.
    pub(crate) fn finish(&mut self) -> Counters {
        for process in std::mem::take(&mut self.processes).values() {
            self.add_stats(process);
        }
        self.counters.virtual_seconds = self.now.as_secs();
        self.counters.clone()
    }

    /// Ends the run: a rule is broken that no checker needs a history for.
    pub(crate) fn fail(&mut self, checker: &'static str, seen: String) {
        let at = self.now;
        self.violation
            .get_or_insert(Violation { checker, at, seen });
    }

    /// What the checkers have to hear of.
    pub(crate) fn see(&mut self, seen: &Seen<'_>) {
        if let Err(violation) = self.checkers.see(self.now, seen) {
            self.violation.get_or_insert(violation);
        }
    }

    /// A line for the trace.
    pub(crate) fn note(&mut self, what: &str) {
        self.trace.step(self.now, what);
    }

    pub(crate) fn schedule(&mut self, after: Duration, event: Event) -> (Duration, u64) {
        self.queued += 1;
        let key = (self.now + after, self.queued);
        self.queue.insert(key, event);
        key
    }

    /// The addresses that the name service knows for the seeds now.
    pub(crate) fn seed_addresses(&self) -> Vec<SocketAddr> {
        let seeds = self.seeds.iter();
        seeds.map(|slot| self.slots[*slot].host.address()).collect()
    }

    /// The wall clock of a slot, as a generation.
    pub(crate) fn wall_clock(&self, slot: usize) -> Generation {
        let elapsed = u64::try_from(self.now.as_micros()).unwrap_or(u64::MAX);
        let clock = WALL_CLOCK_START + elapsed;
        Generation::new(clock.saturating_add_signed(self.slots[slot].wall_clock))
    }

    /// Gives a process something to handle, at once or when it gets to it.
    pub(crate) fn input(&mut self, id: ProcessId, input: Input) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if process.is_ready() {
            self.turn(id, input);
            return;
        }
        match process.pace {
            Pace::Paused => self.counters.inputs_while_paused += 1,
            Pace::Slow(_) | Pace::Normal => self.counters.inputs_slowed += 1,
        }
        if !process.keep(input) {
            self.counters.datagrams_overflowed += 1;
        }
        self.next_turn(id);
    }

    /// Lets a process that handles one input at a time begin with the next.
    pub(crate) fn next_turn(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if let Pace::Slow(time) = process.pace
            && !std::mem::replace(&mut process.busy, true)
        {
            self.schedule(time, Event::Turn(id));
        }
    }

    /// Lets a process handle all that it has kept.
    pub(crate) fn catch_up(&mut self, id: ProcessId) {
        while let Some(input) = self.processes.get_mut(&id).and_then(Process::next_input) {
            self.turn(id, input);
        }
    }

    /// Takes from an engine all that it has to give.
    pub(crate) fn drain(&mut self, id: ProcessId) {
        self.rename(id);
        self.transmit(id);
        self.tell(id);
        self.arm(id);
    }

    /// Says who can't be heard by anybody any more, or can again.
    pub(crate) fn update_cut_off(&mut self) {
        let mut changes = Vec::new();
        for process in self.processes.values() {
            let mut others = self.processes.values().filter(|other| {
                other.id != process.id && !other.leaving && other.cluster == process.cluster
            });
            let alone = others.clone().next().is_none();
            // Who is paused or slow has yet to read what came before.
            let listens = process.pace == Pace::Normal;
            let cut_off =
                listens && !alone && others.all(|other| self.net.is_cut(other.host, process.host));
            if cut_off != process.cut_off {
                changes.push((process.id, cut_off));
            }
        }
        for (id, cut_off) in changes {
            if let Some(process) = self.processes.get_mut(&id) {
                process.cut_off = cut_off;
                self.counters.members_cut_off += u64::from(cut_off);
            }
            self.see(&Seen::CutOff {
                process: id,
                cut_off,
            });
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            // What arrives long after it was sent was held up behind the partition that is there now.
            Event::Datagram(from, to, _) if self.net.is_cut_between(from, to) => {
                self.counters.datagrams_cut += 1;
            }
            Event::Datagram(from, to, bytes) => match self.net.answer(to) {
                Answer::Process(id) => {
                    self.counters.datagrams_delivered += 1;
                    self.input(id, Input::Datagram(from, bytes));
                }
                Answer::Refused | Answer::Nothing => self.counters.datagrams_to_nobody += 1,
            },
            Event::Link(event) => self.with_links(|links, context| links.handle(context, event)),
            Event::Input(id, input) => self.input(id, input),
            Event::Timer(id) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.timer = None;
                    self.input(id, Input::Timeout);
                }
            }
            Event::Turn(id) => {
                let input = self.processes.get_mut(&id).and_then(|process| {
                    process.busy = false;
                    process.next_input()
                });
                if let Some(input) = input {
                    self.turn(id, input);
                    if self
                        .processes
                        .get(&id)
                        .is_some_and(|process| !process.is_ready())
                    {
                        self.next_turn(id);
                    }
                }
            }
            Event::Normal(id) => self.resume(id),
            Event::Heal(cut) => self.heal(cut),
            Event::Clean(host) => self.net.set_loss(host, 0.0),
            Event::Clear(weather) => self.clear(weather),
            Event::Gone(id) => self.end(id, Ending::Left),
            Event::Sweep(id) => {
                if self.processes.contains_key(&id) {
                    self.schedule(SWEEP_INTERVAL, Event::Sweep(id));
                    self.keep_links(id);
                }
            }
            Event::Snapshot => {
                self.schedule(SNAPSHOT_INTERVAL, Event::Snapshot);
                let snapshot = self.snapshot();
                self.see(&Seen::Snapshot(&snapshot));
            }
        }
    }

    /// One turn of the driver: an input, and all that follows from it.
    fn turn(&mut self, id: ProcessId, input: Input) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let (host, now) = (process.host, process.clock.at(self.now));
        let mut woke = false;
        let (kind, bytes): (_, &[u8]) = match &input {
            Input::Datagram(_, bytes) => ("datagram", bytes),
            Input::Link(_, bytes) => ("link", bytes),
            Input::LinkFailure(..) => ("failure", &[]),
            Input::LinkClosed(_) => ("closed", &[]),
            Input::Seeds(_) => ("seeds", &[]),
            Input::Answer(_, bytes) => ("answer", bytes),
            Input::Timeout => ("timeout", &[]),
        };
        self.trace
            .note(self.now, id, (kind, bytes), &input.source());
        let (engine, build) = (&mut process.engine, process.build);
        match input {
            Input::Datagram(from, bytes) => {
                engine.handle_datagram(now, from, &self.builds.heard(build, &bytes));
            }
            Input::Link(link, bytes) => {
                engine.handle_link(now, link, &self.builds.heard(build, &bytes));
            }
            Input::LinkFailure(to, failure) => engine.handle_link_failure(now, to, failure),
            Input::Seeds(seeds) => engine.handle_seeds(now, &seeds),
            Input::Answer(key, answer) => engine.answer_query(now, key, Some(answer)),
            Input::LinkClosed(target) => {
                self.with_links(|links, context| links.open(context, (id, host), target));
                return;
            }
            Input::Timeout => {
                engine.handle_timeout(now);
                woke = true;
            }
        }
        if woke {
            self.see(&Seen::Woke { process: id });
        }
        self.drain(id);
    }

    /// Tells where a process goes on as somebody else, before anything is sent in the new name.
    fn rename(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(&id)
            && process.identity != *process.engine.identity()
        {
            process.identity = process.engine.identity().clone();
            let identity = process.identity.clone();
            self.builds.note(&identity, process.build);
            self.see(&Seen::Renamed {
                process: id,
                identity: &identity,
            });
        }
    }

    fn transmit(&mut self, id: ProcessId) {
        loop {
            let Some(process) = self.processes.get_mut(&id) else {
                return;
            };
            let Some(Transmit { route, frame }) = process.engine.poll_transmit() else {
                return;
            };
            let host = process.host;
            let frame = self
                .builds
                .sent(process.build, &process.identity, frame.into());
            self.trace.note(self.now, id, ("send", &frame), &route);
            if let Some(lost) = self.builds.lost(&frame) {
                self.fail("unknown-fields-kept", lost);
            }
            let carrier = match route {
                Route::Datagram(_) => Carrier::Datagram,
                Route::Link(_) | Route::Reply(_) => Carrier::Link,
            };
            self.see(&Seen::Sent {
                process: id,
                carrier,
                bytes: frame.len(),
            });
            self.last_frame = frame.clone();
            match route {
                Route::Datagram(to) => self.send_datagram(host, to, &frame),
                Route::Link(to) => self.with_links(|links, context| {
                    links.send(context, (id, host), to, frame);
                }),
                Route::Reply(link) => {
                    self.with_links(|links, context| links.reply(context, link, frame));
                }
            }
        }
    }

    fn send_datagram(&mut self, from: HostId, to: SocketAddr, frame: &Arc<[u8]>) {
        let fate = self.net.fate(&mut self.rng, self.now, from, to);
        let counters = &mut self.counters;
        counters.datagrams_sent += 1;
        counters.datagrams_cut += u64::from(fate.cut);
        counters.datagrams_lost += u64::from(fate.lost);
        counters.datagrams_duplicated += u64::from(fate.duplicated);
        counters.datagrams_replayed += u64::from(fate.replayed);
        counters.datagrams_reordered += u64::from(fate.reordered);
        for arrival in fate.arrivals {
            let datagram = Event::Datagram(from.address(), to, frame.clone());
            self.schedule(arrival - self.now, datagram);
        }
    }

    fn tell(&mut self, id: ProcessId) {
        loop {
            let Some(process) = self.processes.get_mut(&id) else {
                return;
            };
            let Some(event) = process.engine.poll_event() else {
                return;
            };
            self.trace
                .note(self.now, id, ("event", text(&event).as_bytes()), &event);
            match event {
                engine::Event::Changed(service) => {
                    let after = process.engine.view(&Selector::Service(service.clone()));
                    let before = process.told.insert(service.clone(), after.clone());
                    let before = before.unwrap_or_default();
                    let stays = |old: &Arc<Instance>| after.iter().any(|i| i.key() == old.key());
                    process.vanished += before.iter().filter(|old| !stays(old)).count();
                    self.see(&Seen::View {
                        process: id,
                        service: &service,
                        before: &before,
                        after: &after,
                    });
                }
                engine::Event::Freshness(freshness) => {
                    let live = freshness.is_live();
                    process.live_told = live;
                    self.counters.stale += u64::from(!live);
                }
                engine::Event::Joined => process.joined = true,
                engine::Event::SeedsWanted => {
                    let seeds = Input::Seeds(self.seed_addresses());
                    let answer = Duration::from_millis(self.rng.u64(1..50));
                    self.schedule(answer, Event::Input(id, seeds));
                }
                engine::Event::Superseded(key) => self.superseded(id, &key),
                engine::Event::Left => {
                    self.schedule(Duration::ZERO, Event::Gone(id));
                }
                engine::Event::Sentinels(addresses) => {
                    process.kept = addresses;
                    self.keep_links(id);
                }
                engine::Event::Heard(heard) => self.heard(id, &heard),
                engine::Event::Asked(asked) => self.asked(id, &asked),
                engine::Event::QueryUpdate { id: query, update } => {
                    self.query_update(id, query, &update);
                }
                engine::Event::QueryEnded {
                    id: query,
                    outcomes,
                } => self.query_ended(id, query, &outcomes),
                engine::Event::NameTaken { .. } => self.counters.names_taken += 1,
                // There are none in here.
                engine::Event::Observer(_) | engine::Event::ObserverRefused(_) => {}
                engine::Event::Member { member, state } => {
                    if state == MemberState::Dead {
                        process.buried.push(member.name.clone());
                    }
                    self.see(&Seen::Member {
                        process: id,
                        member: &member,
                        state,
                    });
                }
            }
        }
    }

    /// Opens the links that a driver is to keep and doesn't have.
    fn keep_links(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get(&id) else {
            return;
        };
        if process.pace == Pace::Paused {
            return;
        }
        let (opener, kept) = ((id, process.host), process.kept.clone());
        self.with_links(|links, context| {
            for target in kept {
                links.open(context, opener, target);
            }
        });
    }

    fn arm(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let wanted = process.engine.poll_timeout();
        let at = wanted.map(|deadline| process.clock.when(deadline).max(self.now));
        if process.timer.map(|(at, _)| at) == at || process.timeout_waits() {
            return;
        }
        if let Some(timer) = process.timer.take() {
            self.queue.remove(&timer);
        }
        if let Some(at) = at {
            let timer = self.schedule(at - self.now, Event::Timer(id));
            if let Some(process) = self.processes.get_mut(&id) {
                process.timer = Some(timer);
            }
        }
    }

    fn with_links(&mut self, change: impl FnOnce(&mut Links, &mut Context<'_>)) {
        let (mut later, mut inputs) = (Vec::new(), Vec::new());
        let mut context = Context {
            now: self.now,
            rng: &mut self.rng,
            net: &self.net,
            counters: &mut self.counters,
            later: &mut later,
            inputs: &mut inputs,
        };
        change(&mut self.links, &mut context);
        for (at, event) in later {
            self.schedule(at.saturating_sub(self.now), Event::Link(event));
        }
        // Through the queue: an engine that is being drained can't be given anything.
        for (id, input) in inputs {
            self.schedule(Duration::ZERO, Event::Input(id, input));
        }
    }

    fn add_stats(&mut self, process: &Process) {
        let stats = process.engine.stats();
        self.counters.suspicions += stats.suspicions;
        self.counters.refutations += stats.refutations;
        self.counters.deaths += stats.deaths;
        self.counters.syncs += stats.syncs;
        self.counters.events_told += stats.events.told;
        self.counters.events_missed += stats.events.missed;
        self.counters.event_pulls += stats.events.pulls;
        self.counters.events_compared += stats.events.compared;
        self.queries.counters.late += stats.queries.late;
        self.counters.malformed += stats.malformed;
        self.counters.foreign += stats.foreign;
    }
}

/// An event without the moments of the real clock that it may hold.
fn text(event: &engine::Event) -> String {
    match event {
        engine::Event::Freshness(freshness) => format!("Freshness({})", freshness.is_live()),
        // The moment that a query ends is one of the real clock.
        engine::Event::Asked(asked) => format!("Asked({:?})", asked.key),
        other => format!("{other:?}"),
    }
}

fn state(process: &Process) -> ProcessState {
    let told = process.told.values().flatten().cloned();
    let registrations = process.engine.registrations();
    let registrations = registrations.map(|(key, superseded)| (key.clone(), superseded));
    ProcessState {
        process: process.id,
        cluster: process.cluster.clone(),
        identity: process.identity.clone(),
        asked: process.asked.values().cloned().collect(),
        registrations: registrations.collect(),
        view: process.engine.view(&Selector::All),
        told: told.collect(),
        live: process.engine.freshness().is_live(),
        live_told: process.live_told,
        incarnation: process.engine.incarnation(),
        members: process.engine.members().collect(),
        digest: process.engine.digest(),
        streams: process.engine.streams().collect(),
        knows_events: process.build.knows_events(),
        stats: process.engine.stats(),
        crash_bound: process.engine.crash_bound(),
        paused: process.pace == Pace::Paused,
    }
}
