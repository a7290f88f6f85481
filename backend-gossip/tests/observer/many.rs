//! Many observers on five members: what they cost, and how soon the last one knows.
//!
//! ```text
//! cargo test --release -p tidings-gossip --features fault-injection --test observer many            # seconds
//! TIDINGS_OBSERVERS=1000 cargo test --release -p tidings-gossip --features fault-injection --test observer many -- --nocapture
//! ```
//!
//! All members run on one thread of their own, so that its CPU time is theirs. The long version needs some
//! 4,200 file descriptors.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tidings_api::{Discovery, DiscoveryExt, Watch};
use tidings_gossip::{GossipConfig, GossipDiscovery, GossipObserver};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::cluster::{LONG, instance, number, until};

const MEMBERS: usize = 5;
const INSTANCES: u32 = 100;
const CHANGES: u32 = 20;
const IDLE: Duration = Duration::from_secs(10);

#[test]
fn many_observers_add_nothing_between_members() {
    let count = std::env::var("TIDINGS_OBSERVERS").map_or(60, |count| count.parse().unwrap());
    let (started, starting) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async move {
            let members = members().await;
            started.send((members, CpuTime::of_this_thread())).unwrap();
            let _ = stopped.await;
        });
    });
    let (members, cpu) = starting.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(measure(count, &members, &cpu));
    drop(members);
    stop.send(()).unwrap();
    thread.join().unwrap();
}

async fn measure(count: usize, members: &[Arc<GossipDiscovery>], cpu: &CpuTime) {
    settled(members).await;
    let time = if count >= 1_000 { IDLE } else { IDLE / 5 };
    let alone = cost("no observers, idle", members, cpu, time, 0).await;
    let alone_changing = cost("no observers, changes", members, cpu, time, CHANGES).await;

    let start = Instant::now();
    let seeds: Vec<SocketAddr> = members.iter().map(|member| member.local_addr()).collect();
    let mut starting = JoinSet::new();
    for _ in 0..count {
        let mut config = GossipConfig::default();
        config.observe = true;
        config.join = seeds.iter().map(ToString::to_string).collect();
        config.join_wait = LONG;
        starting.spawn(async move {
            let observer = GossipObserver::start(config).await.unwrap();
            let mut watch = observer.watch_service("web").await.unwrap();
            let complete =
                watch.wait_until(|view| view.is_live() && view.len() == INSTANCES as usize);
            timeout(LONG, complete).await.unwrap().unwrap();
            (observer, watch)
        });
    }
    let mut observers = starting.join_all().await;
    println!(
        "{count} observers show all {INSTANCES} instances after {:?}",
        start.elapsed()
    );
    let shares = shares(members).await;
    println!("observers of each member: {shares:?}");
    assert_eq!(shares.iter().sum::<usize>(), count);

    let idle = cost("with observers, idle", members, cpu, time, 0).await;
    let changing = cost("with observers, changes", members, cpu, time, CHANGES).await;
    // What is compared varies by chance: probes are drawn, and so is whom a change is pushed to.
    for (with, without) in [(&idle, &alone), (&changing, &alone_changing)] {
        let bound = without.between * 13 / 10 + 2_000;
        assert!(
            with.between <= bound,
            "{} bytes between members, {} without",
            with.between,
            without.between
        );
    }
    for member in members {
        assert_eq!(member.members().await.unwrap().len(), MEMBERS);
        assert_eq!(member.stats().await.unwrap().engine.deaths, 0);
    }
    latency(members, &mut observers).await;
    fail_over(members, &mut observers).await;
}

/// Waits until members have nothing more to tell each other of how it began.
async fn settled(members: &[Arc<GossipDiscovery>]) {
    until("nothing is queued", async || {
        let mut queued = 0;
        for member in members {
            queued += member.stats().await.unwrap().engine.broadcasts;
        }
        queued == 0
    })
    .await;
}

/// How long a change takes to the last observer.
async fn latency(members: &[Arc<GossipDiscovery>], observers: &mut [(GossipObserver, Watch)]) {
    let mut times = Vec::new();
    for change in 1..=10_u32 {
        let start = Instant::now();
        members[0]
            .register(instance("i-0", 1_000 + change))
            .await
            .unwrap();
        for (_, watch) in observers.iter_mut() {
            let seen = watch.wait_until(|view| number(view, "i-0") == Some(1_000 + change));
            timeout(LONG, seen).await.unwrap().unwrap();
        }
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "a change has come to the last observer after {:?} (median), {:?} at most",
        times[5], times[9]
    );
}

