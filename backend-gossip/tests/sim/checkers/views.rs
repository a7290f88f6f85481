//! Rules about what processes show to their watchers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidings_api::{Generation, Instance, InstanceKey};
use tidings_gossip::engine::MemberState;

use super::ledger::Life;
use super::{Checker, Ledger, Limits, Phase};
use crate::history::{ProcessId, Seen, Snapshot, Stamp, shown};

pub(crate) fn all(limits: &Limits) -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(SingleWriter),
        Box::new(ClustersApart),
        Box::new(NeverBackInTime::default()),
        Box::new(NoResurrection::default()),
        Box::new(OutageNeverEmpties {
            grace: limits.cut_off_grace,
        }),
        Box::new(NoFlapInCalm),
        Box::new(ChangesTold),
        Box::new(ViewInOrder),
    ]
}

/// Only what an owner asked for is ever shown, exactly as it asked for it.
#[derive(Debug)]
struct SingleWriter;

impl Checker for SingleWriter {
    fn name(&self) -> &'static str {
        "single-writer"
    }

    fn see(&mut self, ledger: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::View { process, after, .. } = seen else {
            return Ok(());
        };
        for instance in *after {
            let stamp = Stamp::of(instance);
            let content = stamp.and_then(|stamp| ledger.content(instance.key(), stamp));
            if content != Some(&**instance) {
                return Err(format!(
                    "{process} shows {instance:?}, its owner asked for {content:?}"
                ));
            }
        }
        Ok(())
    }
}

/// Clusters of different names never see each other's instances.
#[derive(Debug)]
struct ClustersApart;

impl Checker for ClustersApart {
    fn name(&self) -> &'static str {
        "clusters-apart"
    }

    fn see(&mut self, ledger: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::View { process, after, .. } = seen else {
            return Ok(());
        };
        let cluster = |process| ledger.life(process).map(|life| &life.cluster);
        for instance in *after {
            let owner = Stamp::of(instance).and_then(|stamp| cluster(stamp.owner));
            if owner != cluster(*process) {
                return Err(format!(
                    "{process} of {:?} shows {} of {owner:?}",
                    cluster(*process),
                    shown(instance)
                ));
            }
        }
        Ok(())
    }
}

/// Per key and owner, what a process shows never gets older; nor does it show an earlier start of
/// an owner after a later one.
#[derive(Debug, Default)]
struct NeverBackInTime {
    turns: BTreeMap<(ProcessId, Arc<str>, InstanceKey), u64>,
    starts: BTreeMap<(ProcessId, Arc<str>), Generation>,
}

impl Checker for NeverBackInTime {
    fn name(&self) -> &'static str {
        "never-back-in-time"
    }

    fn see(&mut self, ledger: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::View { process, after, .. } = seen else {
            return Ok(());
        };
        for (instance, stamp) in stamped(after) {
            let Some(owner) = ledger.life(stamp.owner).and_then(Life::identity) else {
                continue;
            };
            let name = owner.name.clone();
            let start = self.starts.entry((*process, name.clone())).or_default();
            if owner.generation < *start {
                return Err(format!(
                    "{process} shows {} after it has shown the later start {start} of {name}",
                    shown(instance)
                ));
            }
            *start = owner.generation;
            let key = (*process, name, instance.key().clone());
            let turn = self.turns.entry(key).or_default();
            if stamp.turn < *turn {
                return Err(format!(
                    "{process} shows {} after it has shown turn {turn}",
                    shown(instance)
                ));
            }
            *turn = stamp.turn;
        }
        Ok(())
    }
}

/// What was withdrawn and has therefore left a process's view never comes back to it.
#[derive(Debug, Default)]
struct NoResurrection {
    gone: BTreeMap<(ProcessId, InstanceKey, ProcessId), u64>,
    /// Who is dead or has left, in whose eyes: what leaves a view with its owner isn't known to be
    /// withdrawn.
    absent: BTreeSet<(ProcessId, ProcessId)>,
}

impl NoResurrection {
    fn look(
        &mut self,
        ledger: &Ledger,
        process: ProcessId,
        (before, after): (&[Arc<Instance>], &[Arc<Instance>]),
    ) -> Result<(), String> {
        for (instance, stamp) in stamped(after) {
            let gone = self
                .gone
                .get(&(process, instance.key().clone(), stamp.owner));
            if gone.is_some_and(|gone| stamp.turn <= *gone) {
                return Err(format!(
                    "{process} shows {} again, which was withdrawn and had left its view",
                    shown(instance)
                ));
            }
        }
        for (instance, stamp) in stamped(before) {
            // Another owner's instance may stand in its place.
            let known = !self.absent.contains(&(process, stamp.owner));
            if !shows(after, instance.key()) && known && ledger.is_withdrawn(instance.key(), stamp)
            {
                let key = (process, instance.key().clone(), stamp.owner);
                let gone = self.gone.entry(key).or_default();
                *gone = stamp.turn.max(*gone);
            }
        }
        Ok(())
    }
}

