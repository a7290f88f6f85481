//! Three members, one of which is flooded, and what is measured of it.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tidings_api::{Discovery, DiscoveryExt, Instance};
use tidings_gossip::{GossipConfig, GossipDiscovery, MemberState, SealKey, Stats};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// How long a change may take under a flood, at most; far above what it takes.
const LONG: Duration = Duration::from_secs(30);
/// Memory that a flood may cost all that runs here, beyond what the attackers hold themselves.
const GROWTH_MAX: usize = 400 << 20;
/// Threads of the flooded member, whose CPU time is measured.
const FLOODED: &str = "flooded";

pub(crate) const KEY: [u8; 32] = *b"0123456789abcdef0123456789abcdef";

/// How long each flood lasts.
pub(crate) fn duration() -> Duration {
    let seconds = std::env::var("TIDINGS_FLOOD").ok();
    let seconds = seconds.map_or(1, |text| text.parse().expect("TIDINGS_FLOOD: seconds"));
    Duration::from_secs(seconds)
}

/// The flooded member has a runtime of its own, the two others share one.
pub(crate) struct Lab {
    flooded: Runtime,
    others: Runtime,
    members: Vec<GossipDiscovery>,
}

/// What an attacker's thread goes by.
#[derive(Clone, Default)]
pub(crate) struct Attack {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Attack {
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self, count: usize) {
        self.sent.fetch_add(count as u64, Ordering::Relaxed);
    }
}

