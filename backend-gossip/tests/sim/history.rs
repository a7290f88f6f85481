//! What a run looks like from outside: the only thing that checkers get to see.
//!
//! Checkers judge a stream of [`Seen`], so that each of them can be fed a made-up history that
//! breaks its rule (`selftest.rs`).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Generation, Instance, InstanceKey, ServiceName};
use tidings_gossip::engine::{
    Heard, Identity, MemberInfo, MemberState, Outcome, QueryUpdate, Stats, UserEvent,
};

use crate::queries::Question;

/// One start of one member: a member that is restarted is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcessId(pub(crate) u32);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The process is gone, and its host says so ("refused").
    Killed,
    /// The host is gone with it: nothing answers any more.
    Silenced,
    /// It said goodbye and was through with it.
    Left,
}

/// How a frame travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Datagram,
    Link,
}

/// What the world did or a process showed, in the order in which it happened.
#[derive(Debug)]
pub(crate) enum Seen<'a> {
    /// A process started.
    Started {
        process: ProcessId,
        cluster: &'a str,
        identity: &'a Identity,
    },
    /// A process goes on under another name or generation.
    Renamed {
        process: ProcessId,
        identity: &'a Identity,
    },
    /// A process began to leave on its own account.
    Leaving { process: ProcessId },
    /// A process ended.
    Ended { process: ProcessId, how: Ending },
    /// The application behind a process asked for this content under its key.
    Asked {
        process: ProcessId,
        instance: &'a Instance,
    },
    /// The application withdrew a key.
    Withdrawn {
        process: ProcessId,
        key: &'a InstanceKey,
    },
    /// A process learned that a newer owner has its key.
    Superseded {
        process: ProcessId,
        key: &'a InstanceKey,
    },
    /// What a process shows of a service has changed.
    View {
        process: ProcessId,
        service: &'a ServiceName,
        before: &'a [Arc<Instance>],
        after: &'a [Arc<Instance>],
    },
    /// A process told a change of a member's state.
    Member {
        process: ProcessId,
        member: &'a Identity,
        state: MemberState,
    },
    /// The application behind a process sent an event.
    EventSent {
        process: ProcessId,
        event: &'a UserEvent,
    },
    /// A process told its application of an event.
    Heard {
        process: ProcessId,
        heard: &'a Heard,
    },
    /// The application behind a process asked others.
    QueryAsked {
        process: ProcessId,
        question: &'a Question,
    },
    /// A process handed its application what somebody asks.
    QueryHeard {
        process: ProcessId,
        question: &'a [u8],
    },
    /// A process told its application what is heard of its query of this turn; `None` where none is open.
    QueryUpdate {
        process: ProcessId,
        turn: Option<u64>,
        update: &'a QueryUpdate,
        /// By the process's own clock.
        clock: Instant,
    },
    /// A process told its application what has become of its query.
    QueryEnded {
        process: ProcessId,
        turn: Option<u64>,
        outcomes: &'a [(Arc<str>, Outcome)],
    },
    /// A process handed a frame to the network.
    Sent {
        process: ProcessId,
        carrier: Carrier,
        bytes: usize,
    },
    /// A process handled a timeout that it had asked for.
    Woke { process: ProcessId },
    /// From now on nobody's frames reach this process, or some do again.
    CutOff { process: ProcessId, cut_off: bool },
    /// All faults have ended: nothing but an ordinary network from here on.
    Calm,
    /// All members agreed for the first time in calm: the strict rules begin.
    Settled,
    /// A picture of all running processes.
    Snapshot(&'a Snapshot),
}

/// A picture of all processes that run and aren't leaving.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) processes: Vec<ProcessState>,
}

/// A process in a [`Snapshot`].
#[derive(Clone, Debug)]
pub(crate) struct ProcessState {
    pub(crate) process: ProcessId,
    pub(crate) cluster: Arc<str>,
    pub(crate) identity: Identity,
    /// What its application wants to be offered, newest content, by key.
    pub(crate) asked: Vec<Arc<Instance>>,
    /// What the engine says it offers; `true` where a newer owner took over.
    pub(crate) registrations: Vec<(InstanceKey, bool)>,
    /// What the engine shows.
    pub(crate) view: Vec<Arc<Instance>>,
    /// What its watchers show: the same, as far as the engine told its changes.
    pub(crate) told: Vec<Arc<Instance>>,
    pub(crate) live: bool,
    /// The freshness that watchers were told last.
    pub(crate) live_told: bool,
    pub(crate) incarnation: u64,
    pub(crate) members: Vec<MemberInfo>,
    pub(crate) digest: u64,
    /// How far it is in the events of whom: the sender's id, its generation, the last event.
    pub(crate) streams: Vec<(u64, Generation, u64)>,
    /// Whether its build knows of events.
    pub(crate) knows_events: bool,
    pub(crate) stats: Stats,
    pub(crate) crash_bound: Duration,
    pub(crate) paused: bool,
}

/// Where content comes from: written into every instance, so that what is shown can be traced back
/// to the process that asked for it and put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stamp {
    pub(crate) owner: ProcessId,
    /// Rises with everything that any application asks for.
    pub(crate) turn: u64,
}

impl Stamp {
    /// The metadata entry that holds it.
    pub(crate) const METADATA_KEY: &'static str = "stamp";

    /// The stamp of shown content. Health has a turn of its own in its note; the later one counts.
    pub(crate) fn of(instance: &Instance) -> Option<Self> {
        let text = instance.metadata().get(Self::METADATA_KEY)?;
        let (owner, turn) = text.split_once('.')?;
        let noted = instance.health().note().and_then(|note| note.parse().ok());
        Some(Self {
            owner: ProcessId(owner.parse().ok()?),
            turn: turn.parse::<u64>().ok()?.max(noted.unwrap_or(0)),
        })
    }

    /// As metadata.
    pub(crate) fn text(self) -> String {
        format!("{}.{}", self.owner.0, self.turn)
    }
}

/// One instance in a message for people.
pub(crate) fn shown(instance: &Instance) -> String {
    let stamp = Stamp::of(instance).map_or("no stamp".to_owned(), |s| {
        format!("of {} turn {}", s.owner, s.turn)
    });
    format!(
        "{} ({stamp}, generation {}, {})",
        instance.key(),
        instance.generation(),
        instance.health()
    )
}
