//! The probe cycle (SWIM section 3.1, with Lifeguard's nacks and local health): ping one member;
//! when it doesn't answer soon, ask helpers and knock over a link; when nothing comes, suspect it.
//!
//! Every other probe goes to the next member in the ring, the others around all members in random
//! order. So each member is probed by its predecessor every two intervals, and by everybody in time.
//!
//! Beside the cycle there are *checks*: a ping and a knock at one moment, on behalf of another
//! member or because something speaks against one.

use std::time::{Duration, Instant};

use super::member::{Member, MemberState};
use super::timer::Timer;
use super::{Engine, Route};
use crate::wire::Message;
use crate::wire::limits::CHECKS_MAX;

/// Worst local health: probes take nine times as long (Lifeguard's S = 8).
pub(super) const AWARENESS_MAX: u32 = 8;

/// Members checked when one turns out silent.
const LOOK_AROUND: usize = 2;

/// Checks that may run for a look around to begin.
const LOOKS_MAX: usize = 4;

/// A direct ping waits this many round trips before helpers are asked, within the bounds below.
const PATIENCE_ROUND_TRIPS: u32 = 5;

/// Shortest patience with a direct ping: longer than a busy process takes to come to it.
const PATIENCE_MIN: Duration = Duration::from_millis(100);

/// Round trips that wait to be asked for; who asks does so every few probes.
const ROUND_TRIPS_MAX: usize = 64;
/// Shortest and longest time in which an answer to a ping can contradict a refused connection.
const CONTRADICTION_MIN: Duration = Duration::from_millis(20);
const CONTRADICTION_MAX: Duration = Duration::from_millis(200);

/// A probe that is running, or was answered and waits for the next one's time.
#[derive(Debug)]
pub(super) struct Probe {
    target: u64,
    sequence: u64,
    started: Instant,
    stage: Stage,
    /// Helpers that were asked and have not answered at all.
    silent_helpers: u32,
    helpers: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Direct,
    Indirect,
    Answered,
}

/// A ping and a knock at one moment.
#[derive(Debug)]
pub(super) struct Check {
    target: u64,
    reason: Reason,
    /// Whether the target's host says that nobody listens there.
    refused: bool,
    started: Instant,
}

/// Why a check is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Another member asked for it.
    Asked { origin: Route, sequence: u64 },
    /// Others suspect it in this incarnation.
    Suspected { incarnation: u64 },
    /// Another member is silent: a look around whether it is the only one.
    Look,
    /// A link to it could not be opened.
    Evidence,
    /// To learn how much is lost, not about the target.
    Sounding,
}

/// How many direct pings are lost on members that turn out to be there, as this member sees it:
/// because a helper reached them, or because they refute what this member accused them of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loss {
    share: f64,
}

impl Loss {
    /// Rises fast, since a network that has become lossy makes every verdict doubtful at once, and
    /// falls slowly.
    pub(super) fn lost(&mut self) {
        self.share += (1.0 - self.share) / 8.0;
    }

    fn answered(&mut self) {
        self.share -= self.share / 32.0;
    }

    /// So many of a few pings were lost at one moment: what as many in a row come to in the long run.
    pub(super) fn sounded(&mut self, lost: usize, pinged: usize) {
        // A handful: exact.
        let (lost, answered) = (lost as f64 / 8.0, pinged.saturating_sub(lost) as f64 / 32.0);
        self.share = self.share.max(lost / (lost + answered));
    }

    /// From 0 (nothing is lost) to 1 (a quarter or more): how far to distrust silence.
    pub(super) fn doubt(self) -> f64 {
        (self.share * 4.0).min(1.0)
    }
}

impl Engine {
    /// The next step of the cycle.
    pub(super) fn probe(&mut self, now: Instant) {
        match self.probe.take() {
            Some(probe) if probe.stage == Stage::Direct => {
                self.ask_helpers(now, probe);
                return;
            }
            Some(probe) if probe.stage == Stage::Indirect => {
                self.fail_probe(now, &probe);
                let next = probe.started + self.config.probe_interval * (self.awareness + 1);
                if next > now {
                    self.timers.set(Timer::Probe, next);
                    return;
                }
            }
            Some(_) | None => {}
        }
        self.update_contact(now);
        self.start_probe(now);
    }

