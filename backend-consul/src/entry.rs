//! An instance as a Consul service, and back.
//!
//! What Consul has a place for stands there, for its DNS, its UI and other clients: name, address,
//! port, metadata (`Meta`), weight (`Weights`), named ports (`TaggedAddresses`), health (a check).
//! The rest is a [record](Record) in the notes of the check that says that the owner lives: what
//! Consul can't tell (draining), has no place for (zone) or does not accept (metadata keys with a
//! dot; a service's `Meta` may be filled by metadata alone).
//!
//! Two checks, because they end differently. *Alive* turns critical when its owner hasn't been heard
//! for the TTL, and Consul deregisters the service some time later. *Health* says what the owner
//! said, and never expires: an instance may be critical for days without being deregistered. So a
//! crash is told from an owner's `Critical` by the check that says it, not by a text.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidings_api::{
    Address, Entries, Generation, Health, HealthState, Host, Instance, InstanceId, InstanceKey,
    MetadataKey, PortName, Result, ServiceName, Zone,
};

use crate::ConsulConfig;
use crate::api::{
    Check, CheckStatus, CheckUpdate, Found, ServiceCheck, ServiceDefinition, TaggedAddress, Weights,
};
use crate::keys;

mod foreign;

/// The version of [`Record`] that is written, and read.
const RECORD_VERSION: u32 = 1;
/// A TTL that doesn't run out: ten years.
const HEALTH_CHECK_TTL: &str = "87600h";
/// Ids of the checks that maintenance mode adds to a node or a service.
const MAINTENANCE: [&str; 2] = ["_node_maintenance", "_service_maintenance:"];
/// The check that the servers make of every node.
const NODE_ALIVE: &str = "serfHealth";
/// Tagged addresses that have a meaning to Consul.
const TAGGED_ADDRESSES_RESERVED: [&str; 7] = [
    "lan", "lan_ipv4", "lan_ipv6", "virtual", "wan", "wan_ipv4", "wan_ipv6",
];
/// How the names of tagged addresses and metadata start that Consul keeps for itself.
const RESERVED_PREFIX: &str = "consul-";

/// An instance of the catalog, with its place in its owner's history.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) instance: Arc<Instance>,
    /// Counts what the owner wrote under one generation; 0 for other tools.
    pub(crate) revision: u64,
    /// Consul's index of its creation: tells which of two owners came first, whatever their clocks.
    pub(crate) created: u64,
}

impl Entry {
    /// What is newer is greater.
    pub(crate) fn age(&self) -> (Generation, u64) {
        (self.instance.generation(), self.revision)
    }

    /// Whether it is what one owner offers under a key.
    pub(crate) fn is(&self, key: &InstanceKey, generation: Generation) -> bool {
        self.instance.key() == key && self.instance.generation() == generation
    }
}

/// What a service of the catalog is to a handle.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Of another namespace, or another service whose name differs in case.
    Elsewhere,
    /// An instance.
    Offered(Entry),
    /// An instance whose owner hasn't been heard in time.
    Lost(InstanceKey, Generation),
    /// Nothing that is an instance; says which service.
    Unreadable(String),
}

/// What stands in the notes of the check that says that the owner lives.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    tidings: u32,
    revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    health: Health,
    /// An address that Consul doesn't accept: `0.0.0.0` and `::`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Zone>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    ports: BTreeMap<PortName, u16>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<MetadataKey, String>,
}

