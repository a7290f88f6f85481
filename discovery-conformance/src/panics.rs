//! Notices panics in the tasks of a backend, which would end nowhere otherwise (LIM-4).

use std::collections::HashMap;
use std::panic::{self, PanicHookInfo};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;

/// Panics on threads of one name, from when it was made.
pub(crate) struct Panics {
    thread: String,
}

static SEEN: Mutex<Option<HashMap<String, Vec<String>>>> = Mutex::new(None);

impl Panics {
    /// Starts noticing panics on threads called `thread`. They are still printed.
    pub(crate) fn on_threads(thread: String) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let print = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                note(info);
                print(info);
            }));
        });
        let mut seen = seen();
        seen.get_or_insert_default()
            .insert(thread.clone(), Vec::new());
        Self { thread }
    }

    /// The name of the threads.
    pub(crate) fn threads(&self) -> &str {
        &self.thread
    }

    /// The first panic, where there was one.
    pub(crate) fn first(&self) -> Option<String> {
        seen().as_ref()?.get(&self.thread)?.first().cloned()
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        if let Some(seen) = seen().as_mut() {
            seen.remove(&self.thread);
        }
    }
}

fn note(info: &PanicHookInfo<'_>) {
    let current = thread::current();
    let mut seen = seen();
    let panics = seen.as_mut().zip(current.name());
    if let Some(panics) = panics.and_then(|(seen, name)| seen.get_mut(name)) {
        panics.push(info.to_string().replace('\n', " "));
    }
}

fn seen() -> MutexGuard<'static, Option<HashMap<String, Vec<String>>>> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}
