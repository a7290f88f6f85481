//! Each checker is fed a history that breaks its rule: a checker that can't fail proves nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Generation, Instance, ServiceName};
use tidings_gossip::Features;
use tidings_gossip::engine::{
    EngineConfig, Heard, Identity, MemberInfo, MemberState, Outcome, QueryUpdate, Stats, UserEvent,
};
use tidings_gossip::wire::member_hash;

use crate::app::key;
use crate::checkers::agreement::{RULES, disagreement};
use crate::checkers::{Checkers, Limits, Violation};
use crate::history::{Carrier, Ending, ProcessId, ProcessState, Seen, Snapshot, Stamp};
use crate::queries::{Question, answer_of};
use crate::run::limits;

/// A made-up history, told to one checker up to the first thing that it doesn't accept.
struct Story {
    checkers: Checkers,
    at: Duration,
    /// What everybody's clock showed then.
    begin: Instant,
    violation: Option<Violation>,
}

type Told = fn(&mut Story);

/// Checkers and histories. All but the last line of each history is as it should be.
const BROKEN: [(&str, Told); 33] = [
    ("single-writer", |story| {
        story.start(0, "a");
        story.start(1, "b");
        let asked = story.ask(0, "web/x", 1);
        story.view(1, &[], &[&asked]);
        let forged = Arc::new((*asked).clone().with_weight(2).unwrap());
        story.last(|story| story.view(1, &[&asked], &[&forged]));
    }),
    ("clusters-apart", |story| {
        story.start(0, "a");
        story.start_in("elsewhere", 1, "b");
        let asked = story.ask(0, "web/x", 1);
        story.view(0, &[], &[&asked]);
        story.last(|story| story.view(1, &[], &[&asked]));
    }),
    ("never-back-in-time", |story| {
        story.start(0, "a");
        story.start(1, "b");
        let (old, new) = (story.ask(0, "web/x", 1), story.ask(0, "web/x", 2));
        story.view(1, &[], &[&old]);
        story.view(1, &[&old], &[&new]);
        story.last(|story| story.view(1, &[&new], &[&old]));
    }),
    ("no-resurrection", |story| {
        story.start(0, "a");
        story.start(1, "b");
        let asked = story.ask(0, "web/x", 1);
        story.view(1, &[], &[&asked]);
        story.withdraw(0, "web/x");
        story.view(1, &[&asked], &[]);
        story.last(|story| story.view(1, &[], &[&asked]));
    }),
    ("outage-never-empties", |story| {
        story.start(0, "a");
        story.start(1, "b");
        let (x, y) = (story.ask(0, "web/x", 1), story.ask(0, "web/y", 2));
        story.view(1, &[], &[&x, &y]);
        story.withdraw(0, "web/x");
        story.cut_off(1);
        story.pass(10);
        story.view(1, &[&x, &y], &[&y]);
        story.last(|story| story.view(1, &[&y], &[]));
    }),
    ("no-flap-in-calm", |story| {
        story.start(0, "a");
        story.start(1, "b");
        let asked = story.ask(0, "web/x", 1);
        story.view(1, &[], &[&asked]);
        story.view(1, &[&asked], &[]);
        story.view(1, &[], &[&asked]);
        story.see(&Seen::Settled);
        story.last(|story| story.view(1, &[&asked], &[]));
    }),
    ("no-flap-in-calm", |story| {
        for (id, name) in [(0, "a"), (1, "b"), (2, "c")] {
            story.start(id, name);
        }
        story.see(&Seen::Settled);
        let older = story.ask(0, "web/x", 1);
        story.view(2, &[], &[&older]);
        let newer = story.ask(1, "web/x", 2);
        story.see(&Seen::Superseded {
            process: ProcessId(0),
            key: newer.key(),
        });
        story.view(0, &[&older], &[&newer]);
        story.last(|story| story.view(2, &[&older], &[]));
    }),
    ("changes-told", |story| {
        story.start(0, "a");
        let asked = story.ask(0, "web/x", 1);
        let mut state = state(0, "a");
        state.view.push(asked.clone());
        state.told.push(asked);
        story.snapshot(&[state.clone()]);
        state.told.clear();
        story.last(|story| story.snapshot(&[state]));
    }),
    ("view-in-order", |story| {
        story.start(0, "a");
        let (x, y) = (story.ask(0, "web/x", 1), story.ask(0, "web/y", 2));
        story.view(0, &[], &[&x, &y]);
        story.last(|story| story.view(0, &[], &[&y, &x]));
    }),
    ("members-never-regress", |story| {
        let listing = |incarnation, state_of_b| {
            let mut state = state(0, "a");
            state.members.push(MemberInfo {
                identity: identity(1, "b"),
                state: state_of_b,
                incarnation,
                round_trip: None,
                features: Features::NONE,
            });
            state
        };
        story.snapshot(&[listing(1, MemberState::Suspect)]);
        story.snapshot(&[listing(2, MemberState::Alive)]);
        story.last(|story| story.snapshot(&[listing(1, MemberState::Dead)]));
    }),
    ("known-members", |story| {
        story.start(0, "a");
        story.start(1, "b");
        story.member(0, &identity(1, "b"), MemberState::Alive);
        story.last(|story| story.member(0, &identity(2, "b"), MemberState::Alive));
    }),
    ("left-by-will", |story| {
        story.start(0, "a");
        story.start(1, "b");
        story.start(2, "c");
        story.see(&Seen::Leaving {
            process: ProcessId(1),
        });
        story.member(0, &identity(1, "b"), MemberState::Left);
        story.last(|story| story.member(0, &identity(2, "c"), MemberState::Left));
    }),
    ("no-false-death-in-calm", |story| {
        story.start(0, "a");
        story.start(1, "b");
        story.member(0, &identity(1, "b"), MemberState::Dead);
        story.see(&Seen::Settled);
        story.last(|story| story.member(0, &identity(1, "b"), MemberState::Dead));
    }),
    ("superseded-by-newer", |story| {
        story.start(0, "a");
        story.start(1, "b");
        story.ask(0, "web/x", 1);
        story.ask(1, "web/x", 2);
        story.superseded(0, "web/x");
        story.last(|story| story.superseded(1, "web/x"));
    }),
    ("bounded-frames", |story| {
        story.sent(Carrier::Datagram, 1_000);
        story.sent(Carrier::Link, 60_000);
        story.last(|story| story.sent(Carrier::Datagram, 60_000));
    }),
    ("bounded-queues", |story| {
        let mut state = state(0, "a");
        state.stats.broadcasts_max = 10;
        story.snapshot(&[state.clone()]);
        state.stats.broadcasts_max = 100_000;
        story.last(|story| story.snapshot(&[state]));
    }),
    ("no-livelock", |story| {
        let woke = Seen::Woke {
            process: ProcessId(0),
        };
        for _ in 0..50 {
            story.see(&woke);
        }
        story.pass(1);
        for _ in 0..50 {
            story.see(&woke);
        }
        story.last(|story| story.see(&woke));
    }),
    ("quiet-in-calm", |story| {
        for _ in 0..10_000 {
            story.sent(Carrier::Datagram, 100);
        }
        story.see(&Seen::Settled);
        story.pass(10);
        story.snapshot(&[]);
        for _ in 0..10_000 {
            story.sent(Carrier::Datagram, 100);
        }
        story.last(|story| story.snapshot(&[]));
    }),
    ("stale-when-cut-off", |story| {
        story.start(0, "a");
        story.start(1, "b");
        let mut state = state(1, "b");
        state.view.push(story.ask(0, "web/x", 1));
        story.cut_off(1);
        story.snapshot(&[state.clone()]);
        story.pass(5);
        story.snapshot(&[state.clone()]);
        story.pass(60);
        story.last(|story| story.snapshot(&[state]));
    }),
    ("visible-in-time", |story| {
        story.start(0, "a");
        story.start(1, "b");
        story.see(&Seen::Settled);
        story.ask(0, "web/x", 1);
        story.snapshot(&[state(1, "b")]);
        story.pass(10);
        story.last(|story| story.snapshot(&[state(1, "b")]));
    }),
    ("removed-in-time", |story| {
        story.start(0, "a");
        story.start(1, "b");
        let mut state = state(1, "b");
        state.view.push(story.ask(0, "web/x", 1));
        story.see(&Seen::Settled);
        story.pass(60);
        story.snapshot(&[state.clone()]);
        story.withdraw(0, "web/x");
        story.snapshot(&[state.clone()]);
        story.pass(10);
        story.last(|story| story.snapshot(&[state]));
    }),
    ("crash-in-time", |story| {
        story.start(0, "a");
        story.start(1, "b");
        let mut state = state(1, "b");
        state.view.push(story.ask(0, "web/x", 1));
        state.crash_bound = Duration::from_secs(20);
        story.see(&Seen::Settled);
        story.snapshot(&[state.clone()]);
        story.end(0, Ending::Silenced);
        story.pass(15);
        story.snapshot(&[state.clone()]);
        story.pass(15);
        story.last(|story| story.snapshot(&[state]));
    }),
    ("leave-in-time", |story| {
        story.start(0, "a");
        story.start(1, "b");
        let mut state = state(1, "b");
        state.view.push(story.ask(0, "web/x", 1));
        story.see(&Seen::Settled);
        story.see(&Seen::Leaving {
            process: ProcessId(0),
        });
        story.snapshot(&[state.clone()]);
        story.pass(10);
        story.last(|story| story.snapshot(&[state]));
    }),
    ("events-genuine", |story| {
        story.send(0, 1);
        story.hear(1, 1);
        story.last(|story| story.hear(1, 2));
    }),
    ("events-once-in-order", |story| {
        story.hear(1, 1);
        story.hear(1, 2);
        story.hear(2, 1);
        story.last(|story| story.hear(1, 2));
    }),
    ("event-gaps-told", |story| {
        story.hear(1, 3);
        story.hear(1, 4);
        story.missed(1, 2);
        story.hear(1, 7);
        story.last(|story| story.hear(1, 9));
    }),
    ("events-bounded", |story| {
        let mut state = state(0, "a");
        state.stats.events.kept_bytes = 1 << 20;
        story.snapshot(&[state.clone()]);
        state.stats.events.kept_bytes = 1 << 30;
        story.last(|story| story.snapshot(&[state]));
    }),
    ("events-in-time", |story| {
        story.start(0, "a");
        story.start(1, "b");
        story.see(&Seen::Settled);
        story.pass(1);
        story.send(0, 1);
        story.send(0, 2);
        story.hear(0, 1);
        story.hear(0, 2);
        story.hear(1, 1);
        story.snapshot(&[state(0, "a"), state(1, "b")]);
        story.pass(10);
        story.last(|story| story.snapshot(&[state(0, "a"), state(1, "b")]));
    }),
    ("queries-heard-once", |story| {
        story.start(0, "a");
        story.start(1, "b");
        story.start(2, "c");
        story.ask_members(0, 7, &["b", "c"]);
        story.hear_query(1, 7);
        story.hear_query(2, 7);
        story.last(|story| story.hear_query(1, 7));
    }),
    ("answers-genuine", |story| {
        story.start(0, "a");
        story.start(1, "b");
        story.start(2, "c");
        story.ask_members(0, 7, &["b"]);
        story.hear_query(1, 7);
        story.answered(7, "b", 1);
        story.last(|story| story.answered(7, "c", 2));
    }),
    ("answers-once", |story| {
        story.start(0, "a");
        story.ask_members(0, 7, &["b", "c"]);
        story.answered(7, "b", 1);
        story.answered(7, "c", 2);
        story.last(|story| story.answered(7, "b", 1));
    }),
    ("answers-in-time", |story| {
        story.start(0, "a");
        story.ask_members(0, 7, &["b", "c"]);
        story.pass(4);
        story.answered(7, "b", 1);
        story.pass(2);
        story.last(|story| story.answered(7, "c", 2));
    }),
    ("queries-answered", |story| {
        story.start(0, "a");
        story.start(1, "b");
        story.start(2, "c");
        story.see(&Seen::Settled);
        story.pass(10);
        story.ask_members(0, 7, &["a", "b"]);
        story.answered(7, "a", 0);
        story.ended(7, &["a"], &["b"]);
        story.snapshot(&[state(0, "a"), state(2, "c")]);
        story.ask_members(0, 8, &["a", "b"]);
        story.ended(8, &["a"], &["b"]);
        story.last(|story| story.snapshot(&[state(0, "a"), state(1, "b")]));
    }),
];

