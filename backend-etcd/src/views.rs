//! What the watches of a handle show: what etcd says, with what the handle itself knows better.
//!
//! A handle knows of its own instances before etcd tells it, and of some that etcd can't be told at
//! present. So every view is etcd's entries with the handle's own laid over them: what it offers is
//! shown in its newest form, what it has withdrawn is not shown, unless etcd has something newer.
//! That is how a new watch shows what was just registered, without waiting for etcd to say so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client::KeyValue;
use tidings_api::{
    Error, Feed, Freshness, Generation, Instance, InstanceKey, Publisher, Result, Selector,
    Subscription, Watch,
};
use tokio::sync::watch;
use tokio::time::Instant;

/// Keys that can't be read are remembered up to this number, so that each is logged once.
const UNREADABLE_KEYS_MAX: usize = 10_000;

/// The watches of one handle.
#[derive(Default)]
pub(crate) struct Views {
    publisher: Publisher,
    /// Whoever publishes or joins holds this lock, so that a view which nobody watches ends while
    /// nobody joins it.
    live: Mutex<HashMap<Selector, Arc<LiveView>>>,
    own: Mutex<BTreeMap<InstanceKey, Own>>,
    unreadable: AtomicU64,
    unreadable_keys: Mutex<HashSet<Vec<u8>>>,
}

/// What a handle knows of a key of its own.
#[derive(Clone, Debug)]
pub(crate) enum Own {
    Offered(Arc<Instance>),
    /// Withdrawn, up to this generation.
    Withdrawn(Generation),
}

/// One selector's view, and what it is made of.
pub(crate) struct LiveView {
    feed: Feed,
    remote: Mutex<Remote>,
    first: watch::Sender<First>,
}

/// How the first try to read a view ended, or the last one until one succeeded.
pub(crate) type First = Option<Result<()>>;

/// What etcd says.
#[derive(Debug)]
pub(crate) struct Remote {
    entries: BTreeMap<InstanceKey, Entry>,
    freshness: Freshness,
}

#[derive(Debug)]
struct Entry {
    instance: Arc<Instance>,
    revision: i64,
    digest: u64,
    lost: Option<Lost>,
}

/// An instance that vanished without its owner asking, and is shown for a while yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    pub(crate) until: Instant,
    /// An outage may be to blame, and not the owner.
    pub(crate) in_outage: bool,
}

/// An instance as read from etcd, when it was written, and as what.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    instance: Arc<Instance>,
    revision: i64,
    digest: u64,
}

impl Found {
    pub(crate) fn new(kv: &KeyValue, instance: Arc<Instance>) -> Self {
        Self {
            instance,
            revision: kv.mod_revision(),
            digest: digest_of(kv),
        }
    }
}

impl Views {
    /// A watch, how the first try to read its view went, and the view where somebody has to keep it.
    pub(crate) fn watch(
        &self,
        selector: Selector,
    ) -> Result<(Watch, watch::Receiver<First>, Option<Arc<LiveView>>)> {
        let mut live = self.live();
        match self.publisher.watch(selector.clone())? {
            Subscription::Joined(watch) => {
                let view = live.get(&selector).ok_or_else(Error::closed)?;
                Ok((watch, view.first.subscribe(), None))
            }
            Subscription::First(watch, feed) => {
                let view = Arc::new(LiveView {
                    feed,
                    remote: Mutex::new(Remote {
                        entries: BTreeMap::new(),
                        freshness: Freshness::stale("nothing was heard from etcd yet"),
                    }),
                    first: watch::Sender::new(None),
                });
                view.publish(&view.remote(), &self.own());
                live.insert(selector, view.clone());
                Ok((watch, view.first.subscribe(), Some(view)))
            }
        }
    }

    /// Ends a view that nobody watches; gives it back where somebody does again.
    pub(crate) fn retire(&self, view: Arc<LiveView>) -> Result<(), Arc<LiveView>> {
        let mut live = self.live();
        if !view.feed.is_unused() {
            return Err(view);
        }
        live.remove(view.feed.selector());
        drop(view);
        Ok(())
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        self.publisher.close();
    }

    /// Number of selectors that are watched.
    pub(crate) fn subscriptions(&self) -> usize {
        self.publisher.feeds()
    }

    /// Lays something over what etcd says of a key; `None` leaves that to etcd again.
    pub(crate) fn set_own(&self, key: &InstanceKey, own: Option<Own>) {
        {
            let mut owned = self.own();
            match own {
                Some(own) => owned.insert(key.clone(), own),
                None => owned.remove(key),
            };
        }
        self.publish(key);
    }

    /// Takes away what [`set_own`](Self::set_own) said of a key that was deleted at `revision`, and
    /// what views still have from before that.
    pub(crate) fn forget(&self, key: &InstanceKey, revision: i64) {
        for view in self.live().values() {
            let mut remote = view.remote();
            if remote
                .entries
                .get(key)
                .is_some_and(|entry| entry.revision <= revision)
            {
                remote.entries.remove(key);
            }
        }
        self.set_own(key, None);
    }

    /// Changes a view, and publishes it.
    pub(crate) fn update(&self, view: &LiveView, change: impl FnOnce(&mut Remote)) {
        let mut remote = view.remote();
        change(&mut remote);
        view.publish(&remote, &self.own());
    }

    /// Looks at what etcd said last, without changing it.
    pub(crate) fn peek(&self, view: &LiveView, look: impl FnOnce(&Remote)) {
        look(&view.remote());
    }

