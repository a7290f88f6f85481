//! The keyring, and what a member tells the others about its own.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use tidings_api::{Error, ErrorKind, Result};

use super::key::ID_BYTES;
use super::{KeyId, SealKey};
use crate::wire;

/// Most keys at one time. A rotation needs two; the rest is for those that got stuck half-way.
pub(super) const KEYS_MAX: usize = 8;

/// How far a cluster has come with being sealed. Members one step apart understand each other, so a
/// running cluster goes from the first to the last step by step, without an interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SealMode {
    /// Nothing is sealed, and nothing sealed is understood.
    Off,
    /// Sends unsealed, understands both.
    Accept,
    /// Sends sealed, understands both.
    Send,
    /// Sends sealed, and hears nothing else.
    Required,
}

/// The keys of a member and what it does with them. The first key seals, all of them open.
#[derive(Clone, Debug)]
pub struct Ring {
    cluster: Arc<str>,
    hash: u32,
    keys: Vec<SealKey>,
    mode: SealMode,
}

/// What a member has told of its keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What it sends and understands.
    pub mode: SealMode,
    /// The key it seals with, if it has one.
    pub uses: Option<KeyId>,
    /// The keys it understands, that one among them.
    pub holds: Vec<KeyId>,
}

impl Ring {
    /// No key, nothing sealed.
    #[must_use]
    pub fn off(cluster: &str) -> Self {
        Self {
            cluster: cluster.into(),
            hash: wire::cluster_hash(cluster),
            keys: Vec::new(),
            mode: SealMode::Off,
        }
    }

    /// The first of these keys seals.
    pub fn new(cluster: &str, keys: Vec<SealKey>, mode: SealMode) -> Result<Self> {
        Self {
            mode,
            ..Self::off(cluster)
        }
        .with_keys(keys)
    }

    /// The same with other keys.
    pub fn with_keys(&self, keys: Vec<SealKey>) -> Result<Self> {
        if keys.is_empty() || keys.len() > KEYS_MAX {
            let given = keys.len();
            return Err(Error::invalid_config(format!(
                "{given} keys: accepted are 1 to {KEYS_MAX}"
            )));
        }
        for (at, key) in keys.iter().enumerate() {
            let id = key.id();
            if keys[..at].iter().any(|other| other.id() == id) {
                let message = format!("key {id} is given twice: accepted is each once");
                return Err(Error::invalid_config(message));
            }
        }
        Ok(Self {
            keys,
            ..self.clone()
        })
    }

    /// With one more key. The first one makes an unsealed member understand sealed frames.
    pub fn with(&self, key: SealKey) -> Result<Self> {
        let mut keys = self.keys.clone();
        keys.push(key);
        let ring = self.with_keys(keys)?;
        let mode = self.mode.max(SealMode::Accept);
        Ok(Self { mode, ..ring })
    }

    /// Sealing with the key of this id.
    pub fn using(&self, id: KeyId) -> Result<Self> {
        let mut keys = self.keys.clone();
        let at = self.position(id)?;
        keys[..=at].rotate_right(1);
        self.with_keys(keys)
    }

    /// Without the key of this id.
    pub fn without(&self, id: KeyId) -> Result<Self> {
        let mut keys = self.keys.clone();
        let at = self.position(id)?;
        if at == 0 {
            let message = format!("key {id} is the one this member seals with: use another first");
            return Err(Error::new(ErrorKind::Denied, message));
        }
        keys.remove(at);
        self.with_keys(keys)
    }

    /// In another mode; the keys go with the last step back.
    pub fn in_mode(&self, mode: SealMode) -> Result<Self> {
        match mode {
            SealMode::Off => Ok(Self::off(&self.cluster)),
            _ if self.keys.is_empty() => Err(Error::new(
                ErrorKind::Denied,
                format!("seal {mode}: this member has no key: add one first"),
            )),
            _ => Ok(Self {
                mode,
                ..self.clone()
            }),
        }
    }

    /// The name of the cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its hash, as it stands in headers.
    #[must_use]
    pub fn cluster_hash(&self) -> u32 {
        self.hash
    }

    /// What is sent and understood.
    #[must_use]
    pub fn mode(&self) -> SealMode {
        self.mode
    }

    /// The key that seals.
    #[must_use]
    pub fn primary(&self) -> Option<&SealKey> {
        self.keys.first()
    }

    /// The key of this id.
    #[must_use]
    pub fn find(&self, id: KeyId) -> Option<&SealKey> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// All keys, the one that seals first.
    #[must_use]
    pub fn keys(&self) -> &[SealKey] {
        &self.keys
    }

