//! Queries as the applications behind the members ask, hear and answer them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::ServiceName;
use tidings_gossip::engine::{Asked, Outcome, QueryUpdate, Terms};

use crate::history::{ProcessId, Seen};
use crate::plan::Plan;
use crate::process::Input;
use crate::run::run;
use crate::world::{Event, World};

/// How long an application takes for an answer, at most, where nothing else is said.
const THINKING: Duration = Duration::from_millis(30);
/// Seeds of the sweep with queries; each takes as long as one of the other sweep.
const SEEDS: u64 = 16;

/// What is asked, as the application knows it.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// Its number: no two have the same.
    pub(crate) turn: u64,
    /// Names of those who are asked; `None` for all.
    pub(crate) members: Option<BTreeSet<Arc<str>>>,
    pub(crate) payload: Arc<[u8]>,
    pub(crate) timeout: Duration,
    /// By the asker's own clock.
    pub(crate) deadline: Instant,
}

/// What applications have to do with queries in a run.
#[derive(Debug)]
pub(crate) struct Queries {
    /// How long an application takes for an answer, at most.
    pub(crate) thinking: Duration,
    pub(crate) counters: QueryCounters,
    /// What has become of those that are over, by turn.
    outcomes: BTreeMap<u64, Outcomes>,
}

type Outcomes = Vec<(Arc<str>, Outcome)>;

/// What has become of the queries of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct QueryCounters {
    pub(crate) asked: u64,
    pub(crate) heard: u64,
    pub(crate) answers: u64,
    /// Answers that were sent, and came late or again.
    pub(crate) late: u64,
    /// Members that were asked and had not answered at the end.
    pub(crate) missing: u64,
    pub(crate) ended: u64,
}

impl Default for Queries {
    fn default() -> Self {
        Self {
            thinking: THINKING,
            counters: QueryCounters::default(),
            outcomes: BTreeMap::new(),
        }
    }
}

impl QueryCounters {
    fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.heard += other.heard;
        self.answers += other.answers;
        self.late += other.late;
        self.missing += other.missing;
        self.ended += other.ended;
    }
}

/// What a process says to a question.
pub(crate) fn answer_of(question: &[u8], process: ProcessId) -> Arc<[u8]> {
    [question, format!(" as {process}").as_bytes()]
        .concat()
        .into()
}

/// The turn in which something was asked.
pub(crate) fn turn_of(question: &[u8]) -> Option<u64> {
    let digits = question.split(|byte| *byte == b'.').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl World {
    /// Asks all members, or those of some slots, with this many bytes; answers what was asked.
    pub(crate) fn ask(
        &mut self,
        slot: usize,
        bytes: usize,
        timeout: Duration,
        slots: Option<&[usize]>,
    ) -> Option<u64> {
        let id = self.awake(slot)?;
        self.turn += 1;
        let turn = self.turn;
        let mut payload = format!("{turn}.").into_bytes();
        payload.resize(bytes.max(payload.len()), b'.');
        let payload: Arc<[u8]> = payload.into();
        let names = slots.map(|slots| slots.iter().map(|slot| self.slots[*slot].name.clone()));
        let members: Option<BTreeSet<_>> = names.map(Iterator::collect);
        let process = self.processes.get_mut(&id);
        let process = process.filter(|process| process.build.knows_events())?;
        let now = process.clock.at(self.now);
        let terms = Terms {
            timeout,
            members: members.clone(),
            answers_max: usize::MAX,
        };
        let name = ServiceName::new("load").expect("a valid name");
        let asked = process.engine.query(now, name, payload.clone(), terms);
        process.asking.insert(asked.ok()?, turn);
        self.queries.counters.asked += 1;
        self.note(&format!("{id} asks in turn {turn}"));
        let question = Question {
            turn,
            members,
            payload,
            timeout,
            deadline: now + timeout,
        };
        self.see(&Seen::QueryAsked {
            process: id,
            question: &question,
        });
        self.drain(id);
        Some(turn)
    }

    /// The application is asked, and answers after a while.
    pub(crate) fn asked(&mut self, id: ProcessId, asked: &Asked) {
        self.queries.counters.heard += 1;
        self.see(&Seen::QueryHeard {
            process: id,
            question: &asked.payload,
        });
        let most = u64::try_from(self.queries.thinking.as_micros()).unwrap_or(u64::MAX);
        let thinking = Duration::from_micros(self.rng.u64(0..=most));
        let answer = answer_of(&asked.payload, id);
        self.schedule(thinking, Event::Input(id, Input::Answer(asked.key, answer)));
    }

    /// The asker is told of an answer, or that somebody has the query.
    pub(crate) fn query_update(&mut self, id: ProcessId, query: u64, update: &QueryUpdate) {
        let Some(process) = self.processes.get(&id) else {
            return;
        };
        let (turn, clock) = (process.asking.get(&query).copied(), process.clock);
        self.queries.counters.answers += u64::from(matches!(update, QueryUpdate::Answered { .. }));
        self.see(&Seen::QueryUpdate {
            process: id,
            turn,
            update,
            clock: clock.at(self.now),
        });
    }

    /// The asker is told what has become of its query.
    pub(crate) fn query_ended(
        &mut self,
        id: ProcessId,
        query: u64,
        outcomes: &[(Arc<str>, Outcome)],
    ) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let turn = process.asking.remove(&query);
        let missing = outcomes.iter().filter(|(_, o)| *o != Outcome::Answered);
        self.queries.counters.missing += missing.count() as u64;
        self.queries.counters.ended += 1;
        if let Some(turn) = turn {
            self.queries.outcomes.insert(turn, outcomes.to_vec());
        }
        self.see(&Seen::QueryEnded {
            process: id,
            turn,
            outcomes,
        });
    }

    /// What has become of a query, once it is over: members by name.
    pub(crate) fn outcomes(&self, turn: u64) -> Option<&[(Arc<str>, Outcome)]> {
        self.queries
            .outcomes
            .get(&turn)
            .map(|outcomes| &outcomes[..])
    }
}

/// Chaos and calm, as in the sweep, while members ask each other all the time; in every other run they are of
/// several builds.
#[test]
fn queries_keep_their_rules_whatever_happens() {
    let mut total = QueryCounters::default();
    for seed in 1..=SEEDS {
        let plan = Plan {
            mixed: seed % 2 == 0,
            ..Plan::draw(seed).with_queries()
        };
        match run(&plan) {
            Ok(report) => total.add(&report.queries),
            Err(violation) => panic!("seed {seed}\n{violation}\n{plan}"),
        }
    }
    println!("{SEEDS} seeds: {total:?}");
    // Whatever is to be judged has happened.
    let QueryCounters {
        asked,
        heard,
        answers,
        late,
        missing,
        ended,
    } = total;
    assert!(asked > 20 * SEEDS && heard > 2 * asked, "{total:?}");
    assert!(answers > asked && late > 0 && missing > 0, "{total:?}");
    assert!(ended > asked / 2, "{total:?}");
}
