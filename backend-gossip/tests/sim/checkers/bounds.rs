//! Rules about how much and how long.

use std::collections::BTreeMap;
use std::time::Duration;

use tidings_api::InstanceKey;

use super::{Checker, Ledger, Phase};
use crate::history::{Carrier, Ending, ProcessId, ProcessState, Seen, Snapshot, Stamp};

/// The figures that a run is held to.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) datagram_bytes: usize,
    pub(crate) link_frame_bytes: usize,
    /// Broadcasts queued in one engine at once.
    pub(crate) broadcasts: usize,
    /// Bytes of user events kept in one engine.
    pub(crate) event_bytes: usize,
    /// User events queued in one engine.
    pub(crate) events_queued: usize,
    /// How long what was on its way may still take effect on a process that was cut off.
    pub(crate) cut_off_grace: Duration,
    /// From being cut off to showing others' instances as stale.
    pub(crate) stale: Duration,
    /// From the end of all faults to the agreement of all.
    pub(crate) agree: Duration,
    /// In calm, from `register` or `health` to every view.
    pub(crate) visible: Duration,
    /// In calm, from `deregister` to every view.
    pub(crate) removed: Duration,
    /// In calm, from the end of a process to its leaving every view.
    pub(crate) killed: Duration,
    /// In calm, what a host's silent end may take beyond the engine's own `crash_bound`.
    pub(crate) silenced_slack: Duration,
    /// In calm, from the announcement to every view.
    pub(crate) left: Duration,
    /// In calm, datagrams that a member sends per second on average.
    pub(crate) calm_datagrams: f64,
}

pub(crate) fn all(limits: &Limits) -> Vec<Box<dyn Checker>> {
    let in_time = |promise| -> Box<dyn Checker> {
        Box::new(InTime {
            promise,
            limits: limits.clone(),
            crash_bound: Duration::ZERO,
            waiting: Vec::new(),
        })
    };
    vec![
        Box::new(BoundedFrames {
            datagram: limits.datagram_bytes,
            link: limits.link_frame_bytes,
        }),
        Box::new(BoundedQueues {
            broadcasts: limits.broadcasts,
        }),
        Box::new(NoLivelock::default()),
        Box::new(QuietInCalm {
            per_second: limits.calm_datagrams,
            settled: None,
            sent: BTreeMap::new(),
        }),
        Box::new(StaleWhenCutOff {
            within: limits.stale,
            since: BTreeMap::new(),
        }),
        in_time(Promise::Visible),
        in_time(Promise::Removed),
        in_time(Promise::Crashed),
        in_time(Promise::Left),
    ]
}

/// No frame is larger than its carrier takes.
#[derive(Debug)]
struct BoundedFrames {
    datagram: usize,
    link: usize,
}

impl Checker for BoundedFrames {
    fn name(&self) -> &'static str {
        "bounded-frames"
    }

    fn see(&mut self, _: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Sent {
            process,
            carrier,
            bytes,
        } = seen
        else {
            return Ok(());
        };
        let max = match carrier {
            Carrier::Datagram => self.datagram,
            Carrier::Link => self.link,
        };
        if *bytes <= max {
            return Ok(());
        }
        Err(format!(
            "{process} sends {bytes} bytes by {carrier:?}, at most {max} fit"
        ))
    }
}

/// What waits to be spread stays bounded.
#[derive(Debug)]
struct BoundedQueues {
    broadcasts: usize,
}

impl Checker for BoundedQueues {
    fn name(&self) -> &'static str {
        "bounded-queues"
    }

    fn see(&mut self, _: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Snapshot(Snapshot { processes }) = seen else {
            return Ok(());
        };
        match processes
            .iter()
            .find(|p| p.stats.broadcasts_max > self.broadcasts)
        {
            Some(state) => Err(format!(
                "{} had {} broadcasts queued, at most {} may be",
                state.process, state.stats.broadcasts_max, self.broadcasts
            )),
            None => Ok(()),
        }
    }
}

