//! Links: a hello either way, then sealed frames in order.

use super::key::{Cipher, ID_BYTES};
use super::{KeyId, LINK_OVERHEAD_BYTES, MAGIC_SEALED, Rejection, Ring, TAG_BYTES};
use crate::wire::limits::VERSION;
use crate::wire::{Decoded, Malformed, Reader};

const SALT_BYTES: usize = 16;
/// Length of a hello: magic, version, cluster, key id, salt.
pub const HELLO_BYTES: usize = 10 + SALT_BYTES;

/// What each end of a link says first. The one that opened it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    cluster: u32,
    key: KeyId,
    salt: [u8; SALT_BYTES],
}

/// The end of a link that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It opened the connection.
    Opener,
    /// It accepted the connection.
    Acceptor,
}

/// Seals what one end writes.
#[derive(Debug)]
pub struct LinkSealer(Direction);

/// Opens what the other end wrote.
#[derive(Debug)]
pub struct LinkOpener(Direction);

/// One way of a link.
#[derive(Debug)]
struct Direction {
    side: Side,
    /// The opener's, then the acceptor's.
    salts: [u8; 2 * SALT_BYTES],
    cipher: Option<(KeyId, Cipher)>,
    counter: u64,
}

impl Hello {
    /// `salt` has to be random, and another one for every link. `None` where there is no key.
    #[must_use]
    pub fn new(ring: &Ring, salt: [u8; SALT_BYTES]) -> Option<Self> {
        Some(Self {
            cluster: ring.cluster_hash(),
            key: ring.primary()?.id(),
            salt,
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[0] = MAGIC_SEALED;
        bytes[1] = VERSION;
        bytes[2..6].copy_from_slice(&self.cluster.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.key.0);
        bytes[10..].copy_from_slice(&self.salt);
        bytes
    }

    /// Reads the other end's.
    pub fn decode(ring: &Ring, bytes: &[u8; HELLO_BYTES]) -> Result<Self, Rejection> {
        let hello = Self::read(bytes).map_err(|_| Rejection::Malformed)?;
        if hello.cluster != ring.cluster_hash() {
            return Err(Rejection::Foreign);
        }
        ring.find(hello.key).ok_or(Rejection::UnknownKey)?;
        Ok(hello)
    }

    fn read(bytes: &[u8]) -> Decoded<Self> {
        let mut reader = Reader::new(bytes);
        if (reader.u8()?, reader.u8()?) != (MAGIC_SEALED, VERSION) {
            return Err(Malformed("hello"));
        }
        Ok(Self {
            cluster: reader.u32()?,
            key: KeyId(reader.array::<ID_BYTES>()?),
            salt: reader.array::<SALT_BYTES>()?,
        })
    }

    /// What one end needs, once both hellos are there: `self` is its own.
    pub fn agree(&self, side: Side, theirs: &Self) -> Result<(LinkSealer, LinkOpener), Rejection> {
        if self.salt == theirs.salt {
            return Err(Rejection::Reflected);
        }
        let (opener, acceptor) = match side {
            Side::Opener => (self, theirs),
            Side::Acceptor => (theirs, self),
        };
        let mut salts = [0; 2 * SALT_BYTES];
        salts[..SALT_BYTES].copy_from_slice(&opener.salt);
        salts[SALT_BYTES..].copy_from_slice(&acceptor.salt);
        let written = |side| Direction {
            side,
            salts,
            cipher: None,
            counter: 0,
        };
        Ok((LinkSealer(written(side)), LinkOpener(written(side.other()))))
    }
}

impl LinkSealer {
    /// The bytes of a frame on the link, its length before it; `None` where there is no key.
    pub fn seal(&mut self, ring: &Ring, frame: &[u8]) -> Option<Vec<u8>> {
        let id = ring.primary()?.id();
        let len = u32::try_from(frame.len() + LINK_OVERHEAD_BYTES).ok()?;
        let mut bytes = Vec::with_capacity(4 + frame.len() + LINK_OVERHEAD_BYTES);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(frame);
        let (counter, cipher) = self.0.next(ring, id).ok()?;
        let tag = cipher.seal(counter, &id.0, &mut bytes[4 + ID_BYTES..]);
        bytes.extend_from_slice(&tag);
        Some(bytes)
    }
}

impl LinkOpener {
    /// Opens the next frame in place: takes its bytes without the length, and leaves the unsealed
    /// ones.
    pub fn open(&mut self, ring: &Ring, bytes: &mut Vec<u8>) -> Result<(), Rejection> {
        let (id, rest) = bytes
            .split_first_chunk_mut::<ID_BYTES>()
            .ok_or(Rejection::Malformed)?;
        let (body, tag) = rest
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(Rejection::Malformed)?;
        let (counter, cipher) = self.0.next(ring, KeyId(*id))?;
        cipher.open(counter, id, body, *tag)?;
        bytes.truncate(bytes.len() - TAG_BYTES);
        bytes.drain(..ID_BYTES);
        Ok(())
    }
}

impl Direction {
    /// The nonce of the next frame, and the key for it.
    fn next(&mut self, ring: &Ring, id: KeyId) -> Result<(u64, &Cipher), Rejection> {
        // Also where the cipher is there already: the key may have been retired meanwhile.
        let key = ring.find(id).ok_or(Rejection::UnknownKey)?;
        self.counter += 1;
        let (side, salts) = (self.side, &self.salts);
        let cipher = self
            .cipher
            .take_if(|(last, _)| *last == id)
            .unwrap_or_else(|| (id, key.derive(side.purpose(), salts, ring.cluster())));
        Ok((self.counter, &self.cipher.insert(cipher).1))
    }
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Opener => Self::Acceptor,
            Self::Acceptor => Self::Opener,
        }
    }

    fn purpose(self) -> &'static [u8] {
        match self {
            Self::Opener => b"link from its opener",
            Self::Acceptor => b"link from its acceptor",
        }
    }
}
