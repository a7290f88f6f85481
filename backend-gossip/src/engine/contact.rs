//! Whether this member itself is cut off.
//!
//! Silence has two explanations: they are gone, or this member can't hear. As long as it hears
//! nobody, or can't reach more members than it reaches, the second is the likelier one. Then it
//! convicts nobody: suspects stay suspects, their instances stay in the views, and the views are
//! marked stale (WAT-4, WAT-10). What a host *refuses* is heard, so it needs no such caution.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use tidings_api::Freshness;

use super::member::MemberState;
use super::timer::Timer;
use super::{Engine, Event};

/// Probe intervals without a word from anybody after which this member takes itself for cut off:
/// with 30 % loss in both directions fewer than one stretch in ten thousand is that long.
const SILENCE_PROBES: u32 = 5;

/// Probe intervals within which somebody must have answered for anybody to be convicted: in a small
/// cluster a suspicion ends before the silence is long enough to be told from chance.
const HEARD_PROBES: u32 = 2;

/// Probe intervals for which the dead count as missed: those who went one after the other may have
/// gone together.
const MISSED_PROBES: u32 = 30;

/// Probes by which a member judges whether it is others that are silent or itself that is deaf: what
/// a suspicion in a lossy network takes.
const PROBES_JUDGED: usize = 8;

/// So many members silent at one time are likelier behind a broken network than gone, and a
/// partition takes a while to show how large it is.
const SILENT_MANY: usize = 3;

/// What this member hears.
#[derive(Debug)]
pub(super) struct Contact {
    started: Instant,
    last_heard: Instant,
    /// Since when silence counts: a pause is none.
    listening: Instant,
    cut_off: Option<CutOff>,
    /// Who died lately of silence, and when.
    deaths: VecDeque<(Instant, u64)>,
    /// Whom this member probed last, and whether it answered.
    probed: VecDeque<(u64, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CutOff {
    since: Instant,
    /// Whether nobody at all is heard.
    silent: bool,
}

impl Contact {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            last_heard: now,
            listening: now,
            cut_off: None,
            deaths: VecDeque::new(),
            probed: VecDeque::new(),
        }
    }
}

