//! Queries and what they are answered with.

use std::sync::Arc;

use tidings_api::ServiceName;

use super::codec::{Decoded, Reader, put_bytes, put_varint};
use super::user_events::{name, payload};

/// A question to the application of the member it is sent to; the sender asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Drawn at random: answers carry it.
    pub id: u64,
    /// Milliseconds left for an answer.
    pub time_left: u64,
    /// What it is about, valid as a service name is.
    pub name: ServiceName,
    /// The application's bytes.
    pub payload: Arc<[u8]>,
}

/// What a member says to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the query.
    pub id: u64,
    /// What it says.
    pub word: Word,
}

/// What can be said to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It has arrived, and somebody may answer.
    Received,
    /// Nobody here will answer.
    Declined,
    /// The answer.
    Answered(Arc<[u8]>),
}

mod word {
    pub(super) const RECEIVED: u8 = 0;
    pub(super) const DECLINED: u8 = 1;
    pub(super) const ANSWERED: u8 = 2;
}

impl Query {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        put_varint(out, self.time_left);
        put_bytes(out, self.name.as_str().as_bytes());
        put_bytes(out, &self.payload);
    }

    pub(super) fn decode(body: &mut Reader<'_>) -> Decoded<Self> {
        Ok(Self {
            id: body.u64()?,
            time_left: body.varint()?,
            name: name(body)?,
            payload: payload(body)?,
        })
    }
}

impl Answer {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        match &self.word {
            Word::Received => out.push(word::RECEIVED),
            Word::Declined => out.push(word::DECLINED),
            Word::Answered(payload) => {
                out.push(word::ANSWERED);
                put_bytes(out, payload);
            }
        }
    }

    /// `None` for a word of a newer version.
    pub(super) fn decode(body: &mut Reader<'_>) -> Decoded<Option<Self>> {
        let id = body.u64()?;
        let word = match body.u8()? {
            word::RECEIVED => Word::Received,
            word::DECLINED => Word::Declined,
            word::ANSWERED => Word::Answered(payload(body)?),
            _ => return Ok(None),
        };
        Ok(Some(Self { id, word }))
    }
}
