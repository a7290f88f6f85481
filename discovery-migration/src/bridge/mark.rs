//! What a bridge writes on a mirror.

use std::fmt;
use std::str::FromStr;

use tidings_api::{Generation, Instance, METADATA_MIRROR_KEY, Result};

/// The value under [`METADATA_MIRROR_KEY`]: `holder generation origin`.
///
/// The generation is the mirrored instance's own, so that a [`Migration`](crate::Migration) which
/// reads both sides sees one instance and not two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BridgeMark {
    /// The name of the bridge that keeps it.
    pub(crate) holder: String,
    pub(crate) generation: Generation,
    /// Where it is mirrored from.
    pub(crate) origin: String,
}

impl BridgeMark {
    /// The mark of an instance, where it has one that can be read.
    pub(crate) fn of(instance: &Instance) -> Option<Self> {
        instance.metadata().get(METADATA_MIRROR_KEY)?.parse().ok()
    }

    /// The instance as it is written, with this mark.
    ///
    /// # Errors
    /// Where it has as many reserved metadata entries as it may.
    pub(crate) fn put_on(&self, instance: &Instance) -> Result<Instance> {
        let health = instance.health().clone();
        let marked = instance
            .clone()
            .with_metadata(METADATA_MIRROR_KEY, self.to_string())?;
        // The health is said, so that the target keeps none of its own.
        Ok(marked
            .with_health(health)
            .with_generation(Generation::default()))
    }
}

impl fmt::Display for BridgeMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            holder,
            generation,
            origin,
        } = self;
        write!(f, "{holder} {generation} {origin}")
    }
}

impl FromStr for BridgeMark {
    type Err = ();

    /// Words after the third are a newer version's.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let mut word = || words.next().filter(|word| !word.is_empty()).ok_or(());
        Ok(Self {
            holder: word()?.to_owned(),
            generation: Generation::new(word()?.parse().map_err(drop)?),
            origin: word()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_makes_a_mirror() {
        let mark = BridgeMark {
            holder: "bridge-1".to_owned(),
            generation: Generation::new(7),
            origin: "gossip".to_owned(),
        };
        let instance = Instance::new("web", "10.0.0.1:80").unwrap();
        let mirror = mark.put_on(&instance).unwrap();
        assert!(mirror.is_mirror() && BridgeMark::of(&instance).is_none());
        assert_eq!(BridgeMark::of(&mirror), Some(mark.clone()));
        assert_eq!("bridge-1 7 gossip more".parse(), Ok(mark));
        for text in ["", "a", "a 7", "a x gossip", " 7 gossip"] {
            assert_eq!(text.parse::<BridgeMark>(), Err(()), "{text:?}");
        }
    }
}
