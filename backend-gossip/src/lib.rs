//! The embedded gossip backend.
#[doc(hidden)]
pub mod engine;
