//! One bridge: what it mirrors, outages, restarts, and owners in the target.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{
    Discovery, DiscoveryExt, ErrorKind, Health, Instance, InstanceKey, MemoryDiscovery,
    MemoryRegistry, Removal, Result, Selector, Status, Watch,
};
use tidings_migration::{BRIDGES, Bridge, BridgeOptions, BridgeState, Migration, Phase, Skip};

use crate::{Process, Recording, client, ids, key, named, pass, plain, shows, web};

const SECOND: Duration = Duration::from_secs(1);

fn registries() -> (MemoryRegistry, MemoryRegistry) {
    (MemoryRegistry::new(), MemoryRegistry::new())
}

#[tokio::test(start_paused = true)]
async fn it_follows_every_change() {
    let (source, target) = registries();
    let owner = source.connect();
    let rich = web("a")
        .with_zone("eu-1a")
        .and_then(|web| web.with_port("metrics", 9090)?.with_weight(3))
        .and_then(|web| web.with_metadata("version", "1.4.2"))
        .unwrap()
        .with_health(Health::warning("warming up"));
    owner.register(rich.clone()).await.unwrap();
    let bridge = Process::start(&source, &target, named("b")).await;
    let (reader, seen) = client(&target).await;

    let view = shows(&seen, &["a"]).await;
    let mirror = view.get(&key("a")).unwrap();
    assert_eq!(plain(mirror), rich);
    assert!(mirror.is_mirror());

    let crashing = source.connect();
    crashing.register(web("b")).await.unwrap();
    shows(&seen, &["a", "b"]).await;

    let recording = Recording::start(&seen);
    let health = Health::critical("the disk is full");
    owner.health(&key("a"), health.clone()).await.unwrap();
    let mut watch = seen.clone();
    let same = |view: &tidings_api::View| *view.get(&key("a")).unwrap().health() == health;
    watch.wait_until(same).await.unwrap();
    owner
        .register(rich.clone().with_address("10.0.0.8:81").unwrap())
        .await
        .unwrap();
    let moved = |view: &tidings_api::View| {
        view.get(&key("a")).unwrap().address().to_string() == "10.0.0.8:81"
    };
    watch.wait_until(moved).await.unwrap();
    assert_eq!(recording.removed(), Vec::<String>::new());

    crashing.crash();
    shows(&seen, &["a"]).await;
    owner.deregister(&key("a")).await.unwrap();
    shows(&seen, &[]).await;
    bridge.mirrors(0).await;
    assert_eq!(reader.resolve(BRIDGES).await.unwrap().len(), 1);
    bridge.bridge.close().await.unwrap();
    assert!(reader.resolve(BRIDGES).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_mirrors_the_selected_services_and_nothing_of_tidings_own() {
    let (source, target) = registries();
    let owner = source.connect();
    owner.register(web("a")).await.unwrap();
    owner.register_at("db", "10.0.0.1:5432").await.unwrap();
    owner
        .register_at("tidings.migration", "10.0.0.1:1")
        .await
        .unwrap();
    let reader = target.connect();
    let everything = reader.watch_all().await.unwrap();

    let options = named("some").with_service("web").unwrap();
    let some = Process::start(&source, &target, options).await;
    some.mirrors(1).await;
    let services = |view: tidings_api::View| {
        let services: Vec<_> = view
            .iter()
            .map(|found| found.service().to_string())
            .collect();
        services
    };
    assert_eq!(services(everything.view()), [BRIDGES, "web"]);
    some.bridge.close().await.unwrap();

    let all = Process::start(&source, &target, named("all")).await;
    all.mirrors(2).await;
    assert_eq!(services(everything.view()), ["db", BRIDGES, "web"]);
    let error = BridgeOptions::new().with_service("tidings.migration");
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_source_takes_nothing_away() {
    let (source, target) = registries();
    let (stays, ends) = (source.connect(), source.connect());
    stays.register(web("stays")).await.unwrap();
    ends.register(web("ends")).await.unwrap();
    let bridge = Process::start(&source, &target, named("b")).await;
    let (_reader, seen) = client(&target).await;
    shows(&seen, &["ends", "stays"]).await;
    let recording = Recording::start(&seen);

    bridge.from.cut_off();
    ends.deregister(&key("ends")).await.unwrap();
    bridge
        .reports("on standby", |r| r.state == BridgeState::Standby)
        .await;
    pass(60 * SECOND).await;
    assert_eq!(ids(&seen.view()), ["ends", "stays"]);
    assert_eq!(recording.removed(), Vec::<String>::new());
    bridge.from.restore();
    shows(&seen, &["stays"]).await;

    // The whole backend, with the data and without.
    for restart in [MemoryRegistry::start, MemoryRegistry::start_empty] {
        source.stop();
        pass(60 * SECOND).await;
        restart(&source);
        pass(SECOND).await;
    }
    assert_eq!(recording.removed(), ["ends"]);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_verified_for_long_is_withdrawn() {
    let (source, target) = registries();
    let owner = source.connect();
    owner.register(web("a")).await.unwrap();
    let options = named("b").with_hold(20 * SECOND);
    let bridge = Process::start(&source, &target, options).await;
    let (_reader, seen) = client(&target).await;
    shows(&seen, &["a"]).await;

    bridge.from.cut_off();
    pass(19 * SECOND).await;
    assert_eq!(ids(&seen.view()), ["a"]);
    pass(2 * SECOND).await;
    assert_eq!(ids(&seen.view()), [""; 0]);
    bridge.from.restore();
    shows(&seen, &["a"]).await;
    // Every outage counts for itself.
    bridge.from.cut_off();
    pass(19 * SECOND).await;
    assert_eq!(ids(&seen.view()), ["a"]);
    // A source that was closed is like one that can't be heard.
    bridge.from.restore();
    pass(SECOND).await;
    bridge.from.close().await.unwrap();
    pass(19 * SECOND).await;
    assert_eq!(ids(&seen.view()), ["a"]);
    shows(&seen, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_target_is_made_up_for() {
    let (source, target) = registries();
    let owner = source.connect();
    for id in ["changes", "ends", "stays"] {
        owner.register(web(id)).await.unwrap();
    }
    let bridge = Process::start(&source, &target, named("b")).await;
    let (_reader, seen) = client(&target).await;
    shows(&seen, &["changes", "ends", "stays"]).await;
    let recording = Recording::start(&seen);

    target.stop();
    owner.deregister(&key("ends")).await.unwrap();
    owner
        .health(&key("changes"), Health::draining())
        .await
        .unwrap();
    owner.register(web("new")).await.unwrap();
    pass(30 * SECOND).await;
    assert!(matches!(
        bridge.bridge.report().skipped.get(&key("new")),
        Some(Skip::Unheard)
    ));
    target.start_empty();
    let view = shows(&seen, &["changes", "new", "stays"]).await;
    assert_eq!(
        *view.get(&key("changes")).unwrap().health(),
        Health::draining()
    );
    assert_eq!(recording.removed(), ["ends"]);

    // The session in the target ends while the bridge lives.
    bridge.to.expire();
    shows(&seen, &["changes", "new", "stays"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_was_killed_is_taken_over_from_without_a_gap() {
    for name in ["same", "other"] {
        let (source, target) = registries();
        let owner = source.connect();
        for id in ["a", "b", "ends"] {
            owner.register(web(id)).await.unwrap();
        }
        let first = Process::start(&source, &target, named("same")).await;
        let (_reader, seen) = client(&target).await;
        shows(&seen, &["a", "b", "ends"]).await;
        let recording = Recording::start(&seen);

        let session = first.kill();
        owner.deregister(&key("ends")).await.unwrap();
        let second = Process::start(&source, &target, named(name)).await;
        second.mirrors(2).await;
        pass(10 * SECOND).await;
        // What ended meanwhile has nobody who withdraws it: it ends with the session.
        assert_eq!(ids(&seen.view()), ["a", "b", "ends"], "{name}");
        session.crash();
        shows(&seen, &["a", "b"]).await;
        pass(10 * SECOND).await;
        assert_eq!(recording.removed(), ["ends"], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_the_source_was_seen() {
    let (source, target) = registries();
    let owner = source.connect();
    owner.register(web("a")).await.unwrap();
    let first = Process::start(&source, &target, named("b")).await;
    let (_reader, seen) = client(&target).await;
    shows(&seen, &["a"]).await;
    let recording = Recording::start(&seen);

    let session = first.kill();
    let (from, to) = (Arc::new(source.connect()), Arc::new(target.connect()));
    from.cut_off();
    let second = Process::with(from.clone(), to, named("b")).await;
    pass(60 * SECOND).await;
    assert_eq!(second.bridge.report().state, BridgeState::Standby);
    assert_eq!(
        (ids(&seen.view()), recording.removed()),
        (vec!["a"], vec![])
    );
    from.restore();
    second.mirrors(1).await;
    session.crash();
    pass(SECOND).await;
    assert_eq!(
        (ids(&seen.view()), recording.removed()),
        (vec!["a"], vec![])
    );
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_comes_to_the_target_wins_for_as_long_as_it_is_there() {
    let (source, target) = registries();
    let owner = source.connect();
    owner.register(web("a")).await.unwrap();
    let bridge = Process::start(&source, &target, named("b")).await;
    let (_reader, seen) = client(&target).await;
    shows(&seen, &["a"]).await;
    let recording = Recording::start(&seen);

    let real = target.connect();
    real.register(web("a").with_zone("real").unwrap())
        .await
        .unwrap();
    bridge
        .reports("left to its owner", |report| {
            matches!(report.skipped.get(&key("a")), Some(Skip::Owned))
        })
        .await;
    owner.health(&key("a"), Health::draining()).await.unwrap();
    pass(60 * SECOND).await;
    let there = seen.view().get(&key("a")).unwrap().clone();
    assert!(!there.is_mirror() && there.health().is_serving());
    assert!(
        real.status()
            .registration(&key("a"))
            .unwrap()
            .is_registered()
    );
    assert_eq!(recording.removed(), Vec::<String>::new());

    // The owner's end in the source is nothing to the one in the target.
    owner.deregister(&key("a")).await.unwrap();
    pass(60 * SECOND).await;
    assert_eq!(ids(&seen.view()), ["a"]);
    owner.register(web("a")).await.unwrap();
    real.deregister(&key("a")).await.unwrap();
    assert!(
        shows(&seen, &["a"])
            .await
            .iter()
            .all(|there| there.is_mirror())
    );
}

/// Whatever a bridge has seen of the target, and whoever was first.
#[tokio::test(start_paused = true)]
async fn a_mirror_never_pushes_an_owner_out() {
    let (source, target) = registries();
    let owner = source.connect();
    owner.register(web("a")).await.unwrap();
    let bridge = Process::start(&source, &target, named("b")).await;
    bridge.mirrors(1).await;
    bridge.to.cut_off();
    let real = target.connect();
    real.register(web("a")).await.unwrap();
    // Told of while it can't know of the owner.
    owner.health(&key("a"), Health::draining()).await.unwrap();
    pass(10 * SECOND).await;
    bridge.to.restore();
    bridge.mirrors(0).await;
    assert!(
        real.status()
            .registration(&key("a"))
            .unwrap()
            .is_registered()
    );

    let mirror = target.connect();
    let marked = web("a")
        .with_metadata("tidings.bridge", "b 7 memory")
        .unwrap();
    mirror.register(marked.clone()).await.unwrap();
    mirror.register(marked).await.unwrap();
    assert!(
        mirror
            .status()
            .registration(&key("a"))
            .unwrap()
            .is_superseded()
    );
    assert!(
        real.status()
            .registration(&key("a"))
            .unwrap()
            .is_registered()
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_mirror_disturbs_no_other_and_is_tried_again() {
    let (source, target) = registries();
    let owner = source.connect();
    owner.register(web("a")).await.unwrap();
    owner.register_at("db", "10.0.0.1:5432").await.unwrap();
    target.deny("db".parse().unwrap());
    let bridge = Process::start(&source, &target, named("b")).await;
    bridge
        .reports("one refused", |report| {
            let mut skips = report.skipped.values();
            report.mirrored.len() == 1 && skips.any(|skip| matches!(skip, Skip::Refused(_)))
        })
        .await;
    let text = bridge.bridge.report().to_string();
    assert!(text.contains("registrations of db are denied"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn closing_withdraws_everything_at_once_or_says_that_it_could_not() {
    let (source, target) = registries();
    let owner = source.connect();
    owner.register(web("a")).await.unwrap();
    let (_reader, seen) = client(&target).await;
    let bridge = Process::start(&source, &target, named("b")).await;
    shows(&seen, &["a"]).await;
    bridge.bridge.close().await.unwrap();
    assert!(seen.view().is_empty());
    assert_eq!(bridge.bridge.report().state, BridgeState::Closed);
    bridge.bridge.close().await.unwrap();

    let bridge = Process::start(&source, &target, named("b")).await;
    shows(&seen, &["a"]).await;
    bridge.to.cut_off();
    let error = bridge.bridge.close().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    // It ends with a target that is closed.
    let bridge = Process::start(&source, &target, named("c")).await;
    bridge.to.close().await.unwrap();
    bridge.bridge.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_migration_that_reads_both_sides_sees_one_instance() {
    let (source, target) = registries();
    let owner = source.connect();
    owner
        .register(web("a").with_weight(5).unwrap())
        .await
        .unwrap();
    let bridge = Process::start(&source, &target, named("b")).await;
    bridge.mirrors(1).await;

    let old: Arc<dyn Discovery> = Arc::new(source.connect());
    let new: Arc<dyn Discovery> = Arc::new(target.connect());
    let migration = Migration::builder(old, new).phase(Phase::BothReadMerged);
    let migration = migration.start().await.unwrap();
    let seen = migration.watch_service("web").await.unwrap();
    let at_source = owner.resolve("web").await.unwrap();
    let expected: Instance = Instance::clone(at_source.get(&key("a")).unwrap());
    let view = shows(&seen, &["a"]).await;
    assert_eq!(**view.get(&key("a")).unwrap(), expected);
    assert_eq!(migration.report().services["web"].matching, 1);
    let all = migration.watch_all().await.unwrap();
    assert_eq!(ids(&shows(&all, &["a"]).await), ["a"]);

    // Content never goes back to what the mirror, which is behind, still says.
    let mut watch = seen.clone();
    for weight in 6..60 {
        owner
            .register(web("a").with_weight(weight).unwrap())
            .await
            .unwrap();
        let there = |view: &tidings_api::View| view.get(&key("a")).unwrap().weight() == weight;
        watch.wait_until(there).await.unwrap();
        let mirror = |view: &tidings_api::View| view.get(&key("a")).unwrap().weight() >= weight;
        let mut behind = target.connect().watch_service("web").await.unwrap();
        owner
            .register(web("a").with_weight(weight + 1).unwrap())
            .await
            .unwrap();
        behind.wait_until(mirror).await.unwrap();
        assert!(seen.view().get(&key("a")).unwrap().weight() >= weight);
    }
    owner.deregister(&key("a")).await.unwrap();
    shows(&seen, &[]).await;
    pass(10 * SECOND).await;
    assert!(seen.view().is_empty());
}

/// A backend with a defect: it panics where `web/a` is registered.
#[derive(Debug)]
struct Panicking(MemoryDiscovery);

#[async_trait]
impl Discovery for Panicking {
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        assert!(*instance.key() != key("a"), "a defect");
        self.0.register(instance).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        self.0.deregister(key).await
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        self.0.watch(selector).await
    }

    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        self.0.health(key, health).await
    }

    fn status(&self) -> Status {
        self.0.status()
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_a_backend_that_panics_and_says_so() {
    let (source, target) = registries();
    let owner = source.connect();
    owner.register(web("a")).await.unwrap();
    let to = Arc::new(Panicking(target.connect()));
    let bridge = Bridge::start(Arc::new(source.connect()), to, named("b")).await;
    let bridge = bridge.unwrap();
    bridge.ended().await;
    let error = bridge.close().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
}
