//! Sealing: what goes over the network is encrypted, authenticated and heard once.
//!
//! Pure: no socket, task, clock or randomness; start ids, link salts and the time come in. The
//! engine knows nothing of it: [`Datagrams`] stands between it and the UDP socket, [`LinkSealer`] and
//! [`LinkOpener`] between it and a link.
//!
//! # Keys
//!
//! A cluster key ([`SealKey`], 32 random bytes) seals nothing itself. From it, HKDF-SHA256 derives one
//! ChaCha20-Poly1305 key for the datagrams of each *start* of a member, and two for each link, one
//! either way. The name of the cluster goes into each, so that clusters with the same key don't hear
//! each other. Since every derived key has one writer, nonces can be counted, and never repeat.
//!
//! # Datagrams
//!
//! | bytes | field | |
//! |---|---|---|
//! | 1 | magic `0xD8`, or `0xD9` for what sealing has to say itself | authenticated |
//! | 1 | wire version | authenticated |
//! | 4 | hash of the cluster name | authenticated |
//! | 4 | id of the cluster key | authenticated |
//! | 16 | start id: random, drawn at every start of the sender | authenticated |
//! | 8 | counter, from 1: the nonce | authenticated |
//! | … | the unsealed frame without its magic, version and cluster | encrypted |
//! | 16 | tag | |
//!
//! A frame grows by [`DATAGRAM_OVERHEAD_BYTES`]. Each receiver remembers, per start and cluster key, which
//! counters it has heard (`window.rs`).
//!
//! A window says nothing about a start that was never heard: its frames may be years old, recorded
//! by somebody. So a receiver *challenges* an unknown start with a number, and lets its frames wait
//! for the *proof*: the same number, sealed by that start. It costs one round trip at the first
//! contact, and makes a recording of former starts, or from before the receiver's own, worthless.
//!
//! # Links
//!
//! Both ends first say a [`Hello`] with a random salt; the keys are derived from both salts, so no
//! recorded link can be played to anybody. Then each frame is its length, the id of the cluster key, and
//! the sealed bytes; the nonce counts the frames. A frame that is missing, doubled or out of order
//! doesn't open, which ends the link. Ends change to another cluster key between two frames.

mod datagram;
mod key;
mod link;
mod ring;
mod stats;
#[cfg(test)]
mod tests;
mod unproven;
mod window;

pub use self::datagram::{Datagrams, Opened, StartId};
pub use self::key::{KeyId, SealKey};
pub use self::link::{HELLO_BYTES, Hello, LinkOpener, LinkSealer, Side};
pub use self::ring::{Ring, SealMode, Told};
pub use self::stats::{Counters, Rejection, SealStats};

/// First byte of a sealed datagram, and of a sealed link's hello. Unsealed frames start with another,
/// and the length of an unsealed link frame with 0.
pub(crate) const MAGIC_SEALED: u8 = 0xD8;
/// First byte of a challenge or proof.
const MAGIC_CONTROL: u8 = 0xD9;
/// Length of what stands before the encrypted bytes of a datagram.
const HEADER_BYTES: usize = 34;
/// Length of what a sealed datagram and the frame in it have in common: magic, version, cluster.
const SHARED_BYTES: usize = 6;
/// Length of the proof that a frame is authentic.
const TAG_BYTES: usize = 16;

/// How much longer a datagram is when it is sealed.
pub const DATAGRAM_OVERHEAD_BYTES: usize = HEADER_BYTES - SHARED_BYTES + TAG_BYTES;
/// How much longer a frame on a link is when it is sealed.
pub const LINK_OVERHEAD_BYTES: usize = key::ID_BYTES + TAG_BYTES;
