//! What one side lists and the other doesn't, and since when.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use tidings_api::{InstanceKey, ServiceName};

use crate::mark::{Listed, Stamp};
use crate::{Side, is_own_service};

/// What is different between the two sides about one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// It is on the old side, and not on the new one: whoever reads the new one alone misses it.
    Missing,
    /// It is on the new side, and not on the old one: whoever reads the old one alone misses it.
    Extra,
    /// Both list it, with other content: one side is behind. It is counted as long as that side
    /// doesn't move, and stands in the way after [`LAG_MAX`].
    Different,
}

/// How long one side may be behind with a change without standing in the way of a step: under
/// steady changes, one of two always is.
pub const LAG_MAX: Duration = Duration::from_secs(5);

/// How the two sides of one service agree, as this process sees them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Coverage {
    /// Instances that both sides list with the same content.
    pub matching: usize,
    /// The others, each with how long it is so.
    pub differences: BTreeMap<InstanceKey, (Difference, Duration)>,
    /// Instances on the old side whose owners don't migrate, as they have no mark.
    pub unmarked: Vec<InstanceKey>,
    covered_for: [Option<Duration>; 2],
}

/// What a coverage is made of, kept up to date.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    services: BTreeMap<ServiceName, Service>,
}

#[derive(Debug)]
struct Service {
    matching: usize,
    differences: BTreeMap<InstanceKey, Since>,
    covered_since: [Option<Instant>; 2],
    unmarked: Vec<InstanceKey>,
}

/// A difference, since when, and where the side is that is behind.
#[derive(Clone, Copy, Debug)]
struct Since {
    difference: Difference,
    since: Instant,
    behind: Option<Stamp>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing on the new side",
            Self::Extra => "missing on the old side",
            Self::Different => "different",
        })
    }
}

impl Tally {
    /// Compares the sides. `heard` says whether both are.
    pub(crate) fn update<'a>(
        &mut self,
        watched: Option<&ServiceName>,
        listings: impl Iterator<Item = (&'a InstanceKey, [Option<&'a Listed>; 2])>,
        heard: bool,
        now: Instant,
    ) {
        let mut last = std::mem::take(&mut self.services);
        let mut tally = |service: &ServiceName| {
            let before = last.remove(service);
            let (differences, covered_since) = match before {
                Some(before) => (before.differences, before.covered_since),
                None => (BTreeMap::new(), [None; 2]),
            };
            (Service::new(covered_since), differences)
        };
        let mut current = BTreeMap::<ServiceName, (Service, BTreeMap<_, _>)>::new();
        if let Some(service) = watched {
            current.insert(service.clone(), tally(service));
        }
        for (key, sides) in listings {
            if is_own_service(key.service()) {
                continue;
            }
            let (service, before) = current
                .entry(key.service().clone())
                .or_insert_with(|| tally(key.service()));
            service.count(key, sides, before, now);
        }
        self.services = current
            .into_iter()
            .map(|(name, (mut service, _))| {
                for side in Side::BOTH {
                    let covers = heard && service.covers(side, now);
                    let since = &mut service.covered_since[side.index()];
                    *since = since.or(Some(now)).filter(|_| covers);
                }
                (name, service)
            })
            .collect();
    }

    pub(crate) fn report(&self, now: Instant) -> BTreeMap<ServiceName, Coverage> {
        let services = self.services.iter();
        services
            .map(|(name, service)| (name.clone(), service.report(now)))
            .collect()
    }
}

impl Service {
    fn new(covered_since: [Option<Instant>; 2]) -> Self {
        Self {
            matching: 0,
            differences: BTreeMap::new(),
            covered_since,
            unmarked: Vec::new(),
        }
    }

    fn count(
        &mut self,
        key: &InstanceKey,
        [old, new]: [Option<&Listed>; 2],
        before: &BTreeMap<InstanceKey, Since>,
        now: Instant,
    ) {
        if old.is_some_and(Listed::is_unmarked) {
            self.unmarked.push(key.clone());
        }
        let difference = match (old, new) {
            (None, None) => return,
            (Some(_), None) => Difference::Missing,
            (None, Some(_)) => Difference::Extra,
            (Some(old), Some(new)) if is_same(old, new) => {
                self.matching += 1;
                return;
            }
            (Some(_), Some(_)) => Difference::Different,
        };
        let behind = match (old, new) {
            (Some(old), Some(new)) if is_one(old, new) => Some(old.stamp.min(new.stamp)),
            _ => None,
        };
        let last = before.get(key);
        let last = last.filter(|last| last.difference == difference && last.behind == behind);
        let since = Since {
            difference,
            since: last.map_or(now, |last| last.since),
            behind,
        };
        self.differences.insert(key.clone(), since);
    }

    /// Whether whoever reads this side alone misses nothing.
    fn covers(&self, side: Side, now: Instant) -> bool {
        let differences = self.differences.values();
        let mut in_the_way = differences.filter(|since| match since.difference {
            Difference::Missing => side == Side::New,
            Difference::Extra => side == Side::Old,
            Difference::Different => !since.is_lag(now),
        });
        in_the_way.next().is_none()
    }

