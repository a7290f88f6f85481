//! What a subject of the comparison has to be able to do.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;

use crate::board::Board;

/// Port of every node; their addresses differ.
const PORT: u16 = 7946;

/// One library or program under comparison.
#[async_trait]
pub(crate) trait Peer: Send + Sync {
    /// Starts a node that joins by way of `seed`, and returns at the latest when it has joined.
    ///
    /// From then on the node reports to the board what it sees: other nodes coming and going, and
    /// their values.
    async fn start(
        &self,
        spot: Spot,
        seed: Option<Spot>,
        board: Arc<Board>,
    ) -> Result<Box<dyn Node>>;
}

/// One running node.
#[async_trait]
pub(crate) trait Node: Send + Sync {
    /// Changes the value that all others are to see.
    async fn update(&self, value: u64) -> Result<()>;

    /// Ends it as the end of its process does: nobody is told, and its sockets are closed.
    async fn kill(self: Box<Self>);

    /// Ends it politely.
    async fn leave(self: Box<Self>) -> Result<()>;

    /// The nodes it takes for alive now, itself among them or not: what the board should show.
    async fn alive(&self) -> Result<Vec<usize>>;

    /// How many others it has declared dead itself since its start, where it counts that.
    async fn deaths(&self) -> Option<u64> {
        None
    }

    /// Its process, where it has one of its own.
    fn pid(&self) -> Option<u32> {
        None
    }
}

/// Which node: its number, from which its name and its address follow. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot(pub(crate) usize);

impl Spot {
    /// The node of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        name.strip_prefix("node-")?.parse().ok().map(Self)
    }

    /// The node at this address.
    pub(crate) fn at(address: SocketAddr) -> Option<Self> {
        let SocketAddr::V4(address) = address else {
            return None;
        };
        let [127, a, b, c] = address.ip().octets() else {
            return None;
        };
        let number = u32::from_be_bytes([0, a.checked_sub(1)?, b, c]);
        usize::try_from(number).ok()?.checked_sub(1).map(Self)
    }

    pub(crate) fn name(self) -> String {
        format!("node-{}", self.0)
    }

    /// `127.1.0.1:7946` for the first; all of 127/8 is this machine.
    pub(crate) fn address(self) -> SocketAddr {
        self.address_at(PORT)
    }

    pub(crate) fn address_at(self, port: u16) -> SocketAddr {
        let [_, a, b, c] = u32::try_from(self.0 + 1).unwrap_or(u32::MAX).to_be_bytes();
        (Ipv4Addr::new(127, a + 1, b, c), port).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_lead_back_to_the_spot() {
        for number in [0, 1, 254, 255, 256, 70_000] {
            let spot = Spot(number);
            assert_eq!(Spot::at(spot.address()), Some(spot));
            assert_eq!(Spot::named(&spot.name()), Some(spot));
        }
        assert_eq!(Spot(0).address().to_string(), "127.1.0.1:7946");
        assert_eq!(Spot::at("10.0.0.1:7946".parse().unwrap()), None);
    }
}
