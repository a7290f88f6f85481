//! An observer's session against engines, without sockets: what a member knows, and when, is up to each test.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidings_api::{Generation, Instance, InstanceKey, Selector};

use super::session::{Session, SessionConfig, Step};
use crate::engine::{Engine, EngineConfig, Identity, LinkId, Route};
use crate::wire::content::Content;
use crate::wire::limits::{LINK_FRAME_BYTES_TARGET, OBSERVER_UNREAD_BYTES_MAX};
use crate::wire::message::{Accuse, Alive, Record, Verdict};
use crate::wire::{Features, Header, Message, cluster_hash, member_hash};

const INTERVAL: Duration = Duration::from_secs(1);

/// Members that know what they are told, and an observer.
struct World {
    now: Instant,
    members: Vec<Engine>,
    up: Vec<bool>,
    session: Session,
    /// The member the observer is linked to, and the link.
    link: Option<(usize, LinkId)>,
    links: u64,
    /// Bytes that members have sent to the observer.
    received: usize,
    /// Frames are kept back here while the observer doesn't read.
    asleep: Option<Vec<Arc<[u8]>>>,
}

impl World {
    fn new(members: usize) -> Self {
        let now = Instant::now();
        let config = SessionConfig {
            cluster: cluster_hash("tidings"),
            probe_interval: INTERVAL,
            loss_hold: Duration::from_secs(300),
        };
        let engines = (0..members).map(|at| engine(now, at));
        let mut world = Self {
            now,
            members: engines.collect(),
            up: vec![true; members],
            session: Session::new(now, config, 7),
            link: None,
            links: 0,
            received: 0,
            asleep: None,
        };
        world.session.watch(web());
        // One after the other, so that it is known who is asked first.
        world.session.handle_seeds(now, &[address(0)]);
        world.pump();
        let seeds: Vec<_> = (0..members).map(address).collect();
        world.session.handle_seeds(now, &seeds);
        world.pump();
        world
    }

    fn tell(&mut self, member: usize, messages: &[Message]) {
        // So that observers are told at once.
        self.now += Duration::from_millis(10);
        let mut frame = header().to_frame();
        for message in messages {
            message.encode(&mut frame);
        }
        self.members[member].handle_link(self.now, LinkId(1_000_000), &frame);
        self.pump();
    }

    fn tell_all(&mut self, messages: &[Message]) {
        for member in 0..self.members.len() {
            self.tell(member, messages);
        }
    }

    /// Carries frames until nobody has anything to say.
    fn pump(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(step) = self.session.poll_step() {
                quiet = false;
                self.step(step);
            }
            for at in 0..self.members.len() {
                self.members[at].tell_observers(self.now);
                while let Some(delivery) = self.members[at].poll_delivery() {
                    quiet = false;
                    self.deliver(at, &delivery.links, delivery.frame);
                }
                while let Some(transmit) = self.members[at].poll_transmit() {
                    // Between members nothing arrives, and over the observer's link only deliveries.
                    let observed = self.link.map(|(_, link)| Route::Reply(link));
                    assert_ne!(Some(transmit.route), observed);
                }
                while self.members[at].poll_event().is_some() {}
            }
            if quiet {
                return;
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Connect(to) => {
                self.hang_up();
                let at = usize::from(to.port() - 1);
                if self.up[at] {
                    self.links += 1;
                    self.link = Some((at, LinkId(self.links)));
                } else {
                    self.session.handle_link_ended(self.now);
                }
            }
            Step::Send(frame) => {
                if let Some((at, link)) = self.link {
                    self.members[at].handle_link(self.now, link, &frame);
                }
            }
            Step::Disconnect => self.hang_up(),
            Step::ResolveSeeds => {}
        }
    }

    fn deliver(&mut self, from: usize, links: &[LinkId], frame: Arc<[u8]>) {
        if self
            .link
            .is_some_and(|(at, link)| at == from && links.contains(&link))
        {
            self.received += frame.len();
            match &mut self.asleep {
                Some(waiting) => waiting.push(frame),
                None => self.session.handle_frame(self.now, &frame),
            }
        }
    }

    fn hang_up(&mut self) {
        if let Some((at, link)) = self.link.take() {
            self.members[at].handle_link_closed(link);
        }
    }

