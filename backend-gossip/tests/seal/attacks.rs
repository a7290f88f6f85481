//! What somebody on the wire can do: nothing, and it is counted.

use std::net::SocketAddr;
use std::time::Duration;

use tidings_api::{Discovery, DiscoveryExt};
use tidings_gossip::{GossipDiscovery, SealStats};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::relay::{Captured, Relay, pair};
use super::{LONG, instance, sealed, stats, until, until_alive, until_counted};

/// After whatever was done to them, the two still hear each other.
async fn assert_well(members: &[GossipDiscovery; 2], id: &str) {
    members[0].register(instance(id)).await.unwrap();
    let key = format!("web/{id}").parse().unwrap();
    let mut watch = members[1].watch_service("web").await.unwrap();
    let seen = watch.wait_until(|view| view.get(&key).is_some());
    timeout(LONG, seen)
        .await
        .expect("not heard any more")
        .unwrap();
    for member in members {
        until_alive(member, 2).await;
    }
}

async fn until_captured(relay: &Relay, to: usize, least: usize) -> Vec<Captured> {
    let to_it = || -> Vec<_> {
        let all = relay.datagrams().into_iter();
        all.filter(|datagram| datagram.to == to && datagram.bytes[0] == 0xD8)
            .collect()
    };
    until("datagrams are captured", async || to_it().len() >= least).await;
    to_it()
}

#[tokio::test]
async fn replayed_datagrams_are_dropped_and_counted() {
    let relay = Relay::new().await;
    let members = pair(&relay, sealed).await;
    members[0].register(instance("a")).await.unwrap();
    let recorded = until_captured(&relay, 1, 20).await;
    let before = members[1].stats().await.unwrap();
    for datagram in &recorded {
        relay.inject(1, &datagram.bytes).await;
    }
    let least = before.seal.replayed + recorded.len() as u64;
    until_counted(&members[1], "all are counted", least, |stats| {
        stats.replayed
    })
    .await;
    assert_well(&members, "b").await;
}

#[tokio::test]
async fn reflected_datagrams_are_dropped_and_counted() {
    let relay = Relay::new().await;
    let members = pair(&relay, sealed).await;
    let sent_by_first = until_captured(&relay, 1, 20).await;
    for datagram in &sent_by_first {
        relay.inject(0, &datagram.bytes).await;
    }
    let least = sent_by_first.len() as u64;
    until_counted(&members[0], "all are counted", least, |stats| {
        stats.reflected
    })
    .await;
    assert_well(&members, "b").await;
}

#[tokio::test]
async fn truncated_datagrams_are_dropped_and_counted() {
    let relay = Relay::new().await;
    let members = pair(&relay, sealed).await;
    // Instead of the whole ones, for a few of them.
    let mut left = 8;
    relay.tamper_with_datagrams(move |bytes| {
        if left > 0 {
            left -= 1;
            let len = if left % 2 == 0 { bytes.len() - 1 } else { 40 };
            bytes.truncate(len);
        }
    });
    until("all are counted", async || {
        let (first, second) = (stats(&members[0]).await, stats(&members[1]).await);
        let sum = |count: fn(SealStats) -> u64| count(first) + count(second);
        sum(|stats| stats.malformed) >= 4 && sum(|stats| stats.forged) >= 4
    })
    .await;
    relay.behave();
    assert_well(&members, "b").await;
}

#[tokio::test]
async fn bit_flipped_datagrams_are_dropped_and_counted() {
    let relay = Relay::new().await;
    let members = pair(&relay, sealed).await;
    let mut left = 8;
    relay.tamper_with_datagrams(move |bytes| {
        if left > 0 {
            left -= 1;
            let at = bytes.len() - 1 - 2 * left;
            bytes[at] ^= 1 << left;
        }
    });
    until("all are counted", async || {
        stats(&members[0]).await.forged + stats(&members[1]).await.forged >= 8
    })
    .await;
    relay.behave();
    assert_well(&members, "b").await;
}

