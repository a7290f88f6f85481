//! What the backend costs beside plain HTTP, in the same run against the same agent.
//!
//! `cargo bench -p tidings-consul`. Prints a table.
#![allow(clippy::unwrap_used, reason = "a benchmark ends where something fails")]
#![allow(clippy::print_stdout, reason = "what it is for")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tidings_api::{Discovery, DiscoveryExt, Instance};
use tidings_consul::{ConsulConfig, ConsulDiscovery};
use tidings_testkit::consul::{Agent, Options, Role};
use tokio::sync::watch;
use tokio::task::JoinSet;

const SAMPLES: usize = 400;
/// Between two samples: an agent that has just synchronised may take a moment for the rest; and a watch
/// that asks more than 40 times a second, which is two changes each 50 ms, is slowed down on purpose.
const PAUSE: Duration = Duration::from_millis(40);
const WINDOW: Duration = Duration::from_secs(15);

fn main() {
    if !std::env::args().any(|arg| arg == "--bench") {
        return println!("a benchmark: run it with cargo bench");
    }
    let runtime = tidings_testkit::runtime();
    for (name, role) in [("-dev", Role::Dev), ("-server", Role::Server)] {
        println!("\nconsul agent {name}");
        runtime.block_on(measure(role));
    }
}

async fn measure(role: Role) {
    let agent = match Agent::start(Options::new(role)).await {
        Ok(agent) => agent,
        Err(error) => return println!("  left out: {error}"),
    };
    Box::pin(latency(&agent)).await;
    rates(&agent).await;
}

async fn latency(agent: &Agent) {
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    let (owner, client) = (start(agent).await, start(agent).await);
    // The owner's own look at the catalog begins with its first registration, and stays.
    owner.register(instance("kept")).await.unwrap();
    let mut seen = client.watch_service("web").await.unwrap();
    let plain = Plain::new(agent.http());
    let mut watch = RawWatch::start(agent.http());
    // In turn, so that both meet the same weather.
    for sample in 0..SAMPLES {
        let instance = instance(&format!("i{sample}"));
        let key = instance.key().clone();
        let start = Instant::now();
        let (registered, seen_at) = tokio::join!(owner.register(instance), async {
            seen.wait_until(|view| view.get(&key).is_some())
                .await
                .unwrap();
            start.elapsed()
        });
        registered.unwrap();
        ours.push(seen_at);
        owner.deregister(&key).await.unwrap();
        tokio::time::sleep(PAUSE).await;

        let id = format!("raw-{sample}");
        let body = raw_service(&id);
        let start = Instant::now();
        let (_, seen_at) = tokio::join!(plain.put("/v1/agent/service/register", body), async {
            watch.wait_for(&id).await;
            start.elapsed()
        });
        raw.push(seen_at);
        let path = format!("/v1/agent/service/deregister/{id}");
        plain.put(&path, Bytes::new()).await;
        tokio::time::sleep(PAUSE).await;
    }
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        let (ours, raw) = (quantile(&mut ours, share), quantile(&mut raw, share));
        let ratio = ours.as_secs_f64() / raw.as_secs_f64();
        println!("  register → seen elsewhere, {name}: {ours:?}, raw {raw:?}: {ratio:.2} (≤ 1.2)");
    }
    owner.close().await.unwrap();
}

