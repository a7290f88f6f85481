//! Suspicion: how long a silent member has to refute (SWIM section 4.2; Lifeguard, Dadgar et al.,
//! DSN-W 2018: the time shrinks with every independent accuser).

use std::time::{Duration, Instant};

use crate::wire::limits::ACCUSERS_MAX;

/// The longest suspicion is this many times the shortest (memberlist's `SuspicionMaxTimeoutMult`).
const LONGEST_TO_SHORTEST: u32 = 6;

/// Shortest suspicion where no packets are lost, in probe intervals.
const CLEAN_INTERVALS: f64 = 1.5;

/// A suspicion that is running, or the one a member died of.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    started: Instant,
    shortest: Duration,
    /// Accusers beyond the first that make the time the shortest; 0 where there aren't so many
    /// members who could.
    awaited: usize,
    /// Those who were refused first, then the others.
    accusers: Vec<u64>,
    refused: usize,
    /// Since when the suspect is challenged, and how often it was.
    challenged: Option<Instant>,
    challenges: u32,
}

impl Suspicion {
    /// Starts with nobody accusing.
    pub(super) fn new(now: Instant, shortest: Duration, awaited: usize) -> Self {
        Self {
            started: now,
            shortest,
            awaited,
            accusers: Vec::new(),
            refused: 0,
            challenged: None,
            challenges: 0,
        }
    }

    /// The shortest time in a cluster of `members`. Where nothing is lost, [`CLEAN_INTERVALS`] probe
    /// intervals: several members have pinged and knocked by then, and a refutation takes
    /// milliseconds. Where much is lost (`doubt` 1), `multiplier` intervals times log10 of the size,
    /// as in memberlist: the refutation must have reached everybody.
    pub(super) fn shortest(
        multiplier: u32,
        members: usize,
        probe_interval: Duration,
        doubt: f64,
    ) -> Duration {
        // f64 from a count is exact far beyond any cluster.
        let lossy = f64::from(multiplier) * (members.max(1) as f64).log10().max(1.0);
        let extra = (lossy - CLEAN_INTERVALS).max(0.0);
        probe_interval.mul_f64(CLEAN_INTERVALS + extra * doubt)
    }

    /// Makes the shortest time at least this: the network has turned out worse meanwhile.
    pub(super) fn extend(&mut self, shortest: Duration) {
        self.shortest = self.shortest.max(shortest);
    }

    /// The time without any second accuser.
    pub(super) fn longest(shortest: Duration) -> Duration {
        shortest * LONGEST_TO_SHORTEST
    }

    /// Adds an accuser; answers whether that is news.
    pub(super) fn accuse(&mut self, accuser: u64, refused: bool) -> bool {
        match self.accusers.iter().position(|known| *known == accuser) {
            Some(at) if refused && at >= self.refused => {
                self.accusers.swap(at, self.refused);
                self.refused += 1;
                true
            }
            Some(_) => false,
            None if self.accusers.len() >= ACCUSERS_MAX && !refused => false,
            None => {
                self.accusers.truncate(ACCUSERS_MAX - 1);
                if refused {
                    self.accusers
                        .insert(self.refused.min(self.accusers.len()), accuser);
                    self.refused = (self.refused + 1).min(self.accusers.len());
                } else {
                    self.accusers.push(accuser);
                }
                true
            }
        }
    }

    /// Who accuses, and how many of them, the first ones, were refused.
    pub(super) fn accusers(&self) -> (Vec<u64>, usize) {
        (self.accusers.clone(), self.refused)
    }

    /// Whether this member has found it silent.
    pub(super) fn is_by(&self, accuser: u64) -> bool {
        self.accusers.contains(&accuser)
    }

    /// How many were refused by the member's host: each has seen for itself that the process is
    /// gone.
    pub(super) fn refused(&self) -> usize {
        self.refused
    }

    /// Since when it runs.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Since when the suspect is challenged.
    pub(super) fn challenged(&self) -> Option<Instant> {
        self.challenged
    }

    /// Notes a challenge; answers how many there have been.
    pub(super) fn challenge(&mut self, now: Instant) -> u32 {
        self.challenged.get_or_insert(now);
        self.challenges += 1;
        self.challenges
    }

    /// Gives the whole time again.
    pub(super) fn restart(&mut self, now: Instant) {
        self.started = now;
        self.challenged = None;
    }

    /// When it ends.
    pub(super) fn deadline(&self) -> Instant {
        self.started + self.time()
    }

    fn time(&self) -> Duration {
        if self.awaited == 0 {
            return self.shortest;
        }
        let longest = Self::longest(self.shortest);
        let confirmed = self.accusers.len().saturating_sub(1).min(self.awaited);
        // Small counts: exact.
        let share = (confirmed as f64 + 1.0).ln() / (self.awaited as f64 + 1.0).ln();
        longest - (longest - self.shortest).mul_f64(share.min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn independent_accusers_shorten_the_time() {
        let now = Instant::now();
        let mut suspicion = Suspicion::new(now, Duration::from_secs(4), 2);
        assert!(suspicion.accuse(1, false));
        assert_eq!(suspicion.time(), Duration::from_secs(24));
        assert!(!suspicion.accuse(1, false), "the same accuser is no news");
        assert!(suspicion.accuse(2, false));
        let middle = suspicion.time();
        assert!(middle < Duration::from_secs(24) && middle > Duration::from_secs(4));
        assert!(suspicion.accuse(3, false));
        assert_eq!(suspicion.time(), Duration::from_secs(4));
    }

    #[test]
    fn who_was_refused_stands_first() {
        let mut suspicion = Suspicion::new(Instant::now(), Duration::from_secs(4), 2);
        for accuser in 1..=20 {
            suspicion.accuse(accuser, false);
        }
        assert!(suspicion.accuse(2, true) && suspicion.accuse(99, true));
        assert!(!suspicion.accuse(99, true));
        let (accusers, refused) = suspicion.accusers();
        assert_eq!(
            (&accusers[..2], refused, accusers.len()),
            (&[2, 99][..], 2, ACCUSERS_MAX)
        );
    }

    #[test]
    fn the_time_grows_with_the_cluster_and_its_losses() {
        let second = Duration::from_secs(1);
        assert_eq!(Suspicion::shortest(4, 5, second, 1.0), 4 * second);
        assert_eq!(Suspicion::shortest(4, 100, second, 1.0), 8 * second);
        assert_eq!(Suspicion::shortest(4, 100, second, 0.0), second * 3 / 2);
    }
}
