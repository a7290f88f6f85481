use tidings_api::Generation;

use super::*;
use crate::Phase;
use crate::mark::Mark;

struct Bench {
    merge: Merge,
    now: Instant,
}

fn bench(phase: Phase) -> Bench {
    Bench {
        merge: Merge::new(&Selector::All, phase.into()),
        now: Instant::now(),
    }
}

impl Bench {
    fn hears(&mut self, side: Side, instances: &[Instance]) {
        let instances = instances.iter().cloned().map(Arc::new).collect();
        self.merge
            .hear(side, &View::new(instances, Freshness::Live), self.now);
    }

    fn loses(&mut self, side: Side) {
        let view = self.merge.heard(side).clone();
        self.merge.hear(
            side,
            &view.with_freshness(Freshness::stale("gone")),
            self.now,
        );
    }

    fn returns(&mut self, side: Side) {
        let view = self.merge.heard(side).clone();
        let view = view.with_freshness(Freshness::Live);
        self.merge.hear(side, &view, self.now);
    }

    /// Generation and port of each.
    fn shows(&mut self) -> Vec<(u64, u16)> {
        let (instances, _) = self.merge.view(self.now);
        let in_short = |i: &Arc<Instance>| (i.generation().number(), i.address().port());
        instances.iter().map(in_short).collect()
    }

    fn deadline(&self) -> Option<Instant> {
        self.merge.deadline(self.now)
    }

    fn freshness(&mut self) -> Freshness {
        self.merge.view(self.now).1
    }
}

/// The content is told by the port.
fn marked(generation: u64, revision: u64) -> Instance {
    marked_in(Phase::BothReadMerged, generation, revision)
}

fn marked_in(phase: Phase, generation: u64, revision: u64) -> Instance {
    let stamp = Stamp {
        generation: Generation::new(generation),
        revision,
    };
    let port = 1 + u16::try_from(revision).unwrap();
    Mark { stamp, phase }.put_on(&plain(777, port))
}

fn plain(generation: u64, port: u16) -> Instance {
    let instance = Instance::new("web", format!("10.0.0.1:{port}")).unwrap();
    let instance = instance.with_id("a").unwrap();
    instance.with_generation(Generation::new(generation))
}

#[test]
fn one_registration_on_two_sides_is_one_instance() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[marked(10, 1)]);
    let first = bench.merge.view(bench.now).0;
    bench.hears(
        Side::New,
        &[marked(10, 1).with_generation(Generation::new(900))],
    );
    let both = bench.merge.view(bench.now).0;
    assert_eq!(first, both);
    assert!(Arc::ptr_eq(&first[0], &both[0]), "nothing has changed");
    assert_eq!(bench.merge.listed(first[0].key()), Sides::BOTH);
    assert!(
        first[0].metadata().is_empty(),
        "the mark is kept from applications"
    );
}

#[test]
fn the_newest_content_is_shown_and_never_an_older_one_again() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[marked(10, 1)]);
    bench.hears(Side::New, &[marked(10, 3)]);
    assert_eq!(bench.shows(), [(10, 4)]);
    bench.hears(Side::Old, &[marked(10, 2)]);
    assert_eq!(bench.shows(), [(10, 4)]);
    bench.hears(Side::New, &[]);
    assert_eq!(
        bench.shows(),
        [(10, 4)],
        "the old side still lists the registration"
    );
    bench.hears(Side::Old, &[]);
    assert_eq!(bench.shows(), []);
}

#[test]
fn an_outage_takes_nothing_away() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[marked(10, 1)]);
    bench.hears(Side::New, &[]);
    assert!(bench.freshness().is_live());
    bench.loses(Side::Old);
    assert_eq!(bench.shows(), [(10, 2)]);
    let Freshness::Stale { reason, .. } = bench.freshness() else {
        panic!("live in an outage");
    };
    assert_eq!(&*reason, "old side: gone");
    bench.returns(Side::Old);
    assert_eq!(bench.shows(), [(10, 2)]);
    assert!(bench.freshness().is_live());
}

#[test]
fn in_an_outage_the_side_that_is_heard_decides() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[marked(10, 1)]);
    bench.hears(Side::New, &[marked(10, 1)]);
    assert_eq!(bench.shows(), [(10, 2)]);
    bench.loses(Side::Old);
    bench.hears(Side::New, &[]);
    assert_eq!(
        bench.shows(),
        [],
        "gone from the healthy side that listed it"
    );
    bench.loses(Side::New);
    assert_eq!(bench.shows(), [], "what was authoritative stays so");
    bench.returns(Side::Old);
    assert_eq!(bench.shows(), [], "it may have to catch up");
    assert_eq!(bench.deadline(), Some(bench.now + LATE));
    bench.now += LATE;
    assert_eq!(bench.shows(), [(10, 2)], "it is there after all");
    assert_eq!(bench.deadline(), None);
}

