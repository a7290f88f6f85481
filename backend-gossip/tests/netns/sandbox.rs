//! From a test to a scenario in namespaces of its own, and back.

use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, io, process, thread};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::network::{self, Network};
use crate::scenarios::SCENARIOS;

/// First argument of the process that runs a scenario.
pub(crate) const LAB: &str = "netns-lab";
/// Makes the faults last as long as the worst in real life, where it is `long`.
const VARIABLE: &str = "TIDINGS_NETNS";
/// The scenario that only looks whether others could run.
const PROBE: &str = "probe";
/// How long a scenario may take before it has failed.
const SHORT_LIMIT: Duration = Duration::from_secs(180);
const LONG_LIMIT: Duration = Duration::from_secs(900);

/// Runs the scenarios as tests, or ignores them all with the reason.
pub(crate) fn test() {
    let args = Arguments::from_args();
    let missing = if args.list { None } else { missing() };
    let trials = SCENARIOS.iter().map(|(name, _)| {
        let missing = missing.clone();
        Trial::ignorable_test(*name, move || match missing {
            Some(missing) => Ok(Completion::ignored_with(missing)),
            None => test_one(name),
        })
    });
    libtest_mimic::run(&args, trials.collect()).exit();
}

/// Runs a scenario in the namespaces that were made for it.
pub(crate) fn enter(scenario: &str) {
    thread::spawn(|| {
        // Held open by the test: when it is gone, so is all this.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(1);
    });
    thread::spawn(|| {
        let limit = if is_long() { LONG_LIMIT } else { SHORT_LIMIT };
        thread::sleep(limit);
        eprintln!("not ended within {limit:?}");
        process::exit(1);
    });
    network::make_private();
    if scenario == PROBE {
        let mut network = Network::build(1);
        network.lose(0.5);
        return;
    }
    let found = SCENARIOS.iter().find(|(name, _)| *name == scenario);
    let (_, run) = found.expect("a scenario of this name");
    run();
}

/// Whether faults last as long as the worst in real life.
pub(crate) fn is_long() -> bool {
    env::var(VARIABLE).is_ok_and(|value| value == "long")
}

fn test_one(scenario: &str) -> Result<Completion, Failed> {
    let output = run(scenario)?;
    if !output.status.success() {
        return Err(said(&output).into());
    }
    if is_long() {
        println!("{scenario}:\n{}", said(&output));
    }
    Ok(Completion::Completed)
}

/// Why no scenario can run here.
fn missing() -> Option<String> {
    for (tool, version) in [
        ("ip", "-V"),
        ("iptables", "-V"),
        ("unshare", "-V"),
        ("mount", "-V"),
    ] {
        let found = Command::new(tool)
            .arg(version)
            .stdout(Stdio::null())
            .status();
        if found.is_err() {
            return Some(format!("{tool} is not installed"));
        }
    }
    match run(PROBE) {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = said(&output);
            let first = said.lines().find(|line| !line.trim().is_empty());
            Some(format!(
                "no network namespaces: {}",
                first.unwrap_or("no reason given")
            ))
        }
        Err(error) => Some(format!("no network namespaces: {error}")),
    }
}

fn run(scenario: &str) -> io::Result<process::Output> {
    let mut child = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .arg(env::current_exe()?)
        .args([LAB, scenario])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let held = child.stdin.take();
    let output = child.wait_with_output();
    drop(held);
    output
}

fn said(output: &process::Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}