    /// Their ids.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(SealKey::id)
    }

    /// What the others are told.
    #[must_use]
    pub fn told(&self) -> Told {
        Told {
            mode: self.mode,
            uses: self.primary().map(SealKey::id),
            holds: self.ids().collect(),
        }
    }

    fn position(&self, id: KeyId) -> Result<usize> {
        let at = self.ids().position(|other| other == id);
        at.ok_or_else(|| {
            let ids: Vec<_> = self.ids().map(|id| id.to_string()).collect();
            let ids = ids.join(", ");
            let message = format!("this member has no key {id}: it has {ids}");
            Error::new(ErrorKind::Denied, message)
        })
    }
}

impl SealMode {
    /// Whether what this member sends is sealed.
    #[must_use]
    pub fn sends_sealed(self) -> bool {
        self >= Self::Send
    }

    /// Whether it understands sealed frames.
    #[must_use]
    pub fn hears_sealed(self) -> bool {
        self >= Self::Accept
    }

    /// Whether it hears unsealed frames.
    #[must_use]
    pub fn hears_unsealed(self) -> bool {
        self < Self::Required
    }
}

impl Told {
    /// Nothing sealed and no key: what a member says that says nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            mode: SealMode::Off,
            uses: None,
            holds: Vec::new(),
        }
    }

    /// The bytes in which it is told: the mode, and the ids, that of the sealing key first. Nothing
    /// said is no bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.mode == SealMode::Off {
            return Vec::new();
        }
        let mut bytes = vec![self.mode as u8];
        bytes.extend(self.holds.iter().flat_map(|id| id.0));
        bytes
    }

    /// Reads it; what is not understood, or of newer versions, is left out.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let Some((mode, ids)) = bytes.split_first() else {
            return Self::nothing();
        };
        let mode = match mode {
            0 => return Self::nothing(),
            1 => SealMode::Accept,
            2 => SealMode::Send,
            _ => SealMode::Required,
        };
        let (ids, _) = ids.as_chunks::<ID_BYTES>();
        let holds: Vec<_> = ids.iter().map(|id| KeyId(*id)).take(KEYS_MAX).collect();
        Self {
            mode,
            uses: holds.first().copied(),
            holds,
        }
    }
}

impl fmt::Display for SealMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Accept => "accept",
            Self::Send => "send",
            Self::Required => "required",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> [SealKey; 3] {
        [1, 2, 3]
            .map(|number| SealKey::from_bytes(std::array::from_fn(|at| at as u8 ^ number)).unwrap())
    }

    #[test]
    fn a_key_is_added_used_and_retired() {
        let [first, second, third] = keys();
        let ring = Ring::off("c").with(first.clone()).unwrap();
        assert_eq!(ring.mode(), SealMode::Accept);
        let ring = ring
            .with(second.clone())
            .unwrap()
            .with(third.clone())
            .unwrap();
        assert_eq!(ring.primary(), Some(&first));
        let ring = ring.using(third.id()).unwrap();
        assert_eq!(
            ring.ids().collect::<Vec<_>>(),
            [third.id(), first.id(), second.id()]
        );
        assert!(ring.find(first.id()).is_some());
        let ring = ring.without(first.id()).unwrap();
        assert!(ring.find(first.id()).is_none());
        let error = ring.without(third.id()).unwrap_err();
        assert!(error.to_string().contains("use another first"), "{error}");
        let error = ring.using(first.id()).unwrap_err().to_string();
        assert!(error.contains(&first.id().to_string()), "{error}");
        assert!(error.contains(&second.id().to_string()), "{error}");
    }

    #[test]
    fn too_many_keys_and_one_twice_are_refused() {
        let [first, ..] = keys();
        let ring = Ring::off("c").with(first.clone()).unwrap();
        assert!(
            ring.with(first)
                .unwrap_err()
                .to_string()
                .contains("given twice")
        );
        let many = (0..9).map(|_| SealKey::generate().unwrap()).collect();
        let error = ring.with_keys(many).unwrap_err().to_string();
        assert_eq!(error, "9 keys: accepted are 1 to 8");
    }

    #[test]
    fn no_mode_but_off_without_a_key() {
        let error = Ring::off("c").in_mode(SealMode::Send).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("seal send: this member has no key")
        );
        assert!(Ring::off("c").in_mode(SealMode::Off).is_ok());
    }

    #[test]
    fn what_is_told_is_read_again_and_anything_can_be_read() {
        let ring = Ring::new("c", keys().into(), SealMode::Send).unwrap();
        let told = ring.told();
        assert_eq!(Told::from_bytes(&told.to_bytes()), told);
        assert_eq!(Told::from_bytes(&[]), Told::nothing());
        assert_eq!(Told::nothing().to_bytes(), [0; 0]);
        let long = Told::from_bytes(&[9; 4_096]);
        assert_eq!(
            (long.mode, long.holds.len()),
            (SealMode::Required, KEYS_MAX)
        );
    }
}
