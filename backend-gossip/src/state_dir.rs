//! What a member keeps between its starts: a generation above all it has used, and where other
//! members were.
//!
//! The generation makes a restart newer than its former self, whatever the clock says. The members
//! are asked like seeds: so it rejoins while no seed is up, and finds those again that were lost
//! for longer than the cluster remembers them.

mod file;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Error, ErrorKind, Generation, Result};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use self::file::StateFile;
use crate::engine::{Engine, MemberState};

/// Members kept of each kind: enough that some are there again after most have moved, few enough
/// that the file stays below 32 KiB.
const KEPT_MAX: usize = 64;
/// Known members asked at one time beside the seeds; few, so that the seeds get their turn even
/// where all of these have moved.
const ASKED: usize = 2;
/// Generations written ahead of those used: one is used up by each new registration, and not each
/// of them should wait for a disk. In microseconds, which they count, less than a restart takes.
const GENERATIONS_AHEAD: u64 = 100_000;
/// Time between two writes, however much changes.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the end of a member waits for its last write.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// What is in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Saved {
    /// No generation above this was used.
    generation: u64,
    /// Members that were there.
    members: Vec<KnownMember>,
    /// Members that were dead when they were heard of last, the latest at the end.
    lost: Vec<KnownMember>,
}

/// Where a member is, or was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KnownMember {
    address: SocketAddr,
    name: Arc<str>,
}

/// The state of one member on disk, where it has a folder for that.
#[derive(Debug, Default)]
pub(crate) struct StateDir {
    file: Option<Arc<StateFile>>,
    saved: Saved,
    /// Whether members have changed since `saved` was brought up to date.
    stale: bool,
    /// Whether `saved` is to be written.
    unwritten: bool,
    next_write: Option<Instant>,
    writes: JoinSet<std::io::Result<()>>,
    failing: bool,
}

impl StateDir {
    /// Reads what the member of this name has kept, and draws its next generation, which is on disk
    /// when this returns.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) where the folder isn't one that
    /// this process can write to.
    pub(crate) async fn open(
        folder: &Path,
        cluster: &str,
        name: &str,
    ) -> Result<(Self, Generation)> {
        let (folder, cluster, name) = (folder.to_owned(), cluster.to_owned(), name.to_owned());
        let opened = spawn_blocking(move || {
            let file = StateFile::new(&folder, &cluster, &name)?;
            let mut saved = file.read();
            let generation = Generation::after(Generation::new(saved.generation));
            saved.generation = generation.number() + GENERATIONS_AHEAD;
            file.write_first(&saved)?;
            Ok::<_, Error>((file, saved, generation))
        });
        let (file, saved, generation) = opened.await.map_err(|_| interrupted())??;
        let (members, lost) = (saved.members.len(), saved.lost.len());
        info!(path = %file.path().display(), members, lost, "state read");
        let dir = Self {
            file: Some(Arc::new(file)),
            saved,
            ..Self::default()
        };
        Ok((dir, generation))
    }

    /// Whether members are known that should be there: while none of them answers, this member isn't
    /// alone but cut off.
    pub(crate) fn expects_members(&self) -> bool {
        !self.saved.members.is_empty()
    }

    /// Some known members, others each time: those that should be there, and after joining those that
    /// were lost.
    pub(crate) fn candidates(&self, joined: bool) -> Vec<SocketAddr> {
        let pool = if joined || self.saved.members.is_empty() {
            &self.saved.lost
        } else {
            &self.saved.members
        };
        let mut addresses: Vec<_> = pool.iter().map(|known| known.address).collect();
        fastrand::shuffle(&mut addresses);
        addresses.truncate(ASKED);
        addresses
    }

    /// Notes that a member is in another state.
    pub(crate) fn touch(&mut self) {
        self.stale = self.file.is_some();
    }

    /// Whether there is anything to [`tend`](Self::tend).
    pub(crate) fn wants_tending(&self) -> bool {
        self.stale || self.unwritten || !self.writes.is_empty()
    }

    /// Writes what has changed, now and then, without waiting for it.
    pub(crate) fn tend(&mut self, now: Instant, engine: &Engine) {
        while let Some(written) = self.writes.try_join_next() {
            self.finish(written.unwrap_or_else(|error| Err(error.into())));
        }
        if self.next_write.is_some_and(|next| now < next) || !self.writes.is_empty() {
            return;
        }
        self.refresh(engine);
        if self.write() {
            self.next_write = Some(now + WRITE_INTERVAL);
        }
    }

