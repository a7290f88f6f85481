//! Phases and gates, and one side's faults, on two memory backends.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;
use std::time::Duration;

use tidings_api::{
    Change, Discovery, DiscoveryExt, ErrorKind, Freshness, Generation, Health, Instance,
    InstanceKey, METADATA_ENTRIES_MAX, MemoryDiscovery, MemoryRegistry, Registration, Removal,
    View,
};
use tidings_migration::{
    Backend, Blocker, Builder, Difference, Gate, MARK_KEY, Migration, PARTICIPANTS, Phase, Plan,
    Side, Sides, StepError,
};

const LONG: Duration = Duration::from_secs(30);

#[derive(Default)]
struct World {
    old: MemoryRegistry,
    new: MemoryRegistry,
}

impl World {
    fn builder(&self) -> Builder {
        let backend = |registry: &MemoryRegistry| {
            let registry = registry.clone();
            Backend::new(move || {
                let handle: Arc<dyn Discovery> = Arc::new(registry.connect());
                async move { Ok(handle) }
            })
        };
        Migration::builder(backend(&self.old), backend(&self.new)).steady(Duration::ZERO)
    }

    async fn process(&self, phase: Phase) -> Migration {
        self.builder().phase(phase).start().await.unwrap()
    }

    async fn named(&self, name: &str, phase: Phase) -> Migration {
        let builder = self.builder().name(name.parse().unwrap()).phase(phase);
        builder.start().await.unwrap()
    }
}

fn web(id: &str) -> Instance {
    Instance::new("web", "10.0.0.1:80")
        .unwrap()
        .with_id(id)
        .unwrap()
}

fn key(id: &str) -> InstanceKey {
    web(id).key().clone()
}

async fn ids(discovery: &dyn Discovery) -> Vec<String> {
    let view = discovery.resolve("web").await.unwrap();
    view.iter()
        .map(|instance| instance.id().to_string())
        .collect()
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(LONG, met).await.is_ok(),
        "not in time: {what}"
    );
}