#[test]
fn what_ended_in_an_outage_does_not_return_with_the_side_that_was_lost() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.merge.doubt(Side::Old, LATE * 2);
    for side in Side::BOTH {
        bench.hears(side, &[marked(10, 1)]);
    }
    assert_eq!(bench.shows(), [(10, 2)]);
    bench.loses(Side::Old);
    bench.hears(Side::New, &[]);
    assert_eq!(bench.shows(), []);
    bench.now += MEMORY;
    assert_eq!(bench.deadline(), None, "nothing to wake up for");
    bench.returns(Side::Old);
    for _ in 0..2 {
        assert_eq!(bench.shows(), [], "its lease lives, and it doesn't");
        bench.now += LATE - Duration::from_millis(1);
    }
    assert!(bench.deadline().is_some_and(|due| due > bench.now));
    bench.hears(Side::Old, &[]);
    assert_eq!(bench.shows(), []);
    bench.now += MEMORY;
    assert_eq!(bench.shows(), []);
}

#[test]
fn a_newer_registration_is_believed_right_after_an_outage() {
    let mut bench = bench(Phase::BothReadMerged);
    for side in Side::BOTH {
        bench.hears(side, &[marked(10, 1)]);
    }
    assert_eq!(bench.shows(), [(10, 2)]);
    bench.loses(Side::Old);
    bench.hears(Side::New, &[]);
    assert_eq!(bench.shows(), []);
    bench.hears(Side::Old, &[marked(10, 2)]);
    assert_eq!(bench.shows(), [], "its last change before it ended");
    bench.hears(Side::Old, &[marked(20, 0)]);
    assert_eq!(bench.shows(), [(20, 1)]);
}

#[test]
fn an_outage_does_not_make_an_earlier_loss_final() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[marked(10, 1)]);
    bench.hears(Side::New, &[marked(10, 1)]);
    bench.shows();
    bench.hears(Side::Old, &[]);
    assert_eq!(
        bench.shows(),
        [(10, 2)],
        "its lease on the old side was lost"
    );
    bench.now += LATE;
    bench.loses(Side::New);
    assert_eq!(bench.shows(), [(10, 2)], "the new side knew better");
    bench.returns(Side::New);
    bench.hears(Side::New, &[]);
    assert_eq!(bench.shows(), []);
}

/// A host that is lost with an instance and a server on it: one side notices the crash at once, the
/// other is lost before it could.
#[test]
fn a_crash_right_before_an_outage_is_seen() {
    let mut bench = bench(Phase::BothReadMerged);
    for side in Side::BOTH {
        bench.hears(side, &[marked(10, 1)]);
    }
    assert_eq!(bench.shows(), [(10, 2)]);
    bench.hears(Side::Old, &[]);
    assert_eq!(bench.shows(), [(10, 2)], "the new side lists it");
    bench.now += LATE - Duration::from_millis(1);
    assert_eq!(bench.shows(), [(10, 2)]);
    bench.loses(Side::New);
    assert_eq!(bench.shows(), [], "the new side may not have noticed");
    bench.now += MEMORY;
    bench.returns(Side::New);
    assert_eq!(bench.shows(), [], "its lease has its whole time anew");
    bench.now += LATE;
    assert_eq!(bench.shows(), [(10, 2)], "it is there after all");
    bench.loses(Side::New);
    assert_eq!(bench.shows(), [(10, 2)]);
    bench.returns(Side::New);
    assert_eq!(bench.shows(), [(10, 2)], "that is settled");
}

#[test]
fn what_ended_in_an_outage_does_not_return_where_the_other_side_is_left() {
    let mut bench = bench(Phase::BothReadMerged);
    for side in Side::BOTH {
        bench.hears(side, &[marked(10, 1)]);
    }
    bench.shows();
    bench.loses(Side::New);
    bench.hears(Side::Old, &[]);
    assert_eq!(bench.shows(), []);
    bench.returns(Side::New);
    assert_eq!(bench.shows(), []);
    bench.merge.follow(&Selector::All, Phase::New.into());
    bench.merge.leave(Side::Old);
    assert_eq!(bench.shows(), [], "its lease lives, and it doesn't");
    bench.now += LATE;
    assert_eq!(bench.shows(), [(10, 2)], "it is there after all");
}

