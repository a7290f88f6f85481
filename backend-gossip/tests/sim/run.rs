//! One seed from start to end: chaos, calm, and then one thing after another on a quiet cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use tidings_gossip::engine::EngineConfig;

use crate::app::key;
use crate::builds::{BuildCounters, Builds, no_endless_sync};
use crate::checkers::{Limits, Outcome, Violation};
use crate::counters::Counters;
use crate::faults::Place;
use crate::plan::{Plan, Step};
use crate::queries::{Queries, QueryCounters};
use crate::world::World;

/// The name of all members' cluster.
pub(crate) const CLUSTER: &str = "sim";
/// Seeds that the name service knows.
const SEEDS: usize = 3;
/// Frames by link: a bound on what one side may make the other hold.
const LINK_FRAME_BYTES_MAX: usize = 1 << 20;

/// How long applications take for an answer in chaos, at most: longer than many wait.
const THINKING_IN_CHAOS: Duration = Duration::from_secs(2);

/// What an engine may keep and queue of user events.
const EVENT_BYTES_MAX: usize = 16 << 20;
const EVENTS_QUEUED_MAX: usize = 1_024;

/// The figures for a cluster of this configuration.
pub(crate) fn limits(config: &EngineConfig, members: usize, latency: Duration) -> Limits {
    let round_trips = 20 * latency;
    Limits {
        datagram_bytes: config.datagram_bytes,
        link_frame_bytes: LINK_FRAME_BYTES_MAX,
        broadcasts: 2_000,
        event_bytes: EVENT_BYTES_MAX,
        events_queued: EVENTS_QUEUED_MAX,
        // Somebody heard just before may have brought the last word needed to convict a suspect.
        cut_off_grace: 2 * config.probe_interval + config.probe_interval / 2 + round_trips,
        stale: Duration::from_secs(20),
        agree: Duration::from_secs(120),
        visible: Duration::from_secs(2) + round_trips,
        removed: Duration::from_secs(2) + round_trips,
        killed: 6 * config.probe_interval + round_trips,
        silenced_slack: Duration::from_secs(1) + round_trips,
        left: Duration::from_secs(1) + round_trips,
        calm_datagrams: 20.0 + members as f64,
    }
}

/// What became of a seed.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) digest: u64,
    pub(crate) counters: Counters,
    pub(crate) times: Times,
    pub(crate) builds: BuildCounters,
    pub(crate) queries: QueryCounters,
}

/// How long things took, by what they are.
pub(crate) type Times = BTreeMap<&'static str, Duration>;

/// Runs a plan.
///
/// # Errors
/// The first rule that was broken, or the fault that did nothing.
pub(crate) fn run(plan: &Plan) -> Outcome<Report> {
    let latency = plan.latency.base + plan.latency.jitter;
    let limits = limits(&plan.config, plan.members, latency);
    // Apart from the plan's own draws: a step taken out of the plan leaves the rest as it was.
    let world_seed = plan.seed ^ 0x5eed_0f7e_3141_5926;
    let mut world = World::new(world_seed, plan.config.clone(), plan.latency, &limits);
    for slot in 0..plan.members {
        world.add_slot(&format!("m{slot}"), CLUSTER);
    }
    world.seeds = (0..SEEDS.min(plan.members)).collect();
    world.builds = Builds::new(plan.mixed);
    if plan.queries {
        world.queries.thinking = THINKING_IN_CHAOS;
    }

    chaos(&mut world, plan)?;
    let mut times = Times::new();
    let agreed = calm(&mut world, plan, &limits)?;
    if plan.mixed {
        builds_agree(&mut world)?;
    }
    times.insert("calm until agreed", agreed);
    epilogue(&mut world, plan, &limits, &mut times)?;

    let digest = world.digest();
    let counters = world.finish();
    happened(&counters, world.now)?;
    Ok(Report {
        digest,
        counters,
        times,
        builds: world.builds.counters,
        queries: world.queries.counters,
    })
}

fn chaos(world: &mut World, plan: &Plan) -> Outcome {
    for Step { at, action } in &plan.steps {
        world.run_until((*at).min(plan.calm_at))?;
        action.apply(world);
    }
    world.run_until(plan.calm_at)
}

/// Ends all faults, and waits for everybody to agree. Some of the dead stay dead.
fn calm(world: &mut World, plan: &Plan, limits: &Limits) -> Outcome<Duration> {
    world.calm();
    world.queries.thinking = Queries::default().thinking;
    for slot in 0..plan.members {
        let seed = slot < SEEDS;
        if world.slots[slot].process.is_none() && (seed || world.rng.bool()) {
            world.restart(slot, Place::Same);
        }
    }
    let agreed = world.run_until_agreed(limits.agree)?;
    world.settled();
    // Long enough for whatever was still on its way to show.
    world.run_for(Duration::from_secs(40))?;
    world.run_until_agreed(limits.visible)?;
    Ok(agreed)
}

