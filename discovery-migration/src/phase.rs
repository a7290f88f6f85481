//! The phases of a move, and what each means for writing and reading.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use tidings_api::config::shown;
use tidings_api::{Error, Result, ServiceName};

/// One of the two backends of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Where everybody is before the move.
    Old,
    /// Where everybody is after it.
    New,
}

/// Some of the two sides: those that list an instance, are written to, or are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sides {
    old: bool,
    new: bool,
}

/// How far one process has moved. Each phase is reached from its neighbours, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Registers and reads in the old backend; the new one isn't touched.
    #[default]
    Old,
    /// Registers in both, reads the old one.
    BothReadOld,
    /// Registers in both, reads the union of both.
    BothReadMerged,
    /// Registers in both, reads the new one.
    BothReadNew,
    /// Registers and reads in the new backend; the old one isn't touched.
    New,
}

/// The phase of every service: one for all, and those that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The phase of the services that aren't in `services`.
    pub all: Phase,
    /// Services that are in another phase.
    pub services: BTreeMap<ServiceName, Phase>,
}

impl Side {
    /// Both, the old one first.
    pub const BOTH: [Self; 2] = [Self::Old, Self::New];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Old => Self::New,
            Self::New => Self::Old,
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Old => 0,
            Self::New => 1,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Old => "old",
            Self::New => "new",
        })
    }
}

impl Sides {
    /// Neither.
    pub const NONE: Self = Self {
        old: false,
        new: false,
    };
    /// The old one.
    pub const OLD: Self = Self {
        old: true,
        new: false,
    };
    /// The new one.
    pub const NEW: Self = Self {
        old: false,
        new: true,
    };
    /// Both.
    pub const BOTH: Self = Self {
        old: true,
        new: true,
    };

    /// Whether this side is among them.
    #[must_use]
    pub fn has(self, side: Side) -> bool {
        match side {
            Side::Old => self.old,
            Side::New => self.new,
        }
    }

    /// These and those.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            old: self.old || other.old,
            new: self.new || other.new,
        }
    }

    /// Those among them, the old one first.
    pub fn iter(self) -> impl Iterator<Item = Side> {
        Side::BOTH.into_iter().filter(move |side| self.has(*side))
    }
}

impl From<Side> for Sides {
    fn from(side: Side) -> Self {
        match side {
            Side::Old => Self::OLD,
            Side::New => Self::NEW,
        }
    }
}

impl FromIterator<Side> for Sides {
    fn from_iter<I: IntoIterator<Item = Side>>(sides: I) -> Self {
        let sides = sides.into_iter();
        sides.fold(Self::NONE, |all, side| all.union(side.into()))
    }
}

impl fmt::Display for Sides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.old, self.new) {
            (true, true) => "both",
            (true, false) => "old",
            (false, true) => "new",
            (false, false) => "neither",
        })
    }
}

impl Phase {
    /// All, in the order of the move.
    pub const ALL: [Self; 5] = [
        Self::Old,
        Self::BothReadOld,
        Self::BothReadMerged,
        Self::BothReadNew,
        Self::New,
    ];

    /// The name, as in a configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::BothReadOld => "both-read-old",
            Self::BothReadMerged => "both-read-merged",
            Self::BothReadNew => "both-read-new",
            Self::New => "new",
        }
    }

    /// Where a process in this phase registers.
    #[must_use]
    pub fn writes(self) -> Sides {
        match self {
            Self::Old => Sides::OLD,
            Self::BothReadOld | Self::BothReadMerged | Self::BothReadNew => Sides::BOTH,
            Self::New => Sides::NEW,
        }
    }

    /// Where a process in this phase looks others up.
    #[must_use]
    pub fn reads(self) -> Sides {
        match self {
            Self::Old | Self::BothReadOld => Sides::OLD,
            Self::BothReadMerged => Sides::BOTH,
            Self::BothReadNew | Self::New => Sides::NEW,
        }
    }

    /// The next phase on the way to `target`; itself when it is there.
    #[must_use]
    pub fn toward(self, target: Self) -> Self {
        let at = |phase| Self::ALL.iter().position(|p| *p == phase).unwrap_or(0);
        let (here, there) = (at(self), at(target));
        match here.cmp(&there) {
            std::cmp::Ordering::Less => Self::ALL[here + 1],
            std::cmp::Ordering::Equal => self,
            std::cmp::Ordering::Greater => Self::ALL[here - 1],
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Phase {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|phase| phase.as_str() == text);
        found.ok_or_else(|| {
            Error::invalid_config(format!(
                "phase {}: accepted are {}",
                shown(text),
                Self::ALL.map(Self::as_str).join(", ")
            ))
        })
    }
}

impl Plan {
    /// All services in one phase.
    #[must_use]
    pub fn all(phase: Phase) -> Self {
        Self {
            all: phase,
            services: BTreeMap::new(),
        }
    }

    /// The phase of one service.
    #[must_use]
    pub fn phase(&self, service: &ServiceName) -> Phase {
        self.services.get(service).copied().unwrap_or(self.all)
    }

    /// The phases that occur in it.
    pub fn phases(&self) -> impl Iterator<Item = Phase> {
        std::iter::once(self.all).chain(self.services.values().copied())
    }

    /// The sides that a process with this plan is connected to.
    #[must_use]
    pub fn sides(&self) -> Sides {
        self.phases()
            .fold(Sides::NONE, |sides, phase| sides.union(phase.writes()))
    }
}

impl From<Phase> for Plan {
    fn from(phase: Phase) -> Self {
        Self::all(phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_reads_a_side_writes_it() {
        // Otherwise a process would not find itself (REG-1).
        for phase in Phase::ALL {
            let reads = phase.reads();
            assert!(reads.iter().all(|side| phase.writes().has(side)), "{phase}");
        }
    }

    #[test]
    fn neighbours_see_each_other() {
        for pair in Phase::ALL.windows(2) {
            for (writer, reader) in [(pair[0], pair[1]), (pair[1], pair[0])] {
                let common = reader.reads().iter().any(|side| writer.writes().has(side));
                assert!(common, "{reader} doesn't see {writer}");
            }
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for phase in Phase::ALL {
            assert_eq!(phase.to_string().parse::<Phase>().unwrap(), phase);
        }
        assert_eq!(
            "both".parse::<Phase>().unwrap_err().to_string(),
            "phase \"both\": accepted are old, both-read-old, both-read-merged, both-read-new, new"
        );
    }

    #[test]
    fn one_step_at_a_time_in_both_directions() {
        assert_eq!(Phase::Old.toward(Phase::New), Phase::BothReadOld);
        assert_eq!(Phase::New.toward(Phase::Old), Phase::BothReadNew);
        assert_eq!(
            Phase::BothReadMerged.toward(Phase::BothReadMerged),
            Phase::BothReadMerged
        );
    }
}
