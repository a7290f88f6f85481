//! Many instances, and many subscriptions.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tidings_api::{Discovery, DiscoveryExt, View};
use tidings_testkit::zookeeper::{Ensemble, Options};
use tidings_zk::ZkDiscovery;

use crate::recorder::{eventually, web};
use crate::support::{Proxied, config};

const INSTANCES: u32 = 5_000;
const SUBSCRIPTIONS: usize = 10_000;
const IN_FLIGHT: usize = 64;
const DEADLINE: Duration = Duration::from_secs(180);

tidings_testkit::server_tests! { zookeeper_3_8:
    async fn instances_5000() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let server = ensemble.addresses()[0];
        let owner = Proxied::start(server, &config(&[], "services")).await;
        let viewer = Proxied::start(server, &config(&[], "services")).await;
        let mut seen = viewer.discovery.watch_service("web").await.unwrap();
        register_all(&*owner.discovery, 1).await;
        until(&mut seen, "all are there", |view| view.len() == INSTANCES as usize).await;

        // An outage of the viewer is no change at all.
        let before = seen.view();
        viewer.proxy.cut();
        until(&mut seen, "stale", |view| !view.is_live()).await;
        viewer.proxy.restore();
        until(&mut seen, "live again", View::is_live).await;
        assert!(seen.view().since(&before).is_empty());

        // All of them lost and registered again, with what is newest.
        let session = seen.view();
        owner.expire().await.unwrap();
        until(&mut seen, "the session has ended", |view| view.len() < INSTANCES as usize).await;
        until(&mut seen, "all are back", |view| view.len() == INSTANCES as usize).await;
        assert!(seen.view().since(&session).is_empty());
        register_all(&*owner.discovery, 2).await;
        let newest = |view: &View| {
            let of_two = view.iter().filter(|found| found.metadata().get("n").is_some_and(|n| n == "2"));
            of_two.count() == INSTANCES as usize
        };
        until(&mut seen, "the newest of all", newest).await;
        owner.discovery.close().await.unwrap();
        until(&mut seen, "all have left", |view| view.is_empty() && view.is_live()).await;
    }

    async fn subscriptions_10000_without_a_leak() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let handle = ZkDiscovery::start(config(&ensemble.addresses(), "services")).await.unwrap();
        handle.register(web("a", 1)).await.unwrap();
        eventually("the own node is watched", async || watches(&ensemble).await > 0).await;
        let (before, tasks) = (watches(&ensemble).await, tasks());
        let mut most = 0;
        for round in 0..SUBSCRIPTIONS {
            let watch = handle.watch_service(&format!("web-{}", round % 500)).await.unwrap();
            assert!(watch.view().is_live());
            if round % 1_000 == 500 {
                most = most.max(watches(&ensemble).await);
            }
        }
        assert!(most > before, "no subscription has reached the server");
        eventually("no subscription is left", async || {
            handle.subscriptions() == 0 && watches(&ensemble).await == before
        })
        .await;
        eventually("no task is left", async || self::tasks() <= tasks).await;
        let web = handle.watch_service("web").await.unwrap();
        assert_eq!(web.view().len(), 1);
    }
}

async fn register_all(discovery: &dyn Discovery, number: u32) {
    let calls = (0..INSTANCES).map(|n| discovery.register(web(&format!("web-{n}"), number)));
    let mut calls = stream::iter(calls).buffer_unordered(IN_FLIGHT);
    while let Some(registered) = calls.next().await {
        registered.unwrap();
    }
}

async fn until(
    watch: &mut tidings_api::Watch,
    what: &str,
    condition: impl FnMut(&View) -> bool + Send,
) {
    let waited = tokio::time::timeout(DEADLINE, watch.wait_until(condition)).await;
    let view = watch.view();
    assert!(
        waited.is_ok(),
        "{what}: {} instances, {}",
        view.len(),
        view.freshness()
    );
}

/// Watches that the server keeps.
async fn watches(ensemble: &Ensemble) -> usize {
    let text = ensemble.ask(0, "wchs").await.unwrap();
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("Total watches:"));
    total
        .and_then(|count| count.trim().parse().ok())
        .expect("wchs counts watches")
}

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}
