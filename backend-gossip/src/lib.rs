//! The embedded gossip backend: every process that uses it is the registry.
//!
//! [`GossipDiscovery`] is a member of a cluster. Each member holds the whole registry and answers
//! from it; changes travel from member to member within milliseconds, and a member that dies is
//! found out by the others. There is no server to run and nothing to lose but the cluster itself.
//!
//! ```no_run
//! use tidings_api::{Discovery, DiscoveryExt};
//! use tidings_gossip::{GossipConfig, GossipDiscovery};
//!
//! # async fn run() -> tidings_api::Result<()> {
//! let mut config = GossipConfig::default();
//! config.join.push("seed.internal".into());
//!
//! let discovery = GossipDiscovery::start(config).await?;
//! discovery.register_at("payments", "10.0.0.7:8080").await?;
//! let orders = discovery.watch_service("orders").await?;
//! println!("{} instances", orders.view().len());
//! discovery.close().await
//! # }
//! ```
//!
//! # Reading order
//!
//! This file has the verbs, each a command to the driver. `driver` is the one task; it owns the
//! `engine`, a state machine without sockets or clocks, and `net` and `link`, the sockets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{
    Bounds, Discovery, Error, Generation, Health, Instance, InstanceId, InstanceKey, Publisher,
    Removal, Result, Selector, Status, Watch,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span, info, warn};

mod config;
pub use config::{GossipConfig, PORT_DEFAULT};

mod driver;
use driver::{COMMANDS_WAITING_MAX, Command, Driver, Parts, Reply};

#[doc(hidden)]
pub mod engine;
use engine::{Engine, EngineConfig};
pub use engine::{Heard, Identity, MemberInfo, MemberState, Outcome, QueryUpdate, UserEvent};

mod events;
pub use events::Events;

#[cfg(feature = "fault-injection")]
mod faults;
#[cfg(feature = "fault-injection")]
pub use faults::Faults;

mod key_file;
use key_file::KeyFile;

mod keyring;
pub use keyring::{Gate, KeyReport, Keyring, MemberKeys};

#[doc(hidden)]
pub mod link;
pub use link::LinkStats;

mod members;
pub use members::{MemberChange, MemberWatch};

mod metrics;

mod net;
use net::Net;
pub use net::NetStats;

mod observer;
#[cfg(feature = "fault-injection")]
pub use observer::ObserverFaults;
pub use observer::{GossipObserver, ObserverStats};
mod queries;
pub use queries::{Answers, Queries, Query, QueryOptions, QueryReport};

mod resolve;
use resolve::Seeds;

#[doc(hidden)]
pub mod seal;
use seal::{Counters, Datagrams, Ring, StartId};
pub use seal::{KeyId, SealKey, SealMode, SealStats};

mod spans;

mod state_dir;
use state_dir::StateDir;

mod status;
use status::Board;

mod watch;

#[doc(hidden)]
pub mod wire;
pub use wire::Features;

/// The name of this backend: its URL scheme and its Cargo feature.
const BACKEND: &str = "gossip";

/// Bound from `register` or `health` to every watcher: the change is pushed within milliseconds;
/// where packets are lost a probe notices the difference, and a sync repairs it.
const VISIBLE_BOUND: Duration = Duration::from_secs(2);

/// Probe intervals until a member that hears nobody says so: five of silence, and two until it
/// looks.
const STALE_PROBES: u32 = 7;

/// A member of a gossip cluster.
///
/// # How far things have travelled
/// When `register`, `health` or `deregister` returns, this member has taken it over and watches of
/// this handle show it; the packets that tell the others leave milliseconds later. While nobody is
/// heard, registrations are pending. `close` returns once some of the others have confirmed the
/// leave, or after [`leave_timeout`](GossipConfig::leave_timeout); it doesn't fail.
///
/// # Dropping
/// A handle that is dropped without `close` leaves in the background, as long as the runtime lives
/// to do it; otherwise the others find out as after a crash.
#[derive(Debug)]
pub struct GossipDiscovery {
    local: SocketAddr,
    board: Arc<Board>,
    publisher: Publisher,
    commands: mpsc::Sender<Command>,
    keys_file: Option<PathBuf>,
    span: Span,
}

/// What a member has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The protocol.
    pub engine: engine::Stats,
    /// The UDP socket.
    pub net: NetStats,
    /// The TCP links.
    pub links: LinkStats,
    /// Views given to watches.
    pub views_published: u64,
    /// Sealing.
    pub seal: SealStats,
}

