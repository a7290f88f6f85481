//! Creates the nodes of many registrations with few requests.
//!
//! A creation that finds [`REQUESTS_MAX`] others on their way waits, and goes along with the next of
//! them, as one transaction: an instance alone is created at once, and thousands are no thousands
//! of requests. Nobody shares the fate of another (REG-7): where one node of a transaction can't be
//! created none is, and each is tried alone. Where the answer is lost, each may be there or not, as
//! if it had been alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use zookeeper_client as zk;

use crate::error::Failure;
use crate::session::Link;

/// Requests on their way; what comes then waits for one of them.
const REQUESTS_MAX: usize = 4;
/// Most nodes, and about the most bytes, of one request. A server accepts 1 MiB.
const NODES_MAX: usize = 64;
/// Nodes that go along even if the next request would have fewer then.
const ALONG_MIN: usize = 7;
const BYTES_MAX: usize = 256 * 1024;

/// The creations of one handle.
#[derive(Debug, Default)]
pub(crate) struct Creations(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    /// Those who have a request on its way, or are about to.
    leaders: usize,
    waiting: VecDeque<Creation>,
}

#[derive(Debug)]
struct Creation {
    /// The connection it is for.
    number: u64,
    node: Node,
    answer: oneshot::Sender<Word>,
}

#[derive(Clone, Debug)]
struct Node {
    path: Arc<str>,
    bytes: Arc<[u8]>,
}

/// What one who waits is told.
#[derive(Debug)]
enum Word {
    /// It is the next to send, for itself and others.
    Lead,
    /// It was created with others, or may have been.
    Done(Result<(), Failure>),
    /// One of those it went with could not be created.
    Alone,
}

/// Lets the next one lead when it is dropped.
struct Lead<'c>(&'c Creations);

impl Creations {
    /// Creates an ephemeral node, in a new version 0.
    pub(crate) async fn create(
        &self,
        link: &Link,
        acls: zk::Acls<'_>,
        path: &Arc<str>,
        bytes: Vec<u8>,
    ) -> Result<(), Failure> {
        let node = Node {
            path: path.clone(),
            bytes: bytes.into(),
        };
        if let Some(answer) = self.queue(link, &node) {
            match answer.await {
                Ok(Word::Done(done)) => return done,
                Ok(Word::Alone) => return create_one(link, acls, &node).await,
                Ok(Word::Lead) => {}
                // Whoever led was ended, as everything of this handle is.
                Err(_) => return Err(Failure::Silent),
            }
        }
        let _next = Lead(self);
        let others = self.take_along(link, &node);
        if others.is_empty() {
            return create_one(link, acls, &node).await;
        }
        let nodes = std::iter::once(&node).chain(others.iter().map(|other| &other.node));
        let done = create_all(link, acls, nodes).await;
        let alone = matches!(&done, Err(failure) if !failure.is_ambiguous());
        for other in others {
            let word = if alone {
                Word::Alone
            } else {
                Word::Done(done.clone())
            };
            // Nobody waits any more where the handle ends.
            let _ended = other.answer.send(word);
        }
        if alone {
            return create_one(link, acls, &node).await;
        }
        done
    }

    /// Waits in line, or leads at once (`None`).
    fn queue(&self, link: &Link, node: &Node) -> Option<oneshot::Receiver<Word>> {
        let mut queue = self.lock();
        if queue.leaders < REQUESTS_MAX {
            queue.leaders += 1;
            return None;
        }
        let (answer, answered) = oneshot::channel();
        queue.waiting.push_back(Creation {
            number: link.number(),
            node: node.clone(),
            answer,
        });
        Some(answered)
    }

    /// Those who wait for the same connection: a share of them, so that the server has one request
    /// to work at while the answer to another is on its way.
    fn take_along(&self, link: &Link, node: &Node) -> Vec<Creation> {
        let mut queue = self.lock();
        let share = queue.waiting.len().div_ceil(REQUESTS_MAX);
        let share = share.clamp(ALONG_MIN, NODES_MAX - 1);
        let (mut along, mut bytes) = (Vec::new(), node.bytes.len());
        while let Some(next) = queue.waiting.front()
            && next.number == link.number()
            && along.len() < share
            && bytes + next.node.bytes.len() <= BYTES_MAX
        {
            bytes += next.node.bytes.len();
            along.extend(queue.waiting.pop_front());
        }
        along
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        while let Some(next) = queue.waiting.pop_front() {
            if next.answer.send(Word::Lead).is_ok() {
                return;
            }
        }
        queue.leaders -= 1;
    }
}

async fn create_one(link: &Link, acls: zk::Acls<'_>, node: &Node) -> Result<(), Failure> {
    let options = zk::CreateMode::Ephemeral.with_acls(acls);
    let created = link.client().create(&node.path, &node.bytes, &options);
    link.call(created).await.map(drop)
}

async fn create_all(
    link: &Link,
    acls: zk::Acls<'_>,
    nodes: impl Iterator<Item = &Node>,
) -> Result<(), Failure> {
    let options = zk::CreateMode::Ephemeral.with_acls(acls);
    let mut writer = link.client().new_multi_writer();
    for node in nodes {
        writer.add_create(&node.path, &node.bytes, &options)?;
    }
    link.call(writer.commit()).await.map(drop)
}
