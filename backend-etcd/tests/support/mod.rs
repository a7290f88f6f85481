//! What the tests against a real etcd share: a cluster, handles that can be cut off from it, and an
//! administrator.

#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::sync::Once;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tidings_etcd::{EtcdConfig, EtcdDiscovery};
use tidings_testkit::Result;
use tidings_testkit::etcd::{Cluster, ROOT};
use tidings_testkit::proxy::Proxy;

/// The time to live in tests: short, but not so short that a busy machine misses it.
pub(crate) const TTL: Duration = Duration::from_secs(3);
/// How long anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A handle with a proxy before each endpoint.
pub(crate) struct Proxied {
    pub(crate) etcd: EtcdDiscovery,
    pub(crate) proxies: Vec<Proxy>,
}

impl Proxied {
    pub(crate) async fn start(cluster: &Cluster, config: EtcdConfig) -> Result<Self> {
        let mut proxies = Vec::new();
        for address in cluster.addresses() {
            proxies.push(Proxy::start(address).await?);
        }
        let mut config = config;
        config.endpoints = proxies.iter().map(|proxy| proxy.address().to_string()).collect();
        let etcd = EtcdDiscovery::start(config).await?;
        Ok(Self { etcd, proxies })
    }

    pub(crate) fn black_hole(&self) {
        self.proxies.iter().for_each(Proxy::black_hole);
    }

    pub(crate) fn restore(&self) {
        self.proxies.iter().for_each(Proxy::restore);
    }
}

/// A configuration for `cluster`, without proxies.
pub(crate) fn config(cluster: &Cluster) -> EtcdConfig {
    log();
    let mut config = EtcdConfig::default();
    config.endpoints = cluster.addresses().iter().map(ToString::to_string).collect();
    config.ttl = TTL;
    config
}

/// A plain client of one server, as root where it has users.
pub(crate) async fn admin(server: SocketAddr, users: bool) -> Result<Client> {
    let endpoint = server.to_string();
    let options = ConnectOptions::new().with_timeout(Duration::from_secs(10));
    let options = match users {
        true => options.with_user(ROOT.0, ROOT.1),
        false => options,
    };
    Ok(Client::connect([endpoint], Some(options)).await?)
}

/// Logs what `RUST_LOG` asks for.
pub(crate) fn log() {
    static LOG: Once = Once::new();
    LOG.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .init();
    });
}
