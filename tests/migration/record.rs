//! What was there and what was seen, and whether that is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What a busy machine may add to each bound.
const SLACK: Bounds = Bounds {
    visible: 8_000_000,
    removed: 3_000_000,
    crashed: 5_000_000,
};
/// How long a client may not look up at all: what is wrong meanwhile goes unseen.
const GAP_MAX: u64 = 5_000_000;
/// How often a client looks up at least, on average.
const LOOKUPS_PER_SECOND_MIN: u64 = 20;

/// The life of one process that offers an instance, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) ready: u64,
    /// When it ended, and how.
    pub(crate) end: Option<(u64, Ending)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was told to.
    Told,
    Killed,
}

/// How long things may take, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// From a registration's return until it is seen.
    pub(crate) visible: u64,
    /// From the moment a process is told to end until its instance isn't seen.
    pub(crate) removed: u64,
    /// The same for one that is killed.
    pub(crate) crashed: u64,
}

/// What one client saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    /// From when on each view was looked at.
    pub(crate) views: Vec<(u64, BTreeSet<String>)>,
    pub(crate) lookups: u64,
    /// The longest time between two of them.
    pub(crate) gap: u64,
    pub(crate) last: u64,
    /// Contents that went back in time, as the client says it.
    pub(crate) back: Vec<String>,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) lives: BTreeMap<String, Life>,
    pub(crate) sights: Vec<Sight>,
    /// As the processes state them, the worst of all sides and phases.
    pub(crate) bounds: Bounds,
    /// Times in which what has vanished was held on purpose, because a side had been lost: nobody
    /// is late who ends in one of them, before it is over.
    pub(crate) holds: Vec<(u64, u64)>,
}

impl Bounds {
    /// Takes the worse of each.
    pub(crate) fn worsen(&mut self, other: Self) {
        self.visible = self.visible.max(other.visible);
        self.removed = self.removed.max(other.removed);
        self.crashed = self.crashed.max(other.crashed);
    }

    fn plus(self, other: Self) -> Self {
        Self {
            visible: self.visible + other.visible,
            removed: self.removed + other.removed,
            crashed: self.crashed + other.crashed,
        }
    }
}

impl Record {
    /// Fails where a lookup missed an instance that was there, or found one that had ended too long
    /// before; says how much was looked at, and what took longest.
    pub(crate) fn expect_nobody_missed(&self) {
        let bounds = self.bounds.plus(SLACK);
        let (mut wrong, mut took) = (String::new(), Bounds::default());
        let mut crashes_seen = 0;
        for (client, sight) in self.sights.iter().enumerate() {
            for back in sight.back.iter().cloned().chain(sight.pauses()) {
                let _ = writeln!(wrong, "client {client}: {back}");
            }
            for (name, life) in &self.lives {
                match sight.check(name, life, bounds, &self.holds) {
                    Ok(seen) => {
                        took.worsen(seen);
                        crashes_seen += u32::from(sight.saw_crash(name, life));
                    }
                    Err(text) => {
                        let _ = writeln!(wrong, "client {client}: {name}: {text} ({life:?})");
                    }
                }
            }
        }
        let lookups: u64 = self.sights.iter().map(|sight| sight.lookups).sum();
        let ends = |how| {
            let ends = self.lives.values().filter_map(|life| life.end);
            ends.filter(|(_, end)| *end == how).count()
        };
        let gap = self.sights.iter().map(|sight| sight.gap).max();
        println!(
            "{lookups} lookups by {} clients, at most {} ms apart; {} instances, of which {} were \
             killed; nobody missed, and nobody found who had ended: seen after {} ms at most, gone \
             {} ms after the goodbye, {} ms after SIGKILL (seen {crashes_seen} times); stated are \
             {:?}",
            self.sights.len(),
            gap.unwrap_or_default() / 1_000,
            self.lives.len(),
            ends(Ending::Killed),
            took.visible / 1_000,
            took.removed / 1_000,
            took.crashed / 1_000,
            self.bounds,
        );
        assert!(wrong.is_empty(), "{wrong}");
        assert!(lookups > 100, "nobody looked");
        assert!(
            ends(Ending::Killed) == 0 || crashes_seen > 0,
            "no crash was seen"
        );
    }
}

impl Sight {
    /// Says where the client hasn't looked.
    fn pauses(&self) -> impl Iterator<Item = String> {
        let first = self.views.first().map_or(self.last, |(first, _)| *first);
        let seconds = (self.last - first) / 1_000_000;
        let few = self.lookups < seconds * LOOKUPS_PER_SECOND_MIN;
        let few = few.then(|| format!("{} lookups in {seconds} s", self.lookups));
        let gap = (self.gap > GAP_MAX).then(|| format!("did not look for {} µs", self.gap));
        few.into_iter().chain(gap)
    }

    /// Whether the client saw an instance until it was killed, and then saw it go.
    fn saw_crash(&self, name: &str, life: &Life) -> bool {
        let Some((end, Ending::Killed)) = life.end else {
            return false;
        };
        let before = self.views.iter().rfind(|(from, _)| *from <= end);
        let last = self.views.last();
        before.is_some_and(|(_, view)| view.contains(name))
            && last.is_some_and(|(_, view)| !view.contains(name))
    }

