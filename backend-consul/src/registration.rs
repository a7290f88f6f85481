//! One own registration: the task that brings it to the agent and keeps it there.
//!
//! An instance with one generation is one service of the agent, and one task has it for itself. The
//! task is told a [`Goal`] and does one thing after the other, so that nothing it does can bring
//! back what was withdrawn (REG-4); another generation is another service, with a task of its own.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidings_api::{Error, Generation, Health, Instance, InstanceKey, Result};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::Shared;
use crate::backoff::{Backoff, jittered};
use crate::entry::{alive_update, definition, health_update};
use crate::error::is_final;
use crate::keys;
use crate::pulse::Beat;

/// How many times the agent is told within a TTL that the owner lives.
pub(crate) const REPORTS_PER_TTL: u32 = 3;
/// Longest pause between two tries.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long withdrawing is tried beyond the time in which Consul clears the service by itself.
const WITHDRAW_TIME_EXTRA: Duration = Duration::from_secs(120);
/// When a withdrawal is repeated whose registration may still be under way, for example in an agent
/// that was paused: then, and after a TTL once more.
const WITHDRAW_AGAIN: Duration = Duration::from_secs(1);

/// What a task is to bring about.
#[derive(Clone, Debug)]
pub(crate) enum Goal {
    /// The agent has this, by its revision.
    Offer(Arc<Instance>, u64),
    /// The agent doesn't have it.
    Withdraw,
}

/// How far a task has come.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// The newest revision that was tried.
    tried: u64,
    /// The agent refused it at the first try, and the task has ended.
    refusal: Option<Error>,
    /// How the newest try to withdraw has ended.
    withdrawn: Option<Result<()>>,
}

impl Progress {
    fn withdrawal(&self) -> Result<()> {
        self.withdrawn.clone().unwrap_or(Ok(()))
    }
}

/// What the rest of a handle has of a task.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    goal: Arc<watch::Sender<Goal>>,
    nudge: Arc<Notify>,
    progress: watch::Receiver<Progress>,
    outcome: Arc<OnceLock<Outcome>>,
}

/// What has become of a new offer, decided once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It stands, whatever the agent says from now on.
    Accepted,
    /// The agent has refused it, and whoever made it is told so.
    Refused,
}

impl Remote {
    pub(crate) fn set(&self, goal: Goal) {
        self.goal.send_replace(goal);
    }

    /// Has the offer brought again, at once.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Waits until a revision was tried.
    ///
    /// # Errors
    /// Where the agent refused it, or the handle was closed meanwhile.
    pub(crate) async fn tried(&self, revision: u64) -> Result<()> {
        let mut progress = self.progress.clone();
        let reached = progress
            .wait_for(|p| p.tried >= revision || p.refusal.is_some() || p.withdrawn.is_some())
            .await
            .map_err(|_| Error::closed())?;
        reached.refusal.clone().map_or(Ok(()), Err)
    }

    /// Has the offer stand, as nobody waits any more who would be told of a refusal.
    ///
    /// # Errors
    /// Where the agent has refused it before.
    pub(crate) async fn accept(&self, revision: u64) -> Result<()> {
        match self.outcome.get_or_init(|| Outcome::Accepted) {
            Outcome::Accepted => Ok(()),
            Outcome::Refused => self.tried(revision).await,
        }
    }

    /// Waits until withdrawing was tried once, and says how that has ended.
    pub(crate) async fn withdrawn(&self) -> Result<()> {
        let mut progress = self.progress.clone();
        let done = |p: &Progress| p.withdrawn.is_some() || p.refusal.is_some();
        match progress.wait_for(done).await {
            Ok(reached) => reached.withdrawal(),
            // Ended with the handle.
            Err(_) => Ok(()),
        }
    }

    /// Waits until the agent doesn't have it any more, or will not let it go.
    pub(crate) async fn gone(&self) -> Result<()> {
        let mut progress = self.progress.clone();
        let settled = |result: &Result<()>| result.as_ref().map_or_else(is_final, |()| true);
        let done = |p: &Progress| p.refusal.is_some() || p.withdrawn.as_ref().is_some_and(settled);
        match progress.wait_for(done).await {
            Ok(reached) => reached.withdrawal(),
            // Ended with the handle.
            Err(_) => Ok(()),
        }
    }

