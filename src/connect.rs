//! From a configuration to a running backend.

use std::sync::Arc;

use tidings_api::config::{Options, shown};
use tidings_api::{Discovery, DiscoveryUrl, Error, Result};
#[cfg(feature = "consul")]
use tidings_consul::{ConsulConfig, ConsulDiscovery};
#[cfg(feature = "etcd")]
use tidings_etcd::{EtcdConfig, EtcdDiscovery};
#[cfg(feature = "gossip")]
use tidings_gossip::{GossipConfig, GossipDiscovery, GossipObserver};
use tidings_migration::Migration;
#[cfg(feature = "zk")]
use tidings_zk::{ZkConfig, ZkDiscovery};

use crate::Config;
use crate::memory::MemoryConfig;
use crate::migration::{MigrationConfig, Starting};

/// Starts the backend that a URL or a [`Config`] names.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidings::Result<()> {
/// let discovery = tidings::connect("memory://shop").await?;
/// assert_eq!(discovery.status().backend(), "memory");
/// # Ok(())
/// # }
/// ```
///
/// It doesn't wait for a server or another member to be there: what is registered meanwhile is
/// `Pending`, and views are stale.
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) naming what is wrong with the configuration
/// and what is accepted. Otherwise what the backend needs of this machine and doesn't get, such as
/// a port that is taken.
pub async fn connect<C>(config: C) -> Result<Arc<dyn Discovery>>
where
    C: TryInto<Config>,
    Error: From<C::Error>,
{
    config.try_into()?.into_backend().start().await
}

/// The checked configuration of a backend that is compiled in.
#[allow(clippy::large_enum_variant, reason = "a program has one or two")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    #[cfg(feature = "consul")]
    Consul(ConsulConfig),
    #[cfg(feature = "etcd")]
    Etcd(EtcdConfig),
    #[cfg(feature = "gossip")]
    Gossip(GossipConfig),
    Memory(MemoryConfig),
    Migration(MigrationConfig),
    #[cfg(feature = "zk")]
    Zk(ZkConfig),
}

/// Starts the [`Migration`] that a [`Config`] describes, and returns it as what it is: to
/// [report](Migration::report) how far everybody is, and to [change](Migration::set_phase) the phase
/// at run time. [`connect`] starts the same, as any [`Discovery`].
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where the configuration is of another kind,
/// and as [`connect`].
pub async fn connect_migration<C>(config: C) -> Result<Migration>
where
    C: TryInto<Config>,
    Error: From<C::Error>,
{
    let backend = config.try_into()?.into_backend();
    let name = backend.name();
    let Backend::Migration(config) = backend else {
        return Err(Error::invalid_config(format!(
            "backend \"{name}\" is no migration: accepted is a table [discovery.migration]"
        )));
    };
    config.start().await
}

/// Where a configuration comes from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Url(&'a DiscoveryUrl),
    Options(&'a Options),
}

/// Not a backend of its own, but two.
pub(crate) const MIGRATION: &str = tidings_migration::BACKEND;

/// The backends there are, each with a feature of its name but for `memory`.
const ALL: &[&str] = &["consul", "etcd", "gossip", "memory", "zk"];

/// Those that are compiled in.
pub(crate) const COMPILED_IN: &[&str] = &[
    #[cfg(feature = "consul")]
    "consul",
    #[cfg(feature = "etcd")]
    "etcd",
    #[cfg(feature = "gossip")]
    "gossip",
    "memory",
    #[cfg(feature = "zk")]
    "zk",
];

impl Backend {
    /// Reads the configuration of the backend of this name. The one place that knows all names.
    pub(crate) fn read(name: &str, source: Source<'_>) -> Result<Self> {
        match name {
            #[cfg(feature = "consul")]
            "consul" => source
                .read(ConsulConfig::from_url, ConsulConfig::from_options)
                .map(Self::Consul),
            #[cfg(feature = "etcd")]
            "etcd" => source
                .read(EtcdConfig::from_url, EtcdConfig::from_options)
                .map(Self::Etcd),
            #[cfg(feature = "gossip")]
            "gossip" => source
                .read(GossipConfig::from_url, GossipConfig::from_options)
                .map(Self::Gossip),
            "memory" => source
                .read(MemoryConfig::from_url, MemoryConfig::from_options)
                .map(Self::Memory),
            // Two backends, and so no URL.
            MIGRATION => match source {
                Source::Options(options) => {
                    MigrationConfig::from_options(options).map(Self::Migration)
                }
                Source::Url(_) => Err(Error::invalid_config(
                    "a migration has no url: accepted is a table [discovery.migration] with from and to",
                )),
            },
            #[cfg(feature = "zk")]
            "zk" => source
                .read(ZkConfig::from_url, ZkConfig::from_options)
                .map(Self::Zk),
            _ if ALL.contains(&name) => Err(Error::invalid_config(format!(
                "backend \"{name}\" is not compiled in: enable the feature \"{name}\" of the crate \
                 \"tidings\" (compiled in: {})",
                COMPILED_IN.join(", ")
            ))),
            _ => Err(Error::invalid_config(format!(
                "backend {} is unknown (compiled in: {})",
                shown(name),
                COMPILED_IN.join(", ")
            ))),
        }
    }

    pub(crate) fn start_boxed(self) -> Starting {
        Box::pin(self.start())
    }

    fn name(&self) -> &'static str {
        match self {
            #[cfg(feature = "consul")]
            Self::Consul(_) => "consul",
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => "etcd",
            #[cfg(feature = "gossip")]
            Self::Gossip(_) => "gossip",
            Self::Memory(_) => "memory",
            Self::Migration(_) => MIGRATION,
            #[cfg(feature = "zk")]
            Self::Zk(_) => "zk",
        }
    }

    async fn start(self) -> Result<Arc<dyn Discovery>> {
        match self {
            #[cfg(feature = "consul")]
            Self::Consul(config) => Ok(Arc::new(ConsulDiscovery::start(config).await?)),
            #[cfg(feature = "etcd")]
            Self::Etcd(config) => Ok(Arc::new(EtcdDiscovery::start(config).await?)),
            #[cfg(feature = "gossip")]
            Self::Gossip(config) if config.observe => {
                Ok(Arc::new(GossipObserver::start(config).await?))
            }
            #[cfg(feature = "gossip")]
            Self::Gossip(config) => Ok(Arc::new(GossipDiscovery::start(config).await?)),
            Self::Memory(config) => Ok(Arc::new(config.registry().connect())),
            Self::Migration(config) => Ok(Arc::new(config.start().await?)),
            #[cfg(feature = "zk")]
            Self::Zk(config) => Ok(Arc::new(ZkDiscovery::start(config).await?)),
        }
    }
}

impl Source<'_> {
    fn read<T>(
        self,
        from_url: fn(&DiscoveryUrl) -> Result<T>,
        from_options: fn(&Options) -> Result<T>,
    ) -> Result<T> {
        match self {
            Self::Url(url) => from_url(url),
            Self::Options(options) => from_options(options),
        }
    }
}
