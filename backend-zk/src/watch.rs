//! What this handle sees: one subscription a selector, whatever the number of its watches.
//!
//! A [`follower`] task keeps what the server has in a [`Picture`]; a view is made of that and of
//! what this handle offers itself, so that a caller sees its own change as soon as its call returns
//! (REG-1), in an outage too.

mod follower;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidings_api::{
    Error, Feed, Freshness, Instance, InstanceKey, Publisher, Result, Selector, Subscription, Watch,
};
use tokio::sync::watch;
use tokio::time::Instant;
use zookeeper_client as zk;

pub(crate) use self::follower::{VISIBLE_BOUND, follow};
use crate::content::Content;
use crate::owner::Owner;
use crate::registration::{Own, Registrations};

/// All subscriptions of a handle.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    publisher: Publisher,
    followed: Mutex<HashMap<Selector, Arc<Followed>>>,
}

/// One selector that somebody watches.
#[derive(Debug)]
pub(crate) struct Followed {
    selector: Selector,
    picture: Mutex<Picture>,
    first: watch::Sender<First>,
}

/// How far the first look has come.
#[derive(Clone, Debug)]
enum First {
    Awaited,
    /// It is done, or the server isn't heard: the view is what there is to know.
    Done,
    /// The server refuses it.
    Refused(Error),
}

/// What is known of the server's side.
#[derive(Debug)]
struct Picture {
    /// `None` once nobody watches any more.
    feed: Option<Arc<Feed>>,
    seen: BTreeMap<InstanceKey, Seen>,
    /// What vanished in an outage, without having been deregistered.
    held: BTreeMap<InstanceKey, Seen>,
    /// Until when what vanishes is held; `None` while all is well.
    hold_until: Option<Instant>,
    /// Whether there ever was a complete look.
    looked: bool,
    /// Why the server isn't heard now.
    outage: Option<Freshness>,
}

/// An instance on the server.
#[derive(Clone, Debug)]
struct Seen {
    instance: Arc<Instance>,
    owner: Option<Owner>,
    /// The transaction that created the node, where it goes with a session.
    node: Option<i64>,
}

impl Watches {
    /// A watch of `selector`; with a subscription to be [followed](follow) if it is the first.
    pub(crate) fn watch(
        &self,
        selector: Selector,
        freshness: Freshness,
        own: &Registrations,
    ) -> Result<(Watch, Arc<Followed>, bool)> {
        let mut followed = self.lock();
        match self.publisher.watch(selector.clone())? {
            Subscription::Joined(watch) => match followed.get(&selector) {
                Some(joined) => Ok((watch, joined.clone(), false)),
                // A feed is published, and retired, with its entry here.
                None => Err(Error::closed()),
            },
            Subscription::First(watch, feed) => {
                let new = Arc::new(Followed::new(feed, freshness));
                followed.insert(selector, new.clone());
                drop(followed);
                new.publish(own);
                Ok((watch, new, true))
            }
        }
    }

