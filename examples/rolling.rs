//! A cluster whose processes are exchanged one by one for another build, under changes all the time:
//! nothing may be lost, nobody accused, and nothing that is offered may be missed for a moment.
//!
//! `scripts/mixed-versions` builds this file twice, against an earlier commit and against this one, and
//! runs it with the other build's binary:
//!
//! ```text
//! rolling run --old target/old/rolling --new target/new/rolling
//! ```
//!
//! Each member is a process, `rolling member …`, that says on its output what it does and sees.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use tidings::gossip::{GossipConfig, GossipDiscovery, MemberState, SealKey};
use tidings::{Change, Discovery, DiscoveryExt, Health, Instance, InstanceKey};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The service that every member offers one instance of for as long as it runs.
const STEADY: &str = "steady";
/// The service whose instances come and go.
const BUSY: &str = "busy";
/// Time between two changes of a member.
const CHANGE_INTERVAL: Duration = Duration::from_millis(40);
/// How long anything may take before it counts as lost.
const DEADLINE: Duration = Duration::from_secs(30);
/// A key that protects nothing but this run.
const KEY: &str = "77696c6c2073656375726520746869732072756e20616e64206e6f7468696e67";

/// Exchanges the processes of a cluster for another build, one by one, and back
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Upgrades and downgrades a cluster, and says what came of it
    Run {
        /// The earlier build of this program
        #[arg(long)]
        old: PathBuf,
        /// The later one
        #[arg(long)]
        new: PathBuf,
        /// Members that are exchanged; two that watch, one of each build, come on top
        #[arg(long, default_value_t = 6)]
        members: usize,
        /// Without sealing
        #[arg(long)]
        unsealed: bool,
    },
    /// One member
    Member {
        #[arg(long)]
        name: String,
        #[arg(long)]
        bind: String,
        #[arg(long)]
        join: Option<String>,
        /// Offers nothing, and reports all it sees
        #[arg(long)]
        watch: bool,
        #[arg(long)]
        unsealed: bool,
    },
}

