//! The bridges into one target, and which of them a mirror falls to.
//!
//! Each bridge is registered in the target, with a number that it raises all the time. A bridge
//! whose number stands still is silent: its mirrors live on as long as its lease does, and in that
//! time another one takes them over. Nobody's clock is compared with another's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidings_api::{Address, Health, Instance, InstanceId, InstanceKey, Result, ServiceName};
use tokio::time::Instant;

use super::picture::Picture;
use super::report::BridgeState;
use crate::BRIDGES;

const ORIGIN: &str = "origin";
const SELECTION: &str = "selection";
const STATE: &str = "state";
const BEAT: &str = "beat";

/// Whose bridges share the work: those that bring the same services from the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) origin: String,
    pub(super) selection: String,
}

/// All bridges that are known in the target.
#[derive(Debug)]
pub(super) struct Peers {
    me: InstanceId,
    group: Group,
    /// How long a bridge may stand still before it counts as silent.
    silence: Duration,
    known: BTreeMap<String, Peer>,
    candidates: BTreeSet<String>,
    /// Since when the candidates are these.
    candidates_since: Instant,
    deaf: bool,
    looked: Instant,
    /// Counts the own signs of life.
    beats: u64,
}

#[derive(Debug)]
struct Peer {
    /// What it last said of itself; `None` where only its mirrors tell of it.
    entry: Option<Arc<Instance>>,
    heard: Instant,
    /// It was listed, and isn't any more.
    gone: bool,
}

impl Peer {
    /// What it last said it is doing; `None` where it hasn't said anything.
    fn state(&self) -> Option<BridgeState> {
        self.entry.as_ref().map(|entry| state_of(entry))
    }
}

/// What a bridge may expect of the one that keeps a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It keeps its mirrors.
    Able,
    /// It wants to be relieved of them: it can't hear the source, or leaves.
    Unable,
    /// It is silent, or gone.
    Dead,
}

impl Peers {
    pub(super) fn new(me: InstanceId, group: Group, silence: Duration, now: Instant) -> Self {
        Self {
            me,
            group,
            silence,
            known: BTreeMap::new(),
            candidates: BTreeSet::new(),
            candidates_since: now,
            deaf: true,
            looked: now,
            beats: 0,
        }
    }

    /// Takes in what the target lists.
    pub(super) fn look<'a>(
        &mut self,
        target: &Picture,
        holders: impl Iterator<Item = &'a str>,
        now: Instant,
    ) {
        // A process that was stopped has heard nobody either.
        self.deaf |= now.saturating_duration_since(self.looked) >= self.silence;
        self.looked = now;
        if !target.is_live() {
            self.deaf = true;
            return;
        }
        if std::mem::take(&mut self.deaf) {
            self.known.values_mut().for_each(|peer| peer.heard = now);
        }
        for peer in self.known.values_mut() {
            peer.gone |= peer.entry.is_some();
        }
        let listed = target.iter().filter(|entry| is_bridge(entry));
        for entry in listed.filter(|entry| *entry.id() != self.me) {
            let name = entry.id().as_str();
            let peer = self.known.entry(name.to_owned()).or_insert(Peer {
                entry: None,
                heard: now,
                gone: false,
            });
            if peer.entry.as_ref().is_none_or(|last| *last != *entry) {
                peer.entry = Some(entry.clone());
                peer.heard = now;
            }
            peer.gone = false;
        }
        let mut needed = BTreeSet::new();
        for holder in holders.filter(|holder| *holder != self.me.as_str()) {
            needed.insert(holder);
            if !self.known.contains_key(holder) {
                let stranger = Peer {
                    entry: None,
                    heard: now,
                    gone: false,
                };
                self.known.insert(holder.to_owned(), stranger);
            }
        }
        self.known.retain(|name, peer| {
            let listed = peer.entry.is_some() && !peer.gone;
            listed || needed.contains(name.as_str())
        });
        self.elect(now);
    }

    /// What is to be expected of the bridge of this name.
    pub(super) fn standing(&self, name: &str, now: Instant) -> Standing {
        let Some(peer) = self.known.get(name) else {
            return Standing::Dead;
        };
        if self.is_dead(peer, now) {
            return Standing::Dead;
        }
        match peer.state() {
            // Its mirrors were heard of first.
            None | Some(BridgeState::Ready) => Standing::Able,
            Some(_) => Standing::Unable,
        }
    }

    /// Whether a bridge shares this one's work.
    pub(super) fn shares(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(|peer| self.is_of_us(peer))
    }

    /// Whether any other bridge could take over, now or once it hears the source. While the target
    /// can't be heard all could who could before.
    pub(super) fn has_heirs(&self, now: Instant) -> bool {
        self.known.values().any(|peer| {
            let may = matches!(
                peer.state(),
                Some(BridgeState::Ready | BridgeState::Standby)
            );
            may && self.is_of_us(peer) && (self.deaf || !self.is_dead(peer, now))
        })
    }

    fn is_of_us(&self, peer: &Peer) -> bool {
        let group = peer.entry.as_ref().and_then(|entry| group_of(entry));
        group.as_ref() == Some(&self.group)
    }

    /// Whether it is silent, or gone.
    fn is_dead(&self, peer: &Peer, now: Instant) -> bool {
        peer.gone || now.saturating_duration_since(peer.heard) >= self.silence
    }

    /// The bridge that a mirror falls to, where that is another one.
    pub(super) fn assigned(&self, key: &InstanceKey) -> Option<&str> {
        let others = self.candidates.iter().map(String::as_str);
        let all = others.chain([self.me.as_str()]);
        let best = all.max_by_key(|name| (score(name, key), *name));
        best.filter(|name| *name != self.me.as_str())
    }

    /// Whether the candidates are the same for so long that the others know of them too.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.candidates_since) >= self.silence
    }

    pub(super) fn silence(&self) -> Duration {
        self.silence
    }

    /// What this bridge is registered as: a new sign of life.
    pub(super) fn introduce(&mut self, state: BridgeState) -> Result<Instance> {
        self.beats += 1;
        let nowhere = Address::new("127.0.0.1", 1)?;
        Instance::at(bridge_key(self.me.clone()), nowhere)
            .with_health(Health::draining().with_note("no service: a bridge"))
            .with_metadata(ORIGIN, &*self.group.origin)?
            .with_metadata(SELECTION, &*self.group.selection)?
            .with_metadata(STATE, state.as_str())?
            .with_metadata(BEAT, self.beats.to_string())
    }

    /// The other bridges, for the report.
    pub(super) fn list(&self, now: Instant) -> BTreeMap<String, (BridgeState, bool)> {
        let listed = self
            .known
            .iter()
            .filter_map(|(name, peer)| Some((name, peer.entry.as_ref()?)));
        listed
            .map(|(name, entry)| {
                let dead = self.standing(name, now) == Standing::Dead;
                (name.clone(), (state_of(entry), !dead))
            })
            .collect()
    }

    fn elect(&mut self, now: Instant) {
        let able = self
            .known
            .keys()
            .filter(|name| self.standing(name, now) == Standing::Able && self.shares(name));
        let candidates = able.cloned().collect();
        if self.candidates != candidates {
            self.candidates = candidates;
            self.candidates_since = now;
        }
    }
}

