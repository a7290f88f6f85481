//! Floods on real sockets: members that are flooded keep working, and what the flood costs them is bounded.
//!
//! ```text
//! cargo test -p tidings-gossip --test flood                                       each flood for a second
//! TIDINGS_FLOOD=30 cargo test -p tidings-gossip --test flood -- --nocapture       each for half a minute
//! ```
//!
//! During each flood honest members change something all the time. Printed are what was sent and what of
//! it was taken, CPU and memory of the flooded member, and how long the slowest honest change took.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod datagrams;
#[cfg(target_os = "linux")]
mod descriptors;
mod lab;
mod links;
