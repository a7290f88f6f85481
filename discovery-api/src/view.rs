//! The picture a watch holds, and the difference of two pictures.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::{Instance, InstanceKey, ServiceName};

/// What a watch selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// The instances of one service; the name matches exactly (WAT-7).
    Service(ServiceName),
    /// The instances of all services.
    All,
}

impl Selector {
    /// Whether an instance under `key` is selected.
    #[must_use]
    pub fn selects(&self, key: &InstanceKey) -> bool {
        match self {
            Self::Service(service) => service == key.service(),
            Self::All => true,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::All => f.write_str("all services"),
        }
    }
}

impl From<ServiceName> for Selector {
    fn from(service: ServiceName) -> Self {
        Self::Service(service)
    }
}

/// Whether a view can be vouched for.
///
/// An empty view that is `Live` is an authoritative "nobody offers this"; an empty view that is
/// `Stale` says only that nothing is known (WAT-5).
#[derive(Clone, Debug)]
pub enum Freshness {
    /// The backend is heard; the view is what it says.
    Live,
    /// The backend can't be heard, or can't vouch for all of it; the view is the last one known.
    Stale {
        /// Since when.
        since: Instant,
        /// Why, for people.
        reason: Arc<str>,
    },
}

impl Freshness {
    /// Stale from now on.
    #[must_use]
    pub fn stale(reason: impl AsRef<str>) -> Self {
        Self::Stale {
            since: Instant::now(),
            reason: reason.as_ref().into(),
        }
    }

    /// Whether the backend vouches for the view.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }
}

/// Equal when both are live, or both stale for the same reason: the moment does not count.
impl PartialEq for Freshness {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Live, Self::Live) => true,
            (Self::Stale { reason: a, .. }, Self::Stale { reason: b, .. }) => a == b,
            (Self::Live, Self::Stale { .. }) | (Self::Stale { .. }, Self::Live) => false,
        }
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("live"),
            Self::Stale { since, reason } => {
                write!(
                    f,
                    "stale for {:.1} s: {reason}",
                    since.elapsed().as_secs_f64()
                )
            }
        }
    }
}

/// Immutable picture of what a watch selects, at one moment: the instances and the freshness.
///
/// Ordered by key. Cloning is cheap and shares the picture.
#[derive(Clone, Debug)]
pub struct View {
    instances: Arc<[Arc<Instance>]>,
    freshness: Freshness,
}

impl View {
    /// The picture of `instances`; where a key stands twice the newer generation is kept.
    #[must_use]
    pub fn new(mut instances: Vec<Arc<Instance>>, freshness: Freshness) -> Self {
        let newest_first = |a: &Arc<Instance>, b: &Arc<Instance>| {
            a.key()
                .cmp(b.key())
                .then(b.generation().cmp(&a.generation()))
        };
        if !instances.is_sorted_by(|a, b| a.key() < b.key()) {
            instances.sort_by(newest_first);
            instances.dedup_by(|later, kept| later.key() == kept.key());
        }
        Self {
            instances: instances.into(),
            freshness,
        }
    }

    /// An empty picture of which nothing is known.
    #[must_use]
    pub fn unknown(reason: impl AsRef<str>) -> Self {
        Self::new(Vec::new(), Freshness::stale(reason))
    }

    /// The same instances with another freshness.
    #[must_use]
    pub fn with_freshness(&self, freshness: Freshness) -> Self {
        Self {
            instances: self.instances.clone(),
            freshness,
        }
    }

