//! What somebody who speaks the protocol can't do by observing.

use std::net::SocketAddr;
use std::time::Duration;

use tidings_api::{Discovery, DiscoveryExt, Selector};
use tidings_gossip::wire::limits::{OBSERVED_SELECTORS_MAX, OBSERVER_UNREAD_BYTES_MAX};
use tidings_gossip::wire::message::{Accuse, Alive, Record, Verdict};
use tidings_gossip::wire::observe::Observing;
use tidings_gossip::wire::{Header, Message, cluster_hash, member_hash};
use tidings_gossip::{Features, GossipDiscovery};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::{LONG, addresses, cluster, instance, number, observer, until};

/// A link to a member, by hand.
async fn link(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

async fn send(link: &mut TcpStream, messages: &[Message]) -> std::io::Result<()> {
    let header = Header {
        cluster: cluster_hash("tidings"),
        sender: member_hash("stranger"),
    };
    let mut frame = header.to_frame();
    for message in messages {
        message.encode(&mut frame);
    }
    let len = u32::try_from(frame.len()).unwrap();
    link.write_all(&len.to_be_bytes()).await?;
    link.write_all(&frame).await
}

fn subscribe(service: &str) -> Message {
    let selector = Selector::Service(service.parse().unwrap());
    Message::Observing(Observing::Subscribe {
        selector,
        digest: 1,
    })
}

async fn observers(member: &GossipDiscovery) -> usize {
    member.stats().await.unwrap().engine.observers
}

#[tokio::test]
async fn who_observes_has_no_say() {
    let members = cluster(1).await;
    let mut link = link(members[0].local_addr()).await;
    send(&mut link, &[subscribe("web")]).await.unwrap();
    until("it is an observer", async || {
        observers(&members[0]).await == 1
    })
    .await;
    let before = members[0].stats().await.unwrap().engine.foreign;
    let forged = instance("forged", 1);
    let alive = Message::Alive(Alive {
        name: "stranger".into(),
        generation: 1,
        incarnation: 0,
        address: "127.0.0.1:9".parse().unwrap(),
        floor: 0,
        newest: 0,
        seal: Box::default(),
        features: Features::NONE,
        unknown: Box::default(),
    });
    let record = |owner: &str| {
        Message::Record(Record {
            owner: member_hash(owner),
            generation: u64::MAX >> 8,
            version: 9,
            key: forged.key().clone(),
            content: None,
        })
    };
    let accuse = Message::Accuse(Accuse {
        member: member_hash("m-0"),
        generation: 1,
        incarnation: 1,
        verdict: Verdict::Dead,
        accusers: Vec::new(),
        refused: 0,
    });
    let messages = [alive, record("stranger"), record("m-0"), accuse];
    send(&mut link, &messages).await.unwrap();
    until("all of it was heard", async || {
        members[0].stats().await.unwrap().engine.foreign >= before + 4
    })
    .await;
    assert_eq!(members[0].members().await.unwrap().len(), 1);
    let view = members[0].resolve("web").await.unwrap();
    assert_eq!((view.len(), number(&view, "m-0")), (1, Some(0)));
    assert_eq!(members[0].stats().await.unwrap().engine.refutations, 0);
}

#[tokio::test]
async fn who_wants_more_selectors_than_a_member_keeps_is_hung_up_on() {
    let members = cluster(1).await;
    let mut link = link(members[0].local_addr()).await;
    let (mut sent, mut answer) = (0, [0; 1 << 16]);
    for number in 0..=OBSERVED_SELECTORS_MAX {
        if send(&mut link, &[subscribe(&format!("s-{number}"))])
            .await
            .is_err()
        {
            break;
        }
        sent += 1;
    }
    assert!(sent >= OBSERVED_SELECTORS_MAX, "{sent} were sent");
    // Nothing is left to read but the end.
    let end = async { while link.read(&mut answer).await.is_ok_and(|read| read > 0) {} };
    timeout(LONG, end).await.unwrap();
    let stats = members[0].stats().await.unwrap().engine;
    assert_eq!((stats.observers, stats.observers_refused), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_holds_a_bounded_part_and_slows_nobody() {
    const CHANGES: u32 = 3_000;
    let members = cluster(2).await;
    let honest = observer(&addresses(&members)[..1]).await;
    let mut watch = honest.watch_service("web").await.unwrap();
    let mut asleep = link(members[0].local_addr()).await;
    send(&mut asleep, &[subscribe("web")]).await.unwrap();
    until("both observe", async || observers(&members[0]).await == 2).await;
    let before = members[0].stats().await.unwrap().engine.observer_bytes_out;
    let big = "x".repeat(500);
    for number in 0..CHANGES {
        let change = instance("big", number).with_metadata("big", &big).unwrap();
        members[0].register(change).await.unwrap();
        if number % 8 == 0 {
            // So that not all of it goes together.
            tokio::time::sleep(Duration::from_millis(11)).await;
        }
    }
    let last = watch.wait_until(|view| number(view, "big") == Some(CHANGES - 1));
    timeout(LONG, last).await.unwrap().unwrap();
    let sent = members[0].stats().await.unwrap().engine.observer_bytes_out - before;
    let (honest, most) = (
        honest.stats().bytes_in,
        OBSERVER_UNREAD_BYTES_MAX as u64 + 65_536,
    );
    println!("{sent} bytes sent, {honest} of them to the one that reads");
    assert!(
        sent.saturating_sub(honest) < most,
        "{sent} less {honest} were sent to who sleeps"
    );
    assert!(honest > 2 * 65_536, "enough happened: {honest}");
    // Once it reads, and says so, it is shown what there is.
    let mut read = 0_u64;
    let mut buffer = [0; 1 << 16];
    while let Ok(Ok(some @ 1..)) =
        timeout(Duration::from_millis(500), asleep.read(&mut buffer)).await
    {
        read += some as u64;
    }
    assert!(read < most, "{read} bytes waited");
    let report = Message::Observing(Observing::Report {
        frames: u64::MAX,
        bytes: u64::MAX,
        vouch: true,
        members: false,
    });
    send(&mut asleep, &[report]).await.unwrap();
    let some = timeout(LONG, asleep.read(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert!(some > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_claims_to_have_read_what_waits_is_hung_up_on() {
    let members = cluster(1).await;
    let big = "x".repeat(500);
    for number in 0..400 {
        let one = instance(&format!("i-{number}"), 1)
            .with_metadata("big", &big)
            .unwrap();
        members[0].register(one).await.unwrap();
    }
    let mut liar = link(members[0].local_addr()).await;
    let report = Message::Observing(Observing::Report {
        frames: u64::MAX,
        bytes: u64::MAX,
        vouch: false,
        members: false,
    });
    // It asks for everything again and again, and reads nothing.
    let lying = async {
        while send(
            &mut liar,
            &[report.clone(), subscribe("web"), report.clone()],
        )
        .await
        .is_ok()
        {}
    };
    timeout(LONG, lying).await.expect("it is hung up on");
    until("it is forgotten", async || {
        observers(&members[0]).await == 0
    })
    .await;
    let stats = members[0].stats().await.unwrap();
    assert!(
        stats.links.dropped > 0 && stats.links.observers == 0,
        "{stats:?}"
    );
}
