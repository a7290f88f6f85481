//! What the backend costs beside plain `etcd-client`, in the same run against the same server.
//!
//! `cargo bench -p tidings-etcd`, or with `-- 3.4` or `-- 3.5` for one version. Prints a table; a
//! version that isn't installed is left out, with a word.
//!
//! As measured, with client and server on the same two cores and a disk that syncs, as ratios to
//! plain `etcd-client` (rates vary by a tenth and more from run to run):
//!
//! | | goal | etcd 3.4 | etcd 3.5 |
//! |---|---|---|---|
//! | register → seen elsewhere, p50 | ≤ 1.2 | 1.13–1.17 | 1.19–1.20 |
//! | register → seen elsewhere, p99 | ≤ 1.2 | 0.84–1.24 | 0.61–0.88 |
//! | registrations at 64 in flight, 1 lease | ≥ 0.8 | 1.86–2.41 | 1.26–1.33 |
//! | the same, 2 leases | | 1.67 | 1.37 |
//! | the same, 4 leases | | 2.16 | 1.38 |
//! | the same, 8 leases | | 1.72 | 1.06 |
//! | the same, 16 leases | | 1.46 | 1.10 |
//!
//! Before writes shared transactions, and watches on own keys were made in batches, registrations
//! were at 0.59. Resolving from the local view takes 50 ns.
#![allow(clippy::unwrap_used, reason = "a benchmark ends where something fails")]
#![allow(clippy::print_stdout, reason = "what it is for")]

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, PutOptions, WatchOptions};
use tidings_api::{Discovery, DiscoveryExt, Instance};
use tidings_etcd::{EtcdConfig, EtcdDiscovery};
use tidings_testkit::etcd::{Cluster, Options, Version};
use tokio::task::JoinSet;

/// Samples of a latency, and registrations of one throughput.
const SAMPLES: usize = 1_000;
const REGISTRATIONS: usize = 2_048;
const IN_FLIGHT: usize = 64;
/// Throughputs are measured in turn so many times, and the medians compared.
const ROUNDS: usize = 5;
const LEASES: [u16; 5] = [1, 2, 4, 8, 16];

fn main() {
    let only: Vec<String> = std::env::args().skip(1).collect();
    if !only.iter().any(|arg| arg == "--bench") {
        return println!("a benchmark: run it with cargo bench");
    }
    let runtime = tidings_testkit::runtime();
    for (name, version) in [("3.4", Version::V3_4), ("3.5", Version::V3_5)] {
        let wanted =
            !only.iter().any(|arg| arg.starts_with('3')) || only.iter().any(|arg| arg == name);
        if wanted {
            println!("\netcd {name}");
            // As a task among tasks, like a program's own.
            let measured = runtime.spawn(measure(version));
            runtime.block_on(measured).unwrap();
        }
    }
}

async fn measure(version: Version) {
    let cluster = match Cluster::start(Options::default().version(version)).await {
        Ok(cluster) => cluster,
        Err(error) => return println!("  left out: {error}"),
    };
    Box::pin(latency(&cluster)).await;
    throughput(&cluster).await;
    resolve(&cluster).await;
}

async fn latency(cluster: &Cluster) {
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    let owner = start(cluster, 1).await;
    let client = start(cluster, 1).await;
    let mut seen = client.watch_service("web").await.unwrap();
    let mut plain = connect(cluster).await;
    let lease = plain.lease_grant(3_600, None).await.unwrap().id();
    let prefix = WatchOptions::new().with_prefix();
    let mut events = connect(cluster)
        .await
        .watch("raw/", Some(prefix))
        .await
        .unwrap();
    events.message().await.unwrap();
    let value = value_of(cluster, &owner).await;
    // In turn, so that both meet the same weather.
    for sample in 0..SAMPLES {
        let instance = instance(&format!("i{sample}"));
        let start = Instant::now();
        let key = instance.key().clone();
        let (registered, seen) = tokio::join!(
            owner.register(instance),
            seen.wait_until(|view| view.get(&key).is_some())
        );
        registered.unwrap();
        seen.unwrap();
        ours.push(start.elapsed());
        owner.deregister(&key).await.unwrap();

        let start = Instant::now();
        let options = PutOptions::new().with_lease(lease);
        let put = plain.put(format!("raw/{sample}"), value.clone(), Some(options));
        let (put, event) = tokio::join!(put, events.message());
        put.unwrap();
        event.unwrap();
        raw.push(start.elapsed());
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (ours, raw) = (quantile(&mut ours, share), quantile(&mut raw, share));
        let ratio = ours.as_secs_f64() / raw.as_secs_f64();
        println!("  register → seen elsewhere, {name}: {ours:?}, raw {raw:?}: {ratio:.2} (≤ 1.2)");
    }
    owner.close().await.unwrap();
}

