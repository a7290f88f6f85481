//! A side that refuses to be watched, and one whose bounds grow.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tidings_api::{
    Bounds, Discovery, DiscoveryExt, Error, ErrorKind, Health, Instance, InstanceKey,
    MemoryDiscovery, MemoryRegistry, Removal, Result, Selector, Status, Watch,
};
use tidings_migration::{Migration, Phase, Sides};

const LONG: Duration = Duration::from_secs(30);

/// A handle that does what it is told to.
#[derive(Debug)]
struct Unreliable {
    handle: MemoryDiscovery,
    /// How many more watches of the service it refuses.
    refusals: Mutex<usize>,
    /// When it was asked for one.
    asked: Mutex<Vec<Instant>>,
    crashed: Mutex<Duration>,
}

impl Unreliable {
    fn new(registry: &MemoryRegistry, refusals: usize) -> Arc<Self> {
        Arc::new(Self {
            handle: registry.connect(),
            refusals: Mutex::new(refusals),
            asked: Mutex::default(),
            crashed: Mutex::default(),
        })
    }
}

#[async_trait]
impl Discovery for Unreliable {
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        self.handle.register(instance).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        self.handle.deregister(key).await
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        if selector.selects(web("any").key()) {
            self.asked.lock().unwrap().push(Instant::now());
            let mut refusals = self.refusals.lock().unwrap();
            if let Some(left) = refusals.checked_sub(1) {
                *refusals = left;
                return Err(Error::new(ErrorKind::Unavailable, "not now"));
            }
        }
        self.handle.watch(selector).await
    }

    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        self.handle.health(key, health).await
    }

    fn status(&self) -> Status {
        let status = self.handle.status();
        let bounds = Bounds {
            crashed: *self.crashed.lock().unwrap(),
            ..*status.bounds()
        };
        Status::new("unreliable", status.connection().clone(), bounds)
            .with_registrations(status.registrations().clone())
    }

    async fn close(&self) -> Result<()> {
        self.handle.close().await
    }
}

fn web(id: &str) -> Instance {
    let instance = Instance::new("web", "10.0.0.1:80").unwrap();
    instance.with_id(id).unwrap()
}

async fn until(what: &str, patience: Duration, condition: impl AsyncFn() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let met = tokio::time::timeout(patience, met).await;
    assert!(met.is_ok(), "not in time: {what}");
}

async fn process(old: Arc<Unreliable>, new: Arc<Unreliable>) -> Migration {
    let [old, new]: [Arc<dyn Discovery>; 2] = [old, new];
    let builder = Migration::builder(old, new).phase(Phase::BothReadMerged);
    builder.start().await.unwrap()
}

#[tokio::test]
async fn a_side_that_refused_to_be_watched_is_asked_again_however_busy_the_other_is() {
    let registries = [MemoryRegistry::new(), MemoryRegistry::new()];
    let (old, new) = (
        Unreliable::new(&registries[0], 0),
        Unreliable::new(&registries[1], 1),
    );
    let process = process(old, new.clone()).await;
    process.register(web("a")).await.unwrap();
    let busy = registries[0].connect();
    let changes = tokio::spawn(async move {
        for number in 0_u64.. {
            let changed = web("busy").with_metadata("n", number.to_string()).unwrap();
            busy.register(changed).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let key = web("a").key().clone();
    until("the new side is watched", LONG / 3, async || {
        process.provenance(&key) == Some(Sides::BOTH)
    })
    .await;
    changes.abort();
}

#[tokio::test]
async fn a_side_that_refuses_to_be_watched_is_left_alone_for_a_while() {
    let registries = [MemoryRegistry::new(), MemoryRegistry::new()];
    let (old, new) = (
        Unreliable::new(&registries[0], 0),
        Unreliable::new(&registries[1], usize::MAX),
    );
    let process = process(old, new.clone()).await;
    // It is there, and isn't shown: somebody may have taken its key.
    process.register(web("a")).await.unwrap();
    until("it is asked again", LONG, async || {
        new.asked.lock().unwrap().len() == 2
    })
    .await;
    let asked = new.asked.lock().unwrap().clone();
    let pause = asked[1] - asked[0];
    assert!(pause >= Duration::from_secs(4), "{pause:?}");
}

/// As in gossip, where it takes the longer to notice a crash the more is lost.
#[tokio::test]
async fn a_side_is_doubted_for_as_long_as_its_bound_says_now() {
    let registries = [MemoryRegistry::new(), MemoryRegistry::new()];
    let sides = || [0, 1].map(|side| Unreliable::new(&registries[side], 0));
    let ([owner_old, owner_new], [old, new]) = (sides(), sides());
    let owner = process(owner_old.clone(), owner_new).await;
    owner.register(web("a")).await.unwrap();
    let client = process(old, new.clone()).await;
    let watch = client.watch_service("web").await.unwrap();
    let is_on = async |sides| client.provenance(web("a").key()) == Some(sides);
    until("it is seen on both", LONG, async || {
        is_on(Sides::BOTH).await
    })
    .await;
    *new.crashed.lock().unwrap() = LONG * 100;
    owner_old.handle.cut_off();
    owner_old.handle.expire();
    until("the old side drops it", LONG, async || {
        is_on(Sides::NEW).await
    })
    .await;
    assert_eq!(watch.view().len(), 1, "the new side lists it");
    new.handle.cut_off();
    until("the new side may not have noticed", LONG / 3, async || {
        watch.view().is_empty()
    })
    .await;
}
