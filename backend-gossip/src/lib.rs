//! The embedded gossip backend.
#[doc(hidden)]
pub mod engine;

mod config;
pub use config::{GossipConfig, PORT_DEFAULT};