/// The same rules, broken in other ways.
const BROKEN_OTHERWISE: [(&str, Told); 7] = [
    ("queries-heard-once", |story| {
        story.start(0, "a");
        story.start(1, "b");
        story.ask_members(0, 7, &["a"]);
        story.last(|story| story.hear_query(1, 7));
    }),
    ("queries-heard-once", |story| {
        story.start(1, "b");
        story.last(|story| story.hear_query(1, 7));
    }),
    ("answers-genuine", |story| {
        story.start(0, "a");
        story.start(1, "b");
        story.ask_members(0, 7, &["b"]);
        story.hear_query(1, 7);
        story.last(|story| story.answered(7, "b", 2));
    }),
    ("answers-once", |story| {
        story.start(0, "a");
        story.ask_members(0, 7, &["b", "c"]);
        story.ended(7, &[], &["b", "c"]);
        story.last(|story| story.answered(7, "b", 1));
    }),
    ("answers-once", |story| {
        story.start(0, "a");
        story.ask_members(0, 7, &["b", "c"]);
        story.answered(7, "b", 1);
        story.last(|story| story.ended(7, &["c"], &["b"]));
    }),
    ("answers-in-time", |story| {
        story.start(0, "a");
        story.ask_members(0, 7, &["b"]);
        story.pass(5);
        story.last(|story| {
            let member = "b".into();
            story.query_update(7, &QueryUpdate::Received { member });
        });
    }),
    ("queries-answered", |story| {
        story.start(0, "a");
        story.see(&Seen::Settled);
        story.ask_members(0, 7, &["a"]);
        story.pass(5);
        story.snapshot(&[state(0, "a")]);
        story.pass(2);
        story.last(|story| story.snapshot(&[state(0, "a")]));
    }),
];

