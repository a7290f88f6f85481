//! The queue of what is being spread: each item a limited number of times, the least sent first,
//! then the newest. It holds keys only; what is sent is read from the tables at that moment, so a
//! newer state replaces an older one by itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::items::ItemKey;
use crate::wire::limits::BROADCASTS_MAX;

#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    order: BTreeSet<Place>,
    places: BTreeMap<ItemKey, (u32, u64)>,
    added: u64,
}

type Place = (u32, Reverse<u64>, ItemKey);

impl Broadcasts {
    /// Queues an item, as never sent.
    pub(super) fn add(&mut self, key: ItemKey) {
        self.remove(&key);
        if self.places.len() >= BROADCASTS_MAX
            && let Some((_, _, most_sent)) = self.order.pop_last()
        {
            self.places.remove(&most_sent);
        }
        self.added += 1;
        self.order.insert((0, Reverse(self.added), key));
        self.places.insert(key, (0, self.added));
    }

    /// Counts `times` more transmissions of an item, and drops it at `limit`.
    pub(super) fn sent(&mut self, key: &ItemKey, times: u32, limit: u32) {
        let Some((sent, added)) = self.places.get(key).copied() else {
            return;
        };
        self.remove(key);
        if sent + times < limit {
            self.order.insert((sent + times, Reverse(added), *key));
            self.places.insert(*key, (sent + times, added));
        }
    }

    /// Drops an item.
    pub(super) fn remove(&mut self, key: &ItemKey) {
        if let Some((sent, added)) = self.places.remove(key) {
            self.order.remove(&(sent, Reverse(added), *key));
        }
    }

    /// Drops all items but those of which `keep` is true.
    pub(super) fn retain(&mut self, keep: impl Fn(&ItemKey) -> bool) {
        self.places.retain(|key, _| keep(key));
        self.order.retain(|(_, _, key)| keep(key));
    }

    /// The items in the order they should be sent.
    pub(super) fn iter(&self) -> impl Iterator<Item = &ItemKey> {
        self.order.iter().map(|(_, _, key)| key)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.order.clear();
        self.places.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> ItemKey {
        ItemKey::Member(id)
    }

    #[test]
    fn the_least_sent_goes_first_then_the_newest() {
        let mut queue = Broadcasts::default();
        for id in 1..=3 {
            queue.add(member(id));
        }
        queue.sent(&member(3), 1, 4);
        let order: Vec<_> = queue.iter().copied().collect();
        assert_eq!(order, [member(2), member(1), member(3)]);
        queue.sent(&member(3), 3, 4);
        assert_eq!(queue.len(), 2, "dropped at its limit");
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = Broadcasts::default();
        for id in 0..2 * BROADCASTS_MAX as u64 {
            queue.add(member(id));
        }
        assert_eq!(queue.len(), BROADCASTS_MAX);
        assert_eq!(queue.order.len(), BROADCASTS_MAX);
    }
}
