//! Anti-entropy: two members find out where they differ and exchange just that.
//!
//! Range-based set reconciliation over the item index: digests of ranges are compared, ranges that
//! differ are split until they are small enough to list, listed items are compared by stamp, and
//! each side sends what is newer on it. Every message is answered from the tables alone, so a link
//! that breaks in the middle leaves nothing behind.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::items::ItemKey;
use super::member::MemberState;
use super::timer::Timer;
use super::{Engine, Route};
use crate::wire::Message;
use crate::wire::limits::{ANSWER_BYTES_MAX, LINK_FRAME_BYTES_TARGET, TOLD_MAX};
use crate::wire::message::{RangeDigest, Stamp};

/// A difference that is younger than this is most likely a change on its way.
const SETTLE: Duration = Duration::from_millis(300);

/// For so long a sync waits while there is news all the time: in a storm digests differ always.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// For so long no sync is started after something was refused because a bound was reached.
const REFUSED_REST: Duration = Duration::from_secs(10);

/// Ranges with at most this many items are listed instead of split: about a kilobyte.
const LEAF_ITEMS: u64 = 32;

/// Parts a range is split into.
const SPLIT: u64 = 16;

/// Most ranges of one message, so that it stays well below the size of a batch: a registry of a
/// hundred thousand items that differ everywhere is split into more of them than a frame can hold.
const RANGES_PER_MESSAGE: usize = 1_024;

/// What one frame is answered with.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Whether the frame belonged to a sync.
    engaged: bool,
    asks: Vec<Message>,
    items: Vec<ItemKey>,
    /// What the frame said of members. Where more is known, the sender is told: who is gone isn't
    /// part of what is compared, and nothing else would.
    told: BTreeMap<u64, Stamp>,
    compared: Ascent,
    listed: Ascent,
}

impl Answer {
    /// Notes what a frame says of a member.
    pub(super) fn told(&mut self, id: u64, stamp: Stamp) {
        if self.told.len() < TOLD_MAX || self.told.contains_key(&id) {
            let told = self.told.entry(id).or_insert(stamp);
            *told = stamp.max(*told);
        }
    }
}

/// How far the ranges of one frame have come. They ascend and don't overlap: others would make a
/// frame cost its ranges times all items instead of their sum.
#[derive(Debug, Default)]
struct Ascent {
    last: Option<u64>,
}

impl Ascent {
    /// Whether a range is one, and lies above all before it.
    fn admit(&mut self, first: u64, last: u64) -> bool {
        let admitted = first <= last && self.last.is_none_or(|before| first > before);
        if admitted {
            self.last = Some(last);
        }
        admitted
    }
}

impl Engine {
    /// A member's digest has arrived: where it differs, and still does after a while, sync.
    pub(super) fn compare_digest(&mut self, now: Instant, member: u64, digest: u64) {
        if digest == self.items.digest() {
            self.timers.cancel(Timer::Sync);
            self.sync_with = None;
            self.note_agreement(digest);
            self.joined(now);
            self.caught_up();
        } else if let Some(address) = self.members.find(member).map(|member| member.address) {
            self.stats.digest_mismatches += 1;
            let (_, since) = self.sync_with.unwrap_or((address, now));
            self.sync_with = Some((address, since));
            self.timers.set_if_unset(Timer::Sync, now + SETTLE);
        }
    }

    /// Syncs with the member whose digest differed, once no news is under way.
    pub(super) fn sync(&mut self, now: Instant) {
        let Some((address, since)) = self.sync_with.take() else {
            return;
        };
        // What was refused is missing still, and would be sent and refused again.
        if let Some(rested) = self.rests_until(now) {
            self.sync_with = Some((address, since));
            self.timers.set(Timer::Sync, rested);
            return;
        }
        let settled = self.latest_news.map_or(now, |news| news + SETTLE);
        if settled > now && now < since + SETTLE_MAX {
            self.sync_with = Some((address, since));
            self.timers.set(Timer::Sync, settled);
        } else {
            self.start_sync(address);
        }
    }

    /// Until when no sync goes on since something was refused, if that is so.
    fn rests_until(&self, now: Instant) -> Option<Instant> {
        let rested = self.refused.map(|refused| refused + REFUSED_REST);
        rested.filter(|rested| *rested > now)
    }

    /// Opens a sync: this member's word about itself, and the digest of everything.
    pub(super) fn start_sync(&mut self, address: SocketAddr) {
        self.stats.syncs += 1;
        let alive = Message::Alive(self.members.me().to_alive());
        let all = self.items.range_digest(0, u64::MAX);
        let frame = self.frame(&[alive, Message::Sync(vec![all])]);
        self.stats.sync_bytes_out += frame.len() as u64;
        self.transmit(Route::Link(address), frame);
    }

    pub(super) fn handle_sync(
        &mut self,
        now: Instant,
        sender: u64,
        ranges: &[RangeDigest],
        answer: &mut Answer,
    ) {
        answer.engaged = true;
        // Who opens a sync says who it is; who doesn't has more to give than goes into one answer.
        let goes_on = matches!(ranges, [all] if (all.first, all.last) == (0, u64::MAX))
            && !answer.told.contains_key(&sender);
        if goes_on && self.rests_until(now).is_some() {
            // And would give for ever what this member refuses.
            self.joined(now);
            return;
        }
        let mut split = Vec::new();
        for theirs in ranges {
            let (first, last) = (theirs.first, theirs.last);
            if !answer.compared.admit(first, last) {
                continue;
            }
            let ours = self.items.range_digest(first, last);
            if (ours.digest, ours.count) == (theirs.digest, theirs.count) {
                continue;
            }
            if theirs.count == 0 {
                let items = self.items.range(first..=last);
                answer.items.extend(items);
            } else if ours.count <= LEAF_ITEMS {
                let items = self.items.range(first..=last);
                let entries = items
                    .filter_map(|key| Some((key.position(), self.stamp_of(key)?)))
                    .collect();
                answer.asks.push(Message::Have {
                    first,
                    last,
                    entries,
                });
            } else {
                let parts = split_range(first, last);
                split.extend(parts.map(|(first, last)| self.items.range_digest(first, last)));
            }
        }
        let messages = split.chunks(RANGES_PER_MESSAGE);
        answer
            .asks
            .extend(messages.map(|ranges| Message::Sync(ranges.to_vec())));
    }

