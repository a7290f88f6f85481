//! The handle's session with ZooKeeper: one at a time, for ever.
//!
//! A client of the library is one session: it reconnects by itself while that lives, and is of no
//! use once it has ended. The [`Keeper`] makes the next one, with capped and jittered pauses, and
//! tells everybody through a [`Line`] how things are. Each connection, to whatever session, has a
//! number: whoever sees another number has to look at everything again, because what happened in
//! between is not reported (the library does not set persistent watches again on a new connection).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Address, Connection, Error, ErrorKind, Freshness, Result};
use tokio::sync::{OnceCell, watch};
use zookeeper_client as zk;

use crate::config::{Auth, ZkConfig};
use crate::error::{BACKEND, Failure};

/// First pause between two tries; later ones double.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Most sessions that are remembered. Of those before, the server has let the time pass.
const SESSIONS_MAX: usize = 64;

/// How the session is, for everybody in the handle.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    state: watch::Receiver<State>,
    call_timeout: Duration,
}

/// One connection of one session.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    client: zk::Client,
    /// Rises with every connection of the handle.
    number: u64,
    /// The sessions the handle has had, with this one.
    sessions: Arc<[i64]>,
    call_timeout: Duration,
    caught_up: Arc<OnceCell<()>>,
}

#[derive(Clone, Debug)]
enum State {
    Up(Link),
    Down { since: Instant, reason: Arc<str> },
    Closed,
}

/// Makes sessions and watches over them. Dropping what it is made of ends the session.
#[derive(Debug)]
pub(crate) struct Keeper {
    config: Arc<ZkConfig>,
    servers: String,
    state: watch::Sender<State>,
    connections: u64,
    sessions: Vec<i64>,
    /// The session there was last, which the server may still know.
    last: Option<zk::SessionInfo>,
}

/// Pauses between tries, doubling up to a cap, each jittered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Line {
    /// The present connection, if there is one.
    pub(crate) fn link(&self) -> Option<Link> {
        match &*self.state.borrow() {
            State::Up(link) => Some(link.clone()),
            State::Down { .. } | State::Closed => None,
        }
    }

    /// Waits for a connection; for ever once the handle is closed.
    pub(crate) async fn up(&self) -> Link {
        let mut state = self.state.clone();
        let link = match state
            .wait_for(|state| matches!(state, State::Up(_)))
            .await
            .as_deref()
        {
            Ok(State::Up(link)) => Some(link.clone()),
            _ => None,
        };
        match link {
            Some(link) => link,
            None => std::future::pending().await,
        }
    }

    /// Waits until `link` is not the connection any more.
    pub(crate) async fn lost(&self, link: &Link) {
        let mut state = self.state.clone();
        let other = |state: &State| !matches!(state, State::Up(now) if now.number == link.number);
        // An error is the end of the keeper: that link is no more either.
        let _ended = state.wait_for(other).await;
    }

    pub(crate) fn connection(&self) -> Connection {
        match &*self.state.borrow() {
            State::Up(_) => Connection::Connected,
            State::Down { since, reason } => Connection::Disconnected {
                since: *since,
                reason: reason.clone(),
            },
            State::Closed => Connection::Closed,
        }
    }

    /// What a view is that nothing new is heard of.
    pub(crate) fn freshness(&self) -> Freshness {
        match &*self.state.borrow() {
            State::Down { since, reason } => Freshness::Stale {
                since: *since,
                reason: reason.clone(),
            },
            State::Up(_) => Freshness::stale("the connection is new"),
            State::Closed => Freshness::stale("the handle is closed"),
        }
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }
}

impl Link {
    pub(crate) fn client(&self) -> &zk::Client {
        &self.client
    }

    pub(crate) fn session(&self) -> i64 {
        self.client.session_id().0
    }

    /// Whether a session is one that the handle has, or had.
    pub(crate) fn is_own(&self, session: i64) -> bool {
        self.sessions.contains(&session)
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Makes sure, once a connection, that its server is not behind the one that was heard before.
    pub(crate) async fn catch_up(&self, path: &str) -> Result<(), Failure> {
        let sync = || self.call(self.client.sync(path));
        self.caught_up.get_or_try_init(sync).await.map(drop)
    }

    /// Waits for the answer to a request, but not for ever: the library waits while it is not
    /// connected.
    pub(crate) async fn call<T, E: Into<Failure>>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.call_timeout, answer).await {
            Ok(answer) => answer.map_err(Into::into),
            Err(_) => Err(Failure::Silent),
        }
    }
}

