//! What a real etcd does to its clients. In each: instances that never went away don't flap, nothing
//! is lost, and the newest content is there at the end.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod support;

use std::time::{Duration, Instant};

use etcd_client::{GetOptions, LeaseGrantOptions, Permission, PutOptions};
use support::{PATIENCE, Proxied, Seen, TTL, admin, config, eventually, is_registered, key, web};
use tidings_api::{Discovery, DiscoveryExt, Health, Registration, Removal, View};
use tidings_etcd::EtcdDiscovery;
use tidings_testkit::etcd::{Cluster, Options, Version};
use tidings_testkit::proxy::Proxy;

macro_rules! on_both_versions {
    ($($test:ident)*) => {
        mod etcd_3_4 {
            tidings_testkit::server_tests! { etcd_3_4:
                $(async fn $test() { super::$test(super::Version::V3_4).await; })*
            }
        }
        mod etcd_3_5 {
            tidings_testkit::server_tests! { etcd_3_5:
                $(async fn $test() { super::$test(super::Version::V3_5).await; })*
            }
        }
    };
}

on_both_versions! {
    absent_at_start
    killed_and_restarted_with_data_kept
    killed_and_restarted_with_data_lost
    other_content_at_the_same_revision_after_data_was_lost
    stopped_for_three_times_the_ttl
    one_of_three_dead
    one_of_three_hung
    all_endpoints_silent_at_once
    one_hung_of_many_behind_one_address
    quorum_lost_and_regained
    closed_while_there_is_no_quorum
    compaction_while_disconnected
    deregistered_and_closed_while_etcd_is_full
    lease_revoked_behind_our_back
    key_deleted_behind_our_back
    client_partitioned_longer_than_the_ttl_and_back
    auth_token_expiring_in_the_middle_of_a_watch
    ten_thousand_subscriptions_leak_no_watch
    a_value_no_one_can_parse
    five_thousand_instances_in_one_service
    large_instances_over_a_slow_line
    deregistered_in_an_outage_is_told_from_lost_in_an_outage
}

async fn absent_at_start(version: Version) {
    let cluster = Cluster::prepare(Options::default().version(version)).unwrap();
    let owner = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    let start = Instant::now();
    owner.register(web("a", 1)).await.unwrap();
    let seen = Seen::by(&owner).await;
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "calls wait for ever"
    );
    assert!(!owner.status().connection().is_connected(), "etcd is there");
    let status = owner.status();
    let registration = status.registration(&key("a"));
    assert!(matches!(registration, Some(Registration::Pending { .. })));
    assert!(!seen.view().is_live() && seen.view().len() == 1);
    owner
        .health(&key("a"), Health::warning("waiting"))
        .await
        .unwrap();
    let other = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    let others = Seen::by(&other).await;
    assert!(!others.view().is_live() && others.view().is_empty());

    let _cluster = cluster.begin().await.unwrap();
    is_registered(&owner, "a").await;
    seen.shows(&[("a", 1)]).await;
    others.shows(&[("a", 1)]).await;
    let view = others.view();
    assert_eq!(
        view.get(&key("a")).unwrap().health().note(),
        Some("waiting")
    );
    seen.still_hears(&owner).await;
    others.still_hears(&owner).await;
}

async fn killed_and_restarted_with_data_kept(version: Version) {
    let mut cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let (owner, client, seen) = a_and_b(&cluster).await;
    cluster.ctl(&["put", "witness", "kept"]).unwrap();
    cluster.kill(0);
    seen.is_stale().await;
    owner.register(web("b", 2)).await.unwrap();
    cluster.restart(0).await.unwrap();
    let witness = cluster.ctl(&["get", "witness"]).unwrap();
    assert!(witness.contains("kept"), "the data is lost: {witness:?}");
    seen.shows(&[("a", 1), ("b", 2)]).await;
    is_registered(&owner, "b").await;
    assert_eq!(seen.since_mark().await, ["~b"]);
    seen.still_hears(&owner).await;
    drop(client);
}