    /// Compares what was seen of an instance with its life; says how long it took to be seen, and
    /// to be gone.
    fn check(
        &self,
        name: &str,
        life: &Life,
        bounds: Bounds,
        holds: &[(u64, u64)],
    ) -> Result<Bounds, String> {
        let Some((first, _)) = self.views.first() else {
            return Err("the client has never looked".to_owned());
        };
        let end = life.end.map_or(u64::MAX, |(end, _)| end);
        let (mut seen, mut took) = (false, Bounds::default());
        for (at, (from, view)) in self.views.iter().enumerate() {
            let until = self.views.get(at + 1).map_or(self.last, |(next, _)| *next);
            if view.contains(name) {
                if !seen && *first < life.ready {
                    took.visible = from.saturating_sub(life.ready);
                }
                seen = true;
                let (late, bound) = match life.end {
                    Some((_, Ending::Killed)) => (&mut took.crashed, bounds.crashed),
                    _ => (&mut took.removed, bounds.removed),
                };
                let hold = holds.iter().find(|(from, to)| (*from..*to).contains(&end));
                let gone = hold.map_or(end, |(_, to)| *to);
                *late = until.saturating_sub(gone);
                if *late > bound {
                    return Err(format!("found {} ms after its end", (until - end) / 1_000));
                }
                continue;
            }
            // Seen once, it is there until its end; and it has to be seen in time.
            let due = if seen {
                *from
            } else {
                life.ready.max(*first) + bounds.visible
            };
            let (missed_from, missed_until) = (due.max(*from), until.min(end));
            let was_there = life.ready + bounds.visible < *first && *first < end;
            if missed_from < missed_until || (at == 0 && was_there && *from < missed_until) {
                let time = (missed_until - missed_from.min(missed_until)) / 1_000;
                return Err(format!("missed for {time} ms until {missed_until}"));
            }
        }
        Ok(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn sight(views: &[(u64, &[&str])], last: u64) -> Sight {
        let views = views.iter().map(|(from, names)| {
            let names = names.iter().map(ToString::to_string).collect();
            (*from * S, names)
        });
        Sight {
            views: views.collect(),
            lookups: 10_000,
            last: last * S,
            ..Sight::default()
        }
    }

    #[test]
    fn a_miss_and_a_ghost_are_noticed() {
        let bounds = Bounds {
            visible: 10 * S,
            removed: 5 * S,
            crashed: 20 * S,
        };
        let told = Life {
            ready: 100 * S,
            end: Some((200 * S, Ending::Told)),
        };
        let killed = Life {
            end: Some((200 * S, Ending::Killed)),
            ..told
        };
        let check = |life: &Life, views: &[(u64, &[&str])]| {
            sight(views, 300).check("a", life, bounds, &[(200 * S, 230 * S)][..0])
        };
        let a: &[&str] = &["a"];
        let took = check(&told, &[(99, &[]), (101, a), (203, &[])]).unwrap();
        assert_eq!((took.visible, took.removed), (S, 3 * S));
        let took = check(&killed, &[(99, &[]), (101, a), (219, &[])]).unwrap();
        assert_eq!(took.crashed, 19 * S);
        assert!(check(&told, &[(150, a), (201, &[])]).is_ok());
        for (wrong, why) in [
            (
                &[(99, &[][..]), (101, a), (150, &[]), (151, a), (201, &[])][..],
                "a flap",
            ),
            (&[(99, &[]), (120, a), (201, &[])], "late"),
            (&[(99, &[]), (101, a), (190, &[])], "gone too early"),
            (&[(99, &[]), (101, a), (250, &[])], "a ghost"),
            (
                &[(99, &[]), (101, a), (201, &[]), (240, a), (241, &[])],
                "a ghost again",
            ),
            (&[(99, &[]), (101, a)], "a ghost for ever"),
            (&[(150, &[]), (151, a), (201, &[])], "not in the first view"),
        ] {
            assert!(check(&told, wrong).is_err(), "{why}");
            assert!(check(&killed, wrong).is_err(), "{why}");
        }
        let held = sight(&[(99, &[]), (101, a), (240, &[])], 300);
        assert!(held.saw_crash("a", &killed) && !held.saw_crash("a", &told));
        let ghost = sight(&[(99, &[]), (101, a)], 300);
        assert!(!ghost.saw_crash("a", &killed) && !held.saw_crash("b", &killed));
        assert!(
            held.check("a", &killed, bounds, &[(199 * S, 230 * S)])
                .is_ok()
        );
        assert!(
            held.check("a", &killed, bounds, &[(201 * S, 230 * S)])
                .is_err()
        );
    }

    #[test]
    fn a_client_that_does_not_look_is_noticed() {
        let looks = sight(&[(100, &["a"])], 300);
        assert_eq!(looks.pauses().count(), 0);
        let lazy = Sight {
            lookups: 100,
            ..looks.clone()
        };
        assert_eq!(lazy.pauses().count(), 1);
        let absent = Sight {
            gap: 6 * S,
            ..looks
        };
        assert_eq!(absent.pauses().count(), 1);
    }
}
