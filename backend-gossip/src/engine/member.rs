//! The member table.
//!
//! What is known of a member is a point in a lattice, ordered by generation, then incarnation, then
//! state (alive < suspect < dead < left); merging takes the greater. So messages may come late,
//! twice or out of order, and a stale `alive` can't resurrect.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::suspicion::Suspicion;
use crate::wire::message::{Accuse, Alive, Stamp, Verdict};
use crate::wire::{Features, start_hash};

/// So many members that were never heard are likely invented, where they are also so many times those
/// that were: who has just joined a large cluster has heard few of it, but more by the second.
const UNPROVEN_MANY: usize = 64;
const UNPROVEN_SHARE: usize = 8;

/// State of a member, in order of precedence within one incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// Answers.
    Alive,
    /// Did not answer; may refute. Its instances stay in the views.
    Suspect,
    /// Did not refute in time. Its instances have left the views.
    Dead,
    /// Said good-bye.
    Left,
}

/// What is known of a member. There is one of these a member on every member, so that each word counts:
/// what few members have is kept apart.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: Arc<str>,
    pub(super) generation: u64,
    pub(super) incarnation: u64,
    pub(super) state: MemberState,
    /// Since when it has the state.
    pub(super) since: Instant,
    pub(super) address: SocketAddr,
    /// Version of its newest record by its own last word.
    pub(super) newest: u64,
    /// What it says it understands.
    pub(super) features: Features,
    /// Whether it was heard at its address: others may have invented it.
    pub(super) proven: bool,
    floor: Option<Box<Floor>>,
    told: Option<Box<Told>>,
    pub(super) suspicion: Option<Box<Suspicion>>,
    /// Smoothed round-trip time of its answers to this member's pings, in microseconds.
    round_trip: Option<NonZeroU32>,
}

/// The version up to which a member's records are void.
#[derive(Clone, Copy, Debug)]
struct Floor {
    version: u64,
    heard: Instant,
}

/// What a member says of itself that this one only passes on.
#[derive(Clone, Debug)]
struct Told {
    /// Of its keyring.
    seal: Box<[u8]>,
    unknown: Box<[u8]>,
}

impl Told {
    fn new(seal: Box<[u8]>, unknown: Box<[u8]>) -> Option<Box<Self>> {
        let nothing = seal.is_empty() && unknown.is_empty();
        (!nothing).then(|| Self { seal, unknown }.into())
    }
}

impl Member {
    pub(super) fn new(now: Instant, alive: &Alive) -> Self {
        let mut member = Self {
            name: alive.name.clone(),
            generation: alive.generation,
            incarnation: alive.incarnation,
            state: MemberState::Alive,
            since: now,
            address: alive.address,
            newest: alive.newest,
            features: alive.features,
            proven: false,
            floor: None,
            told: Told::new(alive.seal.clone(), alive.unknown.clone()),
            suspicion: None,
            round_trip: None,
        };
        member.raise_floor(now, alive.floor);
        member
    }

    /// Whether a member has found this one silent, in its present incarnation.
    pub(super) fn is_accused_by(&self, accuser: u64) -> bool {
        let suspicion = self.suspicion.as_deref();
        suspicion.is_some_and(|suspicion| suspicion.is_by(accuser))
    }

    /// Takes over what it says of itself in a higher incarnation.
    pub(super) fn revive(&mut self, now: Instant, alive: &Alive) {
        let old = std::mem::replace(self, Self::new(now, alive));
        self.round_trip = old.round_trip;
        self.proven = old.proven && old.address == self.address;
        if self.floor() <= old.floor() {
            let heard = old.floor.as_ref().map_or(now, |floor| floor.heard);
            self.raise_floor(heard, self.floor());
        }
        if old.generation == alive.generation && old.state == MemberState::Alive {
            self.since = old.since;
        }
    }

    /// How many bytes it says beside who it is.
    fn said_bytes(&self) -> usize {
        self.seal().len() + self.unknown().len()
    }

    /// Its records at or below this version are void; see the registry.
    pub(super) fn floor(&self) -> u64 {
        self.floor.as_ref().map_or(0, |floor| floor.version)
    }

    /// When its present floor was heard, where it has one.
    pub(super) fn floor_heard(&self) -> Option<Instant> {
        self.floor.as_ref().map(|floor| floor.heard)
    }

    pub(super) fn raise_floor(&mut self, heard: Instant, version: u64) {
        self.floor = (version > 0).then(|| Floor { version, heard }.into());
    }

