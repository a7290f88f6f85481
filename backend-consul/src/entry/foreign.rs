//! Services that other tools registered.

use std::sync::Arc;

use tidings_api::{
    Address, Health, Instance, InstanceKey, METADATA_VALUE_BYTES_MAX, Result, ServiceName,
};

use super::{Entry, Reading, aggregated, chosen_id, host, named_ports, weight};
use crate::api::Found;
use crate::keys;

/// Metadata by which another tool chooses the instance id.
pub(super) const META_ID: &str = "tidings-id";
/// Metadata under which the tags are shown, with commas between.
const TAGS: &str = "consul.tags";

/// Reads a service without a record of ours. It is an instance where it has a port.
pub(super) fn read(found: &Found, service: &ServiceName, namespace: Option<&str>) -> Reading {
    let here = match namespace {
        Some(namespace) => found.service.tags.iter().any(|tag| tag == namespace),
        None => true,
    };
    if !here {
        return Reading::Elsewhere;
    }
    match instance(found, service) {
        Ok(instance) => Reading::Offered(Entry {
            instance: Arc::new(instance),
            revision: 0,
            created: found.service.created,
        }),
        Err(_) => Reading::Unreadable(format!("{} on {}", found.service.id, found.node.node)),
    }
}

fn instance(found: &Found, service: &ServiceName) -> Result<Instance> {
    let id = chosen_id(&found.service.meta)
        .unwrap_or_else(|| keys::foreign_id(&found.node.node, &found.service.id));
    let port = u16::try_from(found.service.port).unwrap_or_default();
    let health = aggregated(Health::passing(), found.checks.iter());
    let weight = weight(found, health.state());
    let key = InstanceKey::new(service.clone(), id);
    let mut instance = Instance::at(key, Address::new(host(found), port)?)
        .with_health(health)
        .with_weight(weight)?;
    // What has no place in our model is left out: better an instance without it than none.
    if let Some(locality) = &found.service.locality {
        instance = instance
            .clone()
            .with_zone(&locality.zone)
            .unwrap_or(instance);
    }
    for (name, port) in named_ports(found) {
        instance = instance.clone().with_port(name, port).unwrap_or(instance);
    }
    let meta = found.service.meta.iter().filter(|(key, _)| *key != META_ID);
    for (key, value) in meta {
        instance = instance
            .clone()
            .with_metadata(key, value)
            .unwrap_or(instance);
    }
    if let Some(tags) = tags(&found.service.tags) {
        instance = instance
            .clone()
            .with_metadata(TAGS, tags)
            .unwrap_or(instance);
    }
    Ok(instance)
}

/// As many tags as there is room for, each whole.
fn tags(tags: &[String]) -> Option<String> {
    let mut text = String::new();
    for tag in tags {
        let comma = usize::from(!text.is_empty());
        if text.len() + comma + tag.len() > METADATA_VALUE_BYTES_MAX {
            break;
        }
        text.push_str(&","[..comma]);
        text.push_str(tag);
    }
    (!text.is_empty()).then_some(text)
}
