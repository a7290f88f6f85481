//! What is done to the server of the memory backend and to its handles: faults, other tools, an
//! operator.

use std::sync::Arc;

use super::entries::Entry;
use super::server::{Server, SessionId};
use super::session::Outage;
use crate::{Instance, InstanceKey, ServiceName};

impl Server {
    pub(super) fn stop(&mut self) {
        self.stopped
            .get_or_insert(Outage::new("the registry is stopped"));
        self.mark_stale();
    }

    pub(super) fn start(&mut self) {
        self.stopped = None;
        // Losses held so far: nobody is left to register these again.
        let sessions = &self.sessions;
        let is_kept = |id| sessions.contains_key(&id);
        self.entries.retain(|entry| entry.owner.is_none_or(is_kept));
        let hearing: Vec<_> = self.hearing().map(|(id, _)| id).collect();
        for id in hearing {
            self.reconcile(id);
        }
        // Only now, so that nobody sees the registry before all owners had their chance (WAT-6).
        self.hearing()
            .for_each(|(_, session)| self.refresh(session));
    }

    pub(super) fn start_empty(&mut self) {
        self.entries.clear();
        self.start();
    }

    pub(super) fn cut_off(&mut self, id: SessionId) {
        if let Ok(session) = self.session(id) {
            session
                .cut_off
                .get_or_insert(Outage::new("cut off from the registry"));
        }
        self.mark_stale();
    }

    pub(super) fn restore(&mut self, id: SessionId) {
        if let Ok(session) = self.session(id) {
            session.cut_off = None;
        }
        self.mark_stale();
        if !self.is_heard_by(id) {
            return;
        }
        for service in self.reconcile(id) {
            self.publish(&service);
        }
        if let Some(session) = self.sessions.get(&id) {
            self.refresh(session);
        }
    }

    pub(super) fn expire(&mut self, id: SessionId) {
        let keys = self.session(id).map(|session| session.keys());
        self.lose(id, &keys.unwrap_or_default());
        if self.is_heard_by(id) {
            for service in self.reconcile(id) {
                self.publish(&service);
            }
        }
    }

    pub(super) fn crash(&mut self, id: SessionId) {
        let keys = self.end(id);
        self.lose(id, &keys);
    }

    pub(super) fn deny(&mut self, service: ServiceName) {
        self.denied.insert(service);
    }

    pub(super) fn put_foreign(&mut self, key: &str, value: &[u8]) {
        let read = serde_json::from_slice(value).ok();
        let Some(instance) = read.filter(|read: &Instance| read.key().to_string() == key) else {
            self.unreadable += 1;
            return;
        };
        let stored = self.entries.get(instance.key());
        let owned = stored.and_then(|entry| Some((entry.owner?, entry.instance.clone())));
        if let Some((owner, owned)) = owned {
            if !instance.outranks(&owned) {
                return;
            }
            self.supersede(owner, instance.key());
        }
        let service = instance.service().clone();
        self.entries.insert(Entry {
            instance: Arc::new(instance),
            owner: None,
        });
        self.publish(&service);
    }

    pub(super) fn remove_foreign(&mut self, key: &InstanceKey) {
        if self.entries.remove(key, None) {
            self.publish(key.service());
        }
    }
}
