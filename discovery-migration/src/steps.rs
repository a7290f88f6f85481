//! From phase to phase: what stands in the way, and doing it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidings_api::{Bounds, Connection, Error, InstanceKey, Selector, ServiceName, Status, View};

use crate::coverage::{Coverage, LAG_MAX};
use crate::inner::{Inner, Presence, participants};
use crate::mark::Listed;
use crate::{Difference, Migration, PARTICIPANTS, Phase, Plan, Side, Sides, is_own_service};

/// How long a side has to show all it lists, when somebody asks.
const LOOK_TIME: Duration = Duration::from_secs(5);
/// How often it is looked in that time.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How long a step waits at most for both sides to have been told.
const SETTLE_TIME: Duration = Duration::from_secs(30);

/// What stands in the way of a step: each would make somebody invisible to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocker {
    /// A side can't be heard, or doesn't tell which processes take part, so that nobody knows who is on it.
    Unheard {
        /// Which.
        side: Side,
        /// Why, for people.
        reason: String,
    },
    /// An instance isn't on the side that would be the only one read.
    Uncovered {
        /// Which.
        key: InstanceKey,
        /// Where it is missing.
        side: Side,
        /// What is wrong with it there.
        difference: Difference,
    },
    /// Everything is on the side that would be the only one read, but not for long enough yet.
    Unsteady {
        /// Which service.
        service: ServiceName,
        /// For how long it has been.
        covered_for: Duration,
        /// How long it has to be: [`Builder::steady`](crate::Builder::steady).
        steady: Duration,
    },
    /// An own registration isn't on the side that would be the only one written.
    Unregistered {
        /// Which.
        key: InstanceKey,
        /// Where.
        side: Side,
    },
    /// A process reads the side that would not be written any more, and no other; or it registers on the
    /// side that would not be read any more, and on no other.
    Behind {
        /// Its name.
        participant: String,
        /// Its phase.
        phase: Phase,
    },
    /// The owner of an instance doesn't migrate, and may read the side that would not be written
    /// any more. Or another tool wrote it.
    Unmarked {
        /// Which.
        key: InstanceKey,
    },
}

/// Why a step wasn't made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StepError {
    /// It would make somebody invisible to somebody: this is who isn't ready.
    Refused(Vec<Blocker>),
    /// A backend could not be started; or more services have phases of their own than can be told.
    Failed(Error),
}

/// Whether a step is made that somebody isn't ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// It is refused.
    #[default]
    Keep,
    /// It is made, and whoever isn't ready loses sight of others or is lost sight of.
    Override,
}

/// Who makes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Whoever uses the handle: from then on it doesn't go by itself any more.
    Caller,
    /// The handle itself.
    Course,
}

/// A process of the migration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Participant {
    /// Its name.
    pub name: String,
    /// Its phase, for each service.
    pub plan: Plan,
    /// The sides that list it.
    pub sides: Sides,
}

/// How far a migration is, as one process sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The own phase, for each service.
    pub plan: Plan,
    /// Every process of the migration that is visible, with its phase.
    pub participants: Vec<Participant>,
    /// How both sides agree, for each service that this process offers or watches.
    pub services: BTreeMap<ServiceName, Coverage>,
    /// The backends in use, with their names and bounds: the worse of two is what holds while both
    /// are read, and the new one's is what will hold.
    pub bounds: BTreeMap<Side, (&'static str, Bounds)>,
}

impl Migration {
    /// Changes the phase of all services that have none of their own. Returns when both sides have
    /// been told; a step over several phases is made in one, if all of its gates are open. A handle
    /// that went by itself, [automatically](crate::Builder::automatic) or
    /// [toward](crate::Builder::toward) a phase, stays where it was set from then on.
    ///
    /// Dropped while it waits for the sides, it has changed the phase; a side that is left stays open until a
    /// phase is set again, also the same one.
    ///
    /// # Errors
    /// [`StepError::Refused`] with everything that stands in the way; nothing has changed then. Services
    /// that this process neither offers nor watches are looked at once nothing else does.
    pub async fn set_phase(&self, phase: Phase) -> Result<(), StepError> {
        let plan = Plan {
            all: phase,
            ..self.plan()
        };
        self.set_plan(plan, Gate::Keep).await
    }

