//! The engines, the frames between them, and what their applications have asked for.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tidings_api::{Health, Instance, InstanceKey};
use tidings_gossip::engine::{Engine, LinkFailure, LinkId, Route, Transmit};

use super::laws;
use crate::seeds::{address, engine, instance};

/// Frames that fly at one time; the oldest is lost for one more.
const FLYING_MAX: usize = 256;
/// How often an engine may be woken without time passing.
const WAKES_AT_ONCE_MAX: u32 = 50;
/// How often engines may be woken in one step: far beyond what the longest one asks for.
const WAKES_MAX: u32 = 100_000;
/// Links from here on are those of strangers.
const STRANGERS: u64 = 1_000;

/// Everything there is.
#[derive(Debug)]
pub(super) struct World {
    now: Instant,
    members: Vec<Member>,
    pub(super) flying: VecDeque<Flying>,
}

/// An engine and what its application knows to have asked for.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) engine: Engine,
    pub(super) offered: BTreeMap<InstanceKey, Instance>,
    pub(super) left: bool,
    /// Bytes that it was given: what it holds is no more than a few times that.
    pub(super) given: usize,
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub(super) struct Flying {
    from: usize,
    to: usize,
    carrier: Carrier,
    frame: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Carrier {
    Datagram,
    /// The link that this member opened.
    Link {
        opener: usize,
    },
}

impl World {
    pub(super) fn new(members: usize) -> Self {
        let now = Instant::now();
        let member = |number| Member {
            engine: engine(number, now),
            offered: BTreeMap::new(),
            left: false,
            given: 0,
        };
        Self {
            now,
            members: (0..members as u8).map(member).collect(),
            flying: VecDeque::new(),
        }
    }

    /// Lets time pass and timers end; what flies arrives meanwhile, or doesn't.
    pub(super) fn run(&mut self, time: Duration, arriving: bool) {
        let end = self.now + time;
        let (mut at_once, mut woken) = (0, 0);
        loop {
            if arriving {
                // Answers to answers end sooner or later, or time would not pass for anybody.
                for _ in 0..FLYING_MAX * 16 {
                    if self.flying.is_empty() {
                        break;
                    }
                    self.deliver();
                }
                assert!(self.flying.is_empty(), "members answer each other for ever");
            }
            let due = self
                .members
                .iter()
                .filter_map(|member| member.engine.poll_timeout());
            let Some(due) = due.min().filter(|due| *due <= end) else {
                break;
            };
            at_once = if due > self.now { 0 } else { at_once + 1 };
            woken += 1;
            assert!(
                at_once <= WAKES_AT_ONCE_MAX,
                "woken {at_once} times without time passing"
            );
            assert!(woken <= WAKES_MAX, "woken {woken} times in {time:?}");
            self.now = self.now.max(due);
            self.wake();
        }
        self.now = end;
    }

    /// As if all processes had been stopped for so long.
    pub(super) fn leap(&mut self, time: Duration) {
        self.now += time;
        self.wake();
    }

    /// Ends the timers that are due.
    fn wake(&mut self) {
        let now = self.now;
        for at in 0..self.members.len() {
            if self.members[at]
                .engine
                .poll_timeout()
                .is_some_and(|due| due <= now)
            {
                self.input(at, 0, |engine| engine.handle_timeout(now));
            }
        }
    }

    /// The frame that flies longest arrives.
    pub(super) fn deliver(&mut self) {
        let Some(flying) = self.flying.pop_front() else {
            return;
        };
        let Flying {
            from,
            to,
            carrier,
            frame,
        } = flying;
        let now = self.now;
        self.input(to, frame.len(), |engine| match carrier {
            Carrier::Datagram => engine.handle_datagram(now, address(from as u8), &frame),
            Carrier::Link { opener } => {
                engine.handle_link(now, LinkId(link(opener, from + to - opener)), &frame);
            }
        });
    }

    pub(super) fn double(&mut self) {
        let again = self.flying.front().cloned();
        self.flying.extend(again);
    }

    pub(super) fn damage(&mut self, at: usize, bits: u8) {
        if let Some(flying) = self.flying.front_mut()
            && let Some(at) = at.checked_rem(flying.frame.len())
        {
            flying.frame[at] ^= bits;
        }
    }

    pub(super) fn hear_datagram(&mut self, to: usize, from: u8, frame: &[u8]) {
        let now = self.now;
        self.input(to, frame.len(), |engine| {
            engine.handle_datagram(now, address(from), frame);
        });
    }

    pub(super) fn hear_link(&mut self, to: usize, link: u8, frame: &[u8]) {
        let (now, link) = (self.now, LinkId(STRANGERS + u64::from(link)));
        self.input(to, frame.len(), |engine| {
            engine.handle_link(now, link, frame);
        });
    }

    pub(super) fn fail(&mut self, at: u8, to: u8, failure: LinkFailure) {
        let now = self.now;
        self.input(at.into(), 0, |engine| {
            engine.handle_link_failure(now, address(to), failure);
        });
    }

    pub(super) fn meet(&mut self, at: usize, count: u8) {
        let now = self.now;
        let seeds: Vec<_> = (0..count % 4).map(address).collect();
        self.input(at, 0, |engine| engine.handle_seeds(now, &seeds));
    }

    pub(super) fn register(&mut self, by: usize, instance: Instance) {
        let (now, offered) = (self.now, instance.clone());
        self.command(by, move |member| {
            // The health that was reported stays with the key.
            let instance = match member.offered.get(instance.key()) {
                Some(last) => instance.with_health(last.health().clone()),
                None => instance,
            };
            let given = 16 * 1024;
            let registered = member.engine.register(now, offered);
            if let Ok(key) = registered {
                member.offered.insert(key, instance);
            }
            given
        });
    }

    pub(super) fn deregister(&mut self, by: usize, at: usize) {
        let (now, key) = (self.now, instance(at, 1, 0).key().clone());
        self.command(by, move |member| {
            member.engine.deregister(now, &key);
            member.offered.remove(&key);
            0
        });
    }

    pub(super) fn health(&mut self, by: usize, at: usize, health: &Health) {
        let (now, key) = (self.now, instance(at, 1, 0).key().clone());
        self.command(by, move |member| {
            let reported = member.engine.health(now, &key, health.clone());
            if reported.is_ok()
                && let Some(offered) = member.offered.remove(&key)
            {
                member
                    .offered
                    .insert(key, offered.with_health(health.clone()));
            }
            0
        });
    }

    pub(super) fn tell_seal(&mut self, by: usize, told: &[u8]) {
        let now = self.now;
        let told = &told[..told.len().min(33)];
        self.command(by, |member| {
            member.engine.tell_seal(now, told);
            told.len()
        });
    }

    pub(super) fn leave(&mut self, by: usize) {
        let now = self.now;
        self.command(by, |member| {
            member.left = true;
            member.engine.leave(now);
            0
        });
    }

    /// Holds every engine to its laws.
    pub(super) fn check(&self) {
        self.members.iter().for_each(laws::check);
    }

    /// A command of the application; it gives none after it has left.
    fn command(&mut self, at: usize, command: impl FnOnce(&mut Member) -> usize) {
        let at = at % self.members.len();
        let member = &mut self.members[at];
        if !member.left {
            let given = command(member);
            self.input(at, given, |_| ());
        }
    }

    /// An input, and everything that comes of it.
    fn input(&mut self, at: usize, given: usize, input: impl FnOnce(&mut Engine)) {
        let at = at % self.members.len();
        let member = &mut self.members[at];
        member.given += given;
        input(&mut member.engine);
        let mut sent = Vec::new();
        while let Some(transmit) = member.engine.poll_transmit() {
            sent.push(transmit);
        }
        while member.engine.poll_event().is_some() {}
        laws::check_sent(member, &sent);
        sent.into_iter().for_each(|transmit| self.fly(at, transmit));
    }

    /// Sends a frame on its way, where it is to a member.
    fn fly(&mut self, from: usize, transmit: Transmit) {
        let members = 0..self.members.len();
        let at = |to| {
            members
                .clone()
                .find(|at| address(*at as u8) == to && *at != from)
        };
        let way = match transmit.route {
            Route::Datagram(to) => at(to).map(|to| (to, Carrier::Datagram)),
            Route::Link(to) => at(to).map(|to| (to, Carrier::Link { opener: from })),
            Route::Reply(LinkId(id)) => peer(id, from),
        };
        if let Some((to, carrier)) = way {
            if self.flying.len() >= FLYING_MAX {
                self.flying.pop_front();
            }
            let frame = transmit.frame;
            self.flying.push_back(Flying {
                from,
                to,
                carrier,
                frame,
            });
        }
    }
}

/// The id of the link that one member has opened to another, on both sides.
fn link(opener: usize, acceptor: usize) -> u64 {
    (opener * 16 + acceptor) as u64
}

/// Who is at the other end of a link, and its carrier.
fn peer(id: u64, me: usize) -> Option<(usize, Carrier)> {
    let id = usize::try_from(id)
        .ok()
        .filter(|id| *id < STRANGERS as usize)?;
    let (opener, acceptor) = (id / 16, id % 16);
    let to = if opener == me { acceptor } else { opener };
    Some((to, Carrier::Link { opener }))
}
