//! What this handle offers: desired state, and how far each of it has come.
//!
//! The verbs change the desired state at once, under a lock, in call order; a [`worker`] a key
//! brings it to the server. Callers wait for their change to arrive, but not longer than the server
//! is heard.

mod creation;
mod guards;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tidings_api::{
    Error, ErrorKind, Generation, Health, Instance, InstanceId, InstanceKey, Registration, Removal,
    Result, Selector, ServiceName,
};
use tokio::sync::{oneshot, watch};

use self::creation::Creations;
use self::guards::Guards;
pub(crate) use self::worker::{Turns, work};
use crate::content::Encoder;
use crate::error::BACKEND;

/// Everything a handle offers or is taking back.
#[derive(Debug)]
pub(crate) struct Registrations {
    encoder: Encoder,
    entries: Mutex<Entries>,
    creations: Creations,
    guards: Guards,
    /// Tries that are to panic.
    #[cfg(feature = "fault-injection")]
    panics: std::sync::atomic::AtomicUsize,
}

type Entries = HashMap<ServiceName, BTreeMap<InstanceId, Entry>>;

/// One key: what is wanted, and what is known of it.
#[derive(Debug)]
struct Entry {
    instance: Arc<Instance>,
    wanted: Wanted,
    /// Rises with every change of what is wanted.
    revision: u64,
    /// Tells the worker the revision.
    changed: watch::Sender<u64>,
    registration: Registration,
    /// It was offered a moment ago, by a caller who hears the server and still waits: it is newer
    /// than whatever is there, also where the clock of that owner is ahead.
    fresh: bool,
    /// It was in the server's hands before.
    was_registered: bool,
    /// The server refuses it, so that it is not shown as if it were there.
    refused: bool,
    /// It replaced somebody else's.
    took_over: bool,
    /// Whether a worker is at it.
    working: bool,
    waiting: Vec<Waiting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Offered,
    Withdrawn,
}

#[derive(Debug)]
struct Waiting {
    revision: u64,
    answer: oneshot::Sender<Result<()>>,
}

/// What a verb has asked for, and whether a worker has to be started for it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) start_worker: bool,
    /// `None` where there is nothing to wait for.
    pub(crate) answer: Option<oneshot::Receiver<Result<()>>>,
}

/// What the handle's views show of one of its keys.
#[derive(Clone, Debug)]
pub(crate) enum Own {
    /// This, unless the server has something newer.
    Offered(Arc<Instance>),
    /// What the server has, if anything: somebody newer has taken it over, or it is refused.
    AsOnServer,
}

/// What a worker is to do.
#[derive(Clone, Debug)]
struct Job {
    instance: Arc<Instance>,
    wanted: Wanted,
    revision: u64,
    fresh: bool,
    newest: watch::Receiver<u64>,
}

impl Job {
    /// Waits until something else is wanted.
    async fn outdated(&self) {
        let mut newest = self.newest.clone();
        // An error means that the key is forgotten, which is something else as well.
        let _forgotten = newest.wait_for(|newest| *newest != self.revision).await;
    }
}

