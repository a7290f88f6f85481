//! The bridge, between two memory backends and with the clock under control.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod alone;
mod random;
mod several;

use std::sync::Arc;
use std::time::Duration;

use tidings_api::{
    Change, DiscoveryExt, Instance, InstanceKey, METADATA_MIRROR_KEY, MemoryDiscovery,
    MemoryRegistry, View, Watch,
};
use tidings_migration::{Bridge, BridgeOptions, BridgeReport, BridgeState};
use tokio::time::timeout;

/// How long anything is waited for. The clock runs only while nobody has anything to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A bridge with its two handles. Dropping the bridge alone is a process that was killed, as the
/// handles live on like its sessions do.
struct Process {
    bridge: Bridge,
    from: Arc<MemoryDiscovery>,
    to: Arc<MemoryDiscovery>,
}

impl Process {
    async fn start(from: &MemoryRegistry, to: &MemoryRegistry, options: BridgeOptions) -> Self {
        let (from, to) = (Arc::new(from.connect()), Arc::new(to.connect()));
        Self::with(from, to, options).await
    }

    async fn with(
        from: Arc<MemoryDiscovery>,
        to: Arc<MemoryDiscovery>,
        options: BridgeOptions,
    ) -> Self {
        let bridge = Bridge::start(from.clone(), to.clone(), options).await;
        Self {
            bridge: bridge.unwrap(),
            from,
            to,
        }
    }

    /// Ends the process without a word; its session in the target lives on until it is dropped.
    fn kill(self) -> Arc<MemoryDiscovery> {
        self.to
    }

    /// Waits until the bridge says so of itself.
    async fn reports(&self, what: &str, condition: impl Fn(&BridgeReport) -> bool) {
        let there = timeout(PATIENCE, async {
            while !condition(&self.bridge.report()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let there = there.await;
        assert!(there.is_ok(), "never {what}: {}", self.bridge.report());
    }

    async fn is_superseded(&self) {
        let superseded = |report: &BridgeReport| report.state == BridgeState::Superseded;
        self.reports("superseded", superseded).await;
    }

    async fn mirrors(&self, count: usize) {
        let what = format!("{count} mirrored");
        self.reports(&what, |report| report.mirrored.len() == count)
            .await;
    }
}

fn named(name: &str) -> BridgeOptions {
    BridgeOptions::new().with_name(name).unwrap()
}

fn web(id: &str) -> Instance {
    let instance = Instance::new("web", "10.0.0.7:80").unwrap();
    instance.with_id(id).unwrap()
}

fn key(id: &str) -> InstanceKey {
    web(id).key().clone()
}

fn ids(view: &View) -> Vec<&str> {
    view.iter().map(|found| found.id().as_str()).collect()
}

/// An instance as its owner registered it: without what a bridge and a backend add.
fn plain(instance: &Instance) -> Instance {
    instance
        .clone()
        .without_metadata(METADATA_MIRROR_KEY)
        .with_generation(Default::default())
}

/// A client of `web`.
async fn client(registry: &MemoryRegistry) -> (MemoryDiscovery, Watch) {
    let handle = registry.connect();
    let watch = handle.watch_service("web").await.unwrap();
    (handle, watch)
}

/// Waits until a watch shows these and no others.
async fn shows(watch: &Watch, expected: &[&str]) -> View {
    let mut watch = watch.clone();
    let seen = watch.wait_until(|view| ids(view) == expected);
    let seen = timeout(PATIENCE, seen).await;
    seen.unwrap_or_else(|_| panic!("never {expected:?}, but {:?}", ids(&watch.view())))
        .unwrap()
}

/// Everything that a watch shows, from now on.
struct Recording {
    task: tokio::task::JoinHandle<()>,
    changes: Arc<std::sync::Mutex<Vec<Change>>>,
}

impl Recording {
    fn start(watch: &Watch) -> Self {
        let mut next = watch.clone().into_changes();
        let changes = Arc::<std::sync::Mutex<Vec<_>>>::default();
        let kept = changes.clone();
        let task = tokio::spawn(async move {
            while let Some(change) = next.next().await {
                kept.lock().unwrap().push(change);
            }
        });
        Self { task, changes }
    }

    /// The ids that have left.
    fn removed(&self) -> Vec<String> {
        let changes = self.changes.lock().unwrap();
        let removed = changes.iter().filter_map(|change| match change {
            Change::Removed(gone) => Some(gone.id().to_string()),
            _ => None,
        });
        removed.collect()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Gives everything the time to go wrong.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
