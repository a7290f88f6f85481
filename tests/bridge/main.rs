//! Bridges as real processes that are killed at any moment, between real backends, while instances
//! come, change and die, and a client of the target looks up all the time.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod process;
mod sight;
mod world;

use std::time::Duration;

use tidings_testkit::{etcd, zookeeper};

use self::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// What each process of a test runs; see [`process`].
#[test]
#[ignore = "it is run by the other tests, as a process of its own"]
fn one_process() {
    process::run();
}

tidings_testkit::server_tests! { etcd_3_4:
    async fn gossip_to_etcd_with_one_bridge_killed_at_any_moment() {
        let etcd = etcd::Cluster::start(etcd::Options::default()).await.unwrap();
        let to = format!("etcd://{}/prod?ttl=10s", etcd.addresses()[0]);
        one_is_killed(&mut World::from_gossip(to).await).await;
    }

    async fn gossip_to_etcd_with_one_of_two_bridges_killed_at_any_moment() {
        let etcd = etcd::Cluster::start(etcd::Options::default()).await.unwrap();
        let to = format!("etcd://{}/prod?ttl=10s", etcd.addresses()[0]);
        one_of_two_is_killed(&mut World::from_gossip(to).await).await;
    }
}

tidings_testkit::server_tests! { zookeeper_3_8:
    async fn gossip_to_zookeeper_with_one_of_two_bridges_killed_at_any_moment() {
        let zookeeper = zookeeper::Ensemble::start(zookeeper::Options::default()).await.unwrap();
        let to = format!("zk://{}/prod?session_timeout=10s", zookeeper.addresses()[0]);
        one_of_two_is_killed(&mut World::from_gossip(to).await).await;
    }

    async fn zookeeper_to_gossip_with_the_only_bridge_killed() {
        let zookeeper = zookeeper::Ensemble::start(zookeeper::Options::default()).await.unwrap();
        let from = format!("zk://{}/prod?session_timeout=5s", zookeeper.addresses()[0]);
        let mut world = World::to_gossip(from).await;
        world.start_bridge(0).await;
        world.churn_for(5 * SECOND).await;
        // A killed member is gone at once, and so are its mirrors, until the next one is there.
        world.leave_a_gap(SECOND).await;
        world.churn_for(5 * SECOND).await;
        world.end().await;
    }
}

/// Restarted before its lease has ended, a bridge leaves no gap; restarted after it, the gap that is
/// documented, and everything comes back.
async fn one_is_killed(world: &mut World) {
    world.start_bridge(0).await;
    world.churn_for(3 * SECOND).await;
    for _ in 0..8 {
        let alive = world.up_to(3 * SECOND);
        world.churn_for(alive).await;
        world.kill_bridge(0).await;
        let dead = world.up_to(2 * SECOND);
        world.churn_for(dead).await;
        world.start_bridge(0).await;
    }
    world.churn_for(3 * SECOND).await;
    world.leave_a_gap(15 * SECOND).await;
    world.churn_for(3 * SECOND).await;
    world.end().await;
}

/// As long as one bridge lives, there is no gap at all.
async fn one_of_two_is_killed(world: &mut World) {
    world.start_bridge(0).await;
    world.start_bridge(1).await;
    for round in 0..8 {
        let both = world.up_to(4 * SECOND);
        world.churn_for(both).await;
        world.kill_bridge(round % 2).await;
        // Before and after its lease has ended.
        let alone = world.up_to(14 * SECOND);
        world.churn_for(alone).await;
        world.start_bridge(round % 2).await;
    }
    world.close_bridge(0).await;
    world.churn_for(12 * SECOND).await;
    world.end().await;
}
