//! How often something may be done that others can provoke.

use std::time::{Duration, Instant};

/// So many at once after a quiet time, then one an interval.
#[derive(Debug)]
pub(super) struct Rate {
    left: u32,
    burst: u32,
    interval: Duration,
    earned: Instant,
}

impl Rate {
    pub(super) fn new(now: Instant, burst: u32, interval: Duration) -> Self {
        Self {
            left: burst,
            burst,
            interval,
            earned: now,
        }
    }

    /// Takes one; answers whether there was one to take.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let intervals =
            now.saturating_duration_since(self.earned).as_nanos() / self.interval.as_nanos();
        let intervals = u32::try_from(intervals).unwrap_or(u32::MAX);
        if intervals >= self.burst - self.left {
            (self.left, self.earned) = (self.burst, now);
        } else {
            self.left += intervals;
            self.earned += self.interval * intervals;
        }
        let any = self.left > 0;
        self.left -= u32::from(any);
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_then_one_an_interval() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut rate = Rate::new(start, 3, second);
        let taken = |rate: &mut Rate, at| (0..10).filter(|_| rate.take(at)).count();
        assert_eq!(taken(&mut rate, start), 3);
        assert_eq!(taken(&mut rate, start + second / 2), 0);
        assert_eq!(taken(&mut rate, start + second * 2), 2);
        assert_eq!(taken(&mut rate, start + second * 5 / 2), 0);
        assert_eq!(taken(&mut rate, start + second * 3), 1);
        assert_eq!(taken(&mut rate, start + second * 1_000), 3);
    }
}
