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
};

const fn loss(name: &'static str, loss: f64) -> Scenario {
    let conditions = Conditions { loss, ..NONE };
    Scenario { name, conditions }
}

/// What the issue of false deaths is decided by: an hour of this without one.
pub(crate) const HARD_HOUR: Scenario = Scenario {
    name: "pauses, 20 % loss",
    conditions: Conditions {
        loss: 0.2,
        pauses: true,
        ..NONE
    },
};

/// Every row, the plain losses first.
pub(crate) const SCENARIOS: [Scenario; 13] = [
    loss("no loss", 0.0),
    loss("5 % loss", 0.05),
    loss("10 % loss", 0.1),
    loss("15 % loss", 0.15),
    loss("20 % loss", 0.2),
    loss("25 % loss", 0.25),
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
            ..
        } = self.conditions;
        !(pauses || one_way || ways || sick)
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

/// What came of it, over all seeds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) member_hours: f64,
    /// Times from the silence of a host until it was out of every view, in order.
    pub(crate) detected: Vec<Duration>,
    /// Hosts that some view still had at the end.
    pub(crate) missed: usize,
    /// With the seed in whose run it was.
    pub(crate) deaths: Vec<(u64, Death)>,
    pub(crate) views: u64,
    pub(crate) events: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: Self) {
        self.member_hours += other.member_hours;
        self.detected.extend(other.detected);
        self.detected.sort();
        self.missed += other.missed;
        self.deaths.extend(other.deaths);
        self.views += other.views;
        self.events += other.events;
    }

    /// The time within which this share was detected; those missed count as later than all others.
    pub(crate) fn detected_within(&self, share: f64) -> Option<Duration> {
        let all = self.detected.len() + self.missed;
        let at = (all as f64 * share).ceil() as usize;
        self.detected.get(at.max(1) - 1).copied()
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
    suspicion_multiplier: u32,
) -> Figures {
    let plan = plan::draw(seed, scenario.conditions, size.members, size.seconds);
    let mut world = World::<N>::new(seed, SEEDS, suspicion_multiplier);
    world.carry_out(&plan, Duration::from_secs(size.seconds));
    let Score {
        deaths,
        views,
        victims,
        ..
    } = std::mem::take(&mut world.score);
    let gone = |victim: &Victim| Some(victim.gone? - victim.at);
    let mut detected: Vec<_> = victims.iter().filter_map(gone).collect();
    detected.sort();
    Figures {
        member_hours: size.members as f64 * size.seconds as f64 / 3_600.0,
        missed: victims.len() - detected.len(),
        detected,
        deaths: deaths.into_iter().map(|death| (seed, death)).collect(),
        views,
        events: world.events,
    }
}
