//! Who sees what: nodes report here, and the runner waits here.
//!
//! Reports are stamped and counted where they happen, under one short lock. So the runner sleeps
//! until what it waits for is complete, nothing is polled, and an idle cluster costs nothing but
//! itself. The table is allocated, and touched, before the memory of the first node is counted.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

/// Stands for a node that was where it should get to before the wait; it is no measurement.
const THERE_BEFORE: Duration = Duration::ZERO;

/// The picture that all nodes have of all nodes.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
    complete: Notify,
}

/// What the runner waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// Every running node sees every other.
    Everyone,
    /// No running node sees this one.
    Gone(usize),
    /// All running nodes but this one see this value, or a later one, of it.
    Value(usize, u64),
}

/// How waiting ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// When each node that got there did, after the start of the wait, in ascending order; for
    /// [`Goal::Everyone`] once, when the last pair was complete.
    pub(crate) times: Vec<Duration>,
    /// How many nodes, or pairs for [`Goal::Everyone`], did not get there.
    pub(crate) missed: usize,
}

/// Reports of running nodes that other running nodes are gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct FalseDowns {
    pub(crate) reports: usize,
    /// Whom they are about, each once.
    pub(crate) nodes: usize,
}

#[derive(Debug)]
struct State {
    capacity: usize,
    /// Row: who sees; column: whom; 1 where it does.
    sees: Vec<u8>,
    running: Vec<bool>,
    accused: Vec<bool>,
    false_reports: usize,
    wait: Option<Wait>,
}

#[derive(Debug)]
struct Wait {
    goal: Goal,
    start: Instant,
    /// When each node got there, by number.
    reached: Vec<Option<Duration>>,
    /// What is open: nodes, or pairs.
    left: usize,
    /// When the last pair was complete.
    last: Duration,
}

impl Board {
    /// A board for nodes with numbers below `capacity`.
    pub(crate) fn new(capacity: usize) -> Self {
        // Ones first: zeroed memory would be the kernel's to give at first use, and be counted as
        // the subject's.
        let mut sees = vec![1; capacity * capacity];
        sees.fill(0);
        Self {
            state: Mutex::new(State {
                capacity,
                sees,
                running: vec![false; capacity],
                accused: vec![false; capacity],
                false_reports: 0,
                wait: None,
            }),
            complete: Notify::new(),
        }
    }

    /// `observer` sees `subject` as alive from now on.
    pub(crate) fn up(&self, observer: usize, subject: usize) {
        self.report(observer, subject, true);
    }

    /// `observer` takes `subject` for gone from now on.
    pub(crate) fn down(&self, observer: usize, subject: usize) {
        self.report(observer, subject, false);
    }

