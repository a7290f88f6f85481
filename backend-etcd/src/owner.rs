//! The task of one registration: brings what is desired to etcd, and keeps it there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tidings_api::{Generation, Instance};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::backoff::Backoff;
use crate::error::Fault;
use crate::guard::{GuardEvent, WatchId};
use crate::registration::{Context, Desired, Slot, Slots};
use crate::value::{Stored, Unknown};
use crate::views::Own;

/// How often a write is tried anew because somebody else wrote in between, before it waits.
const RACES_MAX: usize = 8;
/// How long a withdrawn key is remembered, so that a late word of it in a view doesn't show it.
const MEMORY: Duration = Duration::from_secs(5);
/// The same where a write may still arrive whose answer never came: a hung member may have it.
const MEMORY_UNCERTAIN: Duration = Duration::from_secs(60);
/// How long the history of a key that vanished is waited for.
const HISTORY_TIME_MAX: Duration = Duration::from_secs(2);

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

/// One value of this handle in etcd.
#[derive(Debug, PartialEq)]
struct Known {
    revision: i64,
    lease: i64,
    value: Vec<u8>,
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

/// What a transaction on the key answered.
enum Written {
    /// It is written, at this revision.
    At(i64),
    /// Nothing is written: this stands there.
    Found(Option<KeyValue>),
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
            let stepped = match self.step_unless_stale(&mut state, &goal).await {
                Some(stepped) => stepped,
                None => continue,
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
        let withdrawn = state.wait_for(|state| state.version != version && state.instance.is_none());
        tokio::select! {
            biased;
            stepped = self.step(goal) => return Some(stepped),
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
        let memory = if self.uncertain { MEMORY_UNCERTAIN } else { MEMORY };
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
            match self.write(expected, &value, lease).await? {
                Written::At(revision) => {
                    self.wrote(revision, lease, value);
                    self.confirm(goal.version, instance);
                    return Ok(Step::Again);
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
                        return Ok(Step::Again);
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
        let generation = stored.generation();
        generation >= self.generation && generation > Generation::default() && {
            self.overtaken_by(generation);
            true
        }
    }

    /// A newer owner has, or had, the key.
    fn overtaken_by(&mut self, generation: Generation) {
        let mut superseded = false;
        self.slot.state.send_modify(|state| {
            state.seen = state.seen.max(generation);
            let Some(instance) = &state.instance else {
                return;
            };
            if instance.generation() > generation {
                return;
            }
            if state.claims > 0 {
                // The call under way is later than what it found.
                let next = Generation::after(generation);
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
            match self.write(expected, &value, lease).await {
                Ok(Written::At(revision)) => {
                    self.seen_revision = revision;
                    self.known = Some(Known {
                        revision,
                        lease,
                        value,
                    });
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
                Err(fault) => return Err(fault),
            }
        }
        self.delete_own().await
    }

    /// Deletes what this handle has under the key, and nothing else.
    async fn delete_own(&mut self) -> Result<(), Fault> {
        for _ in 0..RACES_MAX {
            let Some(known) = &self.known else {
                let Some(kv) = self.get().await?.0.filter(|kv| self.is_own(kv)) else {
                    return Ok(());
                };
                self.known = Some(Known::from(&kv));
                continue;
            };
            let expected = known.revision;
            let raw = self.raw.clone();
            let delete = TxnOp::delete(raw, None);
            match self.transaction(expected, delete).await? {
                Written::At(revision) => {
                    self.seen_revision = revision;
                    self.known = None;
                    return Ok(());
                }
                Written::Found(_) => self.known = None,
            }
        }
        Ok(())
    }

    // Looking

    /// Looks at the key: whether what is known is still so, and who changed it otherwise.
    async fn look(&mut self) -> Result<(), Fault> {
        let (found, revision) = self.get().await?;
        let expected = self.known.as_ref().map(|known| known.revision);
        let mut vanished = false;
        match &found {
            Some(kv) if Some(kv.mod_revision()) == expected => {}
            Some(kv) if self.is_own(kv) => self.known = Some(Known::from(kv)),
            Some(kv) => {
                self.known = None;
                self.yields_to(kv);
            }
            None => vanished = self.known.is_some(),
        }
        if let Some(expected) = expected.filter(|_| vanished) {
            if expected <= revision {
                self.read_history(expected).await;
            }
            self.lost();
        }
        self.doubtful = false;
        self.seen_revision = self.seen_revision.max(revision);
        if self.known.is_some() && self.guarded.is_none() {
            self.arm(revision + 1);
        }
        Ok(())
    }

    /// Reads what happened to a vanished key after `revision`, up to its deletion: a newer owner may
    /// have been there.
    async fn read_history(&mut self, revision: i64) {
        self.disarm();
        self.arm(revision + 1);
        let limit = Instant::now() + HISTORY_TIME_MAX;
        while let Ok(Some(event)) = timeout_at(limit, self.inbox.recv()).await {
            let is_last = matches!(event, GuardEvent::Deleted { .. } | GuardEvent::Broken);
            self.hear(event);
            if is_last {
                break;
            }
        }
        // What came with the deletion is in the inbox already.
        while let Ok(event) = self.inbox.try_recv() {
            self.hear(event);
        }
        self.disarm();
    }

    /// Takes in what happened to the key.
    fn hear(&mut self, event: GuardEvent) {
        match event {
            GuardEvent::Broken => {
                self.guarded = None;
                self.doubtful = true;
            }
            GuardEvent::Deleted { revision } if revision > self.seen_revision => {
                self.seen_revision = revision;
                self.lost();
            }
            GuardEvent::Put {
                revision,
                lease,
                value,
            } if revision > self.seen_revision => {
                self.seen_revision = revision;
                let stored = Stored::read(&self.slot.key, &value);
                let owner = stored.as_ref().ok().and_then(|stored| stored.owner.as_ref());
                if owner == Some(&self.context.handle) {
                    self.known = Some(Known {
                        revision,
                        lease,
                        value,
                    });
                    return;
                }
                self.lost();
                if let Ok(stored) = stored {
                    self.unknown = stored.unknown.clone();
                    if stored.generation() >= self.generation {
                        self.overtaken_by(stored.generation());
                    }
                }
            }
            GuardEvent::Deleted { .. } | GuardEvent::Put { .. } => {}
        }
    }

    /// etcd hasn't got it any more.
    fn lost(&mut self) {
        self.known = None;
        self.slot.state.send_if_modified(|state| {
            if state.instance.is_none() || state.done < state.version {
                return false;
            }
            // The present version is to be brought there again, and `done` never goes back.
            state.version += 1;
            state.pending_since = Instant::now();
            true
        });
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
            Fault::Denied(_) | Fault::Refused(_) => Duration::from_secs(5),
            _ => backoff.next(),
        };
        Wake {
            lease_after,
            at: Some(Instant::now() + pause),
        }
    }

    // Calls

    async fn write(&mut self, expected: i64, value: &[u8], lease: i64) -> Result<Written, Fault> {
        let options = PutOptions::new().with_lease(lease);
        let put = TxnOp::put(self.raw.clone(), value, Some(options));
        self.transaction(expected, put).await
    }

    /// Does `operation` if the key was last written at revision `expected` (0: if it isn't there),
    /// and reads it otherwise. It may arrive more than once: the second time it only reads.
    async fn transaction(&mut self, expected: i64, operation: TxnOp) -> Result<Written, Fault> {
        let raw = &self.raw;
        let unchanged = Compare::mod_revision(raw.clone(), CompareOp::Equal, expected);
        let txn = Txn::new()
            .when([unchanged])
            .and_then([operation])
            .or_else([TxnOp::get(raw.clone(), None)]);
        let _permit = self.context.writes.acquire().await;
        let sent = Instant::now();
        let answer = self
            .context
            .link
            .call(|mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await;
        // Some try may have got no answer, though the last one did.
        self.uncertain |= sent.elapsed() >= self.context.link.timing().answer
            || matches!(answer, Err(Fault::Unreachable(_)));
        Ok(Written::from(answer?))
    }

    /// What stands under the key, and at which revision that was read.
    async fn get(&self) -> Result<(Option<KeyValue>, i64), Fault> {
        let _permit = self.context.writes.acquire().await;
        let raw = &self.raw;
        let mut answer = self
            .context
            .link
            .call(|mut client| {
                let raw = raw.clone();
                async move { client.get(raw, None).await }
            })
            .await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok((answer.take_kvs().pop(), revision))
    }

    // Helpers

    fn value(&self, instance: &Arc<Instance>, left: bool) -> Vec<u8> {
        let stored = Stored {
            instance: Instance::clone(instance),
            owner: Some(self.context.handle.clone()),
            left,
            unknown: self.unknown.clone(),
        };
        stored.write()
    }

    fn is_own(&self, kv: &KeyValue) -> bool {
        Stored::read(&self.slot.key, kv.value())
            .is_ok_and(|stored| stored.owner.as_ref() == Some(&self.context.handle))
    }

    /// Hears of the key from a revision on, unless it is heard of already.
    fn arm(&mut self, from_revision: i64) {
        if self.guarded.is_none() {
            let guard = &self.context.guard;
            let id = guard.arm(self.raw.clone(), from_revision, self.events.clone());
            self.guarded = Some(id);
        }
    }

    fn disarm(&mut self) {
        if let Some(id) = self.guarded.take() {
            self.context.guard.disarm(id);
        }
    }
}

impl From<&KeyValue> for Known {
    fn from(kv: &KeyValue) -> Self {
        Self {
            revision: kv.mod_revision(),
            lease: kv.lease(),
            value: kv.value().to_vec(),
        }
    }
}

impl From<TxnResponse> for Written {
    fn from(answer: TxnResponse) -> Self {
        if answer.succeeded() {
            let header = answer.header();
            return Self::At(header.map_or(0, etcd_client::ResponseHeader::revision));
        }
        let found = answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(mut get) => get.take_kvs().pop(),
            _ => None,
        });
        Self::Found(found)
    }
}