impl GossipDiscovery {
    /// Starts a member and joins the cluster of the seeds.
    ///
    /// Waits for the first seed to answer, but not longer than
    /// [`join_wait`](GossipConfig::join_wait): seeds that don't answer or can't be resolved are no
    /// error. They are tried for ever, and until one answers the status is disconnected and views
    /// are stale.
    ///
    /// Needs a tokio runtime with time and I/O; the member lives as a task on it.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) naming the field that is out of
    /// range, an address to bind to that is not this machine's, or a state folder that can't be
    /// written to;
    /// [`Unavailable`](tidings_api::ErrorKind::Unavailable) where its port is in use.
    pub async fn start(config: GossipConfig) -> Result<Self> {
        config.validate()?;
        if config.observe {
            let message =
                "observe true: accepted is false; an observer is started by GossipObserver";
            return Err(Error::invalid_config(message).with_backend(BACKEND));
        }
        let generated = || InstanceId::generate().to_string();
        let name: Arc<str> = config.name.clone().unwrap_or_else(generated).into();
        let span = spans::member(&config.cluster, &name);
        let starting = Self::start_as(name, config, span.clone());
        starting.instrument(span).await
    }

    /// Name, generation and address of this member, as the others know it. The name is the
    /// configured one, unless another member has taken it since.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.board.identity()
    }

    /// Where it is bound, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Number of selectors that are watched now, or were until about a second ago. All watches of
    /// one share a subscription (WAT-8).
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.publisher.feeds()
    }

    /// The members that this one knows of, itself among them; dead ones for a while.
    ///
    /// # Errors
    /// [`Closed`](tidings_api::ErrorKind::Closed).
    pub async fn members(&self) -> Result<Vec<MemberInfo>> {
        self.ask(Command::Members).await
    }

    /// Watches the members as this one sees them: for dashboards, for work that is shared by
    /// membership, for logs. Which instances there are to call is what [`watch`](Discovery::watch)
    /// tells.
    ///
    /// ```no_run
    /// # async fn run(member: tidings_gossip::GossipDiscovery) -> tidings_api::Result<()> {
    /// let mut members = member.watch_members().await?;
    /// loop {
    ///     for change in members.changes().await? {
    ///         println!("{} is {:?}", change.member.identity.name, change.member.state);
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Closed`](tidings_api::ErrorKind::Closed).
    pub async fn watch_members(&self) -> Result<MemberWatch> {
        self.ask(Command::WatchMembers).await
    }

    /// Sends an event to the applications of all members, this one included: 0 to 64 KiB under a
    /// name that is valid as a service name is. Answers its number among the events of this start.
    ///
    /// Every member tells [`events`](Self::events) of it, in the order in which this one sent them,
    /// each once. Whoever was cut off or joins later is told as long as it is kept: 1,024 events,
    /// 1 MiB and 5 min of each sender. What is missed beyond that is told as a number.
    ///
    /// ```no_run
    /// # async fn run(member: tidings_gossip::GossipDiscovery) -> tidings_api::Result<()> {
    /// use tidings_gossip::Heard;
    ///
    /// let mut events = member.events().await?;
    /// member.send_event("deploy", *b"1.4.2").await?;
    /// while let Heard::Event(event) = events.next().await? {
    ///     println!("{}: {} {:?}", event.sender, event.name, event.payload);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](tidings_api::ErrorKind::InvalidInput) naming the name or the length that is
    /// out of range, [`Closed`](tidings_api::ErrorKind::Closed).
    pub async fn send_event(&self, name: &str, payload: impl Into<Arc<[u8]>>) -> Result<u64> {
        let (name, payload) = (events::event_name(name)?, events::payload(payload)?);
        self.ask(|reply| Command::SendEvent(name, payload, reply))
            .await
    }

    /// Hears the events of all members, recent ones first.
    ///
    /// # Errors
    /// [`Closed`](tidings_api::ErrorKind::Closed).
    pub async fn events(&self) -> Result<Events> {
        self.ask(Command::Events).await
    }

    /// Asks the applications of all members, or some, this one included: 0 to 64 KiB under a name
    /// that is valid as a service name is. Who reads [`queries`](Self::queries) there may answer.
    ///
    /// Each member is asked directly, again and again until it says something, so the report tells who
    /// has the query, who has answered and who was there and hasn't.
    ///
    /// ```no_run
    /// # async fn run(member: tidings_gossip::GossipDiscovery) -> tidings_api::Result<()> {
    /// use tidings_gossip::{QueryOptions, QueryUpdate};
    ///
    /// let mut answers = member.query("load", *b"", QueryOptions::default()).await?;
    /// while let Some(update) = answers.next().await {
    ///     if let QueryUpdate::Answered { member, payload } = update {
    ///         println!("{member}: {payload:?}");
    ///     }
    /// }
    /// let report = answers.report().await?;
    /// println!("missing: {:?}", report.missing().collect::<Vec<_>>());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](tidings_api::ErrorKind::InvalidInput) naming the name or the length that is
    /// out of range, [`Denied`](tidings_api::ErrorKind::Denied) where 64 queries of this handle are
    /// open, [`Closed`](tidings_api::ErrorKind::Closed).
    pub async fn query(
        &self,
        name: &str,
        payload: impl Into<Arc<[u8]>>,
        options: QueryOptions,
    ) -> Result<Answers> {
        let (name, payload) = (events::event_name(name)?, events::payload(payload)?);
        self.ask(|reply| Command::Query(name, payload, options.terms(), reply))
            .await
            .and_then(|answers| answers)
            .map_err(|error| error.with_backend(BACKEND).with_operation("query"))
    }

    /// Hears the queries of all members, to answer them.
    ///
    /// # Errors
    /// [`Closed`](tidings_api::ErrorKind::Closed).
    pub async fn queries(&self) -> Result<Queries> {
        let commands = self.commands.downgrade();
        self.ask(|reply| Command::Queries(commands, reply)).await
    }

    /// The keys that seal what goes over the network, to be changed while the cluster runs.
    #[must_use]
    pub fn keyring(&self) -> Keyring<'_> {
        Keyring::new(self)
    }

    /// What this member has counted.
    ///
    /// # Errors
    /// [`Closed`](tidings_api::ErrorKind::Closed).
    pub async fn stats(&self) -> Result<Stats> {
        self.ask(Command::Stats).await
    }

    /// What tests can do to this member.
    #[cfg(feature = "fault-injection")]
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults::new(self.commands.downgrade())
    }

    async fn start_as(name: Arc<str>, config: GossipConfig, span: Span) -> Result<Self> {
        let mut seeds = Seeds::new(config.seeds()?);
        let ring = Arc::new(ring(&config).await?);
        let seal_counters = Arc::<Counters>::default();
        let seal = Datagrams::new(ring.clone(), start_id()?, seal_counters.clone());
        let net = Net::bind(config.bind, seal).map_err(|error| error.with_backend(BACKEND))?;
        let local = net.local();
        say_if_unsealed(local, ring.mode());

        let (state, generation) = match &config.state_dir {
            Some(folder) => StateDir::open(folder, &config.cluster, &name).await,
            None => Ok((
                StateDir::default(),
                Generation::after(Generation::default()),
            )),
        }
        .map_err(|error| error.with_backend(BACKEND))?;

        let enough = Instant::now() + config.join_wait;
        let join = spans::join(config.join.len());
        let resolution = if seeds.is_empty() {
            None
        } else {
            seeds.resolve();
            let resolved = timeout_at(enough, seeds.resolved());
            resolved.instrument(join.clone()).await.ok()
        };
        let resolved = resolution
            .as_ref()
            .map_or(&[][..], |found| &found.addresses);
        let known = state.candidates(false);
        let address = address(&config, local, resolved.iter().chain(&known));
        let identity = Identity {
            name,
            generation,
            address,
        };
        info!(name = %identity.name, address = %identity.address, %local, "member started");

        let (joined, first_answer) = oneshot::channel();
        let (commands, waiting) = mpsc::channel(COMMANDS_WAITING_MAX);
        let engine = engine(&config, identity.clone());
        let board = Arc::new(Board::new(identity, bounds(&config, &engine)));
        let publisher = Publisher::new();
        let parts = Parts {
            net,
            seeds,
            finds_address: config.advertise.is_none(),
            state,
            key_file: KeyFile::new(config.keys_file.clone(), ring.keys()),
            ring,
            seal_counters,
            engine,
            publisher: publisher.clone(),
            board: board.clone(),
            joined,
            cluster: config.cluster.as_str().into(),
            leave_timeout: config.leave_timeout,
            commands: waiting,
        };
        let driver = Driver::new(parts, resolution);
        tokio::spawn(driver.run().instrument(span.clone()));
        let member = Self {
            local,
            board,
            publisher,
            commands,
            keys_file: config.keys_file,
            span,
        };
        // Too late is no error: the driver goes on trying.
        let _ = timeout_at(enough, first_answer).instrument(join).await;
        Ok(member)
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let closed = || Error::closed().with_backend(BACKEND);
        let (reply, answer) = oneshot::channel();
        // Outside the scheduler's budget, so that the first of two calls is the first in the queue
        // (REG-8). A call that is dropped is either not in it yet, or takes effect.
        let sent = unconstrained(self.commands.send(command(reply))).await;
        sent.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }
}

