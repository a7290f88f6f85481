//! One selector's look at the catalog, for as long as somebody watches it (WAT-8).
//!
//! A service is one query that waits for changes, again and again. All services are one such query
//! for their names, and one for each.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tidings_api::{Connection, Error, ErrorKind, Feed, Result, Selector, ServiceName};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use crate::Shared;
use crate::api::{Answer, Catalog, Position, QUERIES_MAX};
use crate::backoff::Backoff;
use crate::cursor::Cursor;
use crate::entry::{self, Reading};
use crate::error::error;
use crate::part::News;

/// Longest pause after a failed query.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long queries wait where there are more than may wait at once, so that each has its turn.
const CROWDED_WAIT: Duration = Duration::from_secs(2);
/// How often it is looked whether a service that isn't listed any more can go.
const UNLISTED_INTERVAL: Duration = Duration::from_secs(1);

/// Follows what a feed selects until nobody watches it.
pub(crate) async fn follow(shared: Arc<Shared>, feed: Arc<Feed>) {
    let selector = feed.selector().clone();
    let mut feed = feed;
    let following = async {
        match &selector {
            Selector::Service(service) => follow_service(&shared, &selector, service).await,
            Selector::All => follow_all(&shared).await,
        }
    };
    tokio::pin!(following);
    loop {
        tokio::select! {
            biased;
            () = feed.unused() => {}
            never = &mut following => match never {},
        }
        match shared.state().remove_topic(feed) {
            None => return,
            Some(in_use) => feed = in_use,
        }
    }
}

async fn follow_service(shared: &Shared, selector: &Selector, service: &ServiceName) -> Infallible {
    let _counted = Follower::new(&shared.followers);
    let mut cursor = Cursor::new(Instant::now());
    let mut backoff = Backoff::new(RETRY_MAX);
    let mut again = None;
    loop {
        let epoch = heard(shared, |gone| shared.lost(selector, Some(service), gone)).await;
        let position = cursor.position(wait(shared)).back_at(again);
        let asked = Instant::now();
        let query = shared
            .api
            .health(Catalog::Watched, service.as_str(), None, position);
        let result = tokio::select! {
            result = query => result,
            gone = shared.pulse.lost() => Err(gone_error(&gone.connection)),
            // Otherwise a query would wait for an index that is far away.
            _ = shared.pulse.rebuilt(epoch) => {
                cursor.restart();
                continue;
            }
            () = crowded(shared, position) => continue,
        };
        match result {
            Ok(answer) => {
                backoff.reset();
                let arrived = Instant::now();
                let pause = cursor.advance(answer.index, fingerprint(&answer), Instant::now());
                let news = News {
                    readings: read(shared, &answer, service),
                    index: answer.index,
                    epoch,
                    doubt: answer.doubt,
                };
                again = shared.heard(selector, service, news);
                if position.is_abandoned(answer.index, arrived - asked) {
                    shared.pulse.abandoned(epoch);
                    cursor.restart();
                }
                // A large service that changes all the time may take half of this loop's time.
                sleep(pause.max(arrived.elapsed())).await;
            }
            Err(failure) => {
                cursor.restart();
                again = None;
                shared.lost(selector, Some(service), &failure);
                retry(shared, &mut backoff).await;
            }
        }
    }
}

async fn follow_all(shared: &Arc<Shared>) -> Infallible {
    let _counted = Follower::new(&shared.followers);
    let selector = Selector::All;
    let mut cursor = Cursor::new(Instant::now());
    let mut backoff = Backoff::new(RETRY_MAX);
    let mut services = Services::default();
    loop {
        let epoch = heard(shared, |gone| shared.lost(&selector, None, gone)).await;
        let position = cursor.position(wait(shared));
        let asked = Instant::now();
        let result = tokio::select! {
            result = shared.api.services(position) => result,
            () = crowded(shared, position) => continue,
            _ = shared.pulse.rebuilt(epoch) => {
                cursor.restart();
                continue;
            }
            gone = shared.pulse.lost() => Err(gone_error(&gone.connection)),
        };
        let result = result.and_then(|answer| match answer.doubt {
            None => Ok(answer),
            Some(doubt) => Err(error(ErrorKind::Unavailable, doubt)),
        });
        match result {
            Ok(answer) => {
                backoff.reset();
                let names = names(shared, &answer.value);
                let mut hash = DefaultHasher::new();
                names.hash(&mut hash);
                let arrived = Instant::now();
                let pause = cursor.advance(answer.index, hash.finish(), arrived);
                if position.is_abandoned(answer.index, arrived - asked) {
                    shared.pulse.abandoned(epoch);
                    cursor.restart();
                }
                services.listed(shared, names);
                tokio::select! {
                    () = sleep(pause) => {}
                    never = services.tidy(shared) => match never {},
                }
            }
            Err(failure) => {
                cursor.restart();
                shared.lost(&selector, None, &failure);
                retry(shared, &mut backoff).await;
            }
        }
    }
}

/// The services of [`follow_all`], each followed by a task of its own.
#[derive(Default)]
struct Services {
    tasks: JoinSet<()>,
    followed: BTreeMap<ServiceName, AbortHandle>,
    unlisted: Vec<ServiceName>,
}

