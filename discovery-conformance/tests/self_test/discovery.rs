//! A handle of the memory backend with one flaw.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{
    Discovery, Error, ErrorKind, Health, Instance, InstanceKey, MemoryDiscovery, MemoryRegistry,
    Publisher, Registration, Removal, Result, Selector, Status, Subscription, Watch,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::flaw::Flaw;
use crate::view::Distortion;

/// Long enough to be seen, and to be overtaken.
const A_MOMENT: Duration = Duration::from_millis(3);
/// Longer than anything sound takes.
const TOO_LONG: Duration = Duration::from_millis(200);
/// So many watches are too many for `WaitsForReaders`.
const READERS_MAX: usize = 50;

/// What the handles of one flawed backend have in common.
pub(crate) struct Shared {
    pub(crate) flaw: Flaw,
    pub(crate) registry: MemoryRegistry,
    /// Grows when an outage ends.
    pub(crate) returns: AtomicUsize,
    /// What crashed owners had.
    pub(crate) losses: watch::Sender<BTreeSet<InstanceKey>>,
    handles: Mutex<Vec<Weak<Flawed>>>,
    watches: AtomicUsize,
    /// What a flaw keeps alive.
    leaked: Mutex<Vec<Arc<MemoryDiscovery>>>,
}

/// One flawed handle.
pub(crate) struct Flawed {
    shared: Arc<Shared>,
    number: usize,
    memory: Arc<MemoryDiscovery>,
    publisher: Publisher,
    /// What was registered, as it was first in this outage.
    registered: Mutex<BTreeMap<InstanceKey, Instance>>,
    changed_in_outage: Mutex<BTreeSet<InstanceKey>>,
    deregistered_in_outage: Mutex<Vec<InstanceKey>>,
    closed: AtomicBool,
    calls: AtomicUsize,
    kept: Mutex<Vec<Watch>>,
    apart: Mutex<Vec<MemoryDiscovery>>,
    distortions: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn new(flaw: Flaw) -> Arc<Self> {
        Arc::new(Self {
            flaw,
            registry: MemoryRegistry::new(),
            returns: AtomicUsize::new(0),
            losses: watch::Sender::default(),
            handles: Mutex::default(),
            watches: AtomicUsize::new(0),
            leaked: Mutex::default(),
        })
    }

    pub(crate) fn connect(self: &Arc<Self>) -> Arc<Flawed> {
        let mut handles = self.handles.lock().unwrap();
        let memory = Arc::new(self.registry.connect());
        if self.flaw == Flaw::OutlivesBeingDropped {
            self.leaked.lock().unwrap().push(memory.clone());
        }
        if self.flaw == Flaw::LeaksTasks {
            tokio::spawn(pending::<()>());
        }
        let handle = Arc::new(Flawed {
            shared: self.clone(),
            number: handles.len(),
            memory,
            publisher: Publisher::new(),
            registered: Mutex::default(),
            changed_in_outage: Mutex::default(),
            deregistered_in_outage: Mutex::default(),
            closed: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            kept: Mutex::default(),
            apart: Mutex::default(),
            distortions: Mutex::default(),
        });
        handles.push(Arc::downgrade(&handle));
        handle
    }

    pub(crate) fn handles(&self) -> Vec<Arc<Flawed>> {
        let handles = self.handles.lock().unwrap();
        handles.iter().filter_map(Weak::upgrade).collect()
    }
}

