//! What members really say, to begin with, and the small world that targets have in common.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Generation, Health, Instance, InstanceKey, METADATA_VALUE_BYTES_MAX};
use tidings_gossip::Features;
use tidings_gossip::engine::{Engine, EngineConfig, Identity, LinkId, Route};
use tidings_gossip::wire::content::Content;
use tidings_gossip::wire::message::{Accuse, Alive, RangeDigest, Record, Stamp, Verdict};
use tidings_gossip::wire::{HEADER_BYTES, Header, Message, cluster_hash, member_hash};

/// The bytes of version 1, one message a line, as tests have frozen them.
const VECTORS: &str = include_str!("../../backend-gossip/tests/wire/v1.txt");

/// Number of a sender that is no member.
pub(crate) const STRANGER: u8 = 77;
/// Number of a sender whose frame is taken as it is, its header with it.
pub(crate) const RAW: u8 = 255;

/// Services that are offered.
const SERVICES: [&str; 3] = ["web", "api", "db"];

/// The id of a sender by its number.
pub(crate) fn member(number: u8) -> u64 {
    member_hash(&name(number))
}

pub(crate) fn name(number: u8) -> String {
    format!("m{number}")
}

pub(crate) fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 7946))
}

/// The member of this number, alone so far.
pub(crate) fn engine(number: u8, now: Instant) -> Engine {
    let identity = Identity {
        name: name(number).into(),
        generation: Generation::new(100),
        address: address(number),
    };
    Engine::new(now, identity, EngineConfig::default(), number.into())
}

/// An instance out of a few; `bytes` of metadata, so that it may be too large for a datagram.
pub(crate) fn instance(at: usize, port: u16, bytes: usize) -> Instance {
    let service = SERVICES[at % SERVICES.len()];
    let instance = Instance::new(service, format!("10.0.1.1:{}", port.max(1)).as_str())
        .and_then(|instance| instance.with_id(format!("i{at}").as_str()))
        .expect("a valid instance");
    let text = "x".repeat(METADATA_VALUE_BYTES_MAX);
    (0..bytes.div_ceil(METADATA_VALUE_BYTES_MAX).min(8)).fold(instance, |instance, at| {
        let with = instance.with_metadata(format!("k{at}"), &*text);
        with.expect("within the limits")
    })
}

pub(crate) fn register(engine: &mut Engine, now: Instant, at: usize, bytes: usize) -> InstanceKey {
    engine
        .register(now, instance(at, 80, bytes))
        .expect("room for a few registrations")
}

/// A frame of messages in bytes.
pub(crate) fn frame_of(sender: u8, messages: &[u8]) -> Vec<u8> {
    if sender == RAW {
        return messages.to_vec();
    }
    let mut frame = header(sender).to_frame();
    frame.extend_from_slice(messages);
    frame
}

/// A frame of messages.
pub(crate) fn frame(sender: u8, messages: &[Message]) -> Vec<u8> {
    let mut frame = header(sender).to_frame();
    for message in messages {
        message.encode(&mut frame);
    }
    frame
}

/// What follows the header of a frame.
pub(crate) fn messages_of(frame: &[u8]) -> &[u8] {
    frame.get(HEADER_BYTES..).unwrap_or_default()
}

fn header(sender: u8) -> Header {
    Header {
        cluster: cluster_hash("tidings"),
        sender: member(sender),
    }
}

