//! The members' side of observers: who looks through this member, at what, and how far each was told.
//!
//! An observer is a link with subscriptions, and nothing else: it is in no member table, and what it says
//! changes nothing but what it is sent. Each subscription begins with a walk over what there is, in
//! pieces of what the observer has room for; what changes is encoded once and goes to all who
//! subscribed to it, whether or not they are still walking, since everything merges by the greater
//! stamp. Who has no room misses changes, and walks anew once it has: what is kept for a slow reader is a
//! place in a walk, not a queue.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Freshness, InstanceId, InstanceKey, Selector, ServiceName};

use super::items::Place;
use super::member::Member;
use super::timer::Timer;
use super::walk::Mark;
use super::{Engine, Event, LinkId, Route};
use crate::wire::Message;
use crate::wire::limits::{
    LINK_FRAME_BYTES_TARGET, OBSERVED_ADDRESSES_MAX, OBSERVED_REASON_BYTES_MAX,
    OBSERVED_SELECTORS_MAX, OBSERVER_UNREAD_BYTES_MAX, OBSERVER_UNREAD_FRAMES_MAX, OBSERVERS_MAX,
};
use crate::wire::message::Record;
use crate::wire::observe::{self, Observing, Owner, Standing, Vouch};

/// Shortest time between two rounds of telling: the first change goes out at once, a storm goes out
/// together. It bounds what changes cost a member to a hundred frames a second and observer.
const TELL_INTERVAL: Duration = Duration::from_millis(10);

/// One frame for several observers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Over these links.
    pub links: Vec<LinkId>,
    /// Its bytes.
    pub frame: Arc<[u8]>,
}

/// All observers of this member.
#[derive(Debug, Default)]
pub(super) struct Observers {
    links: BTreeMap<LinkId, Observer>,
    by_selector: BTreeMap<Selector, BTreeSet<LinkId>>,
    /// What has changed since the observers were told last, where anybody wants to know.
    news: BTreeMap<ServiceName, News>,
    told: Option<Instant>,
    /// How good this member's word was when they were told last.
    vouched: Option<Freshness>,
    deliveries: VecDeque<Delivery>,
}

/// What has changed in a service.
#[derive(Debug, Default)]
struct News {
    owners: BTreeSet<u64>,
    records: BTreeSet<(InstanceId, u64)>,
}

/// One observer.
#[derive(Debug, Default)]
struct Observer {
    /// Where the walk over each is; `None` after its end.
    subscriptions: BTreeMap<Selector, Option<Walk>>,
    sent: Traffic,
    read: Traffic,
    /// Whether something was not sent for want of room.
    missed: bool,
}

/// Where a walk is.
#[derive(Clone, Debug, Default)]
struct Walk {
    /// The record it has come to; before all of them without one.
    last: Option<Mark>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    frames: u64,
    bytes: u64,
}

impl Observers {
    fn wants(&self, service: &ServiceName) -> bool {
        !self.by_selector.is_empty()
            && (self.by_selector.contains_key(&Selector::All)
                || self
                    .by_selector
                    .contains_key(&Selector::Service(service.clone())))
    }

