//! One running member: an engine, its clock, and as much of the driver as decides when the engine
//! gets to handle what has arrived.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Instance, InstanceKey, ServiceName};
use tidings_gossip::engine::{Engine, Identity, LinkFailure, LinkId, QueryKey};

use crate::builds::Build;
use crate::history::ProcessId;
use crate::net::HostId;

/// Datagrams that a socket holds for a process which doesn't read: 208 KiB, Linux' default, of
/// datagrams that the kernel accounts for with about a KiB each.
const SOCKET_DATAGRAMS_MAX: usize = 200;

/// What a process gets to handle.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Datagram(SocketAddr, Arc<[u8]>),
    Link(LinkId, Arc<[u8]>),
    LinkFailure(SocketAddr, LinkFailure),
    /// The other side closed the link to this address: the driver looks why.
    LinkClosed(SocketAddr),
    Seeds(Vec<SocketAddr>),
    /// The application answers a query.
    Answer(QueryKey, Arc<[u8]>),
    Timeout,
}

impl Input {
    /// The input without its bytes, for people.
    pub(crate) fn source(&self) -> String {
        match self {
            Self::Datagram(from, _) => format!("from {from}"),
            Self::Link(link, _) => format!("{link:?}"),
            Self::Answer(..) => "answer".to_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// How fast a process handles what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// At once.
    Normal,
    /// Not at all, as after SIGSTOP.
    Paused,
    /// One input per this time.
    Slow(Duration),
}

/// A process's own clock: steady, a little fast or slow, and at times set forward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    base: Instant,
    ahead: Duration,
    parts_per_million: u32,
}

impl Clock {
    /// A clock that is `ahead` of the world's from the start and gains this much on it.
    pub(crate) fn new(base: Instant, ahead: Duration, parts_per_million: u32) -> Self {
        Self {
            base,
            ahead,
            parts_per_million,
        }
    }

    /// What it shows at a moment of the world.
    pub(crate) fn at(&self, world: Duration) -> Instant {
        self.base + self.ahead + world + world * self.parts_per_million / 1_000_000
    }

    /// The first moment of the world at which it shows `local` or later.
    pub(crate) fn when(&self, local: Instant) -> Duration {
        let shown = local
            .saturating_duration_since(self.base)
            .saturating_sub(self.ahead);
        let gain = f64::from(self.parts_per_million) / 1e6;
        let mut world = shown.div_f64(1.0 + gain);
        while self.at(world) < local {
            world += Duration::from_nanos(100);
        }
        world
    }

    /// Sets it forward.
    pub(crate) fn jump(&mut self, by: Duration) {
        self.ahead += by;
    }
}

/// A running member.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) slot: usize,
    pub(crate) host: HostId,
    pub(crate) build: Build,
    pub(crate) cluster: Arc<str>,
    pub(crate) identity: Identity,
    pub(crate) engine: Engine,
    pub(crate) clock: Clock,
    pub(crate) pace: Pace,
    pub(crate) timer: Option<(Duration, u64)>,
    /// Slow: the next input is being handled already.
    pub(crate) busy: bool,
    pub(crate) leaving: bool,
    pub(crate) joined: bool,
    /// Where its driver keeps links open to.
    pub(crate) kept: Vec<SocketAddr>,
    /// What its application wants to be offered; without what a newer owner took over.
    pub(crate) asked: BTreeMap<InstanceKey, Arc<Instance>>,
    /// What a newer owner took over, as it was.
    pub(crate) superseded: BTreeMap<InstanceKey, Arc<Instance>>,
    /// What its watchers show.
    pub(crate) told: BTreeMap<ServiceName, Vec<Arc<Instance>>>,
    pub(crate) live_told: bool,
    /// How many instances have left what its watchers show.
    pub(crate) vanished: usize,
    /// Whom it has ever taken for dead, by name.
    pub(crate) buried: Vec<Arc<str>>,
    pub(crate) cut_off: bool,
    /// The turns in which it has asked what isn't over, by the queries' ids.
    pub(crate) asking: BTreeMap<u64, u64>,
    inbox: VecDeque<Input>,
    datagrams: usize,
}

impl Process {
    pub(crate) fn new(
        (id, slot, host): (ProcessId, usize, HostId),
        build: Build,
        cluster: Arc<str>,
        engine: Engine,
        clock: Clock,
    ) -> Self {
        Self {
            id,
            slot,
            host,
            build,
            cluster,
            identity: engine.identity().clone(),
            clock,
            pace: Pace::Normal,
            timer: None,
            busy: false,
            leaving: false,
            joined: false,
            kept: Vec::new(),
            asked: BTreeMap::new(),
            superseded: BTreeMap::new(),
            vanished: 0,
            buried: Vec::new(),
            told: BTreeMap::new(),
            live_told: engine.freshness().is_live(),
            engine,
            cut_off: false,
            asking: BTreeMap::new(),
            inbox: VecDeque::new(),
            datagrams: 0,
        }
    }

    /// The keys that its watchers show.
    pub(crate) fn shows(&self) -> Vec<InstanceKey> {
        let all = self.told.values().flatten();
        all.map(|instance| instance.key().clone()).collect()
    }

    /// Whether its watchers are told that the view is live.
    pub(crate) fn is_live(&self) -> bool {
        self.live_told
    }

    /// Whether an input can be handled the moment it arrives.
    pub(crate) fn is_ready(&self) -> bool {
        self.pace == Pace::Normal && self.inbox.is_empty()
    }

    /// Keeps an input for later; `false` where the socket is full and drops it.
    pub(crate) fn keep(&mut self, input: Input) -> bool {
        if matches!(input, Input::Datagram(..)) {
            if self.datagrams >= SOCKET_DATAGRAMS_MAX {
                return false;
            }
            self.datagrams += 1;
        }
        self.inbox.push_back(input);
        true
    }

    /// Whether its timer has gone off and waits to be handled.
    pub(crate) fn timeout_waits(&self) -> bool {
        self.inbox
            .iter()
            .any(|input| matches!(input, Input::Timeout))
    }

    /// What was kept first.
    pub(crate) fn next_input(&mut self) -> Option<Input> {
        let input = self.inbox.pop_front()?;
        if matches!(input, Input::Datagram(..)) {
            self.datagrams -= 1;
        }
        Some(input)
    }

    /// After a pause the timer and the sockets are ready at once, and either may come first.
    pub(crate) fn timeout_first(&mut self) {
        if let Some(at) = self.inbox.iter().position(|i| matches!(i, Input::Timeout)) {
            self.inbox.remove(at);
            self.inbox.push_front(Input::Timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_when_the_clock_shows_it() {
        let base = Instant::now();
        for parts_per_million in [0, 1, 37, 500] {
            let clock = Clock::new(base, Duration::from_millis(77), parts_per_million);
            for nanos in [0, 1, 999, 1_000_000_007, 90_000_000_000_001] {
                let local = clock.at(Duration::from_nanos(nanos));
                let when = clock.when(local);
                assert!(clock.at(when) >= local);
                assert!(when <= Duration::from_nanos(nanos + 1_000));
            }
        }
    }
}