    /// The process of the member that is listened to ends.
    fn kill(&mut self, at: usize) {
        self.up[at] = false;
        if self.link.is_some_and(|(to, _)| to == at) {
            self.hang_up();
            self.session.handle_link_ended(self.now);
        }
        self.pump();
    }

    /// A link breaks, to a member that is still there.
    fn break_link(&mut self) {
        if self.link.is_some() {
            self.hang_up();
            self.session.handle_link_ended(self.now);
        }
        self.pump();
    }

    /// Lets time pass for the observer; members have no timers here.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.session.poll_timeout().filter(|due| *due <= end) {
            // Never at a standstill, whatever the session asks for.
            self.now = due.max(self.now + Duration::from_millis(1));
            self.session.handle_timeout(self.now);
            self.pump();
        }
        self.now = end.max(self.now);
        self.session.handle_timeout(self.now);
        self.pump();
    }

    /// What is shown, as instance id and number.
    fn view(&self) -> Vec<(String, u32)> {
        let shown = self.session.view(&web());
        let shown = shown.iter();
        shown
            .map(|i| (i.id().to_string(), i.metadata()["n"].parse().unwrap()))
            .collect()
    }

    fn is_live(&self) -> bool {
        self.session.freshness().is_live()
    }

    fn at(&self) -> Option<usize> {
        self.link.map(|(at, _)| at)
    }
}

fn engine(now: Instant, at: usize) -> Engine {
    let identity = Identity {
        name: format!("member-{at}").into(),
        generation: Generation::new(1),
        address: address(at),
    };
    let mut engine = Engine::new(now, identity, EngineConfig::default(), at as u64);
    engine.handle_seeds(now, &[]);
    engine
}

fn address(at: usize) -> SocketAddr {
    ([10, 0, 0, 1], u16::try_from(at).unwrap() + 1).into()
}

fn header() -> Header {
    Header {
        cluster: cluster_hash("tidings"),
        sender: member_hash("teller"),
    }
}

fn web() -> Selector {
    Selector::Service("web".parse().unwrap())
}

/// An owner in its own words.
fn alive(name: &str, generation: u64, incarnation: u64, newest: u64) -> Message {
    Message::Alive(Alive {
        name: name.into(),
        generation,
        incarnation,
        address: ([10, 0, 1, 1], 1).into(),
        floor: 0,
        newest,
        seal: Box::default(),
        features: Features::NONE,
        unknown: Box::default(),
    })
}

fn floor(name: &str, generation: u64, incarnation: u64, floor: u64) -> Message {
    let Message::Alive(alive) = alive(name, generation, incarnation, 0) else {
        unreachable!()
    };
    Message::Alive(Alive { floor, ..alive })
}

fn dead(name: &str, generation: u64, incarnation: u64) -> Message {
    Message::Accuse(Accuse {
        member: member_hash(name),
        generation,
        incarnation,
        verdict: Verdict::Dead,
        accusers: Vec::new(),
        refused: 0,
    })
}

/// What an owner offers under an id; without a number a tombstone.
fn record(name: &str, generation: u64, version: u64, id: &str, number: Option<u32>) -> Message {
    let instance = Instance::new("web", "10.0.0.7:80")
        .and_then(|web| web.with_id(id))
        .and_then(|web| web.with_metadata("n", number.unwrap_or(0).to_string()))
        .unwrap()
        .with_generation(Generation::new(generation));
    let key: InstanceKey = instance.key().clone();
    Message::Record(Record {
        owner: member_hash(name),
        generation,
        version,
        key,
        content: number.map(|_| Content::from(Arc::new(instance))),
    })
}

fn shown(ids: &[(&str, u32)]) -> Vec<(String, u32)> {
    ids.iter().map(|(id, n)| ((*id).to_owned(), *n)).collect()
}

