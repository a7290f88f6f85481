//! One process of the fleet: offers an instance or looks others up, and does what it is told on its
//! standard input.
//!
//! What it says starts with `@` and the microseconds of the clock that all processes share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidings::moving::Side;
use tidings::{Config, Discovery, DiscoveryExt, Freshness, Instance, Migration, View, Watch};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::MissedTickBehavior;

/// How often a client looks up where nothing has changed; where something has, it does at once, so
/// that nothing it is shown goes by.
const LOOKUP_PAUSE: Duration = Duration::from_millis(2);
/// After how many lookups it says how many they were.
const LOOKUPS_TOLD: u64 = 50;
/// How often it is looked whether the phase has changed.
const WALK_PAUSE: Duration = Duration::from_millis(20);

/// The metadata key of the number that tells an older content from a newer one.
const NUMBER: &str = "n";

pub(crate) fn run() {
    let Ok(config) = std::env::var("MEMBER_CONFIG") else {
        return;
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(live(&config));
}

async fn live(config: &str) {
    let config = Config::from_toml(config).unwrap();
    let (discovery, migration): (Arc<dyn Discovery>, _) = if std::env::var("MEMBER_PLAIN").is_ok() {
        (tidings::connect(config).await.unwrap(), None)
    } else {
        let migration = Arc::new(tidings::connect_migration(config).await.unwrap());
        tokio::spawn(tell_phases(migration.clone()));
        (migration.clone(), Some(migration))
    };
    match std::env::var("MEMBER_INSTANCE") {
        Ok(instance) => {
            let (id, port) = instance.split_once(':').unwrap();
            let instance = Instance::new("web", format!("127.0.0.1:{port}")).unwrap();
            let instance = instance.with_id(id).unwrap();
            discovery.register(instance.clone()).await.unwrap();
            if let Ok(pause) = std::env::var("MEMBER_CHANGES") {
                let pause = Duration::from_millis(pause.parse().unwrap());
                tokio::spawn(change(discovery.clone(), instance, pause));
            }
        }
        Err(_) => {
            let mut watch = discovery.watch_service("web").await.unwrap();
            watch.wait_until(View::is_live).await.unwrap();
            tokio::spawn(look_up(watch));
        }
    }
    say("ready");
    obey(migration.as_deref()).await;
    say("ending");
    let closed = discovery.close().await;
    say(&format!("ended {closed:?}"));
}

/// Changes the content all the time, by a number that grows.
async fn change(discovery: Arc<dyn Discovery>, instance: Instance, pause: Duration) {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1_u64.. {
        ticks.tick().await;
        let changed = instance.clone().with_metadata(NUMBER, number.to_string());
        // It ends with the handle.
        if discovery.register(changed.unwrap()).await.is_err() {
            return;
        }
        if number.is_multiple_of(10) {
            say(&format!("changes {number}"));
        }
    }
}

/// Looks up for ever: all the time, and whenever something has changed.
async fn look_up(mut watch: Watch) {
    let mut shown = BTreeSet::new();
    let mut fresh = true;
    let mut numbers = BTreeMap::new();
    let (mut lookups, mut last, mut gap) = (0_u64, now(), 0);
    loop {
        let view = watch.view();
        lookups += 1;
        let at = now();
        gap = gap.max(at - last);
        last = at;
        for found in &view {
            let number = found
                .metadata()
                .get(NUMBER)
                .map_or(0, |n| n.parse().unwrap());
            let last: u64 = numbers.insert(in_short(found), number).unwrap_or(0);
            if number < last {
                say(&format!("back {} from {last} to {number}", in_short(found)));
            }
        }
        let names: BTreeSet<_> = view.iter().map(|found| in_short(found)).collect();
        if lookups == 1 || names != shown {
            let all: Vec<_> = names.iter().cloned().collect();
            say(&format!("view {lookups} {}", all.join(",")));
            shown = names;
        }
        if lookups.is_multiple_of(LOOKUPS_TOLD) {
            say(&format!("lookups {lookups} {gap}"));
        }
        match view.freshness() {
            Freshness::Stale { reason, .. } if fresh => say(&format!("stale {reason}")),
            Freshness::Live | Freshness::Stale { .. } => {}
        }
        fresh = view.is_live();
        tokio::select! {
            changed = watch.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOKUP_PAUSE) => {}
        }
    }
}

/// The id and the port, which tells one process from its successor.
fn in_short(instance: &Instance) -> String {
    format!("{}:{}", instance.id(), instance.address().port())
}

/// Says each phase, and the bounds that hold in it.
async fn tell_phases(migration: Arc<Migration>) {
    let (mut phase, mut bounds) = (None, None);
    loop {
        let (now, status) = (migration.plan().all, migration.status());
        if phase != Some(now) {
            say(&format!("walks {now}"));
            phase = Some(now);
        }
        if bounds != Some(*status.bounds()) {
            let all = status.bounds();
            let in_us = [all.visible, all.removed, all.crashed].map(|bound| bound.as_micros());
            say(&format!("bounds {} {} {}", in_us[0], in_us[1], in_us[2]));
            bounds = Some(*all);
        }
        tokio::time::sleep(WALK_PAUSE).await;
    }
}

async fn obey(migration: Option<&Migration>) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match (line.split_once(' '), migration) {
            (Some(("phase", phase)), Some(migration)) => {
                let changed = migration.set_phase(phase.parse().unwrap()).await;
                match changed {
                    Ok(()) => say(&format!("phase {phase}")),
                    Err(error) => say(&format!("refused {error}")),
                }
            }
            (Some(("plan", _)), Some(migration)) => {
                say(&format!("plan {}", migration.plan().all));
            }
            (Some(("preflight", _)), Some(migration)) => {
                let preflight = migration.preflight().await.unwrap().to_string();
                say(&format!("preflight {}", preflight.replace('\n', "; ")));
            }
            (Some(("side", side)), Some(migration)) => {
                let side = match side {
                    "old" => Side::Old,
                    _ => Side::New,
                };
                let connected = |status: tidings::Status| status.connection().is_connected();
                let connected = migration.side(side).is_some_and(connected);
                say(&format!("side {connected}"));
            }
            _ => return,
        }
    }
}

fn say(text: &str) {
    println!("@{} {text}", now());
}

pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_micros()).unwrap()
}
