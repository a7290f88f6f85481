//! Whether this member itself is cut off.
//!
//! Silence has two explanations: they are gone, or this member can't hear. As long as it hears
//! nobody, or can't reach more members than it reaches, the second is the likelier one. Then it
//! convicts nobody: suspects stay suspects, their instances stay in the views, and the views are
//! marked stale (WAT-4, WAT-10). What a host *refuses* is heard, so it needs no such caution.

use std::collections::VecDeque;
use std::time::Instant;

use tidings_api::Freshness;

use super::member::{Member, MemberState};
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

/// So many members silent at one time are likelier behind a broken network than gone, and a
/// partition takes a while to show how large it is.
const SILENT_MANY: usize = 3;

/// Others that are checked before one of several silent members is convicted: in a cluster of a dozen
/// nearly all, so that the smaller side of a partition knows that it is the smaller one; in a large
/// one, where suspicions of hundreds add up anyway, enough to be likely to find more.
const LOOK_WIDE: usize = 8;

/// Probe intervals for which such a look counts.
const LOOK_PROBES: u32 = 2;

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
    /// When others were checked last before a conviction.
    looked: Option<Instant>,
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
            looked: None,
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
        let share_large = silent >= 2 && silent * 4 >= self.members.reached().present;
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
            // Who was accused meanwhile couldn't hear it, and has to, to be able to refute.
            for (id, incarnation) in self.restart_suspicions(now) {
                self.check_suspect(now, id, incarnation);
            }
        }
        if self.is_joined() {
            self.events.push_back(Event::Freshness(self.freshness()));
        }
    }

    /// Where several are silent, checks a few others before any of them is convicted; answers when
    /// that is over, while it isn't. Failing probes come ever more slowly, so that a member may not
    /// know yet how many it can't reach.
    pub(super) fn look_before_conviction(&mut self, now: Instant) -> Option<Instant> {
        if self.missed() < 2 {
            return None;
        }
        let ends = |looked: Instant| looked + self.config.probe_timeout;
        let valid = self.config.probe_interval * LOOK_PROBES;
        if let Some(looked) = self.contact.looked
            && now.saturating_duration_since(looked) < valid
        {
            return Some(ends(looked)).filter(|end| now < *end);
        }
        let end = ends(now);
        self.contact.looked = Some(now);
        let alive = |_, member: &Member| member.state == MemberState::Alive;
        let others = self.members.sample(LOOK_WIDE, &mut self.rng, alive);
        for other in &others {
            self.look_at(now, *other);
        }
        (!others.is_empty()).then_some(end)
    }

    /// When to look again at a suspect whose time is over, where it must not be convicted now.
    pub(super) fn conviction_held(&self, now: Instant, suspected: Instant) -> Option<Instant> {
        let interval = self.config.probe_interval;
        let heard = self.contact.last_heard;
        let lately = now.saturating_duration_since(heard) <= interval * HEARD_PROBES;
        if !lately || heard < suspected + interval / 2 {
            return Some(now + interval / 4);
        }
        let cut_off = self.contact.cut_off?;
        let hold = self.config.loss_hold;
        let over = now.saturating_duration_since(suspected) >= hold;
        (cut_off.silent || !over).then(|| now + interval)
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
        if self.members.others().is_empty() {
            return None;
        }
        // A crowd that was never heard may never have been there.
        let tally = self.members.reached();
        let (reached, missed) = (tally.present - tally.suspects, self.missed());
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
        if self.members.tells(id) {
            self.contact.deaths.push_back((now, id));
        }
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
        let tally = self.members.reached();
        dead + tally.suspects - tally.refused
    }

    /// Gives all suspects their whole time again, so that those who were there all along can refute;
    /// answers who they are, in which incarnation.
    fn restart_suspicions(&mut self, now: Instant) -> Vec<(u64, u64)> {
        let suspects = self
            .members
            .iter()
            .filter(|(_, m)| m.state == MemberState::Suspect);
        let suspects: Vec<_> = suspects.map(|(id, m)| (id, m.incarnation)).collect();
        for (id, _) in suspects.iter().copied() {
            self.members.change(id, &mut self.rng, |member| {
                if let Some(suspicion) = &mut member.suspicion {
                    suspicion.restart(now);
                }
            });
            self.arm_suspicion(now, id);
        }
        suspects
    }
}