#[test]
fn a_member_that_lags_behind_takes_nothing_back() {
    let mut world = World::new(2);
    let (start, first) = (alive("o", 5, 0, 0), record("o", 5, 1, "a", Some(1)));
    world.tell_all(&[start, first]);
    // The first member hears more than the second: an update, an end, and a new one.
    world.tell(0, &[record("o", 5, 2, "a", Some(2))]);
    world.tell_all(&[record("o", 5, 3, "b", Some(1))]);
    world.tell(0, &[record("o", 5, 4, "b", None)]);
    world.tell(0, &[record("o", 5, 5, "c", Some(1))]);
    assert_eq!((world.at(), world.is_live()), (Some(0), true));
    let before = shown(&[("a", 2), ("c", 1)]);
    assert_eq!(world.view(), before);

    world.kill(0);
    assert_eq!(world.at(), Some(1), "it goes on with the other one");
    assert_eq!(
        world.view(),
        before,
        "the update, the end and the new one stand"
    );
    assert!(world.is_live(), "for a moment it counts as well");
    world.pass(2 * INTERVAL);
    assert!(!world.is_live(), "then it can't be vouched for");
    assert_eq!(world.view(), before);
    let news = [
        record("o", 5, 2, "a", Some(2)),
        record("o", 5, 4, "b", None),
        record("o", 5, 5, "c", Some(1)),
    ];
    world.tell(1, &news);
    world.pass(2 * INTERVAL);
    assert!(world.is_live());
    assert_eq!(world.view(), before);
}

#[test]
fn who_was_seen_to_die_is_not_shown_again_by_who_has_not_heard_of_it() {
    let mut world = World::new(2);
    world.tell_all(&[alive("o", 5, 0, 0), record("o", 5, 1, "a", Some(1))]);
    assert_eq!(world.view(), shown(&[("a", 1)]));
    world.tell(0, &[dead("o", 5, 0)]);
    assert_eq!(world.view(), []);
    world.break_link();
    world.kill(0);
    assert_eq!((world.at(), world.view()), (Some(1), vec![]));
    world.tell(1, &[dead("o", 5, 0)]);
    world.pass(60 * INTERVAL);
    assert_eq!((world.is_live(), world.view()), (true, vec![]));
    // It wasn't: it says so itself.
    world.tell(1, &[alive("o", 5, 1, 0)]);
    assert_eq!(world.view(), shown(&[("a", 1)]));
}

#[test]
fn a_verdict_that_nobody_else_has_heard_is_given_up() {
    let mut world = World::new(2);
    world.tell_all(&[alive("o", 5, 0, 0), record("o", 5, 1, "a", Some(1))]);
    world.tell(0, &[dead("o", 5, 0)]);
    world.kill(0);
    assert_eq!(world.view(), []);
    // The one who said it is gone, and all the others hear the owner: so it is there.
    world.pass(10 * INTERVAL);
    assert_eq!((world.is_live(), world.view()), (true, shown(&[("a", 1)])));
}

#[test]
fn an_owner_that_ended_with_its_member_is_gone_by_the_others_word() {
    let mut world = World::new(2);
    // The second member knows the owner, and not that it offers anything.
    world.tell_all(&[alive("o", 5, 0, 0)]);
    world.tell(0, &[record("o", 5, 1, "a", Some(1))]);
    world.kill(0);
    assert_eq!(world.view(), shown(&[("a", 1)]));
    world.tell(1, &[dead("o", 5, 0)]);
    world.pass(INTERVAL);
    assert_eq!((world.is_live(), world.view()), (true, vec![]));
}

#[test]
fn a_cluster_that_starts_anew_is_waited_for_and_only_the_difference_shows() {
    let mut world = World::new(2);
    for (name, id) in [("o", "a"), ("p", "b"), ("q", "c")] {
        world.tell_all(&[alive(name, 5, 0, 0), record(name, 5, 1, id, Some(1))]);
    }
    let all = shown(&[("a", 1), ("b", 1), ("c", 1)]);
    for at in 0..2 {
        world.kill(at);
    }
    world.pass(3 * INTERVAL);
    assert_eq!((world.is_live(), world.view()), (false, all.clone()));
    world.pass(100 * INTERVAL);
    assert_eq!(world.view(), all, "however long it takes");

    world.up[1] = true;
    while world.at() != Some(1) {
        // Without timers it would take itself for cut off after a while.
        world.members[1] = engine(world.now, 1);
        world.pass(INTERVAL / 2);
    }
    assert_eq!(world.at(), Some(1));
    assert_eq!((world.is_live(), world.view()), (false, all.clone()));
    // The same owners, one under another name; the third doesn't come back.
    world.tell(1, &[alive("o", 6, 0, 0)]);
    world.pass(INTERVAL);
    assert_eq!(world.view(), all, "a start may still be registering");
    world.tell(1, &[record("o", 6, 1, "a", Some(1))]);
    world.tell(
        1,
        &[alive("p-2", 6, 0, 0), record("p-2", 6, 1, "b", Some(2))],
    );
    let changed = shown(&[("a", 1), ("b", 2), ("c", 1)]);
    assert_eq!(world.view(), changed);
    assert!(!world.is_live());
    world.pass(40 * INTERVAL);
    assert_eq!(
        (world.is_live(), world.view()),
        (true, shown(&[("a", 1), ("b", 2)]))
    );
}

