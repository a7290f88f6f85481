//! The ZooKeeper backend of Tidings, at home beside Apache Curator.
//!
//! ```no_run
//! use tidings_api::{Discovery, DiscoveryExt};
//! use tidings_zk::{ZkConfig, ZkDiscovery};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> tidings_api::Result<()> {
//! let url = "zk://zk1:2181,zk2:2181,zk3:2181/services".parse()?;
//! let discovery = ZkDiscovery::start(ZkConfig::from_url(&url)?).await?;
//! discovery.register_at("payments", "10.0.0.7:8080").await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is on the server
//! Each instance is an ephemeral node `/namespace/service/id`, with the JSON of Curator's service
//! discovery as content: clients on the JVM (Curator's `ServiceDiscovery`, Spring Cloud ZooKeeper)
//! see our instances and we see theirs. The node of a service is a container, which ZooKeeper
//! deletes when it is empty; its data is a note of who left on purpose.
//!
//! # How far a call has come when it returns
//! `register`, `health` and `deregister` return when a quorum of the ensemble has the change, or
//! after [`call_timeout`](ZkConfig::call_timeout) if it doesn't answer; without a connection they
//! return at once, and the change is made as soon as there is one. Other handles see it when their
//! server has followed and their watch has fired, typically within milliseconds.
//!
//! # Outages
//! While no server is heard, views stay as they are, marked stale. A session outlives connections
//! that are lost for less than the [`session_timeout`](ZkConfig::session_timeout); when it is lost,
//! another is made, and everything is registered again with the newest content. Instances that
//! vanish in an outage without having been deregistered are held for
//! [`loss_hold`](ZkConfig::loss_hold): an outage of the ensemble ends the sessions of owners that
//! live.

mod config;
pub use config::{Auth, PORT_DEFAULT, Payload, Watches, ZkConfig};

mod content;
mod departures;
mod error;
mod keys;
mod orphans;
mod owner;
mod registration;
mod session;
mod tasks;
mod watch;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{
    Bounds, Connection, Discovery, Error, Health, Instance, InstanceKey, Removal, Result, Selector,
    ServiceName, Status, Watch,
};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use zookeeper_client as zk;

use self::content::Encoder;
use self::departures::Departures;
use self::error::{BACKEND, Failure};
use self::keys::Keys;
use self::owner::Owner;
use self::registration::{Call, Registrations, Turns};
use self::session::{Keeper, Line, Link};
use self::tasks::Tasks;

/// Registrations that are with the server at one time: enough to fill the connection, and not so
/// many that the last answer takes longer than a call may.
const IN_FLIGHT_MAX: usize = 256;

/// A handle of a ZooKeeper ensemble.
///
/// Dropping it without [`close`](Discovery::close) ends the session in the background: what it
/// registered is gone at once if the server is heard, and after the session timeout otherwise.
pub struct ZkDiscovery {
    shared: Arc<Shared>,
    keeper: Mutex<Option<Running>>,
    closing: tokio::sync::Mutex<()>,
}

/// What the handle and its tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    config: Arc<ZkConfig>,
    keys: Keys,
    acls: Vec<zk::Acl>,
    line: Line,
    registrations: Registrations,
    watches: watch::Watches,
    /// Whether the server is older than 3.6, with no persistent watches and no list of a session's
    /// nodes. Asking for either costs the connection.
    is_old: AtomicBool,
    in_flight: Semaphore,
    turns: Turns,
    unreadable: AtomicU64,
    tasks: Tasks,
}

