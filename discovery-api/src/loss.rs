//! What becomes of instances that vanish without their owners asking.

use crate::Connection;

/// What a backend does when instances vanish at once *without* their owners asking, as when all
/// sessions of a sick server expire (WAT-10).
///
/// It is about losses only: an explicit deregistration is obeyed at once, whatever the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossPolicy {
    /// Holds them, as stale, while the backend itself is unhealthy, and lets a loss pass
    /// otherwise. The default: a sick backend must not empty every client's view.
    #[default]
    HoldWhileUnhealthy,
    /// Lets every loss pass.
    Pass,
}

impl LossPolicy {
    /// Whether a loss that is noticed over `connection` is held.
    #[must_use]
    pub fn holds(self, connection: &Connection) -> bool {
        match self {
            Self::HoldWhileUnhealthy => !connection.is_connected(),
            Self::Pass => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_loss_is_held_only_by_default_and_only_in_an_outage() {
        let outage = Connection::Disconnected {
            since: Instant::now(),
            reason: "no quorum".into(),
        };
        assert!(LossPolicy::default().holds(&outage));
        assert!(!LossPolicy::default().holds(&Connection::Connected));
        assert!(!LossPolicy::Pass.holds(&outage));
    }
}
