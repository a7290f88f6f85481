//! Queries: a question to the applications of all members, or some, and who said what.
//!
//! The asker sends to each member itself, and again to those it hears nothing from, so that it knows
//! at the end who has it; what a hop in between would have done with it, it wouldn't. A query too
//! large for a datagram goes over links, a few at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Error, ErrorKind, Result, ServiceName};

use super::answers::Heard;
use super::member::Member;
use super::timer::Timer;
use super::{Engine, Event, Route};
use crate::wire::limits::{QUERIES_OPEN_MAX, QUERY_TIME_MAX};
use crate::wire::queries::{Answer, Query, Word};
use crate::wire::{Features, Message};

/// Members asked at one moment, so that their answers don't come as one burst.
const BURST: usize = 64;
const BURST_INTERVAL: Duration = Duration::from_millis(5);

/// Members that may be sent a large query before the first of them has it: what one process can have
/// under way on links at one time.
const LARGE_AT_ONCE: usize = 16;

/// How long a member that has not said that it has a large query keeps others waiting for it: it may not be
/// there at all.
const LARGE_PATIENCE: Duration = Duration::from_millis(500);

/// Time from asking a member to asking it again; doubles. It may be that only its answer got lost.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_DOUBLINGS_MAX: u32 = 4;

/// How often it is looked whether somebody has died.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Whom a query is for, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long answers are waited for.
    pub timeout: Duration,
    /// Names of the members to ask; `None` for all.
    pub members: Option<BTreeSet<Arc<str>>>,
    /// Answers after which the query is over.
    pub answers_max: usize,
}

/// What became of a query at one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It has answered.
    Answered,
    /// It has the query, and nobody there answers it; or its build is older than queries.
    Declined,
    /// It has the query; an answer didn't come in time.
    Received,
    /// Nothing was heard from it.
    Silent,
    /// It died or left before it answered, or is no member.
    Gone,
}

/// What is heard of a query meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryUpdate {
    /// A member has the query. Not told of those whose answer is the first that is heard.
    Received {
        /// Its name.
        member: Arc<str>,
    },
    /// A member has answered; told once of each.
    Answered {
        /// Its name.
        member: Arc<str>,
        /// What its application says.
        payload: Arc<[u8]>,
    },
}

/// All there is about queries.
#[derive(Debug, Default)]
pub(super) struct Queries {
    open: BTreeMap<u64, Open>,
    /// Those of others.
    pub(super) heard: Heard,
}

/// A query that this member has asked.
#[derive(Debug)]
struct Open {
    name: ServiceName,
    payload: Arc<[u8]>,
    deadline: Instant,
    answers_max: usize,
    targets: BTreeMap<u64, Target>,
}

#[derive(Debug)]
struct Target {
    member: Arc<str>,
    outcome: Outcome,
    asked: u32,
    last_asked: Option<Instant>,
    due: Instant,
}

impl Open {
    fn answers(&self) -> usize {
        let outcomes = self.targets.values().map(|target| target.outcome);
        outcomes.filter(|o| *o == Outcome::Answered).count()
    }

    fn is_over(&self, now: Instant) -> bool {
        let waits = |target: &Target| matches!(target.outcome, Outcome::Received | Outcome::Silent);
        now >= self.deadline
            || self.answers() >= self.answers_max
            || !self.targets.values().any(waits)
    }
}