    /// What it says of its keyring.
    pub(super) fn seal(&self) -> &[u8] {
        self.told.as_ref().map_or(&[], |told| &told.seal)
    }

    pub(super) fn tell_seal(&mut self, seal: &[u8]) {
        self.told = Told::new(seal.into(), self.unknown().into());
    }

    fn unknown(&self) -> &[u8] {
        self.told.as_ref().map_or(&[], |told| &told.unknown)
    }

    /// Smoothed round-trip time of its answers to this member's pings.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        let micros = self.round_trip?.get();
        Some(Duration::from_micros(micros.into()))
    }

    /// Takes a measured round trip into the estimate (the weights of RFC 6298).
    pub(super) fn measure(&mut self, round_trip: Duration) {
        let old = self.round_trip();
        let smoothed = old.map_or(round_trip, |old| (old * 7 + round_trip) / 8);
        let micros = u32::try_from(smoothed.as_micros()).unwrap_or(u32::MAX);
        self.round_trip = NonZeroU32::new(micros.max(1));
    }

    /// Whether it takes part: alive or suspect.
    pub(super) fn is_present(&self) -> bool {
        self.state <= MemberState::Suspect
    }

    /// The hash of its start, which pings name.
    pub(super) fn start(&self, id: u64) -> u64 {
        start_hash(id, self.generation)
    }

    /// How new this is.
    pub(super) fn stamp(&self) -> Stamp {
        stamp(self.generation, self.incarnation, self.state)
    }

    /// The member in its own words.
    pub(super) fn to_alive(&self) -> Alive {
        Alive {
            name: self.name.clone(),
            generation: self.generation,
            incarnation: self.incarnation,
            address: self.address,
            floor: self.floor(),
            newest: self.newest,
            seal: self.seal().into(),
            features: self.features,
            unknown: self.unknown().into(),
        }
    }

    /// What there is to say against it; `None` while it is alive.
    pub(super) fn to_accuse(&self, id: u64) -> Option<Accuse> {
        let verdict = match self.state {
            MemberState::Alive => return None,
            MemberState::Suspect => Verdict::Suspect,
            MemberState::Dead => Verdict::Dead,
            MemberState::Left => Verdict::Left,
        };
        let (accusers, refused) = self
            .suspicion
            .as_deref()
            .map(Suspicion::accusers)
            .unwrap_or_default();
        Some(Accuse {
            member: id,
            generation: self.generation,
            incarnation: self.incarnation,
            verdict,
            accusers,
            refused,
        })
    }
}

/// How new something is that is known of a member, in the order of the lattice. Alive and suspect
/// are the same here: a suspicion spreads by itself and ends soon, and is no reason to sync.
pub(super) fn stamp(generation: u64, incarnation: u64, state: MemberState) -> Stamp {
    let rank = match state {
        MemberState::Alive | MemberState::Suspect => 0,
        MemberState::Dead => 1,
        MemberState::Left => 2,
    };
    Stamp(
        generation,
        incarnation.saturating_mul(4).saturating_add(rank),
    )
}

impl From<Verdict> for MemberState {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Suspect => Self::Suspect,
            Verdict::Dead => Self::Dead,
            Verdict::Left => Self::Left,
        }
    }
}

/// All members, this one included.
#[derive(Debug)]
pub(super) struct Members {
    me: u64,
    table: BTreeMap<u64, Box<Member>>,
    /// Others that are present, in the order they are probed; shuffled after each round, so that
    /// every member is probed within two rounds (SWIM, section 4.3).
    ring: Vec<u64>,
    next: usize,
    /// Those of them that are proven: as many others as somebody invents, these are kept to.
    proven: Proven,
    all: Tally,
    /// Bytes that all of them say beside who they are.
    said_bytes: usize,
}

impl Members {
    pub(super) fn new(id: u64, me: Member) -> Self {
        Self {
            me: id,
            table: BTreeMap::from([(id, me.into())]),
            ring: Vec::new(),
            next: 0,
            proven: Proven::default(),
            all: Tally::default(),
            said_bytes: 0,
        }
    }

    pub(super) fn find(&self, id: u64) -> Option<&Member> {
        self.table.get(&id).map(Box::as_ref)
    }

    /// This member.
    pub(super) fn me(&self) -> &Member {
        &self.table[&self.me]
    }

