//! Every view of a watch, from the moment the recording started.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidings_api::{Change, View, Watch};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Failure;
use crate::bed::Bed;
use crate::case::Outcome;
use crate::sample::{in_short, is_marker, shown};

/// What one handle's watch has shown. Recorded by a task of its own, as fast as views come; two
/// that come at once may still merge (WAT-2).
pub(crate) struct Recording<'n> {
    bed: &'n Bed,
    who: String,
    history: Arc<History>,
    grown: watch::Receiver<()>,
    _recorder: Recorder,
}

/// The recording task, ended when dropped.
struct Recorder(JoinHandle<()>);

#[derive(Default)]
struct History {
    views: Mutex<Vec<View>>,
}

/// A place in a recording: what was newest at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

impl Mark {
    /// The first view.
    pub(crate) const START: Self = Self(0);
}

impl<'n> Recording<'n> {
    pub(crate) fn new(bed: &'n Bed, who: String, mut watch: Watch) -> Self {
        let history = Arc::<History>::default();
        history.push(watch.view());
        let (grow, grown) = watch::channel(());
        let recorded = history.clone();
        let task = tokio::spawn(async move {
            while let Ok(view) = watch.changed().await {
                recorded.push(view);
                grow.send_replace(());
            }
        });
        Self {
            bed,
            who,
            history,
            grown,
            _recorder: Recorder(task),
        }
    }

    /// The newest view.
    pub(crate) fn view(&self) -> View {
        let views = self.history.since(Mark::START);
        views
            .last()
            .cloned()
            .unwrap_or_else(|| View::unknown("nothing recorded"))
    }

    /// Where the recording is now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.history.since(Mark::START).len() - 1)
    }

    /// The views from `mark` on, that of the mark first.
    pub(crate) fn views(&self, mark: Mark) -> Vec<View> {
        self.history.since(mark)
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
        let mut grown = self.grown.clone();
        let met = async {
            loop {
                grown.mark_unchanged();
                let view = self.view();
                if condition(&view) {
                    return Some(view);
                }
                if grown.changed().await.is_err() && !condition(&self.view()) {
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

impl Drop for Recorder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl History {
    fn push(&self, view: View) {
        self.views
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(view);
    }

    fn since(&self, mark: Mark) -> Vec<View> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)[mark.0..].to_vec()
    }
}
