//! Starts that have not proven to be there, and their frames until they do.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{KeyId, StartId};

/// Starts that may be asked at one time: all members of a big cluster that is met at once. Each waits
/// for a round trip only.
const STARTS_MAX: usize = 1_024;
/// Frames of one start that wait: what a member sends to another within a round trip.
const FRAMES_MAX: usize = 4;
/// Longest frame that waits: above every datagram that members send.
const FRAME_BYTES_MAX: usize = 2_048;
/// For so long a frame that waited is of use. Who asked has asked again since, or given up.
const FRESH: Duration = Duration::from_secs(1);

/// Bounded in all that it holds: 8 MiB at most, and only frames that were sealed with a cluster key.
#[derive(Debug, Default)]
pub(super) struct Unproven {
    starts: HashMap<StartId, Waiting>,
    /// In the order in which they were first asked, to make room.
    order: VecDeque<StartId>,
    /// Of the last question; no two have the same.
    number: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    frames: Vec<Held>,
}

/// A frame that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) at: Instant,
    pub(super) from: SocketAddr,
    pub(super) key: KeyId,
    pub(super) counter: u64,
    pub(super) frame: Vec<u8>,
}

impl Unproven {
    /// Holds a frame until its start is proven; answers how many are dropped for it, itself maybe.
    pub(super) fn hold(&mut self, start: StartId, held: Held) -> usize {
        let (waiting, mut dropped) = self.waiting(start);
        if held.frame.len() > FRAME_BYTES_MAX {
            return dropped + 1;
        }
        if waiting.frames.len() >= FRAMES_MAX {
            waiting.frames.remove(0);
            dropped += 1;
        }
        waiting.frames.push(held);
        dropped
    }

    /// The number that a proof has to carry.
    pub(super) fn number(&mut self, start: StartId) -> u64 {
        self.waiting(start).0.number
    }

    /// Takes what waited, where the number is right.
    pub(super) fn prove(&mut self, start: StartId, number: u64) -> Option<Vec<Held>> {
        self.starts
            .get(&start)
            .filter(|waiting| waiting.number == number)?;
        self.order.retain(|other| *other != start);
        self.starts.remove(&start).map(|waiting| waiting.frames)
    }

    /// The entry of a start, and how many frames made room for it.
    fn waiting(&mut self, start: StartId) -> (&mut Waiting, usize) {
        let mut dropped = 0;
        if !self.starts.contains_key(&start) {
            if self.order.len() >= STARTS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                let frames = self.starts.remove(&oldest);
                dropped = frames.map_or(0, |waiting| waiting.frames.len());
            }
            self.order.push_back(start);
        }
        let number = &mut self.number;
        let waiting = self.starts.entry(start).or_insert_with(|| {
            *number += 1;
            Waiting {
                number: *number,
                frames: Vec::new(),
            }
        });
        (waiting, dropped)
    }
}

impl Held {
    /// Whether it still means something.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) <= FRESH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(number: usize) -> StartId {
        StartId((number as u128).to_be_bytes())
    }

    fn held(counter: u64) -> Held {
        Held {
            at: Instant::now(),
            from: ([127, 0, 0, 1], 1).into(),
            key: KeyId([1; 4]),
            counter,
            frame: vec![0; 10],
        }
    }

    #[test]
    fn what_waits_is_bounded_per_start_and_in_all() {
        let mut unproven = Unproven::default();
        let dropped: usize = (0..10).map(|n| unproven.hold(start(0), held(n))).sum();
        assert_eq!(dropped, 10 - FRAMES_MAX);
        for number in 1..2 * STARTS_MAX {
            unproven.hold(start(number), held(1));
        }
        assert_eq!(unproven.starts.len(), STARTS_MAX);
        assert_eq!(unproven.order.len(), STARTS_MAX);
        let long = Held {
            frame: vec![0; FRAME_BYTES_MAX + 1],
            ..held(1)
        };
        assert_eq!(unproven.hold(start(2 * STARTS_MAX - 1), long), 1);
    }

    #[test]
    fn only_the_right_number_proves_and_only_once() {
        let mut unproven = Unproven::default();
        let (one, other) = (unproven.number(start(1)), unproven.number(start(2)));
        assert_ne!(one, other);
        assert_eq!(unproven.number(start(1)), one);
        assert!(unproven.prove(start(1), other).is_none());
        assert!(unproven.prove(start(1), one).is_some());
        assert!(unproven.prove(start(1), one).is_none());
        assert_ne!(unproven.number(start(1)), one);
    }
}
