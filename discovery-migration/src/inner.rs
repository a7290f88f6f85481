//! What a migration's handle and its tasks share: the registrations and how they get to both sides.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidings_api::{
    Address, Bounds, Connection, Error, ErrorKind, Health, Instance, InstanceId, InstanceKey,
    METADATA_RESERVED_PREFIX, Publisher, Registration, Removal, Result, Selector, ServiceName,
    Status,
};
use tokio::sync::watch;

use crate::offers::{Goal, Offer, Offers};
use crate::rivals::RIVAL_PAUSE;
use crate::sides::Handles;
use crate::tasks::Tasks;
use crate::topics::Topics;
use crate::{BACKEND, PARTICIPANTS, Phase, Plan, Side, Sides, Traits};

/// How long a goodbye stays at least: the turn of a reader on a side that shows changes at once.
const GOODBYE_MIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) handles: Handles,
    pub(crate) publisher: Publisher,
    pub(crate) tasks: Tasks,
    pub(crate) plan: watch::Sender<Plan>,
    pub(crate) topics: Mutex<Topics>,
    offers: Mutex<Offers>,
    /// Who this process is among the participants.
    pub(crate) participant: InstanceKey,
    pub(crate) steady: Duration,
    /// One change of phase, or the end, at a time.
    pub(crate) steps: tokio::sync::Mutex<()>,
    /// Somebody has set a phase.
    pub(crate) led: AtomicBool,
}

/// Whether an own registration is on a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// With what was asked for, or something newer.
    There,
    /// The side was told, and hasn't got it yet.
    UnderWay,
    Absent,
}

impl Inner {
    pub(crate) fn new(handles: Handles, plan: Plan, id: InstanceId, steady: Duration) -> Self {
        Self {
            handles,
            publisher: Publisher::new(),
            tasks: Tasks::new(),
            plan: watch::Sender::new(plan),
            topics: Mutex::default(),
            offers: Mutex::default(),
            participant: InstanceKey::new(participants(), id),
            steady,
            steps: tokio::sync::Mutex::default(),
            led: AtomicBool::default(),
        }
    }

    pub(crate) fn plan(&self) -> Plan {
        self.plan.borrow().clone()
    }
}

/// The verbs.
impl Inner {
    pub(crate) async fn register(self: &Arc<Self>, instance: Instance) -> Result<InstanceKey> {
        check(&instance)?;
        let key = instance.key().clone();
        let (version, before) = self.desire(&instance)?;
        self.settle(&key, version).await;
        if self.is_closed() {
            // It may have been told to no side.
            return Err(Error::closed().with_backend(BACKEND));
        }
        if let Some(refusal) = self.undo(&key, version, before) {
            let withdrawn = self.offer(&key, |offer| offer.version);
            self.settle(&key, withdrawn.unwrap_or(version)).await;
            self.refresh(&key);
            return Err(refusal.with_operation(format!("register {key}")));
        }
        self.refresh(&key);
        Ok(key)
    }

