//! Members of different builds in one cluster: what an earlier one doesn't know it skips, and passes
//! on where it belongs to something that is passed on.
//!
//! All builds are this one's engine. [`Build::Version1`] hears the messages of version 1 alone and says
//! of itself what that build said. [`Build::Next`] is what this build will meet one day: its messages
//! carry fields, and its frames messages, that nobody else knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidings_gossip::Features;
use tidings_gossip::engine::{EngineConfig, Identity};
use tidings_gossip::wire::codec::put_bytes;
use tidings_gossip::wire::{Header, Message, Reader, member_hash};

use crate::checkers::{Outcome, Violation};
use crate::history::Snapshot;
use crate::plan::Plan;
use crate::run::run;

/// Ids of messages that version 1 knows.
const VERSION_1_IDS: std::ops::RangeInclusive<u8> = 1..=11;
/// A message, a field of records and a feature of the next build.
const NEXT_ID: u8 = 250;
const NEXT_TAG: u8 = 250;
const NEXT_FEATURE: Features = Features::from_bits(1 << 40);
/// What the next build says in a field of its own of what it is, and of what it offers.
const NEXT_OF_MEMBER: &[u8] = b"next";
const NEXT_OF_RECORD: &[u8] = &[NEXT_TAG, 2, b'o', b'k'];
/// Room that the next build needs for its own fields in a datagram.
const NEXT_ROOM: usize = 300;
/// Seeds of the sweep; each takes as long as one of the other sweep.
const SEEDS: u64 = 24;

/// Which build a process is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    Version1,
    Current,
    Next,
}

/// Who is, and was, of which build.
#[derive(Debug, Default)]
pub(crate) struct Builds {
    /// Whether there are several; otherwise all are [`Build::Current`].
    mixed: bool,
    starts: usize,
    /// By member id and generation.
    known: BTreeMap<(u64, u64), Build>,
    pub(crate) counters: BuildCounters,
}

/// What has happened on the way between builds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BuildCounters {
    /// Processes started as another build than the one before of that place.
    pub(crate) changes: u64,
    /// Messages that version 1 skipped.
    pub(crate) skipped: u64,
    /// Fields of the next build that others have passed on.
    pub(crate) passed_on: u64,
}

impl Builds {
    pub(crate) fn new(mixed: bool) -> Self {
        Self {
            mixed,
            ..Self::default()
        }
    }

    /// The build that starts next: each in turn, so that restarts are upgrades and downgrades.
    pub(crate) fn next(&mut self) -> Build {
        if !self.mixed {
            return Build::Current;
        }
        self.starts += 1;
        match self.starts % 3 {
            0 => Build::Version1,
            1 => Build::Current,
            _ => Build::Next,
        }
    }

    /// A process of this build runs under this identity from now on.
    pub(crate) fn note(&mut self, identity: &Identity, build: Build) {
        if self.mixed {
            let id = member_hash(&identity.name);
            let former = self.known.range((id, 0)..=(id, u64::MAX)).next_back();
            let changed = former.is_some_and(|(_, former)| *former != build);
            self.counters.changes += u64::from(changed);
            let generation = identity.generation.number();
            self.known.insert((id, generation), build);
        }
    }

    /// The frame as a process of this build hears it.
    pub(crate) fn heard(&mut self, build: Build, frame: &Arc<[u8]>) -> Arc<[u8]> {
        match messages(frame).filter(|_| build == Build::Version1) {
            None => frame.clone(),
            Some((header, messages)) => {
                let all = messages.len();
                let known: Vec<_> = messages
                    .into_iter()
                    .filter(|(id, _)| VERSION_1_IDS.contains(id))
                    .collect();
                self.counters.skipped += (all - known.len()) as u64;
                rebuilt(header, known)
            }
        }
    }

    /// The frame as a process of this build sends it.
    pub(crate) fn sent(
        &mut self,
        build: Build,
        identity: &Identity,
        frame: Arc<[u8]>,
    ) -> Arc<[u8]> {
        let Some((header, messages)) = messages(&frame).filter(|_| build == Build::Next) else {
            return frame;
        };
        let me = member_hash(&identity.name);
        let own = messages.into_iter().map(|(id, body)| {
            let mut bytes = vec![id];
            put_bytes(&mut bytes, &body);
            match Message::decode(&mut Reader::new(&bytes)) {
                Ok(Some(Message::Alive(mut alive))) if alive.name == identity.name => {
                    alive.unknown = NEXT_OF_MEMBER.into();
                    encoded(&Message::Alive(alive))
                }
                Ok(Some(Message::Record(mut record))) if record.owner == me => {
                    if let Some(content) = &mut record.content {
                        content.unknown = NEXT_OF_RECORD.into();
                    }
                    encoded(&Message::Record(record))
                }
                _ => (id, body),
            }
        });
        let own: Vec<_> = own.chain([(NEXT_ID, b"unheard of".to_vec())]).collect();
        rebuilt(header, own)
    }

