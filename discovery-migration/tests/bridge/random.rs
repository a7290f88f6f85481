//! Anything at any time: bridges killed and started, outages of either side, owners that come, end,
//! and change sides. Nobody is wiped, nobody who ended is kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tidings_api::{Discovery, Health, MemoryDiscovery, MemoryRegistry, Watch};
use tokio::time::Instant;

use crate::{Process, client, ids, key, named, pass, shows, web};

const SECOND: Duration = Duration::from_secs(1);
/// How long the session of a killed bridge lives on: longer than the others' silence counts.
const SESSION: Duration = Duration::from_secs(4);
/// How long a bridge keeps what it can't verify.
const HOLD: Duration = Duration::from_secs(5);
/// From when on a bridge that hears both sides answers for everything: before the session ends of one
/// that was killed when it started.
const ANSWERS: Duration = SESSION;
/// How long what has ended may be there: unverified, and then in a session without its process.
const GHOST_MAX: Duration = Duration::from_secs(4 + 5 + 2);
const STEPS: usize = 250;
const INSTANCES: usize = 6;

/// An instance in the source, and the one of the same key in the target.
#[derive(Default)]
struct Life {
    owner: Option<MemoryDiscovery>,
    since: Option<Instant>,
    ended: Option<Instant>,
    real: Option<MemoryDiscovery>,
    real_left: Option<Instant>,
}

struct Slot {
    process: Process,
    /// Since when it lives and hears both sides.
    well: Option<Instant>,
    cut: [bool; 2],
    /// When its session ends in the target that it can't reach.
    expires: Option<Instant>,
}

struct World {
    rng: Rng,
    source: MemoryRegistry,
    target: MemoryRegistry,
    lives: Vec<Life>,
    slots: BTreeMap<usize, Slot>,
    sessions: Vec<(Instant, Arc<MemoryDiscovery>)>,
    seen: Watch,
    last: Vec<bool>,
    log: Vec<String>,
}

#[tokio::test(start_paused = true)]
async fn nothing_is_wiped_and_nobody_who_ended_is_kept() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..20).map(|_| fastrand::u64(..)).collect(),
    };
    for seed in seeds {
        println!("SEED={seed}");
        run(seed).await;
    }
}

async fn run(seed: u64) {
    let (source, target) = (MemoryRegistry::new(), MemoryRegistry::new());
    let (_reader, seen) = client(&target).await;
    let mut world = World {
        rng: Rng::with_seed(seed),
        source,
        target,
        lives: (0..INSTANCES).map(|_| Life::default()).collect(),
        slots: BTreeMap::new(),
        sessions: Vec::new(),
        seen,
        last: vec![false; INSTANCES],
        log: Vec::new(),
    };
    for _ in 0..STEPS {
        world.step().await;
        let until = Instant::now() + Duration::from_millis(world.rng.u64(0..1_500));
        while Instant::now() < until {
            pass(Duration::from_millis(20)).await;
            world.end_sessions();
            world.check(seed);
        }
    }
    world.calm_down().await;
}

