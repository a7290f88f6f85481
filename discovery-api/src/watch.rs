//! Reading side of a subscription.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::watch;

use crate::publisher::{Signal, Topic};
use crate::{Change, Error, Result, Selector, View};

/// A subscription: holds the newest view, wakes on change.
///
/// Three ways to read it, all level-triggered (WAT-2): what happens between two looks may merge,
/// the last state is never lost, and a slow reader costs one view and slows nobody.
///
/// * as a level: [`view`](Self::view) and [`changed`](Self::changed);
/// * as a stream of views: [`into_views`](Self::into_views);
/// * as a stream of changes: [`into_changes`](Self::into_changes).
///
/// Cloning gives an independent reader of the same subscription. Dropping the last one ends it.
#[derive(Clone)]
pub struct Watch {
    topic: Arc<Topic>,
    signal: watch::Receiver<Signal>,
    /// The version `changed` returned last; 0 before the first, so that the first view counts as
    /// new and a loop over `changed` can't miss it.
    seen: u64,
}

impl Watch {
    pub(crate) fn new(topic: Arc<Topic>, signal: watch::Receiver<Signal>) -> Self {
        Self {
            topic,
            signal,
            seen: 0,
        }
    }

    /// What it selects.
    #[must_use]
    pub fn selector(&self) -> &Selector {
        self.topic.selector()
    }

    /// The newest view. Takes no lock and does no I/O; after the end it is the last one.
    #[must_use]
    pub fn view(&self) -> View {
        self.topic.view()
    }

    /// Waits for a view that this reader hasn't had from `changed` yet, and returns it. The first
    /// call returns the current view at once. Cancel-safe.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed) once the handle is closed and every view was read.
    pub async fn changed(&mut self) -> Result<View> {
        let seen = self.seen;
        let signal = *self
            .signal
            .wait_for(|signal| signal.version > seen || signal.closed)
            .await
            .map_err(|_| Error::closed())?;
        if signal.version > seen {
            self.seen = signal.version;
            return Ok(self.view());
        }
        Err(Error::closed())
    }

    /// Waits until a view meets `condition`, the current one first, and returns it. Cancel-safe.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed) when the handle is closed before that.
    pub async fn wait_until(
        &mut self,
        mut condition: impl FnMut(&View) -> bool + Send,
    ) -> Result<View> {
        let view = self.view();
        if condition(&view) {
            return Ok(view);
        }
        loop {
            let view = self.changed().await?;
            if condition(&view) {
                return Ok(view);
            }
        }
    }

    /// The views as a stream, the current one first, also where `changed` returned it before; ends
    /// when the handle is closed.
    #[must_use]
    pub fn into_views(mut self) -> Views {
        self.seen = 0;
        Views {
            next: Box::pin(next_view(self)),
        }
    }

    /// The changes as a stream, starting with one `Added` for each instance of the current view;
    /// ends when the handle is closed. A change of freshness is no change of an instance: read it
    /// from [`Changes::view`].
    #[must_use]
    pub fn into_changes(self) -> Changes {
        Changes {
            view: View::unknown("no view was read yet"),
            pending: VecDeque::new(),
            views: self.into_views(),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = self.view();
        f.debug_struct("Watch")
            .field("selector", self.selector())
            .field("instances", &view.len())
            .field("freshness", view.freshness())
            .finish_non_exhaustive()
    }
}

type NextView = Pin<Box<dyn Future<Output = (Watch, Result<View>)> + Send + Sync>>;

async fn next_view(mut watch: Watch) -> (Watch, Result<View>) {
    let view = watch.changed().await;
    (watch, view)
}

/// A stream of views; see [`Watch::into_views`].
pub struct Views {
    next: NextView,
}

impl Views {
    /// The next view, or `None` at the end. The same as the stream's `next`, without an extra
    /// crate. Cancel-safe.
    pub async fn next(&mut self) -> Option<View> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Views {
    type Item = View;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<View>> {
        let (watch, view) = match self.next.as_mut().poll(cx) {
            Poll::Ready(done) => done,
            Poll::Pending => return Poll::Pending,
        };
        // Polling again after the end answers the end again, at once.
        self.next = Box::pin(next_view(watch));
        Poll::Ready(view.ok())
    }
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views").finish_non_exhaustive()
    }
}

/// A stream of changes; see [`Watch::into_changes`].
#[derive(Debug)]
pub struct Changes {
    view: View,
    pending: VecDeque<Change>,
    views: Views,
}

impl Changes {
    /// The next change, or `None` at the end. The same as the stream's `next`, without an extra
    /// crate. Cancel-safe.
    pub async fn next(&mut self) -> Option<Change> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The view that the changes read so far, and those already drawn but not yet read, lead to.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }
}

impl Stream for Changes {
    type Item = Change;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Change>> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Poll::Ready(Some(change));
            }
            match Pin::new(&mut self.views).poll_next(cx) {
                Poll::Ready(Some(view)) => {
                    self.pending = view.since(&self.view).into();
                    self.view = view;
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{DiscoveryExt, MemoryRegistry};

    #[tokio::test]
    async fn a_stream_starts_with_the_current_view_even_if_it_was_read_before() {
        let discovery = MemoryRegistry::new().connect();
        let key = discovery.register_at("web", "10.0.0.1:80").await.unwrap();
        let mut watch = discovery.watch_service("web").await.unwrap();
        watch.changed().await.unwrap();

        let mut changes = watch.into_changes();
        let first = tokio::time::timeout(Duration::from_secs(30), changes.next()).await;
        assert_eq!(first.unwrap().unwrap().key(), &key);
    }
}
