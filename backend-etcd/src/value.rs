//! What stands in etcd for one instance.
//!
//! JSON that Go's `go.etcd.io/etcd/client/v3/naming` reads and writes, with `Op`, `Addr` and
//! `Metadata`, and one more field, `Tidings`, for what that has no room for:
//!
//! ```json
//! {"Op": 0, "Addr": "10.0.0.7:8080", "Metadata": {"version": "1.4.2"},
//!  "Tidings": {"service": "web", "id": "web-1", "ports": {"metrics": 9090}, "weight": 1,
//!              "zone": "eu-1a", "health": {"state": "passing"}, "generation": 1764000000000000,
//!              "owner": "9f86d081884c7d65"}}
//! ```
//!
//! Fields that this version doesn't know survive: when an instance takes over a key, they are
//! written again.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidings_api::{Address, Health, Instance, InstanceKey};

/// A stored value, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) instance: Instance,
    /// The handle that wrote it; `None` for what others wrote.
    pub(crate) owner: Option<String>,
    /// Its owner has deregistered it: it is deleted in a moment, and counts as gone.
    pub(crate) left: bool,
    /// What this version doesn't know.
    pub(crate) unknown: Unknown,
}

/// Fields of a value that this version doesn't know.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Unknown {
    beside: Map<String, Value>,
    within: Map<String, Value>,
}

impl Stored {
    /// Reads the value of the instance at `key`; says why where it can't.
    pub(crate) fn read(key: &InstanceKey, value: &[u8]) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(value).map_err(|e| e.to_string())?;
        let Written {
            op: _,
            addr,
            metadata,
            tidings,
            beside,
        } = written;
        let address: Address = addr
            .parse()
            .map_err(|e: tidings_api::Error| e.to_string())?;
        let Some(own) = tidings else {
            let instance = with_foreign_metadata(Instance::at(key.clone(), address), &metadata);
            return Ok(Self {
                instance,
                owner: None,
                left: false,
                unknown: Unknown {
                    beside,
                    within: Map::new(),
                },
            });
        };
        let Own {
            owner,
            left,
            health,
            mut rest,
        } = own;
        rest.insert("address".into(), addr.into());
        if !metadata.is_null() {
            rest.insert("metadata".into(), metadata);
        }
        let instance = Instance::deserialize(Value::Object(rest.clone()))
            .map_err(|e| e.to_string())?
            .with_health(read_health(&health));
        if instance.key() != key {
            return Err(format!("it is the value of {}", instance.key()));
        }
        let known = |field: &String| KNOWN_WITHIN.contains(&field.as_str());
        rest.retain(|field, _| !known(field));
        Ok(Self {
            instance,
            owner,
            left,
            unknown: Unknown {
                beside,
                within: rest,
            },
        })
    }

    /// The value to write.
    pub(crate) fn write(&self) -> Vec<u8> {
        // An instance is a map of texts and numbers, which has a JSON form whatever it holds.
        let Ok(Value::Object(mut own)) = serde_json::to_value(&self.instance) else {
            return Vec::new();
        };
        own.remove("address");
        let metadata = own.remove("metadata").unwrap_or(Value::Null);
        let health = own.remove("health").unwrap_or_default();
        own.extend(self.unknown.within.clone());
        let written = Written {
            op: 0,
            addr: self.instance.address().to_string(),
            metadata,
            tidings: Some(Own {
                owner: self.owner.clone(),
                left: self.left,
                health,
                rest: own,
            }),
            beside: self.unknown.beside.clone(),
        };
        serde_json::to_vec(&written).unwrap_or_default()
    }
}

/// Fields of `Tidings` that are an [`Instance`]'s, or were put there to read one.
const KNOWN_WITHIN: &[&str] = &[
    "service",
    "id",
    "address",
    "ports",
    "metadata",
    "weight",
    "zone",
    "generation",
];

