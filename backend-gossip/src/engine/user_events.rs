//! User events: what an application sends to all members.
//!
//! Each sender's events are a stream with numbers from 1. They travel like changes do: pushed at once
//! to a few members, each of which passes on what is new to it, and gossiped. An event too large for
//! a datagram is announced instead, and fetched over a link by whoever doesn't have it. What got lost
//! is noticed and fetched by `replay`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Generation, ServiceName};

use super::broadcast::Broadcasts;
use super::replay::{Claim, Compare};
use super::streams::{Admitted, Heard, Kept, Streams, UserEvent};
use super::{Engine, Event, EventStats, Route};
use crate::wire::limits::{
    COUNTER_MAX, EVENT_STRANGERS_MAX, EVENTS_QUEUED_MAX, LINK_FRAME_BYTES_TARGET,
};
use crate::wire::user_events::{Streams as StreamsWire, UserEvent as Wire};
use crate::wire::{self, HEADER_BYTES, Message};

/// Age from which on an event is not passed on: it comes from a replay, and who misses it finds out
/// from digests.
const SPREAD_AGE_MAX: Duration = Duration::from_secs(5);

/// Highest age that is believed: an event of a paused member may be hours old.
const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Time between two counts of the streams of members, of which there are thousands: whoever names senders that
/// nobody knows must not have them counted for each.
const COUNT_INTERVAL: Duration = Duration::from_millis(100);

/// Announcements tried before a datagram is sent as it is.
const MISFITS_MAX: usize = 16;

/// The stream, its generation, and the number in it.
pub(super) type EventKey = (u64, u64, u64);

/// All there is about user events.
#[derive(Debug, Default)]
pub(super) struct UserEvents {
    pub(super) streams: Streams,
    /// Not pushed yet.
    pub(super) fresh: BTreeSet<EventKey>,
    pub(super) queue: Broadcasts<EventKey>,
    /// Streams in which others are ahead.
    pub(super) claims: BTreeMap<u64, Claim>,
    pub(super) compare: Compare,
    /// When an event was last told.
    pub(super) latest_news: Option<Instant>,
    /// How many streams were members' when that was counted last, and when that was.
    counted: Option<(Instant, usize)>,
}

impl Engine {
    /// Sends an event to all members, this one included; answers its number.
    pub fn send_event(&mut self, now: Instant, name: ServiceName, payload: Arc<[u8]>) -> u64 {
        let generation = self.identity.generation.number();
        let own = self.user_events.streams.stream(self.me);
        let own = own.filter(|stream| stream.generation == generation);
        let sequence = own.and_then(|stream| stream.told).unwrap_or(0) + 1;
        let event = Wire {
            sender: self.identity.name.clone(),
            generation,
            sequence,
            age: 0,
            name,
            payload,
            unknown: Box::default(),
        };
        self.stats.events.sent += 1;
        let kept = Kept::new(event, now);
        let admitted = self.user_events.streams.admit(now, self.me, kept, Some(0));
        self.tell_events(now, self.me, admitted.told);
        self.spread_event(now, (self.me, generation, sequence));
        sequence
    }

