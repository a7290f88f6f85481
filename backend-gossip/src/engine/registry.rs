//! The replicated registry: records by owner, and what is offered under each key.
//!
//! Only the owner edits its records. Each carries the owner's version at its last change; the
//! greater version wins, tombstones included. Records at or below the owner's *floor* are void: an
//! owner that prunes old tombstones first gives its live records new versions, then raises the
//! floor, so that whoever was away for longer than tombstones are kept can't bring anything back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tidings_api::{Instance, InstanceId, InstanceKey, Selector, ServiceName};

use super::items::Place;
use crate::wire::content::{Content, bytes_of};
use crate::wire::limits::{
    RECORD_BYTES_MAX, RECORD_BYTES_PER_OWNER_MAX, RECORD_OVERHEAD_BYTES, RECORDS_PER_OWNER_MAX,
};

/// A record as it is kept. Every member keeps those of all others, so that each word counts: what few
/// records have is kept apart, and the key of a live one is that of its instance.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) version: u64,
    state: State,
    /// Fields of newer versions.
    unknown: Option<Box<Box<[u8]>>>,
}

#[derive(Clone, Debug)]
enum State {
    Live(Arc<Instance>),
    Tombstone(Box<Tombstone>),
}

#[derive(Clone, Debug)]
struct Tombstone {
    key: InstanceKey,
    since: Instant,
}

impl Stored {
    /// A record that was heard or written now; a tombstone without content.
    pub(super) fn new(
        now: Instant,
        key: &InstanceKey,
        version: u64,
        content: Option<Content>,
    ) -> Self {
        let (state, unknown) = match content {
            Some(Content { instance, unknown }) => (State::Live(instance), unknown),
            None => {
                let (key, since) = (key.clone(), now);
                (
                    State::Tombstone(Tombstone { key, since }.into()),
                    Box::default(),
                )
            }
        };
        Self {
            version,
            state,
            unknown: (!unknown.is_empty()).then(|| unknown.into()),
        }
    }

    pub(super) fn key(&self) -> &InstanceKey {
        match &self.state {
            State::Live(instance) => instance.key(),
            State::Tombstone(tombstone) => &tombstone.key,
        }
    }

    /// What the record says; `None` in a tombstone.
    pub(super) fn content(&self) -> Option<Content> {
        let instance = self.instance()?.clone();
        let unknown = self.unknown.as_deref().cloned().unwrap_or_default();
        Some(Content { instance, unknown })
    }

    pub(super) fn instance(&self) -> Option<&Arc<Instance>> {
        match &self.state {
            State::Live(instance) => Some(instance),
            State::Tombstone(_) => None,
        }
    }

    /// Since when it is a tombstone, where it is one.
    pub(super) fn ended(&self) -> Option<Instant> {
        match &self.state {
            State::Live(_) => None,
            State::Tombstone(tombstone) => Some(tombstone.since),
        }
    }

    /// What it takes in memory, about.
    fn bytes(&self) -> usize {
        let key = self.key().service().as_str().len() + self.key().id().as_str().len();
        let instance = self.instance().map_or(0, |instance| bytes_of(instance));
        let unknown = self.unknown.as_deref().map_or(0, |unknown| unknown.len());
        RECORD_OVERHEAD_BYTES + key + instance + unknown
    }

    pub(super) fn is_tombstone(&self) -> bool {
        self.ended().is_some()
    }
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    records: BTreeMap<Place, Stored>,
    /// The positions of each owner's records.
    by_owner: BTreeSet<(u64, u64)>,
    /// What each owner that has several records has of them: nearly all have one.
    shares: BTreeMap<u64, Share>,
    /// Bytes of all records, about.
    bytes: usize,
    offers: BTreeMap<ServiceName, Offers>,
    tombstones: Tombstones,
}

/// Whose records are tombstones, by key: observers are told of them beside what is offered.
type Tombstones = BTreeMap<ServiceName, BTreeSet<(InstanceId, u64)>>;
/// What one owner has.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    records: usize,
    bytes: usize,
}

/// What is offered of one service, by id and owner. A slice, since a map would take three times the
/// memory; an insertion moves what comes after it, which is less than what showing it takes.
#[derive(Debug, Default)]
pub(super) struct Offers(Vec<Offer>);

