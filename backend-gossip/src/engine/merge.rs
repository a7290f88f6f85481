//! What is heard about members and records meets what is known: the greater wins, and what was
//! news is passed on.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tidings_api::{Generation, InstanceKey};

use super::items::ItemKey;
use super::member::{Member, MemberState};
use super::registry::Offer;
use super::suspicion::Suspicion;
use super::timer::Timer;
use super::{Engine, Event, Route};
use crate::wire::limits::{COUNTER_MAX, MEMBERS_MAX, ORPHANS_MAX, RECORDS_PER_OWNER_MAX};
use crate::wire::message::{Accuse, Alive, Record, Verdict};
use crate::wire::{self, Message};

/// Members that check a suspect at once when they hear of it, about: enough to confirm, few enough
/// not to drown it.
const SUSPECT_PROBERS: usize = 8;

/// Neighbours a member keeps a link to: so many see at once that a process has ended, and two of
/// them convict.
const SENTINELS: usize = 3;

/// Accusers beyond the first that shorten a suspicion to its shortest, less this from the
/// multiplier (memberlist's `SuspicionMult - 2`).
const AWAITED_BELOW_MULTIPLIER: usize = 2;

impl Engine {
    // Members.

    pub(super) fn handle_alive(&mut self, now: Instant, route: Route, sender: u64, alive: &Alive) {
        if alive.generation.max(alive.incarnation) > COUNTER_MAX {
            return;
        }
        let id = wire::member_hash(&alive.name);
        if id == self.me {
            self.hear_of_me(now, alive);
            return;
        }
        if alive.address == self.identity.address {
            // Who was here before, maybe this member itself under the name it had: it can't be here
            // any more, and must not supersede anything.
            return;
        }
        let known = self.members.find(id).map(|member| {
            let newer = (alive.generation, alive.incarnation);
            (
                newer > (member.generation, member.incarnation),
                member.generation,
            )
        });
        match known {
            None if self.members.len() >= MEMBERS_MAX => {}
            None => self.meet(now, id, alive),
            Some((true, generation)) if generation < alive.generation => {
                self.drop_records(id);
                self.meet(now, id, alive);
            }
            Some((true, _)) => self.revive(now, id, alive),
            // Over a link, as in a sync, the sender believes what it says, and nothing else would tell
            // it: who is gone isn't part of what is compared.
            Some((false, _)) if sender == id || matches!(route, Route::Reply(_)) => {
                self.correct(route, sender, id, alive);
            }
            Some((false, _)) => {}
        }
    }

    pub(super) fn handle_accuse(&mut self, now: Instant, accuse: &Accuse) {
        if accuse.generation.max(accuse.incarnation) > COUNTER_MAX {
            return;
        }
        if accuse.member == self.me {
            self.accused = true;
            self.hear_accused(now, accuse);
            return;
        }
        let Some(member) = self.members.find(accuse.member) else {
            return;
        };
        let state = MemberState::from(accuse.verdict);
        let heard = (accuse.generation, accuse.incarnation, state);
        let known = (member.generation, member.incarnation, member.state);
        if heard.0 != known.0 || heard < known {
            return;
        }
        match state {
            MemberState::Suspect => {
                let accusers = accuse.accusers.iter().enumerate();
                let accusers = accusers.map(|(at, id)| (*id, at < accuse.refused));
                self.suspect(now, accuse.member, accuse.incarnation, accusers);
            }
            _ if heard == known => {}
            _ => self.bury(now, accuse.member, accuse.incarnation, state),
        }
    }

    /// Adds accusers to the suspicion of a member, which starts with the first.
    pub(super) fn suspect(
        &mut self,
        now: Instant,
        id: u64,
        incarnation: u64,
        accusers: impl IntoIterator<Item = (u64, bool)>,
    ) {
        let (shortest, awaited) = (self.shortest_suspicion(), self.awaited_accusers());
        let (me, mut mine, mut news, mut started) = (self.me, false, false, false);
        let mut proof = false;
        let old = self.members.change(id, &mut self.rng, |member| {
            if member.state != MemberState::Suspect || member.incarnation != incarnation {
                started = member.state != MemberState::Suspect;
                member.state = MemberState::Suspect;
                member.incarnation = incarnation;
                member.since = now;
                member.suspicion = Some(Suspicion::new(now, shortest, awaited).into());
                news = true;
            }
            if let Some(suspicion) = &mut member.suspicion {
                for (accuser, refused) in accusers {
                    mine |= accuser == me;
                    // The accused's own word doesn't count against it.
                    news |= accuser != id && suspicion.accuse(accuser, refused);
                }
                proof = suspicion.refused() > 0;
            }
        });
        if !news {
            return;
        }
        self.index_member(id);
        if old.is_some_and(|old| !old.is_present()) {
            // Who is suspected in a later incarnation has been alive in it.
            self.reappear(now, id);
        }
        if mine || proof {
            self.spread(now, ItemKey::Member(id));
        } else {
            self.pass_on(now, id);
        }
        if started {
            self.report_member(id);
            let others = self.members.others().len().max(1);
            if !mine && self.rng.usize(..others) < SUSPECT_PROBERS {
                self.check_suspect(now, id, incarnation);
            }
        }
        self.arm_suspicion(now, id);
        self.update_contact(now);
    }

