//! One view made of two: what both sides list, as one instance each.
//!
//! A pure state machine: views of the sides go in with the time, the merged view comes out. Per
//! key it keeps the newest content it has shown, the *floor*, and shows
//!
//! * nothing older than the floor, unless a side that has listed the floor has moved on from it, and
//!   none that is heard lists it any more: a side never goes back, so its word outweighs the numbers of
//!   a clock that was set back. While they differ, an owner that is late may have won one of them; or
//!   the newer one is late on the other side, which gets the time to come to it;
//! * the floor as long as a side lists it, and then nothing.
//!
//! A side that can't be heard keeps what it listed. In its outage an instance leaves only where the
//! other side, which is heard, has listed it and stopped to. That may have been shortly before the
//! outage: gossip notices a crash at once, a lease only when it runs out, and a lost host takes
//! instances and servers with it. So where one side drops an instance, the other's word for it is
//! *doubted* until it has been heard, without a break, for as long as it takes to notice a crash.
//! The same holds for a side that is heard again: gossip has to catch up, and a server that was
//! restarted gives every lease its whole time anew.
//!
//! Who says goodbye to a side lives on, on the other one. Where that one is lost and has never listed the
//! floor, or isn't believed again yet, the floor stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Freshness, Health, HealthState, Instance, InstanceKey, Selector, View};

use crate::mark::{Listed, Stamp};
use crate::{Plan, Side, Sides};

/// How long it is remembered what was shown of a key that has left, so that what one side still
/// lists of its past isn't taken for a new instance. Above the difference of the sides' delays;
/// until then, an owner whose clock is behind its predecessor's may wait to be seen.
pub(crate) const MEMORY: Duration = Duration::from_secs(60);

/// How long an instance that has left waits where a side lists it that never did: usually it is slow,
/// and about to see it leave as well.
pub(crate) const LATE: Duration = Duration::from_secs(5);

/// How long a side is doubted after an outage, until it has said what its bounds are.
const DOUBT_DEFAULT: Duration = LATE;

/// The merged view of one selector.
#[derive(Debug)]
pub(crate) struct Merge {
    plan: Plan,
    reads: Sides,
    sides: [Heard; 2],
    keys: BTreeMap<InstanceKey, Entry>,
}

/// What is known of one side.
#[derive(Debug)]
struct Heard {
    view: View,
    /// Whether it has ever been live: before that, what it doesn't list is unknown.
    ever: bool,
    standing: Standing,
}

/// How much a side's word is worth.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// When it was live last.
    live: Option<Period>,
    /// How long it takes to notice a crash.
    doubt: Duration,
}

/// A time without a break.
#[derive(Clone, Copy, Debug)]
struct Period {
    since: Instant,
    /// Not over yet where it is `None`.
    until: Option<Instant>,
}

/// What is known of one key.
#[derive(Debug, Default)]
struct Entry {
    sides: [Place; 2],
    floor: Option<Floor>,
}

/// One side's word on one key.
#[derive(Debug, Default)]
struct Place {
    listed: Option<Listed>,
    /// It changed since it was looked at last.
    is_news: bool,
    /// It has listed the floor.
    vouched: bool,
    /// It has listed the floor, and stopped to; the other side hasn't been heard for long enough
    /// since to know better.
    dropped: Option<Dropped>,
    /// The generation that it lists is one that the other side has moved on from.
    passed: bool,
    /// The owner has said goodbye here: it lives on, on the other side.
    goodbye: bool,
}

/// A side has stopped to list what it had listed.
#[derive(Clone, Copy, Debug)]
struct Dropped {
    at: Instant,
    /// The other side was lost since, while this one was heard: what it lists is the past, where
    /// otherwise it may as well know better.
    decides: bool,
}

/// The newest that was shown of a key.
#[derive(Debug)]
struct Floor {
    stamp: Stamp,
    content: Arc<Instance>,
    shown: Arc<Instance>,
    /// Since when nobody lists it.
    left: Option<Instant>,
    /// Since when it is shown without being listed, as it is on its way to a side.
    crossed: Option<Instant>,
}

