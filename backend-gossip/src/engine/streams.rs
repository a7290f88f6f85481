//! The streams of user events: of each sender, what was told in which order, the newest of it kept
//! for those who missed it, and what waits for its turn.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Generation, ServiceName};

use crate::wire::codec::mix;
use crate::wire::limits::{EVENT_BYTES_MAX, EVENT_BYTES_PER_SENDER_MAX, EVENTS_PER_SENDER_MAX};
use crate::wire::user_events::{Head, UserEvent as Wire};

/// How long an event is kept for those who missed it, and how long somebody who is no member counts
/// as one whose events everybody should have.
pub(super) const EVENT_RETENTION: Duration = Duration::from_secs(300);

/// How long it is remembered how far the events of somebody were told who is no member any more: for
/// longer than any clock takes them for recent, so that nothing is told twice.
const POSITION_RETENTION: Duration = Duration::from_secs(12 * 300);

/// What an event takes in memory beside its bytes, about.
const EVENT_OVERHEAD_BYTES: usize = 160;

/// An event that an application sent to all members.
#[derive(Clone, PartialEq, Eq)]
pub struct UserEvent {
    /// Name of the member that sent it.
    pub sender: Arc<str>,
    /// That member's generation: which start of it.
    pub generation: Generation,
    /// Number among the events of this start of its sender, from 1.
    pub sequence: u64,
    /// What it is about.
    pub name: ServiceName,
    /// The sender's bytes, up to 64 KiB.
    pub payload: Arc<[u8]>,
    /// Time since it was sent, when this member got to know it, about. Who joins is told of events
    /// that are up to 5 min old.
    pub age: Duration,
}

/// What is heard of user events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An event. Those of one start of a member come in the order in which they were sent, each once.
    Event(UserEvent),
    /// This member was cut off for so long that nobody has the next events of this sender any more.
    Missed {
        /// Name of the member that sent them.
        sender: Arc<str>,
        /// Which start of it.
        generation: Generation,
        /// How many they were.
        count: u64,
    },
    /// This reader was so slow that notices were dropped: the oldest that it had not read.
    Skipped {
        /// How many they were.
        count: u64,
    },
}

/// Without the payload: it may be long, and is the application's.
impl fmt::Debug for UserEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserEvent")
            .field("sender", &self.sender)
            .field("generation", &self.generation)
            .field("sequence", &self.sequence)
            .field("name", &self.name)
            .field("bytes", &self.payload.len())
            .field("age", &self.age)
            .finish()
    }
}

/// An event as it is kept; its age stands in `sent`.
#[derive(Debug)]
pub(super) struct Kept {
    event: Wire,
    sent: Instant,
}

/// The events of one sender.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) generation: u64,
    /// The last event that was told; `None` until somebody says where the history begins.
    pub(super) told: Option<u64>,
    /// The newest of what was told, without a gap up to the last.
    history: VecDeque<Kept>,
    /// What came before its turn.
    waiting: BTreeMap<u64, Kept>,
    history_bytes: usize,
    /// When the newest that was told was sent.
    latest: Option<Instant>,
    /// The former start of its sender, while nothing of this one is told.
    former: Option<Box<Former>>,
}

/// How far the events of an earlier start of a sender were told.
#[derive(Clone, Copy, Debug)]
struct Former {
    generation: u64,
    told: u64,
    latest: Option<Instant>,
}

/// All streams, by id of the sender.
#[derive(Debug, Default)]
pub(super) struct Streams {
    by_sender: BTreeMap<u64, Stream>,
    history_bytes: usize,
    waiting_bytes: usize,
}

/// What became of an event.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// Whether it was not here before.
    pub(super) news: bool,
    /// Whether something before it is missing.
    pub(super) early: bool,
    /// What is told now.
    pub(super) told: Vec<Heard>,
}

impl Kept {
    pub(super) fn new(event: Wire, sent: Instant) -> Self {
        Self { event, sent }
    }

    /// Fit to be sent.
    pub(super) fn to_wire(&self, now: Instant) -> Wire {
        let age = now.saturating_duration_since(self.sent).as_millis();
        Wire {
            age: u64::try_from(age).unwrap_or(u64::MAX),
            ..self.event.clone()
        }
    }