    /// Gives a suspect more time where more is lost by now than when the suspicion began; answers
    /// whether that moved its end.
    fn extend_suspicion(&mut self, now: Instant, id: u64) -> bool {
        let shortest = self.shortest_suspicion();
        let mut deadline = now;
        self.members.change(id, &mut self.rng, |member| {
            if let Some(suspicion) = &mut member.suspicion {
                suspicion.extend(shortest);
                deadline = suspicion.deadline();
            }
        });
        if deadline > now {
            self.timers.set(Timer::Suspicion(id), deadline);
        }
        deadline > now
    }

    /// Ends a suspicion at its deadline, or at once where its host has told enough witnesses that the
    /// process is gone.
    fn arm_suspicion(&mut self, now: Instant, id: u64) {
        let Some(suspicion) = self
            .members
            .find(id)
            .and_then(|member| member.suspicion.as_deref())
        else {
            return;
        };
        // A second witness, unless there is nobody who could be one.
        let witnesses = (self.members.others().len()).min(2);
        let proven = suspicion.refused() > 0 && suspicion.refused() >= witnesses;
        let deadline = if proven {
            now
        } else {
            suspicion.deadline().max(now)
        };
        self.timers.set(Timer::Suspicion(id), deadline);
    }

    /// Convicts a suspect, unless this member is cut off itself: then the silence is its own.
    pub(super) fn end_suspicion(&mut self, now: Instant, id: u64) {
        // Probes may be far apart, and silence has to be noticed before anybody is convicted by it.
        self.update_contact(now);
        let member = self.members.find(id);
        let Some(suspicion) = member.and_then(|member| member.suspicion.as_deref()) else {
            return;
        };
        let (refused, started) = (suspicion.refused() > 0, suspicion.started());
        if !refused {
            if self.extend_suspicion(now, id) {
                return;
            }
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

    /// A member is dead or has left: its instances leave the views in one change.
    pub(super) fn bury(&mut self, now: Instant, id: u64, incarnation: u64, state: MemberState) {
        self.timers.cancel(Timer::Suspicion(id));
        self.held.remove(id);
        let old = self.members.change(id, &mut self.rng, |member| {
            member.state = state;
            member.incarnation = incarnation;
            member.since = now;
        });
        self.index_member(id);
        if old.is_some_and(|old| old.is_present()) {
            self.index_records(id);
        }
        self.choose_sentinels();
        self.spread(now, ItemKey::Member(id));
        self.report_member(id);
        self.update_contact(now);
    }

    /// A member nobody here knew, or a new start of one.
    fn meet(&mut self, now: Instant, id: u64, alive: &Alive) {
        self.timers.cancel(Timer::Suspicion(id));
        self.held.remove(id);
        self.drop_probes_of(now, id);
        self.members.put(id, Member::new(now, alive), &mut self.rng);
        self.index_member(id);
        self.spread(now, ItemKey::Member(id));
        self.report_member(id);
        self.adopt_orphans(now, id);
        self.choose_sentinels();
        self.timers.set_if_unset(Timer::Probe, now);
        self.update_contact(now);
    }

    /// A member has raised its word: it refutes, is back, or voids old records.
    fn revive(&mut self, now: Instant, id: u64, alive: &Alive) {
        self.timers.cancel(Timer::Suspicion(id));
        let old = self.members.change(id, &mut self.rng, |member| {
            member.revive(now, alive);
        });
        let Some(old) = old else { return };
        self.index_member(id);
        self.drop_void_tombstones(id);
        if old.state != MemberState::Alive {
            self.report_member(id);
        }
        if old.is_present() {
            self.pass_on(now, id);
        } else {
            self.reappear(now, id);
            self.spread(now, ItemKey::Member(id));
        }
        self.update_contact(now);
    }

    /// A member that was dead or had left is present again, with all its records.
    fn reappear(&mut self, now: Instant, id: u64) {
        // They weren't shown, so that they need not wait for their newer versions either.
        self.drop_void_of(id);
        self.hold_records(now, id);
        self.index_records(id);
        self.check_superseded_by(now, id);
        self.choose_sentinels();
        self.timers.set_if_unset(Timer::Probe, now);
    }

    /// Tells a sender that the member it speaks of is gone; and a member that speaks of itself also
    /// that a newer start of it is known (its clock was set back).
    ///
    /// Never more than what the sender doesn't know: two members that correct each other would do so
    /// for ever.
    fn correct(&mut self, route: Route, sender: u64, id: u64, alive: &Alive) {
        let Some(member) = self.members.find(id) else {
            return;
        };
        let newer_start = member.generation > alive.generation;
        if member.is_present() && !(newer_start && sender == id) {
            return;
        }
        let mut messages: Vec<_> = member
            .to_accuse(id)
            .map(Message::Accuse)
            .into_iter()
            .collect();
        if newer_start {
            messages.push(Message::Alive(member.to_alive()));
        }
        if sender != id {
            // First the start, then its end. To the member itself the other way round: who hears of
            // its own end needn't see a rival in its former self.
            messages.reverse();
        }
        let frame = self.frame(&messages);
        self.transmit(route, frame);
    }

    /// Keeps the sentinels the next present members in the order of ids.
    fn choose_sentinels(&mut self) {
        let sentinels = self.members.successors(SENTINELS);
        if sentinels != self.sentinels {
            let address = |id: &u64| self.members.find(*id).map(|member| member.address);
            let addresses = sentinels.iter().filter_map(address).collect();
            self.sentinels = sentinels;
            self.events.push_back(Event::Sentinels(addresses));
        }
    }

    // This member.

    /// The greatest generation that this member, or a registration of it, has had.
    #[must_use]
    pub fn newest_generation(&self) -> Generation {
        self.drawn
            .max(Some(self.identity.generation))
            .unwrap_or_default()
    }

    /// Somebody passes on what this member said, or what another of the same name says.
    pub(super) fn hear_of_me(&mut self, now: Instant, alive: &Alive) {
        let me = self.members.me();
        let (generation, incarnation) = (me.generation, me.incarnation);
        if alive.generation > generation && alive.address == self.identity.address {
            // A former self, whose clock was ahead.
            self.restart_above(now, alive.generation);
        } else if alive.generation >= generation && alive.address != self.identity.address {
            // Another process that runs under this name. It stays visible and so does this one.
            self.restart_renamed(now, alive.address);
        } else if alive.generation == generation && alive.incarnation > incarnation {
            self.refute(now, alive.incarnation);
        }
    }

    fn base_name(&self) -> &str {
        let name = &*self.identity.name;
        name.split_once('~').map_or(name, |(base, _)| base)
    }

    /// This member is accused. What is true of it, it knows best.
    fn hear_accused(&mut self, now: Instant, accuse: &Accuse) {
        let me = self.members.me();
        if accuse.generation == me.generation && accuse.incarnation >= me.incarnation {
            self.awareness = (self.awareness + 1).min(super::probe::AWARENESS_MAX);
            self.stats.refutations += 1;
            self.refute(now, accuse.incarnation);
        } else if accuse.generation > me.generation && accuse.verdict != Verdict::Suspect {
            // A former self, whose clock was ahead, and which is gone.
            self.restart_above(now, accuse.generation);
        }
    }

    fn refute(&mut self, now: Instant, incarnation: u64) {
        if incarnation >= COUNTER_MAX {
            let generation = self.members.me().generation;
            self.restart_above(now, generation);
            return;
        }
        let newest = self.version;
        self.members.change(self.me, &mut self.rng, |me| {
            me.incarnation = incarnation.saturating_add(1);
            me.newest = newest;
        });
        self.index_member(self.me);
        self.spread(now, ItemKey::Member(self.me));
    }

    /// Goes on as a start newer than one that was heard of; where there is none, under another name.
    fn restart_above(&mut self, now: Instant, generation: u64) {
        if generation < COUNTER_MAX {
            self.restart(now, None, generation + 1);
        } else {
            self.restart_renamed(now, self.identity.address);
        }
    }

    fn restart_renamed(&mut self, now: Instant, by: SocketAddr) {
        let suffix = self.rng.u32(..);
        let renamed: Arc<str> = format!("{}~{suffix:08x}", self.base_name()).into();
        let event = Event::NameTaken {
            by,
            renamed: renamed.clone(),
        };
        self.events.push_back(event);
        let generation = self.identity.generation.number();
        self.restart(now, Some(renamed), generation);
    }

    /// Goes on as a new start, under another name where one is given, with all registrations.
    fn restart(&mut self, now: Instant, name: Option<Arc<str>>, generation: u64) {
        self.drop_records(self.me);
        self.items.remove(&ItemKey::Member(self.me));
        self.broadcasts.remove(&ItemKey::Member(self.me));
        if let Some(name) = name {
            self.me = wire::member_hash(&name);
            self.identity.name = name;
        }
        self.identity.generation = Generation::new(generation);
        let me = Member::new(now, &super::alive(&self.identity));
        self.members.rename(self.me, me, &mut self.rng);
        self.floor_pending = None;
        self.choose_sentinels();
        self.index_member(self.me);
        self.spread(now, ItemKey::Member(self.me));
        let offered = self.registrations.values().filter(|r| !r.superseded);
        for instance in offered.map(|r| r.instance.clone()).collect::<Vec<_>>() {
            self.write(now, instance.key(), Some(instance.clone().into()));
        }
    }

    // Records.

    pub(super) fn handle_record(&mut self, now: Instant, record: Record) {
        if record.generation.max(record.version) > COUNTER_MAX {
            return;
        }
        if record.owner == self.me {
            self.correct_own(now, &record);
            return;
        }
        let Some(owner) = self.members.find(record.owner) else {
            self.keep_orphan(record);
            return;
        };
        if record.generation > owner.generation {
            self.keep_orphan(record);
            return;
        }
        if record.generation < owner.generation || record.version <= owner.floor() {
            return;
        }
        match self.registry.find(record.owner, &record.key) {
            Some(known) if known.version >= record.version => return,
            None if self.registry.count(record.owner) >= RECORDS_PER_OWNER_MAX => {
                self.stats.refused_records += 1;
                return;
            }
            Some(_) | None => {}
        }
        let Record {
            owner,
            version,
            key,
            content,
            ..
        } = record;
        self.store(now, owner, &key, version, content);
        if self.held.awaits(owner, version) {
            self.release(now, owner);
        }
        self.spread(now, ItemKey::record(owner, &key));
        self.check_superseded(now, &key);
    }

    /// Somebody holds a newer record of this member than it has written: a defect or a forgery, and
    /// nobody else may correct it. Says again what is true, above that.
    fn correct_own(&mut self, now: Instant, record: &Record) {
        let Record { key, version, .. } = record;
        let me = self.members.me();
        let known = self.registry.find(self.me, key);
        let newest = known.map_or(me.floor(), |known| known.version);
        let forged = record.generation == me.generation && *version > newest;
        if !forged || !self.has_room_for(key) {
            return;
        }
        if *version > COUNTER_MAX / 2 {
            // No room above it for long: a new start voids it.
            self.restart_above(now, record.generation);
            return;
        }
        self.version = self.version.max(*version);
        let own = self.registrations.get(key);
        let offered = own.filter(|registration| !registration.superseded);
        let content = offered.map(|registration| registration.instance.clone().into());
        self.write(now, key, content);
    }

    fn keep_orphan(&mut self, record: Record) {
        if self.orphans.len() >= ORPHANS_MAX {
            self.orphans.pop_front();
        }
        self.orphans.push_back(record);
    }

    fn adopt_orphans(&mut self, now: Instant, owner: u64) {
        let (adopted, others): (VecDeque<_>, VecDeque<_>) = self
            .orphans
            .drain(..)
            .partition(|record| record.owner == owner);
        self.orphans = others;
        for record in adopted {
            self.handle_record(now, record);
        }
    }

    /// Stops offering a key under which somebody offers a newer generation (REG-5).
    pub(super) fn check_superseded(&mut self, now: Instant, key: &InstanceKey) {
        if self
            .registrations
            .get(key)
            .is_none_or(|registration| registration.superseded)
        {
            return;
        }
        let offers = self.registry.offers(key).iter();
        let newest = offers
            .filter(|offer| self.is_shown(offer.owner))
            .max_by_key(|o| o.rank());
        // What this member's own former name is still said to offer is no rival.
        let own = self.registrations.get(key).map(|own| own.instance.clone());
        let rival =
            |newest: &&Offer| newest.owner != self.me && Some(&newest.instance) != own.as_ref();
        if newest.filter(rival).is_some() {
            if let Some(registration) = self.registrations.get_mut(key) {
                registration.superseded = true;
            }
            self.write(now, key, None);
            self.events.push_back(Event::Superseded(key.clone()));
        }
    }

    fn check_superseded_by(&mut self, now: Instant, owner: u64) {
        for key in self.registry.keys_of(owner) {
            self.check_superseded(now, &key);
        }
    }

    fn awaited_accusers(&self) -> usize {
        let multiplier = usize::try_from(self.config.suspicion_multiplier).unwrap_or(usize::MAX);
        let awaited = multiplier.saturating_sub(AWAITED_BELOW_MULTIPLIER);
        // The suspect and this member can't confirm.
        let able = self.members.others().len().saturating_sub(1);
        if able < awaited { 0 } else { awaited }
    }
}
