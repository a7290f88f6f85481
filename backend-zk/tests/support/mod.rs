//! What the tests of this crate share: a server or three, handles behind proxies, and a client that
//! does things behind everybody's back.
#![allow(dead_code)] // Each test crate uses its part.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tidings_api::{Instance, InstanceKey};
use tidings_testkit::proxy::Proxy;
use tidings_zk::{ZkConfig, ZkDiscovery};
use tokio::runtime::Runtime;
use zookeeper_client as zk;

/// Long enough that a busy machine doesn't end sessions by itself.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(4);

/// How long tests wait for what has to happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A configuration whose times suit tests.
pub(crate) fn config(hosts: &[SocketAddr], namespace: &str) -> ZkConfig {
    let mut config = ZkConfig::default();
    config.hosts = hosts.iter().map(ToString::to_string).collect();
    config.namespace = namespace.to_owned();
    config.session_timeout = SESSION_TIMEOUT;
    config.call_timeout = Duration::from_secs(3);
    config.connect_wait = Duration::from_secs(10);
    config.retry_max = Duration::from_secs(1);
    config.loss_hold = Duration::from_secs(5);
    config
}

/// Waits for a condition that nothing announces.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A handle with a proxy of its own between it and the one server.
pub(crate) struct Proxied {
    pub(crate) discovery: Arc<ZkDiscovery>,
    pub(crate) proxy: Proxy,
    server: SocketAddr,
}

impl Proxied {
    pub(crate) async fn start(server: SocketAddr, config: &ZkConfig) -> Self {
        let proxy = proxies().spawn(Proxy::start(server)).await;
        let proxy = proxy
            .expect("a proxy doesn't panic")
            .expect("a proxy starts");
        let mut config = config.clone();
        config.hosts = vec![proxy.address().to_string()];
        let discovery = ZkDiscovery::start(config).await.expect("a handle starts");
        let discovery = Arc::new(discovery);
        Self {
            discovery,
            proxy,
            server,
        }
    }

    /// Ends the session on the server, while the handle is there to notice.
    pub(crate) async fn expire(&self) -> tidings_api::Result<()> {
        // Or it takes the session back before it is ended.
        self.proxy.black_hole();
        let expired = self.discovery.expire(&self.server.to_string()).await;
        self.proxy.restore();
        expired
    }
}

/// Where proxies run: their tasks are none of the test's, which may count its own.
fn proxies() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).enable_all();
        runtime.build().expect("a runtime can be made")
    })
}

/// A client of the library alone, with a session of its own.
pub(crate) async fn raw(hosts: &[SocketAddr]) -> zk::Client {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let hosts = hosts.join(",");
    loop {
        let connector = zk::Client::connector().with_session_timeout(Duration::from_secs(10));
        match connector.connect(&hosts).await {
            Ok(client) => return client,
            Err(error) => eprintln!("the raw client tries again: {error}"),
        }
    }
}

pub(crate) const OPEN: zk::CreateOptions<'static> =
    zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
pub(crate) const EPHEMERAL: zk::CreateOptions<'static> =
    zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());

/// Writes a node, whether it is there or not.
pub(crate) async fn put(client: &zk::Client, path: &str, data: &[u8]) -> Result<(), zk::Error> {
    let parent = &path[..path.rfind('/').expect("a path has a slash")];
    if !parent.is_empty() {
        client.mkdir(parent, &OPEN).await?;
    }
    match client.create(path, data, &OPEN).await {
        Err(zk::Error::NodeExists) => client.set_data(path, data, None).await.map(drop),
        created => created.map(drop),
    }
}

/// What Curator writes.
pub(crate) fn curator_json(instance: &Instance) -> String {
    format!(
        r#"{{"name":"{}","id":"{}","address":"{}","port":{},"sslPort":null,"payload":null,
        "registrationTimeUTC":1700000000000,"serviceType":"DYNAMIC","uriSpec":null}}"#,
        instance.service(),
        instance.id(),
        instance.address().host(),
        instance.address().port()
    )
}

pub(crate) fn path(namespace: &str, key: &InstanceKey) -> String {
    format!("/{namespace}/{}/{}", key.service(), key.id())
}
