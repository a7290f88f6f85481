//! A case: a promise of the contract, and how it is checked against a fixture.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::runtime;

use crate::bed::Bed;
use crate::panics::Panics;
use crate::{Failure, Fixture};

/// Environment variable that repeats the random choices of a run.
const SEED_VARIABLE: &str = "TIDINGS_CONFORMANCE_SEED";
/// Longest time a fixture may take to start.
const START_TIME_MAX: Duration = Duration::from_secs(120);
/// Enough that a reader and a writer run at the same time, on any machine.
const WORKERS: usize = 2;

/// What the body of a case returns.
pub(crate) type Outcome = Result<(), Failure>;
type Body = for<'b> fn(&'b Bed) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'b>>;

/// One promise of the contract, and the test of it. See [`cases`](crate::cases).
pub struct Case {
    name: &'static str,
    body: Body,
}

impl Case {
    pub(crate) const fn new(name: &'static str, body: Body) -> Self {
        Self { name, body }
    }

    /// The name: the clause, and a sentence that should be true.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The clause, as the contract writes it: `WAT-4` for `wat_4_…`.
    #[must_use]
    pub fn clause(&self) -> String {
        let mut words = self.name.splitn(3, '_');
        let (group, number) = (words.next(), words.next());
        let clause = [group.unwrap_or_default(), number.unwrap_or_default()].join("-");
        clause.to_uppercase()
    }

    /// Runs the case on a fixture of its own, in a runtime of its own.
    ///
    /// # Errors
    /// The [`Failure`], where the case doesn't pass.
    pub fn check<F: Fixture>(&'static self) -> Result<(), Failure> {
        self.check_with(|namespace| async move {
            let fixture = F::start(&namespace).await?;
            Ok(Box::new(fixture) as Box<dyn Fixture>)
        })
    }

    /// Runs the case on the fixture that `start` makes of a namespace, for fixtures that need more
    /// than that to start.
    ///
    /// # Errors
    /// The [`Failure`], where the case doesn't pass.
    pub fn check_with<S, R>(&'static self, start: S) -> Result<(), Failure>
    where
        S: FnOnce(String) -> R,
        R: Future<Output = Result<Box<dyn Fixture>, Failure>> + Send + 'static,
    {
        let seed = seed()?;
        let namespace = format!("t-{:016x}", fastrand::u64(..));
        println!(
            "{}: {SEED_VARIABLE}={seed} namespace {namespace}",
            self.name
        );

        // The threads' name tells whose panic it is, when cases run side by side.
        let panics = Panics::on_threads(format!("conformance {namespace}"));
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name(panics.threads())
            .enable_all()
            .build()
            .map_err(Failure::setup)?;
        let (report, progress) = mpsc::channel();
        let fixture = start(namespace);
        runtime.spawn(self.conduct(fixture, seed, report));
        // Waited for on this thread, which a backend that blocks its runtime can't block.
        let outcome = self.follow(&progress);
        runtime.shutdown_background();
        match (panics.first(), outcome) {
            (Some(panic), Err(Failure::Setup(cause))) => {
                Err(Failure::Setup(format!("{cause}: {panic}")))
            }
            (Some(panic), _) => Err(self.violated(format!("a task panicked: {panic}"))),
            (None, outcome) => outcome,
        }
    }

    pub(crate) fn violated(&self, seen: String) -> Failure {
        let clause = self.clause();
        Failure::Violation { clause, seen }
    }

    async fn conduct(
        &'static self,
        fixture: impl Future<Output = Result<Box<dyn Fixture>, Failure>>,
        seed: u64,
        report: mpsc::Sender<Progress>,
    ) {
        // Nobody listens any more only after the case was given up.
        let report = |progress| report.send(progress).unwrap_or_default();
        let fixture = match fixture.await {
            Ok(fixture) => fixture,
            Err(failure) => return report(Progress::Ended(Err(failure))),
        };
        report(Progress::Started(fixture.deadline()));
        let bed = Bed::new(self, fixture, seed);
        let outcome = (self.body)(&bed).await;
        drop(bed);
        report(Progress::Ended(outcome));
    }

    fn follow(&self, progress: &mpsc::Receiver<Progress>) -> Outcome {
        let deadline = match progress.recv_timeout(START_TIME_MAX) {
            Ok(Progress::Started(deadline)) => deadline,
            Ok(Progress::Ended(outcome)) => return outcome,
            Err(RecvTimeoutError::Timeout) => {
                return Err(Failure::Setup(format!(
                    "not started within {START_TIME_MAX:?}"
                )));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::Setup("panicked at the start".into()));
            }
        };
        match progress.recv_timeout(deadline) {
            Ok(Progress::Ended(outcome)) => outcome,
            Err(RecvTimeoutError::Timeout) => {
                Err(self.violated(format!("hangs: not ended within {deadline:?}")))
            }
            Ok(Progress::Started(_)) | Err(RecvTimeoutError::Disconnected) => {
                Err(self.violated("ended without an outcome".into()))
            }
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

/// Runs the case of this name on a fixture of its own, as a test does.
///
/// # Panics
/// Where the case doesn't pass, with what was seen.
pub fn run<F: Fixture>(case: &str) {
    let mut cases = crate::cases().iter();
    let Some(case) = cases.find(|known| known.name == case) else {
        panic!("no case is called {case:?}");
    };
    match case.check::<F>() {
        Ok(()) => {}
        Err(failure @ Failure::Unsupported(_)) => panic!(
            "{failure}: list the case as `ignore {{ {} = \"why\" }}` in the suite",
            case.name
        ),
        Err(failure) => panic!("{failure}"),
    }
}

enum Progress {
    /// The case runs, and has this long.
    Started(Duration),
    Ended(Outcome),
}

/// A new seed, or the one of the environment, to repeat a run.
fn seed() -> Result<u64, Failure> {
    let Ok(text) = std::env::var(SEED_VARIABLE) else {
        return Ok(fastrand::u64(..));
    };
    let seed = text.parse();
    seed.map_err(|_| Failure::Setup(format!("{SEED_VARIABLE}={text:?}: accepted is a number")))
}
