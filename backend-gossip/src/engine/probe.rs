//! The probe cycle (SWIM section 3.1, with Lifeguard's nacks and local health): ping one member,
//! after `probe_timeout` ask helpers and knock over a link, after `probe_interval` suspect it.

use std::time::Instant;

use super::member::{Member, MemberState};
use super::timer::Timer;
use super::{Engine, Route};
use crate::wire::Message;
use crate::wire::limits::RELAYS_MAX;

/// Worst local health: probes take nine times as long (Lifeguard's S = 8).
pub(super) const AWARENESS_MAX: u32 = 8;

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

/// A ping on somebody's behalf.
#[derive(Debug)]
pub(super) struct Relay {
    origin: Route,
    sequence: u64,
    target: u64,
    /// Whether the asker was refused by the target's host, and this member was too.
    refused: bool,
}

impl Engine {
    /// The next step of the cycle.
    pub(super) fn probe(&mut self, now: Instant) {
        match self.probe.take() {
            Some(probe) if probe.stage == Stage::Direct => {
                self.ask_helpers(now, probe);
                return;
            }
            Some(probe) if probe.stage == Stage::Indirect => self.fail_probe(now, &probe),
            Some(_) | None => {}
        }
        self.update_contact(now);
        self.start_probe(now);
    }

