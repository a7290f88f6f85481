//! Free ports on loopback.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Below the range that systems take outgoing ports from, so that a server which is down doesn't
/// lose its port to a client.
const FIRST: u16 = 15_000;
const LAST: u16 = 29_999;

/// A loopback address whose port nobody listens on, and that no other caller in this process gets.
///
/// # Panics
/// Where there is none left.
#[must_use]
pub fn free() -> SocketAddr {
    static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = taken.get_or_insert_default();
    // Anywhere in the range, so that test processes side by side rarely meet.
    let offset = std::process::id() as usize * 997 + taken.len() * 13;
    let range = usize::from(LAST - FIRST);
    (0..range)
        .map(|step| FIRST + u16::try_from((offset + step) % range).unwrap_or_default())
        .filter(|port| !taken.contains(port))
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .inspect(|address| {
            taken.insert(address.port());
        })
        .expect("a port is free")
}
