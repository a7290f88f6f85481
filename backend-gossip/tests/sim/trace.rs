//! The run as one number, and on demand as text.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tidings_gossip::wire::{Header, Message, Reader};

use crate::history::ProcessId;

/// Hashes everything that happens, bytes and all: two runs of one seed have to end with the same
/// number.
#[derive(Debug)]
pub(crate) struct Trace {
    hasher: DefaultHasher,
    printed: bool,
}

impl Trace {
    /// `printed`: every line goes to standard error as well.
    pub(crate) fn new(printed: bool) -> Self {
        Self {
            hasher: DefaultHasher::new(),
            printed,
        }
    }

    /// Enters a step of one process. `what` is only looked at where lines are printed, since it may
    /// hold moments of the real clock.
    pub(crate) fn note(
        &mut self,
        at: Duration,
        process: ProcessId,
        (kind, bytes): (&'static str, &[u8]),
        what: &dyn Debug,
    ) {
        (at, process, kind, bytes).hash(&mut self.hasher);
        if self.printed {
            let messages = messages(bytes);
            eprintln!(
                "{:>12.6} {process:<5} {kind:<10} {what:?} {messages}",
                at.as_secs_f64()
            );
        }
    }

    /// Enters a step of the world.
    pub(crate) fn step(&mut self, at: Duration, what: &str) {
        (at, what).hash(&mut self.hasher);
        if self.printed {
            eprintln!("{:>12.6} ----- {what}", at.as_secs_f64());
        }
    }

    /// The run so far as one number.
    pub(crate) fn digest(&self) -> u64 {
        self.hasher.finish()
    }
}

/// A frame as text; nothing for what is none.
fn messages(frame: &[u8]) -> String {
    let mut reader = Reader::new(frame);
    let Ok(header) = Header::decode(&mut reader) else {
        return String::new();
    };
    let mut text = format!("[{:016x}]", header.sender);
    while !reader.is_empty() {
        match Message::decode(&mut reader) {
            Ok(Some(message)) => text += &format!(" {message:?}"),
            Ok(None) => text += " unknown",
            Err(malformed) => return text + &format!(" {malformed:?}"),
        }
    }
    text
}
