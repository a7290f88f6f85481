//! What goes wrong in a run, and when: drawn from the seed before the run, so that it can be
//! printed, read and cut down.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use tidings_api::InstanceKey;
use tidings_gossip::engine::EngineConfig;

use crate::app::{OVERSIZE_BYTES, key};
use crate::faults::Place;
use crate::net::{Direction, Latency, Weather};
use crate::world::World;

const SERVICES: [&str; 4] = ["web", "orders", "payments", "my.package.Service"];

/// A whole run before it begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) members: usize,
    pub(crate) latency: Latency,
    pub(crate) config: EngineConfig,
    /// When all faults end.
    pub(crate) calm_at: Duration,
    pub(crate) steps: Vec<Step>,
    /// Whether processes are of several builds.
    pub(crate) mixed: bool,
    /// Whether members ask each other.
    pub(crate) queries: bool,
}

/// One thing to do at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) action: Action,
}

/// Members are named by their slot.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Start(usize),
    Register(usize, InstanceKey, usize),
    Repeat(usize, InstanceKey),
    Health(usize, InstanceKey),
    Deregister(usize, InstanceKey),
    SendEvent(usize, usize),
    /// Who asks, with how many bytes, for how long, and whom: `None` for all.
    Ask(usize, usize, Duration, Option<Vec<usize>>),
    Leave(usize),
    Kill(usize),
    Silence(usize),
    Restart(usize, Place),
    SetClockBack(usize, Duration),
    Storm(Vec<usize>),
    Swap(usize, usize),
    Pause(usize, Duration),
    Slow(usize, Duration, Duration),
    Jump(usize, Duration),
    Cut(Vec<usize>, Direction, Duration),
    Lossy(usize, f64, Duration),
    Weather(Weather, Duration),
    Noise(usize),
}

/// The kinds of faults; a run uses some of them, so that none hides the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Leave,
    Kill,
    Silence,
    Restart,
    RestartElsewhere,
    ClockBack,
    Storm,
    Swap,
    Pause,
    Slow,
    Jump,
    Partition,
    OneWay,
    Isolate,
    Lossy,
    Weather,
    Noise,
}

const KINDS: [Kind; 17] = [
    Kind::Leave,
    Kind::Kill,
    Kind::Silence,
    Kind::Restart,
    Kind::RestartElsewhere,
    Kind::ClockBack,
    Kind::Storm,
    Kind::Swap,
    Kind::Pause,
    Kind::Slow,
    Kind::Jump,
    Kind::Partition,
    Kind::OneWay,
    Kind::Isolate,
    Kind::Lossy,
    Kind::Weather,
    Kind::Noise,
];

