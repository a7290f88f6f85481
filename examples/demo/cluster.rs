//! The services as child processes, and what each of them sees.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tidings::gossip::{GossipConfig, GossipDiscovery};
use tidings::{Change, Changes, Discovery, DiscoveryExt};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{timeout, timeout_at};

use crate::Outcome;
use crate::service::{APPEARED, LEAVE, MODE, REGISTERED, SERVICE, VANISHED};

/// How long any step may take before the demo gives up.
const DEADLINE: Duration = Duration::from_secs(60);

/// Who sees something: a process, by its id, so that one that came back isn't taken for the one
/// that was killed.
type Viewer = u32;

/// Dropping it kills what still runs.
pub(crate) struct Cluster {
    start: Instant,
    demo: GossipDiscovery,
    services: BTreeMap<String, Service>,
    /// By viewer and name: whether the view shows it, and since when.
    seen: BTreeMap<(Viewer, String), (bool, Instant)>,
    reports: UnboundedReceiver<Report>,
    reporter: UnboundedSender<Report>,
}

struct Service {
    process: Child,
    id: Viewer,
}

struct Report {
    viewer: Viewer,
    at: Instant,
    what: What,
}

enum What {
    Registered,
    Appeared(String),
    Vanished(String),
    Ended,
}

impl Cluster {
    pub(crate) async fn start() -> Outcome<Self> {
        let mut config = GossipConfig::default();
        config.bind = "127.0.0.1:0".parse()?;
        let demo = GossipDiscovery::start(config).await?;
        let (reporter, reports) = unbounded_channel();
        let changes = demo.watch_service(SERVICE).await?.into_changes();
        tokio::spawn(report_own_view(changes, reporter.clone()));
        Ok(Self {
            start: Instant::now(),
            demo,
            services: BTreeMap::new(),
            seen: BTreeMap::new(),
            reports,
            reporter,
        })
    }

    /// Starts a service, and waits until everybody sees it and it sees everybody.
    pub(crate) async fn spawn(&mut self, name: &str) -> Outcome {
        let url = format!(
            "gossip://127.0.0.1:0?join={}&name={name}",
            self.demo.local_addr()
        );
        let mut process = Command::new(std::env::current_exe()?)
            .args([MODE, name, &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let id = process.id().ok_or("the service ended at once")?;
        let output = process.stdout.take().ok_or("the service has no output")?;
        tokio::spawn(report_lines(id, output, self.reporter.clone()));
        self.print(name, &format!("starts, process {id}"));
        self.services
            .insert(name.to_owned(), Service { process, id });

        let registered = self.wait_for_registration(name, id).await?;
        let seen = self.wait_until_all_views(name, true).await?;
        self.judge(
            name,
            "found in all",
            seen - registered,
            self.demo.status().bounds().visible,
        )
    }

    /// Kills a service, and waits until nobody sees it.
    pub(crate) async fn kill(&mut self, name: &str) -> Outcome {
        let mut service = self.services.remove(name).ok_or("no such service")?;
        let killed = Instant::now();
        service.process.start_kill()?;
        self.print(name, "is killed (SIGKILL)");
        let gone = self.wait_until_all_views(name, false).await?;
        self.judge(
            name,
            "gone from all",
            gone - killed,
            self.demo.status().bounds().crashed,
        )
    }

    /// Asks a service to leave, and waits until nobody sees it.
    pub(crate) async fn ask_to_leave(&mut self, name: &str) -> Outcome {
        let mut service = self.services.remove(name).ok_or("no such service")?;
        let asked = Instant::now();
        service.order_to_leave().await?;
        self.print(name, "is asked to leave");
        let gone = self.wait_until_all_views(name, false).await?;
        self.judge(
            name,
            "gone from all",
            gone - asked,
            self.demo.status().bounds().removed,
        )?;
        service.wait_for_exit().await
    }

    /// Asks all that still run to leave.
    pub(crate) async fn end(mut self) -> Outcome {
        for mut service in std::mem::take(&mut self.services).into_values() {
            service.order_to_leave().await?;
            service.wait_for_exit().await?;
        }
        Ok(self.demo.close().await?)
    }

    async fn wait_for_registration(&mut self, name: &str, id: Viewer) -> Outcome<Instant> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let report = self.next_report(deadline).await?;
            let report = report.ok_or_else(|| format!("{name} did not register"))?;
            if report.viewer == id && matches!(report.what, What::Registered) {
                return Ok(report.at);
            }
        }
    }

