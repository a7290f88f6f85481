//! What the node of an instance holds: the JSON of Apache Curator's service discovery.
//!
//! ```json
//! {"name": "web", "id": "web-1", "address": "10.0.0.7", "port": 8080, "sslPort": null,
//!  "payload": null, "registrationTimeUTC": 1767225600000, "serviceType": "DYNAMIC",
//!  "uriSpec": {…}, "enabled": true,
//!  "tidings": {"owner": "9f86d081884c7d65", "generation": 1767225600000000, "weight": 1,
//!              "health": {"state": "passing"}, "zone": "eu-1a", "metadata": {"version": "1.4.2"}}}
//! ```
//!
//! Curator reads the first ten members and skips the last one, whatever a client's payload class
//! is. A payload of ours would not be as harmless: Curator casts it to the class each client
//! declares, and one that doesn't fit makes that client's whole query fail. So what Curator has no
//! room for rides in `tidings`, and the metadata is repeated as payload only where
//! [`Payload`] says that the JVM's clients expect it.
//!
//! Nodes without `tidings` are those of other tools. Of their payload, the metadata of Spring
//! Cloud and the members of a plain map are shown as metadata.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidings_api::{
    Address, Entries, Error, Generation, Health, Instance, InstanceKey, MetadataKey, Result, Zone,
};

use crate::Payload;
use crate::owner::Owner;

/// The class that Spring Cloud ZooKeeper has as payload.
const SPRING_CLASS: &str = "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance";
/// Where Spring Cloud ZooKeeper says in the metadata whether an instance is in use.
const SPRING_STATUS: &str = "instance_status";
/// The named port that Curator has a member of its own for.
const SSL_PORT: &str = "ssl";

/// How contents are written.
#[derive(Clone, Debug)]
pub(crate) struct Encoder {
    pub(crate) owner: Owner,
    pub(crate) payload: Payload,
    /// Most bytes a node may have.
    pub(crate) bytes_max: usize,
}

/// What is read from a node.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) instance: Instance,
    /// The handle that wrote it; `None` for another tool.
    pub(crate) owner: Option<Owner>,
}

impl Encoder {
    /// The bytes of a node.
    ///
    /// # Errors
    /// [`InvalidInput`](tidings_api::ErrorKind::InvalidInput) where they are too many.
    pub(crate) fn encode(&self, instance: &Instance) -> Result<Vec<u8>> {
        let mut node = Node::of(instance, &self.owner, self.payload);
        let mut bytes = json(&node)?;
        if bytes.len() > self.bytes_max {
            // JSON writes a control character as six bytes; there is a form that writes any
            // metadata within the limits of the contract within those of the default.
            node.pack();
            bytes = json(&node)?;
        }
        if bytes.len() > self.bytes_max {
            return Err(Error::invalid_input(format!(
                "the content of {} is {} bytes as JSON: accepted are at most {} (content_max)",
                instance.key(),
                bytes.len(),
                self.bytes_max
            )));
        }
        Ok(bytes)
    }
}

impl Content {
    /// Reads the node of `key`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn decode(key: &InstanceKey, bytes: &[u8]) -> Result<Self> {
        let node: Node = serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?;
        if node.name != key.service().as_str() || node.id != key.id().as_str() {
            return Err(unreadable(&"it names another service or id than its path"));
        }
        node.into_content(key.clone())
    }
}

fn json(node: &Node) -> Result<Vec<u8>> {
    serde_json::to_vec(node)
        .map_err(|error| Error::new(tidings_api::ErrorKind::Internal, error.to_string()))
}

fn unreadable(why: &dyn std::fmt::Display) -> Error {
    Error::new(tidings_api::ErrorKind::Protocol, why.to_string())
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    name: String,
    id: String,
    address: String,
    port: Option<u16>,
    #[serde(default)]
    ssl_port: Option<u16>,
    #[serde(default)]
    payload: Value,
    #[serde(default, rename = "registrationTimeUTC")]
    registration_time_utc: i64,
    #[serde(default)]
    service_type: Value,
    #[serde(default)]
    uri_spec: Value,
    /// Whether Curator's providers may choose it.
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tidings: Option<Extension>,
}

/// What Curator has no room for.
#[derive(Debug, Serialize, Deserialize)]
struct Extension {
    owner: Owner,
    generation: Generation,
    weight: u16,
    health: Health,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Zone>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    ports: BTreeMap<String, u16>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    /// Metadata in place of `metadata`, see [`Node::pack`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packed: Option<String>,
}

