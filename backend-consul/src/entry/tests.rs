//! Instances there and back, and services of other tools.

use std::fmt::Write;

use serde_json::{Value, json};
use tidings_api::{METADATA_ENTRIES_MAX, METADATA_VALUE_BYTES_MAX, NAME_BYTES_MAX, PORTS_MAX};

use super::*;

fn config() -> ConsulConfig {
    ConsulConfig {
        namespace: Some("prod".into()),
        ..ConsulConfig::default()
    }
}

fn instance() -> Instance {
    let instance = Instance::new("web", "10.0.0.7:80").unwrap();
    instance
        .with_id("a")
        .unwrap()
        .with_generation(Generation::new(7))
}

/// What the catalog shows of a definition.
fn catalog(definition: &ServiceDefinition) -> Value {
    let checks: Vec<Value> = definition
        .checks
        .iter()
        .map(|check| {
            json!({"CheckID": check.id, "Name": check.name, "Status": check.status,
                   "Notes": check.notes, "Output": ""})
        })
        .collect();
    let mut service = serde_json::to_value(definition).unwrap();
    service["Service"] = service["Name"].take();
    json!({"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Service": service, "Checks": checks})
}

fn reading(found: &Value, namespace: Option<&str>) -> Reading {
    let raw = RawValue::from_string(found.to_string()).unwrap();
    read(&raw, &"web".parse().unwrap(), namespace)
}

fn offered(reading: Reading) -> Instance {
    match reading {
        Reading::Offered(entry) => (*entry.instance).clone(),
        other => panic!("{other:?}"),
    }
}

fn back(instance: &Instance) -> Instance {
    let found = catalog(&definition(instance, 3, &config()));
    offered(reading(&found, Some("prod")))
}

#[test]
fn an_instance_at_every_limit_comes_back_equal_and_within_consuls_limits() {
    let name = |first: String| format!("{first}{}", "x".repeat(NAME_BYTES_MAX - first.len()));
    let mut whole = instance()
        .with_weight(u16::MAX)
        .and_then(|i| i.with_zone("eu-1a"))
        .unwrap()
        .with_health(Health::draining().with_note("é".repeat(256)));
    for n in 0..METADATA_ENTRIES_MAX {
        let first = match n % 3 {
            0 => format!("{n}."),
            1 => format!("consul-{n}"),
            _ => format!("{n}_A-"),
        };
        whole = whole
            .with_metadata(name(first), "v".repeat(METADATA_VALUE_BYTES_MAX))
            .unwrap();
    }
    for port in 0..PORTS_MAX - 2 {
        whole = whole.with_port(name(format!("{port}.")), 9).unwrap();
    }
    whole = whole
        .with_port("wan", 1)
        .and_then(|i| i.with_port("lan_ipv4", 2))
        .unwrap();
    assert_eq!(back(&whole), whole);

    let definition = definition(&whole, 3, &config());
    let accepted = |key: &String| {
        let charset = key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        charset && key.len() <= 128 && !key.starts_with("consul-")
    };
    assert!(definition.meta.len() <= 64 && definition.meta.keys().all(accepted));
    assert!(!definition.tagged_addresses.contains_key("wan"));
}

#[test]
fn addresses_that_consul_refuses_come_back() {
    for address in ["0.0.0.0:1", "[::]:65535"] {
        let odd = instance().with_address(address).unwrap();
        let odd = odd.with_port("metrics", 9090).unwrap();
        assert_eq!(back(&odd), odd);
        assert_eq!(definition(&odd, 1, &config()).address, "");
    }
}

#[test]
fn every_health_comes_back_and_consul_sees_its_own() {
    for (health, status, output) in [
        (Health::passing(), CheckStatus::Passing, ""),
        (Health::warning("hot"), CheckStatus::Warning, "hot"),
        (Health::critical("down"), CheckStatus::Critical, "down"),
        (Health::draining(), CheckStatus::Critical, "draining"),
        (
            Health::draining().with_note("deploy"),
            CheckStatus::Critical,
            "draining: deploy",
        ),
    ] {
        let update = health_update(&health);
        assert_eq!((update.status, &*update.output), (status, output));
        assert_eq!(
            back(&instance().with_health(health.clone())).health(),
            &health
        );
    }
}

#[test]
fn an_owner_that_was_not_heard_is_lost_and_one_that_says_critical_is_not() {
    let definition = definition(
        &instance().with_health(Health::critical("down")),
        1,
        &config(),
    );
    let found = catalog(&definition);
    assert_eq!(found["Checks"][1]["Status"], "critical");
    assert!(matches!(reading(&found, Some("prod")), Reading::Offered(_)));
    let mut silent = found.clone();
    silent["Checks"][0]["Status"] = "critical".into();
    let mut node_lost = found;
    let serf = json!({"CheckID": "serfHealth", "Status": "critical"});
    node_lost["Checks"].as_array_mut().unwrap().push(serf);
    for lost in [silent, node_lost] {
        let Reading::Lost(key, generation) = reading(&lost, Some("prod")) else {
            panic!("not lost: {lost}");
        };
        assert_eq!(
            (key.to_string().as_str(), generation.number()),
            ("web/a", 7)
        );
    }
}

