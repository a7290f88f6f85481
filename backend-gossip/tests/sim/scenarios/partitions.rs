//! Partitions: what each side shows meanwhile, and that nothing is left of them afterwards.

use std::time::Duration;

use super::{cluster, cluster_with, each_seed, seconds};
use crate::app::key;
use crate::net::Direction;
use tidings_gossip::engine::EngineConfig;

#[test]
fn an_isolated_member_holds_its_view_and_recovers_without_a_flap() {
    each_seed(|seed| {
        let mut world = cluster(seed, 6)?;
        let cut = world.cut(&[2], Direction::Both);
        world.run_for(seconds(60))?;
        let process = world.process(2);
        assert_eq!(process.shows().len(), 6, "an outage is not an empty set");
        assert!(!process.is_live());
        let (others, isolated) = (world.process(0).vanished, process.vanished);
        assert_eq!(
            (others, isolated),
            (1, 0),
            "only the isolated one is gone, for the others"
        );
        world.register(2, &key("orders", "while-away"), 10);
        world.heal(cut);
        world.run_until_agreed(seconds(30))?;
        assert!(world.process(2).is_live());
        assert_eq!(world.process(2).vanished, 0, "nothing ever left its view");
        Ok(())
    });
}

#[test]
fn three_members_of_which_one_is_cut_off() {
    each_seed(|seed| {
        let mut world = cluster(seed, 3)?;
        for slot in [0, 1, 2] {
            let cut = world.cut(&[slot], Direction::Both);
            world.run_for(seconds(30))?;
            assert_eq!(world.process(slot).shows().len(), 3);
            assert!(!world.process(slot).is_live());
            world.heal(cut);
            world.run_until_agreed(seconds(30))?;
        }
        Ok(())
    });
}

#[test]
fn the_smaller_side_of_a_partition_holds_what_it_cannot_reach() {
    each_seed(|seed| {
        let mut world = cluster(seed, 10)?;
        world.cut(&[7, 8, 9], Direction::Both);
        world.run_for(seconds(60))?;
        let (most, few) = (world.process(0), world.process(8));
        assert_eq!((most.shows().len(), most.is_live()), (7, true));
        assert_eq!((few.shows().len(), few.is_live()), (10, false));
        Ok(())
    });
}

#[test]
fn a_long_partition_heals() {
    let config = EngineConfig {
        loss_hold: seconds(60),
        tombstone_retention: seconds(60),
        ..EngineConfig::default()
    };
    each_seed(|seed| {
        let mut world = cluster_with(seed, 10, config.clone())?;
        world.register(1, &key("orders", "early"), 10);
        world.run_until_agreed(seconds(5))?;
        let cut = world.cut(&[7, 8, 9], Direction::Both);
        world.run_for(seconds(20))?;
        // Much longer than tombstones are kept: whoever was away must not bring anything back.
        world.deregister(1, &key("orders", "early"));
        world.deregister(8, &key("web", "m8"));
        world.run_for(seconds(600))?;
        world.heal(cut);
        world.run_until_agreed(seconds(60))?;
        assert_eq!(world.process(0).shows().len(), 9);
        Ok(())
    });
}

