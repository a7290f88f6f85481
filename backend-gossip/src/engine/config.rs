//! The engine's knobs.

use std::time::Duration;

use crate::wire::Features;

/// How the engine behaves. The defaults suit a data centre; `GossipConfig` exposes what operators
/// have a reason to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Name of the cluster; members of others are not heard. Default `tidings`.
    pub cluster: String,
    /// Time from one probe to the next. Default 1 s. Lower finds crashes sooner and costs more
    /// packets; scaled by local health (Lifeguard).
    pub probe_interval: Duration,
    /// Longest time a direct ping has before helpers are asked; less where answers use to come
    /// sooner. Default 500 ms; below `probe_interval`, and well above the round-trip time.
    pub probe_timeout: Duration,
    /// Members asked to ping on one's behalf. Default 3.
    pub indirect_probes: usize,
    /// How many probe intervals a suspect has to refute where many packets are lost, times log10 of
    /// the cluster size; where none are it has one and a half. Default 4. Lower convicts sooner, and
    /// wrongly when the network is bad.
    pub suspicion_multiplier: u32,
    /// Shortest time between two pushes of fresh changes: what comes up meanwhile goes together.
    /// Default 2 ms.
    pub push_delay: Duration,
    /// Others up to which a member tells its own changes to each of them. Default 128; each forwards
    /// them to two.
    pub tell_all_max: usize,
    /// Members any other fresh change is pushed to. Default 6: each forwards what is new to it once,
    /// which reaches 99.7 % at once; gossip and sync do the rest.
    pub push_fanout: usize,
    /// Time between rounds of queued broadcasts, while there are any. Default 200 ms.
    pub gossip_interval: Duration,
    /// Members sent to in a round. Default 3.
    pub gossip_fanout: usize,
    /// How often a broadcast is sent, times log10 of the cluster size. Default 4.
    pub retransmit_multiplier: u32,
    /// Time between tries to reach a dead member or a seed that is no member. Default 5 s.
    pub heal_interval: Duration,
    /// Longest time a leave waits for being confirmed. Default 500 ms.
    pub leave_timeout: Duration,
    /// How long members that can't be reached stay in the views, marked stale, while most of the
    /// cluster can't be reached but somebody can (WAT-10). Default 5 min. While nobody at all is
    /// heard they stay for as long as that lasts (WAT-4).
    pub loss_hold: Duration,
    /// How long tombstones are kept before their owner voids them for good. Default 10 min.
    pub tombstone_retention: Duration,
    /// How long dead and left members are remembered. Default 24 h.
    pub forget_after: Duration,
    /// Longest datagram in bytes. Default 1,400: passes any path without fragments.
    pub datagram_bytes: usize,
    /// What this member says it understands. Default all that this build does; less makes it speak as
    /// an earlier one.
    pub features: Features,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            cluster: "tidings".to_owned(),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_probes: 3,
            suspicion_multiplier: 4,
            push_delay: Duration::from_millis(2),
            tell_all_max: 128,
            push_fanout: 6,
            gossip_interval: Duration::from_millis(200),
            gossip_fanout: 3,
            retransmit_multiplier: 4,
            heal_interval: Duration::from_secs(5),
            leave_timeout: Duration::from_millis(500),
            loss_hold: Duration::from_secs(300),
            tombstone_retention: Duration::from_secs(600),
            forget_after: Duration::from_secs(24 * 3600),
            datagram_bytes: 1_400,
            features: Features::OURS,
        }
    }
}
