//! The applications behind the members: what they offer, and how they change it.

use std::sync::Arc;
use std::time::Duration;

use tidings_api::{
    Generation, Health, HealthState, Instance, InstanceKey, Removal, Selector, ServiceName,
};
use tidings_gossip::engine::{Heard, UserEvent};

use crate::history::{ProcessId, Seen, Stamp};
use crate::process::Pace;
use crate::world::World;

/// A record of more than this many bytes can't travel by datagram.
pub(crate) const OVERSIZE_BYTES: usize = 4_000;
/// As much as a metadata value takes.
const METADATA_VALUE_BYTES: usize = 500;

/// The key of an instance.
pub(crate) fn key(service: &str, id: &str) -> InstanceKey {
    let key = format!("{service}/{id}").parse();
    key.expect("the simulator makes valid keys")
}

impl World {
    /// Offers an instance in a slot, now and after every restart, with `bytes` of metadata. A key
    /// that is offered already gets other content.
    pub(crate) fn register(&mut self, slot: usize, key: &InstanceKey, bytes: usize) {
        let address = format!("10.1.0.{}:80", slot % 250 + 1).parse();
        let mut instance = Instance::at(key.clone(), address.expect("an address"));
        let mut left = bytes;
        for entry in 0.. {
            if left == 0 {
                break;
            }
            let part = left.min(METADATA_VALUE_BYTES);
            let padded = instance.with_metadata(format!("padding-{entry}"), "x".repeat(part));
            instance = padded.expect("padding within the limits");
            left -= part;
        }
        let known = self.slots[slot]
            .wanted
            .insert(key.clone(), instance.clone());
        if let Some(id) = self.awake(slot) {
            match known {
                None => self.counters.registered += 1,
                Some(_) => self.counters.updated += 1,
            }
            self.counters.oversize += u64::from(bytes >= OVERSIZE_BYTES);
            self.offer(id, instance);
        }
    }

    /// Registers what is offered already, without any change.
    pub(crate) fn repeat(&mut self, slot: usize, key: &InstanceKey) {
        let Some(id) = self.awake(slot) else {
            return;
        };
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if let Some(instance) = process.asked.get(key) {
            let again = (**instance).clone();
            let now = process.clock.at(self.now);
            process
                .engine
                .register(now, again)
                .expect("known content is accepted");
            self.counters.repeated += 1;
            self.drain(id);
        }
    }

    /// Takes an instance back, for good.
    pub(crate) fn deregister(&mut self, slot: usize, key: &InstanceKey) {
        let wanted = self.slots[slot].wanted.remove(key).is_some();
        let Some(id) = self.awake(slot) else {
            return;
        };
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let offered = process.asked.remove(key).is_some();
        process.superseded.remove(key);
        let now = process.clock.at(self.now);
        let removal = process.engine.deregister(now, key);
        self.note(&format!("{id} deregisters {key}: {removal:?}"));
        if offered {
            assert_eq!(
                removal,
                Removal::Removed,
                "{id} offered {key} (wanted: {wanted})"
            );
            self.counters.deregistered += 1;
            self.see(&Seen::Withdrawn { process: id, key });
        }
        self.drain(id);
    }

    /// Reports another health of an instance; the slot must offer it.
    pub(crate) fn report_health(&mut self, slot: usize, key: &InstanceKey) {
        let Some(id) = self.awake(slot) else {
            return;
        };
        self.turn += 1;
        let states = [
            HealthState::Passing,
            HealthState::Warning,
            HealthState::Critical,
            HealthState::Draining,
        ];
        let state = self.rng.choice(states).unwrap_or_default();
        let health = Health::from(state).with_note(self.turn.to_string());
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let Some(instance) = process.asked.get_mut(key) else {
            return;
        };
        *instance = Arc::new((**instance).clone().with_health(health.clone()));
        let instance = instance.clone();
        self.counters.health_reported += 1;
        self.note(&format!("{id} reports {key}: {health}"));
        self.see(&Seen::Asked {
            process: id,
            instance: &instance,
        });
        if let Some(process) = self.processes.get_mut(&id) {
            let now = process.clock.at(self.now);
            process
                .engine
                .health(now, key, health)
                .expect("an own registration");
        }
        self.drain(id);
    }

