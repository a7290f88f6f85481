//! Frozen bytes: what version 1 writes. A change here breaks running clusters.

use std::fmt::Write;
use std::sync::Arc;

use tidings_api::{Generation, Health, Instance, ServiceName};
use tidings_gossip::Features;
use tidings_gossip::wire::content::Content;
use tidings_gossip::wire::message::{Accuse, Alive, RangeDigest, Record, Stamp, Verdict};
use tidings_gossip::wire::queries::{Answer, Query, Word};
use tidings_gossip::wire::user_events::{Head, Place, Streams, UserEvent};
use tidings_gossip::wire::{Header, Message, Reader, cluster_hash, member_hash, start_hash};

const VECTORS: &str = include_str!("v1.txt");

/// One message of each kind, by the name it has in the file.
fn messages() -> Vec<(&'static str, Message)> {
    let instance = Instance::new("payments", "10.0.0.7:8080")
        .and_then(|instance| instance.with_id("payments-1"))
        .and_then(|instance| instance.with_weight(3))
        .and_then(|instance| instance.with_zone("eu-1a"))
        .and_then(|instance| instance.with_port("metrics", 9090))
        .and_then(|instance| instance.with_metadata("version", "1.4.2"))
        .unwrap()
        .with_health(Health::warning("hot"))
        .with_generation(Generation::new(1_700_000_000_000_000));
    let record = |content| Record {
        owner: member_hash("web-1"),
        generation: 1_700_000_000_000_000,
        version: 300,
        key: instance.key().clone(),
        content,
    };
    let unknown = Content {
        unknown: [9, 2, 1, 2].into(),
        ..Arc::new(instance.clone()).into()
    };
    let head = Head {
        stream: member_hash("web-1"),
        generation: 1,
        oldest: 2,
        newest: 300,
    };
    let answer = |word| {
        Message::Answer(Answer {
            id: 0x0102_0304_0506_0708,
            word,
        })
    };
    vec![
        (
            "ping",
            Message::Ping {
                sequence: 300,
                target: 0x0102_0304_0506_0708,
                digest: 9,
            },
        ),
        (
            "ack",
            Message::Ack {
                sequence: 300,
                digest: u64::MAX,
            },
        ),
        (
            "ping-request",
            Message::PingRequest {
                sequence: 1,
                target: 2,
                refused: true,
            },
        ),
        ("nack", Message::Nack { sequence: 300 }),
        (
            "alive",
            Message::Alive(Alive {
                name: "web-1".into(),
                generation: 1_700_000_000_000_000,
                incarnation: 2,
                address: "10.0.0.7:7946".parse().unwrap(),
                floor: 5,
                // Once bytes of a newer version, now known.
                seal: [2].into(),
                newest: 0,
                features: Features::NONE,
                unknown: [].into(),
            }),
        ),
        (
            "alive-v6",
            Message::Alive(Alive {
                name: "a".into(),
                generation: 1,
                incarnation: 0,
                address: "[2001:db8::1]:1".parse().unwrap(),
                floor: 0,
                newest: 0,
                seal: [].into(),
                features: Features::NONE,
                unknown: [].into(),
            }),
        ),
        (
            "accuse",
            Message::Accuse(Accuse {
                member: member_hash("web-1"),
                generation: 1,
                incarnation: 2,
                verdict: Verdict::Suspect,
                accusers: vec![3, 4],
                refused: 1,
            }),
        ),
        (
            "record",
            Message::Record(record(Some(Content::from(Arc::new(instance.clone()))))),
        ),
        (
            "record-unknown-field",
            Message::Record(record(Some(unknown))),
        ),
        ("tombstone", Message::Record(record(None))),
        (
            "sync",
            Message::Sync(vec![RangeDigest {
                first: 0,
                last: u64::MAX,
                digest: 7,
                count: 2,
            }]),
        ),
        (
            "have",
            Message::Have {
                first: 1,
                last: 2,
                entries: vec![(1, Stamp(300, 4))],
            },
        ),
        ("want", Message::Want(vec![1, 2])),
        ("sync-done", Message::SyncDone { digest: 7 }),
        (
            "user-event",
            Message::UserEvent(UserEvent {
                sender: "web-1".into(),
                generation: 1_700_000_000_000_000,
                sequence: 300,
                age: 1_500,
                name: ServiceName::new("deploy").unwrap(),
                payload: [1, 2, 3].into(),
                unknown: [].into(),
            }),
        ),
        (
            "user-event-unknown-field",
            Message::UserEvent(UserEvent {
                sender: "a".into(),
                generation: 1,
                sequence: 1,
                age: 0,
                name: ServiceName::new("deploy").unwrap(),
                payload: [].into(),
                unknown: [9, 9].into(),
            }),
        ),
        ("streams-digest", Message::Streams(Streams::Digest(7))),
        (
            "streams-parts",
            Message::Streams(Streams::Parts(vec![(0x2e, 7)])),
        ),
        (
            "streams-heads",
            Message::Streams(Streams::Heads {
                first: 0,
                last: u64::MAX,
                heads: vec![head],
            }),
        ),
        ("streams-some", Message::Streams(Streams::Some(vec![head]))),
        (
            "streams-want",
            Message::Streams(Streams::Want(vec![Place {
                stream: head.stream,
                generation: 1,
                after: 300,
            }])),
        ),
        (
            "query",
            Message::Query(Query {
                id: 0x0102_0304_0506_0708,
                time_left: 5_000,
                name: ServiceName::new("load").unwrap(),
                payload: [1].into(),
            }),
        ),
        ("received", answer(Word::Received)),
        ("declined", answer(Word::Declined)),
        ("answered", answer(Word::Answered([1, 2].into()))),
    ]
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2);
    digits
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn version_1_is_frozen() {
    let header = Header {
        cluster: cluster_hash("tidings"),
        sender: member_hash("web-1"),
    };
    let mut written = format!("header {}\n", hex(&header.to_frame()));
    writeln!(
        written,
        "start {:016x}",
        start_hash(member_hash("web-1"), 7)
    )
    .unwrap();
    for (name, message) in messages() {
        writeln!(written, "{name} {}", hex(&message.to_bytes())).unwrap();
    }
    assert_eq!(written, VECTORS, "the bytes of version 1 have changed");
}

#[test]
fn version_1_is_read() {
    for (name, message) in messages() {
        let line = VECTORS
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        let bytes = unhex(line.expect(name));
        assert_eq!(
            Message::decode(&mut Reader::new(&bytes)),
            Ok(Some(message)),
            "{name}"
        );
    }
}
