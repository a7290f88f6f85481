//! The memory backend: the contract without a network.
//!
//! It is the reference for every clause and a test double for programs that use [`Discovery`]: the
//! [`MemoryRegistry`] plays the server, and both it and its handles produce faults on demand.

mod entries;
mod faults;
mod server;
mod session;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use self::server::{Server, SessionId};
use crate::{
    Discovery, Health, Instance, InstanceKey, LossPolicy, Removal, Result, Selector, ServiceName,
    Status, Watch,
};

/// The "server" of the memory backend. Cloning shares it.
///
/// ```
/// use tidings_api::{Discovery, DiscoveryExt, MemoryRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidings_api::Result<()> {
/// let registry = MemoryRegistry::new();
/// let (server, client) = (registry.connect(), registry.connect());
///
/// server.register_at("payments", "10.0.0.7:8080").await?;
/// let payments = client.watch_service("payments").await?;
/// assert_eq!(payments.view().len(), 1);
///
/// // A test double: an outage leaves the view as it was, marked stale.
/// registry.stop();
/// assert!(payments.view().len() == 1 && !payments.view().is_live());
///
/// // Nothing is lost with the data: owners register again before anybody looks.
/// registry.start_empty();
/// assert!(payments.view().len() == 1 && payments.view().is_live());
///
/// server.crash();
/// assert!(payments.view().is_empty() && payments.view().is_live());
/// # Ok(())
/// # }
/// ```
///
/// Everything happens at once, within the call: there are no tasks, and every bound of
/// [`Status::bounds`] is zero. A change costs one pass over the instances of the service and, where
/// somebody watches all services, one over all of them.
#[derive(Clone)]
pub struct MemoryRegistry {
    server: Arc<Mutex<Server>>,
}

impl MemoryRegistry {
    /// An empty registry, running.
    #[must_use]
    pub fn new() -> Self {
        Self::with_loss_policy(LossPolicy::default())
    }

    /// The same with another policy for losses while the registry is stopped (WAT-10).
    #[must_use]
    pub fn with_loss_policy(policy: LossPolicy) -> Self {
        Self {
            server: Arc::new(Mutex::new(Server::new(policy))),
        }
    }

    /// A new handle. It starts stale when the registry is stopped.
    #[must_use]
    pub fn connect(&self) -> MemoryDiscovery {
        MemoryDiscovery {
            session: self.lock().connect(),
            registry: self.clone(),
        }
    }

    /// Stops the server: every view goes stale and keeps its instances, registrations made from now
    /// on are `Pending`.
    pub fn stop(&self) {
        self.lock().stop();
    }

    /// Starts the server with the data it had. Every handle that isn't cut off registers what it
    /// offers, with the newest content and health, before any view changes.
    pub fn start(&self) {
        self.lock().start();
    }

    /// Starts the server, or restarts it, without the data it had; otherwise like
    /// [`start`](Self::start). Foreign entries are gone then, and so is what cut-off handles
    /// registered, until they are [restored](MemoryDiscovery::restore).
    pub fn start_empty(&self) {
        self.lock().start_empty();
    }

    /// Refuses registrations of `service` from now on with [`Denied`](crate::ErrorKind::Denied),
    /// as an access list would. What is registered stays.
    pub fn deny(&self, service: ServiceName) {
        self.lock().deny(service);
    }

    /// Writes an entry as another tool would (WAT-9), behind the back of all handles: `value` is
    /// the JSON of an [`Instance`], `key` its key as text. What can't be read, or has another key
    /// than it is stored under, is skipped and [counted](Self::unreadable).
    ///
    /// An entry that a handle owns is replaced only by a newer generation.
    pub fn put_foreign(&self, key: &str, value: &[u8]) {
        self.lock().put_foreign(key, value);
    }

    /// Deletes a foreign entry, where there is one.
    pub fn remove_foreign(&self, key: &InstanceKey) {
        self.lock().remove_foreign(key);
    }

    /// Number of foreign entries that could not be read, since the registry was made.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.lock().unreadable()
    }

    fn lock(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().fmt(f)
    }
}