#[derive(Serialize, Deserialize)]
struct Written {
    /// Go's naming writes 0, "add", and never anything else.
    #[serde(rename = "Op", default)]
    op: u64,
    #[serde(rename = "Addr")]
    addr: String,
    #[serde(rename = "Metadata", default)]
    metadata: Value,
    #[serde(rename = "Tidings", default)]
    tidings: Option<Own>,
    #[serde(flatten)]
    beside: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Own {
    #[serde(default)]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    left: bool,
    #[serde(default)]
    health: Value,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A state that a newer version knows and this one doesn't is none to send work to.
fn read_health(value: &Value) -> Health {
    if value.is_null() {
        return Health::passing();
    }
    Health::deserialize(value)
        .unwrap_or_else(|_| Health::critical(format!("a health that can't be read: {value}")))
}

/// What of foreign metadata fits the limits: an instance that lacks an entry is of more use than
/// one that isn't there.
fn with_foreign_metadata(mut instance: Instance, metadata: &Value) -> Instance {
    let entries: Vec<(&str, &Value)> = match metadata {
        Value::Null => Vec::new(),
        Value::Object(entries) => entries.iter().map(|(k, v)| (k.as_str(), v)).collect(),
        other => vec![("metadata", other)],
    };
    for (key, value) in entries {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if let Ok(more) = instance.clone().with_metadata(key, text) {
            instance = more;
        }
    }
    instance
}

#[cfg(test)]
mod tests {
    use tidings_api::Generation;

    use super::*;

    fn key() -> InstanceKey {
        "web/a".parse().unwrap()
    }

    fn read(text: &str) -> Stored {
        Stored::read(&key(), text.as_bytes()).expect(text)
    }

    fn stored(instance: Instance) -> Stored {
        Stored {
            instance,
            owner: Some("me".into()),
            left: false,
            unknown: Unknown::default(),
        }
    }

    #[test]
    fn an_instance_comes_back_equal_and_go_finds_its_fields() {
        let whole = Instance::new("web", "[::1]:80")
            .and_then(|i| i.with_id("a"))
            .and_then(|i| i.with_port("metrics", 9090))
            .and_then(|i| i.with_metadata("k", "v ✓\0\""))
            .and_then(|i| i.with_zone("eu-1a"))
            .and_then(|i| i.with_weight(7))
            .unwrap()
            .with_health(Health::warning("hot"))
            .with_generation(Generation::new(u64::MAX));
        let value = stored(whole.clone()).write();
        let back = Stored::read(&key(), &value).unwrap();
        assert_eq!(back.instance, whole);
        assert_eq!(back.owner.as_deref(), Some("me"));
        assert_eq!(back.unknown, Unknown::default());
        let go: Value = serde_json::from_slice(&value).unwrap();
        assert_eq!(go["Addr"], "[::1]:80");
        assert_eq!(go["Op"], 0);
        assert_eq!(go["Metadata"]["k"], "v ✓\0\"");
    }

    #[test]
    fn what_go_writes_is_an_instance() {
        let plain = read(r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}"#);
        assert_eq!(plain.instance.address().to_string(), "10.0.0.1:80");
        assert_eq!(plain.owner, None);
        let rich =
            read(r#"{"Op":0,"Addr":"a:1","Metadata":{"v":"1","n":2,"no key":3,"o":{"p":[]}}}"#);
        let metadata: Vec<_> = rich.instance.metadata().iter().collect();
        let text = format!("{metadata:?}");
        assert_eq!(text, r#"[("n", "2"), ("o", "{\"p\":[]}"), ("v", "1")]"#);
        let odd = read(r#"{"Addr":"a:1","Metadata":"blue"}"#);
        assert_eq!(odd.instance.metadata().values().next().unwrap(), "blue");
    }

    #[test]
    fn fields_of_a_newer_version_survive() {
        let text = r#"{"Op":0,"Addr":"a:1","Metadata":null,"New":[1],"Tidings":{"service":"web",
            "id":"a","weight":2,"generation":3,"shard":{"of":8},
            "health":{"state":"starting"}}}"#;
        let newer = read(text);
        assert_eq!(newer.instance.weight(), 2);
        assert!(!newer.instance.health().is_serving());
        let again = Stored {
            unknown: newer.unknown,
            ..stored(newer.instance)
        };
        let value: Value = serde_json::from_slice(&again.write()).unwrap();
        assert_eq!(value["New"][0], 1);
        assert_eq!(value["Tidings"]["shard"]["of"], 8);
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [
            "",
            "{",
            "[]",
            "\u{ff}",
            "{}",
            r#"{"Addr":""}"#,
            r#"{"Addr":"10.0.0.1"}"#,
            r#"{"Addr":"a:1","Tidings":{}}"#,
            r#"{"Addr":"a:1","Tidings":{"service":"web","id":"b"}}"#,
            r#"{"Addr":"a:1","Tidings":{"service":"web","id":"a","weight":0}}"#,
        ] {
            assert!(Stored::read(&key(), text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Stored::read(&key(), deep.as_bytes()).is_err());
    }
}