impl Engine {
    /// Whether the engine's views can be vouched for.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        if !self.is_joined() {
            let reason = "no seed has answered yet".into();
            return Freshness::Stale {
                since: self.contact.started,
                reason,
            };
        }
        let Some(CutOff { since, silent }) = self.contact.cut_off else {
            return Freshness::Live;
        };
        let reason = if silent {
            "no other member is heard"
        } else {
            "most members can't be reached"
        };
        Freshness::Stale {
            since,
            reason: reason.into(),
        }
    }

    /// How far to distrust silence, from 0 to 1: by what is lost, and fully while many are silent.
    pub(super) fn doubt(&self) -> f64 {
        let silent = self.missed();
        let share_large = silent >= 2 && silent * 4 >= self.members.others().len();
        if silent >= SILENT_MANY || share_large {
            1.0
        } else {
            self.loss.doubt()
        }
    }

    /// Somebody has answered this member: a frame by itself may be old, or go one way only.
    pub(super) fn contact_made(&mut self, now: Instant) {
        self.contact.last_heard = now;
        if self.contact.cut_off.is_some_and(|cut_off| cut_off.silent) {
            self.update_contact(now);
        }
    }

    /// Looks again whether this member is cut off.
    pub(super) fn update_contact(&mut self, now: Instant) {
        self.forget_deaths(now);
        let since = self.contact.cut_off.map_or(now, |cut_off| cut_off.since);
        let cut_off = self.cut_off(now).map(|silent| CutOff { since, silent });
        let before = std::mem::replace(&mut self.contact.cut_off, cut_off);
        if before == cut_off {
            return;
        }
        if cut_off.is_none() {
            self.restart_suspicions(now);
        }
        if self.is_joined() {
            self.events.push_back(Event::Freshness(self.freshness()));
        }
    }

    /// When to look again at a suspect whose time is over, where it must not be convicted now.
    pub(super) fn conviction_held(&self, now: Instant, suspected: Instant) -> Option<Instant> {
        let interval = self.config.probe_interval;
        let heard = self.contact.last_heard;
        let lately = now.saturating_duration_since(heard) <= interval * HEARD_PROBES;
        if !lately || heard < suspected + interval / 2 {
            return Some(now + interval / 4);
        }
        let silent = match self.contact.cut_off {
            Some(cut_off) => cut_off.silent,
            None if self.is_mostly_unanswered() => false,
            None => return None,
        };
        let hold = self.config.loss_hold;
        let over = now.saturating_duration_since(suspected) >= hold;
        (silent || !over).then(|| now + interval)
    }

    /// A probe has ended.
    pub(super) fn note_probed(&mut self, target: u64, answered: bool) {
        let probed = &mut self.contact.probed;
        if probed.len() >= PROBES_JUDGED {
            probed.pop_front();
        }
        probed.push_back((target, answered));
    }

    /// Whether more of those probed last are silent than not. A member that has lost most others
    /// suspects them one by one; it would convict the first before it misses more than it reaches.
    fn is_mostly_unanswered(&self) -> bool {
        let last: BTreeMap<u64, bool> = self.contact.probed.iter().copied().collect();
        let answered = last.values().filter(|answered| **answered).count();
        last.len() - answered > answered
    }

    /// Starts to listen anew after a pause: what was missed says nothing, neither for nor against
    /// anybody.
    pub(super) fn resume_contact(&mut self, now: Instant) {
        if self.contact.cut_off.is_none_or(|cut_off| !cut_off.silent) {
            self.contact.listening = now;
        }
        self.restart_suspicions(now);
    }

    /// What was found before joining counts from now on.
    pub(super) fn contact_joined(&mut self) {
        if self.contact.cut_off.is_some() {
            self.events.push_back(Event::Freshness(self.freshness()));
        }
    }

    /// Whether this member is cut off, and if so whether nobody at all is heard.
    fn cut_off(&self, now: Instant) -> Option<bool> {
        let others = self.members.others();
        let suspects = self.members.suspects();
        if others.is_empty() {
            return None;
        }
        let (reached, missed) = (others.len() - suspects, self.missed());
        if reached + missed == 0 {
            return None;
        }
        let silence = self.config.probe_interval * SILENCE_PROBES;
        let since = self.contact.last_heard.max(self.contact.listening);
        let silent = now.saturating_duration_since(since) > silence;
        (silent || missed > reached).then_some(silent)
    }

    /// A member has died of silence.
    pub(super) fn note_death(&mut self, now: Instant, id: u64) {
        self.contact.deaths.push_back((now, id));
    }

    fn forget_deaths(&mut self, now: Instant) {
        let horizon = self.config.probe_interval * MISSED_PROBES;
        let old = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) > horizon;
        while self.contact.deaths.front().is_some_and(old) {
            self.contact.deaths.pop_front();
        }
    }

    /// Members that are silent, or died of it lately.
    fn missed(&self) -> usize {
        let dead = |id: u64| {
            self.members
                .find(id)
                .is_some_and(|member| member.state == MemberState::Dead)
        };
        let dead = self
            .contact
            .deaths
            .iter()
            .filter(|(_, id)| dead(*id))
            .count();
        dead + self.members.suspects() - self.members.refused()
    }

    /// Gives all suspects their whole time again, so that those who were there all along can refute.
    fn restart_suspicions(&mut self, now: Instant) {
        let suspects = self
            .members
            .iter()
            .filter(|(_, m)| m.state == MemberState::Suspect);
        for id in suspects.map(|(id, _)| id).collect::<Vec<_>>() {
            let mut deadline = now;
            self.members.change(id, &mut self.rng, |member| {
                if let Some(suspicion) = &mut member.suspicion {
                    suspicion.restart(now);
                    deadline = suspicion.deadline();
                }
            });
            self.timers.set(Timer::Suspicion(id), deadline);
        }
    }
}
