//! Nobody stays behind in a stream of user events unnoticed.
//!
//! Pings and acks carry a digest of how far all streams have come, once there are any. Where it still
//! differs after a while, two members say over a link how far they are in the streams that differ,
//! and each is given what it misses. Gaps are noticed at once, by the numbers of events. What nobody
//! has any more is skipped, and how much that was is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::member::{Member, MemberState};
use super::streams::digest;
use super::timer::Timer;
use super::user_events::EventKey;
use super::{Engine, Route};
use crate::wire::Message;
use crate::wire::limits::{COUNTER_MAX, EVENT_CLAIMS_MAX, LINK_FRAME_BYTES_TARGET};
use crate::wire::user_events::{Head, Place, Streams};

/// A difference that is younger than this is most likely an event on its way.
const SETTLE: Duration = Duration::from_millis(300);

/// For so long a comparison waits while there is news all the time.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// How long a gap may be open before it is asked about: what fills it is most likely on its way.
const GAP_PATIENCE: Duration = Duration::from_millis(50);

/// Time from asking to asking again; doubles.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_DOUBLINGS_MAX: u32 = 3;

/// Times a claim is followed. If it was true, the next digest tells.
const TRIES_MAX: u32 = 6;

/// Times after which the word of others is taken for what a member that is there has left of its own
/// events: it can't be reached itself.
const TRIES_OF_SENDER: u32 = 3;

/// Streams up to which all of them are listed at once: about a kilobyte.
const LISTED_MAX: usize = 64;

/// Bytes of events that one frame is answered with; who asked goes on asking.
const REPLAY_BYTES_MAX: usize = 512 * 1024;

/// How long after sending an event a member that leaves waits until somebody has it, and how long it is
/// asked for it: longer than any leave takes.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(10);

/// How long the answer to asking for the recent events of all may take.
const REPLAY_TIME: Duration = Duration::from_secs(2);

/// Members in a row that must agree for what is queued to count as spread.
const AGREEMENTS: u32 = 4;

/// What others are ahead of this member in one stream.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) generation: u64,
    pub(super) newest: u64,
    /// Who said so.
    by: u64,
    tries: u32,
    /// What was here already when it was last asked for.
    asked_after: Option<u64>,
    due: Instant,
}

/// How this member compares itself with others.
#[derive(Debug, Default)]
pub(super) struct Compare {
    /// Whether it has had all that somebody else had since it joined.
    pub(super) caught_up: bool,
    /// Until when the answer to asking for all recent events may be under way.
    replay_until: Option<Instant>,
    /// The digest that came in this frame.
    heard: Option<u32>,
    /// Whose digest differed last, and since when there is one.
    with: Option<(SocketAddr, Instant)>,
    /// How many members in a row have had this digest.
    agreed: (u32, u32),
    /// How far the ranges of this frame have come; they ascend.
    last: Option<u64>,
    /// Whether parts were compared in this frame: once, each time costs all streams.
    parts: bool,
    /// Bytes that this frame may still be answered with.
    budget: usize,
}

impl Engine {
    /// Another frame is about to be handled.
    pub(super) fn begin_compare(&mut self) {
        let compare = &mut self.user_events.compare;
        compare.heard = None;
        compare.last = None;
        compare.parts = false;
        compare.budget = REPLAY_BYTES_MAX;
    }

    /// What goes before a ping: the digest, where there are streams.
    pub(super) fn digest_of_streams(&self, now: Instant) -> Option<Message> {
        let digest = digest(self.counted_streams(now, 0, u64::MAX));
        (digest != 0).then_some(Message::Streams(Streams::Digest(digest)))
    }

    /// What goes before the answer to a ping: as well the digest, and always where the ping had one.
    pub(super) fn answer_digest_of_streams(&self, now: Instant) -> Option<Message> {
        let none = self.user_events.compare.heard.map(|_| Streams::Digest(0));
        self.digest_of_streams(now).or(none.map(Message::Streams))
    }

    /// Whether this member has sent an event that somebody may not have yet.
    pub(super) fn has_last_words(&self, now: Instant) -> bool {
        let own = self.user_events.streams.stream(self.me);
        let age = own.and_then(|stream| stream.age(now));
        age.is_some_and(|age| age < LAST_WORDS) && !self.members.others().is_empty()
    }

