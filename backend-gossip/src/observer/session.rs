//! An observer's side of its link: whom it listens to, what it subscribes to, and how good its views
//! are. Pure, like the engine: inputs are `handle_*`, outputs are `poll_*`, `now` and a seed come in.
//!
//! One member is listened to at a time. It is given up when its link ends, when it is silent for too
//! long, or when it is cut off itself and others may not be; then the next one is tried, of the seeds and
//! the members that were named, in random order. Views stay what they are meanwhile, and are stale once
//! that takes longer than a moment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidings_api::{Freshness, Instance, Selector, ServiceName};

use super::replica::{Holds, Replica};
use crate::wire::limits::{
    OBSERVED_OWNERS_ASKED_MAX, OBSERVED_SELECTORS_MAX, OBSERVER_UNREAD_BYTES_MAX,
    OBSERVER_UNREAD_FRAMES_MAX,
};
use crate::wire::observe::{Observing, Standing, Vouch};
use crate::wire::{Header, Message, Reader};

/// Probe intervals of silence after which the member is asked whether it is there.
const ASK_PROBES: u32 = 2;
/// Probe intervals of silence after which it is given up.
const SILENCE_PROBES: u32 = 5;
/// Probe intervals for which views stay live while another member is looked for.
const GRACE_PROBES: u32 = 1;
/// How long a member has to answer for the first time: to open a connection, and a round trip.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Pause after all members were tried in vain; doubles up to the last, jittered.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);
/// Rounds in vain after which the seeds are resolved again.
const ROUNDS_PER_RESOLVE: u32 = 2;
/// Questions after which the addresses of members are asked for again.
const ASKS_PER_MEMBERS: u32 = 16;
/// Longest time instances stay in the views, stale, whose owners the present member has never heard of: a
/// cluster that was started anew is together again by then.
const UNKNOWN_HOLD_MAX: Duration = Duration::from_secs(30);
/// Time between two looks at what is in doubt.
const DOUBTS_INTERVAL: Duration = Duration::from_secs(1);
/// Why views are stale where members answer and serve too many already.
const NO_ROOM: &str = "each member that answers has as many observers as it may";

/// What an observer goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionConfig {
    pub(crate) cluster: u32,
    pub(crate) probe_interval: Duration,
    pub(crate) loss_hold: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Open a link to this address, in place of the present one.
    Connect(SocketAddr),
    /// Send this over the link.
    Send(Vec<u8>),
    /// Close the link.
    Disconnect,
    /// Resolve the seeds again.
    ResolveSeeds,
}

/// The state of an observer.
#[derive(Debug)]
pub(crate) struct Session {
    config: SessionConfig,
    rng: Rng,
    header: Header,
    replica: Replica,
    seeds: Vec<SocketAddr>,
    /// Members that were named by others.
    members: Vec<SocketAddr>,
    /// Whom to try next.
    round: VecDeque<SocketAddr>,
    rounds: u32,
    /// When to try the next.
    pause: Option<Instant>,
    /// Members in a row that were cut off themselves.
    stale_ones: u32,
    /// How many of the instances shown were in doubt at the last look.
    doubted: usize,
    watched: BTreeSet<Selector>,
    /// Those of which all was heard at least once.
    known: BTreeSet<Selector>,
    link: Option<Link>,
    /// Whether the member that answered last has no room for another observer.
    full: bool,
    /// Until when views stay live without a member.
    grace: Instant,
    freshness: Freshness,
    crash_bound: Option<Duration>,
    steps: VecDeque<Step>,
    failovers: u64,
}

/// The link to a member.
#[derive(Debug)]
struct Link {
    to: SocketAddr,
    opened: Instant,
    /// When a frame came last.
    heard: Option<Instant>,
    asked: Instant,
    asks: u32,
    standing: Option<Standing>,
    /// Since when its word is stale, while it is.
    stale: Option<Instant>,
    /// Subscriptions, and whether all of each was heard.
    subscribed: BTreeMap<Selector, bool>,
    /// Since when all was heard and the member vouches for it.
    settled: Option<Instant>,
    /// When to look at doubts again.
    doubts: Option<Instant>,
    read: Traffic,
    reported: Traffic,
}

#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    frames: u64,
    bytes: u64,
}

