//! Records of many and of large instances, and of members that were lost: by single engines.

use tidings_api::{ErrorKind, Health};

use super::testing::{address, engine, frame, id, identity};
use super::*;
use crate::wire::message::{Accuse, RangeDigest, Verdict};

/// An instance of 10 KB.
fn large(id: usize) -> Instance {
    let instance = Instance::new("web", "10.0.0.9:80").unwrap();
    let mut instance = instance.with_id(id.to_string()).unwrap();
    for text in 0..20 {
        let key = format!("text-{text}");
        instance = instance.with_metadata(key, "n".repeat(500)).unwrap();
    }
    instance
}

#[test]
fn who_joins_is_not_live_before_it_has_all() {
    let now = Instant::now();
    let (mut seed, mut late) = (
        engine(now, 0),
        Engine::new(now, identity(1), EngineConfig::default(), 1),
    );
    for id in 0..2_000 {
        seed.register(now, large(id)).unwrap();
    }
    late.handle_seeds(now, &[address(0)]);
    let mut answers = 0;
    while !late.is_joined() {
        let from = answers % 2;
        let [asks, answered] = match from {
            0 => [&mut late, &mut seed],
            _ => [&mut seed, &mut late],
        };
        while let Some(sent) = asks.poll_transmit() {
            if !matches!(sent.route, Route::Datagram(_)) {
                answered.handle_link(now, LinkId(1), &sent.frame);
            }
        }
        answers += 1;
        assert!(answers < 100, "it doesn't come to an end");
    }
    assert_eq!(late.view(&Selector::All).len(), 2_000);
}

#[test]
fn who_refuses_what_it_is_given_is_not_given_it_for_ever() {
    let now = Instant::now();
    let mut late = Engine::new(now, identity(1), EngineConfig::default(), 1);
    late.handle_seeds(now, &[address(0)]);
    std::iter::from_fn(|| late.poll_transmit()).count();
    late.refused = Some(now);
    let goes_on = Message::Sync(vec![RangeDigest {
        first: 0,
        last: u64::MAX,
        digest: 7,
        count: 1_000,
    }]);
    late.handle_link(
        now,
        LinkId(1),
        &frame(id(0), std::slice::from_ref(&goes_on)),
    );
    assert!(late.is_joined());
    let sent: Vec<_> = std::iter::from_fn(|| late.poll_transmit()).collect();
    let done = late.frame(&[Message::SyncDone {
        digest: late.items.digest(),
    }]);
    assert!(sent.iter().any(|sent| sent.frame == done), "{sent:?}");
    // Who asks for something itself is answered all the same.
    let opens = [Message::Alive(alive(&identity(0))), goes_on];
    late.handle_link(now, LinkId(2), &frame(id(0), &opens));
    let sent = std::iter::from_fn(|| late.poll_transmit());
    let answered = sent.filter(|sent| sent.route == Route::Reply(LinkId(2)));
    let texts: Vec<_> = answered.map(|sent| sent.frame).collect();
    assert!(!texts.is_empty() && !texts.contains(&done));
}

#[test]
fn many_registrations_are_not_pushed_at_one_moment() {
    let now = Instant::now();
    let mut engine = engine(now, 0);
    for at in 1..100 {
        let known = Message::Alive(alive(&identity(at)));
        engine.handle_datagram(now, address(at), &frame(id(at), &[known]));
    }
    let register = |engine: &mut Engine, service: &str, number: usize| {
        let instance = Instance::new(service, "10.0.0.9:80").unwrap();
        engine
            .register(now, instance.with_id(number.to_string()).unwrap())
            .unwrap();
    };
    engine.handle_timeout(now);
    std::iter::from_fn(|| engine.poll_transmit()).count();
    for number in 0..4_000 {
        register(&mut engine, "web", number);
    }
    engine.handle_timeout(now);
    let pushed = std::iter::from_fn(|| engine.poll_transmit()).count();
    assert!((99..2_000).contains(&pushed), "{pushed} frames");
    // The rest comes bit by bit, and keeps nothing of others waiting.
    let other = Message::Alive(alive(&identity(200)));
    engine.handle_datagram(now, address(1), &frame(id(1), &[other]));
    let soon = now + EngineConfig::default().push_delay;
    engine.handle_timeout(soon);
    let bytes = engine.encode_item(&ItemKey::Member(id(200)));
    let sent: Vec<_> = std::iter::from_fn(|| engine.poll_transmit()).collect();
    let passed = sent
        .iter()
        .any(|sent| sent.frame.windows(bytes.len()).any(|it| it == bytes));
    assert!(passed, "what another member says waits");
}

