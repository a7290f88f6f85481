//! What the backend costs beside plain `zookeeper-client`, in the same run against the same server.
//!
//! `cargo bench -p tidings-zk`; prints both sides and their ratio.
//!
//! Found on two cores, which the server shares with the clients and with whatever else the machine
//! does. Register → seen elsewhere takes 1.08 to 1.11 of the raw sequence in four runs (0.8 ms,
//! target 1.3). Registrations at 64 in flight reach, as the median of the rounds, 1.53, 1.46 and 1.24
//! of raw creations in three runs of 9, 9 and 15 rounds (19,700 to 22,500 a second, target 0.8).
//! Rounds are far apart, those of the raw side most: 6,800 to 31,000 a second, so that the ratio of
//! a single round is anything from 0.68 to 1.94.
//!
//! Tidings is no faster client than the raw one; it sends fewer requests, since creations that wait
//! go together and one watch guards all nodes. Raw creations are not guarded; those that are, one
//! by one, reach about half of what Tidings does. One registration at a time gains from neither: that
//! is the latency above.
#![allow(clippy::unwrap_used, reason = "a benchmark ends where something fails")]
#![allow(clippy::print_stdout, reason = "what it is for")]

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tidings_api::{Discovery, DiscoveryExt, Instance};
use tidings_testkit::zookeeper::{Ensemble, Options};
use tidings_zk::{ZkConfig, ZkDiscovery};
use zookeeper_client as zk;

/// Samples of the latency.
const SAMPLES: usize = 1_000;
/// Registrations of one round of the throughput.
const REGISTRATIONS: usize = 8_192;
const IN_FLIGHT: usize = 64;
/// Throughputs are measured in turn so many times, after those that warm up.
const ROUNDS: usize = 15;
const WARM_UP_ROUNDS: usize = 2;
/// Run before a latency counts: the server's code is compiled while it runs.
const WARM_UP: usize = 2_000;

const PERSISTENT: zk::CreateOptions<'static> =
    zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
const CONTAINER: zk::CreateOptions<'static> =
    zk::CreateMode::Container.with_acls(zk::Acls::anyone_all());
const EPHEMERAL: zk::CreateOptions<'static> =
    zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return println!("a benchmark: run it with cargo bench");
    }
    tidings_testkit::runtime().block_on(measure());
}

async fn measure() {
    let options = Options {
        // A snapshot would be written in the midst of somebody's round.
        lines: vec!["snapCount=100000000".into()],
        ..Options::default()
    };
    let ensemble = match Ensemble::start(options).await {
        Ok(ensemble) => ensemble,
        Err(error) => return println!("left out: {error}"),
    };
    Box::pin(latency(&ensemble)).await;
    Box::pin(throughput(&ensemble)).await;
}

/// From the call until another session has the content: register → watch against create → watch
/// event → read.
async fn latency(ensemble: &Ensemble) {
    let (owner, viewer) = (start(ensemble).await, start(ensemble).await);
    let (writer, reader) = (connect(ensemble).await, connect(ensemble).await);
    let content = content(ensemble, &owner).await;
    writer.mkdir("/raw/web", &PERSISTENT).await.unwrap();
    let mode = zk::AddWatchMode::PersistentRecursive;
    let mut events = reader.watch("/raw/web", mode).await.unwrap();
    let mut seen = viewer.watch_service("web").await.unwrap();
    for n in 0..WARM_UP / 2 {
        let path = format!("/raw/warm-{n}");
        writer.create(&path, &content, &EPHEMERAL).await.unwrap();
        writer.delete(&path, None).await.unwrap();
    }
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    // In turn, so that both meet the same weather; and each is gone before the next comes.
    for sample in 0..SAMPLES {
        let instance = instance(&format!("i{sample}"));
        let key = instance.key().clone();
        let start = Instant::now();
        let (registered, view) = tokio::join!(
            owner.register(instance),
            seen.wait_until(|view| view.get(&key).is_some())
        );
        ours.push(start.elapsed());
        registered.unwrap();
        view.unwrap();
        owner.deregister(&key).await.unwrap();
        seen.wait_until(|view| view.get(&key).is_none())
            .await
            .unwrap();

        let path = format!("/raw/web/i{sample}");
        let start = Instant::now();
        let (created, read) = tokio::join!(writer.create(&path, &content, &EPHEMERAL), async {
            let event = events.changed().await;
            reader.get_data(&event.path).await
        });
        raw.push(start.elapsed());
        created.unwrap();
        read.unwrap();
        writer.delete(&path, None).await.unwrap();
        events.changed().await;
    }
    let (ours, raw) = (median(&mut ours), median(&mut raw));
    println!("register → seen elsewhere, median of {SAMPLES}");
    println!("  raw create → watch → read  {raw:>10.1?}");
    println!("  tidings                    {ours:>10.1?}");
    println!(
        "  ratio {:.2} (at most 1.3)",
        ours.as_secs_f64() / raw.as_secs_f64()
    );
}

/// Who registers in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Tidings,
    /// Creations, and nothing else.
    Raw,
    /// Creations and a watch on each node: what one has to do to notice that a node is gone.
    Watched,
}

