//! What real Consul agents do to a handle when they fail.
//!
//! Each test asserts that its fault has happened before it looks at what became of it.
#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails has to end its test, as an unwrap in the test does"
)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use support::*;
use tidings_api::{
    Discovery, DiscoveryExt, ErrorKind, Generation, Health, Instance, Registration, View,
};
use tidings_consul::ConsulDiscovery;
use tidings_testkit::consul::{self, Agent, Options, Role};
use tidings_testkit::proxy::Proxy;
use tokio::time::timeout;

tidings_testkit::server_tests! { consul:
    async fn agent_absent_at_start() {
        let mut agent = Agent::prepare(Options::new(Role::Dev)).unwrap();
        let consul = start(&agent).await;
        assert!(!consul.status().connection().is_connected());
        let mut watch = consul.watch_service("web").await.unwrap();
        assert!(watch.view().is_empty() && !watch.view().is_live());
        let key = consul.register(web("a")).await.unwrap();
        assert!(matches!(registration(&consul, &key), Registration::Pending { .. }));
        assert_eq!(ids(&watch.view()), "a");

        agent.restart().await.unwrap();
        seen(&mut watch, "it is live", |view| view.is_live() && ids(view) == "a").await;
        let other = start(&agent).await;
        let mut watch = other.watch_service("web").await.unwrap();
        seen(&mut watch, "a", |view| view.is_live() && ids(view) == "a").await;
        is_registered(&consul, &key).await;
    }

    async fn agent_killed_and_restarted_with_its_data() {
        killed_and_restarted(false).await;
    }

    async fn agent_killed_and_restarted_without_its_data() {
        killed_and_restarted(true).await;
    }

    async fn agent_paused_past_the_ttl() {
        let agent = Agent::start(Options::new(Role::Server)).await.unwrap();
        let proxy = Proxy::start(agent.http()).await.unwrap();
        let owner = ConsulDiscovery::start(quick(proxy.address())).await.unwrap();
        let other = start(&agent).await;
        owner.register(web("a")).await.unwrap();
        let mut watch = other.watch_service("web").await.unwrap();
        seen(&mut watch, "a", |view| ids(view) == "a").await;
        let changes = record(&watch);

        // So that no report waits in the agent's socket, to be read before it looks at the clock.
        proxy.black_hole();
        agent.pause().unwrap();
        seen(&mut watch, "it is stale", |view| !view.is_live()).await;
        let silent = tokio::time::Instant::now();
        until("the TTL is over", || silent.elapsed() > quick(agent.http()).ttl * 2).await;
        assert_eq!(ids(&watch.view()), "a");
        agent.resume().unwrap();
        let missed = || agent.log().contains("missed TTL");
        until("the agent has taken the owner for dead", missed).await;
        proxy.restore();
        seen(&mut watch, "it is live again", View::is_live).await;
        owner.register(web("b")).await.unwrap();
        seen(&mut watch, "b", |view| view.is_live() && ids(view) == "a b").await;
        expect(&changes, &["+a", "+b"]).await;
    }

    async fn owner_silent_past_the_ttl_leaves_and_is_back() {
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let proxy = Proxy::start(agent.http()).await.unwrap();
        let owner = ConsulDiscovery::start(quick(proxy.address())).await.unwrap();
        let other = start(&agent).await;
        let key = owner.register(web("a")).await.unwrap();
        let mut watch = other.watch_service("web").await.unwrap();
        seen(&mut watch, "a", |view| ids(view) == "a").await;
        proxy.black_hole();
        seen(&mut watch, "a is gone", |view| view.is_live() && view.is_empty()).await;
        assert!(catalog(&agent, "web").await[0]["Checks"].to_string().contains("TTL expired"));
        proxy.restore();
        seen(&mut watch, "a is back", |view| ids(view) == "a").await;
        is_registered(&owner, &key).await;
    }

    async fn service_deregistered_behind_our_back() {
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let (owner, other) = (start(&agent).await, start(&agent).await);
        let key = owner.register(web("a")).await.unwrap();
        owner.health(&key, Health::warning("hot")).await.unwrap();
        let mut watch = other.watch_service("web").await.unwrap();
        seen(&mut watch, "a", |view| ids(view) == "a").await;
        let changes = record(&watch);
        for id in services(&agent).await {
            put(&agent, &format!("/v1/agent/service/deregister/{id}"), &Value::Null).await;
        }
        until("the others saw it leave", || changes.lock().unwrap().contains(&"-a".into())).await;
        let view = seen(&mut watch, "a is back", |view| ids(view) == "a").await;
        assert_eq!(view.get(&key).unwrap().health(), &Health::warning("hot"));
    }

    async fn index_going_backwards_after_a_snapshot_restore() {
        let agent = Agent::start(Options::new(Role::Server)).await.unwrap();
        let proxy = Proxy::start(agent.http()).await.unwrap();
        let owner = ConsulDiscovery::start(quick(proxy.address())).await.unwrap();
        let other = start(&agent).await;
        owner.register(web("a")).await.unwrap();
        let snapshot = agent.call_bytes("GET", "/v1/snapshot", b"").await.unwrap();
        for number in 0..40 {
            owner.register(web("b").with_metadata("n", number.to_string()).unwrap()).await.unwrap();
        }
        let mut watch = other.watch_service("web").await.unwrap();
        let newest = |view: &View| {
            let b = view.iter().find(|found| found.id().as_str() == "b");
            b.is_some_and(|b| b.metadata().values().eq(["39"]))
        };
        seen(&mut watch, "b", |view| view.is_live() && view.len() == 2 && newest(view)).await;
        let changes = record(&watch);
        let before = index(&agent, "web").await;
        // The owner must not mend it before anybody can look; the agent may do so by itself.
        proxy.black_hole();
        let witness = Witness::start(&agent);
        agent.call_bytes("PUT", "/v1/snapshot", &snapshot).await.unwrap();
        until("the index went backwards, and b was gone", || witness.saw(|index, len| index < before && len == 1))
            .await;
        proxy.restore();

        // The catalog has lost b; its owner brings it back, and nobody sees it leave.
        eventually("b is back", async || catalog(&agent, "web").await.len() == 2).await;
        owner.register(web("c")).await.unwrap();
        seen(&mut watch, "c", |view| view.is_live() && ids(view) == "a b c" && newest(view)).await;
        expect(&changes, &["+a", "+b", "+c"]).await;
    }

    async fn what_a_restored_snapshot_takes_away_before_its_owner_looked_comes_back() {
        let agent = Agent::start(Options::new(Role::Server)).await.unwrap();
        let (owner, other) = (start(&agent).await, start(&agent).await);
        owner.register(web("a")).await.unwrap();
        let mut watch = other.watch_service("web").await.unwrap();
        seen(&mut watch, "a", |view| view.is_live() && ids(view) == "a").await;
        compared(&agent).await;
        let snapshot = agent.call_bytes("GET", "/v1/snapshot", b"").await.unwrap();
        owner.register(web("b")).await.unwrap();
        seen(&mut watch, "b", |view| ids(view) == "a b").await;
        let changes = record(&watch);
        let witness = Witness::start(&agent);
        agent.call_bytes("PUT", "/v1/snapshot", &snapshot).await.unwrap();
        until("b was taken away", || witness.saw(|_, len| len == 1)).await;

        // Sooner than the agent compares again, and than viewers let go.
        eventually("b is back", async || catalog(&agent, "web").await.len() == 2).await;
        seen(&mut watch, "b is live", |view| view.is_live() && ids(view) == "a b").await;
        expect(&changes, &["+a", "+b"]).await;
    }

    async fn what_a_restored_snapshot_takes_back_before_its_owner_looked_is_never_shown() {
        let agent = Agent::start(Options::new(Role::Server)).await.unwrap();
        let owner = start(&agent).await;
        let mut config = quick(agent.http());
        config.loss_hold = Duration::from_secs(5);
        let other = ConsulDiscovery::start(config).await.unwrap();
        owner.register(web("a")).await.unwrap();
        let mut watch = other.watch_service("web").await.unwrap();
        seen(&mut watch, "a", |view| view.is_live() && ids(view) == "a").await;
        compared(&agent).await;
        let snapshot = agent.call_bytes("GET", "/v1/snapshot", b"").await.unwrap();
        owner.register(web("a").with_metadata("n", "2").unwrap()).await.unwrap();
        let is_new = |view: &View| view.iter().all(|found| found.metadata().values().eq(["2"]));
        seen(&mut watch, "a as it is now", |view| view.len() == 1 && is_new(view)).await;
        let (changes, before) = (record(&watch), index(&agent, "web").await);
        let witness = Witness::start(&agent);
        agent.call_bytes("PUT", "/v1/snapshot", &snapshot).await.unwrap();
        until("the catalog had it as it was", || witness.saw(|index, len| index < before && len == 1)).await;

        eventually("the catalog has it as it is", async || catalog(&agent, "web").await[0]["Service"]["Meta"]["n"] == "2")
            .await;
        owner.register(web("b")).await.unwrap();
        seen(&mut watch, "b", |view| view.is_live() && ids(view) == "a b").await;
        expect(&changes, &["+a", "+b"]).await;
    }

    async fn what_a_restored_snapshot_takes_away_leaves_without_another_write() {
        let agent = Agent::start(Options::new(Role::Server)).await.unwrap();
        let consul = start(&agent).await;
        let snapshot = agent.call_bytes("GET", "/v1/snapshot", b"").await.unwrap();
        // On a node without an agent, so that nobody brings it back.
        put(&agent, "/v1/catalog/register", &json!({
            "Node": "legacy", "Address": "192.0.2.9",
            "Service": {"ID": "web", "Service": "web", "Port": 80},
            "Check": {"CheckID": "c", "Name": "C", "ServiceID": "web", "Status": "passing"},
        }))
        .await;
        let mut watch = consul.watch_service("web").await.unwrap();
        seen(&mut watch, "it", |view| view.is_live() && view.len() == 1).await;
        let before = index(&agent, "web").await;
        agent.call_bytes("PUT", "/v1/snapshot", &snapshot).await.unwrap();
        assert_eq!(index(&agent, "web").await, 0, "it was at {before}, and is still there");
        // The query under way waits for an index that nothing will reach.
        seen(&mut watch, "it is held", |view| !view.is_live() && view.len() == 1).await;
        seen(&mut watch, "it is gone", |view| view.is_live() && view.is_empty()).await;
    }

    async fn server_lost_with_the_client_agent_alive() {
        let mut server = Agent::start(Options::new(Role::Server)).await.unwrap();
        let client = Agent::start(Options::new(Role::Client(server.serf()))).await.unwrap();
        let consul = start(&client).await;
        let key = consul.register(web("a")).await.unwrap();
        let mut watch = consul.watch_service("web").await.unwrap();
        seen(&mut watch, "a", |view| view.is_live() && ids(view) == "a").await;
        let changes = record(&watch);

        server.kill();
        seen(&mut watch, "it is stale", |view| !view.is_live()).await;
        assert!(services(&client).await.len() == 1, "the client agent doesn't answer");
        until("the status says so", || !consul.status().connection().is_connected()).await;
        assert_eq!(ids(&watch.view()), "a");
        let late = consul.watch_service("unknown").await.unwrap();
        assert!(!late.view().is_live(), "an outage looks like an empty service");
        server.restart().await.unwrap();
        seen(&mut watch, "it is live", |view| view.is_live() && ids(view) == "a").await;
        is_registered(&consul, &key).await;
        expect(&changes, &["+a"]).await;
    }

    async fn token_revoked_and_restored() {
        let agent = Agent::start(Options::new(Role::Server).acl("deny")).await.unwrap();
        let token = Token::create(&agent).await;
        let mut config = quick(agent.http());
        config.token = Some(token.secret.as_str().into());
        let consul = ConsulDiscovery::start(config).await.unwrap();
        let key = consul.register(web("a")).await.unwrap();
        let mut watch = consul.watch_service("web").await.unwrap();
        seen(&mut watch, "a", |view| view.is_live() && ids(view) == "a").await;
        let denied = consul.register(Instance::new("other", "192.0.2.1:1").unwrap()).await;
        assert_eq!(denied.unwrap_err().kind(), ErrorKind::Denied);

        let changes = record(&watch);
        token.revoke(&agent).await;
        let mut refused = None;
        until("the registration is refused", || {
            if let Registration::Pending { last_error: Some(error), .. } = registration(&consul, &key) {
                refused = Some(error.kind());
            }
            refused == Some(ErrorKind::Denied)
        })
        .await;
        // The query under way waits for a change, so that there has to be one.
        let noise = json!({"Name": "web", "ID": "noise", "Port": 1});
        put(&agent, "/v1/agent/service/register", &noise).await;
        seen(&mut watch, "it is stale", |view| !view.is_live() && ids(view).contains('a')).await;
        token.restore(&agent).await;
        seen(&mut watch, "it is live again", |view| view.is_live() && view.len() == 2).await;
        is_registered(&consul, &key).await;
        expect(&changes, &["+a", &format!("+{}:noise", agent.node())]).await;
    }

    async fn token_in_a_file_is_read_again() {
        let agent = Agent::start(Options::new(Role::Server).acl("deny")).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let mut config = quick(agent.http());
        config.token_file = Some(file.clone());
        std::fs::write(&file, "11111111-1111-1111-1111-111111111111").unwrap();
        let consul = ConsulDiscovery::start(config).await.unwrap();
        let denied = consul.register(web("a")).await.unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::Denied);
        let watching = consul.watch_service("web").await.unwrap_err();
        assert_eq!(watching.kind(), ErrorKind::Denied);
        std::fs::write(&file, Token::create(&agent).await.secret + "\n").unwrap();
        eventually("it may register", async || consul.register(web("a")).await.is_ok()).await;
        assert_eq!(ids(&consul.resolve("web").await.unwrap()), "a");
    }

    async fn a_watch_that_waits_for_its_first_look_ends_with_its_handle() {
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let proxy = Proxy::start(agent.http()).await.unwrap();
        let mut config = quick(proxy.address());
        config.request_timeout = DEADLINE;
        let consul = ConsulDiscovery::start(config).await.unwrap();
        assert!(consul.status().connection().is_connected());
        proxy.black_hole();
        let (watch, closed) = tokio::join!(consul.watch_service("web"), consul.close());
        closed.unwrap();
        assert_eq!(watch.unwrap_err().kind(), ErrorKind::Closed);
    }

    async fn closing_twice_at_once_withdraws_everything() {
        const COUNT: usize = 20;
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let proxy = Proxy::start(agent.http()).await.unwrap();
        let consul = ConsulDiscovery::start(quick(proxy.address())).await.unwrap();
        for number in 0..COUNT {
            consul.register(web(&format!("web-{number}"))).await.unwrap();
        }
        assert_eq!(services(&agent).await.len(), COUNT);
        // So that withdrawing takes a while.
        proxy.delay(Duration::from_millis(100));
        let (first, second) = tokio::join!(consul.close(), consul.close());
        first.and(second).unwrap();
        assert!(services(&agent).await.is_empty());
    }

    async fn a_silent_agent_is_noticed_in_time_whatever_waits_for_it() {
        const COUNT: usize = 200;
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let proxy = Proxy::start(agent.http()).await.unwrap();
        let consul = ConsulDiscovery::start(quick(proxy.address())).await.unwrap();
        for number in 0..COUNT {
            consul.register(web(&format!("web-{number}"))).await.unwrap();
        }
        let mut watch = consul.watch_service("web").await.unwrap();
        seen(&mut watch, "all", |view| view.is_live() && view.len() == COUNT).await;
        proxy.black_hole();
        let silent = tokio::time::Instant::now();
        seen(&mut watch, "it is stale", |view| !view.is_live()).await;
        let (taken, bound) = (silent.elapsed(), consul.status().bounds().stale);
        assert!(taken < bound + Duration::from_secs(10), "{taken:?}, stated is {bound:?}");
        assert_eq!(watch.view().len(), COUNT);
    }

    async fn critical_for_long_is_removed_and_back() {
        const REAPED_WITHIN: Duration = Duration::from_secs(240);
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let proxy = Proxy::start(agent.http()).await.unwrap();
        let owner = start(&agent).await;
        let lost = ConsulDiscovery::start(quick(proxy.address())).await.unwrap();
        let said = owner.register(web("said")).await.unwrap();
        owner.health(&said, Health::critical("out of order")).await.unwrap();
        lost.register(web("lost")).await.unwrap();
        let mut watch = owner.watch_service("web").await.unwrap();
        seen(&mut watch, "both", |view| ids(view) == "lost said").await;
        let changes = record(&watch);

        proxy.black_hole();
        let reaped = eventually("consul has removed the lost one", async || {
            services(&agent).await.len() == 1
        });
        timeout(REAPED_WITHIN, reaped).await.unwrap();
        // As critical for as long, but its owner lives.
        assert!(services(&agent).await[0].starts_with("web:said:"));
        proxy.restore();
        let view = seen(&mut watch, "it is back", |view| ids(view) == "lost said").await;
        assert_eq!(view.get(&said).unwrap().health(), &Health::critical("out of order"));
        expect(&changes, &["+lost", "+said", "-lost", "+lost"]).await;
    }

    async fn scaled_to_zero_is_empty_and_live() {
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let (owner, other) = (start(&agent).await, start(&agent).await);
        let key = owner.register(web("a")).await.unwrap();
        let mut watch = other.watch_service("web").await.unwrap();
        let mut all = other.watch_all().await.unwrap();
        seen(&mut watch, "a", |view| ids(view) == "a").await;
        owner.deregister(&key).await.unwrap();
        assert!(services(&agent).await.is_empty());
        seen(&mut watch, "it is empty and live", |view| view.is_live() && view.is_empty()).await;
        seen(&mut all, "so are all", |view| view.is_live() && !ids(view).contains('a')).await;
        let never = other.resolve("never-registered").await.unwrap();
        assert!(never.is_live() && never.is_empty());
    }

    async fn two_owners_at_two_agents() {
        let server = Agent::start(Options::new(Role::Server)).await.unwrap();
        let client = Agent::start(Options::new(Role::Client(server.serf()))).await.unwrap();
        let (older, newer) = (start(&server).await, start(&client).await);
        let key = older.register(web("a")).await.unwrap();
        let mut watch = older.watch_service("web").await.unwrap();
        let changes = record(&watch);
        newer.register(web("a").with_metadata("n", "2").unwrap()).await.unwrap();
        seen(&mut watch, "the newer one", |view| {
            view.get(&key).is_some_and(|found| !found.metadata().is_empty())
        })
        .await;
        until("the older one has learnt it", || registration(&older, &key).is_superseded()).await;
        eventually("it has stopped", async || services(&server).await.is_empty()).await;
        is_registered(&newer, &key).await;
        older.close().await.unwrap();
        assert_eq!(services(&client).await.len(), 1);
        expect(&changes, &["+a", "~a"]).await;
    }

    async fn an_owner_whose_clock_is_ahead_gives_way_to_one_that_comes_later() {
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let (ahead, later) = (start(&agent).await, start(&agent).await);
        let ahead_of_all = Generation::new(u64::MAX / 2);
        let key = ahead.register(web("a").with_generation(ahead_of_all)).await.unwrap();
        later.register(web("a").with_metadata("n", "2").unwrap()).await.unwrap();
        until("the first one has learnt it", || registration(&ahead, &key).is_superseded()).await;
        eventually("it has stopped", async || services(&agent).await.len() == 1).await;
        is_registered(&later, &key).await;
        let view = ahead.resolve("web").await.unwrap();
        assert!(view.get(&key).is_some_and(|found| !found.metadata().is_empty()));
    }

    async fn a_restarted_owner_takes_the_place_of_its_former_self() {
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let other = start(&agent).await;
        let mut watch = other.watch_service("web").await.unwrap();
        let changes = record(&watch);
        let first = start(&agent).await;
        first.register(web("a")).await.unwrap();
        seen(&mut watch, "a", |view| ids(view) == "a").await;
        let former = services(&agent).await;
        drop(first);
        let second = start(&agent).await;
        second.register(web("a")).await.unwrap();
        eventually("others see one only", async || {
            let now = services(&agent).await;
            now.len() == 1 && now != former
        })
        .await;
        seen(&mut watch, "a", |view| ids(view) == "a").await;
        expect(&changes, &["+a", "~a"]).await;
    }

}

