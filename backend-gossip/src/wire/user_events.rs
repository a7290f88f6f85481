//! User events, and how far members have come in each sender's stream of them.

use std::sync::Arc;

use tidings_api::ServiceName;

use super::codec::{Decoded, Malformed, Reader, put_bytes, put_varint};
use super::limits::PAYLOAD_BYTES_MAX;
use super::message::{kept, many, member_name};

/// One event of an application. It says who sent it by name, so that it can be kept where its sender
/// isn't known, or not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserEvent {
    /// Name of the member that sent it.
    pub sender: Arc<str>,
    /// That member's generation.
    pub generation: u64,
    /// Number among the events of this start of its sender, from 1.
    pub sequence: u64,
    /// Milliseconds since it was sent, about: time in the network is not in it.
    pub age: u64,
    /// What it is about, valid as a service name is.
    pub name: ServiceName,
    /// The application's bytes.
    pub payload: Arc<[u8]>,
    /// Fields of newer versions.
    pub unknown: Box<[u8]>,
}

/// What members say to each other about streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Streams {
    /// The digest of all of the sender's streams, before a ping or an ack.
    Digest(u32),
    /// The digest of each part of the sender's streams that has any: the part is the first byte of
    /// the stream's id.
    Parts(Vec<(u8, u32)>),
    /// All of the sender's streams with ids in a range.
    Heads {
        /// First id of the range.
        first: u64,
        /// Last id of the range.
        last: u64,
        /// By id.
        heads: Vec<Head>,
    },
    /// Some of the sender's streams: nothing is said of others.
    Some(Vec<Head>),
    /// Asks for what follows in these streams.
    Want(Vec<Place>),
}

/// How far a member has come in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Id of the member whose events these are.
    pub stream: u64,
    /// Its generation.
    pub generation: u64,
    /// The oldest event that is still kept: all from there to `newest` are. One above `newest` where
    /// none is.
    pub oldest: u64,
    /// The newest event.
    pub newest: u64,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Id of the member whose events these are.
    pub stream: u64,
    /// Its generation.
    pub generation: u64,
    /// The last event that is there already; 0 where none is.
    pub after: u64,
}

mod kind {
    pub(super) const DIGEST: u8 = 0;
    pub(super) const PARTS: u8 = 1;
    pub(super) const HEADS: u8 = 2;
    pub(super) const SOME: u8 = 3;
    pub(super) const WANT: u8 = 4;
}

impl UserEvent {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.sender.as_bytes());
        put_varint(out, self.generation);
        put_varint(out, self.sequence);
        put_varint(out, self.age);
        put_bytes(out, self.name.as_str().as_bytes());
        put_bytes(out, &self.payload);
        out.extend_from_slice(&self.unknown);
    }

    pub(super) fn decode(body: &mut Reader<'_>) -> Decoded<Self> {
        Ok(Self {
            sender: member_name(body)?,
            generation: body.varint()?,
            sequence: body.varint()?,
            age: body.varint()?,
            name: name(body)?,
            payload: payload(body)?,
            unknown: kept(body.rest())?,
        })
    }
}

impl Streams {
    /// Whether it belongs to an exchange that takes place on links only.
    pub(super) fn is_of_sync(&self) -> bool {
        matches!(self, Self::Parts(_) | Self::Heads { .. } | Self::Want(_))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Digest(digest) => {
                out.push(kind::DIGEST);
                out.extend_from_slice(&digest.to_be_bytes());
            }
            Self::Parts(parts) => {
                out.push(kind::PARTS);
                put_varint(out, parts.len() as u64);
                for (part, digest) in parts {
                    out.push(*part);
                    out.extend_from_slice(&digest.to_be_bytes());
                }
            }
            Self::Heads { first, last, heads } => {
                out.push(kind::HEADS);
                out.extend_from_slice(&first.to_be_bytes());
                out.extend_from_slice(&last.to_be_bytes());
                put_heads(out, heads);
            }
            Self::Some(heads) => {
                out.push(kind::SOME);
                put_heads(out, heads);
            }
            Self::Want(places) => {
                out.push(kind::WANT);
                put_varint(out, places.len() as u64);
                for place in places {
                    out.extend_from_slice(&place.stream.to_be_bytes());
                    put_varint(out, place.generation);
                    put_varint(out, place.after);
                }
            }
        }
    }

    /// `None` for a kind of a newer version.
    pub(super) fn decode(body: &mut Reader<'_>) -> Decoded<Option<Self>> {
        Ok(Some(match body.u8()? {
            kind::DIGEST => Self::Digest(body.u32()?),
            kind::PARTS => Self::Parts(many(body, |body| Ok((body.u8()?, body.u32()?)))?),
            kind::HEADS => Self::Heads {
                first: body.u64()?,
                last: body.u64()?,
                heads: many(body, Head::decode)?,
            },
            kind::SOME => Self::Some(many(body, Head::decode)?),
            kind::WANT => Self::Want(many(body, |body| {
                Ok(Place {
                    stream: body.u64()?,
                    generation: body.varint()?,
                    after: body.varint()?,
                })
            })?),
            _ => return Ok(None),
        }))
    }
}

impl Head {
    fn decode(body: &mut Reader<'_>) -> Decoded<Self> {
        Ok(Self {
            stream: body.u64()?,
            generation: body.varint()?,
            oldest: body.varint()?,
            newest: body.varint()?,
        })
    }
}

fn put_heads(out: &mut Vec<u8>, heads: &[Head]) {
    put_varint(out, heads.len() as u64);
    for head in heads {
        out.extend_from_slice(&head.stream.to_be_bytes());
        put_varint(out, head.generation);
        put_varint(out, head.oldest);
        put_varint(out, head.newest);
    }
}

/// The name of an event or a query.
pub(super) fn name(body: &mut Reader<'_>) -> Decoded<ServiceName> {
    ServiceName::new(body.text()?).map_err(|_| Malformed("event name"))
}

/// The bytes of an event, a query or an answer.
pub(super) fn payload(body: &mut Reader<'_>) -> Decoded<Arc<[u8]>> {
    let payload = body.bytes()?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Malformed("payload beyond its bound"));
    }
    Ok(payload.into())
}
