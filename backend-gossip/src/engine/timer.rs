//! The deadline table: at most one deadline a timer, the earliest one leaves the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The next step of the probe cycle.
    Probe,
    /// The coalesced push of fresh changes.
    Push,
    /// The forwarding of what owners told.
    Forward,
    /// The next round of queued broadcasts.
    Gossip,
    /// A sync with a member whose digest differs.
    Sync,
    /// The next try to join.
    Join,
    /// The next look at what was missed while joining.
    CatchUp,
    /// The next try to reach somebody dead, or a seed.
    Heal,
    /// The next try to have the leave confirmed.
    Leave,
    /// The next change of the links that are kept.
    Sentinels,
    /// The end of waiting for records that are held back.
    Held,
    /// The next round of telling observers.
    Observers,
    /// A comparison of streams with a member whose digest of them differs.
    Streams,
    /// The next question for events that are missing.
    Pull,
    /// The next look at the own queries.
    Queries,
    /// Forgetting of the long dead, pruning of tombstones.
    Housekeeping,
    /// The next step against a suspect.
    Suspicion(u64),
    /// The end of a check, by sequence.
    Check(u64),
}

/// The deadlines.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Instant, Timer)>,
    by_timer: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Sets or moves a deadline.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.cancel(timer);
        self.by_time.insert((at, timer));
        self.by_timer.insert(timer, at);
    }

    /// Sets a deadline unless there is one.
    pub(super) fn set_if_unset(&mut self, timer: Timer, at: Instant) {
        if !self.by_timer.contains_key(&timer) {
            self.set(timer, at);
        }
    }

    /// Sets a deadline unless there is an earlier one.
    pub(super) fn set_earlier(&mut self, timer: Timer, at: Instant) {
        if self.by_timer.get(&timer).is_none_or(|set| at < *set) {
            self.set(timer, at);
        }
    }

    /// Removes a deadline.
    pub(super) fn cancel(&mut self, timer: Timer) {
        if let Some(at) = self.by_timer.remove(&timer) {
            self.by_time.remove(&(at, timer));
        }
    }

    /// Removes all deadlines.
    pub(super) fn clear(&mut self) {
        self.by_time.clear();
        self.by_timer.clear();
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (_, timer) = *self.by_time.first().filter(|(at, _)| *at <= now)?;
        self.cancel(timer);
        Some(timer)
    }
}
