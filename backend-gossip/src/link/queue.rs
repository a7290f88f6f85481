//! What waits to be written on one link, from the driver to the link's task.
//!
//! A channel of tokio's takes a kilobyte before anything is in it. A member has several links, which are
//! idle nearly always.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;

use super::{BYTES_WAITING_MAX, FRAMES_WAITING_MAX};

/// Frames that room is kept for while fewer wait.
const ROOM: usize = 4;

/// A queue of frames, and its two ends.
pub(super) fn queue() -> (Inlet, Outlet) {
    let shared = Arc::<Shared>::default();
    (Inlet(shared.clone()), Outlet(shared))
}

/// The driver's end. Dropped, it ends the queue once it is empty.
#[derive(Debug)]
pub(super) struct Inlet(Arc<Shared>);

/// The task's end.
#[derive(Debug)]
pub(super) struct Outlet(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Vec<u8>>,
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
    /// Adds a frame, as far as there is room.
    pub(super) fn try_send(&self, frame: Vec<u8>) -> Result<(), TrySendError<()>> {
        let mut waiting = self.0.waiting();
        if waiting.ended {
            return Err(TrySendError::Closed(()));
        }
        let full = waiting.frames.len() >= FRAMES_WAITING_MAX;
        if full || frame.len() > BYTES_WAITING_MAX.saturating_sub(waiting.bytes) {
            return Err(TrySendError::Full(()));
        }
        waiting.bytes += frame.len();
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
    pub(super) async fn recv(&mut self) -> Option<Vec<u8>> {
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
    use super::*;

    #[tokio::test]
    async fn frames_come_in_order_and_then_the_end() {
        let (inlet, mut outlet) = queue();
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
            inlet.try_send(vec![at]).unwrap();
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
        let (inlet, mut outlet) = queue();
        let sent = (0..).find(|_| inlet.try_send(vec![0]) == Err(TrySendError::Full(())));
        assert_eq!(sent, Some(FRAMES_WAITING_MAX));
        while !outlet.is_empty() {
            let frame = outlet.recv().await.unwrap();
            outlet.written(&frame);
        }
        inlet.try_send(vec![0; BYTES_WAITING_MAX]).unwrap();
        let large = outlet.recv().await.unwrap();
        assert_eq!(
            inlet.try_send(vec![0]),
            Err(TrySendError::Full(())),
            "not written yet"
        );
        outlet.written(&large);
        assert_eq!(inlet.try_send(vec![0]), Ok(()));
        drop(outlet);
        assert_eq!(inlet.try_send(vec![0]), Err(TrySendError::Closed(())));
    }
}
