//! Restarts, alone and together.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{cluster, each_seed, seconds};
use crate::app::key;
use crate::faults::Place;
use crate::net::Direction;
use crate::run::CLUSTER;

#[test]
fn a_restart_storm_leaves_no_members_behind() {
    each_seed(|seed| {
        let mut world = cluster(seed, 12)?;
        for round in 0..10 {
            for slot in 0..6 {
                world.restart((round * 5 + slot) % 12, Place::New);
            }
            world.run_for(seconds(2))?;
        }
        world.run_until_agreed(seconds(60))?;
        for slot in 0..12 {
            let members: Vec<_> = world.process(slot).engine.members().collect();
            assert_eq!(members.len(), 12, "m{slot} knows {members:?}");
        }
        Ok(())
    });
}

#[test]
fn everyone_restarts_at_once() {
    each_seed(|seed| {
        let mut world = cluster(seed, 10)?;
        for place in [Place::Same, Place::New] {
            for slot in 0..10 {
                world.kill(slot);
            }
            for slot in 0..10 {
                world.restart(slot, place);
            }
            world.run_until_agreed(seconds(20))?;
        }
        Ok(())
    });
}

#[test]
fn who_stays_finds_the_others_at_new_addresses_behind_the_same_seeds() {
    each_seed(|seed| {
        let mut world = cluster(seed, 9)?;
        // The hosts of all but one are replaced: nobody knows the one, and it knows nobody.
        for slot in 0..8 {
            world.silence(slot);
        }
        world.run_for(seconds(5))?;
        for slot in 0..8 {
            world.restart(slot, Place::New);
        }
        // It has the seeds resolved again once a minute.
        world.run_until_agreed(seconds(120))?;
        Ok(())
    });
}

#[test]
fn a_partition_heals_although_everyone_has_moved_meanwhile() {
    // The seeds are m0, m1 and m2: on one side only, and on both.
    for side in [[0, 1, 2, 3], [0, 3, 4, 5]] {
        each_seed(|seed| {
            let mut world = cluster(seed, 9)?;
            let cut = world.cut(&side, Direction::Both);
            world.run_for(seconds(30))?;
            for slot in 0..9 {
                world.kill(slot);
            }
            world.heal(cut);
            // Who starts first resolves the seeds to addresses that nobody has a moment later.
            for slot in (0..9).rev() {
                world.restart(slot, Place::New);
            }
            let cut = world.cut(&side, Direction::Both);
            world.run_for(seconds(600))?;
            for (slot, other) in [(side[0], 8), (8, side[0])] {
                let shown = world.process(slot).shows();
                assert!(!shown.contains(&key("web", &format!("m{other}"))));
            }
            world.heal(cut);
            // The seeds are resolved again once a minute.
            world.run_until_agreed(seconds(120))?;
            Ok(())
        });
    }
}

#[test]
fn a_key_that_goes_from_owner_to_owner_is_missing_in_no_view() {
    each_seed(|seed| {
        let mut world = cluster(seed, 12)?;
        world.register(0, &key("web", "shared"), 50);
        world.run_until_agreed(seconds(10))?;
        world.settled();
        for owner in (1..12).cycle().take(50) {
            world.register(owner, &key("web", "shared"), 50);
            world.run_for(seconds(1))?;
        }
        let superseded = world.counters.superseded;
        assert!(superseded >= 50, "only {superseded} owners were told");
        Ok(())
    });
}

#[test]
fn who_leaves_as_soon_as_it_was_superseded_leaves_no_gap() {
    each_seed(|seed| {
        let mut world = cluster(seed, 12)?;
        world.register(0, &key("web", "shared"), 50);
        world.run_until_agreed(seconds(10))?;
        world.settled();
        for owner in 1..12 {
            // What it has to tell waits for company.
            world.register(owner - 1, &key("web", "another"), 50);
            world.run_for(Duration::from_millis(2))?;
            world.register(owner, &key("web", "shared"), 50);
            let before = world.counters.superseded;
            for _ in 0..10_000 {
                if world.counters.superseded > before {
                    break;
                }
                world.run_for(Duration::from_micros(100))?;
            }
            assert!(world.counters.superseded > before, "{owner} takes over");
            world.leave(owner - 1);
            world.run_for(seconds(2))?;
        }
        Ok(())
    });
}

#[test]
fn two_processes_of_one_name_both_stay_visible() {
    each_seed(|seed| {
        let mut world = cluster(seed, 4)?;
        let twin = world.add_slot("m2", CLUSTER);
        world.register(twin, &key("web", "twin"), 50);
        world.start(twin);
        world.run_until_agreed(seconds(20))?;
        let names: BTreeSet<_> = [0, 1, 2, 3, twin]
            .map(|slot| world.process(slot).identity.name.clone())
            .into();
        assert_eq!(
            names.len(),
            5,
            "one of the two has another name now: {names:?}"
        );
        world.settled();
        world.run_for(seconds(60))?;
        world.run_until_agreed(seconds(2))?;
        assert_eq!(world.counters.names_taken, 1, "that is the end of it");
        Ok(())
    });
}

#[test]
fn a_restart_in_place_is_no_removal_and_no_death() {
    each_seed(|seed| {
        let mut world = cluster(seed, 6)?;
        world.run_for(seconds(5))?;
        world.settled();
        for _ in 0..5 {
            world.restart(2, Place::Same);
            world.run_until_agreed(seconds(5))?;
            world.run_for(seconds(10))?;
        }
        Ok(())
    });
}

#[test]
fn of_two_generations_of_one_member_only_the_newer_shows() {
    each_seed(|seed| {
        let mut world = cluster(seed, 6)?;
        let (before, after) = (key("orders", "before"), key("orders", "after"));
        world.register(2, &before, 50);
        world.run_until_agreed(seconds(5))?;
        // One member doesn't hear of the restart, and keeps the former self in its view.
        let cut = world.cut(&[5], Direction::Both);
        world.kill(2);
        world.slots[2].wanted.remove(&before);
        world.register(2, &after, 50);
        world.restart(2, Place::New);
        world.run_for(seconds(20))?;
        assert!(world.process(5).shows().contains(&before));
        world.heal(cut);
        world.run_until_agreed(seconds(60))?;
        for slot in 0..6 {
            let shown = world.process(slot).shows();
            assert!(
                !shown.contains(&before) && shown.contains(&after),
                "m{slot}: {shown:?}"
            );
            let members = world.process(slot).engine.members();
            assert_eq!(members.filter(|m| &*m.identity.name == "m2").count(), 1);
        }
        Ok(())
    });
}

#[test]
fn a_newer_owner_of_a_key_wins_everywhere_and_the_older_one_stops() {
    each_seed(|seed| {
        let mut world = cluster(seed, 5)?;
        let shared = key("web", "shared");
        world.register(1, &shared, 20);
        world.run_until_agreed(seconds(5))?;
        // Also where the newer one can't be heard for a while.
        let cut = world.cut(&[3], Direction::Both);
        world.register(3, &shared, 20);
        world.run_for(seconds(10))?;
        world.heal(cut);
        world.run_until_agreed(seconds(60))?;
        assert!(!world.process(1).asked.contains_key(&shared));
        assert!(world.process(3).asked.contains_key(&shared));
        // It may come back, and is the newer one then.
        world.register(1, &shared, 20);
        world.run_until_agreed(seconds(5))?;
        assert!(world.process(1).asked.contains_key(&shared));
        assert_eq!(world.counters.superseded, 2);
        Ok(())
    });
}
