//! Many engines of one kind, the network between them, one clock and one queue of what comes next.

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidings_gossip::engine::{Route, Transmit};

use crate::counters::Counters;
use crate::history::ProcessId;
use crate::links::{Context, LinkEvent, Links};
use crate::net::{Answer, CutId, Direction, HostId, Latency, Net};
use crate::node::{Node, Notice};
use crate::plan::Fault;
use crate::process::{Input, Pace, Process};
use crate::score::Score;

/// How often a driver looks after its links.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// A name service answers within this.
const RESOLVED_WITHIN: Duration = Duration::from_millis(50);

/// What passes any path without fragments.
const DATAGRAM_BYTES_MAX: usize = 1_400;

/// A data centre.
const LATENCY: Latency = Latency {
    base: Duration::from_micros(200),
    jitter: Duration::from_micros(300),
};

#[derive(Debug)]
enum Event {
    Datagram(SocketAddr, SocketAddr, Arc<[u8]>),
    Link(LinkEvent),
    Input(HostId, Input),
    Timer(HostId, u64),
    /// A slow process is through with what it was handling.
    Turn(HostId),
    Resume(HostId),
    Heal(CutId, Arc<BTreeSet<HostId>>),
    Sweep(HostId),
}

/// An event in the queue: earlier ones first, those of one moment in the order they were added.
#[derive(Debug)]
struct Entry {
    at: Duration,
    number: u64,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// The simulated world.
#[derive(Debug)]
pub(crate) struct World<N: Node> {
    pub(crate) now: Duration,
    pub(crate) net: Net,
    pub(crate) score: Score,
    pub(crate) events: u64,
    config: N::Config,
    base: Instant,
    rng: Rng,
    processes: Vec<Option<Process<N>>>,
    seeds: Vec<HostId>,
    links: Links,
    queue: BinaryHeap<Entry>,
    queued: u64,
    counters: Counters,
}

impl<N: Node> World<N> {
    /// An empty world; members join through the first `seeds` hosts.
    pub(crate) fn new(rng_seed: u64, seeds: usize, config: N::Config) -> Self {
        Self {
            now: Duration::ZERO,
            net: Net::new(LATENCY),
            score: Score::default(),
            events: 0,
            base: Instant::now(),
            rng: Rng::with_seed(rng_seed),
            processes: Vec::new(),
            seeds: (0..seeds).map(HostId).collect(),
            links: Links::patient(N::connect_timeout(&config)),
            queue: BinaryHeap::new(),
            queued: 0,
            counters: Counters::default(),
            config,
        }
    }

    /// Starts a member on a new host, and tells it the seeds.
    pub(crate) fn start(&mut self) -> HostId {
        let host = self.net.add_host();
        self.net.occupy(host, process(host));
        self.links.start(process(host));
        let node = N::start(self.moment(), host, self.rng.u64(..), &self.config);
        self.processes.push(Some(Process::new(node)));
        self.score.started(host, self.now);
        self.drain(host);
        self.input(host, Input::Seeds);
        if N::LINKS_KEPT {
            self.schedule(SWEEP_INTERVAL, Event::Sweep(host));
        }
        host
    }

    /// Runs until a moment.
    pub(crate) fn run_until(&mut self, until: Duration) {
        while let Some(entry) = self.queue.peek() {
            if entry.at > until {
                break;
            }
            if let Some(Entry { at, event, .. }) = self.queue.pop() {
                self.now = at;
                self.events += 1;
                self.handle(event);
            }
        }
        self.now = until;
    }

    /// Does what a plan says, at its moments, and runs on until the end.
    pub(crate) fn carry_out(&mut self, plan: &[(Duration, Fault)], end: Duration) {
        for (at, fault) in plan {
            self.run_until(*at);
            self.apply(fault);
        }
        self.run_until(end);
    }

    /// The members that run.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &N> {
        self.processes.iter().flatten().map(|process| &process.node)
    }

    /// The member on a host.
    pub(crate) fn node_at(&self, host: HostId) -> Option<&N> {
        let process = self.processes[host.0].as_ref()?;
        Some(&process.node)
    }