impl Engine {
    /// Asks the applications of members; answers the query's id. What comes of it is told by events,
    /// the last of them [`Event::QueryEnded`].
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) where as many queries are open as may be.
    pub fn query(
        &mut self,
        now: Instant,
        name: ServiceName,
        payload: Arc<[u8]>,
        terms: Terms,
    ) -> Result<u64> {
        if self.queries.open.len() >= QUERIES_OPEN_MAX {
            let message = format!("this handle has {QUERIES_OPEN_MAX} queries open");
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let targets = self.query_targets(now, terms.members);
        let open = Open {
            name,
            payload,
            deadline: now + terms.timeout.min(QUERY_TIME_MAX),
            answers_max: terms.answers_max,
            targets,
        };
        let id = self.rng.u64(..);
        self.stats.queries.asked += 1;
        self.queries.open.insert(id, open);
        // In the next turn, so that whoever asks knows the id before it hears of answers.
        self.timers.set(Timer::Queries, now);
        Ok(id)
    }

    /// Waits for no more answers to a query. Nothing is told of it any more.
    pub fn end_query(&mut self, id: u64) {
        self.queries.open.remove(&id);
    }

    /// The members to ask. The names of those that aren't there are reported as gone.
    fn query_targets(
        &self,
        now: Instant,
        names: Option<BTreeSet<Arc<str>>>,
    ) -> BTreeMap<u64, Target> {
        let target = |member: Arc<str>, outcome| Target {
            member,
            outcome,
            asked: 0,
            last_asked: None,
            due: now,
        };
        let Some(names) = names else {
            let present = self.members.iter().filter(|(_, m)| m.is_present());
            return present
                .map(|(id, member)| (id, target(member.name.clone(), outlook(member))))
                .collect();
        };
        let named = names.into_iter().map(|name| {
            let id = crate::wire::member_hash(&name);
            let present = self.members.find(id).filter(|member| member.is_present());
            (id, target(name, present.map_or(Outcome::Gone, outlook)))
        });
        named.collect()
    }

    /// Asks whom it is time to ask, and ends what is over.
    pub(super) fn tend_queries(&mut self, now: Instant) {
        let ids: Vec<u64> = self.queries.open.keys().copied().collect();
        for id in ids {
            self.note_gone(id);
            self.end_if_over(now, id);
            self.ask(now, id);
        }
        if let Some(next) = self.next_look(now) {
            self.timers.set(Timer::Queries, next);
        }
    }

    pub(super) fn handle_answer(&mut self, now: Instant, route: Route, from: u64, answer: Answer) {
        if self.is_member_at(from, route) {
            self.take_word(now, from, answer);
        }
    }

    /// What a member says to a query; what isn't waited for (any more) is dropped.
    pub(super) fn take_word(&mut self, now: Instant, from: u64, Answer { id, word }: Answer) {
        let Some(open) = self.queries.open.get_mut(&id) else {
            self.stats.queries.late += 1;
            return;
        };
        let Some(target) = open.targets.get_mut(&from) else {
            return;
        };
        if matches!(target.outcome, Outcome::Answered | Outcome::Declined) || now >= open.deadline {
            self.stats.queries.late += 1;
            return;
        }
        let member = target.member.clone();
        let new = matches!(target.outcome, Outcome::Silent | Outcome::Gone);
        let update = match word {
            Word::Answered(payload) => {
                target.outcome = Outcome::Answered;
                self.stats.queries.answers += 1;
                Some(QueryUpdate::Answered { member, payload })
            }
            Word::Received | Word::Declined => {
                target.outcome = match word {
                    Word::Declined => Outcome::Declined,
                    _ => Outcome::Received,
                };
                new.then_some(QueryUpdate::Received { member })
            }
        };
        let events = update.map(|update| Event::QueryUpdate { id, update });
        self.events.extend(events);
        self.end_if_over(now, id);
        // A large query may go to the next.
        self.timers.set(Timer::Queries, now);
    }

    /// Whoever is not there any more won't answer.
    fn note_gone(&mut self, id: u64) {
        let Some(open) = self.queries.open.get_mut(&id) else {
            return;
        };
        for (member, target) in &mut open.targets {
            let waits = matches!(target.outcome, Outcome::Silent | Outcome::Received);
            let present = self.members.find(*member).is_some_and(Member::is_present);
            if waits && !present {
                target.outcome = Outcome::Gone;
            }
        }
    }

    fn end_if_over(&mut self, now: Instant, id: u64) {
        let over = |open: &mut Open| open.is_over(now);
        if self.queries.open.get_mut(&id).is_some_and(over)
            && let Some(open) = self.queries.open.remove(&id)
        {
            let targets = open.targets.into_values();
            let outcomes = targets.map(|target| (target.member, target.outcome));
            let outcomes = outcomes.collect();
            self.events.push_back(Event::QueryEnded { id, outcomes });
        }
    }

    /// Sends a query to those who are due.
    fn ask(&mut self, now: Instant, id: u64) {
        let Some(open) = self.queries.open.get(&id) else {
            return;
        };
        let left = open.deadline.saturating_duration_since(now).as_millis();
        let query = Query {
            id,
            time_left: u64::try_from(left).unwrap_or(u64::MAX),
            name: open.name.clone(),
            payload: open.payload.clone(),
        };
        let message = Message::Query(query.clone());
        let frame = self.frame(&[message]);
        let large = frame.len() > self.config.datagram_bytes;
        let is_recent = |asked: Instant| now.saturating_duration_since(asked) < LARGE_PATIENCE;
        let under_way = open.targets.values().filter(|target| {
            target.outcome == Outcome::Silent && target.last_asked.is_some_and(is_recent)
        });
        let room = if large {
            LARGE_AT_ONCE.saturating_sub(under_way.count())
        } else {
            BURST
        };
        let due = open.targets.iter().filter(|(_, target)| {
            matches!(target.outcome, Outcome::Silent | Outcome::Received) && target.due <= now
        });
        // Whom nothing was sent yet first; who was asked before has a place already.
        let (again, first): (Vec<_>, Vec<_>) = due.partition(|(_, target)| target.asked > 0);
        let chosen = again.into_iter().chain(first.into_iter().take(room));
        let chosen: Vec<u64> = chosen.map(|(member, _)| *member).take(BURST).collect();
        for member in chosen {
            if member == self.me {
                self.hear_own_query(now, query.clone());
            } else if let Some(address) = self.members.find(member).map(|found| found.address) {
                self.transmit(query_route(large, address), frame.clone());
            }
            if let Some(open) = self.queries.open.get_mut(&id)
                && let Some(target) = open.targets.get_mut(&member)
            {
                let doublings = target.asked.min(RETRY_DOUBLINGS_MAX);
                // Over a link it arrives, or the member is not there.
                let doublings = if large {
                    RETRY_DOUBLINGS_MAX
                } else {
                    doublings
                };
                target.asked += 1;
                target.last_asked = Some(now);
                target.due = now + RETRY * 2_u32.pow(doublings);
            }
        }
    }

    /// When there is something to be done next.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        let next = |open: &Open| {
            let waiting = open
                .targets
                .values()
                .filter(|target| matches!(target.outcome, Outcome::Silent | Outcome::Received));
            let due = waiting.map(|target| target.due).min();
            let due = due.map(|due| due.max(now + BURST_INTERVAL));
            let look = now + LOOK_INTERVAL;
            due.unwrap_or(look).min(look).min(open.deadline)
        };
        self.queries.open.values().map(next).min()
    }
}

/// What is to be expected of a present member: one of an earlier build would skip the query.
fn outlook(member: &Member) -> Outcome {
    match member.features.contains(Features::EVENTS) {
        true => Outcome::Silent,
        false => Outcome::Declined,
    }
}

pub(super) fn query_route(large: bool, address: SocketAddr) -> Route {
    if large {
        Route::Link(address)
    } else {
        Route::Datagram(address)
    }
}
