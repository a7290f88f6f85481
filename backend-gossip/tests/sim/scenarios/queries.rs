//! Queries under loss, duplication, partitions, late joiners and slow applications.

use std::time::Duration;

use tidings_gossip::engine::Outcome;

use super::{add_members, cluster, each_seed, seconds};
use crate::net::{Direction, Weather};
use crate::run::CLUSTER;
use crate::world::World;

/// How many members ended with an outcome.
fn count(world: &World, turn: u64, wanted: Outcome) -> usize {
    let outcomes = world
        .outcomes(turn)
        .unwrap_or_else(|| panic!("{turn} is over"));
    outcomes.iter().filter(|(_, o)| *o == wanted).count()
}

/// Who is asked, by name.
fn asked(world: &World, turn: u64) -> Vec<&str> {
    let outcomes = world
        .outcomes(turn)
        .unwrap_or_else(|| panic!("{turn} is over"));
    outcomes.iter().map(|(member, _)| &**member).collect()
}

#[test]
fn everybody_answers_once_while_packets_are_lost_and_doubled() {
    each_seed(|seed| {
        let mut world = cluster(seed, 8)?;
        let weather = Weather {
            loss: 0.25,
            duplicate: 0.3,
            replay: 0.1,
            spike: 0.05,
        };
        world.weather(weather, seconds(600));
        let mut turns = Vec::new();
        for (slot, bytes) in [1, 100, 1_000, 1_500, 20_000, 65_000]
            .into_iter()
            .enumerate()
        {
            turns.extend(world.ask(slot, bytes, seconds(60), None));
            world.run_for(Duration::from_millis(100))?;
        }
        world.run_for(seconds(60))?;
        let counters = &world.counters;
        assert!(counters.datagrams_lost > 0 && counters.datagrams_duplicated > 0);
        assert!(counters.datagrams_replayed > 0);
        // Answers that came again were noticed and not told; the checkers see to that.
        let late = |slot| world.process(slot).engine.stats().queries.late;
        assert!((0..8).map(late).sum::<u64>() > 0);
        for turn in turns {
            assert_eq!(count(&world, turn, Outcome::Answered), 8, "turn {turn}");
        }
        Ok(())
    });
}

#[test]
fn only_those_who_can_be_reached_answer_and_nothing_is_told_after_the_end() {
    each_seed(|seed| {
        let mut world = cluster(seed, 8)?;
        world.run_for(seconds(2))?;
        // Over links that are open the query waits for the end of the partition.
        let linked = &world.process(0).kept;
        let is_linked = |slot: &usize| linked.contains(&world.slots[*slot].host.address());
        let linked: Vec<usize> = (1..8).filter(is_linked).take(3).collect();
        assert_eq!(linked.len(), 3);
        let cut = world.cut(&linked, Direction::Both);
        let turn = world.ask(0, 300, seconds(2), None).expect("it runs");
        let large = world.ask(0, 30_000, seconds(2), None).expect("it runs");
        world.run_for(seconds(3))?;
        for turn in [turn, large] {
            assert_eq!(count(&world, turn, Outcome::Answered), 5);
            assert_eq!(count(&world, turn, Outcome::Silent), 3);
        }
        // What waited arrives now, and so do answers.
        world.heal(cut);
        world.run_for(seconds(10))?;
        let late = world.process(0).engine.stats().queries.late;
        assert!(late > 0, "late answers came");
        world.run_until_agreed(seconds(20))?;
        Ok(())
    });
}

#[test]
fn answers_that_come_late_are_counted_and_not_told() {
    each_seed(|seed| {
        let mut world = cluster(seed, 6)?;
        world.queries.thinking = seconds(10);
        let turn = world.ask(0, 10, seconds(1), None).expect("it runs");
        world.run_for(seconds(20))?;
        let (answered, received) = (
            count(&world, turn, Outcome::Answered),
            count(&world, turn, Outcome::Received),
        );
        assert_eq!(answered + received, 6, "all have the query");
        assert!(received > 0, "somebody took longer");
        // Who knows that it is late says nothing any more.
        let late = world.process(0).engine.stats().queries.late;
        assert_eq!(late, 0);
        Ok(())
    });
}

#[test]
fn who_joins_late_is_asked_from_then_on() {
    each_seed(|seed| {
        let mut world = cluster(seed, 6)?;
        world.queries.thinking = seconds(2);
        let before = world.ask(0, 10, seconds(5), None).expect("it runs");
        add_members(&mut world, CLUSTER, 2);
        world.start(6);
        world.start(7);
        world.run_until_agreed(seconds(4))?;
        let after = world.ask(0, 10, seconds(5), None).expect("it runs");
        let late = world.ask(7, 10, seconds(5), None).expect("it runs");
        let some = world
            .ask(7, 10, seconds(5), Some(&[6, 1]))
            .expect("it runs");
        world.run_for(seconds(6))?;
        assert_eq!(asked(&world, before).len(), 6);
        assert_eq!(count(&world, before, Outcome::Answered), 6);
        for turn in [after, late] {
            assert_eq!(count(&world, turn, Outcome::Answered), 8);
        }
        let mut named = asked(&world, some);
        named.sort_unstable();
        assert_eq!(named, ["m1", "m6"]);
        assert_eq!(count(&world, some, Outcome::Answered), 2);
        Ok(())
    });
}

#[test]
fn who_dies_with_a_query_is_reported_as_gone() {
    each_seed(|seed| {
        let mut world = cluster(seed, 6)?;
        world.queries.thinking = seconds(60);
        let turn = world.ask(0, 10, seconds(40), None).expect("it runs");
        world.run_for(seconds(1))?;
        world.kill(3);
        world.leave(4);
        world.run_for(seconds(40))?;
        assert_eq!(count(&world, turn, Outcome::Gone), 2);
        Ok(())
    });
}
