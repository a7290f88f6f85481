//! Messages: ids are append-only, fields are only ever appended.
//!
//! A message is `id, length, body`. A reader skips an unknown id by its length, and ignores what
//! follows the fields it knows. An item that is passed on ([`Alive`], [`Record`], [`UserEvent`]) carries the
//! fields of newer versions along untouched.

use std::net::SocketAddr;
use std::sync::Arc;

use tidings_api::{InstanceId, InstanceKey, ServiceName};

use super::codec::{Decoded, Malformed, Reader, put_address, put_bytes, put_varint};
use super::content::Content;
use super::features::Features;
use super::limits::{ACCUSERS_MAX, MEMBER_NAME_BYTES_MAX, SYNC_ENTRIES_MAX, UNKNOWN_BYTES_MAX};
use super::observe::{self, Observing};
use super::queries::{Answer, Query};
use super::user_events::{Streams, UserEvent};

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks the start named by its hash to answer; carries the sender's registry digest.
    Ping {
        /// Answers carry it.
        sequence: u64,
        /// [`start_hash`](super::start_hash) of whom the sender believes to be here.
        target: u64,
        /// The sender's registry digest.
        digest: u64,
    },
    /// Answers a ping, direct or through a helper.
    Ack {
        /// Of the ping.
        sequence: u64,
        /// The answerer's registry digest; 0 from a helper.
        digest: u64,
    },
    /// Asks a helper to ping a member it may reach better.
    PingRequest {
        /// Answers carry it.
        sequence: u64,
        /// Id of the member to ping.
        target: u64,
        /// The asker was refused there: the helper should see for itself over a link as well.
        refused: bool,
    },
    /// A helper's answer that the member didn't answer it either (Lifeguard).
    Nack {
        /// Of the ping request.
        sequence: u64,
    },
    /// A member, in its own words.
    Alive(Alive),
    /// What others, or the leaving member itself, say about one.
    Accuse(Accuse),
    /// One owner-versioned entry of the registry.
    Record(Record),
    /// Digests of ranges of the sender's items, to be compared.
    Sync(Vec<RangeDigest>),
    /// All items of the sender in a range, by position and stamp.
    Have {
        /// First position of the range.
        first: u64,
        /// Last position of the range.
        last: u64,
        /// Position and stamp, by position.
        entries: Vec<(u64, Stamp)>,
    },
    /// Positions whose items the sender asks for.
    Want(Vec<u64>),
    /// The sender has answered all it was asked, and asks nothing more; with its digest.
    SyncDone {
        /// The sender's registry digest.
        digest: u64,
    },
    /// Between an observer and the member it looks through.
    Observing(Observing),
    /// An event of an application.
    UserEvent(UserEvent),
    /// How far members have come in the streams of events.
    Streams(Streams),
    /// A question to the receiver's application.
    Query(Query),
    /// What the sender says to a query.
    Answer(Answer),
}

/// A member, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Its name, unique in the cluster.
    pub name: Arc<str>,
    /// Rises at every start of the name.
    pub generation: u64,
    /// Rises at every refutation within a generation.
    pub incarnation: u64,
    /// Where it is reached.
    pub address: SocketAddr,
    /// Records of its own at or below this version are void; see the registry.
    pub floor: u64,
    /// What it says of its keyring; left out where that is nothing.
    pub seal: Box<[u8]>,
    /// Version of its newest record when it last raised its incarnation; left out where that is 0.
    pub newest: u64,
    /// What it understands; left out where that is nothing beyond version 1.
    pub features: Features,
    /// Fields of newer versions.
    pub unknown: Box<[u8]>,
}

impl Alive {
    /// How many bytes it says beside who and where it is.
    #[must_use]
    pub fn said_bytes(&self) -> usize {
        self.seal.len() + self.unknown.len()
    }
}

impl Record {
    /// How many bytes its texts take: about as many as it needs in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let key = self.key.service().as_str().len() + self.key.id().as_str().len();
        key + self.content.as_ref().map_or(0, Content::bytes)
    }
}

