//! One watch for all nodes of a handle in one service.
//!
//! An owner that has a node or two in a service watches each by itself. That is a request a
//! registration and a watch a node; from [`SHARED_MIN`] on, one persistent recursive watch on the
//! service's node is cheaper for both sides, though it reports what happens to the nodes of others
//! as well.
//!
//! It reports what this handle does, too, and does not say who did it. So who has a [`Seat`] says
//! beforehand what it is about to cause; any other report on its node is somebody else's doing, or
//! may be. Over one connection requests, reports and answers keep their order: a write that is sent
//! after the watch was asked for is reported, before it is answered. A write whose report does not
//! come within [`REPORT_TIME_MAX`] shows that the watch is not to be relied on: the node is looked
//! at, and gets one of its own. No node is unguarded for longer than that.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidings_api::ServiceName;
use tokio::sync::Notify;
use zookeeper_client as zk;

use crate::session::Link;
use crate::{Shared, Watches};

/// Registrations in one service from which on they share a watch. With fewer, the reports on the
/// nodes of others could be more than what is saved.
const SHARED_MIN: usize = 16;
/// How long the report of an own write may be late. It is sent before the answer.
const REPORT_TIME_MAX: Duration = Duration::from_secs(1);
/// How often a watch that nobody uses is looked for.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);

/// The shared watches of a handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guards(Arc<Mutex<HashMap<ServiceName, Guard>>>);

/// The watch of one service over one connection.
#[derive(Debug)]
struct Guard {
    /// The connection.
    number: u64,
    state: State,
    seats: HashMap<Arc<str>, Arc<Reports>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is not asked for yet.
    Starting,
    /// The request for it is sent: what is sent now is covered by it, unless it is refused.
    Asked,
    /// There is none on this connection.
    Refused,
}

/// A place under the watch, for one node, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    guards: Guards,
    service: ServiceName,
    path: Arc<str>,
    reports: Arc<Reports>,
}

/// What the watch says of one node.
#[derive(Debug, Default)]
struct Reports {
    heard: Mutex<Heard>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Heard {
    /// What this handle has caused, or is about to, and was not reported yet.
    expected: VecDeque<zk::EventType>,
    /// Whether there was a report that was not expected.
    touched: bool,
}

/// Why a node has to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// Somebody else may have changed it, or the watch is no more.
    Touched,
    /// An own change was not reported.
    Deaf,
}

impl Guards {
    /// A place under the watch of a service, where there is one; from [`SHARED_MIN`] registrations
    /// on it is asked for.
    pub(super) fn seat(
        &self,
        shared: &Arc<Shared>,
        link: &Link,
        service: &ServiceName,
        path: &Arc<str>,
    ) -> Option<Seat> {
        if shared.kind_of_watches() == Watches::Oneshot {
            return None;
        }
        let mut guards = self.lock();
        if let Some(guard) = guards.get_mut(service)
            && guard.number >= link.number()
        {
            let usable = guard.number == link.number() && guard.state == State::Asked;
            return usable.then(|| {
                let reports = Arc::<Reports>::default();
                guard.seats.insert(path.clone(), reports.clone());
                Seat {
                    guards: self.clone(),
                    service: service.clone(),
                    path: path.clone(),
                    reports,
                }
            });
        }
        if shared.registrations.count(service) >= SHARED_MIN {
            let guarding = keep(shared.clone(), link.clone(), service.clone());
            // An error means that the handle is closed.
            if shared.tasks.spawn(guarding).is_ok() {
                guards.insert(service.clone(), Guard::new(link.number()));
            }
        }
        None
    }

    /// Goes without the watch until the next connection.
    pub(super) fn refuse(&self, service: &ServiceName, number: u64) {
        self.with(service, number, |guard| {
            guard.state = State::Refused;
            guard.leave();
        });
    }

    fn asked(&self, service: &ServiceName, number: u64) {
        self.with(service, number, |guard| guard.state = State::Asked);
    }

    fn report(&self, service: &ServiceName, number: u64, event: &zk::WatchedEvent) {
        self.with(service, number, |guard| {
            if let Some(reports) = guard.seats.get(&*event.path) {
                reports.hear(event.event_type);
            }
        });
    }

    /// Whether there is no use for the watch any more, which it is forgotten for.
    fn is_idle(&self, service: &ServiceName, number: u64) -> bool {
        let mut guards = self.lock();
        let used = |guard: &Guard| {
            guard.number == number && guard.state == State::Asked && !guard.seats.is_empty()
        };
        match guards.get(service) {
            Some(guard) if used(guard) => return false,
            Some(guard) if guard.number == number && guard.state == State::Asked => {
                guards.remove(service);
            }
            _ => {}
        }
        true
    }

    /// The watch is no more.
    fn end(&self, service: &ServiceName, number: u64) {
        let mut guards = self.lock();
        if let Some(guard) = guards.get_mut(service)
            && guard.number == number
        {
            guard.leave();
            // That there is none is remembered for as long as the connection lasts.
            if guard.state != State::Refused {
                guards.remove(service);
            }
        }
    }

