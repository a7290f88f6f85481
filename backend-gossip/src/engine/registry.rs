//! The replicated registry: records by owner, and what is offered under each key.
//!
//! Only the owner edits its records. Each carries the owner's version at its last change; the
//! greater version wins, tombstones included. Records at or below the owner's *floor* are void: an
//! owner that prunes old tombstones first gives its live records new versions, then raises the
//! floor, so that whoever was away for longer than tombstones are kept can't bring anything back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tidings_api::{Instance, InstanceId, InstanceKey, Selector, ServiceName};

use crate::wire::content::Content;
use crate::wire::limits::{
    RECORD_BYTES_MAX, RECORD_BYTES_PER_OWNER_MAX, RECORD_OVERHEAD_BYTES, RECORDS_PER_OWNER_MAX,
};

/// A record as it is kept; owner and key stand in the maps around it.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) version: u64,
    /// `None` in a tombstone.
    pub(super) content: Option<Content>,
    /// When it was stored.
    pub(super) since: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    /// One map for all owners: most have a single record, and a map each would be mostly room.
    records: BTreeMap<Place, Stored>,
    /// What each owner that has any records has of them.
    shares: BTreeMap<u64, Share>,
    /// Bytes of all records, about.
    bytes: usize,
    offers: BTreeMap<ServiceName, BTreeMap<InstanceId, Vec<Offer>>>,
}

/// What one owner has.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    records: usize,
    bytes: usize,
}

/// Where a record stands: by owner, then by key; before all keys of an owner with none.
type Place = (u64, Option<InstanceKey>);

/// What one owner offers under a key.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) owner: u64,
    pub(super) instance: Arc<Instance>,
}

impl Registry {
    /// One record.
    pub(super) fn find(&self, owner: u64, key: &InstanceKey) -> Option<&Stored> {
        self.records.get(&(owner, Some(key.clone())))
    }

    /// All records of an owner, by key.
    pub(super) fn of(&self, owner: u64) -> impl Iterator<Item = (&InstanceKey, &Stored)> {
        let records = self.records.range((owner, None)..);
        let records = records.take_while(move |((of, _), _)| *of == owner);
        records.filter_map(|((_, key), stored)| Some((key.as_ref()?, stored)))
    }

    /// The keys of an owner's records.
    pub(super) fn keys_of(&self, owner: u64) -> Vec<InstanceKey> {
        self.of(owner).map(|(key, _)| key.clone()).collect()
    }

    /// Number of records of an owner.
    pub(super) fn count(&self, owner: u64) -> usize {
        self.share(owner).records
    }

    /// Whether an owner may have so many more records, and one of so many bytes more.
    pub(super) fn has_room_for(
        &self,
        owner: u64,
        records: usize,
        bytes: usize,
        proven: bool,
    ) -> bool {
        let (share, bytes) = (self.share(owner), bytes + RECORD_OVERHEAD_BYTES);
        let all = if proven {
            RECORD_BYTES_MAX
        } else {
            RECORD_BYTES_MAX / 2
        };
        share.records + records <= RECORDS_PER_OWNER_MAX
            && share.bytes + bytes <= RECORD_BYTES_PER_OWNER_MAX
            && self.bytes + bytes <= all
    }

    fn share(&self, owner: u64) -> Share {
        self.shares.get(&owner).copied().unwrap_or_default()
    }

    /// Number of records.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// All records, by owner and key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &InstanceKey, &Stored)> {
        let records = self.records.iter();
        records.filter_map(|((owner, key), stored)| Some((*owner, key.as_ref()?, stored)))
    }

    /// Stores a record, whatever was there.
    pub(super) fn put(&mut self, owner: u64, key: &InstanceKey, stored: Stored) {
        self.withdraw(owner, key);
        if let Some(content) = &stored.content {
            let offers = self.offers.entry(key.service().clone()).or_default();
            let instance = content.instance.clone();
            // Nearly always there is one.
            let offers = offers.entry(key.id().clone());
            offers
                .or_insert_with(|| Vec::with_capacity(1))
                .push(Offer { owner, instance });
        }
        let bytes = stored.bytes(key);
        let place = (owner, Some(key.clone()));
        let old = self.records.insert(place, stored);
        let old_bytes = old.as_ref().map_or(0, |old| old.bytes(key));
        let share = self.shares.entry(owner).or_default();
        share.records += usize::from(old.is_none());
        share.bytes = share.bytes + bytes - old_bytes;
        self.bytes = self.bytes + bytes - old_bytes;
    }

    /// Forgets a record.
    pub(super) fn remove(&mut self, owner: u64, key: &InstanceKey) -> Option<Stored> {
        self.withdraw(owner, key);
        let removed = self.records.remove(&(owner, Some(key.clone())))?;
        let bytes = removed.bytes(key);
        self.bytes -= bytes;
        if let Some(share) = self.shares.get_mut(&owner) {
            share.records -= 1;
            share.bytes -= bytes;
            if share.records == 0 {
                self.shares.remove(&owner);
            }
        }
        Some(removed)
    }

    /// Everything offered under a key.
    pub(super) fn offers(&self, key: &InstanceKey) -> &[Offer] {
        let offers = self
            .offers
            .get(key.service())
            .and_then(|ids| ids.get(key.id()));
        offers.map_or(&[], Vec::as_slice)
    }

    /// The selected instances, by key: of those whose owner is shown, the newest under each key.
    pub(super) fn select(
        &self,
        selector: &Selector,
        shown: impl Fn(u64) -> bool,
    ) -> Vec<Arc<Instance>> {
        let newest = |offers: &Vec<Offer>| {
            let shown = offers.iter().filter(|offer| shown(offer.owner));
            shown
                .max_by_key(|offer| offer.rank())
                .map(|offer| offer.instance.clone())
        };
        match selector {
            Selector::Service(service) => {
                let ids = self.offers.get(service);
                ids.into_iter()
                    .flat_map(BTreeMap::values)
                    .filter_map(newest)
                    .collect()
            }
            Selector::All => self
                .offers
                .values()
                .flat_map(BTreeMap::values)
                .filter_map(newest)
                .collect(),
        }
    }

    fn withdraw(&mut self, owner: u64, key: &InstanceKey) {
        let Some(ids) = self.offers.get_mut(key.service()) else {
            return;
        };
        if let Some(offers) = ids.get_mut(key.id()) {
            offers.retain(|offer| offer.owner != owner);
            if offers.is_empty() {
                ids.remove(key.id());
            }
        }
        if ids.is_empty() {
            self.offers.remove(key.service());
        }
    }
}

impl Stored {
    /// What it takes in memory, about.
    fn bytes(&self, key: &InstanceKey) -> usize {
        let key = key.service().as_str().len() + key.id().as_str().len();
        let content = self.content.as_ref().map_or(0, Content::bytes);
        RECORD_OVERHEAD_BYTES + key + content
    }
}

impl Offer {
    /// Which of two owners of one key wins: the newer generation, and between equal ones the
    /// greater id, so that everybody decides alike (REG-5).
    pub(super) fn rank(&self) -> (u64, u64) {
        (self.instance.generation().number(), self.owner)
    }
}
