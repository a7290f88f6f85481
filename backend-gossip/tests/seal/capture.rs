//! What somebody who listens sees.

use std::collections::HashSet;

use tidings_api::{Discovery, DiscoveryExt};
use tidings_gossip::GossipDiscovery;

use super::relay::{Relay, pair, start};
use super::{config, instance, sealed, until};

/// What is registered, and must not be read.
const SECRETS: [&str; 5] = [
    "payroll",
    "vault-7",
    "10.99.88.77",
    "tier-of-gold",
    "member-name-x",
];

/// Registers things small and large, so that they go by datagram and by link.
async fn talk(members: &[GossipDiscovery; 2]) {
    let [first, second] = members;
    let small = tidings_api::Instance::new("payroll", "10.99.88.77:80").unwrap();
    let small = small.with_id("vault-7").unwrap();
    let small = small.with_metadata("tier", "tier-of-gold").unwrap();
    first.register(small.clone()).await.unwrap();
    let large = (0..30).fold(small.with_id("vault-7-large").unwrap(), |large, number| {
        let key = format!("tier-of-gold-{number}");
        large
            .with_metadata(key, "tier-of-gold ".repeat(39))
            .unwrap()
    });
    first.register(large).await.unwrap();
    second.wait_for("payroll", 2).await.unwrap();
}

fn count(haystacks: &[Vec<u8>], needle: &str) -> usize {
    let needle = needle.as_bytes();
    let found = |bytes: &&Vec<u8>| bytes.windows(needle.len()).any(|part| part == needle);
    haystacks.iter().filter(found).count()
}

/// Datagrams and links apart.
fn captured(relay: &Relay) -> [Vec<Vec<u8>>; 2] {
    let bytes = |all: Vec<super::relay::Captured>| all.into_iter().map(|one| one.bytes).collect();
    [bytes(relay.datagrams()), bytes(relay.links())]
}

#[tokio::test]
async fn a_packet_capture_shows_no_plaintext() {
    for is_sealed in [false, true] {
        let relay = Relay::new().await;
        let members = pair(&relay, |join| {
            let mut config = if is_sealed {
                sealed(join)
            } else {
                config(join)
            };
            let number = if join.is_empty() { 1 } else { 2 };
            config.name = Some(format!("member-name-x{number}"));
            config
        })
        .await;
        talk(&members).await;
        let [datagrams, links] = captured(&relay);
        assert!(
            datagrams.len() > 3 && links.len() >= 2,
            "too little was captured"
        );
        for secret in SECRETS {
            let seen = (count(&datagrams, secret), count(&links, secret));
            if is_sealed {
                assert_eq!(seen, (0, 0), "{secret} is on the wire");
            } else {
                assert!(
                    seen.0 > 0 && seen.1 > 0,
                    "the capture misses {secret}: {seen:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn no_nonce_is_seen_twice_whatever_restarts() {
    let relay = Relay::new().await;
    let mut first = sealed(&[]);
    first.name = Some("stays".into());
    let stays = start(&relay, 0, first).await;
    for round in 0..4 {
        let mut config = sealed(&[relay.address(0)]);
        config.name = Some("phoenix".into());
        let phoenix = start(&relay, 1, config).await;
        phoenix
            .register(instance(&round.to_string()))
            .await
            .unwrap();
        until_alone(&stays, &round.to_string()).await;
        phoenix.faults().crash().await;
    }
    // Key id, start id and counter decide the key and the nonce of a datagram.
    let mut nonces = HashSet::new();
    let mut starts = HashSet::new();
    let sealed = relay.datagrams().into_iter().map(|datagram| datagram.bytes);
    for datagram in sealed {
        assert!(matches!(datagram[0], 0xD8 | 0xD9), "{:x}", datagram[0]);
        starts.insert(datagram[10..26].to_vec());
        assert!(
            nonces.insert(datagram[6..34].to_vec()),
            "a nonce was used twice"
        );
    }
    assert_eq!(starts.len(), 5, "one start that stayed, four of phoenix");
    // Of a link, the two salts, which stand in the hellos.
    let hellos: Vec<_> = relay
        .links()
        .iter()
        .map(|way| way.bytes.get(10..26).map(<[u8]>::to_vec))
        .collect();
    let salts: HashSet<_> = hellos.iter().flatten().collect();
    assert_eq!(salts.len(), hellos.iter().flatten().count());
    assert!(salts.len() >= 8, "{} hellos", salts.len());
}

#[tokio::test]
async fn a_restarted_member_is_heard_at_once() {
    let members = super::cluster(3, sealed).await;
    let seed = members[0].local_addr();
    let mut config = sealed(&[seed]);
    config.name = Some("phoenix".into());
    for round in 0..4 {
        let phoenix = GossipDiscovery::start(config.clone()).await.unwrap();
        config.bind = phoenix.local_addr();
        phoenix
            .register(instance(&round.to_string()))
            .await
            .unwrap();
        for member in &members {
            until_alone(member, &round.to_string()).await;
        }
        phoenix.faults().crash().await;
    }
}

/// Waits until of all starts of a member only the newest one's instance is seen.
async fn until_alone(member: &GossipDiscovery, id: &str) {
    until("the new start's instance is seen alone", async || {
        let view = member.resolve("web").await.unwrap();
        view.len() == 1 && view.iter().all(|instance| instance.id().as_str() == id)
    })
    .await;
}