async fn killed_and_restarted(without_data: bool) {
    let mut agent = Agent::start(Options::new(Role::Server)).await.unwrap();
    let (owner, other) = (start(&agent).await, start(&agent).await);
    let (a, b) = (
        owner.register(web("a")).await.unwrap(),
        owner.register(web("b")).await.unwrap(),
    );
    // Its health is never reported again.
    owner.register(web("c")).await.unwrap();
    owner.health(&a, Health::warning("hot")).await.unwrap();
    let mut watch = other.watch_service("web").await.unwrap();
    let mut all = other.watch_all().await.unwrap();
    seen(&mut watch, "all", |view| ids(view) == "a b c").await;
    let changes = record(&watch);
    put(&agent, "/v1/kv/kept", &Value::Null).await;

    if without_data {
        agent.lose_data().unwrap();
    } else {
        agent.kill();
    }
    assert!(!agent.is_running());
    seen(&mut watch, "it is stale", |view| {
        !view.is_live() && ids(view) == "a b c"
    })
    .await;
    owner.health(&b, Health::draining()).await.unwrap();
    assert!(matches!(
        registration(&owner, &b),
        Registration::Pending { .. }
    ));
    agent.restart().await.unwrap();
    let data_is_there = agent.call("GET", "/v1/kv/kept", "").await.is_ok();
    assert_ne!(data_is_there, without_data);
    let view = seen(&mut watch, "all is as it should be", |view| {
        view.is_live()
            && view
                .get(&a)
                .is_some_and(|found| *found.health() == Health::warning("hot"))
            && view
                .get(&b)
                .is_some_and(|found| *found.health() == Health::draining())
    })
    .await;
    assert_eq!(view.len(), 3);
    seen(&mut all, "all are live", |view| {
        view.is_live() && view.len() == 4
    })
    .await;
    is_registered(&owner, &a).await;
    is_registered(&owner, &b).await;
    // New handles see what the servers have.
    let new = start(&agent).await;
    eventually("a new handle sees all", async || {
        let view = new.resolve("web").await.unwrap();
        view.is_live() && ids(&view) == "a b c"
    })
    .await;
    expect(&changes, &["+a", "+b", "+c", "~b"]).await;
    // And so do its DNS and other clients.
    eventually("c passes at the agent, too", async || {
        let text = agent.call("GET", "/v1/agent/checks", "").await.unwrap();
        let checks: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
        let of_c = checks.iter().filter(|(id, _)| id.starts_with("web:c:"));
        let passing: Vec<_> = of_c
            .map(|(_, check)| check["Status"] == "passing")
            .collect();
        passing == [true, true]
    })
    .await;
}

