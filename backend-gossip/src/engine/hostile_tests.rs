//! Input that no member of this library sends.

use tidings_api::InstanceId;

use super::testing::{id, identity};
use super::*;
use crate::wire::limits::{COUNTER_MAX, LINK_FRAME_BYTES_MAX, MEMBERS_MAX};
use crate::wire::message::{Accuse, RangeDigest, Verdict};
use crate::wire::user_events::UserEvent as Wire;

const STRANGER: u64 = 77;

fn engine(now: Instant) -> Engine {
    testing::engine(now, 0)
}

fn engine_named(now: Instant, name: &str) -> Engine {
    let identity = Identity {
        name: name.into(),
        ..identity(0)
    };
    let mut engine = Engine::new(now, identity, EngineConfig::default(), 1);
    engine.handle_seeds(now, &[]);
    engine
}

fn register(engine: &mut Engine, now: Instant, id: &str) -> InstanceKey {
    let instance = Instance::new("web", "10.0.0.9:80").unwrap();
    engine.register(now, instance.with_id(id).unwrap()).unwrap()
}

fn stranger() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 66], 66))
}

/// A frame of the cluster, from somebody nobody knows.
fn frame(messages: &[Message]) -> Vec<u8> {
    testing::frame(STRANGER, messages)
}

fn sent(engine: &mut Engine) -> Vec<Transmit> {
    std::iter::from_fn(|| engine.poll_transmit()).collect()
}

fn everything(count: u64) -> RangeDigest {
    RangeDigest {
        first: 0,
        last: u64::MAX,
        digest: 1,
        count,
    }
}

#[test]
fn forged_records_are_corrected_at_a_bounded_rate() {
    let start = Instant::now();
    let mut engine = engine(start);
    let key = register(&mut engine, start, "a");
    let mut version = 0;
    let mut corrected = |engine: &mut Engine, now, count| {
        let forge = |_: &u32| {
            version += 10;
            let forged = Record {
                owner: engine.me,
                generation: 100,
                version,
                key: key.clone(),
                content: None,
            };
            engine.handle_link(now, LinkId(1), &frame(&[Message::Record(forged)]));
            engine.version > version
        };
        (0..count).filter(forge).count()
    };
    let burst = merge::CORRECTIONS_BURST as usize;
    assert_eq!(corrected(&mut engine, start, 10_000), burst);
    let second = start + Duration::from_secs(1);
    assert_eq!(corrected(&mut engine, second, 10_000), 100);
}

#[test]
fn a_sync_by_datagram_is_not_answered() {
    let now = Instant::now();
    let mut engine = engine(now);
    for id in 0..1_000 {
        register(&mut engine, now, &id.to_string());
    }
    sent(&mut engine);
    for message in [
        Message::Sync(vec![everything(0)]),
        Message::Have {
            first: 0,
            last: u64::MAX,
            entries: Vec::new(),
        },
    ] {
        engine.handle_datagram(now, stranger(), &frame(&[message]));
        assert_eq!(sent(&mut engine), []);
    }
    assert_eq!(engine.stats().foreign, 2);
}

#[test]
fn ranges_that_overlap_cost_no_more_than_one() {
    let now = Instant::now();
    let mut engine = engine(now);
    for id in 0..1_000 {
        register(&mut engine, now, &id.to_string());
    }
    sent(&mut engine);
    let many = frame(&[Message::Sync(vec![everything(9); 1_000])]);
    engine.handle_link(now, LinkId(1), &many);
    let bytes: usize = sent(&mut engine).iter().map(|sent| sent.frame.len()).sum();
    assert!((1..2_000).contains(&bytes), "{bytes} bytes");
}

#[test]
fn every_answer_fits_a_frame_however_large_the_difference() {
    let now = Instant::now();
    let mut engine = engine(now);
    let service = ServiceName::new("web").unwrap();
    for at in 0..300_000 {
        let id = InstanceId::new(format!("{at:06}")).unwrap();
        let key = InstanceKey::new(service.clone(), id);
        engine.store(now, engine.me, &key, 1, None);
    }
    let width = u64::MAX / 4_096;
    let ranges = (0..4_096).map(|at| RangeDigest {
        first: at * width,
        last: at * width + (width - 1),
        ..everything(60)
    });
    let whole = Message::Sync(ranges.collect());
    engine.handle_link(now, LinkId(1), &frame(&[whole]));
    let sizes = sent(&mut engine);
    let largest = sizes.iter().map(|sent| sent.frame.len()).max().unwrap();
    assert!(largest <= LINK_FRAME_BYTES_MAX, "{largest} bytes");
}

