//! Laws that no input from the network breaks: one function a target, which panics where one is
//! broken.
//!
//! A target is pure: the same bytes always do the same. Fuzzers call it (`libfuzzer/`, a workspace of
//! its own), and `tests/replay.rs` does, with the inputs that are kept in `corpus/`, the [`seeds`], and
//! random [`mutation`]s of both, so that every test run fuzzes a little.

mod engine;
mod frame;
mod link;
pub mod mutation;
mod script;
mod sealed;
pub mod seeds;
mod sync;

/// Something to throw bytes at.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its module, its fuzzer and its folder in `corpus/`.
    pub name: &'static str,
    /// Panics where a law is broken.
    pub run: fn(&[u8]),
    /// Inputs to begin with: what members really say.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "frame",
        run: frame::run,
        seeds: frame::seeds,
    },
    Target {
        name: "sync",
        run: sync::run,
        seeds: sync::seeds,
    },
    Target {
        name: "sealed",
        run: sealed::run,
        seeds: sealed::seeds,
    },
    Target {
        name: "link",
        run: link::run,
        seeds: link::seeds,
    },
    Target {
        name: "engine",
        run: engine::run,
        seeds: engine::seeds,
    },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}

/// Runs the target of this name.
///
/// # Panics
/// Where a law is broken, or there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let target = target(name).unwrap_or_else(|| panic!("no target {name}"));
    (target.run)(input);
}
