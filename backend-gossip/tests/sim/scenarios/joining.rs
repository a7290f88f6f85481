//! Joining, leaving, and what a member is told when it comes.

use std::time::Duration;

use tidings_api::{InstanceKey, ServiceName};
use tidings_gossip::engine::{EngineConfig, MemberState};

use super::{add_members, cluster, cluster_with, each_seed, seconds, world};
use crate::app::{OVERSIZE_BYTES, key};
use crate::net::Direction;
use crate::run::CLUSTER;

#[test]
fn a_member_whose_join_is_lost_keeps_trying() {
    each_seed(|seed| {
        let mut world = cluster(seed, 3)?;
        let late = world.add_slot("late", CLUSTER);
        world.register(late, &key("web", "late"), 50);
        let cut = world.cut(&[late], Direction::Both);
        world.start(late);
        world.run_for(seconds(20))?;
        let process = world.process(late);
        assert!(
            !process.is_live(),
            "nothing is known: the view can't be live"
        );
        assert_eq!(process.shows(), [key("web", "late")], "it sees its own");
        world.heal(cut);
        world.run_until_agreed(seconds(20))?;
        assert!(world.process(late).is_live());
        Ok(())
    });
}

#[test]
fn a_member_without_seeds_starts_alone_and_is_found_later() {
    each_seed(|seed| {
        let mut world = world(seed, EngineConfig::default(), 2);
        add_members(&mut world, CLUSTER, 2);
        world.start_with_seeds(0, Vec::new());
        world.run_for(seconds(1))?;
        assert!(world.process(0).is_live(), "alone, not cut off");
        world.start(1);
        world.run_until_agreed(seconds(5))?;
        Ok(())
    });
}

#[test]
fn a_late_joiner_gets_every_record() {
    each_seed(|seed| {
        let mut world = cluster(seed, 8)?;
        for slot in 0..8 {
            for id in 0..50 {
                world.register(slot, &key("orders", &format!("m{slot}-{id}")), 200);
            }
        }
        world.run_until_agreed(seconds(10))?;
        let late = world.add_slot("late", CLUSTER);
        world.start(late);
        world.run_until_agreed(seconds(2))?;
        assert_eq!(world.process(late).shows().len(), 8 * 51);
        Ok(())
    });
}

#[test]
fn a_record_that_fits_no_datagram_goes_by_link() {
    each_seed(|seed| {
        let mut world = cluster(seed, 6)?;
        world.run_for(seconds(2))?;
        world.settled();
        let before = world.counters.link_frames;
        world.register(2, &key("web", "large"), 4 * OVERSIZE_BYTES);
        // That no datagram is too large is a checker's business.
        world.run_until_agreed(seconds(2))?;
        assert!(world.counters.link_frames > before);
        Ok(())
    });
}

/// As much as the contract allows: 64 entries, and values of 500 bytes.
const METADATA_BYTES_MOST: usize = 63 * 500;

#[test]
fn the_largest_instance_the_contract_allows_reaches_everybody() {
    each_seed(|seed| {
        let mut world = cluster(seed, 6)?;
        let largest = key(&"s".repeat(128), &"i".repeat(128));
        world.register(2, &largest, METADATA_BYTES_MOST);
        world.run_until_agreed(seconds(2))?;
        let late = world.add_slot("late", CLUSTER);
        world.start(late);
        world.run_until_agreed(seconds(2))?;
        assert!(world.process(late).shows().contains(&largest));
        Ok(())
    });
}

/// What one member has to say must not hold up what the others do.
#[test]
fn an_owner_of_very_much_does_not_hold_up_one_of_little() {
    each_seed(|seed| {
        let mut world = cluster(seed, 8)?;
        for id in 0..400 {
            world.register(0, &key("orders", &format!("m0-{id}")), 2_000);
        }
        let vital = key("web", "m1");
        world.register(1, &vital, 100);
        world.report_health(1, &vital);
        let newest = world.process(1).asked[&vital].clone();
        world.run_for(seconds(2))?;
        for slot in 0..8 {
            let shown = world.process(slot).told.values().flatten();
            assert!(shown.clone().any(|shown| *shown == newest), "m{slot}");
        }
        // One who knows nothing yet gets both.
        let late = world.add_slot("late", CLUSTER);
        world.register(late, &key("web", "late"), 10);
        world.start(late);
        world.run_until_agreed(seconds(5))?;
        assert_eq!(world.process(late).shows().len(), 400 + 9);
        Ok(())
    });
}

/// What members compare stays small however much they know: that every frame keeps its bound is a
/// checker's business.
#[test]
fn however_much_is_known_every_frame_keeps_its_bound() {
    let mut world = cluster(1, 20).unwrap();
    for slot in 0..20 {
        for id in 0..50 {
            world.register(slot, &key("orders", &format!("m{slot}-{id}")), 50);
        }
    }
    world.run_for(seconds(5)).unwrap();
    let late = world.add_slot("late", CLUSTER);
    world.start(late);
    world.run_for(seconds(2)).unwrap();
    world.run_until_agreed(seconds(1)).unwrap();
    assert_eq!(world.process(late).shows().len(), 20 * 51);
}

