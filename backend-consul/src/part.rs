//! What the catalog says of one service, over time.
//!
//! Each answer is a complete list. What is missing in it has left, with two exceptions, both for a
//! while only and only after something was wrong with Consul itself (WAT-10): what is there but was
//! lost by its owner, and what is missing from a catalog that is a new one. Owners need a moment to
//! be heard again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Freshness, Generation, InstanceKey};

use crate::entry::{Entry, Reading};

/// How long an older owner is kept back once the newer one has left. It learns of the newer one in a
/// moment, and stops; one that goes on for longer has never met it, and is the owner again.
const KEPT_BACK_TIME: Duration = Duration::from_secs(30);

/// One service as a handle shows it.
#[derive(Debug)]
pub(crate) struct Part {
    entries: BTreeMap<InstanceKey, Entry>,
    /// Shown though the last answer didn't have them.
    held: BTreeSet<InstanceKey>,
    /// Something is shown though the last answer had an older owner of it.
    outdated: bool,
    /// The newest generation of keys that an older owner is still in the catalog for and, once the newer
    /// one has left, until when the older one is kept back: a withdrawal isn't to bring it back (WAT-3).
    newest: BTreeMap<InstanceKey, (Generation, Option<Instant>)>,
    /// What is wrong with the newest knowledge; at first, that there is none.
    doubt: Option<Doubt>,
    answered: bool,
    index: u64,
    epoch: u64,
    /// Until when losses are held.
    unwell_until: Option<Instant>,
    /// Until when what is missing counts as a loss.
    rebuilt_until: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Doubt {
    since: Instant,
    reason: Arc<str>,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) readings: Vec<Reading>,
    pub(crate) index: u64,
    /// The catalog it is from, by the [pulse](crate::pulse)'s count.
    pub(crate) epoch: u64,
    /// Why the answer can't be vouched for.
    pub(crate) doubt: Option<&'static str>,
}

impl Part {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            entries: BTreeMap::new(),
            held: BTreeSet::new(),
            outdated: false,
            newest: BTreeMap::new(),
            doubt: Some(Doubt {
                since: now,
                reason: "nothing was heard from Consul yet".into(),
            }),
            answered: false,
            index: 0,
            epoch: 0,
            unwell_until: None,
            rebuilt_until: None,
        }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(crate) fn get(&self, key: &InstanceKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Whether there was an answer, at any time.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the newest answer can be vouched for, all of it.
    pub(crate) fn freshness(&self) -> Freshness {
        match (&self.doubt, self.unwell_until) {
            (Some(Doubt { since, reason }), _) => Freshness::Stale {
                since: *since,
                reason: reason.clone(),
            },
            (None, Some(_)) if !self.held.is_empty() => {
                Freshness::stale("instances that vanished while Consul was unwell are held")
            }
            (None, _) => Freshness::Live,
        }
    }

    /// When something is let go that is held or kept back, with the first answer from then on.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        if self.doubt.is_some() {
            return None;
        }
        let held = self.outdated || !self.held.is_empty();
        let kept_back = self.newest.values().filter_map(|(_, until)| *until);
        kept_back.chain(self.unwell_until.filter(|_| held)).min()
    }

    /// Consul can't be heard, or not vouched for.
    pub(crate) fn lost(&mut self, reason: &str, now: Instant) {
        let since = self.doubt.as_ref().map_or(now, |doubt| doubt.since);
        self.doubt = Some(Doubt {
            since,
            reason: reason.into(),
        });
    }

    /// Takes over an answer; losses are held for `hold` after an outage.
    pub(crate) fn heard(&mut self, news: News, hold: Duration, now: Instant) {
        if let Some(doubt) = news.doubt {
            return self.lost(doubt, now);
        }
        let rebuilt = self.answered && (news.index < self.index || news.epoch != self.epoch);
        let recovered = self.answered && self.doubt.is_some();
        if recovered || rebuilt {
            self.unwell_until = Some(now + hold);
        }
        if rebuilt {
            self.rebuilt_until = Some(now + hold);
        }
        self.index = news.index;
        self.epoch = news.epoch;
        self.answered = true;
        self.doubt = None;
        self.replace(news.readings, now);
    }

    /// Lets held instances go when their time has come.
    fn release(&mut self, now: Instant) {
        if self.unwell_until.is_some_and(|until| until <= now) {
            self.unwell_until = None;
            self.rebuilt_until = None;
            for key in std::mem::take(&mut self.held) {
                self.entries.remove(&key);
            }
        }
    }

    /// Forgets an instance that its owner, on this handle, has withdrawn.
    pub(crate) fn forget(&mut self, key: &InstanceKey) {
        self.entries.remove(key);
        self.held.remove(key);
    }

    fn replace(&mut self, readings: Vec<Reading>, now: Instant) {
        let (mut offered, mut lost) = (BTreeMap::<InstanceKey, Entry>::new(), BTreeSet::new());
        let mut oldest = BTreeMap::<InstanceKey, Generation>::new();
        for reading in readings {
            match reading {
                Reading::Offered(entry) => {
                    let key = entry.instance.key().clone();
                    let generation = entry.instance.generation();
                    let least = oldest.entry(key.clone()).or_insert(generation);
                    *least = generation.min(*least);
                    let other = offered.get(&key);
                    if other.is_none_or(|other| rank(other) < rank(&entry)) {
                        offered.insert(key, entry);
                    }
                }
                Reading::Lost(key, generation) => {
                    lost.insert((key, generation));
                }
                Reading::Elsewhere | Reading::Unreadable(_) => {}
            }
        }
        self.keep_back(&mut offered, &oldest, now);
        self.release(now);
        let holding = self.unwell_until.is_some();
        let rebuilt = self.rebuilt_until.is_some();
        self.held.clear();
        self.outdated = false;
        for (key, old) in std::mem::take(&mut self.entries) {
            match offered.get(&key) {
                // A server that lags behind, or a restored snapshot, takes nothing back (WAT-3): what
                // its owner has changed never, and what a newer owner has for a while.
                Some(new) if new.age() < old.age() && (holding || is_same_offer(new, &old)) => {
                    self.outdated |= !is_same_offer(new, &old);
                    offered.insert(key, old);
                }
                Some(_) => {}
                None => {
                    let generation = old.instance.generation();
                    let unasked = rebuilt || lost.contains(&(key.clone(), generation));
                    if holding && unasked {
                        self.held.insert(key.clone());
                        offered.insert(key, old);
                    }
                }
            }
        }
        self.entries = offered;
    }

    /// Takes from what is offered the older owners whose newer one was there a moment ago. `oldest` is
    /// the oldest generation of each key.
    fn keep_back(
        &mut self,
        offered: &mut BTreeMap<InstanceKey, Entry>,
        oldest: &BTreeMap<InstanceKey, Generation>,
        now: Instant,
    ) {
        let known = std::mem::take(&mut self.newest);
        offered.retain(|key, entry| {
            let generation = entry.instance.generation();
            match known.get(key) {
                Some((newest, until))
                    if *newest > generation && until.is_none_or(|until| until > now) =>
                {
                    let until = until.unwrap_or(now + KEPT_BACK_TIME);
                    self.newest.insert(key.clone(), (*newest, Some(until)));
                    false
                }
                _ => {
                    if oldest.get(key).is_some_and(|oldest| *oldest < generation) {
                        self.newest.insert(key.clone(), (generation, None));
                    }
                    true
                }
            }
        });
    }
}

