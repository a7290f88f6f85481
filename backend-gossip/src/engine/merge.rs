//! What is heard about members and records meets what is known: the greater wins, and what was
//! news is passed on.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Generation, InstanceKey};

use super::items::ItemKey;
use super::member::{Member, MemberState};
use super::registry::Offer;
use super::suspicion::Suspicion;
use super::timer::Timer;
use super::{Engine, Event, Route};
use crate::wire::limits::{
    COUNTER_MAX, MEMBERS_MAX, MEMBERS_SAID_BYTES_MAX, ORPHAN_BYTES_MAX, ORPHANS_MAX,
};
use crate::wire::message::{Accuse, Alive, Record, Verdict};
use crate::wire::{self, Message, Reader};

/// Members that check a suspect at once when they hear of it, about: enough to confirm, few enough
/// not to drown it.
const SUSPECT_PROBERS: usize = 8;

/// Accusers beyond the first that shorten a suspicion to its shortest, less this from the
/// multiplier (memberlist's `SuspicionMult - 2`).
const AWAITED_BELOW_MULTIPLIER: usize = 2;

/// Own records corrected at once, and the time between two after that: each costs everybody a broadcast,
/// and who forges them needn't be answered one by one.
pub(super) const CORRECTIONS_BURST: u32 = 256;
pub(super) const CORRECTION_INTERVAL: Duration = Duration::from_millis(10);

/// New starts of this member at once, and the time between two after that. Each voids all that is said
/// about the former, and is remembered by everybody where the name is another.
pub(super) const RESTARTS_BURST: u32 = 8;
pub(super) const RESTART_INTERVAL: Duration = Duration::from_secs(5);

/// Members forgotten at once for others where there is no room, and the time between two after that: finding
/// out whom takes a look at all.
pub(super) const EVICTIONS_BURST: u32 = 64;
pub(super) const EVICTION_INTERVAL: Duration = Duration::from_millis(50);

/// How often at once, and the time between two after that, a member that hears of its own death knocks on
/// others, and on how many: each of these tells it to as many again.
pub(super) const KNOCKS_BURST: u32 = 16;
pub(super) const KNOCKS_INTERVAL: Duration = Duration::from_millis(200);
const KNOCKS: usize = 8;

/// Own tombstones from which on forged records of keys that this member never had are voided by a new
/// start and no longer one by one.
const FORGED_MANY: usize = 1_024;

impl Engine {
    // Members.

