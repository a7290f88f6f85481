//! Writes of registrations: a lone one at once, and many together when there are many.
//!
//! Each write is on condition that its key is as its owner knows it. While transactions are under
//! way, writes gather, and the next transaction takes all of them: etcd then logs and syncs once for
//! dozens of registrations, which matters when a program starts, or when its leases were lost. The
//! conditions of such a transaction hold for all or for none, so when it is refused, for whatever
//! reason, each of its writes is made alone and gets an answer of its own: registrations don't share
//! fate. Transactions aren't nested for that, as there are servers that don't check permissions
//! within nested ones.

use std::collections::VecDeque;
use std::sync::Arc;

use etcd_client::{
    Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Link;
use crate::error::Fault;

/// Transactions under way at once, beside a lone write. More would gather fewer writes each.
const TRANSACTIONS_MAX: usize = 2;
/// Half of what etcd allows in one transaction by default.
const WRITES_PER_TRANSACTION_MAX: usize = 64;
/// A transaction that has so much already takes no more. With one more of the largest values it is
/// within what etcd takes however it is configured.
const BYTES_PER_TRANSACTION: usize = 128 * 1024;

/// What to do to a key.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Put { value: Vec<u8>, lease: i64 },
    Delete,
}

/// What a write answered.
#[derive(Debug)]
pub(crate) enum Written {
    /// It is written, at this revision.
    At(i64),
    /// Nothing is written: this stands there.
    Found(Option<KeyValue>),
}

/// How a write ended.
pub(crate) struct Answer {
    pub(crate) written: Result<Written, Fault>,
    /// Some try got no answer, and may still arrive.
    pub(crate) is_uncertain: bool,
}

/// The side of the registrations.
pub(crate) struct Writes {
    link: Arc<Link>,
    /// Whoever finds nobody writing does it itself, without a task between.
    alone: Semaphore,
    orders: mpsc::UnboundedSender<Order>,
}

/// The side of the task.
pub(crate) struct WritesTask {
    link: Arc<Link>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// Orders that were refused together with others.
    refused: VecDeque<Order>,
    sending: JoinSet<Vec<Order>>,
}

struct Order {
    key: Vec<u8>,
    /// The revision at which the key was last written, 0 if it isn't there.
    expected: i64,
    write: Write,
    is_uncertain: bool,
    reply: oneshot::Sender<Answer>,
}

impl Writes {
    pub(crate) fn new(link: Arc<Link>) -> (Self, WritesTask) {
        let (sender, orders) = mpsc::unbounded_channel();
        let task = WritesTask {
            link: link.clone(),
            orders,
            refused: VecDeque::new(),
            sending: JoinSet::new(),
        };
        let writes = Self {
            link,
            alone: Semaphore::new(1),
            orders: sender,
        };
        (writes, task)
    }

    /// Does `write` if `key` was last written at revision `expected` (0: if it isn't there), and
    /// reads it otherwise. It may arrive more than once: the second time it only reads.
    pub(crate) async fn write(&self, key: Vec<u8>, expected: i64, write: Write) -> Answer {
        let (reply, answer) = oneshot::channel();
        let order = Order {
            key,
            expected,
            write,
            is_uncertain: false,
            reply,
        };
        if let Ok(_permit) = self.alone.try_acquire() {
            send(&self.link, vec![order]).await;
        } else {
            // The task has ended only when the handle has.
            let _ = self.orders.send(order);
        }
        answer.await.unwrap_or_else(|_| Answer {
            written: Err(Fault::ended()),
            is_uncertain: true,
        })
    }
}

impl WritesTask {
    /// Writes what is ordered, for ever.
    pub(crate) async fn run(mut self) {
        loop {
            while self.has_room()
                && let Some(order) = self.refused.pop_front()
            {
                // Its instance may have been withdrawn since it was refused.
                if !order.reply.is_closed() {
                    self.start(vec![order]);
                }
            }
            tokio::select! {
                biased;
                Some(refused) = self.sending.join_next() => {
                    self.refused.extend(refused.unwrap_or_default());
                }
                first = self.orders.recv(), if self.has_room() => match first {
                    Some(first) => {
                        let orders = self.gather(first);
                        self.start(orders);
                    }
                    None => return,
                },
            }
        }
    }

