//! How both ends compare, before anybody moves.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tidings_api::{Bounds, Result, Status};

use crate::{Migration, Side};

/// What one end does with what the contract leaves to it, by topic, in words: the most it stores of
/// an instance, what others see of a health, what stays after a crash.
pub type Traits = BTreeMap<&'static str, String>;

/// Both ends side by side: [`Migration::preflight`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preflight {
    /// The name and bounds of each end.
    pub ends: BTreeMap<Side, (&'static str, Bounds)>,
    /// What is to be compared: the bounds, and what the ends say of themselves.
    pub topics: Vec<Comparison>,
}

/// One topic of a [`Preflight`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// What it is about.
    pub name: &'static str,
    /// What the old end does; `None` where it says nothing about it.
    pub old: Option<String>,
    /// What the new end does.
    pub new: Option<String>,
    /// What holds when, where that has to be said.
    pub consequence: Option<String>,
}

impl Migration {
    /// Compares both ends: their bounds, and the limits and the health mapping that they state. An
    /// end that isn't in use is started for it and closed again; nothing is registered there.
    ///
    /// # Errors
    /// Where an end that isn't in use can't be started, or was given as a handle, which can be
    /// started only once.
    pub async fn preflight(&self) -> Result<Preflight> {
        let old = self.inner.look_at(Side::Old).await?;
        let new = self.inner.look_at(Side::New).await?;
        Ok(Preflight::new([old, new]))
    }
}

impl Preflight {
    fn new([old, new]: [(Status, Traits); 2]) -> Self {
        let (old_bounds, new_bounds) = (*old.0.bounds(), *new.0.bounds());
        let mut topics = vec![
            Comparison::bound(
                "visible elsewhere after",
                |b| b.visible,
                [old_bounds, new_bounds],
            ),
            Comparison::bound(
                "gone after a goodbye",
                |b| b.removed,
                [old_bounds, new_bounds],
            ),
            Comparison::bound(
                "gone after a crash",
                |b| b.crashed,
                [old_bounds, new_bounds],
            ),
            Comparison::bound(
                "view stale in an outage",
                |b| b.stale,
                [old_bounds, new_bounds],
            ),
        ];
        let mut names: Vec<_> = old.1.keys().chain(new.1.keys()).copied().collect();
        names.sort_unstable();
        names.dedup();
        topics.extend(names.into_iter().map(|name| {
            let (old, new) = (old.1.get(name).cloned(), new.1.get(name).cloned());
            Comparison {
                name,
                old,
                new,
                consequence: None,
            }
        }));
        let ends = [
            (Side::Old, (old.0.backend(), old_bounds)),
            (Side::New, (new.0.backend(), new_bounds)),
        ];
        Self {
            ends: ends.into(),
            topics,
        }
    }

    /// The topics in which the ends differ.
    pub fn differences(&self) -> impl Iterator<Item = &Comparison> {
        self.topics.iter().filter(|topic| topic.differs())
    }
}

impl Comparison {
    /// Whether it changes with the move.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.old != self.new
    }

    fn bound(name: &'static str, of: impl Fn(&Bounds) -> Duration, both: [Bounds; 2]) -> Self {
        let [old, new] = both.map(|bounds| of(&bounds));
        let worse = old.max(new);
        let consequence = match old.cmp(&new) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Less => Some(format!("{worse:?} from both-read-merged on")),
            std::cmp::Ordering::Greater => {
                Some(format!("{worse:?} until both-read-merged, then {new:?}"))
            }
        };
        Self {
            name,
            old: Some(format!("≤ {old:?}")),
            new: Some(format!("≤ {new:?}")),
            consequence,
        }
    }
}

/// For people: each topic with both ends, and what changes.
impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.ends.values().map(|(name, _)| *name).collect();
        writeln!(f, "{}", names.join(" → "))?;
        for topic in &self.topics {
            let side = |text: &Option<String>| text.clone().unwrap_or("not stated".to_owned());
            let (old, new) = (side(&topic.old), side(&topic.new));
            let name = topic.name;
            match &topic.consequence {
                _ if !topic.differs() => writeln!(f, "  {name}: {old} on both")?,
                None => writeln!(f, "! {name}: {old} → {new}")?,
                Some(what) => writeln!(f, "! {name}: {old} → {new} ({what})")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidings_api::Connection;

    use super::*;

    fn end(name: &'static str, crashed: u64, health: &str) -> (Status, Traits) {
        let second = Duration::from_secs(1);
        let bounds = Bounds {
            visible: second,
            removed: second,
            crashed: Duration::from_secs(crashed),
            stale: second,
        };
        let traits = [("health for others", health.to_owned())].into();
        (Status::new(name, Connection::Connected, bounds), traits)
    }

    #[test]
    fn what_differs_is_shown_with_what_it_means() {
        let same = Preflight::new([end("a", 5, "as it is"), end("b", 5, "as it is")]);
        assert_eq!(same.differences().count(), 0);
        let other = Preflight::new([end("a", 5, "as it is"), end("b", 13, "none")]);
        let differing: Vec<_> = other.differences().map(|topic| topic.name).collect();
        assert_eq!(differing, ["gone after a crash", "health for others"]);
        assert_eq!(
            other.to_string(),
            "a → b\n  visible elsewhere after: ≤ 1s on both\n  gone after a goodbye: ≤ 1s on both\n\
             ! gone after a crash: ≤ 5s → ≤ 13s (13s from both-read-merged on)\n  \
             view stale in an outage: ≤ 1s on both\n\
             ! health for others: as it is → none\n"
        );
        let shorter = Preflight::new([end("a", 13, ""), end("b", 5, "")]);
        let crashed = shorter.differences().next().unwrap();
        let expected = "13s until both-read-merged, then 5s";
        assert_eq!(crashed.consequence.as_deref(), Some(expected));
    }
}