impl Lab {
    pub(crate) fn new(sealed: bool) -> Self {
        let runtime = |name| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1).thread_name(name).enable_all();
            builder.build().unwrap()
        };
        let (flooded, others) = (runtime(FLOODED), runtime("others"));
        let mut members: Vec<GossipDiscovery> = Vec::new();
        for at in 0..3 {
            let mut config = GossipConfig::default();
            config.bind = "127.0.0.1:0".parse().unwrap();
            config.join = members.iter().map(|m| m.local_addr().to_string()).collect();
            config.join_wait = LONG;
            if sealed {
                config.keys = vec![SealKey::from_bytes(KEY).unwrap()];
            }
            let runtime = if at == 0 { &flooded } else { &others };
            let started = runtime.spawn(GossipDiscovery::start(config));
            members.push(others.block_on(started).unwrap().unwrap());
        }
        let lab = Self {
            flooded,
            others,
            members,
        };
        lab.others.block_on(async {
            for (at, member) in lab.members.iter().enumerate() {
                member
                    .register(instance(&format!("steady-{at}"), 1))
                    .await
                    .unwrap();
            }
            for member in &lab.members {
                let all = member.wait_for("web", 3);
                timeout(LONG, all).await.unwrap().unwrap();
            }
        });
        lab
    }

    /// Makes the registry large: a megabyte.
    pub(crate) fn offer_much(&self) {
        self.others.block_on(async {
            for number in 0..2_000 {
                let large = Instance::new("large", "10.0.0.7:1")
                    .and_then(|large| large.with_id(number.to_string()))
                    .and_then(|large| large.with_metadata("padding", "x".repeat(500)))
                    .unwrap();
                self.members[1].register(large).await.unwrap();
            }
            let all = self.members[0].wait_for("large", 2_000);
            timeout(LONG, all).await.unwrap().unwrap();
        });
    }

    /// Where the flood goes.
    pub(crate) fn target(&self) -> SocketAddr {
        self.members[0].local_addr()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.others.block_on(self.members[0].stats()).unwrap()
    }

    /// Floods with `threads` attackers, changes something meanwhile, and says what that was like.
    pub(crate) fn flood(
        &self,
        what: &str,
        threads: usize,
        attacker: impl Fn(usize, SocketAddr, &Attack) + Send + Sync + Clone + 'static,
    ) -> Report {
        let (attack, target, before) = (Attack::default(), self.target(), self.stats());
        let (memory, cpu) = (resident(), cpu_of(FLOODED));
        let peak = Peak::watch(&attack);
        let begin = Instant::now();
        let attackers: Vec<_> = (0..threads)
            .map(|number| {
                let (attack, attacker) = (attack.clone(), attacker.clone());
                thread::spawn(move || attacker(number, target, &attack))
            })
            .collect();
        let (mut slowest, mut changes) = (Duration::ZERO, 0_u16);
        while begin.elapsed() < duration() || changes < 10 {
            changes += 1;
            let took = self.change(usize::from(changes) % 3, changes);
            slowest = slowest.max(took);
        }
        let time = begin.elapsed();
        // Less where a thread has ended meanwhile.
        let cpu = cpu_of(FLOODED).saturating_sub(cpu);
        attack.stop.store(true, Ordering::Relaxed);
        attackers
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let growth = peak.end().saturating_sub(memory);
        let after = self.stats();
        self.expect_everybody();
        let report = Report {
            sent: attack.sent.load(Ordering::Relaxed),
            before,
            after,
            growth,
        };
        println!(
            "{what:<46} {:>9.0}/s sent  {:>8.0} datagrams/s taken  {:>4.0} % CPU  {:>4} MiB more  \
             {changes:>4} changes, slowest {slowest:?}",
            report.sent as f64 / time.as_secs_f64(),
            (report.after.engine.datagrams_in - report.before.engine.datagrams_in) as f64
                / time.as_secs_f64(),
            100.0 * cpu.as_secs_f64() / time.as_secs_f64(),
            growth >> 20,
        );
        assert!(growth < GROWTH_MAX, "{what}: {} MiB more", growth >> 20);
        report
    }

    /// Changes an instance of a member, and waits until all show it.
    fn change(&self, owner: usize, port: u16) -> Duration {
        let id = format!("changing-{owner}");
        let begin = Instant::now();
        self.others.block_on(async {
            let changed = self.members[owner].register(instance(&id, port));
            let key = timeout(LONG, changed).await.expect("a call waits").unwrap();
            for member in &self.members {
                let mut watch = member.watch_service("web").await.unwrap();
                let seen = watch.wait_until(|view| {
                    let shown = view.get(&key).map(|shown| shown.address().port());
                    shown == Some(port)
                });
                timeout(LONG, seen)
                    .await
                    .expect("a change isn't seen")
                    .unwrap();
            }
        });
        begin.elapsed()
    }

    /// All three are there for all three, with what they offer.
    fn expect_everybody(&self) {
        let begin = Instant::now();
        self.others.block_on(async {
            for member in &self.members {
                loop {
                    let alive = member.members().await.unwrap();
                    let alive = alive.iter().filter(|info| info.state == MemberState::Alive);
                    let view = member.resolve("web").await.unwrap();
                    let steady = view
                        .iter()
                        .filter(|i| i.key().id().as_str().starts_with("steady"));
                    if alive.count() >= 3 && steady.count() == 3 && view.is_live() {
                        break;
                    }
                    assert!(begin.elapsed() < LONG, "somebody is missing: {view:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for member in self.members.drain(..) {
            let _ = self.others.block_on(member.close());
        }
        // The flooded one's task runs there, and has ended.
        let _ = &self.flooded;
    }
}

pub(crate) struct Report {
    pub(crate) sent: u64,
    pub(crate) before: Stats,
    pub(crate) after: Stats,
    pub(crate) growth: usize,
}

fn instance(id: &str, port: u16) -> Instance {
    let instance = Instance::new("web", format!("10.0.0.7:{port}"));
    instance.and_then(|web| web.with_id(id)).unwrap()
}

/// The largest resident size while an attack goes on.
struct Peak {
    thread: JoinHandle<()>,
    bytes: Arc<AtomicUsize>,
}

impl Peak {
    fn watch(attack: &Attack) -> Self {
        let (attack, bytes) = (attack.clone(), Arc::<AtomicUsize>::default());
        let peak = bytes.clone();
        let thread = thread::spawn(move || {
            while attack.goes_on() {
                peak.fetch_max(resident(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { thread, bytes }
    }

    fn end(self) -> usize {
        self.thread.join().unwrap();
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Resident bytes of this process; 0 where the system doesn't say.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kibibytes.unwrap_or(0) << 10
}

/// CPU time of the threads with a name; zero where the system doesn't say.
fn cpu_of(name: &str) -> Duration {
    let tasks = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let ticks = tasks.filter_map(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let (start, rest) = stat.rsplit_once(") ")?;
        let comm = start.split_once('(')?.1;
        let fields: Vec<_> = rest.split(' ').collect();
        let time = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        (comm == name).then_some(time)
    });
    // A hundred ticks a second, on every Linux there is.
    Duration::from_millis(10 * ticks.sum::<u64>())
}
