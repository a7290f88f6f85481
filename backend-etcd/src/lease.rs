//! What keeps registrations alive in etcd: leases, shared by the registrations of a handle.
//!
//! A lease counts as held only for as long as an *answer* to a keep-alive vouches for it, measured
//! on this machine's clock from when the keep-alive was sent. A lease that can't be confirmed in
//! time is doubtful, but not given up: etcd extends all leases when it gets a new leader, and then
//! nothing has to be written again. Only when etcd says that it is gone, a new one takes its place.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::LeaseGrantOptions;
use tidings_api::Error;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::client::{Link, Route};
use crate::error::Fault;

/// A keep-alive is sent this often within the time to live, so that two may be lost.
const KEEP_ALIVES_PER_TTL: u32 = 3;

/// One lease, replaced by another when it is lost.
pub(crate) struct Lease {
    link: Arc<Link>,
    ttl: Duration,
    state: watch::Sender<LeaseState>,
    /// Somebody was told that it is gone.
    doubt: Notify,
}

/// How a lease is doing.
#[derive(Clone, Debug)]
pub(crate) struct LeaseState {
    /// Its id, unless there is none at present.
    pub(crate) id: Option<i64>,
    /// Until when etcd has promised to keep it.
    pub(crate) expires: Instant,
    /// Why there is none.
    pub(crate) error: Option<Error>,
}

impl LeaseState {
    /// Whether an answer vouches for it at this moment.
    pub(crate) fn is_held(&self) -> bool {
        self.id.is_some() && Instant::now() < self.expires
    }
}

impl Lease {
    pub(crate) fn new(link: Arc<Link>, ttl: Duration) -> Self {
        Self {
            link,
            ttl,
            state: watch::Sender::new(LeaseState {
                id: None,
                expires: Instant::now(),
                error: None,
            }),
            doubt: Notify::new(),
        }
    }

    pub(crate) fn state(&self) -> LeaseState {
        self.state.borrow().clone()
    }

    /// Wakes when another lease takes its place.
    pub(crate) fn subscribe(&self) -> watch::Receiver<LeaseState> {
        self.state.subscribe()
    }

    /// A write with lease `id` was refused because it is gone: looks into it.
    pub(crate) fn doubt(&self, id: i64) {
        if self.state.borrow().id == Some(id) {
            self.doubt.notify_one();
        }
    }

    /// Has a lease, for ever.
    pub(crate) async fn keep(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            self.link.connected().await;
            let id = fastrand::i64(1..);
            match self.grant(id).await {
                Ok(expires) => {
                    backoff.reset();
                    self.change(LeaseState {
                        id: Some(id),
                        expires,
                        error: None,
                    });
                    self.keep_alive(id).await;
                    tracing::info!(lease = id, "a lease is lost");
                    self.change(LeaseState {
                        id: None,
                        expires: Instant::now(),
                        error: Some(Fault::LeaseGone.to_error()),
                    });
                }
                Err(fault) => {
                    let error = Some(fault.to_error());
                    self.state.send_modify(|state| state.error = error);
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Asks for a lease of this id, so that asking again after no answer makes no second one.
    async fn grant(&self, id: i64) -> Result<Instant, Fault> {
        let seconds = self.seconds();
        let asked = Instant::now();
        let granted = self.link.call(|client| {
            let mut leases = client.lease_client();
            let options = LeaseGrantOptions::new().with_id(id);
            async move { leases.grant(seconds, Some(options)).await }
        });
        match granted.await {
            Ok(lease) => Ok(asked + promised(lease.ttl())),
            // Ours, by a try whose answer got lost; the next keep-alive tells how long.
            Err(Fault::Refused(error)) if error.to_string().contains("already exists") => Ok(asked),
            Err(fault) => Err(fault),
        }
    }

    /// Keeps the lease alive until etcd says that it is gone.
    async fn keep_alive(&self, id: i64) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            self.link.connected().await;
            let route = self.link.route();
            match self.keep_alive_by(route, id, &mut backoff).await {
                Fault::LeaseGone => return,
                fault => {
                    tracing::debug!(lease = id, error = %fault.to_error(), "keep-alive failed");
                    self.link.stream_failed(route, &fault).await;
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    /// The same by one endpoint, until that fails.
    async fn keep_alive_by(&self, route: Route, id: i64, backoff: &mut Backoff) -> Fault {
        let answer = self.link.timing().answer;
        let asked = Instant::now();
        let opened = timeout(answer, async {
            let mut leases = self.link.client(route).await?.lease_client();
            leases.keep_alive(id).await.map_err(Fault::from)
        });
        let (mut keeper, mut answers) = match opened.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(fault)) => return fault,
            Err(_) => return Fault::no_answer(),
        };
        // Opening it has asked once, and the answer was that it lives on; how long is not told.
        self.extend(asked + self.ttl);
        backoff.reset();
        loop {
            tokio::select! {
                () = sleep(self.ttl / KEEP_ALIVES_PER_TTL) => {}
                () = self.doubt.notified() => {}
                () = self.link.left(route) => return Fault::ended(),
            }
            let asked = Instant::now();
            let answered = timeout(answer, async {
                keeper.keep_alive().await?;
                answers.message().await
            });
            match answered.await {
                Ok(Ok(Some(answer))) if answer.ttl() > 0 => {
                    self.extend(asked + promised(answer.ttl()));
                }
                Ok(Ok(Some(_))) => return Fault::LeaseGone,
                Ok(Ok(None)) => return Fault::ended(),
                Ok(Err(error)) => return error.into(),
                Err(_) => return Fault::no_answer(),
            }
        }
    }

    fn seconds(&self) -> i64 {
        i64::try_from(self.ttl.as_nanos().div_ceil(1_000_000_000)).unwrap_or(i64::MAX)
    }

    fn extend(&self, expires: Instant) {
        // Nobody waits for this: registrations stay as they are.
        self.state.send_if_modified(|state| {
            state.expires = expires;
            false
        });
    }

    fn change(&self, state: LeaseState) {
        self.state.send_replace(state);
    }

    /// Revokes what it has, with all that hangs on it.
    pub(crate) async fn revoke(&self) -> Result<(), Fault> {
        let Some(id) = self.state.borrow().id else {
            return Ok(());
        };
        let revoked = self.link.call(|client| {
            let mut leases = client.lease_client();
            async move { leases.revoke(id).await }
        });
        match revoked.await {
            Ok(_) | Err(Fault::LeaseGone) => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}

/// What an answer promises. No more than a day: a keep-alive is sent far sooner, and whatever a
/// server answers, clocks don't overflow.
fn promised(ttl: i64) -> Duration {
    const SECONDS_MAX: u64 = 24 * 60 * 60;
    Duration::from_secs(u64::try_from(ttl).unwrap_or_default().min(SECONDS_MAX))
}
