//! The way to etcd: one client an endpoint, and the choice between them.
//!
//! `etcd-client` spreads calls over its endpoints and doesn't leave out one that is dead, so each
//! endpoint gets a client of its own here. All of a handle's streams go by one endpoint, the
//! *current* one. A task asks it again and again whether it is there, and moves on to the next
//! healthy one when it isn't; streams on the old one are given up then ([`Link::left`]), and also
//! when its connection has been replaced by another. A call that fails goes on with the next endpoint
//! by itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions};
use tidings_api::{Connection, Error, Result};
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::Backoff;
use crate::config::EtcdConfig;
use crate::error::Fault;

/// A member answers far sooner, unless it hangs, or this machine is very busy.
const ANSWER_TIME_MIN: Duration = Duration::from_secs(1);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Logging in again helps at most this often within one call.
const LOGINS_MAX: usize = 2;
/// etcd calls clients off that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The way to etcd that everything of one handle shares.
pub(crate) struct Link {
    endpoints: Vec<Endpoint>,
    options: ConnectOptions,
    /// The same without a user, for a cluster that has none.
    options_without_user: ConnectOptions,
    /// What is asked for to see whether a member is there.
    probe_key: Vec<u8>,
    timing: Timing,
    state: watch::Sender<State>,
    /// Something failed that may be the current endpoint's fault.
    doubt: Notify,
}

/// The times that follow from the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// How long a call may take, over all endpoints.
    pub(crate) call: Duration,
    /// How long one member has to answer.
    pub(crate) answer: Duration,
    /// How often the current member is asked whether it is there.
    pub(crate) probe_interval: Duration,
}

struct Endpoint {
    url: String,
    client: Mutex<Option<Connected>>,
}

struct Connected {
    serial: u64,
    /// Shared: cloning a client copies more than one needs for a call.
    client: Arc<Client>,
}

/// Which endpoint streams go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    endpoint: usize,
    /// The serial of the connection that was heard: behind one address may be many members.
    connection: Option<u64>,
    epoch: u64,
}

#[derive(Clone)]
struct State {
    route: Route,
    heard: Heard,
    /// When the last outage ended, if there was one.
    recovered: Option<Instant>,
}

#[derive(Clone)]
enum Heard {
    NotYet { since: Instant },
    Yes,
    No { since: Instant, reason: Arc<str> },
}

impl Timing {
    pub(crate) fn new(config: &EtcdConfig) -> Self {
        let fifth = config.ttl / 5;
        Self {
            call: config.timeout,
            answer: fifth.clamp(ANSWER_TIME_MIN, ANSWER_TIME_MAX),
            probe_interval: fifth.min(Duration::from_secs(5)),
        }
    }
}

impl Link {
    pub(crate) fn new(config: &EtcdConfig) -> Result<Self> {
        let urls = config.urls()?;
        let endpoint = |url| Endpoint {
            url,
            client: Mutex::new(None),
        };
        let timing = Timing::new(config);
        Ok(Self {
            endpoints: urls.into_iter().map(endpoint).collect(),
            options: connect_options(config, timing, true)?,
            options_without_user: connect_options(config, timing, false)?,
            probe_key: format!("{}/", config.namespace).into_bytes(),
            timing,
            state: watch::Sender::new(State {
                route: Route {
                    endpoint: 0,
                    connection: None,
                    epoch: 0,
                },
                heard: Heard::NotYet {
                    since: Instant::now(),
                },
                recovered: None,
            }),
            doubt: Notify::new(),
        })
    }

    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    /// After how long at most it is noticed that nobody answers: the current member is asked, then
    /// the others, then again the current one.
    pub(crate) fn noticed(&self) -> Duration {
        let answers = u32::try_from(self.endpoints.len() + 1).unwrap_or(u32::MAX);
        self.timing.probe_interval + answers * self.timing.answer
    }

    /// How the connection is doing, for the status.
    pub(crate) fn connection(&self) -> Connection {
        match &self.state.borrow().heard {
            Heard::Yes => Connection::Connected,
            Heard::NotYet { since } => Connection::Disconnected {
                since: since.into_std(),
                reason: "nothing was heard from etcd yet".into(),
            },
            Heard::No { since, reason } => Connection::Disconnected {
                since: since.into_std(),
                reason: reason.clone(),
            },
        }
    }

    /// When the last time ended in which no endpoint was heard, if there was one.
    pub(crate) fn recovered(&self) -> Option<Instant> {
        self.state.borrow().recovered
    }

    /// Which endpoint a new stream should go by.
    pub(crate) fn route(&self) -> Route {
        self.state.borrow().route
    }

