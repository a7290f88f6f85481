//! What the tasks of a handle share.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidings_api::{
    Error, Health, Instance, InstanceKey, Publisher, Removal, Result, Selector, ServiceName,
    Subscription, Watch,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use crate::api::Api;
use crate::entry::Reading;
use crate::error::late;
use crate::part::News;
use crate::pulse::Pulse;
use crate::registration::{Registrar, Remote};
use crate::state::{Offered, State};
use crate::watch::{first_look, follow};
use crate::{ConsulConfig, Stats, guard};

/// Services that were found unreadable are remembered up to this number, to be logged once.
const UNREADABLE_MAX: usize = 10_000;

pub(crate) struct Shared {
    pub(crate) config: ConsulConfig,
    pub(crate) api: Api,
    pub(crate) pulse: Pulse,
    /// Changes whenever a look at the catalog has ended, well or not.
    pub(crate) looks: watch::Sender<()>,
    /// How many loops want to wait for a change of the catalog.
    pub(crate) followers: watch::Sender<usize>,
    publisher: Publisher,
    state: Mutex<State>,
    guards: Mutex<HashMap<ServiceName, Arc<Notify>>>,
    unreadable: Mutex<HashSet<String>>,
    /// `None` once the handle has ended.
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl Shared {
    pub(crate) fn start(config: ConsulConfig) -> Result<Arc<Self>> {
        let shared = Arc::new(Self {
            api: Api::new(&config)?,
            config,
            pulse: Pulse::new(),
            looks: watch::Sender::new(()),
            followers: watch::Sender::new(0),
            publisher: Publisher::new(),
            state: Mutex::default(),
            guards: Mutex::default(),
            unreadable: Mutex::default(),
            tasks: Mutex::new(Some(JoinSet::new())),
        });
        let beating = shared.clone();
        shared.spawn(async move {
            let interval = beating.config.beat_interval();
            let reloaded = || beating.state().nudge_all();
            beating.pulse.run(&beating.api, interval, reloaded).await;
        });
        Ok(shared)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            requests: self.api.sent(),
            feeds: self.publisher.feeds(),
            unreadable: lock(&self.unreadable).len(),
        }
    }
}

/// The verbs.
impl Shared {
    pub(crate) async fn register(self: &Arc<Self>, instance: Instance) -> Result<()> {
        let waits = self.pulse.is_connected();
        let (remote, revision) = self.offer(instance, waits)?;
        self.tried(waits, &remote, revision).await
    }

    pub(crate) async fn report(&self, key: &InstanceKey, health: Health) -> Result<()> {
        let waits = self.pulse.is_connected();
        let (remote, revision) = {
            let mut state = self.state();
            let offered = state.report(key, health)?;
            state.publish(key);
            (offered.remote, offered.revision)
        };
        match remote {
            Some(remote) => self.tried(waits, &remote, revision).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        let waits = self.pulse.is_connected();
        let (removal, remote) = self.state().withdraw(key)?;
        if waits && let Some(remote) = remote {
            // A failure is tried again; the instance is gone from here in any case.
            tokio::select! {
                _ = remote.withdrawn() => {}
                _ = self.pulse.lost() => {}
            }
        }
        Ok(removal)
    }

    pub(crate) async fn watch(self: &Arc<Self>, selector: Selector) -> Result<Watch> {
        let watch = {
            let mut state = self.state();
            match self.publisher.watch(selector.clone())? {
                Subscription::Joined(watch) => watch,
                Subscription::First(watch, feed) => {
                    let feed = Arc::new(feed);
                    state.add_topic(feed.clone());
                    self.spawn(follow(self.clone(), feed));
                    watch
                }
            }
        };
        first_look(self, &selector).await?;
        Ok(watch)
    }

    pub(crate) async fn close(&self) -> Result<()> {
        let remotes = self.state().close();
        self.publisher.close();
        self.looks.send_replace(());
        let limit = self.config.leave_timeout;
        let all = async {
            let mut result = Ok(());
            for remote in &remotes {
                result = result.and(remote.gone().await);
            }
            result
        };
        let result = timeout(limit, all).await;
        self.end();
        result.unwrap_or_else(|_| {
            let failure = remotes.iter().map(Remote::withdrawal).find(Result::is_err);
            failure.unwrap_or_else(|| Err(late(&self.config.agent.to_string(), limit)))
        })
    }

    /// Ends all tasks and connections, without a word to anybody.
    pub(crate) fn end(&self) {
        // First the tasks: one that is told to withdraw would still do it.
        drop(lock(&self.tasks).take());
        lock(&self.guards).clear();
        self.state().close();
        self.publisher.close();
        self.looks.send_replace(());
        self.api.close();
    }

    fn offer(self: &Arc<Self>, instance: Instance, waits: bool) -> Result<(Remote, u64)> {
        let service = instance.service().clone();
        let (remote, revision, is_new) = self.attend(&mut self.state(), instance, waits)?;
        if is_new {
            self.guard(service);
        }
        Ok((remote, revision))
    }

    /// Keeps an offer and starts the task that brings it to the agent, in one step. True if it is a new
    /// one, which has to be guarded.
    fn attend(
        self: &Arc<Self>,
        state: &mut State,
        instance: Instance,
        waits: bool,
    ) -> Result<(Remote, u64, bool)> {
        let offered = state.offer(instance)?;
        let Offered {
            instance, revision, ..
        } = &offered;
        let (remote, is_new) = match &offered.remote {
            Some(remote) => (remote.clone(), false),
            None => {
                let (registrar, remote) =
                    Registrar::new(self.clone(), instance.clone(), *revision, waits);
                state.attend(&offered, remote.clone());
                self.spawn(registrar.run());
                (remote, true)
            }
        };
        state.publish(instance.key());
        Ok((remote, *revision, is_new))
    }

    /// Waits until the agent was told, or can't be.
    async fn tried(&self, waits: bool, remote: &Remote, revision: u64) -> Result<()> {
        if !waits {
            return Ok(());
        }
        tokio::select! {
            biased;
            result = remote.tried(revision) => result,
            _ = self.pulse.lost() => remote.accept(revision).await,
        }
    }
}

/// What the tasks report.
impl Shared {
    /// Takes over an answer about one service. Returns when it has to be asked again at the latest.
    pub(crate) fn heard(
        &self,
        selector: &Selector,
        service: &ServiceName,
        news: News,
    ) -> Option<std::time::Instant> {
        let again = self
            .state()
            .heard(selector, service, news, self.config.loss_hold);
        self.looks.send_replace(());
        again
    }

