//! Keeps one view like etcd: a snapshot at a revision, then every change after it.
//!
//! When the stream of changes breaks, for whatever reason, a new snapshot is read; the publisher
//! finds the real difference. What is missing from that snapshot was either deregistered meanwhile
//! or lost, and only history tells: the new stream starts where the old one ended, so that the
//! deletions in between are seen as well, as long as etcd has kept them.
//!
//! # Deregistered or lost
//! An owner that deregisters writes a last value that says so, and deletes the key after that. So a
//! deletion whose previous value says it was asked for; any other one is a loss: the lease has
//! expired or was revoked, or somebody deleted the key. A loss is shown a moment later, in case the
//! owner lives and registers the key again; after an outage of etcd, which may have cost leases
//! whose owners live, for as long as the configuration says, and as stale.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Event, EventType, GetOptions, KeyValue, WatchOptions, WatchResponse, WatchStream,
};
use tidings_api::{Freshness, InstanceKey};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::{self, Backoff};
use crate::client::{Link, Route};
use crate::error::Fault;
use crate::keys::Keys;
use crate::value::Stored;
use crate::views::{Found, LiveView, Lost, Remote, Views};

/// Entries a page: few enough that the largest values allowed fit into memory many times.
const PAGE_ENTRIES_MAX: i64 = 500;
/// The same over a slow line: few enough that the largest values arrive within an answer's time.
const PAGE_ENTRIES_MIN: i64 = 10;
/// How long a loss isn't shown while etcd is well: an owner that lives is back within a few round
/// trips.
pub(crate) const LOSS_LINGER: Duration = Duration::from_secs(1);
/// A view is stale when it could not be had again for this long, over all endpoints.
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(1);

/// Keeps one view like etcd, until nobody watches it.
pub(crate) struct Follower {
    pub(crate) link: Arc<Link>,
    pub(crate) keys: Keys,
    pub(crate) views: Arc<Views>,
    /// How long losses are held after an outage.
    pub(crate) loss_hold: Duration,
}

/// How far a view has followed etcd.
#[derive(Clone, Copy, Debug)]
struct Position {
    /// Everything before it was seen.
    revision: i64,
    /// The revision of the last snapshot.
    snapshot: i64,
    /// When this view was last out of touch with etcd, if it ever was.
    outage_ended: Option<Instant>,
    /// How much of a snapshot is asked for at once.
    page_entries: i64,
}

impl Follower {
    pub(crate) async fn run(&self, mut view: Arc<LiveView>) {
        loop {
            {
                let following = self.follow(&view);
                tokio::pin!(following);
                tokio::select! {
                    () = view.unused() => {}
                    () = &mut following => {}
                }
            }
            match self.views.retire(view) {
                Ok(()) => return,
                Err(again) => view = again,
            }
        }
    }

    async fn follow(&self, view: &LiveView) {
        let mut position = Position {
            revision: 0,
            snapshot: 0,
            outage_ended: None,
            page_entries: PAGE_ENTRIES_MAX,
        };
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        let mut silent_since = None;
        loop {
            let established = self.establish(view, &mut position, silent_since);
            let (route, stream) = match self.until_stale(view, silent_since, established).await {
                Ok(established) => established,
                Err(fault) => {
                    silent_since.get_or_insert_with(Instant::now);
                    self.failed(view, &fault).await;
                    sleep(self.pause(&fault, &mut backoff)).await;
                    continue;
                }
            };
            let started = Instant::now();
            let fault = self.receive(view, &mut position, route, stream).await;
            tracing::debug!(
                selector = %view.selector(), error = %fault.to_error(), "a watch ended"
            );
            silent_since = Some(Instant::now());
            self.link.stream_failed(route, &fault).await;
            if started.elapsed() > Duration::from_secs(10) {
                backoff.reset();
            }
            sleep(backoff.next()).await;
        }
    }

    /// Waits for `future`, and marks the view as stale when that takes too long.
    async fn until_stale<T>(
        &self,
        view: &LiveView,
        silent_since: Option<Instant>,
        future: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(future);
        let since = silent_since.unwrap_or_else(Instant::now);
        tokio::select! {
            done = &mut future => return done,
            () = sleep_until(since + STALE_AFTER) => {}
            () = self.link.disconnected() => {}
        }
        let reason = match self.link.connection() {
            tidings_api::Connection::Disconnected { reason, .. } => reason,
            _ => "etcd does not answer".into(),
        };
        self.mark_stale(view, &reason);
        future.await
    }

    async fn failed(&self, view: &LiveView, fault: &Fault) {
        let error = fault.to_error();
        if let Fault::Denied(_) = fault {
            view.set_first(Err(error.clone()));
            self.mark_stale(view, &error.to_string());
        }
        self.link.stream_failed(self.link.route(), fault).await;
    }

    fn pause(&self, fault: &Fault, backoff: &mut Backoff) -> Duration {
        match fault {
            // Nothing changes that soon.
            Fault::Denied(_) | Fault::Refused(_) => backoff::slow(),
            _ => backoff.next(),
        }
    }