/// What is said about a member by others, or by itself when it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accuse {
    /// Id of the member.
    pub member: u64,
    /// The generation it is said about.
    pub generation: u64,
    /// The incarnation it is said about.
    pub incarnation: u64,
    /// Suspect, dead or left.
    pub verdict: Verdict,
    /// Ids of those who saw it silent.
    pub accusers: Vec<u64>,
    /// How many of the accusers, the first ones, were refused: its host answers, it is gone.
    pub refused: usize,
}

/// What a member is accused of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Silent; may refute.
    Suspect,
    /// Silent for too long.
    Dead,
    /// Said so itself.
    Left,
}

/// One owner-versioned entry of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Id of the owner.
    pub owner: u64,
    /// The owner's generation.
    pub generation: u64,
    /// Rises with every change the owner makes to any of its records.
    pub version: u64,
    /// What it is about.
    pub key: InstanceKey,
    /// The instance; `None` in a tombstone.
    pub content: Option<Content>,
}

/// The digest of a range of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeDigest {
    /// First position.
    pub first: u64,
    /// Last position.
    pub last: u64,
    /// Sum of the items' fingerprints.
    pub digest: u64,
    /// Number of items.
    pub count: u64,
}

/// How new an item is: generation, then version or incarnation with state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub u64, pub u64);

mod id {
    pub(super) const PING: u8 = 1;
    pub(super) const ACK: u8 = 2;
    pub(super) const PING_REQUEST: u8 = 3;
    pub(super) const NACK: u8 = 4;
    pub(super) const ALIVE: u8 = 5;
    pub(super) const ACCUSE: u8 = 6;
    pub(super) const RECORD: u8 = 7;
    pub(super) const SYNC: u8 = 8;
    pub(super) const HAVE: u8 = 9;
    pub(super) const WANT: u8 = 10;
    pub(super) const SYNC_DONE: u8 = 11;
    pub(super) const USER_EVENT: u8 = 12;
    pub(super) const STREAMS: u8 = 13;
    pub(super) const QUERY: u8 = 14;
    pub(super) const ANSWER: u8 = 15;
}

