//! Bytes that wait to be written: of one link, and of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{BYTES_WAITING_MAX, BYTES_WAITING_TOTAL_MAX, LINK_FRAME_BYTES_TARGET};

/// Of all links.
#[derive(Clone, Debug, Default)]
pub(super) struct Total(Arc<AtomicUsize>);

/// Of one link; its driver's side counts up and its task counts down.
#[derive(Clone, Debug)]
pub(super) struct Waiting(Arc<Share>);

#[derive(Debug)]
struct Share {
    own: AtomicUsize,
    total: Total,
}

impl Total {
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Waiting {
    pub(super) fn of(total: &Total) -> Self {
        Self(Arc::new(Share {
            own: AtomicUsize::new(0),
            total: total.clone(),
        }))
    }

    /// Whether so much more may wait.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        let own = self.bytes() + bytes;
        let total = self.0.total.0.load(Ordering::Relaxed) + bytes;
        own <= BYTES_WAITING_MAX
            && (own <= LINK_FRAME_BYTES_TARGET || total <= BYTES_WAITING_TOTAL_MAX)
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.own.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: usize) {
        self.0.own.fetch_add(bytes, Ordering::Relaxed);
        self.0.total.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, bytes: usize) {
        self.0.own.fetch_sub(bytes, Ordering::Relaxed);
        self.0.total.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What was never written waits no longer.
impl Drop for Share {
    fn drop(&mut self) {
        let own = *self.own.get_mut();
        self.total.0.fetch_sub(own, Ordering::Relaxed);
    }
}