#[async_trait]
impl Discovery for Flawed {
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        let key = instance.key().clone();
        let last = self.registration(&key);
        let held = last.is_some();
        let superseded = last.is_some_and(|last| last.is_superseded());
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        match self.shared.flaw {
            Flaw::RegistersLater => {
                let memory = self.memory.clone();
                tokio::spawn(async move {
                    sleep(TOO_LONG).await;
                    memory.register(instance).await
                });
                return Ok(key);
            }
            Flaw::KeepsTheFirst if held => return Ok(key),
            Flaw::TakesAwayAndAddsAgain if held => {
                self.memory.deregister(&key).await?;
                sleep(A_MOMENT).await;
            }
            Flaw::KeepsTheFirstOfAnOutage if self.changed_before(&key) => return Ok(key),
            Flaw::GivesUpForEver if superseded => return Ok(key),
            Flaw::LetsCallsOvertake if call.is_multiple_of(2) => sleep(A_MOMENT).await,
            Flaw::WaitsForReaders if self.shared.watches.load(Ordering::SeqCst) > READERS_MAX => {
                return pending().await;
            }
            Flaw::RegistersAfterClose if self.closed.load(Ordering::SeqCst) => return Ok(key),
            _ => {}
        }
        let sent = self.distorted(instance.clone(), call)?;
        let registered = self.memory.register(sent).await;
        self.registered
            .lock()
            .unwrap()
            .insert(key, instance.clone());
        match self.shared.flaw {
            Flaw::RefusedWithAll if registered.is_err() => self.deregister_all().await,
            Flaw::SupersededWithAll => self.end_superseded(instance.key()).await,
            Flaw::FightsBack => self.fight_back(instance.key()).await,
            Flaw::HealthIsSetBack if held => {
                let health = Health::passing();
                self.memory.health(instance.key(), health).await?;
            }
            _ => {}
        }
        registered
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        match self.shared.flaw {
            Flaw::NeverDeregisters => return Ok(Removal::Removed),
            Flaw::DeregistersLater => {
                let (memory, key) = (self.memory.clone(), key.clone());
                tokio::spawn(async move {
                    sleep(TOO_LONG).await;
                    memory.deregister(&key).await
                });
                return Ok(Removal::Removed);
            }
            Flaw::DeregistersAfterTheOutage if !self.is_heard() => {
                self.deregistered_in_outage
                    .lock()
                    .unwrap()
                    .push(key.clone());
                return Ok(Removal::Removed);
            }
            _ => {}
        }
        let removal = self.memory.deregister(key).await?;
        match self.shared.flaw {
            Flaw::AlwaysRemoved => return Ok(Removal::Removed),
            Flaw::DeregistersForOthers => {
                for other in self.shared.handles() {
                    other.memory.deregister(key).await?;
                }
            }
            _ => {}
        }
        Ok(removal)
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        let flaw = self.shared.flaw;
        self.shared.watches.fetch_add(1, Ordering::SeqCst);
        if flaw == Flaw::SharesNothing {
            let apart = self.shared.registry.connect();
            let watch = apart.watch(selector).await;
            self.apart.lock().unwrap().push(apart);
            return watch;
        }
        let sound = self.memory.watch(flaw.widened(&selector)).await?;
        if flaw == Flaw::KeepsSubscriptions {
            self.kept.lock().unwrap().push(sound.clone());
        }
        if !flaw.is_shown() {
            return Ok(sound);
        }
        match self.publisher.watch(selector)? {
            Subscription::Joined(watch) => Ok(watch),
            Subscription::First(watch, feed) => {
                let mut distortion = Distortion::new(self.shared.clone(), self.number, feed);
                distortion.start(&sound.view());
                let task = tokio::spawn(distortion.run(sound));
                self.distortions.lock().unwrap().push(task);
                Ok(watch)
            }
        }
    }

    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        let registered = self.registered.lock().unwrap().get(key).cloned();
        match (self.shared.flaw, registered) {
            (Flaw::KeepsTheFirstOfAnOutage, _) if self.changed_before(key) => return Ok(()),
            (Flaw::HealthFlaps, Some(instance)) => {
                self.memory.deregister(key).await?;
                sleep(A_MOMENT).await;
                self.memory.register(instance.with_health(health)).await?;
                return Ok(());
            }
            _ => {}
        }
        let health = match (self.shared.flaw, health.note()) {
            (Flaw::TrimsNotes, Some(note)) => Health::from(health.state()).with_note(note.trim()),
            _ => health,
        };
        match self.memory.health(key, health).await {
            Err(_) if self.shared.flaw == Flaw::IgnoresOthersHealth => Ok(()),
            answer => answer,
        }
    }

    fn status(&self) -> Status {
        let status = self.memory.status();
        if self.shared.flaw != Flaw::AllIsRegistered {
            return status;
        }
        let keys = status.registrations().keys().cloned();
        let registered = keys.map(|key| (key, Registration::Registered));
        status
            .clone()
            .with_registrations(registered.collect::<Vec<_>>())
    }

    async fn close(&self) -> Result<()> {
        let again = self.closed.swap(true, Ordering::SeqCst);
        match self.shared.flaw {
            Flaw::ClosesOnce if again => return Err(Error::closed()),
            Flaw::ClosesOnlyWhenHeard if !self.is_heard() => return pending().await,
            Flaw::ClosesSilently => return Ok(()),
            _ => {}
        }
        let closed = self.memory.close().await;
        self.take_keys_along().await;
        closed
    }
}

/// Faults.
impl Flawed {
    pub(crate) async fn crash(&self) {
        match self.shared.flaw {
            Flaw::CrashesAreNotNoticed => return,
            Flaw::PassesLossesInAnOutage => self.shared.losses.send_modify(|lost| {
                lost.extend(self.registered.lock().unwrap().keys().cloned());
            }),
            _ => {}
        }
        self.memory.crash();
        self.take_keys_along().await;
    }

