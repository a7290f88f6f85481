//! The member table.
//!
//! What is known of a member is a point in a lattice, ordered by generation, then incarnation, then
//! state (alive < suspect < dead < left); merging takes the greater. So messages may come late,
//! twice or out of order, and a stale `alive` can't resurrect.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
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

/// What is known of a member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: Arc<str>,
    pub(super) generation: u64,
    pub(super) incarnation: u64,
    pub(super) state: MemberState,
    /// Since when it has the state.
    pub(super) since: Instant,
    /// When its present floor was heard.
    pub(super) floor_heard: Instant,
    pub(super) address: SocketAddr,
    pub(super) floor: u64,
    /// Version of its newest record by its own last word.
    pub(super) newest: u64,
    /// What it says of its keyring.
    pub(super) seal: Box<[u8]>,
    /// What it says it understands.
    pub(super) features: Features,
    pub(super) unknown: Box<[u8]>,
    /// Whether it was heard at its address: others may have invented it.
    pub(super) proven: bool,
    /// Apart, since nearly no member has one.
    pub(super) suspicion: Option<Box<Suspicion>>,
    /// Smoothed round-trip time of its answers to this member's pings.
    pub(super) round_trip: Option<Duration>,
}

impl Member {
    pub(super) fn new(now: Instant, alive: &Alive) -> Self {
        Self {
            name: alive.name.clone(),
            generation: alive.generation,
            incarnation: alive.incarnation,
            state: MemberState::Alive,
            since: now,
            floor_heard: now,
            address: alive.address,
            floor: alive.floor,
            newest: alive.newest,
            seal: alive.seal.clone(),
            features: alive.features,
            unknown: alive.unknown.clone(),
            proven: false,
            suspicion: None,
            round_trip: None,
        }
    }

    /// Takes a measured round trip into the estimate (the weights of RFC 6298).
    pub(super) fn measure(&mut self, round_trip: Duration) {
        let smoothed = self
            .round_trip
            .map_or(round_trip, |old| (old * 7 + round_trip) / 8);
        self.round_trip = Some(smoothed);
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
            floor: self.floor,
            newest: self.newest,
            seal: self.seal.clone(),
            features: self.features,
            unknown: self.unknown.clone(),
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
    table: BTreeMap<u64, Member>,
    /// Who is, or was last, at which address: several where a new member took over the address of
    /// a former one.
    by_address: BTreeSet<(SocketAddr, u64)>,
    /// Others that are present, in the order they are probed; shuffled after each round, so that
    /// every member is probed within two rounds (SWIM, section 4.3).
    ring: Vec<u64>,
    next: usize,
    /// The same by id, for who is whose neighbour.
    present: BTreeSet<u64>,
    /// Those of them that are proven: as many others as somebody invents, these are kept to.
    proven: Proven,
    all: Tally,
    /// Bytes that all of them say beside who they are.
    said_bytes: usize,
}

impl Members {
    pub(super) fn new(id: u64, me: Member) -> Self {
        let by_address = BTreeSet::from([(me.address, id)]);
        let table = BTreeMap::from([(id, me)]);
        Self {
            me: id,
            table,
            by_address,
            ring: Vec::new(),
            next: 0,
            present: BTreeSet::new(),
            proven: Proven::default(),
            all: Tally::default(),
            said_bytes: 0,
        }
    }

    pub(super) fn find(&self, id: u64) -> Option<&Member> {
        self.table.get(&id)
    }

    /// This member.
    pub(super) fn me(&self) -> &Member {
        &self.table[&self.me]
    }

    /// The member at an address; one that is present before one that was there once.
    pub(super) fn at(&self, address: SocketAddr) -> Option<u64> {
        let at = self.by_address.range((address, 0)..=(address, u64::MAX));
        let ids = at.map(|(_, id)| *id);
        ids.max_by_key(|id| self.table.get(id).is_some_and(Member::is_present))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Member)> {
        self.table.iter().map(|(id, member)| (*id, member))
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
        let proven = self.proven.ring.len();
        proven > 0 && self.ring.len() - proven > UNPROVEN_MANY.max(UNPROVEN_SHARE * proven)
    }

