//! Sealed members on real sockets of the loopback interface: what is seen on the wire, what somebody
//! on the wire can do, and how keys change while the cluster runs.

#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod attacks;
mod capture;
mod relay;
mod rotation;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidings_api::Instance;
use tidings_gossip::{GossipConfig, GossipDiscovery, MemberState, SealKey, SealMode, SealStats};
use tokio::time::sleep;

/// How long anything may take before the test fails; far above what it takes.
const LONG: Duration = Duration::from_secs(30);
/// Time between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

fn key(number: u8) -> SealKey {
    SealKey::from_bytes(std::array::from_fn(|at| at as u8 ^ number)).unwrap()
}

/// Five times as fast as by default; unsealed.
fn config(join: &[SocketAddr]) -> GossipConfig {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.join = join.iter().map(ToString::to_string).collect();
    config.join_wait = LONG;
    config.probe_interval = Duration::from_millis(200);
    config.probe_timeout = Duration::from_millis(100);
    config
}

fn sealed(join: &[SocketAddr]) -> GossipConfig {
    let mut config = config(join);
    config.keys = vec![key(1)];
    config
}

/// Members that all know each other, each after `config`.
async fn cluster(
    size: usize,
    config: impl Fn(&[SocketAddr]) -> GossipConfig,
) -> Vec<GossipDiscovery> {
    let mut members = vec![GossipDiscovery::start(config(&[])).await.unwrap()];
    let seed = members[0].local_addr();
    while members.len() < size {
        members.push(GossipDiscovery::start(config(&[seed])).await.unwrap());
    }
    for member in &members {
        until_alive(member, size).await;
    }
    members
}

async fn until_alive(member: &GossipDiscovery, count: usize) {
    until("everybody is known", async || {
        let members = member.members().await.unwrap();
        let alive = members
            .iter()
            .filter(|info| info.state == MemberState::Alive);
        alive.count() == count
    })
    .await;
}

fn instance(id: &str) -> Instance {
    let instance = Instance::new("web", "10.0.0.7:80");
    instance.and_then(|web| web.with_id(id)).unwrap()
}

async fn stats(member: &GossipDiscovery) -> SealStats {
    member.stats().await.unwrap().seal
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(POLL).await;
    }
}

/// Waits until a counter of a member is at least so high.
async fn until_counted(
    member: &GossipDiscovery,
    what: &str,
    least: u64,
    count: fn(SealStats) -> u64,
) {
    until(what, async || count(stats(member).await) >= least).await;
}

/// Whatever happened: nobody was accused, on any member's count.
async fn assert_nobody_accused(members: &[GossipDiscovery]) {
    for member in members {
        let stats = member.stats().await.unwrap();
        let engine = stats.engine;
        assert_eq!((engine.suspicions, engine.deaths), (0, 0), "{stats:?}");
    }
}

#[tokio::test]
async fn a_member_without_the_key_stays_out() {
    let members = cluster(2, sealed).await;
    let seed = members[0].local_addr();
    let mut other_key = sealed(&[seed]);
    other_key.keys = vec![key(9)];
    for mut config in [other_key, config(&[seed])] {
        config.join_wait = Duration::from_millis(500);
        let outsider = GossipDiscovery::start(config).await.unwrap();
        outsider.faults().crash().await;
    }
    let stats = stats(&members[0]).await;
    assert!(stats.unknown_key > 0 && stats.unsealed > 0, "{stats:?}");
    assert_eq!(members[0].members().await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_sealed_costs_the_bytes_that_are_stated() {
    // A ping has room for what it carries: 1,356 bytes and the 44 of the seal.
    let members = cluster(3, sealed).await;
    let relay = relay::Relay::new().await;
    let pair = relay::pair(&relay, sealed).await;
    for number in 0..300 {
        tidings_api::Discovery::register(&pair[0], instance(&number.to_string()))
            .await
            .unwrap();
    }
    tidings_api::DiscoveryExt::wait_for(&pair[1], "web", 300)
        .await
        .unwrap();
    let longest = relay
        .datagrams()
        .iter()
        .map(|datagram| datagram.bytes.len())
        .max();
    assert!(
        longest.is_some_and(|longest| (1_200..=1_400).contains(&longest)),
        "{longest:?}"
    );
    assert_nobody_accused(&members).await;
}

#[tokio::test]
async fn a_mode_without_keys_and_a_missing_file_are_errors_at_the_start() {
    let mut no_file = config(&[]);
    no_file.keys_file = Some("/not/there".into());
    let mut no_key = config(&[]);
    no_key.seal = Some(SealMode::Required);
    for (config, text) in [
        (
            no_file,
            "gossip: keys_file \"/not/there\": accepted is a file",
        ),
        (no_key, "gossip: seal required without keys"),
    ] {
        let error = GossipDiscovery::start(config).await.unwrap_err();
        assert_eq!(error.kind(), tidings_api::ErrorKind::InvalidConfig);
        assert!(error.to_string().starts_with(text), "{error}");
    }
}