    pub(crate) async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        let version = {
            let mut offers = self.open()?;
            let Some(offer) = offers.map.get_mut(key).filter(|_| is_public(key)) else {
                return Ok(Removal::Absent);
            };
            let owned = offer.owned().is_some();
            if offer.desired.is_some() {
                offer.want(None);
            }
            if !owned {
                return Ok(Removal::Absent);
            }
            offer.version
        };
        self.settle(key, version).await;
        self.refresh(key);
        Ok(Removal::Removed)
    }

    pub(crate) async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        let version = {
            let mut offers = self.open()?;
            let offer = offers.map.get_mut(key).filter(|_| is_public(key));
            let owned = offer.and_then(|offer| Some((offer.owned()?.clone(), offer)));
            let Some((instance, offer)) = owned else {
                let message = format!("{key} is not registered by this handle, or no longer");
                return Err(error(ErrorKind::NotOwned, message).with_operation("health"));
            };
            if *instance.health() != health {
                let changed = Instance::clone(&instance).with_health(health);
                offer.want(Some(Arc::new(changed)));
            }
            offer.version
        };
        self.settle(key, version).await;
        self.refresh(key);
        Ok(())
    }

    pub(crate) fn status(&self) -> Status {
        let sides: Vec<_> = Side::BOTH
            .into_iter()
            .filter_map(|side| Some((side, self.handles.get(side)?.status())))
            .collect();
        let offers = self.lock();
        if offers.closed {
            return Status::new(BACKEND, Connection::Closed, bounds(&sides));
        }
        let plan = self.plan();
        let public = offers.map.iter().filter(|(key, _)| is_public(key));
        let registrations = public.filter_map(|(key, offer)| {
            let writes = plan.phase(key.service()).writes();
            Some((key.clone(), registration(key, offer, writes, &sides)?))
        });
        Status::new(BACKEND, connection(&sides), bounds(&sides)).with_registrations(registrations)
    }

    pub(crate) async fn close(&self) -> Result<()> {
        self.lock().closed = true;
        // Nobody begins to watch from now on: what is waited for below is all there is.
        self.publisher.close();
        self.tasks.end().await;
        // Whoever waits for a task that has ended, such as a step under way.
        self.lock().map.values().for_each(Offer::notify);
        self.topics().values().for_each(|topic| topic.release());
        let _one_at_a_time = self.steps.lock().await;
        self.topics().clear();
        let close = |side: Side| async move {
            match self.handles.take(side) {
                Some(handle) => handle.close().await.map_err(|e| self.on_side(side, e)),
                None => Ok(()),
            }
        };
        let (old, new) = tokio::join!(close(Side::Old), close(Side::New));
        old.and(new).map_err(|error| error.with_operation("close"))
    }
}

/// Own registrations.
impl Inner {
    /// Tells everybody who this is and in which phase.
    pub(crate) fn participate(self: &Arc<Self>, participant: &Instance) -> Result<()> {
        self.topic(&Selector::Service(participants()));
        self.desire(participant).map(drop)
    }

