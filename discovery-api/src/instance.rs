//! One running copy that offers a service.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{
    Address, Entries, Error, Health, InstanceId, InstanceKey, MetadataKey, PortName, Result,
    ServiceName, Zone,
};

/// Most metadata entries of an instance (Consul's limit, the lowest of the backends).
pub const METADATA_ENTRIES_MAX: usize = 64;
/// Longest metadata value in bytes of UTF-8 (Consul's limit, the lowest of the backends).
pub const METADATA_VALUE_BYTES_MAX: usize = 512;
/// Metadata keys that start so are written by Tidings itself, beside those of an application: a
/// migration marks with one which registration an entry belongs to. They don't count as
/// [`METADATA_ENTRIES_MAX`].
pub const METADATA_RESERVED_PREFIX: &str = "tidings.";
/// The metadata key that a bridge marks with what it mirrors from another backend, on behalf of an
/// owner that isn't here: see [`Instance::is_mirror`].
pub const METADATA_MIRROR_KEY: &str = "tidings.bridge";
/// Most reserved metadata entries of an instance.
const METADATA_RESERVED_MAX: usize = 4;
/// The generations of mirrors are below this, those of owners above: it is the year 2005.
const MIRROR_GENERATION_END: u64 = 1 << 50;
/// Most named ports of an instance: far above what is offered in practice, so that a record stays
/// bounded.
pub const PORTS_MAX: usize = 32;

/// What an owner offers and clients find: a key, an address, further ports, metadata, weight, zone
/// and health.
///
/// ```
/// use tidings_api::Instance;
///
/// let instance = Instance::new("payments", "10.0.0.7:8080")?
///     .with_id("payments-1")?
///     .with_zone("eu-1a")?
///     .with_port("metrics", 9090)?
///     .with_metadata("version", "1.4.2")?;
/// assert_eq!(instance.key().to_string(), "payments/payments-1");
/// # Ok::<(), tidings_api::Error>(())
/// ```
///
/// Every setter checks the limits (LIM-1) at once, so that an instance which exists can be
/// registered on every backend. Equality is by content.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Instance {
    #[serde(flatten)]
    key: InstanceKey,
    address: Address,
    #[serde(skip_serializing_if = "Entries::is_empty")]
    ports: Entries<PortName, u16>,
    #[serde(skip_serializing_if = "Entries::is_empty")]
    metadata: Entries<MetadataKey, String>,
    weight: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<Zone>,
    health: Health,
    /// Whether the owner chose the health, so that registering again may change it (HEA-2).
    #[serde(skip)]
    health_given: bool,
    generation: Generation,
}

impl Instance {
    /// An instance of `service` at `address` with a generated id, weight 1, passing.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) naming what is outside LIM-1.
    pub fn new(service: impl AsRef<str>, address: impl AsRef<str>) -> Result<Self> {
        let key = InstanceKey::new(ServiceName::new(service)?, InstanceId::generate());
        Ok(Self::at(key, address.as_ref().parse()?))
    }

    /// An instance from parts that are valid already.
    #[must_use]
    pub fn at(key: InstanceKey, address: Address) -> Self {
        Self {
            key,
            address,
            ports: Entries::default(),
            metadata: Entries::default(),
            weight: 1,
            zone: None,
            health: Health::passing(),
            health_given: false,
            generation: Generation::default(),
        }
    }

    /// Sets the instance id: choose one that stays the same over restarts, such as the host name.
    ///
    /// # Errors
    /// Where `id` is not 1–128 of `A-Za-z0-9._:-`.
    pub fn with_id(mut self, id: impl AsRef<str>) -> Result<Self> {
        self.key = InstanceKey::new(self.key.service().clone(), InstanceId::new(id)?);
        Ok(self)
    }

    /// Sets the address, host and port.
    ///
    /// # Errors
    /// Where `address` is not `host:port`.
    pub fn with_address(mut self, address: impl AsRef<str>) -> Result<Self> {
        self.address = address.as_ref().parse()?;
        Ok(self)
    }

    /// Adds a further port under a name, or replaces the port of that name.
    ///
    /// # Errors
    /// Where the name breaks its rule, the port is 0, or there are more than [`PORTS_MAX`].
    pub fn with_port(mut self, name: impl AsRef<str>, port: u16) -> Result<Self> {
        let name = PortName::new(name)?;
        if port == 0 {
            return Err(Error::invalid_input(format!(
                "port {name:?} is 0: accepted are 1 to 65535"
            )));
        }
        self.ports.insert(name, port);
        check_count("named ports", self.ports.len(), PORTS_MAX)?;
        Ok(self)
    }

