//! What is mirrored, and what follows from what both backends show: a pure state machine.
//!
//! It says what to register and what to withdraw, and only ever withdraws what it has registered
//! itself: nothing it sees, or doesn't see, can make it take away what somebody else wrote.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidings_api::{
    Error, Instance, InstanceKey, METADATA_MIRROR_KEY, METADATA_RESERVED_PREFIX, Registration,
    Status,
};
use tokio::time::Instant;

use super::mark::BridgeMark;
use super::peers::{Peers, Standing};
use super::picture::Picture;
use super::report::Skip;

/// How long a registration that was refused is left alone before it is tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// After how many times the others' silence a mirror that falls to another bridge is made all the
/// same: that one doesn't see what this one sees, or may not write it.
const UNCLAIMED_SILENCES: u32 = 3;

/// The mirrors of one bridge.
#[derive(Debug)]
pub(super) struct Ledger {
    name: String,
    origin: String,
    hold: Duration,
    /// What the target was told, and not to forget it since.
    held: BTreeMap<InstanceKey, Arc<Instance>>,
    /// Keys that the target is being told of, with what it had of them.
    busy: BTreeMap<InstanceKey, Option<Arc<Instance>>>,
    /// Keys that are left alone for a while, and what the target said where it refused.
    paused: BTreeMap<InstanceKey, (Instant, Option<Error>)>,
    /// Keys that fall to others who don't take them, and since when.
    unclaimed: BTreeMap<InstanceKey, Instant>,
    skipped: BTreeMap<InstanceKey, Skip>,
    unverified_since: Option<Instant>,
}

/// What the target is to be told.
#[derive(Clone, Debug)]
pub(super) enum Job {
    Register(Arc<Instance>),
    Withdraw(InstanceKey),
}

/// What there is to see.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) source: &'a Picture,
    pub(super) target: &'a Picture,
    pub(super) status: &'a Status,
    pub(super) peers: &'a Peers,
    pub(super) now: Instant,
    /// Whether anything new is mirrored.
    pub(super) takes: bool,
}

impl Ledger {
    pub(super) fn new(name: String, origin: String, hold: Duration) -> Self {
        Self {
            name,
            origin,
            hold,
            held: BTreeMap::new(),
            busy: BTreeMap::new(),
            paused: BTreeMap::new(),
            unclaimed: BTreeMap::new(),
            skipped: BTreeMap::new(),
            unverified_since: None,
        }
    }

    /// What is to be done now. Keys that something is under way for are left out.
    pub(super) fn look(&mut self, scene: Scene<'_>) -> Vec<Job> {
        self.unverified_since = match scene.source.is_live() {
            true => None,
            false => self.unverified_since.or(Some(scene.now)),
        };
        let now = scene.now;
        self.paused.retain(|_, (until, _)| *until > now);
        let mut jobs = self.keep(scene);
        self.skipped.clear();
        if scene.source.is_live() && scene.takes {
            jobs.extend(self.begin(scene));
        }
        jobs
    }

    /// What becomes of the mirrors there are.
    fn keep(&mut self, scene: Scene<'_>) -> Vec<Job> {
        let expired = self
            .unverified_since
            .is_some_and(|since| scene.now.saturating_duration_since(since) >= self.hold);
        let mut jobs = Vec::new();
        for (key, told) in &self.held {
            if self.busy.contains_key(key) {
                continue;
            }
            let registration = scene.status.registration(key);
            if registration.is_none_or(Registration::is_superseded) {
                // It is somebody else's now; the handle forgets it.
                let until = scene.now + scene.peers.silence();
                self.paused.entry(key.clone()).or_insert((until, None));
                jobs.push(Job::Withdraw(key.clone()));
                continue;
            }
            if !scene.source.is_live() {
                if expired {
                    jobs.push(Job::Withdraw(key.clone()));
                }
                continue;
            }
            let source = scene.source.get(key);
            let Some(wanted) = source.and_then(|source| self.mirror(source).ok()) else {
                jobs.push(Job::Withdraw(key.clone()));
                continue;
            };
            // Whoever is seen there has taken over, of which the handle learns in a moment.
            let mine = scene.target.get(key).is_none_or(|there| self.is_own(there));
            let paused = self.paused.contains_key(key);
            if wanted != **told && mine && !paused {
                jobs.push(Job::Register(Arc::new(wanted)));
            }
        }
        jobs
    }

    /// What is to be mirrored that isn't.
    fn begin(&mut self, scene: Scene<'_>) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut unclaimed = BTreeMap::new();
        for source in scene.source.iter() {
            let key = source.key();
            if self.held.contains_key(key) || self.busy.contains_key(key) || is_reserved(key) {
                continue;
            }
            match self.claim(source, scene, &mut unclaimed) {
                Ok(mirror) => jobs.push(Job::Register(Arc::new(mirror))),
                Err(skip) => {
                    self.skipped.insert(key.clone(), skip);
                }
            }
        }
        self.unclaimed = unclaimed;
        jobs
    }

