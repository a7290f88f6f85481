//! What keys are called in Consul.
//!
//! | in Consul | is |
//! |---|---|
//! | service name | the service, as it is |
//! | tag | the namespace, where there is one |
//! | service id | `service:id:generation` |
//! | check id | `service:id:generation:alive` and `service:id:generation:health` |
//!
//! The generation is part of the service id so that owners of one key can't touch each other's
//! entries: neither the last report of an older owner nor its deregistration reaches what a newer
//! one registered, also where both use the same agent. Consul's index folds the case of ids, and
//! generations tell those apart as well.

use tidings_api::{Generation, InstanceId, InstanceKey, NAME_BYTES_MAX, ServiceName};

/// Ends the id of the check that says that the owner lives.
const ALIVE: &str = ":alive";
/// Ends the id of the check that says how the owner says it is.
const HEALTH: &str = ":health";

/// The service id of an instance.
pub(crate) fn service_id(key: &InstanceKey, generation: Generation) -> String {
    format!("{}{generation}", service_id_prefix(key))
}

/// How the service ids of all generations of a key start.
pub(crate) fn service_id_prefix(key: &InstanceKey) -> String {
    format!("{}:{}:", key.service(), key.id())
}

/// The instance id and the generation in a service id of ours.
pub(crate) fn parse_service_id(
    service: &ServiceName,
    id: &str,
) -> Option<(InstanceId, Generation)> {
    let rest = id.strip_prefix(service.as_str())?.strip_prefix(':')?;
    let (id, generation) = rest.rsplit_once(':')?;
    let generation = generation.parse().ok()?;
    Some((InstanceId::new(id).ok()?, Generation::new(generation)))
}

/// The check that says that the owner lives.
pub(crate) fn alive_check(service_id: &str) -> String {
    format!("{service_id}{ALIVE}")
}

/// The check that says how the owner says it is.
pub(crate) fn health_check(service_id: &str) -> String {
    format!("{service_id}{HEALTH}")
}

/// The instance id of a service that another tool registered: `node:service-id`, as service ids are
/// unique on their node only.
///
/// What has other characters than an instance id may have, or too many, is shortened and told apart
/// by a hash.
pub(crate) fn foreign_id(node: &str, service_id: &str) -> InstanceId {
    let whole = format!("{node}:{service_id}");
    InstanceId::new(&whole).unwrap_or_else(|_| {
        let hash = format!(":{:016x}", fnv1a(whole.as_bytes()));
        let accepted = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        let kept = whole.chars().map(|c| if accepted(c) { c } else { '_' });
        let start: String = kept.take(NAME_BYTES_MAX - hash.len()).collect();
        InstanceId::new(start + &hash).expect("short enough, and of these characters only")
    })
}

/// FNV-1a: the same number in every process and version, which the standard library's isn't.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_ids_come_back_whole() {
        for text in ["web/a", "a.b/10.0.0.7:8080", "orderService/::1", "a/:"] {
            let key: InstanceKey = text.parse().unwrap();
            let id = service_id(&key, Generation::new(7));
            let parsed = parse_service_id(key.service(), &id).unwrap();
            assert_eq!(parsed, (key.id().clone(), Generation::new(7)));
        }
    }

    #[test]
    fn other_service_ids_are_nobodys() {
        let web: ServiceName = "web".parse().unwrap();
        for id in [
            "web",
            "web:a",
            "web-2:a:1",
            "Web:a:1",
            "web::1",
            "web:a:-1",
            "web:a/b:1",
        ] {
            assert_eq!(parse_service_id(&web, id), None, "{id}");
        }
    }

    #[test]
    fn foreign_ids_are_kept_where_they_can_be() {
        assert_eq!(foreign_id("n1", "web-1").as_str(), "n1:web-1");
        let odd = foreign_id("n1", "a/b");
        assert!(odd.as_str().starts_with("n1:a_b:"));
        assert_ne!(odd, foreign_id("n1", "a b"));
        let long = foreign_id("n1", &"x".repeat(500));
        assert_eq!(long.as_str().len(), NAME_BYTES_MAX);
        assert_ne!(long, foreign_id("n1", &"x".repeat(501)));
        foreign_id("", "\u{0}é");
    }
}