/// An owner that goes on to the next phase says goodbye to the side it leaves.
#[test]
fn who_leaves_a_side_has_not_ended() {
    for is_lost_before in [true, false] {
        let mut bench = bench(Phase::BothReadMerged);
        for side in Side::BOTH {
            bench.hears(side, &[marked(10, 1)]);
        }
        bench.shows();
        if is_lost_before {
            bench.loses(Side::New);
        }
        bench.hears(Side::Old, &[marked_in(Phase::New, 10, 1)]);
        assert_eq!(bench.shows(), [(10, 2)]);
        bench.hears(Side::Old, &[]);
        assert_eq!(bench.shows(), [(10, 2)]);
        bench.loses(Side::New);
        assert_eq!(bench.shows(), [(10, 2)], "it lives on");
        bench.hears(Side::Old, &[marked(10, 1)]);
        bench.shows();
        bench.hears(Side::Old, &[]);
        assert_eq!(bench.shows(), [], "it was back, and has ended now");
    }
}

/// An owner that is started in an outage of the new side, as seen by who is hit by it, and goes on to the
/// next phase.
#[test]
fn who_leaves_a_side_for_one_that_is_lost_has_not_ended() {
    for it_lives in [true, false] {
        let mut bench = bench(Phase::BothReadMerged);
        for side in Side::BOTH {
            bench.hears(side, &[marked(10, 1)]);
        }
        bench.shows();
        bench.loses(Side::New);
        bench.hears(Side::Old, &[marked(20, 1)]);
        assert_eq!(bench.shows(), [(20, 2)]);
        bench.hears(Side::Old, &[marked_in(Phase::New, 20, 1)]);
        assert_eq!(bench.shows(), [(20, 2)]);
        bench.hears(Side::Old, &[]);
        assert_eq!(bench.shows(), [(20, 2)], "the new side never listed it");
        bench.now += MEMORY;
        assert_eq!((bench.shows(), bench.deadline()), (vec![(20, 2)], None));
        bench.returns(Side::New);
        assert_eq!(bench.shows(), [(20, 2)], "it may have to catch up");
        assert_eq!(bench.deadline(), Some(bench.now + LATE));
        if it_lives {
            bench.hears(Side::New, &[marked_in(Phase::New, 20, 1)]);
            bench.now += LATE;
            assert_eq!((bench.shows(), bench.deadline()), (vec![(20, 2)], None));
        } else {
            bench.now += LATE;
        }
        bench.hears(Side::New, &[]);
        assert_eq!(bench.shows(), []);
    }
}

/// Its end is believed where the side it went on to has listed it, however short a time that is heard.
#[test]
fn who_has_left_a_side_and_ends_on_the_other_is_gone() {
    let mut bench = bench(Phase::BothReadMerged);
    for side in Side::BOTH {
        bench.hears(side, &[marked_in(Phase::New, 10, 1)]);
    }
    assert_eq!(bench.shows(), [(10, 2)]);
    bench.hears(Side::Old, &[]);
    assert_eq!(bench.shows(), [(10, 2)]);
    bench.hears(Side::New, &[]);
    assert_eq!(bench.shows(), []);
}

#[test]
fn with_both_sides_lost_nothing_changes() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[marked(10, 1)]);
    bench.hears(Side::New, &[marked(10, 1)]);
    bench.shows();
    bench.loses(Side::Old);
    bench.loses(Side::New);
    assert_eq!(bench.shows(), [(10, 2)]);
}

#[test]
fn a_newer_registration_replaces_an_older_one_on_the_other_side() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[marked(10, 5)]);
    bench.hears(Side::New, &[marked(10, 5)]);
    assert_eq!(bench.shows(), [(10, 6)]);
    bench.hears(Side::New, &[marked(20, 0)]);
    assert_eq!(bench.shows(), [(20, 1)]);
    bench.hears(Side::New, &[]);
    assert_eq!(bench.shows(), [], "the older one is not brought back");
    bench.hears(Side::Old, &[marked(20, 0)]);
    assert_eq!(
        bench.shows(),
        [],
        "the old side is slow, and will see it leave"
    );
    assert_eq!(bench.deadline(), Some(bench.now + LATE));
    bench.now += LATE;
    assert_eq!(bench.shows(), [(20, 1)], "it isn't: there it stays");
}

#[test]
fn a_side_that_moves_on_is_believed_whatever_the_clocks_say() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[marked(90, 1)]);
    bench.hears(Side::New, &[marked(90, 1)]);
    assert_eq!(bench.shows(), [(90, 2)]);
    bench.hears(Side::Old, &[marked(10, 2)]);
    assert_eq!(bench.shows(), [(90, 2)], "the other side still lists it");
    bench.loses(Side::New);
    assert_eq!(bench.shows(), [(10, 3)], "and isn't heard any more");
    bench.returns(Side::New);
    assert_eq!(bench.shows(), [(10, 3)]);
    bench.hears(Side::New, &[marked(10, 2)]);
    assert_eq!(bench.shows(), [(10, 3)]);
    bench.hears(Side::Old, &[]);
    bench.hears(Side::New, &[]);
    assert_eq!(bench.shows(), []);
}

