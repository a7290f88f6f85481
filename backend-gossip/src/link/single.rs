//! One link at a time, for observers: opened where they want it, and no other.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, error, trace};

use super::carrier::{self, Carrier, End, Outbox, framed};
use super::queue::{Inlet, Total, queue};
use super::{BYTES_READ_MAX, BYTES_WAITING_MAX, FRAMES_READ_MAX, Frame, LinkKeys};
use crate::engine::{LinkFailure, LinkId};

/// What happens on the link.
#[derive(Debug)]
pub(crate) enum SingleEvent {
    /// A frame came.
    Frame(Vec<u8>),
    /// It has ended, or could not be opened.
    Ended,
}

/// The link of an observer.
#[derive(Debug)]
pub(crate) struct Single {
    open: Option<Open>,
    frames: (Sender<Frame>, Receiver<Frame>),
    reading: Arc<Semaphore>,
    keys: LinkKeys,
    tasks: JoinSet<(Carrier, End)>,
    last: LinkId,
    /// Lets nothing through either way; only fault injection turns it on.
    cut_off: bool,
}

#[derive(Debug)]
struct Open {
    id: LinkId,
    queue: Inlet,
    task: AbortHandle,
}

impl Single {
    pub(crate) fn new(keys: LinkKeys) -> Self {
        Self {
            open: None,
            frames: mpsc::channel(FRAMES_READ_MAX),
            reading: Arc::new(Semaphore::new(BYTES_READ_MAX)),
            keys,
            tasks: JoinSet::new(),
            last: LinkId(0),
            cut_off: false,
        }
    }

    /// Opens a link to `to`, in place of the one there is.
    pub(crate) fn connect(&mut self, to: SocketAddr) {
        self.disconnect();
        self.last.0 += 1;
        let id = self.last;
        let (queue, outlet) = queue(&Total::default());
        let outbox = Outbox::new(outlet);
        let read = (self.frames.0.clone(), self.reading.clone());
        let carrier = Carrier::new(id, outbox, read, self.keys.clone());
        debug!(%to, "looking through this member");
        let task = if self.cut_off {
            self.tasks.spawn(async move {
                tokio::time::sleep(carrier::CONNECT_TIMEOUT).await;
                (carrier, End::Failed(LinkFailure::Unreachable))
            })
        } else {
            self.tasks.spawn(carrier.open(to))
        };
        self.open = Some(Open { id, queue, task });
    }

    /// Sends over the link there is. Where it can't take more, it has ended, or will be given up.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        if let Some(open) = &self.open
            && !self.cut_off
        {
            let _ = open.queue.try_send(framed(frame), BYTES_WAITING_MAX);
        }
    }

    /// Closes the link.
    pub(crate) fn disconnect(&mut self) {
        if let Some(open) = self.open.take() {
            open.task.abort();
        }
    }

    /// The next thing that happens. Cancel-safe.
    pub(crate) async fn next(&mut self) -> SingleEvent {
        loop {
            tokio::select! {
                Some((id, frame)) = self.frames.1.recv() => {
                    if let Some(event) = self.received(id, frame) {
                        return event;
                    }
                }
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok((carrier, end)) => {
                        trace!(?end, "link ended");
                        if self.open.as_ref().is_some_and(|open| open.id == carrier.id) {
                            self.open = None;
                            return SingleEvent::Ended;
                        }
                    }
                    Err(error) if error.is_panic() => {
                        error!(%error, "defect: a link's task panicked");
                        if self.open.take_if(|open| open.task.is_finished()).is_some() {
                            return SingleEvent::Ended;
                        }
                    }
                    Err(_) => {}
                },
            }
        }
    }

    /// The next frame that is there already.
    pub(crate) fn try_next(&mut self) -> Option<SingleEvent> {
        loop {
            let (id, frame) = self.frames.1.try_recv().ok()?;
            if let Some(event) = self.received(id, frame) {
                return Some(event);
            }
        }
    }

    /// Ends the link and waits until its socket is closed.
    pub(crate) async fn shutdown(&mut self) {
        self.open = None;
        self.tasks.shutdown().await;
    }

    /// Lets nothing through from now on, as a broken network would; or everything again, over another
    /// link.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn cut_off(&mut self, cut_off: bool) -> Option<SingleEvent> {
        self.cut_off = cut_off;
        if cut_off || self.open.is_none() {
            return None;
        }
        self.disconnect();
        Some(SingleEvent::Ended)
    }

    fn received(&self, id: LinkId, frame: Vec<u8>) -> Option<SingleEvent> {
        let present = self.open.as_ref().is_some_and(|open| open.id == id);
        let heard = present && !frame.is_empty() && !self.cut_off;
        heard.then_some(SingleEvent::Frame(frame))
    }
}
