//! The Consul backend: an instance is a service of the local agent, kept alive by a TTL check, and
//! a watch is a blocking query.
//!
//! It is meant as a good citizen of a Consul datacenter: what Consul has a place for stands there,
//! so that its DNS, its UI and clients in other languages see our instances, and services that
//! others registered are instances here. Works with Consul 1.8 and later; ports, tags and metadata
//! need nothing newer.
//!
//! # What stands where
//! | here | in Consul |
//! |---|---|
//! | service, address, port | name, address and port of the service |
//! | namespace | a tag, and so `NAMESPACE.SERVICE.service.consul` in its DNS |
//! | metadata | `Meta`; keys with a dot and those that start with `consul-` in the record |
//! | weight | `Weights`, the same for passing and warning |
//! | named ports | `TaggedAddresses`, but for names that Consul has a use for |
//! | health | the check *Health*: what drains is critical there, with the output `draining` |
//! | that the owner lives | the check *Owner alive*, of the TTL |
//! | zone, draining, and the rest of the above | a record, as JSON in the notes of that check |
//! | generation | the end of the service id, `service:id:generation` |
//!
//! A prefix of the service's name would have isolated namespaces as well, and broken Consul's DNS
//! and every client that looks for `web`; the tag breaks neither. What it doesn't do is to keep
//! others out: that is what access lists are for.
//!
//! # What others registered
//! is shown with the worst of its checks as its health, its node's address where it has none of its
//! own, maintenance as draining, its tags as the metadata entry `consul.tags`, and the id
//! `node:service-id`, as service ids are unique on one node only; metadata `tidings-id` chooses
//! another. A service without a port is no instance.
//!
//! # Bounds
//! | | |
//! |---|---|
//! | seen or gone elsewhere | milliseconds, at most 2 s; see below for more than 64 services |
//! | crashed owner gone | [`ttl`](ConsulConfig::ttl) after its last report, which is at most as long ago, and 2 s |
//! | crashed node gone | when Consul's own gossip finds it, some seconds |
//! | silent agent noticed | a third of the TTL, 10 s at most, and [`request_timeout`](ConsulConfig::request_timeout) |
//! | cleared from Consul after a crash | [`deregister_after`](ConsulConfig::deregister_after), and up to 30 s |
//!
//! An owner whose agent dies is taken for dead by all but the handles of that agent, until the agent
//! is back: so does Consul. After a restored snapshot an instance that is younger than it may be
//! missing for up to a third of a TTL where its service changes in that time; otherwise it is held.
//!
//! # Cost
//! A handle sends three reports a TTL for each registration, and as many questions for itself; every
//! report is a write to the agent's disk. A watch of a service is one request that waits; the watch
//! of all services is one for each of them and one for their names. At most 64 queries of a handle
//! wait at once: with more services they take turns of 2 s, and changes are seen up to 2 s later for
//! each further 64, as the bounds of [`status`](tidings_api::Discovery::status) say.

mod api;
mod backoff;
mod cursor;
mod entry;
mod error;
mod guard;
mod http;
mod keys;
mod part;
mod pulse;
mod registration;
mod shared;
mod state;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{
    Bounds, Connection, Discovery, Health, Instance, InstanceKey, Removal, Result, Selector,
    Status, Watch,
};

mod config;
pub use config::{Consistency, ConsulConfig, PORT_DEFAULT};

use shared::Shared;

/// The name of this backend: its URL scheme and its Cargo feature.
const BACKEND: &str = "consul";

/// Bound from `register`, `health` or `deregister` to every watcher: a query returns with the
/// change, unless it has returned without one just before. Where queries take turns, for each turn.
const VISIBLE_BOUND: Duration = Duration::from_secs(2);

/// A handle of a Consul agent.
///
/// # How far things have travelled
/// When `register`, `health` or `deregister` returns, the agent has taken it over and told the
/// servers, and watches of this handle show it. While the agent can't be heard they return at once,
/// and what they asked for is brought to it later.
///
/// # Dropping
/// A handle that is dropped without `close` acts like a crash: what it registered leaves the views
/// after the [`ttl`](ConsulConfig::ttl).
#[derive(Debug)]
pub struct ConsulDiscovery {
    shared: Arc<Shared>,
}

/// What a handle has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests sent to the agent.
    pub requests: u64,
    /// Selectors that are watched now, or were until a moment ago.
    pub feeds: usize,
    /// Services of the catalog that were found to be no instances, each counted once.
    pub unreadable: usize,
}

impl ConsulDiscovery {
    /// Starts a handle.
    ///
    /// Waits for the agent's first answer, or until it is clear that there is none, which is no
    /// error: the status is disconnected and views are stale until there is one.
    ///
    /// Needs a tokio runtime with time and I/O; the handle's tasks live on it.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) naming the field that is out of
    /// range, the file that can't be read, or the environment variable that makes no sense.
    pub async fn start(config: ConsulConfig) -> Result<Self> {
        config.validate()?;
        let shared = Shared::start(config.completed()?)?;
        // In the handle before the wait: a call that is dropped ends the tasks.
        let handle = Self { shared };
        handle.shared.pulse.check().await;
        Ok(handle)
    }

    /// What this handle has counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    fn bounds(&self) -> Bounds {
        let config = &self.shared.config;
        let visible = VISIBLE_BOUND * watch::turns(&self.shared);
        Bounds {
            visible,
            removed: visible,
            crashed: config.ttl + visible,
            stale: config.beat_interval() + config.request_timeout,
        }
    }
}

#[async_trait]
impl Discovery for ConsulDiscovery {
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        let key = instance.key().clone();
        self.shared
            .register(instance)
            .await
            .map_err(|error| named(error, format!("register {key}")))?;
        Ok(key)
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        self.shared
            .deregister(key)
            .await
            .map_err(|error| named(error, format!("deregister {key}")))
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        let operation = format!("watch {selector}");
        self.shared
            .watch(selector)
            .await
            .map_err(|error| named(error, operation))
    }

    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        self.shared
            .report(key, health)
            .await
            .map_err(|error| named(error, format!("health {key}")))
    }

    fn status(&self) -> Status {
        let state = self.shared.state();
        let connection = if state.closed {
            Connection::Closed
        } else {
            self.shared.pulse.last().connection
        };
        Status::new(BACKEND, connection, self.bounds()).with_registrations(state.registrations())
    }

    async fn close(&self) -> Result<()> {
        self.shared
            .close()
            .await
            .map_err(|error| named(error, "close".to_owned()))
    }
}

impl Drop for ConsulDiscovery {
    fn drop(&mut self) {
        self.shared.end();
    }
}

fn named(error: tidings_api::Error, operation: String) -> tidings_api::Error {
    error.with_backend(BACKEND).with_operation(operation)
}
