//! Joining through seeds, healing for ever, leaving.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidings_api::Freshness;

use super::member::{Member, MemberState};
use super::timer::Timer;
use super::{Engine, Event, Route};
use crate::wire::Message;
use crate::wire::user_events::Streams;

/// Time to the first retry of a join; doubles up to [`RETRY_MAX`], jittered.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(250);

const RETRY_MAX: Duration = Duration::from_secs(10);

/// Seeds asked at one time: one may be down, three seldom are.
const JOIN_FANOUT: usize = 3;

/// Time from a join to the first look at what was missed meanwhile; doubles with each look, jittered.
///
/// Where many join at once, each hears of the later ones by a push, a datagram that may be lost, and the
/// next probe that would notice it may be a second away.
const CATCH_UP_FIRST: Duration = Duration::from_millis(100);

/// Looks before probes do the rest, which are as far apart by then.
const CATCH_UPS: u32 = 4;

/// Every so many heal rounds the seeds are resolved again: with the default interval once a minute.
const HEALS_PER_RESOLVE: u32 = 12;

/// Members that should confirm a leave, and how many are told in a round.
const LEAVE_CONFIRMATIONS: usize = 3;
const LEAVE_FANOUT: usize = 5;

/// Time between rounds of telling.
const LEAVE_RETRY: Duration = Duration::from_millis(50);

/// How far joining has come.
#[derive(Debug, Default)]
pub(super) struct Join {
    seeds: Vec<SocketAddr>,
    joined: bool,
    retries: u32,
    catch_ups: u32,
    heals: u32,
}

/// A leave that is under way.
#[derive(Debug)]
pub(super) struct Leave {
    deadline: Instant,
    needed: usize,
    asked: BTreeMap<u64, u64>,
    confirmed: BTreeSet<u64>,
    /// Whether events were sent that nobody is known to have.
    unheard: bool,
    /// What the others are told.
    farewell: Vec<u8>,
    done: bool,
}

impl Leave {
    fn is_through(&self) -> bool {
        self.confirmed.len() >= self.needed && !self.unheard
    }
}

impl Engine {
    /// The seeds, resolved. None but this member itself, or none at all: it starts alone.
    pub fn handle_seeds(&mut self, now: Instant, seeds: &[SocketAddr]) {
        if self.leave.is_some() {
            return;
        }
        let me = self.identity.address;
        let others: BTreeSet<_> = seeds.iter().copied().filter(|seed| *seed != me).collect();
        self.join.seeds = others.into_iter().collect();
        if self.join.seeds.is_empty() {
            self.caught_up_alone();
            self.joined(now);
        }
        self.ask_seeds(now);
    }

    /// Takes leave: says so to a few members, who pass it on, and waits for some to confirm.
    pub fn leave(&mut self, now: Instant) {
        if self.leave.is_some() {
            return;
        }
        if !self.user_events.fresh.is_empty() {
            // Sooner than anybody can ask for them.
            self.push(now);
        }
        let unheard = self.has_last_words(now);
        self.members.change(self.me, &mut self.rng, |me| {
            me.state = MemberState::Left;
            me.since = now;
        });
        self.index_member(self.me);
        self.index_records(self.me);
        self.timers.clear();
        self.broadcasts.clear();
        self.fresh.clear();
        self.user_events.queue.clear();
        let others = self.members.others().len();
        let farewell = self.farewell();
        self.tell_all(&farewell);
        self.leave = Some(Leave {
            deadline: now + self.config.leave_timeout,
            needed: others.min(LEAVE_CONFIRMATIONS),
            asked: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            unheard,
            farewell,
            done: false,
        });
        self.announce_leave(now);
    }