/// What one owner offers under a key.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) owner: u64,
    pub(super) instance: Arc<Instance>,
}

impl Registry {
    /// One record.
    pub(super) fn find(&self, owner: u64, key: &InstanceKey) -> Option<&Stored> {
        self.at(Place::of(owner, key))
            .filter(|stored| stored.key() == key)
    }

    /// The record at a place.
    pub(super) fn at(&self, place: Place) -> Option<&Stored> {
        self.records.get(&place)
    }

    /// All records of an owner.
    pub(super) fn of(&self, owner: u64) -> impl Iterator<Item = (&InstanceKey, &Stored)> {
        let positions = self.by_owner.range((owner, 0)..=(owner, u64::MAX));
        let places = positions.map(|(owner, position)| Place {
            position: *position,
            owner: *owner,
        });
        let records = places.filter_map(|place| self.at(place));
        records.map(|stored| (stored.key(), stored))
    }

    /// The keys of an owner's records.
    pub(super) fn keys_of(&self, owner: u64) -> Vec<InstanceKey> {
        self.of(owner).map(|(key, _)| key.clone()).collect()
    }

    /// Number of records of an owner.
    pub(super) fn count(&self, owner: u64) -> usize {
        self.share(owner).records
    }

    /// Whether an owner may have a record of so many bytes under a key, in place of the one it has.
    pub(super) fn has_room_for(
        &self,
        owner: u64,
        key: &InstanceKey,
        bytes: usize,
        proven: bool,
    ) -> bool {
        let known = self.find(owner, key);
        let records = usize::from(known.is_none());
        let replaced = known.map_or(0, Stored::bytes);
        let Some(bytes) = (bytes + RECORD_OVERHEAD_BYTES).checked_sub(replaced) else {
            // A withdrawal is one of these.
            return true;
        };
        let share = self.share(owner);
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
        let one_or_none = || {
            let stored = self.of(owner).next();
            stored.map_or(Share::default(), |(_, stored)| Share {
                records: 1,
                bytes: stored.bytes(),
            })
        };
        let several = self.shares.get(&owner).copied();
        several.unwrap_or_else(one_or_none)
    }