    /// The member at an address; one that is present before one that was there once. Looks at all of
    /// them: it is asked for once a connection at most, and an index would be memory all the time.
    pub(super) fn at(&self, address: SocketAddr) -> Option<u64> {
        let at = self.iter().filter(|(_, member)| member.address == address);
        let at = at.max_by_key(|(_, member)| member.is_present());
        at.map(|(id, _)| id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Member)> {
        self.table.iter().map(|(id, member)| (*id, &**member))
    }

    /// All members, dead ones included.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes that the others say beside who they are.
    pub(super) fn said_bytes(&self) -> usize {
        self.said_bytes
    }

    /// Others that are alive or suspect.
    pub(super) fn others(&self) -> &[u64] {
        &self.ring
    }

    /// What this member can tell of how well it reaches the others: by all, or by those that were heard
    /// ever where so many others never were that they are likely invented.
    pub(super) fn reached(&self) -> Tally {
        match self.is_crowded() {
            true => self.proven.tally,
            false => self.all,
        }
    }

    /// Whether what is silent of this member says anything about this member's own reach.
    pub(super) fn tells(&self, id: u64) -> bool {
        !self.is_crowded() || self.find(id).is_some_and(|member| member.proven)
    }

    fn is_crowded(&self) -> bool {
        let proven = self.proven.ids.len();
        proven > 0 && self.ring.len() - proven > UNPROVEN_MANY.max(UNPROVEN_SHARE * proven)
    }

    /// The first of `ids` that is proven.
    pub(super) fn first_proven(&self, ids: impl IntoIterator<Item = u64>) -> Option<u64> {
        let proven = |id: &u64| self.proven.ids.binary_search(id).is_ok();
        ids.into_iter().find(proven)
    }

    /// Notes that a member was heard at its address; answers whether that is new. At one address there
    /// is one process, so a second member there proves nothing while the first is present.
    pub(super) fn prove(&mut self, id: u64, rng: &mut Rng) -> bool {
        let is_taken = |address| {
            let mut proven = self.proven.ids.iter();
            proven.any(|other| {
                self.find(*other)
                    .is_some_and(|other| other.address == address)
            })
        };
        let open =
            |member: &&Member| !member.proven && member.is_present() && !is_taken(member.address);
        let new = id != self.me && self.find(id).filter(open).is_some();
        if new {
            self.change(id, rng, |member| member.proven = true);
        }
        new
    }

    /// Adds a member, or replaces what is known of it.
    pub(super) fn put(&mut self, id: u64, member: Member, rng: &mut Rng) {
        let new = Standing::of(&member);
        let old = self.table.insert(id, member.into());
        self.account(id, old.as_deref().map(Standing::of), Some(new), rng);
    }

    /// Changes a member in place and answers what it was before.
    pub(super) fn change(
        &mut self,
        id: u64,
        rng: &mut Rng,
        change: impl FnOnce(&mut Member),
    ) -> Option<Member> {
        let member = self.table.get_mut(&id)?;
        let old = Member::clone(member);
        change(member);
        let new = Standing::of(member);
        self.account(id, Some(Standing::of(&old)), Some(new), rng);
        Some(old)
    }

    /// Forgets a member.
    pub(super) fn remove(&mut self, id: u64, rng: &mut Rng) {
        if let Some(old) = self.table.remove(&id) {
            self.account(id, Some(Standing::of(&old)), None, rng);
        }
    }

    /// Makes another id this member's own.
    pub(super) fn rename(&mut self, id: u64, me: Member, rng: &mut Rng) {
        let old = std::mem::replace(&mut self.me, id);
        if old != id {
            self.table.remove(&old);
        }
        self.put(id, me, rng);
    }

    /// The member to probe next; starts a new shuffled round at the end.
    pub(super) fn next_to_probe(&mut self, rng: &mut Rng) -> Option<u64> {
        if self.next >= self.ring.len() {
            rng.shuffle(&mut self.ring);
            self.next = 0;
        }
        let id = *self.ring.get(self.next)?;
        self.next += 1;
        Some(id)
    }

    /// The `count` present members that follow this one in the order of ids, around the end: its
    /// neighbours, which everybody finds alike. And as many of those that are proven, where they are
    /// others.
    pub(super) fn successors(&self, count: usize) -> Vec<u64> {
        let after = self.table.range((Excluded(self.me), Unbounded));
        let around = after.chain(self.table.range(..self.me));
        let present = around.filter(|(_, member)| member.is_present());
        let mut successors: Vec<u64> = present.map(|(id, _)| *id).take(count).collect();
        let proven = &self.proven.ids;
        let (before, after) = proven.split_at(proven.partition_point(|id| *id < self.me));
        for id in after.iter().chain(before).take(count) {
            if !successors.contains(id) {
                successors.push(*id);
            }
        }
        successors
    }

    /// Up to `count` others, drawn at random, that meet `condition`; half of them proven ones at least,
    /// where there are so many.
    pub(super) fn sample(
        &self,
        count: usize,
        rng: &mut Rng,
        condition: impl Fn(u64, &Member) -> bool,
    ) -> Vec<u64> {
        let mut sampled: Vec<u64> = Vec::with_capacity(count);
        let all_proven = self.proven.ids.len() == self.ring.len();
        let first = if all_proven { 0 } else { count.div_ceil(2) };
        for (ring, count) in [(&self.proven.ids, first), (&self.ring, count)] {
            let mut consider = |id: u64| {
                let room = sampled.len() < count;
                if room && !sampled.contains(&id) && condition(id, &self.table[&id]) {
                    sampled.push(id);
                }
            };
            if count == 0 || ring.is_empty() {
                continue;
            }
            if ring.len() <= 8 * count {
                // Few: all of them in random order, so that nobody is missed.
                let mut order = ring.clone();
                rng.shuffle(&mut order);
                order.into_iter().for_each(&mut consider);
            } else {
                // Many: a few draws too many are cheaper than shuffling them all.
                for _ in 0..4 * count {
                    consider(ring[rng.usize(..ring.len())]);
                }
            }
        }
        sampled
    }

    /// Gives back room that isn't used.
    pub(super) fn give_back_room(&mut self) {
        // A few more may come, one by one.
        self.ring.shrink_to(self.ring.len() + self.ring.len() / 8);
    }

    fn account(&mut self, id: u64, old: Option<Standing>, new: Option<Standing>, rng: &mut Rng) {
        if id == self.me {
            return;
        }
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        self.said_bytes = self.said_bytes + new.said_bytes - old.said_bytes;
        self.all.account(old, new);
        self.proven.account(id, old, new);
        match (old.present, new.present) {
            (false, true) => {
                // At a random place, so that members who join together aren't probed together.
                let at = rng.usize(..=self.ring.len());
                self.ring.insert(at, id);
                self.next += usize::from(at < self.next);
            }
            (true, false) => {
                if let Some(at) = self.ring.iter().position(|other| *other == id) {
                    self.ring.remove(at);
                    self.next -= usize::from(at < self.next);
                }
            }
            (true, true) | (false, false) => {}
        }
    }
}

/// How many others are present, and how many of them are silent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Alive or suspect.
    pub(super) present: usize,
    /// Suspect.
    pub(super) suspects: usize,
    /// Suspect, and their hosts say that the process is gone.
    pub(super) refused: usize,
}