impl Keeper {
    pub(crate) fn new(config: Arc<ZkConfig>) -> Result<(Self, Line)> {
        let servers = connect_string(&config.addresses()?, config.tls);
        let (state, receiver) = watch::channel(State::Down {
            since: Instant::now(),
            reason: "no connection was made yet".into(),
        });
        let line = Line {
            state: receiver,
            call_timeout: config.call_timeout,
        };
        let keeper = Self {
            config,
            servers,
            state,
            connections: 0,
            sessions: Vec::new(),
            last: None,
        };
        Ok((keeper, line))
    }

    /// Keeps a session until it is told to `stop`, and then ends it politely.
    ///
    /// The returned error says that the server could not be told.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) -> Result<()> {
        tokio::pin!(stop);
        let mut backoff = Backoff::new(self.config.retry_max);
        loop {
            let client = tokio::select! {
                () = &mut stop => return self.end(None).await,
                client = self.connect() => client,
            };
            match client {
                Ok(client) => {
                    let made = Instant::now();
                    let ended = tokio::select! {
                        () = &mut stop => None,
                        ended = self.follow(client.clone()) => Some(ended),
                    };
                    let Some(ended) = ended else {
                        return self.end(Some(client)).await;
                    };
                    tracing::info!(session = %client.session_id(), state = %ended, "session ended");
                    self.last = (ended == zk::SessionState::Expired).then(|| client.into_session());
                    if made.elapsed() >= self.config.session_timeout {
                        backoff.reset();
                        continue;
                    }
                    // Its time can't have been up: somebody ends our sessions, and may do so again.
                    tokio::select! {
                        () = &mut stop => return self.end(None).await,
                        () = tokio::time::sleep(backoff.pause()) => {}
                    }
                }
                Err(error) => {
                    self.down(&format!("can't connect: {}", chain(&error)));
                    tokio::select! {
                        () = &mut stop => return self.end(None).await,
                        () = tokio::time::sleep(backoff.pause()) => {}
                    }
                }
            }
        }
    }

    /// Follows a session until it is over.
    async fn follow(&mut self, client: zk::Client) -> zk::SessionState {
        let mut states = client.state_watcher();
        let mut state = states.state();
        loop {
            match state {
                // Also when it already was: then it was lost and made again between two looks.
                zk::SessionState::SyncConnected => self.up(&client),
                state if state.is_terminated() => {
                    self.down(&format!("the session ended: {state}"));
                    return state;
                }
                _ => self.down("the connection was lost"),
            }
            state = states.changed().await;
        }
    }

    /// Makes a session, or resumes the last one: that its time was up on this side does not mean
    /// that the server had any, and its nodes are worth keeping.
    async fn connect(&mut self) -> Result<zk::Client> {
        if let Some(last) = self.last.take()
            && !last.is_readonly()
        {
            let resumed = self.connector()?.with_session(last.clone());
            match resumed.connect(&self.servers).await {
                Ok(client) => return Ok(client),
                Err(zk::Error::SessionExpired | zk::Error::AuthFailed) => {}
                Err(error) => {
                    self.last = Some(last);
                    return Err(Failure::from(error).into_error("connect"));
                }
            }
        }
        let fresh = self.connector()?.connect(&self.servers).await;
        fresh.map_err(|error| Failure::from(error).into_error("connect"))
    }

    fn connector(&self) -> Result<zk::Connector> {
        let config = &self.config;
        let mut connector = zk::Client::connector()
            .with_session_timeout(config.session_timeout)
            // One round over the servers; the pauses between rounds are the keeper's.
            .with_fail_eagerly();
        if let (Some(user), Some(password)) = (&config.user, &config.password) {
            let (user, password) = (user.expose(), password.expose());
            connector = match config.auth {
                Auth::Digest => {
                    connector.with_auth("digest", format!("{user}:{password}").as_bytes())
                }
                Auth::Sasl => with_sasl(connector, user, password)?,
            };
        }
        if config.tls {
            connector = with_tls(connector, config)?;
        }
        Ok(connector)
    }

    fn up(&mut self, client: &zk::Client) {
        self.connections += 1;
        tracing::info!(session = %client.session_id(), number = self.connections, "connected");
        self.remember(client.session_id().0);
        self.state.send_replace(State::Up(Link {
            client: client.clone(),
            number: self.connections,
            sessions: self.sessions.as_slice().into(),
            call_timeout: self.config.call_timeout,
            caught_up: Arc::default(),
        }));
    }

    fn remember(&mut self, session: i64) {
        if self.sessions.contains(&session) {
            return;
        }
        if self.sessions.len() >= SESSIONS_MAX {
            self.sessions.remove(0);
        }
        self.sessions.push(session);
    }

    fn down(&self, why: &str) {
        self.state.send_modify(|state| {
            let since = match state {
                State::Down { since, .. } => *since,
                State::Up(_) | State::Closed => {
                    tracing::info!(why, "disconnected");
                    Instant::now()
                }
            };
            let reason = why.into();
            *state = State::Down { since, reason };
        });
    }

    /// Ends the session, if there is one: all its nodes go at once, and none of anybody else.
    async fn end(self, client: Option<zk::Client>) -> Result<()> {
        let was = self.state.send_replace(State::Closed);
        let Some(client) = client else {
            let message = match was {
                State::Down { reason, .. } => reason.to_string(),
                State::Up(_) | State::Closed => "there is no session".to_owned(),
            };
            return Err(Error::new(ErrorKind::Unavailable, message).with_backend(BACKEND));
        };
        drop(was);
        let mut states = client.state_watcher();
        let connected = states.state() == zk::SessionState::SyncConnected;
        // The library ends the session when the last client of it is dropped.
        drop(client);
        let closed = async { while !states.changed().await.is_terminated() {} };
        let told = connected
            && tokio::time::timeout(self.config.call_timeout, closed)
                .await
                .is_ok();
        if told {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Timeout,
            "the server did not confirm the end of the session in time",
        )
        .with_backend(BACKEND))
    }
}

