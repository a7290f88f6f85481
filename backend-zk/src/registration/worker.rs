//! Brings one key to the server, and keeps it there.
//!
//! The node is ephemeral, of the handle's session. Who has it is decided by the generation in it,
//! never by who came last:
//!
//! * nobody: it is created;
//! * this session: its data is set, with the version that was read;
//! * an earlier session of this handle, or somebody older: it is replaced, by one transaction that
//!   checks that neither node nor service has changed since they were read;
//! * somebody newer: this registration is superseded.
//!
//! The node is watched, by itself or together with [the others of its service](super::guards):
//! whatever happens to it afterwards, by whomever, starts the next look. Callers don't wait for
//! that watch. One that is set after the writing says whether the node still was what was written,
//! so that nothing is missed in between. The outcome of a request that is not answered is not known;
//! it is found out by looking, and never assumed.

use std::any::Any;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tidings_api::{Error, ErrorKind, Generation, Instance, InstanceKey, ServiceName};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;
use zookeeper_client as zk;
use zookeeper_client::EventType::{NodeCreated, NodeDataChanged, NodeDeleted};

use super::guards::{Alarm, Seat};
use super::{Job, Wanted};
use crate::Shared;
use crate::content::Content;
use crate::departures::Departures;
use crate::error::{BACKEND, Failure};
use crate::session::{Backoff, Link};

/// Looks at a node that others change all the time, before the next try waits.
const LOOKS_MAX: usize = 8;

/// Whose turn it is to change the node of a service. Without turns a handle that takes back many of
/// its instances at once would be its own worst rival: each of these changes has to be based on the
/// one before. Services share the turns of their hash.
#[derive(Debug, Default)]
pub(crate) struct Turns([Mutex<()>; 32]);

impl Turns {
    async fn take(&self, service: &ServiceName) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        service.hash(&mut hasher);
        let slot = hasher.finish() % self.0.len() as u64;
        let slot = usize::try_from(slot).unwrap_or_default();
        self.0[slot].lock().await
    }
}

/// Works on one key until it is taken back or superseded.
///
/// A panic is a defect, but none that anybody should have to wait for: it ends the try it happens
/// in, like a failure, and another worker goes on after a pause.
pub(crate) async fn work(shared: Arc<Shared>, key: InstanceKey) {
    let mut backoff = Backoff::new(shared.config.retry_max);
    let mut worker = Worker::new(shared.clone(), key.clone());
    // Nothing is seen of it half changed: what is shared is behind locks, each held for one change.
    while let Err(panic) = AssertUnwindSafe(worker.run()).catch_unwind().await {
        let error = broken(&key, &*panic);
        tracing::error!(%key, %error, "a defect: the work on this key panicked");
        shared.registrations.broken(&key, error);
        shared.refresh(&key);
        worker = Worker::new(shared.clone(), key.clone());
        // Whatever it was about to write may have been sent.
        worker.session_time = shared.config.session_timeout;
        worker.stray();
        let Some(job) = shared.registrations.job(&key) else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            () = job.outdated() => {}
        }
    }
}

fn broken(key: &InstanceKey, panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = format!(
        "the work on {key} panicked: {}",
        text.unwrap_or("without a text")
    );
    Error::new(ErrorKind::Internal, message).with_backend(BACKEND)
}

struct Worker {
    shared: Arc<Shared>,
    key: InstanceKey,
    path: Arc<str>,
    /// Path of the service's node.
    service: Arc<str>,
    /// The node, as this handle wrote it last; `None` after anything that may have changed it.
    known: Option<Known>,
    guard: Guard,
    /// Whether there is, or may have been, a node of this handle that others have seen.
    was_there: bool,
    /// Until when a request that was never answered may still take effect.
    stray_until: Option<Instant>,
    /// The node of somebody else that holds what was meant for ours, by the transaction that created
    /// it, and until when its owner is expected to write into it again.
    overwritten: Option<(i64, Instant)>,
    session_time: Duration,
    backoff: Backoff,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// The connection over which it was written.
    number: u64,
    version: i32,
}