    /// Fit to be told.
    pub(super) fn to_event(&self, now: Instant) -> UserEvent {
        let event = &self.event;
        UserEvent {
            sender: event.sender.clone(),
            generation: Generation::new(event.generation),
            sequence: event.sequence,
            name: event.name.clone(),
            payload: event.payload.clone(),
            age: now.saturating_duration_since(self.sent),
        }
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.sent)
    }

    fn bytes(&self) -> usize {
        let event = &self.event;
        event.payload.len() + event.unknown.len() + EVENT_OVERHEAD_BYTES
    }
}

impl Stream {
    fn new(generation: u64, told: Option<u64>) -> Self {
        Self {
            generation,
            told,
            history: VecDeque::new(),
            waiting: BTreeMap::new(),
            history_bytes: 0,
            latest: None,
            former: None,
        }
    }

    /// The stream of a later start of its sender.
    fn succeeded(&self, generation: u64, told: Option<u64>) -> Self {
        Self {
            former: self.position().map(Box::new),
            ..Self::new(generation, told)
        }
    }

    /// How far its sender's events were told: of this start, or of an earlier one.
    fn position(&self) -> Option<Former> {
        let told = self.told.filter(|told| *told > 0);
        let here = told.map(|told| Former {
            generation: self.generation,
            told,
            latest: self.latest,
        });
        here.or_else(|| self.former.as_deref().copied())
    }

    /// The oldest event that is kept without a gap up to the last one told.
    fn oldest(&self) -> u64 {
        self.told.unwrap_or(0) + 1 - self.history.len() as u64
    }

    /// Time since its newest event was sent.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.latest.map(|sent| now.saturating_duration_since(sent))
    }

    fn find(&self, sequence: u64) -> Option<&Kept> {
        let at = sequence.checked_sub(self.oldest());
        let at = at.and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.history.get(at))
            .or_else(|| self.waiting.get(&sequence))
    }

    fn after(&self, after: u64) -> impl Iterator<Item = &Kept> {
        let skipped = after.saturating_add(1).saturating_sub(self.oldest());
        self.history
            .iter()
            .skip(usize::try_from(skipped).unwrap_or(usize::MAX))
    }

    /// The last event that waits for its turn.
    pub(super) fn last_waiting(&self) -> Option<u64> {
        self.waiting.last_key_value().map(|(last, _)| *last)
    }

    fn waiting_bytes(&self) -> usize {
        self.waiting.values().map(Kept::bytes).sum()
    }
}

