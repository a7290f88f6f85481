//! What a handle offers and shows, behind its one lock. Nothing in here waits or does I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{
    Error, ErrorKind, Feed, Freshness, Generation, Health, Instance, InstanceKey, Registration,
    Removal, Result, Selector, ServiceName,
};

use crate::entry::{Entry, Reading};
use crate::error::{error, whole};
use crate::keys;
use crate::part::{News, Part};
use crate::registration::{Goal, Remote};

/// How long an answer that was under way may still show what was withdrawn before.
const WITHDRAWN_TIME: Duration = Duration::from_secs(5 * 60);

#[derive(Default)]
pub(crate) struct State {
    pub(crate) closed: bool,
    offers: BTreeMap<InstanceKey, Offer>,
    /// Withdrawn on this handle: hidden up to this generation, for ever or for a while.
    withdrawn: HashMap<InstanceKey, (Generation, Option<Instant>)>,
    /// The tasks that still have to tell the agent that an offer was withdrawn.
    leaving: HashMap<(InstanceKey, Generation), Remote>,
    topics: HashMap<Selector, Topic>,
}

/// Desired state (REG-3).
struct Offer {
    instance: Arc<Instance>,
    revision: u64,
    registration: Registration,
    /// The task that brings it to the agent.
    remote: Remote,
    /// The catalog has shown it, or could have since: what it shows first from now on says nothing
    /// about who was first.
    seen: bool,
}

/// What is shown of one selector.
struct Topic {
    feed: Arc<Feed>,
    parts: BTreeMap<ServiceName, Part>,
    /// For all services: what is wrong with the list of their names. At first, that there is none.
    unlisted: Option<Freshness>,
    /// What the last look failed with.
    failure: Option<Error>,
}

/// How the first look at what a selector selects has gone.
#[derive(Debug)]
pub(crate) enum Look {
    Pending,
    Done,
    Denied(Error),
    Closed,
}

/// What an owner's look at the catalog means for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The catalog shows it, and nothing newer.
    Owned,
    /// The catalog had it as it is, and doesn't any more.
    Vanished,
    /// A newer owner has the key.
    Overtaken,
    /// What looks newer was there before: that owner's clock is ahead.
    Outdated(Generation),
}

/// An offer that is new, or was changed.
pub(crate) struct Offered {
    pub(crate) instance: Arc<Instance>,
    pub(crate) revision: u64,
    /// The task to bring it to the agent, where there is one already.
    pub(crate) remote: Option<Remote>,
}

/// The verbs.
impl State {
    /// Takes over an instance to be offered. Without a task for it yet, the caller starts one and
    /// [tells](Self::attend) it here, under the same lock.
    pub(crate) fn offer(&mut self, instance: Instance) -> Result<Offered> {
        self.open()?;
        let key = instance.key().clone();
        match self.offers.get_mut(&key) {
            Some(offer) if !offer.registration.is_superseded() => {
                let instance = instance
                    .keeping_health_of(&offer.instance)
                    .with_generation(offer.instance.generation());
                Ok(offer.change(instance))
            }
            last => {
                let mut seen = instance.generation();
                let instance = match last {
                    Some(last) => {
                        seen = seen.max(last.instance.generation());
                        instance.keeping_health_of(&last.instance)
                    }
                    None => instance,
                };
                let shown = self.topics.values().filter_map(|topic| topic.get(&key));
                let shown = shown.map(|entry| entry.instance.generation()).max();
                let withdrawn = self.withdrawn.get(&key).map(|(generation, _)| *generation);
                for known in shown.into_iter().chain(withdrawn) {
                    seen = seen.max(known);
                }
                let generation = instance.next_generation(seen);
                Ok(Offered {
                    instance: Arc::new(instance.with_generation(generation)),
                    revision: 1,
                    remote: None,
                })
            }
        }
    }

    /// Keeps a new offer with the task that brings it to the agent.
    pub(crate) fn attend(&mut self, offered: &Offered, remote: Remote) {
        let offer = Offer {
            instance: offered.instance.clone(),
            revision: offered.revision,
            registration: pending(None, None),
            remote,
            seen: false,
        };
        self.offers.insert(offered.instance.key().clone(), offer);
    }

