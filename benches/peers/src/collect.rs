//! Runs subject after subject, each in a process and namespaces of its own, and collects.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::namespace::{ISOLATED, Isolation};
use crate::options::Options;
use crate::record::Record;
use crate::subjects::Subject;

/// What one subject showed at one size.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Key of the subject.
    pub(crate) peer: String,
    /// Name and version.
    pub(crate) title: String,
    pub(crate) n: usize,
    pub(crate) records: Vec<Record>,
}

/// Does all the work of the options.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Run>> {
    let isolation = Isolation::available().await;
    if isolation == Isolation::None {
        eprintln!(
            "no namespaces of one's own here (needs unshare and ip, and root or user namespaces): \
             bytes and packets are the whole machine's, and loss is skipped"
        );
    }
    let mut lines = Lines {
        records: Vec::new(),
        file: options.out.as_ref().map(append_to).transpose()?,
    };
    for n in &options.n {
        for peer in &options.peers {
            eprintln!("== {} with {n} nodes", peer.key());
            let run = run_child(options, isolation, *peer, *n, &mut lines);
            let run = tokio::select! {
                run = timeout(options.limit, run) => run,
                // Returning ends the run, and all that runs in its namespaces.
                () = interrupted() => anyhow::bail!("interrupted"),
            };
            let problem = match run {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("ended after {:?}", options.limit),
            };
            let text = format!("{} with {n} nodes: {problem}", peer.key());
            lines.add(Record::Note { text })?;
        }
    }
    Ok(runs(lines.records))
}

/// What such files hold.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<Run>> {
    let mut records = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let record = serde_json::from_str(line).with_context(|| line.to_owned())?;
            records.push(record);
        }
    }
    Ok(runs(records))
}

async fn run_child(
    options: &Options,
    isolation: Isolation,
    peer: Subject,
    n: usize,
    lines: &mut Lines,
) -> Result<()> {
    let mut command = isolation.command(&std::env::current_exe()?);
    command
        .arg("run")
        .arg(format!("--peer={}", peer.key()))
        .arg(format!("--n={n}"))
        .args(options.work.to_arguments())
        .stdout(Stdio::piped());
    if isolation != Isolation::None {
        command.env(ISOLATED, "1");
    }
    let mut child = command.spawn().context("start the run")?;
    let output = child.stdout.take().context("stdout is piped")?;
    let mut output = BufReader::new(output).lines();
    while let Some(line) = output.next_line().await? {
        // Whatever else a subject prints is not ours to parse.
        match serde_json::from_str(&line) {
            Ok(record) => lines.add(record)?,
            Err(_) => eprintln!("{line}"),
        }
    }
    let status = child.wait().await?;
    anyhow::ensure!(status.success(), "{status}");
    Ok(())
}

async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Everything told so far, in the file as well.
struct Lines {
    records: Vec<Record>,
    file: Option<File>,
}

impl Lines {
    fn add(&mut self, record: Record) -> Result<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "{}", serde_json::to_string(&record)?)?;
        }
        if let Some(progress) = progress(&record) {
            eprintln!("   {progress}");
        }
        self.records.push(record);
        Ok(())
    }
}

fn append_to(path: &PathBuf) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| path.display().to_string())
}

/// What is worth a line while it runs.
fn progress(record: &Record) -> Option<String> {
    match record {
        Record::Run { .. } => None,
        Record::Round {
            what,
            times,
            missed,
        } if *missed > 0 => Some(format!(
            "{what:?}: {} saw it, {missed} did not",
            times.len()
        )),
        Record::Round { .. } => None,
        Record::Check { differing: 0, .. } => None,
        Record::Note { text } => Some(text.clone()),
        Record::ColdStart { .. }
        | Record::Idle { .. }
        | Record::Loss { .. }
        | Record::Check { .. } => Some(format!("{record:?}")),
    }
}

fn runs(records: Vec<Record>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for record in records {
        if let Record::Run { peer, title, n, .. } = record {
            runs.push(Run {
                peer,
                title,
                n,
                records: Vec::new(),
            });
        } else if let Some(run) = runs.last_mut() {
            run.records.push(record);
        }
    }
    runs
}