impl Streams {
    /// Takes an event in. A stream that begins with it begins after `begin`, or where others will
    /// say.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        id: u64,
        kept: Kept,
        begin: Option<u64>,
    ) -> Admitted {
        let mut admitted = Admitted::default();
        let (generation, sequence) = (kept.event.generation, kept.event.sequence);
        let begin = begin.or((sequence == 1).then_some(0));
        let stream = self.begin(id, generation, begin);
        if stream.generation > generation
            || stream.told.is_some_and(|told| sequence <= told)
            || stream.waiting.contains_key(&sequence)
        {
            return admitted;
        }
        if stream.told.is_none() && sequence == 1 {
            stream.told = Some(0);
        }
        admitted.early = stream.told.is_none_or(|told| sequence > told + 1);
        let (crowded, bytes) = (stream.waiting.len() >= EVENTS_PER_SENDER_MAX, kept.bytes());
        if admitted.early && (crowded || self.waiting_bytes + bytes > EVENT_BYTES_MAX / 2) {
            // It is asked for again when its turn comes.
            return admitted;
        }
        admitted.news = true;
        self.waiting_bytes += bytes;
        let stream = self.begin(id, generation, begin);
        stream.waiting.insert(sequence, kept);
        admitted.told = self.advance(now, id);
        admitted
    }

    /// Goes on behind what nobody has any more; says so, where `sender` is given.
    pub(super) fn skip_to(
        &mut self,
        now: Instant,
        (id, generation): (u64, u64),
        oldest: u64,
        begin: Option<u64>,
        sender: Option<&Arc<str>>,
    ) -> Vec<Heard> {
        let stream = self.begin(id, generation, begin);
        let before = stream.told;
        if stream.generation != generation || before.is_some_and(|told| oldest <= told + 1) {
            return Vec::new();
        }
        let mut told = Vec::new();
        let late = stream.waiting.split_off(&oldest);
        let early = std::mem::replace(&mut stream.waiting, late);
        let dropped = std::mem::take(&mut stream.history_bytes);
        stream.history.clear();
        self.history_bytes -= dropped;
        let mut last = before;
        let mut miss = |told: &mut Vec<Heard>, next: u64| {
            let count = last.map_or(0, |last| next - last - 1);
            last = last.map(|_| next);
            if let Some(sender) = sender.cloned().filter(|_| count > 0) {
                let generation = Generation::new(generation);
                told.push(Heard::Missed {
                    sender,
                    generation,
                    count,
                });
            }
        };
        // What waits is not missed.
        for (sequence, kept) in early {
            self.waiting_bytes -= kept.bytes();
            if before.is_some() {
                miss(&mut told, sequence);
                told.push(Heard::Event(kept.to_event(now)));
            }
        }
        miss(&mut told, oldest);
        self.begin(id, generation, begin).told = Some(oldest - 1);
        told.extend(self.advance(now, id));
        told
    }

    /// Forgets what waits behind `newest`: its sender has not written it.
    pub(super) fn drop_waiting_above(&mut self, id: u64, generation: u64, newest: u64) {
        let Some(stream) = self.by_sender.get_mut(&id) else {
            return;
        };
        if stream.generation == generation {
            let above = stream.waiting.split_off(&newest.saturating_add(1));
            self.waiting_bytes -= above.values().map(Kept::bytes).sum::<usize>();
        }
    }

    /// An event that is kept, or waits.
    pub(super) fn find(&self, id: u64, generation: u64, sequence: u64) -> Option<&Kept> {
        let stream = self.by_sender.get(&id)?;
        (stream.generation == generation).then(|| stream.find(sequence))?
    }

    /// What is kept of a stream after an event.
    pub(super) fn after(
        &self,
        id: u64,
        generation: u64,
        after: u64,
    ) -> impl Iterator<Item = &Kept> {
        let stream = self.by_sender.get(&id);
        let stream = stream.filter(|stream| stream.generation == generation);
        stream
            .into_iter()
            .flat_map(move |stream| stream.after(after))
    }

    /// Everything that is kept, by sender.
    pub(super) fn history(&self) -> impl Iterator<Item = &Kept> {
        self.by_sender.values().flat_map(|stream| &stream.history)
    }

    pub(super) fn stream(&self, id: u64) -> Option<&Stream> {
        self.by_sender.get(&id)
    }

    /// How far a stream has come here; `None` where nothing of it was told.
    pub(super) fn head(&self, id: u64) -> Option<Head> {
        let stream = self.by_sender.get(&id)?;
        let newest = stream.told.filter(|told| *told > 0)?;
        Some(Head {
            stream: id,
            generation: stream.generation,
            oldest: stream.oldest(),
            newest,
        })
    }

    /// Those streams that members should agree on: of members that are `here`, and of anybody who
    /// has sent something lately.
    pub(super) fn counted(
        &self,
        now: Instant,
        range: RangeInclusive<u64>,
        here: impl Fn(u64, u64) -> bool,
    ) -> impl Iterator<Item = Head> {
        let streams = self.by_sender.range(range);
        let counted = streams.filter(move |(id, stream)| {
            let recent = stream.age(now).is_some_and(|age| age < EVENT_RETENTION);
            recent || here(**id, stream.generation)
        });
        counted.filter_map(|(id, _)| self.head(*id))
    }

    /// Name of the sender of what is kept of a stream.
    pub(super) fn sender(&self, id: u64) -> Option<Arc<str>> {
        let stream = self.by_sender.get(&id)?;
        let mut kept = stream.history.iter().chain(stream.waiting.values());
        kept.next().map(|kept| kept.event.sender.clone())
    }

    /// How far all streams have come.
    pub(super) fn heads(&self) -> impl Iterator<Item = Head> {
        self.by_sender.keys().filter_map(|id| self.head(*id))
    }

    /// The last event of each stream that waits for its turn: of whom, of which start, its number.
    pub(super) fn last_waiting(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let streams = self.by_sender.iter();
        streams.filter_map(|(id, stream)| Some((*id, stream.generation, stream.last_waiting()?)))
    }

    /// Number of streams.
    pub(super) fn len(&self) -> usize {
        self.by_sender.len()
    }

    /// Number of streams whose senders are these.
    pub(super) fn of(&self, senders: impl Fn(u64) -> bool) -> usize {
        self.by_sender.keys().filter(|id| senders(**id)).count()
    }

    /// Bytes of all that is kept and waits.
    pub(super) fn bytes(&self) -> usize {
        self.history_bytes + self.waiting_bytes
    }

    /// Forgets events that are too old, and streams that nobody needs: all of those that aren't
    /// `known`, after a while. A start of which nothing was ever told gives way to the one before, or
    /// that one's events would be told once more.
    pub(super) fn prune(&mut self, now: Instant, known: impl Fn(u64, u64) -> bool) {
        for stream in self.by_sender.values_mut() {
            while stream
                .history
                .front()
                .is_some_and(|kept| kept.age(now) >= EVENT_RETENTION)
            {
                self.history_bytes -= stream.drop_oldest();
            }
        }
        let (history, waiting) = (&mut self.history_bytes, &mut self.waiting_bytes);
        self.by_sender.retain(|id, stream| {
            if !known(*id, stream.generation)
                && let Some(former) = stream.position()
                && former.generation < stream.generation
            {
                *waiting -= stream.waiting_bytes();
                *stream = Stream {
                    latest: former.latest,
                    ..Stream::new(former.generation, Some(former.told))
                };
            }
            let remembered = stream.age(now).is_some_and(|age| age < POSITION_RETENTION);
            let stays = remembered || known(*id, stream.generation);
            if !stays {
                *history -= stream.history_bytes;
                *waiting -= stream.waiting_bytes();
            }
            stays
        });
    }

    /// The stream of a sender, of this generation or a newer one.
    fn begin(&mut self, id: u64, generation: u64, begin: Option<u64>) -> &mut Stream {
        let (history, waiting) = (&mut self.history_bytes, &mut self.waiting_bytes);
        let stream = self.by_sender.entry(id);
        let stream = stream.or_insert_with(|| Stream::new(generation, begin));
        if stream.generation < generation {
            *history -= stream.history_bytes;
            *waiting -= stream.waiting_bytes();
            *stream = stream.succeeded(generation, begin);
        }
        stream
    }

    /// Tells what has its turn.
    fn advance(&mut self, now: Instant, id: u64) -> Vec<Heard> {
        let mut told = Vec::new();
        let Some(stream) = self.by_sender.get_mut(&id) else {
            return told;
        };
        while let Some(next) = stream.told.map(|told| told + 1)
            && let Some(kept) = stream.waiting.remove(&next)
        {
            let bytes = kept.bytes();
            self.waiting_bytes -= bytes;
            self.history_bytes += bytes;
            stream.told = Some(next);
            stream.history_bytes += bytes;
            stream.latest = Some(kept.sent);
            told.push(Heard::Event(kept.to_event(now)));
            stream.history.push_back(kept);
            while stream.history.len() > EVENTS_PER_SENDER_MAX
                || stream.history_bytes > EVENT_BYTES_PER_SENDER_MAX
            {
                self.history_bytes -= stream.drop_oldest();
            }
        }
        if self.history_bytes > EVENT_BYTES_MAX / 2 {
            self.make_room();
        }
        told
    }

    /// Drops the oldest events of all, some at a time so that it seldom has to be done.
    fn make_room(&mut self) {
        let streams = self.by_sender.iter();
        let all =
            streams.flat_map(|(id, stream)| stream.history.iter().map(|kept| (kept.sent, *id)));
        let mut oldest: Vec<_> = all.collect();
        oldest.sort_unstable();
        for (_, id) in oldest {
            if self.history_bytes <= EVENT_BYTES_MAX / 16 * 7 {
                break;
            }
            if let Some(stream) = self.by_sender.get_mut(&id) {
                self.history_bytes -= stream.drop_oldest();
            }
        }
    }
}

