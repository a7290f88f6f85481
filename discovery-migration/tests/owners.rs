//! Two owners of one key that meet (REG-5), with each registration and each view let through by hand.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{
    Discovery, DiscoveryExt, Health, Instance, InstanceKey, MemoryDiscovery, MemoryRegistry,
    Publisher, Removal, Result, Selector, Status, Subscription, Watch,
};
use tidings_migration::{Migration, Phase, Side};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(30);

/// Two "servers".
#[derive(Default)]
struct World {
    registries: [MemoryRegistry; 2],
}

/// A migrating process whose calls and views wait at gates.
struct Owner {
    number: u16,
    migration: Arc<Migration>,
    sides: [Arc<Gated>; 2],
}

/// A handle whose registrations and views are let through, or not.
#[derive(Debug)]
struct Gated {
    handle: MemoryDiscovery,
    publisher: Publisher,
    writes: watch::Sender<bool>,
    views: watch::Sender<bool>,
}

impl World {
    async fn owner(&self, number: u16) -> Owner {
        self.owner_in(Phase::BothReadMerged, number).await
    }

    async fn owner_in(&self, phase: Phase, number: u16) -> Owner {
        let sides = [0, 1].map(|side| Arc::new(Gated::new(&self.registries[side])));
        let [old, new] = sides.clone().map(|side| side as Arc<dyn Discovery>);
        let builder = Migration::builder(old, new).phase(phase);
        Owner {
            number,
            migration: Arc::new(builder.start().await.unwrap()),
            sides,
        }
    }

    /// The ports under which the sides list the key.
    async fn listed(&self) -> [Option<u16>; 2] {
        let mut listed = [None, None];
        for (listed, registry) in listed.iter_mut().zip(&self.registries) {
            let view = registry.connect().resolve("web").await.unwrap();
            *listed = view.get(&key()).map(|instance| instance.address().port());
        }
        listed
    }

    /// Waits until one owner has both sides and says so, and the others say that they don't.
    async fn is_won_by(&self, winner: &Owner, losers: &[&Owner]) {
        until("the newer owner has both sides", async || {
            self.listed().await == [Some(winner.number); 2] && winner.is_registered()
        })
        .await;
        until("the others know it", async || {
            losers.iter().all(|loser| loser.is_superseded())
        })
        .await;
        assert!(winner.is_registered());
        assert_eq!(self.listed().await, [Some(winner.number); 2]);
    }
}

impl Owner {
    fn register(&self) -> JoinHandle<Result<InstanceKey>> {
        let (migration, instance) = (self.migration.clone(), web(self.number));
        tokio::spawn(async move { migration.register(instance).await })
    }

    fn side(&self, side: Side) -> &Gated {
        &self.sides[usize::from(side == Side::New)]
    }

    fn is_superseded(&self) -> bool {
        let status = self.migration.status();
        let registration = status.registration(&key());
        registration.is_some_and(tidings_api::Registration::is_superseded)
    }

    fn is_registered(&self) -> bool {
        let status = self.migration.status();
        let registration = status.registration(&key());
        registration.is_some_and(tidings_api::Registration::is_registered)
    }
}

impl Gated {
    fn new(registry: &MemoryRegistry) -> Self {
        Self {
            handle: registry.connect(),
            publisher: Publisher::new(),
            writes: watch::Sender::new(true),
            views: watch::Sender::new(true),
        }
    }

    fn is_overtaken(&self) -> bool {
        let status = self.handle.status();
        let registration = status.registration(&key());
        registration.is_some_and(tidings_api::Registration::is_superseded)
    }
}

#[async_trait]
impl Discovery for Gated {
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        if *instance.key() == key() {
            let mut writes = self.writes.subscribe();
            writes.wait_for(|open| *open).await.unwrap();
        }
        self.handle.register(instance).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        self.handle.deregister(key).await
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        let mut upstream = self.handle.watch(selector.clone()).await?;
        let (watch, feed) = match self.publisher.watch(selector)? {
            Subscription::First(watch, feed) => (watch, feed),
            Subscription::Joined(watch) => return Ok(watch),
        };
        let publish = move |view: tidings_api::View| {
            feed.publish(view.iter().cloned().collect(), view.freshness().clone());
        };
        publish(upstream.view());
        let mut views = self.views.subscribe();
        tokio::spawn(async move {
            while upstream.changed().await.is_ok() {
                if views.wait_for(|open| *open).await.is_err() {
                    return;
                }
                publish(upstream.view());
            }
        });
        Ok(watch)
    }

    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        self.handle.health(key, health).await
    }

    fn status(&self) -> Status {
        self.handle.status()
    }

    async fn close(&self) -> Result<()> {
        self.publisher.close();
        self.handle.close().await
    }
}

fn web(number: u16) -> Instance {
    let instance = Instance::new("web", format!("10.0.0.1:{number}")).unwrap();
    instance.with_id("key").unwrap()
}

fn key() -> InstanceKey {
    web(1).key().clone()
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(LONG, met).await.is_ok(),
        "not in time: {what}"
    );
}

/// The older owner has the new side, the newer one the old side.
async fn crossed(world: &World) -> (Owner, Owner) {
    let (older, newer) = (world.owner(1).await, world.owner(2).await);
    older.side(Side::New).writes.send_replace(false);
    newer.side(Side::Old).writes.send_replace(false);
    older.register();
    until("the older one has the old side", async || {
        world.listed().await == [Some(1), None]
    })
    .await;
    // What it draws is above what it sees.
    until("the newer one sees it", async || {
        newer.migration.resolve("web").await.unwrap().len() == 1
    })
    .await;
    newer.register();
    until("each has a side", async || {
        world.listed().await == [Some(1), Some(2)]
    })
    .await;
    (older, newer)
}

#[tokio::test]
async fn of_two_that_each_win_a_side_the_newer_one_keeps_the_key() {
    let world = World::default();
    let (older, newer) = crossed(&world).await;
    older.side(Side::New).writes.send_replace(true);
    newer.side(Side::Old).writes.send_replace(true);
    world.is_won_by(&newer, &[&older]).await;
}

#[tokio::test]
async fn an_older_owner_that_gave_way_unseen_takes_the_newer_one_along_nowhere() {
    let world = World::default();
    let (older, newer) = crossed(&world).await;
    newer.side(Side::New).views.send_replace(false);
    older.side(Side::New).writes.send_replace(true);
    until("the older one takes the new side", async || {
        newer.side(Side::New).is_overtaken()
    })
    .await;
    newer.side(Side::Old).writes.send_replace(true);
    until("the older one gives way", async || older.is_superseded()).await;
    // Its last sign on the new side goes before the newer owner has seen it.
    older.migration.close().await.unwrap();
    assert_eq!(world.listed().await, [Some(2), None]);
    newer.side(Side::New).views.send_replace(true);
    world.is_won_by(&newer, &[]).await;
}
