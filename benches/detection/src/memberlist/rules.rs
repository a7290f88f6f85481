//! memberlist's settings and the formulas on them, as its documentation states them.

use std::time::Duration;

/// A push/pull comes every interval up to this many members, and less often beyond.
const PUSH_PULL_SCALE: f64 = 32.0;

/// What memberlist calls `Config`, as far as it plays a part here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(super) probe_interval: Duration,
    pub(super) probe_timeout: Duration,
    pub(super) indirect_checks: usize,
    pub(super) suspicion_multiplier: u32,
    /// The longest suspicion is this many times the shortest.
    pub(super) suspicion_longest: u32,
    pub(super) retransmit_multiplier: u32,
    pub(super) gossip_interval: Duration,
    pub(super) gossip_nodes: usize,
    pub(super) gossip_to_the_dead: Duration,
    pub(super) push_pull_interval: Duration,
    /// Local health stays below this.
    pub(super) awareness_multiplier: u32,
    /// How long a connection may take to open.
    pub(super) tcp_timeout: Duration,
}

impl Rules {
    /// `DefaultLANConfig`.
    pub(crate) const LAN: Self = Self {
        probe_interval: Duration::from_secs(1),
        probe_timeout: Duration::from_millis(500),
        indirect_checks: 3,
        suspicion_multiplier: 4,
        suspicion_longest: 6,
        retransmit_multiplier: 4,
        gossip_interval: Duration::from_millis(200),
        gossip_nodes: 3,
        gossip_to_the_dead: Duration::from_secs(30),
        push_pull_interval: Duration::from_secs(30),
        awareness_multiplier: 8,
        tcp_timeout: Duration::from_secs(10),
    };

    /// `DefaultLocalConfig`, with which the model is checked a second time.
    #[cfg(test)]
    pub(crate) const LOCAL: Self = Self {
        probe_timeout: Duration::from_millis(200),
        indirect_checks: 1,
        suspicion_multiplier: 3,
        retransmit_multiplier: 2,
        gossip_interval: Duration::from_millis(100),
        gossip_to_the_dead: Duration::from_secs(15),
        push_pull_interval: Duration::from_secs(15),
        tcp_timeout: Duration::from_secs(1),
        ..Self::LAN
    };

    /// The time of a suspicion that enough others confirm, in a cluster of `members`.
    pub(super) fn shortest_suspicion(&self, members: usize) -> Duration {
        // A count: exact in f64.
        let scale = (members as f64).log10().max(1.0);
        (self.probe_interval * self.suspicion_multiplier).mul_f64(scale)
    }

    /// The time of a suspicion that nobody confirms.
    pub(super) fn longest_suspicion(&self, members: usize) -> Duration {
        self.shortest_suspicion(members) * self.suspicion_longest
    }

    /// How many confirmations make the time the shortest; none where there aren't so many others.
    pub(super) fn confirmations(&self, members: usize) -> usize {
        let wanted = self.suspicion_multiplier.saturating_sub(2) as usize;
        if members < wanted + 2 { 0 } else { wanted }
    }

    /// How often a message is sent.
    pub(super) fn transmits(&self, members: usize) -> u32 {
        self.retransmit_multiplier * (members as f64 + 1.0).log10().ceil() as u32
    }

    /// The time between two exchanges of the whole table.
    pub(super) fn push_pull_interval(&self, members: usize) -> Duration {
        let slower = ((members as f64).log2() - PUSH_PULL_SCALE.log2()).ceil();
        self.push_pull_interval * (slower.max(0.0) as u32 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspicion_takes_4_log10_of_the_members_and_at_most_six_times_that() {
        let shortest = |members| Rules::LAN.shortest_suspicion(members).as_millis();
        let expected = [
            (1, 4_000),
            (5, 4_000),
            (10, 4_000),
            (25, 5_591),
            (50, 6_795),
            (100, 8_000),
            (1_000, 12_000),
            (10_000, 16_000),
        ];
        for (members, millis) in expected {
            assert_eq!(shortest(members), millis, "{members} members");
            let longest = Rules::LAN.longest_suspicion(members);
            assert_eq!(longest, Rules::LAN.shortest_suspicion(members) * 6);
        }
        assert_eq!(Rules::LOCAL.shortest_suspicion(100).as_secs(), 6);
    }

    #[test]
    fn two_confirmations_are_awaited_where_there_are_two_who_could() {
        let found = [2, 3, 4, 100].map(|members| Rules::LAN.confirmations(members));
        assert_eq!(found, [0, 0, 2, 2]);
        assert_eq!(Rules::LOCAL.confirmations(100), 1);
    }

    #[test]
    fn a_message_is_sent_4_times_log10_rounded_up() {
        let found = [5, 9, 10, 99, 100, 1_000].map(|members| Rules::LAN.transmits(members));
        assert_eq!(found, [4, 4, 8, 8, 12, 16]);
    }

    #[test]
    fn exchanges_slow_down_beyond_32_members() {
        let every = |members| Rules::LAN.push_pull_interval(members).as_secs();
        assert_eq!(
            [1, 32, 33, 64, 65, 100].map(every),
            [30, 30, 60, 60, 90, 90]
        );
    }
}