impl Plan {
    /// The plan of a seed.
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let members = match rng.u32(0..100) {
            0..70 => rng.usize(5..=12),
            70..95 => rng.usize(13..=25),
            _ => rng.usize(26..=50),
        };
        let latency = if rng.u32(0..4) > 0 {
            Latency {
                base: Duration::from_micros(rng.u64(50..500)),
                jitter: Duration::from_micros(rng.u64(50..1_000)),
            }
        } else {
            Latency {
                base: Duration::from_millis(rng.u64(2..30)),
                jitter: Duration::from_millis(rng.u64(1..15)),
            }
        };
        let mut plan = Self {
            seed,
            members,
            latency,
            config: config(&mut rng),
            calm_at: seconds(&mut rng, 20..70),
            steps: Vec::new(),
            mixed: false,
            queries: false,
        };
        plan.draw_starts(&mut rng);
        plan.draw_applications(&mut rng);
        plan.draw_faults(&mut rng);
        plan.draw_events();
        plan.steps.sort_by_key(|step| step.at);
        plan
    }

    /// The same with queries, drawn apart.
    pub(crate) fn with_queries(mut self) -> Self {
        let mut rng = Rng::with_seed(self.seed ^ 0x00a5_4ed0);
        for _ in 0..self.calm_at.as_secs() {
            let (at, slot) = (self.moment(&mut rng), rng.usize(0..self.members));
            let bytes = match rng.u32(0..20) {
                0..3 => rng.usize(1_000..65_000),
                _ => rng.usize(0..600),
            };
            let timeout = Duration::from_millis(rng.u64(200..8_000));
            let asked = (rng.u32(0..4) == 0).then(|| some(&mut rng, self.members));
            self.push(at, Action::Ask(slot, bytes, timeout, asked));
        }
        self.queries = true;
        self.steps.sort_by_key(|step| step.at);
        self
    }

    fn draw_starts(&mut self, rng: &mut Rng) {
        let at_once = rng.u32(0..4) == 0;
        for slot in 0..self.members {
            let at = match slot {
                _ if at_once => Duration::ZERO,
                0 => Duration::ZERO,
                _ => Duration::from_millis(rng.u64(0..8_000)),
            };
            self.push(at, Action::Start(slot));
        }
    }

    fn draw_applications(&mut self, rng: &mut Rng) {
        let per_second = rng.u64(1..=4);
        for _ in 0..self.calm_at.as_secs() * per_second {
            let at = self.moment(rng);
            let slot = rng.usize(0..self.members);
            let key = draw_key(rng, slot);
            let action = match rng.u32(0..100) {
                0..45 => Action::Register(slot, key, rng.usize(0..300)),
                45..47 => Action::Register(slot, key, rng.usize(OVERSIZE_BYTES..20_000)),
                47..55 => Action::Repeat(slot, key),
                55..80 => Action::Health(slot, key),
                _ => Action::Deregister(slot, key),
            };
            self.push(at, action);
        }
    }

    /// Drawn apart, so that the rest of a seed's plan is what it was before there were events.
    fn draw_events(&mut self) {
        let mut rng = Rng::with_seed(self.seed ^ 0x00e7_e275);
        for _ in 0..self.calm_at.as_secs() {
            let (at, slot) = (self.moment(&mut rng), rng.usize(0..self.members));
            match rng.u32(0..20) {
                // Several in a row: something of it is lost in the middle.
                0..4 => {
                    for nth in 0..rng.u64(5..60) {
                        let at = at + Duration::from_micros(nth * rng.u64(100..20_000));
                        self.push(at, Action::SendEvent(slot, rng.usize(0..200)));
                    }
                }
                4..6 => self.push(at, Action::SendEvent(slot, rng.usize(2_000..65_536))),
                _ => self.push(at, Action::SendEvent(slot, rng.usize(0..600))),
            }
        }
    }

    fn draw_faults(&mut self, rng: &mut Rng) {
        let mut kinds = KINDS.to_vec();
        rng.shuffle(&mut kinds);
        kinds.truncate(rng.usize(3..=KINDS.len()));
        for _ in 0..self.calm_at.as_secs() * 2 / 3 {
            let kind = rng.choice(&kinds).copied().unwrap_or(Kind::Kill);
            let at = self.moment(rng).max(Duration::from_secs(2));
            for (after, action) in self.draw_fault(rng, kind) {
                self.push(at + after, action);
            }
        }
    }

    fn draw_fault(&self, rng: &mut Rng, kind: Kind) -> Vec<(Duration, Action)> {
        let now = Duration::ZERO;
        let slot = rng.usize(0..self.members);
        let back = Duration::from_millis(rng.u64(1..15_000));
        let again = |place| (back, Action::Restart(slot, place));
        let place = if rng.bool() { Place::Same } else { Place::New };
        match kind {
            Kind::Leave => vec![(now, Action::Leave(slot)), again(place)],
            Kind::Kill => match rng.u32(0..4) {
                0 => vec![(now, Action::Kill(slot))],
                _ => vec![(now, Action::Kill(slot)), again(place)],
            },
            Kind::Silence => match rng.u32(0..4) {
                0 => vec![(now, Action::Silence(slot))],
                _ => vec![(now, Action::Silence(slot)), again(place)],
            },
            Kind::Restart => vec![(now, Action::Restart(slot, Place::Same))],
            Kind::RestartElsewhere => vec![(now, Action::Restart(slot, Place::New))],
            Kind::ClockBack => vec![
                (now, Action::SetClockBack(slot, seconds(rng, 1..7_200))),
                (now, Action::Restart(slot, place)),
            ],
            Kind::Storm => vec![(now, Action::Storm(some(rng, self.members)))],
            Kind::Swap => vec![(now, Action::Swap(slot, rng.usize(0..self.members)))],
            Kind::Pause => vec![(now, Action::Pause(slot, seconds(rng, 2..30)))],
            Kind::Slow => {
                let each = Duration::from_millis(rng.u64(5..400));
                vec![(now, Action::Slow(slot, each, seconds(rng, 3..20)))]
            }
            Kind::Jump => vec![(now, Action::Jump(slot, seconds(rng, 1..120)))],
            Kind::Partition => {
                let inside = some(rng, self.members);
                vec![(
                    now,
                    Action::Cut(inside, Direction::Both, seconds(rng, 2..40)),
                )]
            }
            Kind::OneWay => {
                let inside = some(rng, self.members);
                let way = if rng.bool() {
                    Direction::In
                } else {
                    Direction::Out
                };
                vec![(now, Action::Cut(inside, way, seconds(rng, 2..30)))]
            }
            Kind::Isolate => {
                vec![(
                    now,
                    Action::Cut(vec![slot], Direction::Both, seconds(rng, 2..40)),
                )]
            }
            Kind::Lossy => {
                let loss = 0.1 + 0.6 * rng.f64();
                vec![(now, Action::Lossy(slot, loss, seconds(rng, 3..20)))]
            }
            Kind::Weather => {
                let mut share = |most: f64| if rng.bool() { most * rng.f64() } else { 0.0 };
                let weather = Weather {
                    loss: share(0.3),
                    duplicate: share(0.2),
                    replay: share(0.05),
                    spike: share(0.1),
                };
                vec![(now, Action::Weather(weather, seconds(rng, 5..30)))]
            }
            Kind::Noise => vec![(now, Action::Noise(slot))],
        }
    }

    fn moment(&self, rng: &mut Rng) -> Duration {
        let most = u64::try_from(self.calm_at.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(rng.u64(0..most))
    }

    fn push(&mut self, at: Duration, action: Action) {
        self.steps.push(Step { at, action });
    }
}

