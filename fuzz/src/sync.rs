//! What anybody says over a link in a sync: each answer is bounded by what is known and what came,
//! and an honest sync afterwards finds both sides agreeing.

use std::time::Instant;

use tidings_gossip::engine::{Engine, LinkId, Route};
use tidings_gossip::wire::Message;
use tidings_gossip::wire::limits::LINK_FRAME_BYTES_MAX;
use tidings_gossip::wire::message::RangeDigest;

use crate::script::{Script, put_chunk};
use crate::seeds::{self, STRANGER, engine, frame_of, register};

/// Frames of one input; what follows is left out.
const FRAMES_MAX: usize = 64;
/// Bytes of an item in a list, or of its part of the ranges that are compared, at most.
const ENTRY_BYTES: usize = 64;
/// Number of the member that asks in the end.
const ASKER: u8 = 4;
/// Frames both ways, and tries, until it has been answered.
const ROUNDS_MAX: usize = 256;
/// Of headers, of the digest of an empty range, of the end.
const SLACK_BYTES: usize = 4_096;

pub(crate) fn run(data: &[u8]) {
    let now = Instant::now();
    let mut script = Script::new(data);
    let mut asked = engine(0, now);
    for at in 0..script.byte() {
        register(&mut asked, now, usize::from(at), 0);
    }
    drain(&mut asked, |_, _| ());
    let mut known = everything(&mut asked, now);
    for _ in 0..FRAMES_MAX {
        let Some(sender) = script.next() else { break };
        let messages = script.chunk();
        let frame = frame_of(sender, messages);
        asked.handle_link(now, LinkId(1), &frame);
        // Whatever is kept has come in a frame, and is sent as two messages at most.
        known += 3 * frame.len();
        let items = asked.records() + asked.members().count();
        let mut answered = 0;
        drain(&mut asked, |route, frame| {
            assert!(frame.len() <= LINK_FRAME_BYTES_MAX, "{} bytes", frame.len());
            if matches!(route, Route::Reply(LinkId(1))) {
                answered += frame.len();
            }
        });
        let bound = known + 4 * frame.len() + ENTRY_BYTES * items + SLACK_BYTES;
        assert!(
            answered <= bound,
            "{answered} bytes, at most {bound} may be"
        );
    }
    assert_honest_sync_works(asked, now);
}

/// Whoever asks honestly gets all there is, after whatever was said before: at once, or when it asks
/// again, since its name may have been taken.
fn assert_honest_sync_works(mut asked: Engine, start: Instant) {
    let mut asker = engine(ASKER, start);
    asker.handle_seeds(start, &[seeds::address(0)]);
    let mut now = start;
    for _ in 0..ROUNDS_MAX {
        let mut quiet = true;
        drain(&mut asker, |route, frame| {
            if matches!(route, Route::Link(_) | Route::Reply(_)) {
                asked.handle_link(now, LinkId(2), frame);
                quiet = false;
            }
        });
        drain(&mut asked, |route, frame| {
            if matches!(route, Route::Reply(LinkId(2))) {
                asker.handle_link(now, LinkId(3), frame);
                quiet = false;
            }
        });
        if asker.is_joined() {
            return;
        }
        if quiet {
            now = asker.poll_timeout().expect("it asks again").max(now);
            asker.handle_timeout(now);
        }
    }
    panic!("the asker was not answered to the end");
}

/// Bytes of everything that `engine` knows.
fn everything(engine: &mut Engine, now: Instant) -> usize {
    let all = RangeDigest {
        first: 0,
        last: u64::MAX,
        digest: 1,
        count: 0,
    };
    let frame = seeds::frame(STRANGER, &[Message::Sync(vec![all])]);
    engine.handle_link(now, LinkId(1), &frame);
    let mut bytes = 0;
    drain(engine, |_, frame| bytes += frame.len());
    bytes
}

fn drain(engine: &mut Engine, mut sent: impl FnMut(Route, &[u8])) {
    while let Some(transmit) = engine.poll_transmit() {
        sent(transmit.route, &transmit.frame);
    }
    while engine.poll_event().is_some() {}
}

/// Honest syncs: those of a small registry and a large one.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for records in [0_u8, 3, 200] {
        let mut all = vec![records];
        for (sender, frame) in seeds::conversation() {
            let mut one = vec![records];
            for out in [&mut all, &mut one] {
                out.push(sender);
                put_chunk(out, seeds::messages_of(&frame));
            }
            seeds.push(one);
        }
        for message in seeds::messages() {
            all.push(STRANGER);
            put_chunk(&mut all, &message.to_bytes());
        }
        seeds.push(all);
    }
    seeds
}
