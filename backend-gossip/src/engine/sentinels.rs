//! The neighbours in the ring that this member keeps a link to: when a process ends, its links tell at
//! once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::timer::Timer;
use super::{Engine, Event};

/// Neighbours a member keeps a link to, the next ones, and as many of the proven ones: so many see at once
/// that a process has ended, and two of them convict.
const SENTINELS: usize = 3;

/// Time between two changes of the links that are kept: where many join at once everybody's neighbours
/// change with each of them, and a link for each would be most of what joining costs.
const CHANGE_INTERVAL: Duration = Duration::from_millis(250);

/// Those a link is kept to, or will be with the next change.
#[derive(Debug, Default)]
pub(super) struct Sentinels {
    chosen: Vec<(u64, SocketAddr)>,
    /// When the links changed last.
    linked: Option<Instant>,
}

impl Sentinels {
    /// Their ids: first the next present members, then the proven ones that aren't among them.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.chosen.iter().map(|(id, _)| *id)
    }
}

impl Engine {
    /// Keeps the sentinels those who are next, at the addresses that they have.
    pub(super) fn choose_sentinels(&mut self, now: Instant) {
        let ids = self.members.successors(SENTINELS).into_iter();
        let chosen: Vec<_> = ids
            .filter_map(|id| Some((id, self.members.find(id)?.address)))
            .collect();
        if chosen == self.sentinels.chosen {
            return;
        }
        self.sentinels.chosen = chosen;
        // At once after a quiet time.
        let linked = self.sentinels.linked;
        let at = linked.map_or(now, |linked| now.max(linked + CHANGE_INTERVAL));
        self.timers.set_if_unset(Timer::Sentinels, at);
    }

    /// Has a link kept to each sentinel, and no longer to who was one.
    pub(super) fn link_sentinels(&mut self, now: Instant) {
        self.sentinels.linked = Some(now);
        let addresses = self.sentinels.chosen.iter().map(|(_, address)| *address);
        self.events.push_back(Event::Sentinels(addresses.collect()));
    }
}
