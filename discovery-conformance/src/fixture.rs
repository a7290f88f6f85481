//! What a backend author implements: how to start the backend, and how to break it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{Discovery, Instance, ServiceName};

use crate::Failure;

/// One backend in one namespace, with everything around it that a case may need or break.
///
/// Each case starts a fixture of its own and drops it at the end. [`start`](Self::start) and
/// [`connect`](Self::connect) have to be there; each other method is a fault or another tool. A
/// backend that hasn't got it leaves the default, which says [`Failure::Unsupported`], and lists
/// the cases that need it as ignored (see [`suite!`](crate::suite)).
///
/// A fault has happened when its method returns; that somebody *noticed* it is what cases wait for.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// Starts the backend, or what a test needs of it, for a case that has `namespace` for itself.
    /// The name is 1–32 of `a-z0-9-`, new for every run.
    ///
    /// What has to end with the case (a child process, a directory) ends when the fixture is
    /// dropped.
    async fn start(namespace: &str) -> Result<Self, Failure>
    where
        Self: Sized;

    /// A new handle, which hears the backend and shares the namespace with the earlier ones.
    async fn connect(&self) -> Result<Box<dyn Handle>, Failure>;

    /// Stops the server, so that no handle hears it. For backends that have one.
    async fn stop_server(&self) -> Result<(), Failure> {
        Err(Failure::Unsupported("stop the server"))
    }

    /// Starts the server again, after [`stop_server`](Self::stop_server).
    async fn start_server(&self, data: Data) -> Result<(), Failure> {
        let _ = data;
        Err(Failure::Unsupported("start the server"))
    }

    /// Writes an entry in the backend's native format, as another tool would (WAT-9). Where the
    /// format has no room for a field, the case does not look at it: only the key and the address
    /// have to be kept.
    async fn put_foreign(&self, instance: &Instance) -> Result<(), Failure> {
        let _ = instance;
        Err(Failure::Unsupported("write a foreign entry"))
    }

    /// Feeds bytes to the backend where its own input comes from (LIM-4): as a datagram and over a
    /// connection to the ports of each handle, as a stored value beside the instances, and so on.
    /// `garbage` may be empty and is at most 64 KiB; bytes that the transport itself refuses are
    /// skipped.
    async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
        let _ = garbage;
        Err(Failure::Unsupported("inject garbage"))
    }

    /// Makes the backend refuse registrations of `service` from now on (REG-7).
    async fn deny(&self, service: &ServiceName) -> Result<(), Failure> {
        let _ = service;
        Err(Failure::Unsupported("refuse a registration"))
    }

    /// The backend's configuration as text options (LIM-3).
    fn configuration(&self) -> Result<Configuration, Failure> {
        Err(Failure::Unsupported("parse a configuration"))
    }

    /// What is added to a bound of [`Status::bounds`](tidings_api::Status::bounds) before a case
    /// calls it broken: scheduling on a loaded machine, not the backend's own time. 10 s.
    fn slack(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// How long handles take at most to hear the backend again after an outage, including the
    /// backoff they may have reached by then. 20 s.
    fn recovery(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// After how long a case that hasn't ended is called hanging. 60 s.
    fn deadline(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// One handle of the backend under test, with its faults.
///
/// It may hold the backend's own type beside the [`Discovery`], but must not keep it alive anywhere
/// else: dropping the `Handle` is how a case drops the backend's handle without closing it (CLO-2).
#[async_trait]
pub trait Handle: Send + Sync + 'static {
    /// What the case works with.
    fn discovery(&self) -> Arc<dyn Discovery>;

    /// Ends the handle as if its process were killed: no deregistration, no goodbye. It isn't used
    /// again.
    async fn crash(&self) -> Result<(), Failure> {
        Err(Failure::Unsupported("crash a handle"))
    }

    /// Cuts this handle off from everything: nothing it sends arrives, and nothing reaches it.
    /// Cases cut off at most one handle of three or more, so that it is the minority.
    async fn cut_off(&self) -> Result<(), Failure> {
        Err(Failure::Unsupported("cut a handle off"))
    }

    /// Ends [`cut_off`](Self::cut_off).
    async fn restore(&self) -> Result<(), Failure> {
        Err(Failure::Unsupported("restore a handle"))
    }

    /// Ends what keeps the handle's registrations alive on the server's side (lease, session, TTL),
    /// so that the server drops them while the handle lives on and can be heard (REG-3).
    async fn expire(&self) -> Result<(), Failure> {
        Err(Failure::Unsupported("expire a session"))
    }

    /// Number of upstream subscriptions this handle has (WAT-8):
    /// [`Publisher::feeds`](tidings_api::Publisher::feeds) for a backend that starts one a feed.
    fn subscriptions(&self) -> Result<usize, Failure> {
        Err(Failure::Unsupported("count subscriptions"))
    }
}

/// What a server has after [`Fixture::start_server`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// All it had when it was stopped.
    Kept,
    /// Nothing: it starts as new.
    Lost,
}

/// How a backend is configured, for LIM-3.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Parses options as they stand in a URL or a configuration file, and returns the `Debug` text
    /// of what came out.
    pub parse: fn(&[(&str, &str)]) -> tidings_api::Result<String>,
    /// Options that are accepted together, and enough to parse.
    pub valid: Vec<(&'static str, &'static str)>,
    /// Options that are refused beside the valid ones, each for its value.
    pub refused: Vec<(&'static str, &'static str)>,
    /// Options that are accepted beside the valid ones and hold a secret.
    pub secrets: Vec<(&'static str, &'static str)>,
}