    pub(super) fn handle_alive(&mut self, now: Instant, route: Route, sender: u64, alive: &Alive) {
        if alive.generation.max(alive.incarnation) > COUNTER_MAX {
            return;
        }
        if !is_reachable(alive.address) {
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
        let bounded = self.bounded(alive);
        let alive = bounded.as_ref().unwrap_or(alive);
        let known = self.members.find(id).map(|member| {
            let newer = (alive.generation, alive.incarnation);
            (
                newer > (member.generation, member.incarnation),
                member.generation,
            )
        });
        match known {
            None if self.members.len() >= MEMBERS_MAX
                && !self.makes_room(now, route, sender, alive) =>
            {
                self.stats.refused_members += 1;
                self.refused = Some(now);
            }
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
            // Who is suspected in a later incarnation has been alive in it, and said how far it was.
            self.reappear(now, id, None);
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

    /// A member is dead or has left: its instances leave the views in one change.
    pub(super) fn bury(&mut self, now: Instant, id: u64, incarnation: u64, state: MemberState) {
        self.timers.cancel(Timer::Suspicion(id));
        self.note_lost(id);
        let old = self.members.change(id, &mut self.rng, |member| {
            member.state = state;
            member.incarnation = incarnation;
            member.since = now;
        });
        self.index_member(id);
        if old.is_some_and(|old| old.is_present()) {
            self.index_records(id);
        }
        self.choose_sentinels(now);
        self.spread(now, ItemKey::Member(id));
        self.report_member(id);
        self.update_contact(now);
    }

    /// Forgets who may never have been for who speaks for itself; answers whether there was anybody.
    fn makes_room(&mut self, now: Instant, route: Route, sender: u64, alive: &Alive) -> bool {
        let speaks_for_itself = sender == wire::member_hash(&alive.name)
            && match route {
                Route::Datagram(from) => from == alive.address,
                Route::Link(_) | Route::Reply(_) => true,
            };
        if !speaks_for_itself || !self.evictions.take(now) {
            return false;
        }
        let others = self.members.iter().filter(|(id, _)| *id != self.me);
        let invented = others.filter(|(_, member)| !member.proven);
        // Those who are gone, and have been for longest.
        let first = invented.min_by_key(|(_, member)| (member.is_present(), member.since));
        let first = first.map(|(id, _)| id);
        first.inspect(|id| self.forget(*id)).is_some()
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
        self.choose_sentinels(now);
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
        if old.state == MemberState::Suspect && old.is_accused_by(self.me) {
            // It was there: what this member pinged, or what was answered, was lost.
            self.loss.lost();
        }
        self.index_member(id);
        self.drop_void_tombstones(id);
        if old.state != MemberState::Alive {
            self.report_member(id);
        }
        if old.is_present() {
            self.pass_on(now, id);
        } else {
            self.reappear(now, id, Some(alive.newest));
            self.spread(now, ItemKey::Member(id));
        }
        self.update_contact(now);
    }

    /// A member that was dead or had left is present again, with all its records, the newest of which it
    /// may have told.
    fn reappear(&mut self, now: Instant, id: u64, newest: Option<u64>) {
        // They weren't shown, so that they need not wait for their newer versions either.
        self.drop_void_of(id);
        self.hold_records(now, id, newest);
        self.index_records(id);
        self.check_superseded_by(now, id);
        self.choose_sentinels(now);
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
        self.transmit_answer(route, frame);
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

    /// Another process that runs under this member's name speaks to it: to nobody else, where no third one
    /// stands between them.
    pub(super) fn hear_namesake(&mut self, now: Instant, route: Route, frame: &mut Reader<'_>) {
        let decoded = std::iter::from_fn(|| (!frame.is_empty()).then(|| Message::decode(frame)));
        let mut words = decoded.map_while(Result::ok).flatten();
        let own = words.find_map(|message| match message {
            Message::Alive(alive) => Some(alive),
            _ => None,
        });
        let Some(alive) = own else {
            return;
        };
        let counters = alive.generation.max(alive.incarnation);
        let is_other = alive.address != self.identity.address && is_reachable(alive.address);
        if wire::member_hash(&alive.name) != self.me || !is_other || counters > COUNTER_MAX {
            return;
        }
        if alive.generation < self.identity.generation.number() {
            // It is the older one, and has to hear of this one.
            let here = Message::Alive(self.members.me().to_alive());
            let answer = self.frame(&[here]);
            self.transmit_answer(route, answer);
        } else {
            self.hear_of_me(now, &alive);
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
            if accuse.verdict != Verdict::Suspect {
                self.knock_on_gone(now);
            }
        } else if accuse.generation > me.generation && accuse.verdict != Verdict::Suspect {
            // A former self, whose clock was ahead, and which is gone.
            self.restart_above(now, accuse.generation);
        }
    }

    /// This member isn't dead, whatever is said: so others of whom it is said may not be either. Where that
    /// is said of all, nobody else would tell anybody that it isn't so.
    pub(super) fn knock_on_gone(&mut self, now: Instant) {
        self.knocks_due = !self.knocks.take(now);
        if self.knocks_due {
            // Later, or the last of many such words would leave everybody alone.
            self.timers.set(Timer::Heal, now + KNOCKS_INTERVAL);
            return;
        }
        let gone = self
            .members
            .iter()
            .filter(|(_, m)| m.proven && !m.is_present());
        let mut gone: Vec<_> = gone.map(|(id, member)| (member.since, id)).collect();
        // Those who went last.
        gone.sort_unstable_by(|a, b| b.cmp(a));
        for (_, id) in gone.into_iter().take(KNOCKS) {
            self.knock(id);
        }
    }

    fn refute(&mut self, now: Instant, incarnation: u64) {
        self.raise_word(now, incarnation, |_| {});
    }

    /// Says something else of this member, above an incarnation that was heard of.
    pub(super) fn raise_word(&mut self, now: Instant, above: u64, say: impl FnOnce(&mut Member)) {
        let (newest, is_last) = (self.version, above >= COUNTER_MAX);
        self.members.change(self.me, &mut self.rng, |me| {
            say(me);
            if !is_last {
                me.newest = newest;
                me.incarnation = above + 1;
            }
        });
        if is_last {
            let generation = self.members.me().generation;
            self.restart_above(now, generation);
            return;
        }
        self.index_member(self.me);
        self.spread(now, ItemKey::Member(self.me));
    }

    /// Goes on at another address: as a new start, since two of one generation at two addresses are rivals.
    pub fn move_to(&mut self, now: Instant, address: SocketAddr) {
        if self.leave.is_some() || address == self.identity.address {
            return;
        }
        let generation = self.identity.generation.number();
        self.identity.address = address;
        self.restart(now, None, generation.saturating_add(1).min(COUNTER_MAX));
    }

    /// Goes on as a start newer than one that was heard of; where there is none, under another name.
    pub(super) fn restart_above(&mut self, now: Instant, generation: u64) {
        if generation >= COUNTER_MAX {
            self.restart_renamed(now, self.identity.address);
        } else if self.restarts.take(now) {
            self.restart(now, None, generation + 1);
        }
    }

    fn restart_renamed(&mut self, now: Instant, by: SocketAddr) {
        if !self.restarts.take(now) {
            return;
        }
        let suffix = self.rng.u32(..);
        let renamed: Arc<str> = format!("{}~{suffix:08x}", self.base_name()).into();
        let event = Event::NameTaken {
            by,
            renamed: renamed.clone(),
        };
        self.events.push_back(event);
        let generation = self.identity.generation.number();
        self.restart(now, Some(renamed), generation);
        // Where one name was taken others may have been, and with them the addresses of those who had them.
        self.events.push_back(Event::SeedsWanted);
        self.ask_seeds(now);
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
        let word = Alive {
            seal: self.members.me().seal().into(),
            features: self.config.features,
            ..super::alive(&self.identity)
        };
        let me = Member::new(now, &word);
        self.members.rename(self.me, me, &mut self.rng);
        self.floor_pending = None;
        self.choose_sentinels(now);
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
            _ => {
                let (bytes, proven) = (record.bytes(), owner.proven);
                if !self
                    .registry
                    .has_room_for(record.owner, &record.key, bytes, proven)
                {
                    self.stats.refused_records += 1;
                    self.refused = Some(now);
                    return;
                }
            }
        }
        let Record {
            owner,
            version,
            key,
            content,
            ..
        } = record;
        self.store(now, owner, &key, version, content);
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
        let unheard_of = known.is_none() && !self.registrations.contains_key(key);
        if *version > COUNTER_MAX / 2 || (unheard_of && self.tombstones() >= FORGED_MANY) {
            // No room above it for long, or too many: a new start voids them all.
            self.restart_above(now, record.generation);
            return;
        }
        if !self.corrections.take(now) {
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
        // Large ones go by link, in the order in which they were written: they overtake nobody.
        if record.bytes() <= ORPHAN_BYTES_MAX {
            self.orphans.push_back(record);
        }
    }

    fn adopt_orphans(&mut self, now: Instant, owner: u64) {
        if self.orphans.iter().all(|record| record.owner != owner) {
            return;
        }
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

    /// The member without what it says beside who it is, where too much is remembered of that.
    fn bounded(&self, alive: &Alive) -> Option<Alive> {
        let said = alive.said_bytes();
        let full = said > 0 && self.members.said_bytes() + said > MEMBERS_SAID_BYTES_MAX;
        full.then(|| Alive {
            seal: Box::default(),
            unknown: Box::default(),
            ..alive.clone()
        })
    }

    fn awaited_accusers(&self) -> usize {
        let multiplier = usize::try_from(self.config.suspicion_multiplier).unwrap_or(usize::MAX);
        let awaited = multiplier.saturating_sub(AWAITED_BELOW_MULTIPLIER);
        // The suspect and this member can't confirm.
        let able = self.members.others().len().saturating_sub(1);
        if able < awaited { 0 } else { awaited }
    }
}

/// Whether one process can be at an address: all members send there.
fn is_reachable(address: SocketAddr) -> bool {
    address.port() != 0 && is_of_one_host(address.ip())
}

/// Whether one host can have an address for others.
pub(crate) fn is_of_one_host(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}
