//! Feeding side of the watches, for backend authors.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{Error, Freshness, Instance, Result, Selector, View, Watch};

/// The watches of one handle, one topic a selector (WAT-8).
///
/// A backend calls [`watch`](Self::watch) from its `watch` verb. The first watch of a selector
/// comes with a [`Feed`]: the backend starts one upstream subscription for it and publishes every
/// view into the feed. Later watches of the selector join it. When the last one is gone,
/// [`Feed::unused`] returns and the backend ends the subscription with [`Feed::retire`].
///
/// ```
/// use tidings_api::{Freshness, Instance, Publisher, Selector, Subscription};
///
/// let publisher = Publisher::new();
/// let web = Selector::Service("web".parse()?);
/// let Subscription::First(watch, feed) = publisher.watch(web.clone())? else { unreachable!() };
/// let Subscription::Joined(_) = publisher.watch(web)? else { unreachable!() };
///
/// assert!(!watch.view().is_live(), "nothing is known before the first publish");
/// feed.publish(vec![Instance::new("web", "10.0.0.7:80")?.into()], Freshness::Live);
/// assert_eq!(watch.view().len(), 1);
/// # Ok::<(), tidings_api::Error>(())
/// ```
///
/// Cloning shares the watches.
#[derive(Clone, Default)]
pub struct Publisher {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    topics: HashMap<Selector, Arc<Topic>>,
    closed: bool,
}

/// What [`Publisher::watch`] answers.
#[derive(Debug)]
pub enum Subscription {
    /// Nobody watched the selector: the backend has to drive the feed.
    First(Watch, Feed),
    /// The selector has its feed already.
    Joined(Watch),
}

impl Publisher {
    /// A publisher without watches.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A watch of `selector`, with the feed when it is the first.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed) after [`close`](Self::close).
    pub fn watch(&self, selector: Selector) -> Result<Subscription> {
        let mut shared = self.lock();
        if shared.closed {
            return Err(Error::closed());
        }
        if let Some(topic) = shared.topics.get(&selector) {
            return Ok(Subscription::Joined(Topic::watch(topic)));
        }
        let topic = Arc::new(Topic::new(selector.clone()));
        shared.topics.insert(selector, topic.clone());
        let watch = Topic::watch(&topic);
        Ok(Subscription::First(
            watch,
            Feed {
                topic,
                publisher: self.clone(),
            },
        ))
    }

    /// Ends every watch: readers get what was published, then the end.
    pub fn close(&self) {
        let mut shared = self.lock();
        shared.closed = true;
        for (_, topic) in shared.topics.drain() {
            topic.end();
        }
    }

    /// Number of selectors that are watched, each with one feed.
    #[must_use]
    pub fn feeds(&self) -> usize {
        self.lock().topics.len()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("feeds", &self.feeds())
            .finish_non_exhaustive()
    }
}

/// Where a backend publishes the views of one selector.
///
/// Dropping it ends the watches, as [`retire`](Self::retire) does when nobody is left.
pub struct Feed {
    topic: Arc<Topic>,
    publisher: Publisher,
}

impl Feed {
    /// What the views are of.
    #[must_use]
    pub fn selector(&self) -> &Selector {
        self.topic.selector()
    }

    /// The view published last.
    #[must_use]
    pub fn view(&self) -> View {
        self.topic.view()
    }

    /// Publishes the complete set of selected instances. Readers wake only where content or
    /// freshness differ from the last view; instances whose content did not change keep their
    /// `Arc`. Costs one comparison of the set, however many watches there are.
    pub fn publish(&self, instances: Vec<Arc<Instance>>, freshness: Freshness) {
        let view = View::new(instances, freshness);
        self.topic.change(|_| view);
    }

    /// Marks the last view, whatever it holds (WAT-4). Stale on stale keeps the first moment.
    pub fn mark(&self, freshness: Freshness) {
        self.topic.change(|last| last.with_freshness(freshness));
    }

    /// Whether no watch is left at this moment.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.topic.signal.receiver_count() == 0
    }

    /// Waits until no watch is left. One may join after that: [`retire`](Self::retire) tells.
    pub async fn unused(&self) {
        self.topic.signal.closed().await;
    }

    /// Ends the feed if no watch is left; gives it back if one has joined meanwhile.
    ///
    /// # Errors
    /// The feed itself, still in use.
    pub fn retire(self) -> Result<(), Self> {
        {
            let mut shared = self.publisher.lock();
            let current = shared.topics.get(self.selector());
            if current.is_some_and(|topic| Arc::ptr_eq(topic, &self.topic)) {
                if self.is_unused() {
                    shared.topics.remove(self.topic.selector());
                } else {
                    drop(shared);
                    return Err(self);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut shared = self.publisher.lock();
        let current = shared.topics.get(self.topic.selector());
        if current.is_some_and(|topic| Arc::ptr_eq(topic, &self.topic)) {
            shared.topics.remove(self.topic.selector());
        }
        self.topic.end();
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("selector", self.selector())
            .field("watches", &self.topic.signal.receiver_count())
            .finish_non_exhaustive()
    }
}

/// One selector's newest view, and the signal that wakes its readers.
pub(crate) struct Topic {
    selector: Selector,
    view: ArcSwap<View>,
    signal: watch::Sender<Signal>,
}

/// What readers wait on: the view itself is read from the topic, without a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal {
    pub(crate) version: u64,
    pub(crate) closed: bool,
}

impl Topic {
    fn new(selector: Selector) -> Self {
        Self {
            view: ArcSwap::from_pointee(View::unknown("nothing was heard from the backend yet")),
            signal: watch::Sender::new(Signal {
                version: 1,
                closed: false,
            }),
            selector,
        }
    }

    fn watch(topic: &Arc<Self>) -> Watch {
        Watch::new(topic.clone(), topic.signal.subscribe())
    }

    pub(crate) fn selector(&self) -> &Selector {
        &self.selector
    }

    pub(crate) fn view(&self) -> View {
        View::clone(&self.view.load())
    }

    /// Replaces the view by one made of it, as one step: a `mark` beside a `publish` must not bring
    /// the former view back (WAT-3).
    fn change(&self, change: impl FnOnce(&View) -> View) {
        self.signal.send_if_modified(|signal| {
            let last = self.view.load();
            let view = change(&last);
            if view.same_as(&last) {
                return false;
            }
            let view = view.taking_over(&last);
            self.view.store(Arc::new(view));
            // After the store: whoever wakes reads this view or a newer one.
            signal.version += 1;
            true
        });
    }

    fn end(&self) {
        self.signal.send_modify(|signal| signal.closed = true);
    }
}
