//! User events as an application hears them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tidings_api::{Error, Result, ServiceName};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::BACKEND;
use crate::engine::{Engine, Heard};
use crate::wire::limits::PAYLOAD_BYTES_MAX;

/// Notices that wait for the slowest reader; older ones are dropped for it. Their bytes are shared by
/// all readers.
const NOTICES_WAITING_MAX: usize = 1_024;

/// Hears the events that members send, those of the own member included.
///
/// At first come the recent ones that this member was told before: of each sender up to 1,024 events,
/// 1 MiB and 5 min. A reader that is behind by more than 1,024 notices loses the oldest of them and is
/// told how many ([`Heard::Skipped`]); it slows nobody.
#[derive(Debug)]
pub struct Events {
    recent: VecDeque<Heard>,
    live: broadcast::Receiver<Heard>,
}

impl Events {
    /// Waits for the next notice. Cancel-safe.
    ///
    /// # Errors
    /// [`Closed`](tidings_api::ErrorKind::Closed) once the handle is closed and everything read.
    pub async fn next(&mut self) -> Result<Heard> {
        if let Some(recent) = self.recent.pop_front() {
            return Ok(recent);
        }
        match self.live.recv().await {
            Ok(heard) => Ok(heard),
            Err(RecvError::Lagged(count)) => Ok(Heard::Skipped { count }),
            Err(RecvError::Closed) => Err(Error::closed().with_backend(BACKEND)),
        }
    }
}

/// The driver's side of all [`Events`].
#[derive(Debug, Default)]
pub(crate) struct EventHub {
    /// None until the first reader.
    live: Option<broadcast::Sender<Heard>>,
}

impl EventHub {
    /// A reader that begins with what the engine has kept.
    pub(crate) fn subscribe(&mut self, now: Instant, engine: &Engine) -> Events {
        let live = self
            .live
            .get_or_insert_with(|| broadcast::Sender::new(NOTICES_WAITING_MAX));
        Events {
            recent: engine.event_history(now).map(Heard::Event).collect(),
            live: live.subscribe(),
        }
    }

    pub(crate) fn tell(&mut self, heard: Heard) {
        // With the last reader goes what waits for it.
        self.live = self.live.take().filter(|live| live.receiver_count() > 0);
        if let Some(live) = &self.live {
            let _ = live.send(heard);
        }
    }
}

/// The name of an event or a query: valid as a service name is.
pub(crate) fn event_name(name: &str) -> Result<ServiceName> {
    ServiceName::new(name).map_err(|error| error.with_operation("name of an event or a query"))
}

/// The bytes of an event, a query or an answer, if they aren't too many.
pub(crate) fn payload(payload: impl Into<Arc<[u8]>>) -> Result<Arc<[u8]>> {
    let payload = payload.into();
    if payload.len() <= PAYLOAD_BYTES_MAX {
        return Ok(payload);
    }
    let message = format!(
        "payload of {} bytes: accepted are 0 to {PAYLOAD_BYTES_MAX}",
        payload.len()
    );
    Err(Error::invalid_input(message).with_backend(BACKEND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_a_bound_and_the_error_names_it() {
        assert!(payload(vec![0; PAYLOAD_BYTES_MAX]).is_ok());
        let error = payload(vec![0; PAYLOAD_BYTES_MAX + 1]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("65537 bytes: accepted are 0 to 65536"),
            "{text}"
        );
        assert!(event_name("no spaces").is_err());
    }
}
