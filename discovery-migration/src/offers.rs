//! Own registrations: what is desired under each key, and how far each side has come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Error, Generation, Instance, InstanceKey};
use tokio::sync::watch;

use crate::mark::{Mark, Stamp};
use crate::{Phase, Side, Sides};

/// How long a side that refused is left alone before it is asked again.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// How long an owner that has given way leaves a side to the newer one at most: that one may not
/// reach it. Above what it takes to be seen there and answered.
const LINGER_MAX: Duration = Duration::from_secs(5);

/// All keys that something is desired of, or was.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    pub(crate) map: BTreeMap<InstanceKey, Offer>,
    pub(crate) closed: bool,
    last_serial: u64,
}

/// The desired state of one key.
#[derive(Debug)]
pub(crate) struct Offer {
    /// Tells this use of the key from an earlier one.
    pub(crate) serial: u64,
    /// Grows with each change of what is desired.
    pub(crate) version: u64,
    /// The version in which the plan changed last.
    planned: u64,
    /// What is offered, without mark; `None` once it is withdrawn.
    pub(crate) desired: Option<Arc<Instance>>,
    /// A newer owner has the key.
    pub(crate) superseded: bool,
    /// Where it was superseded: the sides that the newer owner is about to take, and until when they are
    /// left to it.
    lingers: Option<(Sides, Instant)>,
    /// Drawn when a side is told for the first time.
    generation: Option<Generation>,
    revision: u64,
    pub(crate) told: [Told; 2],
    /// Moves with every change, for whoever waits.
    pub(crate) signal: watch::Sender<u64>,
}

/// What one side was told last.
#[derive(Debug)]
pub(crate) struct Told {
    version: u64,
    /// It was told of an instance, and not to forget it since.
    pub(crate) holds: bool,
    pub(crate) error: Option<Error>,
    since: Instant,
    /// The newest version that it was seen to have.
    confirmed: u64,
    /// It was told goodbye, and forgets the instance then.
    goodbye: Option<Instant>,
    /// Since when another owner is known to have the key there, without a break.
    overtaken: Option<Instant>,
    /// The next registration takes the key from whoever has it there. Otherwise a change of content would
    /// take it from a newer owner that nobody has met yet.
    pub(crate) claims: bool,
    /// What was listed when the side was taken back.
    pub(crate) answered: Option<Generation>,
}

/// What is to be done for one key on one side.
#[derive(Debug)]
pub(crate) enum Goal {
    Register(Box<Instance>, u64),
    /// To say that the owner leaves this side and lives on, on the other one.
    Goodbye(Box<Instance>),
    Deregister(u64),
    /// Nothing, until something changes or the time comes.
    Wait(Option<Instant>),
}

impl Offers {
    /// Desires `change` of what is desired now under `key`; says whether the key is new here.
    pub(crate) fn desire(&mut self, key: &InstanceKey, instance: Instance) -> bool {
        if let Some(offer) = self.map.get_mut(key) {
            offer.desire(instance);
            return false;
        }
        self.last_serial += 1;
        let offer = Offer {
            serial: self.last_serial,
            version: 1,
            planned: 1,
            desired: Some(Arc::new(explicit(instance))),
            superseded: false,
            lingers: None,
            generation: None,
            revision: 1,
            told: [Told::nothing(), Told::nothing()],
            signal: watch::Sender::new(0),
        };
        self.map.insert(key.clone(), offer);
        true
    }

    /// Forgets a key that nothing is desired of any more and no side has.
    pub(crate) fn tidy(&mut self, key: &InstanceKey) {
        if self.map.get(key).is_some_and(Offer::is_over) {
            self.map.remove(key);
        }
    }
}

impl Offer {
    /// What this handle offers, unless a newer owner has the key.
    pub(crate) fn owned(&self) -> Option<&Arc<Instance>> {
        self.desired.as_ref().filter(|_| !self.superseded)
    }

    pub(crate) fn generation(&self) -> Option<Generation> {
        self.generation
    }

    fn desire(&mut self, instance: Instance) {
        let Some(last) = self.owned() else {
            // A new owner, also where it is the former one.
            self.superseded = false;
            self.generation = None;
            self.claim();
            let last = self.desired.take();
            let instance = match &last {
                Some(last) => instance.keeping_health_of(last),
                None => instance,
            };
            return self.want(Some(Arc::new(explicit(instance))));
        };
        let instance = explicit(instance.keeping_health_of(last));
        if **last != instance {
            self.want(Some(Arc::new(instance)));
        }
    }

    /// Changes what is desired.
    pub(crate) fn want(&mut self, desired: Option<Arc<Instance>>) {
        self.desired = desired;
        self.revision += 1;
        self.again();
    }

    /// Tells both sides once more.
    pub(crate) fn again(&mut self) {
        self.version += 1;
        self.notify();
    }

    /// Tells both sides once more, after a change of the plan.
    pub(crate) fn follow(&mut self) {
        self.again();
        self.planned = self.version;
    }

    /// Registers on a side once more, where `listed` is no newer owner's.
    pub(crate) fn take_back(&mut self, side: Side, listed: Option<Generation>) {
        let told = &mut self.told[side.index()];
        (told.version, told.claims, told.answered) = (0, true, listed);
        self.notify();
    }

    /// A newer owner has the key, and `comes` to these sides: this one stops, on both.
    pub(crate) fn supersede(&mut self, comes: Sides) {
        self.superseded = true;
        self.lingers = Some((comes, Instant::now() + LINGER_MAX));
        self.again();
    }

