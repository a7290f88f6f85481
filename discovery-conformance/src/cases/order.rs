//! REG-8: calls that overlap, and calls that are given up.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use fastrand::Rng;
use tidings_api::{Discovery, Error, ErrorKind, Health, InstanceKey, Removal, View};

use crate::bed::{Bed, Node, Recordings, ensure};
use crate::case::Outcome;
use crate::sample::{self, WEB, number_in, shown, web};

/// Rounds of overlapping calls, and calls in each.
const ROUNDS: usize = 8;
const CALLS: usize = 24;
/// After so many polls and fewer, calls are given up.
const POLLS_MAX: usize = 6;

pub(super) async fn reg_8_calls_take_effect_in_call_order(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let mut rng = bed.rng();
    for round in 0..ROUNDS {
        let key = sample::key(WEB, &format!("web-{round}"));
        let script = script(&mut rng);
        let mut model = None;
        let expected: Vec<Answer> = script
            .iter()
            .map(|call| call.expected(&mut model))
            .collect();

        // Polled once each in this order, which is the call order; then awaited in any order.
        let mut answers: Vec<Option<Answer>> = script.iter().map(|_| None).collect();
        let mut waiting = Vec::new();
        for (at, call) in script.iter().enumerate() {
            let mut running = call.run(a.discovery().clone(), key.clone());
            match poll_once(running.as_mut()).await {
                Poll::Ready(answer) => answers[at] = Some(answer),
                Poll::Pending => waiting.push((at, running)),
            }
        }
        rng.shuffle(&mut waiting);
        for (at, running) in waiting {
            answers[at] = Some(bed.within("a call", bed.recovery(), running).await?);
        }
        let answers: Vec<Answer> = answers.into_iter().flatten().collect();
        ensure!(
            bed,
            answers == expected,
            "the calls {script:?} answered {answers:?} instead of {expected:?}"
        );
        let is_last = |view: &View| content(view, &key) == model;
        let own = a.watch(WEB).await?.view();
        ensure!(
            bed,
            is_last(&own),
            "after the calls {script:?} the view is not at {model:?}: {}",
            shown(&own)
        );
        let limit = bed.limit(a.bounds().visible.max(a.bounds().removed));
        seen.wait(&format!("the last of {script:?} has won"), limit, is_last)
            .await?;
    }
    bed.marker(&a, &seen).await
}

pub(super) async fn reg_8_a_dropped_call_leaves_the_old_or_the_new_state(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    for polls in 0..POLLS_MAX {
        a.register(web(&format!("again-{polls}"), 1)).await?;
        a.register(web(&format!("away-{polls}"), 1)).await?;
    }
    bed.marker(&a, &seen).await?;
    let before = seen.mark();
    let mut known = Vec::new();
    for polls in 0..POLLS_MAX {
        let again = web(&format!("again-{polls}"), 2);
        let away = sample::key(WEB, &format!("away-{polls}"));
        let new = web(&format!("new-{polls}"), 1);
        let (again_key, new_key) = (again.key().clone(), new.key().clone());
        let given_up = give_up(polls, a.discovery().register(again)).await;
        known.push((again_key, given_up.leaves(Some(1), Some(2))));
        let given_up = give_up(polls, a.discovery().deregister(&away)).await;
        known.push((away, given_up.leaves(Some(1), None)));
        let given_up = give_up(polls, a.discovery().register(new)).await;
        known.push((new_key, given_up.leaves(None, Some(1))));
    }
    agree(bed, &a, &seen, &known).await?;
    let again = |id: &str| id.starts_with("again");
    for (recording, mark) in seen.since(&before) {
        for change in recording.changes(mark) {
            let gone = matches!(change, tidings_api::Change::Removed(_));
            let third = gone && again(change.key().id().as_str());
            ensure!(bed, !third, "{} left: neither old nor new", change.key());
        }
    }
    // What was given up must not come after what is called now.
    for (key, _) in &known {
        a.register(web(key.id().as_str(), 3)).await?;
    }
    let settled = |view: &View| {
        known
            .iter()
            .all(|(key, _)| number_in(view, key.id().as_str()) == Some(3))
    };
    seen.wait(
        "the calls after the dropped ones have won",
        bed.recovery(),
        settled,
    )
    .await?;
    let after = seen.mark();
    bed.marker(&a, &seen).await?;
    seen.expect(&after, &[])
}

