//! What real Consul agents do to a handle when they fail, and when others write into them.
//!
//! Each test asserts that its fault has happened before it looks at what became of it.
#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails has to end its test, as an unwrap in the test does"
)]

#[path = "support/dns.rs"]
mod dns;
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use support::quick;
use tidings_api::{
    Change, Discovery, DiscoveryExt, ErrorKind, Health, HealthState, Instance, InstanceKey,
    Registration, View, Watch,
};
use tidings_consul::ConsulDiscovery;
use tidings_testkit::consul::{Agent, Options, Role};
use tidings_testkit::proxy::Proxy;
use tokio::time::{sleep, timeout};

/// Longer than anything takes that is waited for here, unless it says otherwise.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

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
        let (owner, other) = (start(&agent).await, start(&agent).await);
        owner.register(web("a")).await.unwrap();
        let mut watch = other.watch_service("web").await.unwrap();
        seen(&mut watch, "a", |view| ids(view) == "a").await;
        let changes = record(&watch);

        agent.pause().unwrap();
        seen(&mut watch, "it is stale", |view| !view.is_live()).await;
        let silent = tokio::time::Instant::now();
        until("the TTL is over", || silent.elapsed() > quick(agent.http()).ttl * 2).await;
        assert_eq!(ids(&watch.view()), "a");
        agent.resume().unwrap();
        seen(&mut watch, "it is live again", View::is_live).await;
        owner.register(web("b")).await.unwrap();
        seen(&mut watch, "b", |view| view.is_live() && ids(view) == "a b").await;
        // The agent did take the owner for dead when it woke up, or at least might have.
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
        let (owner, other) = (start(&agent).await, start(&agent).await);
        owner.register(web("a")).await.unwrap();
        let snapshot = agent.call_bytes("GET", "/v1/snapshot", b"").await.unwrap();
        for number in 0..40 {
            owner.register(web("b").with_metadata("n", number.to_string()).unwrap()).await.unwrap();
        }
        let mut watch = other.watch_service("web").await.unwrap();
        seen(&mut watch, "b", |view| ids(view) == "a b").await;
        let changes = record(&watch);
        let before = index(&agent, "web").await;
        agent.call_bytes("PUT", "/v1/snapshot", &snapshot).await.unwrap();
        let after = index(&agent, "web").await;
        assert!(after < before, "the index went from {before} to {after}");
        assert_eq!(catalog(&agent, "web").await.len(), 1, "b is still there");

        // The catalog has lost b; its owner brings it back, and nobody sees it leave.
        eventually("b is back", async || catalog(&agent, "web").await.len() == 2).await;
        owner.register(web("c")).await.unwrap();
        seen(&mut watch, "c", |view| view.is_live() && ids(view) == "a b c").await;
        expect(&changes, &["+a", "+b", "+c"]).await;
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
        seen(&mut watch, "it is live again", |view| view.is_live() && ids(view).contains('a')).await;
        is_registered(&consul, &key).await;
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
        timeout(WITHIN, owner.close()).await.unwrap().unwrap();
        timeout(WITHIN, watch.wait_until(View::is_empty)).await.unwrap().unwrap();
    }

    async fn a_foreign_service_with_odd_meta() {
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let consul = start(&agent).await;
        let mut watch = consul.watch_service("web").await.unwrap();
        put(&agent, "/v1/agent/service/register", &json!({
            "Name": "web", "Port": 80, "Tags": ["v1", "blue"],
            "Meta": {"version": "1.0", "A_b-9": "é"},
            "Weights": {"Passing": 7, "Warning": 2},
            "TaggedAddresses": {"metrics": {"Address": "127.0.0.1", "Port": 9090}},
            "Checks": [{"CheckID": "c1", "Name": "One", "TTL": "1h", "Status": "passing"},
                       {"CheckID": "c2", "Name": "Two", "TTL": "1h", "Status": "warning"}],
        }))
        .await;
        // By the catalog, which checks little: an external service on a node without an agent.
        put(&agent, "/v1/catalog/register", &json!({
            "Node": "legacy box", "Address": "192.0.2.9",
            "Service": {"ID": "web/1 é", "Service": "web", "Port": 8080,
                        "Tags": ["x".repeat(600), "é"], "Meta": {"good": "yes"}},
        }))
        .await;
        put(&agent, "/v1/catalog/register", &json!({
            "Node": "legacy box", "Address": "192.0.2.9",
            "Service": {"ID": "portless", "Service": "web"},
        }))
        .await;
        let view = seen(&mut watch, "both", |view| view.len() == 2).await;
        let at_agent = view.iter().find(|found| found.address().port() == 80).unwrap();
        assert_eq!(at_agent.id().as_str(), format!("{}:web", agent.node()));
        assert_eq!(at_agent.address().to_string(), "127.0.0.1:80");
        assert_eq!(at_agent.health().state(), HealthState::Warning);
        assert_eq!((at_agent.weight(), at_agent.port("metrics").unwrap().port()), (2, 9090));
        let metadata: Vec<_> = at_agent.metadata().iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(metadata, ["A_b-9=é", "consul.tags=v1,blue", "version=1.0"]);
        let external = view.iter().find(|found| found.address().port() == 8080).unwrap();
        assert_eq!(external.address().to_string(), "192.0.2.9:8080");
        assert!(external.id().as_str().starts_with("legacy_box:web_1__:"), "{}", external.id());
        // Tags that are longer than metadata may be are left out.
        assert_eq!(external.metadata().len(), 1);
        assert_eq!(consul.stats().unreadable, 1);

        // An operator takes it out of use, and the node after that.
        put(&agent, "/v1/agent/service/maintenance/web?enable=true&reason=disk", &Value::Null).await;
        let drains = |view: &View| view.iter().any(|found| {
            found.address().port() == 80 && *found.health() == Health::draining().with_note("disk")
        });
        seen(&mut watch, "it drains", drains).await;
        put(&agent, "/v1/agent/service/maintenance/web?enable=false", &Value::Null).await;
        seen(&mut watch, "it is back", |view| view.healthy().count() == 2).await;
        put(&agent, "/v1/agent/maintenance?enable=true&reason=disk", &Value::Null).await;
        seen(&mut watch, "it drains with its node", drains).await;
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

    async fn dns_shows_our_instance_and_hides_a_critical_or_draining_one() {
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let mut config = quick(agent.http());
        config.namespace = Some("prod".into());
        let consul = ConsulDiscovery::start(config).await.unwrap();
        let key = consul.register(web("a").with_weight(7).unwrap()).await.unwrap();
        let names = ["web.service.consul", "prod.web.service.consul"];
        let shown = async |count: usize| {
            for name in names {
                eventually("the dns shows so many", async || {
                    dns::addresses(agent.dns(), name).await.len() == count
                })
                .await;
            }
        };
        shown(1).await;
        assert_eq!(dns::addresses(agent.dns(), names[0]).await[0].to_string(), "192.0.2.1");
        assert_eq!(dns::services(agent.dns(), names[0]).await, [(7, 8080)]);
        assert!(dns::addresses(agent.dns(), "test.web.service.consul").await.is_empty());
        for health in [Health::critical("down"), Health::draining()] {
            consul.health(&key, health).await.unwrap();
            shown(0).await;
            consul.health(&key, Health::warning("hot")).await.unwrap();
            shown(1).await;
        }
        consul.deregister(&key).await.unwrap();
        shown(0).await;
    }

    async fn native_fields_stand_where_consul_reads_them() {
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let mut config = quick(agent.http());
        config.namespace = Some("prod".into());
        config.tags = vec!["blue".into()];
        let consul = ConsulDiscovery::start(config).await.unwrap();
        let instance = web("a").with_metadata("version", "1").unwrap();
        let instance = instance.with_metadata("odd.key", "2").unwrap();
        let instance = instance.with_port("metrics", 9090).unwrap().with_weight(3).unwrap();
        let key = consul.register(instance).await.unwrap();
        consul.health(&key, Health::warning("hot")).await.unwrap();
        consul.health(&key, Health::warning("hotter")).await.unwrap();
        let found = &catalog(&agent, "web").await[0];
        let service = &found["Service"];
        assert_eq!((&service["Address"], &service["Port"]), (&json!("192.0.2.1"), &json!(8080)));
        assert_eq!(service["Tags"], json!(["prod", "blue"]));
        assert_eq!(service["Meta"], json!({"version": "1"}));
        assert_eq!(service["Weights"], json!({"Passing": 3, "Warning": 3}));
        assert_eq!(service["TaggedAddresses"]["metrics"]["Port"], 9090);
        let checks = found["Checks"].as_array().unwrap();
        let health = checks.iter().find(|check| check["Name"] == "Health").unwrap();
        assert_eq!((&health["Status"], &health["Output"]), (&json!("warning"), &json!("hotter")));
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

#[cfg(feature = "tls")]
tidings_testkit::server_tests! { consul:
    async fn tls_with_client_certificates() {
        let agent = Agent::start(Options::new(Role::Dev).tls()).await.unwrap();
        let certificates = agent.certificates().unwrap();
        let mut config = quick(agent.https());
        config.ca_file = Some(certificates.ca());
        let without = ConsulDiscovery::start(config.clone()).await.unwrap();
        assert!(!without.status().connection().is_connected(), "no client certificate was asked for");
        let (certificate, key) = certificates.client();
        (config.cert_file, config.key_file) = (Some(certificate), Some(key));
        let consul = ConsulDiscovery::start(config).await.unwrap();
        consul.register(web("a")).await.unwrap();
        assert_eq!(ids(&consul.resolve("web").await.unwrap()), "a");
        let mut plain = quick(agent.https());
        plain.tls_server_name = Some("elsewhere.internal".into());
        plain.ca_file = Some(agent.certificates().unwrap().ca());
        let other = ConsulDiscovery::start(plain).await.unwrap();
        assert!(!other.status().connection().is_connected(), "any server is trusted");
    }
}

async fn killed_and_restarted(without_data: bool) {
    let mut agent = Agent::start(Options::new(Role::Server)).await.unwrap();
    let (owner, other) = (start(&agent).await, start(&agent).await);
    let (a, b) = (
        owner.register(web("a")).await.unwrap(),
        owner.register(web("b")).await.unwrap(),
    );
    owner.health(&a, Health::warning("hot")).await.unwrap();
    let mut watch = other.watch_service("web").await.unwrap();
    let mut all = other.watch_all().await.unwrap();
    seen(&mut watch, "both", |view| ids(view) == "a b").await;
    let changes = record(&watch);

    if without_data {
        agent.lose_data().unwrap();
    } else {
        agent.kill();
    }
    assert!(!agent.is_running());
    seen(&mut watch, "it is stale", |view| {
        !view.is_live() && ids(view) == "a b"
    })
    .await;
    owner.health(&b, Health::draining()).await.unwrap();
    assert!(matches!(
        registration(&owner, &b),
        Registration::Pending { .. }
    ));
    agent.restart().await.unwrap();
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
    assert_eq!(view.len(), 2);
    seen(&mut all, "all are live", |view| {
        view.is_live() && view.len() == 3
    })
    .await;
    is_registered(&owner, &a).await;
    is_registered(&owner, &b).await;
    // New handles see what the servers have.
    let new = start(&agent).await;
    eventually("a new handle sees both", async || {
        let view = new.resolve("web").await.unwrap();
        view.is_live() && ids(&view) == "a b"
    })
    .await;
    expect(&changes, &["+a", "+b", "~b"]).await;
}

async fn start(agent: &Agent) -> ConsulDiscovery {
    ConsulDiscovery::start(quick(agent.http())).await.unwrap()
}

fn web(id: &str) -> Instance {
    let instance = Instance::new("web", "192.0.2.1:8080").unwrap();
    instance.with_id(id).unwrap()
}

/// The ids of a view, in order.
fn ids(view: &View) -> String {
    let ids: Vec<_> = view.iter().map(|found| found.id().as_str()).collect();
    ids.join(" ")
}

/// Waits until a view meets a condition.
async fn seen(
    watch: &mut Watch,
    what: &str,
    condition: impl Fn(&View) -> bool + Send + Sync,
) -> View {
    match timeout(DEADLINE, watch.wait_until(&condition)).await {
        Ok(view) => view.unwrap(),
        Err(_) => panic!("not seen: {what}; the view is {:?}", watch.view()),
    }
}

/// Every change of a watch from now on, what is there already first: `+a`, `~a`, `-a`.
fn record(watch: &Watch) -> Arc<Mutex<Vec<String>>> {
    let recorded = Arc::<Mutex<Vec<String>>>::default();
    let (recorder, mut changes) = (recorded.clone(), watch.clone().into_changes());
    tokio::spawn(async move {
        while let Some(change) = changes.next().await {
            let sign = match change {
                Change::Added(_) => '+',
                Change::Removed(_) => '-',
                _ => '~',
            };
            recorder
                .lock()
                .unwrap()
                .push(format!("{sign}{}", change.key().id()));
        }
    });
    recorded
}

/// Checks what was recorded, once it is as long as it should be.
async fn expect(recorded: &Mutex<Vec<String>>, changes: &[&str]) {
    until("as many changes", || {
        recorded.lock().unwrap().len() >= changes.len()
    })
    .await;
    assert_eq!(*recorded.lock().unwrap(), changes);
}

/// Waits for a condition that nothing announces.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, async || condition()).await;
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    // Consul itself clears services only after minutes, for which the caller has its own limit.
    let limit = DEADLINE * 5;
    let met = async {
        while !condition().await {
            sleep(POLL_INTERVAL).await;
        }
    };
    assert!(timeout(limit, met).await.is_ok(), "never: {what}");
}

fn registration(consul: &ConsulDiscovery, key: &InstanceKey) -> Registration {
    consul
        .status()
        .registration(key)
        .cloned()
        .expect("it is registered, or on its way")
}

async fn is_registered(consul: &ConsulDiscovery, key: &InstanceKey) {
    until("the status says registered", || {
        registration(consul, key).is_registered()
    })
    .await;
}

/// The ids of the services at an agent.
async fn services(agent: &Agent) -> Vec<String> {
    let text = agent.call("GET", "/v1/agent/services", "").await.unwrap();
    let services: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    services.keys().cloned().collect()
}

/// What the catalog has under a name.
async fn catalog(agent: &Agent, service: &str) -> Vec<Value> {
    let text = agent
        .call("GET", &format!("/v1/health/service/{service}"), "")
        .await
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The greatest index of the entries under a name.
async fn index(agent: &Agent, service: &str) -> u64 {
    let found = catalog(agent, service).await;
    let indexes = found
        .iter()
        .map(|entry| entry["Service"]["ModifyIndex"].as_u64().unwrap());
    indexes.max().unwrap()
}

async fn put(agent: &Agent, path: &str, body: &Value) {
    agent.call("PUT", path, &body.to_string()).await.unwrap();
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
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