/// A handle of a [`MemoryRegistry`], with faults on demand.
///
/// Dropping it acts like [`crash`](Self::crash).
pub struct MemoryDiscovery {
    registry: MemoryRegistry,
    session: SessionId,
}

impl MemoryDiscovery {
    /// Cuts this handle off from the registry: its views go stale and keep their instances, and
    /// what it is told from now on waits. What the others see of it stays, as with a session that
    /// lives on.
    pub fn cut_off(&self) {
        self.registry.lock().cut_off(self.session);
    }

    /// Ends [`cut_off`](Self::cut_off): what waited takes effect, and its views are live again.
    pub fn restore(&self) {
        self.registry.lock().restore(self.session);
    }

    /// Ends this handle's session on the registry, as when a lease expires: the others see its
    /// instances go, and come back as the handle registers them again; at once, or once it is
    /// [restored](Self::restore).
    pub fn expire(&self) {
        self.registry.lock().expire(self.session);
    }

    /// Ends the handle without a word: what it registered is lost, nothing is deregistered. While
    /// the registry is stopped, the [`LossPolicy`] says when the others learn it.
    pub fn crash(&self) {
        self.registry.lock().crash(self.session);
    }

    /// Number of selectors that are watched.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.registry.lock().subscriptions(self.session)
    }
}

#[async_trait]
impl Discovery for MemoryDiscovery {
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        self.registry.lock().register(self.session, instance)
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        self.registry.lock().deregister(self.session, key)
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        self.registry.lock().watch(self.session, selector)
    }

    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        self.registry.lock().health(self.session, key, health)
    }

    fn status(&self) -> Status {
        self.registry.lock().status(self.session)
    }

    async fn close(&self) -> Result<()> {
        self.registry.lock().close(self.session)
    }
}

impl Drop for MemoryDiscovery {
    fn drop(&mut self) {
        self.crash();
    }
}

