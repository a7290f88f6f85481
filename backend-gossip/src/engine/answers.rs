//! Queries of others: each is handed to the application once, and answered once, however often it
//! arrives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::ServiceName;

use super::queries::query_route;
use super::{Engine, Event, Route};
use crate::wire::Message;
use crate::wire::limits::{
    ANSWERS_KEPT_BYTES_MAX, QUERIES_HEARD_MAX, QUERIES_OPEN_MAX, QUERY_TIME_MAX,
};
use crate::wire::queries::{Answer, Query, Word};

/// How long a query is remembered after its time: a datagram may come twice, seconds apart.
const MEMORY: Duration = Duration::from_secs(60);

/// As many are remembered for longer: for who was stopped, or whose clock jumps, all at once is long ago that
/// others are still asking.
const REMEMBERED: usize = QUERIES_HEARD_MAX / 2;

/// Who asked, and the id that it has there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryKey {
    asker: u64,
    id: u64,
}

/// A query to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// To be answered with.
    pub key: QueryKey,
    /// Name of the member that asks.
    pub asker: Arc<str>,
    /// What it is about.
    pub name: ServiceName,
    /// The asker's bytes, up to 64 KiB.
    pub payload: Arc<[u8]>,
    /// When nobody waits for an answer any more.
    pub deadline: Instant,
}

/// The queries that were heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Whether there is an application that listens.
    listening: bool,
    queries: BTreeMap<QueryKey, Remembered>,
    /// Bytes of the answers among them.
    bytes: usize,
}

#[derive(Debug)]
struct Remembered {
    deadline: Instant,
    said: Said,
}

#[derive(Debug)]
enum Said {
    Nothing,
    Word(Word),
    /// An answer for which there is no room here.
    Once,
}

impl Remembered {
    fn bytes(&self) -> usize {
        match &self.said {
            Said::Word(Word::Answered(payload)) => payload.len(),
            Said::Word(_) | Said::Nothing | Said::Once => 0,
        }
    }
}

impl Engine {
    /// Whether somebody here takes queries; where nobody does they are declined.
    pub fn listen_to_queries(&mut self, listening: bool) {
        self.queries.heard.listening = listening;
    }

    /// Answers a query, or declines to; the first word counts.
    pub fn answer_query(&mut self, now: Instant, key: QueryKey, payload: Option<Arc<[u8]>>) {
        let heard = &mut self.queries.heard;
        let Some(remembered) = heard.queries.get_mut(&key) else {
            return;
        };
        if !matches!(remembered.said, Said::Nothing) || remembered.deadline <= now {
            return;
        }
        let word = payload.map_or(Word::Declined, Word::Answered);
        remembered.said = Said::Word(word.clone());
        let bytes = remembered.bytes();
        if heard.bytes + bytes > ANSWERS_KEPT_BYTES_MAX {
            remembered.said = Said::Once;
        } else {
            heard.bytes += bytes;
        }
        self.say(now, key, word);
    }

    pub(super) fn handle_query(&mut self, now: Instant, route: Route, from: u64, query: Query) {
        // Answers go where the member is known to be: anybody can claim an address.
        if self.is_member_at(from, route)
            && let Some(asker) = self.members.find(from).map(|member| member.name.clone())
        {
            self.hear_query(now, from, asker, query);
        }
    }

    pub(super) fn hear_own_query(&mut self, now: Instant, query: Query) {
        let name = self.identity.name.clone();
        self.hear_query(now, self.me, name, query);
    }

    fn hear_query(&mut self, now: Instant, asker: u64, name: Arc<str>, query: Query) {
        let key = QueryKey {
            asker,
            id: query.id,
        };
        if let Some(known) = self.queries.heard.queries.get(&key) {
            let word = match &known.said {
                Said::Word(word) => word.clone(),
                Said::Nothing | Said::Once => Word::Received,
            };
            if known.deadline > now {
                self.say(now, key, word);
            }
            return;
        }
        if !self.queries.heard.listening {
            self.say(now, key, Word::Declined);
            return;
        }
        if !self.has_room_for_query(now, asker) {
            self.stats.queries.refused += 1;
            return;
        }
        let time = Duration::from_millis(query.time_left).min(QUERY_TIME_MAX);
        let deadline = now + time;
        let remembered = Remembered {
            deadline,
            said: Said::Nothing,
        };
        self.queries.heard.queries.insert(key, remembered);
        self.stats.queries.heard += 1;
        self.events.push_back(Event::Asked(Asked {
            key,
            asker: name,
            name: query.name,
            payload: query.payload,
            deadline,
        }));
        self.say(now, key, Word::Received);
    }

    fn has_room_for_query(&mut self, now: Instant, asker: u64) -> bool {
        let of = |id| QueryKey { asker, id };
        if self.queries.heard.queries.len() >= QUERIES_HEARD_MAX {
            self.forget_queries(now, Duration::ZERO);
        }
        let queries = &self.queries.heard.queries;
        let of_asker = queries.range(of(0)..=of(u64::MAX));
        let open = of_asker.filter(|(_, query)| query.deadline > now);
        queries.len() < QUERIES_HEARD_MAX && open.count() < QUERIES_OPEN_MAX
    }

    /// Forgets queries whose time has been over for this long.
    pub(super) fn forget_queries(&mut self, now: Instant, memory: Duration) {
        let heard = &mut self.queries.heard;
        heard.queries.retain(|_, query| {
            now.saturating_duration_since(query.deadline) < memory || query.deadline > now
        });
        heard.bytes = heard.queries.values().map(Remembered::bytes).sum();
    }

    /// Forgets old queries where there are many, and what was answered to them in any case.
    pub(super) fn forget_old_queries(&mut self, now: Instant) {
        let heard = &mut self.queries.heard;
        for query in heard.queries.values_mut() {
            if query.deadline + MEMORY <= now {
                query.said = Said::Once;
            }
        }
        let many = heard.queries.len() > REMEMBERED;
        self.forget_queries(now, if many { MEMORY } else { Duration::MAX });
    }

    fn say(&mut self, now: Instant, key: QueryKey, word: Word) {
        let QueryKey { asker, id } = key;
        let answer = Answer { id, word };
        if asker == self.me {
            self.take_word(now, asker, answer);
            return;
        }
        let Some(address) = self.members.find(asker).map(|member| member.address) else {
            return;
        };
        let frame = self.frame(&[Message::Answer(answer)]);
        let large = frame.len() > self.config.datagram_bytes;
        self.transmit(query_route(large, address), frame);
    }
}