#[test]
fn who_is_back_shows_nothing_that_it_has_withdrawn_meanwhile() {
    let mut world = World::new(2);
    world.tell_all(&[alive("o", 5, 0, 0)]);
    world.tell_all(&[
        record("o", 5, 1, "a", Some(1)),
        record("o", 5, 2, "b", Some(1)),
    ]);
    world.tell(0, &[dead("o", 5, 0)]);
    assert_eq!(world.view(), []);
    // The other member never lost the owner, and hasn't heard yet that it withdrew one.
    world.tell(1, &[alive("o", 5, 1, 3)]);
    world.kill(0);
    assert_eq!((world.at(), world.view()), (Some(1), vec![]));
    world.tell(1, &[record("o", 5, 3, "b", None)]);
    assert_eq!(world.view(), shown(&[("a", 1)]));
}

#[test]
fn a_floor_voids_what_it_covers_and_no_more() {
    let mut world = World::new(2);
    world.tell_all(&[alive("o", 5, 0, 0)]);
    world.tell_all(&[
        record("o", 5, 1, "a", Some(1)),
        record("o", 5, 2, "b", Some(1)),
    ]);
    world.tell(
        0,
        &[
            record("o", 5, 3, "b", None),
            record("o", 5, 4, "a", Some(2)),
        ],
    );
    world.tell(0, &[floor("o", 5, 1, 3)]);
    assert_eq!(world.view(), shown(&[("a", 2)]));
    assert_eq!(world.session.records(), 1, "the tombstone isn't kept");
    world.kill(0);
    assert_eq!(
        world.view(),
        shown(&[("a", 2)]),
        "what is void doesn't come back"
    );
}

#[test]
fn a_member_that_has_the_same_sends_nothing() {
    let mut world = World::new(2);
    world.tell_all(&[alive("o", 5, 0, 0)]);
    for number in 0..500 {
        let id = format!("i-{number}");
        world.tell_all(&[record("o", 5, number + 1, &id, Some(1))]);
        world.pass(Duration::from_millis(20));
    }
    assert_eq!(world.view().len(), 500);
    let before = world.received;
    world.kill(0);
    world.pass(INTERVAL);
    assert_eq!((world.at(), world.view().len()), (Some(1), 500));
    assert!(world.is_live());
    let cost = world.received - before;
    assert!(cost < 300, "{cost} bytes for taking over 500 instances");
}

#[test]
fn a_member_that_is_cut_off_itself_passes_that_on() {
    let mut world = World::new(2);
    world.tell_all(&[alive("o", 5, 0, 0), record("o", 5, 1, "a", Some(1))]);
    // One that has seeds and was answered by none: it doesn't vouch for anything.
    let mut late = Engine::new(
        world.now,
        Identity {
            name: "late".into(),
            generation: Generation::new(1),
            address: address(1),
        },
        EngineConfig::default(),
        3,
    );
    late.handle_seeds(world.now, &[address(7)]);
    world.members[1] = late;
    world.kill(0);
    assert_eq!(world.at(), Some(1));
    world.pass(INTERVAL / 2);
    let freshness = world.session.freshness().to_string();
    assert!(
        freshness.contains("no seed has answered yet"),
        "{freshness}"
    );
    assert_eq!(world.view(), shown(&[("a", 1)]));
    // Where another one hears the cluster, it is found.
    world.up[0] = true;
    world.pass(20 * INTERVAL);
    assert_eq!((world.at(), world.is_live()), (Some(0), true));
}