    /// Whether it can be vouched for.
    #[must_use]
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// Whether it can be vouched for: shorthand for `freshness().is_live()`.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.freshness.is_live()
    }

    /// All instances, whatever their health, by key.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Instance>> {
        self.instances.iter()
    }

    /// The instances that clients should send work to: passing or warning
    /// ([`Health::is_serving`](crate::Health::is_serving)).
    ///
    /// The iterator owns its share of the picture, so that `watch.view().healthy().next()` is one
    /// expression.
    pub fn healthy(&self) -> impl Iterator<Item = Arc<Instance>> + Send + 'static + use<> {
        let instances = self.instances.clone();
        (0..instances.len())
            .map(move |at| instances[at].clone())
            .filter(|instance| instance.health().is_serving())
    }

    /// The instance under `key`.
    #[must_use]
    pub fn get(&self, key: &InstanceKey) -> Option<&Arc<Instance>> {
        let at = self
            .instances
            .binary_search_by(|instance| instance.key().cmp(key))
            .ok()?;
        Some(&self.instances[at])
    }

    /// Number of instances, whatever their health.
    #[must_use]
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whether there are none. See [`Freshness`] for what that means.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// The changes that lead from `earlier` to this view: removals first, then the rest by key.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Vec<Change> {
        let (mut removed, mut rest) = (Vec::new(), Vec::new());
        let (mut old, mut new) = (earlier.iter().peekable(), self.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.key().cmp(new.key()),
            };
            match order {
                Ordering::Less => removed.extend(old.next().cloned().map(Change::Removed)),
                Ordering::Greater => rest.extend(new.next().cloned().map(Change::Added)),
                Ordering::Equal => {
                    if let (Some(old), Some(new)) = (old.next(), new.next())
                        && !Arc::ptr_eq(old, new)
                        && old != new
                    {
                        rest.push(Change::Updated {
                            old: old.clone(),
                            new: new.clone(),
                        });
                    }
                }
            }
        }
        removed.append(&mut rest);
        removed
    }

    /// This view, sharing with `last` what did not change: equal instances keep their `Arc`, and a
    /// view that was stale before is stale since then.
    pub(crate) fn taking_over(mut self, last: &Self) -> Self {
        if let (Freshness::Stale { since, .. }, Freshness::Stale { since: first, .. }) =
            (&mut self.freshness, &last.freshness)
        {
            *since = *first;
        }
        if Arc::ptr_eq(&self.instances, &last.instances) {
            return self;
        }
        let shared = self.iter().map(|new| match last.get(new.key()) {
            Some(old) if old == new => old.clone(),
            _ => new.clone(),
        });
        self.instances = shared.collect();
        self
    }

    /// Whether both show the same instances with the same content and freshness.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.freshness == other.freshness
            && (Arc::ptr_eq(&self.instances, &other.instances) || self.len() == other.len())
            && self
                .iter()
                .zip(other.iter())
                .all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
    }
}

impl<'a> IntoIterator for &'a View {
    type Item = &'a Arc<Instance>;
    type IntoIter = std::slice::Iter<'a, Arc<Instance>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The difference of two views of one watch, for one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It is there now and wasn't.
    Added(Arc<Instance>),
    /// It was there and still is, with other content.
    Updated {
        /// As it was in the earlier view.
        old: Arc<Instance>,
        /// As it is now.
        new: Arc<Instance>,
    },
    /// It was there and isn't now; as it was last.
    Removed(Arc<Instance>),
}

impl Change {
    /// The instance it is about, in its newest form.
    #[must_use]
    pub fn instance(&self) -> &Arc<Instance> {
        match self {
            Self::Added(instance) | Self::Removed(instance) => instance,
            Self::Updated { new, .. } => new,
        }
    }

    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &InstanceKey {
        self.instance().key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str, port: u16) -> Arc<Instance> {
        let address = format!("10.0.0.1:{port}");
        Arc::new(Instance::new("web", address).unwrap().with_id(id).unwrap())
    }

    #[test]
    fn the_difference_names_removals_first() {
        let (a, b, c) = (instance("a", 1), instance("b", 1), instance("c", 1));
        let b2 = instance("b", 2);
        let earlier = View::new(vec![b.clone(), c.clone()], Freshness::Live);
        let later = View::new(vec![b2.clone(), a.clone()], Freshness::Live);
        assert_eq!(
            later.since(&earlier),
            [
                Change::Removed(c),
                Change::Added(a),
                Change::Updated { old: b, new: b2 }
            ]
        );
        assert!(later.since(&later.clone()).is_empty());
    }

    #[test]
    fn the_newer_generation_of_a_key_is_kept() {
        let newer = Arc::new(
            (*instance("a", 2))
                .clone()
                .with_generation(crate::Generation::new(2)),
        );
        for order in [
            [instance("a", 1), newer.clone()],
            [newer.clone(), instance("a", 1)],
        ] {
            let view = View::new(order.to_vec(), Freshness::Live);
            assert_eq!(view.len(), 1);
            assert_eq!(view.get(newer.key()), Some(&newer));
        }
    }
}