    /// What is missing in a frame of a member that passes on what the next build has said.
    pub(crate) fn lost(&mut self, frame: &[u8]) -> Option<String> {
        if !self.mixed {
            return None;
        }
        let (header, messages) = messages(frame)?;
        for (id, body) in messages {
            let mut bytes = vec![id];
            put_bytes(&mut bytes, &body);
            let (start, kept, whole): (_, Box<[u8]>, _) =
                match Message::decode(&mut Reader::new(&bytes)) {
                    Ok(Some(Message::Alive(alive))) => {
                        let start = (member_hash(&alive.name), alive.generation);
                        (start, alive.unknown, NEXT_OF_MEMBER)
                    }
                    Ok(Some(Message::Record(record))) => {
                        let start = (record.owner, record.generation);
                        match record.content {
                            Some(content) => (start, content.unknown, NEXT_OF_RECORD),
                            None => continue,
                        }
                    }
                    _ => continue,
                };
            if start.0 == header.sender || self.known.get(&start) != Some(&Build::Next) {
                continue;
            }
            if *kept != *whole {
                return Some(format!(
                    "{start:x?} is passed on with {kept:?}, not {whole:?}"
                ));
            }
            self.counters.passed_on += 1;
        }
        None
    }

    /// Whether everybody knows what everybody understands.
    pub(crate) fn agree(&self, snapshot: &Snapshot) -> Result<(), String> {
        for state in &snapshot.processes {
            let present = state.members.iter();
            for member in
                present.filter(|member| member.state <= tidings_gossip::MemberState::Suspect)
            {
                let identity = &member.identity;
                let start = (member_hash(&identity.name), identity.generation.number());
                let Some(build) = self.known.get(&start) else {
                    return Err(format!("nobody has started {identity:?}"));
                };
                if member.features != build.features() {
                    let features = member.features;
                    return Err(format!("{}: {build:?} has {features:?}", state.process));
                }
            }
        }
        Ok(())
    }
}

impl Build {
    fn features(self) -> Features {
        match self {
            Self::Version1 => Features::NONE,
            Self::Current => Features::OURS,
            Self::Next => Features::OURS.union(NEXT_FEATURE),
        }
    }

    pub(crate) fn knows_events(self) -> bool {
        self.features().contains(Features::EVENTS)
    }

    /// What an engine is configured with to be of this build.
    pub(crate) fn configure(self, config: EngineConfig) -> EngineConfig {
        let room = if self == Self::Next { NEXT_ROOM } else { 0 };
        EngineConfig {
            features: self.features(),
            datagram_bytes: config.datagram_bytes - room,
            ..config
        }
    }
}

type Messages = Vec<(u8, Vec<u8>)>;

/// The messages of a frame by id and body; `None` for what is no frame.
fn messages(frame: &[u8]) -> Option<(Header, Messages)> {
    let mut reader = Reader::new(frame);
    let header = Header::decode(&mut reader).ok()?;
    let mut messages = Vec::new();
    while !reader.is_empty() {
        messages.push((reader.u8().ok()?, reader.bytes().ok()?.to_vec()));
    }
    Some((header, messages))
}

fn rebuilt(header: Header, messages: Messages) -> Arc<[u8]> {
    let mut frame = header.to_frame();
    for (id, body) in messages {
        frame.push(id);
        put_bytes(&mut frame, &body);
    }
    frame.into()
}

fn encoded(message: &Message) -> (u8, Vec<u8>) {
    let bytes = message.to_bytes();
    let mut reader = Reader::new(&bytes);
    let id = reader.u8().expect("an id");
    (id, reader.bytes().expect("a body").to_vec())
}

/// Chaos and calm, as in the sweep, with three builds in one cluster that are exchanged for each other.
#[test]
fn builds_share_a_cluster_whatever_happens() {
    let mut total = BuildCounters::default();
    for seed in 1..=SEEDS {
        let plan = Plan {
            mixed: true,
            ..Plan::draw(seed)
        };
        match run(&plan) {
            Ok(report) => {
                let BuildCounters {
                    changes,
                    skipped,
                    passed_on,
                } = report.builds;
                total.changes += changes;
                total.skipped += skipped;
                total.passed_on += passed_on;
            }
            Err(violation) => panic!("seed {seed}\n{violation}\n{plan}"),
        }
    }
    println!("{SEEDS} seeds: {total:?}");
    assert!(total.changes > SEEDS, "builds were exchanged: {total:?}");
    assert!(
        total.skipped > 1_000 && total.passed_on > 1_000,
        "{total:?}"
    );
}

/// Members that agree have nothing to sync, whatever they don't know of each other.
pub(crate) fn no_endless_sync(syncs: u64, at: Duration) -> Outcome {
    if syncs == 0 {
        return Ok(());
    }
    Err(Violation {
        checker: "no-endless-sync",
        at,
        seen: format!("{syncs} syncs among members that agree"),
    })
}
