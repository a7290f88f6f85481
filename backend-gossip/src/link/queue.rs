//! What waits to be written on one link, from the driver to the link's task.
//!
//! A channel of tokio's takes a kilobyte before anything is in it. A member has several links, which are
//! idle nearly always.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;

use super::carrier::Framed;
use super::{BYTES_WAITING_TOTAL_MAX, FRAMES_WAITING_MAX, LINK_FRAME_BYTES_TARGET};

/// Frames that room is kept for while fewer wait.
const ROOM: usize = 4;

/// Bytes that wait on all links.
#[derive(Clone, Debug, Default)]
pub(super) struct Total(Arc<AtomicUsize>);

impl Total {
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A queue of frames, and its two ends.
pub(super) fn queue(total: &Total) -> (Inlet, Outlet) {
    let shared = Arc::new(Shared {
        waiting: Mutex::default(),
        total: total.clone(),
        changed: Notify::new(),
    });
    (Inlet(shared.clone()), Outlet(shared))
}

/// The driver's end. Dropped, it ends the queue once it is empty.
#[derive(Debug)]
pub(super) struct Inlet(Arc<Shared>);

/// The task's end.
#[derive(Debug)]
pub(super) struct Outlet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    total: Total,
    changed: Notify,
}

/// What was never written waits no longer.
impl Drop for Shared {
    fn drop(&mut self) {
        let bytes = self.waiting().bytes;
        self.total.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Framed>,
    /// Of the frames, and of the one that was taken and is not written yet.
    bytes: usize,
    /// One of the ends was dropped.
    ended: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inlet {
    /// Adds a frame, as far as there is room: for so many bytes in all.
    pub(super) fn try_send(&self, frame: Framed, bytes_max: usize) -> Result<(), TrySendError<()>> {
        let mut waiting = self.0.waiting();
        if waiting.ended {
            return Err(TrySendError::Closed(()));
        }
        let full = waiting.frames.len() >= FRAMES_WAITING_MAX;
        let (own, total) = (
            waiting.bytes + frame.len(),
            self.0.total.bytes() + frame.len(),
        );
        let crowded = own > LINK_FRAME_BYTES_TARGET && total > BYTES_WAITING_TOTAL_MAX;
        if full || own > bytes_max || crowded {
            return Err(TrySendError::Full(()));
        }
        waiting.bytes = own;
        self.0.total.0.fetch_add(frame.len(), Ordering::Relaxed);
        waiting.frames.push_back(frame);
        drop(waiting);
        self.0.changed.notify_one();
        Ok(())
    }

    /// Bytes that are not written yet.
    pub(super) fn bytes(&self) -> usize {
        self.0.waiting().bytes
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.waiting().ended = true;
        self.0.changed.notify_one();
    }
}

impl Outlet {
    /// The next frame; `None` once the driver has let go and nothing waits. Cancel-safe.
    pub(super) async fn recv(&mut self) -> Option<Framed> {
        loop {
            {
                let mut waiting = self.0.waiting();
                if let Some(frame) = waiting.frames.pop_front() {
                    if waiting.frames.is_empty() {
                        waiting.frames.shrink_to(ROOM);
                    }
                    return Some(frame);
                }
                if waiting.ended {
                    return None;
                }
            }
            self.0.changed.notified().await;
        }
    }

    /// A frame that was taken is written.
    pub(super) fn written(&self, frame: &[u8]) {
        self.0.waiting().bytes -= frame.len();
        self.0.total.0.fetch_sub(frame.len(), Ordering::Relaxed);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.waiting().frames.is_empty()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.0.waiting().ended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::BYTES_WAITING_MAX;
    use super::*;

    fn try_send(inlet: &Inlet, frame: Vec<u8>) -> Result<(), TrySendError<()>> {
        inlet.try_send(frame.into(), BYTES_WAITING_MAX)
    }

    #[tokio::test]
    async fn frames_come_in_order_and_then_the_end() {
        let (inlet, mut outlet) = queue(&Total::default());
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            while let Some(frame) = outlet.recv().await {
                outlet.written(&frame);
                read.push(frame[0]);
                tokio::task::yield_now().await;
            }
            read
        });
        for at in 0..100 {
            try_send(&inlet, vec![at]).unwrap();
            if at % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        drop(inlet);
        let read = reader.await.unwrap();
        assert_eq!(read, (0..100).collect::<Vec<u8>>());
    }

    #[tokio::test]
    async fn frames_and_bytes_that_wait_are_bounded() {
        let (inlet, mut outlet) = queue(&Total::default());
        let sent = (0..).find(|_| try_send(&inlet, vec![0]) == Err(TrySendError::Full(())));
        assert_eq!(sent, Some(FRAMES_WAITING_MAX));
        while !outlet.is_empty() {
            let frame = outlet.recv().await.unwrap();
            outlet.written(&frame);
        }
        try_send(&inlet, vec![0; BYTES_WAITING_MAX]).unwrap();
        let large = outlet.recv().await.unwrap();
        assert_eq!(
            try_send(&inlet, vec![0]),
            Err(TrySendError::Full(())),
            "not written yet"
        );
        outlet.written(&large);
        assert_eq!(try_send(&inlet, vec![0]), Ok(()));
        drop(outlet);
        assert_eq!(try_send(&inlet, vec![0]), Err(TrySendError::Closed(())));
    }
}