    /// Adds a metadata entry, or replaces the one of that key.
    ///
    /// # Errors
    /// Where the key breaks its rule, the value is longer than [`METADATA_VALUE_BYTES_MAX`] bytes,
    /// or there are more than [`METADATA_ENTRIES_MAX`] entries, those with a
    /// [reserved](METADATA_RESERVED_PREFIX) key not counted.
    pub fn with_metadata(mut self, key: impl AsRef<str>, value: impl Into<String>) -> Result<Self> {
        let (key, mut value) = (MetadataKey::new(key)?, value.into());
        value.shrink_to_fit();
        if value.len() > METADATA_VALUE_BYTES_MAX {
            // The value itself stays out of the error: metadata may carry what nobody should log.
            return Err(Error::invalid_input(format!(
                "metadata value of {key:?} is {} bytes: accepted are at most \
                 {METADATA_VALUE_BYTES_MAX} bytes of UTF-8",
                value.len()
            )));
        }
        self.metadata.insert(key, value);
        let is_reserved = |key: &&MetadataKey| key.as_str().starts_with(METADATA_RESERVED_PREFIX);
        let reserved = self.metadata.keys().filter(is_reserved).count();
        check_count(
            "metadata entries",
            self.metadata.len() - reserved,
            METADATA_ENTRIES_MAX,
        )?;
        check_count("reserved metadata entries", reserved, METADATA_RESERVED_MAX)?;
        Ok(self)
    }

    /// Takes a metadata entry away, where there is one.
    #[must_use]
    pub fn without_metadata(mut self, key: &str) -> Self {
        self.metadata.remove(key);
        self
    }

    /// Sets the share of work it should get beside its siblings: 1–65535, default 1.
    ///
    /// # Errors
    /// Where `weight` is 0; an instance that should get nothing is
    /// [draining](Health::draining).
    pub fn with_weight(mut self, weight: u16) -> Result<Self> {
        if weight == 0 {
            return Err(Error::invalid_input(
                "weight 0: accepted are 1 to 65535 (health draining takes an instance out of use)",
            ));
        }
        self.weight = weight;
        Ok(self)
    }

    /// Sets the zone it runs in.
    ///
    /// # Errors
    /// Where `zone` is not 1–128 of `A-Za-z0-9._-`.
    pub fn with_zone(mut self, zone: impl AsRef<str>) -> Result<Self> {
        self.zone = Some(Zone::new(zone)?);
        Ok(self)
    }

    /// Sets the health. Without it an instance starts as passing, and registering its key again
    /// keeps the health reported last (HEA-2).
    #[must_use]
    pub fn with_health(mut self, health: Health) -> Self {
        self.health = health;
        self.health_given = true;
        self
    }

    /// This instance with the health of `last`, unless it was given one of its own. For backends,
    /// when a key is registered again.
    #[must_use]
    pub fn keeping_health_of(mut self, last: &Self) -> Self {
        if !self.health_given {
            self.health = last.health.clone();
        }
        self
    }

    /// Sets the generation; the backend does it on `register`.
    #[must_use]
    pub fn with_generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    /// Shares the text of those names that `sibling` has as well: of the service, the zone, the
    /// metadata keys and the ports. For backends that keep many instances.
    pub fn share_names_with(&mut self, sibling: &Self) {
        if self.service() == sibling.service() {
            self.key = InstanceKey::new(sibling.service().clone(), self.key.id().clone());
        }
        if self.zone == sibling.zone {
            self.zone.clone_from(&sibling.zone);
        }
        self.ports.share_keys(&sibling.ports);
        self.metadata.share_keys(&sibling.metadata);
    }

    /// Whether this is a mirror: an entry that a bridge keeps here for an owner which is on another
    /// backend ([`METADATA_MIRROR_KEY`]). Every owner under its key is newer (REG-5).
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        self.metadata.contains_key(METADATA_MIRROR_KEY)
    }

    /// A new generation for this instance, whose handle doesn't own the key yet: above `seen`, but
    /// for a mirror where `seen` is an owner's. For backends, on `register`.
    #[must_use]
    pub fn next_generation(&self, seen: Generation) -> Generation {
        match self.is_mirror() {
            true => Generation::of_mirror(seen),
            false => Generation::after(seen),
        }
    }

    /// Whether this instance is the newer one of two under one key (REG-5). For backends.
    #[must_use]
    pub fn outranks(&self, other: &Self) -> bool {
        let rank = |instance: &Self| (!instance.is_mirror(), instance.generation);
        rank(self) > rank(other)
    }

    /// The identity: service and instance id.
    #[must_use]
    pub fn key(&self) -> &InstanceKey {
        &self.key
    }

    /// The service it offers.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        self.key.service()
    }

    /// The instance id.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        self.key.id()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The address of a named port.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<Address> {
        self.ports.get(name).map(|port| self.address.at_port(*port))
    }

    /// All named ports, by name.
    #[must_use]
    pub fn ports(&self) -> &Entries<PortName, u16> {
        &self.ports
    }

    /// The metadata, by key.
    #[must_use]
    pub fn metadata(&self) -> &Entries<MetadataKey, String> {
        &self.metadata
    }

    /// The share of work it should get beside its siblings.
    #[must_use]
    pub fn weight(&self) -> u16 {
        self.weight
    }

    /// The zone it runs in.
    #[must_use]
    pub fn zone(&self) -> Option<&Zone> {
        self.zone.as_ref()
    }

    /// What its owner says about it.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Tells a restarted owner of the key from its former self; newer wins everywhere.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }
}

