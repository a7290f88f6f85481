//! Frozen bytes of the messages between observers and members, drawn messages of them, and their bounds.

use std::fmt::Write;
use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use tidings_api::Selector;
use tidings_gossip::wire::limits::{
    OBSERVED_ADDRESSES_MAX, OBSERVED_OWNERS_ASKED_MAX, OBSERVED_REASON_BYTES_MAX,
};
use tidings_gossip::wire::message::Stamp;
use tidings_gossip::wire::observe::{Observing, Owner, Standing, Vouch};
use tidings_gossip::wire::{Message, Reader, member_hash};

use crate::vectors::{hex, unhex};

const VECTORS: &str = include_str!("v1-observing.txt");

/// One message of each kind, by the name it has in the file.
fn messages() -> Vec<(&'static str, Observing)> {
    let payments = || Selector::Service("payments".parse().unwrap());
    let vouch = |standing| {
        Observing::Vouch(Vouch {
            standing,
            crash_bound_ms: 5_500,
        })
    };
    vec![
        (
            "subscribe",
            Observing::Subscribe {
                selector: payments(),
                digest: 0x0102_0304_0506_0708,
            },
        ),
        (
            "subscribe-all",
            Observing::Subscribe {
                selector: Selector::All,
                digest: 0,
            },
        ),
        ("unsubscribe", Observing::Unsubscribe(payments())),
        (
            "report",
            Observing::Report {
                frames: 300,
                bytes: 65_536,
                vouch: true,
                members: false,
            },
        ),
        ("ask", Observing::Ask(vec![1, member_hash("web-1")])),
        ("vouch-live", vouch(Standing::Live)),
        (
            "vouch-stale",
            vouch(Standing::Stale {
                for_ms: 1_000,
                reason: "no other member is heard".to_owned(),
            }),
        ),
        ("vouch-full", vouch(Standing::Full)),
        (
            "complete",
            Observing::Complete {
                selector: payments(),
                same: true,
            },
        ),
        (
            "owner",
            Observing::Owner(Owner {
                id: member_hash("web-1"),
                stamp: Stamp(1_700_000_000_000_000, 9),
                floor: 5,
                newest: 300,
            }),
        ),
        ("owner-unknown", Observing::Owner(Owner::unknown(7))),
        (
            "members",
            Observing::Members(vec![
                "10.0.0.7:7946".parse().unwrap(),
                "[2001:db8::1]:1".parse().unwrap(),
            ]),
        ),
    ]
}

#[test]
fn messages_of_observers_are_frozen() {
    let mut written = String::new();
    for (name, message) in messages() {
        let bytes = Message::Observing(message).to_bytes();
        writeln!(written, "{name} {}", hex(&bytes)).unwrap();
    }
    assert_eq!(written, VECTORS, "the bytes of version 1 have changed");
}

#[test]
fn messages_of_observers_are_read() {
    for ((name, message), line) in messages().into_iter().zip(VECTORS.lines()) {
        let bytes = unhex(line.strip_prefix(&format!("{name} ")).expect(name));
        let read = Message::decode(&mut Reader::new(&bytes));
        assert_eq!(read, Ok(Some(Message::Observing(message))), "{name}");
    }
}

#[test]
fn more_than_a_bound_is_malformed() {
    let address: SocketAddr = "10.0.0.7:7946".parse().unwrap();
    let reason = "x".repeat(OBSERVED_REASON_BYTES_MAX + 1);
    let stale = Standing::Stale { for_ms: 0, reason };
    for message in [
        Observing::Ask(vec![7; OBSERVED_OWNERS_ASKED_MAX + 1]),
        Observing::Members(vec![address; OBSERVED_ADDRESSES_MAX + 1]),
        Observing::Vouch(Vouch {
            standing: stale,
            crash_bound_ms: 0,
        }),
    ] {
        let bytes = Message::Observing(message.clone()).to_bytes();
        let read = Message::decode(&mut Reader::new(&bytes));
        assert!(read.is_err(), "{message:?}");
    }
}

#[test]
fn a_reason_with_control_characters_is_malformed() {
    for reason in ["cut off\nERROR all is lost", "\x1b[2J", "\0", "\u{85}"] {
        let reason = reason.to_owned();
        let bytes = Message::Observing(Observing::Vouch(Vouch {
            standing: Standing::Stale { for_ms: 0, reason },
            crash_bound_ms: 0,
        }))
        .to_bytes();
        let read = Message::decode(&mut Reader::new(&bytes));
        assert!(read.is_err(), "{read:?}");
    }
}

pub(crate) fn observing() -> impl Strategy<Value = Message> {
    let number = any::<u64>;
    let selector = || {
        prop_oneof![
            Just(Selector::All),
            "[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?"
                .prop_map(|name| Selector::Service(name.parse().unwrap())),
        ]
    };
    let standing = prop_oneof![
        Just(Standing::Live),
        Just(Standing::Full),
        (number(), "\\PC{0,120}").prop_map(|(for_ms, reason)| Standing::Stale { for_ms, reason }),
    ];
    let address = any::<SocketAddr>().prop_map(|address| (address.ip(), address.port()).into());
    prop_oneof![
        (selector(), number())
            .prop_map(|(selector, digest)| Observing::Subscribe { selector, digest }),
        selector().prop_map(Observing::Unsubscribe),
        (number(), number(), any::<bool>(), any::<bool>()).prop_map(
            |(frames, bytes, vouch, members)| Observing::Report {
                frames,
                bytes,
                vouch,
                members
            }
        ),
        vec(number(), 0..40).prop_map(Observing::Ask),
        (standing, number()).prop_map(|(standing, crash_bound_ms)| {
            Observing::Vouch(Vouch {
                standing,
                crash_bound_ms,
            })
        }),
        (selector(), any::<bool>())
            .prop_map(|(selector, same)| Observing::Complete { selector, same }),
        (number(), number(), number(), (number(), number())).prop_map(
            |(id, floor, newest, stamp)| Observing::Owner(Owner {
                id,
                stamp: Stamp(stamp.0, stamp.1),
                floor,
                newest
            })
        ),
        vec(address, 0..OBSERVED_ADDRESSES_MAX).prop_map(Observing::Members),
    ]
    .prop_map(Message::Observing)
}
