//! Nodes that somebody else changes, and contents nobody can read or that are too large.

use tidings_api::{Change, Discovery, DiscoveryExt, ErrorKind, Generation, Health};
use tidings_testkit::zookeeper::{Ensemble, Options};
use tidings_zk::ZkDiscovery;
use zookeeper_client as zk;

use crate::recorder::{
    Recorder, eventually, is_registered, is_sick, is_superseded, key, number, register_sick, web,
};
use crate::support::{EPHEMERAL, config, curator_json, path, put, raw};

const NAMESPACE: &str = "prod/services";

tidings_testkit::server_tests! { zookeeper_3_8:
    async fn own_node_deleted_behind_our_back() {
        let (ensemble, [a, b]) = two_handles().await;
        register_sick(&a, "a", 1).await;
        b.register(web("b", 1)).await.unwrap();
        let (own, other) = (Recorder::start(&a, "web").await, Recorder::start(&b, "web").await);
        other.until("both", |view| view.len() == 2).await;
        other.restart();
        let client = raw(&ensemble.addresses()).await;
        let path = path(NAMESPACE, &key("a"));
        let created = client.check_stat(&path).await.unwrap().unwrap().czxid;
        for number in 2..5 {
            client.delete(&path, None).await.unwrap();
            eventually("the node is there again", async || {
                let stat = client.check_stat(&path).await.unwrap();
                stat.is_some_and(|stat| stat.czxid > created)
            })
            .await;
            is_registered(&a, "a").await;
            a.register(web("a", number)).await.unwrap();
            other.until_number("a", number).await;
        }
        assert!(is_sick(&other.view(), "a"));
        assert_eq!(own.changes_of("a").replace('~', ""), "");
        assert_eq!(other.changes_of("b"), "");
        assert_eq!(other.changes_of("a").matches('-').count(), other.changes_of("a").matches('+').count());
    }

    /// As a session that can't be taken up again leaves it to the next one.
    async fn own_node_of_another_session_is_taken_over() {
        let (ensemble, [a, b]) = two_handles().await;
        register_sick(&a, "a", 1).await;
        let other = Recorder::start(&b, "web").await;
        other.until("a", |view| is_sick(view, "a")).await;
        other.restart();
        let client = raw(&ensemble.addresses()).await;
        let ghost = raw(&ensemble.addresses()).await;
        let path = path(NAMESPACE, &key("a"));
        let (data, own) = client.get_data(&path).await.unwrap();
        let mut swap = ghost.new_multi_writer();
        swap.add_delete(&path, None).unwrap();
        swap.add_create(&path, &data, &EPHEMERAL).unwrap();
        swap.commit().await.unwrap();
        eventually("the handle's session has it again", async || {
            let stat = client.check_stat(&path).await.unwrap();
            stat.is_some_and(|stat| stat.ephemeral_owner == own.ephemeral_owner)
        })
        .await;

        // The end of the other session takes nothing along.
        ghost.create(&format!("{path}-marker"), b"", &EPHEMERAL).await.unwrap();
        drop(ghost);
        eventually("the other session has ended", async || {
            client.check_stat(&format!("{path}-marker")).await.unwrap().is_none()
        })
        .await;
        a.register(web("a", 2)).await.unwrap();
        other.until_number("a", 2).await;
        assert_eq!(other.changes_of("a").replace('~', ""), "");
        assert!(is_sick(&other.view(), "a"));
    }

    /// Ours was replaced, and what was meant for it went into somebody else's, who doesn't care.
    async fn own_content_in_a_node_that_nobody_corrects_is_taken_over() {
        let (ensemble, [a, b]) = two_handles().await;
        register_sick(&a, "a", 1).await;
        let other = Recorder::start(&b, "web").await;
        other.until("a", |view| is_sick(view, "a")).await;
        other.restart();
        let client = raw(&ensemble.addresses()).await;
        let path = path(NAMESPACE, &key("a"));
        let (data, own) = client.get_data(&path).await.unwrap();
        let mut swap = client.new_multi_writer();
        swap.add_delete(&path, None).unwrap();
        swap.add_create(&path, b"not ours", &EPHEMERAL).unwrap();
        swap.add_set_data(&path, &data, None).unwrap();
        swap.commit().await.unwrap();
        eventually("the handle's session has it again", async || {
            let stat = client.check_stat(&path).await.unwrap();
            stat.is_some_and(|stat| stat.ephemeral_owner == own.ephemeral_owner)
        })
        .await;
        is_registered(&a, "a").await;
        assert_eq!(other.changes_of("a").replace('~', ""), "");
        assert!(is_sick(&other.view(), "a"));
    }

    async fn parent_deleted_behind_our_back() {
        let (ensemble, [a, b]) = two_handles().await;
        // So many that they share a watch, which is on the parent that goes.
        for number in 0..30 {
            register_sick(&a, &format!("a-{number}"), number).await;
        }
        let mail = a.register(crate::recorder::instance("mail", "m", 1)).await.unwrap();
        let (own, other) = (Recorder::start(&a, "web").await, Recorder::start(&b, "web").await);
        let all = b.watch_all().await.unwrap();
        let client = raw(&ensemble.addresses()).await;
        // At once: owners are quick to bring their nodes back.
        let mut deletion = client.new_multi_writer();
        for service in ["web", "mail"] {
            let parent = format!("/{NAMESPACE}/{service}");
            for name in client.list_children(&parent).await.unwrap() {
                deletion.add_delete(&format!("{parent}/{name}"), None).unwrap();
            }
            deletion.add_delete(&parent, None).unwrap();
        }
        deletion.add_delete(&format!("/{NAMESPACE}"), None).unwrap();
        assert_eq!(deletion.commit().await.unwrap().len(), 34);
        other.until("all are back", |view| (0..30).all(|n| is_sick(view, &format!("a-{n}")))).await;
        let mut all = all;
        let back = all.wait_until(|view| view.len() == 31 && view.get(&mail).is_some());
        tokio::time::timeout(std::time::Duration::from_secs(60), back).await.unwrap().unwrap();
        is_registered(&a, "a-3").await;
        assert_eq!(own.changes_of("a-3").replace('~', ""), "");
        a.register(web("a-3", 99)).await.unwrap();
        other.until_number("a-3", 99).await;
    }

    async fn two_live_owners_of_one_key() {
        let (ensemble, [a, b]) = two_handles().await;
        a.register(web("a", 1)).await.unwrap();
        let seen = [Recorder::start(&a, "web").await, Recorder::start(&b, "web").await];
        for recorder in &seen {
            recorder.until_number("a", 1).await;
            recorder.restart();
        }
        b.register(web("a", 2)).await.unwrap();
        is_superseded(&a, "a").await;
        is_registered(&b, "a").await;
        let error = a.health(&key("a"), Health::draining()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotOwned);
        let client = raw(&ensemble.addresses()).await;
        let path = path(NAMESPACE, &key("a"));
        let stat = client.check_stat(&path).await.unwrap().unwrap();
        // Whatever the loser still does is done before its next registrations are.
        for number in 0..20 {
            a.register(web("marker", number)).await.unwrap();
            b.register(web("other-marker", number)).await.unwrap();
        }
        for recorder in &seen {
            recorder.until_number("marker", 19).await;
            assert_eq!((recorder.changes_of("a"), number(&recorder.view(), "a")), ("~".into(), Some(2)));
        }
        assert_eq!(client.check_stat(&path).await.unwrap().unwrap().czxid, stat.czxid);

        // The newest call wins, and the end of the older owner takes nothing along.
        a.register(web("a", 3)).await.unwrap();
        is_superseded(&b, "a").await;
        b.close().await.unwrap();
        a.register(web("marker", 20)).await.unwrap();
        seen[0].until_number("marker", 20).await;
        assert_eq!((seen[0].changes_of("a"), number(&seen[0].view(), "a")), ("~~".into(), Some(3)));
    }

    async fn an_owner_whose_clock_is_ahead_is_replaced_all_the_same() {
        let (ensemble, [a, b]) = two_handles().await;
        b.register(web("a", 1)).await.unwrap();
        let client = raw(&ensemble.addresses()).await;
        let path = path(NAMESPACE, &key("a"));
        let (data, _) = client.get_data(&path).await.unwrap();
        let ahead = Generation::new(u64::MAX / 4);
        let text = String::from_utf8(data).unwrap();
        let generation = b.resolve("web").await.unwrap().get(&key("a")).unwrap().generation();
        let text = text.replace(&generation.to_string(), &ahead.to_string());
        b.close().await.unwrap();
        client.create(&path, text.as_bytes(), &EPHEMERAL).await.unwrap();
        let seen = Recorder::start(&a, "web").await;
        assert_eq!(seen.view().get(&key("a")).unwrap().generation(), ahead);

        a.register(web("a", 2)).await.unwrap();
        is_registered(&a, "a").await;
        assert!(seen.view().get(&key("a")).unwrap().generation() > ahead);
        assert_eq!((seen.changes_of("a"), number(&seen.view(), "a")), ("~".into(), Some(2)));
    }

    async fn a_newer_owner_that_came_and_went_in_an_outage_is_known_of() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let server = ensemble.addresses()[0];
        let older = crate::support::Proxied::start(server, &config(&[], NAMESPACE)).await;
        let newer = ZkDiscovery::start(config(&[server], NAMESPACE)).await.unwrap();
        older.discovery.register(web("a", 1)).await.unwrap();
        let seen = Recorder::start(&*older.discovery, "web").await;
        older.proxy.cut();
        seen.until_stale().await;
        newer.register(web("a", 2)).await.unwrap();
        newer.deregister(&key("a")).await.unwrap();
        older.proxy.restore();
        is_superseded(&*older.discovery, "a").await;
        seen.until("nobody has it", |view| view.is_live() && view.is_empty()).await;
        let client = raw(&[server]).await;
        assert!(client.check_stat(&path(NAMESPACE, &key("a"))).await.unwrap().is_none());
    }

    async fn a_value_no_one_can_parse() {
        let (ensemble, [a, b]) = two_handles().await;
        register_sick(&a, "a", 1).await;
        let seen = Recorder::start(&b, "web").await;
        seen.until("a", |view| is_sick(view, "a")).await;
        seen.restart();
        let client = raw(&ensemble.addresses()).await;
        let strange = format!("/{NAMESPACE}/web/strange");
        put(&client, &strange, b"\xff\x00 not json").await.unwrap();
        eventually("it is counted", async || b.unreadable() == 1).await;

        // In the place of our own content: it is written again.
        let own = path(NAMESPACE, &key("a"));
        let version = client.set_data(&own, b"{", None).await.unwrap().version;
        eventually("the content is written again", async || {
            let (data, stat) = client.get_data(&own).await.unwrap();
            stat.version > version && data.starts_with(b"{\"name\":\"web\"")
        })
        .await;
        a.register(web("a", 2)).await.unwrap();
        seen.until_number("a", 2).await;
        assert_eq!((seen.changes_of("a"), seen.changes_of("strange")), ("~".into(), "".into()));
        assert!(seen.view().is_live() && is_sick(&seen.view(), "a"));

        // What becomes readable is seen.
        put(&client, &strange, curator_json(&web("strange", 1)).as_bytes()).await.unwrap();
        seen.until("it can be read", |view| view.get(&key("strange")).is_some()).await;
        // A name that no instance has is counted, and once however often the service is read.
        let count = b.unreadable();
        for name in ["no id at all", "nor this"] {
            put(&client, &format!("/{NAMESPACE}/web/{name}"), b"").await.unwrap();
        }
        eventually("both are counted", async || b.unreadable() == count + 2).await;
        a.register(web("a", 3)).await.unwrap();
        seen.until_number("a", 3).await;
        assert_eq!((b.unreadable(), seen.view().len()), (count + 2, 2));
    }

    async fn oversized_content_refused_before_sending() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let mut config = config(&ensemble.addresses(), NAMESPACE);
        config.content_max = 2048;
        let a = ZkDiscovery::start(config).await.unwrap();
        register_sick(&a, "a", 1).await;
        let mut changes = a.watch_service("web").await.unwrap().into_changes();
        let sent = packets(&ensemble).await;
        let mut large = web("large", 1);
        for entry in 0..10 {
            large = large.with_metadata(format!("k{entry}"), "x".repeat(512)).unwrap();
        }
        let error = a.register(large.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("accepted are at most 2048 (content_max)"), "{error}");
        // Nor in the place of what is there.
        let large = large.with_id("a").unwrap();
        assert_eq!(a.register(large).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        let after = packets(&ensemble).await;
        assert!(after < sent + 2048, "{} bytes were received", after - sent);

        // The fault it avoids: the server ends the connection of whoever sends too much.
        let client = raw(&ensemble.addresses()).await;
        let huge = vec![b'x'; 1_100_000];
        let refused = client.create("/huge", &huge, &EPHEMERAL).await.unwrap_err();
        assert_eq!(refused, zk::Error::ConnectionLoss);
        a.register(web("a", 2)).await.unwrap();
        is_registered(&a, "a").await;
        assert!(a.status().registration(&key("large")).is_none());
        let change = changes.next().await.unwrap();
        assert!(matches!(&change, Change::Added(added) if added.key() == &key("a")), "{change:?}");
    }
}

async fn two_handles() -> (Ensemble, [ZkDiscovery; 2]) {
    let ensemble = Ensemble::start(Options::default()).await.unwrap();
    let config = config(&ensemble.addresses(), NAMESPACE);
    let handles = [
        ZkDiscovery::start(config.clone()).await.unwrap(),
        ZkDiscovery::start(config).await.unwrap(),
    ];
    (ensemble, handles)
}

/// Bytes the server has received, as far as it counts them.
async fn packets(ensemble: &Ensemble) -> usize {
    let text = ensemble.ask(0, "mntr").await.unwrap();
    let received = text
        .lines()
        .find_map(|line| line.strip_prefix("zk_bytes_received_count"));
    received
        .and_then(|count| count.trim().parse().ok())
        .expect("mntr counts bytes")
}
