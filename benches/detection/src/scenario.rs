//! One engine under one kind of trouble, and what came of it.

use std::time::Duration;

use crate::node::Node;
use crate::plan::{self, Conditions, SEEDS};
use crate::score::{Cause, Death, Score, Victim};
use crate::world::World;

/// One row of the comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) conditions: Conditions,
}

const NONE: Conditions = Conditions {
    loss: 0.0,
    pauses: false,
    one_way: false,
    ways: false,
    sick: false,
    killed: false,
};

const fn loss(name: &'static str, loss: f64) -> Scenario {
    let conditions = Conditions { loss, ..NONE };
    Scenario { name, conditions }
}

/// Nothing is wrong but that hosts fall silent.
pub(crate) const NO_LOSS: Scenario = loss("no loss", 0.0);

/// What false deaths are decided by: an hour of this without one.
pub(crate) const HARD_HOUR: Scenario = Scenario {
    name: "pauses, 20 % loss",
    conditions: Conditions {
        loss: 0.2,
        pauses: true,
        ..NONE
    },
};

/// Every row.
pub(crate) const SCENARIOS: [Scenario; 11] = [
    Scenario {
        name: "no loss, killed",
        conditions: Conditions {
            killed: true,
            ..NONE
        },
    },
    NO_LOSS,
    loss("10 % loss", 0.1),
    loss("20 % loss", 0.2),
    loss("30 % loss", 0.3),
    Scenario {
        name: "pauses",
        conditions: Conditions {
            pauses: true,
            ..NONE
        },
    },
    HARD_HOUR,
    Scenario {
        name: "one-way cuts",
        conditions: Conditions {
            one_way: true,
            ..NONE
        },
    },
    Scenario {
        name: "one-way pairs",
        conditions: Conditions { ways: true, ..NONE },
    },
    Scenario {
        name: "one sick",
        conditions: Conditions { sick: true, ..NONE },
    },
    Scenario {
        name: "all at once, 10 % loss",
        conditions: Conditions {
            loss: 0.1,
            pauses: true,
            one_way: true,
            ways: true,
            sick: true,
            killed: false,
        },
    },
];

impl Scenario {
    /// Whether packet loss is all that is wrong.
    pub(crate) fn is_plain(&self) -> bool {
        let Conditions {
            pauses,
            one_way,
            ways,
            sick,
            killed,
            loss: _,
        } = self.conditions;
        !(pauses || one_way || ways || sick || killed)
    }
}

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) members: usize,
    /// Of virtual time, for each seed.
    pub(crate) seconds: u64,
    pub(crate) first_seed: u64,
    pub(crate) seeds: u64,
}

/// Times from the loss of members until something, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    within: Vec<Duration>,
    /// Members of whom it never came.
    missed: usize,
}

impl Times {
    fn of(victims: &[Victim], moment: impl Fn(&Victim) -> Option<Duration>) -> Self {
        let time = |victim: &Victim| Some(moment(victim)? - victim.at);
        let mut within: Vec<_> = victims.iter().filter_map(time).collect();
        within.sort();
        let missed = victims.len() - within.len();
        Self { within, missed }
    }

    fn add(&mut self, other: Self) {
        self.within.extend(other.within);
        self.within.sort();
        self.missed += other.missed;
    }

    /// The time within which it had come for this share; those missed count as later than all others.
    pub(crate) fn share(&self, share: f64) -> Option<Duration> {
        let at = (self.count() as f64 * share).ceil() as usize;
        self.within.get(at.max(1) - 1).copied()
    }

    pub(crate) fn missed(&self) -> usize {
        self.missed
    }

    pub(crate) fn count(&self) -> usize {
        self.within.len() + self.missed
    }
}

/// What came of it, over all seeds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) member_hours: f64,
    /// Until the first ordinary member took a lost one for dead.
    pub(crate) first: Times,
    /// Until it was out of half of the views.
    pub(crate) half: Times,
    /// Until it was out of all.
    pub(crate) all: Times,
    /// With the seed in whose run it was.
    pub(crate) deaths: Vec<(u64, Death)>,
    pub(crate) views: u64,
    pub(crate) events: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: Self) {
        self.member_hours += other.member_hours;
        self.first.add(other.first);
        self.half.add(other.half);
        self.all.add(other.all);
        self.deaths.extend(other.deaths);
        self.views += other.views;
        self.events += other.events;
    }

    pub(crate) fn deaths(&self, cause: Cause) -> usize {
        self.deaths.iter().filter(|(_, d)| d.cause == cause).count()
    }
}

/// Runs one seed of a scenario.
pub(crate) fn run<N: Node>(
    scenario: &Scenario,
    size: &Size,
    seed: u64,
    config: &N::Config,
) -> Figures {
    let plan = plan::draw(seed, scenario.conditions, size.members, size.seconds);
    let mut world = World::<N>::new(seed, SEEDS, config.clone());
    world.carry_out(&plan, Duration::from_secs(size.seconds));
    let Score {
        deaths,
        views,
        victims,
        ..
    } = std::mem::take(&mut world.score);
    Figures {
        member_hours: size.members as f64 * size.seconds as f64 / 3_600.0,
        first: Times::of(&victims, |victim| victim.first),
        half: Times::of(&victims, |victim| victim.half),
        all: Times::of(&victims, |victim| victim.all),
        deaths: deaths.into_iter().map(|death| (seed, death)).collect(),
        views,
        events: world.events,
    }
}