    fn report(&self, now: Instant) -> Coverage {
        let differences = self.differences.iter().map(|(key, since)| {
            let lasts = now.saturating_duration_since(since.since);
            (key.clone(), (since.difference, lasts))
        });
        Coverage {
            matching: self.matching,
            differences: differences.collect(),
            unmarked: self.unmarked.clone(),
            covered_for: self
                .covered_since
                .map(|since| Some(now.saturating_duration_since(since?))),
        }
    }
}

impl Since {
    /// Whether it is but a change that one side hasn't shown yet.
    fn is_lag(self, now: Instant) -> bool {
        let lasts = now.saturating_duration_since(self.since);
        self.behind.is_some() && lasts < LAG_MAX
    }
}

impl Coverage {
    /// How long both sides have been heard, and everything on the other side was on this one too,
    /// but for what is different for less than [`LAG_MAX`]; `None` while it isn't so.
    #[must_use]
    pub fn covered_for(&self, side: Side) -> Option<Duration> {
        self.covered_for[side.index()]
    }

    /// The instances that whoever reads this side alone misses.
    pub fn missed_on(&self, side: Side) -> impl Iterator<Item = &InstanceKey> {
        let missed = match side {
            Side::Old => Difference::Extra,
            Side::New => Difference::Missing,
        };
        let differences = self.differences.iter();
        differences
            .filter(move |(_, (difference, _))| *difference == missed)
            .map(|(key, _)| key)
    }
}

/// Whether two entries are of one registration, as far as can be told.
fn is_one(old: &Listed, new: &Listed) -> bool {
    let marked = old.phase.is_some() && new.phase.is_some();
    !marked || old.generation() == new.generation()
}

/// Whether two entries are of one registration and say the same. Without marks there is no telling
/// that they are of one registration; the generations are the backends' own then.
fn is_same(old: &Listed, new: &Listed) -> bool {
    let generation = new.plain.generation();
    match (old.phase, new.phase) {
        (Some(_), Some(_)) => old.stamp == new.stamp && old.plain == new.plain,
        _ => tidings_api::Instance::clone(&old.plain).with_generation(generation) == *new.plain,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidings_api::{Generation, Instance};

    use super::*;

    fn listed(id: &str, port: u16, generation: u64) -> Listed {
        let instance = Instance::new("web", format!("10.0.0.1:{port}")).unwrap();
        let instance = instance.with_id(id).unwrap();
        Listed::new(&Arc::new(
            instance.with_generation(Generation::new(generation)),
        ))
    }

    #[test]
    fn each_difference_has_its_age_and_a_match_has_one_too() {
        let (a, other, mut tally) = (listed("a", 1, 1), listed("a", 2, 2), Tally::default());
        let key = a.plain.key();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut step = |at: u32, old: Option<&Listed>, new: Option<&Listed>, heard| {
            let now = start + second * at;
            tally.update(
                Some(key.service()),
                [(key, [old, new])].into_iter(),
                heard,
                now,
            );
            tally.report(now + second).remove(key.service()).unwrap()
        };
        let missing = step(0, Some(&a), None, true);
        assert_eq!(missing.differences[key], (Difference::Missing, second));
        assert!(missing.missed_on(Side::New).eq([key]) && missing.covered_for(Side::New).is_none());
        let missing = step(3, Some(&a), None, true);
        assert_eq!(missing.differences[key], (Difference::Missing, second * 4));
        assert_eq!(missing.unmarked, std::slice::from_ref(key));
        let different = step(4, Some(&a), Some(&other), true);
        assert_eq!(different.differences[key], (Difference::Different, second));

        let same = listed("a", 1, 900);
        assert_eq!(
            step(5, Some(&a), Some(&same), true).covered_for(Side::New),
            Some(second * 2)
        );
        assert_eq!(
            step(8, Some(&a), Some(&same), true).covered_for(Side::New),
            Some(second * 5)
        );
        assert_eq!(
            step(9, Some(&a), Some(&same), false).covered_for(Side::New),
            None
        );
        let extra = step(10, None, Some(&same), true);
        assert!(extra.covered_for(Side::Old).is_none());
        assert_eq!(
            extra.covered_for(Side::New),
            Some(second),
            "the new side has it all"
        );
        assert_eq!(extra.differences[key], (Difference::Extra, second));
        let empty = step(11, None, None, true);
        assert!(empty.differences.is_empty() && empty.covered_for(Side::Old) == Some(second));

        // One side that is always a little behind matches; one that stays behind doesn't.
        for at in 20..40_u32 {
            let (ahead, behind) = (listed("a", 1, at.into()), listed("a", 2, u64::from(at) - 1));
            let lags = step(at, Some(&ahead), Some(&behind), true);
            assert_eq!(lags.covered_for(Side::New), Some(second * (at - 9)));
        }
        let (ahead, behind) = (listed("a", 1, 50), listed("a", 2, 49));
        step(50, Some(&ahead), Some(&behind), true);
        assert!(
            step(54, Some(&ahead), Some(&behind), true)
                .covered_for(Side::New)
                .is_some()
        );
        assert!(
            step(55, Some(&ahead), Some(&behind), true)
                .covered_for(Side::New)
                .is_none()
        );
    }
}