impl PartialEq for Instance {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            key,
            address,
            ports,
            metadata,
            weight,
            zone,
            health,
            health_given: _,
            generation,
        } = self;
        *key == other.key
            && *generation == other.generation
            && *address == other.address
            && *weight == other.weight
            && *health == other.health
            && *zone == other.zone
            && *ports == other.ports
            && *metadata == other.metadata
    }
}

impl Eq for Instance {}

/// Number that tells a restarted owner of a key from its former self; the greater one is newer and
/// wins on every watcher (REG-5). Zero before registration.
///
/// Taken from the wall clock in microseconds, and always above every one this process took or saw
/// for the key before, so that a clock that was set back doesn't make a new owner lose. Those of
/// [mirrors](Instance::is_mirror) are a sixteenth of that, so that every owner's is greater.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(u64);

impl Generation {
    /// The generation of this number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// A new generation, greater than all this process has drawn before and than `seen`.
    #[must_use]
    pub fn after(seen: Self) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        // Also where the clock stands before that.
        let floor = clock().max(MIRROR_GENERATION_END);
        Self(draw(&LAST, floor.max(seen.0.saturating_add(1))))
    }

    /// A new generation for a mirror: below those of owners, and otherwise as [`after`](Self::after).
    fn of_mirror(seen: Self) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let above = match seen.is_of_mirror() {
            true => seen.0 + 1,
            false => 0,
        };
        let drawn = draw(&LAST, Self(clock()).as_mirror().0.max(above));
        Self(drawn.min(MIRROR_GENERATION_END - 1))
    }

    /// What a mirror's generation is where an owner's would be this one: below those of owners, in
    /// the same order. For backends that don't read the clock on `register`.
    #[must_use]
    pub fn as_mirror(self) -> Self {
        Self((self.0 >> 4).min(MIRROR_GENERATION_END - 1))
    }

    /// Whether it is within those that mirrors have.
    #[must_use]
    pub fn is_of_mirror(self) -> bool {
        self.0 < MIRROR_GENERATION_END
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Microseconds of the wall clock.
fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// A number that is at least `floor`, and above all that were drawn from `last`.
fn draw(last: &AtomicU64, floor: u64) -> u64 {
    let mut current = last.load(Ordering::Relaxed);
    loop {
        let next = floor.max(current.saturating_add(1));
        match last.compare_exchange_weak(current, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return next,
            Err(other) => current = other,
        }
    }
}

fn check_count(what: &str, count: usize, max: usize) -> Result<()> {
    if count <= max {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{count} {what}: accepted are at most {max}"
    )))
}

/// The serialised form, so that what is read goes through the same setters as what is said.
#[derive(Deserialize)]
struct Written {
    service: ServiceName,
    id: InstanceId,
    address: Address,
    #[serde(default)]
    ports: std::collections::BTreeMap<String, u16>,
    #[serde(default)]
    metadata: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    weight: Option<u16>,
    #[serde(default)]
    zone: Option<Zone>,
    #[serde(default)]
    health: Health,
    #[serde(default)]
    generation: Generation,
}

impl TryFrom<Written> for Instance {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let key = InstanceKey::new(written.service, written.id);
        let mut instance = Self::at(key, written.address)
            .with_health(written.health)
            .with_generation(written.generation)
            .with_weight(written.weight.unwrap_or(1))?;
        instance.zone = written.zone;
        for (name, port) in written.ports {
            instance = instance.with_port(name, port)?;
        }
        for (key, value) in written.metadata {
            instance = instance.with_metadata(key, value)?;
        }
        Ok(instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        Instance::new("web", "10.0.0.7:80").unwrap()
    }