    fn with(&self, service: &ServiceName, number: u64, change: impl FnOnce(&mut Guard)) {
        let mut guards = self.lock();
        if let Some(guard) = guards.get_mut(service)
            && guard.number == number
        {
            change(guard);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceName, Guard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the watch of a service, for as long as the connection lasts and somebody uses it.
async fn keep(shared: Arc<Shared>, link: Link, service: ServiceName) {
    let guards = &shared.registrations.guards;
    let (path, number) = (shared.keys.service(&service), link.number());
    // Sent at once: whatever is sent after `asked` comes after it.
    let watch = link
        .client()
        .watch(&path, zk::AddWatchMode::PersistentRecursive);
    guards.asked(&service, number);
    let mut watcher = match link.call(watch).await {
        Ok(watcher) => watcher,
        Err(failure) => {
            if failure.is_unknown_request() {
                shared.know_as_old();
            }
            tracing::debug!(%service, ?failure, "no shared watch: each node gets its own");
            return guards.refuse(&service, number);
        }
    };
    let mut idle = tokio::time::interval(IDLE_INTERVAL);
    idle.reset();
    loop {
        tokio::select! {
            event = watcher.changed() => match event.event_type {
                // What happens to the connection ends what the watch says; after the end of the
                // session even asking it is an error.
                zk::EventType::Session => break,
                _ => guards.report(&service, number, &event),
            },
            () = shared.line.lost(&link) => break,
            _ = idle.tick() => {
                if guards.is_idle(&service, number) {
                    break;
                }
            }
        }
    }
    guards.end(&service, number);
}

impl Guard {
    fn new(number: u64) -> Self {
        Self {
            number,
            state: State::Starting,
            seats: HashMap::new(),
        }
    }

    /// Nobody is watched over any more.
    fn leave(&mut self) {
        for (_, reports) in self.seats.drain() {
            reports.touch();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Seat {
    /// Says what is about to be caused, before it is.
    pub(super) fn expect(&self, reports: impl IntoIterator<Item = zk::EventType>) {
        self.reports.lock().expected.extend(reports);
    }

    /// Waits for something that was not expected, or does not come. Cancel-safe.
    pub(super) async fn alarm(&self) -> Alarm {
        let mut late = false;
        loop {
            let awaited = {
                let heard = self.reports.lock();
                if heard.touched {
                    return Alarm::Touched;
                }
                !heard.expected.is_empty()
            };
            if awaited && late {
                return Alarm::Deaf;
            }
            let changed = self.reports.changed.notified();
            if awaited {
                late = tokio::time::timeout(REPORT_TIME_MAX, changed)
                    .await
                    .is_err();
            } else {
                changed.await;
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut guards = self.guards.lock();
        let Some(guard) = guards.get_mut(&self.service) else {
            return;
        };
        // The next worker of this key may have its own already.
        let taken = guard.seats.get(&self.path);
        if taken.is_some_and(|taken| Arc::ptr_eq(taken, &self.reports)) {
            guard.seats.remove(&self.path);
        }
    }
}

impl Reports {
    fn hear(&self, event: zk::EventType) {
        let mut heard = self.lock();
        if heard.expected.front() == Some(&event) {
            heard.expected.pop_front();
        } else {
            drop(heard);
            self.touch();
        }
    }

    fn touch(&self) {
        self.lock().touched = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use zk::EventType::{NodeCreated, NodeDataChanged, NodeDeleted};

    use super::*;

    fn seat() -> Seat {
        Seat {
            guards: Guards::default(),
            service: "web".parse().unwrap(),
            path: "/services/web/a".into(),
            reports: Arc::default(),
        }
    }

    #[tokio::test]
    async fn what_was_expected_is_no_alarm_and_anything_else_is() {
        let sequences: [(&[_], &[_], bool); 8] = [
            (&[NodeCreated], &[NodeCreated], false),
            (
                &[NodeCreated, NodeDataChanged],
                &[NodeCreated, NodeDataChanged],
                false,
            ),
            (
                &[NodeDeleted, NodeCreated],
                &[NodeDeleted, NodeCreated],
                false,
            ),
            // Somebody else's node came and went before ours, and the other way round.
            (
                &[NodeCreated],
                &[NodeCreated, NodeDeleted, NodeCreated],
                true,
            ),
            (&[NodeCreated], &[NodeCreated, NodeDeleted], true),
            (&[NodeCreated], &[NodeCreated, NodeDataChanged], true),
            (&[NodeCreated], &[NodeDeleted], true),
            (&[], &[NodeDataChanged], true),
        ];
        for (expected, reported, alarm) in sequences {
            let seat = seat();
            seat.expect(expected.iter().copied());
            for event in reported {
                seat.reports.hear(*event);
            }
            let raised = seat.alarm().now_or_never();
            let wanted = alarm.then_some(Alarm::Touched);
            assert_eq!(raised, wanted, "{expected:?} and {reported:?}");
        }
    }

    #[tokio::test]
    async fn an_own_change_that_is_not_reported_is_an_alarm() {
        let deaf = seat();
        deaf.expect([NodeCreated]);
        assert_eq!(deaf.alarm().await, Alarm::Deaf);

        let late = seat();
        late.expect([NodeCreated]);
        let (alarm, ()) = tokio::join!(late.alarm(), async {
            tokio::task::yield_now().await;
            late.reports.hear(NodeCreated);
            // Longer than it may take, and nothing is amiss any more.
            tokio::time::sleep(REPORT_TIME_MAX * 2).await;
            late.reports.hear(NodeDeleted);
        });
        assert_eq!(alarm, Alarm::Touched);
    }

    #[test]
    fn an_older_seat_leaves_the_newer_one_in_its_place() {
        let guards = Guards::default();
        let service: ServiceName = "web".parse().unwrap();
        let mut guard = Guard::new(1);
        let sit = |guard: &mut Guard| {
            let reports = Arc::<Reports>::default();
            let path: Arc<str> = "/services/web/a".into();
            guard.seats.insert(path.clone(), reports.clone());
            Seat {
                guards: guards.clone(),
                service: service.clone(),
                path,
                reports,
            }
        };
        let (older, newer) = (sit(&mut guard), sit(&mut guard));
        guards.lock().insert(service.clone(), guard);
        drop(older);
        assert_eq!(guards.lock()[&service].seats.len(), 1);
        drop(newer);
        assert!(guards.lock()[&service].seats.is_empty());
    }
}
