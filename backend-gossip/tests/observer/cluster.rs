//! Members and observers on loopback, and what an observer showed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidings_api::{Change, Discovery, DiscoveryExt, Instance, View};
use tidings_gossip::{GossipConfig, GossipDiscovery, GossipObserver};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long anything may take before a test fails; far above what it takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// Five times as fast as by default.
pub(crate) fn config() -> GossipConfig {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.join_wait = Duration::from_secs(20);
    config.probe_interval = Duration::from_millis(200);
    config.probe_timeout = Duration::from_millis(100);
    config
}

pub(crate) async fn member(name: &str, bind: SocketAddr, join: &[SocketAddr]) -> GossipDiscovery {
    let mut config = config();
    config.bind = bind;
    config.name = Some(name.to_owned());
    config.join = join.iter().map(ToString::to_string).collect();
    GossipDiscovery::start(config).await.unwrap()
}

/// Members that each know all the others, and offer an instance named like themselves.
pub(crate) async fn cluster(size: usize) -> Vec<Arc<GossipDiscovery>> {
    let any = "127.0.0.1:0".parse().unwrap();
    let mut members: Vec<Arc<GossipDiscovery>> = Vec::new();
    for number in 0..size {
        let join: Vec<_> = members
            .first()
            .map(|first| first.local_addr())
            .into_iter()
            .collect();
        let member = member(&format!("m-{number}"), any, &join).await;
        member
            .register(instance(&format!("m-{number}"), 0))
            .await
            .unwrap();
        members.push(Arc::new(member));
    }
    for member in &members {
        let mut watch = member.watch_service("web").await.unwrap();
        let complete = watch.wait_until(|view| view.len() == size);
        timeout(LONG, complete).await.unwrap().unwrap();
    }
    members
}

pub(crate) fn observer_config(join: &[SocketAddr]) -> GossipConfig {
    let mut config = GossipConfig::default();
    config.observe = true;
    config.join = join.iter().map(ToString::to_string).collect();
    config.join_wait = Duration::from_secs(20);
    config.probe_interval = Duration::from_millis(200);
    config
}

pub(crate) async fn observer(join: &[SocketAddr]) -> GossipObserver {
    GossipObserver::start(observer_config(join)).await.unwrap()
}

pub(crate) fn addresses(members: &[Arc<GossipDiscovery>]) -> Vec<SocketAddr> {
    members.iter().map(|member| member.local_addr()).collect()
}

pub(crate) fn instance(id: &str, number: u32) -> Instance {
    let instance = Instance::new("web", "10.0.0.7:80");
    let instance = instance.and_then(|web| web.with_id(id));
    instance
        .and_then(|web| web.with_metadata("n", number.to_string()))
        .unwrap()
}

pub(crate) fn number(view: &View, id: &str) -> Option<u32> {
    let found = view.iter().find(|found| found.id().as_str() == id)?;
    found.metadata().get("n")?.parse().ok()
}

/// The first member is gone, and another has registered something new.
pub(crate) async fn is_served_without_the_first(observer: &GossipObserver) {
    let mut watch = observer.watch_service("web").await.unwrap();
    let served = watch.wait_until(|view| {
        view.is_live() && number(view, "new") == Some(7) && number(view, "m-0").is_none()
    });
    timeout(LONG, served).await.unwrap().unwrap();
}

pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        sleep(POLL).await;
    }
}

/// Everything an observer shows of a service.
pub(crate) struct Recorded {
    changes: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Recorded {
    pub(crate) async fn new(observer: &GossipObserver) -> Self {
        let mut stream = observer.watch_service("web").await.unwrap().into_changes();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let seen = changes.clone();
        let task = tokio::spawn(async move {
            while let Some(change) = stream.next().await {
                let sign = match &change {
                    Change::Added(_) => '+',
                    Change::Removed(_) => '-',
                    _ => '~',
                };
                seen.lock()
                    .unwrap()
                    .push(format!("{sign}{}", change.key().id()));
            }
        });
        Self { changes, task }
    }

    /// After [`is_served_without_the_first`]: no flap beside the two changes.
    pub(crate) async fn only_what_has_changed(&self) {
        let mut seen = Vec::new();
        until("what has changed was seen", async || {
            seen.extend(self.take());
            seen.len() >= 2
        })
        .await;
        seen.sort();
        assert_eq!(seen, ["+new", "-m-0"], "and nothing else");
    }

    /// What was seen since this was asked last.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.changes.lock().unwrap())
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.task.abort();
    }
}
