//! What the server of the memory backend stores.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::server::SessionId;
use crate::{Generation, Instance, InstanceId, InstanceKey, Selector, ServiceName};

/// The stored instances, by service, so that a change costs no look at other services.
#[derive(Default)]
pub(super) struct Entries {
    services: BTreeMap<ServiceName, BTreeMap<InstanceId, Entry>>,
}

/// One stored instance.
pub(super) struct Entry {
    pub(super) instance: Arc<Instance>,
    /// `None` for a foreign entry. The session may have ended, while its loss is held.
    pub(super) owner: Option<SessionId>,
}

impl Entry {
    pub(super) fn generation(&self) -> Generation {
        self.instance.generation()
    }
}

impl Entries {
    pub(super) fn get(&self, key: &InstanceKey) -> Option<&Entry> {
        self.services.get(key.service())?.get(key.id())
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let key = entry.instance.key();
        let service = self.services.entry(key.service().clone()).or_default();
        service.insert(key.id().clone(), entry);
    }

    /// Removes the entry under `key` if this is its owner; says whether it was.
    pub(super) fn remove(&mut self, key: &InstanceKey, owner: Option<SessionId>) -> bool {
        if self.get(key).is_none_or(|entry| entry.owner != owner) {
            return false;
        }
        if let Some(service) = self.services.get_mut(key.service()) {
            service.remove(key.id());
            if service.is_empty() {
                self.services.remove(key.service());
            }
        }
        true
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) {
        for service in self.services.values_mut() {
            service.retain(|_, entry| keep(entry));
        }
        self.services.retain(|_, service| !service.is_empty());
    }

    pub(super) fn clear(&mut self) {
        self.services.clear();
    }

    /// The instances that `selector` selects, by key.
    pub(super) fn select(&self, selector: &Selector) -> Vec<Arc<Instance>> {
        let instances = |service: &BTreeMap<InstanceId, Entry>| {
            let entries = service.values();
            entries.map(|entry| entry.instance.clone()).collect()
        };
        match selector {
            Selector::Service(name) => self.services.get(name).map(instances).unwrap_or_default(),
            Selector::All => self.services.values().flat_map(instances).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.services.values().map(BTreeMap::len).sum()
    }
}
