//! Which counters of one sender were heard.

use super::Rejection;

const WORDS: usize = 16;

/// How far a frame may come behind the newest: fifteen words of bits, since the newest one's word is
/// only partly in the past. A sender at its push limit of 1,000 frames a second needs a second for so
/// many; nothing that is reordered comes that late.
pub(crate) const WINDOW_FRAMES: u64 = (WORDS as u64 - 1) * 64;

/// The replay window of one sender: the newest counter, and one bit for each of those behind it (the
/// scheme of RFC 6479, which moves by words).
#[derive(Clone, Debug)]
pub(crate) struct Window {
    newest: u64,
    heard: [u64; WORDS],
}

impl Window {
    /// A window in which `counter` was heard, and nothing else.
    pub(crate) fn new(counter: u64) -> Self {
        let mut window = Self {
            newest: counter,
            heard: [0; WORDS],
        };
        window.mark(counter);
        window
    }

    /// Whether a frame with this counter would be heard for the first time.
    pub(crate) fn check(&self, counter: u64) -> Result<(), Rejection> {
        if counter > self.newest {
            return Ok(());
        }
        if self.newest - counter >= WINDOW_FRAMES {
            return Err(Rejection::Late);
        }
        let (word, bit) = place(counter);
        if self.heard[word] & bit == 0 {
            Ok(())
        } else {
            Err(Rejection::Replayed)
        }
    }

    /// Notes that an authentic frame with this counter was heard; refuses the second.
    pub(crate) fn admit(&mut self, counter: u64) -> Result<(), Rejection> {
        self.check(counter)?;
        if counter > self.newest {
            let passed = (counter / 64 - self.newest / 64).min(WORDS as u64);
            for step in 1..=passed {
                self.heard[place(self.newest / 64 * 64 + step * 64).0] = 0;
            }
            self.newest = counter;
        }
        self.mark(counter);
        Ok(())
    }

    fn mark(&mut self, counter: u64) {
        let (word, bit) = place(counter);
        self.heard[word] |= bit;
    }
}

/// The word that a counter's bit is in, and the bit.
fn place(counter: u64) -> (usize, u64) {
    // Both are remainders: small.
    ((counter / 64 % WORDS as u64) as usize, 1 << (counter % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_counter_is_admitted_once() {
        let mut window = Window::new(1);
        assert_eq!(window.admit(1), Err(Rejection::Replayed));
        for counter in [5, 3, 4, 2, 900, 899, 901] {
            assert_eq!(window.admit(counter), Ok(()), "{counter}");
            assert_eq!(window.admit(counter), Err(Rejection::Replayed), "{counter}");
        }
        assert_eq!(window.admit(901 + 1_000_000), Ok(()));
        assert_eq!(window.admit(901), Err(Rejection::Late));
    }

    #[test]
    fn the_window_survives_reordering_up_to_its_size() {
        // The newest first, then everything behind it, backwards.
        let newest = 10_000;
        let mut window = Window::new(newest);
        for back in 1..WINDOW_FRAMES {
            assert_eq!(window.admit(newest - back), Ok(()), "{back} behind");
        }
        assert_eq!(window.admit(newest - WINDOW_FRAMES), Err(Rejection::Late));
        for back in 0..WINDOW_FRAMES {
            assert_eq!(window.admit(newest - back), Err(Rejection::Replayed));
        }
    }

    #[test]
    fn the_last_counter_there_is_does_no_harm() {
        let mut window = Window::new(u64::MAX - 1);
        assert_eq!(window.admit(u64::MAX), Ok(()));
        assert_eq!(window.admit(u64::MAX), Err(Rejection::Replayed));
    }

    proptest! {
        #[test]
        fn nothing_is_heard_twice_and_nothing_recent_is_missed(
            steps in prop::collection::vec((-1_100_i64..1_100, any::<bool>()), 1..400),
        ) {
            let mut window = Window::new(5_000);
            let (mut heard, mut newest) = (BTreeSet::from([5_000_u64]), 5_000_u64);
            for (step, far) in steps {
                let step = if far { step } else { step / 16 };
                let counter = newest.saturating_add_signed(step);
                let admitted = window.admit(counter);
                let recent = counter > newest || newest - counter < WINDOW_FRAMES;
                prop_assert_eq!(admitted.is_ok(), recent && !heard.contains(&counter));
                if admitted.is_ok() {
                    heard.insert(counter);
                    newest = newest.max(counter);
                }
            }
        }
    }
}