    /// Waits until the endpoint of `route`, or its connection, has been given up.
    pub(crate) async fn left(&self, route: Route) {
        let mut state = self.state.subscribe();
        // The sender is in `self`, so it isn't gone.
        let _ = state.wait_for(|state| state.route != route).await;
    }

    /// Waits until etcd is heard.
    pub(crate) async fn connected(&self) {
        let mut state = self.state.subscribe();
        let _ = state
            .wait_for(|state| matches!(state.heard, Heard::Yes))
            .await;
    }

    /// Waits until it is known that no endpoint is heard.
    pub(crate) async fn disconnected(&self) {
        let mut state = self.state.subscribe();
        let _ = state
            .wait_for(|state| matches!(state.heard, Heard::No { .. }))
            .await;
    }

    /// The client of a route, for streams.
    pub(crate) async fn client(&self, route: Route) -> Result<Arc<Client>, Fault> {
        let limit = Instant::now() + self.timing.answer;
        let connected = timeout_at(limit, self.connect(route.endpoint)).await;
        connected
            .unwrap_or_else(|_| Err(Fault::no_answer()))
            .map(|(_, client)| client)
    }

    /// What to do with a stream's end: the current endpoint is asked whether it is there, or logged
    /// in to again.
    pub(crate) async fn stream_failed(&self, route: Route, fault: &Fault) {
        match fault {
            Fault::Token => self.forget(route.endpoint, None).await,
            _ => self.doubt.notify_one(),
        }
    }

    /// Calls etcd: the current endpoint first, then the others, until one answers or the time of a
    /// call is over. `call` may arrive more than once, so it has to be one that can.
    pub(crate) async fn call<T, F, Fut>(&self, call: F) -> Result<T, Fault>
    where
        F: Fn(&Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + self.timing.call;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut logins = 0;
        loop {
            let first = self.route().endpoint;
            let mut last = Fault::no_answer();
            let mut skipped = 0;
            while skipped < self.endpoints.len() {
                let endpoint = (first + skipped) % self.endpoints.len();
                let limit = deadline.min(Instant::now() + self.timing.answer);
                match Box::pin(self.attempt(endpoint, limit, &call)).await {
                    Err(Fault::Token) if logins < LOGINS_MAX => {
                        logins += 1;
                        continue;
                    }
                    Err(fault @ (Fault::Unreachable(_) | Fault::Token)) => {
                        self.doubt.notify_one();
                        last = fault;
                    }
                    answer => return answer,
                }
                if Instant::now() >= deadline {
                    return Err(last);
                }
                skipped += 1;
            }
            let pause = backoff.next();
            if Instant::now() + pause >= deadline {
                return Err(last);
            }
            sleep(pause).await;
        }
    }