/// Timers let time pass: no process asks again and again for the moment that it is.
#[derive(Debug, Default)]
struct NoLivelock {
    woke: BTreeMap<ProcessId, (Duration, u32)>,
}

impl NoLivelock {
    const WAKES_AT_ONCE_MAX: u32 = 50;
}

impl Checker for NoLivelock {
    fn name(&self) -> &'static str {
        "no-livelock"
    }

    fn see(&mut self, _: &Ledger, at: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Woke { process } = seen else {
            return Ok(());
        };
        let (last, times) = self.woke.entry(*process).or_default();
        *times = if *last == at { *times + 1 } else { 1 };
        *last = at;
        if *times <= Self::WAKES_AT_ONCE_MAX {
            return Ok(());
        }
        Err(format!("{process} woke {times} times without time passing"))
    }
}

/// Once settled, members say little: no flood goes on for ever.
#[derive(Debug)]
struct QuietInCalm {
    per_second: f64,
    settled: Option<Duration>,
    sent: BTreeMap<ProcessId, u32>,
}

impl QuietInCalm {
    /// Shorter than this says little about a rate.
    const MEASURED_MIN: Duration = Duration::from_secs(5);
}

impl Checker for QuietInCalm {
    fn name(&self) -> &'static str {
        "quiet-in-calm"
    }

    fn see(&mut self, _: &Ledger, at: Duration, seen: &Seen<'_>) -> Result<(), String> {
        match (seen, self.settled) {
            (Seen::Settled, _) => self.settled = Some(at),
            (
                Seen::Sent {
                    process,
                    carrier: Carrier::Datagram,
                    ..
                },
                Some(_),
            ) => {
                *self.sent.entry(*process).or_default() += 1;
            }
            (Seen::Snapshot(_), Some(since)) if at - since >= Self::MEASURED_MIN => {
                for (process, sent) in &self.sent {
                    let rate = f64::from(*sent) / (at - since).as_secs_f64();
                    if rate > self.per_second {
                        return Err(format!(
                            "{process} sends {rate:.1} datagrams a second, at most {:.1} may be",
                            self.per_second
                        ));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A process that nobody's frames reach doesn't vouch for others' instances for long.
#[derive(Debug)]
struct StaleWhenCutOff {
    within: Duration,
    since: BTreeMap<ProcessId, Duration>,
}

impl Checker for StaleWhenCutOff {
    fn name(&self) -> &'static str {
        "stale-when-cut-off"
    }

    fn see(&mut self, ledger: &Ledger, at: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Snapshot(Snapshot { processes }) = seen else {
            return Ok(());
        };
        for state in processes {
            let cut_off = ledger.life(state.process).and_then(|life| life.cut_off);
            let vouches = state.live && shows_others(ledger, state);
            if state.paused || cut_off.is_none() || !vouches {
                self.since.remove(&state.process);
                continue;
            }
            let since = *self.since.entry(state.process).or_insert(at);
            if at - since > self.within {
                return Err(format!(
                    "{}, cut off, still says that what it shows of others is live",
                    state.process
                ));
            }
        }
        Ok(())
    }
}

fn shows_others(ledger: &Ledger, state: &ProcessState) -> bool {
    let owners = state.view.iter().filter_map(|i| Some(Stamp::of(i)?.owner));
    let mut others = owners.filter(|owner| *owner != state.process);
    others.any(|owner| ledger.is_running(owner))
}

/// What is promised to reach every view within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    Visible,
    Removed,
    Crashed,
    Left,
}

/// Once settled, everything is seen everywhere within its bound.
#[derive(Debug)]
struct InTime {
    promise: Promise,
    limits: Limits,
    crash_bound: Duration,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Duration,
    due: Duration,
    what: What,
}

#[derive(Debug)]
enum What {
    Shown(InstanceKey, Stamp),
    Withdrawn(InstanceKey, ProcessId),
    Ended(ProcessId),
}

impl What {
    /// The thing that a process still shows, or doesn't show yet.
    fn missed(&self, ledger: &Ledger, state: &ProcessState) -> bool {
        let mut view = state
            .view
            .iter()
            .filter_map(|i| Some((i.key(), Stamp::of(i)?)));
        match self {
            // Newer content, or a newer owner, is as good.
            Self::Shown(key, stamp) => {
                ledger.is_offered(key, stamp.owner)
                    && same_cluster(ledger, state.process, stamp.owner)
                    && !view
                        .any(|(k, s)| k == key && (s.owner != stamp.owner || s.turn >= stamp.turn))
            }
            Self::Withdrawn(key, owner) => {
                view.any(|(k, s)| k == key && s.owner == *owner && ledger.is_withdrawn(key, s))
            }
            Self::Ended(owner) => view.any(|(_, s)| s.owner == *owner),
        }
    }
}

fn same_cluster(ledger: &Ledger, a: ProcessId, b: ProcessId) -> bool {
    ledger.life(a).map(|life| &life.cluster) == ledger.life(b).map(|life| &life.cluster)
}

impl InTime {
    /// What is promised from now on, and within which time.
    fn promised(&self, seen: &Seen<'_>) -> Option<(What, Duration)> {
        let limits = &self.limits;
        match (self.promise, seen) {
            (Promise::Visible, Seen::Asked { process, instance }) => {
                debug_assert!(Stamp::of(instance).is_some_and(|s| s.owner == *process));
                let what = What::Shown(instance.key().clone(), Stamp::of(instance)?);
                Some((what, limits.visible))
            }
            (Promise::Removed, Seen::Withdrawn { process, key }) => {
                Some((What::Withdrawn((*key).clone(), *process), limits.removed))
            }
            (Promise::Crashed, Seen::Ended { process, how }) => {
                let bound = match how {
                    Ending::Killed => limits.killed,
                    Ending::Silenced => self.crash_bound + limits.silenced_slack,
                    Ending::Left => return None,
                };
                Some((What::Ended(*process), bound))
            }
            (Promise::Left, Seen::Leaving { process }) => {
                Some((What::Ended(*process), limits.left))
            }
            _ => None,
        }
    }
}

impl Checker for InTime {
    fn name(&self) -> &'static str {
        match self.promise {
            Promise::Visible => "visible-in-time",
            Promise::Removed => "removed-in-time",
            Promise::Crashed => "crash-in-time",
            Promise::Left => "leave-in-time",
        }
    }

    fn see(&mut self, ledger: &Ledger, at: Duration, seen: &Seen<'_>) -> Result<(), String> {
        if ledger.phase != Phase::Settled {
            return Ok(());
        }
        if let Some((what, bound)) = self.promised(seen) {
            self.waiting.push(Waiting {
                since: at,
                due: at + bound,
                what,
            });
        }
        let Seen::Snapshot(Snapshot { processes }) = seen else {
            return Ok(());
        };
        let bounds = processes.iter().map(|state| state.crash_bound);
        self.crash_bound = bounds.max().unwrap_or_default();
        let (due, waiting): (Vec<_>, Vec<_>) = self
            .waiting
            .drain(..)
            .partition(|waiting| waiting.due <= at);
        self.waiting = waiting;
        for waiting in due {
            let bound = waiting.due - waiting.since;
            // Who has started only just needs as long itself.
            let mut able = processes.iter().filter(|state| {
                let life = ledger.life(state.process);
                !state.paused && life.is_none_or(|life| life.started + bound <= at)
            });
            if let Some(state) = able.find(|state| waiting.what.missed(ledger, state)) {
                return Err(format!(
                    "{:?} has not reached {} within {bound:?}",
                    waiting.what, state.process
                ));
            }
        }
        Ok(())
    }
}