/// The service that offers an instance.
pub(crate) fn definition(
    instance: &Instance,
    revision: u64,
    config: &ConsulConfig,
) -> ServiceDefinition {
    let id = keys::service_id(instance.key(), instance.generation());
    let (meta, metadata) = split(instance.metadata(), |key| consul_accepts(key.as_str()));
    let unspecified = match instance.address().host() {
        Host::Ip(ip) if ip.is_unspecified() => Some(*ip),
        Host::Ip(_) | Host::Name(_) => None,
    };
    let host = match unspecified {
        // Others are shown the address of the node.
        Some(_) => String::new(),
        None => instance.address().host().to_string(),
    };
    let (tagged, ports) = split(instance.ports(), |name| {
        unspecified.is_none() && !is_reserved(name.as_str())
    });
    let tagged_addresses = tagged.into_iter().map(|(name, port)| {
        let address = host.clone();
        let port = i64::from(port);
        (name, TaggedAddress { address, port })
    });
    let record = Record {
        tidings: RECORD_VERSION,
        revision,
        namespace: config.namespace.clone(),
        health: instance.health().clone(),
        host: unspecified,
        zone: instance.zone().cloned(),
        ports,
        metadata,
    };
    let weight = i64::from(instance.weight());
    ServiceDefinition {
        name: instance.service().to_string(),
        port: instance.address().port(),
        tags: config
            .namespace
            .iter()
            .chain(&config.tags)
            .cloned()
            .collect(),
        meta,
        tagged_addresses: tagged_addresses.collect(),
        weights: Weights {
            passing: weight,
            warning: weight,
        },
        checks: vec![
            ServiceCheck {
                id: keys::alive_check(&id),
                name: "Owner alive",
                notes: serde_json::to_string(&record).unwrap_or_default(),
                ttl: format!("{}ms", config.ttl.as_millis()),
                status: CheckStatus::Passing,
                deregister_after: Some(format!("{}s", config.deregister_after.as_secs())),
            },
            ServiceCheck {
                id: keys::health_check(&id),
                name: "Health",
                notes: "As the owner says.".to_owned(),
                ttl: HEALTH_CHECK_TTL.to_owned(),
                status: status(instance.health().state()),
                deregister_after: None,
            },
        ],
        address: host,
        id,
    }
}

/// Health as Consul's other users see it: what drains is critical, so that they stop routing to it.
pub(crate) fn health_update(health: &Health) -> CheckUpdate<'_> {
    let output = match (health.state(), health.note()) {
        (HealthState::Draining, Some(note)) => Cow::Owned(format!("draining: {note}")),
        (HealthState::Draining, None) => Cow::Borrowed("draining"),
        (_, note) => Cow::Borrowed(note.unwrap_or_default()),
    };
    CheckUpdate {
        status: status(health.state()),
        output,
    }
}

/// The owner lives.
pub(crate) fn alive_update() -> CheckUpdate<'static> {
    CheckUpdate {
        status: CheckStatus::Passing,
        output: Cow::Borrowed(""),
    }
}

/// Reads an entry of the catalog under the name of `service`, as a handle of `namespace` sees it.
pub(crate) fn read(entry: &RawValue, service: &ServiceName, namespace: Option<&str>) -> Reading {
    let Ok(found) = serde_json::from_str::<Found>(entry.get()) else {
        return Reading::Unreadable(format!("of {service}"));
    };
    if found.service.service != service.as_str() {
        return Reading::Elsewhere;
    }
    let alive = keys::alive_check(&found.service.id);
    let Some(alive) = found.checks.iter().find(|check| check.id == alive) else {
        return foreign::read(&found, service, namespace);
    };
    let name = || format!("{} on {}", found.service.id, found.node.node);
    let Some((id, generation)) = keys::parse_service_id(service, &found.service.id) else {
        return foreign::read(&found, service, namespace);
    };
    let Ok(record) = serde_json::from_str::<Record>(&alive.notes) else {
        return Reading::Unreadable(name());
    };
    if record.tidings != RECORD_VERSION {
        return Reading::Unreadable(name());
    }
    if record.namespace.as_deref() != namespace {
        return Reading::Elsewhere;
    }
    let key = InstanceKey::new(service.clone(), id);
    let node_lost = |check: &Check| check.id == NODE_ALIVE && check.status == CheckStatus::Critical;
    if alive.status == CheckStatus::Critical || found.checks.iter().any(node_lost) {
        return Reading::Lost(key, generation);
    }
    let revision = record.revision;
    match own(&found, key, generation, record) {
        Ok(instance) => Reading::Offered(Entry {
            instance: Arc::new(instance),
            revision,
            created: found.service.created,
        }),
        Err(_) => Reading::Unreadable(name()),
    }
}

