//! What each backend does with what the contract leaves to it, for [`Migration::preflight`].
//!
//! [`Migration::preflight`]: tidings_migration::Migration::preflight

use std::time::Duration;

use tidings_migration::Traits;

use crate::connect::Backend;

const LIMITS: &str = "most of an instance";
const HEALTH: &str = "health for Tidings";
const HEALTH_OF_OTHERS: &str = "health for other clients";
const HOLD: &str = "losses of an outage are held for";
const REGISTRY: &str = "what is offered survives";

impl Backend {
    /// In words, with the numbers of this configuration.
    pub(crate) fn traits(&self) -> Traits {
        let within = "what the contract allows";
        let (limits, others, hold, registry): (_, _, Option<Duration>, _) = match self {
            #[cfg(feature = "consul")]
            Self::Consul(config) => (
                within.to_owned(),
                "a check: passing, warning, or critical, which what drains is too",
                Some(config.loss_hold),
                "a restart of the servers, and of the agent",
            ),
            #[cfg(feature = "etcd")]
            Self::Etcd(config) => (
                within.to_owned(),
                "not shown: the naming resolver takes every instance there is",
                Some(config.loss_hold),
                "a restart of the servers",
            ),
            #[cfg(feature = "gossip")]
            Self::Gossip(config) => (
                within.to_owned(),
                "there are no other clients",
                Some(config.loss_hold),
                "as long as one member lives",
            ),
            Self::Memory(_) | Self::Migration(_) => (
                within.to_owned(),
                "there are no other clients",
                None,
                "as long as the process lives",
            ),
            #[cfg(feature = "zk")]
            Self::Zk(config) => (
                format!(
                    "{within}, in a node of {} bytes (content_max)",
                    config.content_max
                ),
                "`enabled`, as long as it is passing or warning",
                Some(config.loss_hold),
                "a restart of the servers",
            ),
        };
        let hold = hold.map_or("not at all".to_owned(), |hold| format!("{hold:?}"));
        [
            (LIMITS, limits),
            (HEALTH, "all states, with their notes".to_owned()),
            (HEALTH_OF_OTHERS, others.to_owned()),
            (HOLD, hold),
            (REGISTRY, registry.to_owned()),
        ]
        .into()
    }
}
