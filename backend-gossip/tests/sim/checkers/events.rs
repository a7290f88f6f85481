//! Rules about user events: what is told to whom.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidings_api::Generation;
use tidings_gossip::engine::{Heard, UserEvent};

use super::{Checker, Ledger, Limits, Phase};
use crate::history::{ProcessId, Seen, Snapshot};

pub(crate) fn all(limits: &Limits) -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(EventsGenuine::default()),
        Box::new(EventsOnceInOrder::default()),
        Box::new(EventGapsTold::default()),
        Box::new(EventsBounded {
            bytes: limits.event_bytes,
            queued: limits.events_queued,
        }),
        Box::new(EventsInTime {
            within: limits.visible,
            ..EventsInTime::default()
        }),
    ]
}

/// A start of a sender.
type Start = (Arc<str>, Generation);

/// What is told is what was sent.
#[derive(Debug, Default)]
struct EventsGenuine {
    sent: BTreeMap<(Start, u64), Arc<[u8]>>,
}

impl Checker for EventsGenuine {
    fn name(&self) -> &'static str {
        "events-genuine"
    }

    fn see(&mut self, _: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::EventSent { event, .. } => {
                self.sent.insert(place(event), event.payload.clone());
                Ok(())
            }
            Seen::Heard {
                process,
                heard: Heard::Event(event),
            } if self.sent.get(&place(event)) != Some(&event.payload) => Err(format!(
                "{process} is told {}, which nobody sent",
                named(event)
            )),
            _ => Ok(()),
        }
    }
}

/// Nothing is told twice, nor after what was sent later, nor of an earlier start of its sender than
/// was told of before.
#[derive(Debug, Default)]
struct EventsOnceInOrder {
    last: BTreeMap<(ProcessId, Arc<str>), (Generation, u64)>,
}

impl Checker for EventsOnceInOrder {
    fn name(&self) -> &'static str {
        "events-once-in-order"
    }

    fn see(&mut self, _: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Heard {
            process,
            heard: Heard::Event(event),
        } = seen
        else {
            return Ok(());
        };
        let now = (event.generation, event.sequence);
        let last = self.last.insert((*process, event.sender.clone()), now);
        match last.filter(|last| now <= *last) {
            Some((generation, sequence)) => Err(format!(
                "{process} is told {} after {sequence} of start {generation}",
                named(event)
            )),
            None => Ok(()),
        }
    }
}

/// Between two events of one start nothing is left out but what is told as missed.
#[derive(Debug, Default)]
struct EventGapsTold {
    positions: BTreeMap<(ProcessId, Start), u64>,
}

impl Checker for EventGapsTold {
    fn name(&self) -> &'static str {
        "event-gaps-told"
    }

    fn see(&mut self, _: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Heard { process, heard } = seen else {
            return Ok(());
        };
        match heard {
            Heard::Event(event) => {
                let (start, sequence) = place(event);
                let before = self.positions.insert((*process, start), sequence);
                // The first may be any: who joins late is told the recent ones only.
                match before.filter(|before| before + 1 != sequence) {
                    Some(before) => Err(format!(
                        "{process} is told {} as the next after {before}",
                        named(event)
                    )),
                    None => Ok(()),
                }
            }
            Heard::Missed {
                sender,
                generation,
                count,
            } => {
                let key = (*process, (sender.clone(), *generation));
                *self.positions.entry(key).or_default() += count;
                Ok(())
            }
            Heard::Skipped { .. } => Ok(()),
        }
    }
}

/// What is kept and queued of events stays bounded.
#[derive(Debug)]
struct EventsBounded {
    bytes: usize,
    queued: usize,
}

impl Checker for EventsBounded {
    fn name(&self) -> &'static str {
        "events-bounded"
    }

    fn see(&mut self, _: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Snapshot(Snapshot { processes }) = seen else {
            return Ok(());
        };
        let beyond = processes.iter().find(|state| {
            let events = &state.stats.events;
            events.kept_bytes > self.bytes || events.queued > self.queued
        });
        match beyond {
            Some(state) => Err(format!("{}: {:?}", state.process, state.stats.events)),
            None => Ok(()),
        }
    }
}

/// Once settled, an event is told in time by everybody who was there when it was sent.
#[derive(Debug, Default)]
struct EventsInTime {
    within: Duration,
    /// How far each process has come in the events of each start.
    told: BTreeMap<(ProcessId, Start), u64>,
    waiting: Vec<(Duration, ProcessId, Start, u64)>,
}

impl Checker for EventsInTime {
    fn name(&self) -> &'static str {
        "events-in-time"
    }

    fn see(&mut self, ledger: &Ledger, at: Duration, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::EventSent { process, event } if ledger.phase == Phase::Settled => {
                let (start, sequence) = place(event);
                self.waiting.push((at, *process, start, sequence));
            }
            Seen::Heard {
                process,
                heard: Heard::Event(event),
            } => {
                let (start, sequence) = place(event);
                self.told.insert((*process, start), sequence);
            }
            Seen::Snapshot(Snapshot { processes }) => {
                let due = |(sent, ..): &(Duration, _, _, _)| at > *sent + self.within;
                let (due, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(due);
                self.waiting = waiting;
                let due: Vec<_> = due;
                for (sent, sender, start, sequence) in due {
                    let cluster = ledger.life(sender).map(|life| &life.cluster);
                    let late = processes.iter().find(|state| {
                        let life = ledger.life(state.process);
                        let there = life.is_some_and(|life| {
                            life.started < sent && Some(&life.cluster) == cluster
                        });
                        let told = self.told.get(&(state.process, start.clone()));
                        there && state.knows_events && told < Some(&sequence)
                    });
                    if let Some(state) = late {
                        return Err(format!(
                            "{} is not told event {sequence} of {} after {:?}",
                            state.process,
                            start.0,
                            at - sent
                        ));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn place(event: &UserEvent) -> (Start, u64) {
    let start = (event.sender.clone(), event.generation);
    (start, event.sequence)
}

fn named(event: &UserEvent) -> String {
    let UserEvent {
        sender,
        generation,
        sequence,
        ..
    } = event;
    format!("event {sequence} of {sender} (start {generation})")
}
