//! What is watched of one backend, as one picture.

use std::sync::Arc;

use tidings_api::{Freshness, Instance, InstanceKey, View, Watch};

/// The views of all watches of one backend.
#[derive(Debug)]
pub(super) struct Picture {
    views: Vec<View>,
    freshness: Freshness,
}

impl Picture {
    /// What the watches show now. It can be vouched for where all of them can.
    pub(super) fn of(watches: &[Watch], closed: bool) -> Self {
        let views: Vec<_> = watches.iter().map(Watch::view).collect();
        let stale = views.iter().find(|view| !view.is_live());
        let freshness = match stale {
            _ if closed => Freshness::stale("its handle is closed"),
            Some(view) => view.freshness().clone(),
            None => Freshness::Live,
        };
        Self { views, freshness }
    }

    pub(super) fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    pub(super) fn is_live(&self) -> bool {
        self.freshness.is_live()
    }

    pub(super) fn get(&self, key: &InstanceKey) -> Option<&Arc<Instance>> {
        self.views.iter().find_map(|view| view.get(key))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.views.iter().flat_map(View::iter)
    }
}