    /// This process as the others see it with a plan; one service is one metadata entry.
    pub(crate) fn participant_in(&self, plan: &Plan) -> Result<Instance> {
        let nowhere = Address::new("127.0.0.1", 1)?;
        let mut instance = Instance::at(self.participant.clone(), nowhere)
            .with_health(Health::draining().with_note("no service: a participant of a migration"));
        for (service, phase) in &plan.services {
            instance = instance.with_metadata(service, phase.as_str())?;
        }
        Ok(instance)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Brings everything to the sides anew, after a change of the plan.
    pub(crate) fn again(&self) {
        for offer in self.lock().map.values_mut() {
            offer.follow();
        }
    }

    /// Waits until both sides have been told all that is desired now.
    pub(crate) async fn settled(&self) {
        let all: Vec<_> = {
            let offers = self.lock();
            let versions = offers.map.iter();
            versions
                .map(|(key, offer)| (key.clone(), offer.version))
                .collect()
        };
        for (key, version) in all {
            self.settle(&key, version).await;
        }
    }

    /// Own registrations, with the version that is desired now.
    pub(crate) fn versions(&self) -> BTreeMap<InstanceKey, u64> {
        let offers = self.lock();
        let owned = offers.map.iter();
        let owned = owned.filter(|(_, offer)| offer.owned().is_some());
        owned
            .map(|(key, offer)| (key.clone(), offer.version))
            .collect()
    }

    /// Own registrations, with their keys and whether each is on this side in a version or later.
    pub(crate) fn own(
        &self,
        side: Side,
        versions: &BTreeMap<InstanceKey, u64>,
    ) -> BTreeMap<InstanceKey, Presence> {
        let status = self.handles.get(side).map(|handle| handle.status());
        let offers = self.lock();
        let owned = offers
            .map
            .iter()
            .filter(|(_, offer)| offer.owned().is_some());
        let presence = |key: &InstanceKey, offer: &Offer| {
            let told = &offer.told[side.index()];
            let registration = status.as_ref().and_then(|status| status.registration(key));
            match registration {
                Some(Registration::Registered) if told.has(offer.version) => Presence::There,
                Some(_) if told.is_confirmed(versions.get(key).copied().unwrap_or(u64::MAX)) => {
                    Presence::There
                }
                Some(_) if told.holds && told.error.is_none() => Presence::UnderWay,
                _ => Presence::Absent,
            }
        };
        owned
            .map(|(key, offer)| (key.clone(), presence(key, offer)))
            .collect()
    }

    /// Whether the migration itself needs what a selector selects.
    pub(crate) fn needs(&self, selector: &Selector) -> bool {
        let Selector::Service(service) = selector else {
            return false;
        };
        let offers = self.lock();
        offers.map.keys().any(|key| key.service() == service) || service.as_str() == PARTICIPANTS
    }

    /// Makes an instance what is desired; returns the version to wait for, and what was before.
    fn desire(self: &Arc<Self>, instance: &Instance) -> Result<(u64, Option<Arc<Instance>>)> {
        let key = instance.key();
        let (desired, serial) = {
            let mut offers = self.open()?;
            let before = offers.map.get(key).and_then(Offer::owned).cloned();
            let is_new = offers.desire(key, instance.clone());
            let offer = offers.map.get(key);
            let (version, serial) = offer.map_or((0, 0), |offer| (offer.version, offer.serial));
            ((version, before), is_new.then_some(serial))
        };
        if let Some(serial) = serial {
            for side in Side::BOTH {
                self.tasks
                    .spawn(self.clone().post(key.clone(), serial, side));
            }
        }
        Ok(desired)
    }

    /// Keeps one side in line with what is desired under one key, until nothing is.
    async fn post(self: Arc<Self>, key: InstanceKey, serial: u64, side: Side) {
        let topic = self.topic(&Selector::Service(key.service().clone()));
        topic.ready().await;
        let signal = self.offer(&key, |offer| offer.signal.subscribe());
        let Some(mut signal) = signal else {
            return;
        };
        loop {
            signal.mark_unchanged();
            let seen = topic.newest(&key);
            let plan = self.plan();
            let (phase, writes) = self.phase_of(&plan, &key);
            let is_lost = || {
                let status = self.handles.get(side).map(|handle| handle.status());
                status.is_none_or(|status| is_taken(&status, &key))
            };
            let lingers = self.offer(&key, |offer| offer.lingers(side)) == Some(true) && !is_lost();
            let goal = self.offer_mut(&key, |offer| {
                let goal = |offer: &mut Offer| match lingers {
                    true => Goal::Wait(Some(Instant::now() + RIVAL_PAUSE)),
                    false => offer.goal(side, phase, writes, seen),
                };
                (offer.serial == serial).then(|| goal(offer))
            });
            let Some(goal) = goal.flatten() else {
                return;
            };
            match goal {
                Goal::Register(instance, version) => {
                    self.bring(&key, side, *instance, version).await;
                }
                Goal::Goodbye(instance) => self.say_goodbye(&key, side, *instance).await,
                Goal::Deregister(version) => {
                    let handle = self.handles.get(side);
                    let removed = match handle {
                        Some(handle) => handle.deregister(&key).await.map(drop),
                        None => Ok(()),
                    };
                    if let Err(error) = removed {
                        tracing::debug!(%key, %side, %error, "a side can't be told to forget");
                    }
                    self.offer_mut(&key, |offer| offer.tell(side, version, false, None));
                }
                Goal::Wait(until) => {
                    let pause = async {
                        match until {
                            Some(until) => tokio::time::sleep_until(until.into()).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        changed = signal.changed() => if changed.is_err() { return },
                        () = pause => {}
                    }
                }
            }
        }
    }

    async fn bring(&self, key: &InstanceKey, side: Side, instance: Instance, version: u64) {
        let Some(handle) = self.handles.get(side) else {
            self.offer_mut(key, |offer| offer.tell(side, version, false, None));
            return;
        };
        let claims = self.offer(key, |offer| offer.told[side.index()].claims);
        if claims == Some(false) && is_taken(&handle.status(), key) {
            // Whoever has the key may be newer. Where it isn't, the side is taken back.
            self.offer_mut(key, |offer| offer.tell(side, version, true, None));
            return;
        }
        let error = handle.register(instance).await.err();
        let error = error.map(|error| self.on_side(side, error));
        if let Some(error) = &error {
            tracing::warn!(%key, %side, %error, "a side refuses a registration");
        }
        let status = handle.status();
        let registered = matches!(status.registration(key), Some(Registration::Registered));
        self.offer_mut(key, |offer| {
            let holds = error.is_none() || offer.told[side.index()].holds;
            if error.is_none() && registered {
                offer.confirm(side, version);
            }
            offer.tell(side, version, holds, error);
        });
    }

    /// Tells everybody on a side that is about to be left that the instance lives on, and gives them
    /// the time to hear it: in an outage of the other side they would take it for gone.
    async fn say_goodbye(&self, key: &InstanceKey, side: Side, instance: Instance) {
        let mut pause = Duration::ZERO;
        let handle = self.handles.get(side);
        if let Some(handle) = handle.filter(|handle| !is_taken(&handle.status(), key)) {
            match handle.register(instance).await {
                Ok(_) => pause = handle.status().bounds().visible.max(GOODBYE_MIN),
                Err(error) => tracing::debug!(%key, %side, %error, "a side can't be told goodbye"),
            }
        }
        self.offer_mut(key, |offer| offer.say_goodbye(side, pause));
    }

    /// Waits until both sides were told of a version of a key.
    async fn settle(&self, key: &InstanceKey, version: u64) {
        let Some(mut signal) = self.offer(key, |offer| offer.signal.subscribe()) else {
            return;
        };
        loop {
            signal.mark_unchanged();
            let settled = self.offer(key, |offer| offer.superseded || offer.is_settled(version));
            if settled.unwrap_or(true) || self.is_closed() || signal.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes back what a side that is read has refused, and says why it did.
    fn undo(
        &self,
        key: &InstanceKey,
        version: u64,
        before: Option<Arc<Instance>>,
    ) -> Option<Error> {
        let reads = self.phase_of(&self.plan(), key).0.reads();
        self.offer_mut(key, |offer| {
            if offer.version != version {
                return None;
            }
            let refusal = reads.iter().find_map(|side| offer.refusal(side)).cloned();
            if refusal.is_some() {
                offer.want(before);
            }
            refusal
        })?
    }

    /// A participant is where its process is.
    pub(crate) fn phase_of(&self, plan: &Plan, key: &InstanceKey) -> (Phase, Sides) {
        if is_public(key) {
            let phase = plan.phase(key.service());
            (phase, phase.writes())
        } else {
            (plan.all, plan.sides())
        }
    }

    /// How a side is doing, also where it isn't in use.
    pub(crate) async fn look_at(&self, side: Side) -> Result<(Status, Traits)> {
        // A step may be about to start it.
        let _one_at_a_time = self.steps.lock().await;
        let looked = self.handles.look_at(side).await;
        looked.map_err(|error| self.on_side(side, error).with_operation("preflight"))
    }

    /// An error of a side, which says which side it is of.
    pub(crate) fn on_side(&self, side: Side, cause: Error) -> Error {
        let backend = cause.backend().unwrap_or("unknown backend");
        error(
            cause.kind(),
            format!("the {side} side ({backend}): {cause}"),
        )
        .with_source(cause)
    }

    pub(crate) fn offer<T>(&self, key: &InstanceKey, look: impl FnOnce(&Offer) -> T) -> Option<T> {
        self.lock().map.get(key).map(look)
    }

    pub(crate) fn offer_mut<T>(
        &self,
        key: &InstanceKey,
        change: impl FnOnce(&mut Offer) -> T,
    ) -> Option<T> {
        let mut offers = self.lock();
        let changed = offers.map.get_mut(key).map(change);
        offers.tidy(key);
        changed
    }

    fn open(&self) -> Result<MutexGuard<'_, Offers>> {
        let offers = self.lock();
        if offers.closed {
            return Err(Error::closed().with_backend(BACKEND));
        }
        Ok(offers)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Offers> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service that participants are registered under.
pub(crate) fn participants() -> ServiceName {
    #[allow(clippy::expect_used, reason = "it is a constant, and a test reads it")]
    ServiceName::new(PARTICIPANTS).expect("the name is within LIM-1")
}

pub(crate) fn error(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, message).with_backend(BACKEND)
}

/// Whether another owner has a key, as far as a side's handle knows.
fn is_taken(status: &Status, key: &InstanceKey) -> bool {
    let registration = status.registration(key);
    registration.is_some_and(Registration::is_superseded)
}

/// Whether applications know of a key.
fn is_public(key: &InstanceKey) -> bool {
    key.service().as_str() != PARTICIPANTS
}

/// What is the migration's own is not an application's.
fn check(instance: &Instance) -> Result<()> {
    let key = instance.key();
    if !is_public(key) {
        let message =
            format!("service {PARTICIPANTS} is the migration's own: accepted is any other");
        return Err(error(ErrorKind::InvalidInput, message).with_operation("register"));
    }
    let reserved = |name: &&str| name.starts_with(METADATA_RESERVED_PREFIX);
    let mut names = instance
        .metadata()
        .keys()
        .map(tidings_api::MetadataKey::as_str);
    match names.find(reserved) {
        None => Ok(()),
        Some(name) => {
            let message = format!(
                "metadata key \"{name}\" of {key}: accepted are those that don't start with \
                 {METADATA_RESERVED_PREFIX}"
            );
            Err(error(ErrorKind::InvalidInput, message).with_operation("register"))
        }
    }
}

/// How a registration is doing on all sides that it is to be on.
fn registration(
    key: &InstanceKey,
    offer: &Offer,
    writes: Sides,
    sides: &[(Side, Status)],
) -> Option<Registration> {
    offer.desired.as_ref()?;
    if offer.superseded {
        return Some(Registration::Superseded);
    }
    let mut pending = None;
    for (side, status) in sides.iter().filter(|(side, _)| writes.has(*side)) {
        let told = &offer.told[side.index()];
        let here = match status.registration(key) {
            Some(Registration::Registered) if told.has(offer.version) => continue,
            Some(Registration::Pending { since, last_error }) => (*since, last_error.clone()),
            _ => (told.since(), None),
        };
        let since = pending
            .as_ref()
            .map_or(here.0, |(since, _): &(_, _)| here.0.min(*since));
        let last = pending.and_then(|(_, error)| error);
        pending = Some((since, last.or(told.error.clone()).or(here.1)));
    }
    Some(match pending {
        None => Registration::Registered,
        Some((since, last_error)) => Registration::Pending { since, last_error },
    })
}

/// Heard when every side in use is.
fn connection(sides: &[(Side, Status)]) -> Connection {
    let lost = sides
        .iter()
        .filter_map(|(side, status)| match status.connection() {
            Connection::Connected => None,
            Connection::Disconnected { since, reason } => {
                let reason = format!("the {side} side ({}): {reason}", status.backend());
                Some((*since, reason))
            }
            _ => {
                let reason = format!("the {side} side ({}): closed", status.backend());
                Some((Instant::now(), reason))
            }
        });
    let lost: Vec<_> = lost.collect();
    let Some(since) = lost.iter().map(|(since, _)| *since).min() else {
        return Connection::Connected;
    };
    let reasons: Vec<_> = lost.into_iter().map(|(_, reason)| reason).collect();
    Connection::Disconnected {
        since,
        reason: reasons.join("; ").into(),
    }
}

/// The worse of each.
fn bounds(sides: &[(Side, Status)]) -> Bounds {
    let none = Bounds {
        visible: Duration::ZERO,
        removed: Duration::ZERO,
        crashed: Duration::ZERO,
        stale: Duration::ZERO,
    };
    let bounds = sides.iter().map(|(_, status)| status.bounds());
    bounds.fold(none, |worst, bounds| Bounds {
        visible: worst.visible.max(bounds.visible),
        removed: worst.removed.max(bounds.removed),
        crashed: worst.crashed.max(bounds.crashed),
        stale: worst.stale.max(bounds.stale),
    })
}
