//! The watches of a handle: which selectors are watched, and what has to be published.

use std::collections::{BTreeSet, HashMap};

use tidings_api::{Feed, Freshness, Publisher, Result, Selector, ServiceName, Subscription, Watch};

use crate::engine::Engine;

/// Number of feeds below which another one is no reason to look for unused ones.
const FEEDS_SWEPT_MIN: usize = 64;

/// All watches of a handle, one feed a selector.
///
/// Changes are noted as they come and published together, so that a turn which takes many of them
/// costs one comparison of each view.
#[derive(Debug)]
pub(crate) struct Watches {
    publisher: Publisher,
    feeds: HashMap<Selector, Feed>,
    changed: BTreeSet<Selector>,
    freshness: Freshness,
    freshness_changed: bool,
    /// Number of feeds at which another one calls for a sweep.
    sweep_at: usize,
    published: u64,
}

impl Watches {
    pub(crate) fn new(publisher: Publisher, freshness: Freshness) -> Self {
        Self {
            publisher,
            feeds: HashMap::new(),
            changed: BTreeSet::new(),
            freshness,
            freshness_changed: false,
            sweep_at: FEEDS_SWEPT_MIN,
            published: 0,
        }
    }

    /// A watch of `selector` that shows the complete view (WAT-1), once what was noted before is
    /// published.
    pub(crate) fn watch(&mut self, selector: Selector, engine: &Engine) -> Result<Watch> {
        match self.publisher.watch(selector.clone())? {
            Subscription::Joined(watch) => Ok(watch),
            Subscription::First(watch, feed) => {
                feed.publish(engine.view(&selector), self.freshness.clone());
                self.published += 1;
                if self.feeds.len() >= self.sweep_at {
                    self.sweep();
                }
                self.feeds.insert(selector, feed);
                Ok(watch)
            }
        }
    }

    /// Notes that the instances of a service have changed.
    pub(crate) fn changed(&mut self, service: ServiceName) {
        for selector in [Selector::Service(service), Selector::All] {
            if self.feeds.contains_key(&selector) {
                self.changed.insert(selector);
            }
        }
    }

    /// Notes how fresh all views are from now on.
    pub(crate) fn mark(&mut self, freshness: Freshness) {
        self.freshness_changed |= self.freshness != freshness;
        self.freshness = freshness;
    }

    /// Publishes what was noted.
    pub(crate) fn publish(&mut self, engine: &Engine) {
        for selector in std::mem::take(&mut self.changed) {
            if let Some(feed) = self.feeds.get(&selector) {
                feed.publish(engine.view(&selector), self.freshness.clone());
                self.published += 1;
            }
        }
        if std::mem::take(&mut self.freshness_changed) {
            for feed in self.feeds.values() {
                feed.mark(self.freshness.clone());
            }
        }
    }

    /// Ends the feeds that nobody watches any more.
    pub(crate) fn sweep(&mut self) {
        let unused = self.feeds.extract_if(|_, feed| feed.is_unused());
        // One that is watched again meanwhile comes back.
        let back: Vec<_> = unused
            .filter_map(|(selector, feed)| Some((selector, feed.retire().err()?)))
            .collect();
        self.feeds.extend(back);
        self.sweep_at = (2 * self.feeds.len()).max(FEEDS_SWEPT_MIN);
    }

    /// Number of views published since the start.
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    /// Whether there is nothing to [`sweep`](Self::sweep).
    pub(crate) fn is_empty(&self) -> bool {
        self.feeds.is_empty()
    }

    /// Ends all watches: readers get what was published, then the end.
    pub(crate) fn close(&mut self) {
        self.publisher.close();
        self.feeds.clear();
    }
}
