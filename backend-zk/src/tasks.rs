//! The tasks of a handle, which end with it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tidings_api::{Error, Result};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::error::BACKEND;

#[derive(Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    /// `None` once they are ended.
    running: Mutex<Option<JoinSet<()>>>,
}

impl Tasks {
    /// None yet; those to come run in the present runtime.
    pub(crate) fn new() -> Self {
        Self {
            runtime: Handle::current(),
            running: Mutex::new(Some(JoinSet::new())),
        }
    }

    /// # Errors
    /// [`Closed`](tidings_api::ErrorKind::Closed) once they are ended.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let mut running = self.lock();
        let running = running
            .as_mut()
            .ok_or_else(|| Error::closed().with_backend(BACKEND))?;
        // Those that have ended are kept until somebody looks.
        while running.try_join_next().is_some() {}
        running.spawn_on(task, &self.runtime);
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_none()
    }

    /// Ends all tasks and waits until they have.
    pub(crate) async fn close(&self) {
        let running = self.lock().take();
        if let Some(mut running) = running {
            running.shutdown().await;
        }
    }

    /// Ends all tasks, without waiting.
    pub(crate) fn abort(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
