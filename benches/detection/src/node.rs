//! What the world asks of an engine, and the gossip engine's answer to it.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidings_api::{Generation, Instance};
use tidings_gossip::engine::{
    Engine, EngineConfig, Event, Identity, LinkFailure, LinkId, MemberState, Transmit,
};

use crate::links::CONNECT_TIMEOUT;
use crate::net::HostId;

/// A member as a state machine without clock or sockets, in the shape of the gossip engine.
pub(crate) trait Node: Debug + Send {
    /// What tables and plots call it.
    const NAME: &'static str;
    /// Whether its driver keeps links open and uses them again; otherwise each frame to a new target
    /// takes a connection of its own.
    const LINKS_KEPT: bool;

    /// Its settings.
    type Config: Clone + Debug + Send + Sync;

    /// How long a connection may take to open.
    fn connect_timeout(config: &Self::Config) -> Duration;
    /// A member on this host that knows nobody yet.
    fn start(now: Instant, host: HostId, rng_seed: u64, config: &Self::Config) -> Self;
    /// Makes it join through these.
    fn join(&mut self, now: Instant, seeds: &[SocketAddr]);
    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, frame: &[u8]);
    fn handle_link(&mut self, now: Instant, link: LinkId, frame: &[u8]);
    fn handle_link_failure(&mut self, _: Instant, _: SocketAddr, _: LinkFailure) {}
    fn handle_timeout(&mut self, now: Instant);
    fn poll_transmit(&mut self) -> Option<Transmit>;
    fn poll_notice(&mut self) -> Option<Notice>;
    fn poll_timeout(&self) -> Option<Instant>;
    /// How many others it takes for present.
    fn others(&self) -> usize;
    /// Equal where two know the same, records included.
    fn digest(&self) -> u64;
    /// Bytes sent since the start, without the headers of IP; `None` where its encoding is not real.
    fn bytes_sent(&self) -> Option<u64>;
}

/// What a member says of itself to the world.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    /// Another member has this standing with it now.
    Member(HostId, Standing),
    /// It wants links to these to be kept open.
    Sentinels(Vec<SocketAddr>),
    /// It wants the seeds' addresses again.
    SeedsWanted,
}

/// What one member takes another for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Alive,
    Suspect,
    Dead,
}

impl Node for Engine {
    const NAME: &'static str = "tidings";
    const LINKS_KEPT: bool = true;
    type Config = EngineConfig;

    fn connect_timeout(_: &EngineConfig) -> Duration {
        // The driver's.
        CONNECT_TIMEOUT
    }

    fn start(now: Instant, host: HostId, rng_seed: u64, config: &EngineConfig) -> Self {
        let identity = Identity {
            name: format!("m{}", host.0).into(),
            generation: Generation::new(1_700_000_000_000_000),
            address: host.address(),
        };
        let mut engine = Self::new(now, identity, config.clone(), rng_seed);
        let key = format!("web/m{}", host.0).parse().expect("a valid key");
        let instance = Instance::at(key, "10.1.0.1:80".parse().expect("an address"));
        engine.register(now, instance).expect("the first record");
        engine
    }

    fn join(&mut self, now: Instant, seeds: &[SocketAddr]) {
        self.handle_seeds(now, seeds);
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, frame: &[u8]) {
        self.handle_datagram(now, from, frame);
    }

    fn handle_link(&mut self, now: Instant, link: LinkId, frame: &[u8]) {
        self.handle_link(now, link, frame);
    }

    fn handle_link_failure(&mut self, now: Instant, to: SocketAddr, failure: LinkFailure) {
        self.handle_link_failure(now, to, failure);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.handle_timeout(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.poll_transmit()
    }

    fn poll_notice(&mut self) -> Option<Notice> {
        loop {
            return Some(match self.poll_event()? {
                Event::Member { member, state } => {
                    let standing = match state {
                        MemberState::Alive => Standing::Alive,
                        MemberState::Suspect => Standing::Suspect,
                        MemberState::Dead | MemberState::Left => Standing::Dead,
                    };
                    let Some(host) = HostId::at(member.address) else {
                        continue;
                    };
                    Notice::Member(host, standing)
                }
                Event::Sentinels(addresses) => Notice::Sentinels(addresses),
                Event::SeedsWanted => Notice::SeedsWanted,
                _ => continue,
            });
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.poll_timeout()
    }

    fn others(&self) -> usize {
        let present = |state| state <= MemberState::Suspect;
        self.members().filter(|m| present(m.state)).count() - 1
    }

    fn digest(&self) -> u64 {
        self.digest()
    }

    fn bytes_sent(&self) -> Option<u64> {
        Some(self.stats().bytes_out)
    }
}
