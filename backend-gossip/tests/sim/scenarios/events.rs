//! User events under loss, partitions, crashes and late joiners.

use std::time::Duration;

use super::{add_members, cluster, each_seed, seconds};
use crate::checkers::Outcome;
use crate::faults::Place;
use crate::net::{Direction, Weather};
use crate::run::CLUSTER;
use crate::world::World;

#[test]
fn the_last_words_of_a_member_that_is_killed_reach_everybody_or_nobody() {
    each_seed(|seed| {
        let mut world = cluster(seed, 8)?;
        weather(&mut world);
        for slot in 1..4 {
            for bytes in [1, 500, 30_000] {
                world.send_event(slot, bytes);
            }
            world.run_for(Duration::from_millis(3))?;
            world.kill(slot);
        }
        world.run_for(seconds(5))?;
        assert!(world.counters.datagrams_lost > 0);
        world.calm();
        world.run_until_agreed(seconds(20))?;
        Ok(())
    });
}

#[test]
fn events_are_told_in_order_while_a_third_of_all_packets_is_lost() {
    each_seed(|seed| {
        let mut world = cluster(seed, 12)?;
        weather(&mut world);
        for round in 0..30 {
            for slot in 0..12 {
                world.send_event(slot, 10 + round % 300);
            }
            world.run_for(Duration::from_millis(20))?;
        }
        assert!(world.counters.datagrams_lost > 0 && world.counters.datagrams_duplicated > 0);
        world.calm();
        world.run_until_agreed(seconds(5))?;
        let told = world.snapshot().processes;
        let told = told.iter().map(|state| state.stats.events.told);
        assert!(
            told.clone().all(|told| told == 360),
            "{:?}",
            told.collect::<Vec<_>>()
        );
        Ok(())
    });
}

#[test]
fn events_of_every_size_are_told_while_packets_are_lost() {
    const SIZES: [usize; 8] = [1, 100, 1_000, 1_300, 1_500, 5_000, 30_000, 64 * 1_024];
    each_seed(|seed| {
        let mut world = cluster(seed, 8)?;
        weather(&mut world);
        for round in 0..4 {
            for (slot, bytes) in SIZES.into_iter().enumerate() {
                world.send_event((slot + round) % 8, bytes);
            }
            world.run_for(Duration::from_millis(150))?;
        }
        assert!(world.counters.datagrams_lost > 0 && world.counters.datagrams_duplicated > 0);
        world.calm();
        world.run_until_agreed(seconds(10))?;
        for state in world.snapshot().processes {
            let events = state.stats.events;
            // The checkers compare what is told with what was sent, to the byte.
            assert_eq!((events.told, events.missed), (32, 0), "{}", state.process);
        }
        Ok(())
    });
}

#[test]
fn many_who_join_at_once_are_told_what_was_sent_before() {
    each_seed(|seed| {
        let mut world = cluster(seed, 10)?;
        for slot in 0..10 {
            for bytes in [20, 200, 5_000] {
                world.send_event(slot, bytes);
            }
        }
        world.run_for(seconds(1))?;
        add_members(&mut world, CLUSTER, 15);
        for slot in 10..25 {
            world.start(slot);
            world.send_event(slot, 30);
            world.send_event(slot % 10, 30);
        }
        world.run_until_agreed(seconds(4))?;
        for state in world.snapshot().processes {
            let events = state.stats.events;
            assert_eq!((events.told, events.missed), (60, 0), "{}", state.process);
        }
        Ok(())
    });
}

#[test]
fn who_joins_asks_for_what_was_sent_before_and_waits_for_no_comparison() {
    each_seed(|seed| {
        let mut world = cluster(seed, 5)?;
        for bytes in [20, 200, 5_000] {
            world.send_event(0, bytes);
        }
        world.run_for(seconds(1))?;
        add_members(&mut world, CLUSTER, 1);
        world.start(5);
        let joining = world.now;
        while !world.process(5).joined {
            assert!(world.now < joining + seconds(4), "it doesn't join");
            world.run_for(Duration::from_millis(5))?;
        }
        // Less than a comparison waits before it begins.
        world.run_for(Duration::from_millis(200))?;
        let events = world.process(5).engine.stats().events;
        assert_eq!((events.told, events.compared), (3, 0));
        Ok(())
    });
}

#[test]
fn a_member_that_was_away_for_too_long_is_told_how_much_it_has_missed() {
    each_seed(|seed| {
        let mut world = cluster(seed, 5)?;
        world.send_event(0, 10);
        world.run_for(seconds(1))?;
        let cut = world.cut(&[4], Direction::Both);
        for _ in 0..30 {
            for _ in 0..100 {
                world.send_event(0, 10);
            }
            world.run_for(Duration::from_millis(200))?;
        }
        assert_eq!(world.process(4).engine.stats().events.told, 1);
        world.heal(cut);
        world.run_until_agreed(seconds(20))?;
        let events = world.process(4).engine.stats().events;
        // 1,024 of a sender are kept.
        assert_eq!((events.told, events.missed), (1 + 1_024, 3_000 - 1_024));
        Ok(())
    });
}

#[test]
fn a_member_that_was_away_until_all_was_forgotten_is_told_how_much_it_has_missed() {
    let scenario = |seed| -> Outcome {
        let mut world = cluster(seed, 5)?;
        world.send_event(0, 10);
        world.run_for(seconds(1))?;
        let cut = world.cut(&[4], Direction::Both);
        world.send_event(0, 10);
        world.send_event(0, 10);
        world.run_for(seconds(330))?;
        world.heal(cut);
        world.run_until_agreed(seconds(20))?;
        let events = world.process(4).engine.stats().events;
        assert_eq!((events.told, events.missed), (1, 2));
        Ok(())
    };
    scenario(1).unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn the_events_of_a_new_start_follow_those_of_the_former() {
    each_seed(|seed| {
        let mut world = cluster(seed, 6)?;
        for _ in 0..5 {
            for _ in 0..10 {
                world.send_event(2, 100);
            }
            world.restart(2, Place::Same);
            world.send_event(2, 100);
            world.run_for(Duration::from_millis(300))?;
        }
        world.run_until_agreed(seconds(5))?;
        Ok(())
    });
}

/// What a member sends when nothing happens: the same as without events while there was none, and
/// seven bytes on each ping and ack afterwards.
#[test]
fn an_idle_cluster_pays_a_few_bytes_for_its_events() {
    let scenario = |seed| -> Outcome {
        let mut world = cluster(seed, 20)?;
        let idle = |world: &mut World| -> Outcome<f64> {
            let bytes = |world: &World| -> u64 {
                let all = world.snapshot().processes;
                all.iter().map(|state| state.stats.bytes_out).sum()
            };
            let before = bytes(world);
            world.run_for(seconds(60))?;
            Ok((bytes(world) - before) as f64 / 60.0 / 20.0)
        };
        world.run_for(seconds(20))?;
        let before = idle(&mut world)?;
        world.send_event(0, 100);
        world.run_for(seconds(20))?;
        let after = idle(&mut world)?;
        println!("{before:.1} bytes/s a member without events, {after:.1} with some before");
        // A ping and an ack a second, each way.
        assert!(after - before < 2.5 * 7.0, "{before} {after}");
        Ok(())
    };
    scenario(1).unwrap_or_else(|violation| panic!("{violation}"));
}

fn weather(world: &mut World) {
    let weather = Weather {
        loss: 0.33,
        duplicate: 0.1,
        replay: 0.02,
        spike: 0.05,
    };
    world.weather(weather, seconds(600));
}
