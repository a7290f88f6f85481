//! Tables of what was measured: a measure a row, a subject a column.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::collect::Run;
use crate::measures::{Unit, measures, rounds, shares};
use crate::record::{Falsely, Record, What};
use crate::stats::quantile;

/// Key of the subject to which the others are compared.
const OURS: &str = "ours";
/// Stands where nothing was measured.
const NOTHING: &str = "–";

/// One table a size, one of worst cases where there are enough rounds, and the notes.
pub(crate) fn tables(runs: &[Run], markdown: bool) -> String {
    let mut text = String::new();
    let sizes: BTreeSet<usize> = runs.iter().map(|run| run.n).collect();
    for n in sizes {
        let runs: Vec<_> = runs.iter().filter(|run| run.n == n).collect();
        push(&mut text, &format!("N = {n}"), &comparison(&runs), markdown);
    }
    push(&mut text, "Worst cases", &worst_cases(runs), markdown);
    for (run, note) in notes(runs) {
        let _ = writeln!(text, "* {}, N = {}: {note}", run.title, run.n);
    }
    text
}

type Rows = Vec<Vec<String>>;

fn comparison(runs: &[&Run]) -> Rows {
    let ours = runs.iter().find(|run| run.peer == OURS);
    let mut header = vec![String::new()];
    header.extend(runs.iter().map(|run| run.title.clone()));
    let mut rows = vec![header];
    for measure in measures(runs) {
        let reference = ours.and_then(|ours| (measure.of)(ours));
        let values: Vec<_> = runs.iter().map(|run| (measure.of)(run)).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let mut row = vec![measure.label.clone()];
        for (run, value) in runs.iter().zip(values) {
            let reference = reference.filter(|_| run.peer != OURS);
            row.push(cell(value, reference, measure.unit));
        }
        rows.push(row);
    }
    if rows.len() == 1 { Vec::new() } else { rows }
}

