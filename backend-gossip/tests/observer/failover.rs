//! Members end, all of them at worst; clusters are sealed; and an observer only looks.

use std::time::{Duration, Instant};

use tidings_api::{Connection, Discovery, DiscoveryExt, ErrorKind, Health, Removal};
use tidings_gossip::{GossipDiscovery, GossipObserver, SealKey};
use tokio::time::timeout;

use crate::cluster::{
    LONG, Recorded, addresses, cluster, config, instance, is_served_without_the_first, member,
    number, observer, observer_config, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_killed_its_observers_are_served_by_the_others_without_a_flap() {
    let members = cluster(3).await;
    let seeds = addresses(&members);
    let mut observers = Vec::new();
    for number in 0..12 {
        // Most know one seed, and are told of the other members.
        let seeds = if number % 4 == 0 {
            &seeds[..]
        } else {
            &seeds[..1]
        };
        let observer = observer(seeds).await;
        let recorded = Recorded::new(&observer).await;
        observers.push((observer, recorded));
    }
    let on_it = |observers: &[(GossipObserver, Recorded)]| {
        let members = observers.iter().map(|(observer, _)| observer.member());
        members.filter(|member| *member == Some(seeds[0])).count()
    };
    assert!(on_it(&observers) >= 9, "they look through the first seed");
    for (observer, recorded) in &observers {
        let watch = observer.watch_service("web").await.unwrap();
        assert!(watch.view().is_live() && watch.view().len() == 3);
        until("all were added", async || recorded.take().is_empty()).await;
    }

    let killed = Instant::now();
    members[0].faults().crash().await;
    members[1].register(instance("new", 7)).await.unwrap();
    for (observer, _) in &observers {
        is_served_without_the_first(observer).await;
    }
    println!("all were served again after {:?}", killed.elapsed());
    assert_eq!(on_it(&observers), 0);
    for (observer, recorded) in &observers {
        recorded.only_what_has_changed().await;
        let bound = observer.status().bounds().crashed;
        assert!(bound < LONG, "{bound:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_all_members_killed_views_stay_and_afterwards_only_the_difference_shows() {
    let members = cluster(3).await;
    let seeds = addresses(&members);
    let observer = observer(&seeds).await;
    let recorded = Recorded::new(&observer).await;
    let mut watch = observer.watch_service("web").await.unwrap();
    until("all were added", async || recorded.take().is_empty()).await;
    for member in &members {
        member.faults().crash().await;
    }
    let stale = watch.wait_until(|view| !view.is_live());
    let stale = timeout(LONG, stale).await.unwrap().unwrap();
    assert_eq!(stale.len(), 3, "stale, not empty");
    let status = observer.status();
    assert!(
        matches!(status.connection(), Connection::Disconnected { .. }),
        "{status:?}"
    );
    let unheard = observer.watch_service("mail").await.unwrap().view();
    assert!(unheard.is_empty() && !unheard.is_live());

    // Back at their addresses, one after the other; the last doesn't come back.
    let mut back = Vec::new();
    for at in 0..2 {
        let name = format!("m-{at}");
        let member = member(&name, seeds[at], &seeds[..at]).await;
        member.register(instance(&name, 0)).await.unwrap();
        back.push(member);
    }
    until("they were registered anew", async || {
        recorded
            .take()
            .iter()
            .filter(|change| change.starts_with('~'))
            .count()
            > 0
            || watch
                .view()
                .iter()
                .filter(|i| i.generation() > stale.iter().next().unwrap().generation())
                .count()
                >= 2
    })
    .await;
    let gone = watch.wait_until(|view| view.is_live());
    let live = timeout(LONG, gone).await.unwrap().unwrap();
    assert_eq!(live.len(), 2, "{live:?}");
    let seen = recorded.take();
    assert!(
        seen.iter()
            .all(|change| change.starts_with('~') || change == "-m-2"),
        "only the difference: {seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_cluster_is_observed_with_its_key_and_only_with_it() {
    let key = || "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20";
    let mut sealed = config();
    sealed.keys = vec![key().parse::<SealKey>().unwrap()];
    let member = GossipDiscovery::start(sealed).await.unwrap();
    member.register(instance("a", 1)).await.unwrap();
    let join = [member.local_addr()];

    let mut with_key = observer_config(&join);
    with_key.keys = vec![key().parse().unwrap()];
    let with_key = GossipObserver::start(with_key).await.unwrap();
    let view = with_key.resolve("web").await.unwrap();
    assert!(view.is_live() && number(&view, "a") == Some(1), "{view:?}");

    let mut without = observer_config(&join);
    without.join_wait = Duration::ZERO;
    let mut other = without.clone();
    other.keys = vec!["0f1e".repeat(16).parse().unwrap()];
    for config in [without, other] {
        let stranger = GossipObserver::start(config).await.unwrap();
        let rejected = async || {
            let stats = member.stats().await.unwrap();
            stats.seal.unsealed + stats.seal.unknown_key
        };
        let before = rejected().await;
        until("it was turned away", async || rejected().await > before).await;
        let view = stranger.resolve("web").await.unwrap();
        assert!(view.is_empty() && !view.is_live(), "{view:?}");
    }
    assert_eq!(member.stats().await.unwrap().engine.observers, 1);
}

#[tokio::test]
async fn an_observer_only_looks_and_says_what_to_do_instead() {
    let members = cluster(1).await;
    let observer = observer(&addresses(&members)).await;
    let refused = observer.register(instance("x", 1)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let text = refused.to_string();
    assert!(
        text.contains("only looks") && text.contains("observe=false"),
        "{text}"
    );
    let key = instance("m-0", 0).key().clone();
    assert_eq!(observer.deregister(&key).await.unwrap(), Removal::Absent);
    let refused = observer.health(&key, Health::draining()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotOwned);
    assert_eq!(
        members[0].members().await.unwrap().len(),
        1,
        "it is in no member table"
    );
    assert_eq!(members[0].stats().await.unwrap().engine.observers, 1);

    observer.close().await.unwrap();
    observer.close().await.unwrap();
    for closed in [
        observer.register(instance("x", 1)).await.err(),
        observer.deregister(&key).await.err(),
        observer.health(&key, Health::draining()).await.err(),
        observer.watch_all().await.err(),
    ] {
        assert_eq!(closed.map(|error| error.kind()), Some(ErrorKind::Closed));
    }
    until("the member has forgotten it", async || {
        members[0].stats().await.unwrap().engine.observers == 0
    })
    .await;
}

#[tokio::test]
async fn a_member_and_an_observer_are_not_started_for_each_other() {
    let error = GossipDiscovery::start(observer_config(&["127.0.0.1:1".parse().unwrap()])).await;
    assert!(error.unwrap_err().to_string().contains("GossipObserver"));
    let mut config = config();
    config.bind = "127.0.0.1:7946".parse().unwrap();
    let error = GossipObserver::start(config).await.unwrap_err();
    assert!(error.to_string().contains("GossipDiscovery"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_is_gone_at_once_for_its_own_observers() {
    let members = cluster(2).await;
    let observer = observer(&addresses(&members)[..1]).await;
    let mut watch = observer.watch_service("web").await.unwrap();
    assert_eq!(observer.member(), Some(members[0].local_addr()));
    members[0].close().await.unwrap();
    let gone = watch.wait_until(|view| view.is_live() && number(view, "m-0").is_none());
    let view = timeout(LONG, gone).await.unwrap().unwrap();
    assert_eq!(number(&view, "m-1"), Some(0));
}