    fn mark_stale(&self, view: &LiveView, reason: &str) {
        self.views.update(view, |remote| {
            remote.set_freshness(Freshness::stale(reason));
        });
    }

    /// Reads a snapshot, publishes it, and opens the stream of changes after it.
    async fn establish(
        &self,
        view: &LiveView,
        position: &mut Position,
        silent_since: Option<Instant>,
    ) -> Result<(Route, WatchStream), Fault> {
        self.link.connected().await;
        // Before the snapshot: an etcd that loses its data after it counts anew, and a stream that
        // started there would be silent.
        let route = self.link.route();
        let prefix = self.keys.prefix(view.selector());
        let (snapshot, revision) = self
            .snapshot(view, &prefix, &mut position.page_entries)
            .await?;
        let was_silent = silent_since.is_some_and(|since| since.elapsed() >= STALE_AFTER);
        let lost_data = position.revision != i64::MAX && revision + 1 < position.revision;
        if was_silent || lost_data {
            position.outage_ended = Some(Instant::now());
        }
        let lost = silent_since.and_then(|_| self.loss(*position));
        let mut missing = false;
        self.views.update(view, |remote| {
            missing = remote.replace(snapshot, revision, lost);
            remote.set_freshness(Freshness::Live);
        });
        view.set_first(Ok(()));
        // Where all the past is known, or can't be, there is no need to ask for it.
        let history = (missing && position.revision <= revision).then_some(position.revision);
        position.snapshot = revision;
        let from = history.unwrap_or(revision + 1);
        position.revision = revision + 1;
        let stream = self.open(route, &prefix, from).await?;
        Ok((route, stream))
    }

    async fn open(&self, route: Route, prefix: &[u8], from: i64) -> Result<WatchStream, Fault> {
        let opened = timeout(self.link.timing().answer, async {
            let client = Box::pin(self.link.client(route)).await?;
            let mut watches = client.watch_client().max_decoding_message_size(usize::MAX);
            let options = WatchOptions::new()
                .with_prefix()
                .with_start_revision(from)
                .with_prev_key()
                .with_progress_notify()
                .with_fragment();
            Ok(watches.watch(prefix, Some(options)).await?)
        });
        opened.await.unwrap_or_else(|_| Err(Fault::no_answer()))
    }

    /// All entries at one revision, page by page.
    async fn snapshot(
        &self,
        view: &LiveView,
        prefix: &[u8],
        page_entries: &mut i64,
    ) -> Result<(BTreeMap<InstanceKey, Found>, i64), Fault> {
        let mut found = BTreeMap::new();
        let mut revision = 0;
        let mut from = prefix.to_vec();
        let end = end_of(prefix);
        loop {
            let asked = Instant::now();
            let limit = *page_entries;
            let answered = self.link.call(|client| {
                let options = GetOptions::new()
                    .with_range(end.clone())
                    .with_limit(limit)
                    .with_revision(revision);
                let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
                let from = from.clone();
                async move { kv.get(from, Some(options)).await }
            });
            let answered = answered.await;
            *page_entries = page_entries_after(limit, asked.elapsed(), self.link.timing().answer);
            let mut page = answered?;
            if revision == 0 {
                revision = page
                    .header()
                    .map_or(0, etcd_client::ResponseHeader::revision);
            }
            let entries = page.take_kvs();
            // The next page starts right after the last key of this one.
            let last = entries.last().map(|kv| [kv.key(), &[0]].concat());
            self.views.peek(view, |remote| {
                for kv in &entries {
                    if let Some((key, Read::Instance(instance))) = self.read(remote, kv) {
                        found.insert(key, Found::new(kv, instance));
                    }
                }
            });
            match last {
                Some(last) if page.more() => from = last,
                _ => return Ok((found, revision)),
            }
        }
    }

    /// Applies changes until the stream ends.
    async fn receive(
        &self,
        view: &LiveView,
        position: &mut Position,
        route: Route,
        mut stream: WatchStream,
    ) -> Fault {
        let created = timeout(self.link.timing().answer, stream.message());
        match created.await {
            Ok(Ok(Some(first))) => {
                if let Err(fault) = self.apply(view, position, &[first]) {
                    return fault;
                }
            }
            Ok(Ok(None)) => return Fault::ended(),
            Ok(Err(error)) => return error.into(),
            Err(_) => return Fault::no_answer(),
        }
        loop {
            let next_loss = view.next_loss();
            let message = tokio::select! {
                message = stream.message() => message,
                () = sleep_until(next_loss.unwrap_or_else(Instant::now)), if next_loss.is_some() => {
                    let now = Instant::now();
                    self.views.update(view, |remote| remote.drop_lost(now));
                    continue;
                }
                () = self.link.left(route) => return Fault::ended(),
            };
            let mut batch = match message {
                Ok(Some(message)) => vec![message],
                Ok(None) => return Fault::ended(),
                Err(error) => return error.into(),
            };
            // What has arrived as well is published with it.
            while let Some(more) = ready(&mut stream).await {
                batch.push(more);
            }
            if let Err(fault) = self.apply(view, position, &batch) {
                return fault;
            }
        }
    }

