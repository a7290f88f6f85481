//! What a member keeps in memory: live bytes of the heap, counted by the allocator.
//!
//! ```text
//! cargo test --release -p tidings-gossip --features fault-injection --test memory -- --nocapture
//! ```
//!
//! What is resident is more: the allocator rounds up and keeps what it may need again, and the
//! program's own code is there once.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use std::alloc::System;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tidings_api::{Discovery, DiscoveryExt, Generation, Instance, Selector, Watch};
use tidings_gossip::engine::{Engine, EngineConfig, Identity, LinkId};
use tidings_gossip::wire::content::Content;
use tidings_gossip::wire::message::{Alive, Record};
use tidings_gossip::wire::{self, Header, Message};
use tidings_gossip::{Features, GossipConfig, GossipDiscovery, SealMode};
use tokio::runtime::Runtime;
use tokio::time::timeout;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The heap is that of the whole process: one test at a time, its runtime included.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How long anything may take before a test fails; far above what it takes.
const LONG: Duration = Duration::from_secs(120);

/// Live bytes of the heap.
fn live() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// What an engine keeps of each other member with one record, view included.
#[test]
fn a_known_member_takes_less_than_a_kilobyte() {
    /// About what each takes today; who adds to it should know.
    const BOUND: usize = 720;
    /// What an engine takes that knows nobody.
    const ALONE: usize = 8 << 10;
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for members in [100, 1_000, 10_000] {
        let before = live();
        let engine = engine_that_knows(members);
        let alone = live() - before;
        let view = engine.view(&Selector::All);
        assert_eq!(view.len(), members);
        let whole = live() - before;
        println!(
            "{members} members known: {} bytes each, {} with a view of all",
            alone / members,
            whole / members
        );
        assert!(
            whole < members * BOUND + ALONE,
            "{whole} bytes for {members} members"
        );
    }
}

/// What a member takes among others in one process, sockets, links and tasks included.
#[test]
fn what_a_member_takes_is_mostly_what_it_knows() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    Runtime::new().unwrap().block_on(a_cluster_in_one_process());
}

async fn a_cluster_in_one_process() {
    /// What a member takes beside what it knows.
    const BOUND: usize = 48 << 10;
    let size = std::env::var("TIDINGS_MEMORY_MEMBERS").map_or(30, |size| size.parse().unwrap());
    let before = live();
    let mut members = vec![start(0, None).await];
    let seed = members[0].0.local_addr();
    for number in 1..size {
        members.push(start(number, Some(seed)).await);
    }
    for (_, watch) in &mut members {
        let all = watch.wait_until(|view| view.len() == size);
        timeout(LONG, all).await.unwrap().unwrap();
    }
    // Links that were needed to join are idle, and close after a while.
    let deadline = Instant::now() + LONG;
    for (member, _) in &members {
        while member.stats().await.unwrap().links.open > 8 {
            assert!(Instant::now() < deadline, "links stay open");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let each = (live() - before) / size;
    let known = {
        let before = live();
        let engine = engine_that_knows(size);
        let view = engine.view(&Selector::All);
        let known = live() - before;
        drop((engine, view));
        known
    };
    println!(
        "{size} members: {} KiB each, of which {} KiB is what it knows of the others",
        each / 1024,
        known / 1024
    );
    assert!(each < known + BOUND, "{each} bytes, {known} of them known");
    for (member, _) in members {
        member.close().await.unwrap();
    }
}

async fn start(number: usize, seed: Option<SocketAddr>) -> (GossipDiscovery, Watch) {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.seal = Some(SealMode::Off);
    config.name = Some(name(number));
    config.join = seed.iter().map(ToString::to_string).collect();
    config.join_wait = Duration::from_secs(60);
    let member = GossipDiscovery::start(config).await.unwrap();
    member.register(instance(number)).await.unwrap();
    let watch = member.watch_service("web").await.unwrap();
    (member, watch)
}

/// An engine that was told of so many others, and of one record of each.
fn engine_that_knows(members: usize) -> Engine {
    let now = Instant::now();
    let identity = Identity {
        name: "me".into(),
        generation: Generation::new(1),
        address: "127.0.0.1:1".parse().unwrap(),
    };
    let config = EngineConfig::default();
    let cluster = wire::cluster_hash(&config.cluster);
    let mut engine = Engine::new(now, identity, config, 1);
    engine.handle_seeds(now, &["127.0.0.1:2".parse().unwrap()]);
    for number in 0..members {
        let name = name(number);
        let id = wire::member_hash(&name);
        let header = Header {
            cluster,
            sender: id,
        };
        let mut frame = header.to_frame();
        let alive = Alive {
            name: name.into(),
            generation: 1 << 50,
            incarnation: 0,
            address: ([10, 0, (number >> 8) as u8, number as u8], 7946).into(),
            floor: 0,
            newest: 1,
            seal: Box::default(),
            features: Features::NONE,
            unknown: Box::default(),
        };
        Message::Alive(alive).encode(&mut frame);
        let instance = instance(number).with_generation(Generation::new(1 << 50));
        let record = Record {
            owner: id,
            generation: 1 << 50,
            version: 1,
            key: instance.key().clone(),
            content: Some(Content::from(std::sync::Arc::new(instance))),
        };
        Message::Record(record).encode(&mut frame);
        // As the answer to a join, which isn't spread again.
        engine.handle_link(now, LinkId(1), &frame);
        while engine.poll_transmit().is_some() {}
        while engine.poll_event().is_some() {}
    }
    engine
}

fn name(number: usize) -> String {
    format!("member-{number}")
}

fn instance(number: usize) -> Instance {
    let instance = Instance::new("web", "10.0.0.7:80");
    let instance = instance.and_then(|web| web.with_id(name(number)));
    instance
        .and_then(|web| web.with_metadata("value", "0"))
        .unwrap()
}
