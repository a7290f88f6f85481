//! A frame of anybody: decoding never panics, and what is decoded comes back from its bytes.

use tidings_gossip::wire::limits::UNKNOWN_BYTES_MAX;
use tidings_gossip::wire::{Header, Message, Reader};

use crate::seeds;

/// An id that no version has given away yet.
const UNKNOWN_ID: u8 = 250;

pub(crate) fn run(data: &[u8]) {
    let mut reader = Reader::new(data);
    if let Ok(header) = Header::decode(&mut reader) {
        let again = header.to_frame();
        assert_eq!(Header::decode(&mut Reader::new(&again)), Ok(header));
    } else {
        reader = Reader::new(data);
    }
    let (messages, whole) = decode_all(&mut reader);
    let mut bytes = Vec::new();
    for message in &messages {
        let encoded = message.to_bytes();
        let decoded = Message::decode(&mut Reader::new(&encoded));
        assert_eq!(decoded.as_ref(), Ok(&Some(message.clone())), "{encoded:?}");
        assert_eq!(
            decoded.map(|decoded| decoded.map(|again| again.to_bytes())),
            Ok(Some(encoded.clone())),
            "a message has one form"
        );
        assert_unknown_fields_survive(message, data);
        // What a newer version says between is skipped.
        bytes.extend_from_slice(&encoded);
        bytes.push(UNKNOWN_ID);
        bytes.push(u8::try_from(data.len().min(100)).unwrap_or_default());
        bytes.extend_from_slice(&data[..data.len().min(100)]);
    }
    let (again, rest) = decode_all(&mut Reader::new(&bytes));
    assert!(again == messages && rest, "{again:?} of {messages:?}");
    // Cut anywhere, the messages before the cut are the same.
    if whole && !data.is_empty() {
        let cut = usize::from(data[data.len() / 2]) % data.len();
        let mut reader = Reader::new(&data[..cut]);
        if Header::decode(&mut reader).is_ok() {
            let (before, _) = decode_all(&mut reader);
            assert_eq!(before, messages[..before.len()]);
        }
    }
}

/// The messages up to the first that is malformed, and whether there was none such.
fn decode_all(reader: &mut Reader<'_>) -> (Vec<Message>, bool) {
    let mut messages = Vec::new();
    while !reader.is_empty() {
        match Message::decode(reader) {
            Ok(message) => messages.extend(message),
            Err(_) => return (messages, false),
        }
    }
    (messages, true)
}

/// What is passed on keeps the fields of newer versions.
fn assert_unknown_fields_survive(message: &Message, data: &[u8]) {
    let extra = &data[data.len().saturating_sub(200)..];
    let mut newer = message.clone();
    match &mut newer {
        Message::Alive(alive) => {
            alive.unknown = [&*alive.unknown, extra].concat().into();
            if alive.unknown.len() > UNKNOWN_BYTES_MAX {
                return;
            }
        }
        Message::Record(record) => {
            let Some(content) = &mut record.content else {
                return;
            };
            let len = u8::try_from(extra.len().min(127)).unwrap_or_default();
            let field = [&[UNKNOWN_ID, len], &extra[..len.into()]].concat();
            content.unknown = [&*content.unknown, &field].concat().into();
            if content.unknown.len() > UNKNOWN_BYTES_MAX {
                return;
            }
        }
        _ => return,
    }
    let decoded = Message::decode(&mut Reader::new(&newer.to_bytes()));
    assert_eq!(decoded, Ok(Some(newer)));
}

/// Every message that a member of this version writes, each by itself and all together.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let messages = seeds::messages();
    let one = |message: &Message| seeds::frame(0, std::slice::from_ref(message));
    let mut frames: Vec<_> = messages.iter().map(one).collect();
    frames.push(seeds::frame(0, &messages));
    frames.extend(seeds::conversation().into_iter().map(|(_, frame)| frame));
    frames
}
