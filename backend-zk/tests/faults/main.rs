//! What the backend makes of faults, on real ZooKeeper. Each test shows that its fault happened.
#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

#[path = "../support/mod.rs"]
mod support;

mod connections;
mod ensembles;
mod guards;
mod nodes;
mod old_servers;
mod pauses;
mod recorder;
mod scale;