    /// Writes what has changed at the end, and waits for it, but not for long.
    pub(crate) async fn close(&mut self, engine: &Engine) {
        let last = async {
            while let Some(written) = self.writes.join_next().await {
                self.finish(written.unwrap_or_else(|error| Err(error.into())));
            }
            self.refresh(engine);
            if self.write() {
                while self.writes.join_next().await.is_some() {}
            }
        };
        if timeout(LAST_WRITE_TIMEOUT, last).await.is_err() {
            debug!("the disk is too slow for the last state");
        }
    }

    /// Brings what is to be kept up to date with what the engine knows.
    fn refresh(&mut self, engine: &Engine) {
        if self.file.is_none() {
            return;
        }
        let used = engine.newest_generation().number();
        if used > self.saved.generation {
            self.saved.generation = used.saturating_add(GENERATIONS_AHEAD);
            self.unwritten = true;
        }
        // Before that the engine knows less than the file.
        if engine.is_joined() && std::mem::take(&mut self.stale) {
            let (members, lost) = self.saved.kept_of(&Found::by(engine));
            self.unwritten |= (&members, &lost) != (&self.saved.members, &self.saved.lost);
            (self.saved.members, self.saved.lost) = (members, lost);
        }
    }

    fn write(&mut self) -> bool {
        let Some(file) = self.file.clone().filter(|_| self.unwritten) else {
            return false;
        };
        self.unwritten = false;
        let saved = self.saved.clone();
        self.writes.spawn_blocking(move || file.write(&saved));
        true
    }

    fn finish(&mut self, written: std::io::Result<()>) {
        let Some(path) = self.file.as_ref().map(|file| file.path().display()) else {
            return;
        };
        match written {
            Ok(()) if std::mem::take(&mut self.failing) => info!(%path, "state written again"),
            Ok(()) => debug!(%path, "state written"),
            Err(error) => {
                self.unwritten = true;
                if std::mem::replace(&mut self.failing, true) {
                    debug!(%path, %error, "state still not written");
                } else {
                    warn!(%path, %error, "state not written; trying again");
                }
            }
        }
    }
}

impl Saved {
    /// What to keep after this was found: of those that are there as many as were kept already, so
    /// that the file changes seldom.
    fn kept_of(&self, found: &Found) -> (Vec<KnownMember>, Vec<KnownMember>) {
        let is_there = |known: &&KnownMember| found.there.contains(*known);
        let mut members: Vec<_> = self.members.iter().filter(is_there).cloned().collect();
        let mut new: Vec<_> = found
            .there
            .iter()
            .filter(|m| !members.contains(m))
            .collect();
        fastrand::shuffle(&mut new);
        let room = KEPT_MAX.saturating_sub(members.len());
        members.extend(new.into_iter().take(room).cloned());

        let mut lost: Vec<KnownMember> = Vec::new();
        for known in self.lost.iter().chain(&self.members).chain(&found.dead) {
            if !found.is_accounted_for(known) && !lost.contains(known) {
                lost.push(known.clone());
            }
        }
        let surplus = lost.len().saturating_sub(KEPT_MAX);
        lost.drain(..surplus);
        (members, lost)
    }
}

/// The other members, as the engine has them.
#[derive(Debug, Default)]
struct Found {
    there: BTreeSet<KnownMember>,
    dead: Vec<KnownMember>,
    /// Names and addresses of those that nobody needs to look for.
    names: BTreeSet<Arc<str>>,
    addresses: BTreeSet<SocketAddr>,
}

impl Found {
    fn by(engine: &Engine) -> Self {
        let me = engine.identity();
        let mut found = Self::default();
        found.addresses.insert(me.address);
        for info in engine.members() {
            let (name, address) = (info.identity.name, info.identity.address);
            // A name is what anybody says; it must not make lines of its own.
            if name == me.name || name.contains(char::is_control) {
                continue;
            }
            match info.state {
                MemberState::Alive | MemberState::Suspect => {
                    found.names.insert(name.clone());
                    found.addresses.insert(address);
                    found.there.insert(KnownMember { address, name });
                }
                MemberState::Dead => found.dead.push(KnownMember { address, name }),
                MemberState::Left => {
                    found.names.insert(name);
                }
            }
        }
        found
    }

