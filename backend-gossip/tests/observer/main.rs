//! Observers: clients that look services up without being members.

#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod cluster;
mod conformance;
mod failover;
mod hostile;
mod many;
mod room;
mod rotation;
mod silence;