#[test]
fn every_checker_fails_on_a_history_that_breaks_its_rule() {
    let limits = figures();
    for (name, tell) in BROKEN.into_iter().chain(BROKEN_OTHERWISE) {
        let mut story = Story {
            checkers: Checkers::only(name, &limits),
            at: Duration::ZERO,
            begin: Instant::now(),
            violation: None,
        };
        tell(&mut story);
        assert_eq!(story.violation.map(|v| v.checker), Some(name));
    }
    let broken: BTreeSet<_> = BROKEN.iter().map(|(name, _)| *name).collect();
    let all: BTreeSet<_> = Checkers::all(&limits).names().collect();
    assert_eq!(broken, all, "each checker has a history that breaks it");
}

/// A change to an agreed state of two members that breaks one rule of agreement.
type Broken = (&'static str, fn(&mut [ProcessState]));

const DISAGREEMENTS: [Broken; RULES.len()] = [
    ("registrations-held", |states| {
        states[0].registrations.clear();
    }),
    ("superseded-told", |states| {
        states[1].asked = states[0].asked.clone();
        states[1].registrations = states[0].registrations.clone();
    }),
    ("members-converge", |states| {
        states[0].members[0].state = MemberState::Suspect;
    }),
    ("views-converge", |states| states[1].view.clear()),
    ("digests-equal", |states| states[1].digest += 1),
    ("events-level", |states| states[1].streams[0].2 -= 1),
    ("freshness-live", |states| states[1].live = false),
];

#[test]
fn every_rule_of_agreement_can_be_broken() {
    let asked = instance(0, "web/x", 1);
    let member = |process, name: &str| MemberInfo {
        identity: identity(process, name),
        state: MemberState::Alive,
        incarnation: 0,
        round_trip: None,
        features: Features::NONE,
    };
    let (mut a, mut b) = (state(0, "a"), state(1, "b"));
    a.asked.push(asked.clone());
    a.registrations.push((asked.key().clone(), false));
    a.members.push(member(1, "b"));
    b.members.push(member(0, "a"));
    for state in [&mut a, &mut b] {
        state.view.push(asked.clone());
        let generation = Generation::new(0);
        state.streams.push((member_hash("a"), generation, 7));
    }
    let agreed = vec![a, b];
    let judge = |processes: Vec<ProcessState>| disagreement(&Snapshot { processes });
    assert_eq!(judge(agreed.clone()), None);
    for ((rule, _), (name, disturb)) in RULES.iter().zip(DISAGREEMENTS) {
        assert_eq!(*rule, name, "each rule has a state that breaks it");
        let mut states = agreed.clone();
        disturb(&mut states);
        assert_eq!(judge(states).map(|(name, _)| name), Some(name));
    }
}

impl Story {
    fn see(&mut self, seen: &Seen<'_>) {
        if let Err(violation) = self.checkers.see(self.at, seen) {
            self.violation.get_or_insert(violation);
        }
    }

    /// The line that breaks the rule; all before it must not.
    fn last(&mut self, tell: impl FnOnce(&mut Self)) {
        assert_eq!(self.violation, None, "nothing is wrong up to here");
        tell(self);
    }

    fn pass(&mut self, seconds: u64) {
        self.at += Duration::from_secs(seconds);
    }

    fn start(&mut self, process: u32, name: &str) {
        self.start_in("sim", process, name);
    }

    fn start_in(&mut self, cluster: &str, process: u32, name: &str) {
        self.see(&Seen::Started {
            process: ProcessId(process),
            cluster,
            identity: &identity(process, name),
        });
    }

    fn end(&mut self, process: u32, how: Ending) {
        self.see(&Seen::Ended {
            process: ProcessId(process),
            how,
        });
    }

    fn ask(&mut self, process: u32, key: &str, turn: u64) -> Arc<Instance> {
        let instance = instance(process, key, turn);
        self.see(&Seen::Asked {
            process: ProcessId(process),
            instance: &instance,
        });
        instance
    }

    fn withdraw(&mut self, process: u32, key: &str) {
        self.see(&Seen::Withdrawn {
            process: ProcessId(process),
            key: &key.parse().unwrap(),
        });
    }

    fn superseded(&mut self, process: u32, key: &str) {
        self.see(&Seen::Superseded {
            process: ProcessId(process),
            key: &key.parse().unwrap(),
        });
    }

    fn cut_off(&mut self, process: u32) {
        self.see(&Seen::CutOff {
            process: ProcessId(process),
            cut_off: true,
        });
    }

    fn view(&mut self, process: u32, before: &[&Arc<Instance>], after: &[&Arc<Instance>]) {
        let owned = |view: &[&Arc<Instance>]| view.iter().map(|i| Arc::clone(i)).collect();
        let (before, after): (Vec<_>, Vec<_>) = (owned(before), owned(after));
        self.see(&Seen::View {
            process: ProcessId(process),
            service: key("web", "x").service(),
            before: &before,
            after: &after,
        });
    }

    fn member(&mut self, process: u32, member: &Identity, state: MemberState) {
        self.see(&Seen::Member {
            process: ProcessId(process),
            member,
            state,
        });
    }

    fn send(&mut self, process: u32, sequence: u64) {
        self.see(&Seen::EventSent {
            process: ProcessId(process),
            event: &event(sequence),
        });
    }

    fn hear(&mut self, process: u32, sequence: u64) {
        self.see(&Seen::Heard {
            process: ProcessId(process),
            heard: &Heard::Event(event(sequence)),
        });
    }

    fn missed(&mut self, process: u32, count: u64) {
        let UserEvent {
            sender, generation, ..
        } = event(0);
        self.see(&Seen::Heard {
            process: ProcessId(process),
            heard: &Heard::Missed {
                sender,
                generation,
                count,
            },
        });
    }

    /// Asks for five seconds.
    fn ask_members(&mut self, process: u32, turn: u64, members: &[&str]) {
        let timeout = Duration::from_secs(5);
        self.see(&Seen::QueryAsked {
            process: ProcessId(process),
            question: &Question {
                turn,
                members: Some(members.iter().map(|name| (*name).into()).collect()),
                payload: question(turn),
                timeout,
                deadline: self.begin + self.at + timeout,
            },
        });
    }

    fn hear_query(&mut self, process: u32, turn: u64) {
        self.see(&Seen::QueryHeard {
            process: ProcessId(process),
            question: &question(turn),
        });
    }

    /// The first process is told that a member has said what this process would.
    fn answered(&mut self, turn: u64, member: &str, by: u32) {
        let update = QueryUpdate::Answered {
            member: member.into(),
            payload: answer_of(&question(turn), ProcessId(by)),
        };
        self.query_update(turn, &update);
    }

    fn query_update(&mut self, turn: u64, update: &QueryUpdate) {
        self.see(&Seen::QueryUpdate {
            process: ProcessId(0),
            turn: Some(turn),
            update,
            clock: self.begin + self.at,
        });
    }

    fn ended(&mut self, turn: u64, answered: &[&str], silent: &[&str]) {
        let outcome = |names: &[&str], outcome| -> Vec<(Arc<str>, Outcome)> {
            names.iter().map(|name| ((*name).into(), outcome)).collect()
        };
        let mut outcomes = outcome(answered, Outcome::Answered);
        outcomes.extend(outcome(silent, Outcome::Silent));
        self.see(&Seen::QueryEnded {
            process: ProcessId(0),
            turn: Some(turn),
            outcomes: &outcomes,
        });
    }

    fn sent(&mut self, carrier: Carrier, bytes: usize) {
        self.see(&Seen::Sent {
            process: ProcessId(0),
            carrier,
            bytes,
        });
    }

    fn snapshot(&mut self, states: &[ProcessState]) {
        self.see(&Seen::Snapshot(&Snapshot {
            processes: states.to_vec(),
        }));
    }
}

fn figures() -> Limits {
    let config = EngineConfig {
        datagram_bytes: 1_200,
        ..EngineConfig::default()
    };
    limits(&config, 5, Duration::from_millis(1))
}

fn instance(process: u32, key: &str, turn: u64) -> Arc<Instance> {
    let stamp = Stamp {
        owner: ProcessId(process),
        turn,
    };
    let instance = Instance::at(key.parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let instance = instance
        .with_metadata(Stamp::METADATA_KEY, stamp.text())
        .unwrap();
    Arc::new(instance.with_generation(Generation::new(turn)))
}

fn event(sequence: u64) -> UserEvent {
    UserEvent {
        sender: "a".into(),
        generation: Generation::new(0),
        sequence,
        name: ServiceName::new("deploy").unwrap(),
        payload: sequence.to_be_bytes().into(),
        age: Duration::ZERO,
    }
}

fn question(turn: u64) -> Arc<[u8]> {
    format!("{turn}.").into_bytes().into()
}

fn identity(process: u32, name: &str) -> Identity {
    Identity {
        name: name.into(),
        generation: Generation::new(process.into()),
        address: ([10, 0, 0, 1], 7946).into(),
    }
}

fn state(process: u32, name: &str) -> ProcessState {
    ProcessState {
        process: ProcessId(process),
        cluster: "sim".into(),
        identity: identity(process, name),
        asked: Vec::new(),
        registrations: Vec::new(),
        view: Vec::new(),
        told: Vec::new(),
        live: true,
        live_told: true,
        incarnation: 0,
        members: Vec::new(),
        digest: 0,
        streams: Vec::new(),
        knows_events: true,
        stats: Stats::default(),
        crash_bound: Duration::from_secs(10),
        paused: false,
    }
}
