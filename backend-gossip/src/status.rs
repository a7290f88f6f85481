//! What `status` answers, kept by the driver and read without it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidings_api::{
    Bounds, Connection, Error, ErrorKind, Freshness, InstanceKey, Registration, Status,
};

use crate::BACKEND;
use crate::engine::Identity;

/// How the handle is doing. The driver changes single values of it, each under a lock of
/// nanoseconds; readers hold it for one copy.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    identity: Identity,
    connection: Connection,
    bounds: Bounds,
    registrations: BTreeMap<InstanceKey, Registration>,
}

impl Board {
    pub(crate) fn new(identity: Identity, bounds: Bounds) -> Self {
        Self {
            state: Mutex::new(State {
                identity,
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

    pub(crate) fn identity(&self) -> Identity {
        self.lock().identity.clone()
    }

    pub(crate) fn renamed(&self, identity: Identity) {
        self.lock().identity = identity;
    }

    /// Notes how well the cluster is heard. What was disconnected before is so since then.
    pub(crate) fn freshness(&self, freshness: Freshness) {
        let mut state = self.lock();
        state.connection = match (freshness, &state.connection) {
            (Freshness::Live, _) => Connection::Connected,
            (Freshness::Stale { reason, .. }, Connection::Disconnected { since, .. }) => {
                let since = *since;
                Connection::Disconnected { since, reason }
            }
            (Freshness::Stale { since, reason }, _) => Connection::Disconnected { since, reason },
        };
        if state.connection.is_connected() {
            for registration in state.registrations.values_mut() {
                if matches!(registration, Registration::Pending { .. }) {
                    *registration = Registration::Registered;
                }
            }
        }
    }

    pub(crate) fn crash_bound(&self, crashed: Duration) {
        self.lock().bounds.crashed = crashed;
    }

    /// Notes that this member has a registration in its newest form. The others have it as soon as
    /// they are heard: until then it is pending.
    pub(crate) fn offered(&self, key: InstanceKey) {
        let mut state = self.lock();
        let registration = match &state.connection {
            Connection::Disconnected { reason, .. } => {
                let unheard = Error::new(ErrorKind::Unavailable, reason.to_string());
                Registration::Pending {
                    since: Instant::now(),
                    last_error: Some(unheard.with_backend(BACKEND)),
                }
            }
            _ => Registration::Registered,
        };
        state.registrations.insert(key, registration);
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tidings_api::Generation;

    use super::*;

    fn board() -> Board {
        let identity = Identity {
            name: "a".into(),
            generation: Generation::default(),
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
        };
        let bounds = Bounds {
            visible: Duration::ZERO,
            removed: Duration::ZERO,
            crashed: Duration::ZERO,
            stale: Duration::ZERO,
        };
        Board::new(identity, bounds)
    }

    fn since(board: &Board) -> Option<Instant> {
        match board.status().connection() {
            Connection::Disconnected { since, .. } => Some(*since),
            _ => None,
        }
    }

    #[test]
    fn what_is_offered_unheard_is_pending_until_somebody_is_heard() {
        let board = board();
        let keys = ["web/a", "web/b", "web/c"].map(|key| key.parse::<InstanceKey>().unwrap());
        board.offered(keys[0].clone());
        board.freshness(Freshness::stale("no other member is heard"));
        board.offered(keys[1].clone());
        board.superseded(keys[2].clone());
        let status = board.status();
        assert!(status.registration(&keys[0]).unwrap().is_registered());
        let Some(Registration::Pending { last_error, .. }) = status.registration(&keys[1]) else {
            panic!("{status:?}");
        };
        let error = last_error.as_ref().unwrap().to_string();
        assert_eq!(error, "gossip: no other member is heard");

        board.freshness(Freshness::Live);
        let status = board.status();
        assert!(status.registration(&keys[1]).unwrap().is_registered());
        assert!(status.registration(&keys[2]).unwrap().is_superseded());
    }

    #[test]
    fn a_new_reason_keeps_the_moment() {
        let board = board();
        board.freshness(Freshness::stale("one"));
        let first = since(&board);
        board.freshness(Freshness::stale("another"));
        assert!(first.is_some() && since(&board) == first);
        board.freshness(Freshness::Live);
        assert_eq!(since(&board), None);
    }
}
