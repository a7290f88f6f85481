//! What others read and write: the format of Go's naming resolver, and newer versions of this one.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod support;

use std::time::Instant;

use etcd_client::Client;
use support::{PATIENCE, Seen, admin, config, eventually, is_registered, key, web};
use tidings_api::{Discovery, Health, Removal};
use tidings_etcd::EtcdDiscovery;
use tidings_testkit::etcd::{Cluster, Options, ROOT};

tidings_testkit::server_tests! { etcd_3_4:
    async fn go_reads_what_is_registered() {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        let owner = EtcdDiscovery::start(config(&cluster)).await.unwrap();
        owner.register(web("a", 7)).await.unwrap();
        let mut admin = admin(cluster.addresses()[0], false).await.unwrap();
        // Its resolver asks for the target as a prefix, and reads three fields.
        let value = value_of(&mut admin, "tidings/web/a").await.unwrap();
        assert_eq!(value["Op"], 0);
        assert_eq!(value["Addr"], "192.0.2.1:8080");
        assert_eq!(value["Metadata"]["n"], "7");
        owner.health(&key("a"), Health::draining()).await.unwrap();
        let value = value_of(&mut admin, "tidings/web/a").await.unwrap();
        assert_eq!(value["Tidings"]["health"]["state"], "draining");
        assert_eq!(owner.deregister(&key("a")).await.unwrap(), Removal::Removed);
        assert!(value_of(&mut admin, "tidings/web/a").await.is_none());
    }

    async fn what_go_writes_comes_and_goes() {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        let client = EtcdDiscovery::start(config(&cluster)).await.unwrap();
        let seen = Seen::by(&client).await;
        let mut admin = admin(cluster.addresses()[0], false).await.unwrap();
        for (key, address) in [("10.0.0.1:80", "10.0.0.1:80"), ("[::1]:80", "[::1]:80")] {
            let value = format!(r#"{{"Op":0,"Addr":"{address}","Metadata":{{"v":"1"}}}}"#);
            admin.put(format!("tidings/web/{key}"), value, None).await.unwrap();
        }
        let view = seen.wait("both are there", |view| view.len() == 2).await;
        let addresses: Vec<_> = view.iter().map(|found| found.address().to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:80", "[::1]:80"]);
        // Without a lease, nothing but a request deletes it: no need to wait for its owner.
        let start = Instant::now();
        admin.delete("tidings/web/10.0.0.1:80", None).await.unwrap();
        seen.wait("one has gone", |view| view.len() == 1).await;
        assert!(start.elapsed() < PATIENCE && seen.view().is_live());
        assert_eq!(client.unreadable(), 0);
    }

    async fn fields_of_a_newer_version_survive_a_takeover() {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        let mut admin = admin(cluster.addresses()[0], false).await.unwrap();
        let newer = r#"{"Op":0,"Addr":"192.0.2.9:1","Metadata":null,"Next":{"a":[1]},"Tidings":
            {"service":"web","id":"a","weight":3,"generation":5,"owner":"else","shard":4}}"#;
        admin.put("tidings/web/a", newer, None).await.unwrap();
        let owner = EtcdDiscovery::start(config(&cluster)).await.unwrap();
        owner.register(web("a", 1)).await.unwrap();
        is_registered(&owner, "a").await;
        owner.register(web("a", 2)).await.unwrap();
        let value = value_of(&mut admin, "tidings/web/a").await.unwrap();
        assert_eq!(value["Metadata"]["n"], "2");
        assert_eq!(value["Next"]["a"][0], 1);
        assert_eq!(value["Tidings"]["shard"], 4);
    }

    async fn users_may_be_asked_for_later() {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        let mut config = config(&cluster);
        config.user = Some(ROOT.0.into());
        config.password = Some(ROOT.1.into());
        let owner = EtcdDiscovery::start(config).await.unwrap();
        let seen = Seen::by(&owner).await;
        owner.register(web("a", 1)).await.unwrap();
        is_registered(&owner, "a").await;
        cluster.set_up_users().unwrap();
        owner.register(web("a", 2)).await.unwrap();
        owner.register(web("b", 2)).await.unwrap();
        is_registered(&owner, "a").await;
        is_registered(&owner, "b").await;
        seen.shows(&[("a", 2), ("b", 2)]).await;
        assert_eq!(owner.deregister(&key("b")).await.unwrap(), Removal::Removed);
        seen.shows(&[("a", 2)]).await;
    }

    async fn a_newer_generation_from_elsewhere_supersedes() {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        let mut admin = admin(cluster.addresses()[0], false).await.unwrap();
        let owner = EtcdDiscovery::start(config(&cluster)).await.unwrap();
        owner.register(web("a", 1)).await.unwrap();
        let newer = r#"{"Op":0,"Addr":"192.0.2.9:1","Tidings":{"service":"web","id":"a",
            "generation":18446744073709551614,"owner":"else"}}"#;
        admin.put("tidings/web/a", newer, None).await.unwrap();
        eventually("it is superseded", || {
            let status = owner.status();
            status.registration(&key("a")).unwrap().is_superseded()
        })
        .await;
        assert_eq!(owner.deregister(&key("a")).await.unwrap(), Removal::Absent);
        assert!(value_of(&mut admin, "tidings/web/a").await.is_some());
        let watch = Seen::by(&owner).await;
        let there = |view: &tidings_api::View| {
            let found = view.get(&key("a"));
            found.is_some_and(|found| found.address().to_string() == "192.0.2.9:1")
        };
        watch.wait("the newer one is shown", there).await;
    }
}

async fn value_of(admin: &mut Client, key: &str) -> Option<serde_json::Value> {
    let found = admin.get(key, None).await.unwrap();
    let value = found.kvs().first()?.value();
    Some(serde_json::from_slice(value).unwrap())
}
