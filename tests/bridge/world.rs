//! The processes of a test, and what is done to them.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidings::{Discovery, DiscoveryExt, View};
use tidings_testkit::ports;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::sight::{Life, Sight, look_up};

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long everything takes to be there again after a gap.
const AGAIN: Duration = Duration::from_secs(20);
/// How often something happens to an instance, on average.
const CHURN_PAUSE: Duration = Duration::from_millis(700);
/// Instances at most at once.
const SERVICES_MAX: usize = 6;

pub(crate) struct World {
    rng: Rng,
    from: String,
    to: String,
    /// Members that stay, where a side is gossip.
    _seeds: Vec<Arc<dyn Discovery>>,
    _client: Arc<dyn Discovery>,
    looking: JoinHandle<()>,
    sight: Arc<Mutex<Sight>>,
    services: BTreeMap<String, Process>,
    bridges: BTreeMap<usize, Process>,
    lives: BTreeMap<String, Life>,
    kills: Vec<Instant>,
    gaps: Vec<(Instant, Instant)>,
    next_port: u16,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    said: mpsc::UnboundedReceiver<String>,
}

impl World {
    pub(crate) async fn from_gossip(to: String) -> Self {
        let (from, seeds) = gossip().await;
        Self::new(from, to, seeds).await
    }

    pub(crate) async fn to_gossip(from: String) -> Self {
        let (to, seeds) = gossip().await;
        Self::new(from, to, seeds).await
    }

    async fn new(from: String, to: String, seeds: Vec<Arc<dyn Discovery>>) -> Self {
        let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
        println!("SEED={seed}");
        let client = tidings::connect(to.as_str()).await.unwrap();
        let mut watch = client.watch_service("web").await.unwrap();
        let live = timeout(PATIENCE, watch.wait_until(View::is_live)).await;
        live.unwrap().unwrap();
        let sight = Arc::<Mutex<Sight>>::default();
        Self {
            rng: Rng::with_seed(seed),
            from,
            to,
            _seeds: seeds,
            _client: client,
            looking: tokio::spawn(look_up(watch, sight.clone())),
            sight,
            services: BTreeMap::new(),
            bridges: BTreeMap::new(),
            lives: BTreeMap::new(),
            kills: Vec::new(),
            gaps: Vec::new(),
            next_port: 1_000,
        }
    }

    /// A time up to `longest`.
    pub(crate) fn up_to(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.rng.f64())
    }

    pub(crate) async fn start_bridge(&mut self, number: usize) {
        let name = format!("bridge-{number}");
        let mut bridge = Process::start(&self.from, Some(&self.to), &name);
        bridge.says("ready").await;
        self.bridges.insert(number, bridge);
        println!("{name} is ready");
    }

    pub(crate) async fn kill_bridge(&mut self, number: usize) {
        let mut bridge = self.bridges.remove(&number).unwrap();
        self.kills.push(Instant::now());
        bridge.kill().await;
        println!("bridge-{number} is killed");
    }

    pub(crate) async fn close_bridge(&mut self, number: usize) {
        let bridge = self.bridges.remove(&number).unwrap();
        bridge.finish().await;
    }

    /// Kills the only bridge, for so long that its mirrors end, and starts it again.
    pub(crate) async fn leave_a_gap(&mut self, time: Duration) {
        let from = Instant::now();
        self.kill_bridge(0).await;
        self.churn_for(time).await;
        self.start_bridge(0).await;
        self.gaps.push((from, Instant::now() + AGAIN));
    }

    /// Instances come, end and die meanwhile.
    pub(crate) async fn churn_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let pause = CHURN_PAUSE.mul_f64(self.rng.f64() * 2.0);
            tokio::time::sleep(pause.min(end - Instant::now())).await;
            let full = self.services.len() >= SERVICES_MAX;
            if !full && (self.services.len() < 3 || self.rng.bool()) {
                self.start_service().await;
            } else {
                self.end_service().await;
            }
        }
    }

    /// Looks whether the target is in the end what the source is, and at all that was seen.
    pub(crate) async fn end(&mut self) {
        let expected: Vec<_> = self.services.keys().cloned().collect();
        let same = timeout(PATIENCE, async {
            let newest = || self.sight.lock().unwrap().views.last().unwrap().1.clone();
            while !newest().into_iter().eq(expected.iter().cloned()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(same.await.is_ok(), "the target never is {expected:?}");
        self.looking.abort();
        for bridge in std::mem::take(&mut self.bridges).into_values() {
            bridge.finish().await;
        }
        for service in std::mem::take(&mut self.services).into_values() {
            service.finish().await;
        }
        self.sight
            .lock()
            .unwrap()
            .check(&self.lives, &self.kills, &self.gaps);
    }

    async fn start_service(&mut self) {
        self.next_port += 1;
        // Some ids are used again, by another process.
        let id = self.rng.usize(..SERVICES_MAX * 2);
        let name = format!("s{id}:{}", self.next_port);
        let taken = self
            .services
            .keys()
            .any(|other| other.starts_with(&format!("s{id}:")));
        if taken {
            return;
        }
        let mut service = Process::start(&self.from, None, &name);
        service.says("ready").await;
        let life = Life {
            ready: Instant::now(),
            end: None,
            politely: false,
        };
        self.lives.insert(name.clone(), life);
        self.services.insert(name, service);
    }

    async fn end_service(&mut self) {
        let names: Vec<_> = self.services.keys().cloned().collect();
        let Some(name) = self.rng.choice(names) else {
            return;
        };
        let mut service = self.services.remove(&name).unwrap();
        let life = self.lives.get_mut(&name).unwrap();
        life.end = Some(Instant::now());
        life.politely = self.rng.bool();
        match life.politely {
            true => service.finish().await,
            false => service.kill().await,
        }
    }
}

impl Process {
    fn start(from: &str, to: Option<&str>, name: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "one_process", "--ignored", "--nocapture"])
            .env("BRIDGE_TEST_FROM", from)
            .env("BRIDGE_TEST_NAME", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(to) = to {
            command.env("BRIDGE_TEST_TO", to);
        }
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, said) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // The test harness writes before it on the same line.
                if let Some((_, text)) = line.rsplit_once("@ ") {
                    let _ = sender.send(text.to_owned());
                }
            }
        });
        Self { child, stdin, said }
    }

    async fn says(&mut self, what: &str) {
        let heard = timeout(PATIENCE, async {
            while self.said.recv().await.expect("the process ended") != what {}
        });
        assert!(heard.await.is_ok(), "a process never says {what}");
    }

    async fn kill(&mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }

    async fn finish(mut self) {
        self.stdin.write_all(b"end\n").await.unwrap();
        self.says("ended").await;
        timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
    }
}

/// A gossip cluster with members that stay, as the URL of further members.
async fn gossip() -> (String, Vec<Arc<dyn Discovery>>) {
    let addresses = [ports::free(), ports::free()];
    let join = addresses.map(|address| address.to_string()).join(",");
    let url = |address: &str| {
        format!(
            "gossip://{address}?join={join}&probe_interval=500ms&probe_timeout=250ms&join_wait=5s"
        )
    };
    let mut seeds = Vec::new();
    for address in addresses {
        seeds.push(
            tidings::connect(url(&address.to_string()).as_str())
                .await
                .unwrap(),
        );
    }
    (url("127.0.0.1:0"), seeds)
}