impl Message {
    /// Appends the message to a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(64);
        let id = self.encode_body(&mut body);
        out.push(id);
        put_bytes(out, &body);
    }

    /// The message encoded by itself.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(72);
        self.encode(&mut out);
        out
    }

    /// Whether it belongs to a sync, which takes place on links only.
    #[must_use]
    pub fn is_of_sync(&self) -> bool {
        match self {
            Self::Sync(_) | Self::Have { .. } | Self::Want(_) | Self::SyncDone { .. } => true,
            Self::Streams(streams) => streams.is_of_sync(),
            _ => false,
        }
    }

    /// Reads one message; `None` for an id of a newer version, which was skipped.
    pub fn decode(reader: &mut Reader<'_>) -> Decoded<Option<Self>> {
        let id = reader.u8()?;
        let mut body = Reader::new(reader.bytes()?);
        Self::decode_body(id, &mut body)
    }

    fn encode_body(&self, out: &mut Vec<u8>) -> u8 {
        match self {
            Self::Ping {
                sequence,
                target,
                digest,
            } => {
                put_varint(out, *sequence);
                out.extend_from_slice(&target.to_be_bytes());
                out.extend_from_slice(&digest.to_be_bytes());
                id::PING
            }
            Self::Ack { sequence, digest } => {
                put_varint(out, *sequence);
                out.extend_from_slice(&digest.to_be_bytes());
                id::ACK
            }
            Self::PingRequest {
                sequence,
                target,
                refused,
            } => {
                put_varint(out, *sequence);
                out.extend_from_slice(&target.to_be_bytes());
                out.push(u8::from(*refused));
                id::PING_REQUEST
            }
            Self::Nack { sequence } => {
                put_varint(out, *sequence);
                id::NACK
            }
            Self::Alive(alive) => {
                alive.encode(out);
                id::ALIVE
            }
            Self::Accuse(accuse) => {
                accuse.encode(out);
                id::ACCUSE
            }
            Self::Record(record) => {
                record.encode(out);
                id::RECORD
            }
            Self::Sync(ranges) => {
                put_varint(out, ranges.len() as u64);
                for range in ranges {
                    out.extend_from_slice(&range.first.to_be_bytes());
                    out.extend_from_slice(&range.last.to_be_bytes());
                    out.extend_from_slice(&range.digest.to_be_bytes());
                    put_varint(out, range.count);
                }
                id::SYNC
            }
            Self::Have {
                first,
                last,
                entries,
            } => {
                out.extend_from_slice(&first.to_be_bytes());
                out.extend_from_slice(&last.to_be_bytes());
                put_varint(out, entries.len() as u64);
                for (position, Stamp(generation, version)) in entries {
                    out.extend_from_slice(&position.to_be_bytes());
                    put_varint(out, *generation);
                    put_varint(out, *version);
                }
                id::HAVE
            }
            Self::Want(positions) => {
                put_varint(out, positions.len() as u64);
                for position in positions {
                    out.extend_from_slice(&position.to_be_bytes());
                }
                id::WANT
            }
            Self::SyncDone { digest } => {
                out.extend_from_slice(&digest.to_be_bytes());
                id::SYNC_DONE
            }
            Self::Observing(message) => message.encode_body(out),
            Self::UserEvent(event) => {
                event.encode(out);
                id::USER_EVENT
            }
            Self::Streams(streams) => {
                streams.encode(out);
                id::STREAMS
            }
            Self::Query(query) => {
                query.encode(out);
                id::QUERY
            }
            Self::Answer(answer) => {
                answer.encode(out);
                id::ANSWER
            }
        }
    }

    fn decode_body(id: u8, body: &mut Reader<'_>) -> Decoded<Option<Self>> {
        Ok(Some(match id {
            id::PING => Self::Ping {
                sequence: body.varint()?,
                target: body.u64()?,
                digest: body.u64()?,
            },
            id::ACK => Self::Ack {
                sequence: body.varint()?,
                digest: body.u64()?,
            },
            id::PING_REQUEST => Self::PingRequest {
                sequence: body.varint()?,
                target: body.u64()?,
                refused: body.u8()? != 0,
            },
            id::NACK => Self::Nack {
                sequence: body.varint()?,
            },
            id::ALIVE => Self::Alive(Alive::decode(body)?),
            id::ACCUSE => Self::Accuse(Accuse::decode(body)?),
            id::RECORD => Self::Record(Record::decode(body)?),
            id::SYNC => Self::Sync(many(body, |body| {
                Ok(RangeDigest {
                    first: body.u64()?,
                    last: body.u64()?,
                    digest: body.u64()?,
                    count: body.varint()?,
                })
            })?),
            id::HAVE => Self::Have {
                first: body.u64()?,
                last: body.u64()?,
                entries: many(body, |body| {
                    Ok((body.u64()?, Stamp(body.varint()?, body.varint()?)))
                })?,
            },
            id::WANT => Self::Want(many(body, Reader::u64)?),
            id::SYNC_DONE => Self::SyncDone {
                digest: body.u64()?,
            },
            observe::id::SUBSCRIBE..=observe::id::MEMBERS => {
                Self::Observing(Observing::decode_body(id, body)?)
            }
            id::USER_EVENT => Self::UserEvent(UserEvent::decode(body)?),
            id::STREAMS => return Ok(Streams::decode(body)?.map(Self::Streams)),
            id::QUERY => Self::Query(Query::decode(body)?),
            id::ANSWER => return Ok(Answer::decode(body)?.map(Self::Answer)),
            _ => return Ok(None),
        }))
    }
}

impl Alive {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.name.as_bytes());
        put_varint(out, self.generation);
        put_varint(out, self.incarnation);
        put_address(out, self.address);
        put_varint(out, self.floor);
        // A field that is written needs those before it; what has nothing to say is left out at the end.
        let unknown = !self.unknown.is_empty();
        let features = unknown || self.features != Features::NONE;
        let newest = features || self.newest > 0;
        if newest || !self.seal.is_empty() {
            put_bytes(out, &self.seal);
        }
        if newest {
            put_varint(out, self.newest);
        }
        if features {
            put_varint(out, self.features.bits());
        }
        out.extend_from_slice(&self.unknown);
    }

    fn decode(body: &mut Reader<'_>) -> Decoded<Self> {
        Ok(Self {
            name: member_name(body)?,
            generation: body.varint()?,
            incarnation: body.varint()?,
            address: body.address()?,
            floor: body.varint()?,
            seal: match body.is_empty() {
                true => Box::default(),
                false => kept(body.bytes()?)?,
            },
            newest: if body.is_empty() { 0 } else { body.varint()? },
            features: match body.is_empty() {
                true => Features::NONE,
                false => Features::from_bits(body.varint()?),
            },
            unknown: kept(body.rest())?,
        })
    }
}

