//! What the world can do to processes, hosts and the network.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::history::{Ending, ProcessId, Seen};
use crate::net::{CutId, Direction, HostId, Weather};
use crate::process::{Input, Pace};
use crate::world::{Event, World};

/// Where a process is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the address it had.
    Same,
    /// On another host: as a container that is scheduled anew.
    New,
}

impl World {
    /// Kills the process of a slot; its host refuses connections from then on.
    pub(crate) fn kill(&mut self, slot: usize) {
        if let Some(id) = self.slots[slot].process {
            self.counters.kills += 1;
            self.end(id, Ending::Killed);
        }
    }

    /// Takes the host of a slot away: nothing answers there any more.
    pub(crate) fn silence(&mut self, slot: usize) {
        if let Some(id) = self.slots[slot].process {
            self.counters.silenced += 1;
            self.end(id, Ending::Silenced);
        }
    }

    /// Starts a slot again, after a kill where it still runs.
    pub(crate) fn restart(&mut self, slot: usize, place: Place) -> ProcessId {
        if let Some(id) = self.slots[slot].process {
            self.counters.restarts_unnoticed += 1;
            self.end(id, Ending::Killed);
        }
        self.counters.restarts += 1;
        if place == Place::New {
            self.counters.restarts_elsewhere += 1;
            self.slots[slot].host = self.net.add_host();
        }
        self.start(slot)
    }

    /// Sets the wall clock of a slot back, as seen by its next start.
    pub(crate) fn set_wall_clock_back(&mut self, slot: usize, by: Duration) {
        self.counters.restarts_with_clock_back += 1;
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.slots[slot].wall_clock -= micros;
    }

    /// Restarts two slots at each other's addresses.
    pub(crate) fn swap_addresses(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        self.counters.addresses_swapped += 1;
        for slot in [a, b] {
            if let Some(id) = self.slots[slot].process {
                self.end(id, Ending::Killed);
            }
        }
        let (first, second) = (self.slots[a].host, self.slots[b].host);
        (self.slots[a].host, self.slots[b].host) = (second, first);
        for slot in [a, b] {
            self.counters.restarts += 1;
            self.start(slot);
        }
    }

    /// Begins a polite end.
    pub(crate) fn leave(&mut self, slot: usize) {
        let Some(process) = self.slots[slot]
            .process
            .and_then(|id| self.processes.get_mut(&id))
        else {
            return;
        };
        if process.leaving || process.pace == Pace::Paused {
            return;
        }
        let id = process.id;
        process.leaving = true;
        self.counters.leaves += 1;
        self.note(&format!("{id} leaves"));
        self.see(&Seen::Leaving { process: id });
        if let Some(process) = self.processes.get_mut(&id) {
            process.engine.leave(process.clock.at(self.now));
        }
        self.drain(id);
        self.update_cut_off();
    }

    /// Stops a process as SIGSTOP does.
    pub(crate) fn pause(&mut self, slot: usize, lasting: Duration) {
        if self.set_pace(slot, Pace::Paused, lasting) {
            self.counters.pauses += 1;
        }
    }

    /// Makes a process take this long for each input.
    pub(crate) fn slow(&mut self, slot: usize, each: Duration, lasting: Duration) {
        if self.set_pace(slot, Pace::Slow(each), lasting) {
            self.counters.slow_spells += 1;
        }
    }

    /// Lets a paused or slow process run normally, with all that has come meanwhile.
    pub(crate) fn resume(&mut self, id: ProcessId) {
        let timeout_first = self.rng.bool();
        if let Some(process) = self.processes.get_mut(&id) {
            process.pace = Pace::Normal;
            if timeout_first {
                process.timeout_first();
            }
            self.catch_up(id);
            self.update_cut_off();
        }
    }