/// What says that the node was touched.
enum Guard {
    None,
    /// A watch of its own.
    Own(zk::OneshotWatcher),
    /// That of all nodes of the service.
    Shared(Seat),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Again,
    Over,
}

/// How far a try came.
enum Reached {
    /// The node is there with the wanted content, and guarded.
    Offered,
    /// No node of this handle is there.
    Withdrawn,
    Superseded,
}

/// What became of an offer's generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raised {
    No,
    Yes,
    /// Something else is offered by now.
    Outdated,
}

/// What there is, read in one go.
struct Found {
    departures: Departures,
    /// Version of the service's node; `None` where there is none.
    service_version: Option<i32>,
    node: Option<(Vec<u8>, zk::Stat)>,
}

/// Whose node it is.
enum Whose {
    /// This session's, with this content or another.
    Ours {
        same: bool,
    },
    /// This handle's, of a session that has ended or will.
    Ghost,
    /// Somebody else's, into which this handle wrote before it knew that its own node was replaced.
    Overwritten,
    Older(Generation),
    Newer(Generation),
    /// An owner's, and this is a mirror.
    Owners,
}

impl Worker {
    fn new(shared: Arc<Shared>, key: InstanceKey) -> Self {
        Self {
            backoff: Backoff::new(shared.config.retry_max),
            path: shared.keys.instance(&key).into(),
            service: shared.keys.service(key.service()).into(),
            shared,
            key,
            known: None,
            guard: Guard::None,
            was_there: false,
            stray_until: None,
            overwritten: None,
            session_time: Duration::ZERO,
        }
    }

    async fn run(&mut self) {
        while let Some(job) = self.shared.registrations.job(&self.key) {
            #[cfg(feature = "fault-injection")]
            self.shared.registrations.panic_if_told();
            match self.shared.line.link() {
                Some(link) => {
                    if self.turn(&link, &job).await == Turn::Over {
                        return;
                    }
                }
                None => self.wait_for_link(&job).await,
            }
        }
    }

    /// One try, and then rest until there is something to do.
    async fn turn(&mut self, link: &Link, job: &Job) -> Turn {
        self.session_time = link.client().session_timeout();
        let shared = self.shared.clone();
        let permit = shared.in_flight.acquire().await;
        let reached = match job.wanted {
            Wanted::Offered => self.offer(link, job).await,
            Wanted::Withdrawn => self.withdraw(link, job).await,
        };
        drop(permit);
        match reached {
            Ok(Reached::Offered) => {
                self.backoff.reset();
                self.rest(link, job).await;
                Turn::Again
            }
            Ok(Reached::Withdrawn) => self.withdrawn(link, job).await,
            Ok(Reached::Superseded) => {
                let over = self
                    .shared
                    .registrations
                    .superseded(&self.key, job.revision);
                tracing::warn!(key = %self.key, "superseded by a newer owner");
                self.shared.refresh(&self.key);
                if over { Turn::Over } else { Turn::Again }
            }
            Err(failure) => self.failed(link, job, failure).await,
        }
    }

    async fn offer(&mut self, link: &Link, job: &Job) -> Result<Reached, Failure> {
        let mut job = job.clone();
        let known = self
            .known
            .take()
            .filter(|known| known.number == link.number());
        if let Some(known) = known {
            match self.update(link, &job, known.version).await {
                Err(failure) if failure.is_change() => {}
                done => return done.map(|()| Reached::Offered),
            }
        } else if job.fresh {
            match self.create(link, &mut job).await {
                Err(failure) if failure.is_change() => {}
                done => return done.map(|()| Reached::Offered),
            }
        }
        let shared = self.shared.clone();
        for look in 0..LOOKS_MAX {
            // Only who was disturbed once waits for the others of this handle.
            let _turn = match look {
                0 => None,
                _ => Some(shared.turns.take(self.key.service()).await),
            };
            match self.look_and_offer(link, &mut job).await {
                Err(failure) if failure.is_change() => {}
                done => return done,
            }
        }
        Err(Failure::Refused(zk::Error::BadVersion))
    }