    /// The mirror of an instance, where this bridge is the one to make it now.
    fn claim(
        &self,
        source: &Instance,
        scene: Scene<'_>,
        unclaimed: &mut BTreeMap<InstanceKey, Instant>,
    ) -> Result<Instance, Skip> {
        let Scene {
            target, peers, now, ..
        } = scene;
        let key = source.key();
        let mirror = self.mirror(source)?;
        if !target.is_live() {
            return Err(Skip::Unheard);
        }
        let there = target.get(key);
        if there.is_some_and(|there| !there.is_mirror()) {
            return Err(Skip::Owned);
        }
        if let Some((_, error)) = self.paused.get(key) {
            return Err(error.clone().map_or(Skip::TakenOver, Skip::Refused));
        }
        let holder = there.map(|there| holder(there));
        if holder == Some(&self.name) {
            // This bridge's former self had it.
            return Ok(mirror);
        }
        let standing = holder.map_or(Standing::Dead, |holder| peers.standing(holder, now));
        let elsewhere = |name: &str| Err(Skip::Elsewhere(holder.unwrap_or(name).to_owned()));
        if standing == Standing::Able && !holder.is_some_and(|holder| peers.shares(holder)) {
            return elsewhere("");
        }
        match (peers.assigned(key), standing) {
            (None, Standing::Unable | Standing::Dead) => Ok(mirror),
            (None, Standing::Able) if peers.is_settled(now) => Ok(mirror),
            (None, Standing::Able) => elsewhere(""),
            (Some(other), Standing::Able) => elsewhere(other),
            (Some(other), Standing::Unable | Standing::Dead) => {
                let since = *self.unclaimed.get(key).unwrap_or(&now);
                unclaimed.insert(key.clone(), since);
                let late = now.saturating_duration_since(since);
                if late >= peers.silence() * UNCLAIMED_SILENCES {
                    return Ok(mirror);
                }
                elsewhere(other)
            }
        }
    }

    /// What the target is to have of an instance.
    fn mirror(&self, source: &Instance) -> Result<Instance, Skip> {
        if source.is_mirror() {
            return Err(Skip::Mirror);
        }
        let mark = BridgeMark {
            holder: self.name.clone(),
            generation: source.generation(),
            origin: self.origin.clone(),
        };
        mark.put_on(source).map_err(Skip::Refused)
    }

    fn is_own(&self, there: &Instance) -> bool {
        there.is_mirror() && holder(there) == self.name
    }

    /// A job is under way.
    pub(super) fn start(&mut self, job: &Job) {
        let key = job.key().clone();
        self.busy.insert(key.clone(), self.held.get(&key).cloned());
        if let Job::Register(mirror) = job {
            self.held.insert(key, mirror.clone());
        }
    }

    /// A job has ended.
    pub(super) fn finish(&mut self, job: &Job, result: Result<(), Error>, now: Instant) {
        let key = job.key();
        let before = self.busy.remove(key).flatten();
        match (job, result) {
            (Job::Withdraw(_), _) => {
                self.held.remove(key);
            }
            (Job::Register(_), Ok(())) => {}
            (Job::Register(_), Err(error)) => {
                tracing::warn!(%key, %error, "the target refuses a mirror");
                let until = now + REFUSED_PAUSE;
                self.paused.insert(key.clone(), (until, Some(error)));
                // Where there was nothing, it stays here until the handle has surely forgotten it.
                if let Some(before) = before {
                    self.held.insert(key.clone(), before);
                }
            }
        }
    }

    /// Everything that is mirrored, to be withdrawn.
    pub(super) fn all(&self) -> Vec<Job> {
        let idle = self.held.keys().filter(|key| !self.busy.contains_key(*key));
        idle.cloned().map(Job::Withdraw).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.busy.is_empty()
    }

    pub(super) fn held(&self) -> impl Iterator<Item = &InstanceKey> {
        self.held.keys()
    }

    pub(super) fn skipped(&self) -> &BTreeMap<InstanceKey, Skip> {
        &self.skipped
    }

    /// How long what can't be verified is kept.
    pub(super) fn hold(&self) -> Duration {
        self.hold
    }

    pub(super) fn unverified_since(&self) -> Option<Instant> {
        self.unverified_since
    }
}

impl Job {
    pub(super) fn key(&self) -> &InstanceKey {
        match self {
            Self::Register(mirror) => mirror.key(),
            Self::Withdraw(key) => key,
        }
    }
}

/// The name of the bridge that keeps a mirror.
pub(super) fn holder(mirror: &Instance) -> &str {
    let mark = mirror.metadata().get(METADATA_MIRROR_KEY);
    mark.and_then(|mark| mark.split(' ').next())
        .unwrap_or_default()
}

/// What Tidings itself registers is for its own backend.
fn is_reserved(key: &InstanceKey) -> bool {
    key.service().as_str().starts_with(METADATA_RESERVED_PREFIX)
}
