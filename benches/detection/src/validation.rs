//! Whether the model of memberlist behaves as memberlist does: held against real agents.
//!
//! The real ones are Go `serf` 0.9.4 (Debian bookworm; memberlist with `-profile=lan` and `local`), one
//! process an agent, on loopback. Times are of five processes killed one after the other, by SIGKILL;
//! `benches/peers` repeats such measurements, and their medians are good to about a fifth. False deaths
//! are those in the agents' logs in 30 s of loss, which is by iptables on what arrives, UDP and TCP alike.

use std::time::Duration;

use crate::memberlist::{Memberlist, Rules};
use crate::plan::{self, Conditions, SEEDS};
use crate::scenario::{Figures, Scenario, Size, run};
use crate::score::Cause;
use crate::world::World;

/// How far apart medians may be: what the measured ones are good to.
const TOLERANCE: f64 = 0.2;

/// Seconds from a kill to the first, and to the last, that knows: least, median, most of five.
struct Measured {
    what: &'static str,
    rules: Rules,
    members: usize,
    first: [f64; 3],
    all: [f64; 3],
}

const MEASURED: [Measured; 5] = [
    Measured {
        what: "lan",
        rules: Rules::LAN,
        members: 5,
        first: [5.32, 5.91, 6.96],
        all: [5.38, 5.92, 7.01],
    },
    Measured {
        what: "lan",
        rules: Rules::LAN,
        members: 25,
        first: [6.92, 7.24, 8.36],
        all: [7.38, 7.47, 8.62],
    },
    Measured {
        what: "lan",
        rules: Rules::LAN,
        members: 50,
        first: [7.99, 8.10, 10.5],
        all: [8.33, 8.42, 10.9],
    },
    Measured {
        what: "lan",
        rules: Rules::LAN,
        members: 100,
        first: [9.54, 10.5, 12.4],
        all: [10.0, 10.9, 12.7],
    },
    Measured {
        what: "local",
        rules: Rules::LOCAL,
        members: 25,
        first: [5.24, 5.82, 6.18],
        all: [5.36, 6.00, 6.32],
    },
];

#[test]
fn a_killed_process_is_found_as_late_as_by_real_agents() {
    for measured in MEASURED {
        let Figures { first, all, .. } = kills(&measured.rules, measured.members);
        for (name, times, real) in [("first", first, measured.first), ("all", all, measured.all)] {
            assert_eq!(times.missed(), 0);
            let at = |share| times.share(share).expect("none was missed").as_secs_f64();
            let (least, median, most) = (at(0.0), at(0.5), at(1.0));
            let what = format!(
                "{} {}, {name}: model {least:.2} / {median:.2} / {most:.2} of {}, real {real:?}",
                measured.what,
                measured.members,
                times.count(),
            );
            println!("{what}");
            assert!((median / real[1] - 1.0).abs() <= TOLERANCE, "{what}");
            let widely = least * (1.0 - TOLERANCE)..most * (1.0 + TOLERANCE);
            assert!(
                widely.contains(&real[0]) && widely.contains(&real[2]),
                "{what}"
            );
        }
    }
}

/// Some thirty members killed one after the other.
fn kills(rules: &Rules, members: usize) -> Figures {
    let scenario = Scenario {
        name: "killed",
        conditions: Conditions {
            killed: true,
            ..Conditions::default()
        },
    };
    let size = Size {
        members,
        seconds: 800,
        first_seed: 1,
        seeds: 2,
    };
    let mut figures = Figures::default();
    for seed in size.first_seed..size.first_seed + size.seeds {
        figures.add(run::<Memberlist>(&scenario, &size, seed, rules));
    }
    figures
}

/// Members that ran and were taken for dead by anybody, in 30 s of this loss, on average.
fn members_accused(rules: &Rules, members: usize, loss: f64) -> f64 {
    const RUNS: u32 = 10;
    let mut accused = 0;
    for seed in 0..RUNS {
        let conditions = Conditions {
            loss,
            ..Conditions::default()
        };
        // The loss begins at 30 s.
        let plan = plan::draw(seed.into(), conditions, members, 60);
        let mut world = World::<Memberlist>::new(seed.into(), SEEDS, rules.clone());
        world.carry_out(&plan, Duration::from_secs(60));
        let deaths = world.score.deaths.iter().filter(|d| d.cause == Cause::None);
        let mut subjects: Vec<_> = deaths.map(|death| death.subject).collect();
        subjects.sort();
        subjects.dedup();
        accused += subjects.len();
    }
    accused as f64 / f64::from(RUNS)
}

/// Members that ran and that any agent's log calls failed, by run.
#[test]
fn under_loss_as_many_are_taken_for_dead_as_by_real_agents() {
    let measured: [(_, _, _, _, &[u32]); 3] = [
        ("lan", Rules::LAN, 50, 0.3, &[1, 0, 1]),
        ("local", Rules::LOCAL, 25, 0.2, &[5, 4, 3]),
        ("local", Rules::LOCAL, 25, 0.3, &[16, 17, 18, 14]),
    ];
    for (name, rules, members, loss, real) in measured {
        let model = members_accused(&rules, members, loss);
        let what = format!("{name} {members}, loss {loss}: model {model:.2} a run, real {real:?}");
        println!("{what}");
        // As far as chance may set a sum of rare events apart: three standard deviations.
        let expected = model * real.len() as f64;
        let found = f64::from(real.iter().sum::<u32>());
        assert!((found - expected).abs() <= 3.0 * expected.sqrt(), "{what}");
    }
}