#[test]
fn a_ping_of_a_stranger_gets_its_ack_and_no_more() {
    let now = Instant::now();
    let mut engine = engine(now);
    let other = Alive {
        name: "m1".into(),
        ..alive(&engine.identity)
    };
    engine.handle_datagram(now, stranger(), &frame(&[Message::Alive(other)]));
    for id in 0..100 {
        register(&mut engine, now, &id.to_string());
    }
    sent(&mut engine);
    let queued = engine.broadcasts.len();
    let target = engine.members.me().start(engine.me);
    let ping = Message::Ping {
        sequence: 1,
        target,
        digest: 0,
    };
    for _ in 0..100 {
        engine.handle_datagram(now, stranger(), &frame(std::slice::from_ref(&ping)));
    }
    let acks = sent(&mut engine);
    assert_eq!(acks.len(), 100);
    assert!(acks.iter().all(|ack| ack.frame.len() < 40));
    assert_eq!(engine.broadcasts.len(), queued);
}

#[test]
fn the_highest_counters_are_answered_and_overflow_nothing() {
    let now = Instant::now();
    let limit = 1 << 60;
    for (generation, incarnation) in [
        (100, u64::MAX),
        (u64::MAX, 0),
        (u64::MAX, u64::MAX),
        (100, limit),
        (100, limit - 1),
        (limit, 0),
        (limit, limit),
    ] {
        let mut engine = engine(now);
        let key = register(&mut engine, now, "a");
        for verdict in [Verdict::Suspect, Verdict::Dead, Verdict::Left] {
            let accuse = Accuse {
                member: engine.me,
                generation,
                incarnation,
                verdict,
                accusers: vec![STRANGER],
                refused: usize::MAX,
            };
            engine.handle_datagram(now, stranger(), &frame(&[Message::Accuse(accuse)]));
        }
        let former = Alive {
            generation,
            incarnation,
            floor: u64::MAX,
            newest: u64::MAX,
            ..alive(&engine.identity)
        };
        engine.handle_datagram(now, stranger(), &frame(&[Message::Alive(former)]));
        engine.raise_floor(now, 0);
        let mut witness = Engine::new(now, identity(2), EngineConfig::default(), 2);
        let forged = Accuse {
            member: engine.me,
            generation,
            incarnation,
            verdict: Verdict::Left,
            accusers: Vec::new(),
            refused: 0,
        };
        // The witness hears the member, then the forgery, then what the member says to that.
        let word = alive(&engine.identity);
        witness.handle_datagram(now, stranger(), &frame(&[Message::Alive(word)]));
        witness.handle_datagram(now, stranger(), &frame(&[Message::Accuse(forged.clone())]));
        engine.handle_datagram(now, stranger(), &frame(&[Message::Accuse(forged)]));
        let before = engine.members.me().incarnation;
        engine.raise_floor(now, 0);
        let word = engine.members.me().to_alive();
        witness.handle_datagram(now, stranger(), &frame(&[Message::Alive(word.clone())]));
        let known = witness
            .members
            .find(engine.me)
            .map(|seen| (seen.generation, seen.incarnation));
        assert_eq!(
            known,
            Some((word.generation, word.incarnation)),
            "after {before}"
        );
        let seen = witness.members.find(engine.me).unwrap();
        assert!(seen.is_present(), "{generation} {incarnation}: {seen:?}");
        assert!(engine.registry.find(engine.me, &key).is_some());
    }
}

