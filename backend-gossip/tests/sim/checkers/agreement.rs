//! Rules about all members at one moment: what they agree on once nothing goes wrong any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidings_api::{Generation, Instance, InstanceKey};
use tidings_gossip::engine::MemberState;
use tidings_gossip::wire::member_hash;

use crate::history::{ProcessState, Snapshot, shown};

/// A named rule about one moment; the error says what differs.
type Rule = (&'static str, fn(&Snapshot) -> Result<(), String>);

/// Every rule, in the order in which they are looked at.
pub(crate) const RULES: [Rule; 7] = [
    ("registrations-held", registrations_held),
    ("superseded-told", superseded_told),
    ("members-converge", members_converge),
    ("views-converge", views_converge),
    ("digests-equal", digests_equal),
    ("events-level", events_level),
    ("freshness-live", freshness_live),
];

/// The first rule that doesn't hold, and why.
pub(crate) fn disagreement(snapshot: &Snapshot) -> Option<(&'static str, String)> {
    let mut failed = RULES
        .iter()
        .filter_map(|(name, rule)| Some((*name, rule(snapshot).err()?)));
    failed.next()
}

/// Every engine offers what its application asked for, no more and no less.
fn registrations_held(snapshot: &Snapshot) -> Result<(), String> {
    for state in &snapshot.processes {
        let asked: Vec<_> = state.asked.iter().map(|instance| instance.key()).collect();
        let offered = state
            .registrations
            .iter()
            .filter(|(_, superseded)| !superseded);
        let offered: Vec<_> = offered.map(|(key, _)| key).collect();
        if asked != offered {
            return Err(format!(
                "{} was asked for {asked:?} and offers {offered:?}",
                state.process
            ));
        }
    }
    Ok(())
}

/// No two members offer the same key.
fn superseded_told(snapshot: &Snapshot) -> Result<(), String> {
    let mut owners = BTreeMap::new();
    for state in &snapshot.processes {
        for instance in &state.asked {
            if let Some(other) = owners.insert((&state.cluster, instance.key()), state.process) {
                return Err(format!(
                    "both {other} and {} offer {}",
                    state.process,
                    instance.key()
                ));
            }
        }
    }
    Ok(())
}

/// Everybody knows exactly the running members as alive.
fn members_converge(snapshot: &Snapshot) -> Result<(), String> {
    for state in &snapshot.processes {
        let running = clustered(snapshot, state);
        let mut running: Vec<_> = running.map(|other| &other.identity).collect();
        running.sort_by(|a, b| a.name.cmp(&b.name));
        let alive = state
            .members
            .iter()
            .filter(|member| member.state == MemberState::Alive);
        let mut alive: Vec<_> = alive.map(|member| &member.identity).collect();
        alive.sort_by(|a, b| a.name.cmp(&b.name));
        // Whether the own row is listed is the engine's choice.
        running.retain(|identity| identity.name != state.identity.name);
        alive.retain(|identity| identity.name != state.identity.name);
        if alive != running {
            let names = |all: &[&tidings_gossip::engine::Identity]| -> Vec<String> {
                all.iter()
                    .map(|i| format!("{}#{}", i.name, i.generation))
                    .collect()
            };
            return Err(format!(
                "{} ({}) holds alive {:?}, running are {:?}",
                state.process,
                state.identity.name,
                names(&alive),
                names(&running)
            ));
        }
    }
    Ok(())
}

/// Everybody shows what is offered, all of it, in its newest form.
fn views_converge(snapshot: &Snapshot) -> Result<(), String> {
    for state in &snapshot.processes {
        let offered = offered(snapshot, state);
        let mut seen: BTreeMap<_, _> = state.view.iter().map(|i| (i.key(), i)).collect();
        for (key, instance) in &offered {
            match seen.remove(*key) {
                Some(shows) if shows == *instance => {}
                other => {
                    return Err(format!(
                        "{} shows {} for {}",
                        state.process,
                        other.map_or("nothing".to_owned(), |other| shown(other)),
                        shown(instance)
                    ));
                }
            }
        }
        if let Some(extra) = seen.values().next() {
            return Err(format!(
                "{} shows {}, which nobody offers",
                state.process,
                shown(extra)
            ));
        }
    }
    Ok(())
}

/// Everybody's registry is the same, to the bit.
fn digests_equal(snapshot: &Snapshot) -> Result<(), String> {
    for state in &snapshot.processes {
        if let Some(other) = clustered(snapshot, state).find(|other| other.digest != state.digest) {
            return Err(format!(
                "{} has digest {:016x}, {} has {:016x}",
                state.process, state.digest, other.process, other.digest
            ));
        }
    }
    Ok(())
}

/// Nobody who knows of events is behind or ahead in anybody's; those of who runs are known to all.
fn events_level(snapshot: &Snapshot) -> Result<(), String> {
    for state in &snapshot.processes {
        let own = member_hash(&state.identity.name);
        for (sender, generation, last) in &state.streams {
            let mine = (*sender, *generation) == (own, state.identity.generation);
            for other in clustered(snapshot, state).filter(|other| other.knows_events) {
                let streams = other.streams.iter();
                let same = |(s, g, _): &&(u64, Generation, u64)| (s, g) == (sender, generation);
                let theirs = streams.clone().find(same).map(|(_, _, last)| *last);
                if (mine || theirs.is_some()) && theirs != Some(*last) {
                    return Err(format!(
                        "{} is at event {last} of {sender:016x}, {} at {theirs:?}",
                        state.process, other.process
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Everybody vouches for what it shows.
fn freshness_live(snapshot: &Snapshot) -> Result<(), String> {
    match snapshot.processes.iter().find(|state| !state.live) {
        Some(state) => Err(format!("{} is stale", state.process)),
        None => Ok(()),
    }
}

fn clustered<'a>(
    snapshot: &'a Snapshot,
    state: &'a ProcessState,
) -> impl Iterator<Item = &'a ProcessState> {
    let all = snapshot.processes.iter();
    all.filter(|other| other.cluster == state.cluster)
}

fn offered<'a>(
    snapshot: &'a Snapshot,
    state: &'a ProcessState,
) -> BTreeMap<&'a InstanceKey, &'a Arc<Instance>> {
    let all = clustered(snapshot, state).flat_map(|other| &other.asked);
    all.map(|instance| (instance.key(), instance)).collect()
}
