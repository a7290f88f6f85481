//! To whom links are kept.

use super::testing::{address, engine, frame, id, identity};
use super::*;

/// A member that says something of itself.
fn hear(engine: &mut Engine, now: Instant, at: usize, generation: u64, address: SocketAddr) {
    let identity = Identity {
        generation: Generation::new(generation),
        address,
        ..identity(at)
    };
    let frame = frame(id(at), &[Message::Alive(alive(&identity))]);
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

#[test]
fn the_link_follows_a_neighbour_that_starts_anew_elsewhere() {
    let start = Instant::now();
    let mut engine = engine(start, 0);
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
    let mut engine = engine(start, 0);
    for at in 1..=JOINED {
        let now = start + Duration::from_millis(at.into());
        hear(&mut engine, now, at.into(), 1, address(at.into()));
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
