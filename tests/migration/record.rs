//! What was there and what was seen, and whether that is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// How long a registration may take to be seen, with everything in between on a busy machine.
const VISIBLE_BOUND: u64 = 10_000_000;
/// How long an instance may be seen after its process said goodbye.
const REMOVED_BOUND: u64 = 5_000_000;
/// How long after it was killed: the lease in etcd, or its members' suspicion, and some time for a
/// busy machine.
const CRASHED_BOUND: u64 = 20_000_000;

/// The life of one process that offers an instance, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) ready: u64,
    /// When it was told to end, and whether by a signal.
    pub(crate) end: Option<(u64, bool)>,
}

/// What one client saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    /// From when on each view was looked at.
    pub(crate) views: Vec<(u64, BTreeSet<String>)>,
    pub(crate) lookups: u64,
    pub(crate) last: u64,
    /// Contents that went back in time, as the client says it.
    pub(crate) back: Vec<String>,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) lives: BTreeMap<String, Life>,
    pub(crate) sights: Vec<Sight>,
}

impl Record {
    /// Fails where a lookup missed an instance that was there, or found one that wasn't any more.
    pub(crate) fn expect_nobody_missed(&self) {
        let lookups: u64 = self.sights.iter().map(|sight| sight.lookups).sum();
        let mut wrong = String::new();
        for (client, sight) in self.sights.iter().enumerate() {
            for back in &sight.back {
                let _ = writeln!(wrong, "client {client}: {back}");
            }
            for (name, life) in &self.lives {
                if let Err(text) = sight.check(name, life) {
                    let _ = writeln!(wrong, "client {client}: {name}: {text} ({life:?})");
                }
            }
        }
        println!(
            "{lookups} lookups by {} clients, {} instances",
            self.sights.len(),
            self.lives.len()
        );
        assert!(wrong.is_empty(), "{wrong}");
        assert!(lookups > 100, "nobody looked");
    }
}

impl Sight {
    /// Compares what was seen of an instance with its life.
    fn check(&self, name: &str, life: &Life) -> Result<(), String> {
        let Some((first, _)) = self.views.first() else {
            return Err("the client has never looked".to_owned());
        };
        let end = life.end.map_or(u64::MAX, |(end, _)| end);
        let mut seen = false;
        for (at, (from, view)) in self.views.iter().enumerate() {
            let until = self.views.get(at + 1).map_or(self.last, |(next, _)| *next);
            if view.contains(name) {
                seen = true;
                let bound = match life.end {
                    Some((_, true)) => CRASHED_BOUND,
                    _ => REMOVED_BOUND,
                };
                if until > end.saturating_add(bound) {
                    let late = (until - end) / 1_000;
                    return Err(format!("found {late} ms after its end"));
                }
                continue;
            }
            // Seen once, it is there until its end; and it has to be seen in time.
            let due = if seen {
                *from
            } else {
                life.ready.max(*first) + VISIBLE_BOUND
            };
            let (missed_from, missed_until) = (due.max(*from), until.min(end));
            let was_there = life.ready + VISIBLE_BOUND < *first && *first < end;
            if missed_from < missed_until || (at == 0 && was_there && *from < missed_until) {
                let time = (missed_until - missed_from.min(missed_until)) / 1_000;
                return Err(format!("missed for {time} ms"));
            }
        }
        Ok(())
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
            lookups: 1,
            last: last * S,
            back: Vec::new(),
        }
    }

    #[test]
    fn a_miss_and_a_ghost_are_noticed() {
        let life = Life {
            ready: 100 * S,
            end: Some((200 * S, false)),
        };
        let check = |views: &[(u64, &[&str])], last| sight(views, last).check("a", &life);
        let a: &[&str] = &["a"];
        assert!(check(&[(99, &[]), (101, a), (201, &[])], 300).is_ok());
        assert!(
            check(
                &[(99, &[]), (101, a), (150, &[]), (151, a), (201, &[])],
                300
            )
            .is_err()
        );
        assert!(
            check(&[(99, &[]), (120, a), (201, &[])], 300).is_err(),
            "late"
        );
        assert!(
            check(&[(99, &[]), (101, a), (190, &[])], 300).is_err(),
            "gone too early"
        );
        assert!(
            check(&[(99, &[]), (101, a), (250, &[])], 300).is_err(),
            "a ghost"
        );
        assert!(
            check(&[(99, &[]), (101, a)], 300).is_err(),
            "a ghost for ever"
        );
        assert!(
            check(&[(150, &[]), (151, a), (201, &[])], 300).is_err(),
            "not in the first view"
        );
        assert!(check(&[(150, a), (201, &[])], 300).is_ok());
    }
}
