//! Many instances, and many subscriptions.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tidings_api::{Discovery, DiscoveryExt, View};
use tidings_testkit::zookeeper::{Ensemble, Options};
use tidings_zk::{Watches, ZkConfig, ZkDiscovery};

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
        let before = session_of(&ensemble).await;
        owner.expire().await.unwrap();
        // What the viewer sees of it depends on time: what vanishes soon after its own outage is held.
        eventually("all are back, in another session", async || {
            let now = session_of(&ensemble).await;
            now.1 == INSTANCES && now.0 != before.0
        })
        .await;
        until(&mut seen, "all of them", |view| view.len() == INSTANCES as usize && view.is_live()).await;
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
        let config = config(&ensemble.addresses(), "services");
        subscribe_and_leave(&ensemble, config, SUBSCRIPTIONS).await;
    }

    async fn one_shot_subscriptions_without_a_leak() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let mut config = config(&ensemble.addresses(), "services");
        config.watches = Watches::Oneshot;
        subscribe_and_leave(&ensemble, config, SUBSCRIPTIONS / 5).await;
    }
}

async fn subscribe_and_leave(ensemble: &Ensemble, config: ZkConfig, rounds: usize) {
    let handle = ZkDiscovery::start(config).await.unwrap();
    handle.register(web("a", 1)).await.unwrap();
    eventually("the own node is watched", async || {
        watches(ensemble).await > 0
    })
    .await;
    let (before, tasks) = (watches(ensemble).await, tasks());
    let mut most = 0;
    for round in 0..rounds {
        let watch = handle
            .watch_service(&format!("web-{}", round % 500))
            .await
            .unwrap();
        assert!(watch.view().is_live());
        if round % 1_000 == 500 {
            most = most.max(watches(ensemble).await);
        }
    }
    assert!(most > before, "no subscription has reached the server");
    eventually("no subscription is left", async || {
        handle.subscriptions() == 0 && watches(ensemble).await == before
    })
    .await;
    eventually("no task is left", async || self::tasks() <= tasks).await;
    let web = handle.watch_service("web").await.unwrap();
    assert_eq!(web.view().len(), 1);
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

/// The session that owns most nodes, and how many.
async fn session_of(ensemble: &Ensemble) -> (String, u32) {
    let text = ensemble.ask(0, "dump").await.unwrap();
    let mut largest = (String::new(), 0);
    let mut session = (String::new(), 0);
    for line in text.lines() {
        match line.strip_prefix("\t/services/web/") {
            Some(_) => session.1 += 1,
            None => session = (line.to_owned(), 0),
        }
        if session.1 > largest.1 {
            largest = session.clone();
        }
    }
    largest
}

/// Watches that the server keeps.
pub(crate) async fn watches(ensemble: &Ensemble) -> usize {
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
