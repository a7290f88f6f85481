//! How long a suspect has: from the longest time down to the shortest with each independent
//! confirmation (Lifeguard's dynamic suspicion timeout).

use std::time::{Duration, Instant};

use super::message::MemberId;

#[derive(Debug)]
pub(super) struct Suspicion {
    started: Instant,
    awaited: usize,
    shortest: Duration,
    longest: Duration,
    /// The first accuser, and who confirmed it.
    from: Vec<MemberId>,
}

impl Suspicion {
    pub(super) fn new(
        now: Instant,
        from: MemberId,
        awaited: usize,
        shortest: Duration,
        longest: Duration,
    ) -> Self {
        Self {
            started: now,
            awaited,
            shortest,
            longest,
            from: vec![from],
        }
    }

    /// Counts a confirmation; answers whether it is news that should be passed on.
    pub(super) fn confirm(&mut self, from: MemberId) -> bool {
        if self.from.len() > self.awaited || self.from.contains(&from) {
            return false;
        }
        self.from.push(from);
        true
    }

    pub(super) fn deadline(&self) -> Instant {
        if self.awaited == 0 {
            return self.started + self.shortest;
        }
        // The first accuser is no confirmation. Small counts: exact.
        let share = (self.from.len() as f64).ln() / (self.awaited as f64 + 1.0).ln();
        let time = self.longest - (self.longest - self.shortest).mul_f64(share);
        self.started + time.max(self.shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmations_shorten_the_time() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let mut suspicion = Suspicion::new(now, 1, 2, seconds(8), seconds(48));
        assert_eq!(suspicion.deadline(), now + seconds(48));
        assert!(!suspicion.confirm(1), "the accuser itself");
        assert!(suspicion.confirm(2));
        assert!(suspicion.deadline() < now + seconds(30));
        assert!(suspicion.confirm(3));
        assert_eq!(suspicion.deadline(), now + seconds(8));
        assert!(!suspicion.confirm(4), "no more are awaited");
    }
}
