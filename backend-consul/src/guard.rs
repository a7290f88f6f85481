//! An owner's look at the catalog: whether a newer owner has the key (REG-5), and whether what the
//! agent was given is still there.
//!
//! One query a service that waits for changes, however many instances of it the handle has, and
//! asks the servers for these alone.

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
use crate::entry::Reading;
use crate::keys;
use crate::watch;

/// Time between two looks at the least: an owner need not be the first to know, and a service with
/// many owners and changes would be a burden.
const LOOKS_APART: Duration = Duration::from_millis(500);
/// Most keys that are asked for by name; beyond, the whole service is asked for.
const FILTER_KEYS_MAX: usize = 8;
/// Longest pause after a failed query.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Guards the own offers of a service until there are none. `changed` says that there are others.
pub(crate) async fn guard(shared: Arc<Shared>, service: ServiceName, changed: Arc<Notify>) {
    let mut cursor = Cursor::new(Instant::now());
    let mut backoff = Backoff::new(RETRY_MAX);
    loop {
        sleep(jittered(LOOKS_APART)).await;
        let keys = match shared.guarded(&service) {
            keys if keys.is_empty() => return,
            keys => keys,
        };
        let epoch = shared.pulse.heard().await.epoch;
        let filter = filter(&keys);
        let position = cursor.position(watch::wait(&shared));
        let query = shared
            .api
            .health(Catalog::Own, service.as_str(), filter.as_deref(), position);
        let result = tokio::select! {
            result = query => result,
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
                let fingerprint = answer.index;
                let pause = cursor.advance(answer.index, fingerprint, Instant::now());
                let readings = watch::read(&shared, &answer, &service);
                let entries = readings.into_iter().filter_map(|reading| match reading {
                    Reading::Offered(entry) => Some(entry),
                    Reading::Elsewhere | Reading::Lost(..) | Reading::Unreadable(_) => None,
                });
                shared.compare(&service, &entries.collect::<Vec<_>>());
                sleep(pause).await;
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

fn filter(keys: &[InstanceKey]) -> Option<String> {
    if keys.len() > FILTER_KEYS_MAX {
        return None;
    }
    let of_key = |key| format!("Service.ID contains \"{}\"", keys::service_id_prefix(key));
    Some(keys.iter().map(of_key).collect::<Vec<_>>().join(" or "))
}