    /// Reports health, as a change of an own offer.
    pub(crate) fn report(&mut self, key: &InstanceKey, health: Health) -> Result<Offered> {
        self.open()?;
        match self.offers.get_mut(key) {
            Some(offer) if !offer.registration.is_superseded() => {
                let instance = Instance::clone(&offer.instance).with_health(health);
                Ok(offer.change(instance))
            }
            _ => {
                let message = format!("{key} is not registered by this handle, or no longer");
                Err(error(ErrorKind::NotOwned, message))
            }
        }
    }

    /// Takes an offer back; its task is told.
    pub(crate) fn withdraw(&mut self, key: &InstanceKey) -> Result<(Removal, Option<Remote>)> {
        self.open()?;
        let Some(offer) = self.offers.remove(key) else {
            return Ok((Removal::Absent, None));
        };
        let owned = !offer.registration.is_superseded();
        self.hide(key, &offer);
        if !owned {
            return Ok((Removal::Absent, None));
        }
        self.publish(key);
        Ok((Removal::Removed, Some(offer.remote)))
    }

    /// Ends everything; returns the tasks that still have to withdraw.
    pub(crate) fn close(&mut self) -> Vec<Remote> {
        self.closed = true;
        self.topics.clear();
        for (key, offer) in std::mem::take(&mut self.offers) {
            if !offer.registration.is_superseded() {
                offer.remote.set(Goal::Withdraw);
                let generation = offer.instance.generation();
                self.leaving.insert((key, generation), offer.remote);
            }
        }
        // They stay here until they are done: closing again waits for them as well.
        self.leaving.values().cloned().collect()
    }

    /// The status of every own registration.
    pub(crate) fn registrations(
        &self,
    ) -> impl Iterator<Item = (InstanceKey, Registration)> + use<'_> {
        let offers = self.offers.iter();
        offers.map(|(key, offer)| (key.clone(), offer.registration.clone()))
    }

    fn open(&self) -> Result<()> {
        if self.closed {
            return Err(Error::closed());
        }
        Ok(())
    }

    /// Hides what the catalog still shows of a withdrawn offer.
    fn hide(&mut self, key: &InstanceKey, offer: &Offer) {
        offer.remote.set(Goal::Withdraw);
        let generation = offer.instance.generation();
        let now = Instant::now();
        self.withdrawn
            .retain(|_, (_, until)| until.is_none_or(|until| until > now));
        self.withdrawn.insert(key.clone(), (generation, None));
        self.leaving
            .insert((key.clone(), generation), offer.remote.clone());
        for topic in self.topics.values_mut() {
            topic.forget(key, generation);
        }
    }
}

/// What the tasks report. A report on an offer of another generation comes too late.
impl State {
    /// The agent has a revision of an offer.
    pub(crate) fn registered(&mut self, key: &InstanceKey, generation: Generation, revision: u64) {
        if let Some(offer) = self.current(key, generation)
            && offer.revision == revision
        {
            offer.registration = Registration::Registered;
        }
    }

    /// The agent could not be given an offer.
    pub(crate) fn failed(&mut self, key: &InstanceKey, generation: Generation, error: Error) {
        if let Some(offer) = self.current(key, generation) {
            offer.registration = pending(Some(&offer.registration), Some(error));
            offer.seen = true;
        }
    }

    /// The agent has lost an offer, which is brought again.
    pub(crate) fn vanished(&mut self, key: &InstanceKey, generation: Generation) {
        if let Some(offer) = self.current(key, generation) {
            offer.registration = pending(Some(&offer.registration), None);
            offer.seen = true;
        }
    }

    /// The agent refuses an offer that was never there: as if it had not been made.
    pub(crate) fn refused(&mut self, key: &InstanceKey, generation: Generation) {
        if self.current(key, generation).is_some() {
            self.offers.remove(key);
            self.publish(key);
        } else {
            // Withdrawn meanwhile.
            self.withdrawn(key, generation);
        }
    }