    /// Reads what there is and writes what follows from it, once. Errors of version and existence
    /// mean that it has changed in between.
    async fn look_and_offer(&mut self, link: &Link, job: &mut Job) -> Result<Reached, Failure> {
        self.sit(link);
        let found = self.look(link).await?;
        if self.raise_above(job, &found.departures) == Raised::Outdated {
            return Ok(Reached::Offered);
        }
        let Some((data, stat)) = &found.node else {
            if self.newer_departed(job, &found.departures).is_some() {
                return Ok(Reached::Superseded);
            }
            self.replace(link, job, &found, None).await?;
            return Ok(Reached::Offered);
        };
        match self.whose(link, job, data, stat) {
            Whose::Ours { same: true } => {
                // Written by a try whose answer was lost, or before this connection.
                self.keep(link, stat.version).await?;
                self.settled(job);
            }
            Whose::Ours { same: false } => self.update(link, job, stat.version).await?,
            Whose::Ghost => self.replace(link, job, &found, Some(stat)).await?,
            // Only its owner knows what it was. One that lives writes that again, and is heard of.
            Whose::Overwritten if !self.is_given_up(stat) => {
                return Err(Failure::Refused(zk::Error::BadVersion));
            }
            Whose::Overwritten => self.replace(link, job, &found, Some(stat)).await?,
            Whose::Owners => return Ok(Reached::Superseded),
            Whose::Newer(theirs) => {
                let raised = self
                    .shared
                    .registrations
                    .raise(&self.key, job.revision, theirs);
                let Some(instance) = raised else {
                    return Ok(Reached::Superseded);
                };
                job.instance = instance;
                self.shared.registrations.took_over(&self.key);
                self.replace(link, job, &found, Some(stat)).await?;
            }
            Whose::Older(theirs) => {
                tracing::info!(key = %self.key, %theirs, "taking over from an older owner");
                self.shared.registrations.took_over(&self.key);
                self.replace(link, job, &found, Some(stat)).await?;
            }
        }
        Ok(Reached::Offered)
    }

    /// Raises a fresh offer above the owners of its key that have left. They did so before it was
    /// made; but when its session is lost that isn't known any more.
    fn raise_above(&self, job: &mut Job, departures: &Departures) -> Raised {
        let Some(left) = self.newer_departed(job, departures).filter(|_| job.fresh) else {
            return Raised::No;
        };
        let registrations = &self.shared.registrations;
        match registrations.raise(&self.key, job.revision, left) {
            Some(raised) => {
                job.instance = raised;
                Raised::Yes
            }
            None => Raised::Outdated,
        }
    }

    /// The generation of a newer owner that has left. A mirror gives way to owners only while they
    /// are there.
    fn newer_departed(&self, job: &Job, departures: &Departures) -> Option<Generation> {
        let newest = departures.newest(self.key.id());
        newest.filter(|left| {
            let comparable = left.is_of_mirror() == job.instance.is_mirror();
            comparable && *left > job.instance.generation()
        })
    }

    async fn look(&self, link: &Link) -> Result<Found, Failure> {
        let client = link.client();
        // In this order: whoever replaces the node after it was read changes the service's version.
        let service = client.get_data(&self.service);
        let node = client.get_data(&self.path);
        let service = absent_as_none(link.call(service).await)?;
        let node = absent_as_none(link.call(node).await)?;
        let data = service.as_ref().map_or(&[][..], |(data, _)| data);
        Ok(Found {
            departures: Departures::decode(data),
            service_version: service.as_ref().map(|(_, stat)| stat.version),
            node,
        })
    }

