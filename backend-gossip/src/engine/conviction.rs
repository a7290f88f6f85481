//! From suspicion to conviction.
//!
//! That a suspect hasn't refuted can have two causes: it is gone, or what was said to it, or by it,
//! is lost. So before a member convicts another by silence it asks once more itself. It *challenges*
//! the suspect: pings with the accusation in front, so that any answer refutes it. And it *sounds*
//! the network: a few pings to members that nobody suspects, all at one moment, tell whether much is
//! lost right now. Probes can't tell that in time: where they fail they come ever more slowly. Where
//! nothing is lost one challenge is enough; elsewhere they go on until the end of the suspicion.

use std::time::{Duration, Instant};

use super::Engine;
use super::member::{Member, MemberState};
use super::probe::Reason;
use super::timer::Timer;

/// For how long before the end of a suspicion the suspect is challenged, in probe intervals, where
/// nothing is lost and where much is.
const CHALLENGED_CLEAN: f64 = 0.5;
const CHALLENGED_LOSSY: f64 = 3.2;

/// No more than this part of a suspicion: its length is the operator's choice.
const CHALLENGED_PART: f64 = 0.75;

/// Challenges in a probe interval. Where half of all packets are lost three of four pings go without
/// an answer; all of the 32 that [`CHALLENGED_LOSSY`] makes do so once in ten thousand times.
const CHALLENGES_PER_INTERVAL: u32 = 10;

/// Challenges that are also sent over a link: so many apart.
const KNOCKS_APART: u32 = 8;

/// Challenges in short succession, and how often one may follow after that: who can't reach hundreds is
/// cut off, and knows that by other means.
pub(super) const CHALLENGES_BURST: u32 = 64;
pub(super) const CHALLENGE_INTERVAL: Duration = Duration::from_millis(20);

/// Members that are pinged to sound the network.
const SOUNDED: usize = 8;

/// Probe intervals for which a sounding counts.
const SOUNDING_INTERVALS: u32 = 2;

/// A look at how many answers are lost right now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sounding {
    begun: Instant,
    pinged: usize,
    lost: usize,
}

impl Engine {
    /// The next step against a suspect: a challenge, or the end.
    pub(super) fn pursue_suspicion(&mut self, now: Instant, id: u64) {
        let mut end = self.end_of_suspicion(now, id);
        if end <= now {
            self.extend_suspicion(id);
            end = self.end_of_suspicion(now, id);
        }
        let member = self.members.find(id);
        let Some(suspicion) = member.and_then(|member| member.suspicion.as_deref()) else {
            return;
        };
        // What a host refuses is heard.
        if suspicion.refused() > 0 || end <= now {
            self.end_suspicion(now, id);
            return;
        }
        if suspicion.challenged().is_none() {
            self.sound(now, id);
        }
        self.challenge(now, id);
        let again = now + self.config.probe_interval / CHALLENGES_PER_INTERVAL;
        let repeated = self.loss.doubt() > 0.0;
        let next = if repeated { again.min(end) } else { end };
        self.timers.set(Timer::Suspicion(id), next);
    }

    /// Sets the next step against a suspect: at once where its host has told enough witnesses that
    /// the process is gone.
    pub(super) fn arm_suspicion(&mut self, now: Instant, id: u64) {
        let member = self.members.find(id);
        let Some(suspicion) = member.and_then(|member| member.suspicion.as_deref()) else {
            return;
        };
        // A second witness, unless there is nobody who could be one.
        let witnesses = (self.members.others().len()).min(2);
        let refused = suspicion.refused();
        let deadline = suspicion.deadline();
        let at = if refused >= witnesses.max(1) {
            now
        } else if refused > 0 {
            deadline
        } else if suspicion.challenged().is_some() {
            self.end_of_suspicion(now, id)
        } else {
            let lead = self.challenge_time();
            deadline.checked_sub(lead).unwrap_or(deadline)
        };
        self.timers.set(Timer::Suspicion(id), at.max(now));
    }

