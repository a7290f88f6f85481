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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ItemKey {
    /// A member, by id.
    Member(u64),
    /// A record, by owner and key.
    Record(u64, InstanceKey),
}

impl ItemKey {
    /// The position: the same on every member.
    pub(super) fn position(&self) -> u64 {
        match self {
            Self::Member(id) => *id,
            Self::Record(owner, key) => hash(&[
                b"record",
                &owner.to_be_bytes(),
                key.service().as_str().as_bytes(),
                key.id().as_str().as_bytes(),
            ]),
        }
    }
}

#[derive(Debug)]
struct Item {
    key: ItemKey,
    stamp: Stamp,
    /// The share of the digest; `None` while quiet.
    fingerprint: Option<u64>,
}

/// Parts of the whole range whose digests are kept. A sync that splits a range in 16 finds those of
/// its first two steps here, and costs no more in a big registry than in a small one.
const BUCKETS: usize = 256;

/// The index. The digest is kept incrementally.
#[derive(Debug)]
pub(super) struct Items {
    by_position: BTreeMap<u64, Item>,
    digest: u64,
    /// The range from its first position to its last, in equal parts.
    buckets: Box<[Bucket; BUCKETS]>,
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
}

impl Default for Items {
    fn default() -> Self {
        Self {
            by_position: BTreeMap::new(),
            digest: 0,
            buckets: Box::new([Bucket::default(); BUCKETS]),
        }
    }
}

impl Items {
    /// Puts an item in its newest form.
    pub(super) fn put(&mut self, key: ItemKey, stamp: Stamp, quiet: bool) {
        let position = key.position();
        self.remove_at(position);
        let fingerprint = (!quiet).then(|| fingerprint(position, stamp));
        if let Some(fingerprint) = fingerprint {
            self.digest = self.digest.wrapping_add(fingerprint);
            let bucket = &mut self.buckets[Bucket::of(position)];
            bucket.digest = bucket.digest.wrapping_add(fingerprint);
            bucket.count += 1;
        }
        self.by_position.insert(
            position,
            Item {
                key,
                stamp,
                fingerprint,
            },
        );
    }

    /// Removes an item.
    pub(super) fn remove(&mut self, key: &ItemKey) {
        self.remove_at(key.position());
    }

    /// The digest of all items that are not quiet.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// The item at a position, quiet or not.
    pub(super) fn at(&self, position: u64) -> Option<(&ItemKey, Stamp)> {
        self.by_position
            .get(&position)
            .map(|item| (&item.key, item.stamp))
    }

    /// The items of a range that are not quiet, by position.
    pub(super) fn range(
        &self,
        range: RangeInclusive<u64>,
    ) -> impl Iterator<Item = (u64, &ItemKey, Stamp)> {
        let items = (!range.is_empty()).then(|| self.by_position.range(range));
        items
            .into_iter()
            .flatten()
            .filter(|(_, item)| item.fingerprint.is_some())
            .map(|(position, item)| (*position, &item.key, item.stamp))
    }

    /// The digest of a range.
    pub(super) fn range_digest(&self, first: u64, last: u64) -> RangeDigest {
        let mut range = RangeDigest {
            first,
            last,
            digest: 0,
            count: 0,
        };
        let mut next = Some(first);
        while let Some(position) = next.filter(|position| *position <= last) {
            let bucket = Bucket::of(position);
            let end = Bucket::first_position(bucket) | (u64::MAX >> 8);
            if position == Bucket::first_position(bucket) && end <= last {
                let Bucket { digest, count } = self.buckets[bucket];
                range.digest = range.digest.wrapping_add(digest);
                range.count += count;
            } else {
                for (position, _, stamp) in self.range(position..=end.min(last)) {
                    range.digest = range.digest.wrapping_add(fingerprint(position, stamp));
                    range.count += 1;
                }
            }
            next = end.checked_add(1);
        }
        range
    }

    fn remove_at(&mut self, position: u64) {
        let removed = self.by_position.remove(&position);
        if let Some(fingerprint) = removed.and_then(|item| item.fingerprint) {
            self.digest = self.digest.wrapping_sub(fingerprint);
            let bucket = &mut self.buckets[Bucket::of(position)];
            bucket.digest = bucket.digest.wrapping_sub(fingerprint);
            bucket.count -= 1;
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
        one.put(a.clone(), Stamp(1, 1), false);
        one.put(b.clone(), Stamp(1, 1), false);
        one.put(a.clone(), Stamp(1, 2), false);
        let mut other = Items::default();
        other.put(b.clone(), Stamp(1, 1), false);
        assert_ne!(one.digest(), other.digest());
        other.put(a.clone(), Stamp(1, 2), false);
        assert_eq!(one.digest(), other.digest());
        assert_eq!(one.range_digest(0, u64::MAX).digest, one.digest());
        one.put(a, Stamp(1, 2), true);
        other.remove(&ItemKey::Member(1));
        assert_eq!(one.digest(), other.digest(), "quiet items don't count");
        assert_eq!(one.range(0..=u64::MAX).count(), 1);
    }

    #[test]
    fn the_digest_of_a_range_is_that_of_its_items() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut items = Items::default();
        let ids: Vec<u64> = (0..500).map(|_| rng.u64(..)).collect();
        for (at, id) in ids.iter().enumerate() {
            items.put(ItemKey::Member(*id), Stamp(1, 1), at % 7 == 0);
        }
        for id in ids.iter().step_by(3) {
            items.remove(&ItemKey::Member(*id));
        }
        for _ in 0..500 {
            let (a, b) = (rng.u64(..) >> rng.u32(..64), rng.u64(..));
            let (first, last) = (a.min(b), a.max(b));
            let one_by_one = items.range(first..=last);
            let (digest, count) = one_by_one.fold((0_u64, 0), |(digest, count), item| {
                (digest.wrapping_add(fingerprint(item.0, item.2)), count + 1)
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
