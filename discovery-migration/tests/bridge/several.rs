//! Several bridges: shared work, handing over, opposite directions, equal names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidings_api::{Discovery, InstanceKey, MemoryDiscovery, MemoryRegistry, Watch};
use tidings_migration::{BridgeState, Skip};

use crate::{Process, Recording, client, ids, key, named, pass, shows, web};

const SECOND: Duration = Duration::from_secs(1);
/// Enough that each of two bridges gets some.
const MANY: usize = 40;

/// A source with many instances, an empty target, and a client of it.
struct Scene {
    source: MemoryRegistry,
    target: MemoryRegistry,
    owner: MemoryDiscovery,
    _reader: MemoryDiscovery,
    seen: Watch,
    all: BTreeSet<InstanceKey>,
}

impl Scene {
    async fn new() -> Self {
        let (source, target) = (MemoryRegistry::new(), MemoryRegistry::new());
        let owner = source.connect();
        let mut all = BTreeSet::new();
        for number in 0..MANY {
            all.insert(owner.register(web(&number.to_string())).await.unwrap());
        }
        let (reader, seen) = client(&target).await;
        Self {
            source,
            target,
            owner,
            _reader: reader,
            seen,
            all,
        }
    }

    async fn bridge(&self, name: &str) -> Process {
        Process::start(&self.source, &self.target, named(name)).await
    }

    /// One that can't hear the source until that is restored.
    async fn deaf_bridge(&self, name: &str) -> Process {
        let (from, to) = (self.source.connect(), self.target.connect());
        from.cut_off();
        Process::with(Arc::new(from), Arc::new(to), named(name)).await
    }

    /// A bridge that mirrors everything, everything that is seen from then on, and a deaf one that has
    /// taken its name.
    async fn succession(&self) -> (Process, Recording, Process) {
        let older = self.bridge("same").await;
        older.mirrors(MANY).await;
        let recording = Recording::start(&self.seen);
        let newer = self.deaf_bridge("same").await;
        older.is_superseded().await;
        (older, recording, newer)
    }