#[tokio::test]
async fn datagrams_and_links_of_another_cluster_are_dropped_and_counted() {
    let relay = Relay::new().await;
    let members = pair(&relay, sealed).await;
    let other_relay = Relay::new().await;
    let others = pair(&other_relay, |join| {
        let mut config = sealed(join);
        config.cluster = "staging".into();
        config
    })
    .await;
    let recorded = until_captured(&other_relay, 1, 5).await;
    for datagram in &recorded {
        relay.inject(1, &datagram.bytes).await;
    }
    let least = recorded.len() as u64;
    until_counted(&members[1], "all are counted", least, |stats| stats.foreign).await;

    // And a member of it that takes one of these for a seed.
    let mut config = sealed(&[members[1].local_addr()]);
    config.cluster = "staging".into();
    config.join_wait = Duration::ZERO;
    let lost = GossipDiscovery::start(config).await.unwrap();
    until_counted(&members[1], "its link is counted", least + 1, |stats| {
        stats.foreign
    })
    .await;
    assert_eq!(members[1].members().await.unwrap().len(), 2);
    assert_eq!((lost.members().await.unwrap().len(), others.len()), (1, 2));
}

#[tokio::test]
async fn unsealed_datagrams_and_links_are_dropped_and_counted() {
    let relay = Relay::new().await;
    let members = pair(&relay, sealed).await;
    let plain_relay = Relay::new().await;
    let plain = pair(&plain_relay, super::config).await;
    plain[0].register(instance("forged")).await.unwrap();
    until("plain datagrams are captured", async || {
        plain_relay.datagrams().len() >= 5
    })
    .await;
    let recorded = plain_relay.datagrams();
    for datagram in &recorded {
        relay.inject(1, &datagram.bytes).await;
    }
    let least = recorded.len() as u64;
    until_counted(&members[1], "all are counted", least, |stats| {
        stats.unsealed
    })
    .await;
    let link = plain_relay
        .links()
        .into_iter()
        .find(|way| !way.to_opener)
        .unwrap();
    play(&link.bytes, members[1].local_addr()).await;
    until_counted(&members[1], "the link is counted", least + 1, |stats| {
        stats.unsealed
    })
    .await;
    assert!(members[1].resolve("web").await.unwrap().is_empty());
}

/// Opens a link, says `bytes`, and waits for its end.
async fn play(bytes: &[u8], to: SocketAddr) {
    let mut link = TcpStream::connect(to).await.unwrap();
    // It may be closed half-way.
    let _ = link.write_all(bytes).await;
    let mut answer = Vec::new();
    let ended = timeout(LONG, link.read_to_end(&mut answer)).await;
    let _ = ended.expect("the link is not closed");
}

/// What the opener said over a sealed link: its hello, and at least a frame.
fn opener_said(relay: &Relay) -> Vec<u8> {
    let ways = relay
        .links()
        .into_iter()
        .filter(|way| !way.to_opener && way.to == 0);
    let longest = ways.max_by_key(|way| way.bytes.len()).unwrap();
    assert!(longest.bytes.len() > 100, "no frame was captured");
    longest.bytes
}

#[tokio::test]
async fn a_replayed_link_is_dropped_and_counted() {
    let relay = Relay::new().await;
    let members = pair(&relay, sealed).await;
    let said = opener_said(&relay);
    let before = members[0].stats().await.unwrap();
    for number in 1..=3 {
        play(&said, members[0].local_addr()).await;
        let least = before.seal.forged + number;
        until_counted(&members[0], "it is counted", least, |stats| stats.forged).await;
    }
    assert_well(&members, "b").await;
}

#[tokio::test]
async fn a_reflected_link_is_dropped_and_counted() {
    // A seed that says what it hears.
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let seed = echo.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    let mut config = sealed(&[seed]);
    config.join_wait = Duration::ZERO;
    let member = GossipDiscovery::start(config).await.unwrap();
    until_counted(&member, "it is counted", 1, |stats| stats.reflected).await;
    assert!(!member.status().connection().is_connected());
    task.abort();
}