    pub(super) fn contains(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// Notes that a record has changed; with it its owner's state is told.
    pub(super) fn note_record(&mut self, owner: u64, key: &InstanceKey) {
        if self.wants(key.service()) {
            let news = self.news.entry(key.service().clone()).or_default();
            news.owners.insert(owner);
            news.records.insert((key.id().clone(), owner));
        }
    }

    /// Notes that an owner of a record has changed.
    pub(super) fn note_owner(&mut self, owner: u64, service: &ServiceName) {
        if self.wants(service) {
            let news = self.news.entry(service.clone()).or_default();
            news.owners.insert(owner);
        }
    }

    fn subscribe(&mut self, link: LinkId, selector: Selector, walk: Option<Walk>) {
        let observer = self.links.entry(link).or_default();
        observer.subscriptions.insert(selector.clone(), walk);
        self.by_selector.entry(selector).or_default().insert(link);
    }

    fn unsubscribe(&mut self, link: LinkId, selector: &Selector) {
        if let Some(observer) = self.links.get_mut(&link) {
            observer.subscriptions.remove(selector);
        }
        if let Some(links) = self.by_selector.get_mut(selector) {
            links.remove(&link);
            if links.is_empty() {
                self.by_selector.remove(selector);
            }
        }
    }

    fn remove(&mut self, link: LinkId) {
        let Some(observer) = self.links.get(&link) else {
            return;
        };
        let selectors: Vec<_> = observer.subscriptions.keys().cloned().collect();
        for selector in &selectors {
            self.unsubscribe(link, selector);
        }
        self.links.remove(&link);
        if self.links.is_empty() {
            *self = Self {
                deliveries: std::mem::take(&mut self.deliveries),
                ..Self::default()
            };
        }
    }

    /// Those who subscribed to a service, or to all.
    fn subscribers(&self, service: &ServiceName) -> Vec<LinkId> {
        let selectors = [Selector::Service(service.clone()), Selector::All];
        let links = selectors
            .iter()
            .filter_map(|selector| self.by_selector.get(selector))
            .flatten();
        let links: BTreeSet<_> = links.copied().collect();
        links.into_iter().collect()
    }

    /// Sends a frame to those of the links that have room; the others walk anew later.
    fn deliver(&mut self, links: impl IntoIterator<Item = LinkId>, frame: Vec<u8>) -> usize {
        let len = frame.len() as u64;
        let has_room = |link: &LinkId| {
            let Some(observer) = self.links.get_mut(link) else {
                return false;
            };
            let room = observer.has_room();
            if room {
                observer.sent.frames += 1;
                observer.sent.bytes += len;
            } else {
                observer.missed = true;
            }
            room
        };
        let links: Vec<_> = links.into_iter().filter(has_room).collect();
        let count = links.len();
        if count > 0 {
            let frame = frame.into();
            self.deliveries.push_back(Delivery { links, frame });
        }
        count
    }
}

impl Observer {
    fn has_room(&self) -> bool {
        let unread = |sent: u64, read: u64| sent.saturating_sub(read);
        unread(self.sent.bytes, self.read.bytes) < OBSERVER_UNREAD_BYTES_MAX as u64
            && unread(self.sent.frames, self.read.frames) < OBSERVER_UNREAD_FRAMES_MAX as u64
    }
}

impl Engine {
    /// Tells observers what has changed: once after each turn of inputs. Where it is too soon after the
    /// last time, [`poll_timeout`](Self::poll_timeout) says when.
    pub fn tell_observers(&mut self, now: Instant) {
        if self.observers.links.is_empty() {
            return;
        }
        let freshness = self.freshness();
        if self.observers.vouched.as_ref() != Some(&freshness) {
            self.observers.vouched = Some(freshness);
            let frame = self.frame(&[self.vouch(now)]);
            let links: Vec<_> = self.observers.links.keys().copied().collect();
            self.deliver(links, frame);
        }
        if self.observers.news.is_empty() {
            return;
        }
        let due = self.observers.told.map_or(now, |told| told + TELL_INTERVAL);
        if due > now && self.leave.is_none() {
            self.timers.set_if_unset(Timer::Observers, due);
            return;
        }
        self.timers.cancel(Timer::Observers);
        self.observers.told = Some(now);
        for (service, news) in std::mem::take(&mut self.observers.news) {
            let links = self.observers.subscribers(&service);
            for frame in self.frames_of(&service, &news) {
                self.deliver(links.iter().copied(), frame);
            }
        }
    }

    /// The next frame for observers.
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        self.observers.deliveries.pop_front()
    }

    /// A link is gone.
    pub fn handle_link_closed(&mut self, link: LinkId) {
        self.observers.remove(link);
    }

    /// The links of observers.
    pub fn observers(&self) -> impl Iterator<Item = LinkId> {
        self.observers.links.keys().copied()
    }

    /// What an observer says. What only members say to observers means nothing here.
    pub(super) fn handle_observing(&mut self, now: Instant, route: Route, message: Observing) {
        let Route::Reply(link) = route else {
            self.stats.foreign += 1;
            return;
        };
        let known = self.observers.contains(link);
        match message {
            Observing::Subscribe { selector, digest } => {
                self.handle_subscribe(now, link, selector, digest);
            }
            Observing::Unsubscribe(selector) if known => {
                self.observers.unsubscribe(link, &selector);
            }
            Observing::Report {
                frames,
                bytes,
                vouch,
                members,
            } => {
                if !self.admit_observer(now, link) {
                    return;
                }
                self.handle_read(now, link, Traffic { frames, bytes });
                let mut answer = Vec::new();
                if vouch {
                    answer.push(self.vouch(now));
                }
                if members {
                    answer.push(self.whereabouts());
                }
                if !answer.is_empty() {
                    let frame = self.frame(&answer);
                    self.deliver([link], frame);
                }
            }
            Observing::Ask(owners) if known => {
                let owners = owners.into_iter();
                let owners = owners
                    .filter(|id| !self.held.contains(*id))
                    .map(|id| self.owner(id).unwrap_or(Owner::unknown(id)));
                let owners: Vec<_> = owners
                    .map(|owner| Message::Observing(Observing::Owner(owner)))
                    .collect();
                let frame = self.frame(&owners);
                self.deliver([link], frame);
            }
            _ => self.stats.foreign += 1,
        }
    }

