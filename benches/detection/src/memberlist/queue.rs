//! What is being spread: at most one message about each member, least sent first, then the largest,
//! then the newest.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::message::{MemberId, Message};

/// What a compound packet spends on each part.
const PART_BYTES: usize = 2;

type Place = (u32, Reverse<usize>, Reverse<u64>, MemberId);

/// The queue of broadcasts.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: BTreeSet<Place>,
    messages: BTreeMap<MemberId, (Place, Message)>,
    added: u64,
}

impl Queue {
    /// Queues what is said of a member, instead of what was said before.
    pub(super) fn add(&mut self, about: MemberId, message: Message) {
        if let Some((place, _)) = self.messages.remove(&about) {
            self.order.remove(&place);
        }
        self.added += 1;
        let place = (
            0,
            Reverse(message.nominal_bytes()),
            Reverse(self.added),
            about,
        );
        self.order.insert(place);
        self.messages.insert(about, (place, message));
    }

    /// As many messages as fit into `space`; each is dropped once it was sent `limit` times.
    pub(super) fn take(&mut self, mut space: usize, limit: u32) -> Vec<Message> {
        let mut fitting = Vec::new();
        for place in &self.order {
            let bytes = place.1.0 + PART_BYTES;
            if bytes <= space {
                space -= bytes;
                fitting.push(*place);
            }
        }
        let mut taken = Vec::with_capacity(fitting.len());
        for place in fitting {
            self.order.remove(&place);
            let (sent, bytes, added, about) = place;
            if let Some((at, message)) = self.messages.get_mut(&about) {
                taken.push(message.clone());
                *at = (sent + 1, bytes, added, about);
                if sent + 1 < limit {
                    self.order.insert(*at);
                } else {
                    self.messages.remove(&about);
                }
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspect(member: MemberId) -> Message {
        Message::Suspect {
            member,
            incarnation: 1,
            from: 0,
        }
    }

    #[test]
    fn least_sent_first_and_dropped_at_the_limit() {
        let mut queue = Queue::default();
        queue.add(1, suspect(1));
        let one = suspect(1).nominal_bytes() + PART_BYTES;
        assert_eq!(queue.take(one, 2), [suspect(1)]);
        queue.add(2, suspect(2));
        assert_eq!(queue.take(one, 2), [suspect(2)]);
        assert_eq!(queue.take(10 * one, 2).len(), 2);
        assert!(queue.take(10 * one, 2).is_empty());
    }

    #[test]
    fn what_is_newer_replaces_what_was_said_of_the_same_member() {
        let mut queue = Queue::default();
        let alive = Message::Alive {
            member: 1,
            incarnation: 2,
        };
        queue.add(1, suspect(1));
        queue.add(1, alive.clone());
        assert_eq!(queue.take(1_000, 9), [alive]);
    }
}
