//! As many observers of one member as there may be, and one more.

use std::net::SocketAddr;

use tidings_api::{Connection, Discovery, DiscoveryExt};
use tidings_gossip::GossipDiscovery;
use tidings_gossip::wire::limits::OBSERVERS_MAX;
use tidings_gossip::wire::observe::{Observing, Standing};
use tidings_gossip::wire::{Header, Message, Reader, cluster_hash};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::{LONG, cluster, instance, number, observer, observer_config, until};

/// A link on which somebody says that it observes.
async fn observing(to: SocketAddr) -> TcpStream {
    let header = Header {
        cluster: cluster_hash("tidings"),
        sender: fastrand::u64(..),
    };
    let mut frame = header.to_frame();
    let report = Observing::Report {
        frames: 0,
        bytes: 0,
        vouch: false,
        members: false,
    };
    Message::Observing(report).encode(&mut frame);
    let mut link = TcpStream::connect(to).await.unwrap();
    let len = u32::try_from(frame.len()).unwrap();
    link.write_all(&len.to_be_bytes()).await.unwrap();
    link.write_all(&frame).await.unwrap();
    link
}

/// What comes on a link, up to its end.
async fn heard(link: &mut TcpStream) -> Vec<Message> {
    let mut heard = Vec::new();
    while let Ok(len) = link.read_u32().await {
        let mut frame = vec![0; len as usize];
        link.read_exact(&mut frame).await.unwrap();
        let mut reader = Reader::new(&frame);
        Header::decode(&mut reader).unwrap();
        while !reader.is_empty() {
            heard.extend(Message::decode(&mut reader).unwrap());
        }
    }
    heard
}

async fn observers(member: &GossipDiscovery) -> usize {
    member.stats().await.unwrap().engine.observers
}

/// Takes all the room there is.
async fn fill(member: &GossipDiscovery) -> Vec<TcpStream> {
    let mut links = Vec::new();
    while links.len() < OBSERVERS_MAX {
        // A few at a time: what isn't known to observe yet counts as a member's link.
        for _ in 0..64 {
            links.push(observing(member.local_addr()).await);
        }
        until("they are observers", async || {
            observers(member).await == links.len()
        })
        .await;
    }
    links
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_observer_too_many_is_told_so_and_looks_through_another_member() {
    let members = cluster(2).await;
    let (full, other) = (&members[0], &members[1]);
    let links = fill(full).await;

    // By hand: it is told why, and where to go, and hung up on.
    let mut refused = observing(full.local_addr()).await;
    let heard = timeout(LONG, heard(&mut refused)).await.unwrap();
    let is_full = |message: &Message| match message {
        Message::Observing(Observing::Vouch(vouch)) => vouch.standing == Standing::Full,
        _ => false,
    };
    let named = |message: &Message| match message {
        Message::Observing(Observing::Members(named)) => named.contains(&other.local_addr()),
        _ => false,
    };
    assert!(heard.iter().any(is_full), "{heard:?}");
    assert!(heard.iter().any(named), "{heard:?}");

    // An observer that knows no other goes where it was told to.
    let late = observer(&[full.local_addr()]).await;
    let mut watch = late.watch_service("web").await.unwrap();
    let whole = watch.wait_until(|view| view.is_live() && view.len() == 2);
    timeout(LONG, whole).await.unwrap().unwrap();
    assert_eq!(late.member(), Some(other.local_addr()));
    let stats = full.stats().await.unwrap();
    assert_eq!(stats.engine.observers, OBSERVERS_MAX);
    assert!(stats.engine.observers_refused >= 2, "{stats:?}");

    // Members, and those who observe already, are served all the same.
    full.register(instance("new", 7)).await.unwrap();
    let seen = watch.wait_until(|view| number(view, "new") == Some(7));
    timeout(LONG, seen).await.unwrap().unwrap();
    assert_eq!(observers(full).await, links.len());
    assert_eq!(full.stats().await.unwrap().engine.deaths, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_has_room_the_reason_says_so_until_somebody_has() {
    let members = cluster(1).await;
    let mut links = fill(&members[0]).await;
    let mut config = observer_config(&[members[0].local_addr()]);
    config.join_wait = std::time::Duration::ZERO;
    let late = tidings_gossip::GossipObserver::start(config).await.unwrap();
    until("it knows why", async || {
        let view = late.resolve("web").await.unwrap();
        assert!(view.is_empty() && !view.is_live(), "{view:?}");
        let status = late.status();
        let connection = status.connection();
        matches!(connection, Connection::Disconnected { reason, .. }
            if reason.contains("as many observers as it may"))
    })
    .await;
    // One goes, and there is room.
    drop(links.pop());
    let mut watch = late.watch_service("web").await.unwrap();
    let served = watch.wait_until(|view| view.is_live() && view.len() == 1);
    timeout(LONG, served).await.unwrap().unwrap();
}