async fn refused(migration: &Migration, phase: Phase) -> Vec<Blocker> {
    match migration.set_phase(phase).await {
        Err(StepError::Refused(blockers)) => blockers,
        other => panic!("{phase} was not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_process_goes_through_all_phases_and_back_and_is_always_seen() {
    let world = World::default();
    let (plain_old, plain_new) = (world.old.connect(), world.new.connect());
    let process = world.process(Phase::Old).await;
    process.register(web("a")).await.unwrap();
    let watch = process.watch_service("web").await.unwrap();
    let mut changes = watch.clone().into_changes();
    changes.next().await.unwrap();

    let there = Phase::ALL.into_iter().skip(1);
    let back = Phase::ALL.into_iter().rev().skip(1);
    for phase in there.chain(back) {
        process.set_phase(phase).await.unwrap();
        assert_eq!(process.plan().all, phase);
        let shown = [ids(&plain_old).await, ids(&plain_new).await];
        let expected = Side::BOTH.map(|side| match phase.writes().has(side) {
            true => vec!["a".to_owned()],
            false => vec![],
        });
        assert_eq!(shown, expected, "{phase}");
        until("the own view is live", async || watch.view().is_live()).await;
        assert_eq!(watch.view().len(), 1, "{phase}");
        assert!(
            process
                .status()
                .registration(&key("a"))
                .unwrap()
                .is_registered()
        );
        assert_eq!(process.provenance(&key("a")), Some(phase.writes()));
    }
    process.deregister(&key("a")).await.unwrap();
    let change = changes.next().await.unwrap();
    assert!(
        matches!(change, Change::Removed(_)),
        "no flap before: {change:?}"
    );
}

#[tokio::test]
async fn who_leaves_a_side_says_so_there_before() {
    let world = World::default();
    let reader = world.old.connect();
    let mut changes = reader.watch_service("web").await.unwrap().into_changes();
    let marks = tokio::spawn(async move {
        let mut marks = Vec::new();
        while let Some(change) = changes.next().await {
            let mark = change.instance().metadata()[MARK_KEY].clone();
            if matches!(change, Change::Removed(_)) {
                break;
            }
            marks.push(mark);
        }
        marks
    });
    let process = world.process(Phase::BothReadNew).await;
    process.register(web("a")).await.unwrap();
    process.set_phase(Phase::New).await.unwrap();
    assert_eq!(ids(&reader).await, [""; 0]);
    let marks = tokio::time::timeout(LONG, marks).await.unwrap().unwrap();
    assert!(marks.last().unwrap().ends_with(" new"), "{marks:?}");
}

#[tokio::test]
async fn a_step_that_was_dropped_is_ended_by_the_next_one() {
    let world = World::default();
    let process = world.process(Phase::BothReadNew).await;
    process.register(web("a")).await.unwrap();
    // It says goodbye for longer than it takes to see it.
    let changes = until("it changes", async || process.plan().all == Phase::New);
    tokio::select! {
        biased;
        () = changes => {}
        done = process.set_phase(Phase::New) => panic!("not dropped: {done:?}"),
    }
    assert!(process.side(Side::Old).is_some());
    process.set_phase(Phase::New).await.unwrap();
    assert!(process.side(Side::Old).is_none());
    assert!(ids(&world.old.connect()).await.is_empty());
    assert_eq!(ids(&process).await, ["a"]);
}

#[tokio::test]
async fn a_phase_holds_for_one_service_alone() {
    let world = World::default();
    let (plain_old, plain_new) = (world.old.connect(), world.new.connect());
    let process = world.process(Phase::BothReadMerged).await;
    process.register(web("a")).await.unwrap();
    process.register_at("other", "10.0.0.1:81").await.unwrap();
    process
        .set_phase_of("web".parse().unwrap(), Phase::New)
        .await
        .unwrap();
    assert!(ids(&plain_old).await.is_empty() && ids(&plain_new).await == ["a"]);
    assert_eq!(plain_old.resolve("other").await.unwrap().len(), 1);
    assert_eq!(process.watch_all().await.unwrap().view().len(), 2);
    let report = process.report();
    assert_eq!(
        report.participants[0].plan.phase(&"web".parse().unwrap()),
        Phase::New
    );
    assert_eq!(report.participants[0].plan.all, Phase::BothReadMerged);
}

#[tokio::test]
async fn a_phase_that_can_not_be_told_is_not_set() {
    let world = World::default();
    let process = world.process(Phase::Old).await;
    let service = |number: usize| format!("service-{number}").parse().unwrap();
    let services = (0..METADATA_ENTRIES_MAX).map(|number| (service(number), Phase::BothReadOld));
    let plan = Plan {
        all: Phase::BothReadOld,
        services: services.collect(),
    };
    process.set_plan(plan.clone(), Gate::Keep).await.unwrap();
    let step = process.set_phase_of(service(METADATA_ENTRIES_MAX), Phase::Old);
    let refused = step.await;
    assert!(
        matches!(&refused, Err(StepError::Failed(error)) if error.kind() == ErrorKind::InvalidInput),
        "{refused:?}"
    );
    assert_eq!(process.plan(), plan);
}

#[tokio::test]
async fn reads_are_not_switched_before_everybody_is_there() {
    let world = World::default();
    let unmoved = world.old.connect();
    unmoved.register(web("unmoved")).await.unwrap();
    let process = world.process(Phase::BothReadMerged).await;
    let watch = process.watch_service("web").await.unwrap();
    let blockers = refused(&process, Phase::BothReadNew).await;
    let (key, side) = (key("unmoved"), Side::New);
    let difference = Difference::Missing;
    assert_eq!(
        blockers,
        [Blocker::Uncovered {
            key: key.clone(),
            side,
            difference
        }]
    );
    assert_eq!(
        process.plan().all,
        Phase::BothReadMerged,
        "nothing has changed"
    );
    assert_eq!(watch.view().len(), 1);
    let web = process.report().services.remove(key.service()).unwrap();
    assert_eq!(web.unmarked, std::slice::from_ref(&key));

    let plan = Plan::all(Phase::BothReadNew);
    process.set_plan(plan, Gate::Override).await.unwrap();
    until("the override is obeyed", async || watch.view().is_empty()).await;
    process.set_phase(Phase::BothReadMerged).await.unwrap();
    until("and undone", async || watch.view().len() == 1).await;
    // Back to the old side, while somebody is on the new one alone.
    let moved = world.new.connect();
    moved.register(self::web("moved")).await.unwrap();
    until("it is seen", async || watch.view().len() == 2).await;
    let blockers = refused(&process, Phase::BothReadOld).await;
    assert!(
        matches!(
            &blockers[..],
            [Blocker::Uncovered {
                side: Side::Old,
                ..
            }]
        ),
        "{blockers:?}"
    );
}

#[tokio::test]
async fn reads_are_not_switched_before_the_match_is_steady() {
    let world = World::default();
    let builder = world.builder().steady(Duration::from_millis(300));
    let process = builder.phase(Phase::BothReadMerged).start().await.unwrap();
    process.register(web("a")).await.unwrap();
    let blockers = refused(&process, Phase::BothReadNew).await;
    assert!(
        matches!(&blockers[..], [Blocker::Unsteady { .. }]),
        "{blockers:?}"
    );
    until("it is steady", async || {
        process.blockers(Phase::BothReadNew).await.is_empty()
    })
    .await;
    process.set_phase(Phase::BothReadNew).await.unwrap();
}

#[tokio::test]
async fn the_old_side_is_not_left_before_everybody_reads_the_new_one() {
    let world = World::default();
    let reader = world.named("reader", Phase::BothReadOld).await;
    let process = world.process(Phase::BothReadMerged).await;
    process.register(web("a")).await.unwrap();
    until("the reader is known", async || {
        process.report().participants.len() == 2
    })
    .await;
    process.set_phase(Phase::BothReadNew).await.unwrap();
    let unmoved = world.old.connect();
    unmoved.register_at("other", "10.0.0.1:1").await.unwrap();

    let blockers = refused(&process, Phase::New).await;
    let participant = "reader".to_owned();
    let phase = Phase::BothReadOld;
    assert!(
        blockers.contains(&Blocker::Behind { participant, phase }),
        "{blockers:?}"
    );
    let unmarked = |blocker: &&Blocker| matches!(blocker, Blocker::Unmarked { .. });
    assert_eq!(blockers.iter().filter(unmarked).count(), 1, "{blockers:?}");
    let text = StepError::Refused(blockers).to_string();
    assert!(
        text.contains("process reader is in phase both-read-old"),
        "{text}"
    );

    reader.set_phase(Phase::BothReadMerged).await.unwrap();
    unmoved.close().await.unwrap();
    process.set_phase(Phase::New).await.unwrap();
    assert_eq!(ids(&reader).await, ["a"]);
    // And back: the reader may not leave the new side now.
    let blockers = refused(&reader, Phase::BothReadOld).await;
    assert!(
        matches!(
            &blockers[..],
            [
                Blocker::Behind {
                    phase: Phase::New,
                    ..
                },
                Blocker::Uncovered {
                    side: Side::Old,
                    ..
                }
            ]
        ),
        "{blockers:?}"
    );
}

#[tokio::test]
async fn reads_are_not_switched_before_services_are_there_that_nobody_watches() {
    let world = World::default();
    // It looks the orders up when it needs them.
    let process = world.process(Phase::BothReadMerged).await;
    let there = [
        (
            &world.old,
            Phase::BothReadNew,
            Side::New,
            Difference::Missing,
        ),
        (&world.new, Phase::BothReadOld, Side::Old, Difference::Extra),
    ];
    for (registry, phase, side, difference) in there {
        let unmoved = registry.connect();
        let key = unmoved.register_at("orders", "10.0.0.1:1").await.unwrap();
        let blockers = refused(&process, phase).await;
        let expected = Blocker::Uncovered {
            key,
            side,
            difference,
        };
        assert_eq!(blockers, [expected]);
        let other = "other".parse().unwrap();
        process.set_phase_of(other, phase).await.unwrap();
        unmoved.close().await.unwrap();
        process.set_phase(phase).await.unwrap();
        let plan = Plan::all(Phase::BothReadMerged);
        process.set_plan(plan, Gate::Keep).await.unwrap();
    }
}

#[tokio::test]
async fn reads_are_not_switched_while_somebody_registers_on_the_other_side_alone() {
    let world = World::default();
    let late = world.named("late", Phase::Old).await;
    let process = world.process(Phase::BothReadMerged).await;
    let late_is_in = async |phase: Phase| {
        until("it is known", async || {
            let participants = process.report().participants;
            let known = participants.iter().find(|who| who.name == "late");
            known.is_some_and(|late| late.plan.all == phase)
        })
        .await;
    };
    late_is_in(Phase::Old).await;
    let behind = |phase: Phase| Blocker::Behind {
        participant: "late".to_owned(),
        phase,
    };
    // It may register at any time.
    let blockers = refused(&process, Phase::BothReadNew).await;
    assert_eq!(blockers, [behind(Phase::Old)]);
    for phase in &Phase::ALL[1..] {
        late.set_phase(*phase).await.unwrap();
        late_is_in(*phase).await;
    }
    process.set_phase(Phase::BothReadNew).await.unwrap();
    process.set_phase(Phase::BothReadMerged).await.unwrap();
    let blockers = refused(&process, Phase::BothReadOld).await;
    assert_eq!(blockers, [behind(Phase::New)]);
}

#[tokio::test]
async fn a_side_that_does_not_tell_who_takes_part_is_not_left() {
    let world = World::default();
    world.old.deny(PARTICIPANTS.parse().unwrap());
    let reader = world.named("reader", Phase::Old).await;
    let watch = reader.watch_service("web").await.unwrap();
    let process = world.process(Phase::BothReadNew).await;
    process.register(web("a")).await.unwrap();
    let blockers = refused(&process, Phase::New).await;
    assert!(
        matches!(&blockers[..], [Blocker::Unheard { side: Side::Old, reason }] if reason.contains("denied")),
        "{blockers:?}"
    );
    assert_eq!(watch.view().len(), 1);
}

#[tokio::test]
async fn a_step_right_after_the_start_waits_to_hear_who_takes_part() {
    let world = World::default();
    let _reader = world.named("reader", Phase::BothReadOld).await;
    let plain_old = world.old.connect();
    until("the reader is known", async || {
        plain_old.resolve(PARTICIPANTS).await.unwrap().len() == 1
    })
    .await;
    let process = world.process(Phase::BothReadNew).await;
    let blockers = refused(&process, Phase::New).await;
    let (participant, phase) = ("reader".to_owned(), Phase::BothReadOld);
    assert_eq!(blockers, [Blocker::Behind { participant, phase }]);
}

#[tokio::test]
async fn who_ended_together_with_the_old_side_keeps_nobody_on_it() {
    let world = World::default();
    let moved = world.named("moved", Phase::New).await;
    let straggler = world.named("straggler", Phase::BothReadMerged).await;
    let late = world.named("late", Phase::BothReadMerged).await;
    let knows = |names: &[&str]| {
        let report = late.report();
        let known = report.participants.iter().map(|who| &*who.name);
        known.eq(names.iter().copied())
    };
    let all = ["late", "moved", "straggler"];
    until("all are known", async || knows(&all)).await;
    world.old.stop();
    // As by a crash: the old side lists it for as long as it is stopped.
    drop(straggler);
    until("its end is known", async || knows(&all[..2])).await;
    late.set_phase(Phase::New).await.unwrap();
    drop(moved);
}

#[tokio::test]
async fn a_side_that_is_down_is_not_read_and_not_left() {
    let world = World::default();
    world.new.stop();
    let process = world.process(Phase::BothReadOld).await;
    process.register(web("a")).await.unwrap();
    let watch = process.watch_service("web").await.unwrap();
    assert!(
        watch.view().is_live() && watch.view().len() == 1,
        "the old side is all that is read"
    );
    let status = process.status();
    let Some(Registration::Pending { .. }) = status.registration(&key("a")) else {
        panic!("{status:?}");
    };
    let reason = format!("{:?}", status.connection());
    assert!(reason.contains("the new side (memory)"), "{reason}");
    let blockers = refused(&process, Phase::BothReadMerged).await;
    assert!(
        matches!(&blockers[..], [Blocker::Unheard { side: Side::New, reason }] if reason.contains("stopped")),
        "{blockers:?}"
    );

    world.new.start();
    process.set_phase(Phase::BothReadMerged).await.unwrap();
    assert!(
        process
            .status()
            .registration(&key("a"))
            .unwrap()
            .is_registered()
    );
    world.old.stop();
    let blockers = refused(&process, Phase::BothReadNew).await;
    assert!(
        matches!(
            &blockers[..],
            [Blocker::Unheard {
                side: Side::Old,
                ..
            }]
        ),
        "{blockers:?}"
    );
    until("the view is stale", async || !watch.view().is_live()).await;
    let Freshness::Stale { reason, .. } = watch.view().freshness().clone() else {
        panic!("live without the old side");
    };
    assert!(reason.starts_with("old side: "), "{reason}");
    assert_eq!(watch.view().len(), 1);
}

#[tokio::test]
async fn a_refusal_of_a_side_that_is_read_is_the_callers() {
    let world = World::default();
    world.new.deny("web".parse().unwrap());
    let plain_old = world.old.connect();
    for phase in [Phase::BothReadMerged, Phase::BothReadNew] {
        let process = world.process(phase).await;
        let error = process.register(web("a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(
            error.to_string().contains("the new side (memory)"),
            "{error}"
        );
        assert!(
            ids(&process).await.is_empty() && ids(&plain_old).await.is_empty(),
            "{phase}"
        );
        assert!(process.status().registrations().is_empty());
    }
    let process = world.process(Phase::BothReadOld).await;
    process.register(web("a")).await.unwrap();
    assert_eq!(ids(&process).await, ["a"]);
    let status = process.status();
    let Some(Registration::Pending {
        last_error: Some(error),
        ..
    }) = status.registration(&key("a"))
    else {
        panic!("{status:?}");
    };
    assert!(
        error.to_string().contains("the new side (memory)"),
        "{error}"
    );
    let blockers = refused(&process, Phase::BothReadNew).await;
    let missing = |blocker: &Blocker| {
        matches!(
            blocker,
            Blocker::Uncovered {
                side: Side::New,
                ..
            }
        )
    };
    assert!(blockers.iter().any(missing), "{blockers:?}");
}

#[tokio::test]
async fn an_owner_overtaken_on_one_side_ends_on_both() {
    let world = World::default();
    let process = world.process(Phase::BothReadMerged).await;
    process.register(web("a")).await.unwrap();
    let newer = world.old.connect();
    newer
        .register(web("a").with_address("10.0.0.2:80").unwrap())
        .await
        .unwrap();
    until("it learns it", async || {
        process
            .status()
            .registration(&key("a"))
            .is_some_and(Registration::is_superseded)
    })
    .await;
    let plain_new = world.new.connect();
    until("it has left the new side", async || {
        ids(&plain_new).await.is_empty()
    })
    .await;
    let error = process
        .health(&key("a"), Health::draining())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotOwned);
    let view = process.resolve("web").await.unwrap();
    assert_eq!(
        view.iter().next().unwrap().address().to_string(),
        "10.0.0.2:80"
    );
    assert_eq!(
        process.deregister(&key("a")).await.unwrap(),
        Removal::Absent
    );
    assert_eq!(ids(&newer).await, ["a"]);
}

#[tokio::test]
async fn of_two_owners_that_each_won_a_side_the_newer_one_wins_both() {
    let world = World::default();
    let (old, new) = (Arc::new(world.old.connect()), Arc::new(world.new.connect()));
    let first = pair(&old, &new).await;
    let second = world.process(Phase::BothReadMerged).await;
    // The first doesn't hear the new side, where the second has the key for a while.
    new.cut_off();
    second
        .register(web("a").with_address("10.0.0.2:80").unwrap())
        .await
        .unwrap();
    first
        .register(web("a").with_address("10.0.0.1:80").unwrap())
        .await
        .unwrap();
    new.restore();
    until("one has both sides", async || {
        let holds = |migration: &Migration| {
            migration
                .status()
                .registration(&key("a"))
                .is_some_and(Registration::is_registered)
        };
        let superseded = |migration: &Migration| {
            migration
                .status()
                .registration(&key("a"))
                .is_some_and(Registration::is_superseded)
        };
        (holds(&first) && superseded(&second)) || (holds(&second) && superseded(&first))
    })
    .await;
    for plain in [world.old.connect(), world.new.connect()] {
        assert_eq!(ids(&plain).await, ["a"]);
    }
    let addresses = [&first, &second].map(async |migration| {
        let view = migration.resolve("web").await.unwrap();
        view.iter().next().unwrap().address().to_string()
    });
    let [a, b] = addresses;
    assert_eq!(a.await, b.await);
}

#[tokio::test]
async fn what_is_lost_on_one_side_is_there_again_with_the_newest_content() {
    let world = World::default();
    let (old, new) = (Arc::new(world.old.connect()), Arc::new(world.new.connect()));
    let process = pair(&old, &new).await;
    process.register(web("a")).await.unwrap();
    let client = world.process(Phase::BothReadMerged).await;
    let watch = client.watch_service("web").await.unwrap();
    let mut changes = watch.clone().into_changes();
    changes.next().await.unwrap();
    new.cut_off();
    process
        .health(&key("a"), Health::warning("hot"))
        .await
        .unwrap();
    until("the newer health is seen", async || is_hot(&watch.view())).await;
    new.expire();
    new.restore();
    let plain_new = world.new.connect();
    let repaired = async || is_hot(&plain_new.resolve("web").await.unwrap());
    until("it is repaired on the new side", repaired).await;
    assert!(is_hot(&watch.view()));
    client.close().await.unwrap();
    let mut kinds = Vec::new();
    while let Some(change) = changes.next().await {
        kinds.push(change);
    }
    assert_eq!(kinds.len(), 1, "one update and nothing else: {kinds:?}");
}

#[tokio::test]
async fn what_is_reserved_is_kept_from_applications() {
    let world = World::default();
    let process = world.process(Phase::BothReadMerged).await;
    let reserved = web("a").with_metadata("tidings.x", "1").unwrap();
    let error = process.register(reserved).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let reserved = Instance::new(PARTICIPANTS, "10.0.0.1:80").unwrap();
    let error = process.register(reserved).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    process.register(web("a")).await.unwrap();
    let view = process.watch_all().await.unwrap().view();
    assert_eq!(view.len(), 1);
    assert!(view.iter().all(|instance| instance.metadata().is_empty()));
    assert_eq!(process.status().registrations().len(), 1);
    assert_eq!(process.provenance(&key("a")), Some(Sides::BOTH));
}

#[tokio::test]
async fn an_owner_whose_clock_is_behind_takes_over() {
    let world = World::default();
    let ahead = web("a").with_generation(Generation::new(u64::MAX / 2));
    world
        .old
        .put_foreign("web/a", &serde_json::to_vec(&ahead).unwrap());
    let client = world.process(Phase::BothReadMerged).await;
    let watch = client.watch_service("web").await.unwrap();
    let process = world.process(Phase::BothReadMerged).await;
    process
        .register(web("a").with_address("10.0.0.9:80").unwrap())
        .await
        .unwrap();
    until("it is seen", async || {
        let view = watch.view();
        view.get(&key("a"))
            .is_some_and(|found| found.address().to_string() == "10.0.0.9:80")
    })
    .await;
    assert!(
        process
            .status()
            .registration(&key("a"))
            .unwrap()
            .is_registered()
    );
}

#[tokio::test]
async fn a_fleet_walks_by_itself_and_waits_for_those_who_do_not() {
    let world = World::default();
    let late = world.named("late", Phase::Old).await;
    late.register(web("late")).await.unwrap();
    let mut fleet = Vec::new();
    for number in 0..3 {
        let process = world.builder().automatic().start().await.unwrap();
        process
            .register(web(&format!("web-{number}")))
            .await
            .unwrap();
        fleet.push(process);
    }
    let all_at = |phase: Phase| fleet.iter().all(|process| process.plan().all == phase);
    until("they read both", async || all_at(Phase::BothReadMerged)).await;
    let blockers = fleet[0].blockers(Phase::BothReadNew).await;
    assert!(
        blockers.iter().any(|b| b.to_string().contains("web/late")),
        "{blockers:?}"
    );
    assert_eq!(ids(&late).await.len(), 4);
    for phase in [Phase::BothReadOld, Phase::BothReadMerged] {
        late.set_phase(phase).await.unwrap();
    }
    until("they have moved", async || all_at(Phase::New)).await;
    assert_eq!(ids(&late).await.len(), 4);
    for process in &fleet {
        assert_eq!(ids(process).await.len(), 4);
    }
}

#[tokio::test]
async fn who_starts_after_all_others_have_moved_sees_them() {
    let world = World::default();
    let moved = world.process(Phase::New).await;
    moved.register(web("moved")).await.unwrap();
    let late = world.builder().automatic().start().await.unwrap();
    assert_eq!(ids(&late).await, ["moved"]);
    until("it has moved", async || late.plan().all == Phase::New).await;
    assert_eq!(ids(&late).await, ["moved"]);
}

#[tokio::test]
async fn who_starts_after_the_old_side_was_switched_off_gets_there_too() {
    let world = World::default();
    let moved = world.process(Phase::New).await;
    moved.register(web("moved")).await.unwrap();
    world.old.stop();
    let late = world.builder().automatic().start().await.unwrap();
    late.register(web("late")).await.unwrap();
    let watch = late.watch_service("web").await.unwrap();
    assert_eq!(watch.view().len(), 2);
    until("it has moved", async || late.plan().all == Phase::New).await;
    until("its view is live", async || watch.view().is_live()).await;
    assert_eq!(watch.view().len(), 2);

    // Where one of the others may still be on the old side, nobody leaves it unseen.
    let laggard = world.process(Phase::BothReadMerged).await;
    let later = world.builder().automatic().start().await.unwrap();
    later.watch_service("web").await.unwrap();
    until("both are known", async || {
        moved.report().participants.len() == 4
    })
    .await;
    for phase in [Phase::BothReadNew, Phase::New] {
        let reasons = refused(&later, phase).await;
        assert!(
            reasons.iter().any(|b| matches!(
                b,
                Blocker::Unheard {
                    side: Side::Old,
                    ..
                }
            )),
            "{phase}: {reasons:?}"
        );
    }
    drop(laggard);
}

#[tokio::test]
async fn steady_changes_hold_no_gate() {
    let world = World::default();
    let process = Arc::new(world.process(Phase::BothReadNew).await);
    process.register(web("a")).await.unwrap();
    let changing = process.clone();
    let start = std::time::Instant::now();
    let changes = tokio::spawn(async move {
        for number in 0_u64.. {
            let changed = web("a").with_metadata("n", number.to_string()).unwrap();
            changing.register(changed).await.unwrap();
        }
    });
    until("the gate is open", async || {
        process.set_phase(Phase::New).await.is_ok()
    })
    .await;
    // It doesn't wait for a moment without a change: that would be given up after 30 s.
    assert!(start.elapsed() < LONG / 2);
    changes.abort();
}

#[tokio::test]
async fn a_phase_that_is_set_ends_the_walk() {
    let world = World::default();
    for builder in [
        world.builder().automatic(),
        world.builder().toward(Phase::New),
    ] {
        let process = builder.start().await.unwrap();
        until("it walks", async || process.plan().all == Phase::New).await;
        process.set_phase(Phase::BothReadNew).await.unwrap();
        // Longer than it takes a walk to go on.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(process.plan().all, Phase::BothReadNew);
        process.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_meets_the_end_of_the_handle_ends_too() {
    let world = World::default();
    let process = world.process(Phase::BothReadMerged).await;
    let both = async { tokio::join!(process.watch_service("web"), process.close()) };
    let (watched, closed) = tokio::time::timeout(LONG, both).await.unwrap();
    assert_eq!(watched.unwrap_err().kind(), ErrorKind::Closed);
    closed.unwrap();

    let process = world.process(Phase::BothReadMerged).await;
    let both = async { tokio::join!(process.register(web("a")), process.close()) };
    let (registered, closed) = tokio::time::timeout(LONG, both).await.unwrap();
    assert_eq!(registered.unwrap_err().kind(), ErrorKind::Closed);
    closed.unwrap();
    assert!(ids(&world.old.connect()).await.is_empty());
}

#[tokio::test]
async fn both_ends_are_compared_before_anybody_moves() {
    let world = World::default();
    let traits = |health: &str| [("health for others", health.to_owned())].into();
    let backend = |registry: &MemoryRegistry, health: &str| {
        let registry = registry.clone();
        let backend = Backend::new(move || {
            let handle: Arc<dyn Discovery> = Arc::new(registry.connect());
            async move { Ok(handle) }
        });
        backend.with_traits(traits(health))
    };
    let builder = Migration::builder(backend(&world.old, "as it is"), backend(&world.new, "none"));
    let process = builder.start().await.unwrap();
    let preflight = process.preflight().await.unwrap();
    let differing: Vec<_> = preflight.differences().map(|topic| topic.name).collect();
    assert_eq!(differing, ["health for others"], "{preflight}");
    assert_eq!(preflight.ends[&Side::New].0, "memory");
    assert!(
        process.side(Side::New).is_none(),
        "it is not in use by that"
    );
    process.set_phase(Phase::BothReadOld).await.unwrap();
    assert_eq!(process.preflight().await.unwrap(), preflight);

    let handle: Arc<dyn Discovery> = Arc::new(world.new.connect());
    let builder = Migration::builder(backend(&world.old, ""), handle);
    let process = builder.start().await.unwrap();
    let error = process.preflight().await.unwrap_err();
    assert!(error.to_string().contains("given as a handle"), "{error}");
    process.set_phase(Phase::BothReadOld).await.unwrap();
    process.preflight().await.unwrap();
}

async fn pair(old: &Arc<MemoryDiscovery>, new: &Arc<MemoryDiscovery>) -> Migration {
    let [old, new]: [Arc<dyn Discovery>; 2] = [old.clone(), new.clone()];
    let builder = Migration::builder(old, new).phase(Phase::BothReadMerged);
    builder.steady(Duration::ZERO).start().await.unwrap()
}

fn is_hot(view: &View) -> bool {
    let found = view.get(&key("a"));
    found.is_some_and(|found| *found.health() == Health::warning("hot"))
}