async fn killed_and_restarted_with_data_lost(version: Version) {
    let mut cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let (owner, client, seen) = a_and_b(&cluster).await;
    let leases = owner.leases();
    cluster.lose_data().unwrap();
    seen.is_stale().await;
    owner.register(web("b", 2)).await.unwrap();
    cluster.restart_all().await.unwrap();
    seen.shows(&[("a", 1), ("b", 2)]).await;
    is_registered(&owner, "a").await;
    is_registered(&owner, "b").await;
    assert_eq!(seen.since_mark().await, ["~b"]);
    let new = owner.leases();
    assert!(
        leases.iter().all(|lease| !new.contains(lease)),
        "the data is still there"
    );
    let fresh = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    Seen::by(&fresh).await.shows(&[("a", 1), ("b", 2)]).await;
    seen.still_hears(&owner).await;
    drop(client);
}

async fn other_content_at_the_same_revision_after_data_was_lost(version: Version) {
    let mut cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let client = Proxied::start(&cluster, config(&cluster)).await.unwrap();
    let seen = Seen::by(&client.etcd).await;
    let before = put_by_others(&cluster, 1).await;
    seen.shows(&[("a", 1), ("b", 1)]).await;
    seen.mark().await;
    client.black_hole();
    cluster.lose_data().unwrap();
    cluster.restart_all().await.unwrap();
    assert_eq!(put_by_others(&cluster, 2).await, before);
    seen.is_stale().await;
    client.restore();
    seen.shows(&[("a", 2), ("b", 2)]).await;
    assert_eq!(seen.since_mark().await, ["~a", "~b"]);
}

