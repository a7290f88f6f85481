//! The processes of a fleet, and what they say.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidings::Phase;
use tidings_testkit::etcd::Cluster;
use tidings_testkit::ports;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::member::now;
use crate::record::{Life, Record, Sight};

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(90);
/// Members that others join through, at ports that stay the same.
const SEEDS: usize = 3;

/// The two ends, as URLs; `{self}` is the process's own gossip address.
pub(crate) struct Ends {
    from: String,
    to: String,
    seeds: Vec<String>,
}

impl Ends {
    pub(crate) fn gossip_to_etcd(etcd: &Cluster) -> Self {
        let seeds: Vec<_> = (0..SEEDS).map(|_| ports::free().to_string()).collect();
        Self {
            from: gossip(&seeds),
            to: format!("etcd://{}/prod?ttl=5s", etcd.addresses()[0]),
            seeds,
        }
    }

    fn config(&self, phase: Phase, name: &str, address: &str) -> String {
        let url = |url: &str| url.replace("{self}", address);
        format!(
            "[discovery.migration]\nfrom = \"{}\"\nto = \"{}\"\nphase = \"{phase}\"\n\
             name = \"{name}\"\nsteady = \"2s\"\n",
            url(&self.from),
            url(&self.to)
        )
    }
}

fn gossip(seeds: &[String]) -> String {
    let seeds = seeds.join(",");
    format!("gossip://{{self}}?join={seeds}&probe_interval=500ms&probe_timeout=250ms&join_wait=5s")
}

pub(crate) struct Fleet {
    ends: Ends,
    record: Record,
    services: BTreeMap<String, Process>,
    clients: Vec<Process>,
    plain: Vec<Process>,
    next_port: u16,
    next_turn: usize,
    /// How often each service changes its content, where it does.
    pub(crate) changes: Option<Duration>,
}

struct Process {
    name: String,
    /// The instance it offers, with its port.
    instance: Option<String>,
    child: Child,
    stdin: ChildStdin,
    said: mpsc::UnboundedReceiver<(u64, String)>,
    sight: Arc<Mutex<Sight>>,
}

impl Fleet {
    pub(crate) fn new(ends: Ends) -> Self {
        Self {
            ends,
            record: Record::default(),
            services: BTreeMap::new(),
            clients: Vec::new(),
            plain: Vec::new(),
            next_port: 1_000,
            next_turn: 0,
            changes: None,
        }
    }

    pub(crate) async fn start(&mut self, services: usize, clients: usize, phase: Phase) {
        for number in 0..services {
            self.start_service(&format!("s{number}"), phase).await;
        }
        for number in 0..clients {
            let client = self.client(&format!("c{number}"), phase).await;
            self.clients.push(client);
        }
    }

    /// A process that knows the old backend alone.
    pub(crate) async fn start_plain(&mut self) -> String {
        let url = self.ends.from.replace("{self}", "127.0.0.1:0");
        let instance = format!("plain:{}", self.port());
        let config = format!("[discovery]\nurl = \"{url}\"\n");
        let mut process = Process::start(
            "plain",
            &config,
            Some(&instance),
            &[("MEMBER_PLAIN", "1".into())],
        );
        let ready = process.hears("ready").await.0;
        self.record
            .lives
            .insert(instance, Life { ready, end: None });
        self.plain.push(process);
        "plain".to_owned()
    }

    /// Everybody goes to a phase, one after the other, as soon as the gate is open.
    pub(crate) async fn set_phase(&mut self, phase: Phase) {
        let everybody = self.services.values_mut().chain(&mut self.clients);
        for process in everybody {
            process.set_phase(phase).await;
        }
        println!("{phase}: everybody is there");
    }

    /// What the first service says to a phase that it doesn't go to.
    pub(crate) async fn refused(&mut self, phase: Phase) -> String {
        let process = self.services.values_mut().next().unwrap();
        process.tell(&format!("phase {phase}")).await;
        let (_, answer) = process.hears_any(&["phase", "refused"]).await;
        assert!(
            answer.starts_with("refused"),
            "{phase} was not refused: {answer}"
        );
        answer
    }

    /// Kills a service, another one each time.
    pub(crate) async fn crash_one(&mut self) {
        let name = self.turn();
        let mut process = self.services.remove(&name).unwrap();
        let at = now();
        process.child.start_kill().unwrap();
        process.child.wait().await.unwrap();
        self.ended(&process, at, true);
    }

    /// Starts those again that were killed.
    pub(crate) async fn restart_one(&mut self, phase: Phase) {
        for number in 0.. {
            let name = format!("s{number}");
            if !self.services.contains_key(&name) {
                return self.start_service(&name, phase).await;
            }
        }
    }

    /// Ends each process and starts it in a phase, one after the other; then waits until all are.
    pub(crate) async fn roll(&mut self, phase: Phase) {
        let names: Vec<_> = self.services.keys().cloned().collect();
        for name in names {
            let process = self.services.remove(&name).unwrap();
            self.finish(process).await;
            self.start_service(&name, phase).await;
        }
        for number in 0..self.clients.len() {
            let name = format!("c{number}");
            let new = self.client(&name, phase).await;
            let old = std::mem::replace(&mut self.clients[number], new);
            self.finish(old).await;
        }
        let everybody = self.services.values_mut().chain(&mut self.clients);
        for process in everybody {
            process.reaches(phase).await;
        }
        println!("{phase}: everybody was restarted and is there");
    }

