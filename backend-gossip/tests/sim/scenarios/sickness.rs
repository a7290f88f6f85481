//! Members that are slow, stopped, or whose clock jumps: they must not take others for dead.

use std::time::Duration;

use super::{cluster, each_seed, seconds};
use crate::app::key;
use crate::net::Weather;
use crate::world::World;

#[test]
fn a_slow_member_takes_nobody_down_with_it() {
    each_seed(|seed| {
        let mut world = cluster(seed, 8)?;
        world.slow(3, Duration::from_millis(250), seconds(60));
        world.run_for(seconds(60))?;
        assert!(world.counters.inputs_slowed > 100);
        for (slot, buried) in burials(&world) {
            assert!(
                buried.iter().all(|name| name == "m3"),
                "m{slot} buried {buried:?}"
            );
        }
        world.run_until_agreed(seconds(30))?;
        Ok(())
    });
}

#[test]
fn a_stopped_member_accuses_nobody_when_it_goes_on() {
    each_seed(|seed| {
        let mut world = cluster(seed, 8)?;
        for lasting in [2, 8, 30] {
            world.pause(5, seconds(lasting));
            world.run_for(seconds(lasting))?;
            world.run_until_agreed(seconds(30))?;
        }
        world.run_for(seconds(20))?;
        for (slot, buried) in burials(&world) {
            assert!(
                buried.iter().all(|name| name == "m5"),
                "m{slot} buried {buried:?}"
            );
        }
        assert_eq!(
            world.process(5).vanished,
            0,
            "it never lost sight of anybody"
        );
        Ok(())
    });
}

#[test]
fn a_clock_that_jumps_forward_says_nothing_about_the_others() {
    each_seed(|seed| {
        let mut world = cluster(seed, 8)?;
        world.run_for(seconds(10))?;
        // The checkers allow no false death and no flap from here on.
        world.settled();
        for jump in [5, 60, 3_600] {
            world.jump(4, seconds(jump));
            world.run_for(seconds(30))?;
            world.run_until_agreed(seconds(5))?;
        }
        world.register(4, &key("orders", "after"), 10);
        world.run_until_agreed(seconds(2))?;
        Ok(())
    });
}

#[test]
fn a_lossy_member_is_not_lost() {
    each_seed(|seed| {
        let mut world = cluster(seed, 8)?;
        world.lossy(2, 0.25, seconds(120));
        world.run_for(seconds(120))?;
        assert!(world.counters.datagrams_lost > 100);
        for (slot, buried) in burials(&world) {
            assert!(buried.is_empty(), "m{slot} buried {buried:?}");
        }
        world.run_until_agreed(seconds(10))?;
        Ok(())
    });
}

/// Losses make accusations, and each of those is told to everybody: the cost of that has a bound.
#[test]
fn a_lossy_network_is_no_storm() {
    let members = 50;
    each_seed(|seed| {
        let mut world = cluster(seed, members)?;
        let weather = Weather {
            loss: 0.3,
            ..world.net.weather
        };
        let time = seconds(60);
        world.net.weather = weather;
        world.run_for(seconds(10))?;
        let before = datagrams(&world);
        world.run_for(time)?;
        let sent = (datagrams(&world) - before) as f64 / members as f64 / time.as_secs_f64();
        assert!(world.counters.datagrams_lost > 10_000);
        println!("seed {seed}: {sent:.1} datagrams a second and member");
        assert!(sent < 30.0, "{sent:.1} datagrams a second and member");
        for (slot, buried) in burials(&world) {
            assert!(buried.is_empty(), "m{slot} buried {buried:?}");
        }
        Ok(())
    });
}

fn datagrams(world: &World) -> u64 {
    let processes = world.processes.values();
    processes
        .map(|process| process.engine.stats().datagrams_out)
        .sum()
}

/// Whom each process has ever taken for dead.
pub(super) fn burials(world: &World) -> Vec<(usize, Vec<String>)> {
    let all = world.processes.values();
    let names = |buried: &[std::sync::Arc<str>]| buried.iter().map(ToString::to_string).collect();
    all.map(|process| (process.slot, names(&process.buried)))
        .collect()
}