    fn apply(&mut self, fault: &Fault) {
        match fault {
            Fault::Start => {
                self.start();
            }
            Fault::Loss(share) => self.net.weather.loss = *share,
            Fault::Silence(host) => self.take_away(*host, true),
            Fault::Kill(host) => self.take_away(*host, false),
            Fault::Pause(host, lasting) => {
                self.set_pace(*host, Pace::Paused);
                self.schedule(*lasting, Event::Resume(*host));
            }
            Fault::Slow(host, each) => self.set_pace(*host, Pace::Slow(*each)),
            Fault::Cut(hosts, direction, lasting) => {
                let inside: Arc<BTreeSet<_>> = Arc::new(hosts.iter().copied().collect());
                let cut = self.net.cut((*inside).clone(), None, *direction);
                self.score.cut(&inside, true, self.now);
                self.schedule(*lasting, Event::Heal(cut, inside));
            }
            Fault::CutWay(from, to) => {
                let (from, to) = (BTreeSet::from([*from]), BTreeSet::from([*to]));
                self.net.cut(from, Some(to), Direction::Out);
            }
        }
    }

    /// Ends a process; where its host ends with it nothing answers there any more, not even "refused".
    fn take_away(&mut self, host: HostId, silent: bool) {
        if self.processes[host.0].take().is_none() {
            return;
        }
        self.with_links(|links, context| links.end(context, process(host), silent));
        self.net.vacate(host, silent);
        self.score.lost(host, self.now);
    }

    fn set_pace(&mut self, host: HostId, pace: Pace) {
        if let Some(process) = &mut self.processes[host.0] {
            process.pace = pace;
            self.score.pace(host, pace, self.now);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Datagram(from, to, bytes) => {
                if !self.net.is_cut_between(from, to)
                    && let Answer::Process(ProcessId(id)) = self.net.answer(to)
                {
                    self.input(HostId(id as usize), Input::Datagram(from, bytes));
                }
            }
            Event::Link(event) => self.with_links(|links, context| links.handle(context, event)),
            Event::Input(host, input) => self.input(host, input),
            Event::Timer(host, number) => {
                if let Some(process) = &mut self.processes[host.0]
                    && process.timers == number
                {
                    process.timer = None;
                    self.input(host, Input::Timeout);
                }
            }
            Event::Turn(host) => {
                let input = self.processes[host.0].as_mut().and_then(|process| {
                    process.busy = false;
                    process.next_input()
                });
                if let Some(input) = input {
                    self.turn(host, input);
                    self.next_turn(host);
                }
            }
            Event::Resume(host) => self.resume(host),
            Event::Heal(cut, inside) => {
                self.net.heal(cut);
                self.score.cut(&inside, false, self.now);
            }
            Event::Sweep(host) => {
                if self.processes[host.0].is_some() {
                    self.schedule(SWEEP_INTERVAL, Event::Sweep(host));
                    self.keep_links(host);
                }
            }
        }
    }

    /// Gives a process something to handle, at once or when it gets to it.
    fn input(&mut self, host: HostId, input: Input) {
        let Some(process) = &mut self.processes[host.0] else {
            return;
        };
        if process.is_ready() {
            self.turn(host, input);
        } else {
            process.keep(input);
            self.next_turn(host);
        }
    }

    /// Lets a process that handles one input at a time begin with the next.
    fn next_turn(&mut self, host: HostId) {
        if let Some(process) = &mut self.processes[host.0]
            && let Pace::Slow(time) = process.pace
            && !process.busy
        {
            process.busy = true;
            self.schedule(time, Event::Turn(host));
        }
    }

    fn resume(&mut self, host: HostId) {
        self.set_pace(host, Pace::Normal);
        let timeout_first = self.rng.bool();
        if let Some(process) = &mut self.processes[host.0]
            && timeout_first
        {
            process.timeout_first();
        }
        while let Some(input) = self.processes[host.0]
            .as_mut()
            .and_then(Process::next_input)
        {
            self.turn(host, input);
        }
    }

