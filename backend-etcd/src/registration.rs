//! Desired state: what a handle offers, and one task a key that keeps etcd like it.
//!
//! A verb changes the desired state of its key, at once and in call order, and waits until the task
//! has brought it to etcd, or until that can't be had in time. The task never gives up, and always
//! works towards the *newest* desired state, so that neither an old content nor something that was
//! deregistered can come back by a retry.
//!
//! # Ownership
//! Every write is a transaction on the revision that the owner last saw of its key, so nobody
//! overwrites what it doesn't know. What stands there otherwise decides by its generation: a newer
//! one supersedes this registration, an older one is replaced. While the key is out of sight, its
//! history tells on return whether a newer owner was there and has gone again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidings_api::{
    Error, ErrorKind, Generation, Health, Instance, InstanceKey, Registration, Removal, Result,
};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::client::Link;
use crate::error::error;
use crate::guard::Guard;
use crate::keys::Keys;
use crate::lease::Lease;
use crate::owner::Owner;
use crate::tasks::Tasks;
use crate::views::{Own, Views};
use crate::writes::Writes;

/// Reads under way at once, so that an outage with thousands of keys doesn't end in a flood.
const READS_MAX: usize = 128;

/// What closing may take for each registration, beside the time of a call.
const CLOSE_TIME_EACH: Duration = Duration::from_millis(2);

/// All registrations of one handle.
pub(crate) struct Registrar {
    context: Arc<Context>,
    leases: Vec<Arc<Lease>>,
    slots: Arc<Mutex<Slots>>,
}

/// What every registration needs.
pub(crate) struct Context {
    pub(crate) link: Arc<Link>,
    pub(crate) keys: Keys,
    pub(crate) views: Arc<Views>,
    pub(crate) guard: Guard,
    /// Names this handle in what it writes.
    pub(crate) handle: String,
    pub(crate) writes: Writes,
    pub(crate) reads: Semaphore,
    /// The leases are about to be revoked, with all that hangs on them.
    pub(crate) closing: AtomicBool,
}

/// The keys that have a task.
#[derive(Default)]
pub(crate) struct Slots {
    closed: bool,
    /// Registrations take leases in turn; the first that takes one starts it.
    leases_taken: usize,
    map: BTreeMap<InstanceKey, Arc<Slot>>,
}

/// One key: what is desired, and how far it has come.
pub(crate) struct Slot {
    pub(crate) key: InstanceKey,
    pub(crate) lease: Arc<Lease>,
    pub(crate) state: watch::Sender<Desired>,
}

/// The desired state of one key.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// Grows with every change of what is desired.
    pub(crate) version: u64,
    /// What is offered; `None` once it is withdrawn.
    pub(crate) instance: Option<Arc<Instance>>,
    /// The version that etcd has.
    pub(crate) done: u64,
    /// What etcd has had of it last.
    pub(crate) confirmed: Option<Arc<Instance>>,
    /// Calls under way that make this the newest owner, whatever generation is found.
    pub(crate) claims: usize,
    /// The newest generation known of the key.
    pub(crate) seen: Generation,
    /// A newer owner has the key.
    pub(crate) superseded: bool,
    /// Since when etcd hasn't what is desired.
    pub(crate) pending_since: Instant,
    /// What the last try ended with.
    pub(crate) last_error: Option<Error>,
}

impl Context {
    pub(crate) fn new(
        link: Arc<Link>,
        keys: Keys,
        views: Arc<Views>,
        guard: Guard,
        writes: Writes,
    ) -> Self {
        Self {
            link,
            keys,
            views,
            guard,
            handle: format!("{:016x}", fastrand::u64(..)),
            writes,
            reads: Semaphore::new(READS_MAX),
            closing: AtomicBool::new(false),
        }
    }
}

impl Registrar {
    pub(crate) fn new(context: Context, leases: u16, ttl: Duration) -> Self {
        let lease = |_| Arc::new(Lease::new(context.link.clone(), ttl));
        Self {
            leases: (0..leases).map(lease).collect(),
            slots: Arc::default(),
            context: Arc::new(context),
        }
    }

    pub(crate) async fn register(&self, instance: Instance, tasks: &Tasks) -> Result<InstanceKey> {
        let key = instance.key().clone();
        let (slot, change, _claim) = self.offer(instance, tasks)?;
        self.settle_or_undo(&slot, change).await?;
        Ok(key)
    }