impl Tally {
    fn account(&mut self, old: Standing, new: Standing) {
        let add = |total: &mut usize, old: bool, new: bool| {
            *total = *total + usize::from(new) - usize::from(old);
        };
        add(&mut self.present, old.present, new.present);
        add(&mut self.suspects, old.suspect, new.suspect);
        add(&mut self.refused, old.refused, new.refused);
    }
}

/// The others that are present and were heard at their addresses.
#[derive(Debug, Default)]
struct Proven {
    /// In order.
    ids: Vec<u64>,
    tally: Tally,
}

impl Proven {
    fn account(&mut self, id: u64, old: Standing, new: Standing) {
        let proven = |standing: Standing| match standing.proven {
            true => standing,
            false => Standing::default(),
        };
        self.tally.account(proven(old), proven(new));
        match (new.proven, self.ids.binary_search(&id)) {
            (true, Err(at)) => self.ids.insert(at, id),
            (false, Ok(at)) => {
                self.ids.remove(at);
            }
            (true, Ok(_)) | (false, Err(_)) => {}
        }
    }
}

/// What is counted of a member.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    present: bool,
    suspect: bool,
    /// Suspect, and its host says that the process is gone.
    refused: bool,
    /// Present, and heard at its address.
    proven: bool,
    said_bytes: usize,
}

impl Standing {
    fn of(member: &Member) -> Self {
        let suspect = member.state == MemberState::Suspect;
        let refused = |suspicion: &Suspicion| suspicion.refused() > 0;
        Self {
            present: member.is_present(),
            suspect,
            refused: suspect && member.suspicion.as_deref().is_some_and(refused),
            proven: member.proven && member.is_present(),
            said_bytes: member.said_bytes(),
        }
    }
}
