//! Any interleaving of both sides' views gives a view that keeps the contract.
//!
//! The truth is a list of registrations per key, one after the other, each with contents and an
//! end. Each side shows the truth as it was at some moment, and catches up at its own pace: it may
//! skip what happened in between, and be lost and heard again. After every step the merged view is
//! compared with what the sides show.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tidings_api::Generation;

use super::*;
use crate::Phase;
use crate::mark::Mark;

const KEYS: usize = 3;

/// What happens to one key.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A new owner registers, whether or not the former one has left.
    Registers(usize),
    /// The owner changes its content.
    Changes(usize),
    /// The owner leaves, or crashes.
    Ends(usize),
}

/// What is heard.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A side shows the truth up to this many events later.
    Advance(Side, usize),
    /// A side can't be heard from now on.
    Lose(Side),
    /// A side is heard again, with what it has.
    Return(Side),
    /// Reads change.
    Switch(Phase),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (0..KEYS).prop_map(Event::Registers),
        3 => (0..KEYS).prop_map(Event::Changes),
        2 => (0..KEYS).prop_map(Event::Ends),
    ];
    prop::collection::vec(event, 0..24)
}

fn steps(switching: bool) -> impl Strategy<Value = Vec<Step>> {
    let side = prop_oneof![Just(Side::Old), Just(Side::New)];
    let phase = prop_oneof![
        Just(Phase::BothReadOld),
        Just(Phase::BothReadMerged),
        Just(Phase::BothReadNew),
    ];
    let step = prop_oneof![
        6 => (side.clone(), 0..5_usize).prop_map(|(side, by)| Step::Advance(side, by)),
        1 => side.clone().prop_map(Step::Lose),
        1 => side.prop_map(Step::Return),
        u32::from(switching) => phase.prop_map(Step::Switch),
    ];
    prop::collection::vec(step, 0..48)
}

/// The truth after each number of events: the stamp per key.
fn history(events: &[Event]) -> Vec<BTreeMap<usize, Stamp>> {
    let mut now = BTreeMap::new();
    let mut last = 0;
    let mut all = vec![now.clone()];
    for event in events {
        match *event {
            Event::Registers(key) => {
                last += 1;
                let stamp = Stamp {
                    generation: Generation::new(last),
                    revision: 1,
                };
                now.insert(key, stamp);
            }
            Event::Changes(key) => {
                if let Some(stamp) = now.get_mut(&key) {
                    stamp.revision += 1;
                }
            }
            Event::Ends(key) => {
                now.remove(&key);
            }
        }
        all.push(now.clone());
    }
    all
}

/// The merged view beside the sides it is made of.
struct World {
    history: Vec<BTreeMap<usize, Stamp>>,
    merge: Merge,
    phase: Phase,
    /// How many events each side shows, and whether it is heard.
    sides: [(usize, bool); 2],
    now: Instant,
    /// The newest stamp shown per key.
    highest: BTreeMap<usize, Stamp>,
    /// What was shown and isn't any more, since reads were switched last.
    left: BTreeSet<(usize, Generation)>,
}

