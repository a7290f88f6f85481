//! The handle.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{
    Bounds, Connection, Discovery, Health, Instance, InstanceKey, Removal, Result, Selector,
    Status, Watch,
};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::client::Link;
use crate::config::EtcdConfig;
use crate::guard::Guard;
use crate::keys::Keys;
use crate::registration::{Context, Registrar};
use crate::tasks::Tasks;
use crate::views::Views;
use crate::watch::{Follower, LOSS_LINGER, STALE_AFTER};
use crate::writes::Writes;

/// What the backend and the network need for a change to arrive, while both are well.
const PROPAGATION: Duration = Duration::from_secs(1);
/// etcd looks for expired leases twice a second, and revokes them one after another.
const EXPIRY_DELAY: Duration = Duration::from_secs(1);

/// Service discovery by an etcd cluster.
///
/// When `register`, `deregister` and `health` return, etcd has it, committed by a quorum; or etcd
/// can't be heard, and the registration is `Pending`. A view that is live is what etcd had at one
/// moment, at most the `visible` bound ago.
///
/// Dropping the handle without [`close`](Discovery::close) ends its tasks; its registrations end
/// with their leases.
pub struct EtcdDiscovery {
    link: Arc<Link>,
    keys: Keys,
    views: Arc<Views>,
    registrar: Registrar,
    tasks: Tasks,
    bounds: Bounds,
    loss_hold: Duration,
    closed: AtomicBool,
    /// How closing ended.
    told: OnceCell<Result<()>>,
}

impl EtcdDiscovery {
    /// Starts a handle. It connects in the background, so that an etcd which isn't there is no
    /// error: registrations and views wait for it.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) where the configuration is invalid,
    /// or one of its files can't be read.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time and network enabled.
    #[allow(clippy::unused_async, reason = "the shape of every backend")]
    pub async fn start(config: EtcdConfig) -> Result<Self> {
        config.validate()?;
        let link = Arc::new(Link::new(&config)?);
        let tasks = Tasks::default();
        let keeping = link.clone();
        tasks.spawn(async move { keeping.keep().await });
        let (guard, guarding) = Guard::new(link.clone());
        tasks.spawn(guarding.run());
        let (writes, writing) = Writes::new(link.clone());
        tasks.spawn(writing.run());
        let keys = Keys::new(&config.namespace);
        let views = Arc::<Views>::default();
        let context = Context::new(link.clone(), keys.clone(), views.clone(), guard, writes);
        Ok(Self {
            registrar: Registrar::new(context, config.leases, config.ttl),
            bounds: bounds(&config, &link),
            loss_hold: config.loss_hold,
            link,
            keys,
            views,
            tasks,
            closed: AtomicBool::new(false),
            told: OnceCell::new(),
        })
    }

    /// Number of entries in etcd that could not be read as instances, since the start; one that
    /// stays is counted again whenever a view is read anew.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.views.unreadable()
    }

    /// Number of selectors that are watched, each with one watch in etcd.
    #[doc(hidden)]
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.views.subscriptions()
    }

    /// The leases that registrations hang on at present.
    #[doc(hidden)]
    #[must_use]
    pub fn leases(&self) -> Vec<i64> {
        self.registrar.leases()
    }

    /// Ends everything without a word to etcd, as a crash does.
    #[doc(hidden)]
    pub async fn crash(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.end().await;
    }

    async fn end(&self) {
        self.views.close();
        self.tasks.end().await;
        self.link.close().await;
    }
}

#[async_trait]
impl Discovery for EtcdDiscovery {
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        let operation = format!("register {}", instance.key());
        let registered = self.registrar.register(instance, &self.tasks).await;
        registered.map_err(|error| error.with_operation(operation))
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        self.registrar.deregister(key).await
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        let operation = format!("watch {selector}");
        let (watch, mut first, new) = self
            .views
            .watch(selector)
            .map_err(|error| error.with_backend("etcd"))?;
        if let Some(view) = new {
            let follower = Follower {
                link: self.link.clone(),
                keys: self.keys.clone(),
                views: self.views.clone(),
                loss_hold: self.loss_hold,
            };
            self.tasks.spawn(async move { follower.run(view).await });
        }
        let answered = async {
            let answered = first.wait_for(Option::is_some).await;
            answered.ok().and_then(|answered| answered.clone())
        };
        let answered = tokio::select! {
            biased;
            answered = timeout(self.link.timing().call, answered) => answered.ok().flatten(),
            () = self.link.disconnected() => None,
        };
        match answered {
            Some(Err(error)) => Err(error.with_operation(operation)),
            Some(Ok(())) | None => Ok(watch),
        }
    }

    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        self.registrar.health(key, health).await
    }

    fn status(&self) -> Status {
        let connection = match self.closed.load(Ordering::Relaxed) {
            true => Connection::Closed,
            false => self.link.connection(),
        };
        Status::new("etcd", connection, self.bounds).with_registrations(self.registrar.status())
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Relaxed);
        // Whoever calls it too meanwhile waits for the same end.
        let close = || async {
            let told = self.registrar.close().await;
            self.end().await;
            told
        };
        self.told.get_or_init(close).await.clone()
    }
}

impl fmt::Debug for EtcdDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdDiscovery")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

fn bounds(config: &EtcdConfig, link: &Link) -> Bounds {
    Bounds {
        visible: PROPAGATION,
        removed: PROPAGATION,
        crashed: config.ttl + EXPIRY_DELAY + LOSS_LINGER + PROPAGATION,
        stale: link.noticed() + STALE_AFTER,
    }
}
