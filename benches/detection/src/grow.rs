//! A large cluster: all start within ten seconds, find each other and every record; then one more
//! comes; then nothing happens, which should cost next to nothing.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use fastrand::Rng;
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

/// Grows a cluster and tells how it went.
pub(crate) fn grow(members: usize, seed: u64) -> String {
    let mut text = format!("{members} members, one record each, seed {seed}\n");
    let began = Instant::now();
    let mut rng = Rng::with_seed(seed);
    let mut world = World::<Engine>::new(seed, SEEDS, EngineConfig::default());
    world.net.weather.loss = LOSS;
    let mut starts: Vec<_> = (0..members).map(|_| STARTS.mul_f64(rng.f64())).collect();
    starts.sort();
    let plan: Vec<_> = starts.into_iter().map(|at| (at, Fault::Start)).collect();
    world.carry_out(&plan, STARTS);
    let agreed = agree(&mut world, members);
    line(
        &mut text,
        "all know all, from the first start",
        agreed.map(seconds),
    );

    world.run_until(world.now + Duration::from_secs(5));
    let start = world.now;
    let late = world.start();
    let mut complete = None;
    while complete.is_none() && world.now < start + PATIENCE {
        world.run_until(world.now + LOOK_INTERVAL / 5);
        let (first, joined) = (world.nodes().next(), world.node_at(late));
        if let (Some(first), Some(joined)) = (first, joined)
            && joined.others() == members
            && joined.digest() == first.digest()
        {
            complete = Some(world.now - start);
        }
    }
    line(&mut text, "a late one knows all", complete.map(seconds));
    let agreed = agree(&mut world, members + 1).map(|at| at - start);
    line(&mut text, "… and all know it", agreed.map(seconds));

    world.run_until(world.now + REST);
    let (bytes, events) = (bytes(&world), world.events);
    world.run_until(world.now + IDLE);
    let per_member = 1.0 / (IDLE.as_secs_f64() * (members + 1) as f64);
    let sent = (self::bytes(&world) - bytes) as f64 * per_member;
    line(
        &mut text,
        "sent by an idle member",
        Some(format!("{sent:.0} B/s")),
    );
    let handled = (world.events - events) as f64 * per_member;
    line(
        &mut text,
        "events of one, idle",
        Some(format!("{handled:.1} /s")),
    );
    let deaths = world.score.deaths.len();
    line(&mut text, "false deaths", Some(deaths.to_string()));
    line(&mut text, "simulated", Some(seconds(world.now)));
    line(&mut text, "took", Some(seconds(began.elapsed())));
    line(&mut text, "events", Some(world.events.to_string()));
    line(&mut text, "memory, at most", memory());
    text
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

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn line(text: &mut String, what: &str, value: Option<String>) {
    let value = value.unwrap_or_else(|| "not within two minutes".to_owned());
    // Writing to a string doesn't fail.
    let _ = writeln!(text, "{what:<36} {value}");
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

    #[test]
    fn a_hundred_that_start_at_once_know_each_other_soon() {
        let text = grow(100, 1);
        assert!(!text.contains("not within"), "{text}");
        assert!(
            text.contains("false deaths                         0"),
            "{text}"
        );
    }
}