/// Waits until the agent has compared all it has with the servers, which it does once a minute: then
/// what it doesn't know of is taken from its node.
async fn compared(agent: &Agent) {
    let node = catalog(agent, "web").await[0]["Node"]["Node"].clone();
    put(
        agent,
        "/v1/catalog/register",
        &json!({
            "Node": node, "Address": "127.0.0.1", "SkipNodeUpdate": true,
            "Service": {"ID": "stray", "Service": "stray", "Port": 80},
        }),
    )
    .await;
    assert_eq!(catalog(agent, "stray").await.len(), 1);
    eventually("the agent has compared", async || {
        catalog(agent, "stray").await.is_empty()
    })
    .await;
}

/// The greatest index of the entries under a name.
async fn index(agent: &Agent, service: &str) -> u64 {
    greatest_index(&catalog(agent, service).await)
}

fn greatest_index(found: &[Value]) -> u64 {
    let indexes = found
        .iter()
        .map(|entry| entry["Service"]["ModifyIndex"].as_u64().unwrap());
    indexes.max().unwrap_or_default()
}

/// Looks at what the server has of `web` again and again, also while there is no leader.
struct Witness {
    /// The greatest index, and the number of entries.
    seen: Arc<Mutex<Vec<(u64, usize)>>>,
    looking: tokio::task::JoinHandle<()>,
}

