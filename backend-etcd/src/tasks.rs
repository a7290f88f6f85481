//! The tasks of a handle, which end with it.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;

/// Tasks that are aborted when this is dropped. No task holds it.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    running: Mutex<JoinSet<()>>,
}

impl Tasks {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.lock();
        // Those that have ended.
        while running.try_join_next().is_some() {}
        running.spawn(task);
    }

    /// Ends them all, and waits until they have.
    pub(crate) async fn end(&self) {
        let mut running = std::mem::take(&mut *self.lock());
        running.shutdown().await;
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