    /// Number of entries that could not be read.
    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Counts an entry that can't be read, and logs it where its key is new.
    pub(crate) fn count_unreadable(&self, raw: &[u8], why: &str) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
        let mut keys = lock(&self.unreadable_keys);
        if keys.len() < UNREADABLE_KEYS_MAX && keys.insert(raw.to_vec()) {
            let key = raw.escape_ascii();
            tracing::warn!(key = %key, why, "an entry in etcd can't be read and is skipped");
        }
    }

    fn publish(&self, key: &InstanceKey) {
        let live = self.live();
        for view in live.values().filter(|view| view.selector().selects(key)) {
            view.publish(&view.remote(), &self.own());
        }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Selector, Arc<LiveView>>> {
        lock(&self.live)
    }

    fn own(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, Own>> {
        lock(&self.own)
    }
}

impl LiveView {
    pub(crate) fn selector(&self) -> &Selector {
        self.feed.selector()
    }

    /// Waits until nobody watches it.
    pub(crate) async fn unused(&self) {
        self.feed.unused().await;
    }

    /// Says how the first try to read it ended; later ones count until one has succeeded.
    pub(crate) fn set_first(&self, result: Result<()>) {
        self.first.send_if_modified(|first| {
            let counts = !matches!(first, Some(Ok(())));
            if counts {
                *first = Some(result);
            }
            counts
        });
    }

    /// When the next lost instance is to go, where there is one.
    pub(crate) fn next_loss(&self) -> Option<Instant> {
        let remote = self.remote();
        let lost = remote.entries.values().filter_map(|entry| entry.lost);
        lost.map(|lost| lost.until).min()
    }

    fn remote(&self) -> MutexGuard<'_, Remote> {
        lock(&self.remote)
    }

    fn publish(&self, remote: &Remote, own: &BTreeMap<InstanceKey, Own>) {
        let own_selected = || own.iter().filter(|(key, _)| self.selector().selects(key));
        let mut instances = Vec::with_capacity(remote.entries.len() + own.len());
        for (key, entry) in &remote.entries {
            let known = if own.is_empty() { None } else { own.get(key) };
            let generation = entry.instance.generation();
            let hidden = known.is_some_and(|own| match own {
                Own::Offered(own) => own.generation() >= generation,
                Own::Withdrawn(up_to) => *up_to >= generation,
            });
            if !hidden {
                instances.push(entry.instance.clone());
            }
        }
        // Where etcd has something newer than what is offered, `View` keeps the newer one.
        instances.extend(own_selected().filter_map(|(_, own)| match own {
            Own::Offered(instance) => Some(instance.clone()),
            Own::Withdrawn(_) => None,
        }));
        let held = || {
            let mut lost = remote.entries.values().filter_map(|entry| entry.lost);
            lost.any(|lost| lost.in_outage)
        };
        let freshness = match &remote.freshness {
            Freshness::Live if held() => {
                Freshness::stale("instances that vanished in an outage are held")
            }
            freshness => freshness.clone(),
        };
        self.feed.publish(instances, freshness);
    }
}

impl Remote {
    /// Replaces everything by a snapshot at `revision`. What is missing from it stays, as lost until
    /// `lost`, where that is given. Says whether anything is missing.
    pub(crate) fn replace(
        &mut self,
        snapshot: BTreeMap<InstanceKey, Found>,
        revision: i64,
        lost: Option<Lost>,
    ) -> bool {
        let old = std::mem::take(&mut self.entries);
        self.entries = snapshot
            .into_iter()
            .map(|(key, found)| (key, Entry::from(found)))
            .collect();
        let Some(lost) = lost else {
            return false;
        };
        let mut missing = false;
        for (key, entry) in old {
            self.entries.entry(key).or_insert_with(|| {
                missing = true;
                Entry {
                    // etcd may have lost its data and count anew: whatever comes is newer.
                    revision: entry.revision.min(revision),
                    lost: Some(entry.lost.unwrap_or(lost)),
                    ..entry
                }
            });
        }
        missing
    }

    pub(crate) fn set_freshness(&mut self, freshness: Freshness) {
        self.freshness = freshness;
    }

    /// The instance that `kv` holds, where it is known already: saves reading it again. By its
    /// content, as revisions and leases don't tell: an etcd that has lost its data, or was restored
    /// from a backup, counts anew.
    pub(crate) fn known(&self, key: &InstanceKey, kv: &KeyValue) -> Option<Arc<Instance>> {
        let entry = self.entries.get(key)?;
        (entry.digest == digest_of(kv)).then(|| entry.instance.clone())
    }

    pub(crate) fn put(&mut self, key: InstanceKey, found: Found) {
        self.entries.insert(key, found.into());
    }

    /// Whether `key` was last written before `revision`.
    pub(crate) fn is_older(&self, key: &InstanceKey, revision: i64) -> bool {
        let entry = self.entries.get(key);
        entry.is_none_or(|entry| entry.revision < revision)
    }

    /// Whether `key` is missing from the snapshot and held.
    pub(crate) fn is_lost(&self, key: &InstanceKey) -> bool {
        let entry = self.entries.get(key);
        entry.is_some_and(|entry| entry.lost.is_some())
    }

    pub(crate) fn remove(&mut self, key: &InstanceKey) {
        self.entries.remove(key);
    }

    /// Keeps an instance that vanished for a while, or until what it was lost to before is over.
    pub(crate) fn lose(&mut self, key: &InstanceKey, lost: Lost) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.lost.get_or_insert(lost);
        }
    }

    /// Lets go what is lost for good by now.
    pub(crate) fn drop_lost(&mut self, now: Instant) {
        self.entries
            .retain(|_, entry| entry.lost.is_none_or(|lost| now < lost.until));
    }
}

impl From<Found> for Entry {
    fn from(found: Found) -> Self {
        Self {
            instance: found.instance,
            revision: found.revision,
            digest: found.digest,
            lost: None,
        }
    }
}

fn digest_of(kv: &KeyValue) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(kv.value());
    hasher.finish()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
