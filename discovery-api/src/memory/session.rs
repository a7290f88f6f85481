//! One handle's side of the memory backend.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::{
    Connection, Feed, Freshness, Instance, InstanceKey, Publisher, Registration, Selector,
};

/// Feeds that nobody watches any more are looked for when their number may have doubled.
const FEEDS_SWEEP_MIN: usize = 16;

/// What one handle offers, and the views of its watches.
pub(super) struct Session {
    pub(super) publisher: Publisher,
    pub(super) cut_off: Option<Outage>,
    pub(super) offers: BTreeMap<InstanceKey, Offer>,
    /// Deregistered while the server wasn't heard.
    pub(super) withdrawn: BTreeSet<InstanceKey>,
    feeds: HashMap<Selector, Feed>,
    sweep_at: usize,
}

/// Desired state (REG-3).
pub(super) struct Offer {
    pub(super) instance: Arc<Instance>,
    pub(super) registration: Registration,
    /// A newer owner has the key; `registration` says so as soon as this handle can know.
    pub(super) overtaken: bool,
}

/// Why and since when the server isn't heard.
#[derive(Clone)]
pub(super) struct Outage {
    since: Instant,
    reason: Arc<str>,
}

impl Session {
    pub(super) fn new() -> Self {
        Self {
            publisher: Publisher::new(),
            cut_off: None,
            offers: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            feeds: HashMap::new(),
            sweep_at: FEEDS_SWEEP_MIN,
        }
    }

    /// The offer under `key`, unless a newer owner is known to have it.
    pub(super) fn owned(&self, key: &InstanceKey) -> Option<&Offer> {
        let offer = self.offers.get(key)?;
        (!offer.registration.is_superseded()).then_some(offer)
    }

    /// Keys under which the server may hold entries of this session.
    pub(super) fn keys(&self) -> Vec<InstanceKey> {
        let keys = self.offers.keys().chain(&self.withdrawn);
        keys.cloned().collect()
    }

    /// Own instances that `selector` selects: all a handle knows before it hears the server.
    pub(super) fn own(&self, selector: &Selector) -> Vec<Arc<Instance>> {
        let selected = self.offers.keys().filter(|key| selector.selects(key));
        let owned = selected.filter_map(|key| self.owned(key));
        owned.map(|offer| offer.instance.clone()).collect()
    }

    pub(super) fn add_feed(&mut self, feed: Feed) {
        self.feeds.insert(feed.selector().clone(), feed);
        if self.feeds.len() >= self.sweep_at {
            self.sweep();
            self.sweep_at = FEEDS_SWEEP_MIN.max(self.feeds.len() * 2);
        }
    }

    pub(super) fn feed(&self, selector: &Selector) -> Option<&Feed> {
        self.feeds.get(selector)
    }

    pub(super) fn feeds(&self) -> impl Iterator<Item = &Feed> {
        self.feeds.values()
    }

    /// Ends the feeds that nobody watches any more. Nobody can join one meanwhile: that takes the
    /// registry's lock.
    pub(super) fn sweep(&mut self) {
        self.feeds.retain(|_, feed| !feed.is_unused());
    }

    /// Changes one instance in views that are otherwise left as they are.
    pub(super) fn amend(&self, key: &InstanceKey, instance: Option<&Arc<Instance>>) {
        for feed in self.feeds().filter(|feed| feed.selector().selects(key)) {
            let view = feed.view();
            let others = view.iter().filter(|other| other.key() != key);
            let instances = others.chain(instance).cloned().collect();
            feed.publish(instances, view.freshness().clone());
        }
    }
}

impl Outage {
    pub(super) fn new(reason: &str) -> Self {
        Self {
            since: Instant::now(),
            reason: reason.into(),
        }
    }

    pub(super) fn freshness(&self) -> Freshness {
        Freshness::Stale {
            since: self.since,
            reason: self.reason.clone(),
        }
    }

    pub(super) fn connection(&self) -> Connection {
        Connection::Disconnected {
            since: self.since,
            reason: self.reason.clone(),
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
