//! Who left on purpose: a note in the node of a service.
//!
//! ZooKeeper deletes the nodes of an expired session as it deletes those of an owner that
//! deregisters; nothing tells the two apart afterwards. So whoever deregisters writes it down in the
//! same transaction, as data of the service's node, which Curator and its users leave alone; also
//! where the node of the instance went with a session before:
//!
//! ```json
//! {"tidings": {"left": [{"id": "web-1", "generation": 7}, {"owner": "9f86…", "generation": 9}]}}
//! ```
//!
//! The first form is one instance, the second all that a closed handle had registered. Two readers
//! use it: a watch that was cut off holds what vanished meanwhile unless it stands here (WAT-10),
//! and an owner that was cut off stays away where a newer one of its key has come and gone (REG-4).
//!
//! The note is bounded: the newest entries are kept. One that is forgotten costs a reader that was
//! cut off the time of its `loss_hold`, and lets an owner that was cut off offer again what a newer
//! one had taken back meanwhile. It needs no cleaning up: it goes with the node, which ZooKeeper
//! deletes once the last instance has left.
//!
//! Every note raises the version of the node. Takeovers raise it too, so that two of them, or one
//! and a deregistration, can't both be based on the same state.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidings_api::{Generation, InstanceId};

use crate::owner::Owner;

/// Most entries, and most bytes of all: small enough to be read again and again.
const ENTRIES_MAX: usize = 128;
const BYTES_MAX: usize = 16 * 1024;

/// The note of one service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Departures {
    left: Vec<Departure>,
    /// What later versions may have written, to be kept.
    rest: Map<String, Value>,
    /// And beside the member that is ours.
    others: Map<String, Value>,
}

/// Everything of this id, or of this owner, up to this generation has left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Departure {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<InstanceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
    generation: Generation,
}

impl Departures {
    /// Reads the data of a service's node, which may be anything.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let mut others: Map<String, Value> = serde_json::from_slice(bytes).unwrap_or_default();
        let mut rest = match others.remove("tidings") {
            Some(Value::Object(members)) => members,
            _ => Map::new(),
        };
        let left = match rest.remove("left") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        let left = left.into_iter();
        Self {
            left: left
                .filter_map(|item| serde_json::from_value(item).ok())
                .collect(),
            rest,
            others,
        }
    }

    pub(crate) fn encode(mut self) -> Vec<u8> {
        let excess = self.left.len().saturating_sub(ENTRIES_MAX);
        self.left.drain(..excess);
        loop {
            let bytes = self.json();
            if bytes.len() <= BYTES_MAX || self.left.is_empty() {
                return bytes;
            }
            self.left.drain(..self.left.len().div_ceil(4));
        }
    }

    /// Notes that an instance leaves.
    #[must_use]
    pub(crate) fn with_instance(self, id: &InstanceId, generation: Generation) -> Self {
        self.with(Departure {
            id: Some(id.clone()),
            owner: None,
            generation,
        })
    }

    /// Notes that a handle leaves with all it has in this service.
    #[must_use]
    pub(crate) fn with_owner(self, owner: &Owner, generation: Generation) -> Self {
        self.with(Departure {
            id: None,
            owner: Some(owner.clone()),
            generation,
        })
    }

    /// Whether an instance left on purpose.
    pub(crate) fn tell(
        &self,
        id: &InstanceId,
        owner: Option<&Owner>,
        generation: Generation,
    ) -> bool {
        self.left.iter().any(|departure| {
            let same_id = departure.id.as_ref() == Some(id);
            let same_owner = departure.owner.is_some() && departure.owner.as_ref() == owner;
            (same_id || same_owner) && generation <= departure.generation
        })
    }

    /// The generation of the newest owner of `id` that left, where the note knows one.
    pub(crate) fn newest(&self, id: &InstanceId) -> Option<Generation> {
        let of_id = self.left.iter().filter(|left| left.id.as_ref() == Some(id));
        of_id.map(|left| left.generation).max()
    }

    fn with(mut self, departure: Departure) -> Self {
        self.left
            .retain(|left| (&left.id, &left.owner) != (&departure.id, &departure.owner));
        self.left.push(departure);
        self
    }

    fn json(&self) -> Vec<u8> {
        let mut members = self.rest.clone();
        let left = serde_json::to_value(&self.left).unwrap_or_default();
        members.insert("left".into(), left);
        let mut node = self.others.clone();
        node.insert("tidings".into(), members.into());
        Value::from(node).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    fn generation(number: u64) -> Generation {
        Generation::new(number)
    }

    #[test]
    fn a_note_tells_what_left_and_nothing_newer() {
        let (left, stays) = (Owner::generate(), Owner::generate());
        let note = Departures::default()
            .with_instance(&id("a"), generation(5))
            .with_owner(&left, generation(9));
        let note = Departures::decode(&note.encode());
        assert!(note.tell(&id("a"), Some(&stays), generation(5)));
        assert!(!note.tell(&id("a"), Some(&stays), generation(6)));
        assert!(!note.tell(&id("b"), Some(&stays), generation(1)));
        assert!(note.tell(&id("b"), Some(&left), generation(9)));
        assert!(!note.tell(&id("b"), Some(&left), generation(10)));
        assert!(!note.tell(&id("b"), None, generation(1)));
        assert_eq!(note.newest(&id("a")), Some(generation(5)));
        assert_eq!(note.newest(&id("b")), None);
    }

    #[test]
    fn any_data_can_be_read_and_what_others_wrote_is_kept() {
        for data in [&b""[..], b"10.0.0.7", b"\xff", b"[]", b"{\"tidings\":[1]}"] {
            assert!(!Departures::decode(data).tell(&id("a"), None, generation(0)));
        }
        let data = br#"{"a":1,"tidings":{"later":[2],"left":[{"id":"x","generation":1},7]}}"#;
        let note = Departures::decode(data).with_instance(&id("y"), generation(2));
        let json: Value = serde_json::from_slice(&note.encode()).unwrap();
        assert_eq!(
            (&json["a"], &json["tidings"]["later"][0]),
            (&1.into(), &2.into())
        );
        assert_eq!(json["tidings"]["left"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn it_is_bounded_and_keeps_the_newest() {
        let mut note = Departures::default();
        for number in 0..1_000 {
            let name = format!("{number}{}", "x".repeat(124));
            note = note.with_instance(&id(&name), generation(number));
            note = Departures::decode(&note.encode());
        }
        let bytes = note.clone().encode();
        assert!(bytes.len() <= BYTES_MAX, "{}", bytes.len());
        let newest = format!("999{}", "x".repeat(124));
        assert!(note.tell(&id(&newest), None, generation(999)));
        assert!(!note.left.is_empty() && note.left.len() <= ENTRIES_MAX);
    }
}
