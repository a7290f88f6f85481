//! How changes travel: pushed at once, then gossiped in rounds and on the back of pings until they were
//! sent often enough. Sync repairs the rest.
//!
//! In a cluster that isn't large a member tells its own changes to each of the others itself: one way,
//! and a datagram for each. Who hears of a change from its owner forwards it to a few, in case that a
//! datagram was lost or the owner ended over it. In a larger one a change goes to a few members, each of
//! which forwards what is new to it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tidings_api::InstanceKey;

use super::items::{ItemKey, Place};
use super::member::MemberState;
use super::registry::Stored;
use super::timer::Timer;
use super::{Engine, Route};
use crate::wire::HEADER_BYTES;
use crate::wire::Message;
use crate::wire::limits::LINK_FRAME_BYTES_TARGET;

/// Frames a member forwards a second, at most: beyond that changes wait and share frames. Keeps a
/// storm from becoming a flood; what it delays, gossip and sync carry as well.
const FORWARDED: Limit = Limit {
    frames_per_second: 1_000,
    burst: 200,
};

/// Frames of its own changes that a member sends a second, at most: to 100 others, 40 pushes.
const OWN: Limit = Limit {
    frames_per_second: 4_000,
    burst: 800,
};

/// Members that a change is forwarded to by who has it from its owner, while nothing is lost: of those
/// whom a lost datagram of the owner leaves out, seven in eight have it all the same.
const FORWARD_FANOUT: usize = 2;

/// Time from hearing of a change from its owner to forwarding it, jittered by half: nearly all have it by
/// then, and none of them had to wait for its neighbours' forwarding.
const FORWARD_DELAY: Duration = Duration::from_millis(20);

/// Loss from which on what is said about silent members is gossiped and no longer pushed on: one ping
/// that was lost lately is no reason yet.
const STORM_DOUBT: f64 = 0.6;

/// Items pushed before it is looked whether more may be.
const PUSHED_AT_ONCE: usize = 32;

/// Space in a datagram below which no broadcast is tried.
const SPACE_WORTH_FILLING: usize = 24;

/// Broadcasts tried and found too large for what is left of a datagram before it is sent as it is: in
/// a storm thousands are queued, and every ping and ack would encode them all.
const MISFITS_MAX: usize = 16;

/// Bytes of a datagram with a farewell that are left for what is asked with it.
const FAREWELL_SPARE_BYTES: usize = 128;

/// Members in a row that must agree in everything for what is queued to count as spread. Those who
/// don't have it by then are few, and their digests tell.
const AGREEMENTS: u32 = 4;

/// How many members in a row have had this member's digest.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    digest: u64,
    members: u32,
}

/// Items packed, by the way they go.
#[derive(Debug, Default)]
struct Frames {
    datagrams: Vec<Vec<u8>>,
    links: Vec<Vec<u8>>,
}

/// What is to be pushed, by who told it.
#[derive(Debug)]
pub(super) struct Fresh {
    /// Of this member itself.
    own: BTreeSet<ItemKey>,
    /// Heard from its owner, who tells the others as well.
    told: BTreeSet<ItemKey>,
    /// Heard from others.
    passed: BTreeSet<ItemKey>,
    /// Whose word is being read, where members tell all.
    pub(super) teller: Option<u64>,
    /// When there was a push last.
    pushed: Option<Instant>,
    for_own: Budget,
    for_others: Budget,
}

impl Fresh {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            own: BTreeSet::new(),
            told: BTreeSet::new(),
            passed: BTreeSet::new(),
            teller: None,
            pushed: None,
            for_own: Budget::new(now, OWN),
            for_others: Budget::new(now, FORWARDED),
        }
    }

    pub(super) fn clear(&mut self) {
        self.own.clear();
        self.told.clear();
        self.passed.clear();
    }

    /// Answers whether its owner tells all.
    fn add(&mut self, key: ItemKey, me: u64) -> bool {
        let told = self.teller == Some(key.owner()) && !self.passed.contains(&key);
        if told {
            self.told.insert(key);
        } else if key.owner() == me {
            self.own.insert(key);
        } else {
            self.told.remove(&key);
            self.passed.insert(key);
        }
        told
    }
}

/// How many frames may be pushed.
#[derive(Clone, Copy, Debug)]
struct Limit {
    frames_per_second: u32,
    /// At once after a quiet time.
    burst: i64,
}

