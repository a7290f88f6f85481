//! Many registrations at once: they share transactions, but no fate.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod support;

use std::sync::Arc;

use etcd_client::{Client, Permission};
use support::{Seen, admin, config, is_registered, key, number_in, web};
use tidings_api::{Discovery, ErrorKind, Instance};
use tidings_etcd::EtcdDiscovery;
use tidings_testkit::etcd::{Cluster, Options};
use tokio::task::JoinSet;

const COUNT: usize = 300;
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
