//! Members as real processes, each in a network namespace of its own, under real faults: packets
//! lost and partitions by iptables, SIGSTOP, SIGKILL.
//!
//! Needs Linux, root, `ip`, `iptables` and `unshare`; where something is missing the tests are
//! ignored and say what. The short version runs with all other tests. The long one, with partitions
//! of two minutes and pauses of thirty seconds:
//!
//! ```sh
//! TIDINGS_NETNS=long cargo test -p tidings-gossip --test netns
//! ```
//!
//! This binary plays three parts. As the test it makes a [`sandbox`] for each scenario: network, mount
//! and process namespaces that the kernel removes with everything in them, however the test ends.
//! In there it is the [`lab`], which builds a bridge and twelve hosts, does the damage, and judges by
//! what the processes print. And it is each of those processes, a [`member`].

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

#[cfg(target_os = "linux")]
mod lab;
#[cfg(target_os = "linux")]
mod member;
#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod record;
#[cfg(target_os = "linux")]
mod sandbox;
#[cfg(target_os = "linux")]
mod scenarios;

#[cfg(target_os = "linux")]
fn main() {
    let args: Vec<_> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, sandbox::LAB, scenario] => sandbox::enter(scenario),
        [_, process::MEMBER, url] => member::run(url),
        _ => sandbox::test(),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("test network_namespaces ... ignored, they need Linux");
}
