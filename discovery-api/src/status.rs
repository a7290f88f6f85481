//! How a handle is doing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{Error, InstanceKey};

/// How the backend connection and each own registration are doing, at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    backend: &'static str,
    connection: Connection,
    bounds: Bounds,
    registrations: BTreeMap<InstanceKey, Registration>,
}

impl Status {
    /// The status of a handle of `backend`, without registrations.
    #[must_use]
    pub fn new(backend: &'static str, connection: Connection, bounds: Bounds) -> Self {
        Self {
            backend,
            connection,
            bounds,
            registrations: BTreeMap::new(),
        }
    }

    /// The same with these registrations.
    #[must_use]
    pub fn with_registrations(
        mut self,
        registrations: impl IntoIterator<Item = (InstanceKey, Registration)>,
    ) -> Self {
        self.registrations.extend(registrations);
        self
    }

    /// The backend's name: the URL scheme and the Cargo feature.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.backend
    }

    /// Whether the backend can be heard.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// How long things take at most with this backend, configured as it is.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// How one own registration is doing; `None` for a key this handle doesn't hold.
    #[must_use]
    pub fn registration(&self, key: &InstanceKey) -> Option<&Registration> {
        self.registrations.get(key)
    }

    /// All registrations this handle holds.
    #[must_use]
    pub fn registrations(&self) -> &BTreeMap<InstanceKey, Registration> {
        &self.registrations
    }
}

/// Whether the backend can be heard.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Connection {
    /// It is heard.
    Connected,
    /// It can't be heard: views are stale, registrations wait.
    Disconnected {
        /// Since when.
        since: Instant,
        /// Why, for people.
        reason: Arc<str>,
    },
    /// The handle is closed.
    Closed,
}

impl Connection {
    /// Whether the backend is heard.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected)
    }
}

/// How one registration is doing. It is desired state: held until deregistered or closed (REG-3).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Registration {
    /// The backend has it.
    Registered,
    /// The backend doesn't have it, or not its newest content; it is tried for ever.
    Pending {
        /// Since when.
        since: Instant,
        /// What the last try ended with.
        last_error: Option<Error>,
    },
    /// A newer generation of the same key took over; this one has stopped (REG-5).
    Superseded,
}

impl Registration {
    /// Whether the backend has it.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        matches!(self, Self::Registered)
    }

    /// Whether a newer generation took over.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        matches!(self, Self::Superseded)
    }
}

/// How long things take at most while the backend itself is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// From `register` or `health` returning to every watcher seeing it.
    pub visible: Duration,
    /// From `deregister` or `close` returning to every watcher seeing it gone.
    pub removed: Duration,
    /// From an owner's crash to every watcher seeing its instances gone (HEA-3).
    pub crashed: Duration,
    /// From the backend falling silent to a view being marked stale.
    pub stale: Duration,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            visible,
            removed,
            crashed,
            stale,
        } = self;
        write!(
            f,
            "visible ≤ {visible:?}, removed ≤ {removed:?}, crashed ≤ {crashed:?}, stale ≤ {stale:?}"
        )
    }
}