    /// Sends an event of this many bytes, that nobody else has sent.
    pub(crate) fn send_event(&mut self, slot: usize, bytes: usize) {
        let Some(id) = self.awake(slot) else {
            return;
        };
        self.turn += 1;
        let mut payload = self.turn.to_string().into_bytes();
        payload.resize(bytes, b'.');
        let payload: Arc<[u8]> = payload.into();
        let process = self.processes.get_mut(&id);
        let Some(process) = process.filter(|process| process.build.knows_events()) else {
            return;
        };
        let now = process.clock.at(self.now);
        let name = ServiceName::new("deploy").expect("a valid name");
        let engine = &mut process.engine;
        let sequence = engine.send_event(now, name.clone(), payload.clone());
        let identity = engine.identity().clone();
        self.counters.events_sent += 1;
        self.counters.events_large += u64::from(bytes >= OVERSIZE_BYTES);
        self.note(&format!("{id} sends event {sequence}"));
        let event = UserEvent {
            sender: identity.name,
            generation: identity.generation,
            sequence,
            name,
            payload,
            age: Duration::ZERO,
        };
        self.see(&Seen::EventSent {
            process: id,
            event: &event,
        });
        self.drain(id);
    }

    /// The application is told of an event.
    pub(crate) fn heard(&mut self, id: ProcessId, heard: &Heard) {
        self.see(&Seen::Heard { process: id, heard });
    }

    /// What an application does at its start, and whenever it offers something new.
    pub(crate) fn offer(&mut self, id: ProcessId, instance: Instance) {
        self.turn += 1;
        let stamp = Stamp {
            owner: id,
            turn: self.turn,
        };
        let stamped = instance.with_metadata(Stamp::METADATA_KEY, stamp.text());
        let mut instance = stamped.expect("a stamp within the limits");
        let key = instance.key().clone();
        self.note(&format!("{id} registers {key} as turn {}", stamp.turn));
        let others = self.processes.values().filter(|other| other.id != id);
        let rivals = others
            .filter(|other| other.asked.contains_key(&key))
            .count();
        self.counters.rivals += u64::from(rivals > 0);

        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let now = process.clock.at(self.now);
        let registered = process.engine.register(now, instance.clone());
        registered.expect("valid content is accepted");
        // The engine says which generation it is. It has to show it at once (REG-1), as asked, but
        // for the health reported last (HEA-2).
        let superseded = process.superseded.get(&key);
        if let Some(last) = process.asked.get(&key).or(superseded) {
            instance = instance.keeping_health_of(last);
        }
        let view = process
            .engine
            .view(&Selector::Service(key.service().clone()));
        let shown = view.into_iter().find(|shown| *shown.key() == key);
        let generation = shown
            .as_ref()
            .map_or(Generation::default(), |shown| shown.generation());
        let instance = Arc::new(instance.with_generation(generation));
        process.superseded.remove(&key);
        process.asked.insert(key, instance.clone());
        if shown.as_ref() != Some(&instance) {
            self.fail(
                "shown-at-once",
                format!("{id} shows {shown:?} after {instance:?}"),
            );
        }
        self.see(&Seen::Asked {
            process: id,
            instance: &instance,
        });
        self.drain(id);
    }

    /// A newer owner has the key: the application learns it and stops.
    pub(crate) fn superseded(&mut self, id: ProcessId, key: &InstanceKey) {
        self.counters.superseded += 1;
        self.see(&Seen::Superseded { process: id, key });
        if let Some(process) = self.processes.get_mut(&id) {
            let stopped = process.asked.remove(key);
            process
                .superseded
                .extend(stopped.map(|instance| (key.clone(), instance)));
            self.slots[process.slot].wanted.remove(key);
        }
    }

    /// The process of a slot, if it can be asked for anything now.
    pub(crate) fn awake(&self, slot: usize) -> Option<ProcessId> {
        let process = self.processes.get(&self.slots[slot].process?)?;
        (!process.leaving && process.pace != Pace::Paused).then_some(process.id)
    }
}
