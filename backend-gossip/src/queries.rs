//! Queries as an application asks them, and answers those of others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tidings_api::{Error, Result};
use tokio::sync::{mpsc, oneshot};

use crate::BACKEND;
use crate::driver::Command;
use crate::engine::{Asked, Engine, Outcome, QueryKey, QueryUpdate, Terms};
use crate::events::payload;

/// Updates that wait for who asked, and their bytes. What comes beyond that is dropped and counted.
const UPDATES_WAITING_MAX: usize = 4_096;
const UPDATE_BYTES_WAITING_MAX: usize = 16 * 1024 * 1024;

/// Queries that wait for one reader; it is not given what comes beyond that.
const QUERIES_WAITING_MAX: usize = 64;

/// How long a query waits for answers where nothing else is said.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// Whom a query is for, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryOptions {
    timeout: Duration,
    members: Option<BTreeSet<Arc<str>>>,
    answers_max: usize,
}

impl Default for QueryOptions {
    /// All members, 5 s, any number of answers.
    fn default() -> Self {
        Self {
            timeout: TIMEOUT_DEFAULT,
            members: None,
            answers_max: usize::MAX,
        }
    }
}

impl QueryOptions {
    /// Waits this long for answers; at most 5 min. Too short and slow members count as missing; a
    /// query that everybody has answered is over before. Default 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Asks only members of these names. Default: all.
    #[must_use]
    pub fn members<N: Into<Arc<str>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.members = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Ends the query with this many answers; at least 1. Default: any number.
    #[must_use]
    pub fn answers_max(mut self, answers: usize) -> Self {
        self.answers_max = answers.max(1);
        self
    }

    pub(crate) fn terms(self) -> Terms {
        Terms {
            timeout: self.timeout,
            members: self.members,
            answers_max: self.answers_max,
        }
    }
}

/// The answers to a query, as they come. Dropping it ends the query.
///
/// Where it isn't read, up to 4,096 updates and 16 MiB wait; what comes beyond that is dropped, and
/// [`QueryReport::dropped`] says how many they were.
#[derive(Debug)]
pub struct Answers {
    updates: mpsc::Receiver<QueryUpdate>,
    waiting: Arc<AtomicUsize>,
    report: oneshot::Receiver<QueryReport>,
}

/// What became of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryReport {
    /// Every member that was asked: those that were there when the query began, or those it named.
    pub outcomes: BTreeMap<Arc<str>, Outcome>,
    /// Updates that were dropped because they were not read.
    pub dropped: u64,
}

impl QueryReport {
    /// Names of the members that have answered.
    pub fn answered(&self) -> impl Iterator<Item = &Arc<str>> {
        self.with(|outcome| outcome == Outcome::Answered)
    }

    /// Names of the members that have not: they had nothing to say, no time, or weren't there.
    pub fn missing(&self) -> impl Iterator<Item = &Arc<str>> {
        self.with(|outcome| outcome != Outcome::Answered)
    }

    fn with(&self, wanted: impl Fn(Outcome) -> bool) -> impl Iterator<Item = &Arc<str>> {
        let outcomes = self.outcomes.iter();
        outcomes
            .filter(move |(_, outcome)| wanted(**outcome))
            .map(|(member, _)| member)
    }
}

impl Answers {
    /// Waits for the next answer, or word that a member has the query; `None` once it is over: when
    /// everybody has answered or can't, enough have, or its time is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<QueryUpdate> {
        let update = self.updates.recv().await?;
        self.waiting.fetch_sub(bytes(&update), Ordering::Relaxed);
        Some(update)
    }

    /// Waits for the query to be over, and says who has answered and who hasn't.
    ///
    /// # Errors
    /// [`Closed`](tidings_api::ErrorKind::Closed) where the handle was closed before.
    pub async fn report(mut self) -> Result<QueryReport> {
        while self.next().await.is_some() {}
        let closed = |_| Error::closed().with_backend(BACKEND);
        self.report.await.map_err(closed)
    }
}

fn bytes(update: &QueryUpdate) -> usize {
    match update {
        QueryUpdate::Answered { payload, .. } => payload.len(),
        QueryUpdate::Received { .. } => 0,
    }
}

/// Hears the queries of members, the own one included.
///
/// Up to 64 wait for this reader; it isn't given what comes beyond that, and the asker is told that
/// nobody answers where no other reader is. Where nobody reads queries, all are declined at once.
#[derive(Debug)]
pub struct Queries {
    waiting: mpsc::Receiver<Query>,
}

impl Queries {
    /// Waits for the next query. Cancel-safe.
    ///
    /// # Errors
    /// [`Closed`](tidings_api::ErrorKind::Closed) once the handle is closed and everything read.
    pub async fn next(&mut self) -> Result<Query> {
        let next = self.waiting.recv().await;
        next.ok_or_else(|| Error::closed().with_backend(BACKEND))
    }
}

/// A query to be answered. One that is dropped is declined: the asker need not wait.
#[derive(Debug)]
pub struct Query {
    asked: Asked,
    reply: Arc<ReplyOnce>,
}

impl Query {
    /// Name of the member that asks.
    #[must_use]
    pub fn asker(&self) -> &str {
        &self.asked.asker
    }

    /// What it is about.
    #[must_use]
    pub fn name(&self) -> &str {
        self.asked.name.as_str()
    }

