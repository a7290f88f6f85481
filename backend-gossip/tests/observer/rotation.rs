//! Keys change while observers look on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tempfile::{TempDir, tempdir};
use tidings_api::{Discovery, DiscoveryExt};
use tidings_gossip::{GossipDiscovery, GossipObserver, SealKey};
use tokio::time::{interval, timeout};

use crate::cluster::{LONG, Recorded, config, instance, number, observer_config, until};

const ROTATIONS: u8 = 2;
const OBSERVERS: usize = 6;

fn key(number: u8) -> SealKey {
    SealKey::from_bytes(std::array::from_fn(|at| at as u8 ^ number)).unwrap()
}

/// A file of keys that all of them follow.
struct Keys {
    folder: TempDir,
}

impl Keys {
    fn new(first: u8) -> Self {
        let keys = Self {
            folder: tempdir().unwrap(),
        };
        keys.write(&[first]);
        keys
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    /// Replaces the file as a whole, as secrets that are mounted are.
    fn write(&self, numbers: &[u8]) {
        let line = |number: &u8| format!("{}\n", *key(*number).expose());
        let lines: String = numbers.iter().map(line).collect();
        let new = self.folder.path().join("new");
        std::fs::write(&new, lines).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }
}

/// What a step of a rotation is waited for with: all members have the keys, and so have all observers.
async fn taken_over(members: &[Arc<GossipDiscovery>], observers: &[GossipObserver], keys: &[u8]) {
    let ids: Vec<_> = keys.iter().map(|number| key(*number).id()).collect();
    for member in members {
        until("everybody has the keys of the file", async || {
            let report = member.keyring().report().await.unwrap();
            report.members().iter().all(|keys| keys.holds == ids)
        })
        .await;
    }
    for observer in observers {
        until("each observer has them", async || observer.keys() == ids).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_changes_and_no_observer_is_cut_off_or_misses_one() {
    let file = Keys::new(1);
    let mut members: Vec<Arc<GossipDiscovery>> = Vec::new();
    for at in 0..3 {
        let mut config = config();
        config.name = Some(format!("m-{at}"));
        config.join = members.iter().map(|m| m.local_addr().to_string()).collect();
        config.keys_file = Some(file.path());
        members.push(Arc::new(GossipDiscovery::start(config).await.unwrap()));
    }
    let seeds: Vec<_> = members.iter().map(|member| member.local_addr()).collect();
    members[0].register(instance("changing", 0)).await.unwrap();
    let (mut observers, mut recorded, mut watches) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..OBSERVERS {
        let mut config = observer_config(&seeds);
        config.keys_file = Some(file.path());
        let observer = GossipObserver::start(config).await.unwrap();
        let seen = Recorded::new(&observer).await;
        until("it is shown", async || !seen.take().is_empty()).await;
        watches.push(observer.watch_service("web").await.unwrap());
        observers.push(observer);
        recorded.push(seen);
    }
    // Whether a view of any observer was stale at any time.
    let stale = Arc::<AtomicBool>::default();
    for mut watch in watches {
        let stale = stale.clone();
        tokio::spawn(async move {
            while let Ok(view) = watch.changed().await {
                stale.fetch_or(!view.is_live(), Ordering::Relaxed);
            }
        });
    }

    // A hundred changes a second.
    let (stop, made) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
    let (owner, stopped, count) = (members[0].clone(), stop.clone(), made.clone());
    let changes = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(10));
        while !stopped.load(Ordering::Relaxed) {
            ticks.tick().await;
            let next = count.load(Ordering::Relaxed) + 1;
            owner.register(instance("changing", next)).await.unwrap();
            count.store(next, Ordering::Relaxed);
        }
    });
    for old in 1..=ROTATIONS {
        let new = old + 1;
        for keys in [&[old, new][..], &[new, old], &[new]] {
            file.write(keys);
            taken_over(&members, &observers, keys).await;
            let before = made.load(Ordering::Relaxed);
            until("there are changes under these keys", async || {
                made.load(Ordering::Relaxed) > before + 20
            })
            .await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    changes.await.unwrap();
    let last = made.load(Ordering::Relaxed);
    println!("{ROTATIONS} rotations, {last} changes");

    for (observer, recorded) in observers.iter().zip(&recorded) {
        let mut watch = observer.watch_service("web").await.unwrap();
        let seen = watch.wait_until(|view| number(view, "changing") == Some(last));
        timeout(LONG, seen).await.unwrap().unwrap();
        let seen = recorded.take();
        assert!(
            !seen.is_empty() && seen.iter().all(|change| change == "~changing"),
            "{seen:?}"
        );
        assert_eq!(observer.stats().failovers, 0, "no link ended");
    }
    assert!(!stale.load(Ordering::Relaxed), "a view was stale");
    for member in &members {
        let stats = member.stats().await.unwrap();
        assert_eq!((stats.engine.suspicions, stats.engine.deaths), (0, 0));
        assert_eq!((stats.seal.unknown_key, stats.seal.forged), (0, 0));
    }
}
