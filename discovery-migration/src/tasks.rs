//! The tasks of a handle, which end with it.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;

/// Tasks that are aborted when [`end`](Self::end) is called. They may hold what holds this.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    running: Mutex<Option<JoinSet<()>>>,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Self {
            running: Mutex::new(Some(JoinSet::new())),
        }
    }

    /// Starts a task, unless they were ended.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(running) = &mut *self.lock() {
            // Those that have ended.
            while running.try_join_next().is_some() {}
            running.spawn(task);
        }
    }

    /// Ends them all, and starts none any more.
    pub(crate) fn abort(&self) {
        drop(self.lock().take());
    }

    /// The same, and waits until they have ended.
    pub(crate) async fn end(&self) {
        let running = self.lock().take();
        if let Some(mut running) = running {
            running.shutdown().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