    /// Waits until all views show `name`, and its own view shows all the others; or until no view
    /// shows it. Returns when the last of the views changed.
    async fn wait_until_all_views(&mut self, name: &str, present: bool) -> Outcome<Instant> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let lagging = self.lagging(name, present);
            if lagging.is_empty() {
                let changed = self.viewers().map(|viewer| self.view(viewer, name).1);
                return Ok(changed.max().unwrap_or(self.start));
            }
            if self.next_report(deadline).await?.is_none() {
                let state = if present { "missing" } else { "present" };
                return Err(format!("still {state}: {}", lagging.join(", ")).into());
            }
        }
    }

    fn lagging(&self, name: &str, present: bool) -> Vec<String> {
        let views_of_it = self.viewers().map(|viewer| (viewer, name));
        let its_view = self.services.get(name).into_iter().flat_map(|service| {
            let others = self.services.keys();
            others.map(|other| (service.id, other.as_str()))
        });
        views_of_it
            .chain(its_view)
            .filter(|(viewer, name)| self.view(*viewer, name).0 != present)
            .map(|(viewer, name)| format!("{name} in the view of process {viewer}"))
            .collect()
    }

    fn viewers(&self) -> impl Iterator<Item = Viewer> {
        let services = self.services.values().map(|service| service.id);
        services.chain([std::process::id()])
    }

    fn view(&self, viewer: Viewer, name: &str) -> (bool, Instant) {
        let seen = self.seen.get(&(viewer, name.to_owned()));
        *seen.unwrap_or(&(false, self.start))
    }

    /// The next report, or `None` once the deadline is over.
    async fn next_report(&mut self, deadline: Instant) -> Outcome<Option<Report>> {
        let Ok(report) = timeout_at(deadline.into(), self.reports.recv()).await else {
            return Ok(None);
        };
        let report = report.ok_or("nobody reports any more")?;
        let (name, present) = match &report.what {
            What::Appeared(name) => (name, true),
            What::Vanished(name) => (name, false),
            What::Ended if self.viewers().any(|viewer| viewer == report.viewer) => {
                return Err(format!("process {} ended by itself", report.viewer).into());
            }
            What::Registered | What::Ended => return Ok(Some(report)),
        };
        let pair = (report.viewer, name.clone());
        self.seen.insert(pair, (present, report.at));
        Ok(Some(report))
    }

    fn judge(&self, name: &str, what: &str, took: Duration, bound: Duration) -> Outcome {
        let views = self.viewers().count();
        self.print(
            name,
            &format!(
                "{what:<13} {views} views after {:>6.1} ms   (bound {:.1} s)",
                took.as_secs_f64() * 1e3,
                bound.as_secs_f64()
            ),
        );
        if took <= bound {
            return Ok(());
        }
        Err(format!("{name} took longer than the bound").into())
    }

    fn print(&self, name: &str, text: &str) {
        println!(
            "{:>8.3} s  {name:<11} {text}",
            self.start.elapsed().as_secs_f64()
        );
    }
}

impl Service {
    async fn order_to_leave(&mut self) -> Outcome {
        let mut orders = self
            .process
            .stdin
            .take()
            .ok_or("the service takes no orders")?;
        orders.write_all(format!("{LEAVE}\n").as_bytes()).await?;
        Ok(orders.flush().await?)
    }

    async fn wait_for_exit(&mut self) -> Outcome {
        let exited = timeout(DEADLINE, self.process.wait()).await;
        let status = exited.map_err(|_| format!("process {} does not end", self.id))??;
        if status.success() {
            return Ok(());
        }
        Err(format!("process {} ended with {status}", self.id).into())
    }
}

async fn report_lines(viewer: Viewer, output: ChildStdout, reporter: UnboundedSender<Report>) {
    let mut lines = BufReader::new(output).lines();
    let mut running = true;
    while running {
        let line = lines.next_line().await.ok().flatten();
        let at = Instant::now();
        let what = match line.as_deref() {
            None => What::Ended,
            Some(REGISTERED) => What::Registered,
            Some(line) => match (line.strip_prefix(APPEARED), line.strip_prefix(VANISHED)) {
                (Some(name), _) => What::Appeared(name.to_owned()),
                (_, Some(name)) => What::Vanished(name.to_owned()),
                _ => continue,
            },
        };
        running = !matches!(what, What::Ended);
        if reporter.send(Report { viewer, at, what }).is_err() {
            return;
        }
    }
}

async fn report_own_view(mut changes: Changes, reporter: UnboundedSender<Report>) {
    while let Some(change) = changes.next().await {
        let at = Instant::now();
        let what = match change {
            Change::Added(instance) => What::Appeared(instance.id().to_string()),
            Change::Removed(instance) => What::Vanished(instance.id().to_string()),
            _ => continue,
        };
        let viewer = std::process::id();
        if reporter.send(Report { viewer, at, what }).is_err() {
            return;
        }
    }
}
