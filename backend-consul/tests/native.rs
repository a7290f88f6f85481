//! What others see of us in Consul, and what we see of others.
#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails has to end its test, as an unwrap in the test does"
)]

mod support;

use serde_json::{Value, json};
use support::*;
use tidings_api::{Discovery, DiscoveryExt, Health, HealthState, View};
use tidings_consul::ConsulDiscovery;
use tidings_testkit::consul::{self, Agent, Options, Role};

tidings_testkit::server_tests! { consul:
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
        until("the one without a port is counted", || consul.stats().unreadable == 1).await;

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
}

tidings_testkit::server_tests! { consul_and_dig:
    async fn dig_shows_our_instance_and_hides_a_critical_or_draining_one() {
        let agent = Agent::start(Options::new(Role::Dev)).await.unwrap();
        let mut config = quick(agent.http());
        config.namespace = Some("prod".into());
        let consul = ConsulDiscovery::start(config).await.unwrap();
        let key = consul.register(web("a").with_weight(7).unwrap()).await.unwrap();
        let names = ["web.service.consul", "prod.web.service.consul"];
        let shown = async |count: usize| {
            for name in names {
                eventually("the dns shows so many", async || {
                    dig(&agent, name, "A").len() == count
                })
                .await;
            }
        };
        shown(1).await;
        assert_eq!(dig(&agent, names[0], "A"), ["192.0.2.1"]);
        let service = dig(&agent, names[0], "SRV");
        // Priority, weight, port, host.
        assert!(service.len() == 1 && service[0].starts_with("1 7 8080 "), "{service:?}");
        assert!(dig(&agent, "test.web.service.consul", "A").is_empty());
        for health in [Health::critical("down"), Health::draining()] {
            consul.health(&key, health).await.unwrap();
            shown(0).await;
            consul.health(&key, Health::warning("hot")).await.unwrap();
            shown(1).await;
        }
        consul.deregister(&key).await.unwrap();
        shown(0).await;
    }
}

/// What the agent's DNS says, as `dig` shows it.
fn dig(agent: &Agent, name: &str, kind: &str) -> Vec<String> {
    consul::dig(agent.dns(), name, kind).unwrap()
}
