//! Honest engines in virtual time, on a network that loses nothing, and the frames of one who isn't.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidings_api::{Generation, Instance, InstanceKey, Selector};
use tidings_gossip::engine::{
    Engine, EngineConfig, Event, Identity, LinkFailure, LinkId, MemberState, Route, Transmit,
};
use tidings_gossip::wire::message::Alive;
use tidings_gossip::wire::{Features, Header, Message, Reader, cluster_hash, member_hash};

const LATENCY: Duration = Duration::from_micros(300);
/// How long it takes to find out that nobody answers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The end of links that the hostile member has.
const HOSTILE: usize = 999;

pub(crate) struct Cluster {
    pub(crate) now: Instant,
    pub(crate) engines: Vec<Engine>,
    /// Whose host has fallen silent.
    pub(crate) silent: Vec<usize>,
    /// Bytes that were sent to whom nobody here is: the hostile member, or who it has invented.
    pub(crate) bytes_to_others: usize,
    pub(crate) renamed: usize,
    /// Whether the hostile member answers pings, with a digest that nobody has.
    pub(crate) hostile_answers: bool,
    queue: BTreeMap<(Instant, u64), Arrival>,
    queued: u64,
}

enum Arrival {
    Datagram(usize, SocketAddr, Vec<u8>),
    Link(usize, LinkId, Vec<u8>),
    Unreachable(usize, SocketAddr),
    Seeds(usize),
}

pub(crate) fn address(member: usize) -> SocketAddr {
    ([10, 0, 0, u8::try_from(member).unwrap()], 7946).into()
}

pub(crate) fn hostile_address() -> SocketAddr {
    ([10, 66, 0, 1], 7946).into()
}

pub(crate) fn name(member: usize) -> String {
    format!("m{member}")
}

pub(crate) fn id(member: usize) -> u64 {
    member_hash(&name(member))
}

pub(crate) fn key(text: &str) -> InstanceKey {
    format!("web/{text}").parse().unwrap()
}

pub(crate) fn instance(id: &str, port: u16) -> Instance {
    let instance = Instance::new("web", format!("10.1.0.1:{port}"));
    instance.and_then(|web| web.with_id(id)).unwrap()
}

/// Who has this name says that it is here.
pub(crate) fn alive(name: &str, generation: u64, incarnation: u64, address: SocketAddr) -> Message {
    Message::Alive(Alive {
        name: name.into(),
        generation,
        incarnation,
        address,
        floor: 0,
        newest: 0,
        seal: [].into(),
        features: Features::NONE,
        unknown: [].into(),
    })
}

/// A frame of the hostile member.
pub(crate) fn frame(messages: &[Message]) -> Vec<u8> {
    let header = Header {
        cluster: cluster_hash("tidings"),
        sender: member_hash("hostile"),
    };
    let mut frame = header.to_frame();
    for message in messages {
        message.encode(&mut frame);
    }
    frame
}

impl Cluster {
    /// Members `m0` …, each of which offers `web/m0` …, that agree.
    pub(crate) fn new(members: usize) -> Self {
        let now = Instant::now();
        let mut cluster = Self {
            now,
            engines: Vec::new(),
            silent: Vec::new(),
            bytes_to_others: 0,
            renamed: 0,
            hostile_answers: false,
            queue: BTreeMap::new(),
            queued: 0,
        };
        for member in 0..members {
            let identity = Identity {
                name: name(member).into(),
                generation: Generation::new(1_000 + member as u64),
                address: address(member),
            };
            let config = EngineConfig::default();
            let engine = Engine::new(now, identity, config, member as u64);
            cluster.engines.push(engine);
            let seeds: &[_] = if member == 0 { &[] } else { &[address(0)] };
            cluster.engines[member].handle_seeds(now, seeds);
            cluster.register(member, &name(member), 1);
        }
        cluster.run(Duration::from_secs(20));
        let digest = cluster.engines[0].digest();
        assert!(
            cluster
                .engines
                .iter()
                .all(|engine| engine.digest() == digest)
        );
        cluster
    }

    pub(crate) fn register(&mut self, member: usize, id: &str, port: u16) {
        let now = self.now;
        self.engines[member]
            .register(now, instance(id, port))
            .unwrap();
        self.drain(member);
    }

    /// The hostile member sends a datagram.
    pub(crate) fn datagram(&mut self, to: usize, frame: &[u8]) {
        let arrival = Arrival::Datagram(to, hostile_address(), frame.to_vec());
        self.schedule(LATENCY, arrival);
    }

    /// The hostile member sends a frame over its link.
    pub(crate) fn link(&mut self, to: usize, frame: &[u8]) {
        let link = LinkId((HOSTILE * 1_000 + to) as u64);
        self.schedule(LATENCY, Arrival::Link(to, link, frame.to_vec()));
    }

    /// The same to everybody, over links.
    pub(crate) fn link_all(&mut self, frame: &[u8]) {
        for member in self.running() {
            self.link(member, frame);
        }
    }

