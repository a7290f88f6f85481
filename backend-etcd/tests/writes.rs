//! Many registrations at once: they share transactions, but no fate.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Permission};
use support::{Proxied, Seen, admin, config, is_registered, key, number_in, web};
use tidings_api::{Discovery, ErrorKind, Instance, Removal, View};
use tidings_etcd::EtcdDiscovery;
use tidings_testkit::etcd::{Cluster, Options};
use tokio::task::JoinSet;

const COUNT: usize = 300;
const SLOW: usize = 60;
const USER: &str = "app";
const PASSWORD: &str = "app-secret";

tidings_testkit::server_tests! { etcd_3_4:
    async fn registrations_at_once_share_transactions_but_no_fate() {
        let (cluster, mut root) = with_user().await;
        let mut config = config(&cluster);
        config.user = Some(USER.into());
        config.password = Some(PASSWORD.into());
        let owner = Arc::new(EtcdDiscovery::start(config).await.unwrap());
        // Its leases, and a key that somebody else has already.
        for number in 0..2 {
            owner.register(web(&format!("first-{number}"), 0)).await.unwrap();
        }
        let older = r#"{"Op":0,"Addr":"192.0.2.9:9","Metadata":null}"#;
        root.put("tidings/web/i150", older, None).await.unwrap();

        let before = revision(&mut root).await;
        let mut calls = JoinSet::new();
        for number in 0..COUNT {
            let one = owner.clone();
            calls.spawn(async move {
                one.register(web(&format!("i{number}"), number)).await.unwrap();
            });
            if number == 150 {
                let one = owner.clone();
                calls.spawn(async move {
                    let denied = Instance::new("denied", "192.0.2.3:3").unwrap();
                    let denied = one.register(denied).await.unwrap_err();
                    assert_eq!(denied.kind(), ErrorKind::Denied, "{denied}");
                });
            }
        }
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
        let transactions = revision(&mut root).await - before;
        assert!(transactions < 250, "{COUNT} registrations took {transactions} transactions");
        for number in [0, 150, COUNT - 1] {
            is_registered(&owner, &format!("i{number}")).await;
        }
        let fresh = Seen::by(&owner).await;
        let view = fresh.wait("all are there", |view| view.len() == COUNT + 2).await;
        for number in 0..COUNT {
            assert_eq!(number_in(&view, &format!("i{number}")), Some(number));
        }
        assert_eq!(view.get(&key("i150")).unwrap().address().to_string(), "192.0.2.1:8080");
    }

    async fn what_is_deregistered_while_it_waits_for_its_turn_is_never_written() {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        let client = EtcdDiscovery::start(config(&cluster)).await.unwrap();
        let seen = Seen::by(&client).await;
        let Proxied { etcd, proxies } = Proxied::start(&cluster, config(&cluster)).await.unwrap();
        let owner = Arc::new(etcd);
        for number in 0..2 {
            owner.register(web(&format!("first-{number}"), 0)).await.unwrap();
        }
        // What others have spoils each transaction, so that its writes are made one by one, slowly.
        let mut others = admin(cluster.addresses()[0], false).await.unwrap();
        for number in (0..SLOW).step_by(4) {
            let older = r#"{"Op":0,"Addr":"192.0.2.9:9","Metadata":null}"#;
            others.put(format!("tidings/web/i{number}"), older, None).await.unwrap();
        }
        let before = 2 + SLOW / 4;
        seen.wait("what is there before", |view| view.len() == before).await;
        proxies[0].delay(Duration::from_millis(100));
        let mut calls = JoinSet::new();
        let register = |calls: &mut JoinSet<()>, id: String| {
            let owner = owner.clone();
            calls.spawn(async move { drop(owner.register(web(&id, 1)).await.unwrap()) });
        };
        for number in 0..SLOW {
            register(&mut calls, format!("i{number}"));
        }
        // More than the first transactions bring, which start before the others are there.
        seen.wait("some have had their turn", |view| view.len() > before + 10).await;
        let leaves = |number: &usize| *number >= SLOW / 2 && !number.is_multiple_of(4);
        let mut leaving = JoinSet::new();
        for number in (0..SLOW).filter(leaves) {
            let owner = owner.clone();
            leaving.spawn(async move {
                let removal = owner.deregister(&key(&format!("i{number}"))).await.unwrap();
                assert_eq!(removal, Removal::Removed);
            });
        }
        while let Some(ended) = leaving.join_next().await {
            ended.unwrap();
        }
        let stays = (0..SLOW).filter(|number| !leaves(number));
        let rest: Vec<_> = stays.map(|number| format!("i{number}")).collect();
        let has_rest = |view: &View| rest.iter().all(|id| number_in(view, id) == Some(1));
        assert!(!has_rest(&seen.view()), "nothing waits any more");
        seen.mark().await;
        // Only one of these can overtake those that wait.
        for number in 0..2 {
            register(&mut calls, format!("last-{number}"));
        }
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
        let has_all = |view: &View| {
            let mut last = (0..2).map(|number| number_in(view, &format!("last-{number}")));
            has_rest(view) && last.all(|number| number == Some(1))
        };
        seen.wait("all the others are there", has_all).await;
        let changes = seen.since_mark().await;
        let is_late = |change: &&String| {
            let number = change.strip_prefix("+i").and_then(|number| number.parse().ok());
            number.is_some_and(|number| leaves(&number))
        };
        // What was under way may still have arrived.
        let late = changes.iter().filter(is_late).count();
        assert!(late <= 3, "{late} were written after they had been deregistered: {changes:?}");
    }
}

/// A cluster whose user may write the keys of `web` only, and its administrator.
async fn with_user() -> (Cluster, Client) {
    let options = Options {
        users: true,
        ..Options::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let mut root = admin(cluster.addresses()[0], true).await.unwrap();
    root.role_add(USER).await.unwrap();
    for permission in [
        Permission::read("tidings/").with_prefix(),
        Permission::read_write("tidings/web/").with_prefix(),
    ] {
        root.role_grant_permission(USER, permission).await.unwrap();
    }
    root.user_add(USER, PASSWORD, None).await.unwrap();
    root.user_grant_role(USER, USER).await.unwrap();
    (cluster, root)
}

async fn revision(admin: &mut Client) -> i64 {
    let answer = admin.get("any", None).await.unwrap();
    answer.header().unwrap().revision()
}
