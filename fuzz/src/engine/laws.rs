//! What holds of an engine at any time, whatever it has heard.

use tidings_api::Selector;
use tidings_gossip::engine::{EngineConfig, Route, Transmit};
use tidings_gossip::wire::limits::{BROADCASTS_MAX, LINK_FRAME_BYTES_MAX};
use tidings_gossip::wire::{Header, Message, Reader};

use super::world::Member;

/// One input makes a member send no more than so many times all that it was ever given: each item
/// to the members that a change is pushed to, twice as large as it came.
const ECHO_MAX: usize = 16;
/// Beside that: probes, acks, its own word.
const SLACK_BYTES: usize = 64 * 1024;

/// Own registrations are what the application has made of them, and what waits is bounded.
pub(super) fn check(member: &Member) {
    let engine = &member.engine;
    let queued = engine.stats().broadcasts;
    assert!(queued <= BROADCASTS_MAX, "{queued} broadcasts are queued");
    let registered: Vec<_> = engine.registrations().collect();
    let keys = registered.iter().map(|(key, _)| *key);
    assert!(
        keys.eq(member.offered.keys()),
        "{registered:?} instead of {:?}",
        member.offered.keys()
    );
    if member.left {
        return;
    }
    let view = engine.view(&Selector::All);
    for (key, superseded) in registered {
        let offered = &member.offered[key];
        let shown = view.iter().find(|instance| instance.key() == key);
        let same = shown
            .is_some_and(|shown| **shown == offered.clone().with_generation(shown.generation()));
        assert!(
            same || superseded,
            "{shown:?} is shown, {offered:?} is offered, and nobody was told"
        );
    }
}

/// What is sent can be read, fits its carrier, and is not many times what came.
pub(super) fn check_sent(member: &Member, sent: &[Transmit]) {
    let datagram_max = EngineConfig::default().datagram_bytes;
    for Transmit { route, frame } in sent {
        let max = match route {
            Route::Datagram(_) => datagram_max,
            Route::Link(_) | Route::Reply(_) => LINK_FRAME_BYTES_MAX,
        };
        assert!(frame.len() <= max, "{} bytes by {route:?}", frame.len());
        let mut reader = Reader::new(frame);
        assert!(
            Header::decode(&mut reader).is_ok(),
            "a frame without a header"
        );
        while !reader.is_empty() {
            let message = Message::decode(&mut reader);
            assert!(matches!(message, Ok(Some(_))), "{message:?} by {route:?}");
        }
    }
    let bytes: usize = sent.iter().map(|transmit| transmit.frame.len()).sum();
    let bound = SLACK_BYTES + ECHO_MAX * member.given;
    assert!(
        bytes <= bound,
        "{bytes} bytes at once, at most {bound} may be"
    );
}
