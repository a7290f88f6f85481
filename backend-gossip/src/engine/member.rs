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
use crate::wire::start_hash;

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
            floor: None,
            told: Told::new(alive.seal.clone(), alive.unknown.clone()),
            suspicion: None,
            round_trip: None,
        };
        member.raise_floor(now, alive.floor);
        member
    }

    /// Takes over what it says of itself in a higher incarnation.
    pub(super) fn revive(&mut self, now: Instant, alive: &Alive) {
        let old = std::mem::replace(self, Self::new(now, alive));
        self.round_trip = old.round_trip;
        if self.floor() <= old.floor() {
            let heard = old.floor.as_ref().map_or(now, |floor| floor.heard);
            self.raise_floor(heard, self.floor());
        }
        if old.generation == alive.generation && old.state == MemberState::Alive {
            self.since = old.since;
        }
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
    suspects: usize,
    refused: usize,
}

impl Members {
    pub(super) fn new(id: u64, me: Member) -> Self {
        Self {
            me: id,
            table: BTreeMap::from([(id, me.into())]),
            ring: Vec::new(),
            next: 0,
            suspects: 0,
            refused: 0,
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

    /// Others that are alive or suspect.
    pub(super) fn others(&self) -> &[u64] {
        &self.ring
    }

    /// Others that are suspect.
    pub(super) fn suspects(&self) -> usize {
        self.suspects
    }

    /// Those of them whose host says that the process is gone.
    pub(super) fn refused(&self) -> usize {
        self.refused
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
    /// neighbours, which everybody finds alike.
    pub(super) fn successors(&self, count: usize) -> Vec<u64> {
        let after = self.table.range((Excluded(self.me), Unbounded));
        let around = after.chain(self.table.range(..self.me));
        let present = around.filter(|(_, member)| member.is_present());
        present.map(|(id, _)| *id).take(count).collect()
    }

    /// Up to `count` others, drawn at random, that meet `condition`.
    pub(super) fn sample(
        &self,
        count: usize,
        rng: &mut Rng,
        condition: impl Fn(u64, &Member) -> bool,
    ) -> Vec<u64> {
        let mut sampled: Vec<u64> = Vec::with_capacity(count);
        let mut consider = |id: u64| {
            if sampled.len() < count && !sampled.contains(&id) && condition(id, &self.table[&id]) {
                sampled.push(id);
            }
        };
        if self.ring.len() <= 8 * count {
            // Few: all of them in random order, so that nobody is missed.
            let mut order = self.ring.clone();
            rng.shuffle(&mut order);
            order.into_iter().for_each(&mut consider);
        } else {
            // Many: a few draws too many are cheaper than shuffling them all.
            for _ in 0..4 * count {
                consider(self.ring[rng.usize(..self.ring.len())]);
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
        self.suspects = self.suspects + usize::from(new.suspect) - usize::from(old.suspect);
        self.refused = self.refused + usize::from(new.refused) - usize::from(old.refused);
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

/// What is counted of a member.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    present: bool,
    suspect: bool,
    /// Suspect, and its host says that the process is gone.
    refused: bool,
}

impl Standing {
    fn of(member: &Member) -> Self {
        let suspect = member.state == MemberState::Suspect;
        let refused = |suspicion: &Suspicion| suspicion.refused() > 0;
        Self {
            present: member.is_present(),
            suspect,
            refused: suspect && member.suspicion.as_deref().is_some_and(refused),
        }
    }
}
