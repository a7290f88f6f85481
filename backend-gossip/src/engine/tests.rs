//! Two and three engines on a perfect network: the plain course of things. Everything that goes
//! wrong is the simulator's.

use tidings_api::{ErrorKind, Health, Removal};

use super::testing::{address, engine, frame, id, identity};
use super::*;
use crate::wire::limits::{COUNTER_MAX, RECORDS_PER_OWNER_MAX, REGISTRATIONS_MAX};
use crate::wire::message::{Accuse, Verdict};

/// Engines that hear each other at once, on a clock of their own.
struct Cluster {
    now: Instant,
    engines: Vec<Engine>,
    events: Vec<Vec<Event>>,
    /// Engines whose process is gone: datagrams vanish, links are refused.
    killed: BTreeSet<usize>,
}

impl Cluster {
    fn new(count: usize) -> Self {
        let now = Instant::now();
        let engine = |at: usize| Engine::new(now, identity(at), EngineConfig::default(), at as u64);
        let engines: Vec<_> = (0..count).map(engine).collect();
        let events = vec![Vec::new(); count];
        let mut cluster = Self {
            now,
            engines,
            events,
            killed: BTreeSet::new(),
        };
        for at in 0..count {
            cluster.engines[at].handle_seeds(now, &[address(0)]);
        }
        cluster.run(Duration::from_millis(100));
        cluster
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.deliver();
            let due = (0..self.engines.len())
                .filter(|at| !self.killed.contains(at))
                .filter_map(|at| Some((self.engines[at].poll_timeout()?, at)))
                .min();
            match due {
                Some((due, at)) if due <= end => {
                    self.now = self.now.max(due);
                    self.engines[at].handle_timeout(self.now);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Links are named by the pair of their ends.
    fn deliver(&mut self) {
        let count = self.engines.len();
        for round in 0.. {
            assert!(round < 1_000, "frames answer frames for ever");
            let mut quiet = true;
            for from in 0..count {
                while let Some(event) = self.engines[from].poll_event() {
                    self.events[from].push(event);
                }
                if self.killed.contains(&from) {
                    continue;
                }
                while let Some(Transmit { route, frame }) = self.engines[from].poll_transmit() {
                    quiet = false;
                    let to = match route {
                        Route::Datagram(to) | Route::Link(to) => usize::from(to.port()) - 1000,
                        Route::Reply(LinkId(pair)) => usize::try_from(pair).unwrap() % count,
                    };
                    let now = self.now;
                    match route {
                        Route::Link(to)
                            if self.killed.contains(&(usize::from(to.port()) - 1000)) =>
                        {
                            self.engines[from].handle_link_failure(now, to, LinkFailure::Refused);
                        }
                        _ if self.killed.contains(&to) => {}
                        Route::Datagram(_) => {
                            self.engines[to].handle_datagram(now, address(from), &frame);
                        }
                        Route::Link(_) | Route::Reply(_) => {
                            let link = LinkId((to * count + from) as u64);
                            self.engines[to].handle_link(now, link, &frame);
                        }
                    }
                }
            }
            if quiet {
                break;
            }
        }
    }

    fn seen(&self, at: usize) -> Vec<String> {
        let view = self.engines[at].view(&Selector::All);
        view.iter()
            .map(|instance| instance.key().to_string())
            .collect()
    }

    fn register(&mut self, at: usize, service: &str, id: &str) -> InstanceKey {
        let instance = Instance::new(service, "10.0.0.9:80")
            .unwrap()
            .with_id(id)
            .unwrap();
        self.engines[at].register(self.now, instance).unwrap()
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn members_join_and_see_what_the_others_offer() {
    let mut cluster = Cluster::new(3);
    cluster.register(0, "web", "a");
    cluster.register(2, "web", "c");
    cluster.run(Duration::from_millis(10));
    for at in 0..3 {
        assert_eq!(cluster.seen(at), ["web/a", "web/c"], "at {at}");
        assert!(cluster.engines[at].freshness().is_live());
        assert_eq!(cluster.engines[at].digest(), cluster.engines[0].digest());
        assert!(cluster.events[at].contains(&Event::Joined));
    }
}

#[test]
fn a_late_joiner_gets_everything() {
    let mut late = Cluster::new(3);
    // Starts anew after the registrations.
    late.engines[2] = Engine::new(
        late.now,
        Identity {
            generation: Generation::new(200),
            ..late.engines[2].identity().clone()
        },
        EngineConfig::default(),
        9,
    );
    for id in 0..500 {
        late.register(0, "web", &format!("i{id}"));
    }
    late.run(seconds(2));
    late.engines[2].handle_seeds(late.now, &[address(0)]);
    late.run(Duration::from_millis(50));
    assert_eq!(late.seen(2).len(), 500);
    assert_eq!(late.engines[2].digest(), late.engines[0].digest());
}

#[test]
fn deregistering_and_leaving_are_seen_at_once() {
    let mut cluster = Cluster::new(3);
    let key = cluster.register(0, "web", "a");
    cluster.register(1, "web", "b");
    // Until nothing of it is on its way that would come back to its owner, and be corrected.
    cluster.run(seconds(20));
    assert_eq!(
        cluster.engines[0].deregister(cluster.now, &key),
        Removal::Removed
    );
    assert_eq!(
        cluster.engines[0].deregister(cluster.now, &key),
        Removal::Absent
    );
    cluster.run(Duration::from_millis(10));
    assert_eq!(cluster.seen(2), ["web/b"]);
    let now = cluster.now;
    cluster.engines[1].leave(now);
    cluster.run(Duration::from_millis(10));
    assert!(cluster.events[1].contains(&Event::Left));
    assert!(cluster.seen(0).is_empty() && cluster.seen(2).is_empty());
}

/// Who is sent a record, and how often, before time goes on.
fn told_of(engine: &mut Engine, service: &str) -> Vec<SocketAddr> {
    let sent = std::iter::from_fn(|| engine.poll_transmit());
    let is_told = |frame: &[u8]| {
        let text = service.as_bytes();
        frame.windows(text.len()).any(|bytes| bytes == text)
    };
    let told = sent.filter(|sent| is_told(&sent.frame));
    told.map(|sent| match sent.route {
        Route::Datagram(to) | Route::Link(to) => to,
        Route::Reply(link) => unreachable!("nobody has asked on {link:?}"),
    })
    .collect()
}

#[test]
fn an_owner_tells_each_of_the_others_and_those_forward_to_two() {
    const COUNT: usize = 12;
    let mut cluster = Cluster::new(COUNT);
    cluster.run(seconds(20));
    let key = cluster.register(3, "orders", "a");
    let now = cluster.now;
    cluster.engines[3].handle_timeout(now);
    let mut told = told_of(&mut cluster.engines[3], "orders");
    told.sort_unstable();
    let others = (0..COUNT).filter(|at| *at != 3);
    assert_eq!(told, others.map(address).collect::<Vec<_>>());

    // One of them forwards it, once the others have had time to hear of it.
    let owner = &cluster.engines[3];
    let record = owner.encode_item(&ItemKey::record(owner.me, &key));
    let frame = [owner.frame(&[]), record.clone()].concat();
    let engine = &mut cluster.engines[5];
    engine.handle_datagram(now, address(3), &frame);
    assert_eq!(engine.view(&Selector::All).len(), 1);
    engine.handle_timeout(now + Duration::from_millis(9));
    assert!(told_of(engine, "orders").is_empty(), "it didn't wait");
    engine.handle_timeout(now + Duration::from_millis(31));
    assert_eq!(told_of(engine, "orders").len(), 2);
    assert!(engine.poll_timeout().unwrap() > now + Duration::from_millis(31));
    // Who has it from somebody else can't know who else was told.
    let frame = [cluster.engines[7].frame(&[]), record].concat();
    let engine = &mut cluster.engines[6];
    engine.handle_datagram(now, address(7), &frame);
    engine.handle_timeout(now);
    assert_eq!(told_of(engine, "orders").len(), 6);
}

#[test]
fn who_leaves_tells_each_of_the_others() {
    let mut cluster = Cluster::new(12);
    cluster.register(3, "orders", "a");
    cluster.run(seconds(20));
    let now = cluster.now;
    cluster.engines[3].leave(now);
    let farewells = std::iter::from_fn(|| cluster.engines[3].poll_transmit());
    let to: BTreeSet<_> = farewells
        .map(|sent| match sent.route {
            Route::Datagram(to) | Route::Link(to) => to,
            Route::Reply(link) => unreachable!("nobody has asked on {link:?}"),
        })
        .collect();
    assert_eq!(to.len(), 11);
}

#[test]
fn a_killed_member_is_gone_as_soon_as_two_were_refused() {
    let mut cluster = Cluster::new(4);
    cluster.register(3, "web", "d");
    cluster.run(seconds(3));
    cluster.killed.insert(3);
    let mut waited = Duration::ZERO;
    while (0..3).any(|at| !cluster.seen(at).is_empty()) {
        cluster.run(Duration::from_millis(10));
        waited += Duration::from_millis(10);
        assert!(waited < seconds(4), "still seen after {waited:?}");
    }
    assert!(cluster.engines[0].freshness().is_live());
}

#[test]
fn of_two_owners_the_newer_wins_and_the_older_learns_it() {
    let mut cluster = Cluster::new(3);
    let key = cluster.register(0, "web", "a");
    cluster.run(seconds(1));
    cluster.register(1, "web", "a");
    cluster.run(seconds(1));
    assert!(cluster.events[0].contains(&Event::Superseded(key.clone())));
    let newest = cluster.engines[1].view(&Selector::All);
    for at in 0..3 {
        assert_eq!(cluster.engines[at].view(&Selector::All), newest);
    }
    let now = cluster.now;
    let error = cluster.engines[0]
        .health(now, &key, Health::draining())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotOwned);
    cluster.register(0, "web", "a");
    cluster.run(seconds(1));
    assert!(cluster.events[1].contains(&Event::Superseded(key)));
    assert_eq!(cluster.seen(2), ["web/a"]);
}

#[test]
fn of_two_equal_registrations_whichever_is_changed_is_shown_and_the_other_learns_it() {
    for (changed, by_health) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut cluster = Cluster::new(2);
        let now = cluster.now;
        let web = Instance::new("web", "10.0.0.9:80").unwrap();
        let web = web.with_id("a").unwrap();
        // In the same moment, by members that have started in the same moment.
        for engine in &mut cluster.engines {
            engine.register(now, web.clone()).unwrap();
        }
        cluster.run(seconds(1));
        let generation = |at: usize| cluster.engines[at].view(&Selector::All)[0].generation();
        assert_eq!(generation(0), generation(1));
        let now = cluster.now;
        let engine = &mut cluster.engines[changed];
        if by_health {
            engine.health(now, web.key(), Health::draining()).unwrap();
        } else {
            let other = web.clone().with_weight(7).unwrap();
            engine.register(now, other).unwrap();
        }
        let wanted = engine.view(&Selector::All);
        assert_ne!(
            *wanted[0],
            web.clone().with_generation(wanted[0].generation())
        );
        cluster.run(seconds(1));
        for engine in &cluster.engines {
            assert_eq!(engine.view(&Selector::All), wanted, "{changed}");
        }
        let told = Event::Superseded(web.key().clone());
        assert!(cluster.events[1 - changed].contains(&told), "{changed}");
    }
}

#[test]
fn two_processes_of_one_name_both_stay_visible() {
    let mut cluster = Cluster::new(3);
    cluster.register(1, "web", "a");
    cluster.run(seconds(1));
    let name = cluster.engines[1].identity().name.clone();
    let twin = Identity {
        name,
        generation: Generation::new(300),
        address: address(2),
    };
    cluster.engines[2] = Engine::new(cluster.now, twin, EngineConfig::default(), 7);
    let now = cluster.now;
    cluster.engines[2].handle_seeds(now, &[address(0)]);
    cluster.register(2, "web", "b");
    cluster.run(seconds(5));
    assert!(
        cluster.events[1]
            .iter()
            .any(|event| matches!(event, Event::NameTaken { .. }))
    );
    for at in 0..3 {
        assert_eq!(cluster.seen(at), ["web/a", "web/b"], "at {at}");
    }
}

#[test]
fn who_suspects_everybody_says_good_bye_all_the_same() {
    let mut cluster = Cluster::new(2);
    cluster.register(0, "web", "a");
    cluster.run(seconds(1));
    let now = cluster.now;
    let (suspect, me) = (cluster.engines[1].me, cluster.engines[0].me);
    cluster.engines[0].suspect(now, suspect, 0, [(me, false)]);
    while cluster.engines[0].poll_transmit().is_some() {}
    cluster.engines[0].leave(now);
    cluster.run(seconds(1));
    assert!(cluster.events[0].contains(&Event::Left));
    let left = cluster.engines[1].members.find(me).unwrap().state;
    assert_eq!(left, MemberState::Left);
}

#[test]
fn members_that_know_the_same_of_a_third_do_not_correct_each_other() {
    let mut cluster = Cluster::new(3);
    cluster.run(seconds(1));
    let (now, third) = (cluster.now, cluster.engines[2].me);
    cluster.killed.insert(2);
    let alive = cluster.engines[2].members.me().to_alive();
    for state in [MemberState::Suspect, MemberState::Dead] {
        for at in [0, 1] {
            let engine = &mut cluster.engines[at];
            let accusers = (1..=3).map(|accuser| (accuser, false));
            engine.suspect(now, third, alive.incarnation, accusers);
            if state == MemberState::Dead {
                engine.bury(now, third, alive.incarnation, state);
            }
            assert_eq!(engine.members.find(third).unwrap().state, state);
        }
        let frame = cluster.engines[0].frame(&[Message::Alive(alive.clone())]);
        cluster.engines[0].transmit(Route::Link(address(1)), frame);
        cluster.deliver();
    }
}

#[test]
fn what_a_raised_floor_voids_waits_for_its_newer_version() {
    let mut cluster = Cluster::new(2);
    cluster.register(0, "web", "a");
    cluster.run(seconds(1));
    let now = cluster.now;
    // The owner has pruned while the other was cut off, and the other hears the floor first.
    let owner = cluster.engines[0].me;
    let raised = Alive {
        incarnation: 1,
        floor: 5,
        ..cluster.engines[0].members.me().to_alive()
    };
    let observer = &mut cluster.engines[1];
    observer.handle_alive(now, Route::Datagram(address(0)), owner, &raised);
    observer.keep_house(now);
    assert_eq!(cluster.seen(1), ["web/a"]);
    let observer = &mut cluster.engines[1];
    observer.keep_house(now + seconds(60));
    assert!(cluster.seen(1).is_empty(), "void for good");
}

#[test]
fn a_renamed_member_is_not_superseded_by_its_former_name() {
    for seed in 0..16 {
        let now = Instant::now();
        let mut engine = Engine::new(now, identity(0), EngineConfig::default(), seed);
        engine.handle_seeds(now, &[]);
        let instance = Instance::new("web", "10.0.0.9:80").unwrap();
        let key = engine
            .register(now, instance.with_id("a").unwrap())
            .unwrap();
        let (former, member) = (engine.me, engine.members.me().to_alive());
        let record = Record {
            owner: former,
            generation: 100,
            version: 1,
            key: key.clone(),
            content: engine.registry.find(former, &key).unwrap().content(),
        };
        let twin = Alive {
            generation: 300,
            address: address(1),
            ..member.clone()
        };
        engine.hear_of_me(now, &twin);
        assert_ne!(engine.me, former, "renamed");
        // Somebody who has not heard of the twin yet passes on what this member was.
        engine.handle_alive(now, Route::Reply(LinkId(1)), 7, &member);
        engine.handle_record(now, record);
        let superseded: Vec<_> = engine.registrations().filter(|(_, gone)| *gone).collect();
        assert_eq!(superseded, [], "seed {seed}");
    }
}

#[test]
fn an_owner_corrects_what_others_have_of_it() {
    for version in [50, COUNTER_MAX] {
        let mut cluster = Cluster::new(3);
        cluster.register(0, "web", "a");
        cluster.run(seconds(1));
        let (now, owner) = (cluster.now, cluster.engines[0].me);
        let generation = cluster.engines[0].identity.generation.number();
        let forged = |id: &str, content| Record {
            owner,
            generation,
            version,
            key: format!("web/{id}").parse().unwrap(),
            content,
        };
        let other = Instance::new("web", "10.0.0.9:80").unwrap();
        let other = Arc::new(other.with_id("b").unwrap());
        for record in [forged("a", None), forged("b", Some(other.into()))] {
            cluster.engines[1].handle_record(now, record);
        }
        assert_eq!(cluster.seen(1), ["web/b"]);
        cluster.run(seconds(5));
        for at in 0..3 {
            assert_eq!(cluster.seen(at), ["web/a"], "version {version}, m{at}");
            assert_eq!(cluster.engines[at].digest(), cluster.engines[0].digest());
        }
        cluster.register(0, "web", "c");
        cluster.run(seconds(1));
        assert_eq!(cluster.seen(2), ["web/a", "web/c"], "version {version}");
    }
}

#[test]
fn what_was_deregistered_leaves_room_for_what_is_registered() {
    let mut cluster = Cluster::new(1);
    let engine = &mut cluster.engines[0];
    let mut now = cluster.now;
    let instance = |id: usize| {
        let instance = Instance::new("web", "10.0.0.9:80").unwrap();
        instance.with_id(id.to_string()).unwrap()
    };
    let kept = engine.register(now, instance(usize::MAX)).unwrap();
    for id in 0..2 * RECORDS_PER_OWNER_MAX {
        // Some hundred a second.
        now += Duration::from_millis(10);
        while engine.poll_timeout().is_some_and(|due| due <= now) {
            engine.handle_timeout(now);
        }
        let key = engine.register(now, instance(id)).unwrap();
        engine.deregister(now, &key);
    }
    let records = engine.registry.count(engine.me);
    assert!(records < RECORDS_PER_OWNER_MAX / 2, "{records} are kept");
    assert_eq!(cluster.seen(0), [kept.to_string()]);
}

#[test]
fn who_hears_first_that_the_older_owner_withdraws_shows_the_newer_one() {
    let mut cluster = Cluster::new(3);
    cluster.register(0, "web", "a");
    cluster.run(seconds(20));
    let key = cluster.register(1, "web", "a");
    let newer = cluster.engines[1].registrations[&key].instance.generation();
    // What the newer one tells the third is lost.
    for (from, to) in [(1, 0), (0, 2)] {
        let now = cluster.now;
        cluster.engines[from].handle_timeout(now);
        let sent: Vec<_> = std::iter::from_fn(|| cluster.engines[from].poll_transmit()).collect();
        let theirs = |sent: &&Transmit| sent.route == Route::Datagram(address(to));
        for datagram in sent.iter().filter(theirs) {
            cluster.engines[to].handle_datagram(now, address(from), &datagram.frame);
        }
    }
    assert!(cluster.engines[0].registrations[&key].superseded);
    let [shown] = &cluster.engines[2].view(&Selector::All)[..] else {
        panic!("the key is gone");
    };
    assert_eq!(shown.generation(), newer);
}

#[test]
fn a_key_handed_to_who_has_just_joined_is_never_missing() {
    let mut cluster = Cluster::new(3);
    let key = cluster.register(0, "web", "a");
    cluster.run(seconds(20));
    // Only the owner has heard of the fourth when that takes the key.
    let now = cluster.now;
    let mut newcomer = engine(now, 3);
    let mut word = frame(id(0), &[Message::Alive(alive(&identity(0)))]);
    word.extend(cluster.engines[0].encode_record(items::Place::of(id(0), &key)));
    newcomer.handle_datagram(now, address(0), &word);
    let instance = Instance::new("web", "10.0.0.9:80").unwrap();
    newcomer
        .register(now, instance.with_id("a").unwrap())
        .unwrap();
    let generation = newcomer.registrations[&key].instance.generation();
    let messages = [
        Message::Alive(alive(&identity(3))),
        Message::Record(Record {
            owner: id(3),
            generation: 100,
            version: newcomer.version,
            key: key.clone(),
            content: newcomer.registry.find(id(3), &key).unwrap().content(),
        }),
    ];
    let owner = &mut cluster.engines[0];
    owner.handle_datagram(now, address(3), &frame(id(3), &messages));
    assert!(owner.registrations[&key].superseded);
    owner.handle_timeout(now);
    let sent: Vec<_> = std::iter::from_fn(|| owner.poll_transmit()).collect();
    let third = &mut cluster.engines[2];
    // In any order, and only what the former owner says itself.
    for sent in sent.iter().rev() {
        if sent.route == Route::Datagram(address(2)) {
            third.handle_datagram(now, address(0), &sent.frame);
            assert_eq!(third.view(&Selector::All).len(), 1, "the key is gone");
        }
    }
    let view = third.view(&Selector::All);
    assert_eq!(view[0].generation(), generation);
}

#[test]
fn who_moves_is_a_new_start_at_another_address() {
    let mut cluster = Cluster::new(3);
    let key = cluster.register(0, "web", "a");
    cluster.run(seconds(20));
    let (now, moved) = (cluster.now, address(77));
    cluster.engines[0].move_to(now, moved);
    let me = cluster.engines[0].identity().clone();
    assert_eq!((me.address, me.generation.number()), (moved, 101));
    cluster.engines[0].handle_timeout(now);
    let sent: Vec<_> = std::iter::from_fn(|| cluster.engines[0].poll_transmit()).collect();
    let other = &mut cluster.engines[1];
    for sent in sent {
        if sent.route == Route::Datagram(address(1)) {
            other.handle_datagram(now, moved, &sent.frame);
        }
    }
    let member = other.members().find(|info| info.identity.name == me.name);
    assert_eq!(member.unwrap().identity, me);
    assert_eq!(other.view(&Selector::All)[0].key(), &key);
    // What others still say of where it was is no rival.
    let former = Message::Alive(alive(&identity(0)));
    cluster.engines[0].handle_datagram(now, address(2), &frame(id(2), &[former]));
    assert_eq!(cluster.engines[0].identity(), &me);
}

#[test]
fn two_of_one_name_find_out_without_a_third() {
    for seed_is_older in [true, false] {
        let now = Instant::now();
        let named = |at: usize, generation: u64| Identity {
            name: "web".into(),
            generation: Generation::new(generation),
            address: address(at),
        };
        let (first, second) = if seed_is_older {
            (100, 200)
        } else {
            (200, 100)
        };
        let mut seed = Engine::new(now, named(0, first), EngineConfig::default(), 0);
        let mut other = Engine::new(now, named(1, second), EngineConfig::default(), 1);
        seed.handle_seeds(now, &[]);
        other.handle_seeds(now, &[address(0)]);
        let instance = |id: &str| {
            let instance = Instance::new("web", "10.0.0.9:80").unwrap();
            instance.with_id(id).unwrap()
        };
        seed.register(now, instance("seed")).unwrap();
        other.register(now, instance("other")).unwrap();
        let engines = vec![seed, other];
        let mut cluster = Cluster {
            now,
            events: vec![Vec::new(); 2],
            killed: BTreeSet::new(),
            engines,
        };
        cluster.run(seconds(5));
        let names: BTreeSet<_> = cluster
            .engines
            .iter()
            .map(|e| e.identity().name.clone())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
        for engine in &cluster.engines {
            assert_eq!(
                engine.view(&Selector::All).len(),
                2,
                "{}",
                engine.identity().name
            );
        }
    }
}

#[test]
fn one_registration_too_many_is_refused_and_says_so() {
    let mut cluster = Cluster::new(1);
    let (now, engine) = (cluster.now, &mut cluster.engines[0]);
    let instance = |id: usize| {
        let instance = Instance::new("web", "10.0.0.9:80").unwrap();
        instance.with_id(id.to_string()).unwrap()
    };
    for id in 0..REGISTRATIONS_MAX {
        engine.register(now, instance(id)).unwrap();
    }
    let error = engine
        .register(now, instance(REGISTRATIONS_MAX))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("16384"), "{error}");
    engine.register(now, instance(7)).expect("one it has");
}

#[test]
fn the_answer_to_who_accuses_refutes_at_once() {
    // Also where the accusation is of something refuted long ago, which the accuser has missed.
    for missed in [false, true] {
        let mut cluster = Cluster::new(3);
        cluster.run(seconds(1));
        let now = cluster.now;
        let [accuser, accused, _] = &mut cluster.engines[..] else {
            unreachable!()
        };
        let suspect = accused.me;
        if missed {
            accused.handle_accuse(
                now,
                &Accuse {
                    member: suspect,
                    generation: 100,
                    incarnation: 5,
                    verdict: Verdict::Suspect,
                    accusers: Vec::new(),
                    refused: 0,
                },
            );
        }
        // Gossip about it is over.
        accused.broadcasts = Broadcasts::default();
        accuser.suspect(now, suspect, 0, [(accuser.me, false)]);
        accuser.check_suspect(now, suspect, 0);
        let datagrams = |engine: &mut Engine, to| {
            let sent = std::iter::from_fn(|| engine.poll_transmit());
            let sent: Vec<_> = sent.filter(|t| t.route == Route::Datagram(to)).collect();
            sent
        };
        for sent in datagrams(accuser, address(1)) {
            accused.handle_datagram(now, address(0), &sent.frame);
        }
        for sent in datagrams(accused, address(0)) {
            accuser.handle_datagram(now, address(1), &sent.frame);
        }
        let known = accuser.members.find(suspect).unwrap();
        assert_eq!(known.state, MemberState::Alive, "missed: {missed}");
    }
}
