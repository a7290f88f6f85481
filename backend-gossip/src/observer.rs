//! Observers: they look services up without being members.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{
    Bounds, Connection, Discovery, Error, ErrorKind, Freshness, Health, Instance, InstanceKey,
    Publisher, Removal, Result, Selector, Status, Watch,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, timeout_at};
use tracing::info;

mod driver;
use driver::{Command, Driver, Parts};

#[cfg(feature = "fault-injection")]
mod faults;
#[cfg(feature = "fault-injection")]
pub use faults::ObserverFaults;

mod feeds;

mod replica;

mod session;

#[cfg(test)]
mod tests;

use session::{Session, SessionConfig};

use crate::config::GossipConfig;
use crate::driver::COMMANDS_WAITING_MAX;
use crate::key_file::KeyFile;
use crate::link::LinkKeys;
use crate::resolve::Seeds;
use crate::seal::{KeyId, Ring};
use crate::wire::cluster_hash;
use crate::{BACKEND, VISIBLE_BOUND, ring};

/// Probe intervals until an observer that hears no member says so: five of silence, one in which another
/// member is looked for, and one until it looks.
const STALE_PROBES: u32 = 7;
/// Probe intervals that a crash takes at most to be seen by members, where none has said otherwise.
const CRASH_PROBES: u32 = 6;

/// Looks services up in a gossip cluster without being a member of it.
///
/// An observer keeps one link to any member, tells it what is watched, is shown that, and from then on
/// what changes. When the member ends or falls silent it goes on with another one: a seed, or a
/// member it was told of. It is in no member table, is probed by nobody, and sends nothing to anybody but
/// that member, so a cluster may have thousands.
///
/// Views are stale while no member is heard, while the one that is asked is cut off itself, and where that
/// one has never heard of an owner of what is shown: for up to 30 s (less where
/// [`loss_hold`](GossipConfig::loss_hold) is) it may be on its way back.
///
/// # What it can't do
/// It only looks: [`register`](Discovery::register) is [`Unsupported`](ErrorKind::Unsupported).
/// `deregister` finds nothing, and `health` has no registration of this handle to be about.
///
/// # Bounds
/// As on members; what was registered, deregistered or has crashed is seen a moment after the member
/// that is asked has seen it. Where just that one's host falls silent, it takes the time to notice that on
/// top, which is in [`Bounds::crashed`].
#[derive(Debug)]
pub struct GossipObserver {
    board: Arc<Board>,
    publisher: Publisher,
    ring: watch::Receiver<Arc<Ring>>,
    commands: mpsc::Sender<Command>,
}

/// What an observer has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObserverStats {
    /// Frames read.
    pub frames_in: u64,
    /// Bytes of them.
    pub bytes_in: u64,
    /// Frames sent.
    pub frames_out: u64,
    /// Bytes of them.
    pub bytes_out: u64,
    /// How often another member had to be looked for.
    pub failovers: u64,
    /// Records kept, tombstones included.
    pub records: usize,
    /// Views given to watches.
    pub views_published: u64,
}

impl GossipObserver {
    /// Starts an observer of the cluster of the seeds; the configuration has
    /// [`observe`](GossipConfig::observe) set.
    ///
    /// Waits for the first member to answer, but not longer than
    /// [`join_wait`](GossipConfig::join_wait): members that don't answer are no error. They are tried for
    /// ever, and until one answers the status is disconnected and views are stale.
    ///
    /// Needs a tokio runtime with time and I/O; the observer lives as a task on it.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the field that is out of range, or that an
    /// observer has no use for.
    pub async fn start(config: GossipConfig) -> Result<Self> {
        config.validate()?;
        if !config.observe {
            let message = "observe false: accepted is true; a member is started by GossipDiscovery";
            return Err(Error::invalid_config(message).with_backend(BACKEND));
        }
        let mut seeds = Seeds::new(config.seeds()?);
        seeds.resolve();
        let ring = Arc::new(ring(&config).await?);
        let key_file = KeyFile::new(config.keys_file.clone(), ring.keys());
        let (ring, keys) = watch::channel(ring);
        info!(mode = %ring.borrow().mode(), "observer started");

        let now = std::time::Instant::now();
        let session = SessionConfig {
            cluster: cluster_hash(&config.cluster),
            probe_interval: config.probe_interval,
            loss_hold: config.loss_hold,
        };
        let board = Arc::new(Board::new(bounds(&config)));
        let publisher = Publisher::new();
        let (commands, waiting) = mpsc::channel(COMMANDS_WAITING_MAX);
        let (live, first_answer) = oneshot::channel();
        let parts = Parts {
            session: Session::new(now, session, fastrand::u64(..)),
            seeds,
            ring,
            key_file,
            keys: LinkKeys::new(keys.clone(), Arc::default()),
            publisher: publisher.clone(),
            board: board.clone(),
            live,
            commands: waiting,
        };
        tokio::spawn(Driver::new(parts).run());
        let observer = Self {
            board,
            publisher,
            ring: keys,
            commands,
        };
        // Too late is no error: the driver goes on trying.
        let _ = timeout_at(Instant::now() + config.join_wait, first_answer).await;
        Ok(observer)
    }

