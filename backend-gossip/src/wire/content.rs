//! An instance as it stands in a record: tagged fields, append-only, unknown ones kept.

use std::sync::Arc;

use tidings_api::{Address, Generation, Health, HealthState, Instance, InstanceKey};

use super::codec::{Decoded, Malformed, Reader, put_bytes, put_varint};
use super::message::kept;

/// An instance with the fields of newer versions that came along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// What applications see; shared with their views.
    pub instance: Arc<Instance>,
    /// Tagged fields this version doesn't know, passed on as they came.
    pub unknown: Box<[u8]>,
}

mod tag {
    pub(super) const ADDRESS: u8 = 1;
    pub(super) const GENERATION: u8 = 2;
    pub(super) const HEALTH: u8 = 3;
    pub(super) const WEIGHT: u8 = 4;
    pub(super) const ZONE: u8 = 5;
    pub(super) const PORT: u8 = 6;
    pub(super) const METADATA: u8 = 7;
}

impl Content {
    /// Appends all fields; those with their default value are left out.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let instance = &*self.instance;
        put_field(out, tag::ADDRESS, instance.address().to_string().as_bytes());
        put_field(
            out,
            tag::GENERATION,
            &varint(instance.generation().number()),
        );
        if *instance.health() != Health::passing() {
            let mut health = vec![match instance.health().state() {
                HealthState::Passing => 0,
                HealthState::Warning => 1,
                HealthState::Critical => 2,
                HealthState::Draining => 3,
            }];
            health.extend_from_slice(instance.health().note().unwrap_or_default().as_bytes());
            put_field(out, tag::HEALTH, &health);
        }
        if instance.weight() != 1 {
            put_field(out, tag::WEIGHT, &varint(instance.weight().into()));
        }
        if let Some(zone) = instance.zone() {
            put_field(out, tag::ZONE, zone.as_str().as_bytes());
        }
        for (name, port) in instance.ports() {
            put_field(out, tag::PORT, &pair(name.as_str(), &port.to_be_bytes()));
        }
        for (key, value) in instance.metadata() {
            put_field(out, tag::METADATA, &pair(key.as_str(), value.as_bytes()));
        }
        out.extend_from_slice(&self.unknown);
    }

    /// Reads the fields up to the end of `body`. What breaks the contract's limits is malformed:
    /// no member of this library sends it.
    pub(super) fn decode(key: &InstanceKey, body: &mut Reader<'_>) -> Decoded<Self> {
        let (mut instance, mut unknown) = (None::<Instance>, Vec::new());
        while !body.is_empty() {
            let (tag, field) = (body.u8()?, body.bytes()?);
            if tag == tag::ADDRESS {
                let text = std::str::from_utf8(field).map_err(|_| Malformed("address"))?;
                let address: Address = text.parse().map_err(|_| Malformed("address"))?;
                instance = Some(Instance::at(key.clone(), address));
                continue;
            }
            if !(tag::GENERATION..=tag::METADATA).contains(&tag) {
                put_field(&mut unknown, tag, field);
                continue;
            }
            // The address is written first, so that there is an instance to add fields to.
            let known = instance.take().ok_or(Malformed("no address"))?;
            instance = Some(decode_field(known, tag, field)?);
        }
        let instance = Arc::new(instance.ok_or(Malformed("no address"))?);
        Ok(Self {
            instance,
            unknown: kept(&unknown)?,
        })
    }
}

impl Content {
    /// How many bytes its texts take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        bytes_of(&self.instance) + self.unknown.len()
    }
}

/// How many bytes the texts of an instance take, those of its key apart.
#[must_use]
pub fn bytes_of(instance: &Instance) -> usize {
    let metadata = instance.metadata().iter();
    let metadata = metadata.map(|(key, value)| key.as_str().len() + value.len());
    let ports = instance.ports().keys().map(|name| name.as_str().len() + 2);
    let zone = instance.zone().map_or(0, |zone| zone.as_str().len());
    let note = instance.health().note().map_or(0, str::len);
    metadata.sum::<usize>() + ports.sum::<usize>() + zone + note
}

impl From<Arc<Instance>> for Content {
    fn from(instance: Arc<Instance>) -> Self {
        Self {
            instance,
            unknown: Box::default(),
        }
    }
}

/// The instance with one field added.
fn decode_field(instance: Instance, tag: u8, field: &[u8]) -> Decoded<Instance> {
    let mut reader = Reader::new(field);
    let changed = match tag {
        tag::GENERATION => Ok(instance.with_generation(Generation::new(reader.varint()?))),
        tag::HEALTH => {
            let state = match reader.u8()? {
                0 => HealthState::Passing,
                1 => HealthState::Warning,
                2 => HealthState::Critical,
                3 => HealthState::Draining,
                _ => return Err(Malformed("health state")),
            };
            let note = std::str::from_utf8(reader.rest()).map_err(|_| Malformed("health note"))?;
            Ok(instance.with_health(Health::from(state).with_note(note)))
        }
        tag::WEIGHT => {
            let weight = u16::try_from(reader.varint()?).map_err(|_| Malformed("weight"))?;
            instance.with_weight(weight)
        }
        tag::ZONE => {
            let zone = std::str::from_utf8(field).map_err(|_| Malformed("zone"))?;
            instance.with_zone(zone)
        }
        tag::PORT => {
            let name = reader.text()?;
            instance.with_port(name, reader.u16()?)
        }
        tag::METADATA => {
            let key = reader.text()?;
            let value = std::str::from_utf8(reader.rest()).map_err(|_| Malformed("metadata"))?;
            instance.with_metadata(key, value)
        }
        _ => Ok(instance),
    };
    changed.map_err(|_| Malformed("field beyond the contract's limits"))
}

fn put_field(out: &mut Vec<u8>, tag: u8, field: &[u8]) {
    out.push(tag);
    put_bytes(out, field);
}

fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(10);
    put_varint(&mut out, value);
    out
}

fn pair(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 2);
    put_bytes(&mut out, name.as_bytes());
    out.extend_from_slice(value);
    out
}