impl Services {
    fn listed(&mut self, shared: &Arc<Shared>, names: Vec<ServiceName>) {
        let listed: BTreeSet<_> = names.iter().collect();
        let gone = self.followed.keys().filter(|name| !listed.contains(name));
        self.unlisted = gone.cloned().collect();
        for service in shared.listed(names) {
            let shared = shared.clone();
            let name = service.clone();
            let task = async move { match follow_service(&shared, &Selector::All, &name).await {} };
            self.followed.insert(service, self.tasks.spawn(task));
        }
        self.sweep(shared);
    }

    /// Ends the tasks of services that aren't listed any more once their last instances are gone.
    async fn tidy(&mut self, shared: &Shared) -> Infallible {
        loop {
            if self.unlisted.is_empty() {
                return std::future::pending().await;
            }
            sleep(UNLISTED_INTERVAL).await;
            self.sweep(shared);
        }
    }

    fn sweep(&mut self, shared: &Shared) {
        let followed = &mut self.followed;
        self.unlisted.retain(|service| {
            let ended = shared.state().unlist(service);
            if ended && let Some(task) = followed.remove(service) {
                task.abort();
            }
            !ended
        });
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Counts the loops that want to wait at the same time.
pub(crate) struct Follower<'a>(&'a watch::Sender<usize>);

impl<'a> Follower<'a> {
    pub(crate) fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// How long a query may wait.
pub(crate) fn wait(shared: &Shared) -> Duration {
    if *shared.followers.borrow() > QUERIES_MAX {
        CROWDED_WAIT.min(shared.config.wait)
    } else {
        shared.config.wait
    }
}

/// How many turns it takes until each loop has had one.
pub(crate) fn turns(shared: &Shared) -> u32 {
    let turns = shared.followers.borrow().div_ceil(QUERIES_MAX);
    u32::try_from(turns.max(1)).unwrap_or(u32::MAX)
}

/// Returns when a query that waits from `position` has to make room for others.
pub(crate) async fn crowded(shared: &Shared, position: Position) {
    if position.wait <= CROWDED_WAIT {
        return std::future::pending().await;
    }
    let mut followers = shared.followers.subscribe();
    // The sender is `shared`'s own.
    let _ = followers.wait_for(|count| *count > QUERIES_MAX).await;
}

/// A hash of an answer, whatever the order of its entries.
fn fingerprint(answer: &Answer<Vec<Box<RawValue>>>) -> u64 {
    let hashes = answer.value.iter().map(|entry| {
        let mut hash = DefaultHasher::new();
        entry.get().hash(&mut hash);
        hash.finish()
    });
    hashes.fold(0, u64::wrapping_add)
}

/// Reads the entries of an answer.
pub(crate) fn read(
    shared: &Shared,
    answer: &Answer<Vec<Box<RawValue>>>,
    service: &ServiceName,
) -> Vec<Reading> {
    let namespace = shared.config.namespace.as_deref();
    let entries = answer.value.iter();
    let readings = entries.map(|entry| entry::read(entry, service, namespace));
    readings
        .inspect(|reading| {
            if let Reading::Unreadable(which) = reading {
                shared.unreadable(which);
            }
        })
        .collect()
}

/// Waits until Consul is heard, and says so first where it isn't. Returns which catalog it has.
async fn heard(shared: &Shared, lost: impl FnOnce(&Error)) -> u64 {
    let last = shared.pulse.last();
    if !last.connection.is_connected() {
        lost(&gone_error(&last.connection));
    }
    shared.pulse.heard().await.epoch
}

/// Pauses after a failed query, and has the pulse look before the next one.
async fn retry(shared: &Shared, backoff: &mut Backoff) {
    shared.pulse.check().await;
    sleep(backoff.next()).await;
}

fn gone_error(connection: &Connection) -> Error {
    let reason = match connection {
        Connection::Disconnected { reason, .. } => reason.trim_start_matches("consul: ").to_owned(),
        _ => "consul was not heard for a moment".to_owned(),
    };
    error(ErrorKind::Unavailable, reason)
}

/// The services of this namespace.
fn names(shared: &Shared, services: &BTreeMap<String, Option<Vec<String>>>) -> Vec<ServiceName> {
    let here = |tags: &Option<Vec<String>>| match &shared.config.namespace {
        Some(namespace) => tags.iter().flatten().any(|tag| tag == namespace),
        None => true,
    };
    let mut names = Vec::new();
    for (name, _) in services.iter().filter(|(_, tags)| here(tags)) {
        match ServiceName::new(name) {
            Ok(name) => names.push(name),
            Err(_) => shared.unreadable(name),
        }
    }
    names
}

/// Feeds are followed by their own tasks: the verb only waits for the first look.
pub(crate) async fn first_look(shared: &Shared, selector: &Selector) -> Result<()> {
    let mut looks = shared.looks.subscribe();
    loop {
        match shared.state().look(selector) {
            crate::state::Look::Done => return Ok(()),
            crate::state::Look::Closed => return Err(Error::closed()),
            crate::state::Look::Denied(error) => return Err(error),
            crate::state::Look::Pending => {}
        }
        if looks.changed().await.is_err() {
            return Ok(());
        }
    }
}
