//! The two backends: started when a phase needs them, closed when none does any more.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tidings_api::{Discovery, Error, ErrorKind, Result, Status};

use crate::{Side, Traits};

/// How a backend is started; again, where a move goes back.
pub struct Backend {
    start: Box<dyn Fn() -> Starting + Send + Sync>,
    /// Whether it can be started more than once.
    repeats: bool,
    traits: Traits,
}

type Starting = BoxFuture<'static, Result<Arc<dyn Discovery>>>;

/// The handles in use.
#[derive(Debug)]
pub(crate) struct Handles {
    backends: [Backend; 2],
    running: Mutex<[Option<Arc<dyn Discovery>>; 2]>,
}

impl Backend {
    /// A backend that is started by calling `start`.
    pub fn new<S, F>(start: S) -> Self
    where
        S: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<Arc<dyn Discovery>>> + Send + 'static,
    {
        Self {
            start: Box::new(move || Box::pin(start())),
            repeats: true,
            traits: Traits::new(),
        }
    }

    /// The same with what it says of itself, for [`Migration::preflight`](crate::Migration::preflight).
    #[must_use]
    pub fn with_traits(mut self, traits: Traits) -> Self {
        self.traits = traits;
        self
    }
}

/// A handle that runs already. It is closed like one that was started, and can't be started again:
/// for a move that ends where it began, use [`Backend::new`].
impl From<Arc<dyn Discovery>> for Backend {
    fn from(handle: Arc<dyn Discovery>) -> Self {
        let handle = Mutex::new(Some(handle));
        let backend = Self::new(move || {
            let handle = handle.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move { handle.ok_or_else(Error::closed) }
        });
        Self {
            repeats: false,
            ..backend
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}

impl Handles {
    pub(crate) fn new(old: Backend, new: Backend) -> Self {
        Self {
            backends: [old, new],
            running: Mutex::default(),
        }
    }

    /// The handle of a side, where it is in use.
    pub(crate) fn get(&self, side: Side) -> Option<Arc<dyn Discovery>> {
        self.lock()[side.index()].clone()
    }

    /// Starts a side, unless it runs.
    pub(crate) async fn start(&self, side: Side) -> Result<()> {
        if self.get(side).is_some() {
            return Ok(());
        }
        let handle = (self.backends[side.index()].start)().await?;
        self.lock()[side.index()] = Some(handle);
        Ok(())
    }

    /// How a side is doing and what it says of itself; it is started for that and closed again
    /// where it isn't in use.
    pub(crate) async fn look_at(&self, side: Side) -> Result<(Status, Traits)> {
        let backend = &self.backends[side.index()];
        let traits = backend.traits.clone();
        if let Some(handle) = self.get(side) {
            return Ok((handle.status(), traits));
        }
        if !backend.repeats {
            let message = "it is not in use, and was given as a handle, which is started only once";
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        let handle = (backend.start)().await?;
        let status = handle.status();
        // It has registered nothing: nobody misses a goodbye.
        let _ = handle.close().await;
        Ok((status, traits))
    }

    /// Takes a side out of use; whoever takes it closes it.
    pub(crate) fn take(&self, side: Side) -> Option<Arc<dyn Discovery>> {
        self.lock()[side.index()].take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [Option<Arc<dyn Discovery>>; 2]> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