#[async_trait]
impl Discovery for GossipDiscovery {
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        let operation = format!("register {}", instance.key());
        self.ask(|reply| Command::Register(Box::new(instance), reply))
            .await
            .and_then(|registered| registered)
            .map_err(|error| error.with_backend(BACKEND).with_operation(operation))
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        self.ask(|reply| Command::Deregister(key.clone(), reply))
            .await
            .map_err(|error| error.with_operation(format!("deregister {key}")))
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        let operation = format!("watch {selector}");
        self.ask(|reply| Command::Watch(selector, reply))
            .await
            .and_then(|watch| watch)
            .map_err(|error| error.with_backend(BACKEND).with_operation(operation))
    }

    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        self.ask(|reply| Command::Health(key.clone(), health, reply))
            .await
            .and_then(|reported| reported)
            .map_err(|error| {
                error
                    .with_backend(BACKEND)
                    .with_operation(format!("health {key}"))
            })
    }

    fn status(&self) -> Status {
        self.board.status()
    }

    async fn close(&self) -> Result<()> {
        let closing = async {
            // Where the driver has ended already, or ends before it gets to this, that is as well.
            let _ = self.commands.send(Command::Close).await;
            self.commands.closed().await;
        };
        closing.instrument(spans::leave(&self.span)).await;
        Ok(())
    }
}