impl World {
    async fn step(&mut self) {
        let (at, slot) = (self.rng.usize(..INSTANCES), self.rng.usize(..2));
        let what = self.rng.u8(..14);
        let now = Instant::now();
        self.log
            .push(format!("{now:?}: {what} of instance {at} or bridge {slot}"));
        let life = &mut self.lives[at];
        match what {
            0..=2 if life.owner.is_none() => {
                let owner = self.source.connect();
                owner.register(web(&at.to_string())).await.unwrap();
                (life.owner, life.since, life.ended) = (Some(owner), Some(now), None);
            }
            0 => {
                let owner = life.owner.as_ref().unwrap();
                owner
                    .health(&key(&at.to_string()), Health::draining())
                    .await
                    .unwrap();
            }
            3 if life.owner.is_some() => {
                let owner = life.owner.take().unwrap();
                match self.rng.bool() {
                    true => owner.crash(),
                    false => owner.close().await.unwrap(),
                }
                life.ended = Some(now);
            }
            4 => match life.real.take() {
                Some(real) => {
                    drop(real);
                    life.real_left = Some(now);
                }
                None => {
                    let real = self.target.connect();
                    real.register(web(&at.to_string())).await.unwrap();
                    life.real = Some(real);
                }
            },
            5..=8 if !self.slots.contains_key(&slot) => {
                let name = match self.rng.bool() {
                    true => format!("bridge-{slot}"),
                    false => format!("bridge-{slot}-{}", self.rng.u32(..)),
                };
                let options = named(&name).with_hold(HOLD);
                let process = Process::start(&self.source, &self.target, options).await;
                let fresh = Slot {
                    process,
                    well: Some(now),
                    cut: [false; 2],
                    expires: None,
                };
                self.slots.insert(slot, fresh);
            }
            5..=6 => {
                let session = self.slots.remove(&slot).unwrap().process.kill();
                self.sessions.push((now + SESSION, session));
            }
            9 => {
                if let Some(slot) = self.slots.remove(&slot) {
                    // It may be cut off, and can't say goodbye then.
                    let _ = slot.process.bridge.close().await;
                    self.sessions.push((now + SESSION, slot.process.to.clone()));
                }
            }
            10..=13 => {
                if let Some(slot) = self.slots.get_mut(&slot) {
                    let side = usize::from(what % 2);
                    slot.cut[side] = !slot.cut[side];
                    let handle = [&slot.process.from, &slot.process.to][side];
                    match slot.cut[side] {
                        true => handle.cut_off(),
                        false => handle.restore(),
                    }
                    slot.well = (slot.cut == [false; 2]).then_some(now);
                    slot.expires = slot.cut[1].then_some(slot.expires.unwrap_or(now + SESSION));
                }
            }
            _ => {}
        }
    }

    fn end_sessions(&mut self) {
        let now = Instant::now();
        self.sessions.retain(|(end, session)| {
            if *end <= now {
                session.crash();
            }
            *end > now
        });
        for slot in self.slots.values_mut() {
            if slot.expires.is_some_and(|end| end <= now) {
                slot.process.to.expire();
                slot.expires = Some(now + SECOND * 3_600);
            }
        }
    }

    fn check(&mut self, seed: u64) {
        let now = Instant::now();
        let long = |since: Option<Instant>, time| since.is_some_and(|since| now - since >= time);
        let answered = self.slots.values().any(|slot| long(slot.well, ANSWERS));
        let view = self.seen.view();
        for (at, life) in self.lives.iter().enumerate() {
            let there = view.get(&key(&at.to_string()));
            let was_there = std::mem::replace(&mut self.last[at], there.is_some());
            let owned =
                life.real.is_some() || life.real_left.is_some_and(|left| now - left < SECOND * 2);
            let runs = life.owner.is_some() && long(life.since, ANSWERS);
            if runs && answered && !owned && there.is_none() {
                let what = if was_there { "wiped" } else { "missed" };
                panic!("SEED={seed}: {at} is {what} at {now:?}: {:#?}", self.log);
            }
            let ended =
                life.owner.is_none() && life.ended.is_none_or(|ended| now - ended > GHOST_MAX);
            let is_mirror = there.is_some_and(|there| there.is_mirror());
            assert!(
                !(ended && is_mirror),
                "SEED={seed}: {at} is kept at {now:?}: {:#?}",
                self.log
            );
            let real = life.real.as_ref().map(|real| real.status());
            let registration = real.as_ref().map(|s| s.registration(&key(&at.to_string())));
            if let Some(registration) = registration {
                let is_well = registration.is_some_and(|own| own.is_registered());
                assert!(is_well, "SEED={seed}: {at} was pushed out: {:#?}", self.log);
            }
        }
    }

    /// Everything is well at last: the target is what the source is.
    async fn calm_down(mut self) {
        for life in &mut self.lives {
            life.real = None;
        }
        for slot in self.slots.values() {
            slot.process.from.restore();
            slot.process.to.restore();
        }
        let last = Process::start(&self.source, &self.target, named("last").with_hold(HOLD)).await;
        pass(SESSION).await;
        self.sessions.clear();
        let running = (0..INSTANCES).filter(|at| self.lives[*at].owner.is_some());
        let running: Vec<_> = running.map(|at| at.to_string()).collect();
        let running: Vec<_> = running.iter().map(String::as_str).collect();
        shows(&self.seen, &running).await;
        pass(30 * SECOND).await;
        assert_eq!(ids(&self.seen.view()), running);
        let mut mirrored = last.bridge.report().mirrored.len();
        for slot in self.slots.values() {
            mirrored += slot.process.bridge.report().mirrored.len();
        }
        assert_eq!(mirrored, running.len(), "each is mirrored once");
    }
}
