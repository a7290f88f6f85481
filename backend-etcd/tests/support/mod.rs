//! What the tests against a real etcd share: a cluster, handles that can be cut off from it, and an
//! administrator.

#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions};
use tidings_api::{
    Change, Discovery, DiscoveryExt, Instance, InstanceKey, Registration, View, Watch,
};
use tidings_etcd::{EtcdConfig, EtcdDiscovery};
use tidings_testkit::Result;
use tidings_testkit::etcd::{Cluster, ROOT};
use tidings_testkit::proxy::Proxy;
use tokio::task::JoinHandle;

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
        config.endpoints = proxies
            .iter()
            .map(|proxy| proxy.address().to_string())
            .collect();
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
    config.endpoints = cluster
        .addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    config.ttl = TTL;
    // So that tests with two registrations have some that hang on different ones.
    config.leases = 2;
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

/// An instance of `web` whose content is told by a number.
pub(crate) fn web(id: &str, number: usize) -> Instance {
    Instance::new("web", "192.0.2.1:8080")
        .and_then(|instance| instance.with_id(id))
        .and_then(|instance| instance.with_metadata("n", number.to_string()))
        .expect("names in tests are within the limits")
}

pub(crate) fn key(id: &str) -> InstanceKey {
    web(id, 0).key().clone()
}

/// The number of the instance with this id.
pub(crate) fn number_in(view: &View, id: &str) -> Option<usize> {
    view.get(&key(id))?.metadata().get("n")?.parse().ok()
}

/// Waits until `condition` holds, looking again and again.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the handle's registration of `id` is in etcd.
pub(crate) async fn is_registered(etcd: &EtcdDiscovery, id: &str) {
    let key = key(id);
    let registered = || {
        let status = etcd.status();
        status
            .registration(&key)
            .is_some_and(Registration::is_registered)
    };
    eventually(&format!("{id} is registered"), registered).await;
}

/// A watch of `web` with every change it has shown.
pub(crate) struct Seen {
    watch: Watch,
    changes: Arc<Mutex<Vec<String>>>,
    recorder: JoinHandle<()>,
}

impl Seen {
    pub(crate) async fn by(etcd: &EtcdDiscovery) -> Self {
        let watch = etcd.watch_service("web").await.unwrap();
        let changes = Arc::<Mutex<Vec<String>>>::default();
        let recorded = changes.clone();
        let mut all = watch.clone().into_changes();
        let recorder = tokio::spawn(async move {
            while let Some(change) = all.next().await {
                let sign = match change {
                    Change::Added(_) => '+',
                    Change::Removed(_) => '-',
                    _ => '~',
                };
                recorded
                    .lock()
                    .unwrap()
                    .push(format!("{sign}{}", change.key().id()));
            }
        });
        Self {
            watch,
            changes,
            recorder,
        }
    }

    pub(crate) fn view(&self) -> View {
        self.watch.view()
    }

    /// Waits until the view meets a condition.
    pub(crate) async fn wait(&self, what: &str, condition: impl Fn(&View) -> bool + Send) -> View {
        let mut watch = self.watch.clone();
        let met = tokio::time::timeout(PATIENCE, watch.wait_until(condition)).await;
        met.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}: {:?}", self.view()))
            .unwrap()
    }

    /// Waits until it is live, with the number of each instance given.
    pub(crate) async fn shows(&self, expected: &[(&str, usize)]) {
        let all = |view: &View| {
            let mut numbers = expected.iter();
            view.is_live()
                && view.len() == expected.len()
                && numbers.all(|(id, number)| number_in(view, id) == Some(*number))
        };
        self.wait(&format!("it shows {expected:?}"), all).await;
    }

    /// Waits until it shows what `owner` registers now: whatever happened, it still follows etcd.
    pub(crate) async fn still_hears(&self, owner: &EtcdDiscovery) {
        owner.register(web("later", 1)).await.unwrap();
        let later = |view: &View| view.is_live() && view.get(&key("later")).is_some();
        self.wait("what is registered later", later).await;
    }

    pub(crate) async fn is_stale(&self) {
        self.wait("it is stale", |view| !view.is_live()).await;
    }

    /// Forgets what it has shown until now.
    pub(crate) async fn mark(&self) {
        self.caught_up().await;
        self.changes.lock().unwrap().clear();
    }

    /// The changes since [`mark`](Self::mark), in any order.
    pub(crate) async fn since_mark(&self) -> Vec<String> {
        self.caught_up().await;
        let mut changes = self.changes.lock().unwrap().clone();
        changes.sort();
        changes
    }

    /// Lets the recorder read what is there.
    async fn caught_up(&self) {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.recorder.abort();
    }
}
