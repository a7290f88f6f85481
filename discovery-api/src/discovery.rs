//! The contract: one trait, its clauses, and the conveniences on top of it.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{Health, Instance, InstanceKey, Result, Selector, ServiceName, Status, View, Watch};

/// Service discovery, the same on every backend.
///
/// A handle is used as `Arc<dyn Discovery>`: cheap to share between tasks. Four verbs carry it,
/// [`register`](Self::register), [`deregister`](Self::deregister), [`watch`](Self::watch) and
/// [`health`](Self::health), with [`status`](Self::status) and [`close`](Self::close) beside them.
/// Conveniences are in [`DiscoveryExt`], which no backend can override.
///
/// # The contract
///
/// What every backend promises, in numbered clauses. Each clause has a test in
/// `tidings-conformance` named after it, run against every backend; a wrapper around backends is a
/// backend too. Text in this list is normative.
///
/// ## Registering
/// * **REG-1** `register` is an idempotent upsert by key. When it returns `Ok`, the instance is
///   owned by this handle and a new watch on the same handle shows it. The documentation of each
///   backend says how far it has travelled by then.
/// * **REG-2** Registering the same key again with other content is one `Updated`, never `Removed`
///   and `Added`; with equal content it is no change at all.
/// * **REG-3** A registration is desired state. Whatever happens to the server, the session or the
///   lease, the backend re-establishes it, for ever, with capped and jittered backoff, with the
///   *newest* content and health. [`status`](Self::status) tells `Registered`, `Pending` or
///   `Superseded`.
/// * **REG-4** Nobody else's retry loop may bring back what was deregistered, and an old owner's
///   session ending may not remove what a newer generation registered under the same key.
/// * **REG-5** Two live owners of one key: the newer generation wins on every watcher; the older
///   one learns it (`Superseded`) and stops. No ping-pong, and no view without the key between the
///   two. Calling `register` again on the superseded handle is a new, newer registration. A
///   [mirror](crate::Instance::is_mirror) is older than every owner: registered where there is one,
///   it is `Superseded` from the start.
/// * **REG-6** `deregister` is idempotent and says whether there was anything to remove. When it
///   returns, watchers on the same handle no longer see the instance, and everyone else sees it
///   leave within the backend's `removed` bound. It removes only what this handle registered.
/// * **REG-7** Registrations of one handle don't share fate: one that is refused doesn't disturb
///   the others.
/// * **REG-8** Calls on one key from many tasks take effect in call order. Dropping a call's future
///   half-way leaves either the old or the new state, never a third.
///
/// ## Watching
/// * **WAT-1** A watch starts with a complete view, also when it is empty; what follows is
///   contiguous with it. No gap, no change from before the view. While the backend can't be heard
///   the first view shows what is known, which may be nothing, and is stale.
/// * **WAT-2** Level-triggered: intermediate states may merge; the last state is never lost; a slow
///   reader costs bounded memory, and never slows the backend or another reader.
/// * **WAT-3** Per key, a view never goes back in time.
/// * **WAT-4** An outage is never an empty set. While the backend can't be heard the last view
///   stays, marked `Stale`; after it returns, only the real difference is reported (no flap of
///   instances that never went away).
/// * **WAT-5** Authoritative empty is different from unknown: a service scaled to zero is seen as
///   empty, and live.
/// * **WAT-6** Resynchronisation (compaction, session loss, index reset, overflow) is invisible but
///   for its real difference.
/// * **WAT-7** A service name matches exactly; `web` never sees `web-2` nor `Web`.
///   [`Selector::All`] selects all services.
/// * **WAT-8** All local watches of one selector share one upstream subscription. Reading the
///   current view does no I/O and takes no lock that a writer can hold for long.
/// * **WAT-9** Entries written by other tools in the backend's own native format appear as
///   instances; an entry that can't be read is skipped, counted and logged once, and never ends
///   the watch.
/// * **WAT-10** When many instances vanish at once *without* their owners asking (mass expiry), a
///   policy decides: pass, or hold them as stale for a while (default: hold while the backend
///   itself is unhealthy, pass otherwise). An explicit deregistration is always obeyed at once.
///
/// ## Health
/// * **HEA-1** `health` on an own registration reaches every watcher as one `Updated`. On a key
///   this handle doesn't own it is an error.
/// * **HEA-2** The last reported health survives re-registration, reconnects and session loss. Only
///   an instance that was [given a health](Instance::with_health) changes it by being registered
///   again.
/// * **HEA-3** An owner that crashes leaves every view within the `crashed` bound of
///   [`status`](Self::status).
/// * **HEA-4** Checks (TTL, TCP, HTTP, gRPC health, command) run beside any backend and report
///   through `health`, with rise and fall thresholds, jittered intervals, timeouts, and an optional
///   deregister-after-critical.
///
/// ## Closing
/// * **CLO-1** `close` deregisters everything this handle owns, ends its watches and stops its
///   tasks, within a deadline; watchers elsewhere see the removals at once rather than after a
///   timeout. It is idempotent.
/// * **CLO-2** A handle that is dropped without `close` acts like a crash at worst, and leaks no
///   task.
/// * **CLO-3** After `close` each verb returns [`Closed`](crate::ErrorKind::Closed).
///
/// ## Limits and input
/// * **LIM-1** Names, addresses, ports, metadata and weight have the limits that their types state
///   ([`ServiceName`], [`InstanceId`](crate::InstanceId), [`Address`](crate::Address),
///   [`Instance`]). The same on all backends, checked before anything is sent, with an error that
///   names the field, the rule and the value's size.
/// * **LIM-2** Any content within the limits round-trips through every backend, unchanged.
/// * **LIM-3** Configuration is parsed strictly: an unknown key, scheme, feature that is not
///   compiled in, or a value out of range is an error that names it and says what is accepted.
///   Secrets never appear in `Debug`, errors or logs.
/// * **LIM-4** No input (datagram, stored value, URL, configuration) can panic or hang the process.
#[async_trait]
pub trait Discovery: Debug + Send + Sync + 'static {
    /// Offers `instance` until it is deregistered or the handle is closed (REG-1 to REG-8), and
    /// returns its key.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed), or [`Denied`](crate::ErrorKind::Denied) where the
    /// backend refuses this key. A backend that can't be heard is no error: the registration is
    /// `Pending` then.
    async fn register(&self, instance: Instance) -> Result<InstanceKey>;

    /// Withdraws what this handle registered under `key` (REG-6).
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed).
    async fn deregister(&self, key: &InstanceKey) -> Result<Removal>;

    /// Subscribes to what `selector` selects (WAT-1 to WAT-10).
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed), or [`Denied`](crate::ErrorKind::Denied) where the
    /// backend refuses to show it. A backend that can't be heard is no error: the view is stale
    /// then.
    async fn watch(&self, selector: Selector) -> Result<Watch>;

    /// Says how the instance this handle registered under `key` is (HEA-1 to HEA-3).
    ///
    /// # Errors
    /// [`NotOwned`](crate::ErrorKind::NotOwned) where this handle doesn't own the key,
    /// [`Closed`](crate::ErrorKind::Closed).
    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()>;

    /// How the backend connection and each own registration are doing. Does no I/O.
    fn status(&self) -> Status;

    /// Leaves politely and ends the handle (CLO-1). Idempotent.
    ///
    /// # Errors
    /// Where the backend could not be told in time: the handle is closed all the same, and the
    /// others notice as after a crash.
    async fn close(&self) -> Result<()>;
}