/// Everybody knows what everybody understands, and has nothing to sync over it.
fn builds_agree(world: &mut World) -> Outcome {
    let syncs = |world: &World| {
        let states = world.snapshot().processes;
        states.iter().map(|state| state.stats.syncs).sum::<u64>()
    };
    let before = syncs(world);
    world.run_for(Duration::from_secs(60))?;
    if let Err(seen) = world.builds.agree(&world.snapshot()) {
        return Err(Violation {
            checker: "features-known",
            at: world.now,
            seen,
        });
    }
    no_endless_sync(syncs(world) - before, world.now)
}

/// One thing at a time, each of which has to reach everybody within its bound.
fn epilogue(world: &mut World, plan: &Plan, limits: &Limits, times: &mut Times) -> Outcome {
    let mut rng = Rng::with_seed(plan.seed ^ 0xe911_0913);
    let mut running: Vec<_> = (0..plan.members)
        .filter(|slot| world.slots[*slot].process.is_some())
        .collect();
    rng.shuffle(&mut running);
    let mut next = running.iter().cycle().copied();
    let mut member = || next.next().unwrap_or_default();

    let (owner, fresh) = (member(), key("web", "late"));
    world.register(owner, &fresh, 100);
    let visible = world.run_until_agreed(limits.visible)?;
    times.insert("registered until visible", visible);
    world.run_for(limits.visible)?;
    world.send_event(owner, 40);
    world.send_event(owner, 20_000);
    world.run_until_agreed(limits.visible)?;
    world.report_health(owner, &fresh);
    world.run_for(limits.visible)?;
    world.register(owner, &fresh, 200);
    world.run_for(limits.visible)?;
    world.deregister(owner, &fresh);
    let removed = world.run_until_agreed(limits.removed)?;
    times.insert("deregistered until removed", removed);
    world.run_for(limits.removed)?;

    let killed = member();
    world.kill(killed);
    let gone = world.run_until_agreed(limits.killed)?;
    times.insert("killed until removed", gone);
    world.run_for(limits.killed)?;
    world.restart(killed, Place::New);
    let joined = world.run_until_agreed(limits.visible)?;
    times.insert("started until agreed", joined);

    let silenced = member();
    world.silence(silenced);
    let bounds = world
        .snapshot()
        .processes
        .into_iter()
        .map(|state| state.crash_bound);
    let bound = bounds.max().unwrap_or_default() + limits.silenced_slack;
    let gone = world.run_until_agreed(bound)?;
    times.insert("silenced until removed", gone);
    world.run_for(bound)?;
    world.restart(silenced, Place::Same);
    world.run_until_agreed(limits.visible)?;

    let left = member();
    world.leave(left);
    let gone = world.run_until_agreed(limits.left)?;
    times.insert("left until removed", gone);
    world.run_for(limits.left)?;
    world.restart(left, Place::Same);
    world.run_until_agreed(limits.visible)?;
    world.run_for(Duration::from_secs(5))?;
    world.run_until_agreed(limits.visible)?;
    if plan.queries {
        ask_in_calm(world, [member(), member()])?;
    }
    Ok(())
}

/// Queries of every size, all of which are answered by everybody who can.
fn ask_in_calm(world: &mut World, askers: [usize; 2]) -> Outcome {
    let timeout = Duration::from_secs(10);
    for bytes in [1, 1_000, 65_000] {
        for asker in askers {
            world.ask(asker, bytes, timeout, None);
            world.ask(asker, bytes, timeout, Some(&askers));
        }
    }
    world.run_for(timeout + Duration::from_secs(5))
}

/// Every fault that was injected did something.
fn happened(counters: &Counters, at: Duration) -> Outcome {
    let effects = [
        ("partitions", counters.partitions, counters.datagrams_cut),
        ("pauses", counters.pauses, counters.inputs_while_paused),
        ("slow spells", counters.slow_spells, counters.inputs_slowed),
        (
            "kills",
            counters.kills,
            counters.links_refused + counters.datagrams_to_nobody,
        ),
        ("silenced hosts", counters.silenced, counters.datagrams_cut),
        ("leaves", counters.leaves, counters.datagrams_sent),
    ];
    // One or two may be over before they show.
    let idle = effects
        .iter()
        .find(|(_, faults, effects)| *faults > 2 && *effects == 0);
    match idle {
        Some((what, faults, _)) => Err(Violation {
            checker: "faults-happened",
            at,
            seen: format!("{faults} {what} had no effect"),
        }),
        None => Ok(()),
    }
}