#[tokio::main]
async fn main() -> Outcome<ExitCode> {
    match Args::parse().role {
        Role::Run {
            old,
            new,
            members,
            unsealed,
        } => {
            let mut fleet = Fleet::start([old, new], members, unsealed).await?;
            let verdict = fleet.exchange_all().await;
            fleet.report(&verdict)
        }
        Role::Member {
            name,
            bind,
            join,
            watch,
            unsealed,
        } => {
            let mut config = GossipConfig::default();
            config.bind = bind.parse()?;
            config.join = join.into_iter().collect();
            config.join_wait = DEADLINE;
            config.name = Some(name.clone());
            if !unsealed {
                config.keys = vec![KEY.parse::<SealKey>()?];
            }
            let discovery = GossipDiscovery::start(config).await?;
            say(&format!("up {}", discovery.local_addr()));
            match watch {
                true => watcher(discovery).await?,
                false => worker(discovery, &name).await?,
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

// A member.

/// Changes something all the time until it is told to rest, and leaves when it is told to leave.
async fn worker(discovery: GossipDiscovery, name: &str) -> Outcome {
    let steady = discovery.register(instance(STEADY, name)?).await?;
    say("ready");
    let (mut lines, mut resting) = (BufReader::new(tokio::io::stdin()).lines(), false);
    let (mut changes, mut count, mut busy) = (0_u64, 0_u64, None::<InstanceKey>);
    loop {
        tokio::select! {
            line = lines.next_line() => match line?.as_deref() {
                Some("rest") => {
                    resting = true;
                    // What everybody has to see in the end.
                    say(&format!("last {steady} {count}"));
                    if let Some(busy) = &busy {
                        say(&format!("last {busy} 0"));
                    }
                    say("rested");
                }
                Some("work") => resting = false,
                _ => break,
            },
            () = sleep(CHANGE_INTERVAL), if !resting => {
                match (count % 3, busy.take()) {
                    (0, None) => {
                        let id = format!("{name}-{count}");
                        busy = Some(discovery.register(instance(BUSY, &id)?).await?);
                    }
                    (0, Some(last)) => {
                        discovery.deregister(&last).await?;
                    }
                    (_, kept) => {
                        let health = Health::warning(format!("{}", count + 1));
                        discovery.health(&steady, health).await?;
                        busy = kept;
                    }
                }
                count += 1;
                changes += 1;
                if count % 3 == 1 {
                    // The count stands in the steady instance, so that the newest can be told.
                    let health = Health::warning(count.to_string());
                    discovery.health(&steady, health).await?;
                    changes += 1;
                }
            }
        }
    }
    leave(discovery, changes).await
}

fn instance(service: &str, id: &str) -> Outcome<Instance> {
    Ok(Instance::new(service, "127.0.0.1:1")?.with_id(id)?)
}

/// Says what it sees until it is told to leave.
async fn watcher(discovery: GossipDiscovery) -> Outcome {
    let mut changes = discovery.watch_all().await?.into_changes();
    let mut members = discovery.watch_members().await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    say("ready");
    loop {
        tokio::select! {
            line = lines.next_line() => {
                if line?.is_none_or(|line| line == "leave") {
                    break;
                }
            }
            change = changes.next() => match change {
                Some(Change::Removed(instance)) => say(&format!("- {}", instance.key())),
                Some(change) => {
                    let instance = change.instance();
                    let count = instance.health().note().unwrap_or("0").to_owned();
                    say(&format!("+ {} {count}", instance.key()));
                }
                None => break,
            },
            changed = members.changes() => for change in changed? {
                let name = &change.member.identity.name;
                let state = match change.member.state {
                    MemberState::Alive => "alive",
                    MemberState::Suspect => "suspect",
                    MemberState::Dead => "dead",
                    MemberState::Left => "left",
                };
                say(&format!("member {name} {state}"));
            },
        }
    }
    leave(discovery, 0).await
}

async fn leave(discovery: GossipDiscovery, changes: u64) -> Outcome {
    let stats = discovery.stats().await?.engine;
    discovery.close().await?;
    say(&format!(
        "left {changes} {} {}",
        stats.suspicions, stats.deaths
    ));
    Ok(())
}

fn say(line: &str) {
    // Whoever reads may be gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}

// The fleet.

/// One of each build.
const WATCHERS: [&str; 2] = ["watch-0", "watch-1"];
const ANY_PORT: &str = "127.0.0.1:0";

/// Which build: 0 is the old one, 1 the new one.
type Build = usize;

struct Fleet {
    builds: [PathBuf; 2],
    members: Vec<Member>,
    watchers: Vec<Process>,
    sights: [Sight; 2],
    said: UnboundedReceiver<Line>,
    say: UnboundedSender<Line>,
    join: Option<String>,
    unsealed: bool,
    /// The steady instances of those who run and haven't been told to leave.
    offered: BTreeSet<String>,
    /// What each member said was last, by key.
    last: BTreeMap<String, BTreeMap<String, u64>>,
    figures: Figures,
}

struct Member {
    name: String,
    address: String,
    process: Process,
}

struct Process {
    child: Child,
    orders: ChildStdin,
}

/// What a watcher shows, with the count that stands in its health.
type Sight = BTreeMap<String, u64>;

/// Who says what.
type Line = (String, String);

#[derive(Debug, Default)]
struct Figures {
    restarts: usize,
    changes: u64,
    seen: u64,
    /// What a watcher didn't show in the end, or showed and nobody offered.
    lost: Vec<String>,
    /// Members that a watcher took for suspect or dead.
    accused: Vec<String>,
    /// What vanished from a watcher's view while its owner offered it, or went back.
    flapped: Vec<String>,
    slowest: Duration,
}

impl Fleet {
    /// All members of the old build, and a watcher of each.
    async fn start(builds: [PathBuf; 2], members: usize, unsealed: bool) -> Outcome<Self> {
        let (say, said) = unbounded_channel();
        let mut fleet = Self {
            builds,
            members: Vec::new(),
            watchers: Vec::new(),
            sights: Default::default(),
            said,
            say,
            join: None,
            unsealed,
            offered: BTreeSet::new(),
            last: BTreeMap::new(),
            figures: Figures::default(),
        };
        for build in [0, 1] {
            let (process, address) = fleet.spawn(build, WATCHERS[build], ANY_PORT).await?;
            fleet.join.get_or_insert(address);
            fleet.watchers.push(process);
        }
        for number in 0..members {
            let name = format!("member-{number}");
            let (process, address) = fleet.spawn(0, &name, ANY_PORT).await?;
            fleet.members.push(Member {
                name,
                address,
                process,
            });
        }
        Ok(fleet)
    }

    async fn spawn(&mut self, build: Build, name: &str, bind: &str) -> Outcome<(Process, String)> {
        let mut command = Command::new(&self.builds[build]);
        command.args(["member", "--name", name, "--bind", bind]);
        command.args(self.join.iter().flat_map(|join| ["--join", join]));
        command.args(self.unsealed.then_some("--unsealed"));
        command.args(WATCHERS.contains(&name).then_some("--watch"));
        let process = Process::spawn(command, name, self.say.clone())?;
        let address = self.wait_for(name, "up ").await?;
        self.wait_for(name, "ready").await?;
        if !WATCHERS.contains(&name) {
            self.offered.insert(format!("{STEADY}/{name}"));
        }
        Ok((process, address))
    }

    /// Up, and down again; after each exchange everybody rests and must see the same.
    async fn exchange_all(&mut self) -> Outcome {
        for (build, what) in [(1, "upgrade"), (0, "downgrade")] {
            println!("rolling {what} of {} members", self.members.len());
            for at in 0..self.members.len() {
                self.listen(Duration::from_millis(700)).await?;
                self.exchange(at, build).await?;
                self.rest().await?;
            }
        }
        self.finish().await
    }

    async fn exchange(&mut self, at: usize, build: Build) -> Outcome {
        let (name, address) = (
            self.members[at].name.clone(),
            self.members[at].address.clone(),
        );
        self.leave(at).await?;
        // Seen by all before it is back, so that its going isn't taken for a flap of the new one.
        let key = format!("{STEADY}/{name}");
        let begin = Instant::now();
        while self.sights.iter().any(|sight| sight.contains_key(&key)) {
            if begin.elapsed() > DEADLINE {
                return Err(format!("{name} has left and is still shown").into());
            }
            self.listen(Duration::from_millis(5)).await?;
        }
        let (process, _) = self.spawn(build, &name, &address).await?;
        self.members[at].process = process;
        self.figures.restarts += 1;
        Ok(())
    }

    async fn leave(&mut self, at: usize) -> Outcome {
        let name = self.members[at].name.clone();
        self.last.remove(&name);
        self.offered.remove(&format!("{STEADY}/{name}"));
        self.members[at].process.order("leave").await?;
        let left = self.wait_for(&name, "left ").await?;
        self.figures.left(&name, &left)?;
        timeout(DEADLINE, self.members[at].process.child.wait()).await??;
        Ok(())
    }

    /// Ends everybody, and asks what they have seen.
    async fn finish(&mut self) -> Outcome {
        for at in 0..self.members.len() {
            self.leave(at).await?;
        }
        for (at, name) in WATCHERS.into_iter().enumerate() {
            self.watchers[at].order("leave").await?;
            let left = self.wait_for(name, "left ").await?;
            self.figures.left(name, &left)?;
        }
        Ok(())
    }

    /// Lets everybody come to rest, and compares what is offered with what is seen.
    async fn rest(&mut self) -> Outcome {
        for at in 0..self.members.len() {
            let name = self.members[at].name.clone();
            self.last.insert(name.clone(), BTreeMap::new());
            self.members[at].process.order("rest").await?;
            self.wait_for(&name, "rested").await?;
        }
        let begin = Instant::now();
        loop {
            let offered: BTreeMap<_, _> = self.last.values().flatten().collect();
            let differs = |sight: &Sight| {
                let shown: BTreeMap<_, _> = sight.iter().collect();
                (shown != offered).then(|| format!("{shown:?} is shown of {offered:?}"))
            };
            let difference = self.sights.iter().find_map(differs);
            let Some(difference) = difference else { break };
            if begin.elapsed() > DEADLINE {
                self.figures.lost.push(difference);
                break;
            }
            self.listen(Duration::from_millis(5)).await?;
        }
        self.figures.slowest = self.figures.slowest.max(begin.elapsed());
        for member in &mut self.members {
            member.process.order("work").await?;
        }
        Ok(())
    }

    /// Notes what is said for a while.
    async fn listen(&mut self, time: Duration) -> Outcome {
        let until = tokio::time::Instant::now() + time;
        while let Ok(said) = tokio::time::timeout_at(until, self.said.recv()).await {
            let (who, line) = said.ok_or("nobody says anything any more")?;
            self.note(&who, &line)?;
        }
        Ok(())
    }

    /// Notes what is said until somebody says this; answers the rest of that line.
    async fn wait_for(&mut self, name: &str, start: &str) -> Outcome<String> {
        let said = async {
            loop {
                let (who, line) = self.said.recv().await.ok_or("nobody is there")?;
                self.note(&who, &line)?;
                if let Some(rest) = line.strip_prefix(start).filter(|_| who == name) {
                    return Ok(rest.to_owned());
                }
            }
        };
        let late = |_| format!("{name} doesn't say {start:?} in time");
        timeout(DEADLINE, said).await.map_err(late)?
    }

    fn note(&mut self, who: &str, line: &str) -> Outcome {
        let words: Vec<&str> = line.split(' ').collect();
        let watcher = WATCHERS.iter().position(|watcher| *watcher == who);
        match (words.as_slice(), watcher) {
            (["last", key, count], None) => {
                let last = self.last.entry(who.to_owned()).or_default();
                last.insert((*key).to_owned(), count.parse()?);
            }
            (["+", key, count], Some(watcher)) => {
                self.figures.seen += 1;
                let count = count.parse()?;
                let before = self.sights[watcher].insert((*key).to_owned(), count);
                if let Some(before) = before.filter(|before| count < *before) {
                    let text = format!("{who} saw {key} go from {before} back to {count}");
                    self.figures.flapped.push(text);
                }
            }
            (["-", key], Some(watcher)) => {
                self.sights[watcher].remove(*key);
                if self.offered.contains(*key) {
                    let text = format!("{who} missed {key}, which was offered");
                    self.figures.flapped.push(text);
                }
            }
            (["member", name, "suspect" | "dead"], Some(_)) => {
                self.figures
                    .accused
                    .push(format!("{who} took {name} for {}", words[2]));
            }
            _ => {}
        }
        Ok(())
    }

    fn report(self, verdict: &Outcome) -> Outcome<ExitCode> {
        let Figures {
            restarts,
            changes,
            seen,
            lost,
            accused,
            flapped,
            slowest,
        } = &self.figures;
        let failed = verdict.is_err() || [lost, accused, flapped].iter().any(|all| !all.is_empty());
        for line in [lost, accused, flapped].into_iter().flatten() {
            println!("  {line}");
        }
        if let Err(error) = verdict {
            println!("  {error}");
        }
        println!(
            "{restarts} restarts, {changes} changes, {seen} changes seen by two watchers, \
             {} lost, {} accused, {} flapped; all seen at most {slowest:?} after the last change",
            lost.len(),
            accused.len(),
            flapped.len()
        );
        println!("{}", if failed { "FAILED" } else { "passed" });
        Ok(ExitCode::from(u8::from(failed)))
    }
}

impl Figures {
    /// What a process says when it leaves: changes, suspicions and deaths.
    fn left(&mut self, name: &str, said: &str) -> Outcome {
        let mut numbers = said.split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next().ok_or("a number is missing");
        self.changes += next()??;
        for (what, count) in [("suspect", next()??), ("dead", next()??)] {
            if count > 0 {
                let text = format!("{name} has taken members for {what} {count} times");
                self.accused.push(text);
            }
        }
        Ok(())
    }
}

impl Process {
    fn spawn(mut command: Command, name: &str, say: UnboundedSender<Line>) -> Outcome<Self> {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.kill_on_drop(true).spawn()?;
        let orders = child.stdin.take().ok_or("no input")?;
        let output = child.stdout.take().ok_or("no output")?;
        let name = name.to_owned();
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if say.send((name.clone(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, orders })
    }

    async fn order(&mut self, order: &str) -> Outcome {
        self.orders
            .write_all(format!("{order}\n").as_bytes())
            .await?;
        Ok(())
    }
}
