//! Messages between an observer and the member it looks through. They travel on links only.
//!
//! An observer subscribes to selectors. The member walks through what it has of each, as [`Owner`] and
//! [`Record`](super::message::Record), and says when it is [through](Observing::Complete); what
//! changes is sent as it comes, before that and after. All of it merges by the greater stamp, as between
//! members, so the order doesn't matter.

use std::net::SocketAddr;

use tidings_api::{InstanceKey, Selector, ServiceName};

use super::codec::{Decoded, Malformed, Reader, hash, put_address, put_bytes, put_varint};
use super::limits::{OBSERVED_ADDRESSES_MAX, OBSERVED_OWNERS_ASKED_MAX, OBSERVED_REASON_BYTES_MAX};
use super::message::Stamp;

/// What an observer and a member say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observing {
    /// The observer wants to know what is selected, from now on.
    Subscribe {
        /// Which instances.
        selector: Selector,
        /// Digest of what it shows of them already: where the member has the same, it sends nothing.
        digest: u64,
    },
    /// It no longer does.
    Unsubscribe(Selector),
    /// How much it has read of what the member sent on this link, so that no more is sent than it
    /// takes; and what it wants to know besides.
    Report {
        /// Frames read.
        frames: u64,
        /// Bytes read.
        bytes: u64,
        /// Whether the member is to [vouch](Self::Vouch).
        vouch: bool,
        /// Whether it is to say where other [members](Self::Members) are.
        members: bool,
    },
    /// Ids of owners whose state it wants to know.
    Ask(Vec<u64>),
    /// The member is there, and how good its word is.
    Vouch(Vouch),
    /// All that the member has of a selector was sent.
    Complete {
        /// Of these.
        selector: Selector,
        /// Nothing was sent, since the observer has it all.
        same: bool,
    },
    /// What is known of an owner of records.
    Owner(Owner),
    /// Where present members are reached; some of them in a large cluster.
    Members(Vec<SocketAddr>),
}

/// How good a member's word is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouch {
    /// Live, stale or without room.
    pub standing: Standing,
    /// How long a crash takes at most to be seen, in milliseconds.
    pub crash_bound_ms: u64,
}

/// Whether a member can be looked through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It hears the cluster.
    Live,
    /// It doesn't.
    Stale {
        /// For how long, in milliseconds.
        for_ms: u64,
        /// Why, for people.
        reason: String,
    },
    /// It has as many observers as it may: another member should be asked.
    Full,
}

/// What is known of an owner of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub id: u64,
    /// How new this is; see [`is_present`](Self::is_present). All zero where nothing is known.
    pub stamp: Stamp,
    /// Records at or below this version are void.
    pub floor: u64,
    /// Version of its newest record when it last raised its word.
    pub newest: u64,
}

impl Owner {
    /// What is said of an owner that isn't known.
    #[must_use]
    pub fn unknown(id: u64) -> Self {
        Self {
            id,
            stamp: Stamp(0, 0),
            floor: 0,
            newest: 0,
        }
    }

    /// Whether it is known at all.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.stamp.0 > 0
    }

    /// Whether its records are to be shown: it is known, and neither dead nor gone. The low two bits of
    /// a stamp say so.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.is_known() && self.stamp.1.is_multiple_of(4)
    }
}

/// The share of one shown record in the digest of a selector, which is the sum of all: of the owner's
/// [stamp](Owner::stamp), the key, and the record's version.
#[must_use]
pub fn digest(owner: u64, stamp: Stamp, key: &InstanceKey, version: u64) -> u64 {
    hash(&[
        b"shown",
        &owner.to_be_bytes(),
        &stamp.0.to_be_bytes(),
        &stamp.1.to_be_bytes(),
        key.service().as_str().as_bytes(),
        key.id().as_str().as_bytes(),
        &version.to_be_bytes(),
    ])
}

pub(super) mod id {
    pub(in crate::wire) const SUBSCRIBE: u8 = 16;
    pub(super) const UNSUBSCRIBE: u8 = 17;
    pub(super) const REPORT: u8 = 18;
    pub(super) const ASK: u8 = 19;
    pub(super) const VOUCH: u8 = 20;
    pub(super) const COMPLETE: u8 = 21;
    pub(super) const OWNER: u8 = 22;
    pub(in crate::wire) const MEMBERS: u8 = 23;
}

mod flag {
    pub(super) const VOUCH: u8 = 1;
    pub(super) const MEMBERS: u8 = 2;
}

mod standing {
    pub(super) const LIVE: u8 = 0;
    pub(super) const STALE: u8 = 1;
    pub(super) const FULL: u8 = 2;
}