    /// The agent doesn't have a withdrawn offer any more.
    pub(crate) fn withdrawn(&mut self, key: &InstanceKey, generation: Generation) {
        self.leaving.remove(&(key.clone(), generation));
        if let Some((hidden, until)) = self.withdrawn.get_mut(key)
            && *hidden == generation
        {
            *until = Some(Instant::now() + WITHDRAWN_TIME);
        }
    }

    /// The keys of a service that this handle owns.
    pub(crate) fn owned(&self, service: &ServiceName) -> Vec<InstanceKey> {
        let owned = self.offers.iter();
        owned
            .filter(|(key, offer)| key.service() == service && !offer.registration.is_superseded())
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Compares own offers of a service with what the catalog has: an overtaken one stops (REG-5),
    /// a vanished one is brought again. Returns the offers that have to be made anew because
    /// another owner's clock is ahead.
    pub(crate) fn compare(&mut self, service: &ServiceName, entries: &[Entry]) -> Vec<Instance> {
        let mut anew = Vec::new();
        for key in self.owned(service) {
            let Some(offer) = self.offers.get_mut(&key) else {
                continue;
            };
            match offer.verdict(entries.iter().filter(|entry| entry.instance.key() == &key)) {
                Verdict::Owned => {}
                Verdict::Vanished => offer.remote.nudge(),
                Verdict::Overtaken => self.supersede(&key),
                Verdict::Outdated(newest) => {
                    let health = offer.instance.health().clone();
                    let instance = Instance::clone(&offer.instance).with_health(health);
                    self.supersede(&key);
                    anew.push(instance.with_generation(newest));
                }
            }
        }
        anew
    }

    /// The service ids of what the catalog still has of former owners of own offers, such as this
    /// process before a restart; not before it has the own one as well. An agent brings what waits for the
    /// catalog there in any order, and viewers would see a gap. Nor what came after the own one and is
    /// heard: that is another owner, and the clock here is ahead.
    pub(crate) fn former_selves(&self, readings: &[Reading]) -> Vec<String> {
        let created = |key: &InstanceKey, generation: Generation| {
            readings.iter().find_map(|reading| match reading {
                Reading::Offered(entry) if entry.is(key, generation) => Some(entry.created),
                _ => None,
            })
        };
        let named = readings.iter().filter_map(|reading| match reading {
            Reading::Offered(entry) => {
                let generation = entry.instance.generation();
                Some((entry.instance.key(), generation, Some(entry.created)))
            }
            Reading::Lost(key, generation) => Some((key, *generation, None)),
            Reading::Elsewhere | Reading::Unreadable(_) => None,
        });
        let former = named.filter(|(key, generation, found)| {
            // Other tools' instances have no generation.
            *generation != Generation::default()
                && self.offers.get(key).is_some_and(|offer| {
                    let own = offer.instance.generation();
                    !offer.registration.is_superseded()
                        && *generation < own
                        && created(key, own).is_some_and(|own| found.is_none_or(|at| at <= own))
                })
        });
        former
            .map(|(key, generation, _)| keys::service_id(key, generation))
            .collect()
    }

    /// Every task brings its offer again, as the token is another one.
    pub(crate) fn nudge_all(&self) {
        for offer in self.offers.values() {
            offer.remote.nudge();
        }
    }

    fn supersede(&mut self, key: &InstanceKey) {
        if let Some(mut offer) = self.offers.remove(key) {
            self.hide(key, &offer);
            offer.registration = Registration::Superseded;
            self.offers.insert(key.clone(), offer);
            self.publish(key);
        }
    }

    fn current(&mut self, key: &InstanceKey, generation: Generation) -> Option<&mut Offer> {
        let offer = self.offers.get_mut(key)?;
        let current =
            offer.instance.generation() == generation && !offer.registration.is_superseded();
        current.then_some(offer)
    }
}

/// What is shown.
impl State {
    /// Starts showing what a feed selects.
    pub(crate) fn add_topic(&mut self, feed: Arc<Feed>) {
        let selector = feed.selector().clone();
        let (parts, unlisted) = match &selector {
            Selector::Service(service) => (
                BTreeMap::from([(service.clone(), Part::new(Instant::now()))]),
                None,
            ),
            Selector::All => {
                let unknown = Freshness::stale("nothing was heard from Consul yet");
                (BTreeMap::new(), Some(unknown))
            }
        };
        let topic = Topic {
            feed,
            parts,
            unlisted,
            failure: None,
        };
        self.topics.insert(selector, topic);
    }