impl Checker for NoResurrection {
    fn name(&self) -> &'static str {
        "no-resurrection"
    }

    fn see(&mut self, ledger: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::View {
                process,
                before,
                after,
                ..
            } => self.look(ledger, *process, (before, after)),
            Seen::Member {
                process,
                member,
                state,
            } => {
                if let Some((owner, _)) = ledger.process(member) {
                    match state {
                        MemberState::Alive | MemberState::Suspect => {
                            self.absent.remove(&(*process, owner));
                        }
                        MemberState::Dead | MemberState::Left => {
                            self.absent.insert((*process, owner));
                        }
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A process that nobody's frames reach keeps showing what it showed, and marks it as stale.
#[derive(Debug)]
struct OutageNeverEmpties {
    /// Frames on their way and suspicions that had begun before may still take effect.
    grace: Duration,
}

impl OutageNeverEmpties {
    fn since(&self, ledger: &Ledger, at: Duration, process: ProcessId) -> Option<Duration> {
        let cut_off = ledger.life(process)?.cut_off?;
        at.checked_sub(cut_off).filter(|since| *since > self.grace)
    }
}

impl Checker for OutageNeverEmpties {
    fn name(&self) -> &'static str {
        "outage-never-empties"
    }

    fn see(&mut self, ledger: &Ledger, at: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::View {
            process,
            before,
            after,
            ..
        } = seen
        else {
            return Ok(());
        };
        let Some(since) = self.since(ledger, at, *process) else {
            return Ok(());
        };
        match vanished(ledger, before, after).find(|(_, stamp)| stamp.owner != *process) {
            Some((instance, _)) => Err(format!(
                "{process}, cut off for {since:?}, no longer shows {}, which is still offered",
                shown(instance)
            )),
            None => Ok(()),
        }
    }
}

/// Once settled, nothing that is offered leaves a view, also while it goes from one owner to another.
#[derive(Debug)]
struct NoFlapInCalm;

impl Checker for NoFlapInCalm {
    fn name(&self) -> &'static str {
        "no-flap-in-calm"
    }

    fn see(&mut self, ledger: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let (
            Phase::Settled,
            Seen::View {
                process,
                before,
                after,
                ..
            },
        ) = (ledger.phase, seen)
        else {
            return Ok(());
        };
        let handed_over = stamped(before).filter(|(instance, stamp)| {
            ledger.is_handed_over(instance.key(), stamp.owner) && !shows(after, instance.key())
        });
        match vanished(ledger, before, after).chain(handed_over).next() {
            Some((instance, _)) => Err(format!(
                "{process} no longer shows {}, which is still offered",
                shown(instance)
            )),
            None => Ok(()),
        }
    }
}

/// Whoever follows the engine's events shows what the engine shows.
#[derive(Debug)]
struct ChangesTold;

impl Checker for ChangesTold {
    fn name(&self) -> &'static str {
        "changes-told"
    }

    fn see(&mut self, _: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Snapshot(Snapshot { processes }) = seen else {
            return Ok(());
        };
        for state in processes {
            let process = state.process;
            if state.told != state.view {
                return Err(format!(
                    "{process}: events told [{}], the view is [{}]",
                    list(&state.told),
                    list(&state.view)
                ));
            }
            if state.live_told != state.live {
                return Err(format!(
                    "{process}: events told live = {}, it is {}",
                    state.live_told, state.live
                ));
            }
        }
        Ok(())
    }
}

/// Views are ordered by key, and show a key once.
#[derive(Debug)]
struct ViewInOrder;

impl Checker for ViewInOrder {
    fn name(&self) -> &'static str {
        "view-in-order"
    }

    fn see(&mut self, _: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::View {
            process,
            after,
            service,
            ..
        } = seen
        else {
            return Ok(());
        };
        if !after.is_sorted_by(|a, b| a.key() < b.key()) {
            return Err(format!("{process} shows [{}]", list(after)));
        }
        match after.iter().find(|instance| instance.service() != *service) {
            Some(other) => Err(format!("{process} shows {} under {service}", shown(other))),
            None => Ok(()),
        }
    }
}

fn stamped(view: &[Arc<Instance>]) -> impl Iterator<Item = (&Arc<Instance>, Stamp)> {
    view.iter().filter_map(|i| Some((i, Stamp::of(i)?)))
}

/// What is no longer shown under any content although it is offered and nobody newer has its key.
fn vanished<'a>(
    ledger: &'a Ledger,
    before: &'a [Arc<Instance>],
    after: &'a [Arc<Instance>],
) -> impl Iterator<Item = (&'a Arc<Instance>, Stamp)> {
    stamped(before).filter(|(instance, stamp)| {
        let key = instance.key();
        ledger.is_offered(key, stamp.owner)
            && !ledger.is_withdrawn(key, *stamp)
            && !shows(after, key)
    })
}

/// Whether a view has a key, whoever its owner.
fn shows(view: &[Arc<Instance>], key: &InstanceKey) -> bool {
    view.iter().any(|instance| instance.key() == key)
}

fn list(view: &[Arc<Instance>]) -> String {
    let all: Vec<_> = view.iter().map(|instance| shown(instance)).collect();
    all.join(", ")
}
