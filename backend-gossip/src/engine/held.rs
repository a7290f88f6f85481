//! Records that are held back.
//!
//! Who had lost a member still has its records, as they were. When the member is back they must not
//! be shown before this member knows what was changed or deregistered meanwhile: an instance would
//! come back that is gone for everybody else (WAT-3). The member says how far its records go when it
//! refutes its death, so that nothing is held where nothing was changed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Engine;
use super::timer::Timer;

/// Longest time records are held: a sync takes a few round trips, and where it fails what is known
/// is better than nothing.
const HOLD_MAX: Duration = Duration::from_secs(1);

/// Whose records are held, until which version of theirs has come, or until when.
#[derive(Debug, Default)]
pub(super) struct Held {
    owners: BTreeMap<u64, (u64, Instant)>,
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

    /// Whether this version of a record is what is waited for.
    pub(super) fn awaits(&self, owner: u64, version: u64) -> bool {
        let awaited = self.owners.get(&owner);
        awaited.is_some_and(|(awaited, _)| version >= *awaited)
    }

    /// Waits for nothing of this member any more.
    pub(super) fn remove(&mut self, owner: u64) {
        self.owners.remove(&owner);
    }
}

impl Engine {
    /// Holds what is known of a member that is back, where it has changed something meanwhile, and
    /// asks for that.
    pub(super) fn hold_records(&mut self, now: Instant, id: u64) {
        let Some(member) = self.members.find(id) else {
            return;
        };
        let (address, newest) = (member.address, member.newest);
        let known = self.registry.of(id).map(|(_, stored)| stored.version).max();
        if newest == 0 || known >= Some(newest) {
            return;
        }
        // One sync for all who come back together: who is back knows what the others have changed.
        if self.held.owners.is_empty() {
            self.start_sync(address);
        }
        self.held.owners.insert(id, (newest, now + HOLD_MAX));
        self.timers.set_if_unset(Timer::Held, now + HOLD_MAX);
    }

    /// Shows what is known of a member.
    pub(super) fn release(&mut self, now: Instant, id: u64) {
        self.held.remove(id);
        for key in self.registry.keys_of(id) {
            self.note_changed(id, &key);
            self.check_superseded(now, &key);
        }
    }

    /// Shows what was waited for in vain.
    pub(super) fn release_overdue(&mut self, now: Instant) {
        let overdue = self
            .held
            .owners
            .iter()
            .filter(|(_, (_, until))| *until <= now);
        for id in overdue.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.release(now, id);
        }
        if let Some(next) = self.held.owners.values().map(|(_, until)| *until).min() {
            self.timers.set(Timer::Held, next);
        }
    }
}
