//! Instances that cases register, and how views are shown in a failure.

use std::fmt::Debug;
use std::sync::Arc;

use tidings_api::{Change, Health, Instance, InstanceKey, View};

/// The service most cases use; each has its namespace for itself.
pub(crate) const WEB: &str = "web";

/// Ids that start so mark the end of a window, and are left out of what is compared.
pub(crate) const MARKER: &str = "marker-";
/// Metadata key of the number that tells one content of an instance from another.
const NUMBER: &str = "n";

/// An instance of [`WEB`] whose content is told by a number.
pub(crate) fn web(id: &str, number: usize) -> Instance {
    instance(WEB, id, number)
}

/// An instance whose content is told by a number.
pub(crate) fn instance(service: &str, id: &str, number: usize) -> Instance {
    Instance::new(service, "192.0.2.1:8080")
        .and_then(|instance| instance.with_id(id))
        .and_then(|instance| instance.with_metadata(NUMBER, number.to_string()))
        .expect("names in cases are within LIM-1")
}

pub(crate) fn key(service: &str, id: &str) -> InstanceKey {
    instance(service, id, 0).key().clone()
}

/// The number that tells the content.
pub(crate) fn number(instance: &Instance) -> Option<usize> {
    instance.metadata().get(NUMBER)?.parse().ok()
}

/// The number of the instance with this id, in a view of one service.
pub(crate) fn number_in(view: &View, id: &str) -> Option<usize> {
    let found = view.iter().find(|instance| instance.id().as_str() == id)?;
    number(found)
}

/// Whether both say the same; the generation is the backend's.
pub(crate) fn same_content(a: &Instance, b: &Instance) -> bool {
    a.clone().with_generation(b.generation()) == *b
}

/// What differs, by field; empty where both say the same.
pub(crate) fn differences(seen: &Instance, expected: &Instance) -> Vec<String> {
    let mut fields = Vec::new();
    let mut field = |name: &str, differs: bool, seen: &dyn Debug, expected: &dyn Debug| {
        if differs {
            fields.push(format!("{name} is {seen:?} instead of {expected:?}"));
        }
    };
    let (a, b) = (seen, expected);
    field("key", a.key() != b.key(), a.key(), b.key());
    field(
        "address",
        a.address() != b.address(),
        a.address(),
        b.address(),
    );
    field("ports", a.ports() != b.ports(), a.ports(), b.ports());
    field("weight", a.weight() != b.weight(), &a.weight(), &b.weight());
    field("zone", a.zone() != b.zone(), &a.zone(), &b.zone());
    field("health", a.health() != b.health(), a.health(), b.health());
    for key in a.metadata().keys().chain(b.metadata().keys()) {
        let (a, b) = (a.metadata().get(key), b.metadata().get(key));
        field(&format!("metadata {key}"), a != b, &a, &b);
    }
    fields.dedup();
    fields
}

/// Whether the instance only marks the end of a window.
pub(crate) fn is_marker(instance: &Instance) -> bool {
    instance.id().as_str().starts_with(MARKER)
}

/// A change in short: `+a` added, `~a` updated, `-a` removed.
pub(crate) fn in_short(change: &Change) -> String {
    let sign = match change {
        Change::Added(_) => '+',
        Change::Removed(_) => '-',
        _ => '~',
    };
    format!("{sign}{}", change.key().id())
}

/// A view for a failure's text.
pub(crate) fn shown(view: &View) -> String {
    const SHOWN_MAX: usize = 12;
    let one = |instance: &Arc<Instance>| {
        let number = number(instance).map_or(String::new(), |n| format!(" n={n}"));
        let (key, health) = (instance.key(), brief(instance.health()));
        format!("{key}{number} {health} gen {}", instance.generation())
    };
    let mut text: Vec<String> = view.iter().take(SHOWN_MAX).map(one).collect();
    if view.len() > SHOWN_MAX {
        text.push(format!("… {} in all", view.len()));
    }
    format!("{} [{}]", view.freshness(), text.join(", "))
}

/// A health for a failure's text.
pub(crate) fn brief(health: &Health) -> String {
    const NOTE_CHARS_MAX: usize = 48;
    let note: String = health.note().unwrap_or_default().escape_debug().collect();
    match note.char_indices().nth(NOTE_CHARS_MAX) {
        None if note.is_empty() => health.state().to_string(),
        None => format!("{} ({note})", health.state()),
        Some((end, _)) => format!("{} ({}…)", health.state(), &note[..end]),
    }
}