#[test]
fn maintenance_drains_and_other_checks_count_where_they_are_worse() {
    let found = catalog(&definition(&instance(), 1, &config()));
    let with = |check: Value| {
        let mut found = found.clone();
        found["Checks"].as_array_mut().unwrap().push(check);
        offered(reading(&found, Some("prod"))).health().clone()
    };
    let maintenance = json!({"CheckID": "_service_maintenance:web:a:7", "Status": "critical",
                             "Notes": "new disk"});
    assert_eq!(with(maintenance), Health::draining().with_note("new disk"));
    let disk = json!({"CheckID": "disk", "Name": "Disk", "Status": "warning", "Output": ""});
    assert_eq!(with(disk), Health::warning("Disk"));
    let odd = json!({"CheckID": "x", "Name": "X", "Status": "unknown", "Output": "?"});
    assert_eq!(with(odd), Health::critical("?"));
}

#[test]
fn namespaces_and_names_are_kept_apart() {
    let found = catalog(&definition(&instance(), 1, &config()));
    assert!(matches!(reading(&found, None), Reading::Elsewhere));
    assert!(matches!(reading(&found, Some("test")), Reading::Elsewhere));
    let mut folded = found;
    folded["Service"]["Service"] = "Web".into();
    assert!(matches!(reading(&folded, Some("prod")), Reading::Elsewhere));
}

#[test]
fn services_of_other_tools_are_instances() {
    let found = json!({
        "Node": {"Node": "n1", "Address": "10.0.0.1"},
        "Service": {"ID": "web", "Service": "web", "Address": "", "Port": 80, "Tags": ["v1", "prod"],
            "Meta": {"version": "1", "a b": "odd", "long": "x".repeat(513)},
            "Weights": {"Passing": 0, "Warning": 3}, "Locality": {"Zone": "eu-1a"},
            "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 80},
                                "metrics": {"Address": "10.0.0.1", "Port": 9090}}},
        "Checks": [{"CheckID": "service:web", "Name": "HTTP", "Status": "warning", "Output": "slow"}]
    });
    for namespace in [None, Some("prod")] {
        let read = offered(reading(&found, namespace));
        assert_eq!(read.key().to_string(), "web/n1:web");
        assert_eq!(read.address().to_string(), "10.0.0.1:80");
        assert_eq!((read.weight(), read.zone().unwrap().as_str()), (3, "eu-1a"));
        assert_eq!(read.health(), &Health::warning("slow"));
        assert_eq!(read.ports().len(), 1);
        let mut metadata = String::new();
        for (key, value) in read.metadata() {
            let _ = write!(metadata, "{key}={value};");
        }
        assert_eq!(metadata, "consul.tags=v1,prod;version=1;");
    }
    assert!(matches!(reading(&found, Some("test")), Reading::Elsewhere));
    let mut chosen = found.clone();
    chosen["Service"]["Meta"]["tidings-id"] = "web-1".into();
    assert_eq!(
        offered(reading(&chosen, None)).key().to_string(),
        "web/web-1"
    );
    let mut bare = found;
    bare["Service"]["Tags"] = Value::Null;
    bare["Service"]["Meta"] = Value::Null;
    bare["Checks"] = Value::Null;
    assert_eq!(offered(reading(&bare, None)).health(), &Health::passing());
}

#[test]
fn what_is_no_instance_is_unreadable_and_never_a_panic() {
    let good = catalog(&definition(&instance(), 1, &config()));
    let changed = |path: &[&str], value: Value| {
        let mut found = good.clone();
        let mut at = &mut found;
        for part in path {
            at = match part.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[*part],
            };
        }
        *at = value;
        found
    };
    for found in [
        json!(null),
        json!([]),
        changed(&["Service", "Port"], json!(0)),
        changed(&["Service", "Port"], json!(70_000)),
        changed(&["Service", "Address"], json!("not a host")),
        changed(&["Service", "Meta"], json!({"a b": "v"})),
        changed(&["Checks", "0", "Notes"], json!("")),
        changed(&["Checks", "0", "Notes"], json!("{\"tidings\":2}")),
        changed(&["Checks", "0", "Notes"], json!("[".repeat(100_000))),
    ] {
        let read = reading(&found, Some("prod"));
        assert!(matches!(read, Reading::Unreadable(_)), "{found}: {read:?}");
    }
}
