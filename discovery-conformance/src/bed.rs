//! What a case works with: the fixture, handles with names, and waiting with a limit.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tidings_api::{
    Bounds, Discovery, DiscoveryExt, Error, ErrorKind, Health, Instance, InstanceKey, Registration,
    Removal, Watch,
};

use crate::case::Outcome;
use crate::recording::{Mark, Recording};
use crate::{Case, Failure, Fixture, Handle, sample};

/// How often a condition is looked at that nothing announces.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Ends a case as a violation unless a condition holds: `ensure!(bed, held, "saw {this}")`.
macro_rules! ensure {
    ($bed:expr, $held:expr, $($seen:tt)+) => {
        if !$held {
            return Err($bed.violation(format!($($seen)+)));
        }
    };
}
pub(crate) use ensure;

/// The test bed of one case.
pub(crate) struct Bed {
    case: &'static Case,
    fixture: Box<dyn Fixture>,
    rng: Mutex<Rng>,
    nodes: AtomicUsize,
    markers: AtomicUsize,
}

impl Bed {
    pub(crate) fn new(case: &'static Case, fixture: Box<dyn Fixture>, seed: u64) -> Self {
        Self {
            case,
            fixture,
            rng: Mutex::new(Rng::with_seed(seed)),
            nodes: AtomicUsize::new(0),
            markers: AtomicUsize::new(0),
        }
    }

    pub(crate) fn fixture(&self) -> &dyn Fixture {
        &*self.fixture
    }

    /// A random number generator of its own, drawn from the seed of the run.
    pub(crate) fn rng(&self) -> Rng {
        self.rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fork()
    }

    /// The clause of this case is broken: says what was seen.
    pub(crate) fn violation(&self, seen: impl Into<String>) -> Failure {
        self.case.violated(seen.into())
    }

    /// New handles, called A, B, C in failures.
    pub(crate) async fn nodes<const N: usize>(&self) -> Result<[Node<'_>; N], Failure> {
        let mut nodes = Vec::new();
        for _ in 0..N {
            nodes.push(self.node().await?);
        }
        let count = "as many as were asked for";
        Ok(nodes.try_into().unwrap_or_else(|_| unreachable!("{count}")))
    }

    pub(crate) async fn node(&self) -> Result<Node<'_>, Failure> {
        let handle = self.fixture.connect().await?;
        let number = self.nodes.fetch_add(1, Ordering::Relaxed);
        let letter = u8::try_from(number).map_or('?', |n| char::from(b'A'.saturating_add(n)));
        Ok(Node {
            bed: self,
            name: format!("handle {letter}"),
            discovery: handle.discovery(),
            handle,
        })
    }

    /// Records what each node shows of [`WEB`](sample::WEB), from when all are live.
    pub(crate) async fn record<'n>(
        &self,
        nodes: &[&'n Node<'_>],
    ) -> Result<Recordings<'n>, Failure> {
        let mut recordings = Recordings(Vec::new());
        for node in nodes {
            recordings.0.push(node.record(sample::WEB).await?);
        }
        recordings
            .wait("it is live", self.recovery(), |view| view.is_live())
            .await?;
        Ok(recordings)
    }

    /// Registers an instance that only marks the end of a window, and waits for it everywhere. What
    /// `from` did before it has arrived then as well, or is overdue.
    pub(crate) async fn marker(&self, from: &Node<'_>, seen: &Recordings<'_>) -> Outcome {
        let number = self.markers.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}{number}", sample::MARKER);
        from.register(sample::web(&id, number)).await?;
        let key = sample::key(sample::WEB, &id);
        let what = format!("{} registered {id}", from.name);
        let limit = self.recovery() + from.bounds().visible;
        seen.wait(&what, limit, |view| view.get(&key).is_some())
            .await
    }

    /// A bound of the backend with the time the machine may need.
    pub(crate) fn limit(&self, bound: Duration) -> Duration {
        bound + self.fixture.slack()
    }

    /// How long it takes at most until all is well again after an outage.
    pub(crate) fn recovery(&self) -> Duration {
        self.limit(self.fixture.recovery())
    }

    /// Waits for `future`, which may take `limit`.
    pub(crate) async fn within<T>(
        &self,
        what: &str,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let done = tokio::time::timeout(limit, future).await;
        done.map_err(|_| self.violation(format!("{what} took longer than {limit:?}")))
    }

    /// Waits for a condition that nothing announces; its other value is what is seen until then.
    pub(crate) async fn eventually(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Result<(), String>,
    ) -> Outcome {
        let mut seen = String::new();
        let met = async {
            while let Err(now) = condition() {
                seen = now;
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let met = tokio::time::timeout(limit, met).await;
        met.map_err(|_| self.violation(format!("not within {limit:?}: {what}; seen: {seen}")))
    }
}

/// One handle, by name.
pub(crate) struct Node<'b> {
    bed: &'b Bed,
    name: String,
    handle: Box<dyn Handle>,
    discovery: Arc<dyn Discovery>,
}

