//! The watch on the server, in one of its two kinds, and the reads that belong to it.

use std::collections::HashSet;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tidings_api::{InstanceKey, Selector, ServiceName};
use zookeeper_client as zk;

use crate::error::Failure;
use crate::session::Link;
use crate::{Shared, Watches as Configured};

/// Requests that are sent before the first answer is waited for.
const READS_AT_ONCE: usize = 512;

/// The subscription of one selector over one connection.
pub(super) struct Upstream<'l> {
    link: &'l Link,
    shared: &'l Shared,
    watches: Watches,
}

/// What a node held.
#[derive(Debug)]
pub(super) enum Read {
    Found {
        data: Vec<u8>,
        stat: zk::Stat,
    },
    /// There is none, or none that may be seen.
    Absent,
}

enum Watches {
    /// One watch for everything below its node. It says what happens to whom, but not to the
    /// children of a node as such.
    Persistent(zk::PersistentWatcher),
    /// The session is over, and with it the watch.
    Ended,
    /// A watch for every node that was read, each good for one event.
    Oneshot(Oneshots),
}

/// One-shot watches, of which one of each kind is enough for a node: while it hasn't fired, reading
/// the node again sets no other.
#[derive(Default)]
struct Oneshots {
    firing: FuturesUnordered<Firing>,
    set: HashSet<Watched>,
}

/// A one-shot watch that waits for its event.
type Firing = Pin<Box<dyn Future<Output = (Watched, zk::WatchedEvent)> + Send>>;

/// What a one-shot watch is set on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Watched {
    Children(String),
    Data(String),
}

impl Oneshots {
    fn add(&mut self, watched: Watched, watcher: zk::OneshotWatcher) {
        if self.set.insert(watched.clone()) {
            let fired = async move { (watched, watcher.changed().await) };
            self.firing.push(Box::pin(fired));
        }
    }

    async fn next(&mut self) -> zk::WatchedEvent {
        match self.firing.next().await {
            Some((watched, event)) => {
                self.set.remove(&watched);
                event
            }
            None => std::future::pending().await,
        }
    }
}

impl<'l> Upstream<'l> {
    pub(super) fn new(link: &'l Link, shared: &'l Shared) -> Self {
        Self {
            link,
            shared,
            watches: Watches::Oneshot(Oneshots::default()),
        }
    }

    /// Sets the watch and lists the children of the selector's root. The list is not older than the
    /// watch: what happens after it is reported.
    pub(super) async fn subscribe(&mut self, selector: &Selector) -> Result<Vec<String>, Failure> {
        let root = self.shared.keys.root(selector);
        let kind = self.shared.kind_of_watches();
        if kind == Configured::Oneshot {
            return self.list(&root).await;
        }
        let client = self.link.client();
        // Both are sent at once, and answered in order.
        let watch = client.watch(&root, zk::AddWatchMode::PersistentRecursive);
        let list = client.list_children(&root);
        match self.link.call(watch).await {
            Ok(watcher) => self.watches = Watches::Persistent(watcher),
            Err(failure) if failure.is_unknown_request() && kind == Configured::Auto => {
                self.shared.know_as_old();
                return self.list(&root).await;
            }
            Err(failure) => return Err(failure),
        }
        absent_as_empty(self.link.call(list).await)
    }

    /// The next event. Cancel-safe.
    pub(super) async fn next(&mut self) -> zk::WatchedEvent {
        loop {
            let event = match &mut self.watches {
                Watches::Persistent(watcher) => watcher.changed().await,
                Watches::Oneshot(watches) => watches.next().await,
                Watches::Ended => std::future::pending().await,
            };
            if event.event_type != zk::EventType::Session {
                return event;
            }
            if event.session_state.is_terminated() {
                // Nothing comes any more, and asking for it panics.
                self.watches = Watches::Ended;
            }
        }
    }

    /// The services there are.
    pub(super) async fn services(&mut self) -> Result<Vec<ServiceName>, Failure> {
        let base = self.shared.keys.base();
        Ok(services(self.list(base).await?))
    }

    /// The names of the nodes of a service.
    pub(super) async fn children(&mut self, service: &ServiceName) -> Result<Vec<String>, Failure> {
        let path = self.shared.keys.service(service);
        self.list(&path).await
    }