    /// Number of records.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// All records.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &InstanceKey, &Stored)> {
        let records = self.records.iter();
        records.map(|(place, stored)| (place.owner, stored.key(), stored))
    }

    /// Stores a record, whatever was there.
    pub(super) fn put(&mut self, owner: u64, mut stored: Stored) {
        let place = Place::of(owner, stored.key());
        self.take(place);
        if let State::Live(instance) = &mut stored.state {
            self.share_names(instance);
            let offers = self.offers.entry(instance.service().clone()).or_default();
            let instance = instance.clone();
            offers.insert(Offer { owner, instance });
        } else {
            let key = stored.key();
            let tombstones = self.tombstones.entry(key.service().clone());
            tombstones.or_default().insert((key.id().clone(), owner));
        }
        let (mut share, bytes) = (self.share(owner), stored.bytes());
        share.records += 1;
        share.bytes += bytes;
        if share.records > 1 {
            self.shares.insert(owner, share);
        }
        self.bytes += bytes;
        self.by_owner.insert((owner, place.position));
        self.records.insert(place, stored);
    }

    /// Forgets a record.
    pub(super) fn remove(&mut self, owner: u64, key: &InstanceKey) {
        self.take(Place::of(owner, key));
    }

    pub(super) fn offers_by_service(&self) -> &BTreeMap<ServiceName, Offers> {
        &self.offers
    }

    pub(super) fn tombstones(&self) -> &Tombstones {
        &self.tombstones
    }

    /// Everything offered under a key.
    pub(super) fn offers(&self, key: &InstanceKey) -> &[Offer] {
        let offers = self.offers.get(key.service());
        offers.map_or(&[], |offers| offers.of(key.id()))
    }

    /// The selected instances, by key: of those whose owner is shown, the newest under each key.
    pub(super) fn select(
        &self,
        selector: &Selector,
        shown: impl Fn(u64) -> bool,
    ) -> Vec<Arc<Instance>> {
        let newest = |offers: &[Offer]| {
            let shown = offers.iter().filter(|offer| shown(offer.owner));
            let newest = shown.max_by_key(|offer| offer.rank());
            newest.map(|offer| offer.instance.clone())
        };
        match selector {
            Selector::Service(service) => {
                let offers = self.offers.get(service);
                offers
                    .into_iter()
                    .flat_map(Offers::by_id)
                    .filter_map(newest)
                    .collect()
            }
            Selector::All => {
                let offers = self.offers.values().flat_map(Offers::by_id);
                offers.filter_map(newest).collect()
            }
        }
    }

    fn take(&mut self, place: Place) -> Option<Stored> {
        let taken = self.records.remove(&place)?;
        let owner = place.owner;
        self.by_owner.remove(&(owner, place.position));
        self.bytes -= taken.bytes();
        if let Some(share) = self.shares.get_mut(&owner) {
            share.records -= 1;
            share.bytes -= taken.bytes();
            if share.records == 1 {
                self.shares.remove(&owner);
            }
        }
        if taken.instance().is_some() {
            self.withdraw(owner, taken.key());
        } else {
            self.exhume(owner, taken.key());
        }
        Some(taken)
    }

    fn withdraw(&mut self, owner: u64, key: &InstanceKey) {
        let Some(ids) = self.offers.get_mut(key.service()) else {
            return;
        };
        ids.remove(owner, key.id());
        if ids.0.is_empty() {
            self.offers.remove(key.service());
        }
    }

    fn exhume(&mut self, owner: u64, key: &InstanceKey) {
        if let Some(tombstones) = self.tombstones.get_mut(key.service())
            && tombstones.remove(&(key.id().clone(), owner))
            && tombstones.is_empty()
        {
            self.tombstones.remove(key.service());
        }
    }

    /// Siblings have the same names nearly always: each would be kept once an instance.
    fn share_names(&self, instance: &mut Arc<Instance>) {
        let siblings = self.offers.get(instance.service());
        let Some(sibling) = siblings.and_then(|offers| offers.0.first()) else {
            return;
        };
        // One that is read elsewhere already stays as it is.
        if let Some(alone) = Arc::get_mut(instance) {
            alone.share_names_with(&sibling.instance);
        }
    }
}

impl Offers {
    fn insert(&mut self, offer: Offer) {
        if self.0.len() == self.0.capacity() {
            // A quarter more instead of twice as much: it grows for a moment and stays for long.
            self.0.reserve_exact(self.0.len() / 4 + 1);
        }
        match self.place(offer.owner, offer.instance.id()) {
            Ok(at) => self.0[at] = offer,
            Err(at) => self.0.insert(at, offer),
        }
    }

    fn remove(&mut self, owner: u64, id: &InstanceId) {
        if let Ok(at) = self.place(owner, id) {
            self.0.remove(at);
        }
    }

    /// All offers from an id on, by id and owner.
    pub(super) fn from(&self, id: Option<&InstanceId>) -> &[Offer] {
        let before = |offer: &Offer| id.is_some_and(|id| offer.instance.id() < id);
        &self.0[self.0.partition_point(before)..]
    }

    /// All offers of one id.
    fn of(&self, id: &InstanceId) -> &[Offer] {
        let first = self.0.partition_point(|offer| offer.instance.id() < id);
        let offers = &self.0[first..];
        let others = offers.iter().position(|offer| offer.instance.id() != id);
        &offers[..others.unwrap_or(offers.len())]
    }

    /// The offers of each id.
    fn by_id(&self) -> impl Iterator<Item = &[Offer]> {
        self.0.chunk_by(|a, b| a.instance.id() == b.instance.id())
    }

    fn place(&self, owner: u64, id: &InstanceId) -> Result<usize, usize> {
        self.0
            .binary_search_by(|offer| (offer.instance.id(), offer.owner).cmp(&(id, owner)))
    }
}

impl Offer {
    /// Which of two owners of one key wins: the newer generation, and between equal ones the
    /// greater id, so that everybody decides alike (REG-5).
    pub(super) fn rank(&self) -> (u64, u64) {
        (self.instance.generation().number(), self.owner)
    }
}
