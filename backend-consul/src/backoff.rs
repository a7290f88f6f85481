//! Pauses between tries, with jitter, so that many clients don't come back at once.

use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(50);

/// Doubles from try to try, up to a cap.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    cap: Duration,
}

impl Backoff {
    pub(crate) fn new(cap: Duration) -> Self {
        Self {
            next: FIRST.min(cap),
            cap,
        }
    }

    /// The pause before the next try: between half of the current length and all of it.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.cap);
        whole / 2 + (whole / 2).mul_f64(fastrand::f64())
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST.min(self.cap);
    }
}

/// Somewhat less than `interval`: 80 to 100 %.
pub(crate) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.8 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_start_again() {
        let cap = Duration::from_secs(1);
        let mut backoff = Backoff::new(cap);
        for _ in 0..20 {
            assert!(backoff.next() <= cap);
        }
        assert!(backoff.next() >= cap / 2);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
        assert!(jittered(cap) >= cap.mul_f64(0.8) && jittered(cap) <= cap);
    }
}