    /// Changes the phase of one service.
    ///
    /// # Errors
    /// As [`set_phase`](Self::set_phase).
    pub async fn set_phase_of(&self, service: ServiceName, phase: Phase) -> Result<(), StepError> {
        let mut plan = self.plan();
        plan.services.insert(service, phase);
        self.set_plan(plan, Gate::Keep).await
    }

    /// Changes the phases to those of a plan. The gates can be overridden, by an operator who
    /// knows what the [`Blocker`]s mean.
    ///
    /// # Errors
    /// As [`set_phase`](Self::set_phase); with [`Gate::Override`] only where a backend can't be
    /// started.
    pub async fn set_plan(&self, plan: Plan, gate: Gate) -> Result<(), StepError> {
        self.inner.step(plan, gate, Driver::Caller).await
    }

    /// What stands in the way of a phase for all services; nothing where it could be set.
    pub async fn blockers(&self, phase: Phase) -> Vec<Blocker> {
        let plan = Plan {
            all: phase,
            ..self.plan()
        };
        self.inner.blockers(&self.plan(), &plan).await
    }

    /// How far everybody is.
    #[must_use]
    pub fn report(&self) -> Report {
        let statuses = Side::BOTH
            .into_iter()
            .filter_map(|side| Some((side, self.side(side)?)));
        Report {
            plan: self.plan(),
            participants: self.inner.participants(),
            services: self.inner.coverage(),
            bounds: statuses
                .map(|(side, status)| (side, (status.backend(), *status.bounds())))
                .collect(),
        }
    }
}

impl Inner {
    pub(crate) async fn step(
        self: &Arc<Self>,
        to: Plan,
        gate: Gate,
        driver: Driver,
    ) -> Result<(), StepError> {
        let _one_at_a_time = self.steps.lock().await;
        if driver == Driver::Course && self.is_led() {
            return Ok(());
        }
        if self.is_closed() {
            return Err(StepError::Failed(
                Error::closed().with_backend(crate::BACKEND),
            ));
        }
        let from = self.plan();
        if from == to {
            self.lead(driver);
            // Whoever made the step may not have waited for its end.
            self.finish().await;
            return Ok(());
        }
        let participant = self.participant_in(&to).map_err(StepError::Failed)?;
        let blockers = self.blockers(&from, &to).await;
        if !blockers.is_empty() {
            if gate == Gate::Keep {
                return Err(StepError::Refused(blockers));
            }
            tracing::warn!(
                ?to,
                ?blockers,
                "a step is made that somebody isn't ready for"
            );
        }
        for side in to.sides().iter() {
            let started = self.handles.start(side).await;
            started.map_err(|error| StepError::Failed(self.on_side(side, error)))?;
        }
        self.lead(driver);
        tracing::info!(from = %from.all, to = %to.all, "phase changes");
        self.plan.send_replace(to.clone());
        self.again();
        let told = self.participate(&participant);
        told.map_err(StepError::Failed)?;
        self.finish().await;
        Ok(())
    }

    /// Waits until both sides have been told of the plan, and closes those that it doesn't need.
    async fn finish(&self) {
        // Whoever isn't told in time is told later: what is desired has changed.
        let _ = tokio::time::timeout(SETTLE_TIME, self.settled()).await;
        let needed = self.plan().sides();
        for side in Side::BOTH.into_iter().filter(|side| !needed.has(*side)) {
            if let Some(handle) = self.handles.take(side)
                && let Err(error) = handle.close().await
            {
                tracing::warn!(%side, %error, "a side that isn't used any more didn't close");
            }
        }
    }