    /// Consul can't be heard about a selector, or one service of it.
    pub(crate) fn lost(&self, selector: &Selector, service: Option<&ServiceName>, failure: &Error) {
        self.state().lost(selector, service, failure);
        self.looks.send_replace(());
    }

    /// Takes over the names of all services. Returns those that are new.
    pub(crate) fn listed(&self, names: Vec<ServiceName>) -> Vec<ServiceName> {
        let new = self.state().list(names);
        self.looks.send_replace(());
        new
    }

    /// Notes a service that is no instance, and logs it once.
    pub(crate) fn unreadable(&self, which: &str) {
        let mut known = lock(&self.unreadable);
        if known.len() < UNREADABLE_MAX && known.insert(which.to_owned()) {
            warn!(
                service = which,
                "a service of the catalog is no instance, and skipped"
            );
        }
    }

    /// The keys of a service to guard. Without any, its guard has ended.
    pub(crate) fn guarded(&self, service: &ServiceName) -> Vec<InstanceKey> {
        let mut guards = lock(&self.guards);
        let keys = self.state().owned(service);
        if keys.is_empty() {
            guards.remove(service);
        }
        keys
    }

    /// Compares own offers of a service with what the catalog has. Returns the service ids of their
    /// former owners that are still there.
    pub(crate) fn compare(
        self: &Arc<Self>,
        service: &ServiceName,
        readings: Vec<Reading>,
    ) -> Vec<String> {
        let mut state = self.state();
        let former = state.former_selves(&readings);
        let entries = readings.into_iter().filter_map(|reading| match reading {
            Reading::Offered(entry) => Some(entry),
            Reading::Elsewhere | Reading::Lost(..) | Reading::Unreadable(_) => None,
        });
        let anew = state.compare(service, &entries.collect::<Vec<_>>());
        let is_changed = !anew.is_empty();
        // Under the same lock: what is withdrawn meanwhile is not to be offered again (REG-4).
        for instance in anew {
            // An error says that the handle is closed.
            let _ = self.attend(&mut state, instance, false);
        }
        drop(state);
        if is_changed {
            self.guard(service.clone());
        }
        former
    }

    fn guard(self: &Arc<Self>, service: ServiceName) {
        let mut guards = lock(&self.guards);
        if let Some(changed) = guards.get(&service) {
            changed.notify_one();
            return;
        }
        let changed = Arc::new(Notify::new());
        guards.insert(service.clone(), changed.clone());
        self.spawn(guard::guard(self.clone(), service, changed));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = &mut *lock(&self.tasks) {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("agent", &self.config.agent)
            .field("namespace", &self.config.namespace)
            .field("connection", &self.pulse.last().connection)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