impl Backoff {
    pub(crate) fn new(max: Duration) -> Self {
        Self {
            next: RETRY_MIN,
            max,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.next = RETRY_MIN;
    }

    /// The next pause: between half of it and all of it.
    pub(crate) fn pause(&mut self) -> Duration {
        let whole = self.next.min(self.max);
        self.next = (whole * 2).min(self.max);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

fn connect_string(servers: &[Address], tls: bool) -> String {
    let scheme = if tls { "tcp+tls://" } else { "tcp://" };
    let servers = servers.iter().map(|server| format!("{scheme}{server}"));
    servers.collect::<Vec<_>>().join(",")
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(feature = "sasl")]
fn with_sasl(connector: zk::Connector, user: &str, password: &str) -> Result<zk::Connector> {
    let options = zk::SaslOptions::digest_md5(user.to_owned(), password.to_owned());
    Ok(connector.with_sasl(options))
}

#[cfg(not(feature = "sasl"))]
fn with_sasl(_: zk::Connector, _: &str, _: &str) -> Result<zk::Connector> {
    Err(not_compiled_in("sasl"))
}

#[cfg(feature = "tls")]
fn with_tls(connector: zk::Connector, config: &ZkConfig) -> Result<zk::Connector> {
    let read = |field: &str, path: &str| {
        std::fs::read_to_string(path).map_err(|error| {
            Error::invalid_config(format!("{field} {path:?} can't be read"))
                .with_backend(BACKEND)
                .with_source(error)
        })
    };
    let wrong = |field: &str, error: zk::Error| {
        Error::invalid_config(format!("{field}: accepted is PEM"))
            .with_backend(BACKEND)
            .with_source(error)
    };
    // The library takes the process's default, and panics where two are compiled in and neither is.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        // An error means that somebody else was faster.
        let _installed = provider.install_default();
    }
    let mut options = zk::TlsOptions::new();
    if let Some(path) = &config.ca_file {
        options = options
            .with_pem_ca(&read("ca_file", path)?)
            .map_err(|error| wrong("ca_file", error))?;
    }
    if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
        options = options
            .with_pem_identity(&read("cert_file", cert)?, &read("key_file", key)?)
            .map_err(|error| wrong("cert_file and key_file", error))?;
    }
    Ok(connector.with_tls(options))
}

#[cfg(not(feature = "tls"))]
fn with_tls(_: zk::Connector, _: &ZkConfig) -> Result<zk::Connector> {
    Err(not_compiled_in("tls"))
}

#[cfg(not(all(feature = "tls", feature = "sasl")))]
fn not_compiled_in(feature: &str) -> Error {
    Error::invalid_config(format!("the feature {feature:?} is not compiled in"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_are_jittered() {
        let max = Duration::from_secs(1);
        let mut backoff = Backoff::new(max);
        let mut whole = RETRY_MIN;
        for _ in 0..10 {
            let pause = backoff.pause();
            assert!(
                whole / 2 <= pause && pause <= whole,
                "{pause:?} of {whole:?}"
            );
            whole = (whole * 2).min(max);
        }
        backoff.reset();
        assert!(backoff.pause() <= RETRY_MIN);
    }

    #[test]
    fn servers_are_written_as_the_library_reads_them() {
        let config: ZkConfig = ZkConfig {
            hosts: vec!["a".into(), "[::1]:7".into()],
            ..ZkConfig::default()
        };
        let servers = connect_string(&config.addresses().unwrap(), false);
        assert_eq!(servers, "tcp://a:2181,tcp://[::1]:7");
    }
}