    /// The first of `ids` that is proven.
    pub(super) fn first_proven(&self, ids: &[u64]) -> Option<u64> {
        ids.iter().copied().find(|id| self.proven.ids.contains(id))
    }

    /// Notes that a member was heard at its address; answers whether that is new. At one address there
    /// is one process, so a second member there proves nothing while the first is present.
    pub(super) fn prove(&mut self, id: u64, rng: &mut Rng) -> bool {
        let open = |member: &&Member| {
            !member.proven && member.is_present() && !self.proven.at.contains_key(&member.address)
        };
        let new = id != self.me && self.find(id).filter(open).is_some();
        if new {
            self.change(id, rng, |member| member.proven = true);
        }
        new
    }

    /// Adds a member, or replaces what is known of it.
    pub(super) fn put(&mut self, id: u64, member: Member, rng: &mut Rng) {
        let (new, address) = (Standing::of(&member), member.address);
        let old = self.table.insert(id, member);
        if let Some(old) = &old {
            self.by_address.remove(&(old.address, id));
        }
        self.by_address.insert((address, id));
        self.account(id, old.as_ref().map(Standing::of), Some(new), rng);
    }

    /// Changes a member in place and answers what it was before.
    pub(super) fn change(
        &mut self,
        id: u64,
        rng: &mut Rng,
        change: impl FnOnce(&mut Member),
    ) -> Option<Member> {
        let member = self.table.get_mut(&id)?;
        let old = member.clone();
        change(member);
        let new = Standing::of(member);
        if member.address != old.address {
            self.by_address.remove(&(old.address, id));
            self.by_address.insert((member.address, id));
        }
        self.account(id, Some(Standing::of(&old)), Some(new), rng);
        Some(old)
    }

    /// Forgets a member.
    pub(super) fn remove(&mut self, id: u64, rng: &mut Rng) -> Option<Member> {
        let old = self.table.remove(&id)?;
        self.by_address.remove(&(old.address, id));
        self.account(id, Some(Standing::of(&old)), None, rng);
        Some(old)
    }

    /// Makes another id this member's own.
    pub(super) fn rename(&mut self, id: u64, me: Member, rng: &mut Rng) {
        let old = std::mem::replace(&mut self.me, id);
        if old != id
            && let Some(former) = self.table.remove(&old)
        {
            self.by_address.remove(&(former.address, old));
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
        let me = self.me;
        let mut successors = Vec::with_capacity(count);
        for ids in [&self.present, &self.proven.ids] {
            let after = ids.range((Excluded(me), Unbounded));
            let around = after.chain(ids.range(..me)).copied().take(count);
            for id in around {
                if !successors.contains(&id) {
                    successors.push(id);
                }
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
        let all_proven = self.proven.ring.len() == self.ring.len();
        let first = if all_proven { 0 } else { count.div_ceil(2) };
        for (ring, count) in [(&self.proven.ring, first), (&self.ring, count)] {
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
                self.present.insert(id);
                self.next += usize::from(at < self.next);
            }
            (true, false) => {
                self.present.remove(&id);
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
    ids: BTreeSet<u64>,
    at: BTreeMap<SocketAddr, u64>,
    ring: Vec<u64>,
    tally: Tally,
}

impl Proven {
    fn account(&mut self, id: u64, old: Standing, new: Standing) {
        let proven = |standing: Standing| match standing.proven_at {
            Some(_) => standing,
            None => Standing::default(),
        };
        self.tally.account(proven(old), proven(new));
        if old.proven_at == new.proven_at {
            return;
        }
        if let Some(address) = old.proven_at {
            self.at.remove(&address);
        }
        if let Some(address) = new.proven_at {
            self.at.insert(address, id);
        }
        match (old.proven_at, new.proven_at) {
            (None, Some(_)) => {
                self.ids.insert(id);
                self.ring.push(id);
            }
            (Some(_), None) => {
                self.ids.remove(&id);
                if let Some(at) = self.ring.iter().position(|other| *other == id) {
                    self.ring.swap_remove(at);
                }
            }
            (Some(_), Some(_)) | (None, None) => {}
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
    /// Where it was heard, while it is present.
    proven_at: Option<SocketAddr>,
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
            proven_at: (member.proven && member.is_present()).then_some(member.address),
            said_bytes: member.seal.len() + member.unknown.len(),
        }
    }
}