/// What may be pushed; goes into debt by one round and waits until it is paid.
#[derive(Debug)]
struct Budget {
    limit: Limit,
    frames: i64,
    refilled: Instant,
}

impl Budget {
    fn new(now: Instant, limit: Limit) -> Self {
        Self {
            limit,
            frames: limit.burst,
            refilled: now,
        }
    }

    /// Refills, and answers when something may be pushed.
    fn ready(&mut self, now: Instant) -> Instant {
        let per_frame = Duration::from_secs(1) / self.limit.frames_per_second;
        let earned =
            now.saturating_duration_since(self.refilled).as_micros() / per_frame.as_micros();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.refilled += per_frame * earned;
        self.frames = self
            .frames
            .saturating_add(earned.into())
            .min(self.limit.burst);
        if self.frames > 0 {
            return now;
        }
        // Bounded by one round's debt.
        now + per_frame * u32::try_from(1 - self.frames).unwrap_or(u32::MAX)
    }

    fn spend(&mut self, frames: usize) {
        self.frames = self
            .frames
            .saturating_sub(i64::try_from(frames).unwrap_or(i64::MAX));
    }
}

impl Engine {
    /// Spreads an item in its newest form: pushes it, and gossips it.
    pub(super) fn spread(&mut self, now: Instant, key: ItemKey) {
        if self.members.others().is_empty() {
            // Whoever joins gets everything by sync.
            return;
        }
        if self.learning && key != ItemKey::Member(self.me) {
            // Those who know it have spread it.
            return;
        }
        self.latest_news = Some(now);
        self.queue(now, key);
        let told = self.fresh.add(key, self.me);
        if told || key.owner() == self.me && self.tells_all() {
            self.spare_gossip(&key);
        }
        if told {
            let delay = FORWARD_DELAY.mul_f64(0.5 + self.rng.f64());
            self.timers.set_if_unset(Timer::Forward, now + delay);
        } else {
            self.arm_push(now);
        }
    }

    /// Sees to it that what is fresh, and queued, goes out.
    pub(super) fn arm_spreading(&mut self, now: Instant) {
        self.arm_push(now);
        self.timers
            .set_if_unset(Timer::Gossip, now + self.config.gossip_interval);
    }

    /// At once after a quiet time; otherwise in company with what else comes up.
    fn arm_push(&mut self, now: Instant) {
        let at = self
            .fresh
            .pushed
            .map_or(now, |pushed| now.max(pushed + self.config.push_delay));
        // Sooner than what waits because too much of its kind was sent lately.
        self.timers.set_earlier(Timer::Push, at);
    }

    /// Passes on what others say for or against a silent member.
    ///
    /// Pushed on by everybody it costs the cluster a handful of frames a member. Where pings are lost
    /// all the time that is a storm; suspicions last longer there, and gossip carries them in time.
    pub(super) fn pass_on(&mut self, now: Instant, id: u64) {
        if self.loss.doubt() < STORM_DOUBT {
            self.spread(now, ItemKey::Member(id));
        } else if !self.members.others().is_empty() {
            self.queue(now, ItemKey::Member(id));
        }
    }

    /// Has what all are told gossiped for one round instead of all of them; for more, the more is lost.
    fn spare_gossip(&mut self, key: &ItemKey) {
        let limit = self.transmit_limit();
        let round = u32::try_from(self.config.gossip_fanout).unwrap_or(u32::MAX);
        let spared = f64::from(limit.saturating_sub(round)) * (1.0 - self.loss.doubt());
        self.broadcasts.sent(key, spared as u32, limit);
    }

    fn queue(&mut self, now: Instant, key: ItemKey) {
        self.broadcasts.add(key);
        self.stats.broadcasts_max = self.stats.broadcasts_max.max(self.broadcasts.len());
        self.timers
            .set_if_unset(Timer::Gossip, now + self.config.gossip_interval);
    }