/// Two take the key, one right after the other, and one side hears them in the other order.
#[test]
fn an_older_owner_that_wins_one_side_late_is_not_shown() {
    let mut bench = bench(Phase::BothReadMerged);
    for side in Side::BOTH {
        bench.hears(side, &[marked(20, 1)]);
    }
    assert_eq!(bench.shows(), [(20, 2)]);
    bench.hears(Side::New, &[marked(10, 5)]);
    assert_eq!(bench.shows(), [(20, 2)]);
    bench.hears(Side::New, &[marked(20, 1)]);
    assert_eq!(bench.shows(), [(20, 2)]);
}

#[test]
fn an_older_owner_that_wins_one_side_before_the_newer_one_is_on_the_other_is_not_shown() {
    for the_newer_comes in [true, false] {
        let mut bench = bench(Phase::BothReadMerged);
        bench.hears(Side::Old, &[marked(10, 1)]);
        bench.hears(Side::New, &[marked(10, 1)]);
        assert_eq!(bench.shows(), [(10, 2)]);
        bench.hears(Side::New, &[marked(20, 1)]);
        assert_eq!(bench.shows(), [(20, 2)]);
        // Both owners came at once, and each draws for itself there.
        bench.hears(Side::New, &[marked(10, 1)]);
        assert_eq!(bench.shows(), [(20, 2)]);
        assert_eq!(bench.deadline(), Some(bench.now + LATE));
        if the_newer_comes {
            bench.now += LATE / 2;
            bench.hears(Side::Old, &[marked(20, 1)]);
            assert_eq!(bench.shows(), [(20, 2)]);
            bench.now += LATE;
            assert_eq!(bench.shows(), [(20, 2)]);
        } else {
            // It was overtaken there as well, or has ended.
            bench.now += LATE;
            assert_eq!(bench.shows(), [(10, 2)]);
            bench.hears(Side::New, &[]);
            assert_eq!(bench.shows(), [(10, 2)], "the other side lists it");
        }
    }
}

#[test]
fn who_has_ended_is_not_taken_for_one_that_is_on_its_way() {
    let before = || {
        let mut bench = bench(Phase::BothReadMerged);
        bench.hears(Side::Old, &[marked(10, 1)]);
        bench.hears(Side::New, &[marked(10, 1)]);
        bench.hears(Side::New, &[marked(20, 1)]);
        assert_eq!(bench.shows(), [(20, 2)]);
        bench
    };
    let mut ended = before();
    ended.hears(Side::New, &[]);
    assert_eq!(ended.shows(), []);
    ended.hears(Side::New, &[marked(10, 1)]);
    assert_eq!(ended.shows(), [(10, 2)]);
    // Nor is one waited for on a side that can't be heard.
    let mut lost = before();
    lost.loses(Side::Old);
    lost.hears(Side::New, &[marked(10, 1)]);
    assert_eq!(lost.shows(), [(10, 2)]);
}

#[test]
fn an_owner_whose_clock_is_behind_is_seen_after_a_while() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[marked(90, 1)]);
    bench.hears(Side::New, &[]);
    assert_eq!(bench.shows(), [(90, 2)]);
    bench.hears(Side::Old, &[]);
    bench.hears(Side::New, &[marked(10, 1)]);
    assert_eq!(bench.shows(), [], "it may be the past");
    assert_eq!(bench.deadline(), Some(bench.now + MEMORY));
    bench.now += MEMORY;
    assert_eq!(bench.shows(), [(10, 2)]);
}

#[test]
fn the_past_of_a_slow_side_is_not_shown_again() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[marked(10, 3)]);
    bench.hears(Side::New, &[]);
    assert_eq!(bench.shows(), [(10, 4)]);
    bench.hears(Side::Old, &[]);
    assert_eq!(bench.shows(), []);
    bench.hears(Side::New, &[marked(9, 1)]);
    assert_eq!(bench.shows(), []);
    bench.hears(Side::New, &[marked(10, 1)]);
    assert_eq!(bench.shows(), []);
    bench.now += LATE;
    assert_eq!(
        bench.shows(),
        [(10, 4)],
        "listed after all, but never an older content"
    );
}