impl Merge {
    pub(crate) fn new(selector: &Selector, plan: Plan) -> Self {
        let unknown = "nothing was heard from it yet";
        Self {
            reads: reads(selector, &plan),
            plan,
            sides: [Heard::unknown(unknown), Heard::unknown(unknown)],
            keys: BTreeMap::new(),
        }
    }

    /// Takes in a side's newest view.
    pub(crate) fn hear(&mut self, side: Side, view: &View, now: Instant) {
        let heard = &mut self.sides[side.index()];
        heard.ever |= view.is_live();
        heard.standing.is(view.is_live(), now);
        let last = std::mem::replace(&mut heard.view, view.clone());
        for gone in last.iter().filter(|gone| view.get(gone.key()).is_none()) {
            if let Some(entry) = self.keys.get_mut(gone.key()) {
                entry.sides[side.index()].list(None, side);
            }
        }
        for instance in view {
            let known = last.get(instance.key());
            if known.is_some_and(|known| Arc::ptr_eq(known, instance)) {
                continue;
            }
            let entry = self.keys.entry(instance.key().clone()).or_default();
            entry.sides[side.index()].list(Some(Listed::new(instance)), side);
        }
    }

    /// Forgets a side, which isn't heard on purpose from now on.
    pub(crate) fn leave(&mut self, side: Side) {
        self.sides[side.index()] = Heard::unknown("it is not in use");
        for entry in self.keys.values_mut() {
            // What it said about the other side's outage is still true.
            let dropped = entry.sides[side.index()].dropped;
            entry.sides[side.index()] = Place {
                dropped: dropped.filter(|it| it.decides),
                ..Place::default()
            };
        }
    }

    /// Doubts a side for so long after an outage, and after the other has dropped something: the
    /// bound within which it notices a crash.
    pub(crate) fn doubt(&mut self, side: Side, doubt: Duration) {
        self.sides[side.index()].standing.doubt = doubt;
    }

    /// Reads according to another plan from now on.
    pub(crate) fn follow(&mut self, selector: &Selector, plan: Plan) {
        self.reads = reads(selector, &plan);
        self.plan = plan;
    }

    /// The merged view.
    pub(crate) fn view(&mut self, now: Instant) -> (Vec<Arc<Instance>>, Freshness) {
        let ever = Side::BOTH.into_iter();
        let ever = ever.filter(|side| self.sides[side.index()].ever).collect();
        let standing = [0, 1].map(|side| self.sides[side].standing);
        let mut shown = Vec::new();
        let (plan, mut forgotten) = (&self.plan, Vec::new());
        for (key, entry) in &mut self.keys {
            let reads = known(plan.phase(key.service()).reads(), ever);
            shown.extend(entry.look(reads, standing, now));
            if entry.is_forgotten(now) {
                forgotten.push(key.clone());
            }
        }
        for key in forgotten {
            self.keys.remove(&key);
        }
        (shown, self.freshness())
    }

    /// When the view may change without anything being heard; after `now`.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let trusted = self.sides.iter();
        let trusted = trusted.filter_map(|heard| heard.standing.trusted_from());
        let trusted = trusted.filter(|from| *from > now).min();
        let entries = self.keys.values();
        entries
            .filter_map(|entry| entry.deadline(trusted, now))
            .min()
    }

    /// The sides that list an instance under a key, whether they are read or not.
    pub(crate) fn listed(&self, key: &InstanceKey) -> Sides {
        let Some(entry) = self.keys.get(key) else {
            return Sides::NONE;
        };
        let lists = |side: &Side| entry.sides[side.index()].listed.is_some();
        Side::BOTH.into_iter().filter(lists).collect()
    }

    /// What one side lists under a key.
    pub(crate) fn listing(&self, side: Side, key: &InstanceKey) -> Option<&Listed> {
        self.keys.get(key)?.sides[side.index()].listed.as_ref()
    }

    /// Everything that both sides list, by key.
    pub(crate) fn listings(&self) -> impl Iterator<Item = (&InstanceKey, [Option<&Listed>; 2])> {
        self.keys.iter().map(|(key, entry)| {
            let [old, new] = &entry.sides;
            (key, [old.listed.as_ref(), new.listed.as_ref()])
        })
    }

    /// The last view of one side.
    pub(crate) fn heard(&self, side: Side) -> &View {
        &self.sides[side.index()].view
    }

    fn freshness(&self) -> Freshness {
        let stale = self.reads.iter().filter_map(|side| {
            let freshness = self.sides[side.index()].view.freshness();
            match freshness {
                Freshness::Live => None,
                Freshness::Stale { since, reason } => {
                    Some((*since, format!("{side} side: {reason}")))
                }
            }
        });
        let stale: Vec<_> = stale.collect();
        let Some(since) = stale.iter().map(|(since, _)| *since).min() else {
            return Freshness::Live;
        };
        let reasons: Vec<_> = stale.into_iter().map(|(_, reason)| reason).collect();
        Freshness::Stale {
            since,
            reason: reasons.join("; ").into(),
        }
    }
}