    pub(crate) async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        let (slot, version) = {
            let slots = self.lock()?;
            let Some(slot) = slots.map.get(key) else {
                return Ok(Removal::Absent);
            };
            let Some((generation, version)) = slot.withdraw() else {
                return Ok(Removal::Absent);
            };
            let own = Own::Withdrawn(generation);
            self.context.views.set_own(key, Some(own));
            (slot.clone(), version)
        };
        // Whether etcd could be told or not, it will be: the task does nothing else from here on.
        let _ = self.settle(&slot, version).await;
        Ok(Removal::Removed)
    }

    pub(crate) async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        let (slot, change) = {
            let slots = self.lock()?;
            let slot = slots.map.get(key);
            let changed = slot.and_then(|slot| Some((slot.clone(), slot.set_health(health)?)));
            changed.ok_or_else(|| {
                let message = format!("{key} is not registered by this handle, or no longer");
                error(ErrorKind::NotOwned, message).with_operation("health")
            })?
        };
        self.settle_or_undo(&slot, change).await
    }

    pub(crate) fn status(&self) -> Vec<(InstanceKey, Registration)> {
        let slots = lock(&self.slots);
        let registrations = slots.map.iter();
        registrations
            .filter_map(|(key, slot)| Some((key.clone(), slot.registration()?)))
            .collect()
    }

    /// The leases that registrations hang on at present.
    pub(crate) fn leases(&self) -> Vec<i64> {
        let ids = self.leases.iter().filter_map(|lease| lease.state().id);
        ids.collect()
    }

    /// Lets no verb through any more, withdraws everything, and waits until etcd knows.
    pub(crate) async fn close(&self) -> Result<()> {
        self.context.closing.store(true, Ordering::Relaxed);
        let slots: Vec<_> = {
            let mut slots = lock(&self.slots);
            slots.closed = true;
            slots.map.values().cloned().collect()
        };
        for slot in &slots {
            slot.withdraw();
        }
        let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let deadline = Instant::now() + self.context.link.timing().call + CLOSE_TIME_EACH * count;
        let tell = async {
            for slot in &slots {
                let mut state = slot.state.subscribe();
                // The sender is in the slot, so it isn't gone.
                let _ = state.wait_for(|state| state.done == state.version).await;
            }
            for lease in &self.leases {
                lease.revoke().await.map_err(|fault| fault.to_error())?;
            }
            Ok(())
        };
        // To its end, also where etcd isn't heard at present: an election is over sooner than a lease.
        let told = timeout_at(deadline, tell).await;
        let told = told.unwrap_or_else(|_| Err(silent()));
        told.map_err(|cause: Error| {
            let message = "etcd could not be told: the registrations end with their leases";
            let error = error(ErrorKind::Unavailable, message);
            error.with_operation("close").with_source(cause)
        })
    }

    /// Makes `instance` what is desired under its key.
    fn offer(&self, instance: Instance, tasks: &Tasks) -> Result<(Arc<Slot>, Change, Claim)> {
        let mut slots = self.lock()?;
        let key = instance.key().clone();
        let slot = match slots.map.get(&key) {
            Some(slot) => slot.clone(),
            None => {
                let slot = Arc::new(Slot::new(key.clone(), self.take_lease(&mut slots, tasks)));
                slots.map.insert(key, slot.clone());
                let owner = Owner::new(self.context.clone(), slot.clone(), self.slots.clone());
                tasks.spawn(owner.run());
                slot
            }
        };
        let change = slot.offer(instance);
        Ok((slot.clone(), change, Claim(slot)))
    }

    fn take_lease(&self, slots: &mut Slots, tasks: &Tasks) -> Arc<Lease> {
        let lease = self.leases[slots.leases_taken % self.leases.len()].clone();
        if slots.leases_taken < self.leases.len() {
            let lease = lease.clone();
            tasks.spawn(async move { lease.keep().await });
        }
        slots.leases_taken += 1;
        lease
    }

    /// The same as [`settle`](Self::settle); takes the change back where etcd refuses it.
    async fn settle_or_undo(&self, slot: &Slot, change: Change) -> Result<()> {
        let settled = self.settle(slot, change.version).await;
        if settled.is_err() {
            slot.undo(change, &self.context.views);
        }
        settled
    }

    /// Waits until etcd has what was desired, or until that has to wait.
    async fn settle(&self, slot: &Slot, version: u64) -> Result<()> {
        let mut state = slot.state.subscribe();
        let link = &self.context.link;
        let settled = async {
            let settled = state.wait_for(|state| state.is_settled(version)).await;
            settled
                .ok()
                .and_then(|state| state.denial(version).cloned())
        };
        let denial = tokio::select! {
            biased;
            settled = timeout(link.timing().call, settled) => settled.ok().flatten(),
            () = link.disconnected() => None,
        };
        if let Some(denial) = denial {
            return Err(denial);
        }
        slot.show_pending(version, &self.context.views);
        Ok(())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Slots>> {
        let slots = lock(&self.slots);
        if slots.closed {
            return Err(Error::closed().with_backend("etcd"));
        }
        Ok(slots)
    }
}

impl Slots {
    /// Ends a slot that nothing is desired of; says whether it is so.
    pub(crate) fn remove(slots: &Mutex<Self>, slot: &Slot, version: u64) -> bool {
        let mut slots = lock(slots);
        // A verb changes the version under the same lock.
        let is_unused = slot.state.borrow().version == version;
        if is_unused {
            slots.map.remove(&slot.key);
        }
        is_unused
    }
}