/// Waits until all handles show the same old or new state, and the owner's status fits it.
async fn agree(
    bed: &Bed,
    owner: &Node<'_>,
    seen: &Recordings<'_>,
    known: &[(InstanceKey, Vec<Option<usize>>)],
) -> Outcome {
    bed.marker(owner, seen).await?;
    for (key, states) in known {
        let what = format!("{key} is in one of the states {states:?} everywhere");
        let one_state = || {
            let id = key.id().as_str();
            let shown: Vec<_> = seen
                .iter()
                .map(|each| number_in(&each.view(), id))
                .collect();
            let held = owner.registration(key).is_some();
            let same = shown
                .iter()
                .all(|state| *state == shown[0] && states.contains(state));
            let seen = format!("shown as {shown:?}, held by its owner: {held}");
            (same && held == shown[0].is_some())
                .then_some(())
                .ok_or(seen)
        };
        bed.eventually(&what, bed.recovery(), one_state).await?;
    }
    Ok(())
}

/// One call, and what it answered.
#[derive(Clone, Copy, Debug)]
enum Call {
    Register(usize),
    Deregister,
    Health(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Removal(Removal),
    NotOwned,
    Failed(ErrorKind),
}

/// Number and health note of an instance, where there is one.
type Content = Option<(usize, Option<String>)>;

impl Call {
    fn run(
        self,
        discovery: Arc<dyn Discovery>,
        key: InstanceKey,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        Box::pin(async move {
            let answer = match self {
                Self::Register(number) => {
                    let instance = web(key.id().as_str(), number);
                    discovery.register(instance).await.map(|_| Answer::Done)
                }
                Self::Deregister => discovery.deregister(&key).await.map(Answer::Removal),
                Self::Health(number) => {
                    let health = Health::warning(number.to_string());
                    discovery.health(&key, health).await.map(|()| Answer::Done)
                }
            };
            answer.unwrap_or_else(|error: Error| match error.kind() {
                ErrorKind::NotOwned => Answer::NotOwned,
                kind => Answer::Failed(kind),
            })
        })
    }

    /// What the call must answer when all before it have taken effect.
    fn expected(self, content: &mut Content) -> Answer {
        match (self, content.take()) {
            (Self::Register(number), last) => {
                *content = Some((number, last.and_then(|(_, note)| note)));
                Answer::Done
            }
            (Self::Deregister, None) => Answer::Removal(Removal::Absent),
            (Self::Deregister, Some(_)) => Answer::Removal(Removal::Removed),
            (Self::Health(_), None) => Answer::NotOwned,
            (Self::Health(note), Some((number, _))) => {
                *content = Some((number, Some(note.to_string())));
                Answer::Done
            }
        }
    }
}

fn script(rng: &mut Rng) -> Vec<Call> {
    let call = |number| match rng.u8(..8) {
        0..4 => Call::Register(number),
        4..6 => Call::Deregister,
        _ => Call::Health(number),
    };
    (0..CALLS).map(call).collect()
}

fn content(view: &View, key: &InstanceKey) -> Content {
    let found = view.get(key)?;
    let note = found.health().note().map(str::to_owned);
    Some((sample::number(found)?, note))
}

async fn poll_once<T>(mut future: Pin<&mut (dyn Future<Output = T> + Send + '_)>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// How far a call came that was given up.
enum GivenUp {
    /// It was never polled, so that nothing was asked for.
    Unheard,
    HalfWay,
    /// It had answered before.
    Done,
}

impl GivenUp {
    /// The states it may leave behind.
    fn leaves(self, old: Option<usize>, new: Option<usize>) -> Vec<Option<usize>> {
        match self {
            Self::Unheard => vec![old],
            Self::HalfWay => vec![old, new],
            Self::Done => vec![new],
        }
    }
}

/// Polls a call so many times, letting the backend work in between, and drops it.
async fn give_up<T>(polls: usize, call: impl Future<Output = T> + Send) -> GivenUp {
    let mut call = Box::pin(call);
    for _ in 0..polls {
        if poll_once(call.as_mut()).await.is_ready() {
            return GivenUp::Done;
        }
        tokio::task::yield_now().await;
    }
    if polls == 0 {
        GivenUp::Unheard
    } else {
        GivenUp::HalfWay
    }
}