#[test]
fn who_does_not_read_is_sent_a_bounded_part_and_a_fresh_view_later() {
    let mut world = World::new(1);
    world.tell_all(&[alive("o", 5, 0, 0)]);
    world.asleep = Some(Vec::new());
    let before = world.received;
    let mut version = 0;
    for round in 0..2_000_u32 {
        version += 1;
        let id = format!("i-{}", round % 500);
        world.tell(0, &[record("o", 5, version, &id, Some(round))]);
        world.now += Duration::from_millis(11);
        world.pump();
    }
    world.tell(0, &[record("o", 5, version + 1, "i-7", None)]);
    let unread = world.received - before;
    assert!(
        unread < 400_000,
        "{unread} bytes wait for one that doesn't read"
    );
    let waiting = world.asleep.take().unwrap();
    assert!(waiting.len() <= 128, "{} frames wait", waiting.len());
    assert!(
        waiting.len() < 2_000,
        "the fault has happened: not all was sent"
    );
    for frame in waiting {
        world.session.handle_frame(world.now, &frame);
    }
    world.pump();
    world.pass(INTERVAL);
    let view = world.view();
    assert_eq!(view.len(), 499);
    assert!(view.iter().all(|(_, n)| *n >= 1_500), "the newest of each");
    assert_eq!(world.members[0].stats().observers_behind, 1);
}

#[test]
fn of_large_records_as_many_bytes_wait_for_one_that_does_not_read() {
    let mut world = World::new(1);
    world.tell_all(&[alive("o", 5, 0, 0)]);
    world.asleep = Some(Vec::new());
    let before = world.received;
    for number in 0..100_u32 {
        let small = record("o", 5, 1 + u64::from(number), "i", Some(number));
        let Message::Record(mut large) = small else {
            unreachable!()
        };
        let mut instance = Instance::new("web", "10.0.0.7:80")
            .and_then(|web| web.with_id("i"))
            .unwrap();
        for entry in 0..20 {
            let padded = instance.with_metadata(format!("padding-{entry}"), "x".repeat(500));
            instance = padded.unwrap();
        }
        let instance = instance.with_generation(Generation::new(5));
        large.content = Some(Content::from(Arc::new(instance)));
        world.tell(0, &[Message::Record(large)]);
        world.now += Duration::from_millis(11);
        world.pump();
    }
    let unread = world.received - before;
    assert!(unread > OBSERVER_UNREAD_BYTES_MAX / 2, "{unread} bytes");
    let most = OBSERVER_UNREAD_BYTES_MAX + LINK_FRAME_BYTES_TARGET;
    assert!(unread <= most, "{unread} bytes wait");
}

#[test]
fn what_is_no_longer_watched_is_forgotten_on_both_sides() {
    let mut world = World::new(1);
    world.tell_all(&[alive("o", 5, 0, 0), record("o", 5, 1, "a", Some(1))]);
    assert_eq!(world.session.records(), 1);
    world.session.unwatch(&web());
    world.pump();
    assert_eq!(world.session.records(), 0);
    let before = world.received;
    world.tell_all(&[record("o", 5, 2, "a", Some(2))]);
    assert_eq!(world.received, before);
    world.session.watch(web());
    world.pump();
    assert_eq!(world.view(), shown(&[("a", 2)]));
}

#[test]
fn more_selectors_than_a_member_keeps_become_one_for_all() {
    let mut world = World::new(1);
    world.tell_all(&[alive("o", 5, 0, 0), record("o", 5, 1, "a", Some(1))]);
    for number in 0..300 {
        let service = format!("s-{number}").parse().unwrap();
        world.session.watch(Selector::Service(service));
        world.pump();
    }
    assert_eq!(world.view(), shown(&[("a", 1)]));
    for number in 0..300 {
        let service = Selector::Service(format!("s-{number}").parse().unwrap());
        assert!(world.session.is_known(&service) && world.session.is_whole(&service));
        world.session.unwatch(&service);
        world.pump();
    }
    world.tell_all(&[record("o", 5, 2, "a", Some(2))]);
    assert_eq!(world.view(), shown(&[("a", 2)]));
    assert!(world.is_live());
    assert_eq!(world.members[0].stats().observers, 1);
}

/// Owners do what owners do; each of several members hears of it late, in any order, or not at all for
/// long; the observer goes from one to the other. No key goes back, and in the end all is as it should be.
#[test]
fn whatever_members_miss_no_key_goes_back_in_time() {
    for seed in 0..400 {
        let mut run = Run::new(seed);
        for _ in 0..40 {
            run.step();
        }
        run.converge();
    }
}