    /// A member has told its digest. Once several in a row have agreed in everything, what the digest
    /// covers needs no more gossip: after many have joined together that is nearly all of it.
    pub(super) fn note_agreement(&mut self, digest: u64) {
        if digest != self.items.digest() {
            self.agreement.members = 0;
            return;
        }
        if self.agreement.digest != digest {
            self.agreement = Agreement { digest, members: 0 };
        }
        self.agreement.members += 1;
        if self.agreement.members < AGREEMENTS || self.broadcasts.is_empty() {
            return;
        }
        let members = &self.members;
        let is_told_otherwise = |key: &ItemKey| match key {
            ItemKey::Member(id) => members
                .find(*id)
                .is_some_and(|member| member.state != MemberState::Alive),
            ItemKey::Record(place) => members
                .find(place.owner)
                .is_some_and(|owner| !owner.is_present()),
        };
        self.broadcasts.retain(is_told_otherwise);
    }

    /// Sends what is fresh: what is this member's own to all, where they are few enough; else to a few.
    pub(super) fn push(&mut self, now: Instant) {
        self.fresh.pushed = Some(now);
        let own = self.push_own(now);
        let passed = self.push_passed(now);
        if let Some(ready) = own.into_iter().chain(passed).min() {
            self.timers.set(Timer::Push, ready);
        }
    }

    /// Answers when to try again, where too much was sent lately.
    fn push_own(&mut self, now: Instant) -> Option<Instant> {
        while !self.fresh.own.is_empty() {
            let ready = self.fresh.for_own.ready(now);
            if ready > now {
                return Some(ready);
            }
            let own = take_some(&mut self.fresh.own);
            let frames = self.pack(&own);
            let sent = if self.tells_all() {
                let datagrams = self.push_to(&self.present_others(), &frames.datagrams, &[]);
                datagrams + self.push_to_few(&[], &frames.links)
            } else {
                self.push_to_few(&frames.datagrams, &frames.links)
            };
            self.fresh.for_own.spend(sent);
        }
        None
    }

    /// As [`push_own`](Self::push_own).
    fn push_passed(&mut self, now: Instant) -> Option<Instant> {
        while !self.fresh.passed.is_empty() || !self.user_events.fresh.is_empty() {
            let ready = self.fresh.for_others.ready(now);
            if ready > now {
                return Some(ready);
            }
            let passed = take_some(&mut self.fresh.passed);
            let mut frames = self.pack(&passed);
            let events = take_some(&mut self.user_events.fresh);
            frames.datagrams.extend(self.pack_events(now, &events));
            let sent = self.push_to_few(&frames.datagrams, &frames.links);
            self.fresh.for_others.spend(sent);
        }
        None
    }

    /// Forwards what owners told this member.
    pub(super) fn forward(&mut self, now: Instant) {
        let ready = self.fresh.for_others.ready(now);
        if ready > now {
            self.timers.set(Timer::Forward, ready);
            return;
        }
        let told = take_some(&mut self.fresh.told);
        if !self.fresh.told.is_empty() {
            self.timers.set(Timer::Forward, now);
        }
        let frames = self.pack(&told);
        let mut targets = self.push_targets();
        targets.truncate(self.forward_fanout());
        let sent = self.push_to(&targets, &frames.datagrams, &frames.links);
        self.fresh.for_others.spend(sent);
    }

    /// Tells each of the others a message of this member at once, where members do so.
    pub(super) fn tell_all(&mut self, message: &[u8]) {
        if self.tells_all() {
            let mut frame = self.frame(&[]);
            frame.extend_from_slice(message);
            self.push_to(&self.present_others(), &[frame], &[]);
        }
    }

    /// That this member has left; before that, the newest of what others have taken over from it, as far
    /// as there is room.
    pub(super) fn farewell(&self) -> Vec<u8> {
        let word = self.encode_item(&ItemKey::Member(self.me));
        let spare = HEADER_BYTES + FAREWELL_SPARE_BYTES + word.len();
        let room = self.config.datagram_bytes.saturating_sub(spare);
        let superseded = self.registrations.iter().filter(|(_, own)| own.superseded);
        let mut withdrawn: Vec<_> = superseded
            .filter_map(|(key, _)| Some((self.registry.find(self.me, key)?.version, key)))
            .collect();
        withdrawn.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        let mut farewell = Vec::new();
        for (_, key) in withdrawn {
            let handed_over = self.encode_item(&ItemKey::record(self.me, key));
            if farewell.len() + handed_over.len() > room {
                break;
            }
            farewell.extend(handed_over);
        }
        farewell.extend(word);
        farewell
    }

