//! What is done now and then: members that are long gone are forgotten, and tombstones that are old
//! enough are voided by their owner.

use std::time::{Duration, Instant};

use tidings_api::{Error, ErrorKind, Instance, InstanceKey, Result};

use super::Engine;
use super::items::ItemKey;
use super::member::Member;
use super::registry::Stored;
use super::timer::Timer;
use crate::wire;
use crate::wire::limits::{RECORDS_PER_OWNER_MAX, REGISTRATIONS_MAX};

/// Time between two rounds of forgetting and pruning.
pub(super) const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(10);

/// Time from hearing a raised floor to the loss of the live records below it: long enough for several
/// probes, each of which starts a sync.
const VOID_GRACE: Duration = Duration::from_secs(10);

/// Own tombstones from which on none is kept for long: what others hold of one owner is bounded, and
/// whoever misses a tombstone hears of the floor.
const TOMBSTONES_MANY: usize = (RECORDS_PER_OWNER_MAX - REGISTRATIONS_MAX) / 2;

/// Time between giving live records new versions and voiding all older ones: long enough for the
/// former to be everywhere, if by sync.
const SPREAD_TIME: Duration = Duration::from_secs(10);

/// Entries a queue keeps room for while it holds fewer.
const QUEUE_ROOM: usize = 8;

impl Engine {
    /// Forgets what is long gone, and voids old tombstones.
    pub(super) fn keep_house(&mut self, now: Instant) {
        self.timers
            .set(Timer::Housekeeping, now + HOUSEKEEPING_INTERVAL);
        self.forget_gone(now);
        self.drop_void(now);
        self.prune_tombstones(now);
        self.prune_events(now);
        self.forget_old_queries(now);
        self.give_back_room();
    }

    /// Gives back what queues have grown to: when many join together they hold hundreds of entries for a
    /// moment, and a few from then on.
    fn give_back_room(&mut self) {
        self.transmits.shrink_to(QUEUE_ROOM);
        self.events.shrink_to(QUEUE_ROOM);
        self.orphans.shrink_to(QUEUE_ROOM);
        self.members.give_back_room();
    }

    fn forget_gone(&mut self, now: Instant) {
        let forget_after = self.config.forget_after;
        let gone = |member: &Member| {
            !member.is_present() && now.saturating_duration_since(member.since) > forget_after
        };
        let ids: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| gone(member))
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            self.forget(id);
        }
    }

    pub(super) fn forget(&mut self, id: u64) {
        self.held.remove(id);
        self.drop_records(id);
        self.members.remove(id, &mut self.rng);
        self.items.remove(&ItemKey::Member(id));
        self.broadcasts.remove(&ItemKey::Member(id));
    }

    /// Drops the records that their owners' floors have voided. Not soon after the floor was heard:
    /// the live ones among them have newer versions on the way, and would leave the views until
    /// these arrive.
    pub(super) fn drop_void(&mut self, now: Instant) {
        let is_void = |owner: u64, stored: &Stored| {
            self.members.find(owner).is_some_and(|member| {
                stored.version <= member.floor()
                    && member
                        .floor_heard()
                        .is_some_and(|heard| now.saturating_duration_since(heard) >= VOID_GRACE)
            })
        };
        let records = self.registry.iter();
        let void = records.filter(|(owner, _, stored)| is_void(*owner, stored));
        let void: Vec<_> = void.map(|(owner, key, _)| (owner, key.clone())).collect();
        for (owner, key) in void {
            self.drop_record(owner, &key);
        }
    }

    /// Drops all records that an owner's floor has voided.
    pub(super) fn drop_void_of(&mut self, owner: u64) {
        let floor = self.members.find(owner).map_or(0, Member::floor);
        let void = self.registry.of(owner).filter(|(_, s)| s.version <= floor);
        for key in void.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.drop_record(owner, &key);
        }
    }

    /// Drops the tombstones that an owner's floor has voided: unlike the live records below it they
    /// need not wait for anything, and until they are gone the digests differ.
    pub(super) fn drop_void_tombstones(&mut self, owner: u64) {
        let floor = self.members.find(owner).map_or(0, Member::floor);
        let records = self.registry.of(owner);
        let void = records.filter(|(_, s)| s.version <= floor && s.is_tombstone());
        for key in void.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.drop_record(owner, &key);
        }
    }

    /// Own tombstones that are old enough go in two steps: live records get versions above them,
    /// and when those have had time to spread, the floor is raised.
    fn prune_tombstones(&mut self, now: Instant) {
        if let Some((floor, at)) = self.floor_pending {
            if at <= now {
                self.floor_pending = None;
                self.raise_floor(now, floor);
            }
            return;
        }
        let retention = if self.tombstones() > TOMBSTONES_MANY {
            Duration::ZERO
        } else {
            self.config.tombstone_retention
        };
        let old = |stored: &Stored| {
            let ended = stored.ended();
            ended.is_some_and(|ended| now.saturating_duration_since(ended) > retention)
        };
        let tombstones = self.registry.of(self.me).filter(|(_, stored)| old(stored));
        let Some(floor) = tombstones.map(|(_, stored)| stored.version).max() else {
            return;
        };
        let live = self
            .registry
            .of(self.me)
            .filter(|(_, s)| s.version <= floor);
        let live: Vec<_> = live
            .filter_map(|(key, stored)| Some((key.clone(), stored.content()?)))
            .collect();
        for (key, content) in live {
            self.write(now, &key, Some(content));
        }
        self.floor_pending = Some((floor, now + (retention / 4).max(SPREAD_TIME)));
    }

    /// Own tombstones, about: what is registered has a record each, but for what was superseded.
    pub(super) fn tombstones(&self) -> usize {
        let records = self.registry.count(self.me);
        records.saturating_sub(self.registrations.len())
    }

    /// Whether an own record can be written under a key without growing beyond what others take.
    pub(super) fn has_room_for(&self, key: &InstanceKey) -> bool {
        let known = self.registry.find(self.me, key).is_some();
        known || self.registry.count(self.me) < RECORDS_PER_OWNER_MAX
    }

    /// Refuses an own instance that would take more bytes than others keep.
    pub(super) fn check_bytes_for(&self, instance: &Instance) -> Result<()> {
        let key = instance.key();
        let texts = key.service().as_str().len() + key.id().as_str().len();
        let bytes = texts + wire::content::bytes_of(instance);
        if self.registry.has_room_for(self.me, key, bytes, true) {
            return Ok(());
        }
        let message = "the registrations of this handle take too many bytes together";
        Err(Error::new(ErrorKind::Denied, message))
    }

    pub(super) fn raise_floor(&mut self, now: Instant, floor: u64) {
        let incarnation = self.members.me().incarnation;
        self.raise_word(now, incarnation, |me| me.raise_floor(now, floor));
        self.drop_void_tombstones(self.me);
    }
}