    /// One turn of the driver: an input, and all that follows from it.
    fn turn(&mut self, host: HostId, input: Input) {
        let now = self.moment();
        let Some(process) = &mut self.processes[host.0] else {
            return;
        };
        let node = &mut process.node;
        match input {
            Input::Datagram(from, bytes) => node.handle_datagram(now, from, &bytes),
            Input::Link(link, bytes) => node.handle_link(now, link, &bytes),
            Input::LinkFailure(to, failure) => node.handle_link_failure(now, to, failure),
            Input::LinkClosed(to) => {
                if N::LINKS_KEPT {
                    self.open_links(host, &[to]);
                }
                return;
            }
            Input::Seeds => {
                let seeds: Vec<_> = self.seeds.iter().map(|seed| seed.address()).collect();
                node.join(now, &seeds);
            }
            Input::Timeout => node.handle_timeout(now),
        }
        self.drain(host);
    }

    /// Takes from an engine all that it has to give.
    fn drain(&mut self, host: HostId) {
        while let Some(transmit) = self.node(host).and_then(Node::poll_transmit) {
            self.transmit(host, transmit);
        }
        while let Some(notice) = self.node(host).and_then(Node::poll_notice) {
            match notice {
                Notice::Member(subject, standing) => {
                    self.score.told(self.now, host, subject, standing);
                }
                Notice::Sentinels(addresses) => {
                    if let Some(process) = &mut self.processes[host.0] {
                        process.kept = addresses;
                    }
                    self.keep_links(host);
                }
                Notice::SeedsWanted => {
                    let after = RESOLVED_WITHIN.mul_f64(self.rng.f64());
                    self.schedule(after, Event::Input(host, Input::Seeds));
                }
            }
        }
        self.arm(host);
    }

    fn node(&mut self, host: HostId) -> Option<&mut N> {
        let process = self.processes[host.0].as_mut()?;
        Some(&mut process.node)
    }

    fn transmit(&mut self, host: HostId, Transmit { route, frame }: Transmit) {
        let opener = (process(host), host);
        let frame: Arc<[u8]> = frame.into();
        match route {
            Route::Datagram(to) => {
                assert!(frame.len() <= DATAGRAM_BYTES_MAX, "{} bytes", frame.len());
                let fate = self.net.fate(&mut self.rng, self.now, host, to);
                for arrival in fate.arrivals {
                    let datagram = Event::Datagram(host.address(), to, frame.clone());
                    self.schedule(arrival - self.now, datagram);
                }
            }
            Route::Link(to) => self.with_links(|links, context| {
                if !N::LINKS_KEPT {
                    links.hang_up(opener.0, to);
                }
                links.send(context, opener, to, frame);
            }),
            Route::Reply(link) => {
                self.with_links(|links, context| links.reply(context, link, frame));
            }
        }
    }

    /// Opens the links that a driver is to keep and doesn't have.
    fn keep_links(&mut self, host: HostId) {
        if let Some(process) = &self.processes[host.0]
            && process.pace != Pace::Paused
        {
            let kept = process.kept.clone();
            self.open_links(host, &kept);
        }
    }

    fn open_links(&mut self, host: HostId, targets: &[SocketAddr]) {
        self.with_links(|links, context| {
            for target in targets {
                links.open(context, (process(host), host), *target);
            }
        });
    }

    fn arm(&mut self, host: HostId) {
        let (base, now) = (self.base, self.now);
        let Some(process) = &mut self.processes[host.0] else {
            return;
        };
        let wanted = process.node.poll_timeout();
        let at = wanted.map(|deadline| deadline.saturating_duration_since(base).max(now));
        if process.timer == at || process.timeout_waits() {
            return;
        }
        process.timer = at;
        process.timers += 1;
        let number = process.timers;
        if let Some(at) = at {
            self.schedule(at - now, Event::Timer(host, number));
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
        for (ProcessId(id), input) in inputs {
            self.schedule(Duration::ZERO, Event::Input(HostId(id as usize), input));
        }
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.queued += 1;
        self.queue.push(Entry {
            at: self.now + after,
            number: self.queued,
            event,
        });
    }

    fn moment(&self) -> Instant {
        self.base + self.now
    }
}

fn process(host: HostId) -> ProcessId {
    ProcessId(u32::try_from(host.0).unwrap_or(u32::MAX))
}
