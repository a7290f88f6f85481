//! The failure detection and dissemination of HashiCorp's memberlist, by its rules and defaults
//! (`DefaultLANConfig`), as a state machine: what the gossip engine is compared with.
//!
//! Written from SWIM (Das, Gupta, Motivala, DSN 2002), Lifeguard (Dadgar, Phillips, Currey, 2018) and
//! the observable behaviour of memberlist 0.5; none of its code is in here. What it has:
//!
//! - a probe a second, round-robin in shuffled order; after 500 ms three indirect pings with nacks and
//!   a ping over TCP; the suspicion when the interval, times local health, is over;
//! - local health from 0 to 7: an answered probe −1, missing nacks +1 each, a refutation +1;
//! - a suspicion of 4 × log10(members) s once two others confirm, six times that without;
//! - the suspect told by whoever pings it;
//! - gossip to three members each 200 ms, also to those dead for less than 30 s, and on the back of
//!   pings and acks; each message 4 × ⌈log10(members + 1)⌉ times;
//! - a push/pull of the whole table every 30 s, less often in large clusters, where somebody else's dead
//!   is a suspect.
//!
//! Left out, because they play no part here: leaving, names and addresses that change, encryption, the
//! delegate hooks, and the queue between the reader and the handler of packets.

mod message;
mod queue;
mod rules;
mod suspicion;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidings_gossip::engine::{LinkId, Route, Transmit};

use self::message::{MemberId, Message, Row, State};
use self::queue::Queue;
use self::suspicion::Suspicion;
use crate::net::HostId;
use crate::node::{Node, Notice, Standing};

pub(crate) use self::rules::Rules;

const PACKET_BYTES: usize = 1_400;
const COMPOUND_HEADER_BYTES: usize = 2;

/// One member.
#[derive(Debug)]
pub(crate) struct Memberlist {
    me: MemberId,
    rng: Rng,
    rules: Rules,
    incarnation: u32,
    sequence: u32,
    awareness: u32,
    members: BTreeMap<MemberId, Member>,
    /// Everybody, this member and the lately dead included, in the order in which they are probed.
    order: Vec<MemberId>,
    next: usize,
    probe: Option<Probe>,
    /// Pings on behalf of others, by their sequence numbers here.
    relays: BTreeMap<u32, Relay>,
    queue: Queue,
    probe_tick: Instant,
    gossip_tick: Instant,
    push_pull_at: Instant,
    transmits: VecDeque<Transmit>,
    notices: VecDeque<Notice>,
}

#[derive(Debug)]
struct Member {
    incarnation: u32,
    state: State,
    changed: Instant,
    suspicion: Option<Suspicion>,
}

#[derive(Debug)]
struct Probe {
    target: MemberId,
    incarnation: u32,
    sequence: u32,
    /// When helpers are asked; `None` once they are.
    helpers_at: Option<Instant>,
    deadline: Instant,
    helpers: u32,
    nacks: u32,
    /// Whether the ping over TCP was answered, which counts at the deadline only.
    contacted: bool,
}

#[derive(Debug)]
struct Relay {
    origin: Route,
    sequence: u32,
    deadline: Instant,
}

impl Node for Memberlist {
    const NAME: &'static str = "memberlist";
    const LINKS_KEPT: bool = false;
    type Config = Rules;

    fn connect_timeout(rules: &Rules) -> Duration {
        rules.tcp_timeout
    }

    fn start(now: Instant, host: HostId, rng_seed: u64, rules: &Rules) -> Self {
        let mut rng = Rng::with_seed(rng_seed);
        let me = u32::try_from(host.0).unwrap_or(u32::MAX);
        // Tickers run from the start; their first reader waits for up to one more interval.
        let mut tick = |interval: Duration| now + interval + interval.mul_f64(rng.f64());
        let (probe_tick, gossip_tick) = (tick(rules.probe_interval), tick(rules.gossip_interval));
        let push_pull_at = tick(rules.push_pull_interval);
        let mut member = Self {
            me,
            rng,
            rules: rules.clone(),
            incarnation: 1,
            sequence: 0,
            awareness: 0,
            members: BTreeMap::new(),
            order: vec![me],
            next: 0,
            probe: None,
            relays: BTreeMap::new(),
            queue: Queue::default(),
            probe_tick,
            gossip_tick,
            push_pull_at,
            transmits: VecDeque::new(),
            notices: VecDeque::new(),
        };
        let state = State::Alive;
        member.members.insert(
            me,
            Member {
                incarnation: 1,
                state,
                changed: now,
                suspicion: None,
            },
        );
        member.broadcast_alive(me, 1);
        member
    }

