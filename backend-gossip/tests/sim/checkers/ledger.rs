//! What is true of a run so far, whatever the members believe.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidings_api::{Generation, Instance, InstanceKey};
use tidings_gossip::engine::Identity;

use crate::history::{Ending, ProcessId, Seen, Stamp};

/// How much may go wrong now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Anything: faults are injected.
    #[default]
    Chaos,
    /// No new faults, but the old ones may still show.
    Calm,
    /// All members have agreed since the faults ended: nothing may go wrong.
    Settled,
}

/// The truth.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) phase: Phase,
    lives: BTreeMap<ProcessId, Life>,
    offers: BTreeMap<(InstanceKey, ProcessId), Offer>,
}

/// One process from its start to its end.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) cluster: Arc<str>,
    /// All that it was known as; the last is what it is now.
    pub(crate) identities: Vec<Identity>,
    pub(crate) started: Duration,
    pub(crate) leaving: bool,
    pub(crate) ended: Option<(Duration, Ending)>,
    /// Since when nobody's frames reach it.
    pub(crate) cut_off: Option<Duration>,
}

/// All that one process ever asked for under one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offer {
    contents: BTreeMap<u64, Instance>,
    /// The last turn that was withdrawn; later ones are offered.
    withdrawn: u64,
    superseded: bool,
}

impl Life {
    /// What it is known as now.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identities.last()
    }
}

impl Ledger {
    pub(crate) fn life(&self, process: ProcessId) -> Option<&Life> {
        self.lives.get(&process)
    }

    /// The process that a member is, by name, generation and address.
    pub(crate) fn process(&self, identity: &Identity) -> Option<(ProcessId, &Life)> {
        let mut lives = self.lives.iter().map(|(id, life)| (*id, life));
        lives.find(|(_, life)| life.identities.contains(identity))
    }

    /// Whether a process runs and means to stay.
    pub(crate) fn is_running(&self, process: ProcessId) -> bool {
        let life = self.lives.get(&process);
        life.is_some_and(|life| life.ended.is_none() && !life.leaving)
    }

    /// What an owner asked for in this turn.
    pub(crate) fn content(&self, key: &InstanceKey, stamp: Stamp) -> Option<&Instance> {
        self.offer(key, stamp.owner)?.contents.get(&stamp.turn)
    }

    /// Whether the owner has taken back what it asked for in this turn.
    pub(crate) fn is_withdrawn(&self, key: &InstanceKey, stamp: Stamp) -> bool {
        self.offer(key, stamp.owner)
            .is_some_and(|offer| stamp.turn <= offer.withdrawn)
    }

    /// Whether a process offers a key now: asked for, not withdrawn, not told of a newer owner.
    pub(crate) fn is_offered(&self, key: &InstanceKey, owner: ProcessId) -> bool {
        self.is_running(owner)
            && self.offer(key, owner).is_some_and(|offer| {
                !offer.superseded
                    && offer
                        .contents
                        .keys()
                        .next_back()
                        .is_some_and(|turn| *turn > offer.withdrawn)
            })
    }

    /// Whether a process was told that somebody newer has its key, and somebody offers it.
    pub(crate) fn is_handed_over(&self, key: &InstanceKey, owner: ProcessId) -> bool {
        let cluster = |process| self.life(process).map(|life| &life.cluster);
        let offers = |(other, _)| self.is_offered(key, other) && cluster(other) == cluster(owner);
        let superseded = self.offer(key, owner).is_some_and(|offer| offer.superseded);
        superseded && self.claims(key).any(offers)
    }

    /// Everybody who ever offered a key, with the newest generation of that.
    pub(crate) fn claims(
        &self,
        key: &InstanceKey,
    ) -> impl Iterator<Item = (ProcessId, Generation)> {
        let all = self.offers.range((key.clone(), ProcessId(0))..);
        let of_key = all.take_while(move |((k, _), _)| k == key);
        of_key.filter_map(|((_, process), offer)| {
            let newest = offer.contents.values().map(Instance::generation).max()?;
            Some((*process, newest))
        })
    }

    pub(crate) fn enter(&mut self, at: Duration, seen: &Seen<'_>) {
        match seen {
            Seen::Started {
                process,
                cluster,
                identity,
            } => {
                let life = Life {
                    cluster: (*cluster).into(),
                    identities: vec![(*identity).clone()],
                    started: at,
                    leaving: false,
                    ended: None,
                    cut_off: None,
                };
                self.lives.insert(*process, life);
            }
            Seen::Renamed { process, identity } => {
                self.change(*process, |life| life.identities.push((*identity).clone()));
            }
            Seen::Leaving { process } => self.change(*process, |life| life.leaving = true),
            Seen::Ended { process, how } => {
                self.change(*process, |life| life.ended = Some((at, *how)));
            }
            Seen::CutOff { process, cut_off } => {
                self.change(*process, |life| life.cut_off = cut_off.then_some(at));
            }
            Seen::Asked { process, instance } => {
                if let Some(stamp) = Stamp::of(instance) {
                    let offer = self.offer_mut(instance.key(), *process);
                    offer.superseded = false;
                    offer.contents.insert(stamp.turn, (*instance).clone());
                }
            }
            Seen::Withdrawn { process, key } => {
                let offer = self.offer_mut(key, *process);
                offer.withdrawn = offer.contents.keys().next_back().copied().unwrap_or(0);
            }
            Seen::Superseded { process, key } => self.offer_mut(key, *process).superseded = true,
            Seen::Calm => self.phase = Phase::Calm,
            Seen::Settled => self.phase = Phase::Settled,
            _ => {}
        }
    }

    fn change(&mut self, process: ProcessId, change: impl FnOnce(&mut Life)) {
        if let Some(life) = self.lives.get_mut(&process) {
            change(life);
        }
    }

    fn offer(&self, key: &InstanceKey, owner: ProcessId) -> Option<&Offer> {
        self.offers.get(&(key.clone(), owner))
    }

    fn offer_mut(&mut self, key: &InstanceKey, owner: ProcessId) -> &mut Offer {
        self.offers.entry((key.clone(), owner)).or_default()
    }
}