impl Witness {
    fn start(agent: &Agent) -> Self {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let (noted, http) = (seen.clone(), agent.http());
        let looking = tokio::spawn(async move {
            loop {
                let path = "/v1/health/service/web?stale";
                if let Ok(body) = consul::call(http, "GET", path, b"").await {
                    let found: Vec<Value> = serde_json::from_slice(&body).unwrap();
                    let look = (greatest_index(&found), found.len());
                    noted.lock().unwrap().push(look);
                }
            }
        });
        Self { seen, looking }
    }

    fn saw(&self, condition: impl Fn(u64, usize) -> bool) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.iter().any(|(index, len)| condition(*index, *len))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// A token that may register and see `web`.
struct Token {
    secret: String,
}

impl Token {
    const ACCESSOR: &str = "7a1c2d3e-0000-4000-8000-000000000001";

    async fn create(agent: &Agent) -> Self {
        let rules = "service \"web\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" }";
        put(
            agent,
            "/v1/acl/policy",
            &json!({"Name": "web", "Rules": rules}),
        )
        .await;
        let token = Self {
            secret: "7a1c2d3e-0000-4000-8000-000000000002".to_owned(),
        };
        token.restore(agent).await;
        token
    }

    async fn restore(&self, agent: &Agent) {
        let token = json!({"AccessorID": Self::ACCESSOR, "SecretID": self.secret,
                           "Policies": [{"Name": "web"}]});
        put(agent, "/v1/acl/token", &token).await;
    }

    async fn revoke(&self, agent: &Agent) {
        let path = format!("/v1/acl/token/{}", Self::ACCESSOR);
        agent.call("DELETE", &path, "").await.unwrap();
    }
}
