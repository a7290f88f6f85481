//! Every interleaving of owners that come at once, with late views, lost sides and crashes.
//!
//! Two sides, each with its own order; owners whose marks are in the order of their numbers; and each
//! step of each owner at any moment after the one before. Wherever nothing is left to happen the newest
//! owner has to have both sides, and all others have to have stopped; and no state may come again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Sight, Verdict, Word, judge};

const SIDES: [usize; 2] = [0, 1];
/// More than there are, or the model isn't as small as it is meant to be.
const STATES_MAX: usize = 5_000_000;

/// What happened, to whom, and on which side.
type Step = (&'static str, usize, usize);

/// Where a run begins.
#[derive(Clone, Copy)]
struct Setup {
    owners: usize,
    /// How often a side of an owner is lost.
    outages: u8,
    /// How many owners end without a word; never the newest one.
    crashes: u8,
    /// All draw the same generation first.
    twins: bool,
    /// What an owner hears it hears at once, and does something about it: fewer states.
    at_once: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    /// Who is listed where, and as the how manieth that came.
    servers: [Option<(usize, u8)>; 2],
    owners: Vec<Owner>,
    outages: u8,
    crashes: u8,
    at_once: bool,
    /// One had both sides when it crashed: whoever it took them from may take it for a newer one.
    has_lost_both: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Owner {
    /// The generation in its mark.
    mark: u8,
    has_stopped: bool,
    has_crashed: bool,
    sides: [Place; 2],
}

/// An owner's handle of one side, and what it has heard there.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Place {
    /// What the handle offers, as the how manieth that came.
    offer: Option<u8>,
    /// It is to be told, once more or for the first time.
    to_tell: bool,
    was_told: bool,
    /// Somebody has taken the key here.
    is_taken: bool,
    /// The handle knows.
    is_overtaken: bool,
    /// Who is listed, with its mark, as the how manieth.
    view: Option<(usize, u8, u8)>,
    /// What was listed when the side was taken back.
    answered: Option<(usize, u8, u8)>,
    is_cut_off: bool,
}

impl World {
    fn new(setup: Setup) -> Self {
        let place = Place {
            to_tell: true,
            ..Place::default()
        };
        let owner = |number: usize| Owner {
            mark: if setup.twins { 0 } else { number as u8 },
            has_stopped: false,
            has_crashed: false,
            sides: [place.clone(), place.clone()],
        };
        Self {
            servers: [None, None],
            owners: (0..setup.owners).map(owner).collect(),
            outages: setup.outages,
            crashes: setup.crashes,
            at_once: setup.at_once,
            has_lost_both: false,
        }
    }

    /// All that may happen next that has to happen sometime.
    fn steps(&self) -> Vec<(Step, Self)> {
        let mut next = Vec::new();
        let mut add = |step: Step, happens: fn(&mut Self, usize, usize) -> bool| {
            let mut world = self.clone();
            if happens(&mut world, step.1, step.2) {
                world.rank();
                if world != *self {
                    next.push((step, world));
                }
            }
        };
        let alive = |number: &usize| !self.owners[*number].has_crashed;
        for number in (0..self.owners.len()).filter(alive) {
            for side in SIDES {
                add(("tell", number, side), Self::tell);
                if self.at_once {
                    add(("hear", number, side), Self::hear);
                } else {
                    add(("view", number, side), Self::view);
                    add(("learn", number, side), Self::learn);
                }
                add(("let go", number, side), Self::let_go);
                add(("restore", number, side), Self::restore);
            }
            add(("judge", number, 0), |world, number, _| world.judge(number));
        }
        next
    }

    /// All that may happen next and need not.
    fn faults(&self) -> Vec<(Step, Self)> {
        let mut next = Vec::new();
        for number in 0..self.owners.len() {
            for side in SIDES {
                if self.outages > 0 && !self.owners[number].sides[side].is_cut_off {
                    let mut world = self.clone();
                    world.outages -= 1;
                    world.owners[number].sides[side].is_cut_off = true;
                    next.push((("lose", number, side), world.clone()));
                    if world.lists(number, side) {
                        world.servers[side] = None;
                        next.push((("expire", number, side), world));
                    }
                }
            }
            let is_newest = number + 1 == self.owners.len();
            if self.crashes > 0 && !is_newest && !self.owners[number].has_crashed {
                let mut world = self.clone();
                world.crashes -= 1;
                world.owners[number].has_crashed = true;
                world.has_lost_both |= SIDES.iter().all(|side| world.lists(number, *side));
                for side in SIDES {
                    if world.lists(number, side) {
                        world.servers[side] = None;
                    }
                }
                next.push((("crash", number, 0), world));
            }
        }
        next
    }

    fn tell(&mut self, number: usize, side: usize) -> bool {
        let last = self.last();
        let owner = &mut self.owners[number];
        let place = &mut owner.sides[side];
        if owner.has_stopped || !place.to_tell {
            return false;
        }
        (place.to_tell, place.was_told) = (false, true);
        (place.is_taken, place.is_overtaken) = (false, false);
        place.offer = Some(last + 1);
        if place.is_cut_off {
            place.view = Some((number, owner.mark, last + 1));
        } else {
            self.establish(number, side);
        }
        true
    }

    /// The handle brings its offer to the server, unless a newer one is there.
    fn establish(&mut self, number: usize, side: usize) {
        let Some(offer) = self.owners[number].sides[side].offer else {
            return;
        };
        match self.servers[side] {
            Some((other, at)) if other != number && at > offer => {
                self.owners[number].sides[side].is_taken = true;
                return;
            }
            Some((other, _)) if other != number => {
                self.owners[other].sides[side].is_taken = true;
            }
            _ => {}
        }
        self.servers[side] = Some((number, offer));
    }

    fn view(&mut self, number: usize, side: usize) -> bool {
        let listed = self.listed(side);
        let place = &mut self.owners[number].sides[side];
        place.view = listed;
        !place.is_cut_off
    }

    fn hear(&mut self, number: usize, side: usize) -> bool {
        let is_heard = self.view(number, side) && self.learn(number, side);
        if is_heard {
            self.judge(number);
        }
        is_heard
    }

    fn learn(&mut self, number: usize, side: usize) -> bool {
        let place = &mut self.owners[number].sides[side];
        place.is_overtaken |= place.is_taken;
        !place.is_cut_off
    }

    fn restore(&mut self, number: usize, side: usize) -> bool {
        let place = &mut self.owners[number].sides[side];
        if !std::mem::take(&mut place.is_cut_off) {
            return false;
        }
        if !place.is_taken && place.offer.is_some() {
            self.establish(number, side);
        } else if place.offer.is_none() && self.lists(number, side) {
            self.servers[side] = None;
        }
        true
    }

    fn judge(&mut self, number: usize) -> bool {
        let sights = SIDES.map(|side| Some(self.sight(number, side)));
        let newest = self.owners.iter().map(|owner| owner.mark).max().unwrap();
        let owner = &mut self.owners[number];
        if owner.has_stopped {
            return false;
        }
        match judge(sights) {
            Verdict::Keep | Verdict::Wait => return false,
            Verdict::TakeBack(lost) => {
                for (place, lost) in owner.sides.iter_mut().zip(lost) {
                    if lost {
                        (place.to_tell, place.answered) = (true, place.view);
                    }
                }
            }
            Verdict::DrawAgain => {
                owner.mark = newest + 1;
                for place in &mut owner.sides {
                    place.to_tell = true;
                }
            }
            Verdict::GiveWay => owner.has_stopped = true,
        }
        true
    }

    fn let_go(&mut self, number: usize, side: usize) -> bool {
        let owner = &self.owners[number];
        let place = &owner.sides[side];
        if !owner.has_stopped || !place.was_told {
            return false;
        }
        // It lingers where it hasn't lost the side, for so long that the newest one gets there.
        if !place.is_overtaken && !self.is_stuck(side) {
            return false;
        }
        let place = &mut self.owners[number].sides[side];
        (place.was_told, place.offer) = (false, None);
        if !place.is_cut_off && self.lists(number, side) {
            self.servers[side] = None;
        }
        true
    }

    /// Whether the newest owner can't reach a side, so that it is waited for in vain.
    fn is_stuck(&self, side: usize) -> bool {
        let newest = self.owners.iter().max_by_key(|owner| owner.mark).unwrap();
        newest.sides[side].is_cut_off
    }

    fn sight(&self, number: usize, side: usize) -> Sight {
        let (owner, place) = (&self.owners[number], &self.owners[number].sides[side]);
        let word = match place.view {
            None => Word::Nothing,
            Some((_, mark, _)) if mark == owner.mark => Word::Own,
            Some((_, mark, _)) if mark < owner.mark => Word::Older,
            Some(_) => Word::Newer,
        };
        let is_heard = !place.is_cut_off;
        Sight {
            word,
            is_registered: place.was_told && !place.is_overtaken && is_heard,
            is_overtaken: place.was_told && place.is_overtaken && !place.to_tell,
            is_answered: place.view == place.answered,
            // The bound within which a change is shown is kept.
            is_settled: place.is_overtaken && is_heard && place.view == self.listed(side),
        }
    }

    fn listed(&self, side: usize) -> Option<(usize, u8, u8)> {
        self.servers[side].map(|(number, at)| (number, self.owners[number].mark, at))
    }

    fn lists(&self, number: usize, side: usize) -> bool {
        self.servers[side].is_some_and(|(owner, _)| owner == number)
    }

    fn last(&self) -> u8 {
        let offers = self.owners.iter().flat_map(|owner| &owner.sides);
        let seen = |it: &Option<(usize, u8, u8)>| it.map_or(0, |(_, _, at)| at);
        let offers = offers.map(|it| {
            let at = it.offer.unwrap_or(0);
            at.max(seen(&it.view)).max(seen(&it.answered))
        });
        let stored = self.servers.iter().flatten().map(|(_, at)| *at);
        offers.chain(stored).max().unwrap_or(0)
    }

    /// Numbers in their order, so that what is alike is equal.
    fn rank(&mut self) {
        let mut all: Vec<_> = self.numbers().map(|at| *at).collect();
        all.sort_unstable();
        all.dedup();
        for at in self.numbers() {
            *at = all.iter().position(|it| it == at).unwrap() as u8 + 1;
        }
    }

    fn numbers(&mut self) -> impl Iterator<Item = &mut u8> {
        let places = self.owners.iter_mut().flat_map(|owner| &mut owner.sides);
        let offered = places.flat_map(|place| {
            let seen = [&mut place.view, &mut place.answered];
            let seen = seen.into_iter().flatten().map(|(_, _, at)| at);
            seen.chain(&mut place.offer)
        });
        let stored = self.servers.iter_mut().flatten().map(|(_, at)| at);
        stored.chain(offered)
    }

    /// What is wrong where nothing is left to happen.
    fn verify(&self) -> Result<(), String> {
        let alive = self.owners.iter().enumerate();
        let alive = alive.filter(|(_, owner)| !owner.has_crashed);
        let offering: Vec<_> = alive
            .clone()
            .filter(|(_, owner)| !owner.has_stopped)
            .map(|(number, _)| number)
            .collect();
        let newest = alive.max_by_key(|(_, owner)| owner.mark);
        let newest = newest.map(|(number, _)| number).unwrap();
        if offering.is_empty() && self.has_lost_both {
            return Ok(());
        }
        if offering != [newest] {
            return Err(format!("{offering:?} offer, and {newest} is the newest"));
        }
        match SIDES.iter().find(|side| !self.lists(newest, **side)) {
            Some(side) => Err(format!("{newest} isn't on side {side}")),
            None => Ok(()),
        }
    }
}

/// Goes everywhere; returns how many states there are.
fn explore(setup: Setup) -> usize {
    let mut run = Run::default();
    let start = World::new(setup);
    run.visit(&start);
    println!("{} states", run.seen.len());
    run.seen.len()
}

#[derive(Default)]
struct Run {
    /// By hash: whether a state is on the way here, or done.
    seen: HashMap<u64, bool>,
    trace: Vec<Step>,
}

impl Run {
    fn visit(&mut self, start: &World) {
        // A stack of its own: a way is longer than a thread's is deep.
        let mut stack = vec![self.open(start)];
        while let Some((hash, choices)) = stack.last_mut() {
            let Some((what, world)) = choices.pop() else {
                self.seen.insert(*hash, true);
                stack.pop();
                self.trace.pop();
                continue;
            };
            self.trace.push(what);
            match self.seen.get(&hash_of(&world)) {
                Some(true) => drop(self.trace.pop()),
                Some(false) => panic!("it goes on for ever: {:?}", self.trace),
                None => stack.push(self.open(&world)),
            }
        }
    }

    fn open(&mut self, world: &World) -> (u64, Vec<(Step, World)>) {
        let hash = hash_of(world);
        self.seen.insert(hash, false);
        assert!(self.seen.len() < STATES_MAX, "too many states");
        let mut choices = world.steps();
        if choices.is_empty()
            && let Err(wrong) = world.verify()
        {
            panic!("{wrong}, after {:?}", self.trace);
        }
        choices.extend(world.faults());
        (hash, choices)
    }
}

fn hash_of(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

const CALM: Setup = Setup {
    owners: 2,
    outages: 0,
    crashes: 0,
    twins: false,
    at_once: false,
};

#[test]
fn of_two_owners_the_newer_one_keeps_the_key() {
    assert!(explore(CALM) > 1_000);
}

#[test]
fn of_two_owners_one_of_which_crashes_the_newer_one_keeps_the_key() {
    let setup = Setup { crashes: 1, ..CALM };
    assert!(explore(setup) > 1_000);
}

#[test]
fn of_two_owners_that_draw_the_same_number_one_keeps_the_key() {
    let setup = Setup {
        twins: true,
        ..CALM
    };
    assert!(explore(setup) > 1_000);
}

#[test]
fn of_two_owners_that_lose_a_side_the_newer_one_keeps_the_key() {
    let setup = Setup {
        outages: 1,
        at_once: true,
        ..CALM
    };
    assert!(explore(setup) > 1_000);
}

#[test]
#[ignore = "it goes through millions of states: run it by name"]
fn of_three_owners_the_newest_one_keeps_the_key() {
    let setup = Setup {
        owners: 3,
        at_once: true,
        ..CALM
    };
    assert!(explore(setup) > 1_000);
}
