//! A fleet of processes, and what is done to it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use tidings::Phase;
use tidings::moving::Side;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::ends::{Course, Ends, Move};
use crate::member::now;
use crate::process::{PATIENCE, Process};
use crate::record::{Ending, Life, Record};

/// Fleets that run at the same time: more, and the processor is what is tested.
const FLEETS_MAX: usize = 4;
static FLEETS: Semaphore = Semaphore::const_new(FLEETS_MAX);

pub(crate) struct Fleet {
    pub(crate) ends: Ends,
    record: Record,
    services: BTreeMap<String, Process>,
    clients: Vec<Process>,
    /// Processes that don't move with the others.
    others: Vec<Process>,
    next_port: u16,
    next_turn: usize,
    /// How often each service changes its content, where it does.
    pub(crate) changes: Option<Duration>,
    changes_made: u64,
    _permit: SemaphorePermit<'static>,
}

impl Fleet {
    /// Starts both ends, and no process yet.
    pub(crate) async fn new(on: Move) -> Self {
        let permit = FLEETS.acquire().await.unwrap();
        Self {
            ends: Ends::start(on).await,
            record: Record::default(),
            services: BTreeMap::new(),
            clients: Vec::new(),
            others: Vec::new(),
            next_port: 1_000,
            next_turn: 0,
            changes: None,
            changes_made: 0,
            _permit: permit,
        }
    }

    pub(crate) async fn start(
        &mut self,
        services: usize,
        clients: usize,
        course: impl Into<Course>,
    ) {
        let course = course.into();
        self.start_service("s0", course).await;
        let others: Vec<_> = (1..services)
            .map(|number| self.launch(&format!("s{number}"), course))
            .collect();
        for process in join_all(others.into_iter().map(ready)).await {
            self.add(process);
        }
        let clients: Vec<_> = (0..clients)
            .map(|number| self.launch_client(&format!("c{number}"), course))
            .collect();
        let clients = join_all(clients.into_iter().map(ready)).await;
        self.clients = clients.into_iter().map(|(process, _)| process).collect();
    }

    /// A process with an instance that knows the old backend alone.
    pub(crate) async fn start_plain(&mut self, name: &str) {
        let instance = format!("{name}:{}", self.port());
        let more = [("MEMBER_PLAIN", "1".to_owned())];
        let process = Process::start(name, &self.ends.plain(), Some(&instance), &more);
        let (process, at) = ready(process).await;
        self.live(&process, at);
        self.others.push(process);
    }

    /// A client that stays where it is.
    pub(crate) async fn start_laggard(&mut self, name: &str, phase: Phase) {
        let process = self.launch_client(name, phase.into());
        self.others.push(ready(process).await.0);
    }

    /// Ends those that don't move with the others.
    pub(crate) async fn end_others(&mut self) {
        for process in std::mem::take(&mut self.others) {
            self.finish(process).await;
        }
    }

    pub(crate) async fn start_service(&mut self, name: &str, course: impl Into<Course>) {
        let process = self.launch(name, course.into());
        let process = ready(process).await;
        self.add(process);
    }

    /// Everybody goes to a phase, one after the other, as soon as the gate is open.
    pub(crate) async fn set_phase(&mut self, phase: Phase) {
        for process in self.everybody() {
            process.set_phase(phase).await;
        }
    }

    /// What the first service says to a phase that it doesn't go to.
    pub(crate) async fn refused(&mut self, phase: Phase) -> String {
        let process = self.first();
        let before = process.phase().await;
        let answer = process.try_phase(phase).await;
        assert_eq!(
            process.phase().await,
            before,
            "refused, and nothing has changed"
        );
        answer.expect_err("somebody isn't ready")
    }

    /// One service, the same each time.
    pub(crate) fn first(&mut self) -> &mut Process {
        self.services.values_mut().next().unwrap()
    }

    /// Kills a service, another one each time; it is missing afterwards.
    pub(crate) async fn crash_one(&mut self) -> String {
        self.next_turn += 5;
        let names: Vec<_> = self.services.keys().cloned().collect();
        let name = &names[self.next_turn % names.len()];
        let process = self.services.remove(name).unwrap();
        self.crash(process).await
    }

    /// Starts those again that are missing.
    pub(crate) async fn restart_missing(&mut self, services: usize, course: impl Into<Course>) {
        let course = course.into();
        for name in (0..services).map(|number| format!("s{number}")) {
            if !self.services.contains_key(&name) {
                self.start_service(&name, course).await;
            }
        }
    }

