//! What an observer knows: of the services it watches, all records and the state of their owners. Pure.
//!
//! It merges as members do, by the greater stamp, and keeps tombstones and the state of the dead: so
//! what a member says that lags behind the one before takes nothing back (WAT-3), and what it doesn't
//! mention is no loss (WAT-4).
//!
//! # Doubts
//!
//! What came from an earlier member is *in doubt* until the present one has said the same. Mostly
//! that takes a round trip. Where it doesn't come to it, one of the two is wrong, and the members agree
//! within seconds: what is in doubt for longer than that, while the present member hears the cluster,
//! has been given up by everybody. An owner of which the present member has never heard is waited for
//! longer: the cluster may have been started anew, and its members be on their way back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Instance, InstanceId, InstanceKey, Selector, ServiceName};

use crate::wire::limits::{COUNTER_MAX, MEMBERS_MAX, OBSERVED_RECORDS_MAX};
use crate::wire::message::Record;
use crate::wire::observe::{self, Owner};

/// Longest time the records of an owner that is back wait for its newest one: as long as on members.
const HOLD_MAX: Duration = Duration::from_secs(1);

/// All that is known.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    owners: BTreeMap<u64, Known>,
    records: BTreeMap<ServiceName, BTreeMap<(InstanceId, u64), Entry>>,
    count: usize,
    /// Owners whose records are not shown before this version has come, or this moment.
    held: BTreeMap<u64, (u64, Instant)>,
    changed: BTreeSet<ServiceName>,
    /// Whether the present member said something older than what is known.
    contradicted: bool,
}

/// An owner of records.
#[derive(Debug)]
struct Known {
    owner: Owner,
    word: Word,
    /// When the present member said something else of it last.
    since: Instant,
}

impl Known {
    fn says(&mut self, now: Instant, word: Word) {
        if self.word != word {
            (self.word, self.since) = (word, now);
        }
    }
}

/// What the present member says of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Nothing yet.
    Silent,
    /// That it has never heard of it.
    Unknown,
    /// Something older than what is known.
    Older,
    /// What is known.
    Same,
}

/// A record.
#[derive(Debug)]
struct Entry {
    generation: u64,
    version: u64,
    /// `None` in a tombstone.
    instance: Option<Arc<Instance>>,
    in_doubt: bool,
}

/// How long what is in doubt is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holds {
    /// Where the present member knows the owner, from when it said so.
    pub(crate) known: Duration,
    /// Where it doesn't, from when it has vouched for all it knows.
    pub(crate) unknown: Duration,
}

impl Replica {
    /// Another member is listened to from now on: all is in doubt.
    pub(crate) fn doubt_all(&mut self) {
        self.contradicted = false;
        for known in self.owners.values_mut() {
            known.word = Word::Silent;
        }
        for entry in self.records.values_mut().flat_map(BTreeMap::values_mut) {
            entry.in_doubt = true;
        }
    }

    /// The present member has the same of a selector.
    pub(crate) fn confirm(&mut self, selector: &Selector) {
        let mut owners = BTreeSet::new();
        for (service, entries) in &mut self.records {
            if matches!(selector, Selector::Service(selected) if selected != service) {
                continue;
            }
            for ((_, owner), entry) in entries {
                entry.in_doubt = false;
                owners.insert(*owner);
            }
        }
        for owner in owners {
            if let Some(known) = self.owners.get_mut(&owner) {
                known.word = Word::Same;
            }
        }
    }

    /// What the present member says of an owner.
    pub(crate) fn handle_owner(&mut self, now: Instant, owner: Owner) {
        if owner.stamp.0.max(owner.newest).max(owner.floor) > COUNTER_MAX {
            return;
        }
        let room = self.owners.len() < MEMBERS_MAX;
        let Some(known) = self.owners.get_mut(&owner.id) else {
            if owner.is_known() && room {
                let (word, since) = (Word::Same, now);
                let known = Known { owner, word, since };
                self.owners.insert(owner.id, known);
            }
            return;
        };
        if !owner.is_known() {
            known.says(now, Word::Unknown);
            return;
        }
        if owner.stamp < known.owner.stamp {
            known.says(now, Word::Older);
            self.contradicted = true;
            return;
        }
        let before = std::mem::replace(&mut known.owner, owner);
        known.says(now, Word::Same);
        if before.stamp == owner.stamp {
            return;
        }
        let is_new = before.stamp.0 < owner.stamp.0;
        if is_new {
            known.since = now;
        }
        let is_back = !is_new && !before.is_present() && owner.is_present();
        if is_new || !owner.is_present() {
            self.held.remove(&owner.id);
        }
        self.drop_where(|id, entry| {
            let is_of_former = entry.generation < owner.stamp.0;
            // Who was there all along raises its floor a while before the live records below it go.
            let is_void = entry.version <= owner.floor && (is_back || entry.instance.is_none());
            // What is in doubt is left to that: a start that was missed may still be registering.
            id == owner.id
                && if is_of_former {
                    !entry.in_doubt
                } else {
                    is_void
                }
        });
        if is_back {
            self.hold(now, owner);
        }
        if before.is_present() != owner.is_present() || is_new {
            self.note_services_of(owner.id);
        }
    }

