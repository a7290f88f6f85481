//! An owner's look at the catalog: whether a newer owner has the key (REG-5), and whether what the
//! agent was given is still there.
//!
//! One query a service that waits for changes, however many instances of it the handle has, and
//! asks the servers for these alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{InstanceKey, ServiceName};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::debug;

use crate::Shared;
use crate::api::Catalog;
use crate::backoff::{Backoff, jittered};
use crate::cursor::Cursor;
use crate::keys;
use crate::watch::{self, Follower};

/// Time between two looks at the least: an owner need not be the first to know, and a service with
/// many owners and changes would be a burden.
const LOOKS_APART: Duration = Duration::from_millis(500);
/// Most keys that are asked for by name; beyond, the whole service is asked for.
const FILTER_KEYS_MAX: usize = 8;
/// A look at a service with many instances takes a tenth of the time at most.
const PAUSE_SHARE: u32 = 9;
/// Longest pause after a failed query.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Guards the own offers of a service until there are none. `changed` says that there are others.
///
/// It looks once a TTL at least, change or not: a snapshot that is restored between two queries takes
/// offers away without one of them being abandoned, and viewers hold what is gone for a while only.
pub(crate) async fn guard(shared: Arc<Shared>, service: ServiceName, changed: Arc<Notify>) {
    let _counted = Follower::new(&shared.followers);
    let mut cursor = Cursor::new(Instant::now());
    let mut backoff = Backoff::new(RETRY_MAX);
    let mut cleared = HashSet::new();
    let mut pause = LOOKS_APART;
    loop {
        sleep(jittered(pause)).await;
        pause = LOOKS_APART;
        let keys = match shared.guarded(&service) {
            keys if keys.is_empty() => return,
            keys => keys,
        };
        let epoch = shared.pulse.heard().await.epoch;
        let filter = filter(&keys);
        let position = cursor.position(watch::wait(&shared).min(shared.config.ttl));
        let asked = Instant::now();
        let query = shared
            .api
            .health(Catalog::Own, service.as_str(), filter.as_deref(), position);
        let result = tokio::select! {
            result = query => result,
            () = watch::crowded(&shared, position) => continue,
            _ = shared.pulse.lost() => {
                cursor.restart();
                continue;
            }
            _ = shared.pulse.rebuilt(epoch) => {
                cursor.restart();
                continue;
            }
            () = changed.notified() => {
                cursor.restart();
                continue;
            }
        };
        match result {
            Ok(answer) if answer.doubt.is_none() => {
                backoff.reset();
                let (arrived, fingerprint) = (Instant::now(), answer.index);
                let wanted = cursor.advance(answer.index, fingerprint, arrived);
                if position.is_abandoned(answer.index, arrived - asked) {
                    shared.pulse.abandoned(epoch);
                    cursor.restart();
                }
                let readings = watch::read(&shared, &answer, &service);
                let former = shared.compare(&service, readings);
                pause = wanted.max(LOOKS_APART).max(arrived.elapsed() * PAUSE_SHARE);
                clear(&shared, former, &mut cleared).await;
            }
            Ok(_) => sleep(backoff.next()).await,
            Err(error) => {
                debug!(%service, %error, "own registrations can't be looked at");
                cursor.restart();
                shared.pulse.ask();
                sleep(backoff.next()).await;
            }
        }
    }
}

/// Takes from the agent what former owners, this process before a restart for example, have left
/// there: others would route to it until it expires. What is at another agent isn't known to this
/// one, and left alone.
async fn clear(shared: &Shared, former: Vec<String>, cleared: &mut HashSet<String>) {
    cleared.retain(|id| former.contains(id));
    for id in former {
        if !cleared.contains(&id) {
            match shared.api.deregister(&id).await {
                Ok(_was_here) => drop(cleared.insert(id)),
                Err(error) => debug!(id, %error, "a former owner's registration is still there"),
            }
        }
    }
}

fn filter(keys: &[InstanceKey]) -> Option<String> {
    if keys.len() > FILTER_KEYS_MAX {
        return None;
    }
    let of_key = |key| format!("Service.ID contains \"{}\"", keys::service_id_prefix(key));
    Some(keys.iter().map(of_key).collect::<Vec<_>>().join(" or "))
}