impl Observing {
    pub(super) fn encode_body(&self, out: &mut Vec<u8>) -> u8 {
        match self {
            Self::Subscribe { selector, digest } => {
                put_selector(out, selector);
                out.extend_from_slice(&digest.to_be_bytes());
                id::SUBSCRIBE
            }
            Self::Unsubscribe(selector) => {
                put_selector(out, selector);
                id::UNSUBSCRIBE
            }
            Self::Report {
                frames,
                bytes,
                vouch,
                members,
            } => {
                put_varint(out, *frames);
                put_varint(out, *bytes);
                out.push(
                    if *vouch { flag::VOUCH } else { 0 } | if *members { flag::MEMBERS } else { 0 },
                );
                id::REPORT
            }
            Self::Ask(owners) => {
                put_varint(out, owners.len() as u64);
                for owner in owners {
                    out.extend_from_slice(&owner.to_be_bytes());
                }
                id::ASK
            }
            Self::Vouch(vouch) => {
                vouch.encode(out);
                id::VOUCH
            }
            Self::Complete { selector, same } => {
                put_selector(out, selector);
                out.push(u8::from(*same));
                id::COMPLETE
            }
            Self::Owner(owner) => {
                out.extend_from_slice(&owner.id.to_be_bytes());
                put_varint(out, owner.stamp.0);
                put_varint(out, owner.stamp.1);
                put_varint(out, owner.floor);
                put_varint(out, owner.newest);
                id::OWNER
            }
            Self::Members(addresses) => {
                put_varint(out, addresses.len() as u64);
                for address in addresses {
                    put_address(out, *address);
                }
                id::MEMBERS
            }
        }
    }

    pub(super) fn decode_body(id: u8, body: &mut Reader<'_>) -> Decoded<Self> {
        Ok(match id {
            id::SUBSCRIBE => Self::Subscribe {
                selector: selector(body)?,
                digest: body.u64()?,
            },
            id::UNSUBSCRIBE => Self::Unsubscribe(selector(body)?),
            id::REPORT => {
                let (frames, bytes, flags) = (body.varint()?, body.varint()?, body.u8()?);
                Self::Report {
                    frames,
                    bytes,
                    vouch: flags & flag::VOUCH != 0,
                    members: flags & flag::MEMBERS != 0,
                }
            }
            id::ASK => Self::Ask(some(body, OBSERVED_OWNERS_ASKED_MAX, Reader::u64)?),
            id::VOUCH => Self::Vouch(Vouch::decode(body)?),
            id::COMPLETE => Self::Complete {
                selector: selector(body)?,
                same: body.u8()? != 0,
            },
            id::OWNER => Self::Owner(Owner {
                id: body.u64()?,
                stamp: Stamp(body.varint()?, body.varint()?),
                floor: body.varint()?,
                newest: body.varint()?,
            }),
            id::MEMBERS => Self::Members(some(body, OBSERVED_ADDRESSES_MAX, Reader::address)?),
            _ => return Err(Malformed("no message of observers")),
        })
    }
}

impl Vouch {
    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.crash_bound_ms);
        match &self.standing {
            Standing::Live => out.push(standing::LIVE),
            Standing::Stale { for_ms, reason } => {
                out.push(standing::STALE);
                put_varint(out, *for_ms);
                put_bytes(out, reason.as_bytes());
            }
            Standing::Full => out.push(standing::FULL),
        }
    }

    fn decode(body: &mut Reader<'_>) -> Decoded<Self> {
        let crash_bound_ms = body.varint()?;
        let standing = match body.u8()? {
            standing::LIVE => Standing::Live,
            standing::STALE => {
                let (for_ms, reason) = (body.varint()?, body.text()?);
                if reason.len() > OBSERVED_REASON_BYTES_MAX {
                    return Err(Malformed("reason length"));
                }
                // It stands in logs and terminals, as names do.
                if reason.chars().any(char::is_control) {
                    return Err(Malformed("reason characters"));
                }
                Standing::Stale {
                    for_ms,
                    reason: reason.to_owned(),
                }
            }
            standing::FULL => Standing::Full,
            _ => return Err(Malformed("standing")),
        };
        Ok(Self {
            standing,
            crash_bound_ms,
        })
    }
}

/// A service's name, or nothing for all services.
fn put_selector(out: &mut Vec<u8>, selector: &Selector) {
    match selector {
        Selector::Service(service) => put_bytes(out, service.as_str().as_bytes()),
        Selector::All => put_bytes(out, b""),
    }
}

fn selector(body: &mut Reader<'_>) -> Decoded<Selector> {
    match body.text()? {
        "" => Ok(Selector::All),
        service => ServiceName::new(service)
            .map(Selector::Service)
            .map_err(|_| Malformed("service name")),
    }
}

/// A count of at most `most`, followed by that many items.
fn some<'a, T>(
    body: &mut Reader<'a>,
    most: usize,
    mut item: impl FnMut(&mut Reader<'a>) -> Decoded<T>,
) -> Decoded<Vec<T>> {
    let count = usize::try_from(body.varint()?).map_err(|_| Malformed("count"))?;
    if count > most {
        return Err(Malformed("count beyond its bound"));
    }
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(item(body)?);
    }
    Ok(items)
}