/// The verbs.
impl Registrations {
    pub(crate) fn new(encoder: Encoder) -> Self {
        Self {
            encoder,
            entries: Mutex::default(),
            creations: Creations::default(),
            guards: Guards::default(),
            #[cfg(feature = "fault-injection")]
            panics: std::sync::atomic::AtomicUsize::default(),
        }
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Takes over what is offered. `heard` says whether the server is.
    pub(crate) fn offer(&self, instance: Instance, heard: bool) -> Result<Call> {
        let key = instance.key().clone();
        let mut entries = self.lock();
        let last = find(&mut entries, &key);
        let offered = last.as_ref().filter(|last| last.wanted == Wanted::Offered);
        let instance = match offered {
            // Still the same owner, so that watchers see an update, or nothing at all (REG-2).
            Some(last) if !last.registration.is_superseded() => instance
                .keeping_health_of(&last.instance)
                .with_generation(last.instance.generation()),
            Some(last) => anew(
                instance.keeping_health_of(&last.instance),
                last.instance.generation(),
            ),
            None => {
                let before = last.as_ref().map(|last| last.instance.generation());
                anew(instance, before.unwrap_or_default())
            }
        };
        self.encoder.encode(&instance)?;
        let Some(entry) = last else {
            let mut entry = Entry::new(instance, heard);
            let answer = entry.wait();
            let service = entries.entry(key.service().clone()).or_default();
            service.insert(key.id().clone(), entry);
            return Ok(Call {
                start_worker: true,
                answer: Some(answer),
            });
        };
        if instance.generation() != entry.instance.generation() {
            entry.start_anew(heard);
        } else if instance == *entry.instance {
            return Ok(entry.same_again());
        }
        entry.instance = Arc::new(instance);
        Ok(entry.change())
    }

    pub(crate) fn health(&self, key: &InstanceKey, health: Health) -> Result<Call> {
        let mut entries = self.lock();
        let owned = find(&mut entries, key).filter(|entry| entry.is_owned());
        let Some(entry) = owned else {
            let message = format!("{key} is not registered by this handle, or no longer");
            return Err(Error::new(ErrorKind::NotOwned, message)
                .with_backend(BACKEND)
                .with_operation("health"));
        };
        if *entry.instance.health() == health {
            return Ok(entry.same_again());
        }
        let instance = Instance::clone(&entry.instance).with_health(health);
        self.encoder.encode(&instance)?;
        entry.instance = Arc::new(instance);
        Ok(entry.change())
    }

    pub(crate) fn withdraw(&self, key: &InstanceKey) -> (Removal, Option<Call>) {
        let mut entries = self.lock();
        let Some(entry) = find(&mut entries, key) else {
            return (Removal::Absent, None);
        };
        if entry.wanted == Wanted::Withdrawn {
            return (Removal::Absent, None);
        }
        if entry.registration.is_superseded() {
            remove(&mut entries, key);
            return (Removal::Absent, None);
        }
        entry.wanted = Wanted::Withdrawn;
        (Removal::Removed, Some(entry.change()))
    }

    /// Whether something is offered under a key, or being taken back.
    pub(crate) fn knows(&self, key: &InstanceKey) -> bool {
        find(&mut self.lock(), key).is_some()
    }

    /// Takes back what nobody offers, and the server has all the same. Says whether a worker has to
    /// be started for it.
    pub(crate) fn take_back(&self, instance: Instance) -> bool {
        let key = instance.key().clone();
        let mut entries = self.lock();
        if find(&mut entries, &key).is_some() {
            return false;
        }
        let mut entry = Entry::new(instance, false);
        entry.wanted = Wanted::Withdrawn;
        let service = entries.entry(key.service().clone()).or_default();
        service.insert(key.id().clone(), entry);
        true
    }

    pub(crate) fn statuses(&self) -> Vec<(InstanceKey, Registration)> {
        let entries = self.lock();
        let all = entries.values().flat_map(BTreeMap::values);
        let offered = all.filter(|entry| entry.wanted == Wanted::Offered);
        offered
            .map(|entry| (entry.instance.key().clone(), entry.registration.clone()))
            .collect()
    }

    /// What this handle's own views show of its keys whatever the server says (REG-1): the
    /// instance, or what the server has where that is not to be said.
    pub(crate) fn shown(&self, selector: &Selector) -> BTreeMap<InstanceKey, Own> {
        let entries = self.lock();
        let shown = |service: &BTreeMap<InstanceId, Entry>| {
            let shown = service
                .values()
                .filter(|entry| entry.wanted == Wanted::Offered);
            shown
                .map(|entry| (entry.instance.key().clone(), entry.shown()))
                .collect::<Vec<_>>()
        };
        match selector {
            Selector::Service(name) => entries.get(name).map(shown).into_iter().flatten().collect(),
            Selector::All => entries.values().flat_map(shown).collect(),
        }
    }

    /// The newest of each service that the server may have, and the keys that were taken over from
    /// others; for the note of a handle that closes.
    pub(crate) fn leaving(&self) -> Vec<(ServiceName, Generation, Vec<Arc<Instance>>)> {
        let entries = self.lock();
        let mut leaving = Vec::new();
        for (service, entries) in &*entries {
            let held = entries
                .values()
                .filter(|entry| !entry.registration.is_superseded());
            let newest = held.clone().map(|entry| entry.instance.generation()).max();
            let taken = held.filter(|entry| entry.took_over);
            if let Some(newest) = newest {
                let taken = taken.map(|entry| entry.instance.clone()).collect();
                leaving.push((service.clone(), newest, taken));
            }
        }
        leaving
    }

    /// Forgets everything: nobody gets an answer any more.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Lets the next tries panic.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn panic_next(&self, tries: usize) {
        self.panics
            .store(tries, std::sync::atomic::Ordering::SeqCst);
    }