/// From the first call to the last answer, each round with a session of its own that nothing else
/// shares the server with, in parents of the same kind and paths and contents of the same length.
async fn throughput(ensemble: &Ensemble) {
    const SIDES: [Side; 3] = [Side::Tidings, Side::Raw, Side::Watched];
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        // Whoever is first in one round is last in the next.
        for turn in 0..SIDES.len() {
            let number = (round + turn) % SIDES.len();
            let took = match SIDES[number] {
                Side::Tidings => register_all(ensemble, round).await,
                side => create_all(ensemble, round, side == Side::Watched).await,
            };
            if round >= WARM_UP_ROUNDS {
                rates[number].push(REGISTRATIONS as f64 / took.as_secs_f64());
            }
        }
    }
    let ratios = |of: &[f64], to: &[f64]| of.iter().zip(to).map(|(of, to)| of / to).collect();
    let [tidings, raw, watched] = &rates;
    let (ratio, beside_watched): (Vec<f64>, Vec<f64>) =
        (ratios(tidings, raw), ratios(tidings, watched));
    println!("registrations a second, {IN_FLIGHT} in flight, median of {ROUNDS} rounds (min–max)");
    for (name, rates) in [
        ("raw create", raw),
        ("raw create and watch each", watched),
        ("tidings", tidings),
    ] {
        let [low, middle, high] = spread(rates);
        println!("  {name:<26} {middle:>10.0}  ({low:.0}–{high:.0})");
    }
    for (name, ratios) in [
        ("ratio to raw create", ratio),
        ("ratio with watches", beside_watched),
    ] {
        let [low, middle, high] = spread(&ratios);
        println!("  {name:<26} {middle:>10.2}  ({low:.2}–{high:.2})");
    }
    println!("  (at least 0.8 of raw create)");
}

async fn register_all(ensemble: &Ensemble, round: usize) -> Duration {
    let owner = start(ensemble).await;
    // Its parent is there on the other side, too.
    let first = owner.register(instance("first")).await.unwrap();
    let begin = Instant::now();
    let calls = (0..REGISTRATIONS).map(|n| owner.register(instance(&id(round, n))));
    let mut calls = stream::iter(calls).buffer_unordered(IN_FLIGHT);
    while let Some(registered) = calls.next().await {
        registered.unwrap();
    }
    let took = begin.elapsed();
    drop((calls, first));
    // Returns once the server has ended the session.
    owner.close().await.unwrap();
    took
}

async fn create_all(ensemble: &Ensemble, round: usize, watched: bool) -> Duration {
    let owner = start(ensemble).await;
    let content = content(ensemble, &owner).await;
    owner.close().await.unwrap();
    let writer = connect(ensemble).await;
    // As long as that of the other side.
    writer.mkdir("/creation", &PERSISTENT).await.unwrap();
    match writer.create("/creation/web", b"", &CONTAINER).await {
        Err(zk::Error::NodeExists) => {}
        created => drop(created.unwrap()),
    }
    let begin = Instant::now();
    let calls = (0..REGISTRATIONS).map(|n| create(&writer, &content, id(round, n), watched));
    let mut calls = stream::iter(calls).buffer_unordered(IN_FLIGHT);
    let mut watchers = Vec::with_capacity(REGISTRATIONS);
    while let Some(watcher) = calls.next().await {
        watchers.extend(watcher);
    }
    let took = begin.elapsed();
    drop(calls);
    let mut states = writer.state_watcher();
    // Without the last client the session is ended, and the watchers with it.
    drop(writer);
    while !states.changed().await.is_terminated() {}
    took
}

async fn create(
    writer: &zk::Client,
    content: &[u8],
    id: String,
    watched: bool,
) -> Option<zk::OneshotWatcher> {
    let path = format!("/creation/web/{id}");
    let created = writer.create(&path, content, &EPHEMERAL);
    let guard = watched.then(|| writer.check_and_watch_stat(&path));
    created.await.unwrap();
    match guard {
        Some(guard) => Some(guard.await.unwrap().1),
        None => None,
    }
}

fn id(round: usize, n: usize) -> String {
    format!("{round:03}-{n:05}")
}

async fn start(ensemble: &Ensemble) -> ZkDiscovery {
    let mut config = ZkConfig::default();
    config.hosts = vec![ensemble.addresses()[0].to_string()];
    ZkDiscovery::start(config).await.unwrap()
}

async fn connect(ensemble: &Ensemble) -> zk::Client {
    let server = ensemble.addresses()[0].to_string();
    let connector = zk::Client::connector().with_session_timeout(Duration::from_secs(10));
    connector.connect(&server).await.unwrap()
}

/// What one of our nodes holds, so that both sides write the same.
async fn content(ensemble: &Ensemble, owner: &ZkDiscovery) -> Vec<u8> {
    let key = owner.register(instance(&id(0, 0))).await.unwrap();
    let client = connect(ensemble).await;
    let path = format!("/services/{}/{}", key.service(), key.id());
    let (content, _) = client.get_data(&path).await.unwrap();
    owner.deregister(&key).await.unwrap();
    let mut states = client.state_watcher();
    drop(client);
    while !states.changed().await.is_terminated() {}
    content
}

fn instance(id: &str) -> Instance {
    Instance::new("web", "10.0.0.7:8080")
        .and_then(|instance| instance.with_id(id))
        .and_then(|instance| instance.with_metadata("version", "1.4.2"))
        .unwrap()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Lowest, median and highest.
fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    [
        sorted[0],
        sorted[sorted.len() / 2],
        sorted[sorted.len() - 1],
    ]
}