impl fmt::Debug for MemoryDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDiscovery")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DiscoveryExt, ErrorKind, Generation, Registration, View};

    fn instance(id: &str) -> Instance {
        let instance = Instance::new("web", "10.0.0.7:80").unwrap();
        instance.with_id(id).unwrap()
    }

    fn key(id: &str) -> InstanceKey {
        instance(id).key().clone()
    }

    fn ids(view: &View) -> Vec<&str> {
        view.iter().map(|found| found.id().as_str()).collect()
    }

    #[tokio::test]
    async fn a_cut_off_handle_keeps_its_view_and_catches_up() {
        let registry = MemoryRegistry::new();
        let (owner, client) = (registry.connect(), registry.connect());
        owner.register(instance("a")).await.unwrap();
        let seen = client.watch_service("web").await.unwrap();

        client.cut_off();
        owner.deregister(&key("a")).await.unwrap();
        owner.register(instance("b")).await.unwrap();
        client.register(instance("own")).await.unwrap();
        assert_eq!(ids(&seen.view()), ["a", "own"]);
        assert!(!seen.view().is_live() && !client.status().connection().is_connected());
        let at_owner = owner.watch_service("web").await.unwrap();
        assert_eq!(ids(&at_owner.view()), ["b"]);

        client.restore();
        assert_eq!(ids(&seen.view()), ["b", "own"]);
        assert!(seen.view().is_live());
        assert_eq!(ids(&at_owner.view()), ["b", "own"]);
    }

    #[tokio::test]
    async fn a_crash_while_stopped_is_held_unless_the_policy_lets_it_pass() {
        for (policy, seen_in_the_outage) in [
            (LossPolicy::HoldWhileUnhealthy, vec!["a"]),
            (LossPolicy::Pass, vec![]),
        ] {
            let registry = MemoryRegistry::with_loss_policy(policy);
            let (owner, client) = (registry.connect(), registry.connect());
            owner.register(instance("a")).await.unwrap();
            let seen = client.watch_service("web").await.unwrap();
            registry.stop();
            owner.crash();
            assert_eq!(ids(&seen.view()), seen_in_the_outage, "{policy:?}");
            assert!(!seen.view().is_live());
            registry.start();
            assert!(seen.view().is_empty() && seen.view().is_live());
        }
    }

    #[tokio::test]
    async fn an_owner_that_restarts_in_an_outage_is_an_update() {
        let registry = MemoryRegistry::new();
        let (owner, client) = (registry.connect(), registry.connect());
        owner.register(instance("a")).await.unwrap();
        let mut changes = client.watch_service("web").await.unwrap().into_changes();
        let first = changes.next().await.unwrap().instance().generation();

        registry.stop();
        drop(owner);
        let owner = registry.connect();
        owner.register(instance("a")).await.unwrap();
        let registration = owner.status().registration(&key("a")).cloned();
        assert!(matches!(registration, Some(Registration::Pending { .. })));
        registry.start();
        let change = changes.next().await.unwrap();
        assert!(
            matches!(&change, crate::Change::Updated { new, .. } if new.generation() > first),
            "{change:?}"
        );
    }

    #[tokio::test]
    async fn an_owner_overtaken_in_an_outage_learns_it_and_stops() {
        let registry = MemoryRegistry::new();
        let (older, newer) = (registry.connect(), registry.connect());
        older.register(instance("a")).await.unwrap();
        older.cut_off();
        newer.register(instance("a")).await.unwrap();
        newer.deregister(&key("a")).await.unwrap();
        older.restore();
        let registration = older.status().registration(&key("a")).cloned();
        assert!(registration.is_some_and(|r| r.is_superseded()));
        assert!(newer.resolve("web").await.unwrap().is_empty());
        let error = older.health(&key("a"), Health::draining()).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::NotOwned);
    }

    #[tokio::test]
    async fn foreign_entries_are_shown_and_unreadable_ones_counted() {
        let registry = MemoryRegistry::new();
        let handle = registry.connect();
        let json = serde_json::to_vec(&instance("a")).unwrap();
        registry.put_foreign("web/a", &json);
        registry.put_foreign("web/other", &json);
        registry.put_foreign("web/b", b"\xff\0{");
        assert_eq!(ids(&handle.resolve("web").await.unwrap()), ["a"]);
        assert_eq!(registry.unreadable(), 2);

        // The newer generation wins, as between handles.
        handle.register(instance("a")).await.unwrap();
        let own = handle.resolve("web").await.unwrap();
        registry.put_foreign("web/a", &json);
        assert_eq!(
            handle.resolve("web").await.unwrap().iter().next(),
            own.iter().next()
        );
        let newer = instance("a").with_generation(Generation::new(u64::MAX));
        registry.put_foreign("web/a", &serde_json::to_vec(&newer).unwrap());
        assert!(
            handle
                .status()
                .registration(&key("a"))
                .unwrap()
                .is_superseded()
        );

        registry.remove_foreign(&key("a"));
        assert!(handle.resolve("web").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_denied_in_an_outage_waits_for_ever() {
        let registry = MemoryRegistry::new();
        let handle = registry.connect();
        registry.deny("web".parse().unwrap());
        let error = handle.register(instance("a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        registry.stop();
        handle.register(instance("a")).await.unwrap();
        registry.start();
        let Some(Registration::Pending { last_error, .. }) =
            handle.status().registration(&key("a")).cloned()
        else {
            panic!("{:?}", handle.status());
        };
        assert_eq!(last_error.unwrap().kind(), ErrorKind::Denied);
    }

    #[tokio::test]
    async fn feeds_nobody_watches_are_dropped() {
        let handle = MemoryRegistry::new().connect();
        for n in 0..1_000 {
            handle.watch_service(&format!("web-{n}")).await.unwrap();
            assert!(
                handle.registry.lock().sessions[&handle.session]
                    .feeds()
                    .count()
                    <= 32
            );
        }
        assert_eq!(handle.subscriptions(), 0);
    }

    #[tokio::test]
    async fn closing_in_an_outage_is_an_error_once() {
        let registry = MemoryRegistry::new();
        let handle = registry.connect();
        registry.stop();
        assert_eq!(
            handle.close().await.unwrap_err().kind(),
            ErrorKind::Unavailable
        );
        handle.close().await.unwrap();
    }
}
