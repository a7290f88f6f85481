//! Many instances, many watches, many services; and what a handle asks of its agent.
#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails has to end its test, as an unwrap in the test does"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::*;
use tidings_api::{Discovery, DiscoveryExt, View};
use tidings_consul::ConsulDiscovery;
use tidings_testkit::consul::{Agent, Options, Role};
use tokio::time::timeout;

tidings_testkit::server_tests! { consul:
    async fn two_thousand_instances() {
        const COUNT: usize = 2_000;
        const WITHIN: Duration = Duration::from_secs(240);
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let mut config = quick(agent.http());
        config.ttl = Duration::from_secs(120);
        config.leave_timeout = Duration::from_secs(60);
        config.request_timeout = Duration::from_secs(30);
        let owner = Arc::new(ConsulDiscovery::start(config.clone()).await.unwrap());
        let other = ConsulDiscovery::start(config).await.unwrap();
        let mut watch = other.watch_service("web").await.unwrap();
        let mut all = other.watch_all().await.unwrap();
        let changes = record(&watch);
        let mut tasks = tokio::task::JoinSet::new();
        for worker in 0..16 {
            let owner = owner.clone();
            tasks.spawn(async move {
                for number in (worker..COUNT).step_by(16) {
                    owner.register(web(&format!("web-{number}"))).await.unwrap();
                }
            });
        }
        timeout(WITHIN, tasks.join_all()).await.unwrap();
        assert_eq!(services(&agent).await.len(), COUNT);
        for watch in [&mut watch, &mut all] {
            let complete = watch.wait_until(|view| {
                view.is_live() && view.iter().filter(|found| found.service().as_str() == "web").count() == COUNT
            });
            timeout(WITHIN, complete).await.unwrap().unwrap();
        }
        let removed = || changes.lock().unwrap().iter().any(|change| change.starts_with('-'));
        assert!(!removed(), "an instance has left that never went away");
        timeout(WITHIN, owner.close()).await.unwrap().unwrap();
        timeout(WITHIN, watch.wait_until(View::is_empty)).await.unwrap().unwrap();
    }

    async fn ten_thousand_watches_leave_nothing() {
        const WATCHES: usize = 10_000;
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let consul = start(&agent).await;
        consul.register(web("a")).await.unwrap();
        let metrics = tokio::runtime::Handle::current().metrics();
        let (tasks, files) = (metrics.num_alive_tasks(), open_files());
        for number in 0..WATCHES {
            let service = if number % 4 == 0 { "web" } else { "mail" };
            let watch = consul.watch_service(service).await.unwrap();
            assert_eq!(watch.view().len(), usize::from(service == "web"));
        }
        // Connections of the pool may be a few more or less.
        let swept = || {
            consul.stats().feeds == 0
                && metrics.num_alive_tasks() <= tasks + 10
                && open_files() <= files + 10
        };
        until("no feed, task or connection is left", swept).await;
    }

    async fn more_services_than_queries_that_wait_take_turns() {
        const COUNT: usize = 100;
        // Well below the time that a query waits which knows of no others.
        const WITHIN: Duration = Duration::from_secs(30);
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let (owner, other) = (start(&agent).await, start(&agent).await);
        let mut watches = Vec::new();
        for number in 0..COUNT {
            watches.push(other.watch_service(&format!("web-{number}")).await.unwrap());
        }
        // Two turns; the owner watches nothing yet.
        let visible = |consul: &ConsulDiscovery| consul.status().bounds().visible;
        until("the bound says so", || visible(&other) == visible(&owner) * 2).await;
        // The queries of the first 64 were there before it got crowded, and nothing changes for them.
        let last = owner.register_at(&format!("web-{}", COUNT - 1), "192.0.2.1:80").await.unwrap();
        let seen = watches[COUNT - 1].wait_until(|view| view.is_live() && view.get(&last).is_some());
        timeout(WITHIN, seen).await.unwrap().unwrap();
        // The owner looks after as many services.
        for number in 0..COUNT - 1 {
            owner.register_at(&format!("web-{number}"), "192.0.2.1:80").await.unwrap();
        }
        for (number, watch) in watches.iter_mut().enumerate() {
            let seen = timeout(WITHIN, watch.wait_until(|view| view.is_live() && view.len() == 1));
            assert!(seen.await.is_ok(), "web-{number} was not seen");
        }
        let mut late = owner.watch_service("late").await.unwrap();
        other.register_at("late", "192.0.2.1:80").await.unwrap();
        timeout(WITHIN, late.wait_until(|view| view.len() == 1)).await.unwrap().unwrap();
    }

    async fn idle_handles_ask_little() {
        const WINDOW: Duration = Duration::from_secs(6);
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let consul = start(&agent).await;
        consul.register(web("a")).await.unwrap();
        let _watches = [
            consul.watch_service("web").await.unwrap(),
            consul.watch_service("none").await.unwrap(),
            consul.watch_all().await.unwrap(),
        ];
        let (mut last, mut since) = (u64::MAX, tokio::time::Instant::now());
        // A window with beats and reports alone, once the start is over: two each a third of a TTL.
        let quiet = async || {
            if since.elapsed() < WINDOW {
                return false;
            }
            let now = consul.stats().requests;
            let few = now.saturating_sub(last) <= 12 && last != u64::MAX;
            (last, since) = (now, tokio::time::Instant::now());
            few
        };
        eventually("few requests in a window", quiet).await;
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
