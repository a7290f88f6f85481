//! Service discovery as one small trait: the same on an embedded gossip registry, which needs no
//! server, and on the server you may already have.
//!
//! ```
//! use tidings::{DiscoveryExt, Health, Instance};
//!
//! #[tokio::main]
//! async fn main() -> tidings::Result<()> {
//!     // One line of configuration chooses the backend. This one lives in the process.
//!     let discovery = tidings::connect("memory://").await?;
//!
//!     // Offer an instance: it is there until it is deregistered, closed, or its process dies.
//!     let payments = Instance::new("payments", "10.0.0.7:8080")?
//!         .with_zone("eu-1a")?
//!         .with_metadata("version", "1.4.2")?;
//!     let key = discovery.register(payments).await?;
//!
//!     // Find instances: a watch holds the newest view. No I/O, no lock.
//!     let watch = discovery.watch_service("payments").await?;
//!     let target = watch.view().healthy().next().expect("it was registered above");
//!     assert_eq!(target.address().to_string(), "10.0.0.7:8080");
//!
//!     // Say how it is; whoever watches is told.
//!     discovery.health(&key, Health::draining()).await?;
//!     assert!(watch.view().healthy().next().is_none());
//!
//!     // Leave: gone everywhere, at once.
//!     discovery.close().await
//! }
//! ```
//!
//! # Following changes
//!
//! A [`Watch`] is read as a level, or as a stream of changes. An outage is never an empty set: the
//! last view stays, and its [`Freshness`] says that it is stale.
//!
//! ```
//! # use tidings::DiscoveryExt;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> tidings::Result<()> {
//! # let discovery = tidings::connect("memory://").await?;
//! # discovery.register_at("orders", "10.0.0.7:8080").await?;
//! let mut orders = discovery.watch_service("orders").await?;
//! let view = orders.changed().await?; // the current view first, then each new one
//! println!("{} instances, {}", view.len(), view.freshness());
//!
//! let mut changes = orders.into_changes(); // Added, Updated, Removed
//! while let Some(change) = changes.next().await {
//!     println!("{change:?}");
//! #   break;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Choosing the backend
//!
//! The scheme of a URL, the `backend` of a TOML table and the Cargo feature have the same name.
//!
//! | backend | for |
//! |---|---|
//! | `gossip` | production without a server: every process that uses it is the registry. The default feature. |
//! | `etcd`, `zk`, `consul` | a service that has outgrown gossip, or lives beside others that use these. |
//! | `memory` | tests and single-process programs. Always there. `memory://NAME` is shared by all who use the name. |
//!
//! A configuration file and the environment say the same as a URL; see [`Config`]:
//!
//! ```
//! let config = tidings::Config::from_toml(
//!     r#"
//!     [discovery]
//!     backend = "memory"          # or: url = "memory://shop"
//!     name = "shop"
//!     "#,
//! )?;
//! assert_eq!(config, "memory://shop".try_into()?);
//! # Ok::<(), tidings::Error>(())
//! ```
//!
//! Configuration is strict: what isn't known, or is out of range, is an error that names it and
//! says what is accepted.
//!
//! # Moving to another backend
//!
//! A configuration with two backends is a [`Migration`]: what is registered is in both, what is
//! watched is the union, as far as its [`Phase`] says. The guide is `docs/migration.md`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> tidings::Result<()> {
//! let config = tidings::Config::from_toml(
//!     r#"
//!     [discovery.migration]
//!     from = "memory://here"       # gossip://…
//!     to = "memory://there"        # etcd://…
//!     phase = "both-read-old"      # or automatic
//!     "#,
//! )?;
//! let discovery = tidings::connect_migration(config).await?;
//! let moved = discovery.set_phase(tidings::Phase::BothReadMerged).await;
//! moved.expect("both can be heard");
//! # Ok(())
//! # }
//! ```
//!
//! Processes that can't be redeployed are mirrored by a [`Bridge`], which is a process of its own:
//! `cargo run --example bridge -- --help`.
//!
//! # Writing a backend
//!
//! Depend on `tidings-api`: it has the [`Discovery`] contract and what feeds a watch.

mod config;
pub use config::Config;

mod connect;
pub use connect::{connect, connect_migration};

mod memory;
mod migration;
mod traits;

#[cfg(feature = "consul")]
pub use tidings_consul as consul;
#[cfg(feature = "etcd")]
pub use tidings_etcd as etcd;
#[cfg(feature = "gossip")]
pub use tidings_gossip as gossip;
#[cfg(feature = "zk")]
pub use tidings_zk as zk;

/// Moving from one backend to another, with nobody losing sight of anybody.
pub use tidings_migration as moving;
pub use tidings_migration::{Bridge, BridgeOptions, Migration, Phase};

pub use tidings_api::{
    Address, Bounds, Change, Changes, Connection, Discovery, DiscoveryExt, DiscoveryUrl, Error,
    ErrorKind, Freshness, Generation, Health, HealthState, Host, Instance, InstanceId, InstanceKey,
    MemoryDiscovery, MemoryRegistry, MetadataKey, PortName, Registration, Removal, Result,
    Selector, ServiceName, Status, View, Views, Watch, Zone,
};

/// The programs in the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