    #[test]
    fn limits_are_checked_where_the_value_is_given() {
        let error = instance()
            .with_metadata("note", "x".repeat(513))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "metadata value of \"note\" is 513 bytes: accepted are at most 512 bytes of UTF-8"
        );
        let full = (0..64).fold(instance(), |i, n| {
            i.with_metadata(format!("k{n}"), "v").unwrap()
        });
        assert!(full.clone().with_metadata("k0", "again").is_ok());
        let reserved = |n| format!("{METADATA_RESERVED_PREFIX}{n}");
        let marked = (0..4).fold(full.clone(), |i, n| {
            i.with_metadata(reserved(n), "").unwrap()
        });
        assert!(marked.clone().with_metadata(reserved(4), "").is_err());
        assert!(marked.clone().with_metadata("one-more", "v").is_err());
        let back = (0..4).fold(marked, |i, n| i.without_metadata(&reserved(n)));
        assert_eq!(back, full);
        assert!(full.with_metadata("one-more", "v").is_err());
        assert!(instance().with_weight(0).is_err() && instance().with_port("m", 0).is_err());
    }

    #[test]
    fn siblings_share_the_text_of_their_names() {
        let web = |id: &str, zone: &str, key: &str| {
            let web = instance().with_id(id).and_then(|web| web.with_zone(zone));
            let web = web.and_then(|web| web.with_metadata(key, id));
            web.and_then(|web| web.with_port("metrics", 9090)).unwrap()
        };
        let (a, b, c) = (web("a", "z", "k"), web("b", "z", "k"), web("c", "y", "l"));
        for alone in [&b, &c] {
            let mut shared = alone.clone();
            shared.share_names_with(&a);
            assert_eq!(shared, *alone);
        }
        let at = |name: &str| name.as_ptr();
        let mut shared = b.clone();
        shared.share_names_with(&a);
        let names = |web: &Instance| {
            let (key, port) = (web.metadata().keys().next(), web.ports().keys().next());
            let texts = [web.service().as_str(), web.zone().unwrap().as_str()];
            let more = [key.unwrap().as_str(), port.unwrap().as_str()];
            [texts, more]
                .concat()
                .into_iter()
                .map(at)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&shared), names(&a));
        assert!(names(&a).iter().zip(names(&b)).all(|(a, b)| *a != b));
    }

    #[test]
    fn every_owner_outranks_every_mirror() {
        let owner = instance();
        let mirror = owner
            .clone()
            .with_metadata(METADATA_MIRROR_KEY, "")
            .unwrap();
        let owned = owner.next_generation(Generation::default());
        let owner_again = owner.clone().with_generation(owner.next_generation(owned));
        let owner = owner.with_generation(owned);
        let mirrored = mirror.next_generation(Generation::default());
        assert!(mirror.is_mirror() && !owner.is_mirror());
        assert!(mirrored < owned && mirror.next_generation(owned) < owned);
        let again = mirror.next_generation(mirrored);
        assert!(mirrored < again && again < owned);
        let last = Generation::new(MIRROR_GENERATION_END - 1);
        assert!(mirror.next_generation(last) < owned);
        assert!(mirror.next_generation(Generation::new(u64::MAX)) < owned);
        assert!(owned.as_mirror() < owned && owned.as_mirror().is_of_mirror());

        let mirror = mirror.with_generation(mirrored);
        let mirror_again = mirror.clone().with_generation(again);
        let foreign = owner.clone().with_generation(Generation::default());
        assert!(owner_again.outranks(&owner) && owner.outranks(&mirror_again));
        assert!(mirror_again.outranks(&mirror) && foreign.outranks(&mirror_again));
        assert!(!mirror.outranks(&mirror) && !mirror_again.outranks(&foreign));
    }

    #[test]
    fn serialised_instances_come_back_equal() {
        let whole = instance()
            .with_id("a:1")
            .and_then(|i| i.with_port("metrics", 9090))
            .and_then(|i| i.with_metadata("k", "v ✓"))
            .and_then(|i| i.with_zone("eu-1a"))
            .and_then(|i| i.with_weight(7))
            .unwrap()
            .with_health(Health::warning("hot"))
            .with_generation(Generation::new(5));
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<Instance>(&text).unwrap(), whole);
        assert!(
            text.starts_with(r#"{"service":"web","id":"a:1","address":"10.0.0.7:80""#),
            "{text}"
        );
    }

    #[test]
    fn reading_checks_the_limits_too() {
        let text = r#"{"service":"web","id":"1","address":"a:1","weight":0}"#;
        assert!(serde_json::from_str::<Instance>(text).is_err());
    }

    #[test]
    fn generations_rise_whatever_the_clock_says() {
        let ahead = Generation::new(u64::MAX / 2);
        let first = Generation::after(ahead);
        let second = Generation::after(Generation::default());
        assert!(ahead < first && first < second);
    }
}