struct Run {
    seed: u64,
    rng: Rng,
    world: World,
    /// Generation and version of each owner, and what it offers.
    owners: BTreeMap<&'static str, OwnerModel>,
    /// Everything that was said, and who hasn't heard it.
    said: Vec<(Message, BTreeSet<usize>)>,
    /// The newest number shown of each id.
    newest: BTreeMap<String, u32>,
    number: u32,
}

#[derive(Default)]
struct OwnerModel {
    generation: u64,
    incarnation: u64,
    version: u64,
    offers: BTreeMap<&'static str, u32>,
}

const MEMBERS: usize = 3;

impl Run {
    fn new(seed: u64) -> Self {
        let mut run = Self {
            seed,
            rng: Rng::with_seed(seed),
            world: World::new(MEMBERS),
            owners: BTreeMap::new(),
            said: Vec::new(),
            newest: BTreeMap::new(),
            number: 0,
        };
        for name in ["o", "p"] {
            let owner = OwnerModel {
                generation: 1,
                ..OwnerModel::default()
            };
            run.owners.insert(name, owner);
            run.say(alive(name, 1, 0, 0));
        }
        run
    }

    fn say(&mut self, message: Message) {
        self.said.push((message, (0..MEMBERS).collect()));
    }

    fn step(&mut self) {
        let name = if self.rng.bool() { "o" } else { "p" };
        // Each owner has ids of its own: of two owners of one key another test is.
        let ids = if name == "o" { ["a", "b"] } else { ["c", "d"] };
        let id = ids[self.rng.usize(..2)];
        let owner = self.owners.get_mut(name).unwrap();
        match self.rng.u32(..12) {
            0..4 => {
                owner.version += 1;
                self.number += 1;
                owner.offers.insert(id, self.number);
                let (generation, version) = (owner.generation, owner.version);
                self.say(record(name, generation, version, id, Some(self.number)));
            }
            4 if owner.offers.remove(id).is_some() => {
                owner.version += 1;
                let (generation, version) = (owner.generation, owner.version);
                self.say(record(name, generation, version, id, None));
            }
            5 if self.rng.u32(..4) == 0 => {
                // A new start, which registers anew what the former one offered, and says so at once.
                owner.generation += 1;
                (owner.incarnation, owner.version) = (0, 0);
                let generation = owner.generation;
                owner.offers.clear();
                self.say(alive(name, generation, 0, 0));
            }
            _ => self.spread(),
        }
        if self.rng.u32(..6) == 0 {
            self.world.break_link();
        }
        // All of it within the time for which what is in doubt stands.
        let time = Duration::from_millis(self.rng.u64(..80));
        self.world.pass(time);
        self.check();
    }

    /// Somebody hears something that it hadn't.
    fn spread(&mut self) {
        for _ in 0..self.rng.usize(..6) {
            if self.said.is_empty() {
                return;
            }
            let at = self.rng.usize(..self.said.len());
            let member = self.rng.usize(..MEMBERS);
            let (message, unheard) = &mut self.said[at];
            if unheard.remove(&member) {
                let message = message.clone();
                self.world.tell(member, &[message]);
                self.check();
            }
        }
    }

    fn check(&mut self) {
        for (id, number) in self.world.view() {
            let newest = self.newest.entry(id.clone()).or_default();
            let seed = self.seed;
            assert!(
                *newest <= number,
                "seed {seed}: {id} went back from {newest} to {number}"
            );
            *newest = number;
        }
    }

    fn converge(&mut self) {
        for (message, unheard) in std::mem::take(&mut self.said) {
            for member in unheard {
                self.world.tell(member, std::slice::from_ref(&message));
                self.check();
            }
        }
        self.world.pass(60 * INTERVAL);
        self.check();
        let offered = self.owners.values().flat_map(|owner| &owner.offers);
        let mut offered: Vec<_> = offered.map(|(id, n)| ((*id).to_owned(), *n)).collect();
        offered.sort();
        assert_eq!(self.world.view(), offered, "seed {}", self.seed);
        assert!(self.world.is_live(), "seed {}", self.seed);
    }
}
