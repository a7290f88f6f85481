//! Rules about queries: who is asked, and what is told of answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidings_gossip::engine::{Outcome, QueryUpdate};

use super::{Checker, Ledger, Limits, Phase};
use crate::history::{ProcessId, ProcessState, Seen, Snapshot};
use crate::queries::{Question, answer_of, turn_of};

pub(crate) fn all(limits: &Limits) -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(QueriesHeardOnce::default()),
        Box::new(AnswersGenuine::default()),
        Box::new(AnswersOnce::default()),
        Box::new(AnswersInTime::default()),
        Box::new(QueriesAnswered {
            known: limits.visible,
            ..QueriesAnswered::default()
        }),
    ]
}

/// Within this time after its deadline a query is over, in calm.
const END_SLACK: Duration = Duration::from_secs(1);

type Answer = (Arc<str>, Arc<[u8]>);

/// An answer that was told of, with its query's turn.
fn answer(seen: &Seen<'_>) -> Option<(ProcessId, Option<u64>, Answer)> {
    match seen {
        Seen::QueryUpdate {
            process,
            turn,
            update: QueryUpdate::Answered { member, payload },
            ..
        } => Some((*process, *turn, (member.clone(), payload.clone()))),
        _ => None,
    }
}

/// What an application is asked was asked, of it, and isn't asked twice.
#[derive(Debug, Default)]
struct QueriesHeardOnce {
    asked: BTreeMap<u64, Question>,
    heard: BTreeSet<(ProcessId, u64)>,
}

impl Checker for QueriesHeardOnce {
    fn name(&self) -> &'static str {
        "queries-heard-once"
    }

    fn see(&mut self, ledger: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::QueryAsked { question, .. } => {
                self.asked.insert(question.turn, (*question).clone());
                Ok(())
            }
            Seen::QueryHeard { process, question } => {
                let asked = turn_of(question).and_then(|turn| self.asked.get(&turn));
                let Some(asked) = asked.filter(|asked| *asked.payload == **question) else {
                    return Err(format!("{process} is asked what nobody asks"));
                };
                let turn = asked.turn;
                let named = |names: &BTreeSet<Arc<str>>| {
                    let life = ledger.life(*process);
                    life.is_some_and(|life| life.identities.iter().any(|i| names.contains(&i.name)))
                };
                if !asked.members.as_ref().is_none_or(named) {
                    return Err(format!(
                        "{process} is asked in turn {turn}, and others were"
                    ));
                }
                match self.heard.insert((*process, turn)) {
                    true => Ok(()),
                    false => Err(format!("{process} is asked in turn {turn} once more")),
                }
            }
            _ => Ok(()),
        }
    }
}

/// What is told as an answer was said, by a process of that name that has heard the query.
#[derive(Debug, Default)]
struct AnswersGenuine {
    asked: BTreeMap<u64, Question>,
    heard: BTreeMap<u64, BTreeSet<ProcessId>>,
}

impl Checker for AnswersGenuine {
    fn name(&self) -> &'static str {
        "answers-genuine"
    }

    fn see(&mut self, ledger: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::QueryAsked { question, .. } => {
                self.asked.insert(question.turn, (*question).clone());
            }
            Seen::QueryHeard { process, question } => {
                let turn = turn_of(question).unwrap_or_default();
                self.heard.entry(turn).or_default().insert(*process);
            }
            _ => {}
        }
        let Some((process, turn, (member, payload))) = answer(seen) else {
            return Ok(());
        };
        let turn = turn.unwrap_or_default();
        let question = self.asked.get(&turn);
        let said = |answerer: &ProcessId| {
            let life = ledger.life(*answerer);
            let named = life.is_some_and(|life| life.identities.iter().any(|i| i.name == member));
            named && question.is_some_and(|q| answer_of(&q.payload, *answerer) == payload)
        };
        match self
            .heard
            .get(&turn)
            .is_some_and(|all| all.iter().any(said))
        {
            true => Ok(()),
            false => Err(format!(
                "{process} is told an answer of {member} in turn {turn} that it never gave"
            )),
        }
    }
}

/// Of each member one answer is told, none once the query is over, and then it counts as given.
#[derive(Debug, Default)]
struct AnswersOnce {
    open: BTreeMap<(ProcessId, u64), BTreeSet<Arc<str>>>,
}