    pub(super) fn handle_ping(
        &mut self,
        now: Instant,
        route: Route,
        sender: u64,
        sequence: u64,
        target: u64,
    ) {
        let me = self.members.me();
        if target != me.start(self.me) {
            // Meant for a former self, or for whoever was at this address before: it must not be
            // taken for alive because we are.
            let alive = Message::Alive(me.to_alive());
            let frame = self.frame(&[alive]);
            self.transmit_answer(route, frame);
            return;
        }
        let ack = Message::Ack {
            sequence,
            digest: self.items.digest(),
        };
        // Who is accused hears it from everybody it pings, so that it can refute (Lifeguard's buddy
        // system, both ways).
        let accuse = self
            .members
            .find(sender)
            .and_then(|member| member.to_accuse(sender));
        let mut messages = Vec::from_iter(self.answer_digest_of_streams(now));
        messages.push(ack);
        messages.extend(accuse.map(Message::Accuse));
        if self.accused {
            // By who asks, who learns at once that it isn't so.
            messages.push(Message::Alive(self.members.me().to_alive()));
        }
        let mut frame = self.frame(&messages);
        if !self.may_answer(frame.len()) {
            frame = self.frame(&[Message::Ack {
                sequence,
                digest: self.items.digest(),
            }]);
        }
        if self.is_member_at(sender, route) && self.may_answer(frame.len()) {
            self.fill(&mut frame);
        }
        self.transmit_answer(route, frame);
    }

    /// Whether a frame comes from where its sender is known to be. Anybody can claim an address:
    /// others than members get no broadcasts, which would multiply what a forger sends to a victim,
    /// and be counted as sent.
    pub(super) fn is_member_at(&self, sender: u64, route: Route) -> bool {
        self.is_at(sender, route, Member::is_present)
    }

    /// As [`is_member_at`](Self::is_member_at), of those members that are `meant`.
    pub(super) fn is_at(
        &self,
        sender: u64,
        route: Route,
        meant: impl FnOnce(&Member) -> bool,
    ) -> bool {
        let member = self.members.find(sender).filter(|member| meant(member));
        member.is_some_and(|member| match route {
            Route::Datagram(from) => from == member.address,
            Route::Link(_) | Route::Reply(_) => true,
        })
    }

    /// A member was heard at its address, so it is there.
    pub(super) fn hear_proof(&mut self, now: Instant, id: u64) {
        if self.members.prove(id, &mut self.rng) {
            self.choose_sentinels(now);
        }
    }

    pub(super) fn handle_ack(&mut self, now: Instant, sender: u64, sequence: u64, digest: u64) {
        if let Some(check) = self.checks.remove(&sequence) {
            self.timers.cancel(Timer::Check(sequence));
            self.contact_made(now);
            if let Reason::Asked { origin, sequence } = check.reason {
                let ack = self.frame(&[Message::Ack {
                    sequence,
                    digest: 0,
                }]);
                self.transmit(origin, ack);
            }
            return;
        }
        let Some(probe) = self
            .probe
            .as_mut()
            .filter(|probe| probe.sequence == sequence)
        else {
            return;
        };
        let (started, stage) = (probe.started, probe.stage);
        self.contact_made(now);
        if let Some(probe) = self.probe.as_mut().filter(|_| stage != Stage::Answered) {
            probe.stage = Stage::Answered;
            let next = started + self.config.probe_interval * (self.awareness + 1);
            self.awareness = self.awareness.saturating_sub(1);
            self.timers.set(Timer::Probe, next.max(now));
            match stage {
                Stage::Direct => self.loss.answered(),
                Stage::Indirect | Stage::Answered => self.loss.lost(),
            }
        }
        if self
            .probe
            .as_ref()
            .is_some_and(|probe| probe.target == sender)
        {
            if stage == Stage::Direct {
                let round_trip = now.saturating_duration_since(started);
                self.members
                    .change(sender, &mut self.rng, |member| member.measure(round_trip));
                self.note_round_trip(round_trip);
            }
            self.compare_digest(now, sender, digest);
            self.compare_streams(now, sender);
        }
    }