    /// `observer` sees this value of `subject`.
    pub(crate) fn value(&self, observer: usize, subject: usize, value: u64) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.reports(observer, subject)
            && let Some(wait) = &mut state.wait
            && matches!(wait.goal, Goal::Value(s, v) if s == subject && v <= value)
            && wait.reach(observer, now)
        {
            self.complete.notify_one();
        }
    }

    /// Counts the node among the running ones; before it starts.
    pub(crate) fn enter(&self, number: usize) {
        self.lock().running[number] = true;
    }

    /// Takes the node out of the running ones; before it ends.
    pub(crate) fn exit(&self, number: usize) {
        self.lock().running[number] = false;
    }

    /// Starts to wait; what follows is measured from here. Waits of which one has begun before
    /// are forgotten.
    pub(crate) fn expect(&self, goal: Goal) -> Instant {
        let mut state = self.lock();
        let start = Instant::now();
        let mut reached = vec![None; state.capacity];
        let left = match goal {
            Goal::Everyone => state.missing_pairs(),
            Goal::Gone(subject) => {
                for (observer, _) in state.watchers(subject).filter(|(_, sees)| !sees) {
                    reached[observer] = Some(THERE_BEFORE);
                }
                state.watchers(subject).filter(|(_, sees)| *sees).count()
            }
            Goal::Value(subject, _) => state.watchers(subject).count(),
        };
        state.wait = Some(Wait {
            goal,
            start,
            reached,
            left,
            last: Duration::ZERO,
        });
        start
    }

    /// Waits until what is expected is complete, or `limit` has passed since it was expected.
    pub(crate) async fn reached(&self, limit: Duration) -> Outcome {
        let start = self.lock().wait.as_ref().map(|wait| wait.start);
        let deadline = start.unwrap_or_else(Instant::now) + limit;
        loop {
            if self.lock().wait.as_ref().is_none_or(|wait| wait.left == 0) {
                break;
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if timeout(rest, self.complete.notified()).await.is_err() {
                break;
            }
        }
        let wait = self.lock().wait.take();
        wait.map_or_else(
            || Outcome {
                times: Vec::new(),
                missed: 0,
            },
            Wait::outcome,
        )
    }

    /// Takes what was reported falsely since the last call.
    pub(crate) fn take_false_downs(&self) -> FalseDowns {
        let mut state = self.lock();
        let nodes = state.accused.iter().filter(|accused| **accused).count();
        state.accused.fill(false);
        FalseDowns {
            reports: std::mem::take(&mut state.false_reports),
            nodes,
        }
    }

    /// How many running others `observer` sees, by its reports.
    pub(crate) fn seen_by(&self, observer: usize) -> Vec<usize> {
        let state = self.lock();
        let others =
            (0..state.capacity).filter(|other| state.running[*other] && *other != observer);
        others
            .filter(|other| state.sees(observer, *other))
            .collect()
    }

    fn report(&self, observer: usize, subject: usize, alive: bool) {
        let now = Instant::now();
        let mut state = self.lock();
        if !state.reports(observer, subject) || state.sees(observer, subject) == alive {
            return;
        }
        let at = observer * state.capacity + subject;
        state.sees[at] = u8::from(alive);
        let both_run = state.running[subject];
        if both_run && !alive {
            state.false_reports += 1;
            state.accused[subject] = true;
        }
        let Some(wait) = &mut state.wait else { return };
        let done = match wait.goal {
            Goal::Everyone => both_run && wait.pair(alive, now),
            Goal::Gone(s) if s == subject && alive => wait.withdraw(observer),
            Goal::Gone(s) if s == subject => wait.reach(observer, now),
            Goal::Gone(_) | Goal::Value(..) => false,
        };
        if done {
            self.complete.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a report counts: nodes that have ended may still be heard, and see themselves.
    fn reports(&self, observer: usize, subject: usize) -> bool {
        observer != subject
            && subject < self.capacity
            && self.running.get(observer).is_some_and(|running| *running)
    }

    fn sees(&self, observer: usize, subject: usize) -> bool {
        self.sees[observer * self.capacity + subject] == 1
    }

    /// The running nodes other than `subject`, and whether they see it.
    fn watchers(&self, subject: usize) -> impl Iterator<Item = (usize, bool)> {
        (0..self.capacity)
            .filter(move |observer| self.running[*observer] && *observer != subject)
            .map(move |observer| (observer, self.sees(observer, subject)))
    }

    fn missing_pairs(&self) -> usize {
        (0..self.capacity)
            .filter(|subject| self.running[*subject])
            .map(|subject| self.watchers(subject).filter(|(_, sees)| !sees).count())
            .sum()
    }
}

impl Wait {
    /// A node got there; answers whether all have.
    fn reach(&mut self, observer: usize, now: Instant) -> bool {
        let reached = &mut self.reached[observer];
        if reached.is_none() {
            *reached = Some(now.saturating_duration_since(self.start));
            self.left = self.left.saturating_sub(1);
        }
        self.left == 0
    }

    /// A node that got there is back where it was.
    fn withdraw(&mut self, observer: usize) -> bool {
        if self.reached[observer].take().is_some() {
            self.left += 1;
        }
        false
    }

    /// A pair was completed or broken; answers whether all are complete.
    fn pair(&mut self, complete: bool, now: Instant) -> bool {
        if complete {
            self.left = self.left.saturating_sub(1);
            self.last = now.saturating_duration_since(self.start);
        } else {
            self.left += 1;
        }
        self.left == 0
    }

    fn outcome(self) -> Outcome {
        let mut times: Vec<_> = match self.goal {
            Goal::Everyone if self.left == 0 => vec![self.last],
            Goal::Everyone => Vec::new(),
            Goal::Gone(_) | Goal::Value(..) => {
                let reached = self.reached.into_iter().flatten();
                reached.filter(|time| *time != THERE_BEFORE).collect()
            }
        };
        times.sort_unstable();
        Outcome {
            times,
            missed: self.left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::from_millis(20);

    fn board(running: usize) -> Board {
        let board = Board::new(8);
        for number in 0..running {
            board.enter(number);
        }
        board
    }

    fn complete(board: &Board, running: usize) {
        for observer in 0..running {
            for subject in 0..running {
                board.up(observer, subject);
            }
        }
    }

    #[tokio::test]
    async fn everyone_is_reached_once_the_last_pair_is_complete() {
        let board = board(3);
        board.expect(Goal::Everyone);
        complete(&board, 3);
        let outcome = board.reached(AT_ONCE).await;
        assert_eq!((outcome.times.len(), outcome.missed), (1, 0));

        board.down(1, 2);
        board.expect(Goal::Everyone);
        let outcome = board.reached(AT_ONCE).await;
        assert_eq!((outcome.times.len(), outcome.missed), (0, 1));
    }

    #[tokio::test]
    async fn who_sees_the_gone_again_is_not_there_yet() {
        let board = board(4);
        complete(&board, 4);
        board.down(1, 3);
        board.exit(3);
        board.expect(Goal::Gone(3));
        board.down(0, 3);
        board.up(1, 3);
        board.down(2, 3);
        let outcome = board.reached(AT_ONCE).await;
        assert_eq!((outcome.times.len(), outcome.missed), (2, 1));
    }

    #[tokio::test]
    async fn a_later_value_counts_and_an_earlier_one_does_not() {
        let board = board(3);
        board.expect(Goal::Value(0, 5));
        board.value(1, 0, 4);
        board.value(2, 0, 6);
        let outcome = board.reached(AT_ONCE).await;
        assert_eq!((outcome.times.len(), outcome.missed), (1, 1));
    }

    #[tokio::test]
    async fn only_running_nodes_are_reported_falsely() {
        let board = board(3);
        complete(&board, 3);
        board.exit(2);
        board.down(0, 2);
        assert_eq!(board.take_false_downs().reports, 0);
        board.down(0, 1);
        board.up(0, 1);
        board.down(0, 1);
        let falsely = board.take_false_downs();
        assert_eq!((falsely.reports, falsely.nodes), (2, 1));
        assert_eq!(board.take_false_downs().reports, 0);
    }
}
