//! Many members, and many changes, on real sockets of one process.
//!
//! ```text
//! cargo test --release -p tidings-gossip --features fault-injection --test scale                       # seconds
//! TIDINGS_SCALE=long cargo test --release -p tidings-gossip --features fault-injection --test scale -- --nocapture
//! ```
//!
//! The long version runs fifty members with a thousand changes a second for a minute, and a thousand
//! members for five idle minutes; each says what it cost.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Discovery, DiscoveryExt, Instance, View, Watch};
use tidings_gossip::{GossipConfig, GossipDiscovery, MemberState};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Makes the tests as large and as long as the header says, where it is `long`.
const VARIABLE: &str = "TIDINGS_SCALE";
/// How long anything may take before a test fails; far above what it takes.
const LONG: Duration = Duration::from_secs(120);
/// Changes a second, of all members together.
const RATE: usize = 1_000;

/// Members one beside the other: one at a time on this machine.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_a_second_are_all_there_at_the_end() {
    let _alone = ALONE.lock().await;
    let (size, time) = match is_long() {
        true => (50, Duration::from_secs(60)),
        false => (10, Duration::from_secs(2)),
    };
    let members = cluster(size).await;
    let mut watches = Vec::new();
    for member in &members {
        watches.push(member.watch_service("web").await.unwrap());
    }
    let start = Instant::now();
    let mut changing = JoinSet::new();
    for (number, member) in members.iter().enumerate() {
        let member = member.clone();
        let pause =
            Duration::from_secs(1) * u32::try_from(size).unwrap() / u32::try_from(RATE).unwrap();
        changing.spawn(async move {
            let mut ticks = interval(pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut changes = 0_usize;
            while start.elapsed() < time {
                ticks.tick().await;
                changes += 1;
                member.register(instance(number, changes)).await.unwrap();
            }
            (number, changes)
        });
    }
    let mut last = vec![0; size];
    while let Some(changed) = changing.join_next().await {
        let (number, changes) = changed.unwrap();
        last[number] = changes;
    }
    let made: usize = last.iter().sum();
    let rate = made as f64 / start.elapsed().as_secs_f64();
    println!("{made} changes, {rate:.0} a second");
    assert!(
        rate > RATE as f64 / 2.0,
        "{rate:.0} changes a second were made"
    );

    let ended = Instant::now();
    for watch in &mut watches {
        let is_newest = |view: &View| {
            view.len() == size && (0..size).all(|number| is_at(view, number, last[number]))
        };
        timeout(LONG, watch.wait_until(is_newest))
            .await
            .unwrap()
            .unwrap();
    }
    println!(
        "all views have the newest {:?} after the last change",
        ended.elapsed()
    );
    let mut queued = 0;
    for member in &members {
        let stats = member.stats().await.unwrap();
        assert_eq!(stats.engine.deaths, 0, "{}", member.identity().name);
        assert_eq!(stats.engine.refused_records, 0);
        queued = queued.max(stats.engine.broadcasts_max);
    }
    println!("at most {queued} broadcasts were queued at one member");
    assert!(
        queued <= 4 * size,
        "{queued} broadcasts were queued: one an item is enough"
    );
    close(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_members_stay_together() {
    let _alone = ALONE.lock().await;
    let (size, time) = match is_long() {
        true => (1_000, Duration::from_secs(300)),
        false => (60, Duration::from_secs(3)),
    };
    let start = Instant::now();
    let members = cluster(size).await;
    for (number, member) in members.iter().enumerate() {
        member.register(instance(number, 0)).await.unwrap();
    }
    let mut watch: Watch = members[size - 1].watch_service("web").await.unwrap();
    let is_complete = |view: &View| view.len() == size;
    timeout(LONG, watch.wait_until(is_complete))
        .await
        .unwrap()
        .unwrap();
    println!(
        "{size} members, all with all records after {:?}",
        start.elapsed()
    );

    let before = totals(&members).await;
    // What is tested is that nothing happens.
    tokio::time::sleep(time).await;
    let after = totals(&members).await;
    let bytes = (after.bytes - before.bytes) as f64 / size as f64 / time.as_secs_f64();
    println!(
        "idle: {bytes:.0} bytes/s a member without headers, {} suspicions",
        after.suspicions - before.suspicions
    );
    assert_eq!(after.deaths, 0);
    for member in &members {
        let view = member.resolve("web").await.unwrap();
        assert!(view.is_live() && view.len() == size, "{view:?}");
    }
    close(members).await;
}

#[derive(Default)]
struct Totals {
    bytes: u64,
    suspicions: u64,
    deaths: u64,
}

async fn totals(members: &[Arc<GossipDiscovery>]) -> Totals {
    let mut totals = Totals::default();
    for member in members {
        let stats = member.stats().await.unwrap().engine;
        totals.bytes += stats.bytes_out;
        totals.suspicions += stats.suspicions;
        totals.deaths += stats.deaths;
    }
    totals
}

/// Members that all know each other.
async fn cluster(size: usize) -> Vec<Arc<GossipDiscovery>> {
    let first = start(&[]).await;
    let seed = first.local_addr();
    let mut starting = JoinSet::new();
    for _ in 1..size {
        starting.spawn(async move { start(&[seed]).await });
    }
    let mut members = vec![first];
    while let Some(started) = starting.join_next().await {
        members.push(started.unwrap());
    }
    for member in &members {
        let mut watch = member.watch_members().await.unwrap();
        let complete = async {
            let alive = |watch: &tidings_gossip::MemberWatch| {
                let members = watch.members();
                members
                    .iter()
                    .filter(|info| info.state == MemberState::Alive)
                    .count()
            };
            while alive(&watch) < size {
                watch.changes().await.unwrap();
            }
        };
        timeout(LONG, complete).await.unwrap();
    }
    members
}

async fn start(join: &[SocketAddr]) -> Arc<GossipDiscovery> {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.join = join.iter().map(ToString::to_string).collect();
    config.join_wait = LONG.min(Duration::from_secs(60));
    Arc::new(GossipDiscovery::start(config).await.unwrap())
}

async fn close(members: Vec<Arc<GossipDiscovery>>) {
    let mut closing = JoinSet::new();
    for member in members {
        closing.spawn(async move { member.close().await });
    }
    while let Some(closed) = closing.join_next().await {
        closed.unwrap().unwrap();
    }
}

fn instance(number: usize, change: usize) -> Instance {
    let instance = Instance::new("web", "10.0.0.7:80");
    let instance = instance.and_then(|web| web.with_id(format!("web-{number}")));
    instance
        .and_then(|web| web.with_metadata("change", change.to_string()))
        .unwrap()
}

fn is_at(view: &View, number: usize, change: usize) -> bool {
    let id = format!("web-{number}");
    let found = view.iter().find(|found| found.id().as_str() == id);
    let metadata = found.and_then(|found| found.metadata().get("change").cloned());
    metadata.is_some_and(|at| at == change.to_string())
}

fn is_long() -> bool {
    std::env::var(VARIABLE).is_ok_and(|value| value == "long")
}
