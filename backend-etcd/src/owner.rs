//! The task of one registration: brings what is desired to etcd, and keeps it there.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::KeyValue;
use tidings_api::{Generation, Instance};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::backoff::{self, Backoff};
use crate::error::Fault;
use crate::guard::{GuardEvent, WatchId};
use crate::registration::{Context, Desired, Slot, Slots};
use crate::value::{Stored, Unknown};
use crate::views::Own;
use crate::writes::Written;

mod calls;
mod looking;

use calls::Known;

/// How often a write is tried anew because somebody else wrote in between, before it waits.
const RACES_MAX: usize = 8;
/// How long a withdrawn key is remembered, so that a late word of it in a view doesn't show it.
const MEMORY: Duration = Duration::from_secs(5);
/// The same where a write may still arrive whose answer never came: a hung member may have it.
const MEMORY_UNCERTAIN: Duration = Duration::from_secs(60);

/// The task of one registration.
pub(crate) struct Owner {
    context: Arc<Context>,
    slot: Arc<Slot>,
    slots: Arc<Mutex<Slots>>,
    raw: Vec<u8>,
    /// What etcd has of this handle under the key, as far as is known.
    known: Option<Known>,
    /// What others wrote that this version doesn't know, to be kept.
    unknown: Unknown,
    /// The last generation that this handle wrote under the key.
    generation: Generation,
    is_mirror: bool,
    /// A write got no answer, and may still arrive.
    uncertain: bool,
    /// Whether what is known has to be looked at.
    doubtful: bool,
    /// The revision up to which the key's state is known.
    seen_revision: i64,
    guarded: Option<WatchId>,
    inbox: mpsc::UnboundedReceiver<GuardEvent>,
    events: mpsc::UnboundedSender<GuardEvent>,
}

/// How far one step has come.
enum Step {
    /// All is as desired.
    Settled,
    /// There is more to do.
    Again,
    /// There is no lease at present.
    NoLease,
}

/// What a registration waits for, beside a change of what is desired and of its key.
struct Wake {
    /// A lease that is another one than this.
    lease_after: Option<Option<i64>>,
    at: Option<Instant>,
}

impl Owner {
    pub(crate) fn new(context: Arc<Context>, slot: Arc<Slot>, slots: Arc<Mutex<Slots>>) -> Self {
        let (events, inbox) = mpsc::unbounded_channel();
        Self {
            raw: context.keys.of(&slot.key),
            context,
            slot,
            slots,
            known: None,
            unknown: Unknown::default(),
            generation: Generation::default(),
            is_mirror: false,
            uncertain: false,
            doubtful: false,
            seen_revision: 0,
            guarded: None,
            inbox,
            events,
        }
    }

