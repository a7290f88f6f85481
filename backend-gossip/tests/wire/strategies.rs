//! Messages drawn at random, within what can be sent.

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use tidings_api::{Generation, Health, Instance, ServiceName};
use tidings_gossip::Features;
use tidings_gossip::wire::Message;
use tidings_gossip::wire::content::Content;
use tidings_gossip::wire::message::{Accuse, Alive, RangeDigest, Record, Stamp, Verdict};
use tidings_gossip::wire::queries::{Answer, Query, Word};
use tidings_gossip::wire::user_events::{Head, Place, Streams, UserEvent};

use crate::observing::observing;

pub(crate) fn message() -> impl Strategy<Value = Message> {
    let number = any::<u64>;
    prop_oneof![
        (number(), number(), number()).prop_map(|(sequence, target, digest)| Message::Ping {
            sequence,
            target,
            digest
        }),
        (number(), number()).prop_map(|(sequence, digest)| Message::Ack { sequence, digest }),
        (number(), number(), any::<bool>()).prop_map(|(sequence, target, refused)| {
            Message::PingRequest {
                sequence,
                target,
                refused,
            }
        }),
        number().prop_map(|sequence| Message::Nack { sequence }),
        alive().prop_map(Message::Alive),
        accuse().prop_map(Message::Accuse),
        record().prop_map(Message::Record),
        vec(range(), 0..20).prop_map(Message::Sync),
        (number(), number(), vec((number(), stamp()), 0..40)).prop_map(|(first, last, entries)| {
            Message::Have {
                first,
                last,
                entries,
            }
        }),
        vec(number(), 0..40).prop_map(Message::Want),
        number().prop_map(|digest| Message::SyncDone { digest }),
        observing(),
        user_event().prop_map(Message::UserEvent),
        streams().prop_map(Message::Streams),
        (number(), number(), event_name(), payload()).prop_map(|(id, time_left, name, payload)| {
            Message::Query(Query {
                id,
                time_left,
                name,
                payload,
            })
        }),
        (number(), word()).prop_map(|(id, word)| Message::Answer(Answer { id, word })),
    ]
}

fn alive() -> impl Strategy<Value = Alive> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let features = any::<u64>().prop_map(Features::from_bits);
    let bytes = || vec(any::<u8>(), 0..30);
    let name = "[a-z0-9:._-]{1,128}";
    (
        name,
        numbers,
        any::<SocketAddr>(),
        bytes(),
        features,
        bytes(),
    )
        .prop_map(
            |(name, (generation, incarnation, floor, newest), address, seal, features, unknown)| {
                Alive {
                    name: name.into(),
                    generation,
                    incarnation,
                    // Flow and scope of an IPv6 address mean nothing to others.
                    address: SocketAddr::new(address.ip(), address.port()),
                    floor,
                    newest,
                    seal: seal.into(),
                    features,
                    unknown: unknown.into(),
                }
            },
        )
}

fn user_event() -> impl Strategy<Value = UserEvent> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    let unknown = vec(any::<u8>(), 0..30);
    let sender = "[a-z0-9:._-]{1,128}";
    (sender, numbers, event_name(), payload(), unknown).prop_map(
        |(sender, (generation, sequence, age), name, payload, unknown)| UserEvent {
            sender: sender.into(),
            generation,
            sequence,
            age,
            name,
            payload,
            unknown: unknown.into(),
        },
    )
}

fn streams() -> impl Strategy<Value = Streams> {
    let number = any::<u64>;
    let head = || {
        (number(), number(), number(), number()).prop_map(|(stream, generation, oldest, newest)| {
            Head {
                stream,
                generation,
                oldest,
                newest,
            }
        })
    };
    let place = (number(), number(), number()).prop_map(|(stream, generation, after)| Place {
        stream,
        generation,
        after,
    });
    let range = (number(), number(), vec(head(), 0..20));
    prop_oneof![
        any::<u32>().prop_map(Streams::Digest),
        vec((any::<u8>(), any::<u32>()), 0..20).prop_map(Streams::Parts),
        range.prop_map(|(first, last, heads)| Streams::Heads { first, last, heads }),
        vec(head(), 0..20).prop_map(Streams::Some),
        vec(place, 0..20).prop_map(Streams::Want),
    ]
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        Just(Word::Received),
        Just(Word::Declined),
        payload().prop_map(Word::Answered),
    ]
}

fn event_name() -> impl Strategy<Value = ServiceName> {
    let name = "[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?";
    name.prop_map(|name| ServiceName::new(name).unwrap())
}

fn payload() -> impl Strategy<Value = Arc<[u8]>> {
    vec(any::<u8>(), 0..300).prop_map(Into::into)
}

fn accuse() -> impl Strategy<Value = Accuse> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    let verdict = prop_oneof![
        Just(Verdict::Suspect),
        Just(Verdict::Dead),
        Just(Verdict::Left)
    ];
    (numbers, verdict, vec(any::<u64>(), 0..8), 0..9_usize).prop_map(
        |((member, generation, incarnation), verdict, accusers, refused)| Accuse {
            member,
            generation,
            incarnation,
            verdict,
            accusers,
            refused,
        },
    )
}

fn record() -> impl Strategy<Value = Record> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    (numbers, instance(), any::<bool>()).prop_map(
        |((owner, generation, version), instance, live)| Record {
            owner,
            generation,
            version,
            key: instance.key().clone(),
            content: live.then(|| Content::from(Arc::new(instance))),
        },
    )
}

fn instance() -> impl Strategy<Value = Instance> {
    let key = (
        "[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?",
        "[A-Za-z0-9._:-]{1,128}",
    );
    let address = prop_oneof![
        Just("10.0.0.7:80"),
        Just("[::1]:9"),
        Just("web-1.internal:65535")
    ];
    let name = || "[A-Za-z0-9._-]{1,128}";
    let health = prop_oneof![
        Just(Health::passing()),
        Just(Health::draining()),
        ".{0,80}".prop_map(Health::warning),
        ".{0,300}".prop_map(Health::critical),
    ];
    let ports = vec((name(), 1..=u16::MAX), 0..4);
    let metadata = vec((name(), ".{0,120}"), 0..6);
    let rest = (1..=u16::MAX, prop::option::of(name()), any::<u64>());
    (key, address, health, ports, metadata, rest).prop_map(
        |((service, id), address, health, ports, metadata, (weight, zone, generation))| {
            let mut instance = Instance::new(service, address)
                .and_then(|instance| instance.with_id(id))
                .and_then(|instance| instance.with_weight(weight))
                .unwrap()
                .with_health(health)
                .with_generation(Generation::new(generation));
            for (name, port) in ports {
                instance = instance.with_port(name, port).unwrap();
            }
            for (key, value) in metadata {
                instance = instance.with_metadata(key, value).unwrap();
            }
            match zone {
                Some(zone) => instance.with_zone(zone).unwrap(),
                None => instance,
            }
        },
    )
}

fn range() -> impl Strategy<Value = RangeDigest> {
    let number = any::<u64>;
    (number(), number(), number(), number()).prop_map(|(first, last, digest, count)| RangeDigest {
        first,
        last,
        digest,
        count,
    })
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (any::<u64>(), any::<u64>()).prop_map(|(generation, version)| Stamp(generation, version))
}
