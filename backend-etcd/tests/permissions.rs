//! What a user may not do at first, and may later.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod support;

use std::time::{Duration, Instant};

use etcd_client::{Client, Permission};
use support::{PATIENCE, Proxied, Seen, admin, config, eventually, is_registered, key, web};
use tidings_api::{Discovery, DiscoveryExt, ErrorKind, Health, Registration};
use tidings_testkit::etcd::{Cluster, Options};

const USER: &str = "app";
const PASSWORD: &str = "app-secret";

tidings_testkit::server_tests! { etcd_3_4:
    async fn what_was_registered_in_an_outage_outlives_a_refused_change() {
        let (cluster, mut root, owner) = in_an_outage().await;
        owner.etcd.register(web("a", 1)).await.unwrap();
        owner.restore();
        eventually("it is refused", || {
            let status = owner.etcd.status();
            let Some(Registration::Pending { last_error, .. }) = status.registration(&key("a")) else {
                return false;
            };
            last_error.as_ref().is_some_and(|error| error.kind() == ErrorKind::Denied)
        })
        .await;
        let refused = owner.etcd.health(&key("a"), Health::warning("refused")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        let refused = owner.etcd.register(web("a", 1)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        permit(&mut root).await;
        is_registered(&owner.etcd, "a").await;
        let seen = Seen::by(&owner.etcd).await;
        seen.shows(&[("a", 1)]).await;
        assert_eq!(seen.view().get(&key("a")).unwrap().health().note(), None);
        drop(cluster);
    }

    async fn a_refused_view_can_be_joined_once_it_is_permitted() {
        let (cluster, mut root, client) = in_an_outage().await;
        let seen = Seen::by(&client.etcd).await;
        client.restore();
        let start = Instant::now();
        let refused = loop {
            match client.etcd.watch_service("web").await {
                Err(refused) => break refused,
                Ok(_) => assert!(start.elapsed() < PATIENCE, "it is not refused"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        permit(&mut root).await;
        seen.shows(&[]).await;
        client.etcd.watch_service("web").await.unwrap();
        drop(cluster);
    }
}

/// A cluster with a user who may do nothing, its administrator, and a handle that is cut off.
async fn in_an_outage() -> (Cluster, Client, Proxied) {
    let options = Options {
        users: true,
        ..Options::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let mut root = admin(cluster.addresses()[0], true).await.unwrap();
    root.role_add(USER).await.unwrap();
    root.user_add(USER, PASSWORD, None).await.unwrap();
    root.user_grant_role(USER, USER).await.unwrap();
    let mut config = config(&cluster);
    config.user = Some(USER.into());
    config.password = Some(PASSWORD.into());
    let handle = Proxied::start(&cluster, config).await.unwrap();
    handle.black_hole();
    (cluster, root, handle)
}

/// Permits everything in the namespace.
async fn permit(root: &mut Client) {
    let all = Permission::read_write("tidings/").with_prefix();
    root.role_grant_permission(USER, all).await.unwrap();
}