/// Where there are hundreds of rounds, how long the slowest took until all saw it.
fn worst_cases(runs: &[Run]) -> Rows {
    const ROUNDS_MIN: usize = 100;
    let header = [
        "",
        "N",
        "until all see",
        "rounds",
        "p50",
        "p99",
        "p99.9",
        "max",
        "missed",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for run in runs {
        for what in [What::Change, What::Join, What::Leave, What::Kill] {
            let times = shares(run, what, 1.0);
            if rounds(run, What::Change).count() < ROUNDS_MIN || times.is_empty() {
                continue;
            }
            let mut row = vec![
                run.title.clone(),
                run.n.to_string(),
                format!("{what:?}").to_lowercase(),
                times.len().to_string(),
            ];
            for share in [0.5, 0.99, 0.999, 1.0] {
                row.push(cell(quantile(&times, share), None, Unit::Milliseconds));
            }
            let missed: usize = rounds(run, what).map(|(_, missed)| missed).sum();
            row.push(missed.to_string());
            rows.push(row);
        }
    }
    if rows.len() == 1 { Vec::new() } else { rows }
}

fn notes(runs: &[Run]) -> Vec<(&Run, String)> {
    let mut notes = Vec::new();
    for run in runs {
        for what in [What::Change, What::Kill, What::Leave, What::Join] {
            let missed: usize = rounds(run, what).map(|(_, missed)| missed).sum();
            if missed > 0 {
                let what = format!("{what:?}").to_lowercase();
                notes.push((run, format!("{what}: {missed} not seen within the limit")));
            }
        }
        let told = run.records.iter().flat_map(told);
        notes.extend(told.map(|note| (run, note)));
    }
    notes
}

/// What a record tells beyond its figures.
fn told(record: &Record) -> Vec<String> {
    let mut told = Vec::new();
    match record {
        Record::ColdStart { missing, .. } if *missing > 0 => {
            told.push(format!("cold start: {missing} pairs missing at the limit"));
        }
        Record::Check {
            when, differing, ..
        } if *differing > 0 => told.push(format!(
            "{when}, nodes answer otherwise than they reported about {differing} others"
        )),
        Record::Idle { falsely, .. } => told.extend(verdicts(falsely, "idle")),
        Record::Loss {
            percent,
            dropped,
            falsely,
            healed,
            ..
        } => {
            let when = format!("{percent} % loss");
            told.extend(verdicts(falsely, &when));
            if *percent > 0 && *dropped == 0 {
                told.push(format!("{when}: not a single packet was lost"));
            }
            if healed.is_none() {
                told.push(format!("{when}: not everybody sees everybody again"));
            }
        }
        Record::Note { text } => told.push(text.clone()),
        Record::Run { .. }
        | Record::ColdStart { .. }
        | Record::Round { .. }
        | Record::Check { .. } => {}
    }
    told
}

fn verdicts(falsely: &Falsely, when: &str) -> Option<String> {
    let verdicts = falsely.verdicts.filter(|verdicts| *verdicts > 0)?;
    Some(format!(
        "{when}: running nodes were declared dead {verdicts} times"
    ))
}

/// `620 ms (×62)`: the figure, and how often ours goes into it.
fn cell(value: Option<f64>, ours: Option<f64>, unit: Unit) -> String {
    let Some(value) = value else {
        return NOTHING.to_owned();
    };
    let text = match unit {
        Unit::Milliseconds if value.is_infinite() => "never".to_owned(),
        Unit::Milliseconds if value >= 1e3 => format!("{} s", figure(value / 1e3)),
        Unit::Milliseconds => format!("{} ms", figure(value)),
        Unit::Plain => figure(value),
    };
    match ours
        .map(|ours| value / ours)
        .filter(|ratio| ratio.is_finite())
    {
        Some(ratio) => format!("{text} (×{})", figure(ratio)),
        None => text,
    }
}

/// Three digits.
fn figure(value: f64) -> String {
    let digits = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        v if v < 1.0 => 3,
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

fn push(text: &mut String, title: &str, rows: &Rows, markdown: bool) {
    let Some(header) = rows.first() else { return };
    let columns = 0..header.len();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<_> = columns.map(width).collect();
    let (mark, between, end) = if markdown {
        ("| ", " | ", " |")
    } else {
        ("", "  ", "")
    };
    let title = if markdown {
        format!("### {title}")
    } else {
        title.to_owned()
    };
    let _ = writeln!(text, "{title}\n");
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let line = format!("{mark}{}{end}", cells.join(between));
        let _ = writeln!(text, "{}", line.trim_end());
        if markdown && number == 0 {
            let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
            let _ = writeln!(text, "{mark}{}{end}", rule.join(between));
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(peer: &str, times: &[f64], missed: usize) -> Run {
        Run {
            peer: peer.to_owned(),
            title: peer.to_owned(),
            n: 5,
            records: vec![Record::Round {
                what: What::Change,
                times: times.to_vec(),
                missed,
            }],
        }
    }

    #[test]
    fn others_are_shown_as_multiples_of_ours() {
        let runs = [
            run("ours", &[1.0, 2.0, 3.0, 4.0], 0),
            run("slow", &[100.0, 200.0, 300.0, 2000.0], 0),
        ];
        let text = tables(&runs, true);
        let row = text.lines().find(|line| line.contains("all, median"));
        let row = row.unwrap();
        assert!(
            row.contains("| 4 ms ") && row.contains("| 2 s (×500) "),
            "{text}"
        );
    }

    #[test]
    fn what_was_missed_counts_as_never() {
        let text = tables(&[run("ours", &[1.0, 2.0, 3.0], 1)], false);
        let row = |label: &str| text.lines().find(|line| line.starts_with(label)).unwrap();
        assert!(row("change → 50 %, median").ends_with("2 ms"), "{text}");
        assert!(row("change → all, max").ends_with("never"), "{text}");
        assert!(
            text.contains("change: 1 not seen within the limit"),
            "{text}"
        );
    }
}
