//! Walking by itself: from phase to phase as the gates open, and back when the new side fails.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::inner::Inner;
use crate::steps::{Driver, Gate, StepError};
use crate::{Phase, Plan, Side};

/// How often the gates are looked at, on average: processes that started together don't step
/// together.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the new side has to be silent before its reader goes back.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Where a process goes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// To this phase, and stays there.
    To(Phase),
    /// To [`Phase::New`], and back to reading both while the new side is silent.
    Automatic,
}

/// Follows a course until it ends, or the handle does, or somebody sets a phase.
pub(crate) async fn walk(inner: Weak<Inner>, course: Course) {
    let target = match course {
        Course::To(phase) => phase,
        Course::Automatic => Phase::New,
    };
    let mut silent_since = None;
    let mut told = String::new();
    loop {
        tokio::time::sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        if inner.is_led() {
            return;
        }
        let here = inner.plan().all;
        if course == Course::Automatic && here.reads() == Side::New.into() {
            let silent = is_silent(&inner).then(Instant::now);
            silent_since = silent_since.filter(|_| silent.is_some()).or(silent);
            if silent_since.is_some_and(|since| since.elapsed() >= SILENCE_MAX) {
                tracing::warn!("the new side is silent: back to reading both");
                step(&inner, Phase::BothReadMerged, Gate::Override, &mut told).await;
                continue;
            }
        }
        if here != target {
            step(&inner, here.toward(target), Gate::Keep, &mut told).await;
        } else if course != Course::Automatic {
            return;
        }
    }
}

fn is_silent(inner: &Inner) -> bool {
    let handle = inner.handles.get(Side::New);
    handle.is_none_or(|handle| !handle.status().connection().is_connected())
}

/// Makes a step if its gate is open, and says once what it waits for.
async fn step(inner: &Arc<Inner>, phase: Phase, gate: Gate, told: &mut String) {
    let plan = Plan {
        all: phase,
        ..inner.plan()
    };
    match inner.step(plan, gate, Driver::Course).await {
        Ok(()) => told.clear(),
        Err(error) => {
            let text = match &error {
                // Their times change at every look.
                StepError::Refused(blockers) => format!("{} in the way", blockers.len()),
                StepError::Failed(error) => error.to_string(),
            };
            if *told != text {
                tracing::info!(%phase, %error, "waits with the next phase");
                *told = text;
            }
        }
    }
}