    /// Waits until all clients see an instance, or none does.
    pub(crate) async fn is_seen(&self, instance: &str, seen: bool) {
        let all = async {
            while self.clients.iter().any(|c| c.sees(instance) != seen) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let all = timeout(PATIENCE, all).await;
        assert!(all.is_ok(), "{instance} is not seen: {}", !seen);
    }

    /// The instance of a service.
    pub(crate) fn instance(&self, name: &str) -> String {
        self.services[name].instance.clone().unwrap()
    }

    /// Ends each process and starts it in a phase, one after the other; those with these numbers
    /// are killed instead. Then waits until all are there.
    pub(crate) async fn roll(&mut self, phase: Phase, killed: &[usize]) {
        let names: Vec<_> = self.services.keys().cloned().collect();
        for (number, name) in names.iter().enumerate() {
            let process = self.services.remove(name).unwrap();
            if killed.contains(&number) {
                self.crash(process).await;
            } else {
                self.finish(process).await;
            }
            self.start_service(name, phase).await;
        }
        self.roll_clients(phase).await;
        self.all_reach(phase).await;
    }

    /// Starts each client anew, and ends the former one when the new one is there.
    pub(crate) async fn roll_clients(&mut self, course: impl Into<Course>) {
        let course = course.into();
        for number in 0..self.clients.len() {
            let new = self.launch_client(&format!("c{number}"), course);
            let (new, _) = ready(new).await;
            let old = std::mem::replace(&mut self.clients[number], new);
            self.finish(old).await;
        }
    }

    /// Waits until everybody is in a phase by itself.
    pub(crate) async fn all_reach(&mut self, phase: Phase) {
        for process in self.everybody() {
            process.reaches(phase).await;
        }
    }

    /// Waits until everybody hears a side, or doesn't.
    pub(crate) async fn all_find(&mut self, side: Side, connected: bool) {
        for process in self.everybody() {
            process.finds(side, connected).await;
        }
    }

    /// Says that what ends from then on, and until this long from now, may be held by views.
    pub(crate) fn holds(&mut self, since: u64, more: Duration) {
        let more = u64::try_from(more.as_micros()).unwrap();
        self.record.holds.push((since, now() + more));
    }

    /// How often each client has been told that a side is lost.
    pub(crate) fn stale_views(&self, side: Side) -> Vec<usize> {
        let of_side = format!("{side} side");
        let clients = self.clients.iter().map(Process::heard);
        clients
            .map(|heard| {
                heard
                    .stale
                    .iter()
                    .filter(|why| why.contains(&of_side))
                    .count()
            })
            .collect()
    }

    /// The phases that each process has been in.
    pub(crate) fn walks(&self) -> BTreeMap<String, Vec<Phase>> {
        let everybody = self.services.values().chain(&self.clients);
        everybody
            .map(|process| (process.name.clone(), process.heard().walked))
            .collect()
    }

    /// How often services have changed their contents so far.
    pub(crate) fn changes_made(&self) -> u64 {
        let changes = self
            .services
            .values()
            .map(|process| process.heard().changes);
        self.changes_made + changes.sum::<u64>()
    }

    pub(crate) async fn end(mut self) -> Record {
        // What is wrong now has time to be seen.
        tokio::time::sleep(Duration::from_secs(2)).await;
        for client in std::mem::take(&mut self.clients) {
            self.finish(client).await;
        }
        for process in std::mem::take(&mut self.services).into_values() {
            self.finish(process).await;
        }
        self.end_others().await;
        self.record
    }

    fn everybody(&mut self) -> impl Iterator<Item = &mut Process> {
        self.services.values_mut().chain(&mut self.clients)
    }

    fn launch(&mut self, name: &str, course: Course) -> Process {
        let number: usize = name[1..].parse().unwrap();
        let instance = format!("{name}:{}", self.port());
        let config = self.ends.config(course, name, Some(number));
        let changes = self
            .changes
            .map(|pause| ("MEMBER_CHANGES", pause.as_millis().to_string()));
        let changes: Vec<_> = changes.into_iter().collect();
        Process::start(name, &config, Some(&instance), &changes)
    }

    fn launch_client(&self, name: &str, course: Course) -> Process {
        Process::start(name, &self.ends.config(course, name, None), None, &[])
    }

    fn add(&mut self, (process, at): (Process, u64)) {
        self.live(&process, at);
        self.services.insert(process.name.clone(), process);
    }

    fn live(&mut self, process: &Process, ready: u64) {
        let instance = process.instance.clone().unwrap();
        self.record
            .lives
            .insert(instance, Life { ready, end: None });
    }

    async fn finish(&mut self, mut process: Process) {
        let at = process.finish().await;
        self.ended(&process, at, Ending::Told);
    }

    async fn crash(&mut self, mut process: Process) -> String {
        let at = process.kill().await;
        self.ended(&process, at, Ending::Killed);
        process.instance.unwrap()
    }

    fn ended(&mut self, process: &Process, at: u64, how: Ending) {
        let mut heard = process.heard();
        self.changes_made += heard.changes;
        self.record.bounds.worsen(heard.bounds);
        match &process.instance {
            Some(instance) => {
                self.record.lives.get_mut(instance).unwrap().end = Some((at, how));
            }
            None => {
                heard.sight.last = at;
                self.record.sights.push(heard.sight);
            }
        }
    }

    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }
}

/// Waits until a process is there, and says since when.
async fn ready(mut process: Process) -> (Process, u64) {
    let (at, _) = process.hears("ready").await;
    (process, at)
}
