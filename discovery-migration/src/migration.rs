//! The handle that applications use.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{
    Discovery, Health, Instance, InstanceId, InstanceKey, Removal, Result, Selector, Status, Watch,
};

use crate::inner::Inner;
use crate::sides::{Backend, Handles};
use crate::walk::{Course, walk};
use crate::{Phase, Plan, Side, Sides, gauges};

/// How long a full match has to last before reads are switched: [`Builder::steady`].
const STEADY_DEFAULT: Duration = Duration::from_secs(60);

/// A [`Discovery`] made of two: what is registered is registered in both backends, what is watched
/// is the union of both, as far as the [`Phase`] says.
///
/// It is used like any backend. What it has beyond that: the phase can be
/// [changed](Self::set_phase) while it runs, and it [reports](Self::report) how far everybody is.
///
/// Dropping it without `close` acts like a crash, on both sides.
pub struct Migration {
    pub(crate) inner: Arc<Inner>,
}

/// What a [`Migration`] is started with.
#[derive(Debug)]
pub struct Builder {
    old: Backend,
    new: Backend,
    plan: Plan,
    course: Option<Course>,
    name: Option<InstanceId>,
    steady: Duration,
}

impl Migration {
    /// A move from `old` to `new`: two handles that run, or two [`Backend`]s that are started when
    /// the phase needs them.
    pub fn builder(old: impl Into<Backend>, new: impl Into<Backend>) -> Builder {
        Builder {
            old: old.into(),
            new: new.into(),
            plan: Plan::default(),
            course: None,
            name: None,
            steady: STEADY_DEFAULT,
        }
    }

    /// The phase of each service.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.inner.plan()
    }

    /// How one side is doing by itself; `None` while no phase needs it.
    #[must_use]
    pub fn side(&self, side: Side) -> Option<Status> {
        self.inner.handles.get(side).map(|handle| handle.status())
    }

    /// Which sides list an instance; `None` for an instance of a service that this handle neither
    /// watches nor offers.
    #[must_use]
    pub fn provenance(&self, key: &InstanceKey) -> Option<Sides> {
        let topics = self.inner.topics();
        let mut selecting = topics.values().filter(|topic| topic.selector.selects(key));
        let topic = selecting.next()?;
        Some(topic.look(|merge, _| merge.listed(key)))
    }

    /// Number of selectors that applications watch.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.inner.publisher.feeds()
    }
}

impl Builder {
    /// The phase to start in, for all services. Default: [`Phase::Old`].
    #[must_use]
    pub fn phase(mut self, phase: Phase) -> Self {
        self.plan.all = phase;
        self
    }

    /// Goes to `phase` by itself, as the gates open; starts where nobody loses sight of anybody. For
    /// a process that is restarted into a later phase than [`Phase::BothReadMerged`].
    #[must_use]
    pub fn toward(mut self, phase: Phase) -> Self {
        (self.plan.all, self.course) = match phase {
            Phase::Old | Phase::BothReadOld | Phase::BothReadMerged => (phase, None),
            Phase::BothReadNew | Phase::New => (Phase::BothReadMerged, Some(Course::To(phase))),
        };
        self
    }

    /// Goes to [`Phase::New`] by itself, as the gates open, beginning with
    /// [`Phase::BothReadMerged`]; and back to that while the new side is silent.
    ///
    /// It begins there because a process that is restarted can't know how far the others are: it
    /// would miss those that have left the old side already if it read that alone.
    #[must_use]
    pub fn automatic(mut self) -> Self {
        self.plan.all = Phase::BothReadMerged;
        self.course = Some(Course::Automatic);
        self
    }

    /// The phases to start in, where services differ.
    #[must_use]
    pub fn plan(mut self, plan: Plan) -> Self {
        self.plan = plan;
        self
    }

    /// The name of this process in reports. Default: a generated one.
    #[must_use]
    pub fn name(mut self, name: InstanceId) -> Self {
        self.name = Some(name);
        self
    }

    /// How long both sides have to match before reads leave one of them. Default: 1 min. Too short,
    /// and what is late on one side (a process that just starts) is missed; longer only takes
    /// longer.
    #[must_use]
    pub fn steady(mut self, steady: Duration) -> Self {
        self.steady = steady;
        self
    }

    /// Starts the backends that the phase needs. It doesn't wait for their servers.
    ///
    /// # Errors
    /// What a backend needs of this machine and doesn't get, or its configuration.
    pub async fn start(self) -> Result<Migration> {
        let sides = self.plan.sides();
        let id = self.name.unwrap_or_else(InstanceId::generate);
        let handles = Handles::new(self.old, self.new);
        let inner = Arc::new(Inner::new(handles, self.plan, id, self.steady));
        let migration = Migration { inner };
        for side in sides.iter() {
            let started = migration.inner.handles.start(side).await;
            started
                .map_err(|error| migration.inner.on_side(side, error).with_operation("start"))?;
        }
        let participant = migration.inner.participant_in(&migration.plan())?;
        migration.inner.participate(&participant)?;
        let inner = Arc::downgrade(&migration.inner);
        migration.inner.tasks.spawn(gauges::tell(inner));
        if let Some(course) = self.course {
            let inner = Arc::downgrade(&migration.inner);
            migration.inner.tasks.spawn(walk(inner, course));
        }
        Ok(migration)
    }
}

#[async_trait]
impl Discovery for Migration {
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        self.inner.register(instance).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        self.inner.deregister(key).await
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        self.inner.watch(selector).await
    }

    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        self.inner.health(key, health).await
    }

    fn status(&self) -> Status {
        self.inner.status()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

impl Drop for Migration {
    fn drop(&mut self) {
        self.inner.tasks.abort();
        self.inner.publisher.close();
    }
}

impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migration")
            .field("plan", &self.plan())
            .field("old", &self.side(Side::Old))
            .field("new", &self.side(Side::New))
            .finish_non_exhaustive()
    }
}