    /// What tells others while this member leaves how far its events go, so that they ask for those they miss;
    /// and the digest that is answered by theirs.
    pub(super) fn last_words(&self, now: Instant) -> Vec<Message> {
        let head = self.user_events.streams.head(self.me);
        let heads = head.map(|head| Message::Streams(Streams::Some(vec![head])));
        heads
            .into_iter()
            .chain(self.digest_of_streams(now))
            .collect()
    }

    /// Whether the sender of this frame has all events that this member has. One that says nothing of
    /// them is of a version that has none.
    pub(super) fn hears_agreement(&self, now: Instant) -> bool {
        let ours = digest(self.counted_streams(now, 0, u64::MAX));
        let heard = self.user_events.compare.heard;
        heard.is_none_or(|theirs| theirs == ours)
    }

    /// A ping of this member was answered.
    pub(super) fn compare_streams(&mut self, now: Instant, member: u64) {
        let ours = digest(self.counted_streams(now, 0, u64::MAX));
        let compare = &mut self.user_events.compare;
        if compare.heard.is_none() && ours != 0 {
            // A version without streams: it had a digest to answer.
            return;
        }
        if compare.heard.unwrap_or(0) != ours {
            if let Some(address) = self.members.find(member).map(|member| member.address) {
                self.stats.events.digest_mismatches += 1;
                let (_, since) = compare.with.unwrap_or((address, now));
                compare.with = Some((address, since));
                self.timers.set_if_unset(Timer::Streams, now + SETTLE);
            }
            return;
        }
        self.timers.cancel(Timer::Streams);
        compare.with = None;
        // Who knows of no event either may have started just now as well.
        let may_come = compare.replay_until.is_some_and(|until| now < until);
        compare.caught_up |= ours != 0 || !may_come;
        let (agreed, members) = compare.agreed;
        let members = if agreed == ours { members + 1 } else { 1 };
        compare.agreed = (ours, members);
        if members >= AGREEMENTS {
            self.user_events.queue.clear();
        }
    }

    /// Nobody is there to have more.
    pub(super) fn caught_up_alone(&mut self) {
        self.user_events.compare.caught_up = true;
    }

    /// Says how far this member is to whoever had another digest, once no event is under way.
    pub(super) fn compare_settled(&mut self, now: Instant) {
        let events = &mut self.user_events;
        let Some((address, since)) = events.compare.with.take() else {
            return;
        };
        let settled = events.latest_news.map_or(now, |news| news + SETTLE);
        if settled > now && now < since + SETTLE_MAX {
            events.compare.with = Some((address, since));
            self.timers.set(Timer::Streams, settled);
            return;
        }
        self.stats.events.compared += 1;
        let message = self.word_on_streams(now);
        let frame = self.frame(&[message]);
        self.transmit(Route::Link(address), frame);
    }

    /// Asks a seed for the recent events of all, at the start.
    pub(super) fn ask_for_replay(&mut self, now: Instant, seed: SocketAddr) {
        let compare = &mut self.user_events.compare;
        if !compare.caught_up {
            compare.replay_until.get_or_insert(now + REPLAY_TIME);
            let message = self.word_on_streams(now);
            let frame = self.frame(&[message]);
            self.transmit(Route::Link(seed), frame);
        }
    }

    /// How far this member is in all streams.
    pub(super) fn word_on_streams(&self, now: Instant) -> Message {
        let (first, last) = (0, u64::MAX);
        let heads: Vec<_> = self.counted_streams(now, first, last).collect();
        Message::Streams(if heads.len() <= LISTED_MAX {
            Streams::Heads { first, last, heads }
        } else {
            Streams::Parts(parts(heads.into_iter()).into_iter().collect())
        })
    }

    pub(super) fn handle_streams(
        &mut self,
        now: Instant,
        route: Route,
        from: u64,
        streams: Streams,
    ) {
        match streams {
            Streams::Digest(digest) => self.user_events.compare.heard = Some(digest),
            Streams::Parts(theirs) => self.answer_parts(now, route, &theirs),
            Streams::Heads { first, last, heads } => {
                self.answer_heads(now, route, from, (first, last), &heads);
            }
            Streams::Some(heads) => self.hear_heads(now, route, from, &heads),
            Streams::Want(places) => self.give(now, route, &places),
        }
    }

