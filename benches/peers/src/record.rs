//! What a run tells, one JSON object a line.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One measurement. Times are in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(crate) enum Record {
    /// A run begins; all up to the next such line is about it.
    Run {
        /// Key of the subject.
        peer: String,
        /// Name and version.
        title: String,
        n: usize,
        rng_seed: u64,
    },
    /// All nodes started at once, until every node sees every other.
    ColdStart {
        /// From the first launch; `None` when it was not reached.
        all: Option<f64>,
        /// The same end, from the last launch.
        last: Option<f64>,
        /// Pairs of which one does not see the other.
        missing: usize,
    },
    /// One thing happened, and everybody was to see it.
    Round {
        what: What,
        /// When each node saw it, ascending; for a join once, when everybody saw everybody.
        times: Vec<f64>,
        /// How many did not see it within the limit.
        missed: usize,
    },
    /// Nothing happened.
    Idle {
        seconds: f64,
        bytes: u64,
        packets: u64,
        cpu: f64,
        rss_kib: f64,
        /// Of it heap and stacks.
        anonymous_kib: f64,
        falsely: Falsely,
    },
    /// Packets were lost at random.
    Loss {
        percent: u8,
        seconds: f64,
        /// How many packets were.
        dropped: u64,
        falsely: Falsely,
        /// Until everybody saw everybody again, once nothing was lost any more.
        healed: Option<f64>,
    },
    /// What nodes answer when asked was compared with what they reported.
    Check {
        when: String,
        asked: usize,
        /// Pairs about which answer and report differ.
        differing: usize,
    },
    /// Something the reader should know.
    Note { text: String },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Change,
    Kill,
    Leave,
    Join,
}

/// Running nodes that others took for gone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Falsely {
    /// How often one vanished from the view of another.
    pub(crate) reports: usize,
    /// Whose instances or membership vanished, each counted once.
    pub(crate) nodes: usize,
    /// How often a node declared another dead by its own verdict, where it counts that; the views
    /// may have held on to the instance.
    pub(crate) verdicts: Option<u64>,
}

impl Record {
    /// Prints it.
    pub(crate) fn emit(&self) -> Result<()> {
        let line = serde_json::to_string(self)?;
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        Ok(out.flush()?)
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    // To the microsecond; more digits are noise.
    (time.as_secs_f64() * 1e6).round() / 1e3
}