impl Stream {
    /// Forgets the oldest event; answers its bytes.
    fn drop_oldest(&mut self) -> usize {
        let bytes = self.history.pop_front().map_or(0, |kept| kept.bytes());
        self.history_bytes -= bytes;
        bytes
    }
}

/// The digest of streams: a sum, so that the order doesn't matter.
pub(super) fn digest(heads: impl Iterator<Item = Head>) -> u32 {
    let fingerprint = |head: Head| mix(head.stream ^ mix(head.generation ^ mix(head.newest)));
    let sum = heads.fold(0_u64, |sum, head| sum.wrapping_add(fingerprint(head)));
    // The upper half: the mixer spreads over all bits.
    (sum >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(now: Instant, generation: u64, sequence: u64, bytes: usize) -> Kept {
        let event = Wire {
            sender: "a".into(),
            generation,
            sequence,
            age: 0,
            name: ServiceName::new("deploy").unwrap(),
            payload: vec![0; bytes].into(),
            unknown: Box::default(),
        };
        Kept::new(event, now)
    }

    fn shown(told: &[Heard]) -> Vec<String> {
        let shown = told.iter().map(|heard| match heard {
            Heard::Event(event) => event.sequence.to_string(),
            Heard::Missed { count, .. } => format!("missed {count}"),
            Heard::Skipped { count } => format!("skipped {count}"),
        });
        shown.collect()
    }

    #[test]
    fn events_are_told_in_order_and_once() {
        let (mut streams, now) = (Streams::default(), Instant::now());
        let mut told = Vec::new();
        for sequence in [2, 3, 1, 1, 3, 5, 4, 2] {
            let admitted = streams.admit(now, 1, kept(now, 7, sequence, 1), Some(0));
            told.extend(shown(&admitted.told));
        }
        assert_eq!(told, ["1", "2", "3", "4", "5"]);
        assert_eq!(
            streams.head(1).map(|head| (head.oldest, head.newest)),
            Some((1, 5))
        );
        // A newer start begins anew; what is late of the older one is not told any more.
        assert_eq!(
            shown(&streams.admit(now, 1, kept(now, 8, 1, 1), Some(0)).told),
            ["1"]
        );
        assert!(!streams.admit(now, 1, kept(now, 7, 6, 1), Some(0)).news);
    }

    #[test]
    fn a_start_of_which_nothing_was_told_does_not_hide_what_was_told_before() {
        let (mut streams, now) = (Streams::default(), Instant::now());
        for sequence in 1..=3 {
            streams.admit(now, 1, kept(now, 7, sequence, 1), Some(0));
        }
        // Of the next two starts one event each is heard, and nobody has what comes before.
        for generation in [8, 9] {
            let admitted = streams.admit(now, 1, kept(now, generation, 26, 1), None);
            assert!(admitted.early && admitted.told.is_empty());
        }
        streams.prune(now, |_, generation| generation > 9);
        let head = streams.head(1).map(|head| (head.generation, head.newest));
        assert_eq!((head, streams.waiting_bytes), (Some((7, 3)), 0));
        // Who still has them says them again.
        let again = streams.admit(now, 1, kept(now, 7, 1, 1), Some(0));
        assert!(!again.news && again.told.is_empty());
        assert_eq!(
            shown(&streams.admit(now, 1, kept(now, 7, 4, 1), Some(0)).told),
            ["4"]
        );
    }

    #[test]
    fn what_nobody_has_any_more_is_counted() {
        let (mut streams, now) = (Streams::default(), Instant::now());
        for sequence in [1, 4, 8, 9] {
            streams.admit(now, 1, kept(now, 7, sequence, 1), Some(0));
        }
        let told = streams.skip_to(now, (1, 7), 8, Some(0), Some(&"a".into()));
        assert_eq!(shown(&told), ["missed 2", "4", "missed 3", "8", "9"]);
        assert_eq!(
            streams.head(1).map(|head| (head.oldest, head.newest)),
            Some((8, 9))
        );
        // Who has just come has missed nothing: it begins where the history does.
        let mut late = Streams::default();
        late.admit(now, 1, kept(now, 7, 8, 1), None);
        let told = late.skip_to(now, (1, 7), 8, None, Some(&"a".into()));
        assert_eq!(shown(&told), ["8"]);
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let (mut streams, now) = (Streams::default(), Instant::now());
        for sequence in 1..=3 * EVENTS_PER_SENDER_MAX as u64 {
            streams.admit(now, 1, kept(now, 7, sequence, 10), Some(0));
        }
        assert_eq!(streams.history().count(), EVENTS_PER_SENDER_MAX);
        for id in 2..200 {
            for sequence in 1..=40 {
                streams.admit(now, id, kept(now, 7, sequence, 32_000), Some(0));
                // Never in order.
                streams.admit(now, id, kept(now, 7, 1_000 + 2 * sequence, 32_000), Some(0));
            }
        }
        assert!(streams.bytes() <= EVENT_BYTES_MAX, "{}", streams.bytes());
        let counted: usize = streams.by_sender.values().map(|s| s.history_bytes).sum();
        assert_eq!(counted, streams.history_bytes);
        let waiting: usize = streams.by_sender.values().map(Stream::waiting_bytes).sum();
        assert_eq!(waiting, streams.waiting_bytes);
        let later = now + POSITION_RETENTION;
        streams.prune(later, |id, _| id == 1);
        assert_eq!((streams.len(), streams.bytes()), (1, 0));
        assert_eq!(
            streams.head(1).map(|h| h.newest),
            Some(3 * EVENTS_PER_SENDER_MAX as u64)
        );
    }
}