    pub(crate) async fn end(mut self) -> Record {
        // What is wrong now has time to be seen.
        tokio::time::sleep(Duration::from_secs(3)).await;
        for client in std::mem::take(&mut self.clients) {
            self.finish(client).await;
        }
        for process in std::mem::take(&mut self.services).into_values() {
            self.finish(process).await;
        }
        self.record
    }

    async fn start_service(&mut self, name: &str, phase: Phase) {
        let number: usize = name[1..].parse().unwrap();
        let seed = self.ends.seeds.get(number).cloned();
        let address = seed.unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let instance = format!("{name}:{}", self.port());
        let config = self.ends.config(phase, name, &address);
        let changes = self
            .changes
            .map(|pause| ("MEMBER_CHANGES", pause.as_millis().to_string()));
        let changes: Vec<_> = changes.into_iter().collect();
        let mut process = Process::start(name, &config, Some(&instance), &changes);
        let ready = process.hears("ready").await.0;
        self.record
            .lives
            .insert(instance, Life { ready, end: None });
        self.services.insert(name.to_owned(), process);
    }

    async fn client(&mut self, name: &str, phase: Phase) -> Process {
        let config = self.ends.config(phase, name, "127.0.0.1:0");
        let mut process = Process::start(name, &config, None, &[]);
        process.hears("ready").await;
        process
    }

    async fn finish(&mut self, mut process: Process) {
        process.tell("end").await;
        let (at, _) = process.hears("ending").await;
        process.hears("ended").await;
        timeout(PATIENCE, process.child.wait())
            .await
            .unwrap()
            .unwrap();
        self.ended(&process, at, false);
    }

    fn ended(&mut self, process: &Process, at: u64, killed: bool) {
        match &process.instance {
            Some(instance) => {
                self.record.lives.get_mut(instance).unwrap().end = Some((at, killed));
            }
            None => {
                let mut sight = process.sight.lock().unwrap().clone();
                sight.last = at;
                self.record.sights.push(sight);
            }
        }
    }

    fn turn(&mut self) -> String {
        self.next_turn += 5;
        let names: Vec<_> = self.services.keys().collect();
        names[self.next_turn % names.len()].clone()
    }

    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }
}

impl Process {
    fn start(name: &str, config: &str, instance: Option<&str>, more: &[(&str, String)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "one_member_of_the_fleet",
                "--ignored",
                "--nocapture",
            ])
            .env("MEMBER_CONFIG", config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(instance) = instance {
            command.env("MEMBER_INSTANCE", instance);
        }
        command.envs(more.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, said) = mpsc::unbounded_channel();
        let sight = Arc::<Mutex<Sight>>::default();
        let seen = sight.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let Some((at, text)) = line.rsplit_once('@').and_then(|(_, l)| l.split_once(' '))
                else {
                    continue;
                };
                let at: u64 = at.parse().unwrap();
                let mut sight = seen.lock().unwrap();
                sight.last = at;
                if let Some(view) = text.strip_prefix("view ") {
                    let (lookups, names) = view.split_once(' ').unwrap();
                    sight.lookups = lookups.parse().unwrap();
                    let names = names.split(',').filter(|name| !name.is_empty());
                    let names = names.map(ToOwned::to_owned).collect();
                    sight.views.push((at, names));
                } else if text.starts_with("back ") {
                    sight.back.push(text.to_owned());
                } else if let Some(lookups) = text.strip_prefix("lookups ") {
                    sight.lookups = lookups.parse().unwrap();
                } else {
                    let _ = sender.send((at, text.to_owned()));
                }
            }
        });
        Self {
            name: name.to_owned(),
            instance: instance.map(ToOwned::to_owned),
            child,
            stdin,
            said,
            sight,
        }
    }

    async fn tell(&mut self, text: &str) {
        let line = format!("{text}\n");
        self.stdin.write_all(line.as_bytes()).await.unwrap();
    }

    async fn hears(&mut self, what: &str) -> (u64, String) {
        self.hears_any(&[what]).await
    }

    async fn hears_any(&mut self, what: &[&str]) -> (u64, String) {
        let heard = async {
            loop {
                let (at, text) = self.said.recv().await.expect("the process ended");
                if what.iter().any(|what| text.starts_with(what)) {
                    return (at, text);
                }
            }
        };
        let heard = timeout(PATIENCE, heard).await;
        heard.unwrap_or_else(|_| panic!("{} doesn't say {what:?}", self.name))
    }

    /// Asks for a phase until the gate is open.
    async fn set_phase(&mut self, phase: Phase) {
        let mut last = String::new();
        let there = async {
            loop {
                self.tell(&format!("phase {phase}")).await;
                let (_, answer) = self.hears_any(&["phase", "refused"]).await;
                if answer.starts_with("phase") {
                    return;
                }
                last = answer;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let there = timeout(PATIENCE, there).await;
        assert!(
            there.is_ok(),
            "{} never comes to {phase}: {last}",
            self.name
        );
    }

    /// Waits until it is in a phase by itself.
    async fn reaches(&mut self, phase: Phase) {
        let there = async {
            loop {
                self.tell("plan ?").await;
                if self.hears("plan").await.1 == format!("plan {phase}") {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let there = timeout(PATIENCE * 2, there).await;
        assert!(
            there.is_ok(),
            "{} never reaches {phase} by itself",
            self.name
        );
    }
}
