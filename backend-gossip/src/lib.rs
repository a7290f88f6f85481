//! The embedded gossip backend.
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod wire;

mod config;
pub use config::{GossipConfig, PORT_DEFAULT};