    /// Lists the streams of the parts that differ.
    fn answer_parts(&mut self, now: Instant, route: Route, theirs: &[(u8, u32)]) {
        if std::mem::replace(&mut self.user_events.compare.parts, true) {
            return;
        }
        let ours = parts(self.counted_streams(now, 0, u64::MAX));
        let theirs: BTreeMap<u8, u32> = theirs.iter().copied().collect();
        let mut frames = Vec::new();
        for part in 0..=u8::MAX {
            if ours.get(&part) == theirs.get(&part) {
                continue;
            }
            let first = u64::from(part) << 56;
            let last = first | (u64::MAX >> 8);
            let heads = self.counted_streams(now, first, last).collect();
            let message = Message::Streams(Streams::Heads { first, last, heads });
            self.append(&mut frames, &message.to_bytes(), LINK_FRAME_BYTES_TARGET);
        }
        self.reply(route, frames);
    }

    /// Takes what the other side is ahead in, and gives what it misses.
    fn answer_heads(
        &mut self,
        now: Instant,
        route: Route,
        from: u64,
        (first, last): (u64, u64),
        theirs: &[Head],
    ) {
        let compare = &mut self.user_events.compare;
        if first > last || compare.last.is_some_and(|before| first <= before) {
            return;
        }
        compare.last = Some(last);
        let by_stream: BTreeMap<u64, Head> =
            theirs.iter().map(|head| (head.stream, *head)).collect();
        let missing = |ours: &Head| {
            let theirs = by_stream.get(&ours.stream);
            let after = theirs.map_or(Some(0), |theirs| {
                let ahead = (ours.generation, ours.newest) > (theirs.generation, theirs.newest);
                let same = ours.generation == theirs.generation;
                ahead.then_some(if same { theirs.newest } else { 0 })
            });
            after.map(|after| Place {
                stream: ours.stream,
                generation: ours.generation,
                after,
            })
        };
        let ours = self.counted_streams(now, first, last);
        let places: Vec<_> = ours.filter_map(|ours| missing(&ours)).collect();
        if !places.is_empty() {
            self.give(now, route, &places);
        }
        self.hear_heads(now, route, from, theirs);
    }

    /// Gives what follows in these streams, and says how far that goes.
    fn give(&mut self, now: Instant, route: Route, places: &[Place]) {
        let mut budget = self.user_events.compare.budget;
        let (mut frames, mut heads) = (Vec::new(), Vec::new());
        for place in places {
            let Some(head) = self.user_events.streams.head(place.stream) else {
                continue;
            };
            let after = if place.generation == head.generation {
                place.after
            } else {
                0
            };
            let streams = &self.user_events.streams;
            let events = streams.after(place.stream, head.generation, after);
            budget = self.pack_replay(now, &mut frames, events, budget);
            heads.push(head);
        }
        self.user_events.compare.budget = budget;
        for heads in heads.chunks(LISTED_MAX) {
            let message = Message::Streams(Streams::Some(heads.to_vec()));
            self.append(&mut frames, &message.to_bytes(), LINK_FRAME_BYTES_TARGET);
        }
        self.reply(route, frames);
    }

    /// Asks for what somebody is ahead in.
    fn hear_heads(&mut self, now: Instant, route: Route, from: u64, heads: &[Head]) {
        let mut wanted = Vec::new();
        for head in heads {
            match route {
                Route::Reply(_) => {
                    self.hear_sender(from, head);
                    wanted.extend(self.follow(now, from, head));
                }
                // Over a link that this member opens: the address is anybody's claim.
                Route::Datagram(_) | Route::Link(_)
                    if self.is_at(from, route, |member| may_be_asked(now, member)) =>
                {
                    self.claim_announced(now, from, head);
                }
                Route::Datagram(_) | Route::Link(_) => {}
            }
        }
        if !wanted.is_empty() {
            let frame = self.frame(&[Message::Streams(Streams::Want(wanted))]);
            self.reply(route, vec![frame]);
        }
    }

    /// A sender's word on its own stream: nothing above it is true.
    fn hear_sender(&mut self, from: u64, head: &Head) {
        let (stream, generation, newest) = (head.stream, head.generation, head.newest);
        if from != stream {
            return;
        }
        let events = &mut self.user_events;
        events
            .streams
            .drop_waiting_above(stream, generation, newest);
        if let Some(claim) = events.claims.get_mut(&stream)
            && claim.generation == generation
        {
            claim.newest = claim.newest.min(newest);
        }
        self.settle_claim(stream);
    }

