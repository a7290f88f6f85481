//! Networks that lose a large share of all packets: nobody who is up may be convicted for it, and
//! who is gone must still be found.
//!
//! ```text
//! SIM_SEEDS=1000 cargo test -p tidings-gossip --test sim losses -- --nocapture
//! ```

use std::time::Duration;

use super::{cluster, seconds};
use crate::checkers::Outcome;
use crate::net::Weather;
use crate::sweep::{on_all_cores, variable};
use crate::world::World;

/// Seeds of each test that nobody asked more of.
const SEEDS: u64 = 24;
const MEMBERS: usize = 12;

#[test]
fn half_of_all_packets_lost_for_half_a_minute_is_no_death() {
    nobody_is_convicted(0.5);
}

#[test]
fn a_third_of_all_packets_lost_for_half_a_minute_is_no_death() {
    nobody_is_convicted(0.3);
}

#[test]
fn a_fifth_of_all_packets_lost_for_half_a_minute_is_no_death() {
    nobody_is_convicted(0.2);
}

#[test]
fn who_is_gone_is_found_without_loss() {
    the_silent_are_found(0.0, seconds(5));
}

#[test]
fn who_is_gone_is_found_under_a_fifth_of_loss() {
    the_silent_are_found(0.2, seconds(30));
}

#[test]
fn who_is_gone_is_found_under_a_third_of_loss() {
    the_silent_are_found(0.3, seconds(60));
}

#[test]
fn who_is_gone_is_found_under_half_of_loss() {
    the_silent_are_found(0.5, seconds(120));
}

/// What became of one seed.
#[derive(Default)]
struct Tally {
    suspicions: u64,
    refutations: u64,
    convictions: u64,
    datagrams: u64,
}

fn nobody_is_convicted(loss: f64) {
    let results = on_all_cores(&seeds(), |seed| spell_of_loss(seed, loss));
    let mut total = Tally::default();
    let mut failed = Vec::new();
    for (seed, result) in results {
        match result {
            Ok((tally, buried)) => {
                total.suspicions += tally.suspicions;
                total.refutations += tally.refutations;
                total.convictions += tally.convictions;
                total.datagrams += tally.datagrams;
                if !buried.is_empty() {
                    failed.push(format!("seed {seed}: {}", buried.join(", ")));
                }
            }
            Err(violation) => failed.push(format!("seed {seed}: {violation}")),
        }
    }
    let Tally {
        suspicions,
        refutations,
        convictions,
        datagrams,
    } = total;
    println!(
        "{:.0} % lost, {MEMBERS} members, 30 s, {} seeds: {suspicions} suspicions, {refutations} \
         refutations, {convictions} convictions, {:.1} datagrams a second and member",
        loss * 100.0,
        seeds().len(),
        datagrams as f64 / 30.0 / MEMBERS as f64 / seeds().len() as f64,
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Half a minute in which this share is lost, and what each member took for dead meanwhile.
fn spell_of_loss(seed: u64, loss: f64) -> Outcome<(Tally, Vec<String>)> {
    let mut world = lossy_cluster(seed, 0.0)?;
    let before = tally(&world);
    lose(&mut world, loss);
    world.run_for(seconds(30))?;
    assert!(world.counters.datagrams_lost > 100);
    let after = tally(&world);
    lose(&mut world, 0.0);
    world.run_until_agreed(seconds(10))?;
    let mut buried = Vec::new();
    for process in world.processes.values() {
        for name in &process.buried {
            buried.push(format!("m{} buried {name}", process.slot));
        }
    }
    let spell = Tally {
        suspicions: after.suspicions - before.suspicions,
        refutations: after.refutations - before.refutations,
        convictions: after.convictions - before.convictions,
        datagrams: after.datagrams - before.datagrams,
    };
    Ok((spell, buried))
}

/// A host vanishes while this share is lost; prints how long it stays in a view.
fn the_silent_are_found(loss: f64, within: Duration) {
    let results = on_all_cores(&seeds(), |seed| time_to_find(seed, loss, within));
    let (mut times, mut failed) = (Vec::new(), Vec::new());
    for (seed, result) in results {
        match result {
            Ok(time) => times.push(time),
            Err(violation) => failed.push(format!("seed {seed}: {violation}")),
        }
    }
    times.sort();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().max(1) - 1));
    println!(
        "{:.0} % lost, {MEMBERS} members, a silent host out of every view: median {:?}, 95 % {:?}, \
         most {:?}",
        loss * 100.0,
        at(50),
        at(95),
        at(100),
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn time_to_find(seed: u64, loss: f64, within: Duration) -> Outcome<Duration> {
    let mut world = lossy_cluster(seed, loss)?;
    world.run_for(seconds(10))?;
    let silent = 5;
    let name = world.slots[silent].name.clone();
    world.silence(silent);
    let begin = world.now;
    loop {
        let seen = world.processes.values().filter(|process| {
            let view = process.told.values().flatten();
            view.clone()
                .any(|instance| instance.id().as_str() == &*name)
        });
        if seen.count() == 0 {
            return Ok(world.now - begin);
        }
        assert!(
            world.now < begin + within,
            "seed {seed}: {name} is shown after {within:?}"
        );
        world.run_for(Duration::from_millis(10))?;
    }
}

fn lossy_cluster(seed: u64, loss: f64) -> Outcome<World> {
    let mut world = cluster(seed, MEMBERS)?;
    lose(&mut world, loss);
    Ok(world)
}

fn lose(world: &mut World, loss: f64) {
    world.net.weather = Weather {
        loss,
        ..world.net.weather
    };
}

fn tally(world: &World) -> Tally {
    let mut tally = Tally::default();
    for process in world.processes.values() {
        let stats = process.engine.stats();
        tally.suspicions += stats.suspicions;
        tally.refutations += stats.refutations;
        tally.convictions += stats.deaths;
        tally.datagrams += stats.datagrams_out;
    }
    tally
}

fn seeds() -> Vec<u64> {
    (1..=variable("SIM_SEEDS").unwrap_or(SEEDS)).collect()
}
