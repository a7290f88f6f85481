//! What a process has printed, with the time, and what that comes to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// All that the process of a member has printed since it started.
#[derive(Debug, Default)]
pub(crate) struct Record {
    lines: Vec<(Instant, String)>,
    /// Keys of the instances it shows.
    pub(crate) shows: BTreeSet<String>,
    pub(crate) is_live: bool,
    /// State of each member in its table.
    pub(crate) states: BTreeMap<String, String>,
    pub(crate) generation: u64,
    /// Commands that it has carried out.
    pub(crate) done: usize,
}

impl Record {
    pub(crate) fn add(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("start", generation)) => self.generation = generation.parse().unwrap(),
            Some(("+" | "~", key)) => {
                self.shows.insert(key.to_owned());
            }
            Some(("-", key)) => {
                self.shows.remove(key);
            }
            Some(("stale", _)) => self.is_live = false,
            Some((member, state)) => {
                self.states.insert(member.to_owned(), state.to_owned());
            }
            None if line == "live" => self.is_live = true,
            None if line == "done" => self.done += 1,
            None => panic!("not a line of a member: {line}"),
        }
        self.lines.push((Instant::now(), line.to_owned()));
    }

    /// Lines of this kind that came after a moment: for `+`, `-` and `~` the keys, for `alive`,
    /// `suspect`, `dead` and `left` the members.
    pub(crate) fn since(&self, moment: Instant, kind: &str) -> Vec<&str> {
        let later = self.lines.iter().filter(|(at, _)| *at >= moment);
        let told = later.filter_map(|(_, line)| line.split_once(' '));
        let of_kind = told.filter_map(|(first, rest)| match (first, rest) {
            (mark, key) if mark == kind => Some(key),
            (member, state) if state == kind => Some(member),
            _ => None,
        });
        of_kind.collect()
    }

    /// When the last line came that is like this.
    pub(crate) fn last(&self, like: &str) -> Option<Instant> {
        let mut alike = self.lines.iter().rev().filter(|(_, line)| line == like);
        alike.next().map(|(at, _)| *at)
    }

    /// The whole record for people, with seconds since a moment.
    pub(crate) fn to_text(&self, start: Instant) -> String {
        let lines = self.lines.iter().map(|(at, line)| {
            let at = at.saturating_duration_since(start).as_secs_f64();
            format!("{at:>9.3} {line}\n")
        });
        lines.collect()
    }
}