    /// Keeps the current endpoint one that is there. Never ends.
    pub(crate) async fn keep(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), self.retry_interval());
        loop {
            let pause = match self.look().await {
                Ok(()) => {
                    backoff.reset();
                    self.timing.probe_interval
                }
                Err(error) => {
                    self.lost(&error);
                    backoff.next()
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                // A member that has just answered is asked again only after a moment.
                () = self.doubted(), if self.is_connected() => {}
            }
        }
    }

    /// Ends all connections.
    pub(crate) async fn close(&self) {
        for endpoint in 0..self.endpoints.len() {
            self.forget(endpoint, None).await;
        }
    }

    /// How long recovery waits between two looks at most.
    fn retry_interval(&self) -> Duration {
        self.timing.probe_interval.min(Duration::from_secs(1))
    }

    async fn doubted(&self) {
        sleep(Duration::from_millis(20)).await;
        self.doubt.notified().await;
    }

    fn is_connected(&self) -> bool {
        matches!(self.state.borrow().heard, Heard::Yes)
    }

    /// Asks the current endpoint whether it is there, then the others, then again the current one,
    /// over a new connection.
    async fn look(&self) -> Result<(), Error> {
        let first = self.route().endpoint;
        let mut last = None;
        for step in 0..=self.endpoints.len() {
            let endpoint = (first + step) % self.endpoints.len();
            let limit = Instant::now() + self.timing.answer;
            let get = |client: &Client| {
                let (mut kv, key) = (client.kv_client(), self.probe_key.clone());
                async move {
                    let options = GetOptions::new().with_count_only();
                    kv.get(key, Some(options)).await
                }
            };
            match Box::pin(self.attempt(endpoint, limit, &get)).await {
                Err(fault @ (Fault::Unreachable(_) | Fault::Token)) => {
                    let url = &self.endpoints[endpoint].url;
                    let error = fault.to_error();
                    tracing::debug!(endpoint = %url, error = %error, "an etcd endpoint is not there");
                    last = Some(error);
                    self.forget(endpoint, None).await;
                }
                answer => match (answer, self.connection_of(endpoint).await) {
                    // Whoever refuses is there, except for a login that nobody will ever grant.
                    (Err(Fault::Denied(error) | Fault::Refused(error)), None) => last = Some(error),
                    (_, connection) => {
                        self.heard(endpoint, connection);
                        return Ok(());
                    }
                },
            }
        }
        Err(last.unwrap_or_else(|| Fault::no_answer().to_error()))
    }

    /// The serial of an endpoint's connection, which there is none of before it has logged in.
    async fn connection_of(&self, endpoint: usize) -> Option<u64> {
        let connected = self.endpoints[endpoint].client.lock().await;
        connected.as_ref().map(|connected| connected.serial)
    }

    fn heard(&self, endpoint: usize, connection: Option<u64>) {
        self.state.send_if_modified(|state| {
            let was_heard = matches!(state.heard, Heard::Yes);
            let Route {
                endpoint: last,
                connection: by,
                ..
            } = state.route;
            if was_heard && (last, by) == (endpoint, connection) {
                return false;
            }
            let url = &self.endpoints[endpoint].url;
            tracing::info!(endpoint = %url, "etcd is heard");
            if matches!(state.heard, Heard::No { .. }) {
                state.recovered = Some(Instant::now());
            }
            // Streams that were made in an outage, or on another connection, start anew: nobody asks
            // whether that is alive.
            state.route = Route {
                endpoint,
                connection,
                epoch: state.route.epoch + 1,
            };
            state.heard = Heard::Yes;
            true
        });
    }

    fn lost(&self, error: &Error) {
        self.state.send_if_modified(|state| {
            if matches!(state.heard, Heard::No { .. }) {
                return false;
            }
            tracing::warn!(error = %error, "no etcd endpoint is heard");
            state.route.epoch += 1;
            state.heard = Heard::No {
                since: Instant::now(),
                reason: error.to_string().into(),
            };
            true
        });
    }

    async fn attempt<T, F, Fut>(
        &self,
        endpoint: usize,
        limit: Instant,
        call: &F,
    ) -> Result<T, Fault>
    where
        F: Fn(&Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut used = None;
        let attempt = async {
            let (serial, client) = self.connect(endpoint).await?;
            used = Some(serial);
            call(&client).await.map_err(Fault::from)
        };
        let answer = timeout_at(limit, attempt).await;
        let answer = answer.unwrap_or_else(|_| Err(Fault::no_answer()));
        if matches!(answer, Err(Fault::Token)) {
            self.forget(endpoint, used).await;
        }
        answer
    }

    /// The client of an endpoint. With a user, making it logs in.
    async fn connect(&self, endpoint: usize) -> Result<(u64, Arc<Client>), Fault> {
        let endpoint = &self.endpoints[endpoint];
        let mut connected = endpoint.client.lock().await;
        if let Some(connected) = &*connected {
            return Ok((connected.serial, connected.client.clone()));
        }
        let connect = |options: &ConnectOptions| {
            let options = Some(options.clone());
            Client::connect([&endpoint.url], options)
        };
        let client = match connect(&self.options).await.map_err(Fault::from) {
            // Once users are asked for, calls are refused, and log in.
            Err(Fault::NoUsers) => connect(&self.options_without_user).await?,
            connected => connected?,
        };
        let client = Arc::new(client);
        let serial = fastrand::u64(..);
        *connected = Some(Connected {
            serial,
            client: client.clone(),
        });
        Ok((serial, client))
    }

    /// Lets the next call make a new connection, with a new login; only if the present one is
    /// `serial`, where that is given.
    async fn forget(&self, endpoint: usize, serial: Option<u64>) {
        let mut connected = self.endpoints[endpoint].client.lock().await;
        let present = connected.as_ref().map(|connected| connected.serial);
        if serial.is_none() || present == serial {
            *connected = None;
        }
    }
}

fn connect_options(config: &EtcdConfig, timing: Timing, with_user: bool) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(timing.answer)
        .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
        .with_keep_alive_while_idle(false)
        // A member that sees no leader says so at once instead of keeping silent.
        .with_require_leader(true);
    if let (Some(user), Some(password), true) = (&config.user, &config.password, with_user) {
        options = options.with_user(user, password.expose());
    }
    #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    if config.has_tls() {
        options = options.with_tls(crate::tls::options(config)?);
    }
    Ok(options)
}
