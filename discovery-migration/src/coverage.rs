//! What one side lists and the other doesn't, and since when.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use tidings_api::{InstanceKey, ServiceName};

use crate::mark::Listed;
use crate::{PARTICIPANTS, Side};

/// What is different between the two sides about one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// It is on the old side, and not on the new one: whoever reads the new one alone misses it.
    Missing,
    /// It is on the new side, and not on the old one: whoever reads the old one alone misses it.
    Extra,
    /// Both list it, with other content.
    Different,
}

/// How the two sides of one service agree, as this process sees them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Coverage {
    /// Instances that both sides list with the same content.
    pub matching: usize,
    /// The others, each with how long it is so.
    pub differences: BTreeMap<InstanceKey, (Difference, Duration)>,
    /// How long both sides have been heard and all instances matched; `None` while it isn't so.
    pub matched_for: Option<Duration>,
    /// Instances on the old side whose owners don't migrate, as they have no mark.
    pub unmarked: Vec<InstanceKey>,
}

/// What a coverage is made of, kept up to date.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    services: BTreeMap<ServiceName, Service>,
}

#[derive(Debug)]
struct Service {
    matching: usize,
    differences: BTreeMap<InstanceKey, (Difference, Instant)>,
    matched_since: Option<Instant>,
    unmarked: Vec<InstanceKey>,
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
            let (differences, matched_since) = match before {
                Some(before) => (before.differences, before.matched_since),
                None => (BTreeMap::new(), None),
            };
            (Service::new(matched_since), differences)
        };
        let mut current = BTreeMap::<ServiceName, (Service, BTreeMap<_, _>)>::new();
        if let Some(service) = watched {
            current.insert(service.clone(), tally(service));
        }
        for (key, sides) in listings {
            if key.service().as_str() == PARTICIPANTS {
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
                let matched = heard && service.differences.is_empty();
                let since = service.matched_since.unwrap_or(now);
                service.matched_since = matched.then_some(since);
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
    fn new(matched_since: Option<Instant>) -> Self {
        Self {
            matching: 0,
            differences: BTreeMap::new(),
            matched_since,
            unmarked: Vec::new(),
        }
    }

    fn count(
        &mut self,
        key: &InstanceKey,
        [old, new]: [Option<&Listed>; 2],
        before: &BTreeMap<InstanceKey, (Difference, Instant)>,
        now: Instant,
    ) {
        if old.is_some_and(|old| old.phase.is_none()) {
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
        let since = before.get(key).filter(|(last, _)| *last == difference);
        let since = since.map_or(now, |(_, since)| *since);
        self.differences.insert(key.clone(), (difference, since));
    }

    fn report(&self, now: Instant) -> Coverage {
        let differences = self.differences.iter().map(|(key, (difference, since))| {
            let lasts = now.saturating_duration_since(*since);
            (key.clone(), (*difference, lasts))
        });
        Coverage {
            matching: self.matching,
            differences: differences.collect(),
            matched_for: self
                .matched_since
                .map(|since| now.saturating_duration_since(since)),
            unmarked: self.unmarked.clone(),
        }
    }
}

impl Coverage {
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
        Listed::new(&Arc::new(instance.with_generation(Generation::new(generation))))
    }

    #[test]
    fn each_difference_has_its_age_and_a_match_has_one_too() {
        let (a, other, mut tally) = (listed("a", 1, 1), listed("a", 2, 2), Tally::default());
        let key = a.plain.key();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut step = |at: u32, old: Option<&Listed>, new: Option<&Listed>, heard| {
            let now = start + second * at;
            tally.update(Some(key.service()), [(key, [old, new])].into_iter(), heard, now);
            tally.report(now + second).remove(key.service()).unwrap()
        };
        let missing = step(0, Some(&a), None, true);
        assert_eq!(missing.differences[key], (Difference::Missing, second));
        assert!(missing.missed_on(Side::New).eq([key]) && missing.matched_for.is_none());
        let missing = step(3, Some(&a), None, true);
        assert_eq!(missing.differences[key], (Difference::Missing, second * 4));
        assert_eq!(missing.unmarked, [key.clone()]);
        let different = step(4, Some(&a), Some(&other), true);
        assert_eq!(different.differences[key], (Difference::Different, second));

        let same = listed("a", 1, 900);
        assert_eq!(step(5, Some(&a), Some(&same), true).matched_for, Some(second));
        assert_eq!(step(8, Some(&a), Some(&same), true).matched_for, Some(second * 4));
        assert_eq!(step(9, Some(&a), Some(&same), false).matched_for, None);
        let extra = step(10, None, Some(&same), true);
        assert_eq!(extra.differences[key], (Difference::Extra, second));
        let empty = step(11, None, None, true);
        assert!(empty.differences.is_empty() && empty.matched_for == Some(second));
    }
}
