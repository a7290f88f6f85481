//! Every view of a watch, from the moment the recording started.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tidings_api::{Change, View, Watch};
use tokio::sync::watch;
use tokio::task::unconstrained;

use crate::Failure;
use crate::bed::Bed;
use crate::case::Outcome;
use crate::sample::{in_short, is_marker, shown};

/// What one handle's watch has shown: every view that was published, also where a slower reader
/// would see two of them merged.
pub(crate) struct Recording<'n> {
    bed: &'n Bed,
    who: String,
    history: Arc<History>,
    _recorder: Arc<Recorder>,
}

struct History {
    state: Mutex<State>,
    grown: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    views: Vec<View>,
    ended: bool,
}

/// A place in a recording: what was newest at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

impl Mark {
    /// The first view.
    pub(crate) const START: Self = Self(0);
}

impl<'n> Recording<'n> {
    pub(crate) fn new(bed: &'n Bed, who: String, watch: Watch) -> Self {
        let history = Arc::new(History {
            state: Mutex::default(),
            grown: watch::Sender::new(()),
        });
        let recorder = Arc::new(Recorder {
            history: history.clone(),
            reading: Mutex::new(Some(read(watch))),
        });
        recorder.record();
        Self {
            bed,
            who,
            history,
            _recorder: recorder,
        }
    }

    /// The newest view.
    pub(crate) fn view(&self) -> View {
        let newest = self.history.state().views.last().cloned();
        newest.unwrap_or_else(|| View::unknown("nothing was recorded"))
    }

    /// Where the recording is now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.history.state().views.len().saturating_sub(1))
    }

    /// The views from `mark` on, that of the mark first.
    pub(crate) fn views(&self, mark: Mark) -> Vec<View> {
        self.history.state().views[mark.0..].to_vec()
    }

    /// The changes from `mark` on, markers left out.
    pub(crate) fn changes(&self, mark: Mark) -> Vec<Change> {
        let views = self.views(mark);
        let steps = views.windows(2).flat_map(|step| step[1].since(&step[0]));
        steps
            .filter(|change| !is_marker(change.instance()))
            .collect()
    }

    /// Waits until the newest view meets a condition.
    pub(crate) async fn wait(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&View) -> bool,
    ) -> Result<View, Failure> {
        let mut grown = self.history.grown.subscribe();
        let met = async {
            loop {
                grown.mark_unchanged();
                let (view, ended) = (self.view(), self.history.state().ended);
                if condition(&view) {
                    return Some(view);
                }
                if ended || grown.changed().await.is_err() {
                    return None;
                }
            }
        };
        let why = match tokio::time::timeout(limit, met).await {
            Ok(Some(view)) => return Ok(view),
            Ok(None) => "its watch ended".to_owned(),
            Err(_) => format!("{limit:?} have passed"),
        };
        Err(self.bed.violation(format!(
            "{} does not see that {what}: {why}, and the view is {}",
            self.who,
            shown(&self.view())
        )))
    }

    /// Checks which changes there were from `mark` on, markers left out: `["+a", "~b", "-c"]`.
    pub(crate) fn expect(&self, mark: Mark, changes: &[&str]) -> Outcome {
        self.expect_of(mark, changes, |_| true)
    }

    /// The same of some instances only.
    pub(crate) fn expect_of(
        &self,
        mark: Mark,
        changes: &[&str],
        of: impl Fn(&str) -> bool,
    ) -> Outcome {
        let seen = self.changes(mark);
        let seen = seen.iter().filter(|change| of(change.key().id().as_str()));
        let seen: Vec<String> = seen.map(in_short).collect();
        if seen == changes {
            return Ok(());
        }
        Err(self.bed.violation(format!(
            "{} saw the changes {seen:?} instead of {changes:?}; its view is {}",
            self.who,
            shown(&self.view())
        )))
    }
}

impl History {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grow(&self, grow: impl FnOnce(&mut State)) {
        grow(&mut self.state());
        self.grown.send_replace(());
    }
}

/// Reads a watch *within* the call that publishes a view: a reader that is woken to run later would
/// miss what is published in between, and with it a flap.
struct Recorder {
    history: Arc<History>,
    /// `None` once the watch has ended.
    reading: Mutex<Option<Reading>>,
}

type Reading = Pin<Box<dyn Future<Output = (Watch, Option<View>)> + Send>>;

/// The next view of a watch. Without the budget that Tokio gives a task, as it is none.
fn read(mut watch: Watch) -> Reading {
    Box::pin(unconstrained(async move {
        let view = watch.changed().await;
        (watch, view.ok())
    }))
}

impl Recorder {
    /// Records what is there, and arranges for being woken by what comes.
    fn record(self: &Arc<Self>) {
        let waker = Waker::from(Arc::new(Woken(Arc::downgrade(self))));
        let mut reading = self.reading();
        while let Some(next) = reading.as_mut() {
            let (watch, view) = match next.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(done) => done,
                Poll::Pending => return,
            };
            *reading = view.is_some().then(|| read(watch));
            self.history.grow(|state| match view {
                Some(view) => state.views.push(view),
                None => state.ended = true,
            });
        }
    }

    fn reading(&self) -> MutexGuard<'_, Option<Reading>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a watch wakes. Weak, as the watch is in the recorder.
struct Woken(Weak<Recorder>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        if let Some(recorder) = self.0.upgrade() {
            recorder.record();
        }
    }
}