    pub(super) fn handle_nack(&mut self, now: Instant, sequence: u64) {
        if let Some(probe) = self
            .probe
            .as_mut()
            .filter(|probe| probe.sequence == sequence)
        {
            probe.silent_helpers = probe.silent_helpers.saturating_sub(1);
            self.contact_made(now);
        }
    }

    pub(super) fn handle_ping_request(
        &mut self,
        now: Instant,
        (origin, sender): (Route, u64),
        sequence: u64,
        target: u64,
        refused: bool,
    ) {
        let reason = Reason::Asked { origin, sequence };
        // A check costs more than it takes to ask for it.
        let checks = self.is_member_at(sender, origin)
            && self.may_check()
            && self.check(now, target, reason, self.check_window(), refused);
        if !checks {
            let nack = self.frame(&[Message::Nack { sequence }]);
            self.transmit_answer(origin, nack);
        }
    }

    /// Pings a member, and knocks where wanted; answers whether that was possible. Not itself: its own
    /// address refuses links where it is translated, and somebody may ask for it.
    pub(super) fn check(
        &mut self,
        now: Instant,
        target: u64,
        reason: Reason,
        window: Duration,
        knock: bool,
    ) -> bool {
        let member = self.members.find(target);
        let present = member.is_some_and(|member| target != self.me && member.is_present());
        if !present || self.checks.len() >= CHECKS_MAX {
            return false;
        }
        let sequence = self.next_sequence();
        self.checks.insert(
            sequence,
            Check {
                target,
                reason,
                refused: false,
                started: now,
            },
        );
        self.timers.set(Timer::Check(sequence), now + window);
        self.send_ping(target, sequence, knock);
        true
    }

    /// Pings a member, over a link as well where wanted.
    pub(super) fn send_ping(&mut self, target: u64, sequence: u64, knock: bool) {
        let Some(member) = self.members.find(target) else {
            return;
        };
        let address = member.address;
        // The accusation first, so that the answer to the ping can refute it.
        let accuse = member.to_accuse(target).map(Message::Accuse).into_iter();
        let ping = Message::Ping {
            sequence,
            target: member.start(target),
            digest: self.items.digest(),
        };
        let messages: Vec<_> = accuse.chain([ping]).collect();
        if knock {
            let frame = self.frame(&messages);
            self.transmit(Route::Link(address), frame);
        }
        self.transmit_filled(Route::Datagram(address), &messages);
    }

    /// Checks a member that others suspect.
    pub(super) fn check_suspect(&mut self, now: Instant, target: u64, incarnation: u64) {
        let reason = Reason::Suspected { incarnation };
        self.check(now, target, reason, self.check_window(), true);
    }

    /// Checks a member because others are silent.
    pub(super) fn look_at(&mut self, now: Instant, target: u64) {
        self.check(now, target, Reason::Look, self.check_window(), true);
    }

    /// How long an answer to a check may take: less than a whole probe, so that a nack is in time.
    pub(super) fn check_window(&self) -> Duration {
        self.config.probe_timeout.mul_f32(0.6)
    }

    /// A check was not answered.
    pub(super) fn end_check(&mut self, now: Instant, sequence: u64) {
        let Some(check) = self.checks.remove(&sequence) else {
            return;
        };
        if let Reason::Asked { origin, sequence } = check.reason {
            let nack = self.frame(&[Message::Nack { sequence }]);
            self.transmit(origin, nack);
        }
        match check.reason {
            // Neither an answer to the ping nor a process behind the port: a witness.
            _ if check.refused => {
                self.accuse(now, check.target, true);
                if check.reason == Reason::Evidence {
                    self.ask_witnesses(check.target);
                }
            }
            Reason::Suspected { incarnation } => self.confirm(now, check.target, incarnation),
            Reason::Look => self.accuse(now, check.target, false),
            Reason::Sounding => self.note_lost_sounding(),
            Reason::Evidence | Reason::Asked { .. } => {}
        }
    }

