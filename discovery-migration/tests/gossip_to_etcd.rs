//! The contract on gossip and etcd at once, and on memory and gossip.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

#[allow(dead_code, reason = "other pairs use more of them")]
#[path = "pairs/halves.rs"]
mod halves;
#[path = "pairs/pair.rs"]
mod pair;

use tidings_conformance::MemoryFixture;

use self::halves::{Etcd, Gossip};
use self::pair::{Pair, with_gossip};

with_gossip!(memory_to_gossip, MemoryFixture, Gossip);
with_gossip!(etcd_3_4: gossip_to_etcd, Gossip, Etcd);