/// The frozen messages, and some about the members of the targets' small world.
pub(crate) fn messages() -> Vec<Message> {
    let mut messages: Vec<_> = VECTORS.lines().filter_map(vector).collect();
    for number in [0, 1, 4, STRANGER] {
        let said = |verdict| {
            Message::Accuse(Accuse {
                member: member(number),
                generation: 100,
                incarnation: 0,
                verdict,
                accusers: vec![member(1), member(STRANGER)],
                refused: 1,
            })
        };
        messages.extend([Verdict::Suspect, Verdict::Dead, Verdict::Left].map(said));
        messages.push(Message::Alive(Alive {
            name: name(number).into(),
            generation: 101,
            incarnation: 3,
            address: address(number),
            floor: 1,
            seal: [2, 1, 2, 3, 4].into(),
            newest: 9,
            features: Features::from_bits(0b1011),
            unknown: [1, 2, 3].into(),
        }));
        for content in [None, Some(instance(1, 81, 0))] {
            let of = |instance: Instance| Content {
                unknown: [9, 2, 1, 2].into(),
                ..Content::from(Arc::new(instance.with_health(Health::warning("hot"))))
            };
            messages.push(Message::Record(Record {
                owner: member(number),
                generation: 100,
                version: 1_000,
                key: instance(1, 80, 0).key().clone(),
                content: content.map(of),
            }));
        }
        messages.push(Message::PingRequest {
            sequence: 7,
            target: member(number),
            refused: false,
        });
    }
    let range = |first, last, count| RangeDigest {
        first,
        last,
        digest: 1,
        count,
    };
    messages.push(Message::Sync(vec![range(0, u64::MAX, 0)]));
    messages.push(Message::Sync(vec![
        range(0, u64::MAX / 2, 9),
        range(1 << 63, u64::MAX, 9),
    ]));
    messages.push(Message::Have {
        first: 0,
        last: u64::MAX,
        entries: vec![(member(0), Stamp(100, 0))],
    });
    messages
}

fn vector(line: &str) -> Option<Message> {
    let (_, hex) = line.split_once(' ')?;
    let digits = (0..hex.len()).step_by(2);
    let bytes: Option<Vec<u8>> = digits
        .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
        .collect();
    let mut reader = tidings_gossip::wire::Reader::new(bytes.as_deref()?);
    let message = Message::decode(&mut reader).ok()?;
    message.filter(|_| reader.is_empty())
}

/// All frames, and by whom, of two members that meet, change what they offer, probe, and part.
pub(crate) fn conversation() -> Vec<(u8, Vec<u8>)> {
    let start = Instant::now();
    let mut engines = [engine(0, start), engine(4, start)];
    let numbers = [0, 4];
    engines[0].handle_seeds(start, &[]);
    engines[1].handle_seeds(start, &[address(0)]);
    for at in 0..40 {
        register(
            &mut engines[at % 2],
            start,
            at,
            if at == 7 { 3_000 } else { 0 },
        );
    }
    let mut frames = Vec::new();
    for step in 0..60 {
        let now = start + step * Duration::from_millis(100);
        if step == 30 {
            let key = instance(1, 80, 0).key().clone();
            engines[1].deregister(now, &key);
            engines[0].tell_seal(now, &[2, 1, 2, 3, 4]);
        }
        if step == 50 {
            engines[1].leave(now);
        }
        for at in [0, 1] {
            engines[at].handle_timeout(now);
            while let Some(transmit) = engines[at].poll_transmit() {
                let other = &mut engines[1 - at];
                match transmit.route {
                    Route::Datagram(_) => {
                        other.handle_datagram(now, address(numbers[at]), &transmit.frame);
                    }
                    Route::Link(_) | Route::Reply(_) => {
                        other.handle_link(now, LinkId(1), &transmit.frame);
                    }
                }
                frames.push((numbers[at], transmit.frame));
            }
            while engines[at].poll_event().is_some() {}
        }
    }
    // One of each shape is enough to begin with.
    let shape = |frame: &[u8]| {
        let mut reader = tidings_gossip::wire::Reader::new(messages_of(frame));
        let mut ids = Vec::new();
        while let Ok(id) = reader.u8() {
            ids.push(id);
            if reader.bytes().is_err() {
                break;
            }
        }
        ids.dedup();
        ids
    };
    let mut seen = std::collections::BTreeSet::new();
    frames.retain(|(sender, frame)| seen.insert((*sender, shape(frame))));
    frames
}
