//! The watches of one selector: what is heard of both sides, merged and published.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidings_api::{
    Error, Feed, Freshness, Generation, InstanceKey, Result, Selector, Subscription, Watch,
};
use tokio::sync::{Notify, watch};

use crate::coverage::Tally;
use crate::inner::Inner;
use crate::merge::Merge;
use crate::rivals::RIVAL_PAUSE;
use crate::{BACKEND, PARTICIPANTS, Phase, Plan, Side, Sides, is_own_service};

/// How long a side that refused to be watched is left alone.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// All selectors that are watched, by applications or by the migration itself.
pub(crate) type Topics = HashMap<Selector, Arc<Topic>>;

/// One selector.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) selector: Selector,
    state: Mutex<State>,
    wake: Notify,
    /// Each side in use has answered once, whatever it said; or none will any more.
    ready: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    merge: Merge,
    tally: Tally,
    watches: [Option<Watch>; 2],
    refused: [Option<Refusal>; 2],
    feed: Option<Arc<Feed>>,
}

/// A side can't be watched.
#[derive(Debug)]
struct Refusal {
    error: Error,
    at: Instant,
}

impl Topic {
    fn new(selector: Selector, plan: &Plan) -> Self {
        let merge = Merge::new(&selector, plan_for(&selector, plan));
        Self {
            selector,
            state: Mutex::new(State {
                merge,
                tally: Tally::default(),
                watches: [None, None],
                refused: [None, None],
                feed: None,
            }),
            wake: Notify::new(),
            ready: watch::Sender::new(false),
        }
    }

    /// Waits until what the sides know is in.
    pub(crate) async fn ready(&self) {
        // The sender is in here, so it isn't gone.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Lets go whoever waits for it.
    pub(crate) fn release(&self) {
        self.ready.send_replace(true);
    }

    /// Takes in what the sides show by now, and publishes what comes of it.
    pub(crate) fn refresh(&self) {
        let now = Instant::now();
        let state = &mut *self.lock();
        for side in Side::BOTH {
            if let Some(watch) = &state.watches[side.index()] {
                state.merge.hear(side, &watch.view(), now);
            }
        }
        let (mut instances, freshness) = state.merge.view(now);
        if self.selector == Selector::All {
            instances.retain(|instance| !is_own_service(instance.service()));
        }
        let watched = match &self.selector {
            Selector::Service(service) => Some(service),
            Selector::All => None,
        };
        let heard = Side::BOTH
            .into_iter()
            .all(|side| state.merge.heard(side).is_live());
        let listings = state.merge.listings();
        state.tally.update(watched, listings, heard, now);
        if let Some(feed) = &state.feed {
            feed.publish(instances, freshness);
        }
    }

    /// The newest generation that either side lists under a key.
    pub(crate) fn newest(&self, key: &InstanceKey) -> Generation {
        let state = self.lock();
        let listings = Side::BOTH
            .into_iter()
            .filter_map(|side| state.merge.listing(side, key));
        let generations = listings.map(|listed| listed.generation().max(listed.raw.generation()));
        generations.max().unwrap_or_default()
    }

    /// Looks at what is heard of both sides.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Merge, &Tally) -> T) -> T {
        let state = self.lock();
        look(&state.merge, &state.tally)
    }

    /// What is shown of both sides.
    pub(crate) fn shown(&self) -> BTreeSet<InstanceKey> {
        let (shown, _) = self.lock().merge.view(Instant::now());
        shown.iter().map(|it| it.key().clone()).collect()
    }

    /// Whether a side shows what it lists.
    ///
    /// # Errors
    /// Why it refuses to.
    pub(crate) fn shows(&self, side: Side) -> Result<bool> {
        let state = self.lock();
        match &state.refused[side.index()] {
            Some(refusal) => Err(refusal.error.clone()),
            None => Ok(state.merge.heard(side).is_live()),
        }
    }

    /// Whether it is the topic of a key's own service.
    pub(crate) fn selects_alone(&self, key: &InstanceKey) -> bool {
        self.selector != Selector::All && self.selector.selects(key)
    }

