//! Where a query that waits for changes goes on, and how soon.
//!
//! Consul's rules: an index that goes backwards, as after a restored snapshot, or is none starts
//! over; a query that returns without a change is no reason to hurry; and however fast things
//! change, a client asks at a bounded rate, where a pause merges what happens meanwhile.

use std::time::{Duration, Instant};

use crate::api::Position;
use crate::backoff::{Backoff, jittered};

/// Queries that may follow each other without a pause.
const BURST: f64 = 20.0;
/// The time after which one more may.
const INTERVAL: Duration = Duration::from_millis(25);
/// Longest pause after a query that returned without a change: changes are seen that much later.
pub(crate) const UNCHANGED_PAUSE_MAX: Duration = Duration::from_millis(500);
/// The pause where the answer has no index, so that waiting for a change is impossible.
const NO_INDEX_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Cursor {
    index: u64,
    fingerprint: u64,
    tokens: f64,
    counted: Instant,
    unchanged: Backoff,
}

impl Cursor {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            index: 0,
            fingerprint: 0,
            tokens: BURST,
            counted: now,
            unchanged: Backoff::new(UNCHANGED_PAUSE_MAX),
        }
    }

    /// The next query, which waits up to `wait`; the first one doesn't.
    pub(crate) fn position(&self, wait: Duration) -> Position {
        Position {
            index: self.index,
            wait: jittered(wait),
        }
    }

    /// The next query is answered at once, with everything.
    pub(crate) fn restart(&mut self) {
        self.index = 0;
    }

    /// Takes over the index of an answer and a hash of its content, and says how long to pause.
    pub(crate) fn advance(&mut self, index: u64, fingerprint: u64, now: Instant) -> Duration {
        let first = self.index == 0;
        self.index = if index < self.index { 0 } else { index };
        let changed = std::mem::replace(&mut self.fingerprint, fingerprint) != fingerprint;
        let elapsed = now.saturating_duration_since(self.counted);
        self.counted = now;
        self.tokens += elapsed.div_duration_f64(INTERVAL);
        self.tokens = self.tokens.min(BURST) - 1.0;
        if index == 0 {
            return NO_INDEX_PAUSE;
        }
        if !changed && !first {
            return self.unchanged.next();
        }
        self.unchanged.reset();
        if self.tokens < 0.0 {
            return jittered(INTERVAL.mul_f64(-self.tokens));
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(60);

    #[test]
    fn the_index_goes_on_and_starts_over() {
        let now = Instant::now();
        let mut cursor = Cursor::new(now);
        let mut next = |index| {
            cursor.advance(index, index, now);
            cursor.position(WAIT).index
        };
        assert_eq!(
            [next(5), next(7), next(7), next(3), next(3)],
            [5, 7, 7, 0, 3]
        );
        assert_eq!(next(0), 0);
        assert!(cursor.position(WAIT).wait <= WAIT);
    }

    #[test]
    fn changes_are_followed_at_once_but_not_without_end() {
        let now = Instant::now();
        let mut cursor = Cursor::new(now);
        let pauses: Vec<_> = (1..=40).map(|n| cursor.advance(n, n, now)).collect();
        assert_eq!(pauses[..20], [Duration::ZERO; 20]);
        assert!(pauses[20..].iter().all(|pause| !pause.is_zero()));
        let later = now + Duration::from_secs(60);
        assert_eq!(cursor.advance(41, 41, later), Duration::ZERO);
    }

    #[test]
    fn what_returns_unchanged_is_asked_ever_less() {
        let now = Instant::now();
        let mut cursor = Cursor::new(now);
        let pauses: Vec<_> = (1..=20).map(|n| cursor.advance(n, 1, now)).collect();
        assert!(pauses[19] >= UNCHANGED_PAUSE_MAX / 2);
        assert_eq!(cursor.advance(21, 2, now + WAIT), Duration::ZERO);
        assert!(!cursor.advance(0, 3, now).is_zero());
    }
}
