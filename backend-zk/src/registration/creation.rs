//! Creates the nodes of many registrations with few requests.
//!
//! A creation that finds [`REQUESTS_MAX`] others on their way waits, and goes along with the next of
//! them, as one transaction: an instance alone is created at once, and thousands are no thousands
//! of requests. Nobody shares the fate of another (REG-7): where one node of a transaction can't be
//! created none is, and each is tried alone. Where the answer is lost, each may be there or not, as
//! if it had been alone.
//!
//! With each request the notes of its services are read, which say who has left before: an owner
//! that is new is newer than all of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use tokio::sync::oneshot;
use zookeeper_client as zk;

use crate::departures::Departures;
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
#[derive(Clone, Debug, Default)]
pub(crate) struct Creations(Arc<Mutex<Queue>>);

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
    /// Path of the service's node.
    service: Arc<str>,
    path: Arc<str>,
    bytes: Arc<[u8]>,
}

/// What the nodes of services say, by their paths.
#[derive(Debug)]
struct Notes(HashMap<Arc<str>, Arc<Departures>>);

/// What one who waits is told.
#[derive(Debug)]
enum Word {
    /// It is the next to send, for itself and others.
    Lead(Lead),
    /// It was created with others, or may have been.
    Done(Result<Arc<Departures>, Failure>),
    /// One of those it went with could not be created.
    Alone,
}

/// The right to send a request. The next one has it when this is dropped, also unreceived.
#[derive(Debug)]
struct Lead(Creations);

impl Creations {
    /// Creates an ephemeral node, in a new version 0. Returns the note of its service.
    pub(crate) async fn create(
        &self,
        link: &Link,
        acls: zk::Acls<'_>,
        service: &Arc<str>,
        path: &Arc<str>,
        bytes: Vec<u8>,
    ) -> Result<Arc<Departures>, Failure> {
        let node = Node {
            service: service.clone(),
            path: path.clone(),
            bytes: bytes.into(),
        };
        let _lead = match self.queue(link.number(), &node) {
            Ok(lead) => lead,
            Err(answer) => match answer.await {
                Ok(Word::Lead(lead)) => lead,
                Ok(Word::Done(done)) => return done,
                Ok(Word::Alone) => return create_one(link, acls, &node).await,
                // Whoever led has ended, and what it has sent may be done or not.
                Err(_) => return Err(Failure::Silent),
            },
        };
        let others = self.take_along(link.number(), &node);
        if others.is_empty() {
            return create_one(link, acls, &node).await;
        }
        let nodes = std::iter::once(&node).chain(others.iter().map(|other| &other.node));
        let done = create_all(link, acls, nodes).await;
        let alone = matches!(&done, Err(failure) if !failure.is_ambiguous());
        let of = |node: &Node| {
            done.as_ref()
                .map(|notes| notes.of(node))
                .map_err(Failure::clone)
        };
        for other in others {
            let word = if alone {
                Word::Alone
            } else {
                Word::Done(of(&other.node))
            };
            // Nobody waits any more where the handle ends.
            let _ended = other.answer.send(word);
        }
        if alone {
            return create_one(link, acls, &node).await;
        }
        of(&node)
    }

    /// Leads at once, or gets in line.
    fn queue(&self, number: u64, node: &Node) -> Result<Lead, oneshot::Receiver<Word>> {
        let mut queue = self.lock();
        if queue.leaders < REQUESTS_MAX {
            queue.leaders += 1;
            return Ok(Lead(self.clone()));
        }
        let (answer, answered) = oneshot::channel();
        queue.waiting.push_back(Creation {
            number,
            node: node.clone(),
            answer,
        });
        Err(answered)
    }