    /// Whether a link is an observer's, from now on at the latest.
    fn admit_observer(&mut self, now: Instant, link: LinkId) -> bool {
        if self.observers.contains(link) {
            return true;
        }
        if self.observers.len() >= OBSERVERS_MAX {
            self.stats.observers_refused += 1;
            let vouch = Message::Observing(Observing::Vouch(Vouch {
                standing: Standing::Full,
                crash_bound_ms: self.crash_bound_ms(),
            }));
            let members = self.whereabouts();
            let frame = self.frame(&[vouch, members]).into();
            let links = vec![link];
            self.observers
                .deliveries
                .push_back(Delivery { links, frame });
            self.events.push_back(Event::ObserverRefused(link));
            return false;
        }
        if self.observers.links.is_empty() {
            self.observers.vouched = Some(self.freshness());
        }
        self.observers.links.insert(link, Observer::default());
        self.events.push_back(Event::Observer(link));
        let frame = self.frame(&[self.vouch(now)]);
        self.deliver([link], frame);
        true
    }

    fn handle_subscribe(&mut self, now: Instant, link: LinkId, selector: Selector, digest: u64) {
        if !self.admit_observer(now, link) {
            return;
        }
        let subscriptions = self.observers.links.get(&link).map(|o| &o.subscriptions);
        let full = subscriptions.is_some_and(|subscriptions| {
            subscriptions.len() >= OBSERVED_SELECTORS_MAX && !subscriptions.contains_key(&selector)
        });
        if full {
            self.observers.remove(link);
            self.stats.observers_refused += 1;
            self.events.push_back(Event::ObserverRefused(link));
            return;
        }
        let observer = self.observers.links.get(&link);
        let same = observer.is_some_and(Observer::has_room)
            && self.held.is_empty()
            && digest == self.observed_digest(&selector);
        let walk = (!same).then(Walk::default);
        self.observers.subscribe(link, selector.clone(), walk);
        if same {
            let complete = Message::Observing(Observing::Complete { selector, same });
            let frame = self.frame(&[complete]);
            self.deliver([link], frame);
        } else {
            self.walk(link);
        }
    }

    fn handle_read(&mut self, now: Instant, link: LinkId, read: Traffic) {
        let Some(observer) = self.observers.links.get_mut(&link) else {
            return;
        };
        // Nobody has read more than it was sent.
        observer.read.frames = read.frames.min(observer.sent.frames);
        observer.read.bytes = read.bytes.min(observer.sent.bytes);
        if observer.missed && observer.has_room() {
            self.stats.observers_behind += 1;
            let frame = self.frame(&[self.vouch(now)]);
            self.deliver([link], frame);
            self.walk_anew(link);
        }
        self.walk(link);
    }

    /// Has an observer told again all there is of its selectors.
    fn walk_anew(&mut self, link: LinkId) {
        if let Some(observer) = self.observers.links.get_mut(&link) {
            observer.missed = false;
            for walk in observer.subscriptions.values_mut() {
                *walk = Some(Walk::default());
            }
        }
    }

    /// Goes on with the walks of an observer, as far as it has room.
    fn walk(&mut self, link: LinkId) {
        while let Some(observer) = self.observers.links.get(&link)
            && observer.has_room()
            && let Some((selector, walk)) = observer
                .subscriptions
                .iter()
                .find_map(|(selector, walk)| Some((selector.clone(), walk.clone()?)))
        {
            let (frame, next) = self.next_of_walk(&selector, &walk);
            self.deliver([link], frame);
            if let Some(observer) = self.observers.links.get_mut(&link) {
                observer.subscriptions.insert(selector, next);
            }
        }
    }