    /// Stops showing what a feed selects, unless it is watched again. Gives the feed back then.
    ///
    /// Watches join under the lock of this state only, so that none is lost between.
    pub(crate) fn remove_topic(&mut self, feed: Arc<Feed>) -> Option<Arc<Feed>> {
        if !feed.is_unused() {
            return Some(feed);
        }
        let current = self.topics.get(feed.selector());
        if current.is_some_and(|topic| Arc::ptr_eq(&topic.feed, &feed)) {
            self.topics.remove(feed.selector());
        }
        None
    }

    /// Takes over an answer about one service; returns when it has to be asked again at the latest.
    pub(crate) fn heard(
        &mut self,
        selector: &Selector,
        service: &ServiceName,
        news: News,
        hold: Duration,
    ) -> Option<Instant> {
        let topic = self.topics.get_mut(selector)?;
        let part = topic.parts.get_mut(service)?;
        part.heard(news, hold, Instant::now());
        let again = part.held_until();
        topic.failure = None;
        self.publish_topic(selector);
        again
    }

    /// Consul can't be heard about one service or, without one, about which services there are.
    pub(crate) fn lost(
        &mut self,
        selector: &Selector,
        service: Option<&ServiceName>,
        failure: &Error,
    ) {
        let Some(topic) = self.topics.get_mut(selector) else {
            return;
        };
        topic.failure = Some(failure.clone());
        let reason = whole(failure);
        match service {
            None => topic.unlisted = Some(Freshness::stale(reason)),
            Some(service) => {
                if let Some(part) = topic.parts.get_mut(service) {
                    part.lost(&reason, Instant::now());
                }
            }
        }
        self.publish_topic(selector);
    }

    /// Takes over the names of all services. Returns those that are new here.
    pub(crate) fn list(&mut self, names: Vec<ServiceName>) -> Vec<ServiceName> {
        let Some(topic) = self.topics.get_mut(&Selector::All) else {
            return Vec::new();
        };
        topic.unlisted = None;
        topic.failure = None;
        let mut new = Vec::new();
        for name in names {
            topic.parts.entry(name.clone()).or_insert_with(|| {
                new.push(name);
                Part::new(Instant::now())
            });
        }
        self.publish_topic(&Selector::All);
        new
    }

    /// How the first look at what a selector selects has gone.
    pub(crate) fn look(&self, selector: &Selector) -> Look {
        if self.closed {
            return Look::Closed;
        }
        let Some(topic) = self.topics.get(selector) else {
            return Look::Done;
        };
        match &topic.failure {
            Some(failure) if failure.kind() == ErrorKind::Denied => Look::Denied(failure.clone()),
            Some(_) => Look::Done,
            None if topic.unlisted.is_some() => Look::Pending,
            None if topic.parts.values().all(Part::is_answered) => Look::Done,
            None => Look::Pending,
        }
    }

    /// Ends the part of a service that isn't listed any more, if it shows nothing.
    pub(crate) fn unlist(&mut self, service: &ServiceName) -> bool {
        let Some(topic) = self.topics.get_mut(&Selector::All) else {
            return true;
        };
        if topic
            .parts
            .get(service)
            .is_some_and(|part| !part.is_empty())
        {
            return false;
        }
        topic.parts.remove(service);
        self.publish_topic(&Selector::All);
        true
    }

    /// Publishes what every selector shows that selects `key`.
    pub(crate) fn publish(&self, key: &InstanceKey) {
        for selector in [Selector::Service(key.service().clone()), Selector::All] {
            self.publish_topic(&selector);
        }
    }