    fn apply(
        &self,
        view: &LiveView,
        position: &mut Position,
        batch: &[WatchResponse],
    ) -> Result<(), Fault> {
        let mut result = Ok(());
        let events: Vec<&Event> = batch.iter().flat_map(WatchResponse::events).collect();
        if let Some(last) = events.last().and_then(|event| event.kv()) {
            // Not one more: the rest of a revision may come with the next message.
            position.revision = position.revision.max(last.mod_revision());
        }
        for response in batch {
            if response.canceled() {
                let compacted = response.compact_revision();
                result = Err(Fault::canceled(compacted, response.cancel_reason()));
            } else if response.events().is_empty()
                && !response.created()
                && let Some(header) = response.header()
            {
                // The server says that there was nothing up to here.
                position.revision = position.revision.max(header.revision());
            }
        }
        if matches!(result, Err(Fault::Compacted)) {
            // What is missing stays as lost: how it went is not known any more.
            position.revision = i64::MAX;
        }
        if !events.is_empty() {
            self.views.update(view, |remote| {
                for event in events {
                    self.apply_event(remote, *position, event);
                }
            });
        }
        result
    }

    fn apply_event(&self, remote: &mut Remote, position: Position, event: &Event) {
        let Some(kv) = event.kv() else { return };
        let revision = kv.mod_revision();
        if event.event_type() == EventType::Delete {
            let Some(key) = self.keys.parse(kv.key()) else {
                return;
            };
            if !remote.is_older(&key, revision) {
                return;
            }
            if was_asked_for(&key, event.prev_kv()) {
                remote.remove(&key);
            } else if let Some(lost) = self.loss(position) {
                remote.lose(&key, lost);
            } else {
                remote.remove(&key);
            }
            return;
        }
        let Some((key, read)) = self.read(remote, kv) else {
            return;
        };
        // The past matters only for how an instance went that is missing from the present.
        let is_past = revision <= position.snapshot;
        if is_past && !remote.is_lost(&key) || !remote.is_older(&key, revision) {
            return;
        }
        match read {
            Read::Left => remote.remove(&key),
            Read::Instance(_) if is_past => {}
            Read::Instance(instance) => remote.put(key, Found::new(kv, instance)),
            Read::Nothing => match self.loss(position) {
                Some(lost) => remote.lose(&key, lost),
                None => remote.remove(&key),
            },
        }
    }

    /// How long a loss is kept from being shown, where it is.
    fn loss(&self, position: Position) -> Option<Lost> {
        if self.loss_hold.is_zero() {
            return None;
        }
        let outage_ended = position.outage_ended.max(self.link.recovered());
        let held_until = outage_ended.map(|ended| ended + self.loss_hold);
        let lost = match held_until.filter(|until| Instant::now() < *until) {
            Some(until) => Lost {
                until,
                in_outage: true,
            },
            None => Lost {
                until: Instant::now() + LOSS_LINGER,
                in_outage: false,
            },
        };
        Some(lost)
    }

    /// Reads an entry; counts it where it can't be.
    fn read(&self, remote: &Remote, kv: &KeyValue) -> Option<(InstanceKey, Read)> {
        let Some(key) = self.keys.parse(kv.key()) else {
            self.views
                .count_unreadable(kv.key(), "its key is none of an instance");
            return None;
        };
        if let Some(instance) = remote.known(&key, kv) {
            return Some((key, Read::Instance(instance)));
        }
        let read = match Stored::read(&key, kv.value()) {
            Ok(stored) if stored.left => Read::Left,
            Ok(stored) => Read::Instance(Arc::new(stored.instance)),
            Err(why) => {
                self.views.count_unreadable(kv.key(), &why);
                Read::Nothing
            }
        };
        Some((key, read))
    }
}

/// How many entries to ask for when so many have taken so long, of the time for an answer. More only
/// where twice as many would arrive as well.
fn page_entries_after(entries: i64, took: Duration, answer: Duration) -> i64 {
    if took >= answer {
        (entries / 4).max(PAGE_ENTRIES_MIN)
    } else if took < answer / 4 {
        (entries * 2).min(PAGE_ENTRIES_MAX)
    } else {
        entries
    }
}

/// What an entry says.
enum Read {
    Instance(Arc<tidings_api::Instance>),
    /// The instance was deregistered, and its key is deleted in a moment.
    Left,
    /// Nothing that can be read.
    Nothing,
}

/// The next message, if it has arrived already. Not by a timeout of zero, which takes up to a
/// millisecond.
async fn ready(stream: &mut WatchStream) -> Option<WatchResponse> {
    tokio::select! {
        biased;
        message = stream.message() => message.ok().flatten(),
        () = std::future::ready(()) => None,
    }
}

/// Whether a deletion was asked for by the instance's owner.
fn was_asked_for(key: &InstanceKey, previous: Option<&KeyValue>) -> bool {
    previous.is_some_and(|kv| {
        // Without a lease nothing but a request deletes it.
        kv.lease() == 0 || Stored::read(key, kv.value()).is_ok_and(|stored| stored.left)
    })
}

/// The end of the range of all keys that start with `prefix`, which ends with a slash.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