#[tokio::test]
async fn bit_flipped_link_frames_are_dropped_and_counted() {
    let relay = Relay::new().await;
    let members = pair(&relay, sealed).await;
    // The last byte of whatever is longer than a hello.
    let mut left = 3;
    relay.tamper_with_links(move |bytes| {
        if bytes.len() > 26 && left > 0 {
            left -= 1;
            *bytes.last_mut().unwrap() ^= 1;
        }
    });
    // What doesn't fit a datagram goes by link; each goes until one gets through.
    let large = (0..20).fold(instance("large"), |large, number| {
        large
            .with_metadata(number.to_string(), "x".repeat(500))
            .unwrap()
    });
    members[0].register(large).await.unwrap();
    until("it is counted", async || {
        stats(&members[0]).await.forged + stats(&members[1]).await.forged >= 1
    })
    .await;
    timeout(LONG, members[1].wait_for("web", 1))
        .await
        .unwrap()
        .unwrap();
    relay.behave();
    assert_well(&members, "b").await;
}

#[tokio::test]
async fn truncated_link_frames_are_dropped_and_counted() {
    let relay = Relay::new().await;
    let members = pair(&relay, sealed).await;
    let mut left = 3;
    relay.tamper_with_links(move |bytes| {
        // A frame alone in its chunk: a byte less, and the length says so.
        let framed = bytes
            .get(..4)
            .map(|len| u32::from_be_bytes(len.try_into().unwrap()) as usize);
        if framed == Some(bytes.len() - 4) && bytes.len() > 26 && left > 0 {
            left -= 1;
            bytes.pop();
            let len = u32::try_from(bytes.len() - 4).unwrap();
            bytes[..4].copy_from_slice(&len.to_be_bytes());
        }
    });
    let large = (0..20).fold(instance("large"), |large, number| {
        large
            .with_metadata(number.to_string(), "x".repeat(500))
            .unwrap()
    });
    members[0].register(large).await.unwrap();
    until("it is counted", async || {
        stats(&members[0]).await.forged + stats(&members[1]).await.forged >= 1
    })
    .await;
    timeout(LONG, members[1].wait_for("web", 1))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_recording_played_to_a_member_that_restarted_is_not_heard() {
    let relay = Relay::new().await;
    let members = pair(&relay, sealed).await;
    let key = members[0].register(instance("old")).await.unwrap();
    timeout(LONG, members[1].wait_for("web", 1))
        .await
        .unwrap()
        .unwrap();
    members[0].deregister(&key).await.unwrap();
    let recorded = until_captured(&relay, 1, 20).await;
    // Everybody starts anew: nobody remembers what was heard.
    for member in &members {
        member.faults().crash().await;
    }
    let member = super::relay::start(&relay, 1, sealed(&[])).await;
    let before = stats(&member).await;
    for datagram in &recorded {
        relay.inject(1, &datagram.bytes).await;
    }
    let least = recorded.len() as u64 - 4;
    until_counted(&member, "they wait in vain", least, |stats| stats.unproven).await;
    let after = stats(&member).await;
    assert_eq!(after.opened, before.opened, "{after:?}");
    assert!(after.challenges > 0 && member.resolve("web").await.unwrap().is_empty());
    assert_eq!(member.members().await.unwrap().len(), 1);
    let _ = key;
}

#[tokio::test]
async fn a_flood_of_forged_datagrams_starves_nobody() {
    let relay = Relay::new().await;
    let members = pair(&relay, sealed).await;
    let mut datagram = until_captured(&relay, 1, 1).await.remove(0).bytes;
    let target = members[0].local_addr();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let flood = std::thread::spawn(move || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (mut sent, mut number) = (0_u64, 0_u64);
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            // An unknown start each: what costs most to refuse.
            number += 1;
            datagram[10..18].copy_from_slice(&number.to_be_bytes());
            sent += u64::from(socket.send_to(&datagram, target).is_ok());
        }
        sent
    });
    until_counted(&members[0], "it has arrived", 1_000, |stats| stats.forged).await;
    for number in 0..100 {
        let registered = members[0].register(instance(&number.to_string()));
        let registered = timeout(Duration::from_secs(5), registered).await;
        registered.expect("a command waits for seconds").unwrap();
    }
    drop(stop);
    let (sent, refused) = (flood.join().unwrap(), stats(&members[0]).await.forged);
    println!("{sent} datagrams sent, {refused} refused");
    timeout(LONG, members[1].wait_for("web", 100))
        .await
        .unwrap()
        .unwrap();
    assert_well(&members, "b").await;
}
