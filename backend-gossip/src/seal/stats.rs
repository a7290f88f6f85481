//! What is counted, and why frames are dropped.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of sealing (all since start).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealStats {
    /// Frames sealed, datagrams and link frames alike.
    pub sealed: u64,
    /// Frames opened that were authentic and heard for the first time.
    pub opened: u64,
    /// Starts of other members that were asked to prove that they are there.
    pub challenges: u64,
    /// Dropped: not sealed, where only sealed frames are accepted.
    pub unsealed: u64,
    /// Dropped: cut short, or of a version that is not known.
    pub malformed: u64,
    /// Dropped: of another cluster.
    pub foreign: u64,
    /// Dropped: sealed with a key that this member doesn't have.
    pub unknown_key: u64,
    /// Dropped: not sealed with the key it names, or changed since.
    pub forged: u64,
    /// Dropped: heard before.
    pub replayed: u64,
    /// Dropped: so far behind the newest that whether it was heard before is forgotten.
    pub late: u64,
    /// Dropped: sent by this member itself.
    pub reflected: u64,
    /// Dropped: from a start that has not proven to be there, and more than may wait for it.
    pub unproven: u64,
}

impl SealStats {
    /// What was dropped, by reason.
    pub(crate) fn rejected(&self) -> [(&'static str, u64); 9] {
        [
            ("unsealed", self.unsealed),
            ("malformed", self.malformed),
            ("foreign", self.foreign),
            ("unknown_key", self.unknown_key),
            ("forged", self.forged),
            ("replayed", self.replayed),
            ("late", self.late),
            ("reflected", self.reflected),
            ("unproven", self.unproven),
        ]
    }
}

/// Why a frame is dropped; as in [`SealStats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Not sealed.
    Unsealed,
    /// Cut short, or of an unknown version.
    Malformed,
    /// Of another cluster.
    Foreign,
    /// Sealed with a key that isn't there.
    UnknownKey,
    /// Not authentic.
    Forged,
    /// Heard before.
    Replayed,
    /// Too old to know whether it was heard before.
    Late,
    /// This member's own.
    Reflected,
    /// Of a start that has not proven to be there.
    Unproven,
}

/// The counters as the driver and the tasks of links count them.
#[derive(Debug, Default)]
pub struct Counters {
    sealed: AtomicU64,
    opened: AtomicU64,
    challenges: AtomicU64,
    rejected: [AtomicU64; Rejection::Unproven as usize + 1],
}

impl Counters {
    /// A frame was sealed.
    pub fn sealed(&self) {
        self.sealed.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame was opened.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A start was asked for a proof.
    pub fn challenged(&self) {
        self.challenges.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame was dropped.
    pub fn rejected(&self, rejection: Rejection) {
        self.rejected[rejection as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All of it.
    #[must_use]
    pub fn stats(&self) -> SealStats {
        let rejected = |why: Rejection| self.rejected[why as usize].load(Ordering::Relaxed);
        SealStats {
            sealed: self.sealed.load(Ordering::Relaxed),
            opened: self.opened.load(Ordering::Relaxed),
            challenges: self.challenges.load(Ordering::Relaxed),
            unsealed: rejected(Rejection::Unsealed),
            malformed: rejected(Rejection::Malformed),
            foreign: rejected(Rejection::Foreign),
            unknown_key: rejected(Rejection::UnknownKey),
            forged: rejected(Rejection::Forged),
            replayed: rejected(Rejection::Replayed),
            late: rejected(Rejection::Late),
            reflected: rejected(Rejection::Reflected),
            unproven: rejected(Rejection::Unproven),
        }
    }
}
