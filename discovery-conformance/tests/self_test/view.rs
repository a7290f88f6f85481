//! Flaws of what watches show.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidings_api::{Feed, Freshness, Instance, Selector, View, Watch};
use tokio::time::sleep;

use crate::discovery::Shared;
use crate::flaw::Flaw;

/// Shorter than a case waits, longer than a machine takes.
const A_WHILE: Duration = Duration::from_millis(100);

impl Flaw {
    /// Whether the flaw is about what watches show.
    pub(crate) fn is_shown(self) -> bool {
        matches!(
            self,
            Self::LeavesHandlesOut
                | Self::StartsEmpty
                | Self::MissesTheStart
                | Self::UnknownIsEmpty
                | Self::DropsRoundNumbers
                | Self::GoesBack
                | Self::GapsBetweenOwners
                | Self::EmptyInAnOutage
                | Self::FlapsOnReturn
                | Self::EmptyIsUnknown
                | Self::NeverGetsEmpty
                | Self::MatchesPrefixes
                | Self::FoldsCase
                | Self::AllIsLowerCase
                | Self::HidesForeignEntries
                | Self::GarbageEndsWatches
                | Self::PassesLossesInAnOutage
                | Self::WatchesOutliveClose
                | Self::CountsInAByte
        )
    }

    /// The selector that a flawed backend uses itself.
    pub(crate) fn widened(self, selector: &Selector) -> Selector {
        match self {
            Self::MatchesPrefixes | Self::FoldsCase => Selector::All,
            _ => selector.clone(),
        }
    }
}

/// Shows the views of a sound watch in a flawed way.
pub(crate) struct Distortion {
    shared: Arc<Shared>,
    /// The number of the handle, in the order of connecting.
    handle: usize,
    feed: Feed,
    last: Option<View>,
    returns: usize,
}

impl Distortion {
    pub(crate) fn new(shared: Arc<Shared>, handle: usize, feed: Feed) -> Self {
        Self {
            returns: shared.returns.load(Ordering::SeqCst),
            shared,
            handle,
            feed,
            last: None,
        }
    }

    /// Shows the first view, before `watch` returns.
    pub(crate) fn start(&mut self, view: &View) {
        match self.shared.flaw {
            Flaw::StartsEmpty => self.feed.publish(Vec::new(), Freshness::Live),
            Flaw::UnknownIsEmpty if !view.is_live() => {
                self.feed.publish(Vec::new(), Freshness::Live);
            }
            _ => self.publish(view),
        }
    }

    /// Shows what follows, until the watch ends.
    pub(crate) async fn run(mut self, mut watch: Watch) {
        if self.shared.flaw == Flaw::StartsEmpty {
            sleep(A_WHILE).await;
        }
        if self.shared.flaw == Flaw::MissesTheStart {
            sleep(A_WHILE).await;
            // Taken for seen.
            let _missed = watch.changed().await;
        }
        let mut losses = self.shared.losses.subscribe();
        loop {
            let view = tokio::select! {
                view = watch.changed() => view,
                Ok(()) = losses.changed() => Ok(watch.view()),
            };
            match view {
                Ok(view) => self.show(view).await,
                Err(_) if self.shared.flaw == Flaw::WatchesOutliveClose => {
                    return std::future::pending().await;
                }
                Err(_) => return,
            }
        }
    }

    async fn show(&mut self, view: View) {
        match self.shared.flaw {
            Flaw::DropsRoundNumbers if view.iter().any(is_round) => return,
            Flaw::FlapsOnReturn => {
                let returns = self.shared.returns.load(Ordering::SeqCst);
                if view.is_live() && returns > self.returns {
                    self.returns = returns;
                    self.feed.publish(Vec::new(), Freshness::Live);
                    sleep(A_WHILE / 10).await;
                }
            }
            Flaw::GoesBack => {
                if let Some(last) = self.last.take() {
                    self.publish(&view);
                    sleep(A_WHILE / 50).await;
                    self.publish(&last);
                    sleep(A_WHILE / 50).await;
                }
            }
            Flaw::GapsBetweenOwners => {
                let last = self.last.take();
                let is_taken_over = |instance: &Arc<Instance>| {
                    let before = last.as_ref().and_then(|last| last.get(instance.key()));
                    before.is_some_and(|before| before.generation() != instance.generation())
                };
                let kept = view.iter().filter(|it| !is_taken_over(it)).cloned();
                self.feed.publish(kept.collect(), view.freshness().clone());
            }
            _ => {}
        }
        self.publish(&view);
        self.last = Some(view);
    }

    fn publish(&mut self, view: &View) {
        let mut freshness = view.freshness().clone();
        let mut shown: Vec<Arc<Instance>> = view.iter().cloned().collect();
        match self.shared.flaw {
            Flaw::LeavesHandlesOut if self.handle >= 5 => shown.clear(),
            Flaw::EmptyInAnOutage if !view.is_live() => shown.clear(),
            Flaw::EmptyIsUnknown if shown.is_empty() && self.last.is_none() => {
                freshness = Freshness::stale("nothing was seen yet");
            }
            Flaw::NeverGetsEmpty if shown.is_empty() => {
                shown = self.feed.view().iter().cloned().collect();
            }
            Flaw::MatchesPrefixes | Flaw::FoldsCase => {
                shown.retain(|instance| self.matches(instance.service().as_str()));
            }
            Flaw::AllIsLowerCase if *self.feed.selector() == Selector::All => {
                shown.retain(|instance| {
                    let name = instance.service().as_str();
                    !name.contains(|c: char| c.is_ascii_uppercase())
                });
            }
            Flaw::HidesForeignEntries => shown.retain(|found| found.generation().number() > 0),
            Flaw::PassesLossesInAnOutage => {
                let lost = self.shared.losses.borrow();
                shown.retain(|instance| !lost.contains(instance.key()));
            }
            Flaw::CountsInAByte => shown.truncate(256),
            _ => {}
        }
        self.feed.publish(shown, freshness);
    }

    fn matches(&self, service: &str) -> bool {
        let Selector::Service(name) = self.feed.selector() else {
            return true;
        };
        match self.shared.flaw {
            Flaw::FoldsCase => service.eq_ignore_ascii_case(name.as_str()),
            _ => service.starts_with(name.as_str()),
        }
    }
}

/// Whether the number that cases tell contents by is a multiple of a hundred.
fn is_round(instance: &Arc<Instance>) -> bool {
    let number = instance.metadata().get("n").and_then(|n| n.parse().ok());
    number.is_some_and(|n: usize| n > 0 && n.is_multiple_of(100))
}
