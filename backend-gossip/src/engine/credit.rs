//! How much one datagram is answered with.
//!
//! A sender's address is anybody's claim, so whoever isn't a member known to be at it gets no more bytes
//! back than it sent: otherwise a forger could have members multiply what they send to a victim. Over
//! a link the other end has proven to be there, and nothing is held back.

use super::{Engine, Route};
use crate::wire::limits::ANSWERS_PER_DATAGRAM_MAX;

/// What may still be answered to the frame that is being handled.
#[derive(Debug)]
pub(super) struct Credit {
    frames: usize,
    bytes: usize,
}

impl Default for Credit {
    fn default() -> Self {
        Self {
            frames: usize::MAX,
            bytes: usize::MAX,
        }
    }
}

impl Engine {
    /// What a frame may be answered with.
    pub(super) fn credit_for(&self, route: Route, sender: u64, frame: &[u8]) -> Credit {
        let Route::Datagram(from) = route else {
            return Credit::default();
        };
        // The dead too: they have to learn what is said of them.
        let known = self.members.find(sender);
        let bytes = match known.is_some_and(|member| member.address == from) {
            true => usize::MAX,
            false => frame.len(),
        };
        Credit {
            frames: ANSWERS_PER_DATAGRAM_MAX,
            bytes,
        }
    }

    /// Whether there is credit for an answer of this many bytes.
    pub(super) fn may_answer(&self, bytes: usize) -> bool {
        self.credit.frames > 0 && bytes <= self.credit.bytes
    }

    /// Whether a check may be made for the frame that is being handled, which is answered later.
    pub(super) fn may_check(&mut self) -> bool {
        let may = self.may_answer(0);
        self.credit.frames -= usize::from(may);
        may
    }

    /// Answers the frame that is being handled, as far as there is credit.
    pub(super) fn transmit_answer(&mut self, route: Route, frame: Vec<u8>) {
        if !self.may_answer(frame.len()) {
            self.stats.unanswered += 1;
            return;
        }
        self.credit.frames -= 1;
        self.credit.bytes -= frame.len();
        self.transmit(route, frame);
    }
}