impl Session {
    pub(crate) fn new(now: Instant, config: SessionConfig, rng_seed: u64) -> Self {
        let mut rng = Rng::with_seed(rng_seed);
        let header = Header {
            cluster: config.cluster,
            sender: rng.u64(..),
        };
        Self {
            config,
            rng,
            header,
            replica: Replica::default(),
            seeds: Vec::new(),
            members: Vec::new(),
            round: VecDeque::new(),
            rounds: 0,
            pause: Some(now),
            stale_ones: 0,
            doubted: 0,
            watched: BTreeSet::new(),
            known: BTreeSet::new(),
            link: None,
            full: false,
            grace: now,
            freshness: stale(now, "no member has answered yet"),
            crash_bound: None,
            steps: VecDeque::new(),
            failovers: 0,
        }
    }

    // Inputs.

    /// The seeds' addresses.
    pub(crate) fn handle_seeds(&mut self, now: Instant, seeds: &[SocketAddr]) {
        let new = seeds.iter().any(|seed| !self.seeds.contains(seed));
        self.seeds = seeds.to_vec();
        if new && self.link.is_none() {
            (self.pause, self.rounds) = (Some(now), 0);
        }
        self.advance(now);
    }

    /// A frame has come on the link that was asked for last.
    pub(crate) fn handle_frame(&mut self, now: Instant, frame: &[u8]) {
        let Some(link) = &mut self.link else { return };
        let mut reader = Reader::new(frame);
        let header = Header::decode(&mut reader);
        if header.is_ok_and(|header| header.cluster == self.config.cluster) {
            link.heard = Some(now);
            link.read.frames += 1;
            link.read.bytes += frame.len() as u64;
            while !reader.is_empty() {
                match Message::decode(&mut reader) {
                    Ok(Some(message)) => self.handle_message(now, message),
                    Ok(None) => {}
                    Err(_) => {
                        self.give_up(now);
                        break;
                    }
                }
            }
        } else {
            self.give_up(now);
        }
        self.report_read();
        self.advance(now);
    }

    /// The link has ended, or could not be opened.
    pub(crate) fn handle_link_ended(&mut self, now: Instant) {
        if self.link.is_some() {
            self.lost(now);
        }
        self.advance(now);
    }

    /// A deadline is reached.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    // Commands.

    /// Wants a selector from now on.
    pub(crate) fn watch(&mut self, selector: Selector) {
        if self.is_complete(&Selector::All) {
            self.known.insert(selector.clone());
        }
        self.watched.insert(selector);
        self.subscribe();
    }

    /// No longer does.
    pub(crate) fn unwatch(&mut self, selector: &Selector) {
        if self.watched.remove(selector) {
            self.known.remove(selector);
            self.subscribe();
            let watched = &self.watched;
            let link = self.link.as_ref();
            let all = watched.contains(&Selector::All)
                || link.is_some_and(|link| link.subscribed.contains_key(&Selector::All));
            if !all {
                let selected = |service: &ServiceName| Selector::Service(service.clone());
                self.replica
                    .keep(|service| watched.contains(&selected(service)));
            }
        }
    }

    // Outputs.