/// The keys and the mode that are configured.
async fn ring(config: &GossipConfig) -> Result<Ring> {
    let keys = match &config.keys_file {
        Some(path) => KeyFile::read(path).await,
        None => Ok(config.keys.clone()),
    };
    let ring = keys.and_then(|keys| match config.seal_mode() {
        SealMode::Off => Ok(Ring::off(&config.cluster)),
        mode => Ring::new(&config.cluster, keys, mode),
    });
    ring.map_err(|error| error.with_backend(BACKEND))
}

/// Random: with it, no two starts ever seal with the same key.
fn start_id() -> Result<StartId> {
    let mut id = [0; 16];
    keyring::random(&mut id)?;
    Ok(StartId(id))
}

fn say_if_unsealed(local: SocketAddr, mode: SealMode) {
    if local.ip().is_loopback() {
        return;
    }
    match mode {
        SealMode::Off | SealMode::Accept => {
            warn!(%local, %mode, "gossip is not sealed: whoever reaches this address can read and \
                   change what is registered");
        }
        SealMode::Send => {
            warn!(%local, %mode, "gossip hears unsealed frames: whoever reaches this address can \
                   change what is registered");
        }
        SealMode::Required => {}
    }
}

/// Where the others reach this member.
fn address<'a>(
    config: &GossipConfig,
    local: SocketAddr,
    others: impl Iterator<Item = &'a SocketAddr>,
) -> SocketAddr {
    match config.advertise {
        Some(advertise) if advertise.port() == 0 => (advertise.ip(), local.port()).into(),
        Some(advertise) => advertise,
        None => net::reachable_addr(local, &others.copied().collect::<Vec<_>>()),
    }
}

fn engine(config: &GossipConfig, identity: Identity) -> Engine {
    let engine = EngineConfig {
        cluster: config.cluster.clone(),
        probe_interval: config.probe_interval,
        probe_timeout: config.probe_timeout,
        suspicion_multiplier: config.suspicion_multiplier,
        leave_timeout: config.leave_timeout,
        loss_hold: config.loss_hold,
        // Kept free also while nothing is sealed: that may change.
        datagram_bytes: EngineConfig::default().datagram_bytes - seal::DATAGRAM_OVERHEAD_BYTES,
        ..EngineConfig::default()
    };
    Engine::new(
        std::time::Instant::now(),
        identity,
        engine,
        fastrand::u64(..),
    )
}

fn bounds(config: &GossipConfig, engine: &Engine) -> Bounds {
    Bounds {
        visible: VISIBLE_BOUND,
        removed: VISIBLE_BOUND,
        crashed: engine.crash_bound(),
        stale: STALE_PROBES * config.probe_interval,
    }
}