    /// Whether somebody has set a phase, so that the handle doesn't go by itself any more.
    pub(crate) fn is_led(&self) -> bool {
        self.led.load(Ordering::Relaxed)
    }

    fn lead(&self, driver: Driver) {
        if driver == Driver::Caller {
            self.led.store(true, Ordering::Relaxed);
        }
    }

    /// Everything that stands in the way of a change of plan.
    pub(crate) async fn blockers(&self, from: &Plan, to: &Plan) -> Vec<Blocker> {
        let mut blockers = Blockers::default();
        let apart: BTreeSet<_> = from.services.keys().chain(to.services.keys()).collect();
        for service in &apart {
            let step = (from.phase(service), to.phase(service));
            self.reading(step, Scope::One(service), &mut blockers).await;
            self.writing(step, Scope::One(service), &mut blockers).await;
        }
        let (step, others) = ((from.all, to.all), Scope::AllBut(&apart));
        self.reading(step, others, &mut blockers).await;
        self.writing(step, others, &mut blockers).await;
        blockers.list
    }

    /// What would be missed by reading otherwise.
    async fn reading(&self, (from, to): (Phase, Phase), scope: Scope<'_>, blockers: &mut Blockers) {
        let (before, after) = (from.reads(), to.reads());
        if before == after {
            return;
        }
        let left = before.iter().find(|side| !after.has(*side));
        if left.is_some_and(|left| self.is_deserted(left)) {
            self.hear_all(after, blockers);
            return self.meet(after, blockers).await;
        }
        // Also the one that is left: who is on it has to be known.
        self.hear_all(before.union(after), blockers);
        let Some(left) = left else {
            return;
        };
        self.meet(before.union(after), blockers).await;
        for participant in self.others() {
            blockers.behind(&participant, scope, |phase| phase.writes() == left.into());
        }
        let coverage = self.coverage();
        for (service, coverage) in coverage.iter().filter(|(service, _)| scope.has(service)) {
            for side in after.iter() {
                blockers.uncovered(service, coverage, side, self.steady);
            }
        }
        // Nobody watches what is looked up only now and then. It costs a look at all there is.
        if blockers.list.is_empty() {
            self.compare(left, scope, blockers).await;
        }
    }

    /// What one side lists and the other doesn't, whether it is watched or not.
    async fn compare(&self, left: Side, scope: Scope<'_>, blockers: &mut Blockers) {
        // In this order, what comes between the looks is on both sides.
        let looks = (
            self.everything(left).await,
            self.everything(left.other()).await,
        );
        let (on_left, on_kept) = match looks {
            (Ok(on_left), Ok(on_kept)) => (on_left, on_kept),
            (Err(unheard), _) | (_, Err(unheard)) => return blockers.add(unheard),
        };
        let (side, difference) = match left {
            Side::Old => (Side::New, Difference::Missing),
            Side::New => (Side::Old, Difference::Extra),
        };
        let is_meant =
            |key: &InstanceKey| !is_own_service(key.service()) && scope.has(key.service());
        let keys = on_left.iter().map(|raw| raw.key());
        for key in keys.filter(|key| is_meant(key) && on_kept.get(key).is_none()) {
            blockers.add(Blocker::Uncovered {
                key: key.clone(),
                side,
                difference,
            });
        }
    }

    /// Who would miss this process if it wrote otherwise.
    async fn writing(&self, (from, to): (Phase, Phase), scope: Scope<'_>, blockers: &mut Blockers) {
        let (before, after) = (from.writes(), to.writes());
        for left in before.iter().filter(|side| !after.has(*side)) {
            let kept = left.other();
            let is_deserted = self.is_deserted(left);
            let counted = match is_deserted {
                true => kept.into(),
                false => Sides::BOTH,
            };
            self.hear_all(counted, blockers);
            self.meet(counted, blockers).await;
            for participant in self.others() {
                blockers.behind(&participant, scope, |phase| phase.reads() == left.into());
            }
            for key in self.unregistered(kept).await {
                if scope.has(key.service()) && key.service().as_str() != PARTICIPANTS {
                    blockers.add(Blocker::Unregistered { key, side: kept });
                }
            }
            if is_deserted {
                continue;
            }
            match self.everything(left).await {
                Ok(listed) => unmarked(&listed).for_each(|it| blockers.add(it)),
                Err(unheard) => blockers.add(unheard),
            }
        }
    }

