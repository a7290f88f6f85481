//! What this member offers: each registration is a record that it alone edits.

use std::sync::Arc;
use std::time::Instant;

use tidings_api::{Error, ErrorKind, Generation, Health, Instance, InstanceKey, Removal, Result};

use super::items::ItemKey;
use super::{Engine, Registration};
use crate::wire::content::Content;
use crate::wire::limits::REGISTRATIONS_MAX;

impl Engine {
    /// Offers an instance, or changes what is offered under its key.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) where this member has as many registrations as it may.
    pub fn register(&mut self, now: Instant, instance: Instance) -> Result<InstanceKey> {
        let key = instance.key().clone();
        let last = self.registrations.get(&key);
        let instance = match last {
            Some(last) => instance.keeping_health_of(&last.instance),
            None if self.registrations.len() >= REGISTRATIONS_MAX => {
                let message = format!("this handle has {REGISTRATIONS_MAX} registrations");
                return Err(Error::new(ErrorKind::Denied, message));
            }
            None if !self.has_room_for(&key) => {
                let message = "too many other keys were deregistered within the last minute";
                return Err(Error::new(ErrorKind::Denied, message));
            }
            None => instance,
        };
        self.check_bytes_for(&instance)?;
        let held = last
            .filter(|last| !last.superseded)
            .map(|held| held.instance.clone());
        if let Some(held) = &held
            && **held == instance.clone().with_generation(held.generation())
        {
            return Ok(key);
        }
        let generation = match &held {
            Some(held) => self.generation_to_change(held),
            None => self.generation_for(&instance),
        };
        let is_mirror = instance.is_mirror();
        self.offer(now, instance.with_generation(generation));
        if is_mirror {
            // An owner may be there already.
            self.check_superseded(now, &key);
        }
        Ok(key)
    }

    /// Withdraws what was registered under a key.
    pub fn deregister(&mut self, now: Instant, key: &InstanceKey) -> Removal {
        match self.registrations.remove(key) {
            Some(Registration {
                superseded: false, ..
            }) => {
                self.write(now, key, None);
                Removal::Removed
            }
            Some(_) | None => Removal::Absent,
        }
    }

    /// Changes the health of an own registration.
    ///
    /// # Errors
    /// [`NotOwned`](ErrorKind::NotOwned) where the key is not registered here, or superseded;
    /// [`Denied`](ErrorKind::Denied) where this member has no room for a note as long as that.
    pub fn health(&mut self, now: Instant, key: &InstanceKey, health: Health) -> Result<()> {
        let instance = match self.registrations.get(key) {
            Some(Registration {
                instance,
                superseded: false,
            }) => instance,
            Some(_) => {
                let message = format!("a newer generation has taken over {key}");
                return Err(Error::new(ErrorKind::NotOwned, message));
            }
            None => {
                let message = format!("{key} is not registered by this handle");
                return Err(Error::new(ErrorKind::NotOwned, message));
            }
        };
        if *instance.health() != health {
            let instance = Instance::clone(instance);
            let generation = self.generation_to_change(&instance);
            let changed = instance.with_health(health).with_generation(generation);
            self.check_bytes_for(&changed)?;
            self.offer(now, changed);
        }
        Ok(())
    }

    /// Makes an instance what this member offers under its key.
    fn offer(&mut self, now: Instant, instance: Instance) {
        let key = instance.key().clone();
        if !instance.is_mirror() {
            self.drawn = self.drawn.max(Some(instance.generation()));
        }
        let instance = Arc::new(instance);
        let registration = Registration {
            instance: instance.clone(),
            superseded: false,
        };
        self.registrations.insert(key.clone(), registration);
        self.write(now, &key, Some(instance.into()));
    }

    /// Writes an own record with the next version, and spreads it.
    pub(super) fn write(&mut self, now: Instant, key: &InstanceKey, content: Option<Content>) {
        self.version += 1;
        self.store(now, self.me, key, self.version, content);
        self.spread(now, ItemKey::record(self.me, key));
    }

    /// The generation of a new registration: this start's, above all drawn before, and above whatever
    /// stands under the key, so that a newer registration wins whatever the clocks say. A mirror's
    /// is above those of other mirrors only.
    pub(super) fn generation_for(&self, instance: &Instance) -> Generation {
        let (key, start) = (instance.key(), self.identity.generation);
        let is_mirror = instance.is_mirror();
        let others =
            self.registry.offers(key).iter().filter(|offer| {
                offer.owner != self.me && (offer.instance.is_mirror() || !is_mirror)
            });
        let newest = others
            .map(|offer| offer.instance.generation().number())
            .max();
        let own = self
            .registrations
            .get(key)
            .map(|r| r.instance.generation().number());
        let above = newest.max(own).map_or(0, |number| number.saturating_add(1));
        if is_mirror {
            return Generation::new(above.max(start.as_mirror().number()));
        }
        let drawn = self
            .drawn
            .map_or(0, |drawn| drawn.number().saturating_add(1));
        Generation::new(above.max(drawn).max(start.number()))
    }

    /// The generation of an own registration that is changed: the one it has, but where somebody's twin of it
    /// outranks it. That is no rival while both are equal, and the change would be shown nowhere.
    fn generation_to_change(&self, held: &Instance) -> Generation {
        let rank = (held.generation().number(), self.me);
        let mut offers = self.registry.offers(held.key()).iter();
        if offers.any(|offer| self.is_shown(offer.owner) && offer.rank() > rank) {
            self.generation_for(held)
        } else {
            held.generation()
        }
    }
}
