//! Both engines through every scenario, on all cores.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidings_gossip::engine::{Engine, EngineConfig};

use crate::memberlist::{Memberlist, Rules};
use crate::node::Node;
use crate::scenario::{Figures, Scenario, Size, run};

/// What is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) size: Size,
}

/// What came of one scenario.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    /// This gossip engine's and memberlist's.
    pub(crate) figures: [(&'static str, Figures); 2],
}

/// Runs it.
pub(crate) fn compare(work: &Work) -> Vec<Outcome> {
    let Size {
        first_seed, seeds, ..
    } = work.size;
    let mut jobs = Vec::new();
    for scenario in 0..work.scenarios.len() {
        for seed in first_seed..first_seed + seeds {
            jobs.extend([0, 1].map(|engine| (scenario, engine, seed)));
        }
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (scenario, engine, seed) = *job;
                    let scenario = &work.scenarios[scenario];
                    let figures = match engine {
                        0 => run::<Engine>(scenario, &work.size, seed, &EngineConfig::default()),
                        _ => run::<Memberlist>(scenario, &work.size, seed, &Rules::LAN),
                    };
                    let mut results = results.lock().expect("no thread panics");
                    results.insert(*job, figures);
                }
            });
        }
    });
    let results = results.into_inner().expect("no thread panics");
    let mut outcomes: Vec<_> = work.scenarios.iter().map(Outcome::new).collect();
    for ((scenario, engine, _), figures) in results {
        outcomes[scenario].figures[engine].1.add(figures);
    }
    outcomes
}

impl Outcome {
    fn new(scenario: &Scenario) -> Self {
        Self {
            scenario: *scenario,
            figures: [Engine::NAME, Memberlist::NAME].map(|name| (name, Figures::default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scenario::{HARD_HOUR, NO_LOSS, SCENARIOS, Times};
    use crate::score::Cause;

    fn outcome(scenario: Scenario, seconds: u64) -> [Figures; 2] {
        let size = Size {
            members: 40,
            seconds,
            first_seed: 1,
            seeds: 1,
        };
        let work = Work {
            scenarios: vec![scenario],
            size,
        };
        compare(&work).remove(0).figures.map(|(_, figures)| figures)
    }

    fn median(times: &Times) -> Duration {
        times.share(0.5).expect("most were found")
    }

    /// The short version of the hour in `docs/detection.md`.
    #[test]
    fn nobody_who_runs_is_taken_for_dead_under_loss_and_pauses() {
        let [ours, _] = outcome(HARD_HOUR, 300);
        assert!(ours.all.count() >= 3, "{ours:?}");
        assert_eq!(
            (ours.all.missed(), ours.deaths(Cause::None)),
            (0, 0),
            "{ours:?}"
        );
        assert!(ours.deaths(Cause::Stopped) > 0, "pauses did show: {ours:?}");
    }

    #[test]
    fn a_silent_host_is_found_sooner_than_by_the_rules_of_memberlist() {
        let [ours, theirs] = outcome(NO_LOSS, 300);
        assert!(
            median(&ours.all) * 2 < median(&theirs.all),
            "{ours:?} {theirs:?}"
        );
        assert_eq!(ours.deaths.len() + theirs.deaths.len(), 0);
    }

    #[test]
    fn a_killed_process_is_out_of_every_view_in_a_tenth_of_a_second() {
        let [ours, theirs] = outcome(SCENARIOS[0], 300);
        assert!(median(&ours.all) < Duration::from_millis(100), "{ours:?}");
        assert!(median(&theirs.all) > Duration::from_secs(5), "{theirs:?}");
    }

    #[test]
    fn equal_seeds_give_equal_figures() {
        let digest = || format!("{:?}", outcome(HARD_HOUR, 120));
        assert_eq!(digest(), digest());
    }
}