    /// Whether a side can't be heard, and every other process of the migration has left it for good.
    /// It may have been switched off, and a cluster without a server goes with its last member. Those
    /// who left have asked who would miss them; who comes later has nobody to ask.
    fn is_deserted(&self, side: Side) -> bool {
        if self.silence(side).is_none() {
            return false;
        }
        let kept = Sides::from(side.other());
        let others = self.others();
        !others.is_empty() && others.iter().all(|who| who.plan.sides() == kept)
    }

    /// Every other process of the migration.
    fn others(&self) -> Vec<Participant> {
        let mut others = self.participants();
        others.retain(|who| who.name != self.participant.id().as_str());
        others
    }

    /// Own registrations that aren't on a side. Under steady changes there is always one under way:
    /// what is desired now has to be there at some time soon, or something later.
    async fn unregistered(&self, side: Side) -> BTreeSet<InstanceKey> {
        let end = Instant::now() + LOOK_TIME;
        let versions = self.versions();
        let mut missing: BTreeSet<_> = versions.keys().cloned().collect();
        loop {
            let own = self.own(side, &versions);
            missing.retain(|key| own.get(key).is_some_and(|on| *on != Presence::There));
            let is_under_way = |key| own.get(key) == Some(&Presence::UnderWay);
            if !missing.iter().any(is_under_way) || Instant::now() >= end {
                return missing;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Whether sides can be heard.
    fn hear_all(&self, sides: Sides, blockers: &mut Blockers) {
        for side in sides.iter() {
            if let Some(reason) = self.silence(side) {
                blockers.add(Blocker::Unheard { side, reason });
            }
        }
    }

    /// Whether sides that can be heard tell who takes part. Where this process is refused, others may
    /// be as well, and nobody knows of them.
    async fn meet(&self, sides: Sides, blockers: &mut Blockers) {
        let heard = |side: &Side| self.silence(*side).is_none();
        for side in sides.iter().filter(heard) {
            if let Some(reason) = self.secrecy(side).await {
                let reason = format!("it doesn't tell who takes part: {reason}");
                blockers.add(Blocker::Unheard { side, reason });
            }
        }
    }

    /// Why a side doesn't tell who takes part, where it doesn't.
    async fn secrecy(&self, side: Side) -> Option<String> {
        let end = Instant::now() + LOOK_TIME;
        loop {
            match self.participates(side) {
                Ok(true) => return None,
                Err(error) => return Some(error.to_string()),
                Ok(false) if Instant::now() >= end || self.is_closed() => {
                    return Some(format!(
                        "this process isn't among them within {LOOK_TIME:?}"
                    ));
                }
                Ok(false) => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
    }

    /// Whether a side shows the participants by now, and this process is one of them.
    fn participates(&self, side: Side) -> Result<bool, Error> {
        let selector = Selector::Service(participants());
        let Some(topic) = self.topics().get(&selector).cloned() else {
            return Ok(false);
        };
        let is_shown = topic.shows(side)?;
        let refusal = self.offer(&self.participant, |offer| {
            offer.told[side.index()].error.clone()
        });
        if let Some(refusal) = refusal.flatten() {
            return Err(refusal);
        }
        let own = self.own(side, &self.versions());
        Ok(is_shown && own.get(&self.participant) == Some(&Presence::There))
    }

    /// Why a side can't be heard, where it can't.
    fn silence(&self, side: Side) -> Option<String> {
        let status = self.handles.get(side).map(|handle| handle.status());
        match status.as_ref().map(Status::connection) {
            Some(Connection::Connected) => None,
            Some(Connection::Disconnected { reason, .. }) => Some(reason.to_string()),
            Some(_) => Some("its handle is closed".to_owned()),
            None => Some("it is not in use yet".to_owned()),
        }
    }

    /// What a side lists of all services.
    async fn everything(&self, side: Side) -> Result<View, Blocker> {
        let look = async {
            let mut watch = self.handles.get(side)?.watch(Selector::All).await.ok()?;
            watch.wait_until(View::is_live).await.ok()
        };
        let view = tokio::time::timeout(LOOK_TIME, look).await;
        view.ok().flatten().ok_or_else(|| Blocker::Unheard {
            side,
            reason: format!("it doesn't show all services within {LOOK_TIME:?}"),
        })
    }

    pub(crate) fn coverage(&self) -> BTreeMap<ServiceName, Coverage> {
        let topics: Vec<_> = self.topics().values().cloned().collect();
        let mut all = BTreeMap::new();
        for topic in topics {
            all.extend(topic.look(|_, tally| tally.report(Instant::now())));
        }
        all.remove(&participants());
        all
    }

    pub(crate) fn participants(&self) -> Vec<Participant> {
        let selector = Selector::Service(participants());
        let Some(topic) = self.topics().get(&selector).cloned() else {
            return Vec::new();
        };
        let shown = topic.shown();
        topic.look(|merge, _| {
            let is_live = |side: Side| merge.heard(side).is_live();
            let listings = merge.listings();
            let listed = listings.filter_map(|(key, listed)| {
                // What a lost side alone lists may have ended.
                if !merge.listed(key).iter().any(is_live) && !shown.contains(key) {
                    return None;
                }
                // The newer of two, where they differ.
                let listed = Side::BOTH.into_iter().zip(listed);
                let listed = listed.filter_map(|(side, listed)| Some((side, listed?)));
                let (_, newest) = listed.max_by_key(|(side, it)| (it.stamp, is_live(*side)))?;
                Some(Participant {
                    name: key.id().to_string(),
                    plan: plan_of(newest)?,
                    sides: merge.listed(key),
                })
            });
            listed.collect()
        })
    }
}

/// The services that a part of a step is about.
#[derive(Clone, Copy)]
enum Scope<'a> {
    One(&'a ServiceName),
    /// All but these, which are in a phase of their own before or after it.
    AllBut(&'a BTreeSet<&'a ServiceName>),
}

impl Scope<'_> {
    fn has(self, service: &ServiceName) -> bool {
        match self {
            Self::One(one) => one == service,
            Self::AllBut(apart) => !apart.contains(service),
        }
    }

    /// The phases that a plan has for them.
    fn phases(self, plan: &Plan) -> Vec<Phase> {
        match self {
            Self::One(service) => vec![plan.phase(service)],
            Self::AllBut(_) => {
                let own = plan.services.iter();
                let own = own.filter(|(service, _)| self.has(service));
                let own = own.map(|(_, phase)| *phase);
                std::iter::once(plan.all).chain(own).collect()
            }
        }
    }
}

#[derive(Debug, Default)]
struct Blockers {
    list: Vec<Blocker>,
}

impl Blockers {
    fn add(&mut self, blocker: Blocker) {
        if !self.list.contains(&blocker) {
            self.list.push(blocker);
        }
    }

    fn uncovered(
        &mut self,
        service: &ServiceName,
        coverage: &Coverage,
        side: Side,
        steady: Duration,
    ) {
        let differences = coverage.differences.iter();
        let in_the_way = differences.filter(|(_, (difference, lasts))| match difference {
            Difference::Missing => side == Side::New,
            Difference::Extra => side == Side::Old,
            Difference::Different => *lasts >= LAG_MAX,
        });
        let before = self.list.len();
        for (key, (difference, _)) in in_the_way {
            self.add(Blocker::Uncovered {
                key: key.clone(),
                side,
                difference: *difference,
            });
        }
        let covered_for = coverage.covered_for(side).unwrap_or_default();
        if self.list.len() == before && covered_for < steady {
            self.add(Blocker::Unsteady {
                service: service.clone(),
                covered_for,
                steady,
            });
        }
    }

    /// A process with such a phase for the services that it is about.
    fn behind(&mut self, who: &Participant, scope: Scope<'_>, is_behind: impl Fn(Phase) -> bool) {
        let mut phases = scope.phases(&who.plan).into_iter();
        if let Some(phase) = phases.find(|phase| is_behind(*phase)) {
            self.add(Blocker::Behind {
                participant: who.name.clone(),
                phase,
            });
        }
    }
}

/// Instances whose owners don't migrate.
fn unmarked(listed: &View) -> impl Iterator<Item = Blocker> {
    let unmarked = listed
        .iter()
        .filter(|raw| Listed::new(raw).is_unmarked() && !is_own_service(raw.service()));
    unmarked.map(|raw| Blocker::Unmarked {
        key: raw.key().clone(),
    })
}

/// The plan that a participant's entry tells.
fn plan_of(listed: &Listed) -> Option<Plan> {
    let services = listed.plain.metadata().iter();
    let services = services
        .filter_map(|(service, phase)| Some((service.as_str().parse().ok()?, phase.parse().ok()?)));
    Some(Plan {
        all: listed.phase?,
        services: services.collect(),
    })
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unheard { side, reason } => {
                write!(f, "the {side} side can't be heard ({reason})")
            }
            Self::Uncovered {
                key,
                side,
                difference: Difference::Different,
            } => write!(f, "{key} is not the same on the {side} side"),
            Self::Uncovered { key, side, .. } => write!(f, "{key} is not on the {side} side"),
            Self::Unsteady {
                service,
                covered_for,
                steady,
            } => write!(
                f,
                "{service} is complete for {:.0} s of {:.0} s",
                covered_for.as_secs_f64(),
                steady.as_secs_f64()
            ),
            Self::Unregistered { key, side } => {
                write!(f, "the own {key} is not registered on the {side} side")
            }
            Self::Behind { participant, phase } => {
                write!(f, "process {participant} is in phase {phase}")
            }
            Self::Unmarked { key } => write!(f, "the owner of {key} doesn't migrate"),
        }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(blockers) => {
                f.write_str("somebody would lose sight of somebody: ")?;
                let mut between = "";
                for blocker in blockers {
                    write!(f, "{between}{blocker}")?;
                    between = "; ";
                }
                Ok(())
            }
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StepError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_) => None,
            Self::Failed(error) => std::error::Error::source(error),
        }
    }
}

/// For people: the phases, what differs, and the bounds of both sides.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "own phase: {}", self.plan.all)?;
        for (service, phase) in &self.plan.services {
            writeln!(f, "  {service}: {phase}")?;
        }
        for (side, (backend, bounds)) in &self.bounds {
            writeln!(f, "{side} side: {backend}, {bounds}")?;
        }
        for participant in &self.participants {
            let Participant { name, plan, sides } = participant;
            writeln!(f, "process {name}: {} (listed on {sides})", plan.all)?;
        }
        for (service, coverage) in &self.services {
            let complete = |side| match coverage.covered_for(side) {
                Some(time) => format!(
                    "complete on the {side} side for {:.0} s",
                    time.as_secs_f64()
                ),
                None => format!("not complete on the {side} side"),
            };
            let (old, new) = (complete(Side::Old), complete(Side::New));
            writeln!(
                f,
                "service {service}: {} on both sides, {old}, {new}",
                coverage.matching
            )?;
            for (key, (difference, time)) in &coverage.differences {
                writeln!(f, "  {key}: {difference} for {:.0} s", time.as_secs_f64())?;
            }
        }
        Ok(())
    }
}
