//! Runs written by hand: what members of real clusters go through, one thing at a time. All
//! checkers watch here too.

mod events;
mod joining;
mod losses;
mod partitions;
mod queries;
mod restarts;
mod sickness;

use std::time::Duration;

use tidings_gossip::engine::EngineConfig;

use crate::app::key;
use crate::checkers::Outcome;
use crate::net::Latency;
use crate::run::{CLUSTER, limits};
use crate::world::World;

/// How often each scenario runs, with another seed each.
const SEEDS: u64 = 8;

const LATENCY: Latency = Latency {
    base: Duration::from_micros(300),
    jitter: Duration::from_micros(300),
};

/// Runs a scenario with several seeds.
fn each_seed(scenario: impl Fn(u64) -> Outcome) {
    for seed in 1..=SEEDS {
        if let Err(violation) = scenario(seed) {
            panic!("seed {seed}\n{violation}");
        }
    }
}

/// A world with nobody in it.
fn world(seed: u64, config: EngineConfig, members: usize) -> World {
    let limits = limits(&config, members, LATENCY.base + LATENCY.jitter);
    World::new(seed, config, LATENCY, &limits)
}

/// A cluster of members `m0` …, each of which offers `web/m0` … and has the first three for seeds;
/// they agree.
fn cluster(seed: u64, members: usize) -> Outcome<World> {
    cluster_with(seed, members, EngineConfig::default())
}

fn cluster_with(seed: u64, members: usize, config: EngineConfig) -> Outcome<World> {
    let mut world = world(seed, config, members);
    add_members(&mut world, CLUSTER, members);
    for slot in 0..members {
        world.start(slot);
    }
    world.run_until_agreed(seconds(10))?;
    Ok(world)
}

fn add_members(world: &mut World, cluster: &str, members: usize) {
    let first = world.slots.len();
    for slot in first..first + members {
        world.add_slot(&format!("m{slot}"), cluster);
        world.register(slot, &key("web", &format!("m{slot}")), 50);
    }
    world.seeds.extend(first..first + members.min(3));
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
