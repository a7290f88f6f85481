//! How an owner learns what happened to its key.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Known, Owner};
use crate::error::Fault;
use crate::guard::GuardEvent;
use crate::value::Stored;

/// How long the history of a key that vanished is waited for.
const HISTORY_TIME_MAX: Duration = Duration::from_secs(2);

impl Owner {
    /// Looks at the key: whether what is known is still so, and who changed it otherwise.
    pub(super) async fn look(&mut self) -> Result<(), Fault> {
        let (found, revision) = self.get().await?;
        let expected = self.known.as_ref().map(|known| known.revision);
        let mut vanished = false;
        match &found {
            Some(kv) if self.known == Some(Known::from(kv)) => {}
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
        // Not the greater one: an etcd that has lost its data counts anew.
        self.seen_revision = revision;
        if self.known.is_some() || self.uncertain {
            self.arm(revision + 1);
        }
        Ok(())
    }

    /// Reads what happened to a vanished key after `revision`, up to its deletion: a newer owner may
    /// have been there.
    pub(super) async fn read_history(&mut self, revision: i64) {
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
    pub(super) fn hear(&mut self, event: GuardEvent) {
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
                let owner = stored
                    .as_ref()
                    .ok()
                    .and_then(|stored| stored.owner.as_ref());
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
                    if self.is_newer(&stored.instance) {
                        self.overtaken_by(&stored.instance);
                    }
                }
            }
            GuardEvent::Deleted { .. } | GuardEvent::Put { .. } => {}
        }
    }

    /// etcd hasn't got it any more.
    pub(super) fn lost(&mut self) {
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

    /// Hears of the key from a revision on, unless it is heard of already.
    pub(super) fn arm(&mut self, from_revision: i64) {
        if self.guarded.is_none() {
            let guard = &self.context.guard;
            let id = guard.arm(self.raw.clone(), from_revision, self.events.clone());
            self.guarded = Some(id);
        }
    }

    pub(super) fn disarm(&mut self) {
        if let Some(id) = self.guarded.take() {
            self.context.guard.disarm(id);
        }
    }
}
