//! On every backend, a mirror gives way to an owner (REG-5), whoever comes first.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;
use std::time::Duration;

use tidings_api::{
    Discovery, DiscoveryExt, DiscoveryUrl, Instance, InstanceKey, METADATA_MIRROR_KEY,
    MemoryRegistry, Registration, View,
};
use tidings_consul::{ConsulConfig, ConsulDiscovery};
use tidings_etcd::{EtcdConfig, EtcdDiscovery};
use tidings_gossip::{GossipConfig, GossipDiscovery};
use tidings_testkit::{consul, etcd, ports, zookeeper};
use tidings_zk::{ZkConfig, ZkDiscovery};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

type Handle = Arc<dyn Discovery>;

macro_rules! handles {
    ($discovery:ident, $config:ident, $url:expr) => {{
        let mut handles = Vec::new();
        for _ in 0..3 {
            let url: DiscoveryUrl = $url.parse().unwrap();
            let config = $config::from_url(&url).unwrap();
            let handle = $discovery::start(config).await.unwrap();
            handles.push(Arc::new(handle) as Handle);
        }
        handles
    }};
}

#[tokio::test]
async fn memory() {
    let registry = MemoryRegistry::new();
    let connect = || Arc::new(registry.connect()) as Handle;
    give_way(&[connect(), connect(), connect()]).await;
}

#[tokio::test]
async fn gossip() {
    let seed = ports::free();
    let first: DiscoveryUrl = format!("gossip://{seed}").parse().unwrap();
    let first = GossipDiscovery::start(GossipConfig::from_url(&first).unwrap());
    let _first = first.await.unwrap();
    let url = format!("gossip://127.0.0.1:0?join={seed}");
    give_way(&handles!(GossipDiscovery, GossipConfig, url)).await;
}

tidings_testkit::server_tests! { etcd_3_4:
    async fn etcd_3_4() {
        let etcd = etcd::Cluster::start(etcd::Options::default()).await.unwrap();
        let url = format!("etcd://{}/prod", etcd.addresses()[0]);
        give_way(&handles!(EtcdDiscovery, EtcdConfig, url)).await;
    }
}

tidings_testkit::server_tests! { zookeeper_3_8:
    async fn zookeeper_3_8() {
        let options = zookeeper::Options::default();
        let zookeeper = zookeeper::Ensemble::start(options).await.unwrap();
        let url = format!("zk://{}/prod", zookeeper.addresses()[0]);
        give_way(&handles!(ZkDiscovery, ZkConfig, url)).await;
    }
}

tidings_testkit::server_tests! { consul:
    async fn consul() {
        let consul = consul::Agent::start(consul::Options::new(consul::Role::Server)).await.unwrap();
        let url = format!("consul://{}", consul.http());
        give_way(&handles!(ConsulDiscovery, ConsulConfig, url)).await;
    }
}

async fn give_way(handles: &[Handle]) {
    let [owner, mirrors, others] = handles else {
        panic!("three handles are needed");
    };
    let mut seen = others.watch_service("web").await.unwrap();
    let key = web(1).key().clone();
    let live = timeout(PATIENCE, seen.wait_until(View::is_live));
    live.await.unwrap().unwrap();
    let mut shows = async |weight: u16| {
        let there = |view: &View| view.get(&key).is_some_and(|web| web.weight() == weight);
        let shown = timeout(PATIENCE, seen.wait_until(there)).await;
        assert!(shown.is_ok(), "never {weight}, but {:?}", seen.view());
    };

    // The owner comes second.
    mirrors.register(mirror(1)).await.unwrap();
    shows(1).await;
    owner.register(web(2)).await.unwrap();
    shows(2).await;
    is(mirrors, &key, "superseded", Registration::is_superseded).await;
    is(owner, &key, "registered", Registration::is_registered).await;

    // The owner was first, and whoever mirrors insists.
    for weight in 3..8 {
        mirrors.register(mirror(weight)).await.unwrap();
        is(mirrors, &key, "superseded", Registration::is_superseded).await;
        is(owner, &key, "registered", Registration::is_registered).await;
    }
    owner.register(web(9)).await.unwrap();
    shows(9).await;

    // A mirror of another bridge, which knows nothing of the first one.
    mirrors.deregister(&key).await.unwrap();
    others.register(mirror(10)).await.unwrap();
    is(others, &key, "superseded", Registration::is_superseded).await;
    is(owner, &key, "registered", Registration::is_registered).await;
    owner.register(web(11)).await.unwrap();
    shows(11).await;

    // Without an owner the newer of two mirrors wins.
    others.deregister(&key).await.unwrap();
    owner.deregister(&key).await.unwrap();
    let mut gone = mirrors.watch_service("web").await.unwrap();
    let gone = timeout(PATIENCE, gone.wait_until(|view| view.get(&key).is_none()));
    gone.await.unwrap().unwrap();
    mirrors.register(mirror(12)).await.unwrap();
    shows(12).await;
    others.register(mirror(13)).await.unwrap();
    shows(13).await;
    is(mirrors, &key, "superseded", Registration::is_superseded).await;
    mirrors.register(mirror(14)).await.unwrap();
    shows(14).await;
    is(others, &key, "superseded", Registration::is_superseded).await;
    for handle in handles {
        handle.close().await.unwrap();
    }
}

/// The content is told by the weight.
fn web(weight: u16) -> Instance {
    let web = Instance::new("web", "10.0.0.7:80").and_then(|web| web.with_id("a"));
    web.and_then(|web| web.with_weight(weight)).unwrap()
}

fn mirror(weight: u16) -> Instance {
    let mirror = web(weight).with_metadata(METADATA_MIRROR_KEY, "bridge 7 elsewhere");
    mirror.unwrap()
}

/// Waits until a handle says so of its registration.
async fn is(handle: &Handle, key: &InstanceKey, what: &str, condition: fn(&Registration) -> bool) {
    let there = timeout(PATIENCE, async {
        while !handle.status().registration(key).is_some_and(condition) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(there.await.is_ok(), "never {what}: {:?}", handle.status());
}