    /// Why one of these sides can't be watched, where it refuses for good.
    fn refusal(&self, reads: Sides) -> Option<Error> {
        let state = self.lock();
        let mut refusals = reads
            .iter()
            .filter_map(|side| state.refused[side.index()].as_ref());
        let refusal = refusals.find(|refusal| !refusal.error.is_retryable());
        refusal.map(|refusal| refusal.error.clone())
    }

    /// The handle of a side has ended, other than by the plan; it is tried again in a while.
    fn lose(&self, side: Side) -> bool {
        let state = &mut *self.lock();
        let ended = Freshness::stale("its handle was closed");
        let view = state.merge.heard(side).with_freshness(ended);
        state.merge.hear(side, &view, Instant::now());
        state.watches[side.index()] = None;
        state.refused[side.index()] = Some(Refusal::new(Error::closed()));
        false
    }

    fn deadline(&self, rivals: bool) -> Option<Instant> {
        let (state, now) = (self.lock(), Instant::now());
        let rivals = rivals.then(|| now + RIVAL_PAUSE);
        let due = [rivals, state.asks_again_at(), state.merge.deadline(now)];
        due.into_iter().flatten().min()
    }

    /// Whether a side that has refused to be watched was left alone for long enough.
    fn asks_again(&self) -> bool {
        let at = self.lock().asks_again_at();
        at.is_some_and(|at| Instant::now() >= at)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When a side that has refused to be watched is asked again.
    fn asks_again_at(&self) -> Option<Instant> {
        let refused = self.refused.iter().flatten();
        refused.map(|refusal| refusal.at + REFUSED_PAUSE).min()
    }
}

impl Refusal {
    fn new(error: Error) -> Self {
        Self {
            error,
            at: Instant::now(),
        }
    }
}

impl Inner {
    /// A watch for an application.
    pub(crate) async fn watch(self: &Arc<Self>, selector: Selector) -> Result<Watch> {
        let (watch, topic) = {
            let mut topics = self.topics();
            match self.publisher.watch(selector.clone())? {
                Subscription::First(watch, feed) => {
                    let topic = self.topic_in(&mut topics, &selector);
                    topic.lock().feed = Some(Arc::new(feed));
                    topic.wake.notify_one();
                    (watch, Some(topic))
                }
                Subscription::Joined(watch) => (watch, topics.get(&selector).cloned()),
            }
        };
        if let Some(topic) = topic {
            topic.ready().await;
            if self.is_closed() {
                return Err(Error::closed().with_backend(BACKEND));
            }
            let plan = plan_for(&selector, &self.plan());
            let reads = plan
                .phases()
                .fold(Sides::NONE, |all, p| all.union(p.reads()));
            if let Some(refusal) = topic.refusal(reads) {
                return Err(refusal);
            }
            topic.refresh();
        }
        Ok(watch)
    }

    /// The topic of a selector, started where it isn't there yet.
    pub(crate) fn topic(self: &Arc<Self>, selector: &Selector) -> Arc<Topic> {
        self.topic_in(&mut self.topics(), selector)
    }

    /// Shows own watches a change of an own key at once (REG-1, REG-6).
    pub(crate) fn refresh(&self, key: &InstanceKey) {
        let topics: Vec<_> = {
            let topics = self.topics();
            let selected = topics.values().filter(|topic| topic.selector.selects(key));
            selected.cloned().collect()
        };
        topics.iter().for_each(|topic| topic.refresh());
    }

    pub(crate) fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn topic_in(self: &Arc<Self>, topics: &mut Topics, selector: &Selector) -> Arc<Topic> {
        if let Some(topic) = topics.get(selector) {
            return topic.clone();
        }
        let topic = Arc::new(Topic::new(selector.clone(), &self.plan()));
        topics.insert(selector.clone(), topic.clone());
        self.tasks.spawn(self.clone().attend(topic.clone()));
        topic
    }

