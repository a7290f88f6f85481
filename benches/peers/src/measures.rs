//! The figures of the comparison, each drawn from the records of a run.

use std::collections::BTreeSet;

use crate::collect::Run;
use crate::record::{Falsely, Record, What};
use crate::stats::{max, median, quantile};

/// A kind of figure: how it is written.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Milliseconds,
    Plain,
}

pub(crate) type Figure = Box<dyn Fn(&Run) -> Option<f64>>;

/// A row of the comparison. What is smaller is better.
pub(crate) struct Measure {
    pub(crate) label: String,
    pub(crate) unit: Unit,
    pub(crate) of: Figure,
}

/// The rows for these runs.
pub(crate) fn measures(runs: &[&Run]) -> Vec<Measure> {
    let mut measures = Vec::new();
    let mut add = |label: &str, unit: Unit, of: Figure| {
        measures.push(Measure {
            label: label.to_owned(),
            unit,
            of,
        });
    };
    let time = Unit::Milliseconds;
    add(
        "cold start, all see all",
        time,
        Box::new(|run| cold_start(run, false)),
    );
    add(
        "the same from the last launch",
        time,
        Box::new(|run| cold_start(run, true)),
    );
    for (what, verb) in [
        (What::Join, "one joins"),
        (What::Change, "change"),
        (What::Kill, "kill"),
        (What::Leave, "leave"),
    ] {
        let label = |rest: &str| format!("{verb} → {rest}");
        match what {
            What::Change => {
                for (percent, share) in [(50, 0.5), (99, 0.99)] {
                    let label = label(&format!("{percent} %, median"));
                    add(
                        &label,
                        time,
                        Box::new(move |run| median(&shares(run, what, share))),
                    );
                }
            }
            What::Kill => {
                let first = label("first knows, median");
                add(
                    &first,
                    time,
                    Box::new(move |run| median(&shares(run, what, 0.0))),
                );
            }
            What::Leave | What::Join => {}
        }
        add(
            &label("all, median"),
            time,
            Box::new(move |run| median(&shares(run, what, 1.0))),
        );
        if what != What::Join {
            let worst = label("p99.9 of all who see it");
            add(
                &worst,
                time,
                Box::new(move |run| quantile(&each(run, what), 0.999)),
            );
        }
        add(
            &label("all, max"),
            time,
            Box::new(move |run| max(&shares(run, what, 1.0))),
        );
    }
    let plain = Unit::Plain;
    add(
        "idle: bytes/s a node",
        plain,
        Box::new(|run| idle(run, |idle| idle.bytes)),
    );
    add(
        "idle: packets/s a node",
        plain,
        Box::new(|run| idle(run, |idle| idle.packets)),
    );
    add(
        "idle: CPU ms/s a node",
        plain,
        Box::new(|run| idle(run, |idle| idle.cpu)),
    );
    add(
        "memory a node, KiB",
        plain,
        Box::new(|run| idle(run, |idle| idle.rss_kib)),
    );
    add(
        "of it heap and stacks, KiB",
        plain,
        Box::new(|run| idle(run, |idle| idle.anonymous_kib)),
    );
    add(
        "false deaths, idle",
        plain,
        Box::new(|run| idle(run, |idle| idle.false_downs)),
    );
    let records = runs.iter().flat_map(|run| &run.records);
    let rates: BTreeSet<u8> = records
        .filter_map(|record| match record {
            Record::Loss { percent, .. } => Some(*percent),
            _ => None,
        })
        .collect();
    for rate in rates {
        let reports = format!("false deaths, {rate} % loss");
        add(
            &reports,
            plain,
            Box::new(move |run| Some(loss(run, rate)?.reports as f64)),
        );
        let nodes = format!("nodes they are about, {rate} % loss");
        add(
            &nodes,
            plain,
            Box::new(move |run| Some(loss(run, rate)?.nodes as f64)),
        );
    }
    measures
}

fn cold_start(run: &Run, from_last: bool) -> Option<f64> {
    run.records.iter().find_map(|record| match record {
        Record::ColdStart { all, last, .. } => {
            Some(if from_last { *last } else { *all }.unwrap_or(f64::INFINITY))
        }
        _ => None,
    })
}

/// Times and misses of each round.
pub(crate) fn rounds(run: &Run, wanted: What) -> impl Iterator<Item = (&[f64], usize)> {
    run.records.iter().filter_map(move |record| match record {
        Record::Round {
            what,
            times,
            missed,
        } if *what == wanted => Some((times.as_slice(), *missed)),
        _ => None,
    })
}

/// For each round the time until this share had seen it, at least one.
pub(crate) fn shares(run: &Run, what: What, share: f64) -> Vec<f64> {
    rounds(run, what)
        .filter_map(|(times, missed)| quantile(&with_missed(times, missed), share))
        .collect()
}

/// The times of all who were to see it, of all rounds.
fn each(run: &Run, what: What) -> Vec<f64> {
    rounds(run, what)
        .flat_map(|(times, missed)| with_missed(times, missed))
        .collect()
}

fn with_missed(times: &[f64], missed: usize) -> Vec<f64> {
    let mut all = times.to_vec();
    all.resize(times.len() + missed, f64::INFINITY);
    all
}

/// An idle time, a second and a node.
struct Idle {
    bytes: f64,
    packets: f64,
    cpu: f64,
    rss_kib: f64,
    anonymous_kib: f64,
    false_downs: f64,
}

fn idle(run: &Run, field: impl Fn(&Idle) -> f64) -> Option<f64> {
    let n = run.n as f64;
    run.records.iter().find_map(|record| match record {
        Record::Idle {
            seconds,
            bytes,
            packets,
            cpu,
            rss_kib,
            anonymous_kib,
            falsely,
        } => Some(field(&Idle {
            bytes: *bytes as f64 / seconds / n,
            packets: *packets as f64 / seconds / n,
            cpu: cpu / seconds / n,
            rss_kib: rss_kib / n,
            anonymous_kib: anonymous_kib / n,
            false_downs: falsely.reports as f64,
        })),
        _ => None,
    })
}

fn loss(run: &Run, rate: u8) -> Option<&Falsely> {
    run.records.iter().find_map(|record| match record {
        Record::Loss {
            percent, falsely, ..
        } if *percent == rate => Some(falsely),
        _ => None,
    })
}
