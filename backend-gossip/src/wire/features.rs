//! What a build understands beyond version 1, as each member says of itself.

use std::fmt;

/// A set of features. Bits are append-only: one that was ever given out keeps its meaning.
///
/// A member says its set in its [`Alive`](super::message::Alive), so everybody knows what everybody
/// understands. Messages of a feature go to members that have it, and to nobody else; what is
/// replicated needs none of this, since unknown fields are passed on.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Features(u64);

impl Features {
    /// Version 1 and nothing else: a member that says nothing.
    pub const NONE: Self = Self(0);
    /// Says what it understands: every build since there is this set.
    pub const STATED: Self = Self(1 << 0);

    /// Hears events and queries.
    pub const EVENTS: Self = Self(1 << 1);
    /// Lets observers look through it.
    pub const OBSERVERS: Self = Self(1 << 2);

    /// What this build understands.
    pub const OURS: Self = Self::STATED.union(Self::EVENTS).union(Self::OBSERVERS);

    /// The set with these bits, those without a name included: they belong to newer builds.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether it has all of `others`.
    #[must_use]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// As bits: names differ between builds.
impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({:#b})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_contains_its_parts() {
        let two = Features::from_bits(0b110);
        assert!(two.contains(Features::from_bits(0b100)) && two.contains(Features::NONE));
        assert!(!two.contains(Features::STATED));
        assert_eq!(two.union(Features::STATED).bits(), 0b111);
        assert_eq!(two.intersection(Features::from_bits(0b011)).bits(), 0b010);
        assert_eq!(format!("{two:?}"), "Features(0b110)");
    }
}