impl Slot {
    fn new(key: InstanceKey, lease: Arc<Lease>) -> Self {
        let state = watch::Sender::new(Desired {
            version: 0,
            instance: None,
            done: 0,
            confirmed: None,
            claims: 0,
            seen: Generation::default(),
            superseded: false,
            pending_since: Instant::now(),
            last_error: None,
        });
        Self { key, lease, state }
    }

    /// Offers `instance` from now on.
    fn offer(&self, instance: Instance) -> Change {
        let mut change = Change::default();
        self.state.send_modify(|state| {
            change.before = state.offered().cloned();
            change.version = state.offer(instance);
            state.claims += 1;
        });
        change
    }

    fn set_health(&self, health: Health) -> Option<Change> {
        let mut change = None;
        self.state.send_if_modified(|state| {
            change = state.offered().cloned().map(|offered| {
                let instance = Instance::clone(&offered).with_health(health);
                let version = match instance == *offered {
                    true => state.version,
                    false => state.want(Some(Arc::new(instance))),
                };
                let before = Some(offered);
                Change { version, before }
            });
            change.is_some()
        });
        change
    }

    /// Offers nothing from now on; returns what was offered until then, and the version to wait for.
    fn withdraw(&self) -> Option<(Generation, u64)> {
        let mut withdrawn = None;
        self.state.send_if_modified(|state| {
            if state.instance.is_none() {
                return false;
            }
            let generation = state.offered().map(|offered| offered.generation());
            let version = state.want(None);
            state.superseded = false;
            withdrawn = generation.map(|generation| (generation, version));
            true
        });
        withdrawn
    }

    /// Takes a refused change back: what was desired before is desired again, also where etcd never
    /// had it.
    fn undo(&self, change: Change, views: &Views) {
        let Change { version, before } = change;
        self.state.send_if_modified(|state| {
            if state.version != version || state.instance == before {
                return false;
            }
            views.set_own(&self.key, before.clone().map(Own::Offered));
            state.want(before);
            true
        });
    }

    /// Shows to own watches what etcd hasn't yet.
    fn show_pending(&self, version: u64, views: &Views) {
        // Under the lock, so that what is withdrawn meanwhile isn't shown.
        self.state.send_if_modified(|state| {
            let is_pending = state.version == version && state.done < version;
            if let Some(offered) = state.offered().filter(|_| is_pending) {
                views.set_own(&self.key, Some(Own::Offered(offered.clone())));
            }
            false
        });
    }

    fn registration(&self) -> Option<Registration> {
        let state = self.state.borrow();
        let lease = self.lease.state();
        state.instance.as_ref()?;
        let has_all = state.done == state.version;
        if state.superseded {
            return Some(Registration::Superseded);
        }
        if has_all && lease.is_held() {
            return Some(Registration::Registered);
        }
        let since = match has_all {
            true => lease.expires,
            false => state.pending_since,
        };
        Some(Registration::Pending {
            since: since.into_std(),
            last_error: state.last_error.clone().or(lease.error),
        })
    }
}

impl Desired {
    /// What is offered, unless a newer owner has the key.
    pub(crate) fn offered(&self) -> Option<&Arc<Instance>> {
        self.instance.as_ref().filter(|_| !self.superseded)
    }

    /// Offers `instance`: as an update of what is offered, or as a new owner.
    fn offer(&mut self, instance: Instance) -> u64 {
        let instance = match &self.instance {
            Some(last) => instance.keeping_health_of(last),
            None => instance,
        };
        let generation = self.offered().map(|offered| offered.generation());
        let generation = generation.unwrap_or_else(|| instance.next_generation(self.seen));
        let instance = instance.with_generation(generation);
        if self.offered().is_some_and(|offered| **offered == instance) {
            return self.version;
        }
        self.superseded = false;
        self.seen = self.seen.max(generation);
        self.want(Some(Arc::new(instance)))
    }

    /// Changes what is desired.
    fn want(&mut self, instance: Option<Arc<Instance>>) -> u64 {
        if self.done == self.version {
            self.pending_since = Instant::now();
        }
        self.version += 1;
        self.instance = instance;
        self.last_error = None;
        self.version
    }

    fn is_settled(&self, version: u64) -> bool {
        self.done >= version || self.superseded || self.denial(version).is_some()
    }

    /// Why etcd refuses this version, where it does.
    fn denial(&self, version: u64) -> Option<&Error> {
        let is_offer = self.version == version && self.instance.is_some();
        let is_final = |error: &&Error| is_offer && !error.is_retryable();
        self.last_error.as_ref().filter(is_final)
    }
}

/// What a call changed.
#[derive(Default)]
struct Change {
    /// The version to wait for.
    version: u64,
    /// What was offered before.
    before: Option<Arc<Instance>>,
}

/// A `register` under way, which makes this the newest owner of its key.
struct Claim(Arc<Slot>);

impl Drop for Claim {
    fn drop(&mut self) {
        // Nobody waits for that.
        self.0.state.send_if_modified(|state| {
            state.claims -= 1;
            false
        });
    }
}

fn silent() -> Error {
    error(ErrorKind::Timeout, "etcd does not answer")
}

fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}