/// The key of a bridge among the bridges of a target.
pub(super) fn bridge_key(name: InstanceId) -> InstanceKey {
    InstanceKey::new(bridges(), name)
}

/// The service that bridges are registered under.
pub(super) fn bridges() -> ServiceName {
    #[allow(clippy::expect_used, reason = "it is a constant, and a test reads it")]
    ServiceName::new(BRIDGES).expect("the name is within LIM-1")
}

fn is_bridge(instance: &Instance) -> bool {
    instance.service().as_str() == BRIDGES
}

fn state_of(entry: &Instance) -> BridgeState {
    let state = entry.metadata().get(STATE);
    // What a newer version says is for those who know it.
    state.map_or(BridgeState::Standby, |text| BridgeState::read(text))
}

fn group_of(entry: &Instance) -> Option<Group> {
    let read = |key| entry.metadata().get(key).cloned();
    Some(Group {
        origin: read(ORIGIN)?,
        selection: read(SELECTION)?,
    })
}

/// How much a mirror leans to a bridge. Every bridge computes the same, whatever its version: FNV-1a
/// over the name and the key, and a finaliser that lets every bit count.
fn score(name: &str, key: &InstanceKey) -> u64 {
    let hash = hash(&format!("{name} {key}"));
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// FNV-1a.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_is_spread_and_moves_only_where_it_has_to() {
        let names = ["bridge-1", "bridge-2", "bridge-3"];
        let keys: Vec<InstanceKey> = (0..3_000)
            .map(|n| format!("web/web-{n}").parse().unwrap())
            .collect();
        let best = |names: &[&'static str], key| {
            let best = names.iter().max_by_key(|name| score(name, key));
            *best.unwrap()
        };
        for name in names {
            let share = keys.iter().filter(|key| best(&names, key) == name).count();
            assert!((800..1_200).contains(&share), "{name} has {share} of 3000");
        }
        for key in &keys {
            let of_two = best(&names[..2], key);
            let of_three = best(&names, key);
            assert!(of_three == of_two || of_three == names[2], "{key} moved");
        }
    }

    #[test]
    fn the_score_is_the_same_in_every_version() {
        let key = "web/web-1".parse().unwrap();
        assert_eq!(score("bridge-1", &key), 15_725_153_625_782_827_427);
    }
}
