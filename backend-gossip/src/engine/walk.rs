//! Walks over the records of a selector, tombstones included, that can be left and taken up again.

use std::ops::Bound::{self, Included, Unbounded};

use tidings_api::{InstanceId, InstanceKey, Selector, ServiceName};

use super::registry::Registry;

/// Where a walk stands: first what is offered, then the tombstones, each by key and owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    is_tombstone: bool,
    key: InstanceKey,
    owner: u64,
}

impl Mark {
    pub(super) fn key(&self) -> &InstanceKey {
        &self.key
    }

    pub(super) fn owner(&self) -> u64 {
        self.owner
    }
}

impl Registry {
    /// What follows a place, or all of it.
    pub(super) fn after(
        &self,
        selector: &Selector,
        last: Option<&Mark>,
    ) -> impl Iterator<Item = Mark> {
        let offers = last.is_none_or(|last| !last.is_tombstone).then(|| {
            let from = last.map(|last| &last.key);
            let offered = self.offered_from(selector, from);
            offered.map(|(key, owner)| Mark {
                is_tombstone: false,
                key,
                owner,
            })
        });
        let from = last.filter(|last| last.is_tombstone).map(|last| &last.key);
        let tombstones = self.tombstones_from(selector, from);
        let tombstones = tombstones.map(|(key, owner)| Mark {
            is_tombstone: true,
            key,
            owner,
        });
        let last = last.cloned();
        let from = offers.into_iter().flatten().chain(tombstones);
        // Of those under the key it has come to, some may be done.
        from.skip_while(move |place| last.as_ref().is_some_and(|last| place <= last))
    }

    /// Key and owner of what is offered, from a key on.
    pub(super) fn offered_from(
        &self,
        selector: &Selector,
        from: Option<&InstanceKey>,
    ) -> impl Iterator<Item = (InstanceKey, u64)> {
        let from = from.cloned();
        let services = self.offers_by_service();
        let services = services.range(services_of(selector, from.as_ref()));
        services.flat_map(move |(service, offers)| {
            let from = from.as_ref().filter(|from| from.service() == service);
            let offers = offers.from(from.map(InstanceKey::id)).iter();
            offers.map(|offer| (offer.instance.key().clone(), offer.owner))
        })
    }

    fn tombstones_from(
        &self,
        selector: &Selector,
        from: Option<&InstanceKey>,
    ) -> impl Iterator<Item = (InstanceKey, u64)> {
        let from = from.cloned();
        let services = self
            .tombstones()
            .range(services_of(selector, from.as_ref()));
        services.flat_map(move |(service, tombstones)| {
            let from = from.as_ref().filter(|from| from.service() == service);
            let from = from.map_or(Unbounded, |from| Included((from.id().clone(), 0)));
            let tombstones = tombstones.range((from, Unbounded));
            tombstones.map(|(id, owner): &(InstanceId, u64)| {
                (InstanceKey::new(service.clone(), id.clone()), *owner)
            })
        })
    }
}

/// The services of a selector, from that of a key on.
fn services_of(
    selector: &Selector,
    from: Option<&InstanceKey>,
) -> (Bound<ServiceName>, Bound<ServiceName>) {
    match (selector, from) {
        (Selector::Service(service), _) => (Included(service.clone()), Included(service.clone())),
        (Selector::All, Some(from)) => (Included(from.service().clone()), Unbounded),
        (Selector::All, None) => (Unbounded, Unbounded),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Instant;

    use tidings_api::Instance;

    use super::super::registry::Stored;
    use super::*;

    #[test]
    fn a_walk_that_is_left_anywhere_and_taken_up_misses_nothing() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        for number in 0..60_u64 {
            let service = ["a", "b", "b-2"][(number % 3) as usize];
            let instance = Instance::new(service, "10.0.0.1:80")
                .and_then(|instance| instance.with_id(format!("i-{}", number / 6)))
                .unwrap();
            let key = instance.key().clone();
            let content = (number % 5 != 0).then(|| std::sync::Arc::new(instance).into());
            let stored = Stored::new(now, &key, 1, content);
            registry.put(number % 4, stored);
        }
        let b: ServiceName = "b".parse().unwrap();
        for selector in [Selector::Service(b), Selector::All] {
            let whole: Vec<_> = registry.after(&selector, None).collect();
            let expected = registry.iter().filter(|(_, key, _)| selector.selects(key));
            assert_eq!(whole.len(), expected.count());
            let distinct: BTreeSet<_> = whole.iter().map(|p| (p.key(), p.owner())).collect();
            assert_eq!(distinct.len(), whole.len());
            for (at, place) in whole.iter().enumerate() {
                let rest: Vec<_> = registry.after(&selector, Some(place)).collect();
                assert_eq!(rest, whole[at + 1..], "{selector} after {place:?}");
            }
        }
    }
}