    pub(crate) fn running(&self) -> Vec<usize> {
        let all = 0..self.engines.len();
        all.filter(|member| !self.silent.contains(member)).collect()
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs until a condition holds; answers how long that took.
    pub(crate) fn run_until(
        &mut self,
        within: Duration,
        what: &str,
        condition: impl Fn(&Self) -> bool,
    ) -> Duration {
        let begin = self.now;
        while !condition(self) {
            assert!(self.now < begin + within, "not within {within:?}: {what}");
            self.run((within / 200).max(Duration::from_millis(5)));
        }
        self.now - begin
    }

    /// Whether everybody who runs shows exactly this instance under its key.
    pub(crate) fn all_show(&self, id: &str, port: u16) -> bool {
        let shows = |member: &usize| self.shown(*member).get(&key(id)) == Some(&port);
        self.running().iter().all(shows)
    }

    /// Whether all instances of those who run are shown by all.
    pub(crate) fn all_show_all(&self) -> bool {
        let running = self.running();
        running
            .iter()
            .all(|member| self.all_show(&name(*member), 1))
    }

    /// What a member shows: ports by key.
    pub(crate) fn shown(&self, member: usize) -> BTreeMap<InstanceKey, u16> {
        let view = self.engines[member].view(&Selector::All);
        let ports = view
            .iter()
            .map(|shown| (shown.key().clone(), shown.address().port()));
        ports.collect()
    }

    /// How many honest members are alive as a member sees it.
    pub(crate) fn alive_at(&self, member: usize) -> usize {
        let honest: Vec<_> = self
            .engines
            .iter()
            .map(|engine| engine.identity())
            .collect();
        let members = self.engines[member].members();
        let alive = members.filter(|info| info.state == MemberState::Alive);
        alive
            .filter(|info| honest.contains(&&info.identity))
            .count()
    }

    /// Handles what is next, up to a moment; answers whether there was anything.
    fn step(&mut self, until: Instant) -> bool {
        let arrival = self.queue.keys().next().map(|(at, _)| *at);
        let timeout = |member: &usize| Some((self.engines[*member].poll_timeout()?, *member));
        let timer = self.running().iter().filter_map(timeout).min();
        let timer = timer.filter(|(at, _)| arrival.is_none_or(|arrival| *at < arrival));
        if let Some((at, member)) = timer {
            if at > until {
                return false;
            }
            self.now = self.now.max(at);
            self.engines[member].handle_timeout(self.now);
            self.drain(member);
            return true;
        }
        let Some(entry) = self
            .queue
            .first_entry()
            .filter(|next| next.key().0 <= until)
        else {
            return false;
        };
        let ((at, _), arrival) = entry.remove_entry();
        self.now = self.now.max(at);
        let now = self.now;
        let member = match arrival {
            Arrival::Datagram(to, ..) | Arrival::Link(to, ..) | Arrival::Unreachable(to, _) => to,
            Arrival::Seeds(to) => to,
        };
        if self.silent.contains(&member) {
            return true;
        }
        let engine = &mut self.engines[member];
        match arrival {
            Arrival::Datagram(_, from, frame) => engine.handle_datagram(now, from, &frame),
            Arrival::Link(_, link, frame) => engine.handle_link(now, link, &frame),
            Arrival::Seeds(_) => engine.handle_seeds(now, &[address(0), address(1)]),
            Arrival::Unreachable(_, to) => {
                engine.handle_link_failure(now, to, LinkFailure::Unreachable);
            }
        }
        self.drain(member);
        true
    }

    fn drain(&mut self, member: usize) {
        while let Some(event) = self.engines[member].poll_event() {
            self.renamed += usize::from(matches!(event, Event::NameTaken { .. }));
            if matches!(event, Event::SeedsWanted) {
                self.schedule(LATENCY, Arrival::Seeds(member));
            }
        }
        while let Some(Transmit { route, frame }) = self.engines[member].poll_transmit() {
            let at = |to| (0..self.engines.len()).find(|member| address(*member) == to);
            match route {
                Route::Datagram(to) => match at(to) {
                    Some(to) => {
                        let arrival = Arrival::Datagram(to, address(member), frame);
                        self.schedule(LATENCY, arrival);
                    }
                    None => {
                        self.bytes_to_others += frame.len();
                        if self.hostile_answers && to == hostile_address() {
                            self.answer(member, &frame);
                        }
                    }
                },
                Route::Link(to) => match at(to).filter(|to| !self.silent.contains(to)) {
                    Some(other) => {
                        let link = LinkId((member * 1_000 + other) as u64);
                        self.schedule(3 * LATENCY, Arrival::Link(other, link, frame));
                    }
                    None => {
                        self.bytes_to_others += frame.len();
                        self.schedule(CONNECT_TIMEOUT, Arrival::Unreachable(member, to));
                    }
                },
                Route::Reply(link) => {
                    let ends = usize::try_from(link.0).unwrap();
                    let (opener, acceptor) = (ends / 1_000, ends % 1_000);
                    let other = if opener == member { acceptor } else { opener };
                    if other == HOSTILE {
                        self.bytes_to_others += frame.len();
                    } else {
                        self.schedule(LATENCY, Arrival::Link(other, link, frame));
                    }
                }
            }
        }
    }

    /// The hostile member says that it is there.
    fn answer(&mut self, to: usize, asked: &[u8]) {
        let mut reader = Reader::new(asked);
        Header::decode(&mut reader).unwrap();
        while !reader.is_empty() {
            if let Ok(Some(Message::Ping { sequence, .. })) = Message::decode(&mut reader) {
                let digest = 0xbad;
                self.datagram(to, &frame(&[Message::Ack { sequence, digest }]));
            }
        }
    }

    fn schedule(&mut self, after: Duration, arrival: Arrival) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), arrival);
    }
}
