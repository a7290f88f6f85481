//! The field by which members say what they understand: frozen bytes, and what a build of version 1,
//! which doesn't know it, makes of them.

use tidings_gossip::Features;
use tidings_gossip::wire::codec::{put_address, put_bytes, put_varint};
use tidings_gossip::wire::message::Alive;
use tidings_gossip::wire::{Message, Reader};

use crate::vectors::{hex, unhex};

/// What is said of itself by who understands features 0 and 7.
const ALIVE_FEATURES: &str = "051c057765622d318080f9c0c1c4820302040a0000071f0a050102008101";

fn alive() -> Alive {
    Alive {
        name: "web-1".into(),
        generation: 1_700_000_000_000_000,
        incarnation: 2,
        address: "10.0.0.7:7946".parse().unwrap(),
        floor: 5,
        seal: [2].into(),
        newest: 0,
        features: Features::from_bits(0b1000_0001),
        unknown: [].into(),
    }
}

/// Reads what version 1 knows of an `Alive` and writes it again, the rest untouched, as that build does.
fn passed_on_by_version_1(bytes: &[u8]) -> Vec<u8> {
    let mut message = Reader::new(bytes);
    let id = message.u8().unwrap();
    let mut body = Reader::new(message.bytes().unwrap());
    let mut out = Vec::new();
    put_bytes(&mut out, body.text().unwrap().as_bytes());
    put_varint(&mut out, body.varint().unwrap());
    put_varint(&mut out, body.varint().unwrap());
    put_address(&mut out, body.address().unwrap());
    put_varint(&mut out, body.varint().unwrap());
    let seal = match body.is_empty() {
        true => &[],
        false => body.bytes().unwrap(),
    };
    let newest = match body.is_empty() {
        true => 0,
        false => body.varint().unwrap(),
    };
    let unknown = body.rest();
    if !seal.is_empty() || newest > 0 || !unknown.is_empty() {
        put_bytes(&mut out, seal);
    }
    if newest > 0 || !unknown.is_empty() {
        put_varint(&mut out, newest);
    }
    out.extend_from_slice(unknown);
    let mut message = vec![id];
    put_bytes(&mut message, &out);
    message
}

fn read(bytes: &[u8]) -> Alive {
    match Message::decode(&mut Reader::new(bytes)) {
        Ok(Some(Message::Alive(alive))) => alive,
        other => panic!("{other:?}"),
    }
}

#[test]
fn features_are_frozen() {
    let bytes = Message::Alive(alive()).to_bytes();
    assert_eq!(hex(&bytes), ALIVE_FEATURES);
    assert_eq!(read(&unhex(ALIVE_FEATURES)), alive());
}

#[test]
fn who_understands_nothing_more_writes_the_bytes_of_version_1() {
    let silent = Alive {
        features: Features::NONE,
        ..alive()
    };
    let bytes = Message::Alive(silent).to_bytes();
    assert_eq!(
        hex(&bytes),
        "0519057765622d318080f9c0c1c4820302040a0000071f0a050102",
        "the vector of version 1"
    );
}

#[test]
fn version_1_passes_the_features_on() {
    for newest in [0, 7] {
        for seal in [&[][..], &[2, 1]] {
            for unknown in [&[][..], &[9, 9, 9]] {
                let said = Alive {
                    newest,
                    seal: seal.into(),
                    unknown: unknown.into(),
                    ..alive()
                };
                let bytes = Message::Alive(said.clone()).to_bytes();
                assert_eq!(read(&passed_on_by_version_1(&bytes)), said);
            }
        }
    }
}