/// Whether one is what its owner has made of the other.
fn is_same_offer(one: &Entry, other: &Entry) -> bool {
    one.instance.generation() == other.instance.generation()
}

/// Of what has one key the greatest is shown. What other tools registered has no age, and comes in
/// any order.
fn rank(entry: &Entry) -> ((Generation, u64), u64) {
    (entry.age(), entry.created)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_api::Instance;

    const HOLD: Duration = Duration::from_secs(10);

    fn entry(id: &str, generation: u64, revision: u64) -> Entry {
        let instance = Instance::new("web", "10.0.0.1:80").unwrap();
        let instance = instance.with_id(id).unwrap();
        Entry {
            instance: Arc::new(instance.with_generation(Generation::new(generation))),
            revision,
            created: 0,
        }
    }

    fn offered(ids: &[&str]) -> Vec<Reading> {
        ids.iter()
            .map(|id| Reading::Offered(entry(id, 1, 1)))
            .collect()
    }

    fn lost(id: &str) -> Reading {
        Reading::Lost(entry(id, 1, 1).instance.key().clone(), Generation::new(1))
    }

    fn news(index: u64, readings: Vec<Reading>) -> News {
        News {
            readings,
            index,
            epoch: 0,
            doubt: None,
        }
    }

    fn ids(part: &Part) -> String {
        part.entries()
            .map(|entry| entry.instance.id().as_str())
            .collect()
    }

    fn part(ids: &[&str], now: Instant) -> Part {
        let mut part = Part::new(now);
        assert!(!part.freshness().is_live());
        part.heard(news(10, offered(ids)), HOLD, now);
        assert!(part.freshness().is_live());
        part
    }

    #[test]
    fn while_all_is_well_every_loss_passes() {
        let now = Instant::now();
        let mut part = part(&["a", "b", "c"], now);
        let mut readings = offered(&["a"]);
        readings.push(lost("b"));
        part.heard(news(11, readings), HOLD, now);
        assert_eq!(ids(&part), "a");
        assert!(part.freshness().is_live());
    }

    #[test]
    fn after_an_outage_losses_are_held_and_deregistrations_are_not() {
        let now = Instant::now();
        let mut part = part(&["a", "b", "c"], now);
        part.lost("no answer", now);
        assert_eq!(ids(&part), "abc");
        let mut readings = offered(&["a"]);
        readings.push(lost("b"));
        part.heard(news(11, readings), HOLD, now);
        assert_eq!(ids(&part), "ab");
        assert!(!part.freshness().is_live());
        assert_eq!(part.held_until(), Some(now + HOLD));
        part.release(now + HOLD / 2);
        assert_eq!(ids(&part), "ab");
        part.release(now + HOLD);
        assert_eq!(ids(&part), "a");
        assert!(part.freshness().is_live() && part.held_until().is_none());
    }

    #[test]
    fn a_new_catalog_is_given_time_to_fill_up() {
        for (index, epoch) in [(5, 0), (20, 1)] {
            let now = Instant::now();
            let mut part = part(&["a", "b"], now);
            let new = |ids: &[&str], index| News {
                epoch,
                ..news(index, offered(ids))
            };
            part.heard(new(&[], index), HOLD, now);
            assert_eq!(ids(&part), "ab", "index {index}, epoch {epoch}");
            part.heard(new(&["a"], index + 1), HOLD, now);
            assert!(ids(&part) == "ab" && !part.freshness().is_live());
            part.heard(new(&["a", "b"], index + 2), HOLD, now);
            assert!(ids(&part) == "ab" && part.freshness().is_live());
            part.heard(new(&["b"], index + 3), HOLD, now + HOLD);
            assert_eq!(ids(&part), "b");
        }
    }

    #[test]
    fn nothing_goes_back_to_what_it_was() {
        let now = Instant::now();
        let mut part = part(&["a"], now);
        part.heard(
            news(11, vec![Reading::Offered(entry("a", 1, 5))]),
            HOLD,
            now,
        );
        for later in [now, now + HOLD * 2] {
            let restored = vec![Reading::Offered(entry("a", 1, 2))];
            part.heard(news(3, restored), HOLD, later);
            assert_eq!(part.entries().next().unwrap().revision, 5);
        }
    }

    #[test]
    fn an_answer_in_doubt_changes_nothing() {
        let now = Instant::now();
        let mut part = part(&["a"], now);
        let doubtful = News {
            doubt: Some("no leader"),
            ..news(11, vec![])
        };
        part.heard(doubtful, HOLD, now);
        assert!(ids(&part) == "a" && !part.freshness().is_live());
    }

    #[test]
    fn of_two_without_an_age_the_last_one_created_is_shown_in_any_order() {
        let now = Instant::now();
        let mut part = part(&[], now);
        let created = |created| Entry {
            created,
            ..entry("a", 0, 0)
        };
        for (index, order) in [(11, [5, 9]), (12, [9, 5])] {
            let readings = order.map(|at| Reading::Offered(created(at)));
            part.heard(news(index, readings.into()), HOLD, now);
            assert_eq!(part.entries().next().unwrap().created, 9);
        }
    }

    #[test]
    fn of_two_generations_the_newer_is_shown_and_the_older_not_at_once_after_it() {
        let now = Instant::now();
        let mut part = part(&[], now);
        let mut shown = |index, generations: &[u64]| {
            let offered = |generation: &u64| Reading::Offered(entry("a", *generation, 1));
            let readings = generations.iter().map(offered).collect();
            part.heard(news(index, readings), HOLD, now);
            let shown = part.entries().next();
            shown.map(|entry| entry.instance.generation())
        };
        for (index, generations) in [(11, [7, 3]), (12, [3, 7])] {
            assert_eq!(shown(index, &generations), Some(Generation::new(7)));
        }
        // The newer one leaves first.
        assert_eq!(shown(13, &[3]), None);
        assert_eq!(shown(14, &[3]), None);
        assert_eq!(shown(15, &[3, 9]), Some(Generation::new(9)));
        assert_eq!(shown(16, &[]), None);
        assert_eq!(shown(17, &[3]), Some(Generation::new(3)));
    }

    #[test]
    fn an_older_owner_that_goes_on_after_the_newer_one_is_shown_again() {
        let now = Instant::now();
        let mut part = part(&["a"], now);
        let mut both = offered(&["a"]);
        both.push(Reading::Offered(entry("a", 7, 1)));
        part.heard(news(11, both), HOLD, now);
        assert_eq!(part.held_until(), None);
        let left = now + KEPT_BACK_TIME * 2;
        part.heard(news(12, offered(&["a"])), HOLD, left);
        assert_eq!(ids(&part), "");
        let until = part.held_until().unwrap();
        assert_eq!(until, left + KEPT_BACK_TIME);
        part.heard(news(12, offered(&["a"])), HOLD, until);
        assert_eq!(ids(&part), "a");
        assert_eq!(part.held_until(), None);
    }
}