    pub(super) fn handle_have(
        &self,
        first: u64,
        last: u64,
        entries: &[(u64, Stamp)],
        answer: &mut Answer,
    ) {
        answer.engaged = true;
        if !answer.listed.admit(first, last) {
            return;
        }
        let theirs: BTreeMap<u64, Stamp> = entries.iter().copied().collect();
        let only_ours = self
            .items
            .range(first..=last)
            .filter(|key| !theirs.contains_key(&key.position()));
        answer.items.extend(only_ours);
        let mut want = Vec::new();
        for (position, stamp) in &theirs {
            let key = self.items.at(*position);
            let ours = key.and_then(|key| Some((key, self.stamp_of(key)?)));
            match ours {
                Some((key, ours)) if ours > *stamp => answer.items.push(key),
                Some((_, ours)) if ours == *stamp => {}
                Some(_) | None => want.push(*position),
            }
        }
        if !want.is_empty() {
            answer.asks.push(Message::Want(want));
        }
    }

    pub(super) fn handle_want(&self, positions: &[u64], answer: &mut Answer) {
        answer.engaged = true;
        let items = positions
            .iter()
            .filter_map(|position| self.items.at(*position));
        answer.items.extend(items);
    }

    /// Another member has told all it knows: this one has joined.
    pub(super) fn handle_sync_done(&mut self, now: Instant, sender: u64, digest: u64) {
        self.joined(now);
        self.release_synced(now, sender);
        if digest == self.items.digest() {
            self.caught_up();
        }
    }

    /// Sends what a frame is answered with, in frames of a bounded size.
    pub(super) fn answer(&mut self, now: Instant, (route, sender): (Route, u64), answer: Answer) {
        let Answer {
            engaged,
            mut asks,
            mut items,
            told,
            ..
        } = answer;
        if matches!(route, Route::Reply(_)) {
            let newer = |(id, told): &(u64, Stamp)| {
                let known = self.members.find(*id);
                *id != self.me && known.is_some_and(|known| known.stamp() > *told)
            };
            let outdated = told.into_iter().filter(newer);
            items.extend(outdated.map(|(id, _)| ItemKey::Member(id)));
        }
        if engaged && asks.is_empty() {
            // Nothing that the sender has told of is missing here.
            self.release_synced(now, sender);
            asks.push(Message::SyncDone {
                digest: self.items.digest(),
            });
        }
        // Members before records, so that no record comes before its owner; questions and the end
        // after the items.
        items.sort_unstable();
        items.dedup();
        let mut frames = Vec::new();
        let mut room = ANSWER_BYTES_MAX;
        for key in &items {
            let bytes = self.encode_whole(key);
            let Some(left) = room.checked_sub(bytes.len()) else {
                // Not the end: who has these is to ask for the rest.
                asks = vec![Message::Sync(vec![self.items.range_digest(0, u64::MAX)])];
                break;
            };
            room = left;
            self.append(&mut frames, &bytes, LINK_FRAME_BYTES_TARGET);
        }
        for ask in asks {
            self.append(&mut frames, &ask.to_bytes(), LINK_FRAME_BYTES_TARGET);
        }
        for frame in frames {
            if engaged {
                self.stats.sync_bytes_out += frame.len() as u64;
            }
            self.transmit(route, frame);
        }
    }

    /// How new an item is.
    fn stamp_of(&self, key: ItemKey) -> Option<Stamp> {
        match key {
            ItemKey::Member(id) => Some(self.members.find(id)?.stamp()),
            ItemKey::Record(place) => {
                let owner = self.members.find(place.owner)?;
                Some(Stamp(owner.generation, self.registry.at(place)?.version))
            }
        }
    }

    /// An item with all that is known of it: of a member also who it is, for those who know only an
    /// older start.
    fn encode_whole(&self, key: &ItemKey) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let ItemKey::Member(id) = key
            && let Some(member) = self.members.find(*id)
            && member.state != MemberState::Alive
        {
            Message::Alive(member.to_alive()).encode(&mut bytes);
        }
        bytes.extend_from_slice(&self.encode_item(key));
        bytes
    }
}

/// A range in up to `SPLIT` parts of equal width.
fn split_range(first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
    let width = (last - first) / SPLIT + 1;
    (0..SPLIT).map_while(move |part| {
        let start = first.checked_add(part.checked_mul(width)?)?;
        (start <= last).then(|| (start, start.saturating_add(width - 1).min(last)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_range_cover_it_without_overlap() {
        for (first, last) in [(0, u64::MAX), (5, 5), (10, 12), (u64::MAX - 3, u64::MAX)] {
            let parts: Vec<_> = split_range(first, last).collect();
            assert_eq!((parts[0].0, parts.last().unwrap().1), (first, last));
            assert!(
                parts.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0),
                "{parts:?}"
            );
        }
    }
}