#[test]
fn what_was_deregistered_during_a_partition_is_not_shown_again() {
    const TOGETHER: &[&[usize]] = &[&[7, 8, 9]];
    const APART: &[&[usize]] = &[&[7], &[8], &[9]];
    // Within the time that tombstones are kept, and much later; and with who was away in no company.
    for (away, cuts) in [(30, TOGETHER), (300, TOGETHER), (30, APART)] {
        let config = EngineConfig {
            tombstone_retention: seconds(60),
            loss_hold: seconds(20),
            ..EngineConfig::default()
        };
        each_seed(|seed| {
            let mut world = cluster_with(seed, 10, config.clone())?;
            let (gone, kept) = (key("web", "m8"), key("orders", "kept"));
            world.register(8, &kept, 10);
            world.run_until_agreed(seconds(5))?;
            let cut = |inside: &&[usize]| world.cut(inside, Direction::Both);
            let cuts: Vec<_> = cuts.iter().map(cut).collect();
            world.run_for(seconds(away))?;
            world.deregister(8, &gone);
            world.run_for(seconds(away))?;
            assert!(
                !world.process(0).shows().contains(&gone),
                "its owner is lost"
            );
            for cut in cuts {
                world.heal(cut);
            }
            for millisecond in 0..20_000 {
                world.run_for(Duration::from_millis(1))?;
                if millisecond < 3_000 && millisecond % 20 == 0 {
                    // Later than what the others have missed, and heard sooner.
                    world.register(8, &kept, 11 + millisecond);
                }
                for slot in 0..7 {
                    let shown = world.process(slot).shows();
                    assert!(
                        !shown.contains(&gone),
                        "seed {seed}: m{slot} shows it again"
                    );
                }
            }
            world.run_until_agreed(seconds(30))?;
            assert!(world.process(0).shows().contains(&kept));
            Ok(())
        });
    }
}

#[test]
fn a_member_that_hears_nobody_but_is_heard_knows_it() {
    each_seed(|seed| {
        let mut world = cluster(seed, 6)?;
        let cut = world.cut(&[4], Direction::In);
        world.run_for(seconds(60))?;
        assert_eq!(world.process(4).shows().len(), 6);
        assert!(!world.process(4).is_live());
        world.heal(cut);
        world.run_until_agreed(seconds(30))?;
        Ok(())
    });
}

#[test]
fn one_way_that_is_cut_between_two_members_hurts_nobody() {
    each_seed(|seed| {
        let mut world = cluster(seed, 6)?;
        world.run_for(seconds(10))?;
        world.settled();
        world.cut_way(1, 2);
        // The checkers allow no false death from here on.
        world.run_for(seconds(120))?;
        assert!(world.counters.datagrams_cut > 0);
        world.register(1, &key("orders", "still-heard"), 10);
        world.run_until_agreed(seconds(5))?;
        Ok(())
    });
}

#[test]
fn after_a_partition_nobody_dies_of_what_was_silent_then() {
    for direction in [Direction::Both, Direction::In, Direction::Out] {
        each_seed(|seed| {
            let mut world = cluster(seed, 12)?;
            let cut = world.cut(&[8, 9, 10, 11], direction);
            world.run_for(seconds(20))?;
            world.heal(cut);
            world.run_until_agreed(seconds(60))?;
            world.run_for(seconds(20))?;
            for slot in 0..12 {
                let buried = &world.process(slot).buried;
                for most in 0..8 {
                    let name = format!("m{most}");
                    assert!(
                        !buried.iter().any(|dead| **dead == *name),
                        "{direction:?}, seed {seed}: m{slot} has buried {buried:?}"
                    );
                }
            }
            Ok(())
        });
    }
}

#[test]
fn after_a_partition_the_accusations_end() {
    each_seed(|seed| {
        let mut world = cluster(seed, 8)?;
        world.run_for(seconds(10))?;
        let sent = world.counters.datagrams_sent;
        world.run_for(seconds(30))?;
        let quiet = world.counters.datagrams_sent - sent;
        for _ in 0..3 {
            let cut = world.cut(&[0, 1, 2, 3], Direction::Both);
            world.run_for(seconds(30))?;
            world.heal(cut);
            world.run_until_agreed(seconds(60))?;
        }
        world.run_for(seconds(20))?;
        let (sent, refuted) = (world.counters.datagrams_sent, refutations(&world));
        world.run_for(seconds(30))?;
        let after = world.counters.datagrams_sent - sent;
        assert!(
            after < quiet * 3 / 2,
            "{after} datagrams after, {quiet} before"
        );
        assert_eq!(refutations(&world), refuted, "nobody accuses anybody");
        Ok(())
    });
}

fn refutations(world: &crate::world::World) -> u64 {
    let all = world.processes.values();
    all.map(|process| process.engine.stats().refutations).sum()
}