impl Heard {
    fn unknown(why: &str) -> Self {
        Self {
            view: View::unknown(why),
            ever: false,
            standing: Standing {
                live: None,
                doubt: DOUBT_DEFAULT,
            },
        }
    }
}

impl Standing {
    /// Notes whether it is live.
    fn is(&mut self, live: bool, now: Instant) {
        match (live, &mut self.live) {
            (true, Some(Period { until: None, .. })) | (false, None) => {}
            (true, _) => {
                self.live = Some(Period {
                    since: now,
                    until: None,
                });
            }
            (false, Some(period)) => {
                period.until.get_or_insert(now);
            }
        }
    }

    fn live_since(&self) -> Option<Instant> {
        let period = self.live.filter(|period| period.until.is_none());
        period.map(|period| period.since)
    }

    /// From when on its word is believed again after an outage.
    fn trusted_from(&self) -> Option<Instant> {
        Some(self.live_since()? + self.doubt)
    }

    fn is_trusted(&self, now: Instant) -> bool {
        self.trusted_from().is_some_and(|from| now >= from)
    }

    fn is_live(&self) -> bool {
        self.live_since().is_some()
    }

    /// Whether what it says has outlasted a crash at that moment.
    fn outlasts(&self, then: Instant, now: Instant) -> bool {
        self.live.is_some_and(|Period { since, until }| {
            since.max(then) + self.doubt <= until.unwrap_or(now)
        })
    }
}

impl Place {
    fn list(&mut self, listed: Option<Listed>, side: Side) {
        let generation = |listed: &Option<Listed>| listed.as_ref().map(Listed::generation);
        if generation(&self.listed) != generation(&listed) {
            self.passed = false;
        }
        self.dropped = self.dropped.filter(|_| listed.is_none());
        if let Some(listed) = &listed {
            self.goodbye = listed.has_left(side);
        }
        self.is_news = true;
        self.listed = listed;
    }

    /// Whether it has listed the floor and stopped to, without a goodbye.
    fn ends(&self) -> bool {
        self.vouched && self.is_news && !self.goodbye
    }

    /// Whether the floor's owner has said goodbye here, and gone.
    fn was_left(&self) -> bool {
        self.vouched && self.goodbye && self.listed.is_none()
    }

    fn lists(&self, floor: &Floor) -> bool {
        !self.passed && self.listed_generation() == Some(floor.stamp.generation)
    }

    fn listed_generation(&self) -> Option<tidings_api::Generation> {
        self.listed.as_ref().map(Listed::generation)
    }
}