    /// The member that is listened to now.
    #[must_use]
    pub fn member(&self) -> Option<SocketAddr> {
        self.board.lock().member
    }

    /// Ids of the keys that this observer has, the one that it seals with first; none where it is unsealed.
    /// Members don't know of it: before a key is retired, its observers have to have the new one.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyId> {
        self.ring.borrow().ids().collect()
    }

    /// Number of selectors that are watched now, or were until about a second ago. All watches of
    /// one share a subscription (WAT-8).
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.publisher.feeds()
    }

    /// What this observer has counted.
    #[must_use]
    pub fn stats(&self) -> ObserverStats {
        self.board.lock().stats
    }

    /// What tests can do to this observer.
    #[cfg(feature = "fault-injection")]
    #[must_use]
    pub fn faults(&self) -> ObserverFaults {
        ObserverFaults::new(self.commands.downgrade())
    }

    fn closed(&self) -> Option<Error> {
        let closed = || Error::closed().with_backend(BACKEND);
        self.commands.is_closed().then(closed)
    }
}

#[async_trait]
impl Discovery for GossipObserver {
    /// An observer only looks.
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        let error = self.closed().unwrap_or_else(|| {
            let message = "an observer only looks services up: to offer an instance, start a member, \
                           with observe=false and an address to bind to";
            Error::new(ErrorKind::Unsupported, message).with_backend(BACKEND)
        });
        Err(error.with_operation(format!("register {}", instance.key())))
    }

    /// There is never anything to withdraw.
    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        match self.closed() {
            Some(closed) => Err(closed.with_operation(format!("deregister {key}"))),
            None => Ok(Removal::Absent),
        }
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        let operation = format!("watch {selector}");
        let closed = || Error::closed().with_backend(BACKEND);
        let (reply, answer) = oneshot::channel();
        let command = Command::Watch(selector, reply);
        let watched = async {
            let sent = unconstrained(self.commands.send(command)).await;
            sent.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        };
        let watched = watched.await;
        watched.map_err(|error| error.with_backend(BACKEND).with_operation(operation))
    }

    /// There is never a registration to be about.
    async fn health(&self, key: &InstanceKey, _health: Health) -> Result<()> {
        let error = self.closed().unwrap_or_else(|| {
            let message = format!(
                "{key} is not registered by this handle, which is an observer: health is reported by \
                 the member that registered the instance"
            );
            Error::new(ErrorKind::NotOwned, message).with_backend(BACKEND)
        });
        Err(error.with_operation(format!("health {key}")))
    }

    fn status(&self) -> Status {
        let state = self.board.lock();
        Status::new(BACKEND, state.connection.clone(), state.bounds)
    }

    async fn close(&self) -> Result<()> {
        // Where the driver has ended already, or ends before it gets to this, that is as well.
        let _ = self.commands.send(Command::Close).await;
        self.commands.closed().await;
        Ok(())
    }
}

fn bounds(config: &GossipConfig) -> Bounds {
    let stale = STALE_PROBES * config.probe_interval;
    Bounds {
        visible: VISIBLE_BOUND,
        removed: VISIBLE_BOUND,
        crashed: stale + CRASH_PROBES * config.probe_interval,
        stale,
    }
}

/// What is read without the driver.
struct Board {
    state: Mutex<State>,
}

struct State {
    connection: Connection,
    bounds: Bounds,
    member: Option<SocketAddr>,
    stats: ObserverStats,
}

impl Board {
    fn new(bounds: Bounds) -> Self {
        let connection = Connection::Disconnected {
            since: std::time::Instant::now(),
            reason: "no member has answered yet".into(),
        };
        Self {
            state: Mutex::new(State {
                connection,
                bounds,
                member: None,
                stats: ObserverStats::default(),
            }),
        }
    }

    fn note(&self, freshness: &Freshness, crashed: Option<Duration>, member: Option<SocketAddr>) {
        let mut state = self.lock();
        state.member = member;
        state.connection = match (freshness, &state.connection) {
            (Freshness::Live, _) => Connection::Connected,
            (Freshness::Stale { reason, .. }, Connection::Disconnected { since, .. }) => {
                Connection::Disconnected {
                    since: *since,
                    reason: reason.clone(),
                }
            }
            (Freshness::Stale { since, reason }, _) => Connection::Disconnected {
                since: *since,
                reason: reason.clone(),
            },
        };
        if let Some(crashed) = crashed {
            // Where the member that is asked is the one that falls silent, that has to be noticed first.
            state.bounds.crashed = crashed + state.bounds.stale;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Board")
            .field("connection", &state.connection)
            .field("member", &state.member)
            .finish_non_exhaustive()
    }
}