    /// Whether a member is there, also under another name or address, or has left.
    fn is_accounted_for(&self, known: &KnownMember) -> bool {
        self.names.contains(&known.name) || self.addresses.contains(&known.address)
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Internal, "reading the state has panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(number: usize) -> KnownMember {
        let [.., high, low] = number.to_be_bytes();
        KnownMember {
            address: ([10, 0, high, low], 7946).into(),
            name: format!("m{number}").into(),
        }
    }

    fn found(there: impl IntoIterator<Item = usize>, dead: &[usize], left: &[usize]) -> Found {
        let there: BTreeSet<_> = there.into_iter().map(known).collect();
        let left = left.iter().map(|number| known(*number).name);
        Found {
            names: there
                .iter()
                .map(|known| known.name.clone())
                .chain(left)
                .collect(),
            addresses: there.iter().map(|known| known.address).collect(),
            dead: dead.iter().map(|number| known(*number)).collect(),
            there,
        }
    }

    fn keep(saved: &mut Saved, found: &Found) {
        (saved.members, saved.lost) = saved.kept_of(found);
    }

    #[test]
    fn who_is_there_stays_and_who_is_not_is_lost_until_found_or_gone_for_good() {
        let mut saved = Saved::default();
        keep(&mut saved, &found([1, 2, 3, 4], &[], &[]));
        assert_eq!(saved.members.len(), 4);
        keep(&mut saved, &found([1, 2], &[3], &[4]));
        assert_eq!((saved.members.len(), &saved.lost), (2, &vec![known(3)]));
        // Also when the engine has forgotten it.
        keep(&mut saved, &found([1, 2], &[], &[]));
        assert_eq!(saved.lost, [known(3)]);
        let mut elsewhere = found([1, 2], &[], &[]);
        let moved = KnownMember {
            address: known(9).address,
            ..known(3)
        };
        elsewhere.names.insert(moved.name.clone());
        elsewhere.there.insert(moved.clone());
        keep(&mut saved, &elsewhere);
        assert!(saved.members.contains(&moved) && saved.lost.is_empty());
    }

    #[test]
    fn few_are_kept_and_the_same_ones() {
        let mut saved = Saved::default();
        keep(&mut saved, &found(0..1_000, &[], &[]));
        let first = saved.members.clone();
        assert_eq!(first.len(), KEPT_MAX);
        keep(&mut saved, &found(0..1_200, &[], &[]));
        assert_eq!(saved.members, first);
        keep(
            &mut saved,
            &found(2_000..2_001, &Vec::from_iter(0..1_000), &[]),
        );
        assert_eq!((saved.members.len(), saved.lost.len()), (1, KEPT_MAX));
        // Those that had been kept, which is drawn, come before the others.
        let mut latest = (0..1_000).rev().map(known);
        let latest = latest.find(|known| !first.contains(known));
        assert_eq!(saved.lost.last(), latest.as_ref(), "the latest");
    }

    #[tokio::test]
    async fn a_generation_is_above_the_last_whatever_the_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path(), "prod", "web-1").unwrap();
        let ahead = Generation::after(Generation::default()).number() + 3_600_000_000;
        let saved = Saved {
            generation: ahead,
            ..Saved::default()
        };
        file.write(&saved).unwrap();
        let mut last = ahead;
        for _ in 0..3 {
            // Without an end: as after a crash.
            let (_, generation) = StateDir::open(folder.path(), "prod", "web-1")
                .await
                .unwrap();
            assert!(generation.number() > last);
            assert!(file.read().generation > generation.number());
            last = generation.number();
        }
    }

    #[test]
    fn few_are_asked_and_all_of_them_in_time() {
        let dir = StateDir {
            saved: Saved {
                members: (0..10).map(known).collect(),
                lost: (10..20).map(known).collect(),
                ..Saved::default()
            },
            ..StateDir::default()
        };
        for (joined, expected) in [(false, 0..10), (true, 10..20)] {
            let mut asked = BTreeSet::new();
            for _ in 0..1_000 {
                let candidates = dir.candidates(joined);
                assert_eq!(candidates.len(), ASKED);
                asked.extend(candidates);
            }
            let expected: BTreeSet<_> = expected.map(|number| known(number).address).collect();
            assert_eq!(asked, expected);
        }
    }
}