    fn whose(&self, link: &Link, job: &Job, data: &[u8], stat: &zk::Stat) -> Whose {
        let me = Some(&self.shared.registrations.encoder().owner);
        let content = Content::decode(&self.key, data).ok();
        let owner = content.as_ref().and_then(|content| content.owner.as_ref());
        let instance = content.as_ref().map(|content| &content.instance);
        if stat.ephemeral_owner == link.session() {
            // Whatever somebody else has written into it.
            let same = owner == me && instance == Some(&*job.instance);
            return Whose::Ours { same };
        }
        if owner == me {
            return match self.is_ghost(link, stat) {
                true => Whose::Ghost,
                false => Whose::Overwritten,
            };
        }
        let theirs = instance.map(Instance::generation).unwrap_or_default();
        if job.instance.is_mirror() && instance.is_some_and(|found| !found.is_mirror()) {
            return Whose::Owners;
        }
        // Generations may be equal by chance; then the owner's name decides, for both alike.
        if (theirs, owner) > (job.instance.generation(), me) {
            Whose::Newer(theirs)
        } else {
            Whose::Older(theirs)
        }
    }

    /// Whether a node with content of this handle, that is not of its session, was created by it.
    fn is_ghost(&self, link: &Link, stat: &zk::Stat) -> bool {
        // What was never written into holds what it was created with.
        link.is_own(stat.ephemeral_owner) || stat.version == 0
    }

    /// Whether the owner of a node that was overwritten has had the time to write into it again.
    fn is_given_up(&mut self, stat: &zk::Stat) -> bool {
        let until = match self.overwritten {
            Some((node, until)) if node == stat.czxid => until,
            _ => Instant::now() + self.long_enough(),
        };
        self.overwritten = Some((stat.czxid, until));
        until <= Instant::now()
    }

