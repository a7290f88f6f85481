//! Moving a fleet from one service-discovery backend to another with nobody losing sight of anybody.
//!
//! A [`Migration`] is a [`Discovery`](tidings_api::Discovery) made of two. It registers in both,
//! shows the union of both as one instance each, and goes from the one to the other in
//! [`Phase`]s, each of which can be undone.
//!
//! | phase | registers in | looks up in |
//! |---|---|---|
//! | `old` | old | old |
//! | `both-read-old` | both | old |
//! | `both-read-merged` | both | both |
//! | `both-read-new` | both | new |
//! | `new` | new | new |
//!
//! For processes that can't be redeployed, a [`Bridge`] mirrors one backend into another.
//!
//! It knows no backend: anything that keeps the contract can be a side.

pub mod bridge;
mod coverage;
mod gauges;
mod inner;
mod mark;
mod merge;
mod migration;
mod offers;
mod phase;
mod preflight;
mod rivals;
mod sides;
mod steps;
mod tasks;
mod topics;
mod verdict;
mod walk;

pub use bridge::{Bridge, BridgeOptions, BridgeReport, BridgeState, Skip};
pub use coverage::{Coverage, Difference, LAG_MAX};
pub use mark::MARK_KEY;
pub use migration::{Builder, Migration};
pub use phase::{Phase, Plan, Side, Sides};
pub use preflight::{Comparison, Preflight, Traits};
pub use sides::Backend;
pub use steps::{Blocker, Gate, Participant, Report, StepError};

/// The name of a migration as a backend, in [`Status`](tidings_api::Status) and errors.
pub const BACKEND: &str = "migration";
/// The service that every process of a migration is registered under, with its phase. It isn't
/// shown among [all services](tidings_api::Selector::All) of a [`Migration`].
pub const PARTICIPANTS: &str = "tidings.migration";
/// The service that every bridge is registered under, in the backend that it mirrors into.
pub const BRIDGES: &str = "tidings.bridge";

/// Whether a service is one that Tidings itself registers.
pub(crate) fn is_own_service(service: &tidings_api::ServiceName) -> bool {
    [PARTICIPANTS, BRIDGES].contains(&service.as_str())
}