    fn join(&mut self, _: Instant, seeds: &[SocketAddr]) {
        let me = address(self.me);
        for seed in seeds.iter().filter(|seed| **seed != me) {
            let rows = self.rows();
            self.send(
                Route::Link(*seed),
                &[Message::PushPull {
                    answer: false,
                    rows,
                }],
            );
        }
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, frame: &[u8]) {
        self.handle(now, Route::Datagram(from), frame);
    }

    fn handle_link(&mut self, now: Instant, link: LinkId, frame: &[u8]) {
        self.handle(now, Route::Reply(link), frame);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.end_relays(now);
        self.end_suspicions(now);
        self.step_probe(now);
        if self.gossip_tick <= now {
            self.gossip_tick = next_tick(self.gossip_tick, self.rules.gossip_interval, now);
            self.gossip(now);
        }
        if self.push_pull_at <= now {
            self.push_pull(now);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let probe = match &self.probe {
            Some(probe) => probe.helpers_at.unwrap_or(probe.deadline),
            None => self.probe_tick,
        };
        let suspicions = self.members.values().filter_map(|m| m.suspicion.as_ref());
        let suspicions = suspicions.map(Suspicion::deadline);
        let relays = self.relays.values().map(|relay| relay.deadline);
        let ticks = [probe, self.gossip_tick, self.push_pull_at];
        ticks.into_iter().chain(suspicions).chain(relays).min()
    }

    fn others(&self) -> usize {
        let present = |member: &&Member| member.state != State::Dead;
        self.members.values().filter(present).count() - 1
    }

    fn digest(&self) -> u64 {
        self.others() as u64
    }

    fn bytes_sent(&self) -> Option<u64> {
        None
    }
}

impl Memberlist {
    fn handle(&mut self, now: Instant, route: Route, mut frame: &[u8]) {
        while let Some(message) = Message::decode(&mut frame) {
            match message {
                Message::Ping { sequence, target } if target == self.me => {
                    self.send_filled(route, Message::Ack { sequence });
                }
                Message::Ping { .. } => {}
                Message::Ack { sequence } => self.handle_ack(now, route, sequence),
                Message::Nack { sequence } => {
                    if let Some(probe) = self.probe.as_mut().filter(|p| p.sequence == sequence) {
                        probe.nacks += 1;
                    }
                }
                Message::IndirectPing { sequence, target } => {
                    self.relay(now, route, sequence, target);
                }
                Message::Alive {
                    member,
                    incarnation,
                } => self.hear_alive(now, member, incarnation),
                Message::Suspect {
                    member,
                    incarnation,
                    from,
                } => self.suspect(now, member, incarnation, from),
                Message::Dead {
                    member,
                    incarnation,
                    from,
                } => self.bury(now, member, incarnation, from),
                Message::PushPull { answer, rows } => {
                    if !answer {
                        let rows = self.rows();
                        self.send(route, &[Message::PushPull { answer: true, rows }]);
                    }
                    self.merge(now, &rows);
                }
            }
        }
    }

    // Probing.

    fn step_probe(&mut self, now: Instant) {
        if let Some(mut probe) = self.probe.take() {
            if probe.helpers_at.is_some_and(|at| at <= now) && probe.deadline > now {
                self.ask_helpers(&mut probe);
            }
            if probe.deadline > now {
                self.probe = Some(probe);
                return;
            }
            self.end_probe(now, &probe);
        }
        if self.probe_tick <= now {
            self.probe_tick = next_tick(self.probe_tick, self.rules.probe_interval, now);
            self.start_probe(now);
        }
    }

    fn start_probe(&mut self, now: Instant) {
        let Some(target) = self.next_target(now) else {
            return;
        };
        let member = &self.members[&target];
        let (incarnation, state) = (member.incarnation, member.state);
        self.sequence += 1;
        let sequence = self.sequence;
        self.probe = Some(Probe {
            target,
            incarnation,
            sequence,
            helpers_at: Some(now + self.rules.probe_timeout),
            deadline: now + self.rules.probe_interval * (self.awareness + 1),
            helpers: 0,
            nacks: 0,
            contacted: false,
        });
        let (route, ping) = (
            Route::Datagram(address(target)),
            Message::Ping { sequence, target },
        );
        if state == State::Alive {
            self.send_filled(route, ping);
        } else {
            let told = Message::Suspect {
                member: target,
                incarnation,
                from: self.me,
            };
            self.send(route, &[ping, told]);
        }
    }

    fn next_target(&mut self, now: Instant) -> Option<MemberId> {
        for _ in 0..=self.order.len() {
            if self.next >= self.order.len() {
                self.forget_dead(now);
                self.rng.shuffle(&mut self.order);
                self.next = 0;
            }
            let id = *self.order.get(self.next)?;
            self.next += 1;
            if id != self.me && self.members[&id].state != State::Dead {
                return Some(id);
            }
        }
        None
    }