    /// Creates the node of an offer that is fresh.
    async fn create(&mut self, link: &Link, job: &mut Job) -> Result<(), Failure> {
        let (bytes, shared) = (self.encode(&job.instance)?, self.shared.clone());
        for _ in 0..LOOKS_MAX {
            self.sit(link);
            self.expect([NodeCreated]);
            let creations = &shared.registrations.creations;
            let (service, path) = (&self.service, &self.path);
            let created = creations.create(link, shared.acls(), service, path, bytes.clone());
            match self.write(created.await) {
                Ok(departures) => match self.raise_above(job, &departures) {
                    Raised::No => {
                        self.settled(job);
                        return self.keep(link, 0).await;
                    }
                    Raised::Yes => return self.update(link, job, 0).await,
                    Raised::Outdated => return Ok(()),
                },
                Err(Failure::Refused(zk::Error::NoNode)) => self.make_parents(link).await?,
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Refused(zk::Error::NoNode))
    }

    async fn update(&mut self, link: &Link, job: &Job, version: i32) -> Result<(), Failure> {
        let bytes = self.encode(&job.instance)?;
        if !matches!(self.guard, Guard::Shared(_)) {
            self.sit(link);
        }
        self.expect([NodeDataChanged]);
        let updated = link.client().set_data(&self.path, &bytes, Some(version));
        let stat = self.write(link.call(updated).await)?;
        if stat.ephemeral_owner != link.session() {
            // Another node has got the version of ours.
            return Err(Failure::Refused(zk::Error::BadVersion));
        }
        self.settled(job);
        self.keep(link, stat.version).await
    }

    /// Creates the node in place of what was found, if that is still so.
    async fn replace(
        &mut self,
        link: &Link,
        job: &Job,
        found: &Found,
        old: Option<&zk::Stat>,
    ) -> Result<(), Failure> {
        let Some(service_version) = found.service_version else {
            self.make_parents(link).await?;
            return Err(Failure::Refused(zk::Error::BadVersion));
        };
        let bytes = self.encode(&job.instance)?;
        let note = found.departures.clone().encode();
        let mut with_note = true;
        loop {
            let mut writer = link.client().new_multi_writer();
            match old {
                Some(_) if with_note => {
                    writer.add_set_data(&self.service, &note, Some(service_version))?;
                }
                _ => writer.add_check_version(&self.service, service_version)?,
            }
            if let Some(old) = old {
                writer.add_delete(&self.path, Some(old.version))?;
            }
            let options = zk::CreateMode::Ephemeral.with_acls(self.shared.acls());
            writer.add_create(&self.path, &bytes, &options)?;
            self.expect(old.map(|_| NodeDeleted).into_iter().chain([NodeCreated]));
            match link.call(writer.commit()).await {
                Err(Failure::Refused(zk::Error::NoAuth)) if with_note && old.is_some() => {
                    // The service's node is somebody else's, the instance's may still be ours.
                    with_note = false;
                    self.sit(link);
                }
                written => {
                    self.write(written)?;
                    self.settled(job);
                    return self.keep(link, 0).await;
                }
            }
        }
    }

    /// Takes a place under the watch of the service, where there is one, before the node is read or
    /// written.
    fn sit(&mut self, link: &Link) {
        // The place there was goes first: what it has heard is of no interest any more.
        self.guard = Guard::None;
        let guards = &self.shared.registrations.guards;
        if let Some(seat) = guards.seat(&self.shared, link, self.key.service(), &self.path) {
            self.guard = Guard::Shared(seat);
        }
    }

    /// Says what the write that follows will cause.
    fn expect(&self, reports: impl IntoIterator<Item = zk::EventType>) {
        if let Guard::Shared(seat) = &self.guard {
            seat.expect(reports);
        }
    }

    /// Makes sure that a node which is as it should be, in this version, is watched.
    async fn keep(&mut self, link: &Link, version: i32) -> Result<(), Failure> {
        if !matches!(self.guard, Guard::Shared(_)) {
            let guard = link.client().check_and_watch_stat(&self.path);
            let (stat, guard) = link.call(guard).await?;
            // It may have vanished, or become another one, before it was watched.
            let stat = stat.ok_or(zk::Error::NoNode)?;
            if stat.version != version || stat.ephemeral_owner != link.session() {
                return Err(Failure::Refused(zk::Error::BadVersion));
            }
            self.guard = Guard::Own(guard);
        }
        self.known = Some(Known {
            number: link.number(),
            version,
        });
        Ok(())
    }

    async fn make_parents(&self, link: &Link) -> Result<(), Failure> {
        // The service first: who may create it need not be allowed to create what is above.
        match self.make_service(link).await {
            Err(Failure::Refused(zk::Error::NoNode)) => {}
            done => return done,
        }
        let persistent = zk::CreateMode::Persistent.with_acls(self.shared.acls());
        let base = link.client().mkdir(self.shared.keys.base(), &persistent);
        exists_as_done(link.call(base).await)?;
        self.make_service(link).await
    }

    async fn make_service(&self, link: &Link) -> Result<(), Failure> {
        for mode in [zk::CreateMode::Container, zk::CreateMode::Persistent] {
            let options = mode.with_acls(self.shared.acls());
            let service = link.client().create(&self.service, &[], &options);
            match exists_as_done(link.call(async { service.await.map(drop) }).await) {
                // ZooKeeper has containers since 3.5; one without them ends the connection, and what
                // is like it need not.
                Err(failure) if failure.is_unknown_request() => {}
                done => return done,
            }
        }
        Err(Failure::Refused(zk::Error::Unimplemented))
    }

    async fn withdraw(&mut self, link: &Link, job: &Job) -> Result<Reached, Failure> {
        (self.known, self.guard) = (None, Guard::None);
        let shared = self.shared.clone();
        let me = &shared.registrations.encoder().owner;
        let _turn = shared.turns.take(self.key.service()).await;
        for _ in 0..LOOKS_MAX {
            let found = self.look(link).await?;
            let generation = job.instance.generation();
            let Some((data, stat)) = &found.node else {
                match self.note(link, &found, generation).await {
                    Err(failure) if failure.is_change() => continue,
                    noted => return noted.map(|()| Reached::Withdrawn),
                }
            };
            let content = Content::decode(&self.key, data).ok();
            let by_us = |content: &Content| content.owner.as_ref() == Some(me);
            let ghost = content.as_ref().is_some_and(by_us) && self.is_ghost(link, stat);
            if stat.ephemeral_owner != link.session() && !ghost {
                return Ok(Reached::Withdrawn);
            }
            let note = found
                .departures
                .with_instance(self.key.id(), generation)
                .encode();
            let deleted = self
                .delete(link, stat.version, &note, found.service_version)
                .await;
            match deleted {
                Ok(()) => return Ok(Reached::Withdrawn),
                Err(failure) if failure.is_change() => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Refused(zk::Error::BadVersion))
    }

    /// Notes what went with its session, and might still be held by others, where it is allowed.
    async fn note(
        &self,
        link: &Link,
        found: &Found,
        generation: Generation,
    ) -> Result<(), Failure> {
        let (id, departures) = (self.key.id(), &found.departures);
        if !self.was_there || departures.tell(id, None, generation) {
            return Ok(());
        }
        let note = departures.clone().with_instance(id, generation).encode();
        let mut writer = link.client().new_multi_writer();
        match found.service_version {
            Some(version) => writer.add_set_data(&self.service, &note, Some(version))?,
            None => {
                // It went with its last instance, and does so again if it has had one.
                let [service, instance] = [zk::CreateMode::Container, zk::CreateMode::Ephemeral]
                    .map(|mode| mode.with_acls(self.shared.acls()));
                writer.add_create(&self.service, &note, &service)?;
                writer.add_create(&self.path, &[], &instance)?;
                writer.add_delete(&self.path, None)?;
            }
        }
        match link.call(writer.commit()).await {
            // Without the namespace there is nobody to be told.
            Err(Failure::Refused(zk::Error::NoNode)) if found.service_version.is_none() => Ok(()),
            Err(failure) if failure.is_denied() || failure.is_unknown_request() => Ok(()),
            noted => noted.map(drop),
        }
    }

    /// Deletes the node and notes it, or deletes it alone where the note is not allowed.
    async fn delete(
        &mut self,
        link: &Link,
        version: i32,
        note: &[u8],
        service_version: Option<i32>,
    ) -> Result<(), Failure> {
        let mut writer = link.client().new_multi_writer();
        writer.add_set_data(&self.service, note, service_version)?;
        writer.add_delete(&self.path, Some(version))?;
        let mut deleted = link.call(writer.commit()).await.map(drop);
        if let Err(Failure::Refused(zk::Error::NoAuth)) = deleted {
            deleted = link
                .call(link.client().delete(&self.path, Some(version)))
                .await;
        }
        self.write(deleted)
    }

    /// Whoever waits is told. What may still arrive late is waited for, so that it doesn't bring
    /// back what was taken back.
    async fn withdrawn(&mut self, link: &Link, job: &Job) -> Turn {
        self.shared.registrations.withdrawn(&self.key, job.revision);
        let Some(until) = self.stray_until else {
            return self.forget(job);
        };
        let Ok((stat, guard)) = link
            .call(link.client().check_and_watch_stat(&self.path))
            .await
        else {
            return Turn::Again;
        };
        if stat.is_some_and(|stat| stat.ephemeral_owner == link.session()) {
            return Turn::Again;
        }
        tokio::select! {
            () = tokio::time::sleep_until(until) => self.forget(job),
            _ = guard.changed() => Turn::Again,
            () = job.outdated() => Turn::Again,
            () = self.shared.line.lost(link) => Turn::Again,
        }
    }

    fn forget(&self, job: &Job) -> Turn {
        if self.shared.registrations.forget(&self.key, job.revision) {
            Turn::Over
        } else {
            Turn::Again
        }
    }

    /// Waits until something else is wanted, the node is touched, or the connection is another.
    async fn rest(&mut self, link: &Link, job: &Job) {
        let (shared, own) = match std::mem::replace(&mut self.guard, Guard::None) {
            Guard::Shared(seat) => (Some(seat), None),
            Guard::Own(watcher) => (None, Some(watcher)),
            Guard::None => (None, None),
        };
        let alarm = async {
            match (&shared, own) {
                (Some(seat), _) => seat.alarm().await,
                (None, Some(watcher)) => {
                    watcher.changed().await;
                    Alarm::Touched
                }
                (None, None) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = job.outdated() => self.guard = shared.map_or(Guard::None, Guard::Shared),
            alarm = alarm => {
                tracing::debug!(key = %self.key, ?alarm, "the own node is looked at again");
                self.known = None;
                if alarm == Alarm::Deaf {
                    let guards = &self.shared.registrations.guards;
                    guards.refuse(self.key.service(), link.number());
                }
            }
            () = self.shared.line.lost(link) => {
                self.known = None;
                self.shared.registrations.pending(&self.key, None);
            }
        }
    }

    async fn wait_for_link(&mut self, job: &Job) {
        self.shared.registrations.pending(&self.key, None);
        tokio::select! {
            _ = self.shared.line.up() => {}
            () = job.outdated() => {}
        }
    }

    async fn failed(&mut self, link: &Link, job: &Job, failure: Failure) -> Turn {
        (self.known, self.guard) = (None, Guard::None);
        let denied = failure.is_denied();
        let error = failure.into_error(format!("register {}", self.key));
        tracing::debug!(key = %self.key, ?error, "will be tried again");
        if denied {
            let given_up = self.shared.registrations.denied(&self.key, error);
            self.shared.refresh(&self.key);
            if given_up {
                return Turn::Over;
            }
        } else {
            self.shared.registrations.pending(&self.key, Some(error));
        }
        let pause = self.backoff.pause();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = job.outdated() => {}
            () = self.shared.line.lost(link) => {}
        }
        Turn::Again
    }

    /// Notes where a write was not answered that it may still take effect.
    fn write<T>(&mut self, written: Result<T, Failure>) -> Result<T, Failure> {
        match &written {
            Ok(_) => self.was_there = true,
            Err(failure) if failure.is_ambiguous() => self.stray(),
            Err(_) => {}
        }
        written
    }

    fn stray(&mut self) {
        self.was_there = true;
        self.stray_until = Some(Instant::now() + self.long_enough());
    }

    /// What is in the server's hands is done, or dropped, within the session's time; and who isn't
    /// heard for that long has no session any more.
    fn long_enough(&self) -> Duration {
        self.session_time + Duration::from_secs(1)
    }

    fn settled(&self, job: &Job) {
        let waited = self.shared.registrations.settled(&self.key, job);
        // Whoever is told can look at once: an owner with a higher generation is replaced by then.
        self.shared.refresh(&self.key);
        for waiting in waited {
            waiting.tell(Ok(()));
        }
    }

    fn encode(&self, instance: &Instance) -> Result<Vec<u8>, Failure> {
        let encoded = self.shared.registrations.encoder().encode(instance);
        encoded.map_err(|_| Failure::Refused(zk::Error::MarshallingError))
    }
}

fn absent_as_none<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Refused(zk::Error::NoNode)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn exists_as_done(answer: Result<(), Failure>) -> Result<(), Failure> {
    match answer {
        Err(Failure::Refused(zk::Error::NodeExists)) => Ok(()),
        answer => answer,
    }
}
