//! Who only looks on, by the URL it is configured with.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]
#![cfg(feature = "gossip")]

use std::time::Duration;

use tidings::{Connection, Discovery, DiscoveryExt, ErrorKind, Health, Instance, Removal};
use tidings_gossip::{GossipConfig, GossipDiscovery};
use tokio::time::timeout;

/// How long anything may take before the test fails; far above what it takes.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_observer_by_url_sees_what_members_offer_and_offers_nothing() {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    let member = GossipDiscovery::start(config).await.unwrap();
    member.register_at("web", "10.0.0.7:80").await.unwrap();

    let url = format!("gossip://?observe=true&join={}", member.local_addr());
    let observer = timeout(LONG, tidings::connect(&url))
        .await
        .unwrap()
        .unwrap();
    let mut watch = observer.watch_service("web").await.unwrap();
    let seen = watch.wait_until(|view| view.is_live() && view.len() == 1);
    timeout(LONG, seen).await.unwrap().unwrap();
    member.register_at("web", "10.0.0.8:80").await.unwrap();
    let changed = watch.wait_until(|view| view.len() == 2);
    timeout(LONG, changed).await.unwrap().unwrap();
    assert!(observer.status().connection().is_connected());

    let instance = Instance::new("web", "10.0.0.9:80").unwrap();
    let key = instance.key().clone();
    let refused = observer.register(instance).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let text = refused.to_string();
    assert!(text.contains("observe=false"), "says what to do: {text}");
    let refused = observer.health(&key, Health::draining()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotOwned);
    assert_eq!(observer.deregister(&key).await.unwrap(), Removal::Absent);
    assert_eq!(member.resolve("web").await.unwrap().len(), 2);
    assert_eq!(member.members().await.unwrap().len(), 1, "it is no member");

    observer.close().await.unwrap();
    assert!(matches!(observer.status().connection(), Connection::Closed));
    let closed = observer.watch_all().await.unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn an_observer_without_anybody_to_look_through_is_an_error_that_says_so() {
    let error = tidings::connect("gossip://?observe=true")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("join"), "{error}");
    let error = tidings::connect("gossip://?observe=perhaps&join=127.0.0.1:1").await;
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("observe") && text.contains("perhaps"),
        "{text}"
    );
}