impl Checker for AnswersOnce {
    fn name(&self) -> &'static str {
        "answers-once"
    }

    fn see(&mut self, _: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::QueryAsked { process, question } => {
                self.open.insert((*process, question.turn), BTreeSet::new());
            }
            Seen::QueryEnded {
                process,
                turn,
                outcomes,
            } => {
                let told = turn.and_then(|turn| self.open.remove(&(*process, turn)));
                let answered = outcomes.iter().filter(|(_, o)| *o == Outcome::Answered);
                let answered: BTreeSet<_> = answered.map(|(member, _)| member.clone()).collect();
                if told.as_ref() != Some(&answered) {
                    return Err(format!(
                        "{process}: turn {turn:?} ends with answers of {answered:?}, told were {told:?}"
                    ));
                }
            }
            _ => {}
        }
        let Some((process, turn, (member, _))) = answer(seen) else {
            return Ok(());
        };
        let open = turn.and_then(|turn| self.open.get_mut(&(process, turn)));
        match open.is_some_and(|told| told.insert(member.clone())) {
            true => Ok(()),
            false => Err(format!(
                "{process} is told an answer of {member} in turn {turn:?} again, or after the end"
            )),
        }
    }
}

/// Nothing is told of a query after its deadline, by the asker's clock.
#[derive(Debug, Default)]
struct AnswersInTime {
    asked: BTreeMap<u64, Question>,
}

impl Checker for AnswersInTime {
    fn name(&self) -> &'static str {
        "answers-in-time"
    }

    fn see(&mut self, _: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::QueryAsked { question, .. } => {
                self.asked.insert(question.turn, (*question).clone());
                Ok(())
            }
            Seen::QueryUpdate {
                process,
                turn,
                clock,
                update,
            } => {
                let question = turn.and_then(|turn| self.asked.get(&turn));
                match question.filter(|question| *clock >= question.deadline) {
                    Some(question) => Err(format!(
                        "{process} is told {update:?} {:?} after its time",
                        *clock - question.deadline
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// Once settled, a query is answered by everybody who was there, and is over in time.
#[derive(Debug, Default)]
struct QueriesAnswered {
    /// Who has been there for this long is known to all.
    known: Duration,
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    asker: ProcessId,
    asked: Duration,
    question: Question,
    /// Who has answered, once it is over.
    ended: Option<BTreeSet<Arc<str>>>,
}

impl Waiting {
    /// Whether this process has to have answered.
    fn concerns(&self, ledger: &Ledger, known: Duration, state: &ProcessState) -> bool {
        let cluster = ledger.life(self.asker).map(|life| &life.cluster);
        let life = ledger.life(state.process);
        let there =
            life.is_some_and(|l| l.started + known < self.asked && Some(&l.cluster) == cluster);
        let named = |names: &BTreeSet<_>| names.contains(&state.identity.name);
        there && state.knows_events && self.question.members.as_ref().is_none_or(named)
    }
}

impl Checker for QueriesAnswered {
    fn name(&self) -> &'static str {
        "queries-answered"
    }

    fn see(&mut self, ledger: &Ledger, at: Duration, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::QueryAsked { process, question } if ledger.phase == Phase::Settled => {
                let waiting = Waiting {
                    asker: *process,
                    asked: at,
                    question: (*question).clone(),
                    ended: None,
                };
                self.waiting.insert(question.turn, waiting);
            }
            Seen::QueryEnded { turn, outcomes, .. } => {
                if let Some(waiting) = turn.and_then(|turn| self.waiting.get_mut(&turn)) {
                    let answered = outcomes.iter().filter(|(_, o)| *o == Outcome::Answered);
                    waiting.ended = Some(answered.map(|(member, _)| member.clone()).collect());
                }
            }
            Seen::Ended { process, .. } => self.waiting.retain(|_, w| w.asker != *process),
            Seen::Snapshot(Snapshot { processes }) => {
                for (turn, waiting) in &self.waiting {
                    let Some(answered) = &waiting.ended else {
                        let due = waiting.asked + waiting.question.timeout + END_SLACK;
                        if at > due {
                            return Err(format!("the query of turn {turn} doesn't end"));
                        }
                        continue;
                    };
                    let silent = processes.iter().find(|state| {
                        waiting.concerns(ledger, self.known, state)
                            && !answered.contains(&state.identity.name)
                    });
                    if let Some(state) = silent {
                        let name = &state.identity.name;
                        return Err(format!("{name} has not answered in turn {turn}"));
                    }
                }
                self.waiting.retain(|_, waiting| waiting.ended.is_none());
            }
            _ => {}
        }
        Ok(())
    }
}
