//! Who understands what.

use super::testing::{frame, identity};
use super::*;

fn said(name: &str, features: Features) -> Message {
    Message::Alive(Alive {
        name: name.into(),
        generation: 1,
        incarnation: 0,
        address: SocketAddr::from(([10, 0, 0, 9], name.len() as u16)),
        floor: 0,
        newest: 0,
        seal: Box::default(),
        features,
        unknown: Box::default(),
    })
}

fn hear(engine: &mut Engine, now: Instant, messages: &[Message]) {
    engine.handle_link(now, LinkId(1), &frame(77, messages));
}

#[test]
fn a_feature_is_understood_once_the_last_old_member_is_gone() {
    let now = Instant::now();
    let config = EngineConfig {
        features: Features::from_bits(0b11),
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(now, identity(0), config, 1);
    engine.handle_seeds(now, &[]);
    assert_eq!(engine.understood(), Features::from_bits(0b11), "alone");

    let newer = said("newer", Features::from_bits(0b111));
    hear(&mut engine, now, &[newer]);
    assert_eq!(engine.understood(), Features::from_bits(0b11));
    hear(&mut engine, now, &[said("old", Features::NONE)]);
    assert_eq!(engine.understood(), Features::NONE);
    assert_eq!(engine.lacking(Features::STATED), 1);
    let by = |engine: &Engine, name| engine.understood_by(wire::member_hash(name));
    assert_eq!(by(&engine, "newer").bits(), 0b111);
    assert_eq!(by(&engine, "old"), Features::NONE);
    assert_eq!(by(&engine, "nobody"), Features::NONE);

    let left = wire::message::Accuse {
        member: wire::member_hash("old"),
        generation: 1,
        incarnation: 0,
        verdict: wire::message::Verdict::Left,
        accusers: Vec::new(),
        refused: 0,
    };
    hear(&mut engine, now, &[Message::Accuse(left)]);
    assert_eq!(engine.understood(), Features::from_bits(0b11));
    let shown = engine.members().find(|m| &*m.identity.name == "newer");
    assert_eq!(shown.map(|m| m.features.bits()), Some(0b111));
}