    /// Sets the clock of a process forward, as after a suspend that the clock counts.
    pub(crate) fn jump(&mut self, slot: usize, by: Duration) {
        let Some(process) = self.slots[slot]
            .process
            .and_then(|id| self.processes.get_mut(&id))
        else {
            return;
        };
        self.counters.clock_jumps += 1;
        process.clock.jump(by);
        let id = process.id;
        // Nothing else wakes it: its timer is due at once.
        self.note(&format!("{id}: clock jumps by {by:?}"));
        self.input(id, Input::Timeout);
    }

    /// Stops frames between these slots and all others.
    pub(crate) fn cut(&mut self, slots: &[usize], direction: Direction) -> CutId {
        self.counters.partitions += 1;
        self.counters.partitions_one_way += u64::from(direction != Direction::Both);
        let cut = self.net.cut(self.hosts(slots), None, direction);
        self.update_cut_off();
        cut
    }

    /// Stops what one slot sends to another.
    pub(crate) fn cut_way(&mut self, from: usize, to: usize) -> CutId {
        let (from, to) = (self.hosts(&[from]), self.hosts(&[to]));
        self.net.cut(from, Some(to), Direction::Out)
    }

    /// Stops frames between these slots and all others for a while.
    pub(crate) fn cut_for(&mut self, slots: &[usize], direction: Direction, lasting: Duration) {
        let cut = self.cut(slots, direction);
        self.schedule(lasting, Event::Heal(cut));
    }

    /// Sends a process what no member ever sent: random bytes, and a real frame cut short.
    pub(crate) fn noise(&mut self, slot: usize) {
        let from = self.net.add_host().address();
        let to = self.slots[slot].host.address();
        let random = (0..self.rng.usize(0..200))
            .map(|_| self.rng.u8(..))
            .collect();
        let shorter = self.rng.usize(..self.last_frame.len().max(1));
        let cut_short = self.last_frame[..shorter.min(self.last_frame.len())].into();
        for bytes in [random, cut_short] {
            self.counters.noise += 1;
            self.schedule(Duration::ZERO, Event::Datagram(from, to, bytes));
        }
    }

    /// Ends a cut.
    pub(crate) fn heal(&mut self, cut: CutId) {
        self.net.heal(cut);
        self.update_cut_off();
    }

    /// Makes one host lossy for a while.
    pub(crate) fn lossy(&mut self, slot: usize, loss: f64, lasting: Duration) {
        let host = self.slots[slot].host;
        self.counters.lossy_hosts += 1;
        self.net.set_loss(host, loss);
        self.schedule(lasting, Event::Clean(host));
    }

    /// Makes the whole network bad for a while, or until the weather changes again.
    pub(crate) fn weather(&mut self, weather: Weather, lasting: Duration) {
        self.weathers += 1;
        self.net.weather = weather;
        self.schedule(lasting, Event::Clear(self.weathers));
    }

    /// Ends the weather of this number, unless another one has come.
    pub(crate) fn clear(&mut self, weather: u64) {
        if self.weathers == weather {
            self.net.weather = Weather::default();
        }
    }

    /// Ends all faults. What is dead stays dead.
    pub(crate) fn calm(&mut self) {
        self.note("calm");
        self.net.calm();
        let ids: Vec<_> = self.processes.keys().copied().collect();
        for id in ids {
            self.resume(id);
        }
        self.update_cut_off();
        self.see(&Seen::Calm);
    }

    fn hosts(&self, slots: &[usize]) -> BTreeSet<HostId> {
        let hosts = slots.iter().map(|slot| self.slots[*slot].host);
        hosts.collect()
    }

    fn set_pace(&mut self, slot: usize, pace: Pace, lasting: Duration) -> bool {
        let Some(process) = self.slots[slot]
            .process
            .and_then(|id| self.processes.get_mut(&id))
        else {
            return false;
        };
        if process.pace != Pace::Normal {
            return false;
        }
        process.pace = pace;
        let id = process.id;
        self.note(&format!("{id}: {pace:?} for {lasting:?}"));
        self.schedule(lasting, Event::Normal(id));
        self.update_cut_off();
        true
    }
}