#[test]
fn no_counter_beyond_the_highest_is_taken_in() {
    let now = Instant::now();
    for beyond in [0, 1] {
        let (mut engine, highest) = (engine(now), COUNTER_MAX + beyond);
        let mut hear = |message| engine.handle_link(now, LinkId(1), &frame(&[message]));
        for (at, generation, incarnation) in [(1, highest, 0), (2, 100, highest), (3, 100, 0)] {
            hear(Message::Alive(Alive {
                generation,
                incarnation,
                ..alive(&identity(at))
            }));
        }
        let key = InstanceKey::new(
            ServiceName::new("web").unwrap(),
            InstanceId::new("a").unwrap(),
        );
        hear(Message::Record(Record {
            owner: id(3),
            generation: 100,
            version: highest,
            key: key.clone(),
            content: None,
        }));
        hear(Message::Accuse(Accuse {
            member: id(3),
            generation: 100,
            incarnation: highest,
            verdict: Verdict::Dead,
            accusers: Vec::new(),
            refused: 0,
        }));
        let known = [1, 2].map(|at| engine.members.find(id(at)).is_some());
        let dead = engine.members.find(id(3)).unwrap().state == MemberState::Dead;
        let record = engine.registry.find(id(3), &key).is_some();
        assert_eq!(
            (known, dead, record),
            ([beyond == 0; 2], beyond == 0, beyond == 0)
        );
    }
}

#[test]
fn whoever_is_there_finds_room_among_the_invented() {
    let now = Instant::now();
    let mut engine = engine(now);
    let invented = |at: usize| {
        let (high, low) = (at / 60_000, at % 60_000);
        Alive {
            name: format!("invented-{at}").into(),
            address: SocketAddr::from(([10, 9, 9, high as u8], 1_000 + low as u16)),
            ..alive(&identity(1))
        }
    };
    for first in (0..MEMBERS_MAX).step_by(1_000) {
        let words = (first..first + 1_000).map(|at| Message::Alive(invented(at)));
        engine.handle_link(now, LinkId(1), &frame(&words.collect::<Vec<_>>()));
        sent(&mut engine);
    }
    assert_eq!(engine.members.len(), MEMBERS_MAX);
    let newcomer = [Message::Alive(alive(&identity(2)))];
    // Others may speak of it in vain.
    engine.handle_link(now, LinkId(1), &frame(&newcomer));
    assert!(engine.members.find(id(2)).is_none());
    let own = testing::frame(id(2), &newcomer);
    engine.handle_datagram(now, stranger(), &own);
    assert!(engine.members.find(id(2)).is_none(), "from elsewhere");
    engine.handle_datagram(now, identity(2).address, &own);
    assert!(engine.members.find(id(2)).is_some());
    assert!(engine.members.find(engine.me).is_some());
}

#[test]
fn nobody_else_is_at_the_own_address() {
    let now = Instant::now();
    let mut engine = engine(now);
    for (at, address) in [(1, engine.identity.address), (2, identity(2).address)] {
        let other = Alive {
            address,
            ..alive(&identity(at))
        };
        engine.handle_link(now, LinkId(1), &frame(&[Message::Alive(other)]));
    }
    assert!(engine.members.find(id(1)).is_none());
    assert!(engine.members.find(id(2)).is_some());
}

/// Sends a datagram of one message over and over, and answers how many bytes went and how many came back.
fn ask(engine: &mut Engine, message: &Message, times: usize) -> (usize, usize) {
    let datagram = frame(&vec![message.clone(); times]);
    engine.handle_datagram(Instant::now(), stranger(), &datagram);
    let answered = sent(engine).into_iter().map(|sent| sent.frame.len()).sum();
    (datagram.len(), answered)
}

#[test]
fn a_stranger_gets_no_more_back_than_it_sends() {
    let now = Instant::now();
    // What it says of itself is longer than what asks for it.
    let mut engine = engine_named(now, &"m".repeat(60));
    let other = Alive {
        name: "m1".into(),
        address: SocketAddr::from(([10, 0, 0, 2], 1000)),
        ..alive(&engine.identity)
    };
    let other_id = wire::member_hash(&other.name);
    engine.handle_link(now, LinkId(1), &frame(&[Message::Alive(other)]));
    let accuse = Accuse {
        member: engine.me,
        generation: 1,
        incarnation: 0,
        verdict: Verdict::Suspect,
        accusers: Vec::new(),
        refused: 0,
    };
    engine.handle_datagram(now, stranger(), &frame(&[Message::Accuse(accuse)]));
    sent(&mut engine);
    let ping = |target| Message::Ping {
        sequence: 1,
        target,
        digest: 0,
    };
    let request = Message::PingRequest {
        sequence: 1,
        target: other_id,
        refused: true,
    };
    let itself = engine.members.me().start(engine.me);
    for (message, times) in [ping(1), ping(itself), request]
        .iter()
        .flat_map(|message| [(message, 1), (message, 50)])
    {
        let (asked, answered) = ask(&mut engine, message, times);
        assert!(
            answered <= asked,
            "{answered} bytes for {asked}: {message:?}"
        );
    }
    assert!(engine.stats().unanswered > 100);
}