    /// As [`push_to`](Self::push_to), to the neighbour and some others.
    fn push_to_few(&mut self, datagrams: &[Vec<u8>], links: &[Vec<u8>]) -> usize {
        if datagrams.is_empty() && links.is_empty() {
            return 0;
        }
        let few = self.push_targets();
        self.push_to(&few, datagrams, links)
    }

    /// Sends each of the members these frames; answers how many that are.
    fn push_to(&mut self, targets: &[u64], datagrams: &[Vec<u8>], links: &[Vec<u8>]) -> usize {
        if datagrams.is_empty() && links.is_empty() {
            return 0;
        }
        for target in targets {
            let Some(address) = self.members.find(*target).map(|member| member.address) else {
                continue;
            };
            for frame in datagrams {
                self.transmit(Route::Datagram(address), frame.clone());
            }
            for frame in links {
                self.transmit(Route::Link(address), frame.clone());
            }
        }
        targets.len() * (datagrams.len() + links.len())
    }

    /// Whether members tell their own changes to each of the others.
    pub(super) fn tells_all(&self) -> bool {
        self.members.others().len() <= self.config.tell_all_max
    }

    fn present_others(&self) -> Vec<u64> {
        let members = self.members.iter();
        let present = members.filter(|(id, member)| *id != self.me && member.is_present());
        present.map(|(id, _)| id).collect()
    }

    /// How many members a change is forwarded to that its owner tells all: the more, the more is lost.
    fn forward_fanout(&self) -> usize {
        let most = self.config.push_fanout;
        if !self.tells_all() {
            return most;
        }
        let more = most.saturating_sub(FORWARD_FANOUT) as f64 * self.loss.doubt();
        FORWARD_FANOUT + more.ceil() as usize
    }

    /// The next member in the ring, so that whoever is missed by chance is not missed by its
    /// predecessor; and others at random.
    fn push_targets(&mut self) -> Vec<u64> {
        let alive = |id: u64| {
            self.members
                .find(id)
                .is_some_and(|member| member.state == MemberState::Alive)
        };
        let neighbours = || self.sentinels.ids().filter(|id| alive(*id));
        let proven = self.members.first_proven(neighbours());
        let neighbour = proven.or_else(|| neighbours().next());
        let random = self
            .config
            .push_fanout
            .saturating_sub(usize::from(neighbour.is_some()));
        let others = |id: u64, member: &super::Member| {
            member.state == MemberState::Alive && Some(id) != neighbour
        };
        let random = self.members.sample(random, &mut self.rng, others);
        neighbour.into_iter().chain(random).collect()
    }

    /// One round of what is queued.
    pub(super) fn gossip(&mut self, now: Instant) {
        let targets = self
            .members
            .sample(self.config.gossip_fanout, &mut self.rng, |_, _| true);
        for target in targets {
            let Some(address) = self.members.find(target).map(|member| member.address) else {
                continue;
            };
            let mut frame = self.frame(&[]);
            let limit = self.transmit_limit();
            if self.fill(&mut frame) + self.fill_events(now, &mut frame, limit) > 0 {
                self.transmit(Route::Datagram(address), frame);
            }
        }
        let queued = !self.broadcasts.is_empty() || !self.user_events.queue.is_empty();
        if queued && !self.members.others().is_empty() {
            self.timers
                .set(Timer::Gossip, now + self.config.gossip_interval);
        }
    }

    /// Fills a datagram with queued broadcasts; answers how many went in.
    pub(super) fn fill(&mut self, frame: &mut Vec<u8>) -> usize {
        let space = self.config.datagram_bytes;
        let (mut sent, mut too_large, mut misfits) = (Vec::new(), Vec::new(), 0);
        for key in self.broadcasts.iter() {
            if frame.len() + SPACE_WORTH_FILLING > space || misfits >= MISFITS_MAX {
                break;
            }
            let bytes = self.encode_item(key);
            if bytes.is_empty() || bytes.len() + HEADER_BYTES > space {
                // Gone, or pushed over links already and repaired by sync.
                too_large.push(*key);
            } else if frame.len() + bytes.len() <= space {
                frame.extend_from_slice(&bytes);
                sent.push(*key);
            } else {
                misfits += 1;
            }
        }
        for key in too_large {
            self.broadcasts.remove(&key);
        }
        let limit = self.transmit_limit();
        for key in &sent {
            self.broadcasts.sent(key, 1, limit);
        }
        sent.len()
    }

