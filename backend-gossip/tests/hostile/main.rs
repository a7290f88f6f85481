//! A member that knows the key and means harm, among honest ones.
//!
//! It sends what it likes to whom it likes, as datagrams and over links. The honest members have to keep
//! working: what they change gets everywhere, none of them vanishes for good, and what all of this
//! costs them is bounded. [`cluster`] is a network of engines in virtual time; the same on real sockets is
//! in `tests/flood`.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod cluster;
mod invented;
mod lies;
mod registry;
