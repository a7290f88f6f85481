//! What a migrating process writes beside an instance, so that the same registration is recognised
//! on both sides.
//!
//! Each backend draws a generation of its own, at its own moment, and raises it where it meets a
//! rival. So the two entries of one registration have different generations, and nothing tells
//! which of two contents is newer. The mark does: one metadata entry under a reserved key with the
//! registration's generation, the revision of its content, and its owner's phase.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tidings_api::{Generation, Instance, METADATA_MIRROR_KEY};

use crate::bridge::BridgeMark;
use crate::{Phase, Side};

/// The metadata key of the mark. What starts with [`tidings.`](tidings_api::METADATA_RESERVED_PREFIX)
/// is kept from applications that use a [`Migration`](crate::Migration); others see it.
pub const MARK_KEY: &str = "tidings.migration";

/// Which content of which registration this is. The greater one is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stamp {
    /// The registration, the same on both sides.
    pub(crate) generation: Generation,
    /// Counts the contents of one registration; 0 for instances without a mark.
    pub(crate) revision: u64,
}

/// The value under [`MARK_KEY`]: `generation revision phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) stamp: Stamp,
    pub(crate) phase: Phase,
}

impl Mark {
    /// The mark of an instance, where it has one.
    pub(crate) fn of(instance: &Instance) -> Option<Self> {
        instance.metadata().get(MARK_KEY)?.parse().ok()
    }

    /// The instance as it is written, with this mark. The reserved entry has room whatever the
    /// application's metadata is.
    pub(crate) fn put_on(self, instance: &Instance) -> Instance {
        let plain = instance.clone();
        plain
            .clone()
            .with_metadata(MARK_KEY, self.to_string())
            .unwrap_or(plain)
            .with_health(instance.health().clone())
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stamp {
            generation,
            revision,
        } = self.stamp;
        write!(f, "{generation} {revision} {}", self.phase)
    }
}

impl FromStr for Mark {
    type Err = ();

    /// Words after the third are a newer version's.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(());
        let generation = Generation::new(word()?.parse().map_err(drop)?);
        let revision = word()?.parse().map_err(drop)?;
        let phase = word()?.parse().map_err(drop)?;
        Ok(Self {
            stamp: Stamp {
                generation,
                revision,
            },
            phase,
        })
    }
}

/// An instance as a side lists it, and as applications see it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// As the side shows it, to notice at a glance that nothing has changed.
    pub(crate) raw: Arc<Instance>,
    /// Without the mark, and with the generation that both sides share.
    pub(crate) plain: Arc<Instance>,
    pub(crate) stamp: Stamp,
    /// Its owner's phase; `None` where it has no mark: the owner doesn't migrate.
    pub(crate) phase: Option<Phase>,
}

impl Listed {
    pub(crate) fn new(raw: &Arc<Instance>) -> Self {
        let bridged = BridgeMark::of(raw);
        let Some(mark) = Mark::of(raw) else {
            if let Some(bridged) = bridged {
                return Self::mirrored(raw, &bridged);
            }
            return Self {
                plain: raw.clone(),
                stamp: Stamp {
                    generation: raw.generation(),
                    revision: 0,
                },
                phase: None,
                raw: raw.clone(),
            };
        };
        let plain = Instance::clone(raw)
            .without_metadata(MARK_KEY)
            .without_metadata(METADATA_MIRROR_KEY)
            .with_generation(mark.stamp.generation);
        Self {
            plain: Arc::new(plain),
            stamp: mark.stamp,
            phase: Some(mark.phase),
            raw: raw.clone(),
        }
    }

    /// A mirror of an instance whose owner doesn't migrate.
    fn mirrored(raw: &Arc<Instance>, mark: &BridgeMark) -> Self {
        let plain = Instance::clone(raw)
            .without_metadata(METADATA_MIRROR_KEY)
            .with_generation(mark.generation);
        Self {
            plain: Arc::new(plain),
            stamp: Stamp {
                generation: mark.generation,
                revision: 0,
            },
            phase: None,
            raw: raw.clone(),
        }
    }

    pub(crate) fn generation(&self) -> Generation {
        self.stamp.generation
    }

    /// Whether its owner lives on without a side, by its phase.
    pub(crate) fn has_left(&self, side: Side) -> bool {
        self.phase.is_some_and(|phase| !phase.writes().has(side))
    }

    /// Whether its owner itself is on this side.
    pub(crate) fn is_direct(&self) -> bool {
        !self.raw.is_mirror()
    }

    /// Whether its owner is on this side and doesn't migrate. A mirror's owner is on the other.
    pub(crate) fn is_unmarked(&self) -> bool {
        self.phase.is_none() && self.is_direct()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark {
            stamp: Stamp {
                generation: Generation::new(7),
                revision: 3,
            },
            phase: Phase::BothReadMerged,
        }
    }

    #[test]
    fn a_mark_comes_back_and_leaves_the_instance_as_it_was() {
        let full = (0..tidings_api::METADATA_ENTRIES_MAX).fold(
            Instance::new("web", "10.0.0.1:80").unwrap(),
            |instance, n| instance.with_metadata(format!("k{n}"), "v").unwrap(),
        );
        let marked = Arc::new(mark().put_on(&full).with_generation(Generation::new(99)));
        assert_eq!(Mark::of(&marked), Some(mark()));
        let listed = Listed::new(&marked);
        assert_eq!(*listed.plain, full.with_generation(Generation::new(7)));
        assert_eq!(
            (listed.stamp, listed.phase),
            (mark().stamp, Some(mark().phase))
        );
    }

    #[test]
    fn a_mirror_is_listed_as_what_it_mirrors() {
        let source = Instance::new("web", "10.0.0.1:80").unwrap();
        let source = source.with_generation(Generation::new(7));
        for source in [source.clone(), mark().put_on(&source)] {
            let bridge = BridgeMark {
                holder: "bridge".to_owned(),
                generation: source.generation(),
                origin: "gossip".to_owned(),
            };
            let source = Arc::new(source);
            let mirror = bridge.put_on(&source).unwrap();
            let mirror = mirror.with_generation(Generation::new(3));
            let (direct, mirrored) = (Listed::new(&source), Listed::new(&Arc::new(mirror)));
            assert_eq!(direct.plain, mirrored.plain);
            assert_eq!(
                (direct.stamp, direct.phase),
                (mirrored.stamp, mirrored.phase)
            );
            assert!(direct.is_direct() && !mirrored.is_direct() && !mirrored.is_unmarked());
        }
    }

    #[test]
    fn what_is_no_mark_is_left_alone() {
        for text in ["", "7", "7 3", "7 3 sideways", "x 3 old", "-1 3 old"] {
            let instance = Instance::new("web", "10.0.0.1:80").unwrap();
            let instance = Arc::new(instance.with_metadata(MARK_KEY, text).unwrap());
            let listed = Listed::new(&instance);
            assert!(
                listed.phase.is_none() && listed.plain == instance,
                "{text:?}"
            );
        }
        assert_eq!("7 3 both-read-merged more".parse(), Ok(mark()));
    }
}