    /// Somebody has said over a link how far it is in a stream. What it gave has come before; answers
    /// where to go on.
    fn follow(&mut self, now: Instant, from: u64, head: &Head) -> Option<Place> {
        if !self.is_ahead(now, head) {
            return None;
        }
        let Head {
            stream,
            generation,
            oldest,
            newest,
        } = *head;
        let told = self.told(stream, generation);
        if told.is_none_or(|told| told + 1 < oldest) && self.is_final(from, head, told) {
            self.skip(now, stream, generation, oldest);
        }
        let told = self.told(stream, generation);
        if told.is_some_and(|told| told >= newest) {
            return None;
        }
        let due = now + RETRY;
        let claim = self.claim(now, from, (stream, generation, newest), due)?;
        let asked = claim.tries > 0 && claim.asked_after == told && claim.due > now;
        if asked {
            // It is on its way, or this one doesn't have it.
            return None;
        }
        claim.asked_after = told;
        claim.tries = claim.tries.max(1);
        claim.due = due;
        self.stats.events.pulls += 1;
        self.arm_pull();
        Some(Place {
            stream,
            generation,
            after: told.unwrap_or(0),
        })
    }

    /// Whether what somebody has of a stream is all there is: it is the sender, or the sender is gone
    /// or can't be asked.
    fn is_final(&self, from: u64, head: &Head, told: Option<u64>) -> bool {
        let here = self.is_here(head.stream, head.generation);
        let claim = self.user_events.claims.get(&head.stream);
        let tried = claim.is_some_and(|claim| claim.tries >= TRIES_OF_SENDER);
        told.is_none() || from == head.stream || !here || tried
    }

    /// A member has announced by datagram how far it is in a stream.
    fn claim_announced(&mut self, now: Instant, from: u64, head: &Head) {
        if self.is_ahead(now, head) {
            let place = (head.stream, head.generation, head.newest);
            self.claim(now, from, place, now);
            self.arm_pull();
        }
    }

    /// An event came before its turn.
    pub(super) fn claim_gap(&mut self, now: Instant, route: Route, from: u64, event: EventKey) {
        let patience = match route {
            Route::Datagram(_) => GAP_PATIENCE,
            // The end of what is being given says how it goes on.
            Route::Link(_) | Route::Reply(_) => RETRY,
        };
        self.claim(now, from, event, now + patience);
        self.arm_pull();
    }

    /// Whether a head is one, and further than what is here.
    fn is_ahead(&mut self, now: Instant, head: &Head) -> bool {
        let numbers = [head.generation, head.oldest, head.newest];
        let valid = numbers.iter().all(|number| *number <= COUNTER_MAX)
            && (1..=head.newest + 1).contains(&head.oldest);
        if !valid || !self.has_room_for_stream(now, head.stream) {
            return false;
        }
        if head.stream == self.me && head.generation >= self.identity.generation.number() {
            self.correct_own_stream(now, head.generation, head.newest);
            return false;
        }
        let ours = self.user_events.streams.stream(head.stream);
        ours.is_none_or(|ours| (ours.generation, ours.told) < (head.generation, Some(head.newest)))
    }

    /// Notes that somebody is ahead.
    fn claim(
        &mut self,
        now: Instant,
        by: u64,
        (stream, generation, newest): EventKey,
        due: Instant,
    ) -> Option<&mut Claim> {
        self.leave_older_stream(now, stream, generation);
        let claims = &mut self.user_events.claims;
        if !claims.contains_key(&stream) && claims.len() >= EVENT_CLAIMS_MAX {
            return None;
        }
        let new = || Claim {
            generation,
            newest,
            by,
            tries: 0,
            asked_after: None,
            due,
        };
        let claim = claims.entry(stream).or_insert_with(new);
        if claim.generation < generation {
            *claim = new();
        }
        if claim.generation == generation {
            claim.newest = claim.newest.max(newest);
            if claim.tries == 0 {
                claim.by = by;
                claim.due = claim.due.min(due);
            }
        }
        Some(claim)
    }

    /// Something of a stream was told: what is asked for next has all its tries.
    pub(super) fn settle_claim(&mut self, id: u64) {
        let Some(stream) = self.user_events.streams.stream(id) else {
            return;
        };
        let (generation, told) = (stream.generation, stream.told);
        let claims = &mut self.user_events.claims;
        let Some(claim) = claims.get_mut(&id) else {
            return;
        };
        if claim.generation < generation
            || (claim.generation == generation && told >= Some(claim.newest))
        {
            claims.remove(&id);
        } else {
            claim.tries = claim.tries.min(1);
        }
    }