#[test]
fn a_newcomer_does_not_take_the_dead_for_alive() {
    let config = EngineConfig {
        tombstone_retention: seconds(20),
        ..EngineConfig::default()
    };
    each_seed(|seed| {
        let mut world = cluster_with(seed, 6, config.clone())?;
        // It voids old records, by which its word is raised above what it said at first.
        world.register(3, &key("orders", "early"), 10);
        world.deregister(3, &key("orders", "early"));
        world.run_for(seconds(60))?;
        world.silence(3);
        world.run_for(seconds(30))?;
        world.settled();
        let late = world.add_slot("late", CLUSTER);
        world.start(late);
        for _ in 0..60 {
            world.run_for(seconds(1))?;
            let process = world.process(late);
            assert!(!process.shows().contains(&key("web", "m3")), "seed {seed}");
            let mut members = process.engine.members();
            assert!(
                members.all(|m| &*m.identity.name != "m3" || m.state > MemberState::Suspect),
                "seed {seed}"
            );
        }
        Ok(())
    });
}

#[test]
fn clusters_of_different_names_never_mix() {
    each_seed(|seed| {
        let mut world = world(seed, EngineConfig::default(), 4);
        add_members(&mut world, CLUSTER, 4);
        add_members(&mut world, "elsewhere", 4);
        // All are seeds of all.
        for slot in 0..8 {
            world.start(slot);
        }
        world.run_until_agreed(seconds(10))?;
        world.settled();
        world.run_for(seconds(30))?;
        world.run_until_agreed(seconds(2))?;
        assert_eq!(world.process(0).shows().len(), 4);
        assert!(world.finish().foreign > 0, "they did hear each other");
        Ok(())
    });
}

#[test]
fn a_graceful_leave_is_seen_at_once() {
    each_seed(|seed| {
        let mut world = cluster(seed, 10)?;
        world.run_for(seconds(5))?;
        world.settled();
        world.leave(3);
        world.run_until_agreed(seconds(1))?;
        world.run_for(seconds(2))?;
        assert!(
            world.slots[3].process.is_none(),
            "it is through with leaving"
        );
        Ok(())
    });
}

#[test]
fn a_service_scaled_to_zero_is_empty_and_live() {
    each_seed(|seed| {
        let mut world = cluster(seed, 4)?;
        for slot in 1..4 {
            world.kill(slot);
        }
        world.run_until_agreed(seconds(10))?;
        let process = world.process(0);
        assert_eq!(process.shows(), [key("web", "m0")]);
        assert!(process.is_live(), "their hosts say that they are gone");
        Ok(())
    });
}

#[test]
fn who_was_forgotten_is_not_learned_again() {
    let config = EngineConfig {
        forget_after: seconds(20),
        ..EngineConfig::default()
    };
    each_seed(|seed| {
        let mut world = cluster_with(seed, 6, config.clone())?;
        // One member doesn't hear of the death, and remembers for longer than the others.
        let cut = world.cut(&[5], Direction::Both);
        world.silence(3);
        world.run_for(seconds(90))?;
        let members = world.process(0).engine.members();
        assert!(members.count() <= 5, "the others have forgotten it");
        world.heal(cut);
        world.run_until_agreed(seconds(60))?;
        world.run_for(seconds(60))?;
        world.run_until_agreed(seconds(2))?;
        Ok(())
    });
}

#[test]
fn services_are_told_apart_by_their_whole_name() {
    each_seed(|seed| {
        let mut world = cluster(seed, 3)?;
        let names = ["web", "web-2", "Web"].map(|name| key(name, "x"));
        for (slot, key) in names.iter().enumerate() {
            world.register(slot, key, 10);
        }
        world.run_until_agreed(seconds(5))?;
        let service = ServiceName::new("Web").expect("a service name");
        let shown = world.process(1).engine.view(&service.into());
        let keys: Vec<&InstanceKey> = shown.iter().map(|instance| instance.key()).collect();
        assert_eq!(keys, [&names[2]]);
        Ok(())
    });
}

/// Each is told to everybody by a push, which some miss. Who has joined looks for what it missed at once:
/// without that it takes until a probe finds who differs, twice to four times as long.
#[test]
fn many_that_start_at_once_know_each_other_soon() {
    let members = 100;
    each_seed(|seed| {
        let mut world = world(seed, EngineConfig::default(), members);
        add_members(&mut world, CLUSTER, members);
        world.seeds = vec![0];
        for slot in 0..members {
            world.start(slot);
        }
        world.run_until_agreed(Duration::from_millis(500))?;
        for slot in 0..members {
            assert_eq!(world.process(slot).shows().len(), members, "m{slot}");
        }
        Ok(())
    });
}
