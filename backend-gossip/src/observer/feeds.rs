//! The watches of an observer: what they show is published once it is whole.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use tidings_api::{Feed, Publisher, Result, Selector, ServiceName, Subscription, Watch};
use tokio::sync::oneshot;

use super::session::Session;

/// How long a new watch waits for what the member has: the caller is to find the view in it. Then it begins
/// as unknown.
const FIRST_VIEW_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of feeds below which another one is no reason to look for unused ones.
const FEEDS_SWEPT_MIN: usize = 64;

/// All watches, one feed a selector.
#[derive(Debug)]
pub(super) struct Feeds {
    publisher: Publisher,
    feeds: HashMap<Selector, Feed>,
    /// What may have to be published.
    due: BTreeSet<Selector>,
    /// Watches whose callers wait for the first view.
    waiting: Vec<Waiting>,
    sweep_at: usize,
    published: u64,
}

#[derive(Debug)]
struct Waiting {
    selector: Selector,
    watch: Watch,
    until: Instant,
    reply: oneshot::Sender<Result<Watch>>,
}

impl Feeds {
    pub(super) fn new(publisher: Publisher) -> Self {
        Self {
            publisher,
            feeds: HashMap::new(),
            due: BTreeSet::new(),
            waiting: Vec::new(),
            sweep_at: FEEDS_SWEPT_MIN,
            published: 0,
        }
    }

    /// Watches a selector; the caller is answered once there is a view, or none is to be had.
    pub(super) fn watch(
        &mut self,
        now: Instant,
        selector: Selector,
        session: &mut Session,
        reply: oneshot::Sender<Result<Watch>>,
    ) {
        let watch = match self.publisher.watch(selector.clone()) {
            Ok(Subscription::Joined(watch)) => watch,
            Ok(Subscription::First(watch, feed)) => {
                if self.feeds.len() >= self.sweep_at {
                    self.sweep(session);
                }
                session.watch(selector.clone());
                self.feeds.insert(selector.clone(), feed);
                self.due.insert(selector.clone());
                watch
            }
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let until = now + FIRST_VIEW_TIMEOUT;
        self.waiting.push(Waiting {
            selector,
            watch,
            until,
            reply,
        });
    }

    /// Notes that the instances of a service have changed.
    pub(super) fn changed(&mut self, service: ServiceName) {
        for selector in [Selector::Service(service), Selector::All] {
            if self.feeds.contains_key(&selector) {
                self.due.insert(selector);
            }
        }
    }

    /// Notes that all views are fresh, or stale, from now on.
    pub(super) fn freshness_changed(&mut self) {
        self.due.extend(self.feeds.keys().cloned());
    }

    /// Publishes what was noted, where it is whole; and answers callers.
    pub(super) fn publish(&mut self, now: Instant, session: &Session) {
        let is_ready =
            |selector: &Selector| session.is_known(selector) && session.is_whole(selector);
        let (ready, later) = std::mem::take(&mut self.due)
            .into_iter()
            .partition(is_ready);
        self.due = later;
        let ready: BTreeSet<_> = ready;
        for selector in ready {
            if let Some(feed) = self.feeds.get(&selector) {
                feed.publish(session.view(&selector), session.freshness().clone());
                self.published += 1;
            }
        }
        let live = session.freshness().is_live();
        let done =
            |waiting: &mut Waiting| !live || waiting.until <= now || is_ready(&waiting.selector);
        for waiting in self.waiting.extract_if(.., done) {
            // A caller that is gone needs no answer.
            let _ = waiting.reply.send(Ok(waiting.watch));
        }
    }

    /// When a caller is answered at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    /// Ends the feeds that nobody watches any more.
    pub(super) fn sweep(&mut self, session: &mut Session) {
        let unused = self.feeds.extract_if(|_, feed| feed.is_unused());
        let mut back = Vec::new();
        for (selector, feed) in unused {
            match feed.retire() {
                Ok(()) => session.unwatch(&selector),
                Err(feed) => back.push((selector, feed)),
            }
        }
        self.feeds.extend(back);
        self.sweep_at = (2 * self.feeds.len()).max(FEEDS_SWEPT_MIN);
    }

    pub(super) fn published(&self) -> u64 {
        self.published
    }

    pub(super) fn is_empty(&self) -> bool {
        self.feeds.is_empty()
    }

    /// Ends all watches: readers get what was published, then the end.
    pub(super) fn close(&mut self) {
        self.publisher.close();
        self.feeds.clear();
        self.waiting.clear();
    }
}