impl Action {
    /// Does it, as far as it means anything in the state the world is in.
    pub(crate) fn apply(&self, world: &mut World) {
        world.note(&self.to_string());
        match self {
            Self::Start(slot) => {
                if world.slots[*slot].process.is_none() {
                    world.start(*slot);
                }
            }
            Self::Register(slot, key, bytes) => world.register(*slot, key, *bytes),
            Self::Repeat(slot, key) => world.repeat(*slot, key),
            Self::Health(slot, key) => world.report_health(*slot, key),
            Self::Deregister(slot, key) => world.deregister(*slot, key),
            Self::SendEvent(slot, bytes) => world.send_event(*slot, *bytes),
            Self::Ask(slot, bytes, timeout, asked) => {
                world.ask(*slot, *bytes, *timeout, asked.as_deref());
            }
            Self::Leave(slot) => world.leave(*slot),
            Self::Kill(slot) => world.kill(*slot),
            Self::Silence(slot) => world.silence(*slot),
            Self::Restart(slot, place) => {
                world.restart(*slot, *place);
            }
            Self::SetClockBack(slot, by) => world.set_wall_clock_back(*slot, *by),
            Self::Storm(slots) => {
                for slot in slots {
                    world.restart(*slot, Place::Same);
                }
            }
            Self::Swap(a, b) => world.swap_addresses(*a, *b),
            Self::Pause(slot, lasting) => world.pause(*slot, *lasting),
            Self::Slow(slot, each, lasting) => world.slow(*slot, *each, *lasting),
            Self::Jump(slot, by) => world.jump(*slot, *by),
            Self::Cut(slots, direction, lasting) => world.cut_for(slots, *direction, *lasting),
            Self::Lossy(slot, loss, lasting) => world.lossy(*slot, *loss, *lasting),
            Self::Weather(weather, lasting) => world.weather(*weather, *lasting),
            Self::Noise(slot) => world.noise(*slot),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(slot) => write!(f, "start m{slot}"),
            Self::Register(slot, key, bytes) => write!(f, "m{slot} registers {key} ({bytes} B)"),
            Self::Repeat(slot, key) => write!(f, "m{slot} registers {key} unchanged"),
            Self::Health(slot, key) => write!(f, "m{slot} reports health of {key}"),
            Self::Deregister(slot, key) => write!(f, "m{slot} deregisters {key}"),
            Self::SendEvent(slot, bytes) => write!(f, "m{slot} sends an event ({bytes} B)"),
            Self::Ask(slot, bytes, timeout, asked) => {
                write!(f, "m{slot} asks {asked:?} for {timeout:?} ({bytes} B)")
            }
            Self::Leave(slot) => write!(f, "m{slot} leaves"),
            Self::Kill(slot) => write!(f, "kill m{slot}"),
            Self::Silence(slot) => write!(f, "take the host of m{slot} away"),
            Self::Restart(slot, Place::Same) => write!(f, "restart m{slot}"),
            Self::Restart(slot, Place::New) => write!(f, "restart m{slot} elsewhere"),
            Self::SetClockBack(slot, by) => write!(f, "set the wall clock of m{slot} back {by:?}"),
            Self::Storm(slots) => write!(f, "restart {slots:?} at once"),
            Self::Swap(a, b) => write!(f, "restart m{a} and m{b} at each other's address"),
            Self::Pause(slot, lasting) => write!(f, "pause m{slot} for {lasting:?}"),
            Self::Slow(slot, each, lasting) => {
                write!(f, "m{slot} takes {each:?} for each input for {lasting:?}")
            }
            Self::Jump(slot, by) => write!(f, "the clock of m{slot} jumps by {by:?}"),
            Self::Cut(slots, direction, lasting) => {
                write!(f, "cut {slots:?} off ({direction:?}) for {lasting:?}")
            }
            Self::Lossy(slot, loss, lasting) => {
                write!(f, "m{slot} loses {:.0} % for {lasting:?}", loss * 100.0)
            }
            Self::Weather(weather, lasting) => write!(f, "{weather:?} for {lasting:?}"),
            Self::Noise(slot) => write!(f, "noise at m{slot}"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            members,
            latency,
            calm_at,
            config,
            ..
        } = self;
        writeln!(
            f,
            "seed {seed}: {members} members, calm at {calm_at:?}, {latency:?}"
        )?;
        writeln!(f, "{config:?}")?;
        for Step { at, action } in &self.steps {
            writeln!(f, "{:>12.6}  {action}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

/// Mostly the defaults; at times short retentions, so that what they forget is missed.
fn config(rng: &mut Rng) -> EngineConfig {
    let mut config = EngineConfig::default();
    if rng.u32(0..4) == 0 {
        config.tombstone_retention = seconds(rng, 10..40);
        config.loss_hold = seconds(rng, 3..20);
    }
    if rng.u32(0..8) == 0 {
        config.datagram_bytes = rng.usize(600..1_400);
    }
    config
}

fn draw_key(rng: &mut Rng, slot: usize) -> InstanceKey {
    let service = rng.choice(SERVICES).unwrap_or(SERVICES[0]);
    match rng.u32(0..8) {
        0 => key(service, "shared"),
        _ => key(service, &format!("m{slot}")),
    }
}

fn seconds(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range.start * 1_000..range.end * 1_000))
}

/// Some members, but not all.
fn some(rng: &mut Rng, members: usize) -> Vec<usize> {
    let mut all: Vec<_> = (0..members).collect();
    rng.shuffle(&mut all);
    all.truncate(rng.usize(1..members));
    all.sort_unstable();
    all
}