/// What [`Discovery::deregister`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The instance was offered by this handle, and isn't any more.
    Removed,
    /// This handle had nothing under the key.
    Absent,
}

/// Conveniences for every [`Discovery`], also behind `Arc<dyn Discovery>`.
///
/// They are made of the trait's verbs alone, so that no backend can get them wrong and no wrapper
/// bypasses them.
#[async_trait]
pub trait DiscoveryExt: Discovery {
    /// Registers an instance with a generated id: `register_at("payments", "10.0.0.7:8080")`.
    ///
    /// # Errors
    /// As [`Discovery::register`], and where a value is outside LIM-1.
    async fn register_at(&self, service: &str, address: &str) -> Result<InstanceKey> {
        self.register(Instance::new(service, address)?).await
    }

    /// Watches one service.
    ///
    /// # Errors
    /// As [`Discovery::watch`], and where the name is outside LIM-1.
    async fn watch_service(&self, service: &str) -> Result<Watch> {
        self.watch(Selector::Service(ServiceName::new(service)?))
            .await
    }

    /// Watches all services.
    ///
    /// # Errors
    /// As [`Discovery::watch`].
    async fn watch_all(&self) -> Result<Watch> {
        self.watch(Selector::All).await
    }

    /// Looks a service up once. Whoever looks up again and again should keep a
    /// [`watch_service`](Self::watch_service): its view is always there, without I/O.
    ///
    /// # Errors
    /// As [`watch_service`](Self::watch_service).
    async fn resolve(&self, service: &str) -> Result<View> {
        Ok(self.watch_service(service).await?.view())
    }

    /// Waits until at least `count` instances of a service are
    /// [healthy](View::healthy). Waits for ever: wrap it in a timeout.
    ///
    /// # Errors
    /// As [`watch_service`](Self::watch_service), and when the handle is closed meanwhile.
    async fn wait_for(&self, service: &str, count: usize) -> Result<View> {
        let mut watch = self.watch_service(service).await?;
        watch
            .wait_until(|view| view.healthy().count() >= count)
            .await
    }
}

impl<D: Discovery + ?Sized> DiscoveryExt for D {}

macro_rules! forward {
    ($pointer:ident) => {
        #[async_trait]
        impl<D: Discovery + ?Sized> Discovery for $pointer<D> {
            async fn register(&self, instance: Instance) -> Result<InstanceKey> {
                (**self).register(instance).await
            }
            async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
                (**self).deregister(key).await
            }
            async fn watch(&self, selector: Selector) -> Result<Watch> {
                (**self).watch(selector).await
            }
            async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
                (**self).health(key, health).await
            }
            fn status(&self) -> Status {
                (**self).status()
            }
            async fn close(&self) -> Result<()> {
                (**self).close().await
            }
        }
    };
}

forward!(Arc);
forward!(Box);
