//! The wire format: golden vectors, round trips, and bytes that mean nothing.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod features;
mod observing;
mod strategies;
mod vectors;

use proptest::prelude::*;
use tidings_gossip::wire::limits::VERSION;
use tidings_gossip::wire::{Header, Message, Reader};

use strategies::message;

proptest! {
    #[test]
    fn what_is_written_is_read(message in message()) {
        let bytes = message.to_bytes();
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(Message::decode(&mut reader), Ok(Some(message)));
        prop_assert!(reader.is_empty());
    }

    #[test]
    fn a_message_cut_short_is_an_error(message in message(), cut in 0.0..1.0_f64) {
        let bytes = message.to_bytes();
        let end = (bytes.len() as f64 * cut) as usize;
        prop_assert!(Message::decode(&mut Reader::new(&bytes[..end])).is_err());
    }

    #[test]
    fn any_bytes_are_decoded_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut reader = Reader::new(&bytes);
        while !reader.is_empty() && Message::decode(&mut reader).is_ok() {}
    }

    #[test]
    fn a_message_with_bytes_changed_is_decoded_without_a_panic(
        message in message(),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut bytes = message.to_bytes();
        *at.get_mut(&mut bytes) = to;
        let mut reader = Reader::new(&bytes);
        while !reader.is_empty() && Message::decode(&mut reader).is_ok() {}
    }
}

#[test]
fn a_message_of_a_newer_version_is_skipped() {
    let ping = Message::Ping {
        sequence: 7,
        target: 1,
        digest: 2,
    };
    let mut bytes = vec![200, 3, 1, 2, 3];
    ping.encode(&mut bytes);
    let mut reader = Reader::new(&bytes);
    assert_eq!(Message::decode(&mut reader), Ok(None));
    assert_eq!(Message::decode(&mut reader), Ok(Some(ping)));
}

#[test]
fn fields_appended_by_a_newer_version_are_ignored() {
    let nack = Message::Nack { sequence: 7 };
    let mut bytes = nack.to_bytes();
    bytes[1] += 2;
    bytes.extend_from_slice(&[0xaa, 0xbb]);
    assert_eq!(Message::decode(&mut Reader::new(&bytes)), Ok(Some(nack)));
}

#[test]
fn frames_of_another_version_or_kind_are_refused() {
    let frame = Header {
        cluster: 1,
        sender: 2,
    }
    .to_frame();
    assert_eq!(
        Header::decode(&mut Reader::new(&frame)),
        Ok(Header {
            cluster: 1,
            sender: 2
        })
    );
    for (at, byte) in [(0, 0), (1, VERSION + 1)] {
        let mut other = frame.clone();
        other[at] = byte;
        assert!(Header::decode(&mut Reader::new(&other)).is_err());
    }
    assert!(Header::decode(&mut Reader::new(&frame[..13])).is_err());
}

#[test]
fn a_ping_takes_about_thirty_bytes() {
    let mut frame = Header {
        cluster: 1,
        sender: 2,
    }
    .to_frame();
    Message::Ping {
        sequence: 1_000_000,
        target: u64::MAX,
        digest: u64::MAX,
    }
    .encode(&mut frame);
    assert!(frame.len() <= 35, "{} bytes", frame.len());
}