    /// An item as messages; empty where it is gone.
    pub(super) fn encode_item(&self, key: &ItemKey) -> Vec<u8> {
        match key {
            ItemKey::Member(id) => {
                let Some(member) = self.members.find(*id) else {
                    return Vec::new();
                };
                let message = match member.to_accuse(*id) {
                    Some(accuse) => Message::Accuse(accuse),
                    None => Message::Alive(member.to_alive()),
                };
                message.to_bytes()
            }
            ItemKey::Record(place) => {
                let Some(stored) = self.registry.at(*place) else {
                    return Vec::new();
                };
                // Told alone, whoever hears of a withdrawal first would show nobody there.
                let mut bytes = match stored.is_tombstone() {
                    true => self.encode_successor(stored.key()),
                    false => Vec::new(),
                };
                bytes.extend(self.encode_stored(place.owner, stored));
                bytes
            }
        }
    }

    /// What is offered under the key of a record that is withdrawn, and by whom, as messages; empty where
    /// nothing is.
    fn encode_successor(&self, key: &InstanceKey) -> Vec<u8> {
        let offers = self.registry.offers(key).iter();
        let newest = offers
            .filter(|offer| self.is_shown(offer.owner))
            .max_by_key(|offer| offer.rank());
        let Some((offer, owner)) =
            newest.and_then(|offer| Some((offer, self.members.find(offer.owner)?)))
        else {
            return Vec::new();
        };
        // With who that is: it may have joined a moment ago.
        let mut bytes = Message::Alive(owner.to_alive()).to_bytes();
        bytes.extend(self.encode_record(Place::of(offer.owner, key)));
        bytes
    }

    /// A record as a message, without what goes with it; empty where it is gone.
    pub(super) fn encode_record(&self, place: Place) -> Vec<u8> {
        let stored = self.registry.at(place);
        stored.map_or_else(Vec::new, |stored| self.encode_stored(place.owner, stored))
    }

    fn encode_stored(&self, owner: u64, stored: &Stored) -> Vec<u8> {
        let Some(member) = self.members.find(owner) else {
            return Vec::new();
        };
        Message::Record(crate::wire::message::Record {
            owner,
            generation: member.generation,
            version: stored.version,
            key: stored.key().clone(),
            content: stored.content(),
        })
        .to_bytes()
    }

    /// How often a broadcast is sent: a multiple of log10 of the cluster size.
    fn transmit_limit(&self) -> u32 {
        // A count: exact in f64, and its logarithm small.
        let members = self.members.others().len() as f64 + 2.0;
        self.config.retransmit_multiplier * members.log10().ceil() as u32
    }

    /// Items packed into as few frames as they need: datagrams, and link frames for those that fit
    /// no datagram.
    fn pack(&self, keys: &BTreeSet<ItemKey>) -> Frames {
        let mut packed = Frames::default();
        for key in keys {
            let bytes = self.encode_item(key);
            if bytes.is_empty() {
                continue;
            }
            let (frames, limit) = if bytes.len() + HEADER_BYTES <= self.config.datagram_bytes {
                (&mut packed.datagrams, self.config.datagram_bytes)
            } else {
                (&mut packed.links, LINK_FRAME_BYTES_TARGET)
            };
            self.append(frames, &bytes, limit);
        }
        packed
    }

    /// Appends messages to the last frame, or to a new one where it would grow beyond `limit`.
    pub(super) fn append(&self, frames: &mut Vec<Vec<u8>>, bytes: &[u8], limit: usize) {
        match frames.last_mut() {
            Some(frame) if frame.len() + bytes.len() <= limit => frame.extend_from_slice(bytes),
            Some(_) | None => {
                let mut frame = self.frame(&[]);
                frame.extend_from_slice(bytes);
                frames.push(frame);
            }
        }
    }
}

/// The first few of what is to be sent.
fn take_some<T: Copy + Ord>(of: &mut BTreeSet<T>) -> BTreeSet<T> {
    match of.iter().nth(PUSHED_AT_ONCE).copied() {
        Some(first_left) => {
            let left = of.split_off(&first_left);
            std::mem::replace(of, left)
        }
        None => std::mem::take(of),
    }
}
