//! Replays what is kept in `corpus/` and the seeds, as they are and changed at random.
//!
//! `TIDINGS_FUZZ_SEED=… cargo test -p tidings-fuzz` repeats a run; `TIDINGS_FUZZ_ROUNDS` is the number
//! of random changes for each target.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use fastrand::Rng;
use tidings_fuzz::{TARGETS, mutation, target};

const ROUNDS: usize = 3_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: accepted is a number")),
    )
}

/// What is kept of a target, by file name.
fn kept(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let Ok(files) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = files.map(|file| file.unwrap().path());
    let mut kept: Vec<_> = paths
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    kept.sort();
    kept
}

/// Runs an input; says which it was where it breaks a law.
fn run(name: &str, from: &str, input: &[u8]) {
    let run = target(name).unwrap().run;
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(input))) {
        let path = std::env::temp_dir().join(format!("tidings-fuzz-{name}-{}", std::process::id()));
        std::fs::write(&path, input).unwrap();
        eprintln!(
            "{name}: {from} breaks a law; the input is in {}",
            path.display()
        );
        resume_unwind(panic);
    }
}

fn replay(name: &str) {
    let target = target(name).unwrap();
    let mut inputs = kept(name);
    let seeds = (target.seeds)().into_iter().enumerate();
    inputs.extend(seeds.map(|(at, seed)| (format!("seed {at}"), seed)));
    for (from, input) in &inputs {
        run(name, from, input);
    }
    let seed = number("TIDINGS_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = number("TIDINGS_FUZZ_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    println!(
        "{name}: {} inputs, {rounds} changes, TIDINGS_FUZZ_SEED={seed}",
        inputs.len()
    );
    let mut rng = Rng::with_seed(seed);
    for round in 0..rounds {
        let (from, input) = &inputs[rng.usize(..inputs.len())];
        let (_, other) = &inputs[rng.usize(..inputs.len())];
        let input = mutation::mutated(&mut rng, input, other);
        let from = format!("{from}, changed in round {round} of TIDINGS_FUZZ_SEED={seed},");
        run(name, &from, &input);
    }
}

#[test]
fn frame() {
    replay("frame");
}

#[test]
fn sync() {
    replay("sync");
}

#[test]
fn sealed() {
    replay("sealed");
}

#[test]
fn link() {
    replay("link");
}

#[test]
fn engine() {
    replay("engine");
}

#[test]
fn each_target_has_a_test_and_seeds() {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, ["frame", "sync", "sealed", "link", "engine"]);
    for target in TARGETS {
        assert!((target.seeds)().len() >= 10, "{}", target.name);
    }
}