    fn ask_helpers(&mut self, probe: &mut Probe) {
        probe.helpers_at = None;
        let (sequence, target) = (probe.sequence, probe.target);
        let alive = |id: MemberId, member: &Member| id != target && member.state == State::Alive;
        for helper in self.sample(self.rules.indirect_checks, alive) {
            probe.helpers += 1;
            let request = Message::IndirectPing { sequence, target };
            self.send_filled(Route::Datagram(address(helper)), request);
        }
        self.send(
            Route::Link(address(target)),
            &[Message::Ping { sequence, target }],
        );
    }

    fn handle_ack(&mut self, now: Instant, route: Route, sequence: u32) {
        if let Some(probe) = self.probe.as_mut().filter(|p| p.sequence == sequence) {
            if matches!(route, Route::Reply(_)) {
                probe.contacted = true;
            } else if now <= probe.deadline {
                self.probe = None;
                self.awareness = self.awareness.saturating_sub(1);
            }
        } else if let Some(relay) = self.relays.remove(&sequence) {
            let sequence = relay.sequence;
            self.send_filled(relay.origin, Message::Ack { sequence });
        }
    }

    fn end_probe(&mut self, now: Instant, probe: &Probe) {
        if probe.contacted {
            self.awareness = self.awareness.saturating_sub(1);
            return;
        }
        let penalty = match probe.helpers {
            0 => 1,
            helpers => helpers.saturating_sub(probe.nacks),
        };
        self.degrade(penalty);
        self.suspect(now, probe.target, probe.incarnation, self.me);
    }

    fn relay(&mut self, now: Instant, origin: Route, sequence: u32, target: MemberId) {
        self.sequence += 1;
        let relay = Relay {
            origin,
            sequence,
            deadline: now + self.rules.probe_timeout,
        };
        self.relays.insert(self.sequence, relay);
        let ping = Message::Ping {
            sequence: self.sequence,
            target,
        };
        self.send_filled(Route::Datagram(address(target)), ping);
    }

    fn end_relays(&mut self, now: Instant) {
        let over = self
            .relays
            .iter()
            .filter(|(_, relay)| relay.deadline <= now);
        for sequence in over.map(|(sequence, _)| *sequence).collect::<Vec<_>>() {
            if let Some(Relay {
                origin, sequence, ..
            }) = self.relays.remove(&sequence)
            {
                self.send_filled(origin, Message::Nack { sequence });
            }
        }
    }

    // The member table.

    fn hear_alive(&mut self, now: Instant, id: MemberId, incarnation: u32) {
        if id == self.me {
            if incarnation > self.incarnation {
                self.refute(incarnation);
            }
            return;
        }
        if !self.members.contains_key(&id) {
            // At a random place, so that nobody waits longest for being new.
            let at = self.rng.usize(..self.order.len());
            self.order.push(id);
            let last = self.order.len() - 1;
            self.order.swap(at, last);
            self.members.insert(
                id,
                Member {
                    incarnation: 0,
                    state: State::Dead,
                    changed: now,
                    suspicion: None,
                },
            );
        }
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if incarnation <= member.incarnation {
            return;
        }
        member.suspicion = None;
        member.incarnation = incarnation;
        if member.state != State::Alive {
            member.state = State::Alive;
            member.changed = now;
            self.notices.push_back(notice(id, Standing::Alive));
        }
        self.broadcast_alive(id, incarnation);
    }

    fn suspect(&mut self, now: Instant, id: MemberId, incarnation: u32, from: MemberId) {
        let known = self.order.len();
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if incarnation < member.incarnation {
            return;
        }
        let message = Message::Suspect {
            member: id,
            incarnation,
            from,
        };
        if let Some(suspicion) = &mut member.suspicion {
            if suspicion.confirm(from) {
                self.queue.add(id, message);
            }
            return;
        }
        if member.state != State::Alive {
            return;
        }
        if id == self.me {
            self.refute(incarnation);
            return;
        }
        member.incarnation = incarnation;
        member.state = State::Suspect;
        member.changed = now;
        let awaited = self.rules.confirmations(known);
        let shortest = self.rules.shortest_suspicion(known);
        let longest = self.rules.longest_suspicion(known);
        member.suspicion = Some(Suspicion::new(now, from, awaited, shortest, longest));
        self.notices.push_back(notice(id, Standing::Suspect));
        self.queue.add(id, message);
    }

    fn bury(&mut self, now: Instant, id: MemberId, incarnation: u32, from: MemberId) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if incarnation < member.incarnation {
            return;
        }
        member.suspicion = None;
        if member.state == State::Dead {
            return;
        }
        if id == self.me {
            self.refute(incarnation);
            return;
        }
        member.incarnation = incarnation;
        member.state = State::Dead;
        member.changed = now;
        self.notices.push_back(notice(id, Standing::Dead));
        self.queue.add(
            id,
            Message::Dead {
                member: id,
                incarnation,
                from,
            },
        );
    }

