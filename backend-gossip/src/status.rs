//! What `status` answers, kept by the driver and read without it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidings_api::{Bounds, Connection, Freshness, InstanceKey, Registration, Status};

use crate::BACKEND;

/// How the handle is doing. The driver changes single values of it, each under a lock of
/// nanoseconds; readers hold it for one copy.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    connection: Connection,
    bounds: Bounds,
    registrations: BTreeMap<InstanceKey, Registration>,
}

impl Board {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            state: Mutex::new(State {
                connection: Connection::Connected,
                bounds,
                registrations: BTreeMap::new(),
            }),
        }
    }

    pub(crate) fn status(&self) -> Status {
        let state = self.lock();
        let registrations = state.registrations.clone();
        let (connection, bounds) = (state.connection.clone(), state.bounds);
        drop(state);
        Status::new(BACKEND, connection, bounds).with_registrations(registrations)
    }

    /// Notes how well the cluster is heard. What was disconnected before is so since then.
    pub(crate) fn freshness(&self, freshness: Freshness) {
        let mut state = self.lock();
        let since_before = match state.connection {
            Connection::Disconnected { since, .. } => Some(since),
            _ => None,
        };
        state.connection = match freshness {
            Freshness::Live => Connection::Connected,
            Freshness::Stale { since, reason } => Connection::Disconnected {
                since: since_before.unwrap_or(since),
                reason,
            },
        };
    }

    pub(crate) fn crash_bound(&self, crashed: Duration) {
        self.lock().bounds.crashed = crashed;
    }

    /// A gossip registration is made where it is kept, so it is never pending.
    pub(crate) fn registered(&self, key: InstanceKey) {
        self.lock()
            .registrations
            .insert(key, Registration::Registered);
    }

    pub(crate) fn superseded(&self, key: InstanceKey) {
        self.lock()
            .registrations
            .insert(key, Registration::Superseded);
    }

    pub(crate) fn deregistered(&self, key: &InstanceKey) {
        self.lock().registrations.remove(key);
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.connection = Connection::Closed;
        state.registrations.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
