//! Failure detection of the gossip engine beside memberlist's rules, in one simulated network, with
//! the same seeds and faults; and how the gossip engine fares in large clusters.
//!
//! ```text
//! cargo run --release -p tidings-detection               all scenarios; writes docs/detection.*
//! cargo run --release -p tidings-detection -- hour       an hour of loss and pauses
//! cargo run --release -p tidings-detection -- grow 1000  a cluster that starts within ten seconds
//! ```
//!
//! Options: `--seeds N`, `--first-seed N`, `--seconds N` (virtual, per seed), `--members N`,
//! `--only TEXT` (scenarios whose name has it; prints only).

mod compare;
#[allow(dead_code, reason = "the gossip crate's simulator uses the rest")]
#[path = "../../../backend-gossip/tests/sim/counters.rs"]
mod counters;
mod grow;
mod history;
#[allow(dead_code, reason = "the gossip crate's simulator uses the rest")]
#[path = "../../../backend-gossip/tests/sim/links.rs"]
mod links;
mod memberlist;
#[allow(dead_code, reason = "the gossip crate's simulator uses the rest")]
#[path = "../../../backend-gossip/tests/sim/net.rs"]
mod net;
mod node;
mod plan;
mod plot;
mod process;
mod report;
mod scenario;
mod score;
#[cfg(test)]
mod validation;
mod world;

use std::process::ExitCode;

use compare::{Work, compare};
use scenario::{HARD_HOUR, SCENARIOS, Scenario, Size};

/// How much the comparison runs of each scenario.
const SEEDS: u64 = 3;
const SECONDS: u64 = 600;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| options.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug)]
struct Options {
    command: Command,
    seeds: Option<u64>,
    first_seed: u64,
    seconds: Option<u64>,
    members: usize,
    only: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Compare,
    Hour,
    Grow,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            command: Command::Compare,
            seeds: None,
            first_seed: 1,
            seconds: None,
            members: 100,
            only: None,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word}: a value is missing"));
            match word.as_str() {
                "hour" => options.command = Command::Hour,
                "grow" => {
                    options.command = Command::Grow;
                    options.members = number(&word, &value()?)?;
                }
                "--seeds" => options.seeds = Some(number(&word, &value()?)?),
                "--first-seed" => options.first_seed = number(&word, &value()?)?,
                "--seconds" => options.seconds = Some(number(&word, &value()?)?),
                "--members" => options.members = number(&word, &value()?)?,
                "--only" => options.only = Some(value()?),
                _ => return Err(format!("{word}: accepted are hour, grow and the options")),
            }
        }
        Ok(options)
    }

    fn run(&self) -> Result<(), String> {
        match self.command {
            Command::Compare => {
                let scenarios = self.chosen();
                let outcomes = compare(&self.work(&scenarios, SEEDS, SECONDS));
                print!("{}", report::table(&outcomes));
                if self.only.is_none() {
                    report::write(&outcomes, &self.size(SEEDS, SECONDS))?;
                } else {
                    print!("{}", report::deaths(&outcomes));
                }
            }
            Command::Hour => {
                let outcomes = compare(&self.work(&[HARD_HOUR], 1, 3_600));
                print!("{}", report::table(&outcomes));
                print!("{}", report::deaths(&outcomes));
            }
            Command::Grow => {
                print!("{}", grow::grow(self.members, self.first_seed));
            }
        }
        Ok(())
    }

    fn chosen(&self) -> Vec<Scenario> {
        let named = |scenario: &&Scenario| {
            let only = self.only.as_ref();
            only.is_none_or(|only| scenario.name.contains(only))
        };
        SCENARIOS.iter().filter(named).copied().collect()
    }

    fn size(&self, seeds: u64, seconds: u64) -> Size {
        Size {
            members: self.members,
            seconds: self.seconds.unwrap_or(seconds),
            first_seed: self.first_seed,
            seeds: self.seeds.unwrap_or(seeds),
        }
    }

    fn work(&self, scenarios: &[Scenario], seeds: u64, seconds: u64) -> Work {
        Work {
            scenarios: scenarios.to_vec(),
            size: self.size(seeds, seconds),
        }
    }
}

fn number<T: std::str::FromStr>(option: &str, text: &str) -> Result<T, String> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("{option} {text}: a whole number is accepted"))
}