    /// What the present member says of a record.
    pub(crate) fn handle_record(&mut self, record: Record) {
        if record.generation.max(record.version) > COUNTER_MAX {
            return;
        }
        let Some(known) = self.owners.get(&record.owner) else {
            return;
        };
        let floor = known.owner.floor;
        let (generation, version) = (record.generation, record.version);
        if generation != known.owner.stamp.0 {
            self.contradicted |= generation < known.owner.stamp.0;
            return;
        }
        let entries = self.records.entry(record.key.service().clone());
        let entries = entries.or_default();
        let place = (record.key.id().clone(), record.owner);
        let entry = entries.get_mut(&place);
        match &entry {
            Some(entry) if (generation, version) < (entry.generation, entry.version) => {
                self.contradicted = true;
                return;
            }
            None if version <= floor || self.count >= OBSERVED_RECORDS_MAX => return,
            Some(_) | None => {}
        }
        let is_void = record.content.is_none() && version <= floor;
        let instance = record.content.map(|content| content.instance);
        let new = Entry {
            generation,
            version,
            instance,
            in_doubt: false,
        };
        let service = record.key.service();
        match entry {
            Some(_) if is_void => {
                entries.remove(&place);
                self.count -= 1;
            }
            Some(entry) if (generation, version) == (entry.generation, entry.version) => {
                entry.in_doubt = false;
                return;
            }
            Some(entry) => *entry = new,
            None => {
                entries.insert(place, new);
                self.count += 1;
            }
        }
        self.changed.insert(service.clone());
        let held = self.held.get(&record.owner);
        if held.is_some_and(|(awaited, _)| version >= *awaited) {
            self.held.remove(&record.owner);
            self.note_services_of(record.owner);
        }
    }

    /// Gives up what is in doubt for longer than it is held: about owners of which the present member
    /// knows something, and about others. Answers whether it has to be asked for all it knows again,
    /// since some of that counted for nothing before.
    pub(crate) fn resolve(&mut self, now: Instant, settled: Instant, hold: Holds) -> bool {
        let is_over = |known: &Known| match known.word {
            Word::Same | Word::Older => known.since.max(settled) + hold.known <= now,
            Word::Silent | Word::Unknown => settled + hold.unknown <= now,
        };
        let over = self.owners.iter().filter(|(_, known)| is_over(known));
        let over: BTreeSet<_> = over.map(|(id, _)| *id).collect();
        let given_up = |id: &u64, known: &Known| over.contains(id) && known.word != Word::Same;
        let owners = self.owners.iter().filter(|(id, known)| given_up(id, known));
        let owners: BTreeSet<_> = owners.map(|(id, _)| *id).collect();
        let before = (self.count, self.owners.len());
        self.drop_where(|owner, entry| {
            owners.contains(&owner) || entry.in_doubt && over.contains(&owner)
        });
        self.owners.retain(|id, _| !owners.contains(id));
        let given_up = (self.count, self.owners.len()) != before;
        given_up && std::mem::take(&mut self.contradicted)
    }

    /// The owners that the present member should be asked for: those it hasn't said anything of, or
    /// doesn't know, and those of records in doubt.
    pub(crate) fn asks(&self) -> BTreeSet<u64> {
        let unsaid = |known: &Known| matches!(known.word, Word::Silent | Word::Unknown);
        let owners = self.owners.iter().filter(|(_, known)| unsaid(known));
        let doubted = self.records.values().flatten();
        let doubted = doubted.filter(|(_, entry)| entry.in_doubt);
        let of_doubted = doubted.map(|((_, owner), _)| *owner);
        owners.map(|(id, _)| *id).chain(of_doubted).collect()
    }

    /// Whether anything is in doubt.
    pub(crate) fn has_doubts(&self) -> bool {
        let mut entries = self.records.values().flat_map(BTreeMap::values);
        entries.any(|entry| entry.in_doubt)
            || self.owners.values().any(|known| known.word != Word::Same)
    }

