//! Rules about what processes believe of each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidings_api::Generation;
use tidings_gossip::engine::MemberState;

use super::{Checker, Ledger, Phase};
use crate::history::{ProcessId, Seen, Snapshot};

pub(crate) fn all() -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(MembersNeverRegress::default()),
        Box::new(KnownMembers),
        Box::new(LeftByWill),
        Box::new(NoFalseDeathInCalm),
        Box::new(SupersededByNewer),
    ]
}

/// Generation, incarnation and state of a member only ever rise in the eyes of one process, and its
/// own incarnation rises too.
#[derive(Debug, Default)]
struct MembersNeverRegress {
    rows: BTreeMap<ProcessId, BTreeMap<Arc<str>, Row>>,
    own: BTreeMap<ProcessId, u64>,
}

type Row = (Generation, u64, MemberState);

impl Checker for MembersNeverRegress {
    fn name(&self) -> &'static str {
        "members-never-regress"
    }

    fn see(&mut self, _: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Snapshot(Snapshot { processes }) = seen else {
            return Ok(());
        };
        for state in processes {
            let own = self.own.entry(state.process).or_default();
            if state.incarnation < *own {
                return Err(format!(
                    "{}: own incarnation {} after {own}",
                    state.process, state.incarnation
                ));
            }
            *own = state.incarnation;
            // A member that isn't listed any more is forgotten, by us as by the process.
            let before = self.rows.remove(&state.process).unwrap_or_default();
            let now = self.rows.entry(state.process).or_default();
            for member in &state.members {
                let name = &member.identity.name;
                let row = (member.identity.generation, member.incarnation, member.state);
                if before.get(name).is_some_and(|before| row < *before) {
                    return Err(format!(
                        "{} has {name} at {row:?} after {:?}",
                        state.process, before[name]
                    ));
                }
                if now.insert(name.clone(), row).is_some() {
                    return Err(format!("{} lists {name} twice", state.process));
                }
            }
        }
        Ok(())
    }
}

/// Only members that exist or existed are ever told of, and those of the own cluster alone.
#[derive(Debug)]
struct KnownMembers;

impl Checker for KnownMembers {
    fn name(&self) -> &'static str {
        "known-members"
    }

    fn see(&mut self, ledger: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Member {
            process, member, ..
        } = seen
        else {
            return Ok(());
        };
        let cluster = ledger.life(*process).map(|life| &life.cluster);
        match ledger.process(member) {
            Some((_, life)) if Some(&life.cluster) == cluster => Ok(()),
            Some((other, life)) => Err(format!(
                "{process} of {cluster:?} knows {other} of {:?}",
                life.cluster
            )),
            None => Err(format!("{process} knows {member:?}, which never was")),
        }
    }
}

/// Nobody is seen to leave who doesn't.
#[derive(Debug)]
struct LeftByWill;

impl Checker for LeftByWill {
    fn name(&self) -> &'static str {
        "left-by-will"
    }

    fn see(&mut self, ledger: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Member {
            process,
            member,
            state,
        } = seen
        else {
            return Ok(());
        };
        let stays = ledger.process(member).is_none_or(|(_, life)| !life.leaving);
        if *state == MemberState::Left && stays {
            return Err(format!("{process} saw {member:?} leave, which didn't"));
        }
        Ok(())
    }
}

/// Once settled, no running member is taken for dead by anybody.
#[derive(Debug)]
struct NoFalseDeathInCalm;

impl Checker for NoFalseDeathInCalm {
    fn name(&self) -> &'static str {
        "no-false-death-in-calm"
    }

    fn see(&mut self, ledger: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let (
            Phase::Settled,
            Seen::Member {
                process,
                member,
                state: MemberState::Dead,
            },
        ) = (ledger.phase, seen)
        else {
            return Ok(());
        };
        match ledger.process(member) {
            Some((id, _)) if ledger.is_running(id) => {
                Err(format!("{process} takes {id} ({member:?}) for dead"))
            }
            _ => Ok(()),
        }
    }
}

/// Whoever is told that a newer owner has its key has one.
#[derive(Debug)]
struct SupersededByNewer;

impl Checker for SupersededByNewer {
    fn name(&self) -> &'static str {
        "superseded-by-newer"
    }

    fn see(&mut self, ledger: &Ledger, _: Duration, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Superseded { process, key } = seen else {
            return Ok(());
        };
        let claims: Vec<_> = ledger.claims(key).collect();
        let own = claims.iter().find(|(claimant, ..)| claimant == process);
        let Some((_, own_generation)) = own else {
            return Err(format!(
                "{process} is superseded for {key}, which it never offered"
            ));
        };
        // Equal generations are told apart by the owners' ids, which is the engine's business.
        let newer = claims
            .iter()
            .any(|(claimant, generation)| claimant != process && generation >= own_generation);
        if newer {
            return Ok(());
        }
        Err(format!(
            "{process} is superseded for {key} by nobody: {claims:?}"
        ))
    }
}
