//! Keeps the picture of one selector as the server has it.
//!
//! On every connection: set the watch, read everything, and from then on read again what the watch
//! reports. Events say only where to look, so that merged and repeated ones do no harm; what the
//! watch did not report in between (it is not kept over a lost connection) is found by reading
//! everything again, and only the difference is published.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tidings_api::{InstanceKey, Selector, ServiceName};
use tokio::time::Instant;
use zookeeper_client as zk;

use super::upstream::{Read, Upstream, services};
use super::{First, Followed, Seen};
use crate::Shared;
use crate::content::Content;
use crate::departures::Departures;
use crate::error::Failure;
use crate::keys::{Keys, Place};
use crate::session::{Backoff, Link};

/// Most instances that are read before what was read is published.
const READS_MAX: usize = 512;

/// Follows a selector until nobody watches it.
pub(crate) async fn follow(shared: Arc<Shared>, followed: Arc<Followed>) {
    let mut follower = Follower {
        backoff: Backoff::new(shared.config.retry_max),
        shared: shared.clone(),
        followed: followed.clone(),
        unreadable: HashMap::new(),
        no_ids: BTreeSet::new(),
    };
    let listening = follower.listen();
    tokio::pin!(listening);
    loop {
        tokio::select! {
            () = &mut listening => break,
            () = followed.unused() => {
                if followed.retire() {
                    break;
                }
            }
        }
    }
    shared.watches.forget(&followed);
}

struct Follower {
    shared: Arc<Shared>,
    followed: Arc<Followed>,
    backoff: Backoff,
    /// Nodes that could not be read, by the transaction that wrote them, so that each is counted
    /// and logged once.
    unreadable: HashMap<InstanceKey, i64>,
    /// Names that no instance has, for the same reason.
    no_ids: BTreeSet<(ServiceName, String)>,
}

/// Where to look again.
#[derive(Debug, Default)]
struct Dirty {
    instances: BTreeSet<InstanceKey>,
    services: BTreeSet<ServiceName>,
    /// Services whose note has changed.
    notes: BTreeSet<ServiceName>,
    base: bool,
}

impl Follower {
    /// Listens over one connection after the other, until the server refuses the first look.
    async fn listen(&mut self) {
        loop {
            let Some(link) = self.shared.line.link() else {
                self.silent(self.shared.line.freshness());
                self.followed.first.send_replace(First::Done);
                self.shared.line.up().await;
                continue;
            };
            let line = self.shared.line.clone();
            let failure = tokio::select! {
                // What was answered before the connection was lost is heard first.
                biased;
                failure = self.hear(&link) => failure,
                () = line.lost(&link) => continue,
            };
            let first = matches!(*self.followed.first.borrow(), First::Awaited);
            let denied = failure.is_denied();
            let operation = format!("watch {}", self.followed.selector);
            let error = failure.into_error(operation);
            if denied && first {
                self.followed.first.send_replace(First::Refused(error));
                self.followed.picture().feed = None;
                return;
            }
            tracing::warn!(%error, "the view is stale");
            self.silent(tidings_api::Freshness::stale(error.to_string()));
            tokio::select! {
                () = tokio::time::sleep(self.backoff.pause()) => {}
                () = line.lost(&link) => {}
            }
        }
    }

