//! Own nodes that vanish while many of them are registered, watched together and created together.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tidings_api::{Discovery, ErrorKind, Health, Removal, View};
use tidings_testkit::zookeeper::{Ensemble, Options};
use tidings_zk::{Watches, ZkConfig, ZkDiscovery};
use zookeeper_client as zk;

use crate::recorder::{Recorder, eventually, instance, is_registered, key, number, web};
use crate::scale::watches;
use crate::support::{EPHEMERAL, OPEN, Proxied, config, curator_json, path, put, raw};

const NAMESPACE: &str = "services";
/// Enough that they share a watch and are created together.
const MANY: u32 = 200;
/// More watches than this are not one for all.
const WATCHES_MAX: usize = 40;

tidings_testkit::server_tests! { zookeeper_3_8:
    async fn any_of_many_own_nodes_deleted_behind_our_back() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let owner = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        register_all(&owner, 1).await;
        let count = watches(&ensemble).await;
        assert!(count < WATCHES_MAX, "{count} watches are not shared");
        survive_deletions(&ensemble, &owner).await;
        // The watch is still shared by those that were registered again.
        register_all(&owner, 2).await;
        survive_deletions(&ensemble, &owner).await;
        let count = watches(&ensemble).await;
        assert!(count < WATCHES_MAX, "{count} watches are not shared any more");
    }

    async fn any_of_many_own_nodes_deleted_where_each_has_its_watch() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let mut config = config(&ensemble.addresses(), NAMESPACE);
        config.watches = Watches::Oneshot;
        let owner = start(&config).await;
        register_all(&owner, 1).await;
        eventually("each is watched", async || watches(&ensemble).await >= MANY as usize).await;
        survive_deletions(&ensemble, &owner).await;
    }

    /// Each is deleted as soon as it can be, which for most is before it is guarded.
    async fn own_nodes_deleted_before_they_are_guarded() {
        for kind in [Watches::Auto, Watches::Oneshot] {
            let ensemble = Ensemble::start(Options::default()).await.unwrap();
            let mut config = config(&ensemble.addresses(), NAMESPACE);
            config.watches = kind;
            let owner = start(&config).await;
            let client = raw(&ensemble.addresses()).await;
            let parent = format!("/{NAMESPACE}/web");
            client.mkdir(&parent, &OPEN).await.unwrap();
            let mut events = client.watch(&parent, zk::AddWatchMode::PersistentRecursive).await.unwrap();
            let deleting = async {
                let mut deleted = HashSet::new();
                while deleted.len() < MANY as usize {
                    let event = events.changed().await;
                    if event.event_type == zk::EventType::NodeCreated && deleted.insert(event.path.clone()) {
                        client.delete(&event.path, None).await.unwrap();
                    }
                }
            };
            tokio::join!(deleting, register_all(&owner, 1));
            all_are_there(&ensemble, &owner).await;
        }
    }

    async fn the_shared_watch_ends_with_its_use() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let owner = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        register_all(&owner, 1).await;
        for n in 0..MANY {
            owner.deregister(&key(&format!("web-{n}"))).await.unwrap();
        }
        eventually("no watch is left", async || watches(&ensemble).await == 0).await;
        register_all(&owner, 2).await;
        survive_deletions(&ensemble, &owner).await;
    }

    /// Owners that left before, with clocks that were ahead, are no reason to give up later.
    async fn own_nodes_deleted_whose_keys_newer_owners_had_left_before() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let client = raw(&ensemble.addresses()).await;
        let ahead = u64::MAX / 4;
        let left = (0..100).map(|n| format!(r#"{{"id":"web-{n}","generation":{ahead}}}"#));
        let left = left.collect::<Vec<_>>().join(",");
        let note = format!(r#"{{"tidings":{{"left":[{left}]}}}}"#);
        put(&client, &format!("/{NAMESPACE}/web"), note.as_bytes()).await.unwrap();
        let owner = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        // One alone, and the others together.
        owner.register(web("web-0", 1)).await.unwrap();
        let node = path(NAMESPACE, &key("web-0"));
        client.delete(&node, None).await.unwrap();
        eventually("it is there again", async || client.check_stat(&node).await.unwrap().is_some()).await;
        register_all(&owner, 1).await;
        survive_deletions(&ensemble, &owner).await;
    }

    /// Not only deleted, but in somebody else's hands when it is looked at.
    async fn own_nodes_replaced_behind_our_back() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let owner = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        register_all(&owner, 1).await;
        let session = sessions(&ensemble).await;
        let client = raw(&ensemble.addresses()).await;
        for n in 0..MANY {
            let path = path(NAMESPACE, &key(&format!("web-{n}")));
            let (own, _) = client.get_data(&path).await.unwrap();
            let other = curator_json(&web(&format!("web-{n}"), 1));
            // Of the same version, with the same content or with that of an older owner.
            let data = if n % 2 == 0 { &own[..] } else { other.as_bytes() };
            let options = if n % 3 == 0 { &OPEN } else { &EPHEMERAL };
            let mut swap = client.new_multi_writer();
            swap.add_delete(&path, None).unwrap();
            swap.add_create(&path, data, options).unwrap();
            swap.commit().await.unwrap();
        }
        all_are_there(&ensemble, &owner).await;
        eventually("all are of the owner's session", async || sessions(&ensemble).await == session).await;
    }

    async fn own_nodes_deleted_while_the_connection_is_cut() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let owner = Proxied::start(ensemble.addresses()[0], &config(&[], NAMESPACE)).await;
        register_all(&*owner.discovery, 1).await;
        for _ in 0..3 {
            owner.proxy.cut();
            eventually("the owner is cut off", async || {
                !owner.discovery.status().connection().is_connected()
            })
            .await;
            let client = raw(&ensemble.addresses()).await;
            for n in (0..MANY).step_by(3) {
                client.delete(&path(NAMESPACE, &key(&format!("web-{n}"))), None).await.unwrap();
            }
            owner.proxy.restore();
            all_are_there(&ensemble, &*owner.discovery).await;
            survive_deletions(&ensemble, &*owner.discovery).await;
        }
    }

    async fn session_lost_while_many_register() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let owner = Proxied::start(ensemble.addresses()[0], &config(&[], NAMESPACE)).await;
        let discovery: Arc<ZkDiscovery> = owner.discovery.clone();
        let registering = tokio::spawn(async move {
            for round in 1..=5 {
                register_all(&*discovery, round).await;
            }
        });
        eventually("some are there", async || count(&ensemble).await > MANY as usize / 4).await;
        let before = sessions(&ensemble).await;
        owner.expire().await.unwrap();
        registering.await.unwrap();
        eventually("another session", async || {
            let now = sessions(&ensemble).await;
            now.len() == 1 && now != before
        })
        .await;
        all_are_there(&ensemble, &*owner.discovery).await;
        survive_deletions(&ensemble, &*owner.discovery).await;
    }

    /// Requests with many nodes whose answers are lost.
    async fn connection_cut_while_many_register() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let owner = Proxied::start(ensemble.addresses()[0], &config(&[], NAMESPACE)).await;
        let seen = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        let seen = Recorder::start(&seen, "web").await;
        for round in 1..=3 {
            let discovery: Arc<ZkDiscovery> = owner.discovery.clone();
            let registering = tokio::spawn(async move { register_all(&*discovery, round).await });
            eventually("some are there", async || count(&ensemble).await > MANY as usize / 4).await;
            if round == 2 { owner.proxy.black_hole() } else { owner.proxy.cut() }
            eventually("the owner is cut off", async || {
                !owner.discovery.status().connection().is_connected()
            })
            .await;
            owner.proxy.restore();
            registering.await.unwrap();
            all_are_there(&ensemble, &*owner.discovery).await;
            seen.until("all of this round", |view| all_of(view, round)).await;
            // Nothing of what was under way brings back what is taken back.
            for n in 0..MANY {
                let key = key(&format!("web-{n}"));
                assert_eq!(owner.discovery.deregister(&key).await.unwrap(), Removal::Removed);
            }
            eventually("none is there", async || count(&ensemble).await == 0).await;
        }
    }

    /// Registered together with others, and in the way of it: an older owner's, a newer one's.
    async fn one_of_many_that_is_taken_disturbs_nobody() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let owner = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        let other = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        for n in (0..MANY).step_by(7) {
            other.register(web(&format!("web-{n}"), 77)).await.unwrap();
        }
        register_all(&owner, 1).await;
        all_are_there(&ensemble, &owner).await;
        let seen = Recorder::start(&other, "web").await;
        seen.until("all are the owner's", |view| all_of(view, 1)).await;
        for n in (0..MANY).step_by(7) {
            crate::recorder::is_superseded(&other, &format!("web-{n}")).await;
        }
    }

    async fn a_service_may_be_refused_among_many() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let client = raw(&ensemble.addresses()).await;
        let acls = [zk::Acl::new(zk::Permission::READ, zk::AuthId::anyone())];
        let closed = zk::CreateMode::Persistent.with_acls(zk::Acls::new(&acls));
        client.mkdir(&format!("/{NAMESPACE}"), &OPEN).await.unwrap();
        client.create(&format!("/{NAMESPACE}/closed"), b"", &closed).await.unwrap();
        let owner = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        let owner = &owner;
        let calls = (0..MANY).map(|n| {
            let service = if n % 5 == 0 { "closed" } else { "web" };
            let instance = instance(service, &format!("web-{n}"), 1);
            async move { (service, owner.register(instance).await) }
        });
        let answers: Vec<_> = stream::iter(calls).buffer_unordered(64).collect().await;
        for (service, answer) in answers {
            match answer {
                Ok(_) => assert_eq!(service, "web"),
                Err(error) => assert_eq!((service, error.kind()), ("closed", ErrorKind::Denied)),
            }
        }
        assert_eq!(count(&ensemble).await, MANY as usize / 5 * 4);
        assert_eq!(owner.status().registrations().len(), MANY as usize / 5 * 4);
    }

    async fn a_worker_that_panics_fails_the_call_and_the_key_works_on() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let owner = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        let other = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        owner.register(web("b", 1)).await.unwrap();
        let seen = Recorder::start(&other, "web").await;

        // What never was registered isn't.
        owner.panic_next(1);
        let error = owner.register(web("a", 1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
        assert!(error.to_string().contains("web/a"), "{error}");
        assert!(owner.status().registration(&key("a")).is_none());
        owner.register(web("a", 2)).await.unwrap();
        seen.until_number("a", 2).await;

        // What was is brought to the server all the same.
        owner.panic_next(2);
        let error = owner.health(&key("a"), Health::draining()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
        seen.until("the health", |view| {
            view.get(&key("a")).is_some_and(|found| found.health() == &Health::draining())
        })
        .await;
        is_registered(&owner, "a").await;

        owner.panic_next(1);
        let error = owner.deregister(&key("a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
        seen.until("a is gone", |view| number(view, "a").is_none()).await;
        assert_eq!(owner.deregister(&key("a")).await.unwrap(), Removal::Absent);
        assert_eq!(seen.changes_of("b"), "");
    }
}

async fn start(config: &ZkConfig) -> ZkDiscovery {
    ZkDiscovery::start(config.clone()).await.unwrap()
}

async fn register_all(discovery: &dyn Discovery, number: u32) {
    let calls = (0..MANY).map(|n| discovery.register(web(&format!("web-{n}"), number)));
    let mut calls = stream::iter(calls).buffer_unordered(64);
    while let Some(registered) = calls.next().await {
        registered.unwrap();
    }
}

/// Deletes every node, and waits until each is there again.
async fn survive_deletions(ensemble: &Ensemble, owner: &dyn Discovery) {
    all_are_there(ensemble, owner).await;
    let client = raw(&ensemble.addresses()).await;
    for n in 0..MANY {
        let path = path(NAMESPACE, &key(&format!("web-{n}")));
        client.delete(&path, None).await.unwrap();
        if n % 50 == 0 {
            // At once, before anything else happens.
            eventually("it is there again", async || {
                client.check_stat(&path).await.unwrap().is_some()
            })
            .await;
        }
    }
    all_are_there(ensemble, owner).await;
}

async fn all_are_there(ensemble: &Ensemble, owner: &dyn Discovery) {
    eventually("all are there", async || {
        count(ensemble).await == MANY as usize
    })
    .await;
    for n in 0..MANY {
        is_registered(owner, &format!("web-{n}")).await;
    }
}

fn all_of(view: &View, round: u32) -> bool {
    let newest = |n| number(view, &format!("web-{n}")) == Some(round);
    view.len() == MANY as usize && (0..MANY).all(newest)
}

async fn count(ensemble: &Ensemble) -> usize {
    let client = raw(&ensemble.addresses()).await;
    match client.list_children(&format!("/{NAMESPACE}/web")).await {
        Err(zk::Error::NoNode) => 0,
        names => names.unwrap().len(),
    }
}

/// The sessions that have nodes of the service.
async fn sessions(ensemble: &Ensemble) -> HashSet<i64> {
    let client = raw(&ensemble.addresses()).await;
    let parent = format!("/{NAMESPACE}/web");
    let mut sessions = HashSet::new();
    for name in client.list_children(&parent).await.unwrap() {
        let stat = client
            .check_stat(&format!("{parent}/{name}"))
            .await
            .unwrap();
        sessions.extend(stat.map(|stat| stat.ephemeral_owner));
    }
    sessions
}