    /// When a suspicion is over: at its deadline, and not before the suspect was challenged for long
    /// enough.
    fn end_of_suspicion(&self, now: Instant, id: u64) -> Instant {
        let member = self.members.find(id);
        let Some(suspicion) = member.and_then(|member| member.suspicion.as_deref()) else {
            return now;
        };
        if suspicion.refused() > 0 {
            return suspicion.deadline();
        }
        let begun = suspicion.challenged().unwrap_or(now);
        suspicion.deadline().max(begun + self.challenge_time())
    }

    /// A ping that sounded the network was not answered.
    pub(super) fn note_lost_sounding(&mut self) {
        let Some(sounding) = self.sounding.as_mut() else {
            return;
        };
        sounding.lost += 1;
        // One or two may be gone themselves.
        let Sounding { pinged, lost, .. } = *sounding;
        if lost * 4 > pinged {
            self.loss.sounded(lost, pinged);
        }
    }

    /// Convicts a suspect, unless this member is cut off itself: then the silence is its own.
    fn end_suspicion(&mut self, now: Instant, id: u64) {
        // Probes may be far apart, and silence has to be noticed before anybody is convicted by it.
        self.update_contact(now);
        let member = self.members.find(id);
        let Some(suspicion) = member.and_then(|member| member.suspicion.as_deref()) else {
            return;
        };
        let (refused, started) = (suspicion.refused() > 0, suspicion.started());
        if !refused {
            let hold = self.look_before_conviction(now);
            if let Some(hold) = hold.or_else(|| self.conviction_held(now, started)) {
                self.timers.set(Timer::Suspicion(id), hold);
                return;
            }
        }
        let Some(incarnation) = self.members.find(id).map(|member| member.incarnation) else {
            return;
        };
        self.stats.deaths += 1;
        if !refused {
            self.note_death(now, id);
        }
        self.bury(now, id, incarnation, MemberState::Dead);
    }

    /// Gives a suspect more time where more is lost by now than when the suspicion began.
    fn extend_suspicion(&mut self, id: u64) {
        let shortest = self.shortest_suspicion();
        self.members.change(id, &mut self.rng, |member| {
            if let Some(suspicion) = &mut member.suspicion {
                suspicion.extend(shortest);
            }
        });
    }

    /// For how long a suspect is challenged before it is convicted.
    fn challenge_time(&self) -> Duration {
        let lossy = (CHALLENGED_LOSSY - CHALLENGED_CLEAN) * self.loss.doubt();
        let time = self.config.probe_interval.mul_f64(CHALLENGED_CLEAN + lossy);
        // A sounding has to be over by then.
        time.min(self.shortest_suspicion().mul_f64(CHALLENGED_PART))
            .max(self.check_window())
    }

    /// Accuses a suspect to its face, so that it can refute.
    pub(super) fn challenge(&mut self, now: Instant, id: u64) {
        let mut made = 0;
        self.members.change(id, &mut self.rng, |member| {
            if let Some(suspicion) = &mut member.suspicion {
                made = suspicion.challenge(now);
            }
        });
        // One that isn't sent counts as one that was lost.
        if self.challenges.take(now) {
            let sequence = self.next_sequence();
            let lossy = self.loss.doubt() > 0.0;
            self.send_ping(id, sequence, lossy && made % KNOCKS_APART == 1);
        }
    }

    /// Looks how much is lost right now, unless that is known.
    fn sound(&mut self, now: Instant, suspect: u64) {
        let valid = self.config.probe_interval * SOUNDING_INTERVALS;
        let lately = |sounding: Sounding| now.saturating_duration_since(sounding.begun) < valid;
        if self.loss.doubt() >= 1.0 || self.sounding.is_some_and(lately) {
            return;
        }
        let alive = |id: u64, member: &Member| id != suspect && member.state == MemberState::Alive;
        let others = self.members.sample(SOUNDED, &mut self.rng, alive);
        let window = self.check_window();
        // Where there are few, several to each.
        let pings = others.iter().cycle().take(SOUNDED * others.len().min(1));
        let pings: Vec<_> = pings.copied().collect();
        self.sounding = Some(Sounding {
            begun: now,
            pinged: pings.len(),
            lost: 0,
        });
        for other in pings {
            if !self.check(now, other, Reason::Sounding, window, false) {
                return;
            }
        }
    }
}