    fn has_room(&self) -> bool {
        self.sending.len() < TRANSACTIONS_MAX
    }

    /// What is to be sent together: `first`, and what waits behind it.
    fn gather(&mut self, first: Order) -> Vec<Order> {
        let mut bytes = first.bytes();
        let mut gathered = vec![first];
        while gathered.len() < WRITES_PER_TRANSACTION_MAX
            && bytes < BYTES_PER_TRANSACTION
            && let Ok(next) = self.orders.try_recv()
        {
            bytes += next.bytes();
            gathered.push(next);
        }
        // An owner that has dropped a write may have ordered another of the same key since.
        gathered.retain(|order| !order.reply.is_closed());
        gathered
    }

    fn start(&mut self, orders: Vec<Order>) {
        let link = self.link.clone();
        self.sending.spawn(async move { send(&link, orders).await });
    }
}

/// Sends orders in one transaction and answers them; gives back those that have to be sent alone.
async fn send(link: &Link, mut orders: Vec<Order>) -> Vec<Order> {
    if orders.is_empty() {
        return orders;
    }
    let is_alone = orders.len() == 1;
    let mut txn = Txn::new()
        .when(orders.iter().map(Order::condition).collect::<Vec<_>>())
        .and_then(orders.iter().map(Order::operation).collect::<Vec<_>>());
    if is_alone {
        txn = txn.or_else([TxnOp::get(orders[0].key.clone(), None)]);
    }
    let sent = Instant::now();
    let call = link.call(|client| {
        let (mut kv, txn) = (client.kv_client(), txn.clone());
        async move { kv.txn(txn).await }
    });
    let answer = call.await;
    // Some try may have got no answer, though the last one did.
    let is_uncertain =
        sent.elapsed() >= link.timing().answer || matches!(answer, Err(Fault::Unreachable(_)));
    for order in &mut orders {
        order.is_uncertain |= is_uncertain;
    }
    let written = match answer {
        Err(fault @ (Fault::Unreachable(_) | Fault::Busy(_) | Fault::Full(_))) => Err(fault),
        Ok(answer) if answer.succeeded() => {
            let header = answer.header();
            Ok(header.map_or(0, etcd_client::ResponseHeader::revision))
        }
        _ if !is_alone => return orders,
        Ok(answer) => {
            let mut found = Some(found(&answer));
            for order in orders {
                order.answer(Ok(Written::Found(found.take().flatten())));
            }
            return Vec::new();
        }
        Err(fault) => Err(fault),
    };
    for order in orders {
        order.answer(written.clone().map(Written::At));
    }
    Vec::new()
}

impl Order {
    fn condition(&self) -> Compare {
        Compare::mod_revision(self.key.clone(), CompareOp::Equal, self.expected)
    }

    fn operation(&self) -> TxnOp {
        match &self.write {
            Write::Put { value, lease } => {
                let options = PutOptions::new().with_lease(*lease);
                TxnOp::put(self.key.clone(), value.clone(), Some(options))
            }
            Write::Delete => TxnOp::delete(self.key.clone(), None),
        }
    }

    fn bytes(&self) -> usize {
        let value = match &self.write {
            Write::Put { value, .. } => value.len(),
            Write::Delete => 0,
        };
        2 * self.key.len() + value
    }

    fn answer(self, written: Result<Written, Fault>) {
        // Nobody may want it any more.
        let _ = self.reply.send(Answer {
            written,
            is_uncertain: self.is_uncertain,
        });
    }
}

fn found(answer: &TxnResponse) -> Option<KeyValue> {
    answer.op_responses().into_iter().find_map(|op| match op {
        TxnOpResponse::Get(mut get) => get.take_kvs().pop(),
        _ => None,
    })
}