async fn throughput(cluster: &Cluster) {
    let mut own_lease = Vec::new();
    let mut shared_lease = Vec::new();
    let mut ours = LEASES.map(|leases| (leases, Vec::new()));
    for round in 0..ROUNDS {
        let plain = connect(cluster).await;
        let handle = start(cluster, 1).await;
        let value = value_of(cluster, &handle).await;
        handle.close().await.unwrap();
        let rate = per_second(|number| {
            let (mut plain, value) = (plain.clone(), value.clone());
            async move {
                let lease = plain.lease_grant(3_600, None).await.unwrap().id();
                let options = PutOptions::new().with_lease(lease);
                let key = format!("own/{round}/{number}");
                plain.put(key, value, Some(options)).await.unwrap();
            }
        });
        own_lease.push(rate.await);
        let lease = plain.clone().lease_grant(3_600, None).await.unwrap().id();
        let rate = per_second(|number| {
            let (mut plain, value) = (plain.clone(), value.clone());
            async move {
                let options = PutOptions::new().with_lease(lease);
                let key = format!("shared/{round}/{number}");
                plain.put(key, value, Some(options)).await.unwrap();
            }
        });
        shared_lease.push(rate.await);
        // Not always in the same order, as each leaves etcd some work behind.
        ours.rotate_left(2);
        for (leases, rates) in &mut ours {
            let handle = Arc::new(start(cluster, *leases).await);
            let rate = per_second(|number| {
                let handle = handle.clone();
                async move {
                    handle
                        .register(instance(&format!("i{number}")))
                        .await
                        .unwrap();
                }
            });
            rates.push(rate.await);
            handle.close().await.unwrap();
        }
    }
    let own_lease = median(&mut own_lease);
    let shared_lease = median(&mut shared_lease);
    println!(
        "  raw, {IN_FLIGHT} in flight: a lease each {own_lease:.0}/s, one lease {shared_lease:.0}/s"
    );
    let better = own_lease.max(shared_lease);
    ours.sort_by_key(|(leases, _)| *leases);
    for (leases, rates) in &mut ours {
        let rate = median(rates);
        let ratio = rate / better;
        println!("  register, {leases} leases: {rate:.0}/s: {ratio:.2} of the better (≥ 0.8)");
    }
}

async fn resolve(cluster: &Cluster) {
    const LOOKS: u32 = 1_000_000;
    let handle = start(cluster, 1).await;
    for number in 0..100 {
        handle
            .register(instance(&format!("i{number}")))
            .await
            .unwrap();
    }
    let watch = handle.watch_service("web").await.unwrap();
    let start = Instant::now();
    for _ in 0..LOOKS {
        std::hint::black_box(watch.view().healthy().next());
    }
    println!(
        "  resolve from the local view of 100: {:?}",
        start.elapsed() / LOOKS
    );
    handle.close().await.unwrap();
}

async fn start(cluster: &Cluster, leases: u16) -> EtcdDiscovery {
    let mut config = EtcdConfig::default();
    config.endpoints = cluster
        .addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    config.leases = leases;
    config.ttl = Duration::from_secs(60);
    config.timeout = Duration::from_secs(60);
    let etcd = EtcdDiscovery::start(config).await.unwrap();
    // Connected, with its leases.
    for number in 0..leases {
        let id = format!("first{number}");
        etcd.register(instance(&id)).await.unwrap();
    }
    etcd
}

async fn connect(cluster: &Cluster) -> Client {
    let endpoint = cluster.addresses()[0].to_string();
    let mut client = Client::connect([endpoint], None).await.unwrap();
    client.get("connected", None).await.unwrap();
    client
}

/// A value as the backend writes it, so that all write as much.
async fn value_of(cluster: &Cluster, handle: &EtcdDiscovery) -> Vec<u8> {
    handle.register(instance("sample")).await.unwrap();
    let found = connect(cluster)
        .await
        .get("tidings/web/sample", None)
        .await
        .unwrap();
    found.kvs()[0].value().to_vec()
}

fn instance(id: &str) -> Instance {
    Instance::new("web", "192.0.2.1:8080")
        .and_then(|instance| instance.with_id(id))
        .and_then(|instance| instance.with_metadata("version", "1.4.2"))
        .unwrap()
}

/// How many of `work` are done in a second, so many at once.
async fn per_second<F>(work: impl Fn(usize) -> F) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    let start = Instant::now();
    for number in 0..REGISTRATIONS {
        if running.len() >= IN_FLIGHT {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(work(number));
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let count = REGISTRATIONS as f64;
    count / start.elapsed().as_secs_f64()
}

fn quantile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a few thousand"
    )]
    let at = (samples.len() as f64 * share) as usize;
    samples[at.min(samples.len() - 1)]
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