    /// Whether the first seed has answered, or there was none to ask.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.join.joined
    }

    pub(super) fn joined(&mut self, now: Instant) {
        if self.join.joined {
            return;
        }
        self.join.joined = true;
        self.timers.cancel(Timer::Join);
        self.timers
            .set_if_unset(Timer::Heal, now + self.config.heal_interval);
        self.events.push_back(Event::Joined);
        self.events.push_back(Event::Freshness(Freshness::Live));
        self.contact_joined();
        self.arm_catch_up(now);
    }

    /// Syncs with the neighbour, to which a link is open anyway, unless somebody agrees already.
    pub(super) fn catch_up(&mut self, now: Instant) {
        let neighbour = self.sentinels.ids().find_map(|id| self.members.find(id));
        if let Some(address) = neighbour.map(|member| member.address) {
            self.start_sync(address);
            self.ask_for_replay(now, address);
        }
        self.join.catch_ups += 1;
        if self.join.catch_ups < CATCH_UPS {
            self.arm_catch_up(now);
        }
    }

    /// Somebody agrees in everything: nothing was missed.
    pub(super) fn caught_up(&mut self) {
        if self.join.catch_ups > 0 {
            self.timers.cancel(Timer::CatchUp);
        }
    }

    fn arm_catch_up(&mut self, now: Instant) {
        let pause = CATCH_UP_FIRST * (1 << self.join.catch_ups);
        let pause = pause.mul_f64(0.75 + self.rng.f64() / 2.0);
        self.timers.set(Timer::CatchUp, now + pause);
    }

    /// No seed has answered yet: have the seeds resolved again, and ask those that are known.
    pub(super) fn retry_join(&mut self, now: Instant) {
        if self.join.joined {
            return;
        }
        self.events.push_back(Event::SeedsWanted);
        self.ask_seeds(now);
        let backoff = RETRY_FIRST
            .saturating_mul(1 << self.join.retries.min(16))
            .min(RETRY_MAX);
        self.join.retries += 1;
        self.timers
            .set(Timer::Join, now + backoff.mul_f64(0.5 + self.rng.f64()));
    }

    /// Tries to reach somebody who is dead, and now and then a seed that is no member: no split is
    /// permanent.
    pub(super) fn heal(&mut self, now: Instant) {
        let interval = self.config.heal_interval.mul_f64(0.5 + self.rng.f64());
        self.timers.set(Timer::Heal, now + interval);
        if self.knocks_due {
            self.knock_on_gone(now);
        }
        let dead = self
            .members
            .iter()
            .filter(|(_, m)| m.state == MemberState::Dead);
        let dead: Vec<_> = dead.map(|(id, member)| (id, member.proven)).collect();
        // One of those that were heard once, and one that may have been invented.
        for proven in [true, false] {
            let dead = dead.iter().filter(|(_, heard)| *heard == proven);
            let dead: Vec<u64> = dead.map(|(id, _)| *id).collect();
            if let Some(id) = self.rng.choice(dead) {
                self.knock(id);
            }
        }
        self.join.heals += 1;
        if self.join.heals.is_multiple_of(HEALS_PER_RESOLVE) || self.members.others().is_empty() {
            self.events.push_back(Event::SeedsWanted);
        }
    }

    pub(super) fn announce_leave(&mut self, now: Instant) {
        let Some(leave) = &self.leave else { return };
        if leave.done {
            return;
        }
        if leave.is_through() || now >= leave.deadline {
            self.finish_leave();
            return;
        }
        let (deadline, confirmed) = (leave.deadline, leave.confirmed.clone());
        let (unheard, farewell) = (leave.unheard, leave.farewell.clone());
        let last_words = match unheard {
            true => self.last_words(now),
            false => Vec::new(),
        };
        // Suspects too: they may be there, and where all are suspect nobody else is left to tell.
        let open =
            |id: u64, member: &Member| member.is_present() && (unheard || !confirmed.contains(&id));
        for id in self.members.sample(LEAVE_FANOUT, &mut self.rng, open) {
            let sequence = self.next_sequence();
            let Some(member) = self.members.find(id) else {
                continue;
            };
            let (route, target) = (Route::Datagram(member.address), member.start(id));
            let digest = self.items.digest();
            let ping = Message::Ping {
                sequence,
                target,
                digest,
            };
            let mut frame = self.frame(&last_words);
            frame.extend_from_slice(&farewell);
            ping.encode(&mut frame);
            self.transmit(route, frame);
            if let Some(leave) = &mut self.leave {
                leave.asked.insert(sequence, id);
            }
        }
        self.timers
            .set(Timer::Leave, (now + LEAVE_RETRY).min(deadline));
    }

    /// What still counts on the way out: confirmations, and who asks for events that it misses.
    pub(super) fn handle_while_leaving(
        &mut self,
        now: Instant,
        route: Route,
        sender: u64,
        message: Message,
    ) {
        match message {
            Message::Ack { sequence, .. } => self.confirm_leave(now, sequence, sender),
            Message::Streams(digest @ Streams::Digest(_)) => {
                self.handle_streams(now, route, sender, digest);
            }
            // By a link, as ever: the answer is long, and the address of a datagram anybody's claim.
            Message::Streams(want @ Streams::Want(_)) if matches!(route, Route::Reply(_)) => {
                self.handle_streams(now, route, sender, want);
            }
            _ => {}
        }
    }

    fn confirm_leave(&mut self, now: Instant, sequence: u64, sender: u64) {
        let is_heard = self.hears_agreement(now);
        let Some(leave) = &mut self.leave else { return };
        if leave.asked.get(&sequence) == Some(&sender) {
            leave.confirmed.insert(sender);
            leave.unheard &= !is_heard;
            if leave.is_through() {
                self.finish_leave();
            }
        }
    }

    fn finish_leave(&mut self) {
        if let Some(leave) = &mut self.leave
            && !leave.done
        {
            leave.done = true;
            self.timers.clear();
            self.events.push_back(Event::Left);
        }
    }

    /// Syncs with some of the seeds that are not members yet.
    pub(super) fn ask_seeds(&mut self, now: Instant) {
        let present = |seed: &SocketAddr| {
            let member = self.members.at(*seed).and_then(|id| self.members.find(id));
            member.is_some_and(Member::is_present)
        };
        let mut strangers: Vec<_> = self
            .join
            .seeds
            .iter()
            .copied()
            .filter(|seed| !present(seed))
            .collect();
        if strangers.is_empty() && !self.join.joined {
            // Members already, but they have not answered us yet.
            strangers.clone_from(&self.join.seeds);
        }
        self.rng.shuffle(&mut strangers);
        for seed in strangers.into_iter().take(JOIN_FANOUT) {
            self.start_sync(seed);
            self.ask_for_replay(now, seed);
        }
    }

    /// Pings a member that is gone and tells it what is said, so that it can refute if it is not; and that
    /// this one is here, of which the same may be said there.
    pub(super) fn knock(&mut self, id: u64) {
        let sequence = self.next_sequence();
        let Some(member) = self.members.find(id) else {
            return;
        };
        let (route, target) = (Route::Datagram(member.address), member.start(id));
        let accuse = member.to_accuse(id).map(Message::Accuse);
        let ping = Message::Ping {
            sequence,
            target,
            digest: self.items.digest(),
        };
        let here = Message::Alive(self.members.me().to_alive());
        let messages: Vec<_> = accuse.into_iter().chain([here, ping]).collect();
        let frame = self.frame(&messages);
        self.transmit(route, frame);
    }
}