    /// How the newest try to withdraw has ended, if there was one.
    pub(crate) fn withdrawal(&self) -> Result<()> {
        self.progress.borrow().withdrawal()
    }
}

/// The task.
pub(crate) struct Registrar {
    shared: Arc<Shared>,
    key: InstanceKey,
    generation: Generation,
    service_id: String,
    goal: watch::Receiver<Goal>,
    nudge: Arc<Notify>,
    progress: watch::Sender<Progress>,
    /// A refusal ends the task as long as the offer wasn't accepted.
    outcome: Arc<OnceLock<Outcome>>,
    /// The health that the agent was told; none before the first registration.
    told: Option<Health>,
    /// Something has failed since the agent was last told everything.
    unwell: bool,
    /// A registration may still be under way, as its answer never came.
    uncertain: bool,
}

impl Registrar {
    /// A task for a new offer, and how it is reached. It may be refused where somebody waits to
    /// hear it.
    pub(crate) fn new(
        shared: Arc<Shared>,
        instance: Arc<Instance>,
        revision: u64,
        may_be_refused: bool,
    ) -> (Self, Remote) {
        let (key, generation) = (instance.key().clone(), instance.generation());
        let (goal_sender, goal) = watch::channel(Goal::Offer(instance, revision));
        let (progress, progress_receiver) = watch::channel(Progress::default());
        let nudge = Arc::new(Notify::new());
        let outcome = match may_be_refused {
            true => OnceLock::new(),
            false => OnceLock::from(Outcome::Accepted),
        };
        let outcome = Arc::new(outcome);
        let remote = Remote {
            goal: Arc::new(goal_sender),
            nudge: nudge.clone(),
            progress: progress_receiver,
            outcome: outcome.clone(),
        };
        let registrar = Self {
            service_id: keys::service_id(&key, generation),
            shared,
            key,
            generation,
            goal,
            nudge,
            progress,
            outcome,
            told: None,
            unwell: false,
            uncertain: false,
        };
        (registrar, remote)
    }