/// Requests a second, idle and while somebody changes an instance as fast as the agent takes it.
async fn rates(agent: &Agent) {
    let (owner, client) = (start(agent).await, start(agent).await);
    owner.register(instance("a")).await.unwrap();
    let _watches = [
        client.watch_service("web").await.unwrap(),
        client.watch_all().await.unwrap(),
    ];
    tokio::time::sleep(Duration::from_secs(2)).await;
    let requests = || (owner.stats().requests, client.stats().requests);
    let per_second = |count: u64, time: Duration| {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        f64::from(count) / time.as_secs_f64()
    };
    let (before, start) = (requests(), Instant::now());
    tokio::time::sleep(WINDOW).await;
    let (after, time) = (requests(), start.elapsed());
    println!(
        "  idle, ttl 10 s: an owner of one {:.2}/s, a client of one service and of all {:.2}/s",
        per_second(after.0 - before.0, time),
        per_second(after.1 - before.1, time),
    );
    let (before, start) = (requests(), Instant::now());
    let mut updates = 0;
    while start.elapsed() < WINDOW {
        let changed = instance("a")
            .with_metadata("n", updates.to_string())
            .unwrap();
        owner.register(changed).await.unwrap();
        updates += 1;
    }
    let (after, time) = (requests(), start.elapsed());
    println!(
        "  busy, {:.0} updates/s: the owner {:.0}/s, the client {:.0}/s",
        per_second(updates, time),
        per_second(after.0 - before.0, time),
        per_second(after.1 - before.1, time),
    );
}

async fn start(agent: &Agent) -> ConsulDiscovery {
    let mut config = ConsulConfig::default();
    config.agent = agent.http().to_string().parse().unwrap();
    ConsulDiscovery::start(config).await.unwrap()
}

fn instance(id: &str) -> Instance {
    Instance::new("web", "192.0.2.1:8080")
        .and_then(|instance| instance.with_id(id))
        .and_then(|instance| instance.with_metadata("version", "1.4.2"))
        .unwrap()
}

/// As much as the backend writes: a service with two checks.
fn raw_service(id: &str) -> Bytes {
    let notes = "x".repeat(120);
    let service = json!({
        "ID": id, "Name": "raw", "Address": "192.0.2.1", "Port": 8080,
        "Meta": {"version": "1.4.2"}, "Weights": {"Passing": 1, "Warning": 1},
        "Checks": [
            {"CheckID": format!("{id}:alive"), "Name": "Owner alive", "Notes": notes,
             "TTL": "10s", "Status": "passing", "DeregisterCriticalServiceAfter": "1m"},
            {"CheckID": format!("{id}:health"), "Name": "Health", "Notes": "As the owner says.",
             "TTL": "87600h", "Status": "passing"},
        ],
    });
    service.to_string().into()
}

/// A blocking query in a loop of its own, so that one is always under way, as with the backend.
struct RawWatch {
    shown: watch::Receiver<Value>,
    /// Ends when dropped.
    _task: JoinSet<()>,
}

impl RawWatch {
    fn start(agent: SocketAddr) -> Self {
        let (sender, shown) = watch::channel(Value::Null);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let plain = Plain::new(agent);
            let mut index = "0".to_owned();
            loop {
                let path = format!("/v1/health/service/raw?index={index}&wait=60s");
                let (next, body) = plain.send("GET", &path, Bytes::new()).await;
                index = next.unwrap();
                sender.send_replace(serde_json::from_slice(&body).unwrap());
            }
        });
        Self { shown, _task: task }
    }

    async fn wait_for(&mut self, id: &str) {
        let has = |entry: &Value| entry["Service"]["ID"] == *id;
        let shown = |value: &Value| value.as_array().is_some_and(|found| found.iter().any(has));
        self.shown.wait_for(shown).await.unwrap();
    }
}

struct Plain {
    client: Client<HttpConnector, Full<Bytes>>,
    agent: SocketAddr,
}

impl Plain {
    fn new(agent: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { client, agent }
    }

    async fn put(&self, path: &str, body: Bytes) {
        self.send("PUT", path, body).await;
    }

    async fn send(&self, method: &str, path: &str, body: Bytes) -> (Option<String>, Bytes) {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.agent))
            .body(Full::new(body))
            .unwrap();
        let answer = self.client.request(request).await.unwrap();
        assert!(
            answer.status().is_success(),
            "{method} {path}: {}",
            answer.status()
        );
        let index = answer.headers().get("x-consul-index");
        let index = index.map(|index| index.to_str().unwrap().to_owned());
        (
            index,
            answer.into_body().collect().await.unwrap().to_bytes(),
        )
    }
}

fn quantile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a few hundred"
    )]
    let at = (samples.len() as f64 * share) as usize;
    samples[at.min(samples.len() - 1)]
}