#[test]
fn without_a_mark_the_last_change_is_shown() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[plain(0, 1)]);
    bench.hears(Side::New, &[plain(0, 2)]);
    bench.shows();
    bench.hears(Side::Old, &[plain(0, 3)]);
    assert_eq!(bench.shows(), [(0, 3)]);
    bench.hears(Side::New, &[plain(0, 4)]);
    assert_eq!(bench.shows(), [(0, 4)]);
}

#[test]
fn the_worse_health_of_two_is_believed() {
    let mut bench = bench(Phase::BothReadMerged);
    let ill = marked(10, 1).with_health(Health::critical("a check of the server"));
    bench.hears(Side::Old, &[marked(10, 1)]);
    bench.hears(Side::New, &[ill]);
    let health = |bench: &mut Bench| bench.merge.view(bench.now).0[0].health().state();
    assert_eq!(health(&mut bench), HealthState::Critical);
    bench.hears(Side::New, &[marked(10, 1)]);
    assert_eq!(health(&mut bench), HealthState::Passing);
    bench.hears(Side::Old, &[marked(10, 2).with_health(Health::draining())]);
    assert_eq!(health(&mut bench), HealthState::Draining);
    bench.hears(Side::Old, &[marked(10, 3)]);
    assert_eq!(
        health(&mut bench),
        HealthState::Passing,
        "the newer content says so"
    );
}

#[test]
fn only_what_is_read_is_shown() {
    for (phase, shown) in [
        (Phase::Old, vec![(1, 1)]),
        (Phase::BothReadOld, vec![(1, 1)]),
        (Phase::BothReadMerged, vec![(2, 2)]),
        (Phase::BothReadNew, vec![(2, 2)]),
    ] {
        let mut bench = bench(phase);
        bench.hears(Side::Old, &[plain(1, 1)]);
        bench.hears(Side::New, &[plain(2, 2)]);
        assert_eq!(bench.shows(), shown, "{phase}");
    }
}

#[test]
fn switching_to_a_side_that_was_never_heard_empties_nothing() {
    let mut bench = bench(Phase::BothReadOld);
    bench.hears(Side::Old, &[marked(10, 1)]);
    assert_eq!(bench.shows(), [(10, 2)]);
    bench
        .merge
        .follow(&Selector::All, Phase::BothReadNew.into());
    assert_eq!(bench.shows(), [(10, 2)]);
    assert!(!bench.freshness().is_live());
    bench.hears(Side::New, &[]);
    assert_eq!(bench.shows(), []);
    assert!(bench.freshness().is_live());
}

#[test]
fn a_plan_has_a_phase_for_each_service() {
    let services = [("web".parse().unwrap(), Phase::BothReadNew)].into();
    let all = Phase::BothReadOld;
    let mut bench = bench(all);
    let other = Instance::new("other", "10.0.0.1:9").unwrap();
    bench.hears(Side::Old, &[plain(1, 1), other]);
    bench.hears(Side::New, &[]);
    assert_eq!(bench.shows().len(), 2);
    bench.merge.follow(&Selector::All, Plan { all, services });
    assert_eq!(bench.shows(), [(0, 9)]);
}

#[test]
fn nothing_is_remembered_for_ever() {
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[marked(10, 1)]);
    bench.hears(Side::New, &[]);
    bench.shows();
    bench.hears(Side::Old, &[]);
    bench.shows();
    bench.now += MEMORY;
    bench.shows();
    assert!(bench.merge.keys.is_empty() && bench.deadline().is_none());
}

#[test]
fn a_mirror_that_is_behind_does_not_take_the_owner_back() {
    let mirror = |port: u16| {
        let mirror = plain(3, port).with_metadata("tidings.bridge", "bridge 7 gossip");
        mirror.unwrap()
    };
    let mut bench = bench(Phase::BothReadMerged);
    bench.hears(Side::Old, &[plain(7, 1)]);
    bench.hears(Side::New, &[mirror(1)]);
    assert_eq!(bench.shows(), [(7, 1)]);
    bench.hears(Side::Old, &[plain(7, 3)]);
    assert_eq!(bench.shows(), [(7, 3)]);
    bench.hears(Side::New, &[mirror(2)]);
    assert_eq!(bench.shows(), [(7, 3)]);
    bench.hears(Side::New, &[mirror(3)]);
    // Whoever reads the new side alone goes on with the mirror.
    bench
        .merge
        .follow(&Selector::All, Phase::BothReadNew.into());
    bench.hears(Side::New, &[mirror(4)]);
    assert_eq!(bench.shows(), [(7, 4)]);
    bench.hears(Side::New, &[]);
    assert_eq!(bench.shows(), []);
}
