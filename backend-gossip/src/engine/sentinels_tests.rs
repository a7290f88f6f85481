//! To whom links are kept.

use super::*;

fn address(at: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1000 + at))
}

/// A member that says something of itself.
fn hear(engine: &mut Engine, now: Instant, at: u16, generation: u64, address: SocketAddr) {
    let name = format!("m{at}");
    let header = Header {
        cluster: engine.cluster,
        sender: wire::member_hash(&name),
    };
    let identity = Identity {
        name: name.into(),
        generation: Generation::new(generation),
        address,
    };
    let mut frame = header.to_frame();
    Message::Alive(alive(&identity)).encode(&mut frame);
    engine.handle_datagram(now, address, &frame);
    engine.handle_timeout(now);
}

/// The addresses that links are to be kept to, each time that they changed.
fn linked(engine: &mut Engine) -> Vec<Vec<SocketAddr>> {
    let events = std::iter::from_fn(|| engine.poll_event());
    let linked = events.filter_map(|event| match event {
        Event::Sentinels(addresses) => Some(addresses),
        _ => None,
    });
    linked.collect()
}

fn engine(now: Instant) -> Engine {
    let identity = Identity {
        name: "m0".into(),
        generation: Generation::new(1),
        address: address(0),
    };
    let mut engine = Engine::new(now, identity, EngineConfig::default(), 1);
    engine.handle_seeds(now, &[]);
    engine
}

#[test]
fn the_link_follows_a_neighbour_that_starts_anew_elsewhere() {
    let start = Instant::now();
    let mut engine = engine(start);
    hear(&mut engine, start, 1, 1, address(1));
    assert_eq!(linked(&mut engine), [[address(1)]]);
    let later = start + Duration::from_secs(1);
    hear(&mut engine, later, 1, 2, address(11));
    assert_eq!(linked(&mut engine), [[address(11)]]);
}

#[test]
fn many_that_join_at_once_change_the_links_few_times() {
    const JOINED: u16 = 100;
    let start = Instant::now();
    let mut engine = engine(start);
    for at in 1..=JOINED {
        let now = start + Duration::from_millis(at.into());
        hear(&mut engine, now, at, 1, address(at));
    }
    // The first at once; the others when the time between two changes is over.
    let first = linked(&mut engine);
    assert_eq!(first, [[address(1)]]);
    let mut changes = Vec::new();
    while let Some(due) = engine.poll_timeout()
        && due < start + Duration::from_millis(600)
    {
        engine.handle_timeout(due);
        changes.extend(linked(&mut engine).into_iter().map(|links| (due, links)));
    }
    let [(due, links)] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert!(
        *due > start + Duration::from_millis(200),
        "{:?}",
        *due - start
    );
    let chosen: Vec<_> = engine
        .sentinels
        .ids()
        .map(|id| engine.members.find(id).unwrap().address)
        .collect();
    assert_eq!(*links, chosen);
}