impl Node<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The faults.
    pub(crate) fn handle(&self) -> &dyn Handle {
        &*self.handle
    }

    /// The verbs, for what the shorthands here don't do.
    pub(crate) fn discovery(&self) -> &Arc<dyn Discovery> {
        &self.discovery
    }

    pub(crate) fn bounds(&self) -> Bounds {
        *self.discovery.status().bounds()
    }

    pub(crate) async fn register(&self, instance: Instance) -> Result<InstanceKey, Failure> {
        let what = format!("register {}", instance.key());
        self.done(&what, self.discovery.register(instance).await)
    }

    pub(crate) async fn deregister(&self, key: &InstanceKey) -> Result<Removal, Failure> {
        self.done(
            &format!("deregister {key}"),
            self.discovery.deregister(key).await,
        )
    }

    pub(crate) async fn health(&self, key: &InstanceKey, health: Health) -> Outcome {
        self.done(
            &format!("health {key}"),
            self.discovery.health(key, health).await,
        )
    }

    pub(crate) async fn watch(&self, service: &str) -> Result<Watch, Failure> {
        self.done("watch", self.discovery.watch_service(service).await)
    }

    pub(crate) async fn watch_all(&self) -> Result<Watch, Failure> {
        self.done("watch", self.discovery.watch_all().await)
    }

    /// Records what this handle shows of a service.
    pub(crate) async fn record(&self, service: &str) -> Result<Recording<'_>, Failure> {
        let watch = self.watch(service).await?;
        Ok(Recording::new(self.bed, self.name.clone(), watch))
    }

    pub(crate) async fn record_all(&self) -> Result<Recording<'_>, Failure> {
        let watch = self.watch_all().await?;
        Ok(Recording::new(self.bed, self.name.clone(), watch))
    }

    pub(crate) fn registration(&self, key: &InstanceKey) -> Option<Registration> {
        self.discovery.status().registration(key).cloned()
    }

    /// Waits until `status` says of a registration what it should.
    pub(crate) async fn status_says(
        &self,
        what: &str,
        key: &InstanceKey,
        condition: impl Fn(&Registration) -> bool,
    ) -> Outcome {
        let what = format!("the status of {} says that {key} is {what}", self.name);
        let condition = || match self.registration(key) {
            Some(registration) if condition(&registration) => Ok(()),
            other => Err(format!("{other:?}")),
        };
        self.bed
            .eventually(&what, self.bed.recovery(), condition)
            .await
    }

    pub(crate) async fn is_registered(&self, key: &InstanceKey) -> Outcome {
        self.status_says("registered", key, Registration::is_registered)
            .await
    }

    pub(crate) async fn is_superseded(&self, key: &InstanceKey) -> Outcome {
        self.status_says("superseded", key, Registration::is_superseded)
            .await
    }

    /// Cuts the handle off and waits until its recording is stale.
    pub(crate) async fn is_cut_off(&self, seen: &Recording<'_>) -> Outcome {
        self.handle.cut_off().await?;
        let limit = self.bed.limit(self.bounds().stale);
        seen.wait("the backend can't be heard", limit, |view| !view.is_live())
            .await?;
        Ok(())
    }

    /// Restores the handle and waits until its recording is live.
    pub(crate) async fn is_restored(&self, seen: &Recording<'_>) -> Outcome {
        self.handle.restore().await?;
        seen.wait("the backend is heard again", self.bed.recovery(), |view| {
            view.is_live()
        })
        .await?;
        Ok(())
    }

    /// Checks that a call was refused, and how.
    pub(crate) fn refused<T>(
        &self,
        what: &str,
        kind: ErrorKind,
        result: Result<T, Error>,
    ) -> Outcome {
        let seen = match result {
            Err(error) if error.kind() == kind => return Ok(()),
            Err(error) => format!("{error:?}"),
            Ok(_) => "Ok".to_owned(),
        };
        let who = &self.name;
        Err(self
            .bed
            .violation(format!("{what} on {who} answered {seen}, and not {kind:?}")))
    }

    fn done<T>(&self, what: &str, result: Result<T, Error>) -> Result<T, Failure> {
        let failed = |error| {
            self.bed
                .violation(format!("{what} on {} failed: {error:?}", self.name))
        };
        result.map_err(failed)
    }
}

/// Recordings of several handles.
pub(crate) struct Recordings<'n>(Vec<Recording<'n>>);

/// A place in each of them.
#[derive(Clone, Debug)]
pub(crate) struct Marks(Vec<Mark>);

impl<'n> Recordings<'n> {
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Recording<'n>> {
        self.0.iter()
    }

    pub(crate) fn push(&mut self, recording: Recording<'n>) {
        self.0.push(recording);
    }

    /// Waits until the newest view of each meets a condition.
    pub(crate) async fn wait(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&tidings_api::View) -> bool,
    ) -> Outcome {
        for recording in self.iter() {
            recording.wait(what, limit, &condition).await?;
        }
        Ok(())
    }

    /// Where the recordings are now.
    pub(crate) fn mark(&self) -> Marks {
        Marks(self.iter().map(Recording::mark).collect())
    }

    /// The recordings, each with its mark.
    pub(crate) fn since<'r>(
        &'r self,
        marks: &'r Marks,
    ) -> impl Iterator<Item = (&'r Recording<'n>, Mark)> {
        self.iter().zip(marks.0.iter().copied())
    }

    /// Checks which changes each had, markers left out; see [`Recording::expect`].
    pub(crate) fn expect(&self, marks: &Marks, changes: &[&str]) -> Outcome {
        let mut each = self.since(marks);
        each.try_for_each(|(recording, mark)| recording.expect(mark, changes))
    }
}

impl<'n> std::ops::Index<usize> for Recordings<'n> {
    type Output = Recording<'n>;

    fn index(&self, at: usize) -> &Recording<'n> {
        &self.0[at]
    }
}