    fn end_suspicions(&mut self, now: Instant) {
        let over = |member: &Member| {
            let suspicion = member.suspicion.as_ref();
            suspicion.is_some_and(|suspicion| suspicion.deadline() <= now)
        };
        let convicted = self.members.iter().filter(|(_, member)| over(member));
        let convicted: Vec<_> = convicted.map(|(id, m)| (*id, m.incarnation)).collect();
        for (id, incarnation) in convicted {
            self.bury(now, id, incarnation, self.me);
        }
    }

    fn refute(&mut self, accused: u32) {
        self.incarnation = self.incarnation.max(accused) + 1;
        if let Some(me) = self.members.get_mut(&self.me) {
            me.incarnation = self.incarnation;
        }
        self.degrade(1);
        self.broadcast_alive(self.me, self.incarnation);
    }

    fn degrade(&mut self, by: u32) {
        self.awareness = (self.awareness + by).min(self.rules.awareness_multiplier - 1);
    }

    fn forget_dead(&mut self, now: Instant) {
        let told = self.rules.gossip_to_the_dead;
        let members = &mut self.members;
        self.order.retain(|id| {
            let kept = members
                .get(id)
                .is_some_and(|member| member.state != State::Dead || now - member.changed <= told);
            if !kept {
                members.remove(id);
            }
            kept
        });
    }

    // Spreading.

    fn gossip(&mut self, now: Instant) {
        let (me, told) = (self.me, self.rules.gossip_to_the_dead);
        let heard = |id: MemberId, member: &Member| {
            let lately = now - member.changed <= told;
            id != me && (member.state != State::Dead || lately)
        };
        for target in self.sample(self.rules.gossip_nodes, heard) {
            let messages = self.take(PACKET_BYTES - COMPOUND_HEADER_BYTES);
            if messages.is_empty() {
                return;
            }
            self.send(Route::Datagram(address(target)), &messages);
        }
    }

    fn push_pull(&mut self, now: Instant) {
        self.push_pull_at = now + self.rules.push_pull_interval(self.order.len());
        let partner = self.sample(1, |_, member| member.state == State::Alive);
        if let Some(partner) = partner.first() {
            self.join(now, &[address(*partner)]);
        }
    }

    fn merge(&mut self, now: Instant, rows: &[Row]) {
        for (id, incarnation, state) in rows {
            match state {
                State::Alive => self.hear_alive(now, *id, *incarnation),
                State::Suspect | State::Dead => self.suspect(now, *id, *incarnation, self.me),
            }
        }
    }

    fn rows(&self) -> Vec<Row> {
        let rows = self.members.iter();
        rows.map(|(id, member)| (*id, member.incarnation, member.state))
            .collect()
    }

    fn broadcast_alive(&mut self, member: MemberId, incarnation: u32) {
        let alive = Message::Alive {
            member,
            incarnation,
        };
        self.queue.add(member, alive);
    }

    fn take(&mut self, space: usize) -> Vec<Message> {
        self.queue
            .take(space, self.rules.transmits(self.order.len()))
    }

    /// Up to `count` others that meet a condition.
    fn sample(
        &mut self,
        count: usize,
        condition: impl Fn(MemberId, &Member) -> bool,
    ) -> Vec<MemberId> {
        let mut sampled = Vec::new();
        for _ in 0..3 * self.order.len() {
            let id = self.order[self.rng.usize(..self.order.len())];
            if id != self.me && !sampled.contains(&id) && condition(id, &self.members[&id]) {
                sampled.push(id);
                if sampled.len() == count {
                    break;
                }
            }
        }
        sampled
    }

    /// Sends a message with as many broadcasts as fit behind it.
    fn send_filled(&mut self, route: Route, message: Message) {
        let overhead = 2 * COMPOUND_HEADER_BYTES + message.nominal_bytes();
        let mut messages = vec![message];
        if matches!(route, Route::Datagram(_)) {
            messages.extend(self.take(PACKET_BYTES - overhead));
        }
        self.send(route, &messages);
    }

    fn send(&mut self, route: Route, messages: &[Message]) {
        let mut frame = Vec::new();
        for message in messages {
            message.encode(&mut frame);
        }
        self.transmits.push_back(Transmit { route, frame });
    }
}

fn address(id: MemberId) -> SocketAddr {
    HostId(id as usize).address()
}

fn notice(id: MemberId, standing: Standing) -> Notice {
    Notice::Member(HostId(id as usize), standing)
}

/// The first tick of a ticker after `now`: it drops those that nobody read.
fn next_tick(last: Instant, interval: Duration, now: Instant) -> Instant {
    let mut next = last + interval;
    while next <= now {
        next += interval;
    }
    next
}