    /// How many of the instances shown are in doubt.
    pub(crate) fn doubted(&self) -> usize {
        let entries = self.records.values().flatten();
        let doubted = entries.filter(|((_, owner), entry)| {
            entry.in_doubt && entry.instance.is_some() && self.is_shown(*owner)
        });
        doubted.count()
    }

    /// The selected instances, by key; the newest generation of each key.
    pub(crate) fn view(&self, selector: &Selector) -> Vec<Arc<Instance>> {
        match selector {
            Selector::Service(service) => self.view_of(service).collect(),
            Selector::All => self.records.keys().flat_map(|s| self.view_of(s)).collect(),
        }
    }

    /// The digest of what is shown of a selector, as members calculate it.
    pub(crate) fn digest(&self, selector: &Selector) -> u64 {
        let services = self.records.iter();
        let services = services.filter(|(service, _)| match selector {
            Selector::Service(selected) => selected == *service,
            Selector::All => true,
        });
        let mut digest = 0_u64;
        for (service, entries) in services {
            for ((id, owner), entry) in entries {
                if entry.instance.is_some()
                    && self.is_shown(*owner)
                    && let Some(known) = self.owners.get(owner)
                {
                    let key = InstanceKey::new(service.clone(), id.clone());
                    let share = observe::digest(*owner, known.owner.stamp, &key, entry.version);
                    digest = digest.wrapping_add(share);
                }
            }
        }
        digest
    }

    /// Shows what was waited for in vain; answers when to look again.
    pub(crate) fn release_overdue(&mut self, now: Instant) -> Option<Instant> {
        let held = self.held.iter();
        let overdue = held.filter(|(_, (_, until))| *until <= now);
        for id in overdue.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.held.remove(&id);
            self.note_services_of(id);
        }
        self.next_release()
    }

    /// When there is something to release at the latest.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        self.held.values().map(|(_, until)| *until).min()
    }

    /// Forgets what nothing selects any more.
    pub(crate) fn keep(&mut self, selected: impl Fn(&ServiceName) -> bool) {
        self.records.retain(|service, _| selected(service));
        self.count = self.records.values().map(BTreeMap::len).sum();
        let owners: BTreeSet<u64> = self
            .records
            .values()
            .flat_map(|entries| entries.keys().map(|(_, owner)| *owner))
            .collect();
        self.owners.retain(|id, _| owners.contains(id));
    }

    /// The services whose instances may be others than when this was asked last.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.changed)
    }

    /// Number of records, tombstones included.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn view_of(&self, service: &ServiceName) -> impl Iterator<Item = Arc<Instance>> {
        let entries = self.records.get(service).into_iter().flatten();
        let shown = entries.filter_map(|((id, owner), entry)| {
            let instance = entry.instance.as_ref()?;
            let rank = (instance.generation(), *owner);
            self.is_shown(*owner).then_some((id, rank, instance))
        });
        let mut newest: BTreeMap<&InstanceId, _> = BTreeMap::new();
        for (id, rank, instance) in shown {
            let best = newest.entry(id).or_insert((rank, instance));
            if best.0 < rank {
                *best = (rank, instance);
            }
        }
        newest.into_values().map(|(_, instance)| instance.clone())
    }

    fn is_shown(&self, owner: u64) -> bool {
        let known = self.owners.get(&owner);
        known.is_some_and(|known| known.owner.is_present()) && !self.held.contains_key(&owner)
    }

    /// Who was gone and is back may have deregistered something meanwhile that the present member
    /// hasn't heard of: what there is waits for its newest record.
    fn hold(&mut self, now: Instant, owner: Owner) {
        let records = self.records.values().flatten();
        let of_it = records.filter(|((_, of), _)| *of == owner.id);
        let newest = of_it.map(|(_, entry)| entry.version).max();
        if newest.is_some_and(|newest| newest < owner.newest) {
            self.held.insert(owner.id, (owner.newest, now + HOLD_MAX));
        }
    }

    fn drop_where(&mut self, is_over: impl Fn(u64, &Entry) -> bool) {
        for (service, entries) in &mut self.records {
            let before = entries.len();
            entries.retain(|(_, owner), entry| !is_over(*owner, entry));
            if entries.len() < before {
                self.count -= before - entries.len();
                self.changed.insert(service.clone());
            }
        }
    }

    fn note_services_of(&mut self, owner: u64) {
        let services = self.records.iter();
        let of_it = services.filter(|(_, entries)| entries.keys().any(|(_, of)| *of == owner));
        self.changed
            .extend(of_it.map(|(service, _)| service.clone()));
    }
}
