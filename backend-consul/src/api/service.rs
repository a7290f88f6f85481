//! A service and its checks, as Consul's JSON has them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// A service to be registered at an agent.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceDefinition {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) tags: Vec<String>,
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) tagged_addresses: BTreeMap<String, TaggedAddress>,
    pub(crate) weights: Weights,
    pub(crate) checks: Vec<ServiceCheck>,
}

/// A check that its owner reports.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ServiceCheck {
    #[serde(rename = "CheckID")]
    pub(crate) id: String,
    #[serde(rename = "Name")]
    pub(crate) name: &'static str,
    #[serde(rename = "Notes")]
    pub(crate) notes: String,
    #[serde(rename = "TTL")]
    pub(crate) ttl: String,
    /// What a check starts with; one that the agent has already keeps what it has.
    #[serde(rename = "Status")]
    pub(crate) status: CheckStatus,
    #[serde(
        rename = "DeregisterCriticalServiceAfter",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) deregister_after: Option<String>,
}

/// A report on a check.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CheckUpdate<'a> {
    pub(crate) status: CheckStatus,
    pub(crate) output: Cow<'a, str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckStatus {
    #[default]
    Passing,
    Warning,
    /// And whatever a later Consul calls a check that doesn't pass.
    #[serde(other)]
    Critical,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TaggedAddress {
    #[serde(default)]
    pub(crate) address: String,
    #[serde(default)]
    pub(crate) port: i64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Weights {
    #[serde(default)]
    pub(crate) passing: i64,
    #[serde(default)]
    pub(crate) warning: i64,
}

/// An entry of the catalog: a service on a node with the checks of both.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Found {
    pub(crate) node: FoundNode,
    pub(crate) service: FoundService,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct FoundNode {
    pub(crate) node: String,
    #[serde(default)]
    pub(crate) address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct FoundService {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) service: String,
    #[serde(default)]
    pub(crate) address: String,
    #[serde(default)]
    pub(crate) port: i64,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) tags: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) meta: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) tagged_addresses: BTreeMap<String, TaggedAddress>,
    #[serde(default)]
    pub(crate) weights: Option<Weights>,
    #[serde(rename = "CreateIndex", default)]
    pub(crate) created: u64,
    /// Since Consul 1.18.
    #[serde(default)]
    pub(crate) locality: Option<Locality>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Locality {
    #[serde(default)]
    pub(crate) zone: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Check {
    #[serde(rename = "CheckID", default)]
    pub(crate) id: String,
    #[serde(rename = "Name", default)]
    pub(crate) name: String,
    #[serde(rename = "Status", default)]
    pub(crate) status: CheckStatus,
    #[serde(rename = "Notes", default)]
    pub(crate) notes: String,
    #[serde(rename = "Output", default)]
    pub(crate) output: String,
}

/// Go writes an empty list or map as `null`.
fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