    /// Shows what this handle offers under `key` now.
    pub(crate) fn refresh(&self, key: &InstanceKey, own: &Registrations) {
        let selecting = {
            let followed = self.lock();
            let selectors = [Selector::Service(key.service().clone()), Selector::All];
            selectors.map(|selector| followed.get(&selector).cloned())
        };
        for followed in selecting.into_iter().flatten() {
            followed.publish(own);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.publisher.feeds()
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        self.publisher.close();
        self.lock().clear();
    }

    fn forget(&self, gone: &Arc<Followed>) {
        let mut followed = self.lock();
        if followed
            .get(&gone.selector)
            .is_some_and(|found| Arc::ptr_eq(found, gone))
        {
            followed.remove(&gone.selector);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Selector, Arc<Followed>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    fn new(feed: Feed, freshness: Freshness) -> Self {
        Self {
            selector: feed.selector().clone(),
            picture: Mutex::new(Picture {
                feed: Some(Arc::new(feed)),
                seen: BTreeMap::new(),
                held: BTreeMap::new(),
                hold_until: None,
                looked: false,
                outage: Some(freshness),
            }),
            first: watch::Sender::new(First::Awaited),
        }
    }

    /// Waits until the view is as good as it can be now.
    ///
    /// # Errors
    /// Where the server refuses to show it.
    pub(crate) async fn first_look(&self) -> Result<()> {
        let mut first = self.first.subscribe();
        match first
            .wait_for(|first| !matches!(first, First::Awaited))
            .await
            .as_deref()
        {
            Ok(First::Refused(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Publishes what is known now.
    fn publish(&self, own: &Registrations) {
        let picture = self.picture();
        picture.publish(&self.selector, own);
    }

    /// Changes what is known, and publishes it.
    fn change(&self, own: &Registrations, change: impl FnOnce(&mut Picture)) {
        let mut picture = self.picture();
        change(&mut picture);
        picture.publish(&self.selector, own);
    }

    fn picture(&self) -> MutexGuard<'_, Picture> {
        self.picture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody watches.
    async fn unused(&self) {
        let feed = self.picture().feed.clone();
        if let Some(feed) = feed {
            feed.unused().await;
        }
    }

    /// Ends the feed, unless somebody watches again; says whether it has ended.
    fn retire(&self) -> bool {
        let mut picture = self.picture();
        // Nobody else has it: it is cloned in `unused` only, whose clone is gone.
        let retired = match picture.feed.take().and_then(Arc::into_inner) {
            Some(feed) => feed.retire(),
            None => Ok(()),
        };
        match retired {
            Ok(()) => true,
            Err(feed) => {
                picture.feed = Some(Arc::new(feed));
                false
            }
        }
    }
}

impl Picture {
    fn publish(&self, selector: &Selector, own: &Registrations) {
        let Some(feed) = &self.feed else {
            return;
        };
        let me = &own.encoder().owner;
        let mut offered = own.shown(selector);
        let mut instances = Vec::with_capacity(self.seen.len() + offered.len());
        for (key, seen) in &self.seen {
            // Of its own keys this handle knows better than the server, unless somebody newer has
            // come; what it has taken back is not shown, though the server may still have it.
            let ours = seen.owner.as_ref() == Some(me);
            let server = (seen.instance.generation(), seen.owner.as_ref());
            match offered.remove(key) {
                Some(Own::Offered(mine)) if ours || server < (mine.generation(), Some(me)) => {
                    instances.push(mine);
                }
                None if ours => {}
                _ => instances.push(seen.instance.clone()),
            }
        }
        let hidden = |key| matches!(offered.get(key), Some(Own::Offered(_)));
        let held = self.held.iter().filter(|(key, _)| !hidden(*key));
        instances.extend(held.map(|(_, held)| held.instance.clone()));
        instances.extend(offered.into_values().filter_map(|own| match own {
            Own::Offered(mine) => Some(mine),
            Own::AsOnServer => None,
        }));
        feed.publish(instances, self.freshness());
    }

    fn freshness(&self) -> Freshness {
        match &self.outage {
            Some(outage) => outage.clone(),
            None if self.held.is_empty() => Freshness::Live,
            None => Freshness::stale(
                "instances that vanished in an outage, without being deregistered, are held",
            ),
        }
    }

    fn see(&mut self, key: InstanceKey, seen: Seen) {
        let last = self.seen.get(&key);
        if last.is_some_and(|last| last.is_overwritten_by(&seen)) {
            return;
        }
        self.held.remove(&key);
        self.seen.insert(key, seen);
    }

    /// It is not on the server any more.
    fn lose(&mut self, key: &InstanceKey, hold: bool) {
        if let Some(seen) = self.seen.remove(key)
            && hold
        {
            self.held.insert(key.clone(), seen);
        }
    }
}

impl Seen {
    fn new(content: Content, stat: &zk::Stat) -> Self {
        Self {
            instance: Arc::new(content.instance),
            owner: content.owner,
            node: (stat.ephemeral_owner != 0).then_some(stat.czxid),
        }
    }

    /// Whether an older owner wrote into the node of a handle, which it took for its own: that has
    /// been replaced, and it doesn't know yet. The handle writes its content again.
    fn is_overwritten_by(&self, newer: &Self) -> bool {
        let same_node = self.node.is_some() && self.node == newer.node;
        let older = newer.instance.generation() < self.instance.generation();
        self.owner.is_some() && same_node && older
    }
}

#[cfg(test)]
mod tests {
    use tidings_api::Generation;

    use super::*;
    use crate::content::Encoder;
    use crate::{Payload, config};

    #[test]
    fn what_is_held_of_a_newer_owner_is_shown_to_the_older_one_too() {
        let own = Registrations::new(Encoder {
            owner: Owner::generate(),
            payload: Payload::None,
            bytes_max: config::CONTENT_MAX_DEFAULT,
        });
        let mine = Instance::new("web", "192.0.2.1:80").and_then(|mine| mine.with_id("a"));
        let mine = mine.unwrap();
        let key = mine.key().clone();
        own.offer(mine.clone(), true).unwrap();
        let watches = Watches::default();
        let freshness = Freshness::stale("a test");
        let (watch, followed, _) = watches.watch(Selector::All, freshness, &own).unwrap();
        let newer = mine.with_generation(Generation::after(Generation::default()));
        let held = Seen {
            instance: Arc::new(newer),
            owner: Some(Owner::generate()),
            node: None,
        };
        let shown = || watch.view().get(&key).map(|shown| shown.generation());
        followed.picture().held.insert(key.clone(), held.clone());
        followed.publish(&own);
        assert!(
            shown() < Some(held.instance.generation()),
            "its own while it offers it"
        );

        own.superseded(&key, 1);
        followed.publish(&own);
        assert_eq!(shown(), Some(held.instance.generation()));
    }
}