/// The keeper of the session.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl ZkDiscovery {
    /// Starts a handle. While no server can be reached it starts all the same, after
    /// [`connect_wait`](ZkConfig::connect_wait): views are stale then and registrations wait.
    ///
    /// Has to be called in a tokio runtime, in which the handle's tasks run.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) where the configuration is.
    pub async fn start(config: ZkConfig) -> Result<Self> {
        config.validate()?;
        let config = Arc::new(config);
        let (keeper, line) = Keeper::new(config.clone())?;
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            // Neither is the handle there any more when the sender is gone.
            let _gone = stopped.await;
        };
        let running = Running {
            stop,
            task: tokio::spawn(keeper.run(stopped)),
        };
        let encoder = Encoder {
            owner: Owner::generate(),
            payload: config.payload,
            bytes_max: config.content_max,
        };
        let discovery = Self {
            shared: Arc::new(Shared {
                keys: Keys::new(&config.namespace),
                acls: config.acls()?,
                line,
                registrations: Registrations::new(encoder),
                watches: watch::Watches::default(),
                is_old: AtomicBool::new(false),
                in_flight: Semaphore::new(IN_FLIGHT_MAX),
                turns: Turns::default(),
                unreadable: AtomicU64::new(0),
                tasks: Tasks::new(),
                config,
            }),
            keeper: Mutex::new(Some(running)),
            closing: tokio::sync::Mutex::new(()),
        };
        let orphans = orphans::take_back(discovery.shared.clone());
        discovery.shared.tasks.spawn(orphans)?;
        let wait = discovery.shared.config.connect_wait;
        let up = discovery.shared.line.up();
        let _in_time = tokio::time::timeout(wait, up).await;
        Ok(discovery)
    }

    /// Number of nodes that could not be read as an instance, since the start: each is skipped, and
    /// logged once.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.shared.unreadable.load(Ordering::Relaxed)
    }

    /// Number of selectors that are watched, each with one subscription on the server.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.shared.watches.count()
    }

    /// Ends the session on the server, as if its time were up; `server` (`host:port`) is asked, past
    /// the configured ones, so that a test may keep the handle from interfering meanwhile.
    ///
    /// # Errors
    /// Where there is no session, or the server doesn't answer.
    #[cfg(feature = "fault-injection")]
    pub async fn expire(&self, server: &str) -> Result<()> {
        let failed = |failure: Failure| failure.into_error("expire");
        let Some(link) = self.shared.line.link() else {
            return Err(failed(Failure::Silent));
        };
        // Whoever resumes a session takes it from the connection it had, and may end it.
        let thief = zk::Client::connector()
            .with_session_timeout(self.shared.config.session_timeout)
            .with_session(link.client().session().clone())
            .connect(server)
            .await
            .map_err(|error| failed(error.into()))?;
        let mut states = thief.state_watcher();
        drop((thief, link));
        let ended = async { while !states.changed().await.is_terminated() {} };
        let ended = tokio::time::timeout(self.shared.config.call_timeout, ended).await;
        ended.map_err(|_| failed(Failure::Silent))
    }

    /// Lets so many of the next tries to bring a registration to the server panic, as a defect would.
    #[cfg(feature = "fault-injection")]
    pub fn panic_next(&self, tries: usize) {
        self.shared.registrations.panic_next(tries);
    }

    fn check_open(&self) -> Result<()> {
        match self.shared.tasks.is_closed() {
            true => Err(Error::closed().with_backend(BACKEND)),
            false => Ok(()),
        }
    }

    /// Shows what was asked for on this handle, and waits until the server has it, within limits.
    async fn settle(&self, key: &InstanceKey, call: Call) -> Result<()> {
        if call.start_worker {
            let shared = self.shared.clone();
            self.shared
                .tasks
                .spawn(registration::work(shared, key.clone()))?;
        }
        self.shared.refresh(key);
        let Some(answer) = call.answer else {
            return Ok(());
        };
        if self.shared.line.link().is_none() {
            return Ok(());
        }
        match tokio::time::timeout(self.shared.line.call_timeout(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => self.check_open(),
            // It is pending, and tried again.
            Err(_) => Ok(()),
        }
    }

    /// Notes for others that all of this handle leaves on purpose.
    async fn say_goodbye(&self, link: &Link) -> Result<(), Failure> {
        let registrations = &self.shared.registrations;
        let owner = &registrations.encoder().owner;
        for (service, generation, taken) in registrations.leaving() {
            let path = self.shared.keys.service(&service);
            loop {
                let read = link.call(link.client().get_data(&path)).await;
                let (data, stat) = match read {
                    Err(Failure::Refused(zk::Error::NoNode | zk::Error::NoAuth)) => break,
                    read => read?,
                };
                let mut note = Departures::decode(&data).with_owner(owner, generation);
                for instance in &taken {
                    note = note.with_instance(instance.id(), instance.generation());
                }
                let note = note.encode();
                let noted = link.client().set_data(&path, &note, Some(stat.version));
                match link.call(noted).await {
                    Err(Failure::Refused(zk::Error::BadVersion)) => {}
                    Err(Failure::Refused(zk::Error::NoNode | zk::Error::NoAuth)) => break,
                    noted => {
                        noted?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    async fn shut_down(&self) -> Result<()> {
        let Some(running) = self.take_keeper() else {
            return Ok(());
        };
        // Before anything is waited for: whoever gives up waiting has closed the handle all the same.
        self.shared.watches.close();
        self.shared.tasks.close().await;
        if let Some(link) = self.shared.line.link() {
            let limit = self.shared.line.call_timeout();
            // Without it others only take longer to let go, and only if they are cut off now.
            let said = tokio::time::timeout(limit, self.say_goodbye(&link)).await;
            if !matches!(said, Ok(Ok(()))) {
                tracing::debug!(?said, "could not note what leaves");
            }
        }
        self.shared.registrations.clear();
        let _ended_already = running.stop.send(());
        match running.task.await {
            Ok(told) => told.map_err(|error| error.with_operation("close")),
            Err(error) => Err(
                Error::new(tidings_api::ErrorKind::Internal, error.to_string())
                    .with_backend(BACKEND)
                    .with_operation("close"),
            ),
        }
    }

    fn take_keeper(&self) -> Option<Running> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.take()
    }
}

#[async_trait]
impl Discovery for ZkDiscovery {
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        self.check_open()?;
        let key = instance.key().clone();
        let heard = self.shared.line.link().is_some();
        let call = self.shared.registrations.offer(instance, heard);
        let call = call.map_err(|error| error.with_backend(BACKEND).with_operation("register"))?;
        self.settle(&key, call).await?;
        Ok(key)
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        self.check_open()?;
        let (removal, call) = self.shared.registrations.withdraw(key);
        match call {
            Some(call) => self.settle(key, call).await?,
            None => self.shared.refresh(key),
        }
        Ok(removal)
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        self.check_open()?;
        let freshness = self.shared.line.freshness();
        let own = &self.shared.registrations;
        let (watch, followed, first) = self.shared.watches.watch(selector, freshness, own)?;
        if first {
            let follow = watch::follow(self.shared.clone(), followed.clone());
            self.shared.tasks.spawn(follow)?;
        }
        // A server that is heard and doesn't answer makes the first view stale, not late.
        let limit = self.shared.line.call_timeout();
        match tokio::time::timeout(limit, followed.first_look()).await {
            Ok(first_look) => first_look?,
            Err(_) => tracing::debug!("no first look in time"),
        }
        Ok(watch)
    }

    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        self.check_open()?;
        let call = self.shared.registrations.health(key, health)?;
        self.settle(key, call).await
    }

    fn status(&self) -> Status {
        let shared = &self.shared;
        let connection = match shared.tasks.is_closed() {
            true => Connection::Closed,
            false => shared.line.connection(),
        };
        let status = Status::new(BACKEND, connection, shared.bounds());
        status.with_registrations(shared.registrations.statuses())
    }

    async fn close(&self) -> Result<()> {
        let _one_at_a_time = self.closing.lock().await;
        self.shut_down().await
    }
}

impl Drop for ZkDiscovery {
    fn drop(&mut self) {
        self.shared.tasks.abort();
        self.shared.watches.close();
        if let Some(running) = self.take_keeper() {
            // Ends the session as soon as the runtime drops the task, without waiting for anybody.
            running.task.abort();
        }
    }
}

impl fmt::Debug for ZkDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkDiscovery")
            .field("hosts", &self.shared.config.hosts)
            .field("namespace", &self.shared.config.namespace)
            .field("connection", self.status().connection())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn acls(&self) -> zk::Acls<'_> {
        zk::Acls::new(&self.acls)
    }

    /// How changes are watched, as configured or as the server can.
    fn kind_of_watches(&self) -> Watches {
        match self.config.watches {
            Watches::Auto if self.is_old() => Watches::Oneshot,
            configured => configured,
        }
    }

    fn is_old(&self) -> bool {
        self.is_old.load(Ordering::Relaxed)
    }

    /// The server has refused as unknown what there is since 3.6, and closes the connection.
    fn know_as_old(&self) {
        tracing::info!("the server is older than 3.6: doing without what it doesn't know");
        self.is_old.store(true, Ordering::Relaxed);
    }

    /// Shows in this handle's views what it offers under `key` now.
    fn refresh(&self, key: &InstanceKey) {
        self.watches.refresh(key, &self.registrations);
    }

    fn count_unreadable(&self, service: &ServiceName, name: &str, why: &dyn fmt::Display) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%service, ?name, %why, "a node is no instance and is skipped");
    }

    fn bounds(&self) -> Bounds {
        let negotiated = self.line.link().map(|link| link.client().session_timeout());
        let session = negotiated.unwrap_or(self.config.session_timeout);
        Bounds {
            visible: watch::VISIBLE_BOUND,
            removed: watch::VISIBLE_BOUND,
            // The server looks at sessions once a tick, of which the timeout has at least two.
            crashed: session.mul_f64(1.5) + watch::VISIBLE_BOUND,
            // The library gives a connection up that was silent for two fifths of the timeout, and
            // looks every twentieth of it.
            stale: session / 2 + Duration::from_millis(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_close_that_is_not_waited_for_ends_the_watches_all_the_same() {
        let nobody = ZkConfig {
            hosts: vec!["127.0.0.1:1".to_owned()],
            connect_wait: Duration::ZERO,
            ..ZkConfig::default()
        };
        let discovery = ZkDiscovery::start(nobody).await.unwrap();
        let mut watch = discovery.watch(Selector::All).await.unwrap();
        assert!(discovery.close().now_or_never().is_none());
        let ended = async { while watch.changed().await.is_ok() {} };
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        assert!(ended.is_ok(), "the watch goes on");
        discovery.close().await.unwrap();
    }
}