impl World {
    fn new(events: &[Event], phase: Phase) -> Self {
        let mut world = Self {
            history: history(events),
            merge: Merge::new(&Selector::All, phase.into()),
            phase,
            sides: [(0, true); 2],
            now: Instant::now(),
            highest: BTreeMap::new(),
            left: BTreeSet::new(),
        };
        world.tell(Side::Old);
        world.tell(Side::New);
        world
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Advance(side, by) => {
                let (at, live) = &mut self.sides[side.index()];
                // A side that isn't heard shows nothing new.
                if *live {
                    *at = (*at + by).min(self.history.len() - 1);
                }
                self.tell(side);
            }
            Step::Lose(side) => {
                self.sides[side.index()].1 = false;
                self.tell(side);
            }
            Step::Return(side) => {
                self.sides[side.index()].1 = true;
                self.tell(side);
            }
            Step::Switch(phase) => {
                self.phase = phase;
                self.left.clear();
                self.merge.follow(&Selector::All, phase.into());
            }
        }
    }

    fn tell(&mut self, side: Side) {
        let (at, live) = self.sides[side.index()];
        let freshness = match live {
            true => Freshness::Live,
            false => Freshness::stale("an outage"),
        };
        // The generations of the backends themselves differ and mean nothing here.
        let listed = self.history[at].iter();
        let listed = listed.map(|(key, stamp)| Arc::new(instance(*key, *stamp, at)));
        self.merge
            .hear(side, &View::new(listed.collect(), freshness), self.now);
    }

    fn listed(&self, side: Side) -> &BTreeMap<usize, Stamp> {
        &self.history[self.sides[side.index()].0]
    }

    fn shown(&mut self) -> (BTreeMap<usize, Stamp>, Freshness) {
        let (instances, freshness) = self.merge.view(self.now);
        let shown: Vec<_> = instances.iter().map(|instance| read(instance)).collect();
        let keys: BTreeMap<_, _> = shown.iter().copied().collect();
        assert_eq!(keys.len(), shown.len(), "one logical instance a key");
        (keys, freshness)
    }

    /// Checks what is shown after a step against what was shown before it.
    fn check(&mut self, before: &BTreeMap<usize, Stamp>, step: Step) -> BTreeMap<usize, Stamp> {
        let (shown, freshness) = self.shown();
        let reads = self.phase.reads();
        let live: Sides = reads
            .iter()
            .filter(|side| self.sides[side.index()].1)
            .collect();

        assert_eq!(
            freshness.is_live(),
            live == reads,
            "live when every side that is read is"
        );
        for (key, stamp) in &shown {
            let highest = self.highest.entry(*key).or_insert(*stamp);
            assert!(
                stamp >= highest,
                "WAT-3: {key} went back from {highest:?} to {stamp:?}"
            );
            *highest = *stamp;
            let listed = reads.iter().any(|side| self.listed(side).contains_key(key));
            assert!(listed, "{key} is shown and on no side that is read");
            let returns = self.left.contains(&(*key, stamp.generation));
            assert!(!returns, "WAT-4: {key} has ended and is shown again");
        }
        let gone = before.iter().filter(|(key, _)| !shown.contains_key(key));
        self.left
            .extend(gone.map(|(key, stamp)| (*key, stamp.generation)));
        for key in 0..KEYS {
            self.check_presence(key, before, &shown, live);
        }
        if let Step::Advance(_, 0) = step {
            assert_eq!(*before, shown, "WAT-4: nothing happened");
        }
        if let Step::Lose(side) = step {
            let mut expected = before.clone();
            // Here no time passes: what the other side has dropped, this one had no time to.
            if live.has(side.other()) {
                let other = self.listed(side.other());
                expected.retain(|key, _| shown.contains_key(key) || other.contains_key(key));
            }
            assert_eq!(expected, shown, "WAT-4: an outage takes nothing away");
        }
        shown
    }

    fn check_presence(
        &self,
        key: usize,
        before: &BTreeMap<usize, Stamp>,
        shown: &BTreeMap<usize, Stamp>,
        live: Sides,
    ) {
        let highest = self.highest.get(&key);
        for side in live.iter() {
            let listed = self.listed(side).get(&key);
            let is_newest = highest.is_none_or(|highest| {
                listed.is_some_and(|listed| listed.generation >= highest.generation)
            });
            // Where it has left before, it may be a slow side's past.
            let may_be_late = highest.is_some() && !before.contains_key(&key);
            assert!(
                listed.is_none() || !is_newest || may_be_late || shown.contains_key(&key),
                "{key} is on the {side} side, which is heard, and not shown"
            );
        }
        let Some(last) = before.get(&key).filter(|_| !shown.contains_key(&key)) else {
            return;
        };
        for side in live.iter() {
            let listed = self.listed(side).get(&key);
            assert!(
                listed.is_none_or(|listed| listed.generation < last.generation),
                "{key} has left, and the {side} side, which is heard, lists it"
            );
        }
    }
}

fn instance(key: usize, stamp: Stamp, drawn: usize) -> Instance {
    let instance = Instance::new("web", "10.0.0.1:80")
        .and_then(|instance| instance.with_id(key.to_string()))
        .and_then(|instance| instance.with_metadata("revision", stamp.revision.to_string()))
        .unwrap();
    let phase = Phase::BothReadMerged;
    let drawn = u64::try_from(drawn).unwrap();
    let marked = Mark { stamp, phase }.put_on(&instance);
    marked.with_generation(Generation::new(1_000 - drawn))
}

/// The content itself and not only its stamp.
fn read(instance: &Instance) -> (usize, Stamp) {
    let stamp = Stamp {
        generation: instance.generation(),
        revision: instance.metadata()["revision"].parse().unwrap(),
    };
    (instance.id().as_str().parse().unwrap(), stamp)
}

fn run(events: &[Event], steps: &[Step], phase: Phase) -> World {
    let mut world = World::new(events, phase);
    let mut before = world.shown().0;
    for step in steps {
        world.take(*step);
        let switched = matches!(step, Step::Switch(_));
        if switched {
            before.clear();
        }
        before = world.check(&before, *step);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_keeps_the_contract(events in events(), steps in steps(false)) {
        run(&events, &steps, Phase::BothReadMerged);
    }

    #[test]
    fn so_do_reads_that_are_switched(events in events(), steps in steps(true)) {
        run(&events, &steps, Phase::BothReadOld);
    }

    /// WAT-2, WAT-5: once both sides are heard and up to date, the view is the truth.
    #[test]
    fn in_the_end_it_is_the_truth(events in events(), steps in steps(true)) {
        let mut world = run(&events, &steps, Phase::BothReadMerged);
        for side in Side::BOTH {
            world.take(Step::Return(side));
            world.take(Step::Advance(side, events.len()));
        }
        world.shown();
        world.now += LATE;
        let truth = world.history.last().unwrap().clone();
        let (shown, freshness) = world.shown();
        prop_assert!(freshness.is_live());
        prop_assert_eq!(shown, truth);
    }

    /// WAT-10: an outage of any length is invisible when nothing happens in it.
    #[test]
    fn an_outage_without_changes_is_invisible(events in events(), lost in 0..2_usize) {
        let mut world = World::new(&events, Phase::BothReadMerged);
        let side = Side::BOTH[lost];
        for side in Side::BOTH {
            world.take(Step::Advance(side, events.len()));
        }
        let before = world.merge.view(world.now).0;
        world.take(Step::Lose(side));
        world.now += MEMORY * 10;
        prop_assert_eq!(&world.merge.view(world.now).0, &before);
        world.take(Step::Return(side));
        prop_assert_eq!(&world.merge.view(world.now).0, &before);
    }
}