    /// What the catalog says, with own offers as they are here: they may be newer than what it has
    /// (REG-1), or gone.
    fn publish_topic(&self, selector: &Selector) {
        let Some(topic) = self.topics.get(selector) else {
            return;
        };
        let mut shown = Vec::new();
        for entry in topic.parts.values().flat_map(Part::entries) {
            let (generation, revision) = entry.age();
            let key = entry.instance.key();
            let hidden = self
                .withdrawn
                .get(key)
                .is_some_and(|(g, _)| *g >= generation);
            let outdated = self.offers.get(key).is_some_and(|offer| {
                offer.instance.generation() == generation && offer.revision > revision
            });
            if !hidden && !outdated {
                shown.push(entry.instance.clone());
            }
        }
        for (key, offer) in self.offers.iter().filter(|(key, _)| selector.selects(key)) {
            let age = (offer.instance.generation(), offer.revision);
            let up_to_date = topic.get(key).is_some_and(|entry| entry.age() >= age);
            if !offer.registration.is_superseded() && !up_to_date {
                shown.push(offer.instance.clone());
            }
        }
        topic.feed.publish(shown, topic.freshness());
    }
}

impl Offer {
    /// Takes over other content, unless it is equal (REG-2).
    fn change(&mut self, instance: Instance) -> Offered {
        if instance != *self.instance {
            self.instance = Arc::new(instance);
            self.revision += 1;
            self.registration = pending(Some(&self.registration), None);
            self.remote
                .set(Goal::Offer(self.instance.clone(), self.revision));
        }
        Offered {
            instance: self.instance.clone(),
            revision: self.revision,
            remote: Some(self.remote.clone()),
        }
    }

    fn verdict<'a>(&mut self, entries: impl Iterator<Item = &'a Entry> + Clone) -> Verdict {
        let generation = self.instance.generation();
        let own = entries
            .clone()
            .find(|entry| entry.instance.generation() == generation);
        let newest = entries.max_by_key(|entry| entry.age());
        let first_look = !self.seen;
        self.seen |= own.is_some();
        // A mirror doesn't compete with an owner, however their clocks are.
        let competes = |newest: &Entry| !self.instance.is_mirror() || newest.instance.is_mirror();
        match (newest, own) {
            (Some(newest), own) if newest.instance.generation() > generation => match own {
                Some(own) if first_look && competes(newest) && newest.created < own.created => {
                    Verdict::Outdated(newest.instance.generation())
                }
                _ => Verdict::Overtaken,
            },
            // A restored snapshot has it as it was.
            (_, Some(own)) if own.revision < self.revision && self.registration.is_registered() => {
                Verdict::Vanished
            }
            (_, Some(_)) => Verdict::Owned,
            // It may be on its way. What the agent has confirmed the servers had as well.
            (_, None) if first_look && !self.registration.is_registered() => Verdict::Owned,
            (_, None) => Verdict::Vanished,
        }
    }
}

impl Topic {
    fn get(&self, key: &InstanceKey) -> Option<&Entry> {
        self.parts.get(key.service())?.get(key)
    }

    fn forget(&mut self, key: &InstanceKey, generation: Generation) {
        if let Some(part) = self.parts.get_mut(key.service())
            && part
                .get(key)
                .is_some_and(|entry| entry.instance.generation() <= generation)
        {
            part.forget(key);
        }
    }

    /// Live where all of it is.
    fn freshness(&self) -> Freshness {
        if let Some(unlisted) = &self.unlisted {
            return unlisted.clone();
        }
        let mut parts = self.parts.values().map(Part::freshness);
        parts
            .find(|freshness| !freshness.is_live())
            .unwrap_or(Freshness::Live)
    }
}

/// Waiting, since when it waited already.
fn pending(last: Option<&Registration>, last_error: Option<Error>) -> Registration {
    let since = match last {
        Some(Registration::Pending { since, .. }) => *since,
        _ => Instant::now(),
    };
    Registration::Pending { since, last_error }
}