    pub(super) fn handle_ping(&mut self, route: Route, sender: u64, sequence: u64, target: u64) {
        let me = self.members.me();
        if target != me.start(self.me) {
            // Meant for a former self, or for whoever was at this address before: it must not be
            // taken for alive because we are.
            let alive = Message::Alive(me.to_alive());
            let frame = self.frame(&[alive]);
            self.transmit(route, frame);
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
        let mut messages = vec![ack];
        messages.extend(accuse.map(Message::Accuse));
        self.transmit_filled(route, &messages);
    }

    pub(super) fn handle_ack(&mut self, now: Instant, sender: u64, sequence: u64, digest: u64) {
        if let Some(relay) = self.relays.remove(&sequence) {
            self.timers.cancel(Timer::Relay(sequence));
            let ack = self.frame(&[Message::Ack {
                sequence: relay.sequence,
                digest: 0,
            }]);
            self.transmit(relay.origin, ack);
            return;
        }
        let Some(probe) = self
            .probe
            .as_mut()
            .filter(|probe| probe.sequence == sequence)
        else {
            return;
        };
        if probe.stage != Stage::Answered {
            probe.stage = Stage::Answered;
            let next = probe.started + self.config.probe_interval * (self.awareness + 1);
            self.awareness = self.awareness.saturating_sub(1);
            self.timers.set(Timer::Probe, next.max(now));
        }
        if sender == probe.target {
            self.compare_digest(now, sender, digest);
        }
    }

    pub(super) fn handle_nack(&mut self, sequence: u64) {
        if let Some(probe) = self
            .probe
            .as_mut()
            .filter(|probe| probe.sequence == sequence)
        {
            probe.silent_helpers = probe.silent_helpers.saturating_sub(1);
        }
    }

    pub(super) fn handle_ping_request(
        &mut self,
        now: Instant,
        origin: Route,
        sequence: u64,
        target: u64,
        refused: bool,
    ) {
        let reachable = self
            .members
            .find(target)
            .filter(|member| member.is_present());
        let Some(member) = reachable.filter(|_| self.relays.len() < RELAYS_MAX) else {
            let nack = self.frame(&[Message::Nack { sequence }]);
            self.transmit(origin, nack);
            return;
        };
        let (address, start) = (member.address, member.start(target));
        let own = self.next_sequence();
        self.relays.insert(
            own,
            Relay {
                origin,
                sequence,
                target,
                refused: false,
            },
        );
        // Sooner than the asker's own deadline, so that the nack is in time.
        self.timers.set(
            Timer::Relay(own),
            now + self.config.probe_timeout.mul_f32(0.6),
        );
        let ping = Message::Ping {
            sequence: own,
            target: start,
            digest: self.items.digest(),
        };
        if refused {
            let knock = self.frame(std::slice::from_ref(&ping));
            self.transmit(Route::Link(address), knock);
        }
        self.transmit_filled(Route::Datagram(address), &[ping]);
    }

    /// A ping on somebody's behalf was not answered.
    pub(super) fn end_relay(&mut self, now: Instant, sequence: u64) {
        let Some(relay) = self.relays.remove(&sequence) else {
            return;
        };
        let nack = self.frame(&[Message::Nack {
            sequence: relay.sequence,
        }]);
        self.transmit(relay.origin, nack);
        if relay.refused {
            // Neither an answer to the ping nor a process behind the port: a witness.
            self.accuse(now, relay.target, true);
        }
    }

    /// The host of a member says that nobody listens there.
    ///
    /// By itself that proves little (a firewall may say so as well). It counts once a ping of this
    /// member went unanswered too, and convicts once a second member has seen both.
    pub(super) fn handle_refused(&mut self, now: Instant, id: u64) {
        for relay in self.relays.values_mut() {
            relay.refused |= relay.target == id;
        }
        let failing = self
            .probe
            .as_ref()
            .is_some_and(|probe| probe.target == id && probe.stage == Stage::Indirect);
        if failing {
            self.accuse(now, id, true);
            self.ask_witnesses(id);
        } else {
            self.members.probe_soon(id);
        }
    }

    /// Forgets what a member's former self didn't answer: it says nothing about the new one.
    pub(super) fn drop_probes_of(&mut self, now: Instant, id: u64) {
        if self.probe.as_ref().is_some_and(|probe| probe.target == id) {
            self.probe = None;
            self.timers.set(Timer::Probe, now);
        }
        let timers = &mut self.timers;
        self.relays.retain(|sequence, relay| {
            let of_another = relay.target != id;
            if !of_another {
                timers.cancel(Timer::Relay(*sequence));
            }
            of_another
        });
    }

    /// Forgets what a pause has made meaningless: nothing was heard because nothing was read.
    pub(super) fn after_pause(&mut self, now: Instant) {
        self.probe = None;
        for sequence in std::mem::take(&mut self.relays).into_keys() {
            self.timers.cancel(Timer::Relay(sequence));
        }
        if !self.members.others().is_empty() {
            self.timers.set(Timer::Probe, now);
        }
        self.awareness = (self.awareness + 1).min(AWARENESS_MAX);
        self.resume_contact(now);
    }

    fn start_probe(&mut self, now: Instant) {
        let Some(target) = self.members.next_to_probe(&mut self.rng) else {
            return;
        };
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
        let timeout = self.config.probe_timeout * (self.awareness + 1);
        self.timers.set(Timer::Probe, now + timeout);
        self.ping(target, sequence);
    }

    fn ping(&mut self, target: u64, sequence: u64) {
        let Some(member) = self.members.find(target) else {
            return;
        };
        let (route, start) = (Route::Datagram(member.address), member.start(target));
        let digest = self.items.digest();
        let accuse = member.to_accuse(target).map(Message::Accuse);
        let mut messages = vec![Message::Ping {
            sequence,
            target: start,
            digest,
        }];
        messages.extend(accuse);
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
        let end = probe.started + self.config.probe_interval * (self.awareness + 1);
        self.timers.set(Timer::Probe, end.max(now));
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

    fn fail_probe(&mut self, now: Instant, probe: &Probe) {
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
        if member.state == MemberState::Alive {
            self.stats.suspicions += 1;
        }
        self.suspect(now, id, incarnation, [(self.me, refused)]);
    }

    /// A frame with these messages first and as many broadcasts as fit behind them.
    pub(super) fn transmit_filled(&mut self, route: Route, messages: &[Message]) {
        let mut frame = self.frame(messages);
        self.fill(&mut frame);
        self.transmit(route, frame);
    }
}
