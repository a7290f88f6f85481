//! The figures as a table for people, as CSV, and as a page in the repository's docs.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::compare::Outcome;
use crate::plot;
use crate::scenario::{Figures, Size, Times};
use crate::score::Cause;

/// Between these the page is rewritten; the rest is written by hand.
const BEGIN: &str = "<!-- figures: written by the command, not by hand -->\n";
const END: &str = "<!-- end of figures -->\n";

/// A Markdown table, one row for each scenario and engine.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut text =
        "| scenario | rules | lost | out of half the views: median | out of all: median | \
                    99 % | missed | false deaths | … per 1,000 member-hours | … views | \
                    not false: stopped | sick | cut off | aftermath | by one in trouble |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for Outcome { scenario, figures } in outcomes {
        for (engine, figures) in figures {
            let time = |times: &Times, share| shown(times.share(share), 2, " s");
            // Writing to a string doesn't fail.
            let _ = writeln!(
                text,
                "| {} | {engine} | {} | {} | {} | {} | {} | {} | {:.1} | {} | {} | {} | {} | {} | {} |",
                scenario.name,
                figures.all.count(),
                time(&figures.half, 0.5),
                time(&figures.all, 0.5),
                time(&figures.all, 0.99),
                figures.all.missed(),
                figures.deaths(Cause::None),
                false_death_rate(figures),
                figures.views,
                figures.deaths(Cause::Stopped),
                figures.deaths(Cause::Sick),
                figures.deaths(Cause::Cut),
                figures.deaths(Cause::Aftermath),
                figures.deaths(Cause::Observer),
            );
        }
    }
    text
}

/// Every false death, for whoever looks for its cause.
pub(crate) fn deaths(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for Outcome { figures, .. } in outcomes {
        for (engine, figures) in figures {
            let deaths = figures.deaths.iter();
            for (seed, death) in deaths.filter(|(_, death)| death.cause == Cause::None) {
                let (at, subject, by) = (death.at.as_secs_f64(), death.subject.0, death.by.0);
                let _ = writeln!(
                    text,
                    "{engine}, seed {seed}, {at:.3} s: m{subject} by m{by}"
                );
            }
        }
    }
    text
}

/// False deaths in a thousand hours of one member.
pub(crate) fn false_death_rate(figures: &Figures) -> f64 {
    figures.deaths(Cause::None) as f64 / figures.member_hours * 1_000.0
}

/// Writes `docs/detection.csv`, `.svg` and the figures in `.md`.
pub(crate) fn write(outcomes: &[Outcome], size: &Size) -> Result<(), String> {
    let docs = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs"));
    let write = |name: &str, text: &str| {
        let path = docs.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    fs::create_dir_all(&docs).map_err(|error| format!("{}: {error}", docs.display()))?;
    write("detection.csv", &csv(outcomes))?;
    write("detection.svg", &plot::svg(outcomes))?;
    let page = fs::read_to_string(docs.join("detection.md")).unwrap_or_default();
    let (before, rest) = page.split_once(BEGIN).unwrap_or((&page, ""));
    let (_, after) = rest.split_once(END).unwrap_or(("", rest));
    let run = run(size);
    let table = table(outcomes);
    write(
        "detection.md",
        &format!("{before}{BEGIN}\n{run}\n\n{table}\n{END}{after}"),
    )
}

fn run(size: &Size) -> String {
    let Size {
        members,
        seconds,
        first_seed,
        seeds,
    } = size;
    format!(
        "{}; {members} members; seeds {first_seed} to {}, {seconds} virtual seconds each: {:.0} member-hours a row.",
        today(),
        first_seed + seeds - 1,
        (*members as u64 * seconds * seeds) as f64 / 3_600.0,
    )
}

fn csv(outcomes: &[Outcome]) -> String {
    let mut text =
        "scenario,loss,rules,member_hours,lost,half_median_s,all_median_s,all_p90_s,all_p99_s,\
                    all_worst_s,missed,false_deaths,false_views,stopped,sick,cut_off,aftermath,\
                    by_one_in_trouble\n"
            .to_owned();
    for Outcome { scenario, figures } in outcomes {
        for (engine, figures) in figures {
            let time = |times: &Times, share| shown(times.share(share), 3, "");
            let _ = writeln!(
                text,
                "\"{}\",{},{engine},{:.1},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
                scenario.name,
                scenario.conditions.loss,
                figures.member_hours,
                figures.all.count(),
                time(&figures.half, 0.5),
                time(&figures.all, 0.5),
                time(&figures.all, 0.9),
                time(&figures.all, 0.99),
                time(&figures.all, 1.0),
                figures.all.missed(),
                figures.deaths(Cause::None),
                figures.views,
                figures.deaths(Cause::Stopped),
                figures.deaths(Cause::Sick),
                figures.deaths(Cause::Cut),
                figures.deaths(Cause::Aftermath),
                figures.deaths(Cause::Observer),
            );
        }
    }
    text
}

fn shown(time: Option<Duration>, digits: usize, unit: &str) -> String {
    let seconds = time.map(|time| time.as_secs_f64());
    seconds.map_or("–".to_owned(), |s| format!("{s:.digits$}{unit}"))
}

/// The date in UTC, as year, month and day.
fn today() -> String {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut days = elapsed.map_or(0, |elapsed| elapsed.as_secs() / 86_400);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, days + 1)
}
