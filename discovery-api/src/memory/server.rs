//! All that a registry and its handles hold, behind the registry's one lock.
//!
//! Both sides of the imagined network are in here: [`Entries`] is what the server stores, a
//! [`Session`] is one handle's side. A handle that doesn't hear the server changes its own side
//! only; [`Server::reconcile`] brings both together again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entries::{Entries, Entry};
use super::session::{Offer, Outage, Session};
use crate::{
    Bounds, Connection, Error, ErrorKind, Freshness, Generation, Health, Instance, InstanceKey,
    LossPolicy, Registration, Removal, Result, Selector, ServiceName, Status, Subscription, Watch,
};

const BACKEND: &str = "memory";
/// Everything happens within the call.
const BOUNDS: Bounds = Bounds {
    visible: Duration::ZERO,
    removed: Duration::ZERO,
    crashed: Duration::ZERO,
    stale: Duration::ZERO,
};

/// Names a session; never used twice in one registry.
pub(super) type SessionId = u64;

pub(super) struct Server {
    pub(super) policy: LossPolicy,
    pub(super) stopped: Option<Outage>,
    pub(super) entries: Entries,
    pub(super) denied: HashSet<ServiceName>,
    pub(super) unreadable: u64,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    last_session: SessionId,
}

/// The verbs of the contract.
impl Server {
    pub(super) fn register(&mut self, id: SessionId, instance: Instance) -> Result<InstanceKey> {
        let key = instance.key().clone();
        let heard = self.is_heard_by(id);
        if heard && self.sessions.contains_key(&id) {
            let operation = || format!("register {key}");
            self.allowed(id, &key)
                .map_err(|error| error.with_operation(operation()))?;
        }
        let stored = self.entries.get(&key).filter(|_| heard);
        let stored = stored.map(Entry::generation).unwrap_or_default();

        let session = self.session(id)?;
        let instance = match session.offers.get(&key) {
            None => anew(instance, stored),
            Some(last) if last.registration.is_superseded() => {
                let seen = stored.max(last.instance.generation());
                anew(instance.keeping_health_of(&last.instance), seen)
            }
            // Still the same owner, so that watchers see an update, or nothing at all (REG-2).
            Some(last) => instance
                .keeping_health_of(&last.instance)
                .with_generation(last.instance.generation()),
        };
        self.offer(id, instance)?;
        Ok(key)
    }

    pub(super) fn deregister(&mut self, id: SessionId, key: &InstanceKey) -> Result<Removal> {
        let heard = self.is_heard_by(id);
        let session = self.session(id)?;
        let owned = session.owned(key).is_some();
        session.offers.remove(key);
        if !owned {
            return Ok(Removal::Absent);
        }
        if heard {
            self.entries.remove(key, Some(id));
            self.publish(key.service());
        } else {
            session.withdrawn.insert(key.clone());
            session.amend(key, None);
        }
        Ok(Removal::Removed)
    }

    pub(super) fn health(
        &mut self,
        id: SessionId,
        key: &InstanceKey,
        health: Health,
    ) -> Result<()> {
        let Some(offer) = self.session(id)?.owned(key) else {
            let message = format!("{key} is not registered by this handle, or no longer");
            return Err(error(ErrorKind::NotOwned, message).with_operation("health"));
        };
        let instance = Instance::clone(&offer.instance).with_health(health);
        self.offer(id, instance)
    }

    pub(super) fn watch(&mut self, id: SessionId, selector: Selector) -> Result<Watch> {
        let outage = self.outage_of(id).cloned();
        let (watch, feed) = match self.session(id)?.publisher.watch(selector)? {
            Subscription::First(watch, feed) => (watch, feed),
            Subscription::Joined(watch) => return Ok(watch),
        };
        let selected = self.entries.select(feed.selector());
        let session = self.session(id)?;
        match outage {
            Some(outage) => feed.publish(session.own(feed.selector()), outage.freshness()),
            None => feed.publish(selected, Freshness::Live),
        }
        session.add_feed(feed);
        Ok(watch)
    }