impl Entry {
    /// Brings the floor up to what is listed, and says what is to be shown.
    fn look(
        &mut self,
        reads: Sides,
        standing: [Standing; 2],
        now: Instant,
    ) -> Option<Arc<Instance>> {
        if let Some(next) = self.next(reads, standing, now) {
            self.adopt(&next);
        }
        self.update(reads);
        let floor = self.floor.as_mut()?;
        let mut listed = Sides::NONE;
        for side in reads.iter() {
            let place = &mut self.sides[side.index()];
            let is_late = floor.left.is_some_and(|left| now < left + LATE);
            if place.lists(floor) && (place.vouched || !is_late) {
                listed = listed.union(side.into());
                place.vouched = true;
            } else if place.ends() && standing[side.index()].is_live() {
                place.dropped.get_or_insert(Dropped {
                    at: now,
                    decides: false,
                });
            }
        }
        let mut dropped = false;
        for side in Side::BOTH {
            let [this, other] = [side, side.other()].map(|side| standing[side.index()]);
            let place = &mut self.sides[side.index()];
            place.is_news = false;
            place.dropped = place.dropped.filter(|it| !other.outlasts(it.at, now));
            if let Some(it) = &mut place.dropped {
                it.decides |= reads.has(side) && this.is_live() && !other.is_live();
                dropped |= it.decides;
            }
        }
        let lives_on = lives_on(&self.sides, reads, standing, now);
        if (listed != Sides::NONE || lives_on) && !dropped {
            (floor.left, floor.crossed) = (None, None);
            return Some(floor.shown.clone());
        }
        let crosses = !dropped && crosses(floor, &self.sides, reads, standing);
        if crosses && now < *floor.crossed.get_or_insert(now) + LATE {
            return Some(floor.shown.clone());
        }
        floor.crossed = None;
        floor.left.get_or_insert(now);
        None
    }

    /// What replaces the floor, where something does.
    fn next(&self, reads: Sides, standing: [Standing; 2], now: Instant) -> Option<Listed> {
        let candidates = || {
            let places = reads.iter().map(|side| &self.sides[side.index()]);
            places.filter(|place| !place.passed)
        };
        let newest = |places: &mut dyn Iterator<Item = &Place>| {
            let listed = places.filter_map(|place| place.listed.clone());
            listed.max_by_key(|listed| listed.stamp)
        };
        let best = newest(&mut candidates())?;
        let Some(floor) = &self.floor else {
            return Some(best);
        };
        if best.generation() > floor.stamp.generation {
            return Some(best);
        }
        let keeps =
            |side: Side| standing[side.index()].is_live() && self.sides[side.index()].lists(floor);
        let is_kept = reads.iter().any(keeps);
        let is_over = floor.crossed.is_some_and(|crossed| now >= crossed + LATE);
        let is_kept = is_kept || (!is_over && crosses(floor, &self.sides, reads, standing));
        let moved_on = |place: &&Place| !is_kept && place.vouched && !place.lists(floor);
        if let Some(next) = newest(&mut candidates().filter(moved_on)) {
            return Some(next);
        }
        let forgotten = floor.left.is_some_and(|left| now >= left + MEMORY);
        (forgotten && best.generation() < floor.stamp.generation).then_some(best)
    }

    fn adopt(&mut self, next: &Listed) {
        let last = self.floor.as_ref().map(|floor| floor.stamp.generation);
        for place in &mut self.sides {
            let lists_last = place.listed.is_some() && place.listed_generation() == last;
            let lists_next = place.listed_generation() == Some(next.generation());
            place.passed = (place.passed || lists_last) && !lists_next;
            (place.vouched, place.dropped) = (false, None);
        }
        self.floor = Some(Floor {
            stamp: next.stamp,
            content: next.plain.clone(),
            shown: next.plain.clone(),
            left: None,
            crossed: None,
        });
    }

    /// Brings the floor's content up to the newest that is listed of its registration.
    fn update(&mut self, reads: Sides) {
        let Some(floor) = &mut self.floor else {
            return;
        };
        let mut same = Vec::new();
        let listing = |side: Side| {
            let place = &self.sides[side.index()];
            place.listed.as_ref().filter(|_| place.lists(floor))
        };
        // Where the owner speaks for itself, its mirror says nothing but the past.
        let mirrored = reads.iter().filter_map(listing).any(Listed::is_direct);
        for side in reads.iter() {
            let place = &self.sides[side.index()];
            let listed = place.listed.as_ref().filter(|_| place.lists(floor));
            let Some(listed) = listed.filter(|listed| listed.is_direct() || !mirrored) else {
                continue;
            };
            let newer = listed.stamp.revision > floor.stamp.revision;
            let changed = listed.stamp == floor.stamp && place.is_news;
            if newer {
                same.clear();
            }
            if newer || changed {
                floor.stamp = listed.stamp;
                floor.content = listed.plain.clone();
            }
            if listed.stamp == floor.stamp {
                same.push(listed.plain.health());
            }
        }
        // Two sides may differ about the health of one content: a check of Consul's own says more
        // than the owner did. The worse one is believed.
        let worst = same.into_iter().max_by_key(|health| badness(health));
        let worst = worst.unwrap_or_else(|| floor.shown.health());
        let content = if floor.content.health() == worst {
            floor.content.clone()
        } else {
            Arc::new(Instance::clone(&floor.content).with_health(worst.clone()))
        };
        if *floor.shown != *content {
            floor.shown = content;
        }
    }