#[test]
fn who_has_no_room_left_can_still_change_and_withdraw() {
    let now = Instant::now();
    let (mut owner, mut other) = (engine(now, 0), engine(now, 1));
    let known = Message::Alive(alive(&identity(0)));
    other.handle_datagram(now, address(0), &frame(id(0), &[known]));
    let mut keys = Vec::new();
    for number in 0.. {
        match owner.register(now, large(number)) {
            Ok(key) => keys.push(key),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Denied);
                break;
            }
        }
    }
    let tell = |owner: &Engine, other: &mut Engine, key: &InstanceKey| {
        let place = items::Place::of(id(0), key);
        let mut frame = owner.frame(&[]);
        frame.extend(owner.encode_record(place));
        other.handle_link(now, LinkId(1), &frame);
    };
    for key in &keys {
        tell(&owner, &mut other, key);
    }
    assert_eq!(other.view(&Selector::All).len(), keys.len());
    owner.health(now, &keys[0], Health::draining()).unwrap();
    owner.deregister(now, &keys[1]);
    for key in &keys[..2] {
        tell(&owner, &mut other, key);
    }
    let view = other.view(&Selector::All);
    assert_eq!(view.len(), keys.len() - 1);
    let changed = view.iter().find(|it| it.key() == &keys[0]).unwrap();
    assert_eq!(*changed.health(), Health::draining());
}

/// What the member `m1` says of a record of its own.
fn own_record(key: &str, version: u64, live: bool) -> Message {
    let instance = Instance::new("web", "10.0.0.9:80").unwrap();
    let instance = instance.with_id(key).unwrap();
    let instance = instance.with_generation(Generation::new(100));
    let key = instance.key().clone();
    Message::Record(Record {
        owner: id(1),
        generation: 100,
        version,
        key,
        content: live.then(|| Arc::new(instance).into()),
    })
}

#[test]
fn what_was_withdrawn_meanwhile_does_not_come_back_with_its_owner() {
    let says = |newest, incarnation| {
        Message::Alive(Alive {
            newest,
            incarnation,
            ..alive(&identity(1))
        })
    };
    let accuse = |incarnation, verdict| {
        Message::Accuse(Accuse {
            member: id(1),
            generation: 100,
            incarnation,
            verdict,
            accusers: vec![id(2)],
            refused: 0,
        })
    };
    // The newest that the owner has arrives before its refutation, behind it, or the refutation doesn't.
    for case in 0..3 {
        let now = Instant::now();
        let mut engine = engine(now, 0);
        let hear = |engine: &mut Engine, message: Message| {
            engine.handle_datagram(now, address(2), &frame(id(2), &[message]));
        };
        let shown = |engine: &Engine| engine.view(&Selector::All).len();
        hear(&mut engine, Message::Alive(alive(&identity(2))));
        hear(&mut engine, says(2, 0));
        let records = [("x", 1), ("y", 2), ("y", 4)];
        let [x, y, newer] = records.map(|(key, version)| own_record(key, version, true));
        hear(&mut engine, x);
        hear(&mut engine, y);
        hear(&mut engine, accuse(0, Verdict::Dead));
        assert_eq!(shown(&engine), 0);
        match case {
            0 => {
                hear(&mut engine, newer);
                hear(&mut engine, says(4, 1));
            }
            1 => {
                hear(&mut engine, says(4, 1));
                hear(&mut engine, newer);
            }
            _ => {
                hear(&mut engine, accuse(1, Verdict::Suspect));
                hear(&mut engine, newer);
            }
        }
        assert_eq!(shown(&engine), 0, "case {case}: before anybody was asked");
        let asked = std::iter::from_fn(|| engine.poll_transmit());
        assert!(
            asked
                .map(|sent| sent.route)
                .any(|route| route == Route::Link(address(1)))
        );
        let gone = own_record("x", 3, false);
        let done = Message::SyncDone { digest: 0 };
        engine.handle_link(now, LinkId(1), &frame(id(1), &[gone, done]));
        let view = engine.view(&Selector::All);
        let ids: Vec<_> = view.iter().map(|it| it.id().as_str()).collect();
        assert_eq!(ids, ["y"], "case {case}");
    }
}