impl Accuse {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.member.to_be_bytes());
        put_varint(out, self.generation);
        put_varint(out, self.incarnation);
        out.push(match self.verdict {
            Verdict::Suspect => 1,
            Verdict::Dead => 2,
            Verdict::Left => 3,
        });
        put_varint(out, self.accusers.len() as u64);
        for accuser in &self.accusers {
            out.extend_from_slice(&accuser.to_be_bytes());
        }
        put_varint(out, self.refused as u64);
    }

    fn decode(body: &mut Reader<'_>) -> Decoded<Self> {
        Ok(Self {
            member: body.u64()?,
            generation: body.varint()?,
            incarnation: body.varint()?,
            verdict: match body.u8()? {
                1 => Verdict::Suspect,
                2 => Verdict::Dead,
                3 => Verdict::Left,
                _ => return Err(Malformed("verdict")),
            },
            accusers: {
                let accusers = many(body, Reader::u64)?;
                if accusers.len() > ACCUSERS_MAX {
                    return Err(Malformed("too many accusers"));
                }
                accusers
            },
            refused: usize::try_from(body.varint()?).map_err(|_| Malformed("refused"))?,
        })
    }
}

impl Record {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.owner.to_be_bytes());
        put_varint(out, self.generation);
        put_varint(out, self.version);
        put_bytes(out, self.key.service().as_str().as_bytes());
        put_bytes(out, self.key.id().as_str().as_bytes());
        match &self.content {
            Some(content) => {
                out.push(1);
                content.encode(out);
            }
            None => out.push(0),
        }
    }

    fn decode(body: &mut Reader<'_>) -> Decoded<Self> {
        let (owner, generation, version) = (body.u64()?, body.varint()?, body.varint()?);
        let service = ServiceName::new(body.text()?).map_err(|_| Malformed("service name"))?;
        let instance = InstanceId::new(body.text()?).map_err(|_| Malformed("instance id"))?;
        let key = InstanceKey::new(service, instance);
        let content = match body.u8()? {
            0 => None,
            1 => Some(Content::decode(&key, body)?),
            _ => return Err(Malformed("record kind")),
        };
        Ok(Self {
            owner,
            generation,
            version,
            key,
            content,
        })
    }
}

/// The name of a member.
pub(super) fn member_name(body: &mut Reader<'_>) -> Decoded<Arc<str>> {
    let name = body.text()?;
    if name.is_empty() || name.len() > MEMBER_NAME_BYTES_MAX {
        return Err(Malformed("member name length"));
    }
    // Names stand in logs and terminals: no line breaks, no escape sequences.
    if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Malformed("member name characters"));
    }
    Ok(name.into())
}

/// The fields of newer versions that follow the known ones, to be passed on.
pub(super) fn kept(bytes: &[u8]) -> Decoded<Box<[u8]>> {
    if bytes.len() > UNKNOWN_BYTES_MAX {
        return Err(Malformed("too many unknown bytes"));
    }
    Ok(bytes.into())
}

/// A count followed by that many items. Every item takes at least a byte, so what is allocated is
/// bounded by what was received.
pub(super) fn many<'a, T>(
    body: &mut Reader<'a>,
    mut item: impl FnMut(&mut Reader<'a>) -> Decoded<T>,
) -> Decoded<Vec<T>> {
    let count = usize::try_from(body.varint()?).map_err(|_| Malformed("count"))?;
    if count > SYNC_ENTRIES_MAX {
        return Err(Malformed("count beyond its bound"));
    }
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(item(body)?);
    }
    Ok(items)
}