    /// When it may change by itself. `trusted` is when the next side is believed again.
    fn deadline(&self, trusted: Option<Instant>, now: Instant) -> Option<Instant> {
        let floor = self.floor.as_ref()?;
        let waits = |place: &Place| place.lists(floor) && !place.vouched;
        let waits = self.sides.iter().any(waits);
        let doubted = self
            .sides
            .iter()
            .any(|place| place.dropped.is_some_and(|it| it.decides));
        let due = [
            floor.left.filter(|_| waits).map(|left| left + LATE),
            trusted.filter(|_| doubted && floor.left.is_some()),
            trusted.filter(|_| self.sides.iter().any(Place::was_left)),
            floor.left.map(|left| left + MEMORY),
            floor.crossed.map(|crossed| crossed + LATE),
        ];
        due.into_iter().flatten().filter(|due| *due > now).min()
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        self.sides.iter().all(|place| place.listed.is_none())
            && self
                .floor
                .as_ref()
                .is_none_or(|floor| floor.left.is_some_and(|left| now >= left + MEMORY))
    }
}

/// Whether a side has gone back from the floor, while the other one is about to come to it: of two
/// owners that came at once the older one has won this side, and the newer one isn't on the other yet.
fn crosses(floor: &Floor, sides: &[Place; 2], reads: Sides, standing: [Standing; 2]) -> bool {
    let crossed = |side: Side| {
        let (this, other) = (&sides[side.index()], &sides[side.other().index()]);
        let went_back = this.listed.as_ref().is_some_and(|listed| {
            let is_owner = listed.is_direct() && listed.phase.is_some();
            is_owner && listed.generation() < floor.stamp.generation
        });
        let awaits = other.passed && !other.vouched && standing[side.other().index()].is_live();
        this.vouched && went_back && awaits
    };
    let both = reads.has(Side::Old) && reads.has(Side::New);
    both && floor.left.is_none() && Side::BOTH.into_iter().any(crossed)
}

/// Whether the floor's owner has gone on to a side that can't say so: it is lost, or has been back for too
/// short a time to be believed. One that has listed it knows when it ends.
fn lives_on(sides: &[Place; 2], reads: Sides, standing: [Standing; 2], now: Instant) -> bool {
    let both = reads.has(Side::Old) && reads.has(Side::New);
    let knows = |side: Side| sides[side.index()].vouched || standing[side.index()].is_trusted(now);
    let lives_on = |side: Side| sides[side.index()].was_left() && !knows(side.other());
    both && Side::BOTH.into_iter().any(lives_on)
}

/// The sides that a selector's view is made of.
fn reads(selector: &Selector, plan: &Plan) -> Sides {
    match selector {
        Selector::Service(service) => plan.phase(service).reads(),
        Selector::All => plan
            .phases()
            .fold(Sides::NONE, |sides, phase| sides.union(phase.reads())),
    }
}

/// A side that was never heard says nothing. Until it does, the other one is better than nothing:
/// switching to a backend that is down empties no view.
fn known(reads: Sides, ever: Sides) -> Sides {
    if reads.iter().any(|side| ever.has(side)) {
        reads
    } else {
        reads.union(ever)
    }
}

fn badness(health: &Health) -> u8 {
    match health.state() {
        HealthState::Passing => 0,
        HealthState::Warning => 1,
        HealthState::Draining => 2,
        HealthState::Critical => 3,
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