    pub(crate) fn poll_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let interval = self.config.probe_interval;
        let grace = self.is_live().then_some(self.grace);
        let release = self.replica.next_release();
        let Some(link) = &self.link else {
            return [self.pause, grace, release].into_iter().flatten().min();
        };
        let lost = match link.heard {
            None => link.opened + ANSWER_TIMEOUT,
            Some(heard) => heard + interval * SILENCE_PROBES,
        };
        let ask = link.heard.max(Some(link.asked));
        let due = [
            Some(lost),
            ask.map(|last| last + interval * ASK_PROBES),
            link.settled.and(link.doubts),
            link.settled.is_none().then_some(grace).flatten(),
            link.stale.and(self.pause),
            release,
        ];
        due.into_iter().flatten().min()
    }

    /// The services that may show something else now.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<ServiceName> {
        self.replica.take_changed()
    }

    // Getters.

    /// What is shown of a selector.
    pub(crate) fn view(&self, selector: &Selector) -> Vec<Arc<Instance>> {
        self.replica.view(selector)
    }

    /// How fresh all views are that are not unknown.
    pub(crate) fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// Whether all of a selector was heard at least once.
    pub(crate) fn is_known(&self, selector: &Selector) -> bool {
        self.known.contains(selector)
    }

    /// Whether a view of the selector is whole now: not while another member goes through what it has.
    pub(crate) fn is_whole(&self, selector: &Selector) -> bool {
        let heard = self.link.as_ref().and_then(|link| link.heard);
        heard.is_none() || self.is_complete(selector) || self.is_complete(&Selector::All)
    }

    /// The member that is listened to.
    pub(crate) fn member(&self) -> Option<SocketAddr> {
        let link = self.link.as_ref()?;
        link.heard.and(Some(link.to))
    }

    /// How long a crash takes at most to be seen, by the member's word.
    pub(crate) fn crash_bound(&self) -> Option<Duration> {
        self.crash_bound
    }

    /// How often another member had to be looked for.
    pub(crate) fn failovers(&self) -> u64 {
        self.failovers
    }

    /// Records kept.
    pub(crate) fn records(&self) -> usize {
        self.replica.len()
    }

    fn handle_message(&mut self, now: Instant, message: Message) {
        match message {
            Message::Observing(Observing::Vouch(vouch)) => self.handle_vouch(now, vouch),
            Message::Observing(Observing::Complete { selector, same }) => {
                self.handle_complete(now, &selector, same);
            }
            Message::Observing(Observing::Owner(owner)) => self.replica.handle_owner(now, owner),
            Message::Observing(Observing::Members(members)) => self.members = members,
            Message::Record(record) => self.replica.handle_record(record),
            // What observers say to members, and members to each other.
            _ => {}
        }
    }

    fn handle_vouch(&mut self, now: Instant, vouch: Vouch) {
        self.crash_bound = Some(Duration::from_millis(vouch.crash_bound_ms));
        let Some(link) = &mut self.link else { return };
        match &vouch.standing {
            Standing::Live => {
                link.stale = None;
                self.stale_ones = 0;
            }
            Standing::Stale { .. } => {
                link.settled = None;
                if link.stale.is_none() {
                    link.stale = Some(now);
                    // Others may hear more. They are tried after a moment, so that a cluster which
                    // falls silent isn't run over by its observers.
                    let patience = self.config.probe_interval * (1 << self.stale_ones.min(4));
                    self.pause = Some(now + patience.mul_f64(1.0 + self.rng.f64()));
                    self.stale_ones = self.stale_ones.saturating_add(1);
                }
            }
            Standing::Full => {
                self.full = true;
                self.give_up(now);
                return;
            }
        }
        self.full = false;
        link.standing = Some(vouch.standing);
        self.settle(now);
    }

    fn handle_complete(&mut self, now: Instant, selector: &Selector, same: bool) {
        let Some(link) = &mut self.link else { return };
        let Some(complete) = link.subscribed.get_mut(selector) else {
            return;
        };
        *complete = true;
        if same {
            self.replica.confirm(selector);
        }
        for watched in &self.watched {
            if watched == selector || *selector == Selector::All {
                self.known.insert(watched.clone());
            }
        }
        self.settle(now);
    }

    /// Notes when the member vouches for everything that was heard before.
    fn settle(&mut self, now: Instant) {
        let (known, watched) = (&self.known, &self.watched);
        let Some(link) = &mut self.link else { return };
        let complete = |selector: &Selector| link.subscribed.get(selector) == Some(&true);
        let all = watched
            .iter()
            .filter(|selector| known.contains(selector))
            .all(|selector| complete(selector) || complete(&Selector::All));
        if all && link.standing == Some(Standing::Live) && link.settled.is_none() {
            link.settled = Some(now);
            link.doubts = Some(now);
            self.rounds = 0;
            self.doubted = self.replica.doubted();
        }
    }

    /// Brings everything up to now.
    fn advance(&mut self, now: Instant) {
        self.tend_link(now);
        self.tend_doubts(now);
        self.replica.release_overdue(now);
        if self.link.is_none() {
            self.next_member(now);
        }
        self.refresh(now);
    }

    fn tend_link(&mut self, now: Instant) {
        let interval = self.config.probe_interval;
        let Some(link) = &mut self.link else { return };
        let deadline = match link.heard {
            None => link.opened + ANSWER_TIMEOUT,
            Some(heard) => heard + interval * SILENCE_PROBES,
        };
        if deadline <= now {
            self.give_up(now);
            return;
        }
        if link.stale.is_some() && self.pause.is_some_and(|pause| pause <= now) {
            // Stays where nobody else is known.
            let to = link.to;
            if self.candidates().iter().any(|other| *other != to) {
                self.give_up(now);
            } else {
                self.pause = Some(now + PAUSE_LAST);
            }
            return;
        }
        let last = link.heard.unwrap_or(link.opened).max(link.asked);
        if last + interval * ASK_PROBES <= now {
            link.asked = now;
            link.asks += 1;
            let members = link.asks.is_multiple_of(ASKS_PER_MEMBERS);
            self.report(true, members);
        }
    }

    /// Asks for the owners in doubt, and gives up what has been for long.
    fn tend_doubts(&mut self, now: Instant) {
        let Some(link) = &mut self.link else { return };
        let (Some(settled), Some(_)) = (link.settled, link.doubts.filter(|due| *due <= now)) else {
            return;
        };
        let unknown = self.config.loss_hold.min(UNKNOWN_HOLD_MAX);
        let known = self.crash_bound.unwrap_or_default().min(unknown);
        let ask_again = self.replica.resolve(now, settled, Holds { known, unknown });
        let next = now + DOUBTS_INTERVAL.min(self.config.probe_interval / 4);
        link.doubts = self.replica.has_doubts().then_some(next);
        self.doubted = self.replica.doubted();
        if ask_again {
            link.subscribed.clear();
            self.subscribe();
        } else {
            let owners = self.replica.asks().into_iter();
            let owners: Vec<_> = owners.take(OBSERVED_OWNERS_ASKED_MAX).collect();
            if !owners.is_empty() {
                self.send(&[Observing::Ask(owners)]);
            }
        }
    }

    /// Leaves the present member for another one.
    fn give_up(&mut self, now: Instant) {
        self.steps.push_back(Step::Disconnect);
        self.lost(now);
    }

    fn lost(&mut self, now: Instant) {
        let Some(link) = self.link.take() else { return };
        if link.settled.is_some() {
            // It was well a moment ago, so the others are likely to be.
            self.grace = now + self.config.probe_interval * GRACE_PROBES;
            self.round = self.shuffled(Some(link.to));
            self.rounds = 0;
            self.failovers += 1;
        }
        self.pause = Some(now);
    }

    /// Tries the next member, or waits for the next round.
    fn next_member(&mut self, now: Instant) {
        if self.pause.is_some_and(|pause| pause > now) {
            return;
        }
        if self.round.is_empty() {
            self.round = self.shuffled(None);
            let pause = PAUSE_FIRST.saturating_mul(1 << self.rounds.min(8));
            let pause = pause.min(PAUSE_LAST).mul_f64(0.5 + self.rng.f64());
            self.rounds = self.rounds.saturating_add(1);
            self.pause = Some(now + pause);
            if self.rounds.is_multiple_of(ROUNDS_PER_RESOLVE) || self.round.is_empty() {
                self.steps.push_back(Step::ResolveSeeds);
            }
            if self.rounds > 1 || self.round.is_empty() {
                return;
            }
        }
        let Some(to) = self.round.pop_front() else {
            return;
        };
        self.pause = None;
        self.replica.doubt_all();
        self.link = Some(Link {
            to,
            opened: now,
            heard: None,
            asked: now,
            asks: 0,
            standing: None,
            stale: None,
            subscribed: BTreeMap::new(),
            settled: None,
            doubts: None,
            read: Traffic::default(),
            reported: Traffic::default(),
        });
        self.steps.push_back(Step::Connect(to));
        self.report(true, true);
        self.subscribe();
    }

    fn candidates(&self) -> BTreeSet<SocketAddr> {
        self.seeds.iter().chain(&self.members).copied().collect()
    }

    /// All that are known, in random order, one of them last.
    fn shuffled(&mut self, last: Option<SocketAddr>) -> VecDeque<SocketAddr> {
        let mut all = self.candidates();
        let last = last.filter(|last| all.remove(last));
        let mut round: Vec<_> = all.into_iter().collect();
        self.rng.shuffle(&mut round);
        round.into_iter().chain(last).collect()
    }

    /// Brings the subscriptions to what is watched.
    fn subscribe(&mut self) {
        let Some(link) = &mut self.link else { return };
        let too_many = self.watched.len() > OBSERVED_SELECTORS_MAX;
        let wanted = if too_many || self.watched.contains(&Selector::All) {
            BTreeSet::from([Selector::All])
        } else {
            self.watched.clone()
        };
        let mut messages = Vec::new();
        let subscribed: BTreeSet<_> = link.subscribed.keys().cloned().collect();
        // What is no longer wanted first, so that there is room.
        for selector in subscribed.difference(&wanted) {
            link.subscribed.remove(selector);
            messages.push(Observing::Unsubscribe(selector.clone()));
        }
        for selector in wanted.difference(&subscribed) {
            link.subscribed.insert(selector.clone(), false);
            messages.push(Observing::Subscribe {
                digest: self.replica.digest(selector),
                selector: selector.clone(),
            });
        }
        if !messages.is_empty() {
            self.send(&messages);
        }
    }

    /// Says what was read once that is a good part of what may be unread.
    fn report_read(&mut self) {
        let Some(link) = &self.link else { return };
        let frames = link.read.frames - link.reported.frames;
        let bytes = link.read.bytes - link.reported.bytes;
        if frames >= OBSERVER_UNREAD_FRAMES_MAX as u64 / 4
            || bytes >= OBSERVER_UNREAD_BYTES_MAX as u64 / 4
        {
            self.report(false, false);
        }
    }

    fn report(&mut self, vouch: bool, members: bool) {
        let Some(link) = &mut self.link else { return };
        link.reported = link.read;
        let Traffic { frames, bytes } = link.read;
        self.send(&[Observing::Report {
            frames,
            bytes,
            vouch,
            members,
        }]);
    }

    fn send(&mut self, messages: &[Observing]) {
        let mut frame = self.header.to_frame();
        for message in messages {
            Message::Observing(message.clone()).encode(&mut frame);
        }
        self.steps.push_back(Step::Send(frame));
    }

    fn is_complete(&self, selector: &Selector) -> bool {
        let link = self.link.as_ref();
        link.is_some_and(|link| link.subscribed.get(selector) == Some(&true))
    }

    fn is_live(&self) -> bool {
        self.freshness.is_live()
    }

    /// Since when views are stale where they are from now on, or were already.
    fn stale_since(&self, now: Instant) -> Instant {
        match self.freshness {
            Freshness::Live => now,
            Freshness::Stale { since, .. } => since,
        }
    }

    /// How good the views are now.
    fn refresh(&mut self, now: Instant) {
        let served = self.link.as_ref().and_then(|link| link.settled);
        let grace = self.config.probe_interval * GRACE_PROBES;
        let freshness = match (served, self.link.as_ref()) {
            (Some(settled), _) => match self.doubted {
                0 => Freshness::Live,
                _ if self.is_live() && now < settled + grace => Freshness::Live,
                _ => stale(
                    settled,
                    "a member that was asked doesn't know of all that is shown",
                ),
            },
            (None, Some(link)) if link.stale.is_some() => match &link.standing {
                Some(Standing::Stale { for_ms, reason }) => {
                    let since = now.checked_sub(Duration::from_millis(*for_ms));
                    stale(
                        since.unwrap_or(now),
                        format!("the member that is asked: {reason}"),
                    )
                }
                _ => self.freshness.clone(),
            },
            _ if self.is_live() && now < self.grace => Freshness::Live,
            // While it isn't known yet how good the next one is, the last reason stands.
            (None, Some(_)) if !self.is_live() => self.freshness.clone(),
            (None, None) if self.full => stale(self.stale_since(now), NO_ROOM),
            _ if self.known.is_empty() && !self.is_live() => self.freshness.clone(),
            _ => stale(self.stale_since(now), "no member of the cluster is heard"),
        };
        if freshness != self.freshness {
            self.freshness = freshness;
        }
    }
}

fn stale(since: Instant, reason: impl AsRef<str>) -> Freshness {
    Freshness::Stale {
        since,
        reason: reason.as_ref().into(),
    }
}
