//! Connections and sessions that are lost.

use tidings_api::{Connection, Discovery, DiscoveryExt, Health, Registration, View};
use tidings_testkit::zookeeper::{Ensemble, Options};
use tidings_zk::{Watches, ZkDiscovery};
use zookeeper_client as zk;

use crate::recorder::{
    Recorder, eventually, instance, is_registered, is_sick, is_superseded, key, number,
    register_sick, web,
};
use crate::support::{DEADLINE, EPHEMERAL, Proxied, config, path, raw};

const NAMESPACE: &str = "services";

tidings_testkit::server_tests! { zookeeper_3_8:
    async fn absent_at_start() {
        let mut ensemble = Ensemble::prepare(Options::default()).unwrap();
        let mut config = config(&ensemble.addresses(), NAMESPACE);
        config.connect_wait = std::time::Duration::from_millis(100);
        let handle = ZkDiscovery::start(config).await.unwrap();
        assert!(!handle.status().connection().is_connected());
        let seen = Recorder::start(&handle, "web").await;
        let other = Recorder::start(&handle, "mail").await;
        assert!(other.view().is_empty() && !other.view().is_live());

        register_sick(&handle, "a", 1).await;
        let registration = handle.status().registration(&key("a")).cloned();
        assert!(matches!(registration, Some(Registration::Pending { .. })), "{registration:?}");
        handle.register(web("gone", 1)).await.unwrap();
        handle.deregister(&key("gone")).await.unwrap();
        handle.register(web("a", 2)).await.unwrap();

        ensemble.restart_all().await.unwrap();
        is_registered(&handle, "a").await;
        seen.until_live().await;
        other.until_live().await;
        assert!(other.view().is_empty());
        let client = raw(&ensemble.addresses()).await;
        let names = client.list_children("/services/web").await.unwrap();
        assert_eq!(names, ["a"]);
        assert!(number(&seen.view(), "a") == Some(2) && is_sick(&seen.view(), "a"));
        assert!(!seen.changes_of("a").contains('-'));
    }

    async fn connection_cut_shorter_than_the_session_timeout() {
        let (ensemble, [a, b]) = two_handles().await;
        register_sick(&*a.discovery, "a", 1).await;
        register_sick(&*b.discovery, "b", 1).await;
        let [seen_by_a, seen_by_b] = record(&a, &b).await;
        let before = session_of(&ensemble, "a").await;

        a.proxy.cut();
        seen_by_a.until_stale().await;
        assert!(!a.discovery.status().connection().is_connected());
        a.discovery.register(web("a", 2)).await.unwrap();
        a.proxy.restore();

        seen_by_a.until_live().await;
        seen_by_b.until_number("a", 2).await;
        seen_by_a.until_number("a", 2).await;
        is_registered(&*a.discovery, "a").await;
        assert_eq!(session_of(&ensemble, "a").await, before, "the session was lost");
        for seen in [&seen_by_a, &seen_by_b] {
            assert_eq!((seen.changes_of("a"), seen.changes_of("b")), ("~".into(), "".into()));
            assert!(is_sick(&seen.view(), "a"));
        }
        assert!(!seen_by_b.was_stale());
    }

    async fn connection_cut_longer_than_the_session_timeout() {
        let (ensemble, [a, b]) = two_handles().await;
        register_sick(&*a.discovery, "a", 1).await;
        register_sick(&*b.discovery, "b", 1).await;
        let [seen_by_a, seen_by_b] = record(&a, &b).await;
        let before = session_of(&ensemble, "a").await;

        a.proxy.black_hole();
        seen_by_a.until_stale().await;
        a.discovery.register(web("a", 2)).await.unwrap();
        seen_by_b.until("a is gone: its session is", |view| number(view, "a").is_none()).await;
        a.discovery.health(&key("a"), Health::critical("newest")).await.unwrap();
        a.discovery.register(web("a", 3)).await.unwrap();
        a.proxy.restore();

        seen_by_b.until_number("a", 3).await;
        seen_by_a.until_live().await;
        seen_by_a.until_number("a", 3).await;
        is_registered(&*a.discovery, "a").await;
        assert_ne!(session_of(&ensemble, "a").await, before, "the session was not lost");
        for seen in [&seen_by_a, &seen_by_b] {
            let view = seen.view();
            assert_eq!(view.get(&key("a")).unwrap().health(), &Health::critical("newest"));
            assert_eq!(seen.changes_of("b"), "");
        }
        assert_eq!(seen_by_b.changes_of("a"), "-+");
        assert!(!seen_by_a.changes_of("a").contains('-'));
    }

    /// An owner that died comes back before its session has ended.
    async fn the_old_sessions_end_removes_nothing() {
        let (ensemble, [a, b]) = two_handles().await;
        register_sick(&*a.discovery, "a", 1).await;
        a.discovery.register(web("other", 1)).await.unwrap();
        let seen = Recorder::start(&*b.discovery, "web").await;
        seen.until_number("other", 1).await;
        let old = session_of(&ensemble, "a").await;
        a.proxy.cut();

        let again = ZkDiscovery::start(config(&ensemble.addresses(), NAMESPACE)).await.unwrap();
        assert_eq!(session_of(&ensemble, "a").await, old, "no ghost to be met");
        again.register(web("a", 2)).await.unwrap();
        seen.until_number("a", 2).await;
        assert_ne!(session_of(&ensemble, "a").await, old);
        seen.until("the old session has ended", |view| number(view, "other").is_none()).await;
        // What its end did to others was reported before this is.
        again.register(web("marker", 1)).await.unwrap();
        seen.until_number("marker", 1).await;
        assert_eq!((seen.changes_of("a"), number(&seen.view(), "a")), ("~".into(), Some(2)));
        is_registered(&again, "a").await;
        a.proxy.restore();
        is_superseded(&*a.discovery, "a").await;
        assert_eq!(number(&seen.view(), "a"), Some(2));
    }

    /// It writes into the node it had, which is the newer one's by then, of the same version.
    async fn an_owner_that_does_not_know_yet_that_it_is_superseded() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let server = ensemble.addresses()[0];
        let mut config = config(&[], NAMESPACE);
        // Nobody is to notice that the others are silent.
        config.session_timeout = std::time::Duration::from_secs(10);
        let older = Proxied::start(server, &config).await;
        let newer = Proxied::start(server, &config).await;
        let watcher = Proxied::start(server, &config).await;
        older.discovery.register(web("stays", 1)).await.unwrap();
        older.discovery.register(web("leaves", 1)).await.unwrap();
        let seen = Recorder::start(&*watcher.discovery, "web").await;
        seen.until("both", |view| view.len() == 2).await;
        older.proxy.black_hole();
        newer.discovery.register(web("stays", 2)).await.unwrap();
        newer.discovery.register(web("leaves", 2)).await.unwrap();
        seen.until_number("stays", 2).await;
        seen.until_number("leaves", 2).await;
        seen.restart();
        let client = raw(&[server]).await;
        let nodes = ["stays", "leaves"].map(|id| path(NAMESPACE, &key(id)));
        let mut created = Vec::new();
        for node in &nodes {
            created.push(client.check_stat(node).await.unwrap().unwrap().czxid);
        }

        newer.proxy.black_hole();
        let tell = |id| {
            let discovery = older.discovery.clone();
            tokio::spawn(async move { discovery.health(&key(id), Health::draining()).await })
        };
        let told = [tell("stays"), tell("leaves")];
        eventually("the older owner is about to write", async || {
            let status = older.discovery.status();
            let pending = |id| status.registration(&key(id)).is_some_and(|r| !r.is_registered());
            pending("stays") && pending("leaves")
        })
        .await;
        // For what it writes to be on its way: if it is not there yet, the check below fails.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        older.proxy.restore();
        for told in told {
            told.await.unwrap().unwrap();
        }
        let draining = async |node: &str| {
            let (data, _) = client.get_data(node).await.unwrap();
            String::from_utf8(data).unwrap().contains("draining")
        };
        for node in &nodes {
            assert!(draining(node).await, "the fault did not happen: {node}");
        }
        older.discovery.deregister(&key("leaves")).await.unwrap();
        newer.proxy.restore();
        eventually("both are written again", async || {
            !draining(&nodes[0]).await && !draining(&nodes[1]).await
        })
        .await;
        is_superseded(&*older.discovery, "stays").await;
        newer.discovery.register(web("marker", 1)).await.unwrap();
        seen.until_number("marker", 1).await;
        for (id, number_created) in ["stays", "leaves"].into_iter().zip(created) {
            assert_eq!((seen.changes_of(id), number(&seen.view(), id)), ("".into(), Some(2)), "{id}");
            let stat = client.check_stat(&path(NAMESPACE, &key(id))).await.unwrap().unwrap();
            assert_eq!(stat.czxid, number_created, "{id} was replaced");
            is_registered(&*newer.discovery, id).await;
        }
    }

    async fn session_ended_by_the_server() {
        let (ensemble, [a, b]) = two_handles().await;
        register_sick(&*a.discovery, "a", 1).await;
        b.discovery.register(web("b", 1)).await.unwrap();
        let [seen_by_a, seen_by_b] = record(&a, &b).await;
        let before = session_of(&ensemble, "a").await;
        a.expire().await.unwrap();
        eventually("another session", async || {
            session_of(&ensemble, "a").await.is_some_and(|now| Some(now) != before)
        })
        .await;
        seen_by_b.until("a is back", |view| is_sick(view, "a")).await;
        is_registered(&*a.discovery, "a").await;
        assert_eq!(seen_by_b.changes_of("b"), "");
        assert_eq!(seen_by_a.changes_of("a"), "");
    }

    async fn changes_made_while_the_watcher_was_disconnected() {
        let (_ensemble, [a, b]) = two_handles().await;
        for id in ["same", "changed", "gone", "replaced"] {
            a.discovery.register(web(id, 1)).await.unwrap();
        }
        let all = a.discovery.watch_all().await.unwrap();
        let [_, seen] = record(&a, &b).await;
        seen.until("all four", |view| view.len() == 4).await;
        seen.restart();

        b.proxy.cut();
        seen.until_stale().await;
        a.discovery.register(web("changed", 2)).await.unwrap();
        a.discovery.deregister(&key("gone")).await.unwrap();
        a.discovery.deregister(&key("replaced")).await.unwrap();
        a.discovery.register(web("replaced", 2)).await.unwrap();
        a.discovery.register(web("new", 1)).await.unwrap();
        a.discovery.register(web("came-and-went", 1)).await.unwrap();
        a.discovery.deregister(&key("came-and-went")).await.unwrap();
        assert_eq!(seen.view().len(), 4);
        b.proxy.restore();

        seen.until("the changes", |view| number(view, "new").is_some()).await;
        // Nothing is held of what was deregistered.
        seen.until_live().await;
        for (id, changes) in [
            ("same", ""), ("changed", "~"), ("gone", "-"), ("replaced", "~"), ("new", "+"),
            ("came-and-went", ""),
        ] {
            assert_eq!(seen.changes_of(id), changes, "{id}");
        }
        // And the watch works on.
        a.discovery.register(web("later", 1)).await.unwrap();
        seen.until_number("later", 1).await;
        assert_eq!(all.view().len(), 5);
    }

    async fn losses_in_an_outage_are_held_and_departures_are_not() {
        let (ensemble, [a, b]) = two_handles().await;
        let crashing = Proxied::start(ensemble.addresses()[0], &config(&[], NAMESPACE)).await;
        let leaving = Proxied::start(ensemble.addresses()[0], &config(&[], NAMESPACE)).await;
        crashing.discovery.register(web("crashed", 1)).await.unwrap();
        leaving.discovery.register(web("left", 1)).await.unwrap();
        a.discovery.register(web("gone", 1)).await.unwrap();
        let [seen_by_a, seen] = record(&a, &b).await;
        seen.until("all three", |view| view.len() == 3).await;
        b.proxy.cut();
        seen.until_stale().await;
        crashing.proxy.cut();
        leaving.discovery.close().await.unwrap();
        a.discovery.deregister(&key("gone")).await.unwrap();
        seen_by_a.until("the crash is noticed", |view| view.is_empty()).await;
        assert_eq!(seen.view().len(), 3);

        b.proxy.restore();
        seen.until("who left is gone", |view| view.len() == 1).await;
        let view = seen.view();
        assert!(number(&view, "crashed") == Some(1) && !view.is_live(), "{view:?}");
        seen.until("the hold has ended", |view| view.is_empty() && view.is_live()).await;
    }

    /// The session that the snapshot has is the owner's still.
    async fn a_restored_snapshot_brings_back_nothing_that_was_deregistered() {
        let mut ensemble = Ensemble::start(Options::default()).await.unwrap();
        let mut config = config(&ensemble.addresses(), NAMESPACE);
        config.loss_hold = DEADLINE * 5;
        let owner = ZkDiscovery::start(config.clone()).await.unwrap();
        let other = ZkDiscovery::start(config).await.unwrap();
        owner.register(web("stays", 1)).await.unwrap();
        owner.register(web("gone", 1)).await.unwrap();
        let seen = Recorder::start(&other, "web").await;
        seen.until("both", |view| view.len() == 2).await;
        let before = session_of(&ensemble, "stays").await;
        ensemble.kill(0);
        let saved = ensemble.save_data().unwrap();
        ensemble.restart(0).await.unwrap();
        seen.until_live().await;
        owner.deregister(&key("gone")).await.unwrap();
        seen.until("one is gone", |view| view.len() == 1).await;

        ensemble.restore_data(&saved).unwrap();
        for handle in [&owner, &other] {
            eventually("the session's time is up for its handle", async || {
                let status = handle.status();
                let reason = match status.connection() {
                    Connection::Disconnected { reason, .. } => reason.to_string(),
                    _ => String::new(),
                };
                reason.starts_with("can't connect")
            })
            .await;
        }
        ensemble.restart(0).await.unwrap();
        seen.until("what stays alone", |view| view.is_live() && view.len() == 1).await;
        assert_eq!(session_of(&ensemble, "stays").await, before, "the session was lost");
        assert_eq!(session_of(&ensemble, "gone").await, None);
        owner.register(web("gone", 2)).await.unwrap();
        seen.until_number("gone", 2).await;
    }

    /// What is held goes as soon as its owner says so: one by one, or by a handle that closes.
    async fn departures_that_are_told_late_end_what_is_held() {
        for watches in [Watches::Auto, Watches::Oneshot] {
            let ensemble = Ensemble::start(Options::default()).await.unwrap();
            let server = ensemble.addresses()[0];
            let mut config = config(&[], NAMESPACE);
            config.watches = watches;
            config.loss_hold = DEADLINE * 5;
            let stays = Proxied::start(server, &config).await;
            let leaves = Proxied::start(server, &config).await;
            let watcher = Proxied::start(server, &config).await;
            stays.discovery.register(web("stays", 1)).await.unwrap();
            leaves.discovery.register(web("left", 1)).await.unwrap();
            leaves.discovery.register(instance("mail", "left", 1)).await.unwrap();
            let mail = Recorder::start(&*watcher.discovery, "mail").await;
            mail.until("the only one of its service", |view| view.len() == 1).await;
            let node = path(NAMESPACE, &key("stays"));
            let client = raw(&[server]).await;
            let text = String::from_utf8(client.get_data(&node).await.unwrap().0).unwrap();
            let owner = text.split_once(r#""owner":""#).unwrap().1.split_once('"').unwrap().0;
            let text = text.replace(owner, "closed").replace(r#""id":"stays""#, r#""id":"closed""#);
            let closing = raw(&[server]).await;
            closing.create(&path(NAMESPACE, &key("closed")), text.as_bytes(), &EPHEMERAL).await.unwrap();
            let [others, seen] = record(&stays, &watcher).await;
            for recorder in [&others, &seen] {
                recorder.until("all three", |view| view.len() == 3).await;
            }

            leaves.proxy.cut();
            watcher.proxy.cut();
            seen.until_stale().await;
            drop(closing);
            others.until("both sessions have ended", |view| view.len() == 1).await;
            client.delete(&format!("/{NAMESPACE}/mail"), None).await.unwrap();
            leaves.discovery.deregister(&key("left")).await.unwrap();
            leaves.discovery.deregister(instance("mail", "left", 1).key()).await.unwrap();
            stays.discovery.register(web("stays", 2)).await.unwrap();
            watcher.proxy.restore();
            seen.until_number("stays", 2).await;
            mail.until("something is held", |view| held(view) == Some(1)).await;
            assert_eq!(held(&seen.view()), Some(3), "nothing was held");

            leaves.proxy.restore();
            seen.until("what is deregistered is gone", |view| view.len() == 2).await;
            mail.until("all of its service are gone", |view| view.is_live() && view.is_empty()).await;
            let note = format!(r#"{{"tidings":{{"left":[{{"owner":"closed","generation":{}}}]}}}}"#, u64::MAX);
            client.set_data("/services/web", note.as_bytes(), None).await.unwrap();
            seen.until("what a closed handle had is gone", |view| view.len() == 1).await;
            assert!(seen.view().is_live());
        }
    }
}

async fn two_handles() -> (Ensemble, [Proxied; 2]) {
    let ensemble = Ensemble::start(Options::default()).await.unwrap();
    let server = ensemble.addresses()[0];
    let config = config(&[], NAMESPACE);
    let handles = [
        Proxied::start(server, &config).await,
        Proxied::start(server, &config).await,
    ];
    (ensemble, handles)
}

/// Records on both from when they have seen each other.
async fn record(a: &Proxied, b: &Proxied) -> [Recorder; 2] {
    let recorders = [
        Recorder::start(&*a.discovery, "web").await,
        Recorder::start(&*b.discovery, "web").await,
    ];
    let owned = [&a.discovery, &b.discovery].map(|d| d.status().registrations().len());
    for recorder in &recorders {
        let all = |view: &View| view.len() >= owned.iter().sum() && view.is_live();
        recorder.until("what both offer", all).await;
        recorder.restart();
    }
    recorders
}

/// The session that has the node of an instance, by a client that asks the server alone.
async fn session_of(ensemble: &Ensemble, id: &str) -> Option<i64> {
    let client = raw(&ensemble.addresses()).await;
    let stat: Option<zk::Stat> = client.check_stat(&path(NAMESPACE, &key(id))).await.unwrap();
    stat.map(|stat| stat.ephemeral_owner)
}

/// How many instances a view has, where some of them are held.
fn held(view: &View) -> Option<usize> {
    let held = view.freshness().to_string().contains("are held");
    held.then_some(view.len())
}