    pub(crate) async fn run(mut self) {
        let mut changes = self.shared.pulse.changes();
        let mut backoff = Backoff::new(RETRY_MAX.min(self.interval()));
        // The revision that the agent has: only a sign of life is due then.
        let mut brought = None;
        // A try that came too late may be carried out after the next one, so that is repeated.
        let mut repeat = false;
        loop {
            let goal = self.goal.borrow_and_update().clone();
            let Goal::Offer(instance, revision) = goal else {
                return self.withdraw().await;
            };
            changes.mark_unchanged();
            let report_only = brought == Some(revision);
            let result = if report_only {
                self.report_alive().await
            } else {
                self.put_unless_withdrawn(&instance, revision).await
            };
            let pause = match result {
                Ok(true) => {
                    backoff.reset();
                    self.unwell = false;
                    self.shared
                        .state()
                        .registered(&self.key, self.generation, revision);
                    self.told(revision);
                    if !std::mem::take(&mut repeat) {
                        brought = Some(revision);
                    }
                    jittered(self.interval())
                }
                Ok(false) => {
                    debug!(key = %self.key, "the agent has lost a registration");
                    self.shared.state().vanished(&self.key, self.generation);
                    self.unwell = true;
                    brought = None;
                    backoff.next()
                }
                Err(error) => {
                    if self.is_refused(&error) {
                        return self.refused(error);
                    }
                    // An agent that is overloaded is not to be told everything again: it still
                    // has it, or says that it hasn't.
                    repeat |= !report_only;
                    self.failed(error, revision);
                    backoff.next()
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.goal.changed() => {}
                () = self.nudge.notified() => {
                    self.unwell = true;
                    brought = None;
                }
                () = recovered(&mut changes), if self.unwell => {}
            }
        }
    }

    /// Tells the agent everything, unless that is to be withdrawn meanwhile. False if the agent has
    /// lost it again.
    async fn put_unless_withdrawn(&mut self, instance: &Instance, revision: u64) -> Result<bool> {
        let mut goal = self.goal.clone();
        tokio::select! {
            biased;
            result = self.put(instance, revision) => result,
            _ = goal.wait_for(|goal| matches!(goal, Goal::Withdraw)) => {
                self.uncertain = true;
                Ok(true)
            }
        }
    }

    async fn put(&mut self, instance: &Instance, revision: u64) -> Result<bool> {
        let shared = self.shared.clone();
        let api = &shared.api;
        let definition = definition(instance, revision, &shared.config);
        let health_check = keys::health_check(&self.service_id);
        let health = instance.health();
        let update = health_update(health);
        // The agent passes a new output on at once only together with something else, so the
        // report comes first. A check that it doesn't know yet starts with the registration.
        let mut reported = self.told.as_ref() == Some(health) && !self.unwell;
        if !reported && (self.told.is_some() || self.unwell) {
            reported = api.update_check(&health_check, &update).await?;
        }
        api.register(&definition).await?;
        self.accept();
        if !reported {
            // Also where it says nothing new: an agent that starts again has what was reported, and
            // takes a check for critical that never was.
            api.update_check(&health_check, &update).await?;
            if !update.output.is_empty() {
                api.register(&definition).await?;
            }
        }
        if self.unwell && !self.report_alive().await? {
            return Ok(false);
        }
        self.told = Some(health.clone());
        self.unwell = false;
        Ok(true)
    }

    /// Tells the agent that the owner lives. False if it doesn't know the registration.
    async fn report_alive(&self) -> Result<bool> {
        let check = keys::alive_check(&self.service_id);
        self.shared.api.update_check(&check, &alive_update()).await
    }

    /// The offer stands: the agent has it, or whoever made it goes on as if it had.
    fn accept(&self) {
        self.outcome.get_or_init(|| Outcome::Accepted);
    }

    fn is_refused(&self, error: &Error) -> bool {
        is_final(error) && *self.outcome.get_or_init(|| Outcome::Refused) == Outcome::Refused
    }

    fn refused(&self, error: Error) {
        self.shared.state().refused(&self.key, self.generation);
        self.progress.send_modify(|p| p.refusal = Some(error));
    }

    fn failed(&mut self, error: Error, revision: u64) {
        if is_final(&error) && !self.unwell {
            warn!(key = %self.key, %error, "the agent refuses a registration; it is tried again");
        } else {
            debug!(key = %self.key, %error, "a registration has to wait");
        }
        self.accept();
        self.unwell = true;
        self.uncertain = true;
        self.shared.pulse.ask();
        self.shared
            .state()
            .failed(&self.key, self.generation, error);
        self.told(revision);
    }

    fn told(&self, revision: u64) {
        self.progress.send_if_modified(|p| {
            let newer = p.tried < revision;
            p.tried = p.tried.max(revision);
            newer
        });
    }

    async fn withdraw(mut self) {
        let mut changes = self.shared.pulse.changes();
        let mut backoff = Backoff::new(RETRY_MAX.min(self.interval()));
        let config = &self.shared.config;
        let time = config.ttl + config.deregister_after + WITHDRAW_TIME_EXTRA;
        let withdrawn = tokio::time::timeout(time, async {
            loop {
                changes.mark_unchanged();
                let result = self.shared.api.deregister(&self.service_id).await;
                let result = result.map(|_was_there| ());
                self.progress
                    .send_modify(|p| p.withdrawn = Some(result.clone()));
                let Err(error) = result else { return };
                debug!(key = %self.key, %error, "a withdrawal has to wait");
                self.uncertain = true;
                self.shared.pulse.ask();
                tokio::select! {
                    () = sleep(backoff.next()) => {}
                    () = recovered(&mut changes) => {}
                }
            }
        });
        if withdrawn.await.is_err() {
            warn!(key = %self.key, "could not be withdrawn; consul clears it by itself");
        } else if self.uncertain {
            for pause in [WITHDRAW_AGAIN, config.ttl] {
                sleep(pause).await;
                // Failing again, it expires.
                let _ = self.shared.api.deregister(&self.service_id).await;
            }
        }
        self.shared.state().withdrawn(&self.key, self.generation);
    }

    fn interval(&self) -> Duration {
        self.shared.config.ttl / REPORTS_PER_TTL
    }
}

/// Waits until Consul is heard again.
async fn recovered(changes: &mut watch::Receiver<Beat>) {
    let mut heard = changes.borrow().connection.is_connected();
    loop {
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
        let now = changes.borrow_and_update().connection.is_connected();
        if now && !heard {
            return;
        }
        heard = now;
    }
}
