//! Records that are held back.
//!
//! Who had lost a member still has its records, as they were. When the member is back they must not
//! be shown before this member knows what was changed or deregistered meanwhile: an instance would
//! come back that is gone for everybody else (WAT-3). The member says how far its records go when it
//! refutes its death, so that nothing is held where nothing was changed.
//!
//! That one of the newer records has come says nothing of the others: what is held is shown at the end of a
//! sync.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Engine;
use super::timer::Timer;

/// Longest time records are held: a sync takes a few round trips, and where it fails what is known
/// is better than nothing.
const HOLD_MAX: Duration = Duration::from_secs(1);

/// Of how many members that are back one is asked each. Of more, as after a partition, those that come back
/// together know of each other what was changed.
const ASKED_MAX: usize = 8;

/// Whose records are held, and what was known of those who are lost.
#[derive(Debug, Default)]
pub(super) struct Held {
    owners: BTreeMap<u64, Awaited>,
    /// The greatest version known of a member when it was lost: of what comes later others may be missing.
    lost: BTreeMap<u64, u64>,
}

/// What is waited for.
#[derive(Debug)]
struct Awaited {
    newest: u64,
    until: Instant,
    /// Whether its owner was asked.
    asked: bool,
}

impl Held {
    /// Whether the records of this member are held.
    pub(super) fn contains(&self, owner: u64) -> bool {
        self.owners.contains_key(&owner)
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Forgets a member, or what was known of a former start of it.
    pub(super) fn remove(&mut self, owner: u64) {
        self.owners.remove(&owner);
        self.lost.remove(&owner);
    }
}

impl Engine {
    /// A member is lost: notes how much of it is known.
    pub(super) fn note_lost(&mut self, id: u64) {
        self.held.owners.remove(&id);
        let known = self.newest_known(id);
        self.held.lost.entry(id).or_insert(known);
    }

    /// Holds what is known of a member that is back, where it has changed something meanwhile or doesn't say,
    /// and asks for that.
    pub(super) fn hold_records(&mut self, now: Instant, id: u64, newest: Option<u64>) {
        let known = self.held.lost.remove(&id);
        let known = known.unwrap_or_else(|| self.newest_known(id));
        let Some(member) = self.members.find(id) else {
            return;
        };
        let address = member.address;
        if newest.is_some_and(|newest| known >= newest) {
            return;
        }
        let asked = self.held.owners.values().filter(|held| held.asked);
        let asked = asked.count() < ASKED_MAX;
        if asked {
            self.start_sync(address);
        }
        let awaited = Awaited {
            newest: newest.unwrap_or(0),
            until: now + HOLD_MAX,
            asked,
        };
        self.held.owners.insert(id, awaited);
        self.timers.set_if_unset(Timer::Held, now + HOLD_MAX);
    }

    fn newest_known(&self, id: u64) -> u64 {
        let versions = self.registry.of(id).map(|(_, stored)| stored.version);
        versions.max().unwrap_or(0)
    }

    /// A sync with a member is through: shows what is known of it, and of those who came back with it.
    pub(super) fn release_synced(&mut self, now: Instant, with: u64) {
        let is_known = |(id, held): &(&u64, &Awaited)| {
            **id == with || !held.asked && self.newest_known(**id) >= held.newest
        };
        let known = self.held.owners.iter().filter(is_known);
        for id in known.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.release(now, id);
        }
    }

    /// Shows what is known of a member.
    fn release(&mut self, now: Instant, id: u64) {
        self.held.owners.remove(&id);
        for key in self.registry.keys_of(id) {
            self.note_changed(id, &key);
            self.check_superseded(now, &key);
        }
    }

    /// Shows what was waited for in vain.
    pub(super) fn release_overdue(&mut self, now: Instant) {
        let overdue = self.held.owners.iter();
        let overdue = overdue.filter(|(_, held)| held.until <= now);
        for id in overdue.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.release(now, id);
        }
        if let Some(next) = self.held.owners.values().map(|held| held.until).min() {
            self.timers.set(Timer::Held, next);
        }
    }
}