    /// Waits until the bridges mirror everything between them, and nothing twice.
    async fn is_shared(&self, bridges: &[&Process]) {
        let shared = async {
            loop {
                let shares: Vec<_> = bridges
                    .iter()
                    .map(|process| process.bridge.report().mirrored)
                    .collect();
                let total: usize = shares.iter().map(BTreeSet::len).sum();
                let union: BTreeSet<_> = shares.iter().flatten().cloned().collect();
                let fair = shares
                    .iter()
                    .all(|share| share.len() >= MANY / bridges.len() / 2);
                if total == MANY && union == self.all && fair {
                    return;
                }
                pass(Duration::from_millis(10)).await;
            }
        };
        let shared = tokio::time::timeout(crate::PATIENCE, shared).await;
        let reports = || {
            bridges
                .iter()
                .map(|process| process.bridge.report().to_string())
        };
        assert!(shared.is_ok(), "{:?}", reports().collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn the_others_take_over_from_one_that_is_killed_before_its_session_ends() {
    let scene = Scene::new().await;
    let (a, b) = (scene.bridge("a").await, scene.bridge("b").await);
    scene.is_shared(&[&a, &b]).await;
    let recording = Recording::start(&scene.seen);

    let session = a.kill();
    b.mirrors(MANY).await;
    assert_eq!(scene.seen.view().len(), MANY);
    session.crash();
    pass(10 * SECOND).await;

    // And it comes back, for its share.
    let a = scene.bridge("a").await;
    scene.is_shared(&[&a, &b]).await;
    let c = scene.bridge("c").await;
    scene.is_shared(&[&a, &b, &c]).await;
    pass(60 * SECOND).await;
    scene.is_shared(&[&a, &b, &c]).await;
    assert_eq!(recording.removed(), Vec::<String>::new());

    scene.owner.deregister(&key("7")).await.unwrap();
    let gone = scene
        .seen
        .clone()
        .wait_until(|view| view.len() == MANY - 1)
        .await;
    assert!(gone.unwrap().get(&key("7")).is_none());
    assert_eq!(recording.removed(), ["7"]);
}

#[tokio::test(start_paused = true)]
async fn bridges_that_start_together_settle() {
    let scene = Scene::new().await;
    let (a, b, c) = tokio::join!(scene.bridge("a"), scene.bridge("b"), scene.bridge("c"));
    scene.is_shared(&[&a, &b, &c]).await;
    pass(10 * SECOND).await;
    scene.is_shared(&[&a, &b, &c]).await;
    // No mirror moves any more.
    let view = scene.seen.view();
    pass(60 * SECOND).await;
    assert!(scene.seen.view().since(&view).is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_closed_hands_over_and_the_last_one_withdraws() {
    let scene = Scene::new().await;
    let (a, b) = (scene.bridge("a").await, scene.bridge("b").await);
    scene.is_shared(&[&a, &b]).await;
    let recording = Recording::start(&scene.seen);
    a.bridge.close().await.unwrap();
    a.to.close().await.unwrap();
    b.mirrors(MANY).await;
    pass(10 * SECOND).await;
    assert_eq!(recording.removed(), Vec::<String>::new());
    b.bridge.close().await.unwrap();
    assert!(scene.seen.view().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_closed_waits_for_one_that_does_not_hear_the_source_yet() {
    for hears_it in [true, false] {
        let scene = Scene::new().await;
        let a = scene.bridge("a").await;
        a.mirrors(MANY).await;
        let recording = Recording::start(&scene.seen);
        let b = scene.deaf_bridge("b").await;
        a.reports("that b is there", |report| report.others.contains_key("b"))
            .await;
        let restored = async {
            pass(SECOND / 2).await;
            assert_eq!(scene.seen.view().len(), MANY);
            if hears_it {
                b.from.restore();
            }
        };
        let (closed, ()) = tokio::join!(a.bridge.close(), restored);
        closed.unwrap();
        // Not for ever.
        let kept = if hears_it { MANY } else { 0 };
        b.mirrors(kept).await;
        pass(10 * SECOND).await;
        assert_eq!(recording.removed().len(), MANY - kept);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_hear_the_source_is_relieved() {
    let scene = Scene::new().await;
    let (a, b) = (scene.bridge("a").await, scene.bridge("b").await);
    scene.is_shared(&[&a, &b]).await;
    let recording = Recording::start(&scene.seen);
    a.from.cut_off();
    b.mirrors(MANY).await;
    a.mirrors(0).await;
    a.from.restore();
    scene.is_shared(&[&a, &b]).await;

    // Cut off from the target, it is silent there.
    a.to.cut_off();
    b.mirrors(MANY).await;
    scene.owner.deregister(&key("7")).await.unwrap();
    pass(10 * SECOND).await;
    a.to.restore();
    scene.owner.register(web("7")).await.unwrap();
    scene.is_shared(&[&a, &b]).await;
    assert_eq!(recording.removed(), ["7"]);
}

#[tokio::test(start_paused = true)]
async fn opposite_bridges_make_no_loop() {
    let (one, two) = (MemoryRegistry::new(), MemoryRegistry::new());
    let (here, there) = (one.connect(), two.connect());
    here.register(web("here")).await.unwrap();
    there.register(web("there")).await.unwrap();
    let forth = Process::start(&one, &two, named("forth").with_origin("one").unwrap()).await;
    let back = Process::start(&two, &one, named("back").with_origin("two").unwrap()).await;
    let ((_a, at_one), (_b, at_two)) = (client(&one).await, client(&two).await);
    shows(&at_one, &["here", "there"]).await;
    shows(&at_two, &["here", "there"]).await;
    pass(10 * SECOND).await;
    let skipped = back.bridge.report().skipped;
    assert!(
        matches!(skipped.get(&key("here")), Some(Skip::Mirror)),
        "{skipped:?}"
    );

    // A loop would keep both for ever.
    here.crash();
    there.deregister(&key("there")).await.unwrap();
    shows(&at_one, &[]).await;
    shows(&at_two, &[]).await;
    pass(60 * SECOND).await;
    assert!(at_one.view().is_empty() && at_two.view().is_empty());
    // An owner that changes sides is mirrored the other way.
    let moved = two.connect();
    moved.register(web("here")).await.unwrap();
    shows(&at_one, &["here"]).await;
    forth.mirrors(0).await;
    back.mirrors(1).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_bridges_with_one_name_the_older_hands_over_and_ends() {
    let scene = Scene::new().await;
    let older = scene.bridge("same").await;
    older.mirrors(MANY).await;
    let recording = Recording::start(&scene.seen);
    let newer = scene.bridge("same").await;
    newer.mirrors(MANY).await;
    older.bridge.ended().await;
    older
        .reports("ended", |report| report.state == BridgeState::Closed)
        .await;
    older.to.close().await.unwrap();
    pass(10 * SECOND).await;
    assert_eq!(recording.removed(), Vec::<String>::new());
    assert_eq!(newer.bridge.report().mirrored.len(), MANY);
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_does_not_take_its_name_back() {
    let scene = Scene::new().await;
    let older = scene.bridge("same").await;
    older.mirrors(MANY).await;
    let recording = Recording::start(&scene.seen);
    let succeeded = async {
        pass(SECOND / 100).await;
        let newer = scene.deaf_bridge("same").await;
        older.is_superseded().await;
        pass(SECOND).await;
        newer.from.restore();
        newer
    };
    let (closed, newer) = tokio::join!(older.bridge.close(), succeeded);
    closed.unwrap();
    newer.mirrors(MANY).await;
    pass(10 * SECOND).await;
    assert_eq!(recording.removed(), Vec::<String>::new());
    assert_eq!(newer.bridge.report().state, BridgeState::Ready);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_superseded_waits_for_its_successor_when_it_is_closed() {
    let scene = Scene::new().await;
    let (older, recording, newer) = scene.succession().await;
    let restored = async {
        pass(SECOND).await;
        newer.from.restore();
    };
    tokio::join!(older.bridge.close(), restored).0.unwrap();
    newer.mirrors(MANY).await;
    pass(10 * SECOND).await;
    assert_eq!(recording.removed(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn one_whose_successor_does_not_hear_the_source_goes_on() {
    let scene = Scene::new().await;
    let (older, recording, newer) = scene.succession().await;
    pass(60 * SECOND).await;
    scene.owner.deregister(&key("7")).await.unwrap();
    older.mirrors(MANY - 1).await;
    newer.from.restore();
    newer.mirrors(MANY - 1).await;
    older.bridge.ended().await;
    assert_eq!(recording.removed(), ["7"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_closed_while_nobody_hears_the_target_hands_over_afterwards() {
    let scene = Scene::new().await;
    let (a, b) = (scene.bridge("a").await, scene.bridge("b").await);
    scene.is_shared(&[&a, &b]).await;
    let recording = Recording::start(&scene.seen);
    for process in [&a, &b] {
        process.to.cut_off();
    }
    let restored = async {
        pass(SECOND).await;
        for process in [&a, &b] {
            process.to.restore();
        }
    };
    tokio::join!(a.bridge.close(), restored).0.unwrap();
    b.mirrors(MANY).await;
    pass(10 * SECOND).await;
    assert_eq!(recording.removed(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn bridges_from_different_places_leave_each_other_alone() {
    let (one, two, target) = (
        MemoryRegistry::new(),
        MemoryRegistry::new(),
        MemoryRegistry::new(),
    );
    let (here, there) = (one.connect(), two.connect());
    for owner in [&here, &there] {
        owner.register(web("both")).await.unwrap();
    }
    here.register(web("here")).await.unwrap();
    there.register(web("there")).await.unwrap();
    let first = Process::start(&one, &target, named("a").with_origin("one").unwrap()).await;
    first.mirrors(2).await;
    let second = Process::start(&two, &target, named("b").with_origin("two").unwrap()).await;
    second.mirrors(1).await;
    pass(60 * SECOND).await;
    first.mirrors(2).await;
    let skipped = second.bridge.report().skipped;
    assert!(
        matches!(skipped.get(&key("both")), Some(Skip::Elsewhere(name)) if name == "a"),
        "{skipped:?}"
    );
    // Even where both are said to be the same place, which they aren't, everything is mirrored.
    let (third, other) = (MemoryRegistry::new(), MemoryRegistry::new());
    let third_owner = third.connect();
    third_owner.register(web("third")).await.unwrap();
    let other_owner = other.connect();
    other_owner.register(web("other")).await.unwrap();
    let _c = Process::start(&third, &target, named("c")).await;
    let _d = Process::start(&other, &target, named("d")).await;
    let (_reader, seen) = client(&target).await;
    shows(&seen, &["both", "here", "other", "there", "third"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_was_closed_by_mistake_of_its_handle_is_taken_over_from() {
    let scene = Scene::new().await;
    let (a, b) = (scene.bridge("a").await, scene.bridge("b").await);
    scene.is_shared(&[&a, &b]).await;
    // Everything is withdrawn behind the bridge's back.
    let to: Arc<MemoryDiscovery> = a.to.clone();
    to.close().await.unwrap();
    b.mirrors(MANY).await;
    assert_eq!(ids(&scene.seen.view()).len(), MANY);
}
