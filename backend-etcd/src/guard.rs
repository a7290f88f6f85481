//! A watch on own keys: how an owner learns that etcd, or somebody else, changed them.
//!
//! One stream with one watch a key, so that an owner hears of its own keys only, however many
//! instances its service has. The guard keeps no state that it would have to restore: when the
//! stream ends it tells all, and each registration looks at its key and arms its watch anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{
    EventType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream,
};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::client::{Link, Route};
use crate::error::Fault;

/// How often watches are made and ended.
const BATCH_INTERVAL: Duration = Duration::from_millis(100);

/// What happened to a key.
#[derive(Debug)]
pub(crate) enum GuardEvent {
    /// It was written.
    Put {
        revision: i64,
        lease: i64,
        value: Vec<u8>,
    },
    /// It was deleted.
    Deleted { revision: i64 },
    /// From now on nothing is heard of it.
    Broken,
}

/// Tells one watch from the others; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WatchId(i64);

/// The side of the registrations.
pub(crate) struct Guard {
    orders: mpsc::UnboundedSender<Order>,
}

/// The side of the task.
pub(crate) struct GuardTask {
    link: Arc<Link>,
    orders: mpsc::UnboundedReceiver<Order>,
    watches: Watches,
}

enum Order {
    Arm(WatchId, Watch),
    Disarm(WatchId),
}

struct Watch {
    key: Vec<u8>,
    from_revision: i64,
    inbox: mpsc::UnboundedSender<GuardEvent>,
}

type Inboxes = HashMap<WatchId, mpsc::UnboundedSender<GuardEvent>>;

#[derive(Default)]
struct Watches(Mutex<Inboxes>);

impl Guard {
    pub(crate) fn new(link: Arc<Link>) -> (Self, GuardTask) {
        let (sender, orders) = mpsc::unbounded_channel();
        let task = GuardTask {
            link,
            orders,
            watches: Watches::default(),
        };
        (Self { orders: sender }, task)
    }

    /// Watches `key` from a revision on, until [`GuardEvent::Broken`] or [`disarm`](Self::disarm).
    pub(crate) fn arm(
        &self,
        key: Vec<u8>,
        from_revision: i64,
        inbox: mpsc::UnboundedSender<GuardEvent>,
    ) -> WatchId {
        let id = WatchId(fastrand::i64(1..));
        let watch = Watch {
            key,
            from_revision,
            inbox,
        };
        // The task has ended only when the handle has.
        let _ = self.orders.send(Order::Arm(id, watch));
        id
    }

    pub(crate) fn disarm(&self, id: WatchId) {
        let _ = self.orders.send(Order::Disarm(id));
    }
}

impl GuardTask {
    /// Watches, for ever.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        while let Some(order) = self.orders.recv().await {
            let Order::Arm(id, watch) = order else {
                continue;
            };
            let before = self.link.route();
            self.link.connected().await;
            let route = self.link.route();
            if route != before {
                // What it was to start from may be of another time.
                let _ = watch.inbox.send(GuardEvent::Broken);
                continue;
            }
            let fault = match self.open(route, id, watch).await {
                Ok((sender, receiver)) => {
                    backoff.reset();
                    self.serve(route, sender, receiver).await
                }
                Err(fault) => fault,
            };
            tracing::debug!(error = %fault.to_error(), "the watch on own keys ended");
            self.break_all();
            self.link.stream_failed(route, &fault).await;
            sleep(backoff.next()).await;
        }
    }

    /// Breaks what was watched, and what was ordered until now: an etcd that has lost its data counts
    /// anew, and what was to start at an older revision would hear nothing.
    fn break_all(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            Batch::default().add(order, &self.watches);
        }
        self.watches.break_all();
    }

    async fn open(
        &self,
        route: Route,
        id: WatchId,
        watch: Watch,
    ) -> Result<(WatchRequestSender, WatchResponseStream), Fault> {
        self.watches.lock().insert(id, watch.inbox);
        let opened = timeout(self.link.timing().answer, async {
            let client = self.link.client(route).await?;
            let mut watches = client.watch_client().max_decoding_message_size(usize::MAX);
            let options = options(id, watch.from_revision);
            watches
                .watch(watch.key, Some(options))
                .await
                .map_err(Fault::from)
        });
        let stream = opened.await.unwrap_or_else(|_| Err(Fault::no_answer()))?;
        Ok(stream.split())
    }

    /// Serves one stream until it ends. Sending and receiving go on beside each other: a server
    /// that waits for one of them must not block the other.
    async fn serve(
        &mut self,
        route: Route,
        sender: WatchRequestSender,
        receiver: WatchResponseStream,
    ) -> Fault {
        tokio::select! {
            fault = send(&mut self.orders, sender, &self.watches) => fault,
            fault = receive(receiver, &self.watches) => fault,
            () = self.link.left(route) => Fault::ended(),
        }
    }
}