    /// The host of a member says that nobody listens there.
    ///
    /// By itself that proves little (a firewall may say so as well). It counts once a ping of this
    /// member went unanswered too, and convicts once a second member has seen both.
    pub(super) fn handle_refused(&mut self, now: Instant, id: u64) {
        let probing = self.probe.as_ref().filter(|probe| probe.target == id);
        if probing.is_some_and(|probe| probe.stage == Stage::Indirect) {
            self.accuse(now, id, true);
            self.ask_witnesses(id);
            return;
        }
        let mut checked = false;
        for (sequence, check) in self
            .checks
            .iter_mut()
            .filter(|(_, check)| check.target == id)
        {
            check.refused = true;
            checked = true;
            // The refusal has crossed the same path and taken one round trip: an answer to the ping
            // would be here by now, or soon.
            let round_trip = now.saturating_duration_since(check.started);
            let window = (round_trip * 4).clamp(CONTRADICTION_MIN, CONTRADICTION_MAX);
            self.timers
                .set(Timer::Check(*sequence), check.started + window);
        }
        if !checked {
            self.check(now, id, Reason::Evidence, CONTRADICTION_MAX, true);
        }
    }

    /// Forgets what a member's former self didn't answer: it says nothing about the new one.
    pub(super) fn drop_probes_of(&mut self, now: Instant, id: u64) {
        if self.probe.as_ref().is_some_and(|probe| probe.target == id) {
            self.probe = None;
            self.timers.set(Timer::Probe, now);
        }
        let timers = &mut self.timers;
        self.checks.retain(|sequence, check| {
            let of_another = check.target != id;
            if !of_another {
                timers.cancel(Timer::Check(*sequence));
            }
            of_another
        });
    }

    /// Forgets what a pause has made meaningless: nothing was heard because nothing was read.
    pub(super) fn after_pause(&mut self, now: Instant) {
        self.probe = None;
        for sequence in std::mem::take(&mut self.checks).into_keys() {
            self.timers.cancel(Timer::Check(sequence));
        }
        if !self.members.others().is_empty() {
            self.timers.set(Timer::Probe, now);
        }
        self.awareness = (self.awareness + 1).min(AWARENESS_MAX);
        self.resume_contact(now);
    }

    fn start_probe(&mut self, now: Instant) {
        let Some(target) = self.next_target() else {
            return;
        };
        self.stats.probes += 1;
        let sequence = self.next_sequence();
        let stage = Stage::Direct;
        self.probe = Some(Probe {
            target,
            sequence,
            started: now,
            stage,
            silent_helpers: 0,
            helpers: 0,
        });
        let round_trip = self.members.find(target).and_then(Member::round_trip);
        let patience = round_trip.map_or(self.config.probe_timeout, |round_trip| {
            let floor = PATIENCE_MIN.min(self.config.probe_timeout);
            (round_trip * PATIENCE_ROUND_TRIPS).clamp(floor, self.config.probe_timeout)
        });
        self.timers
            .set(Timer::Probe, now + patience * (self.awareness + 1));
        self.ping(now, target, sequence);
    }

    fn next_target(&mut self) -> Option<u64> {
        self.turn = !self.turn;
        // The next one only: several predecessors that took turns would now and then all leave the
        // same gap. Where that one was never heard, the next that was as well.
        let proven = self.members.first_proven(self.sentinels.ids());
        let next = self.sentinels.ids().next();
        let neighbour = match proven {
            Some(proven) if next != Some(proven) && self.rng.bool() => Some(proven),
            Some(_) | None => next,
        };
        let neighbour = neighbour.filter(|_| self.turn);
        neighbour.or_else(|| self.members.next_to_probe(&mut self.rng))
    }

    fn ping(&mut self, now: Instant, target: u64, sequence: u64) {
        let Some(member) = self.members.find(target) else {
            return;
        };
        let (route, start) = (Route::Datagram(member.address), member.start(target));
        let digest = self.items.digest();
        // The accusation first, so that the answer to the ping can refute it.
        let accuse = member.to_accuse(target).map(Message::Accuse);
        let mut messages = Vec::from_iter(accuse);
        messages.extend(self.digest_of_streams(now));
        messages.push(Message::Ping {
            sequence,
            target: start,
            digest,
        });
        self.transmit_filled(route, &messages);
    }