fn own(
    found: &Found,
    key: InstanceKey,
    generation: Generation,
    record: Record,
) -> Result<Instance> {
    let service = &found.service;
    let port = u16::try_from(service.port).unwrap_or_default();
    let own_checks = [
        keys::alive_check(&service.id),
        keys::health_check(&service.id),
    ];
    let others = found
        .checks
        .iter()
        .filter(|check| !own_checks.contains(&check.id));
    let health = aggregated(record.health, others);
    let address = match record.host {
        Some(ip) => Address::new(ip.to_string(), port)?,
        None => Address::new(host(found), port)?,
    };
    let mut instance = Instance::at(key, address)
        .with_generation(generation)
        .with_health(health)
        .with_weight(weight(found, HealthState::Passing))?;
    if let Some(zone) = record.zone {
        instance = instance.with_zone(zone)?;
    }
    for (name, port) in named_ports(found) {
        instance = instance.with_port(name, port)?;
    }
    for (name, port) in record.ports {
        instance = instance.with_port(name, port)?;
    }
    for (key, value) in &service.meta {
        instance = instance.with_metadata(key, value)?;
    }
    for (key, value) in record.metadata {
        instance = instance.with_metadata(key, value)?;
    }
    Ok(instance)
}

/// What the owner said, or what a check of somebody else says if that is worse.
fn aggregated<'a>(said: Health, others: impl Iterator<Item = &'a Check>) -> Health {
    let badness = |health: &Health| match health.state() {
        HealthState::Passing => 0,
        HealthState::Warning => 1,
        HealthState::Draining => 2,
        HealthState::Critical => 3,
    };
    others.map(of_check).fold(said, |worst, health| {
        if badness(&health) > badness(&worst) {
            health
        } else {
            worst
        }
    })
}

fn of_check(check: &Check) -> Health {
    let maintenance = MAINTENANCE.iter().any(|id| check.id.starts_with(id));
    match check.status {
        CheckStatus::Passing => Health::passing(),
        CheckStatus::Warning => Health::warning(note(check)),
        CheckStatus::Critical if maintenance => Health::draining().with_note(&check.notes),
        CheckStatus::Critical => Health::critical(note(check)),
    }
}

fn note(check: &Check) -> &str {
    let output = check.output.trim();
    if output.is_empty() {
        &check.name
    } else {
        output
    }
}

/// Where the service listens: at its own address or, where it has none, at its node's.
fn host(found: &Found) -> &str {
    if found.service.address.is_empty() {
        &found.node.address
    } else {
        &found.service.address
    }
}

fn weight(found: &Found, state: HealthState) -> u16 {
    let weight = found.service.weights.map_or(1, |weights| match state {
        HealthState::Passing => weights.passing,
        HealthState::Warning | HealthState::Critical | HealthState::Draining => weights.warning,
    });
    u16::try_from(weight.clamp(1, i64::from(u16::MAX))).unwrap_or(1)
}

fn named_ports(found: &Found) -> impl Iterator<Item = (&str, u16)> {
    let tagged = found.service.tagged_addresses.iter();
    tagged
        .filter(|(name, _)| !is_reserved(name))
        .filter_map(|(name, tagged)| Some((name.as_str(), u16::try_from(tagged.port).ok()?)))
}

fn status(state: HealthState) -> CheckStatus {
    match state {
        HealthState::Passing => CheckStatus::Passing,
        HealthState::Warning => CheckStatus::Warning,
        HealthState::Critical | HealthState::Draining => CheckStatus::Critical,
    }
}

/// Whether Consul accepts a metadata key within our own limits.
fn consul_accepts(key: &str) -> bool {
    !key.contains('.') && !key.starts_with(RESERVED_PREFIX)
}

fn is_reserved(tagged_address: &str) -> bool {
    tagged_address.starts_with(RESERVED_PREFIX)
        || TAGGED_ADDRESSES_RESERVED.contains(&tagged_address)
}

/// Parts a map into what is native, with the keys as text, and the rest.
fn split<K: Ord + Clone + AsRef<str>, V: Clone>(
    map: &Entries<K, V>,
    native: impl Fn(&K) -> bool,
) -> (BTreeMap<String, V>, BTreeMap<K, V>) {
    let (mut natives, mut rest) = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in map {
        if native(key) {
            natives.insert(key.as_ref().to_owned(), value.clone());
        } else {
            rest.insert(key.clone(), value.clone());
        }
    }
    (natives, rest)
}

/// An id that another tool chose for the views, instead of the one made of node and service id.
fn chosen_id(meta: &BTreeMap<String, String>) -> Option<InstanceId> {
    InstanceId::new(meta.get(foreign::META_ID)?).ok()
}

#[cfg(test)]
mod tests;
