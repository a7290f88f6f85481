//! Whether Consul can be heard: one small question again and again.
//!
//! A query that waits for a change can't tell a quiet Consul from a dead one. The pulse can, and it
//! is the one place that decides what [`Connection`] says; whoever meets an error asks it for a new
//! beat and waits for that before going on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidings_api::{Connection, Error, ErrorKind, Result};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tracing::{debug, info};

use crate::api::Api;
use crate::backoff::{Backoff, jittered};
use crate::error::whole;

/// Shortest time between two beats, however often they are asked for.
const BEATS_APART: Duration = Duration::from_millis(20);
/// Longest time between two beats while Consul isn't heard.
const RETRY_MAX: Duration = Duration::from_secs(2);

pub(crate) struct Pulse {
    beats: watch::Sender<Beat>,
    started: AtomicU64,
    asked: Notify,
}

/// What the last question was answered with.
#[derive(Clone, Debug)]
pub(crate) struct Beat {
    pub(crate) connection: Connection,
    /// Counts how often the catalog turned out to be another one: that of other servers, or that of
    /// a restored snapshot.
    pub(crate) epoch: u64,
    number: u64,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        let connection = Connection::Disconnected {
            since: Instant::now(),
            reason: "nothing was heard from the agent yet".into(),
        };
        let first = Beat {
            connection,
            epoch: 0,
            number: 0,
        };
        Self {
            beats: watch::Sender::new(first),
            started: AtomicU64::new(0),
            asked: Notify::new(),
        }
    }

    /// The last beat.
    pub(crate) fn last(&self) -> Beat {
        self.beats.borrow().clone()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.beats.borrow().connection.is_connected()
    }

    /// Asks for a beat that starts from now on, and waits for it.
    pub(crate) async fn check(&self) -> Beat {
        let wanted = self.started.load(Ordering::SeqCst) + 1;
        self.asked.notify_one();
        self.wait_for(|beat| beat.number >= wanted).await
    }

    /// Asks for a beat without waiting for it.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Waits until Consul is heard.
    pub(crate) async fn heard(&self) -> Beat {
        self.wait_for(|beat| beat.connection.is_connected()).await
    }

    /// Waits until Consul isn't heard, and says why.
    pub(crate) async fn lost(&self) -> Beat {
        self.wait_for(|beat| !beat.connection.is_connected()).await
    }

    /// Waits until the catalog is another one.
    pub(crate) async fn rebuilt(&self, epoch: u64) -> Beat {
        self.wait_for(|beat| beat.epoch != epoch).await
    }

    /// A query that waited on the catalog of `epoch` was abandoned: there is another one.
    pub(crate) fn abandoned(&self, epoch: u64) {
        self.beats.send_if_modified(|beat| {
            let is_news = beat.epoch == epoch;
            if is_news {
                debug!("the catalog was abandoned for another one");
                beat.epoch += 1;
            }
            is_news
        });
    }

    /// Changes of the connection, from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<Beat> {
        self.beats.subscribe()
    }

    /// Beats for ever, every `interval` while all is well; `reloaded` is called when the token is
    /// another one.
    pub(crate) async fn run(&self, api: &Api, interval: Duration, reloaded: impl Fn()) {
        let mut backoff = Backoff::new(RETRY_MAX.min(interval));
        let mut catalog = Catalog::default();
        let mut doubtful = true;
        loop {
            let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
            if api.reload_token() {
                reloaded();
            }
            let answer = catalog.look(api, doubtful).await;
            let (pause, heard) = match answer {
                Ok(_) => {
                    backoff.reset();
                    (jittered(interval), true)
                }
                Err(_) => (backoff.next(), false),
            };
            let rebuilt = *answer.as_ref().unwrap_or(&false);
            self.record(number, answer.err().as_ref(), rebuilt);
            doubtful = tokio::select! {
                () = sleep(pause) => !heard,
                () = self.asked.notified() => {
                    sleep(BEATS_APART).await;
                    true
                }
            };
        }
    }

    fn record(&self, number: u64, error: Option<&Error>, rebuilt: bool) {
        self.beats.send_if_modified(|beat| {
            let was = beat.connection.is_connected();
            beat.number = number;
            beat.epoch += u64::from(rebuilt);
            match (error, &beat.connection) {
                (None, _) => beat.connection = Connection::Connected,
                (Some(_), Connection::Disconnected { .. }) if number > 1 => {}
                (Some(error), _) => {
                    beat.connection = Connection::Disconnected {
                        since: Instant::now(),
                        reason: whole(error).into(),
                    };
                }
            }
            match (was, beat.connection.is_connected()) {
                (true, false) => info!(reason = ?beat.connection, "consul is not heard"),
                (false, true) => info!("consul is heard"),
                (true, true) | (false, false) => {}
            }
            if rebuilt {
                debug!("the catalog is another one than before");
            }
            true
        });
    }

    async fn wait_for(&self, condition: impl FnMut(&Beat) -> bool) -> Beat {
        let mut beats = self.beats.subscribe();
        match beats.wait_for(condition).await {
            Ok(beat) => beat.clone(),
            // The sender is `self`.
            Err(_) => self.last(),
        }
    }
}

/// What tells one catalog from another.
#[derive(Default)]
struct Catalog {
    clock: u64,
    servers: BTreeSet<String>,
}

impl Catalog {
    /// Whether it is another one now: its clock went backwards or, where there is reason to doubt
    /// it, none of its servers is there any more.
    async fn look(&mut self, api: &Api, doubtful: bool) -> Result<bool> {
        let clock = match api.clock().await {
            Ok(clock) => clock,
            // Whoever may see nothing can still know that Consul is well.
            Err(error) if error.kind() == ErrorKind::Denied => {
                return api.leader().await.map(|()| false);
            }
            Err(error) => return Err(error),
        };
        let backwards = std::mem::replace(&mut self.clock, clock) > clock;
        Ok(backwards | (doubtful && self.are_others(api).await))
    }

    async fn are_others(&mut self, api: &Api) -> bool {
        // Without permission to see them, the clock has to tell.
        let Ok(servers) = api.servers().await else {
            return false;
        };
        if servers.is_empty() {
            return false;
        }
        let others = !self.servers.is_empty() && self.servers.is_disjoint(&servers);
        self.servers = servers;
        others
    }
}
