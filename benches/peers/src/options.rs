//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::subjects::Subject;

/// The same work on gossip libraries, this repository's among them, and one table of it.
#[derive(Debug, Parser)]
#[command(name = "peers", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// What to compare
    #[arg(long, value_delimiter = ',', value_enum,
          default_values_t = [Subject::Ours, Subject::Foca, Subject::Chitchat, Subject::Memberlist,
                              Subject::Serf, Subject::SerfGo])]
    pub(crate) peers: Vec<Subject>,

    /// Cluster sizes, at least 2
    #[arg(long, value_delimiter = ',', default_values_t = [5, 25, 100], value_parser = size)]
    pub(crate) n: Vec<usize>,

    /// Longest time for one subject at one size, in seconds; it is ended then, and what it has
    /// told so far is shown
    #[arg(long, default_value = "1800", value_parser = seconds)]
    pub(crate) limit: Duration,

    /// Print the tables as Markdown
    #[arg(long)]
    pub(crate) markdown: bool,

    /// Append every measurement to this file as well, one JSON object a line
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,

    /// Measure nothing; print the tables of such files
    #[arg(long, value_delimiter = ',')]
    pub(crate) from: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) work: Work,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one subject at one size in this process, and print measurements as JSON lines
    Run(RunOptions),
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    #[arg(long, value_enum)]
    pub(crate) peer: Subject,

    #[arg(long, value_parser = size)]
    pub(crate) n: usize,

    #[command(flatten)]
    pub(crate) work: Work,
}

/// How much of everything.
#[derive(Clone, Debug, Args)]
pub(crate) struct Work {
    /// Changes of a value
    #[arg(long, default_value_t = 20)]
    pub(crate) rounds: usize,

    /// Processes killed, each replaced by a new node
    #[arg(long, default_value_t = 5)]
    pub(crate) kills: usize,

    /// Polite leaves, each replaced by a new node
    #[arg(long, default_value_t = 5)]
    pub(crate) leaves: usize,

    /// Idle time in seconds
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub(crate) idle: Duration,

    /// Rates of packet loss to try, in percent; 0 for none
    #[arg(long, value_delimiter = ',', default_values_t = [5, 20, 30],
          value_parser = clap::value_parser!(u8).range(0..=95))]
    pub(crate) loss: Vec<u8>,

    /// Time at each rate of loss, in seconds
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub(crate) loss_time: Duration,

    /// Worst cases instead: this many changes, leaves and joins in quick succession, and the kills
    #[arg(long, default_value_t = 0)]
    pub(crate) stragglers: usize,

    /// Longest time to wait for one thing to be seen everywhere, in seconds
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub(crate) wait: Duration,

    /// Time to come to rest after the start, in seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub(crate) settle: Duration,

    /// Seed of the choices (which node, when); random when not given
    #[arg(long)]
    pub(crate) rng_seed: Option<u64>,
}

impl Work {
    /// The command line that says the same.
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let Self {
            rounds,
            kills,
            leaves,
            idle,
            loss,
            loss_time,
            stragglers,
            wait,
            settle,
            rng_seed,
        } = self;
        let loss: Vec<_> = loss.iter().map(ToString::to_string).collect();
        let mut arguments = vec![
            format!("--rounds={rounds}"),
            format!("--kills={kills}"),
            format!("--leaves={leaves}"),
            format!("--idle={}", idle.as_secs_f64()),
            format!("--loss={}", loss.join(",")),
            format!("--loss-time={}", loss_time.as_secs_f64()),
            format!("--stragglers={stragglers}"),
            format!("--wait={}", wait.as_secs_f64()),
            format!("--settle={}", settle.as_secs_f64()),
        ];
        arguments.extend(rng_seed.map(|seed| format!("--rng-seed={seed}")));
        arguments
    }
}

fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ 2..) => Ok(size),
        _ => Err("accepted is a number from 2".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