    fn ask_helpers(&mut self, now: Instant, mut probe: Probe) {
        let Some(target) = self
            .members
            .find(probe.target)
            .filter(|target| target.is_present())
        else {
            self.start_probe(now);
            return;
        };
        let (address, start) = (target.address, target.start(probe.target));
        probe.helpers = self.request_pings(probe.target, probe.sequence, false);
        probe.silent_helpers = probe.helpers;
        probe.stage = Stage::Indirect;
        // The helpers have as long as the first ping may have had at most.
        let end = now + self.config.probe_timeout.mul_f32(0.8) * (self.awareness + 1);
        self.timers.set(Timer::Probe, end);
        // TCP gets through where datagrams are lost, and tells a dead process from a dead host.
        let digest = self.items.digest();
        let ping = Message::Ping {
            sequence: probe.sequence,
            target: start,
            digest,
        };
        let knock = self.frame(&[ping]);
        self.transmit(Route::Link(address), knock);
        self.probe = Some(probe);
    }

    /// Asks others whether they are refused as well.
    fn ask_witnesses(&mut self, target: u64) {
        let sequence = self.next_sequence();
        self.request_pings(target, sequence, true);
    }

    fn request_pings(&mut self, target: u64, sequence: u64, refused: bool) -> u32 {
        let count = self.config.indirect_probes;
        let alive = |id: u64, member: &Member| id != target && member.state == MemberState::Alive;
        let helpers = self.members.sample(count, &mut self.rng, alive);
        let request = Message::PingRequest {
            sequence,
            target,
            refused,
        };
        for helper in &helpers {
            if let Some(address) = self.members.find(*helper).map(|helper| helper.address) {
                self.transmit_filled(Route::Datagram(address), std::slice::from_ref(&request));
            }
        }
        // A handful.
        helpers.len() as u32
    }

    fn note_round_trip(&mut self, round_trip: Duration) {
        if self.round_trips.len() >= ROUND_TRIPS_MAX {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back(round_trip);
    }

    fn fail_probe(&mut self, now: Instant, probe: &Probe) {
        self.stats.failed_probes += 1;
        // Helpers that sent not even a nack speak against this member (Lifeguard section 3.1).
        let penalty = if probe.helpers == 0 {
            1
        } else {
            probe.silent_helpers
        };
        self.awareness = (self.awareness + penalty).min(AWARENESS_MAX);
        self.accuse(now, probe.target, false);
    }

    /// Accuses a member by what this member has seen itself.
    fn accuse(&mut self, now: Instant, id: u64, refused: bool) {
        let Some(member) = self.members.find(id).filter(|member| member.is_present()) else {
            return;
        };
        let incarnation = member.incarnation;
        let new = member.state == MemberState::Alive;
        self.suspect(now, id, incarnation, [(self.me, refused)]);
        if new {
            self.stats.suspicions += 1;
            // Few at a time, so that it stays a look around in a bad network.
            if !refused && self.loss.doubt() < 1.0 && self.looks() < LOOKS_MAX {
                self.look_around(now, id);
            }
        }
    }

    /// Checks that are about their targets.
    fn looks(&self) -> usize {
        let checks = self.checks.values();
        checks
            .filter(|check| check.reason != Reason::Sounding)
            .count()
    }

    /// Joins a suspicion that still stands. Once it is refuted the missing answer was chance: to
    /// suspect anew by it would make every suspicion the cause of more than one other where many
    /// answers are lost.
    fn confirm(&mut self, now: Instant, id: u64, incarnation: u64) {
        let suspected = |member: &&Member| {
            member.state == MemberState::Suspect && member.incarnation == incarnation
        };
        if self.members.find(id).filter(suspected).is_some() {
            self.accuse(now, id, false);
        }
    }

    /// Checks a few others when one is silent: if they are too, it is not about the one.
    fn look_around(&mut self, now: Instant, silent: u64) {
        let alive = |id: u64, member: &Member| id != silent && member.state == MemberState::Alive;
        for other in self.members.sample(LOOK_AROUND, &mut self.rng, alive) {
            self.look_at(now, other);
        }
    }

    /// A frame with these messages first and as many broadcasts as fit behind them.
    pub(super) fn transmit_filled(&mut self, route: Route, messages: &[Message]) {
        let mut frame = self.frame(messages);
        self.fill(&mut frame);
        self.transmit(route, frame);
    }
}
