//! The index over everything that is replicated, by position: what digests and sync work on.
//!
//! An item is a member or a record. Its position is the hash of its identity, its fingerprint the
//! hash of its stamp. Items of members that are dead or have left are *quiet*: kept, but not part of
//! the digest, so that members which forget the dead at different times still agree.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use tidings_api::InstanceKey;

use crate::wire::codec::{hash, mix};
use crate::wire::message::{RangeDigest, Stamp};

/// What stands at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ItemKey {
    /// A member, by id.
    Member(u64),
    /// A record, by place.
    Record(Place),
}

/// Where a record stands. Its key is in the record: here it would be kept a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The hash of owner and key.
    pub(super) position: u64,
    /// Beside it, so that nobody can push a record of somebody else aside by a key of the same hash.
    pub(super) owner: u64,
}

impl Place {
    /// The place of a record: the same on every member.
    pub(super) fn of(owner: u64, key: &InstanceKey) -> Self {
        let position = hash(&[
            b"record",
            &owner.to_be_bytes(),
            key.service().as_str().as_bytes(),
            key.id().as_str().as_bytes(),
        ]);
        Self { position, owner }
    }
}

impl ItemKey {
    /// The item of a record.
    pub(super) fn record(owner: u64, key: &InstanceKey) -> Self {
        Self::Record(Place::of(owner, key))
    }

    /// Whose it is.
    pub(super) fn owner(&self) -> u64 {
        match self {
            Self::Member(id) => *id,
            Self::Record(place) => place.owner,
        }
    }

    /// The position: the same on every member.
    pub(super) fn position(&self) -> u64 {
        match self {
            Self::Member(id) => *id,
            Self::Record(place) => place.position,
        }
    }
}

/// An item as it is kept, by position. There are two a member at least, so that each word counts: its
/// stamp is in the tables.
#[derive(Clone, Copy, Debug)]
struct Item {
    /// The owner of a record; of a member its id, which is the position as well.
    owner: u64,
    /// The share of the digest; 0 while quiet.
    fingerprint: u64,
}

impl Item {
    fn key(self, position: u64) -> ItemKey {
        match self.owner {
            owner if owner == position => ItemKey::Member(owner),
            owner => ItemKey::Record(Place { position, owner }),
        }
    }
}

/// Parts of the whole range whose digests are kept. A sync that splits a range in 16 finds those of
/// its first two steps here, and costs no more in a big registry than in a small one.
const BUCKETS: usize = 256;
/// Number of items from which on they are kept: fewer are summed up as quickly, and the parts would
/// be more memory than the items.
const BUCKETS_WORTH_ITEMS: usize = 1_024;

/// The index. The digest is kept incrementally.
#[derive(Debug, Default)]
pub(super) struct Items {
    by_position: BTreeMap<u64, Item>,
    digest: u64,
    /// The range from its first position to its last, in equal parts; once it is worth it.
    buckets: Option<Box<[Bucket; BUCKETS]>>,
}

/// What there is in one part.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    digest: u64,
    count: u64,
}

impl Bucket {
    fn of(position: u64) -> usize {
        // The first byte.
        usize::from(position.to_be_bytes()[0])
    }

    fn first_position(bucket: usize) -> u64 {
        (bucket as u64) << 56
    }

    fn add(&mut self, fingerprint: u64) {
        self.digest = self.digest.wrapping_add(fingerprint);
        self.count += 1;
    }

    fn subtract(&mut self, fingerprint: u64) {
        self.digest = self.digest.wrapping_sub(fingerprint);
        self.count -= 1;
    }
}

impl Items {
    /// Puts an item in its newest form; answers whether that is another one.
    pub(super) fn put(&mut self, key: ItemKey, stamp: Stamp, quiet: bool) -> bool {
        let position = key.position();
        let owner = match key {
            ItemKey::Member(id) => id,
            ItemKey::Record(place) => place.owner,
        };
        let fingerprint = if quiet {
            0
        } else {
            fingerprint(position, stamp)
        };
        let item = Item { owner, fingerprint };
        let before = self.by_position.insert(position, item);
        self.account(position, before, Some(item));
        if self.buckets.is_none() && self.by_position.len() >= BUCKETS_WORTH_ITEMS {
            self.fill_buckets();
        }
        before.is_none_or(|before| before.fingerprint != fingerprint)
    }

    /// Removes an item.
    pub(super) fn remove(&mut self, key: &ItemKey) {
        let position = key.position();
        let before = self.by_position.remove(&position);
        self.account(position, before, None);
    }

    /// The digest of all items that are not quiet.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// The item at a position, quiet or not.
    pub(super) fn at(&self, position: u64) -> Option<ItemKey> {
        let item = self.by_position.get(&position)?;
        Some(item.key(position))
    }

    /// The items of a range that are not quiet, by position.
    pub(super) fn range(&self, range: RangeInclusive<u64>) -> impl Iterator<Item = ItemKey> {
        let items = self.fingerprints(range);
        items.map(|(position, item)| item.key(position))
    }

