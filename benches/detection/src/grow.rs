//! A large cluster: all start within ten seconds, find each other and every record; then one more
//! comes; then nothing happens, which should cost next to nothing.

use std::fmt;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidings_api::Selector;
use tidings_gossip::engine::{Engine, EngineConfig};

use crate::node::Node;
use crate::plan::{Fault, SEEDS};
use crate::world::World;

/// In which all members start.
const STARTS: Duration = Duration::from_secs(10);
const LOSS: f64 = 0.01;
/// How often it is looked whether everybody agrees.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// After this it is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the idle cluster is measured, and what it gets before to come to rest.
const REST: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(30);

/// What came of a large cluster.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    pub(crate) members: usize,
    /// From the first start until everybody knew everybody and every record; `None` where that took
    /// longer than [`PATIENCE`].
    pub(crate) complete: Option<Duration>,
    /// From the start of a late one until it knew everybody and every record.
    pub(crate) late_complete: Option<Duration>,
    /// … until everybody knew it and its record.
    pub(crate) late_known: Option<Duration>,
    /// Bytes a member sends a second while all start, without the headers of IP.
    pub(crate) starting_bytes: f64,
    /// Bytes a member sends a second when nothing happens.
    pub(crate) idle_bytes: f64,
    /// Things that a member handles a second when nothing happens.
    pub(crate) idle_events: f64,
    pub(crate) deaths: usize,
    /// Virtual and real time of the whole.
    pub(crate) simulated: Duration,
    pub(crate) took: Duration,
    pub(crate) events: u64,
}

/// Grows a cluster.
pub(crate) fn grow(members: usize, seed: u64) -> Growth {
    let began = Instant::now();
    let mut rng = Rng::with_seed(seed);
    let mut world = World::<Engine>::new(seed, SEEDS, EngineConfig::default());
    world.net.weather.loss = LOSS;
    let mut starts: Vec<_> = (0..members).map(|_| STARTS.mul_f64(rng.f64())).collect();
    starts.sort();
    let first = starts.first().copied().unwrap_or_default();
    let plan: Vec<_> = starts.into_iter().map(|at| (at, Fault::Start)).collect();
    world.carry_out(&plan, STARTS);
    let complete = agree(&mut world, members).map(|at| at - first);
    let starting_bytes = bytes(&world) as f64 / (members as f64 * world.now.as_secs_f64());

    world.run_until(world.now + REST);
    let start = world.now;
    let late = world.start();
    let mut late_complete = None;
    while late_complete.is_none() && world.now < start + PATIENCE {
        world.run_until(world.now + LOOK_INTERVAL / 5);
        let (first, joined) = (world.nodes().next(), world.node_at(late));
        if let (Some(first), Some(joined)) = (first, joined)
            && joined.others() == members
            && joined.view(&Selector::All).len() == members + 1
            && joined.digest() == first.digest()
        {
            late_complete = Some(world.now - start);
        }
    }
    let late_known = agree(&mut world, members + 1).map(|at| at - start);

    world.run_until(world.now + REST);
    let (sent, events) = (bytes(&world), world.events);
    world.run_until(world.now + IDLE);
    let per_member = 1.0 / (IDLE.as_secs_f64() * (members + 1) as f64);
    Growth {
        members,
        complete,
        late_complete,
        late_known,
        starting_bytes,
        idle_bytes: (bytes(&world) - sent) as f64 * per_member,
        idle_events: (world.events - events) as f64 * per_member,
        deaths: world.score.deaths.len(),
        simulated: world.now,
        took: began.elapsed(),
        events: world.events,
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, what: &str, value: String| {
            writeln!(f, "{what:<44} {value}")
        };
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let within = |time: Option<Duration>| {
            let late = || format!("not within {PATIENCE:?}");
            time.map_or_else(late, seconds)
        };
        writeln!(f, "{} members, one record each", self.members)?;
        row(
            f,
            "all know all, from the first start",
            within(self.complete),
        )?;
        row(f, "a late one knows all", within(self.late_complete))?;
        row(f, "… and all know it", within(self.late_known))?;
        row(
            f,
            "sent by a member while all start",
            format!("{:.0} B/s", self.starting_bytes),
        )?;
        row(
            f,
            "sent by an idle member",
            format!("{:.0} B/s", self.idle_bytes),
        )?;
        row(
            f,
            "events of an idle member",
            format!("{:.1} /s", self.idle_events),
        )?;
        row(f, "members taken for dead", self.deaths.to_string())?;
        row(f, "simulated", seconds(self.simulated))?;
        row(f, "took", seconds(self.took))?;
        row(f, "events", self.events.to_string())?;
        row(
            f,
            "memory, at most",
            memory().unwrap_or_else(|| "unknown".to_owned()),
        )
    }
}

/// Runs until everybody knows everybody and every record; answers when.
fn agree(world: &mut World<Engine>, members: usize) -> Option<Duration> {
    let give_up = world.now + PATIENCE;
    while world.now < give_up {
        let first = world.nodes().next().map(Node::digest);
        let equal = world.nodes().all(|node| Some(node.digest()) == first);
        // With equal digests one member speaks for all.
        if equal && world.nodes().next().map(Node::others) == Some(members - 1) {
            return Some(world.now);
        }
        world.run_until(world.now + LOOK_INTERVAL);
    }
    None
}

fn bytes(world: &World<Engine>) -> u64 {
    world.nodes().filter_map(Node::bytes_sent).sum()
}

/// The most memory that this process has had, where the system says so.
fn memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let most = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(most.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The short version of `grow 1000`, at a tenth of its size and with the same bounds.
    #[test]
    fn a_hundred_that_start_within_ten_seconds_know_all_soon() {
        for seed in 1..=3 {
            let growth = grow(100, seed);
            let within = |time: Option<Duration>, bound| time.is_some_and(|time| time < bound);
            let seconds = Duration::from_secs;
            assert!(
                within(growth.complete, seconds(15)),
                "seed {seed}\n{growth}"
            );
            assert!(
                within(growth.late_complete, seconds(2)),
                "seed {seed}\n{growth}"
            );
            assert!(
                within(growth.late_known, seconds(2)),
                "seed {seed}\n{growth}"
            );
            assert_eq!(growth.deaths, 0, "seed {seed}\n{growth}");
            assert!(growth.idle_bytes < 150.0, "seed {seed}\n{growth}");
        }
    }
}