    pub(crate) fn cut_off(&self) {
        self.memory.cut_off();
    }

    pub(crate) async fn restore(&self) {
        self.shared.returns.fetch_add(1, Ordering::SeqCst);
        self.memory.restore();
        self.returned().await;
    }

    pub(crate) async fn expire(&self) {
        self.memory.expire();
        if self.shared.flaw == Flaw::ForgetsLostSessions {
            self.deregister_all().await;
        }
        self.returned().await;
    }

    /// An outage of any kind has ended.
    pub(crate) async fn returned(&self) {
        self.changed_in_outage.lock().unwrap().clear();
        let keys = std::mem::take(&mut *self.deregistered_in_outage.lock().unwrap());
        for key in keys {
            self.memory.deregister(&key).await.unwrap();
        }
        match self.shared.flaw {
            Flaw::RegistersEverythingAgain => {
                let registered = self.registered.lock().unwrap().clone();
                for instance in registered.into_values() {
                    self.memory.register(instance).await.unwrap();
                }
            }
            Flaw::HealthIsLostOnReturn => {
                for key in self.keys() {
                    self.memory.health(&key, Health::passing()).await.unwrap();
                }
            }
            _ => {}
        }
    }

    pub(crate) async fn deregister_all(&self) {
        for key in self.keys() {
            self.memory.deregister(&key).await.unwrap();
        }
    }

    pub(crate) fn end_watches(&self) {
        for distortion in &*self.distortions.lock().unwrap() {
            distortion.abort();
        }
    }

    pub(crate) fn subscriptions(&self) -> usize {
        let apart = self.apart.lock().unwrap();
        let apart: usize = apart.iter().map(MemoryDiscovery::subscriptions).sum();
        self.memory.subscriptions() + apart
    }
}

impl Flawed {
    fn registration(&self, key: &InstanceKey) -> Option<Registration> {
        self.memory.status().registration(key).cloned()
    }

    fn keys(&self) -> Vec<InstanceKey> {
        self.memory
            .status()
            .registrations()
            .keys()
            .cloned()
            .collect()
    }

    fn is_heard(&self) -> bool {
        self.memory.status().connection().is_connected()
    }

    /// Whether a key was changed in this outage before; from now on it was.
    fn changed_before(&self, key: &InstanceKey) -> bool {
        !self.is_heard() && !self.changed_in_outage.lock().unwrap().insert(key.clone())
    }

    /// The instance as a flawed backend sends it.
    fn distorted(&self, instance: Instance, call: usize) -> Result<Instance> {
        match self.shared.flaw {
            Flaw::CountsRegistrations => instance.with_metadata("call", call.to_string()),
            Flaw::FoldsIds => {
                let id = instance.id().as_str().to_lowercase();
                instance.with_id(id)
            }
            Flaw::CutsMetadata => {
                let mut cut = instance.clone();
                for (key, value) in instance.metadata() {
                    let end = (0..=255.min(value.len())).rfind(|&at| value.is_char_boundary(at));
                    cut = cut.with_metadata(key, &value[..end.unwrap_or(0)])?;
                }
                Ok(cut)
            }
            _ => Ok(instance),
        }
    }

    /// Lets whoever had this key register it again.
    async fn fight_back(&self, key: &InstanceKey) {
        let handles = self.shared.handles().into_iter();
        for other in handles.filter(|other| other.number != self.number) {
            let taken = other.registration(key);
            let registered = other.registered.lock().unwrap().get(key).cloned();
            if let (Some(Registration::Superseded), Some(instance)) = (taken, registered) {
                other.memory.register(instance).await.unwrap();
            }
        }
    }

    /// Ends the other registrations of whoever had this key.
    async fn end_superseded(&self, key: &InstanceKey) {
        for other in self.shared.handles() {
            let taken = other.registration(key);
            if !taken.is_some_and(|taken| taken.is_superseded()) {
                continue;
            }
            for (key, registration) in other.memory.status().registrations() {
                if registration.is_registered() {
                    other.memory.deregister(key).await.unwrap();
                }
            }
        }
    }

    async fn take_keys_along(&self) {
        if self.shared.flaw != Flaw::TakesKeysAlong {
            return;
        }
        let keys: Vec<_> = self.registered.lock().unwrap().keys().cloned().collect();
        for other in self.shared.handles() {
            for key in &keys {
                match other.memory.deregister(key).await {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
                }
            }
        }
    }
}

impl fmt::Debug for Flawed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Flawed").field(&self.shared.flaw).finish()
    }
}
