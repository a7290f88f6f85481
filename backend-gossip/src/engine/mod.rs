//! The gossip engine (interface; see the docs below).
//!
//! Run-loop contract: after every input (`handle_*`) and command the caller drains `poll_transmit`
//! and `poll_event` until `None`, then arms one timer for `poll_timeout`. `now` never goes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Freshness, Generation, Health, Instance, InstanceKey, Removal, Result, Selector, ServiceName};

/// Who this member is, for one start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name, unique in the cluster: 1 to 128 of `A-Za-z0-9._:-`.
    pub name: Arc<str>,
    /// Rises at every start of the same name.
    pub generation: Generation,
    /// Where other members reach it, UDP and TCP alike.
    pub address: SocketAddr,
}

/// The engine's knobs, in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    pub cluster: String,
    pub probe_interval: Duration,
    pub probe_timeout: Duration,
    pub indirect_probes: usize,
    pub suspicion_multiplier: u32,
    pub push_delay: Duration,
    pub push_fanout: usize,
    pub gossip_interval: Duration,
    pub gossip_fanout: usize,
    pub retransmit_multiplier: u32,
    pub heal_interval: Duration,
    pub leave_timeout: Duration,
    pub loss_hold: Duration,
    pub tombstone_retention: Duration,
    pub forget_after: Duration,
    pub datagram_bytes: usize,
}

impl Default for EngineConfig {
    fn default() -> Self { todo!() }
}

/// A link (TCP connection) that the driver accepted or opened.
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
    pub route: Route,
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

/// What the application side learns.
#[derive(Clone, Debug)]
pub enum Event {
    /// What `view` answers for this service has changed.
    Changed(ServiceName),
    /// The engine hears the cluster, or no longer does.
    Freshness(Freshness),
    /// The first seed has answered with all it knows (or there are no seeds to ask).
    Joined,
    /// No member is known: resolve the seeds and call `handle_seeds`.
    SeedsWanted,
    /// A newer generation took over this own registration.
    Superseded(InstanceKey),
    /// `leave` is through: enough members have confirmed it, or the time for it is over.
    Left,
    /// A member changed its state.
    Member(MemberChange),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberChange {
    pub member: Identity,
    pub state: MemberState,
}

/// State of a member, in order of precedence within one incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState { Alive, Suspect, Dead, Left }

/// A row of the member table, as shown.
#[derive(Clone, Debug)]
pub struct MemberInfo {
    pub identity: Identity,
    pub state: MemberState,
    pub incarnation: u64,
}

/// Counters (all since start).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub datagrams_in: u64,
    pub datagrams_out: u64,
    pub links_out: u64,
    pub bytes_out: u64,
    /// Frames dropped because they could not be decoded (or are of another cluster).
    pub malformed: u64,
    pub foreign: u64,
    pub refutations: u64,
    pub suspicions: u64,
    pub deaths: u64,
    pub syncs: u64,
    /// Largest number of broadcasts queued at once.
    pub broadcasts_max: usize,
}

#[derive(Debug)]
pub struct Engine {}

impl Engine {
    pub fn new(now: Instant, identity: Identity, config: EngineConfig, rng_seed: u64) -> Self { todo!() }

    // inputs
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) { todo!() }
    pub fn handle_link(&mut self, now: Instant, link: LinkId, bytes: &[u8]) { todo!() }
    pub fn handle_link_failure(&mut self, now: Instant, to: SocketAddr, failure: LinkFailure) { todo!() }
    /// The seeds' addresses, resolved; an empty list says that there are none (start alone).
    pub fn handle_seeds(&mut self, now: Instant, seeds: &[SocketAddr]) { todo!() }
    pub fn handle_timeout(&mut self, now: Instant) { todo!() }

    // commands
    pub fn register(&mut self, now: Instant, instance: Instance) -> Result<InstanceKey> { todo!() }
    pub fn deregister(&mut self, now: Instant, key: &InstanceKey) -> Removal { todo!() }
    pub fn health(&mut self, now: Instant, key: &InstanceKey, health: Health) -> Result<()> { todo!() }
    pub fn leave(&mut self, now: Instant) { todo!() }

    // outputs
    pub fn poll_transmit(&mut self) -> Option<Transmit> { todo!() }
    pub fn poll_event(&mut self) -> Option<Event> { todo!() }
    pub fn poll_timeout(&self) -> Option<Instant> { todo!() }

    // getters
    pub fn identity(&self) -> &Identity { todo!() }
    pub fn incarnation(&self) -> u64 { todo!() }
    /// The visible instances, by key (those of members that are alive or suspect, and of dead ones held).
    pub fn view(&self, selector: &Selector) -> Vec<Arc<Instance>> { todo!() }
    pub fn freshness(&self) -> Freshness { todo!() }
    pub fn members(&self) -> impl Iterator<Item = MemberInfo> + '_ { std::iter::empty() }
    /// Own registrations; `true` where a newer generation took over.
    pub fn registrations(&self) -> impl Iterator<Item = (InstanceKey, bool)> + '_ { std::iter::empty() }
    pub fn digest(&self) -> u64 { todo!() }
    pub fn stats(&self) -> Stats { todo!() }
    /// Bound from a silent crash to its removal, for the cluster as large as it is now.
    pub fn crash_bound(&self) -> Duration { todo!() }
}