    /// Listens over one connection; returns why it can't go on.
    async fn hear(&mut self, link: &Link) -> Failure {
        match self.try_hear(link).await {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    async fn try_hear(&mut self, link: &Link) -> Result<std::convert::Infallible, Failure> {
        let shared = self.shared.clone();
        let selector = self.followed.selector.clone();
        let mut upstream = Upstream::new(link, &shared);
        link.catch_up(shared.keys.base()).await?;
        let reads = self.read_all(&mut upstream, &selector).await?;
        self.begin(&mut upstream, reads).await?;
        self.backoff.reset();
        self.followed.first.send_replace(First::Done);
        loop {
            let hold_until = self.followed.picture().hold_until;
            let event = tokio::select! {
                event = upstream.next() => event,
                () = until(hold_until) => {
                    self.end_hold();
                    continue;
                }
            };
            let mut dirty = Dirty::default();
            let mut next = Some(event);
            while let Some(event) = next {
                self.note(&mut dirty, &event);
                if dirty.instances.len() >= READS_MAX {
                    break;
                }
                next = upstream.next().now_or_never();
            }
            self.look_again(&mut upstream, dirty).await?;
        }
    }

    async fn read_all(
        &mut self,
        upstream: &mut Upstream<'_>,
        selector: &Selector,
    ) -> Result<Vec<(InstanceKey, Read)>, Failure> {
        let names = upstream.subscribe(selector).await?;
        let services = match selector {
            Selector::Service(service) => {
                let keys = self.keys_in(service, names);
                return upstream.read(keys).await;
            }
            Selector::All => services(names),
        };
        let mut reads = Vec::new();
        for service in services {
            let keys = self.keys_of(upstream, &service).await?;
            reads.extend(upstream.read(keys).await?);
        }
        Ok(reads)
    }

    async fn keys_of(
        &mut self,
        upstream: &mut Upstream<'_>,
        service: &ServiceName,
    ) -> Result<Vec<InstanceKey>, Failure> {
        let names = match upstream.children(service).await {
            // One service that may not be seen does not make all others unseen.
            Err(failure) if failure.is_denied() && self.followed.selector == Selector::All => {
                tracing::debug!(%service, "may not be read");
                Vec::new()
            }
            names => names?,
        };
        Ok(self.keys_in(service, names))
    }

    fn keys_in(&mut self, service: &ServiceName, names: Vec<String>) -> Vec<InstanceKey> {
        let (mut keys, mut no_ids) = (Vec::with_capacity(names.len()), BTreeSet::new());
        for name in names {
            match Keys::child(service, &name) {
                Some(key) => keys.push(key),
                None => {
                    no_ids.insert((service.clone(), name));
                }
            }
        }
        for (service, name) in no_ids.difference(&self.no_ids) {
            self.shared
                .count_unreadable(service, name, &"no instance id");
        }
        // Neither list grows with what is gone.
        self.no_ids.retain(|(other, _)| other != service);
        self.no_ids.append(&mut no_ids);
        let here: HashSet<&InstanceKey> = keys.iter().collect();
        self.unreadable
            .retain(|key, _| key.service() != service || here.contains(key));
        keys
    }

    /// Takes over a complete look.
    async fn begin(
        &mut self,
        upstream: &mut Upstream<'_>,
        reads: Vec<(InstanceKey, Read)>,
    ) -> Result<(), Failure> {
        let found: BTreeMap<InstanceKey, Read> = reads.into_iter().collect();
        let now = Instant::now();
        let (vanished, again) = {
            let picture = self.followed.picture();
            let here = |key: &InstanceKey| {
                found
                    .get(key)
                    .is_some_and(|read| !matches!(read, Read::Absent))
            };
            let known = picture.seen.keys().chain(picture.held.keys());
            let vanished = known
                .filter(|key| !here(key))
                .cloned()
                .collect::<BTreeSet<_>>();
            (vanished, picture.looked)
        };
        let hold_until = again.then(|| now + self.shared.config.loss_hold);
        let held = match hold_until {
            Some(_) => self.not_departed(upstream, &vanished).await?,
            None => BTreeSet::new(),
        };
        let contents = self.contents(found);
        self.followed.change(&self.shared.registrations, |picture| {
            for key in &vanished {
                picture.lose(key, held.contains(key));
                if !held.contains(key) {
                    picture.held.remove(key);
                }
            }
            for (key, seen) in contents {
                picture.see(key, seen);
            }
            picture.hold_until = hold_until;
            picture.looked = true;
            picture.outage = None;
        });
        Ok(())
    }

    async fn look_again(
        &mut self,
        upstream: &mut Upstream<'_>,
        mut dirty: Dirty,
    ) -> Result<(), Failure> {
        if dirty.base {
            dirty.services.extend(upstream.services().await?);
        }
        let mut absent = BTreeSet::new();
        for service in &dirty.services {
            let names = self.keys_of(upstream, service).await?;
            let now: BTreeSet<InstanceKey> = names.into_iter().collect();
            let picture = self.followed.picture();
            let known = picture.seen.keys().filter(|key| key.service() == service);
            absent.extend(known.filter(|key| !now.contains(*key)).cloned());
            let known = |key: &InstanceKey| picture.seen.contains_key(key);
            dirty
                .instances
                .extend(now.iter().filter(|key| !known(key)).cloned());
        }
        let reads = upstream.read(dirty.instances.into_iter().collect()).await?;
        let (gone, here): (BTreeMap<_, _>, BTreeMap<_, _>) = reads
            .into_iter()
            .partition(|(_, read)| matches!(read, Read::Absent));
        for key in gone.into_keys() {
            self.unreadable.remove(&key);
            absent.insert(key);
        }
        let held = self.to_hold(upstream, &absent, &dirty.notes).await?;
        let contents = self.contents(here);
        self.followed.change(&self.shared.registrations, |picture| {
            for key in &absent {
                picture.lose(key, held.contains(key));
            }
            picture
                .held
                .retain(|key, _| !dirty.notes.contains(key.service()) || held.contains(key));
            for (key, seen) in contents {
                picture.see(key, seen);
            }
            if picture.held.is_empty() && picture.hold_until.is_some_and(|t| t <= Instant::now()) {
                picture.hold_until = None;
            }
        });
        Ok(())
    }

    /// Of what vanishes, and of what is held where a note has changed, that which is held from now
    /// on.
    async fn to_hold(
        &self,
        upstream: &mut Upstream<'_>,
        absent: &BTreeSet<InstanceKey>,
        notes: &BTreeSet<ServiceName>,
    ) -> Result<BTreeSet<InstanceKey>, Failure> {
        let candidates = {
            let picture = self.followed.picture();
            if picture
                .hold_until
                .is_none_or(|until| until <= Instant::now())
            {
                return Ok(BTreeSet::new());
            }
            let held = picture
                .held
                .keys()
                .filter(|key| notes.contains(key.service()));
            absent.iter().chain(held).cloned().collect()
        };
        self.not_departed(upstream, &candidates).await
    }

    /// Those that nobody has deregistered, of which this handle's own are none: it knows.
    async fn not_departed(
        &self,
        upstream: &mut Upstream<'_>,
        keys: &BTreeSet<InstanceKey>,
    ) -> Result<BTreeSet<InstanceKey>, Failure> {
        let mut notes = HashMap::new();
        for key in keys {
            if !notes.contains_key(key.service()) {
                let note = match upstream.note(key.service()).await {
                    Ok(data) => Departures::decode(&data),
                    Err(Failure::Refused(zk::Error::NoNode)) => Departures::default(),
                    Err(failure) if failure.is_denied() => Departures::default(),
                    Err(failure) => return Err(failure),
                };
                notes.insert(key.service().clone(), note);
            }
        }
        let picture = self.followed.picture();
        let me = &self.shared.registrations.encoder().owner;
        let hold = |key: &&InstanceKey| {
            let seen = picture.seen.get(*key).or_else(|| picture.held.get(*key));
            let (Some(seen), Some(note)) = (seen, notes.get(key.service())) else {
                return false;
            };
            let (owner, generation) = (seen.owner.as_ref(), seen.instance.generation());
            owner != Some(me) && !note.tell(key.id(), owner, generation)
        };
        Ok(keys.iter().filter(hold).cloned().collect())
    }

    fn end_hold(&self) {
        self.followed.change(&self.shared.registrations, |picture| {
            if !picture.held.is_empty() {
                tracing::info!(
                    count = picture.held.len(),
                    "losses of an outage are let pass"
                );
            }
            picture.held.clear();
            picture.hold_until = None;
        });
    }

    /// What can be read of what was found. A node that can't be read any more leaves what was seen
    /// of it before, for as long as it is there.
    fn contents(&mut self, found: BTreeMap<InstanceKey, Read>) -> Vec<(InstanceKey, Seen)> {
        let mut contents = Vec::with_capacity(found.len());
        for (key, read) in found {
            let Read::Found { data, stat } = read else {
                self.unreadable.remove(&key);
                continue;
            };
            match Content::decode(&key, &data) {
                Ok(content) => {
                    self.unreadable.remove(&key);
                    contents.push((key, Seen::new(content, &stat)));
                }
                Err(why) => {
                    if self.unreadable.insert(key.clone(), stat.mzxid) != Some(stat.mzxid) {
                        let (service, name) = (key.service(), key.id().as_str());
                        self.shared.count_unreadable(service, name, &why);
                    }
                }
            }
        }
        contents
    }

    fn note(&self, dirty: &mut Dirty, event: &zk::WatchedEvent) {
        use zk::EventType::{NodeChildrenChanged, NodeCreated, NodeDataChanged, NodeDeleted};
        match (self.shared.keys.place(&event.path), event.event_type) {
            (Place::Instance(key), NodeCreated | NodeDataChanged | NodeDeleted)
                if self.followed.selector.selects(&key) =>
            {
                dirty.instances.insert(key);
            }
            (Place::Service(service), NodeDataChanged) => {
                dirty.notes.insert(service);
            }
            (Place::Service(service), NodeCreated) => {
                dirty.notes.insert(service.clone());
                dirty.services.insert(service);
            }
            (Place::Service(service), NodeChildrenChanged | NodeDeleted)
            | (Place::Unnamed(service), NodeCreated | NodeDeleted) => {
                dirty.services.insert(service);
            }
            (Place::Base, NodeChildrenChanged | NodeCreated | NodeDeleted) => dirty.base = true,
            _ => {}
        }
    }

    fn silent(&self, freshness: tidings_api::Freshness) {
        self.followed.change(&self.shared.registrations, |picture| {
            picture.outage = Some(freshness);
        });
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending::<()>().await,
    }
}

/// Longest time between a change and its view, on a server that is well.
pub(crate) const VISIBLE_BOUND: Duration = Duration::from_secs(1);
