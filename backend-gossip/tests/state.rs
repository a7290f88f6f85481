//! What members find in their state folder when they start again.

#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::{TempDir, tempdir};
use tidings_api::{Discovery, DiscoveryExt, ErrorKind, Instance};
use tidings_gossip::{GossipConfig, GossipDiscovery, MemberState};
use tokio::time::{sleep, timeout};

/// How long anything may take before the test fails; far above what it takes.
const LONG: Duration = Duration::from_secs(30);
/// Time between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

fn config(name: &str, state: &TempDir, join: &[SocketAddr]) -> GossipConfig {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.name = Some(name.to_owned());
    config.state_dir = Some(state.path().to_owned());
    config.join = join.iter().map(ToString::to_string).collect();
    config.join_wait = LONG;
    config.probe_interval = Duration::from_millis(100);
    config.probe_timeout = Duration::from_millis(50);
    config
}

/// A member that offers `web/NAME`.
async fn start(config: GossipConfig) -> GossipDiscovery {
    let member = timeout(LONG, GossipDiscovery::start(config)).await;
    let member = member.expect("it takes too long").unwrap();
    let web = Instance::new("web", "10.0.0.7:80").unwrap();
    let web = web.with_id(&*member.identity().name).unwrap();
    member.register(web).await.unwrap();
    member
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(POLL).await;
    }
}

async fn until_seen(member: &GossipDiscovery, count: usize) {
    until("the instances are seen", async || {
        let view = member.resolve("web").await.unwrap();
        view.len() == count && view.is_live()
    })
    .await;
}

async fn until_written(folder: &Path, line: &str) {
    until(line, async || {
        let mut files = fs::read_dir(folder).unwrap();
        files.any(|file| {
            let text = fs::read_to_string(file.unwrap().path());
            text.is_ok_and(|text| text.contains(line))
        })
    })
    .await;
}

#[tokio::test]
async fn a_member_that_crashed_rejoins_without_a_seed() {
    let (first_state, second_state) = (tempdir().unwrap(), tempdir().unwrap());
    let first = start(config("first", &first_state, &[])).await;
    let second = start(config("second", &second_state, &[first.local_addr()])).await;
    until_seen(&second, 2).await;
    let line = format!("member {} first\n", first.local_addr());
    until_written(second_state.path(), &line).await;
    let former = second.identity();
    second.faults().crash().await;
    until_seen(&first, 1).await;

    let second = start(config("second", &second_state, &[])).await;
    assert!(second.identity().generation > former.generation);
    until_seen(&second, 2).await;
    until_seen(&first, 2).await;
}

#[tokio::test]
async fn a_whole_cluster_without_seeds_comes_back() {
    let states = [(); 3].map(|()| tempdir().unwrap());
    let names = ["a", "b", "c"];
    let mut members = vec![start(config("a", &states[0], &[])).await];
    let seed = members[0].local_addr();
    for (name, state) in names.iter().zip(&states).skip(1) {
        members.push(start(config(name, state, &[seed])).await);
    }
    for (member, state) in members.iter().zip(&states) {
        until_seen(member, 3).await;
        until_written(state.path(), "\nmember ").await;
    }
    let addresses: Vec<_> = members.iter().map(GossipDiscovery::local_addr).collect();
    for member in members {
        member.faults().crash().await;
    }

    let mut members = Vec::new();
    for ((name, state), address) in names.iter().zip(&states).zip(addresses) {
        let mut config = config(name, state, &[]);
        config.bind = address;
        // The first finds nobody yet, and says so: it was not alone.
        config.join_wait = Duration::ZERO;
        members.push(start(config).await);
        assert!(members.len() > 1 || !members[0].status().connection().is_connected());
    }
    for member in &members {
        until_seen(member, 3).await;
    }
}

#[tokio::test]
async fn who_was_left_alone_starts_alone_and_still_looks_for_the_lost() {
    let (state, other_state) = (tempdir().unwrap(), tempdir().unwrap());
    let member = start(config("left", &state, &[])).await;
    let lost = start(config("lost", &other_state, &[member.local_addr()])).await;
    until_seen(&member, 2).await;
    let address = lost.local_addr();
    lost.faults().crash().await;
    until_seen(&member, 1).await;
    member.close().await.unwrap();
    until_written(state.path(), &format!("lost {address} lost\n")).await;

    let member = start(config("left", &state, &[])).await;
    assert!(
        member.status().connection().is_connected(),
        "nobody else is expected"
    );
    until("it has asked the lost one", async || {
        member.stats().await.unwrap().engine.syncs > 0
    })
    .await;
}

#[tokio::test]
async fn who_has_left_is_not_waited_for() {
    let (state, other_state) = (tempdir().unwrap(), tempdir().unwrap());
    let member = start(config("stays", &state, &[])).await;
    let leaver = start(config("leaves", &other_state, &[member.local_addr()])).await;
    until_seen(&member, 2).await;
    until_written(state.path(), "leaves\n").await;
    leaver.close().await.unwrap();
    until_seen(&member, 1).await;
    member.close().await.unwrap();
    for file in fs::read_dir(state.path()).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("leaves"), "{text}");
    }
    let member = start(config("stays", &state, &[])).await;
    assert!(member.status().connection().is_connected());
    let dead = member.members().await.unwrap().into_iter();
    assert_eq!(
        dead.filter(|info| info.state != MemberState::Alive).count(),
        0
    );
}

#[tokio::test]
async fn a_damaged_file_is_no_reason_not_to_serve() {
    let state = tempdir().unwrap();
    start(config("web-1", &state, &[]))
        .await
        .close()
        .await
        .unwrap();
    let file = fs::read_dir(state.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::write(&file, b"\xff\0garbage").unwrap();
    let member = start(config("web-1", &state, &[])).await;
    assert!(member.status().connection().is_connected());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("name web-1\n"), "{text}");
}

#[tokio::test]
async fn a_wrong_folder_is_an_error_that_names_it() {
    let state = tempdir().unwrap();
    let mut config = config("web-1", &state, &[]);
    let folder = state.path().join("not/there");
    config.state_dir = Some(folder.clone());
    let error = GossipDiscovery::start(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    let expected = format!("gossip: state \"{}\": accepted is", folder.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
}