/// Writes an instance in the way of other tools, and one that hangs on a lease, which is the same
/// each time as in a backup; returns the last revision.
async fn put_by_others(cluster: &Cluster, number: usize) -> i64 {
    const LEASE: i64 = 7;
    let value = format!(r#"{{"Op":0,"Addr":"192.0.2.1:8080","Metadata":{{"n":"{number}"}}}}"#);
    let mut admin = admin(cluster.addresses()[0], false).await.unwrap();
    let id = LeaseGrantOptions::new().with_id(LEASE);
    admin.lease_grant(600, Some(id)).await.unwrap();
    let hanging = PutOptions::new().with_lease(LEASE);
    admin
        .put("tidings/web/a", value.clone(), None)
        .await
        .unwrap();
    let put = admin
        .put("tidings/web/b", value, Some(hanging))
        .await
        .unwrap();
    put.header().unwrap().revision()
}

async fn stopped_for_three_times_the_ttl(version: Version) {
    let cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let (owner, client, seen) = a_and_b(&cluster).await;
    cluster.pause(0).unwrap();
    let paused = Instant::now();
    seen.is_stale().await;
    owner
        .health(&key("a"), Health::warning("paused"))
        .await
        .unwrap();
    // The length of the stop is the fault itself.
    tokio::time::sleep((3 * TTL).saturating_sub(paused.elapsed())).await;
    let registration = owner.status().registration(&key("b")).cloned();
    assert!(
        !registration.unwrap().is_registered(),
        "the lease is trusted without an answer"
    );
    assert_eq!(seen.since_mark().await, [""; 0]);
    cluster.resume(0).unwrap();
    seen.wait("the newest health", |view| {
        let found = view.get(&key("a"));
        view.is_live() && found.is_some_and(|a| a.health().note() == Some("paused"))
    })
    .await;
    is_registered(&owner, "a").await;
    is_registered(&owner, "b").await;
    seen.shows(&[("a", 1), ("b", 1)]).await;
    assert_eq!(seen.since_mark().await, ["~a"]);
    seen.still_hears(&owner).await;
    drop(client);
}

async fn one_of_three_dead(version: Version) {
    without_one_of_three(version, Cluster::kill).await;
}

async fn one_of_three_hung(version: Version) {
    without_one_of_three(version, |cluster, member| cluster.pause(member).unwrap()).await;
}

/// Every verb works, and no watch is quiet for long, without the member that all go by.
async fn without_one_of_three(version: Version, fault: fn(&mut Cluster, usize)) {
    let options = Options::default().members(3).version(version);
    let mut cluster = Cluster::start(options).await.unwrap();
    let (owner, client, seen) = a_and_b(&cluster).await;
    // Handles start with the first endpoint, and have had no reason to leave it.
    fault(&mut cluster, 0);
    let quiet = client.status().bounds().stale + Duration::from_secs(10);
    for number in 2..20 {
        // Pending, where the call falls into the time in which the lost member is noticed, or a new
        // leader elected; not for long.
        owner.register(web("a", number)).await.unwrap();
        is_registered(&owner, "a").await;
        let newest = |view: &View| support::number_in(view, "a") == Some(number);
        let shown = tokio::time::timeout(quiet, seen.wait("the newest content", newest)).await;
        assert!(
            shown.is_ok(),
            "the watch is quiet for longer than {quiet:?}"
        );
    }
    let health = Health::warning("two of three");
    owner.health(&key("a"), health).await.unwrap();
    let fresh = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    fresh.register(web("c", 1)).await.unwrap();
    is_registered(&fresh, "c").await;
    assert_eq!(owner.deregister(&key("b")).await.unwrap(), Removal::Removed);
    seen.shows(&[("a", 19), ("c", 1)]).await;
    let changes = seen.since_mark().await;
    let flaps = |change: &&String| *change == "-a" || *change == "+a" || *change == "+b";
    assert_eq!(changes.iter().find(flaps), None, "{changes:?}");
    // The fault is still there.
    let status = cluster.ctl(&["--command-timeout=1s", "endpoint", "health", "--cluster"]);
    assert!(status.is_err(), "all members are well: {status:?}");
}

async fn all_endpoints_silent_at_once(version: Version) {
    let cluster = Cluster::start(Options::default().members(3).version(version))
        .await
        .unwrap();
    let mut config = config(&cluster);
    // So that the time of an answer is far longer than what a busy machine adds.
    config.ttl = Duration::from_secs(10);
    let client = Proxied::start(&cluster, config.clone()).await.unwrap();
    let owner = EtcdDiscovery::start(config).await.unwrap();
    let seen = Seen::by(&client.etcd).await;
    seen.still_hears(&owner).await;
    client.black_hole();
    let silent = Instant::now();
    seen.is_stale().await;
    let (elapsed, bound) = (silent.elapsed(), client.etcd.status().bounds().stale);
    assert!(
        elapsed <= bound,
        "stale after {elapsed:?}, and not {bound:?}"
    );
}

async fn one_hung_of_many_behind_one_address(version: Version) {
    let options = Options::default().members(3).version(version);
    let cluster = Cluster::start(options).await.unwrap();
    let leader = cluster.leader().unwrap();
    let (hung, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let addresses = cluster.addresses();
    let balancer = Proxy::start(addresses[hung]).await.unwrap();
    let mut client = config(&cluster);
    client.endpoints = vec![balancer.address().to_string()];
    let client = EtcdDiscovery::start(client).await.unwrap();
    let seen = Seen::by(&client).await;
    client.register(web("own", 1)).await.unwrap();
    seen.shows(&[("own", 1)]).await;
    let mut owner = config(&cluster);
    owner.endpoints = vec![addresses[leader].to_string()];
    let owner = EtcdDiscovery::start(owner).await.unwrap();
    balancer.redirect(addresses[other]);
    cluster.pause(hung).unwrap();
    owner.register(web("a", 1)).await.unwrap();
    // A ping on the silent connection would tell as well, but only after 15 s.
    let noticed = client.status().bounds().stale + Duration::from_secs(5);
    let knows = |view: &View| !view.is_live() || view.get(&key("a")).is_some();
    let knows = tokio::time::timeout(noticed, seen.wait("it shows what is new", knows)).await;
    assert!(knows.is_ok(), "the view is frozen, and live");
    seen.shows(&[("a", 1), ("own", 1)]).await;
    is_registered(&client, "own").await;
    seen.still_hears(&owner).await;
}

async fn quorum_lost_and_regained(version: Version) {
    let options = Options::default().members(3).version(version);
    let mut cluster = Cluster::start(options).await.unwrap();
    let (owner, client, seen) = a_and_b(&cluster).await;
    cluster.kill(1);
    cluster.kill(2);
    seen.is_stale().await;
    let lost = Instant::now();
    owner.register(web("a", 2)).await.unwrap();
    assert!(lost.elapsed() < Duration::from_secs(20));
    let registration = owner.status().registration(&key("a")).cloned().unwrap();
    assert!(
        !registration.is_registered(),
        "two of three are dead, and it is registered"
    );
    assert_eq!(seen.since_mark().await, [""; 0]);
    cluster.restart_all().await.unwrap();
    seen.shows(&[("a", 2), ("b", 1)]).await;
    is_registered(&owner, "a").await;
    is_registered(&owner, "b").await;
    assert_eq!(seen.since_mark().await, ["~a"]);
    seen.still_hears(&owner).await;
    drop(client);
}

async fn closed_while_there_is_no_quorum(version: Version) {
    let options = Options::default().members(3).version(version);
    let mut cluster = Cluster::start(options).await.unwrap();
    let client = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    let mut config = config(&cluster);
    // Its leases outlive this test, and it closes for as long as the members need to come back.
    config.ttl = Duration::from_secs(600);
    config.timeout = Duration::from_secs(60);
    let owner = EtcdDiscovery::start(config).await.unwrap();
    let seen = Seen::by(&client).await;
    owner.register(web("a", 1)).await.unwrap();
    owner.register(web("b", 1)).await.unwrap();
    seen.shows(&[("a", 1), ("b", 1)]).await;
    cluster.kill(1);
    cluster.kill(2);
    seen.is_stale().await;
    eventually("the owner hears nobody", || {
        !owner.status().connection().is_connected()
    })
    .await;
    let (closed, restarted) = tokio::join!(owner.close(), cluster.restart_all());
    restarted.unwrap();
    closed.unwrap();
    seen.wait("all are gone", |view| view.is_live() && view.is_empty())
        .await;
}

async fn compaction_while_disconnected(version: Version) {
    let cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let owner = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    for id in ["changed", "gone", "same"] {
        owner.register(web(id, 1)).await.unwrap();
    }
    let client = Proxied::start(&cluster, config(&cluster)).await.unwrap();
    let seen = Seen::by(&client.etcd).await;
    seen.shows(&[("changed", 1), ("gone", 1), ("same", 1)])
        .await;
    seen.mark().await;
    client.black_hole();
    seen.is_stale().await;
    owner.deregister(&key("gone")).await.unwrap();
    for number in 2..50 {
        owner.register(web("changed", number)).await.unwrap();
    }
    owner.register(web("new", 1)).await.unwrap();
    let mut admin = admin(cluster.addresses()[0], false).await.unwrap();
    let revision = admin
        .get("any", None)
        .await
        .unwrap()
        .header()
        .unwrap()
        .revision();
    admin.compact(revision, None).await.unwrap();
    let past = GetOptions::new().with_revision(2);
    let past = admin.get("any", Some(past)).await.unwrap_err().to_string();
    assert!(
        past.contains("compacted"),
        "the past is still there: {past}"
    );
    assert_eq!(seen.since_mark().await, [""; 0]);
    client.restore();
    seen.shows(&[("changed", 49), ("new", 1), ("same", 1)])
        .await;
    assert_eq!(seen.since_mark().await, ["+new", "-gone", "~changed"]);
    seen.still_hears(&owner).await;
}

async fn deregistered_and_closed_while_etcd_is_full(version: Version) {
    let options = Options {
        arguments: vec!["--quota-backend-bytes".into(), (4 << 20).to_string()],
        ..Options::default().version(version)
    };
    let cluster = Cluster::start(options).await.unwrap();
    let client = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    let mut config = config(&cluster);
    // Its leases outlive this test.
    config.ttl = Duration::from_secs(600);
    let leaving = EtcdDiscovery::start(config.clone()).await.unwrap();
    let closing = EtcdDiscovery::start(config).await.unwrap();
    let seen = Seen::by(&client).await;
    leaving.register(web("a", 1)).await.unwrap();
    leaving.register(web("b", 1)).await.unwrap();
    closing.register(web("c", 1)).await.unwrap();
    seen.shows(&[("a", 1), ("b", 1), ("c", 1)]).await;
    let mut admin = admin(cluster.addresses()[0], false).await.unwrap();
    let mut full = false;
    for number in 0..20 {
        let put = admin
            .put(format!("fill/{number}"), vec![0; 1 << 20], None)
            .await;
        full = put.is_err_and(|error| error.to_string().contains("space exceeded"));
        if full {
            break;
        }
    }
    assert!(full, "there is still space");
    assert_eq!(
        leaving.deregister(&key("a")).await.unwrap(),
        Removal::Removed
    );
    seen.shows(&[("b", 1), ("c", 1)]).await;
    closing.close().await.unwrap();
    seen.shows(&[("b", 1)]).await;
    let registration = leaving.status().registration(&key("b")).cloned().unwrap();
    assert!(registration.is_registered());
}

async fn lease_revoked_behind_our_back(version: Version) {
    let cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let (owner, client, seen) = a_and_b(&cluster).await;
    let mut admin = admin(cluster.addresses()[0], false).await.unwrap();
    let leases = owner.leases();
    assert!(!leases.is_empty());
    for lease in &leases {
        admin.lease_revoke(*lease).await.unwrap();
    }
    eventually("there are new leases", || {
        let new = owner.leases();
        new.len() == leases.len() && leases.iter().all(|lease| !new.contains(lease))
    })
    .await;
    is_registered(&owner, "a").await;
    is_registered(&owner, "b").await;
    owner.register(web("b", 2)).await.unwrap();
    seen.shows(&[("a", 1), ("b", 2)]).await;
    assert_eq!(seen.since_mark().await, ["~b"]);
    let fresh = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    Seen::by(&fresh).await.shows(&[("a", 1), ("b", 2)]).await;
    seen.still_hears(&owner).await;
    drop(client);
}

async fn key_deleted_behind_our_back(version: Version) {
    let cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let (owner, client, seen) = a_and_b(&cluster).await;
    let mut admin = admin(cluster.addresses()[0], false).await.unwrap();
    let deleted = admin.delete("tidings/web/a", None).await.unwrap();
    assert_eq!(deleted.deleted(), 1);
    let start = Instant::now();
    while admin
        .get("tidings/web/a", None)
        .await
        .unwrap()
        .kvs()
        .is_empty()
    {
        assert!(start.elapsed() < PATIENCE, "the key does not come back");
    }
    is_registered(&owner, "a").await;
    owner.register(web("a", 2)).await.unwrap();
    seen.shows(&[("a", 2), ("b", 1)]).await;
    assert_eq!(seen.since_mark().await, ["~a"]);
    seen.still_hears(&owner).await;
    drop(client);
}

async fn client_partitioned_longer_than_the_ttl_and_back(version: Version) {
    let cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let owner = Proxied::start(&cluster, config(&cluster)).await.unwrap();
    let other = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    owner.etcd.register(web("a", 1)).await.unwrap();
    other.register(web("b", 1)).await.unwrap();
    let (seen, others) = (Seen::by(&owner.etcd).await, Seen::by(&other).await);
    seen.shows(&[("a", 1), ("b", 1)]).await;
    others.shows(&[("a", 1), ("b", 1)]).await;
    seen.mark().await;
    owner.black_hole();
    // So long that its lease has expired.
    others.shows(&[("b", 1)]).await;
    assert!(!seen.view().is_live() && seen.view().len() == 2);
    owner.etcd.register(web("a", 2)).await.unwrap();
    owner
        .etcd
        .health(&key("a"), Health::warning("alone"))
        .await
        .unwrap();
    owner.restore();
    others.shows(&[("a", 2), ("b", 1)]).await;
    seen.shows(&[("a", 2), ("b", 1)]).await;
    let view = others.view();
    assert_eq!(view.get(&key("a")).unwrap().health().note(), Some("alone"));
    is_registered(&owner.etcd, "a").await;
    let changes = seen.since_mark().await;
    assert!(changes.iter().all(|change| change == "~a"), "{changes:?}");
    seen.still_hears(&other).await;
    others.still_hears(&other).await;
}

async fn auth_token_expiring_in_the_middle_of_a_watch(version: Version) {
    const USER: &str = "app";
    const PASSWORD: &str = "app-secret";
    let options = Options {
        users: true,
        arguments: vec!["--auth-token-ttl".into(), "1".into()],
        ..Options::default().version(version)
    };
    let cluster = Cluster::start(options).await.unwrap();
    let server = cluster.addresses()[0];
    let mut root = admin(server, true).await.unwrap();
    root.role_add(USER).await.unwrap();
    let all = Permission::read_write("tidings/").with_prefix();
    root.role_grant_permission(USER, all).await.unwrap();
    root.user_add(USER, PASSWORD, None).await.unwrap();
    root.user_grant_role(USER, USER).await.unwrap();
    let mut config = config(&cluster);
    config.user = Some(USER.into());
    config.password = Some(PASSWORD.into());
    let owner = EtcdDiscovery::start(config.clone()).await.unwrap();
    let client = EtcdDiscovery::start(config).await.unwrap();
    let seen = Seen::by(&client).await;
    owner.register(web("a", 1)).await.unwrap();
    seen.shows(&[("a", 1)]).await;
    seen.mark().await;
    for number in 2..5 {
        // A plain client of the same user, to tell when tokens have expired.
        let options = etcd_client::ConnectOptions::new().with_user(USER, PASSWORD);
        let server = server.to_string();
        let mut plain = etcd_client::Client::connect([server], Some(options))
            .await
            .unwrap();
        plain.get("tidings/", None).await.unwrap();
        // Tokens that are used live on; a new password ends them all, also when it is the same.
        let mut root = admin(cluster.addresses()[0], true).await.unwrap();
        root.user_change_password(USER, PASSWORD).await.unwrap();
        let refused = plain.get("tidings/", None).await.unwrap_err().to_string();
        assert!(
            refused.contains("invalid auth token"),
            "the token lives on: {refused}"
        );
        // A new watch on the open stream of own keys, as well as calls.
        owner
            .register(web(&format!("new-{number}"), number))
            .await
            .unwrap();
        owner.register(web("a", number)).await.unwrap();
        let newest = |view: &View| {
            support::number_in(view, "a") == Some(number) && view.len() == number && view.is_live()
        };
        seen.wait("the newest content", newest).await;
        is_registered(&owner, "a").await;
    }
    let changes = seen.since_mark().await;
    assert!(
        !changes.iter().any(|change| change.starts_with('-')),
        "{changes:?}"
    );
}

async fn ten_thousand_subscriptions_leak_no_watch(version: Version) {
    const ROUNDS: usize = 10_000;
    const WATCHERS: &str = "etcd_debugging_mvcc_watcher_total";
    let cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let (owner, client, seen) = a_and_b(&cluster).await;
    let before = cluster.metric(0, WATCHERS).await.unwrap();
    let most = std::cell::Cell::new(0);
    let watch = |round: usize| {
        let (client, most) = (&client, &most);
        async move {
            let watch = client
                .watch_service(&format!("other-{}", round % 200))
                .await
                .unwrap();
            assert!(watch.view().is_live());
            most.set(most.get().max(client.subscriptions()));
        }
    };
    for round in (0..ROUNDS).step_by(4) {
        tokio::join!(
            watch(round),
            watch(round + 1),
            watch(round + 2),
            watch(round + 3)
        );
    }
    assert!(most.get() > 1, "nothing was subscribed to");
    eventually("only the one watch is left", || client.subscriptions() == 1).await;
    let start = Instant::now();
    while cluster.metric(0, WATCHERS).await.unwrap() > before {
        assert!(
            start.elapsed() < PATIENCE,
            "etcd has watches that nobody needs"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(seen.view().is_live());
    assert_eq!(seen.since_mark().await, [""; 0]);
    seen.still_hears(&owner).await;
}

async fn a_value_no_one_can_parse(version: Version) {
    let cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let (owner, client, seen) = a_and_b(&cluster).await;
    let mut admin = admin(cluster.addresses()[0], false).await.unwrap();
    let deep = "[".repeat(500_000).into_bytes();
    for garbage in [b"\xff\xfe\0{".to_vec(), Vec::new(), deep] {
        admin
            .put("tidings/web/bad", garbage.clone(), None)
            .await
            .unwrap();
        admin
            .put("tidings/\u{ff}", garbage.clone(), None)
            .await
            .unwrap();
        // Also over what an owner has there, who puts it right.
        let put = admin
            .put("tidings/web/a", garbage.clone(), None)
            .await
            .unwrap();
        let written = put.header().unwrap().revision();
        let start = Instant::now();
        loop {
            let found = admin.get("tidings/web/a", None).await.unwrap();
            if found.kvs()[0].mod_revision() > written {
                break;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the owner does not put its key right"
            );
        }
    }
    eventually("they are counted", || client.unreadable() >= 3).await;
    owner.register(web("b", 2)).await.unwrap();
    seen.shows(&[("a", 1), ("b", 2)]).await;
    assert_eq!(seen.since_mark().await, ["~b"]);
    let fresh = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    Seen::by(&fresh).await.shows(&[("a", 1), ("b", 2)]).await;
    seen.still_hears(&owner).await;
}

async fn five_thousand_instances_in_one_service(version: Version) {
    const COUNT: usize = 5_000;
    let cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let owner = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    let owner = std::sync::Arc::new(owner);
    let mut registering = tokio::task::JoinSet::new();
    for worker in 0..64 {
        let owner = owner.clone();
        registering.spawn(async move {
            for number in (worker..COUNT).step_by(64) {
                owner
                    .register(web(&format!("i{number}"), number))
                    .await
                    .unwrap();
            }
        });
    }
    while let Some(ended) = registering.join_next().await {
        ended.unwrap();
    }
    let client = Proxied::start(&cluster, config(&cluster)).await.unwrap();
    let seen = Seen::by(&client.etcd).await;
    let complete = |view: &View| view.is_live() && view.len() == COUNT;
    seen.wait("all are there", complete).await;
    seen.mark().await;
    client.black_hole();
    seen.is_stale().await;
    owner.deregister(&key("i17")).await.unwrap();
    owner.register(web("i18", 0)).await.unwrap();
    owner.register(web("new", 0)).await.unwrap();
    client.restore();
    let newest = |view: &View| complete(view) && view.get(&key("new")).is_some();
    seen.wait("all are there, and the newest", newest).await;
    assert_eq!(seen.since_mark().await, ["+new", "-i17", "~i18"]);
    owner.close().await.unwrap();
    seen.wait("all are gone", |view| view.is_live() && view.is_empty())
        .await;
}

async fn large_instances_over_a_slow_line(version: Version) {
    const COUNT: usize = 400;
    let cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let mut admin = admin(cluster.addresses()[0], false).await.unwrap();
    let long = "x".repeat(500);
    let metadata: Vec<_> = (0..40).map(|key| format!(r#""k{key}":"{long}""#)).collect();
    let metadata = metadata.join(",");
    for number in 0..COUNT {
        let value = format!(r#"{{"Op":0,"Addr":"192.0.2.1:8080","Metadata":{{{metadata}}}}}"#);
        let key = format!("tidings/web/i{number}");
        admin.put(key, value, None).await.unwrap();
    }
    let mut config = config(&cluster);
    config.timeout = Duration::from_secs(1);
    let client = Proxied::start(&cluster, config).await.unwrap();
    eventually("etcd is heard", || {
        client.etcd.status().connection().is_connected()
    })
    .await;
    // 64 KiB each time: all of them take seven seconds, and the time for an answer is one.
    client.proxies[0].delay(Duration::from_millis(60));
    let seen = Seen::by(&client.etcd).await;
    seen.wait("all are there", |view| {
        view.is_live() && view.len() == COUNT
    })
    .await;
    assert_eq!(client.etcd.unreadable(), 0);
}

async fn deregistered_in_an_outage_is_told_from_lost_in_an_outage(version: Version) {
    let cluster = Cluster::start(Options::default().version(version))
        .await
        .unwrap();
    let owner = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    let lost = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    owner.register(web("gone", 1)).await.unwrap();
    owner.register(web("same", 1)).await.unwrap();
    lost.register(web("lost", 1)).await.unwrap();
    let bystander = EtcdDiscovery::start(config(&cluster)).await.unwrap();
    let witness = Seen::by(&bystander).await;
    let mut config = config(&cluster);
    // Longer than this test: what is held stays.
    config.loss_hold = Duration::from_secs(600);
    let client = Proxied::start(&cluster, config).await.unwrap();
    let seen = Seen::by(&client.etcd).await;
    seen.shows(&[("gone", 1), ("lost", 1), ("same", 1)]).await;
    seen.mark().await;
    client.black_hole();
    seen.is_stale().await;
    owner.deregister(&key("gone")).await.unwrap();
    lost.crash().await;
    witness.shows(&[("same", 1)]).await;
    assert_eq!(seen.since_mark().await, [""; 0]);
    client.restore();
    seen.wait("what was deregistered is gone", |view| view.len() == 2)
        .await;
    assert_eq!(seen.since_mark().await, ["-gone"]);
    assert!(
        !seen.view().is_live(),
        "a loss is held in a view that is live"
    );
}

/// An owner of `a` and `b`, and a client that sees them.
async fn a_and_b(cluster: &Cluster) -> (EtcdDiscovery, EtcdDiscovery, Seen) {
    let owner = EtcdDiscovery::start(config(cluster)).await.unwrap();
    let client = EtcdDiscovery::start(config(cluster)).await.unwrap();
    let seen = Seen::by(&client).await;
    owner.register(web("a", 1)).await.unwrap();
    owner.register(web("b", 1)).await.unwrap();
    seen.shows(&[("a", 1), ("b", 1)]).await;
    seen.mark().await;
    (owner, client, seen)
}
