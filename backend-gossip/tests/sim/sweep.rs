//! Many seeds at once, and what to do with one that fails.
//!
//! ```text
//! cargo test -p tidings-gossip --test sim                            the default number of seeds
//! SIM_SEEDS=1000 cargo test -p tidings-gossip --test sim sweep       more of them
//! SIM_SEED=17 cargo test -p tidings-gossip --test sim sweep          one, cut down to what matters
//! SIM_SEED=17 SIM_TRACE=1 …                                          … with every frame and event
//! ```

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::checkers::{Outcome, Violation};
use crate::counters::Counters;
use crate::plan::Plan;
use crate::run::{Report, run};

/// Seeds of a sweep that nobody asked more of: about a minute of one core.
const SEEDS: u64 = 64;
/// Below this, some kinds of faults may not have been drawn at all.
const SEEDS_WITH_ALL_FAULTS: u64 = 48;
/// Runs spent on cutting a failing plan down.
const SHRINKING_RUNS: u32 = 300;
/// Seeds that failed once, one per line with a word on why.
const REGRESSIONS: &str = include_str!("seeds.txt");

#[test]
fn sweep() {
    if let Some(seed) = variable("SIM_SEED") {
        return replay(seed);
    }
    let first = variable("SIM_FIRST").unwrap_or(1);
    let count = variable("SIM_SEEDS").unwrap_or(SEEDS);
    let total = run_all(&(first..first + count).collect::<Vec<_>>());
    if count >= SEEDS_WITH_ALL_FAULTS {
        for (name, count) in total.rows() {
            // Two clusters, and two processes of one name, meet in scenarios of their own.
            let elsewhere = ["foreign", "names_taken"].contains(&name);
            assert!(count > 0 || elsewhere, "no seed had any {name}");
        }
    }
}

#[test]
fn regressions() {
    let seeds = REGRESSIONS
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let seeds = seeds.filter(|word| !word.starts_with('#'));
    let seeds: Vec<_> = seeds.map(|seed| seed.parse().expect("a seed")).collect();
    run_all(&seeds);
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in [3, 14, 159] {
        let digest = || attempt(&Plan::draw(seed)).map(|report| report.digest);
        assert_eq!(digest(), digest(), "seed {seed}");
    }
    let digests = [1, 2].map(|seed| attempt(&Plan::draw(seed)).map(|report| report.digest));
    assert_ne!(digests[0], digests[1], "the digest tells runs apart");
}

/// Runs these seeds on all cores; panics at the end where some failed.
fn run_all(seeds: &[u64]) -> Counters {
    let begin = Instant::now();
    let results = on_all_cores(seeds, |seed| attempt(&Plan::draw(seed)));

    let mut total = Counters::default();
    let mut times = BTreeMap::<_, Vec<_>>::new();
    let mut failed = Vec::new();
    for (seed, result) in results {
        match result {
            Ok(report) => {
                total.add(&report.counters);
                for (what, time) in report.times {
                    times.entry(what).or_default().push(time);
                }
            }
            Err(violation) => failed.push((seed, violation)),
        }
    }
    println!(
        "\n{} seeds, {} failed, {:.1} s",
        seeds.len(),
        failed.len(),
        begin.elapsed().as_secs_f64()
    );
    print_tables(&total, times);
    for (seed, violation) in &failed {
        eprintln!("\nseed {seed} failed\n{violation}\n{}", replay_line(*seed));
    }
    let names: Vec<_> = failed
        .iter()
        .map(|(seed, v)| format!("{seed} ({})", v.checker))
        .collect();
    assert!(
        failed.is_empty(),
        "{} seeds failed: {}",
        failed.len(),
        names.join(", ")
    );
    total
}

/// Does something with each seed, on all cores; what came of it in the order of the seeds.
pub(crate) fn on_all_cores<T: Send>(
    seeds: &[u64],
    attempt: impl Fn(u64) -> T + Sync,
) -> Vec<(u64, T)> {
    let next = AtomicU64::new(0);
    let results = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed));
                    let Some(seed) = at.ok().and_then(|at| seeds.get(at)) else {
                        return;
                    };
                    let result = attempt(*seed);
                    results
                        .lock()
                        .expect("no thread panics")
                        .push((*seed, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no thread panics");
    results.sort_by_key(|(seed, _)| *seed);
    results
}

/// Runs one seed, and cuts its plan down where it fails.
fn replay(seed: u64) {
    let plan = Plan::draw(seed);
    eprintln!("{plan}");
    let Err(violation) = attempt(&plan) else {
        eprintln!("seed {seed} passes");
        return;
    };
    eprintln!("seed {seed} failed\n{violation}\n");
    if std::env::var_os("SIM_TRACE").is_none() {
        let (shrunk, violation) = shrink(plan, violation);
        eprintln!("The same checker fails on this much:\n{shrunk}\n{violation}\n");
    }
    panic!("{}", replay_line(seed));
}

/// Takes steps out of a plan for as long as the same checker still fails.
fn shrink(mut plan: Plan, mut violation: Violation) -> (Plan, Violation) {
    let mut size = plan.steps.len() / 2;
    let mut runs = SHRINKING_RUNS;
    while size > 0 {
        let mut at = 0;
        while at < plan.steps.len() && runs > 0 {
            let mut less = plan.clone();
            less.steps.drain(at..(at + size).min(plan.steps.len()));
            runs -= 1;
            match attempt(&less) {
                Err(same) if same.checker == violation.checker => (plan, violation) = (less, same),
                _ => at += size,
            }
        }
        size /= 2;
    }
    (plan, violation)
}

/// Runs a plan; a panic of the engine breaks a rule as well.
fn attempt(plan: &Plan) -> Outcome<Report> {
    catch_unwind(AssertUnwindSafe(|| run(plan))).unwrap_or_else(|panic| {
        Err(Violation {
            checker: "no-panic",
            at: Duration::ZERO,
            seen: message(&*panic),
        })
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}

fn print_tables(total: &Counters, times: BTreeMap<&str, Vec<Duration>>) {
    println!("{:>14} {:>14} {:>14}", "median", "95 %", "most");
    for (what, mut times) in times {
        times.sort();
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        println!("{:>14?} {:>14?} {:>14?}  {what}", at(50), at(95), at(100));
    }
    for (name, count) in total.rows() {
        println!("{count:>14}  {}", name.replace('_', " "));
    }
}

fn replay_line(seed: u64) -> String {
    format!("replay: SIM_SEED={seed} cargo test -p tidings-gossip --test sim sweep -- --nocapture")
}

pub(crate) fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is not a number")),
    )
}