    /// The asker's bytes, up to 64 KiB.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.asked.payload
    }

    /// Time left for an answer to be of use.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.asked
            .deadline
            .saturating_duration_since(Instant::now())
    }

    /// Answers, with up to 64 KiB. Where several readers have the query the first answer counts. One
    /// that comes when the query is over is dropped.
    ///
    /// # Errors
    /// [`InvalidInput`](tidings_api::ErrorKind::InvalidInput) where it is too long,
    /// [`Closed`](tidings_api::ErrorKind::Closed).
    pub async fn answer(self, answer: impl Into<Arc<[u8]>>) -> Result<()> {
        let answer = payload(answer)?;
        let closed = || Error::closed().with_backend(BACKEND);
        let commands = self.reply.commands.upgrade().ok_or_else(closed)?;
        // Before it counts as said: a call that is dropped while it waits for room has said nothing.
        let room = commands.reserve().await.map_err(|_| closed())?;
        if !self.reply.said.swap(true, Ordering::Relaxed) {
            room.send(Command::Answer(self.asked.key, Some(answer)));
        }
        Ok(())
    }
}

/// Declines when the last reader has dropped the query.
#[derive(Debug)]
struct ReplyOnce {
    key: QueryKey,
    commands: mpsc::WeakSender<Command>,
    said: AtomicBool,
}

impl Drop for ReplyOnce {
    fn drop(&mut self) {
        if !*self.said.get_mut()
            && let Some(commands) = self.commands.upgrade()
        {
            // Where there is no room the asker finds out at the end of its time.
            let _ = commands.try_send(Command::Answer(self.key, None));
        }
    }
}

/// The driver's side of queries.
#[derive(Debug, Default)]
pub(crate) struct QueryHub {
    open: BTreeMap<u64, OpenQuery>,
    readers: Vec<mpsc::Sender<Query>>,
    /// Where readers answer to.
    commands: Option<mpsc::WeakSender<Command>>,
}

#[derive(Debug)]
struct OpenQuery {
    updates: mpsc::Sender<QueryUpdate>,
    waiting: Arc<AtomicUsize>,
    report: oneshot::Sender<QueryReport>,
    dropped: u64,
}

impl QueryHub {
    /// The asker's side of a query that the engine has begun.
    pub(crate) fn open(&mut self, id: u64) -> Answers {
        let (updates, receiver) = mpsc::channel(UPDATES_WAITING_MAX);
        let (report, reported) = oneshot::channel();
        let waiting = Arc::<AtomicUsize>::default();
        let open = OpenQuery {
            updates,
            waiting: waiting.clone(),
            report,
            dropped: 0,
        };
        self.open.insert(id, open);
        Answers {
            updates: receiver,
            waiting,
            report: reported,
        }
    }

    pub(crate) fn update(&mut self, engine: &mut Engine, id: u64, update: QueryUpdate) {
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        let bytes = bytes(&update);
        if open.waiting.load(Ordering::Relaxed) + bytes > UPDATE_BYTES_WAITING_MAX {
            open.dropped += 1;
            return;
        }
        match open.updates.try_send(update) {
            Ok(()) => {
                open.waiting.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(mpsc::error::TrySendError::Full(_)) => open.dropped += 1,
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.open.remove(&id);
                engine.end_query(id);
            }
        }
    }

    /// Ends the queries that nobody waits for any more.
    pub(crate) fn end_dropped(&mut self, engine: &mut Engine) {
        self.open.retain(|id, query| {
            let dropped = query.updates.is_closed();
            if dropped {
                engine.end_query(*id);
            }
            !dropped
        });
    }

    pub(crate) fn end(&mut self, id: u64, outcomes: Vec<(Arc<str>, Outcome)>) {
        if let Some(open) = self.open.remove(&id) {
            let _ = open.report.send(QueryReport {
                outcomes: outcomes.into_iter().collect(),
                dropped: open.dropped,
            });
        }
    }

    /// Another reader of queries.
    pub(crate) fn subscribe(
        &mut self,
        engine: &mut Engine,
        commands: mpsc::WeakSender<Command>,
    ) -> Queries {
        self.commands = Some(commands);
        let (sender, waiting) = mpsc::channel(QUERIES_WAITING_MAX);
        self.readers.push(sender);
        engine.listen_to_queries(true);
        Queries { waiting }
    }

    /// Hands a query to all readers. Dropped by all, or taken by none, it is declined.
    pub(crate) fn ask(&mut self, now: Instant, engine: &mut Engine, asked: &Asked) {
        self.readers.retain(|reader| !reader.is_closed());
        if self.readers.is_empty() {
            engine.listen_to_queries(false);
        }
        let Some(commands) = self.commands.clone() else {
            return;
        };
        let mut reply = Arc::new(ReplyOnce {
            key: asked.key,
            commands,
            said: AtomicBool::new(false),
        });
        for reader in &self.readers {
            let (asked, reply) = (asked.clone(), reply.clone());
            let _ = reader.try_send(Query { asked, reply });
        }
        // Who had it may have answered already, and let go of it.
        if let Some(reply) = Arc::get_mut(&mut reply)
            && !std::mem::replace(reply.said.get_mut(), true)
        {
            engine.answer_query(now, asked.key, None);
        }
    }
}