    pub(super) fn status(&self, id: SessionId) -> Status {
        let Some(session) = self.sessions.get(&id) else {
            return Status::new(BACKEND, Connection::Closed, BOUNDS);
        };
        let connection = connection(self.outage_of(id));
        let offers = session.offers.iter();
        Status::new(BACKEND, connection, BOUNDS)
            .with_registrations(offers.map(|(key, o)| (key.clone(), o.registration.clone())))
    }

    pub(super) fn close(&mut self, id: SessionId) -> Result<()> {
        if !self.sessions.contains_key(&id) {
            return Ok(());
        }
        if let Some(outage) = self.outage_of(id) {
            let error = error(ErrorKind::Unavailable, outage.to_string());
            self.crash(id);
            return Err(error.with_operation("close"));
        }
        for key in self.end(id) {
            self.entries.remove(&key, Some(id));
            self.publish(key.service());
        }
        Ok(())
    }
}

/// Coming into being, and looking in.
impl Server {
    pub(super) fn new(policy: LossPolicy) -> Self {
        Self {
            policy,
            stopped: None,
            entries: Entries::default(),
            denied: HashSet::new(),
            unreadable: 0,
            sessions: BTreeMap::new(),
            last_session: 0,
        }
    }

    pub(super) fn connect(&mut self) -> SessionId {
        self.last_session += 1;
        self.sessions.insert(self.last_session, Session::new());
        self.last_session
    }

    pub(super) fn subscriptions(&mut self, id: SessionId) -> usize {
        self.session(id).map_or(0, |session| {
            session.sweep();
            session.publisher.feeds()
        })
    }

    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable
    }
}

/// Between the two sides.
impl Server {
    /// Takes over what a handle offers, and on to the server if that is heard.
    fn offer(&mut self, id: SessionId, instance: Instance) -> Result<()> {
        let heard = self.is_heard_by(id);
        let (key, instance) = (instance.key().clone(), Arc::new(instance));
        let session = self.session(id)?;
        let last = session.owned(&key);
        let offer = Offer {
            instance: instance.clone(),
            registration: pending(last.map(|last| &last.registration), None),
            // Whoever knows that it was overtaken and registers again is newer (REG-5).
            overtaken: last.is_some_and(|last| last.overtaken),
        };
        session.offers.insert(key.clone(), offer);
        if heard {
            self.establish(id, &key);
            self.publish(key.service());
        } else {
            session.amend(&key, Some(&instance));
        }
        Ok(())
    }

    /// Brings one offer to the server, unless a newer owner has the key.
    fn establish(&mut self, id: SessionId, key: &InstanceKey) {
        let stored = self.entries.get(key);
        let stored = stored.map(|entry| (entry.instance.clone(), entry.owner));
        let rival = stored.filter(|(_, owner)| *owner != Some(id));
        let allowed = self.allowed(id, key);
        let Some(offer) = self.offer_mut(id, key) else {
            return;
        };
        let newest = |(other, _): &(Arc<Instance>, _)| offer.instance.outranks(other);
        if offer.overtaken || !rival.as_ref().is_none_or(newest) {
            return self.supersede(id, key);
        }
        if let Err(error) = allowed {
            offer.registration = pending(Some(&offer.registration), Some(error));
            return;
        }
        offer.registration = Registration::Registered;
        let instance = offer.instance.clone();
        if let Some((_, Some(other))) = rival {
            self.supersede(other, key);
        }
        let owner = Some(id);
        self.entries.insert(Entry { instance, owner });
    }

    /// A newer owner has the key. A handle that can't hear it learns it later.
    pub(super) fn supersede(&mut self, id: SessionId, key: &InstanceKey) {
        let heard = self.is_heard_by(id);
        if let Some(offer) = self.offer_mut(id, key) {
            offer.overtaken = true;
            if heard {
                offer.registration = Registration::Superseded;
            }
        }
    }

    /// Brings all that a handle wants to the server, and returns the services it is about.
    pub(super) fn reconcile(&mut self, id: SessionId) -> BTreeSet<ServiceName> {
        let Ok(session) = self.session(id) else {
            return BTreeSet::new();
        };
        let keys = session.keys();
        for key in std::mem::take(&mut session.withdrawn) {
            self.entries.remove(&key, Some(id));
        }
        for key in &keys {
            self.establish(id, key);
        }
        keys.iter().map(|key| key.service().clone()).collect()
    }

