//! The embedded gossip backend.
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod wire;