    /// Those who wait for the same connection: a share of them, so that the server has one request
    /// to work at while the answer to another is on its way.
    fn take_along(&self, number: u64, node: &Node) -> Vec<Creation> {
        let mut queue = self.lock();
        let share = queue.waiting.len().div_ceil(REQUESTS_MAX);
        let share = share.clamp(ALONG_MIN, NODES_MAX - 1);
        let (mut along, mut bytes) = (Vec::new(), node.bytes.len());
        while let Some(next) = queue.waiting.front()
            && next.number == number
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

impl Drop for Lead {
    fn drop(&mut self) {
        let next = {
            let mut queue = self.0.lock();
            let next = queue.waiting.pop_front();
            if next.is_none() {
                queue.leaders -= 1;
            }
            next
        };
        if let Some(next) = next {
            let lead = Word::Lead(Self(self.0.clone()));
            // Where nobody waits any more it comes back, and is dropped in turn.
            let _undelivered = next.answer.send(lead);
        }
    }
}

async fn create_one(
    link: &Link,
    acls: zk::Acls<'_>,
    node: &Node,
) -> Result<Arc<Departures>, Failure> {
    let options = zk::CreateMode::Ephemeral.with_acls(acls);
    let created = link.client().create(&node.path, &node.bytes, &options);
    let created = async { link.call(created).await.map(drop) };
    Ok(Notes::after(link, created, [node].into_iter())
        .await?
        .of(node))
}

async fn create_all<'n>(
    link: &Link,
    acls: zk::Acls<'_>,
    nodes: impl Iterator<Item = &'n Node> + Clone,
) -> Result<Notes, Failure> {
    let options = zk::CreateMode::Ephemeral.with_acls(acls);
    let mut writer = link.client().new_multi_writer();
    for node in nodes.clone() {
        writer.add_create(&node.path, &node.bytes, &options)?;
    }
    let created = writer.commit();
    let created = async { link.call(created).await.map(drop) };
    Notes::after(link, created, nodes).await
}

impl Notes {
    /// Reads the notes once the nodes are created, by requests that are sent together with that one.
    async fn after<'n>(
        link: &Link,
        created: impl Future<Output = Result<(), Failure>>,
        nodes: impl Iterator<Item = &'n Node>,
    ) -> Result<Self, Failure> {
        let services: HashSet<&Arc<str>> = nodes.map(|node| &node.service).collect();
        let reads = services.into_iter().map(|service| {
            let read = link.client().get_data(service);
            async move { (service.clone(), link.call(read).await) }
        });
        let reads: Vec<_> = reads.collect();
        created.await?;
        let mut notes = HashMap::new();
        for (service, read) in join_all(reads).await {
            match read {
                Ok((data, _)) => notes.insert(service, Arc::new(Departures::decode(&data))),
                // Gone again, or not to be seen.
                Err(Failure::Refused(zk::Error::NoNode | zk::Error::NoAuth)) => None,
                Err(failure) => return Err(failure),
            };
        }
        Ok(Self(notes))
    }

    fn of(&self, node: &Node) -> Arc<Departures> {
        self.0.get(&node.service).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: usize, bytes: usize) -> Node {
        Node {
            service: "/services/web".into(),
            path: format!("/services/web/{name}").into(),
            bytes: vec![b'x'; bytes].into(),
        }
    }

    fn wait(creations: &Creations, name: usize) -> oneshot::Receiver<Word> {
        creations.queue(1, &node(name, 1)).unwrap_err()
    }

    #[test]
    fn the_lead_passes_over_who_has_gone_and_is_never_lost() {
        let creations = Creations::default();
        let mut leads: Vec<Lead> = (0..REQUESTS_MAX)
            .map(|n| creations.queue(1, &node(n, 1)).unwrap())
            .collect();
        let (gone, told, mut last) = (
            wait(&creations, 4),
            wait(&creations, 5),
            wait(&creations, 6),
        );
        drop(gone);
        leads.pop();
        assert!(last.try_recv().is_err());
        // Told, but ended before it could hear it.
        drop(told);
        assert!(matches!(last.try_recv(), Ok(Word::Lead(_))));
        drop((leads, last));
        assert_eq!(creations.lock().leaders, 0);
        assert!(creations.queue(1, &node(7, 1)).is_ok());
    }

    #[test]
    fn requests_share_who_waits_within_bounds_and_of_one_connection() {
        let creations = Creations::default();
        let leads: Vec<Lead> = (0..REQUESTS_MAX)
            .map(|n| creations.queue(1, &node(n, 1)).unwrap())
            .collect();
        let enqueue = |count: usize, number, bytes| -> Vec<_> {
            let nodes = (0..count).map(|n| creations.queue(number, &node(n, bytes)).unwrap_err());
            nodes.collect()
        };
        let along = |number| creations.take_along(number, &node(0, 1)).len();
        let waiting = enqueue(64, 1, 1);
        assert_eq!(along(1), 16);
        assert_eq!(along(1), 12);
        assert_eq!((along(1), along(1), along(1)), (9, 7, 7));
        drop((along(1), along(1), waiting));
        let waiting = (enqueue(1000, 1, 1), enqueue(1, 2, 1));
        assert_eq!(along(1), NODES_MAX - 1);
        assert_eq!(along(2), 0);
        while along(1) > 0 {}
        assert_eq!((along(1), along(2)), (0, 1));
        drop(waiting);
        let waiting = enqueue(64, 1, BYTES_MAX / 4);
        assert_eq!(along(1), 3);
        drop((waiting, leads));
    }
}