    async fn list(&mut self, path: &str) -> Result<Vec<String>, Failure> {
        let client = self.link.client();
        let watched = Watched::Children(path.to_owned());
        let watches = match &mut self.watches {
            Watches::Oneshot(watches) if !watches.set.contains(&watched) => watches,
            _ => return absent_as_empty(self.link.call(client.list_children(path)).await),
        };
        loop {
            match self.link.call(client.list_and_watch_children(path)).await {
                Ok((names, watcher)) => {
                    watches.add(watched, watcher);
                    return Ok(names);
                }
                Err(Failure::Refused(zk::Error::NoNode)) => {}
                Err(failure) => return Err(failure),
            }
            let (stat, watcher) = self.link.call(client.check_and_watch_stat(path)).await?;
            if stat.is_none() {
                watches.add(watched, watcher);
                return Ok(Vec::new());
            }
        }
    }

    /// The data of a service's node, whose next change is reported.
    pub(super) async fn note(&mut self, service: &ServiceName) -> Result<Vec<u8>, Failure> {
        let (client, path) = (self.link.client(), self.shared.keys.service(service));
        let watched = Watched::Data(path.clone());
        match &mut self.watches {
            Watches::Oneshot(watches) if !watches.set.contains(&watched) => {
                let read = client.get_and_watch_data(&path);
                let (data, _, watcher) = self.link.call(read).await?;
                watches.add(watched, watcher);
                Ok(data)
            }
            _ => Ok(self.link.call(client.get_data(&path)).await?.0),
        }
    }

    /// Reads instances, many at once.
    pub(super) async fn read(
        &mut self,
        keys: Vec<InstanceKey>,
    ) -> Result<Vec<(InstanceKey, Read)>, Failure> {
        let mut reads = Vec::with_capacity(keys.len());
        let mut keys = keys.into_iter().peekable();
        while keys.peek().is_some() {
            let some: Vec<InstanceKey> = keys.by_ref().take(READS_AT_ONCE).collect();
            let found = self.read_some(&some).await?;
            reads.extend(some.into_iter().zip(found));
        }
        Ok(reads)
    }

    async fn read_some(&mut self, keys: &[InstanceKey]) -> Result<Vec<Read>, Failure> {
        let client = self.link.client();
        let paths: Vec<String> = keys
            .iter()
            .map(|key| self.shared.keys.instance(key))
            .collect();
        let mut found = Vec::with_capacity(paths.len());
        match &mut self.watches {
            Watches::Oneshot(watches) => {
                let answers = paths.iter().map(|path| client.get_and_watch_data(path));
                let answers = answers.collect::<Vec<_>>();
                for (path, answer) in paths.iter().zip(self.link.call(all(answers)).await?) {
                    let read = answer.map(|(data, stat, watcher)| {
                        // A second watcher of a node is dropped, and the first one stays.
                        watches.add(Watched::Data(path.clone()), watcher);
                        (data, stat)
                    });
                    found.push(Read::of(read)?);
                }
            }
            Watches::Persistent(_) | Watches::Ended => {
                let answers = paths.iter().map(|path| client.get_data(path));
                let answers = answers.collect::<Vec<_>>();
                for answer in self.link.call(all(answers)).await? {
                    found.push(Read::of(answer)?);
                }
            }
        }
        Ok(found)
    }
}

impl Read {
    fn of(answer: Result<(Vec<u8>, zk::Stat), zk::Error>) -> Result<Self, Failure> {
        match answer {
            Ok((data, stat)) => Ok(Self::Found { data, stat }),
            Err(zk::Error::NoNode | zk::Error::NoAuth) => Ok(Self::Absent),
            Err(error) => Err(error.into()),
        }
    }
}

/// The names of nodes that are names of services.
pub(super) fn services(names: Vec<String>) -> Vec<ServiceName> {
    let names = names.into_iter();
    names
        .filter_map(|name| ServiceName::new(name).ok())
        .collect()
}

fn absent_as_empty(listed: Result<Vec<String>, Failure>) -> Result<Vec<String>, Failure> {
    match listed {
        Err(Failure::Refused(zk::Error::NoNode)) => Ok(Vec::new()),
        listed => listed,
    }
}

/// All answers, as one that can't fail.
async fn all<T>(
    answers: Vec<impl Future<Output = Result<T, zk::Error>>>,
) -> Result<Vec<Result<T, zk::Error>>, zk::Error> {
    Ok(join_all(answers).await)
}