    /// The recent events of all senders that were told here: those of one sender in their order.
    pub fn event_history(&self, now: Instant) -> impl Iterator<Item = UserEvent> + '_ {
        let history = self.user_events.streams.history();
        history.map(move |kept| kept.to_event(now))
    }

    /// How far this member is in the events of whom: the sender's id, its generation, and the last
    /// event that was told.
    pub fn streams(&self) -> impl Iterator<Item = (u64, Generation, u64)> + '_ {
        let streams = &self.user_events.streams;
        let heads = streams.heads();
        heads.map(|head| (head.stream, Generation::new(head.generation), head.newest))
    }

    pub(super) fn handle_event(&mut self, now: Instant, route: Route, from: u64, event: Wire) {
        let id = wire::member_hash(&event.sender);
        let (generation, sequence) = (event.generation, event.sequence);
        if generation.max(sequence) > COUNTER_MAX || sequence == 0 {
            return;
        }
        if id == self.me && generation >= self.identity.generation.number() {
            self.correct_own_stream(now, generation, sequence);
            return;
        }
        if !self.has_room_for_stream(now, id) {
            self.stats.events.refused += 1;
            return;
        }
        let age = Duration::from_millis(event.age).min(AGE_MAX);
        let kept = Kept::new(event, now.checked_sub(age).unwrap_or(now));
        self.leave_older_stream(now, id, generation);
        let begin = self.begin_of_streams();
        let Admitted { news, early, told } = self.user_events.streams.admit(now, id, kept, begin);
        self.tell_events(now, id, told);
        if news && age <= SPREAD_AGE_MAX && !self.learning {
            self.spread_event(now, (id, generation, sequence));
        }
        if early {
            self.claim_gap(now, route, from, (id, generation, sequence));
        }
    }

    /// Where streams that nothing is known of begin: who has all that the others have misses what
    /// comes before its first event; who has just come doesn't.
    pub(super) fn begin_of_streams(&self) -> Option<u64> {
        self.user_events.compare.caught_up.then_some(0)
    }

    /// Whether a stream is known, or may be begun.
    pub(super) fn has_room_for_stream(&mut self, now: Instant, id: u64) -> bool {
        let streams = &self.user_events.streams;
        let known = self.members.find(id).is_some() || streams.stream(id).is_some();
        known || self.has_room_for_stranger(now)
    }

    /// Counts the streams of members now and then, and takes all others for strangers'.
    fn has_room_for_stranger(&mut self, now: Instant) -> bool {
        let events = &mut self.user_events;
        let (streams, counted) = (&events.streams, &mut events.counted);
        let has_room = |of_members: usize| streams.len() < of_members + EVENT_STRANGERS_MAX;
        if has_room(0) {
            return true;
        }
        let holds = |(at, of_members)| has_room(of_members) || now < at + COUNT_INTERVAL;
        if !counted.is_some_and(holds) {
            *counted = Some((now, streams.of(|id| self.members.find(id).is_some())));
        }
        counted.is_some_and(|(_, of_members)| has_room(of_members))
    }

    /// Says what is missed of the former start of a sender, as far as that is known.
    pub(super) fn leave_older_stream(&mut self, now: Instant, id: u64, generation: u64) {
        let Some(stream) = self.user_events.streams.stream(id) else {
            return;
        };
        let (older, told) = (stream.generation, stream.told);
        if older >= generation {
            return;
        }
        let waiting = stream.last_waiting();
        let claim = self.user_events.claims.remove(&id);
        let claimed = claim.filter(|claim| claim.generation == older);
        let newest = claimed.map(|claim| claim.newest).max(waiting);
        if let Some(newest) = newest
            && told.is_some_and(|told| told < newest)
        {
            self.skip(now, id, older, newest + 1);
        }
    }

    /// Goes on behind holes that nobody can fill: their sender is gone, and all who were asked have no more.
    fn skip_holes(&mut self, now: Instant) {
        let events = &self.user_events;
        let waiting = events.streams.last_waiting().filter(|(id, generation, _)| {
            !events.claims.contains_key(id) && !self.is_here(*id, *generation)
        });
        for (id, generation, last) in waiting.collect::<Vec<_>>() {
            self.skip(now, id, generation, last);
        }
    }

    pub(super) fn tell_events(&mut self, now: Instant, id: u64, told: Vec<Heard>) {
        if told.is_empty() {
            return;
        }
        self.user_events.latest_news = Some(now);
        for heard in told {
            match &heard {
                Heard::Event(_) => self.stats.events.told += 1,
                Heard::Missed { count, .. } | Heard::Skipped { count } => {
                    self.stats.events.missed += count;
                }
            }
            self.events.push_back(Event::Heard(heard));
        }
        self.settle_claim(id);
    }

    /// Pushes an event, or its announcement, and gossips it.
    fn spread_event(&mut self, now: Instant, key: EventKey) {
        if self.members.others().is_empty() {
            // Whoever joins gets it as a replay.
            return;
        }
        let events = &mut self.user_events;
        if events.queue.len() < EVENTS_QUEUED_MAX {
            events.queue.add(key);
        }
        if events.fresh.len() < EVENTS_QUEUED_MAX {
            events.fresh.insert(key);
        }
        self.arm_spreading(now);
    }

    /// Events as frames to be sent as datagrams.
    pub(super) fn pack_events(&self, now: Instant, events: &BTreeSet<EventKey>) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for key in events {
            let bytes = self.encode_event(now, key);
            if !bytes.is_empty() {
                self.append(&mut frames, &bytes, self.config.datagram_bytes);
            }
        }
        frames
    }

    /// Fills a datagram with queued events; answers how many went in.
    pub(super) fn fill_events(&mut self, now: Instant, frame: &mut Vec<u8>, limit: u32) -> usize {
        let space = self.config.datagram_bytes;
        let (mut sent, mut gone, mut misfits) = (Vec::new(), Vec::new(), 0);
        for key in self.user_events.queue.iter() {
            if misfits >= MISFITS_MAX {
                break;
            }
            let bytes = self.encode_event(now, key);
            if bytes.is_empty() {
                gone.push(*key);
            } else if frame.len() + bytes.len() <= space {
                frame.extend_from_slice(&bytes);
                sent.push(*key);
            } else {
                misfits += 1;
            }
        }
        for key in gone {
            self.user_events.queue.remove(&key);
        }
        for key in &sent {
            self.user_events.queue.sent(key, 1, limit);
        }
        sent.len()
    }

    /// An event as a message that fits a datagram: itself, or that it is there. Empty where it is
    /// gone, or can't be fetched here yet.
    fn encode_event(&self, now: Instant, key: &EventKey) -> Vec<u8> {
        let (id, generation, sequence) = *key;
        let streams = &self.user_events.streams;
        let Some(kept) = streams.find(id, generation, sequence) else {
            return Vec::new();
        };
        let bytes = Message::UserEvent(kept.to_wire(now)).to_bytes();
        if bytes.len() + HEADER_BYTES <= self.config.datagram_bytes {
            return bytes;
        }
        match streams.head(id) {
            Some(head) if head.newest >= sequence => {
                Message::Streams(StreamsWire::Some(vec![head])).to_bytes()
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// Events packed into link frames, up to a budget of bytes; answers what is left of it.
    pub(super) fn pack_replay<'a>(
        &self,
        now: Instant,
        frames: &mut Vec<Vec<u8>>,
        events: impl Iterator<Item = &'a Kept>,
        mut budget: usize,
    ) -> usize {
        for kept in events {
            if budget == 0 {
                break;
            }
            let bytes = Message::UserEvent(kept.to_wire(now)).to_bytes();
            budget = budget.saturating_sub(bytes.len());
            self.append(frames, &bytes, LINK_FRAME_BYTES_TARGET);
        }
        budget
    }

    /// Somebody knows more of this member's own stream than it has sent: a defect or a forgery, and
    /// nobody else may correct it. Goes on above that.
    pub(super) fn correct_own_stream(&mut self, now: Instant, generation: u64, sequence: u64) {
        let own = self.identity.generation.number();
        let stream = self.user_events.streams.stream(self.me);
        let newest = stream
            .filter(|stream| stream.generation == own)
            .and_then(|stream| stream.told);
        if generation > own {
            // Of a later start, for which all that this one sends is old.
            self.restart_above(now, generation);
            return;
        }
        if generation < own || sequence <= newest.unwrap_or(0) {
            return;
        }
        if sequence > COUNTER_MAX / 2 {
            self.restart_above(now, generation);
            return;
        }
        let streams = &mut self.user_events.streams;
        // Of one's own nothing is missed.
        streams.skip_to(now, (self.me, own), sequence + 1, Some(0), None);
    }

    pub(super) fn event_stats(&self) -> EventStats {
        EventStats {
            kept_bytes: self.user_events.streams.bytes(),
            queued: self.user_events.queue.len(),
            ..self.stats.events
        }
    }

    pub(super) fn prune_events(&mut self, now: Instant) {
        self.skip_holes(now);
        self.user_events.counted = None;
        let members = &self.members;
        self.user_events.streams.prune(now, |id, generation| {
            let member = members.find(id);
            member.is_some_and(|member| member.generation <= generation)
        });
    }

    /// Name of a stream's sender, where it is known.
    pub(super) fn sender_name(&self, id: u64) -> Option<Arc<str>> {
        let member = self.members.find(id).map(|member| member.name.clone());
        member.or_else(|| self.user_events.streams.sender(id))
    }

    pub(super) fn skip(&mut self, now: Instant, id: u64, generation: u64, oldest: u64) {
        let (begin, sender) = (self.begin_of_streams(), self.sender_name(id));
        let streams = &mut self.user_events.streams;
        let told = streams.skip_to(now, (id, generation), oldest, begin, sender.as_ref());
        self.tell_events(now, id, told);
    }
}
