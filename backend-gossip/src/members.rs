//! The member table as an application sees it change.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidings_api::{Error, Result};
use tokio::sync::watch;

use crate::BACKEND;
use crate::engine::{Engine, MemberInfo, MemberState};

/// Watches the members: who joins, is suspected, dies, leaves, comes back.
///
/// Like a [`Watch`](tidings_api::Watch) of instances it holds the newest state and merges what
/// happens between two looks: a slow reader sees fewer changes, never a wrong last one, and slows
/// nobody. Cloning gives an independent reader.
#[derive(Clone, Debug)]
pub struct MemberWatch {
    table: watch::Receiver<Table>,
    /// The members this reader was told of, by name.
    told: BTreeMap<Arc<str>, MemberInfo>,
}

/// A change of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberChange {
    /// As it is now; a [dead](MemberState::Dead) one that has been forgotten, as it was last.
    pub member: MemberInfo,
    /// Its state before; `None` for one that is new, or came back as a new start of its name.
    pub before: Option<MemberState>,
}

type Table = Arc<[MemberInfo]>;

impl MemberWatch {
    /// All members now, the own one included, dead ones for a while. Round trips are those of the
    /// last change of any member.
    #[must_use]
    pub fn members(&self) -> Arc<[MemberInfo]> {
        self.table.borrow().clone()
    }

    /// Waits for changes since the last call, and returns them; at first everybody that is there.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`Closed`](tidings_api::ErrorKind::Closed) once the handle is closed and every change read.
    pub async fn changes(&mut self) -> Result<Vec<MemberChange>> {
        loop {
            let table = self.table.borrow_and_update().clone();
            let changes = changes(&mut self.told, &table);
            if !changes.is_empty() {
                return Ok(changes);
            }
            let ended = self.table.changed().await;
            ended.map_err(|_| Error::closed().with_backend(BACKEND))?;
        }
    }
}

/// What differs from what was told, which is brought up to date.
fn changes(told: &mut BTreeMap<Arc<str>, MemberInfo>, table: &[MemberInfo]) -> Vec<MemberChange> {
    let mut before = std::mem::take(told);
    let mut changes = Vec::new();
    for member in table {
        let name = member.identity.name.clone();
        let old = before.remove(&name);
        let same_start = old.filter(|old| old.identity == member.identity);
        let state = same_start.map(|old| old.state);
        if state != Some(member.state) {
            changes.push(MemberChange {
                member: member.clone(),
                before: state,
            });
        }
        told.insert(name, member.clone());
    }
    // Only who is dead or has left is forgotten; but the reader may have missed that.
    for mut member in before.into_values() {
        let present = member.state <= MemberState::Suspect;
        let last = std::mem::replace(&mut member.state, MemberState::Dead);
        if present {
            changes.push(MemberChange {
                member,
                before: Some(last),
            });
        }
    }
    changes
}

/// The driver's side of all [`MemberWatch`]es.
#[derive(Debug)]
pub(crate) struct MemberTable {
    /// Empty until the first watch.
    table: watch::Sender<Table>,
    changed: bool,
}

impl MemberTable {
    pub(crate) fn new() -> Self {
        Self {
            table: watch::Sender::new(Arc::new([])),
            changed: false,
        }
    }

    /// A watch that shows everybody.
    pub(crate) fn watch(&mut self, engine: &Engine) -> MemberWatch {
        self.changed = true;
        let table = self.table.subscribe();
        self.publish(engine);
        MemberWatch {
            table,
            told: BTreeMap::new(),
        }
    }

    /// Notes that a member has changed.
    pub(crate) fn changed(&mut self) {
        self.changed = true;
    }

    /// Shows what was noted, where anybody looks.
    pub(crate) fn publish(&mut self, engine: &Engine) {
        if std::mem::take(&mut self.changed) && self.table.receiver_count() > 0 {
            self.table.send_replace(engine.members().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Features;
    use crate::engine::Identity;
    use tidings_api::Generation;

    fn member(name: &str, generation: u64, state: MemberState) -> MemberInfo {
        MemberInfo {
            identity: Identity {
                name: name.into(),
                generation: Generation::new(generation),
                address: ([127, 0, 0, 1], 7946).into(),
            },
            state,
            incarnation: 0,
            round_trip: None,
            features: Features::NONE,
        }
    }

    #[test]
    fn a_reader_is_told_what_differs_from_what_it_was_told() {
        use MemberState::{Alive, Dead, Left, Suspect};
        let mut told = BTreeMap::new();
        let mut next = |table: &[MemberInfo]| -> Vec<_> {
            let changes = changes(&mut told, table);
            let shown = |change: MemberChange| {
                let name = change.member.identity.name.to_string();
                (name, change.before, change.member.state)
            };
            changes.into_iter().map(shown).collect()
        };
        let name = String::from;
        let both = [member("a", 1, Alive), member("b", 1, Alive)];
        let new = [(name("a"), None, Alive), (name("b"), None, Alive)];
        assert_eq!(next(&both), new);
        assert_eq!(next(&both), []);
        let suspected = [member("a", 1, Alive), member("b", 1, Suspect)];
        assert_eq!(next(&suspected), [(name("b"), Some(Alive), Suspect)]);
        // A start of the same name is a new one; who is forgotten had died.
        let restarted = [member("b", 2, Alive)];
        let expected = [(name("b"), None, Alive), (name("a"), Some(Alive), Dead)];
        assert_eq!(next(&restarted), expected);
        let left = [member("b", 2, Left)];
        assert_eq!(next(&left), [(name("b"), Some(Alive), Left)]);
        assert_eq!(next(&[]), []);
    }
}
