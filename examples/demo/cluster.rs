//! The services as child processes, and what each of them sees.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tidings::gossip::{GossipConfig, GossipDiscovery};
use tidings::{Change, Changes, Discovery, DiscoveryExt};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout_at;

use crate::Outcome;
use crate::service::{APPEARED, LEAVE, MODE, REGISTERED, SERVICE, VANISHED};

/// How long any step may take before the demo gives up.
const DEADLINE: Duration = Duration::from_secs(60);
/// Who sees what the demo's own member sees.
const DEMO: &str = "the demo";

/// Dropping it kills what still runs.
pub(crate) struct Cluster {
    start: Instant,
    demo: GossipDiscovery,
    services: BTreeMap<String, Child>,
    /// By viewer and service: whether the view shows it, and since when.
    seen: BTreeMap<(String, String), (bool, Instant)>,
    reports: UnboundedReceiver<Report>,
    reporter: UnboundedSender<Report>,
}

struct Report {
    viewer: String,
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
        let mut child = Command::new(std::env::current_exe()?)
            .args([MODE, name, &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lines = child.stdout.take().ok_or("the service has no output")?;
        tokio::spawn(report_lines(name.to_owned(), lines, self.reporter.clone()));
        self.print(
            name,
            &format!("starts, pid {}", child.id().unwrap_or_default()),
        );
        self.services.insert(name.to_owned(), child);

        let registered = self.wait_for_registration(name).await?;
        let seen = self.wait_until_all_views(name, true).await?;
        self.judge(
            name,
            "found by all",
            seen - registered,
            self.demo.status().bounds().visible,
        )
    }

    /// Kills a service, and waits until nobody sees it.
    pub(crate) async fn kill(&mut self, name: &str) -> Outcome {
        let mut child = self.services.remove(name).ok_or("no such service")?;
        let killed = Instant::now();
        child.start_kill()?;
        self.print(name, "is killed (SIGKILL)");
        let gone = self.wait_until_all_views(name, false).await?;
        child.wait().await?;
        self.judge(
            name,
            "gone from all",
            gone - killed,
            self.demo.status().bounds().crashed,
        )
    }

    /// Asks a service to leave, and waits until nobody sees it.
    pub(crate) async fn ask_to_leave(&mut self, name: &str) -> Outcome {
        let mut child = self.services.remove(name).ok_or("no such service")?;
        let asked = Instant::now();
        order_to_leave(&mut child).await?;
        self.print(name, "is asked to leave");
        let gone = self.wait_until_all_views(name, false).await?;
        self.judge(
            name,
            "gone from all",
            gone - asked,
            self.demo.status().bounds().removed,
        )?;
        wait_for_exit(name, &mut child).await
    }

    /// Asks all that still run to leave.
    pub(crate) async fn end(mut self) -> Outcome {
        for (name, mut child) in std::mem::take(&mut self.services) {
            order_to_leave(&mut child).await?;
            wait_for_exit(&name, &mut child).await?;
        }
        Ok(self.demo.close().await?)
    }

    async fn wait_for_registration(&mut self, name: &str) -> Outcome<Instant> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let report = self.next_report(deadline).await?;
            let report = report.ok_or_else(|| format!("{name} did not register"))?;
            if report.viewer == name && matches!(report.what, What::Registered) {
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
                let last = self.viewers().map(|viewer| self.view(viewer, name).1);
                return Ok(last.max().unwrap_or(self.start));
            }
            if self.next_report(deadline).await?.is_none() {
                let state = if present { "absent" } else { "present" };
                return Err(format!("{name} is still {state}: {}", lagging.join(", ")).into());
            }
        }
    }

    fn lagging(&self, name: &str, present: bool) -> Vec<String> {
        let views_of_it = self.viewers().map(|viewer| (viewer, name, present));
        let its_view = self
            .services
            .keys()
            .map(|other| (name, other.as_str(), true));
        views_of_it
            .chain(its_view.filter(|_| present))
            .filter(|(viewer, name, expected)| self.view(viewer, name).0 != *expected)
            .map(|(viewer, name, _)| format!("{name} in the view of {viewer}"))
            .collect()
    }

    fn viewers(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str).chain([DEMO])
    }

    fn view(&self, viewer: &str, name: &str) -> (bool, Instant) {
        let pair = (viewer.to_owned(), name.to_owned());
        *self.seen.get(&pair).unwrap_or(&(false, self.start))
    }

    /// The next report, or `None` once the deadline is over.
    async fn next_report(&mut self, deadline: Instant) -> Outcome<Option<Report>> {
        let Ok(report) = timeout_at(deadline.into(), self.reports.recv()).await else {
            return Ok(None);
        };
        let report = report.ok_or("nobody reports any more")?;
        let (name, present) = match &report.what {
            What::Registered => return Ok(Some(report)),
            What::Ended if self.services.contains_key(&report.viewer) => {
                return Err(format!("{} ended by itself", report.viewer).into());
            }
            What::Ended => {
                // It may come back, and then starts with an empty view.
                self.seen.retain(|(viewer, _), _| *viewer != report.viewer);
                return Ok(Some(report));
            }
            What::Appeared(name) => (name, true),
            What::Vanished(name) => (name, false),
        };
        let pair = (report.viewer.clone(), name.clone());
        self.seen.insert(pair, (present, report.at));
        Ok(Some(report))
    }

    fn judge(&self, name: &str, what: &str, took: Duration, bound: Duration) -> Outcome {
        let views = self.viewers().count();
        self.print(
            name,
            &format!(
                "{what} {views} views after {:>6.1} ms   (bound {:.1} s)",
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

async fn order_to_leave(child: &mut Child) -> Outcome {
    let mut orders = child.stdin.take().ok_or("the service takes no orders")?;
    orders.write_all(format!("{LEAVE}\n").as_bytes()).await?;
    Ok(orders.flush().await?)
}

async fn wait_for_exit(name: &str, child: &mut Child) -> Outcome {
    let status = timeout_at((Instant::now() + DEADLINE).into(), child.wait()).await;
    let status = status.map_err(|_| format!("{name} does not end"))??;
    if status.success() {
        return Ok(());
    }
    Err(format!("{name} ended with {status}").into())
}

async fn report_lines(viewer: String, output: ChildStdout, reporter: UnboundedSender<Report>) {
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
        let viewer = viewer.clone();
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
        let viewer = DEMO.to_owned();
        if reporter.send(Report { viewer, at, what }).is_err() {
            return;
        }
    }
}