    /// What a session held is lost without its owner asking; the policy says whether anybody
    /// notices yet (WAT-10).
    pub(super) fn lose(&mut self, id: SessionId, keys: &[InstanceKey]) {
        if self.policy.holds(&connection(self.stopped.as_ref())) {
            return;
        }
        for key in keys {
            if !self.entries.remove(key, Some(id)) {
                continue;
            }
            self.publish(key.service());
            if self.stopped.is_some() {
                let others = self.sessions.values();
                let told = others.filter(|other| other.cut_off.is_none());
                told.for_each(|other| other.amend(key, None));
            }
        }
    }

    /// Ends one handle's side and returns the keys it may have entries under.
    pub(super) fn end(&mut self, id: SessionId) -> Vec<InstanceKey> {
        let Some(session) = self.sessions.remove(&id) else {
            return Vec::new();
        };
        session.publisher.close();
        session.keys()
    }

    /// Shows the entries of one service to all that watch them.
    pub(super) fn publish(&self, service: &ServiceName) {
        for selector in [Selector::Service(service.clone()), Selector::All] {
            let mut selected = None;
            for feed in self.hearing().filter_map(|(_, s)| s.feed(&selector)) {
                let selected = selected.get_or_insert_with(|| self.entries.select(&selector));
                feed.publish(selected.clone(), Freshness::Live);
            }
        }
    }

    /// Shows one handle the entries of all services that it watches.
    pub(super) fn refresh(&self, session: &Session) {
        for feed in session.feeds() {
            feed.publish(self.entries.select(feed.selector()), Freshness::Live);
        }
    }

    pub(super) fn mark_stale(&self) {
        for (id, session) in &self.sessions {
            if let Some(outage) = self.outage_of(*id) {
                let feeds = session.feeds();
                feeds.for_each(|feed| feed.mark(outage.freshness()));
            }
        }
    }

    pub(super) fn session(&mut self, id: SessionId) -> Result<&mut Session> {
        let session = self.sessions.get_mut(&id);
        session.ok_or_else(|| Error::closed().with_backend(BACKEND))
    }

    fn offer_mut(&mut self, id: SessionId, key: &InstanceKey) -> Option<&mut Offer> {
        self.sessions.get_mut(&id)?.offers.get_mut(key)
    }

    fn outage_of(&self, id: SessionId) -> Option<&Outage> {
        let session = self.sessions.get(&id);
        let cut_off = session.and_then(|session| session.cut_off.as_ref());
        cut_off.or(self.stopped.as_ref())
    }

    pub(super) fn is_heard_by(&self, id: SessionId) -> bool {
        self.outage_of(id).is_none()
    }

    /// The handles that hear the server.
    pub(super) fn hearing(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        let sessions = self.sessions.iter().map(|(id, session)| (*id, session));
        sessions.filter(|(id, _)| self.is_heard_by(*id))
    }

    fn allowed(&self, id: SessionId, key: &InstanceKey) -> Result<()> {
        let stored = self.entries.get(key);
        let has_it = stored.is_some_and(|entry| entry.owner == Some(id));
        if has_it || !self.denied.contains(key.service()) {
            return Ok(());
        }
        let message = format!("registrations of {} are denied", key.service());
        Err(error(ErrorKind::Denied, message))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRegistry")
            .field("running", &self.stopped.is_none())
            .field("handles", &self.sessions.len())
            .field("entries", &self.entries.len())
            .finish_non_exhaustive()
    }
}

/// The instance as a new owner's.
fn anew(instance: Instance, seen: Generation) -> Instance {
    let generation = instance.next_generation(seen);
    instance.with_generation(generation)
}

fn connection(outage: Option<&Outage>) -> Connection {
    outage.map_or(Connection::Connected, Outage::connection)
}

/// Waiting, since when it waited already.
fn pending(last: Option<&Registration>, last_error: Option<Error>) -> Registration {
    let since = match last {
        Some(Registration::Pending { since, .. }) => *since,
        _ => Instant::now(),
    };
    Registration::Pending { since, last_error }
}

fn error(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, message).with_backend(BACKEND)
}