    /// The digest of a range.
    pub(super) fn range_digest(&self, first: u64, last: u64) -> RangeDigest {
        let mut sum = Bucket::default();
        match &self.buckets {
            None => self.sum_up(first..=last, &mut sum),
            Some(buckets) => {
                let mut next = Some(first);
                while let Some(position) = next.filter(|position| *position <= last) {
                    let bucket = Bucket::of(position);
                    let end = Bucket::first_position(bucket) | (u64::MAX >> 8);
                    if position == Bucket::first_position(bucket) && end <= last {
                        let Bucket { digest, count } = buckets[bucket];
                        sum.digest = sum.digest.wrapping_add(digest);
                        sum.count += count;
                    } else {
                        self.sum_up(position..=end.min(last), &mut sum);
                    }
                    next = end.checked_add(1);
                }
            }
        }
        RangeDigest {
            first,
            last,
            digest: sum.digest,
            count: sum.count,
        }
    }

    fn fingerprints(&self, range: RangeInclusive<u64>) -> impl Iterator<Item = (u64, Item)> {
        let items = (!range.is_empty()).then(|| self.by_position.range(range));
        let items = items.into_iter().flatten();
        items
            .filter(|(_, item)| item.fingerprint != 0)
            .map(|(position, item)| (*position, *item))
    }

    fn sum_up(&self, range: RangeInclusive<u64>, sum: &mut Bucket) {
        for (_, item) in self.fingerprints(range) {
            sum.add(item.fingerprint);
        }
    }

    fn fill_buckets(&mut self) {
        let mut buckets = Box::new([Bucket::default(); BUCKETS]);
        for (position, item) in self.fingerprints(0..=u64::MAX) {
            buckets[Bucket::of(position)].add(item.fingerprint);
        }
        self.buckets = Some(buckets);
    }

    fn account(&mut self, position: u64, before: Option<Item>, after: Option<Item>) {
        let share = |item: Option<Item>| item.map_or(0, |item| item.fingerprint);
        let (before, after) = (share(before), share(after));
        self.digest = self.digest.wrapping_sub(before).wrapping_add(after);
        if let Some(buckets) = &mut self.buckets {
            let bucket = &mut buckets[Bucket::of(position)];
            if before != 0 {
                bucket.subtract(before);
            }
            if after != 0 {
                bucket.add(after);
            }
        }
    }
}

fn fingerprint(position: u64, Stamp(generation, version): Stamp) -> u64 {
    mix(position ^ mix(generation ^ mix(version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_follows_the_items_whatever_the_order() {
        let (a, b) = (ItemKey::Member(1), ItemKey::Member(2));
        let mut one = Items::default();
        one.put(a, Stamp(1, 1), false);
        one.put(b, Stamp(1, 1), false);
        one.put(a, Stamp(1, 2), false);
        let mut other = Items::default();
        other.put(b, Stamp(1, 1), false);
        assert_ne!(one.digest(), other.digest());
        other.put(a, Stamp(1, 2), false);
        assert_eq!(one.digest(), other.digest());
        assert_eq!(one.range_digest(0, u64::MAX).digest, one.digest());
        one.put(a, Stamp(1, 2), true);
        other.remove(&ItemKey::Member(1));
        assert_eq!(one.digest(), other.digest(), "quiet items don't count");
        assert_eq!(one.range(0..=u64::MAX).count(), 1);
    }

    #[test]
    fn the_digest_of_a_range_is_that_of_its_items() {
        for items in [BUCKETS_WORTH_ITEMS / 2, 2 * BUCKETS_WORTH_ITEMS] {
            check_range_digests(items);
        }
    }

    fn check_range_digests(count: usize) {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut items = Items::default();
        let ids: Vec<u64> = (0..count).map(|_| rng.u64(..)).collect();
        for (at, id) in ids.iter().enumerate() {
            items.put(ItemKey::Member(*id), Stamp(1, 1), at % 7 == 0);
        }
        for id in ids.iter().step_by(3) {
            items.remove(&ItemKey::Member(*id));
        }
        assert_eq!(items.buckets.is_some(), count > BUCKETS_WORTH_ITEMS);
        for _ in 0..500 {
            let (a, b) = (rng.u64(..) >> rng.u32(..64), rng.u64(..));
            let (first, last) = (a.min(b), a.max(b));
            let one_by_one = items.range(first..=last);
            let (digest, count) = one_by_one.fold((0_u64, 0), |(digest, count), item| {
                let fingerprint = fingerprint(item.position(), Stamp(1, 1));
                (digest.wrapping_add(fingerprint), count + 1)
            });
            let range = items.range_digest(first, last);
            assert_eq!(
                (range.digest, range.count),
                (digest, count),
                "{first}..={last}"
            );
        }
        assert_eq!(items.range_digest(0, u64::MAX).digest, items.digest());
    }
}