    /// Whether it is left on a side, that the newer owner hasn't taken yet.
    pub(crate) fn lingers(&self, side: Side) -> bool {
        let is_left = self.superseded && self.desired.is_some() && self.told[side.index()].holds;
        let lingers = self.lingers.filter(|_| is_left);
        lingers.is_some_and(|(sides, until)| sides.has(side) && Instant::now() < until)
    }

    /// Is a newer registration from now on.
    pub(crate) fn draw_again(&mut self) {
        self.generation = None;
        self.claim();
        self.again();
    }

    fn claim(&mut self) {
        for told in &mut self.told {
            told.claims = true;
        }
    }

    /// What is to be done on a side. `writes` are the sides that the phase says, `seen` the newest
    /// generation that is known of the key.
    pub(crate) fn goal(
        &mut self,
        side: Side,
        phase: Phase,
        writes: Sides,
        seen: Generation,
    ) -> Goal {
        let version = self.version;
        let told = &self.told[side.index()];
        let Some(instance) = self.owned().filter(|_| writes.has(side)) else {
            if !told.holds {
                if told.version != version {
                    self.tell(side, version, false, None);
                }
                return Goal::Wait(None);
            }
            let elsewhere = writes
                .iter()
                .all(|side| self.told[side.index()].has(self.planned));
            return match self.owned() {
                None => Goal::Deregister(version),
                Some(instance) => match told.goodbye {
                    Some(until) if Instant::now() < until => Goal::Wait(Some(until)),
                    Some(_) => Goal::Deregister(version),
                    // It moves, and isn't given up here before it is there.
                    None if !elsewhere => Goal::Wait(None),
                    None => {
                        let instance = instance.clone();
                        Goal::Goodbye(self.marked(&instance, phase, seen))
                    }
                },
            };
        };
        if told.version == version {
            let Some(_) = &told.error else {
                return Goal::Wait(None);
            };
            let at = told.since + REFUSED_PAUSE;
            if Instant::now() < at {
                return Goal::Wait(Some(at));
            }
        }
        let instance = instance.clone();
        Goal::Register(self.marked(&instance, phase, seen), version)
    }

    fn marked(&mut self, instance: &Instance, phase: Phase, seen: Generation) -> Box<Instance> {
        let generation = *self
            .generation
            .get_or_insert_with(|| Generation::after(seen));
        let stamp = Stamp {
            generation,
            revision: self.revision,
        };
        Box::new(Mark { stamp, phase }.put_on(instance))
    }

    /// Takes in what a side was told, and whether it refused.
    pub(crate) fn tell(&mut self, side: Side, version: u64, holds: bool, error: Option<Error>) {
        let told = &mut self.told[side.index()];
        let has_failed = error.is_some();
        *told = Told {
            version,
            holds,
            error,
            since: Instant::now(),
            confirmed: told.confirmed,
            goodbye: None,
            overtaken: None,
            claims: told.claims && (!holds || has_failed),
            answered: told.answered,
        };
        self.notify();
    }

    /// Notes that a side was seen to have a version.
    pub(crate) fn confirm(&mut self, side: Side, version: u64) {
        self.told[side.index()].confirmed = version;
    }

    /// Notes that a side was told goodbye; it forgets the instance after the pause.
    pub(crate) fn say_goodbye(&mut self, side: Side, pause: Duration) {
        self.told[side.index()].goodbye = Some(Instant::now() + pause);
        self.notify();
    }

    /// Whether both sides were told of a version, or of a later one.
    pub(crate) fn is_settled(&self, version: u64) -> bool {
        self.told.iter().all(|told| told.version >= version)
    }

    /// Why a side refuses what is desired, where it does for good.
    pub(crate) fn refusal(&self, side: Side) -> Option<&Error> {
        let told = &self.told[side.index()];
        let error = told.error.as_ref().filter(|_| told.version == self.version);
        error.filter(|error| !error.is_retryable())
    }

    fn is_over(&self) -> bool {
        self.desired.is_none()
            && self
                .told
                .iter()
                .all(|told| !told.holds && told.version == self.version)
    }

    pub(crate) fn notify(&self) {
        self.signal.send_modify(|signal| *signal += 1);
    }
}

impl Told {
    fn nothing() -> Self {
        Self {
            version: 0,
            holds: false,
            error: None,
            since: Instant::now(),
            confirmed: 0,
            goodbye: None,
            overtaken: None,
            claims: true,
            answered: None,
        }
    }

    /// Whether the side was told of this version or a later one.
    pub(crate) fn has(&self, version: u64) -> bool {
        self.version >= version && self.holds && self.error.is_none()
    }

    /// Whether the side was seen to have this version or a later one.
    pub(crate) fn is_confirmed(&self, version: u64) -> bool {
        self.confirmed >= version && self.holds && self.error.is_none()
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Notes whether another owner is known to have the key there; says whether it has been for long.
    pub(crate) fn is_overtaken_for(
        &mut self,
        long: Duration,
        is_overtaken: bool,
        now: Instant,
    ) -> bool {
        let since = self.overtaken.filter(|_| is_overtaken);
        self.overtaken = is_overtaken.then(|| since.unwrap_or(now));
        since.is_some_and(|since| now >= since + long)
    }
}

/// The instance with its health said, so that no side keeps another one of its own.
fn explicit(instance: Instance) -> Instance {
    let health = instance.health().clone();
    instance
        .with_health(health)
        .with_generation(Generation::default())
}