    /// Keeps etcd as desired, until nothing is and nobody has to be reminded of it.
    pub(crate) async fn run(mut self) {
        let mut state = self.slot.state.subscribe();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            while let Ok(event) = self.inbox.try_recv() {
                self.hear(event);
            }
            let goal = state.borrow_and_update().clone();
            let version = goal.version;
            let Some(stepped) = self.step_unless_stale(&mut state, &goal).await else {
                continue;
            };
            let wake = match stepped {
                Ok(Step::Again) => continue,
                Ok(Step::Settled) => {
                    backoff.reset();
                    if goal.instance.is_none() {
                        if self.is_over(&mut state, version).await {
                            return;
                        }
                        continue;
                    }
                    Wake {
                        lease_after: self.known.as_ref().map(|known| Some(known.lease)),
                        at: None,
                    }
                }
                Ok(Step::NoLease) => Wake {
                    lease_after: Some(None),
                    at: None,
                },
                Err(fault) => self.failed(version, &fault, &mut backoff),
            };
            self.wait(&mut state, version, wake).await;
        }
    }

    /// One step towards `goal`, when etcd is there; `None` where it isn't the goal any more.
    async fn step_unless_stale(
        &mut self,
        state: &mut watch::Receiver<Desired>,
        goal: &Desired,
    ) -> Option<Result<Step, Fault>> {
        let version = goal.version;
        let is_nowhere = goal.confirmed.is_none() && self.known.is_none() && !self.uncertain;
        if goal.instance.is_some() || !is_nowhere {
            tokio::select! {
                biased;
                _ = state.wait_for(|state| state.version != version) => return None,
                () = self.context.link.connected() => {}
            }
        }
        // What is withdrawn must not arrive late; any other change can wait for its turn.
        let withdrawn =
            state.wait_for(|state| state.version != version && state.instance.is_none());
        // Boxed, so that the thousands of registrations that rest need little memory.
        let step = Box::pin(self.step(goal));
        tokio::select! {
            biased;
            stepped = step => return Some(stepped),
            _ = withdrawn => {}
        }
        self.uncertain = true;
        self.doubtful = true;
        None
    }

    /// Waits until something else is desired, something happened to the key, or `wake` says so.
    async fn wait(&mut self, state: &mut watch::Receiver<Desired>, version: u64, wake: Wake) {
        let mut lease = self.slot.lease.subscribe();
        let Wake { lease_after, at } = wake;
        tokio::select! {
            _ = state.wait_for(|state| state.version != version) => {}
            _ = lease.wait_for(|lease| lease.id.is_some() && Some(lease.id) != lease_after),
                if lease_after.is_some() => {}
            event = self.inbox.recv() => {
                if let Some(event) = event {
                    self.hear(event);
                }
            }
            () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => {}
        }
    }

    /// Whether the slot has ended, a while after its instance was withdrawn.
    async fn is_over(&mut self, state: &mut watch::Receiver<Desired>, version: u64) -> bool {
        let memory = if self.uncertain {
            MEMORY_UNCERTAIN
        } else {
            MEMORY
        };
        let end = Instant::now() + memory;
        while self.known.is_none() && !self.doubtful {
            tokio::select! {
                _ = state.wait_for(|state| state.version != version) => return false,
                event = self.inbox.recv() => {
                    if let Some(event) = event {
                        self.hear(event);
                    }
                }
                () = sleep_until(end) => {
                    if !Slots::remove(&self.slots, &self.slot, version) {
                        return false;
                    }
                    self.disarm();
                    self.context.views.forget(&self.slot.key, self.seen_revision);
                    return true;
                }
            }
        }
        false
    }

    async fn step(&mut self, goal: &Desired) -> Result<Step, Fault> {
        if goal.superseded {
            return Ok(Step::Settled);
        }
        match &goal.instance {
            Some(instance) => self.offer(goal, instance).await,
            None => self.withdraw(goal.version).await,
        }
    }

    // Offering

    async fn offer(&mut self, goal: &Desired, instance: &Arc<Instance>) -> Result<Step, Fault> {
        let Some(lease) = self.slot.lease.state().id else {
            return Ok(Step::NoLease);
        };
        if self.doubtful {
            self.look().await?;
            return Ok(Step::Again);
        }
        self.generation = instance.generation();
        self.is_mirror = instance.is_mirror();
        let value = self.value(instance, false);
        if let Some(known) = &self.known
            && known.lease == lease
            && known.value == value
        {
            self.confirm(goal.version, instance);
            return Ok(Step::Settled);
        }
        let mut expected = self.known.as_ref().map_or(0, |known| known.revision);
        for _ in 0..RACES_MAX {
            match self.put(expected, &value, lease).await? {
                Written::At(revision) => {
                    self.wrote(revision, lease, value);
                    self.confirm(goal.version, instance);
                    return Ok(Step::Settled);
                }
                // It was there, and isn't: its history tells who took it away.
                Written::Found(None) if self.known.is_some() => {
                    self.look().await?;
                    return Ok(Step::Again);
                }
                Written::Found(None) => expected = 0,
                Written::Found(Some(kv)) => {
                    if self.is_own(&kv) && kv.value() == value && kv.lease() == lease {
                        // A try whose answer got lost.
                        self.wrote(kv.mod_revision(), lease, value);
                        self.confirm(goal.version, instance);
                        return Ok(Step::Settled);
                    }
                    if self.yields_to(&kv) {
                        return Ok(Step::Again);
                    }
                    expected = kv.mod_revision();
                }
            }
        }
        let text = "others write the key all the time";
        Err(Fault::Busy(crate::error::error(
            tidings_api::ErrorKind::Unavailable,
            text,
        )))
    }

    /// Whether what stands under the key is newer than this registration, which then either stops or
    /// becomes the newest.
    fn yields_to(&mut self, kv: &KeyValue) -> bool {
        let Ok(stored) = Stored::read(&self.slot.key, kv.value()) else {
            return false;
        };
        if stored.owner.as_ref() == Some(&self.context.handle) {
            return false;
        }
        self.unknown = stored.unknown.clone();
        let is_newer = self.is_newer(&stored.instance);
        if is_newer {
            self.overtaken_by(&stored.instance);
        }
        is_newer
    }

    /// Whether what stands under the key comes before what was offered last.
    fn is_newer(&self, stored: &Instance) -> bool {
        let generation = stored.generation();
        // Other tools' entries have no generation. They give way to an owner, and not to a mirror.
        let is_foreign = generation == Generation::default();
        let before_mirror = self.is_mirror && !stored.is_mirror();
        before_mirror || (!is_foreign && generation >= self.generation)
    }

    /// A newer owner has, or had, the key.
    fn overtaken_by(&mut self, newer: &Instance) {
        let generation = newer.generation();
        let mut superseded = false;
        self.slot.state.send_modify(|state| {
            state.seen = state.seen.max(generation);
            let Some(instance) = &state.instance else {
                return;
            };
            let outranked = instance.is_mirror() && !newer.is_mirror();
            if instance.generation() > generation && !outranked {
                return;
            }
            if state.claims > 0 && !outranked {
                // The call under way is later than what it found.
                let next = instance.next_generation(generation);
                let instance = Instance::clone(instance).with_generation(next);
                state.seen = next;
                state.instance = Some(Arc::new(instance));
            } else {
                state.superseded = true;
                state.confirmed = None;
                superseded = true;
                self.context.views.set_own(&self.slot.key, None);
            }
        });
        if superseded {
            tracing::info!(key = %self.slot.key, "a newer owner has taken over");
            self.known = None;
            self.disarm();
        }
    }

    fn wrote(&mut self, revision: i64, lease: i64, value: Vec<u8>) {
        self.known = Some(Known {
            revision,
            lease,
            value,
        });
        self.seen_revision = revision;
        self.arm(revision + 1);
    }

    /// etcd has it: own watches show it, and whoever waits goes on.
    fn confirm(&self, version: u64, instance: &Arc<Instance>) {
        self.slot.state.send_if_modified(|state| {
            let is_news = state.done < version;
            state.done = state.done.max(version);
            state.confirmed = Some(instance.clone());
            if state.version == version {
                state.last_error = None;
                let own = Own::Offered(instance.clone());
                if is_news {
                    self.context.views.set_own(&self.slot.key, Some(own));
                }
            }
            is_news
        });
    }

    // Withdrawing

    /// Says in etcd that the instance has left, and deletes it.
    async fn withdraw(&mut self, version: u64) -> Result<Step, Fault> {
        if self.doubtful {
            self.look().await?;
            return Ok(Step::Again);
        }
        let was_there = self.slot.state.borrow().confirmed.clone();
        if let Some(instance) = was_there {
            self.say_left(&instance).await?;
        } else if self.known.is_some() || self.uncertain {
            self.delete_own().await?;
        }
        if self.uncertain {
            // A write that is under way yet is heard of, and deleted.
            self.arm(self.seen_revision + 1);
        }
        self.slot.state.send_modify(|state| {
            state.done = state.done.max(version);
            state.confirmed = None;
        });
        Ok(Step::Settled)
    }

    async fn say_left(&mut self, instance: &Arc<Instance>) -> Result<(), Fault> {
        let value = self.value(instance, true);
        let mut expected = self.known.as_ref().map_or(0, |known| known.revision);
        for _ in 0..RACES_MAX {
            let lease = self.slot.lease.state().id;
            let Some(lease) = lease.or(self.known.as_ref().map(|known| known.lease)) else {
                // All that hung on the lost lease is gone with it.
                self.known = None;
                return Ok(());
            };
            match self.put(expected, &value, lease).await {
                Ok(Written::At(revision)) => {
                    self.seen_revision = revision;
                    self.known = Some(Known {
                        revision,
                        lease,
                        value,
                    });
                    if self.goes_with(lease) {
                        self.known = None;
                        return Ok(());
                    }
                    return self.delete_own().await;
                }
                Ok(Written::Found(None)) => expected = 0,
                Ok(Written::Found(Some(kv))) if self.is_own(&kv) => expected = kv.mod_revision(),
                Ok(Written::Found(Some(kv))) => {
                    // Somebody else's, to be left alone.
                    self.seen_revision = kv.mod_revision() - 1;
                    self.known = None;
                    return Ok(());
                }
                Err(Fault::LeaseGone) => {
                    self.slot.lease.doubt(lease);
                    return self.delete_own().await;
                }
                Err(Fault::Full(_)) if self.goes_with(lease) => {
                    self.known = None;
                    return Ok(());
                }
                // Without a word of it, it is shown a moment longer.
                Err(Fault::Full(_)) => return self.delete_own().await,
                Err(fault) => return Err(fault),
            }
        }
        self.delete_own().await
    }

    /// Whether the key goes in a moment, with this lease.
    fn goes_with(&self, lease: i64) -> bool {
        let closing = self.context.closing.load(Ordering::Relaxed);
        closing && self.slot.lease.state().id == Some(lease)
    }

    /// Deletes what this handle has under the key, and nothing else.
    async fn delete_own(&mut self) -> Result<(), Fault> {
        for _ in 0..RACES_MAX {
            let Some(known) = &self.known else {
                let (found, revision) = self.get().await?;
                self.seen_revision = revision;
                match found.filter(|kv| self.is_own(kv)) {
                    Some(kv) => self.known = Some(Known::from(&kv)),
                    None => return Ok(()),
                }
                continue;
            };
            let expected = known.revision;
            match self.delete(expected).await {
                Ok(Written::At(revision)) => {
                    self.seen_revision = revision;
                    self.known = None;
                    return Ok(());
                }
                Ok(Written::Found(_)) => self.known = None,
                Err(Fault::Full(_)) => return self.delete_own_without_condition().await,
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// The same where there is no space for a condition either. Nobody else writes the key meanwhile:
    /// there is no space for that.
    async fn delete_own_without_condition(&mut self) -> Result<(), Fault> {
        let (found, revision) = self.get().await?;
        let is_there = found.is_some_and(|kv| self.is_own(&kv));
        self.seen_revision = match is_there {
            true => self.delete_unseen().await?,
            false => revision,
        };
        self.known = None;
        Ok(())
    }

    /// Takes in that a step failed, and says when to try again.
    fn failed(&mut self, version: u64, fault: &Fault, backoff: &mut Backoff) -> Wake {
        let error = fault.to_error();
        tracing::debug!(key = %self.slot.key, error = %error, "a registration has to wait");
        self.slot.state.send_if_modified(|state| {
            if state.version == version {
                state.last_error = Some(error);
            }
            state.version == version
        });
        let lease = self.slot.lease.state().id;
        let lease_after = match (fault, lease) {
            (Fault::LeaseGone, Some(id)) => {
                self.slot.lease.doubt(id);
                Some(lease)
            }
            _ => None,
        };
        let pause = match fault {
            // Nothing changes that soon.
            Fault::Denied(_) | Fault::Refused(_) => backoff::slow(),
            _ => backoff.next(),
        };
        Wake {
            lease_after,
            at: Some(Instant::now() + pause),
        }
    }
}