    /// Asks for what others are ahead in, each stream in its time.
    pub(super) fn pull(&mut self, now: Instant) {
        let claims = self.user_events.claims.iter();
        let due: Vec<u64> = claims
            .filter(|(_, claim)| claim.due <= now)
            .map(|(id, _)| *id)
            .collect();
        let mut wanted = BTreeMap::<SocketAddr, Vec<Place>>::new();
        for id in due {
            let Some((address, place)) = self.next_pull(now, id) else {
                self.user_events.claims.remove(&id);
                continue;
            };
            wanted.entry(address).or_default().push(place);
        }
        for (address, places) in wanted {
            self.stats.events.pulls += places.len() as u64;
            let frame = self.frame(&[Message::Streams(Streams::Want(places))]);
            self.transmit(Route::Link(address), frame);
        }
        self.arm_pull();
    }

    /// Whom to ask for what, the next time; `None` where it has been asked for often enough.
    fn next_pull(&mut self, now: Instant, id: u64) -> Option<(SocketAddr, Place)> {
        let claim = self.user_events.claims.get(&id)?;
        let (generation, tries, by) = (claim.generation, claim.tries, claim.by);
        let told = self.told(id, generation);
        if tries >= TRIES_MAX || told >= Some(claim.newest) {
            return None;
        }
        // Who has said so, then the sender and others in turn.
        let target = match tries {
            0 => by,
            1 | 3 | 5 => id,
            _ => self.me,
        };
        let can_be = |id: &u64| {
            let member = self.members.find(*id);
            *id != self.me && member.is_some_and(|member| may_be_asked(now, member))
        };
        let target = Some(target).filter(can_be).or_else(|| {
            let anybody = self.members.sample(1, &mut self.rng, |_, _| true);
            anybody.first().copied()
        });
        let address = target.and_then(|id| self.members.find(id))?.address;
        let claim = self.user_events.claims.get_mut(&id)?;
        claim.tries += 1;
        claim.asked_after = told;
        claim.due = now + RETRY * 2_u32.pow(tries.min(RETRY_DOUBLINGS_MAX));
        let after = told.unwrap_or(0);
        let place = Place {
            stream: id,
            generation,
            after,
        };
        Some((address, place))
    }

    fn arm_pull(&mut self) {
        let claims = self.user_events.claims.values();
        match claims.map(|claim| claim.due).min() {
            Some(due) => self.timers.set(Timer::Pull, due),
            None => self.timers.cancel(Timer::Pull),
        }
    }

    /// The last event that was told of a start; `None` where it isn't known where it begins.
    fn told(&self, id: u64, generation: u64) -> Option<u64> {
        let stream = self.user_events.streams.stream(id);
        match stream.filter(|stream| stream.generation == generation) {
            Some(stream) => stream.told,
            None => self.begin_of_streams(),
        }
    }

    /// Whether this start of a member is there.
    pub(super) fn is_here(&self, id: u64, generation: u64) -> bool {
        let member = self.members.find(id);
        member.is_some_and(|member| member.is_present() && member.generation == generation)
    }

    fn counted_streams(
        &self,
        now: Instant,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = Head> + '_ {
        let streams = &self.user_events.streams;
        streams.counted(now, first..=last, |id, generation| {
            self.is_here(id, generation)
        })
    }

    fn reply(&mut self, route: Route, frames: Vec<Vec<u8>>) {
        for frame in frames {
            self.stats.events.replay_bytes_out += frame.len() as u64;
            self.transmit(route, frame);
        }
    }
}

/// Whether a member can be asked for events: it is there, or is leaving and waits until somebody has what it
/// sent last.
fn may_be_asked(now: Instant, member: &Member) -> bool {
    let left = member.state == MemberState::Left;
    member.is_present() || left && now.saturating_duration_since(member.since) < LAST_WORDS
}

/// The digest of each part of these streams.
fn parts(heads: impl Iterator<Item = Head>) -> BTreeMap<u8, u32> {
    let mut parts = BTreeMap::<u8, Vec<Head>>::new();
    for head in heads {
        let part = head.stream.to_be_bytes()[0];
        parts.entry(part).or_default().push(head);
    }
    let digests = parts.into_iter();
    digests
        .map(|(part, heads)| (part, digest(heads.into_iter())))
        .collect()
}
