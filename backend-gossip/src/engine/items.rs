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

/// The index. The digest is kept incrementally.
#[derive(Debug, Default)]
pub(super) struct Items {
    by_position: BTreeMap<u64, Item>,
    digest: u64,
}

impl Items {
    /// Puts an item in its newest form.
    pub(super) fn put(&mut self, key: ItemKey, stamp: Stamp, quiet: bool) {
        let position = key.position();
        self.remove_at(position);
        let fingerprint = (!quiet).then(|| fingerprint(position, stamp));
        self.digest = self.digest.wrapping_add(fingerprint.unwrap_or(0));
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
        let (mut digest, mut count) = (0_u64, 0);
        for (position, _, stamp) in self.range(first..=last) {
            digest = digest.wrapping_add(fingerprint(position, stamp));
            count += 1;
        }
        RangeDigest {
            first,
            last,
            digest,
            count,
        }
    }

    fn remove_at(&mut self, position: u64) {
        if let Some(item) = self.by_position.remove(&position) {
            self.digest = self.digest.wrapping_sub(item.fingerprint.unwrap_or(0));
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
}