    /// Keeps a topic up to date until nobody needs it.
    async fn attend(self: Arc<Self>, topic: Arc<Topic>) {
        let mut plan = self.plan.subscribe();
        loop {
            plan.mark_unchanged();
            let mut watches = self.subscribe(&topic).await;
            self.take_in(&topic);
            topic.release();
            loop {
                let rivals = self.meet_rivals(&topic);
                let feed = topic.lock().feed.clone();
                let deadline = topic.deadline(rivals);
                let [old, new] = &mut watches;
                let again = tokio::select! {
                    _ = plan.changed() => true,
                    ended = changed(old) => ended && topic.lose(Side::Old),
                    ended = changed(new) => ended && topic.lose(Side::New),
                    () = topic.wake.notified() => false,
                    () = unused(feed.as_deref()) => false,
                    () = sleep_until(deadline) => false,
                };
                drop(feed);
                if self.is_over(&topic) {
                    return;
                }
                self.take_in(&topic);
                if again || topic.asks_again() {
                    break;
                }
            }
        }
    }

    /// Takes in what the sides show by now, and how soon they would show a crash: gossip's bound grows with
    /// what is lost.
    fn take_in(&self, topic: &Topic) {
        for side in Side::BOTH {
            if let Some(handle) = self.handles.get(side) {
                let crashed = handle.status().bounds().crashed;
                topic.lock().merge.doubt(side, crashed);
            }
        }
        topic.refresh();
    }

    /// Brings the subscriptions in line with the plan, and returns them.
    async fn subscribe(&self, topic: &Topic) -> [Option<Watch>; 2] {
        let plan = self.plan();
        let wanted = match &topic.selector {
            Selector::Service(service) if service.as_str() != PARTICIPANTS => {
                plan.phase(service).writes()
            }
            Selector::Service(_) | Selector::All => plan.sides(),
        };
        let subscribe = |side: Side| async move {
            let has_one = topic.lock().watches[side.index()].is_some();
            let handle = self
                .handles
                .get(side)
                .filter(|_| wanted.has(side) && !has_one);
            let watched = handle?.watch(topic.selector.clone()).await;
            Some(watched.map_err(|error| self.on_side(side, error)))
        };
        let answers = tokio::join!(subscribe(Side::Old), subscribe(Side::New));
        let mut state = topic.lock();
        state
            .merge
            .follow(&topic.selector, plan_for(&topic.selector, &plan));
        for (side, answer) in Side::BOTH.into_iter().zip([answers.0, answers.1]) {
            let at = side.index();
            match answer {
                Some(Ok(watch)) => {
                    state.watches[at] = Some(watch);
                    state.refused[at] = None;
                }
                Some(Err(error)) => {
                    tracing::warn!(selector = %topic.selector, %error, "a side can't be watched");
                    state.refused[at] = Some(Refusal::new(error));
                }
                None if !wanted.has(side) => {
                    (state.watches[at], state.refused[at]) = (None, None);
                    state.merge.leave(side);
                }
                // Watched already, or about to be closed.
                None => state.refused[at] = None,
            }
        }
        // Readers of their own, which start with the view that `refresh` is about to take in.
        state.watches.clone()
    }

    /// Ends a topic that nobody needs any more; says whether it did.
    fn is_over(&self, topic: &Arc<Topic>) -> bool {
        let mut topics = self.topics();
        let needed = self.needs(&topic.selector);
        let mut state = topic.lock();
        if let Some(feed) = state.feed.take() {
            state.feed = match Arc::try_unwrap(feed) {
                Ok(feed) if feed.is_unused() => feed.retire().err().map(Arc::new),
                Ok(feed) => Some(Arc::new(feed)),
                Err(shared) => Some(shared),
            };
        }
        let is_over = state.feed.is_none() && !needed;
        if is_over {
            topics.remove(&topic.selector);
        }
        is_over
    }
}

/// The participants are looked at on every side there is.
fn plan_for(selector: &Selector, plan: &Plan) -> Plan {
    match selector {
        Selector::Service(service) if service.as_str() == PARTICIPANTS => {
            Phase::BothReadMerged.into()
        }
        Selector::Service(_) | Selector::All => plan.clone(),
    }
}

/// Waits for news; says whether the watch has ended.
async fn changed(watch: &mut Option<Watch>) -> bool {
    let Some(reader) = watch else {
        return std::future::pending().await;
    };
    let ended = reader.changed().await.is_err();
    if ended {
        *watch = None;
    }
    ended
}

async fn unused(feed: Option<&Feed>) {
    match feed {
        Some(feed) => feed.unused().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