fn yes() -> bool {
    true
}

impl Node {
    fn of(instance: &Instance, owner: &Owner, payload: Payload) -> Self {
        let generation = instance.generation();
        Self {
            name: instance.service().to_string(),
            id: instance.id().to_string(),
            address: instance.address().host().to_string(),
            port: Some(instance.address().port()),
            ssl_port: instance.ports().get(SSL_PORT).copied(),
            payload: payload_of(instance, payload),
            // Generations are of microseconds.
            registration_time_utc: i64::try_from(generation.number() / 1000).unwrap_or(i64::MAX),
            service_type: "DYNAMIC".into(),
            uri_spec: uri_spec(),
            enabled: instance.health().is_serving(),
            tidings: Some(Extension {
                owner: owner.clone(),
                generation,
                weight: instance.weight(),
                health: instance.health().clone(),
                zone: instance.zone().cloned(),
                ports: texts(instance.ports()),
                metadata: texts(instance.metadata()),
                packed: None,
            }),
        }
    }

    /// Takes the metadata out of the JSON and puts it in again as Base64 of its lengths and bytes,
    /// once.
    fn pack(&mut self) {
        let Some(tidings) = &mut self.tidings else {
            return;
        };
        let mut bytes = Vec::new();
        for text in tidings
            .metadata
            .iter()
            .flat_map(|(key, value)| [key, value])
        {
            let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
            bytes.extend(length.to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        tidings.metadata.clear();
        tidings.packed = Some(STANDARD_NO_PAD.encode(bytes));
        self.payload = Value::Null;
    }

    fn into_content(self, key: InstanceKey) -> Result<Content> {
        let port = self.port.filter(|port| *port != 0).or(self.ssl_port);
        let port = port.ok_or_else(|| unreadable(&"it has neither port nor sslPort"))?;
        let instance = Instance::at(key, Address::new(&self.address, port)?);
        let Some(tidings) = self.tidings else {
            return Ok(Content {
                instance: foreign(instance, &self)?,
                owner: None,
            });
        };
        let mut instance = instance
            .with_generation(tidings.generation)
            .with_health(tidings.health)
            .with_weight(tidings.weight)?;
        if let Some(zone) = tidings.zone {
            instance = instance.with_zone(zone)?;
        }
        for (name, port) in tidings.ports {
            instance = instance.with_port(name, port)?;
        }
        let metadata = match tidings.packed {
            Some(packed) => unpack(&packed)?,
            None => tidings.metadata,
        };
        for (key, value) in metadata {
            instance = instance.with_metadata(key, value)?;
        }
        Ok(Content {
            instance,
            owner: Some(tidings.owner),
        })
    }
}

/// What another tool says beyond key and address, as far as it is within the contract's limits.
fn foreign(mut instance: Instance, node: &Node) -> Result<Instance> {
    let registered = u64::try_from(node.registration_time_utc).unwrap_or(0);
    instance = instance.with_generation(Generation::new(registered.saturating_mul(1000)));
    if let Some(port) = node.ssl_port
        && port != 0
        && node.port.is_some()
    {
        instance = instance.with_port(SSL_PORT, port)?;
    }
    let mut in_use = node.enabled;
    for (key, value) in metadata_in(&node.payload) {
        in_use &= key != SPRING_STATUS || value == "UP";
        // What is beyond the limits is left out: the instance is of use without it.
        instance = match instance.clone().with_metadata(key, value) {
            Ok(with_it) => with_it,
            Err(_) => instance,
        };
    }
    if !in_use {
        instance = instance.with_health(Health::draining());
    }
    Ok(instance)
}

/// Spring's metadata, or the members of a map.
fn metadata_in(payload: &Value) -> Vec<(&str, String)> {
    let Value::Object(members) = payload else {
        return Vec::new();
    };
    let members = match members.get("metadata") {
        Some(Value::Object(metadata)) => metadata,
        _ => members,
    };
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let members = members.iter().filter(|(key, _)| *key != "@class");
    members
        .filter_map(|(key, value)| Some((key.as_str(), scalar(value)?)))
        .filter(|(key, _)| MetadataKey::new(key).is_ok())
        .collect()
}

fn payload_of(instance: &Instance, payload: Payload) -> Value {
    let metadata = || {
        let entries = instance.metadata().iter();
        entries
            .map(|(key, value)| (key.to_string(), Value::from(value.as_str())))
            .collect::<Map<_, _>>()
    };
    match payload {
        Payload::None => Value::Null,
        Payload::Map => Value::Object(metadata()),
        Payload::Spring => {
            let mut metadata = metadata();
            let status = if instance.health().is_serving() {
                "UP"
            } else {
                "OUT_OF_SERVICE"
            };
            metadata.insert(SPRING_STATUS.into(), status.into());
            let mut members = Map::new();
            members.insert("@class".into(), SPRING_CLASS.into());
            members.insert("id".into(), instance.id().as_str().into());
            members.insert("name".into(), instance.service().as_str().into());
            members.insert("metadata".into(), metadata.into());
            Value::Object(members)
        }
    }
}

/// `{scheme}://{address}:{port}`, as Curator's builder and Spring Cloud write it.
fn uri_spec() -> Value {
    let part = |value: &str, variable: bool| {
        let mut part = Map::new();
        part.insert("value".into(), value.into());
        part.insert("variable".into(), variable.into());
        Value::Object(part)
    };
    let parts = vec![
        part("scheme", true),
        part("://", false),
        part("address", true),
        part(":", false),
        part("port", true),
    ];
    let mut spec = Map::new();
    spec.insert("parts".into(), parts.into());
    Value::Object(spec)
}

fn unpack(packed: &str) -> Result<BTreeMap<String, String>> {
    let wrong = || unreadable(&"its packed metadata is damaged");
    let bytes = STANDARD_NO_PAD.decode(packed).map_err(|_| wrong())?;
    let (mut rest, mut texts) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<2>().ok_or_else(wrong)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (text, after) = after.split_at_checked(length).ok_or_else(wrong)?;
        texts.push(std::str::from_utf8(text).map_err(|_| wrong())?.to_owned());
        rest = after;
    }
    let mut metadata = BTreeMap::new();
    let mut texts = texts.into_iter();
    while let Some(key) = texts.next() {
        metadata.insert(key, texts.next().ok_or_else(wrong)?);
    }
    Ok(metadata)
}

fn texts<K: ToString, V: Clone>(map: &Entries<K, V>) -> BTreeMap<String, V> {
    let entries = map.iter();
    entries
        .map(|(key, value)| (key.to_string(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use tidings_api::{METADATA_ENTRIES_MAX, METADATA_VALUE_BYTES_MAX, NAME_BYTES_MAX, PORTS_MAX};

    use super::*;

    fn encoder(payload: Payload) -> Encoder {
        Encoder {
            owner: Owner::generate(),
            payload,
            bytes_max: crate::config::CONTENT_MAX_DEFAULT,
        }
    }

    fn instance() -> Instance {
        Instance::new("web", "[::1]:80")
            .and_then(|instance| instance.with_id("a"))
            .and_then(|instance| instance.with_metadata("version", "1.4 ✓"))
            .and_then(|instance| instance.with_port("ssl", 443))
            .and_then(|instance| instance.with_zone("eu-1a"))
            .unwrap()
            .with_generation(Generation::new(1_767_225_600_123_456))
    }

    fn read(bytes: &[u8]) -> Result<Content> {
        Content::decode(instance().key(), bytes)
    }

    fn read_json(json: &str) -> Result<Instance> {
        read(json.as_bytes()).map(|content| content.instance)
    }

    #[test]
    fn what_is_written_reads_the_same_whatever_the_payload() {
        for payload in [Payload::None, Payload::Map, Payload::Spring] {
            let encoder = encoder(payload);
            let bytes = encoder.encode(&instance()).unwrap();
            let content = read(&bytes).unwrap();
            assert_eq!(content.instance, instance());
            assert_eq!(content.owner, Some(encoder.owner));
        }
    }

    #[test]
    fn curator_finds_its_members() {
        let bytes = encoder(Payload::None).encode(&instance()).unwrap();
        let json: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["name"], "web");
        assert_eq!(json["address"], "::1");
        assert_eq!((&json["port"], &json["sslPort"]), (&80.into(), &443.into()));
        assert_eq!(json["registrationTimeUTC"], 1_767_225_600_123_u64);
        assert_eq!(json["payload"], Value::Null);
        assert_eq!(json["enabled"], true);
        let sick = instance().with_health(Health::critical("disk"));
        let bytes = encoder(Payload::None).encode(&sick).unwrap();
        let json: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["enabled"], false);
    }

    #[test]
    fn any_content_within_the_limits_is_within_the_default_size() {
        let long = |first: &str| format!("{first}{}", "x".repeat(NAME_BYTES_MAX - first.len()));
        let host = ["a", "b", "c"].map(|label| label.repeat(63)).join(".");
        let mut whole = Instance::new(long("s"), format!("{host}.{}:1", "d".repeat(61)))
            .and_then(|instance| instance.with_id(long("i")))
            .and_then(|instance| instance.with_zone(long("z")))
            .unwrap()
            .with_health(Health::warning("\u{1}".repeat(512)));
        for n in 0..PORTS_MAX {
            whole = whole.with_port(long(&format!("{n}-")), 65_535).unwrap();
        }
        for n in 0..METADATA_ENTRIES_MAX {
            let value = "\u{1}".repeat(METADATA_VALUE_BYTES_MAX);
            whole = whole.with_metadata(long(&format!("{n}-")), value).unwrap();
        }
        for payload in [Payload::None, Payload::Map, Payload::Spring] {
            let bytes = encoder(payload).encode(&whole).unwrap();
            assert!(bytes.len() <= 64 * 1024, "{}", bytes.len());
            let content = Content::decode(whole.key(), &bytes).unwrap();
            assert_eq!(content.instance, whole);
        }
    }

    #[test]
    fn what_is_too_large_is_refused_with_its_size() {
        let mut encoder = encoder(Payload::None);
        encoder.bytes_max = 100;
        let error = encoder.encode(&instance()).unwrap_err();
        assert_eq!(error.kind(), tidings_api::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("at most 100"), "{error}");
    }

    #[test]
    fn nodes_of_other_tools_are_read() {
        let curator = r#"{"name":"web","id":"a","address":"10.0.0.7","port":8080,"sslPort":null,
            "payload":null,"registrationTimeUTC":1700000000000,"serviceType":"DYNAMIC",
            "uriSpec":null}"#;
        let found = read_json(curator).unwrap();
        assert_eq!(found.address().to_string(), "10.0.0.7:8080");
        assert_eq!(found.generation().number(), 1_700_000_000_000_000);
        assert_eq!(found.health(), &Health::passing());

        let spring = r#"{"name":"web","id":"a","address":"host","port":8080,"sslPort":8443,
            "payload":{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
            "id":"application-1","name":"web","metadata":{"instance_status":"OUT_OF_SERVICE",
            "zone":"a","bad key":"x"}},"registrationTimeUTC":-1,"serviceType":"DYNAMIC"}"#;
        let found = read_json(spring).unwrap();
        assert_eq!(found.health(), &Health::draining());
        assert_eq!(found.metadata()["zone"], "a");
        assert_eq!(found.metadata().len(), 2);
        assert_eq!(found.port("ssl").unwrap().port(), 8443);

        let only_tls = r#"{"name":"web","id":"a","address":"h","port":null,"sslPort":443,
            "payload":{"a":1,"b":[2]},"enabled":false}"#;
        let found = read_json(only_tls).unwrap();
        assert_eq!(found.address().port(), 443);
        assert_eq!(found.metadata()["a"], "1");
        assert_eq!(found.health(), &Health::draining());
    }

    #[test]
    fn what_is_no_instance_is_refused() {
        for bytes in [
            "",
            "{}",
            "[]",
            "127.0.0.1",
            r#"{"name":"web","id":"b","address":"h","port":1}"#,
            r#"{"name":"web","id":"a","address":"h"}"#,
            r#"{"name":"web","id":"a","address":"","port":1}"#,
            r#"{"name":"web","id":"a","address":"h","port":70000}"#,
            r#"{"name":"web","id":"a","address":"h","port":1,"tidings":{}}"#,
        ] {
            assert!(read_json(bytes).is_err(), "{bytes}");
        }
        let deep = "[".repeat(64 * 1024);
        assert!(read_json(&deep).is_err());
    }

    #[test]
    fn members_of_later_versions_do_not_matter() {
        let bytes = encoder(Payload::None).encode(&instance()).unwrap();
        let mut json: Value = serde_json::from_slice(&bytes).unwrap();
        json["later"] = 1.into();
        json["tidings"]["later"] = Value::Array(vec![]);
        let content = read(&serde_json::to_vec(&json).unwrap()).unwrap();
        assert_eq!(content.instance, instance());
    }
}
