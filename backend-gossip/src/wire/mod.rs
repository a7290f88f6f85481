//! Bytes: frames and the messages in them. Pure; decoding never panics.
//!
//! A frame is `magic, version, cluster, sender`, 14 bytes, then messages to its end:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | magic `0xD7` |
//! | 1 | wire version, see the history below |
//! | 4 | hash of the cluster name: clusters that share a network never mix |
//! | 8 | id of the sender, the hash of its name |
//!
//! | version | change |
//! |---|---|
//! | 1 | the first |

pub mod codec;
pub mod content;
pub mod features;
pub mod limits;
pub mod message;
pub mod observe;
pub mod queries;
pub mod user_events;

pub use codec::{Decoded, Malformed, Reader};
pub use features::Features;
pub use message::Message;

/// First byte of a frame.
pub(crate) const MAGIC: u8 = 0xD7;

/// Length of what stands before the messages.
pub const HEADER_BYTES: usize = 14;

/// What stands before the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Hash of the cluster name.
    pub cluster: u32,
    /// Id of the sender.
    pub sender: u64,
}

impl Header {
    /// A new frame with this header and no message.
    #[must_use]
    pub fn to_frame(self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(128);
        frame.extend_from_slice(&[MAGIC, limits::VERSION]);
        frame.extend_from_slice(&self.cluster.to_be_bytes());
        frame.extend_from_slice(&self.sender.to_be_bytes());
        frame
    }

    /// Reads the header; the messages are left in the reader.
    pub fn decode(reader: &mut Reader<'_>) -> Decoded<Self> {
        if reader.u8()? != MAGIC {
            return Err(Malformed("magic"));
        }
        if reader.u8()? != limits::VERSION {
            return Err(Malformed("version"));
        }
        Ok(Self {
            cluster: reader.u32()?,
            sender: reader.u64()?,
        })
    }
}

/// The hash of a cluster name, as it stands in headers.
#[must_use]
pub fn cluster_hash(cluster: &str) -> u32 {
    // The upper half: the mixer spreads over all bits.
    (codec::hash(&[b"cluster", cluster.as_bytes()]) >> 32) as u32
}

/// The id of a member: the hash of its name.
#[must_use]
pub fn member_hash(name: &str) -> u64 {
    codec::hash(&[b"member", name.as_bytes()])
}

/// The hash of one start of a member, so that a ping meant for a former self is recognised.
#[must_use]
pub fn start_hash(member: u64, generation: u64) -> u64 {
    codec::hash(&[b"start", &member.to_be_bytes(), &generation.to_be_bytes()])
}