#[test]
fn a_datagram_is_answered_twice_at_most_whoever_sends_it() {
    let now = Instant::now();
    let mut engine = engine(now);
    let known = Alive {
        name: "m1".into(),
        address: stranger(),
        ..alive(&engine.identity)
    };
    let sender = wire::member_hash(&known.name);
    let introduction = testing::frame(sender, &[Message::Alive(known)]);
    engine.handle_datagram(now, stranger(), &introduction);
    for id in 0..100 {
        register(&mut engine, now, &id.to_string());
    }
    sent(&mut engine);
    let target = engine.members.me().start(engine.me);
    let ping = Message::Ping {
        sequence: 1,
        target,
        digest: 0,
    };
    let request = Message::PingRequest {
        sequence: 1,
        target: sender,
        refused: true,
    };
    for message in [ping, request] {
        let mut datagram = testing::frame(sender, &[]);
        while datagram.len() < 1_300 {
            message.encode(&mut datagram);
        }
        engine.handle_datagram(now, stranger(), &datagram);
        let datagrams = |sent: &Transmit| matches!(sent.route, Route::Datagram(_));
        let answers = sent(&mut engine).iter().filter(|s| datagrams(s)).count();
        assert!((1..=2).contains(&answers), "{answers} answers: {message:?}");
    }
}

#[test]
fn a_name_with_control_characters_is_refused() {
    let now = Instant::now();
    let mut engine = engine(now);
    for name in [
        "m1\nINFO joined",
        "m1\x1b[2J",
        "m1\u{202e}",
        "m 1",
        "\0",
        "m1\u{85}",
    ] {
        let named = Alive {
            name: name.into(),
            ..alive(&engine.identity)
        };
        let event = Wire {
            sender: name.into(),
            generation: 1,
            sequence: 1,
            age: 0,
            name: ServiceName::new("deploy").unwrap(),
            payload: [1].into(),
            unknown: Box::default(),
        };
        for message in [Message::Alive(named), Message::UserEvent(event)] {
            let malformed = engine.stats().malformed;
            engine.handle_link(now, LinkId(1), &frame(&[message]));
            assert_eq!(engine.stats().malformed, malformed + 1, "{name:?}");
        }
    }
    assert_eq!(engine.members.len(), 1);
    assert_eq!(engine.stats().events.told, 0);
}

#[test]
fn a_new_start_keeps_what_was_said_of_the_keyring() {
    let now = Instant::now();
    let mut engine = engine(now);
    engine.tell_seal(now, &[1, 2, 3]);
    let accuse = Accuse {
        member: engine.me,
        generation: 200,
        incarnation: 0,
        verdict: Verdict::Left,
        accusers: Vec::new(),
        refused: 0,
    };
    engine.handle_datagram(now, stranger(), &frame(&[Message::Accuse(accuse)]));
    let word = engine.members.me().to_alive();
    assert_eq!((word.generation, &*word.seal), (201, &[1, 2, 3][..]));
    assert_eq!(word.features, Features::OURS);
}

#[test]
fn a_member_does_not_check_or_accuse_itself() {
    let mut now = Instant::now();
    let mut engine = engine(now);
    let ask = Message::PingRequest {
        sequence: 1,
        target: engine.me,
        refused: true,
    };
    engine.handle_datagram(now, stranger(), &frame(&[ask]));
    for _ in 0..2 {
        engine.handle_link_failure(now, engine.identity.address, LinkFailure::Refused);
    }
    assert!(engine.checks.is_empty(), "{:?}", engine.checks);
    let end = now + Duration::from_secs(3);
    while let Some(due) = engine.poll_timeout().filter(|due| *due <= end) {
        now = due;
        engine.handle_timeout(now);
    }
    assert_eq!(engine.members.me().state, MemberState::Alive);
    assert_eq!((engine.stats.suspicions, engine.stats.deaths), (0, 0));
}
