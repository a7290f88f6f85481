//! The etcd backend of Tidings.
//!
//! ```no_run
//! use tidings_api::{Discovery, DiscoveryExt};
//! use tidings_etcd::{EtcdConfig, EtcdDiscovery};
//!
//! # async fn example() -> tidings_api::Result<()> {
//! let config = EtcdConfig::from_url(&"etcd://e1,e2,e3/prod?ttl=10s".parse()?)?;
//! let discovery = EtcdDiscovery::start(config).await?;
//! discovery.register_at("payments", "10.0.0.7:8080").await?;
//! let orders = discovery.watch_service("orders").await?;
//! # discovery.close().await
//! # }
//! ```
//!
//! # What stands in etcd
//! One key an instance, `NAMESPACE/SERVICE/INSTANCE`, whose value is JSON that Go's official naming
//! resolver (`go.etcd.io/etcd/client/v3/naming`) reads and writes: its clients resolve our instances
//! with the target `etcd:///NAMESPACE/SERVICE`, and endpoints that they add are instances here. It
//! hangs on a lease, of which a handle keeps one or a few.
//!
//! Two things to know of that resolver: before 3.5.10 it takes the target as a bare prefix, so that
//! `NAMESPACE/web` finds `web-2` as well unless the target ends with a slash, which later versions
//! add themselves and must not be given; and it knows no health, so its clients use instances that
//! are critical or draining like any other. Withdraw those with `deregister`.
//!
//! # Users and permissions
//! A handle needs to read `NAMESPACE/`, or at least the prefixes of the services that it watches and
//! the keys that it registers, and to write the latter.
//!
//! # Reading order
//! `config` → `keys`, `value` (what stands in etcd) → `client` (the way to it) → `lease`,
//! `registration`, `owner`, `writes`, `guard` (offering) → `watch`, `views` (finding).

mod backoff;
mod client;
mod discovery;
mod error;
mod guard;
mod keys;
mod lease;
mod owner;
mod registration;
mod tasks;
#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
mod tls;
mod value;
mod views;
mod watch;
mod writes;

mod config;
pub use config::{EtcdConfig, PORT_DEFAULT};
pub use discovery::EtcdDiscovery;