    /// A frame with the next part of a walk, and where the walk is then.
    fn next_of_walk(&self, selector: &Selector, walk: &Walk) -> (Vec<u8>, Option<Walk>) {
        let mut frame = self.frame(&[]);
        let mut told = BTreeSet::new();
        for place in self.registry.after(selector, walk.last.as_ref()) {
            let (owner, key) = (place.owner(), place.key());
            if told.insert(owner) {
                self.encode_owner(owner, &mut frame);
            }
            self.encode_observed(owner, key, &mut frame);
            if frame.len() >= LINK_FRAME_BYTES_TARGET {
                return (frame, Some(Walk { last: Some(place) }));
            }
        }
        let selector = selector.clone();
        let complete = Observing::Complete {
            selector,
            same: false,
        };
        Message::Observing(complete).encode(&mut frame);
        (frame, None)
    }

    /// What has changed in a service, owners before their records.
    fn frames_of(&self, service: &ServiceName, news: &News) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut bytes = Vec::new();
        for owner in &news.owners {
            bytes.clear();
            self.encode_owner(*owner, &mut bytes);
            self.append(&mut frames, &bytes, LINK_FRAME_BYTES_TARGET);
        }
        for (id, owner) in &news.records {
            bytes.clear();
            let key = InstanceKey::new(service.clone(), id.clone());
            self.encode_observed(*owner, &key, &mut bytes);
            self.append(&mut frames, &bytes, LINK_FRAME_BYTES_TARGET);
        }
        frames
    }

    /// An owner as observers are told of it; nothing while its records are held.
    fn encode_owner(&self, id: u64, out: &mut Vec<u8>) {
        if let Some(owner) = self.owner(id)
            && !self.held.contains(id)
        {
            Message::Observing(Observing::Owner(owner)).encode(out);
        }
    }

    /// A record, where observers are to have it: those of the dead come when they are back. One that was
    /// dropped is void by its owner's floor, and so is a tombstone as old as that.
    fn encode_observed(&self, owner: u64, key: &InstanceKey, out: &mut Vec<u8>) {
        if !self.is_shown(owner) {
            return;
        }
        let known = self.encode_record(Place::of(owner, key));
        if known.is_empty()
            && let Some(member) = self.members.find(owner)
            && member.floor() > 0
        {
            let void = Message::Record(Record {
                owner,
                generation: member.generation,
                version: member.floor(),
                key: key.clone(),
                content: None,
            });
            void.encode(out);
        }
        out.extend_from_slice(&known);
    }

    fn owner(&self, id: u64) -> Option<Owner> {
        let member = self.members.find(id)?;
        Some(Owner {
            id,
            stamp: member.stamp(),
            floor: member.floor(),
            newest: member.newest,
        })
    }

    /// The digest of what is shown of a selector, as observers calculate it.
    fn observed_digest(&self, selector: &Selector) -> u64 {
        let offered = self.registry.offered_from(selector, None);
        let shown = offered.filter(|(_, owner)| self.is_shown(*owner));
        let digests = shown.filter_map(|(key, owner)| {
            let member = self.members.find(owner)?;
            let version = self.registry.find(owner, &key)?.version;
            Some(observe::digest(owner, member.stamp(), &key, version))
        });
        digests.fold(0, u64::wrapping_add)
    }

    fn vouch(&self, now: Instant) -> Message {
        let standing = match self.freshness() {
            Freshness::Live => Standing::Live,
            Freshness::Stale { since, reason } => Standing::Stale {
                for_ms: millis(now.saturating_duration_since(since)),
                reason: reason.chars().take(OBSERVED_REASON_BYTES_MAX / 4).collect(),
            },
        };
        Message::Observing(Observing::Vouch(Vouch {
            standing,
            crash_bound_ms: self.crash_bound_ms(),
        }))
    }

    fn crash_bound_ms(&self) -> u64 {
        millis(self.crash_bound())
    }

    /// Where members are that can be looked through as well.
    fn whereabouts(&mut self) -> Message {
        let present = |_: u64, member: &Member| member.is_present();
        let count = OBSERVED_ADDRESSES_MAX - 1;
        let others = self.members.sample(count, &mut self.rng, present);
        let others = others.into_iter().filter_map(|id| self.members.find(id));
        let mut addresses: Vec<_> = others.map(|member| member.address).collect();
        addresses.push(self.identity.address);
        Message::Observing(Observing::Members(addresses))
    }

    fn deliver(&mut self, links: impl IntoIterator<Item = LinkId>, frame: Vec<u8>) -> usize {
        let len = frame.len() as u64;
        let count = self.observers.deliver(links, frame);
        self.stats.observer_frames_out += count as u64;
        self.stats.observer_bytes_out += len * count as u64;
        count
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
