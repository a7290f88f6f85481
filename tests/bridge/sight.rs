//! What was there, what a client of the target saw, and whether that is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use tidings::Watch;

/// How long a registration may take to be seen through a bridge, which may just be restarted.
const VISIBLE_BOUND: Duration = Duration::from_secs(20);
/// How long an instance may be seen that ended while everything was well.
const REMOVED_BOUND: Duration = Duration::from_secs(5);
/// How long it may be seen that was killed, or ended while its bridge was dead: until the source
/// notices, and the lease ends of a bridge that was killed.
const CRASHED_BOUND: Duration = Duration::from_secs(30);

/// How long what a bridge mirrored lives on when it was killed, at most.
const LEASE: Duration = Duration::from_secs(15);

/// The life of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) ready: Instant,
    pub(crate) end: Option<Instant>,
    /// It was told to end, and not killed.
    pub(crate) politely: bool,
}

/// What a client saw: from when on, and who was there.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    pub(crate) views: Vec<(Instant, BTreeSet<String>)>,
    pub(crate) lookups: u64,
}

/// Looks up until the task is aborted; hands out what was seen.
pub(crate) async fn look_up(watch: Watch, seen: std::sync::Arc<std::sync::Mutex<Sight>>) {
    loop {
        let view = watch.view();
        let now = view
            .iter()
            .map(|found| format!("{}:{}", found.id(), found.address().port()));
        let now: BTreeSet<_> = now.collect();
        {
            let mut seen = seen.lock().unwrap();
            seen.lookups += 1;
            if seen.views.last().is_none_or(|(_, last)| *last != now) {
                seen.views.push((Instant::now(), now));
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Sight {
    /// Fails where an instance was missed outside of the times in which that may be, or one was found
    /// that had ended for too long.
    pub(crate) fn check(
        &self,
        lives: &BTreeMap<String, Life>,
        kills: &[Instant],
        gaps: &[(Instant, Instant)],
    ) {
        let mut wrong = String::new();
        let (start, last) = (self.views[0].0, Instant::now());
        for (name, life) in lives {
            let end = life.end.unwrap_or(last);
            // What a bridge mirrored that was killed is taken over from it only while it is there.
            let is_near = |kill: &Instant| *kill < end + REMOVED_BOUND && end < *kill + LEASE;
            let bound = match life.politely && !kills.iter().any(is_near) {
                true => REMOVED_BOUND,
                false => CRASHED_BOUND,
            };
            let mut seen = false;
            for (at, (from, view)) in self.views.iter().enumerate() {
                let until = self.views.get(at + 1).map_or(last, |(next, _)| *next);
                if view.contains(name) {
                    seen = true;
                    let late = until.saturating_duration_since(end);
                    if life.end.is_some() && late > bound {
                        let _ = writeln!(wrong, "{name} is found {late:?} after its end: {life:?}");
                    }
                    continue;
                }
                let due = if seen {
                    *from
                } else {
                    life.ready.max(start) + VISIBLE_BOUND
                };
                let (missed, found) = (due.max(*from), until.min(end));
                let allowed =
                    |(from, until): &(Instant, Instant)| *from <= missed && found <= *until;
                if missed < found && !gaps.iter().any(allowed) {
                    let time = found - missed;
                    let when = missed - start;
                    let _ = writeln!(wrong, "{name} is missed for {time:?} at {when:?}: {life:?}");
                }
            }
        }
        println!(
            "{} lookups, {} views, {} instances, {} kills of bridges, {} gaps allowed",
            self.lookups,
            self.views.len(),
            lives.len(),
            kills.len(),
            gaps.len()
        );
        assert!(wrong.is_empty(), "{wrong}");
        assert!(
            self.lookups > 1_000 && self.views.len() > 10,
            "nobody looked"
        );
    }
}
