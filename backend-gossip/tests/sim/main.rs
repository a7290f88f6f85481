//! The gossip engine in a simulated world: many engines, virtual time, and one seed that draws every
//! fault.
//!
//! A run goes through chaos, in which a [`plan`] of faults is carried out, and calm, in which
//! everybody has to agree and then keep every promise. [`checkers`] watch all of it. Start reading
//! at [`run`]; [`world`] is what it runs in; [`sweep`] runs many seeds and says how to replay one.
//! [`scenarios`] are runs written by hand, and [`selftest`] shows that each checker can fail.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod app;
mod builds;
mod checkers;
mod counters;
mod faults;
mod history;
mod links;
mod net;
mod plan;
mod process;
mod queries;
mod run;
mod scenarios;
mod selftest;
mod sweep;
mod trace;
mod world;