impl Watches {
    fn lock(&self) -> MutexGuard<'_, Inboxes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn break_one(&self, id: WatchId) {
        if let Some(inbox) = self.lock().remove(&id) {
            let _ = inbox.send(GuardEvent::Broken);
        }
    }

    fn break_all(&self) {
        for (_, inbox) in self.lock().drain() {
            let _ = inbox.send(GuardEvent::Broken);
        }
    }
}

/// Sends what is ordered, in batches: nobody waits for it, as a watch tells of what happened before
/// it was made as well, and etcd has the less to do the more watches start together.
async fn send(
    orders: &mut mpsc::UnboundedReceiver<Order>,
    mut sender: WatchRequestSender,
    watches: &Watches,
) -> Fault {
    while let Some(first) = orders.recv().await {
        // Nothing is awaited until all that was received is among the watches, so that a stream
        // which ends meanwhile breaks it too.
        let mut batch = Batch::default();
        batch.add(first, watches);
        while let Ok(next) = orders.try_recv() {
            batch.add(next, watches);
        }
        if let Err(error) = batch.send(&mut sender).await {
            return error.into();
        }
        sleep(BATCH_INTERVAL).await;
    }
    // The handle is gone, and this task with it in a moment.
    std::future::pending().await
}

/// What is sent at once. What is disarmed before it was sent is never sent.
#[derive(Default)]
struct Batch {
    arm: HashMap<WatchId, (Vec<u8>, i64)>,
    disarm: Vec<WatchId>,
}

impl Batch {
    fn add(&mut self, order: Order, watches: &Watches) {
        match order {
            Order::Arm(id, watch) => {
                watches.lock().insert(id, watch.inbox);
                self.arm.insert(id, (watch.key, watch.from_revision));
            }
            Order::Disarm(id) => {
                let is_watched = watches.lock().remove(&id).is_some();
                if self.arm.remove(&id).is_none() && is_watched {
                    self.disarm.push(id);
                }
            }
        }
    }

    async fn send(self, sender: &mut WatchRequestSender) -> Result<(), etcd_client::Error> {
        for id in self.disarm {
            sender.cancel(id.0).await?;
        }
        for (id, (key, from_revision)) in self.arm {
            let options = options(id, from_revision);
            sender.watch(key, Some(options)).await?;
        }
        Ok(())
    }
}

async fn receive(mut receiver: WatchResponseStream, watches: &Watches) -> Fault {
    loop {
        let response = match receiver.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Fault::ended(),
            Err(error) => return error.into(),
        };
        let id = WatchId(response.watch_id());
        if !response.canceled() {
            forward(&response, id, watches);
        } else if watches.lock().contains_key(&id) {
            watches.break_one(id);
        } else if response.watch_id() < 0 {
            // Refused, and not told which.
            return Fault::canceled(response.compact_revision(), response.cancel_reason());
        }
    }
}

fn forward(response: &WatchResponse, id: WatchId, watches: &Watches) {
    let watches = watches.lock();
    let Some(inbox) = watches.get(&id) else {
        return;
    };
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        let revision = kv.mod_revision();
        // A registration that has ended disarms its watch.
        let _ = inbox.send(match event.event_type() {
            EventType::Put => GuardEvent::Put {
                revision,
                lease: kv.lease(),
                value: kv.value().to_vec(),
            },
            EventType::Delete => GuardEvent::Deleted { revision },
        });
    }
}

fn options(id: WatchId, from_revision: i64) -> WatchOptions {
    WatchOptions::new()
        .with_watch_id(id.0)
        .with_start_revision(from_revision)
        .with_fragment()
}