    #[cfg(feature = "fault-injection")]
    fn panic_if_told(&self) {
        use std::sync::atomic::Ordering::SeqCst;
        let told = self
            .panics
            .fetch_update(SeqCst, SeqCst, |tries| tries.checked_sub(1));
        assert!(told.is_err(), "as a test has told it to");
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What workers do.
impl Registrations {
    fn job(&self, key: &InstanceKey) -> Option<Job> {
        let mut entries = self.lock();
        find(&mut entries, key).map(|entry| Job {
            instance: entry.instance.clone(),
            wanted: entry.wanted,
            revision: entry.revision,
            fresh: entry.fresh,
            newest: entry.changed.subscribe(),
        })
    }

    /// How many keys of a service there is something to do for.
    fn count(&self, service: &ServiceName) -> usize {
        self.lock().get(service).map_or(0, BTreeMap::len)
    }

    /// The server has what was wanted by `job`. Returns who is to be told, once it is shown.
    fn settled(&self, key: &InstanceKey, job: &Job) -> Vec<Waiting> {
        let mut entries = self.lock();
        let Some(entry) = find(&mut entries, key) else {
            return Vec::new();
        };
        // It may have been taken back and offered anew meanwhile, of which the server knows nothing.
        if entry.instance.generation() == job.instance.generation() {
            entry.fresh = false;
            entry.refused = false;
            entry.was_registered |= entry.wanted == Wanted::Offered;
        }
        if entry.revision == job.revision {
            entry.registration = Registration::Registered;
        }
        entry.waited(job.revision)
    }

    /// It is tried again later; whoever waits need not any more.
    fn pending(&self, key: &InstanceKey, error: Option<Error>) {
        let mut entries = self.lock();
        let Some(entry) = find(&mut entries, key) else {
            return;
        };
        entry.fresh = false;
        entry.pend(error);
        entry.answer(u64::MAX, &Ok(()));
    }

    /// The server refuses it. What it never had is given up, with the error for whoever waits; says
    /// whether it was.
    fn denied(&self, key: &InstanceKey, error: Error) -> bool {
        let mut entries = self.lock();
        let Some(entry) = find(&mut entries, key) else {
            return true;
        };
        let waited_for = !entry.waiting.is_empty();
        let give_up = waited_for && !entry.was_registered && entry.wanted == Wanted::Offered;
        entry.fresh = false;
        entry.refused = entry.wanted == Wanted::Offered;
        if give_up {
            let operation = format!("register {key}");
            entry.answer(u64::MAX, &Err(error.with_operation(operation)));
            remove(&mut entries, key);
        } else {
            entry.pend(Some(error));
            entry.answer(u64::MAX, &Ok(()));
        }
        give_up
    }

    /// The work on it panicked, which whoever waits is told. What the server was not known to have
    /// is taken back: its caller was told that it is not registered.
    fn broken(&self, key: &InstanceKey, error: Error) {
        let mut entries = self.lock();
        let Some(entry) = find(&mut entries, key) else {
            return;
        };
        entry.fresh = false;
        entry.pend(Some(error.clone()));
        let waited_for = !entry.waiting.is_empty();
        entry.answer(u64::MAX, &Err(error));
        if waited_for && !entry.was_registered && entry.wanted == Wanted::Offered {
            entry.wanted = Wanted::Withdrawn;
            entry.revision += 1;
            entry.changed.send_replace(entry.revision);
        }
    }

    /// A newer owner has the key. Says whether this ends the work on it.
    pub(crate) fn superseded(&self, key: &InstanceKey, revision: u64) -> bool {
        let mut entries = self.lock();
        let Some(entry) = find(&mut entries, key) else {
            return true;
        };
        if entry.wanted == Wanted::Withdrawn {
            entry.answer(u64::MAX, &Ok(()));
            remove(&mut entries, key);
            return true;
        }
        if entry.revision != revision && entry.fresh {
            return false;
        }
        entry.registration = Registration::Superseded;
        entry.working = false;
        entry.answer(u64::MAX, &Ok(()));
        true
    }

    /// Raises the generation of a fresh offer above that of the owner it replaces; a mirror
    /// replaces none.
    fn raise(&self, key: &InstanceKey, revision: u64, above: Generation) -> Option<Arc<Instance>> {
        let mut entries = self.lock();
        let entry = find(&mut entries, key)?;
        if entry.revision != revision || !entry.fresh {
            return None;
        }
        let instance = anew(Instance::clone(&entry.instance), above);
        if instance.generation() < above {
            return None;
        }
        entry.instance = Arc::new(instance);
        Some(entry.instance.clone())
    }

    fn took_over(&self, key: &InstanceKey) {
        if let Some(entry) = find(&mut self.lock(), key) {
            entry.took_over = true;
        }
    }

    /// What was taken back is gone from the server; whoever waits for that is told.
    fn withdrawn(&self, key: &InstanceKey, revision: u64) {
        if let Some(entry) = find(&mut self.lock(), key) {
            entry.answer(revision, &Ok(()));
        }
    }

    /// Forgets a key that was taken back, unless it is wanted again; says whether it was forgotten.
    fn forget(&self, key: &InstanceKey, revision: u64) -> bool {
        let mut entries = self.lock();
        let wanted_again = find(&mut entries, key).is_some_and(|entry| entry.revision != revision);
        if !wanted_again {
            remove(&mut entries, key);
        }
        !wanted_again
    }
}

impl Entry {
    fn new(instance: Instance, heard: bool) -> Self {
        Self {
            instance: Arc::new(instance),
            wanted: Wanted::Offered,
            revision: 1,
            changed: watch::Sender::new(1),
            registration: Registration::Pending {
                since: Instant::now(),
                last_error: None,
            },
            fresh: heard,
            was_registered: false,
            refused: false,
            took_over: false,
            working: true,
            waiting: Vec::new(),
        }
    }

    fn is_owned(&self) -> bool {
        self.wanted == Wanted::Offered && !self.registration.is_superseded()
    }

    fn shown(&self) -> Own {
        if self.registration.is_superseded() || self.refused {
            Own::AsOnServer
        } else {
            Own::Offered(self.instance.clone())
        }
    }

    fn start_anew(&mut self, heard: bool) {
        self.wanted = Wanted::Offered;
        self.fresh = heard;
        self.refused = false;
        self.was_registered = false;
        self.took_over = false;
    }

    fn change(&mut self) -> Call {
        self.revision += 1;
        if self.wanted == Wanted::Offered {
            self.pend(None);
        }
        self.changed.send_replace(self.revision);
        let start_worker = !std::mem::replace(&mut self.working, true);
        Call {
            start_worker,
            answer: Some(self.wait()),
        }
    }

    /// Nothing changes; what is on its way is waited for.
    fn same_again(&mut self) -> Call {
        Call {
            start_worker: false,
            answer: (!self.registration.is_registered()).then(|| self.wait()),
        }
    }

    fn wait(&mut self) -> oneshot::Receiver<Result<()>> {
        let (answer, receiver) = oneshot::channel();
        self.waiting.push(Waiting {
            revision: self.revision,
            answer,
        });
        receiver
    }

    fn answer(&mut self, revision: u64, with: &Result<()>) {
        for waiting in self.waited(revision) {
            waiting.tell(with.clone());
        }
    }

    /// Those who wait for this revision or one before; they don't any more.
    fn waited(&mut self, revision: u64) -> Vec<Waiting> {
        let waited = |waiting: &mut Waiting| waiting.revision <= revision;
        self.waiting.extract_if(.., waited).collect()
    }

    fn pend(&mut self, error: Option<Error>) {
        let (since, last) = match &self.registration {
            Registration::Pending { since, last_error } => (*since, last_error.clone()),
            _ => (Instant::now(), None),
        };
        self.registration = Registration::Pending {
            since,
            last_error: error.or(last),
        };
    }
}

impl Waiting {
    fn tell(self, result: Result<()>) {
        // Who has given up waiting is not interested.
        let _given_up = self.answer.send(result);
    }
}

/// The instance as a new owner's, above what was seen of the key.
fn anew(instance: Instance, seen: Generation) -> Instance {
    let generation = instance.next_generation(seen);
    instance.with_generation(generation)
}

fn find<'e>(entries: &'e mut Entries, key: &InstanceKey) -> Option<&'e mut Entry> {
    entries.get_mut(key.service())?.get_mut(key.id())
}

fn remove(entries: &mut Entries, key: &InstanceKey) {
    if let Some(service) = entries.get_mut(key.service()) {
        service.remove(key.id());
        if service.is_empty() {
            entries.remove(key.service());
        }
    }
}