/// One member is killed: how long until all its observers are served by others.
async fn fail_over(members: &[Arc<GossipDiscovery>], observers: &mut [(GossipObserver, Watch)]) {
    let moved = shares(members).await[4];
    let before = totals(&members[..4]).await;
    let start = Instant::now();
    members[4].faults().crash().await;
    members[0].register(instance("i-1", 2_000)).await.unwrap();
    for (_, watch) in observers.iter_mut() {
        let seen = watch.wait_until(|view| view.is_live() && number(view, "i-1") == Some(2_000));
        timeout(LONG, seen).await.unwrap().unwrap();
    }
    println!(
        "{moved} observers of a killed member know the next change after {:?}",
        start.elapsed()
    );
    let live = async || {
        observers
            .iter()
            .all(|(observer, _)| observer.status().connection().is_connected())
    };
    until("all are connected", live).await;
    let after = totals(&members[..4]).await;
    println!(
        "their moving has cost {} bytes",
        after.observed - before.observed
    );
}

struct Cost {
    between: u64,
}

/// What members send, and what they compute, in some time and with some changes in it.
async fn cost(
    what: &str,
    members: &[Arc<GossipDiscovery>],
    cpu: &CpuTime,
    time: Duration,
    changes: u32,
) -> Cost {
    let (before, cpu_before) = (totals(members).await, cpu.now());
    for change in 0..changes {
        members[1]
            .register(instance("i-1", change + 1))
            .await
            .unwrap();
        sleep(time / changes).await;
    }
    if changes == 0 {
        sleep(time).await;
    }
    let (after, cpu_after) = (totals(members).await, cpu.now());
    let (between, observed) = (
        after.between - before.between,
        after.observed - before.observed,
    );
    let seconds = time.as_secs_f64() * MEMBERS as f64;
    println!(
        "{what}: between members {:.0} bytes/s a member, to observers {:.0} bytes/s a member, CPU {:.2} ms/s a member",
        between as f64 / seconds,
        observed as f64 / seconds,
        (cpu_after - cpu_before).as_secs_f64() * 1_000.0 / seconds,
    );
    Cost { between }
}

#[derive(Default)]
struct Totals {
    between: u64,
    observed: u64,
}

async fn totals(members: &[Arc<GossipDiscovery>]) -> Totals {
    let mut totals = Totals::default();
    for member in members {
        let stats = member.stats().await.unwrap().engine;
        totals.between += stats.bytes_out;
        totals.observed += stats.observer_bytes_out;
    }
    totals
}

async fn shares(members: &[Arc<GossipDiscovery>]) -> Vec<usize> {
    let mut shares = Vec::new();
    for member in members {
        shares.push(member.stats().await.unwrap().engine.observers);
    }
    shares
}

async fn members() -> Vec<Arc<GossipDiscovery>> {
    let mut members: Vec<Arc<GossipDiscovery>> = Vec::new();
    for _ in 0..MEMBERS {
        let mut config = GossipConfig::default();
        config.bind = "127.0.0.1:0".parse().unwrap();
        config.join = members
            .iter()
            .map(|member| member.local_addr().to_string())
            .collect();
        config.join_wait = LONG;
        members.push(Arc::new(GossipDiscovery::start(config).await.unwrap()));
    }
    for at in 0..INSTANCES {
        let owner = &members[if at == 0 { 0 } else { 1 }];
        owner
            .register(instance(&format!("i-{at}"), 0))
            .await
            .unwrap();
    }
    for member in &members {
        let mut watch = member.watch_service("web").await.unwrap();
        let complete = watch.wait_until(|view| view.len() == INSTANCES as usize);
        timeout(LONG, complete).await.unwrap().unwrap();
    }
    members
}

/// The CPU time of one thread, where the system tells it.
struct CpuTime {
    path: std::path::PathBuf,
}

impl CpuTime {
    fn of_this_thread() -> Self {
        let thread = std::fs::read_link("/proc/thread-self").unwrap_or_default();
        Self {
            path: std::path::Path::new("/proc").join(thread).join("schedstat"),
        }
    }

    fn now(&self) -> Duration {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    }
}
