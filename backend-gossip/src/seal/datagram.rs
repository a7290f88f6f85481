//! Datagrams: sealed for everybody, opened once.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::key::{Cipher, ID_BYTES};
use super::ring::KEYS_MAX;
use super::unproven::{Held, Unproven};
use super::window::Window;
use super::{
    Counters, HEADER_BYTES, KeyId, MAGIC_CONTROL, MAGIC_SEALED, Rejection, Ring, SHARED_BYTES,
    SealStats, TAG_BYTES,
};
use crate::wire::limits::VERSION;
use crate::wire::{MAGIC, Reader};

const START_BYTES: usize = 16;
const PURPOSE: &[u8] = b"datagram";
/// Starts whose windows are remembered: several times the members of the largest cluster that is
/// tested. Who is forgotten proves itself again.
const STARTS_MAX: usize = 32_768;
/// Windows that are remembered of one start, those of retired keys among them: as many as there can be keys.
const WINDOWS_MAX: usize = KEYS_MAX;

/// In a control frame: asks for a proof, and the number that it has to carry.
const CHALLENGE: u8 = 1;
/// In a control frame: the start that asked, and its number.
const PROOF: u8 = 2;

/// Names one start of a member, at random.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StartId(pub [u8; START_BYTES]);

/// The sealing of one member's datagrams.
#[derive(Debug)]
pub struct Datagrams {
    ring: Arc<Ring>,
    counters: Arc<Counters>,
    me: StartId,
    /// Of the last frame sealed, with whatever key: it never repeats.
    counter: u64,
    sealing: Option<(KeyId, Cipher)>,
    starts: HashMap<StartId, Start>,
    unproven: Unproven,
    released: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Counts what is heard, to know who was heard longest ago.
    heard: u64,
}

/// What came of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// The frame that now lies there in it: all of it where unsealed ones are allowed.
    Frame(Range<usize>),
    /// Nothing for the engine, but this to be sent back as it is; and what waited may be
    /// [released](Datagrams::next_released).
    Reply(Vec<u8>),
    /// Nothing; what waited may be released.
    Nothing,
}

/// A start of another member that has proven to be there.
#[derive(Debug)]
struct Start {
    /// By the cluster keys it has sealed with: one, and two in a rotation.
    ciphers: Vec<(KeyId, Cipher)>,
    /// By cluster key: who has one can claim any counter in the name of others, and all that follows under
    /// that key is late. What follows under the next one isn't.
    windows: Vec<(KeyId, Window)>,
    heard: u64,
}

/// What stands before the encrypted bytes.
#[derive(Clone, Copy)]
struct Header {
    magic: u8,
    cluster: u32,
    key: KeyId,
    start: StartId,
    counter: u64,
}

impl Datagrams {
    /// `me` has to be random, and another one at every start of a member: it is what keeps two of them
    /// from sealing with the same key and nonce.
    #[must_use]
    pub fn new(ring: Arc<Ring>, me: StartId, counters: Arc<Counters>) -> Self {
        Self {
            ring,
            counters,
            me,
            counter: 0,
            sealing: None,
            starts: HashMap::new(),
            unproven: Unproven::default(),
            released: VecDeque::new(),
            heard: 0,
        }
    }

    /// Goes on with other keys, or in another mode.
    pub fn set_ring(&mut self, ring: Arc<Ring>) {
        self.sealing = None;
        for start in self.starts.values_mut() {
            start.ciphers.retain(|(id, _)| ring.find(*id).is_some());
        }
        self.ring = ring;
    }

    /// The bytes to send for a frame of the engine.
    pub fn seal(&mut self, frame: Vec<u8>) -> Vec<u8> {
        if !self.ring.mode().sends_sealed() {
            return frame;
        }
        let body = frame.get(SHARED_BYTES..).unwrap_or_default();
        self.seal_as(MAGIC_SEALED, body).unwrap_or(frame)
    }

    /// What came in a datagram, which is decrypted in place.
    pub fn open(&mut self, now: Instant, from: SocketAddr, bytes: &mut [u8]) -> Opened {
        let mode = self.ring.mode();
        let sealed = matches!(bytes.first(), Some(&(MAGIC_SEALED | MAGIC_CONTROL)));
        if !mode.hears_sealed() || (!sealed && mode.hears_unsealed()) {
            return Opened::Frame(0..bytes.len());
        }
        let opened = if sealed {
            self.open_sealed(now, from, bytes)
        } else {
            Err(Rejection::Unsealed)
        };
        opened.unwrap_or_else(|rejection| {
            self.counters.rejected(rejection);
            Opened::Nothing
        })
    }

    /// The next frame whose sender has proven to be there since it came.
    pub fn next_released(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.released.pop_front()
    }

    /// Whether there is one.
    #[must_use]
    pub fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// What was counted, of links as well where they share the counters.
    #[must_use]
    pub fn stats(&self) -> SealStats {
        self.counters.stats()
    }

    fn open_sealed(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &mut [u8],
    ) -> Result<Opened, Rejection> {
        let header = Header::decode(bytes)?;
        if header.cluster != self.ring.cluster_hash() {
            return Err(Rejection::Foreign);
        }
        if header.start == self.me {
            return Err(Rejection::Reflected);
        }
        let key = self.ring.find(header.key).ok_or(Rejection::UnknownKey)?;
        let derive = || key.derive(PURPOSE, &header.start.0, self.ring.cluster());

        let Some(start) = self.starts.get_mut(&header.start) else {
            header.decrypt(&derive(), bytes)?;
            return Ok(self.hear_unproven(now, from, header, bytes));
        };
        // Before the work of decrypting, which a recorded frame isn't worth.
        start.check(header.key, header.counter)?;
        header.decrypt(start.cipher(header.key, derive), bytes)?;
        start.admit(&self.ring, header.key, header.counter)?;
        self.heard += 1;
        start.heard = self.heard;
        if header.magic == MAGIC_CONTROL {
            return Ok(self.hear_control(now, header, bytes));
        }
        self.counters.opened();
        Ok(Opened::Frame(unsealed(bytes)))
    }

    /// An authentic frame of a start that may be long over.
    fn hear_unproven(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: Header,
        bytes: &mut [u8],
    ) -> Opened {
        if header.magic == MAGIC_CONTROL {
            return self.hear_control(now, header, bytes);
        }
        let place = unsealed(bytes);
        let frame = bytes[place].to_vec();
        let held = Held {
            at: now,
            from,
            key: header.key,
            counter: header.counter,
            frame,
        };
        let dropped = self.unproven.hold(header.start, held);
        (0..dropped).for_each(|_| self.counters.rejected(Rejection::Unproven));
        let challenge = self.challenge(header.start);
        let reply = self.seal_as(MAGIC_CONTROL, &challenge);
        reply.map_or(Opened::Nothing, Opened::Reply)
    }

    /// Challenges and proofs, with the answers to them.
    fn hear_control(&mut self, now: Instant, header: Header, bytes: &[u8]) -> Opened {
        let mut reader = Reader::new(body(bytes));
        let mut answer = Vec::new();
        while let Ok(kind) = reader.u8() {
            match kind {
                // One a datagram, as it is sent: a full one would be answered with three times its bytes.
                CHALLENGE if answer.is_empty() => {
                    let Ok(number) = reader.u64() else { break };
                    answer.push(PROOF);
                    answer.extend_from_slice(&header.start.0);
                    answer.extend_from_slice(&number.to_be_bytes());
                }
                PROOF => {
                    let (Ok(asked), Ok(number)) = (reader.take(START_BYTES), reader.u64()) else {
                        break;
                    };
                    if asked == self.me.0
                        && let Some(held) = self.unproven.prove(header.start, number)
                    {
                        self.trust(now, header, held);
                    }
                }
                // Of a newer version, and so is what follows.
                _ => break,
            }
        }
        if answer.is_empty() {
            return Opened::Nothing;
        }
        if !self.starts.contains_key(&header.start) {
            // It is about to send something: spares it a round trip.
            answer.extend(self.challenge(header.start));
        }
        self.seal_as(MAGIC_CONTROL, &answer)
            .map_or(Opened::Nothing, Opened::Reply)
    }

    /// A start has proven to be there: what waited for that is heard.
    fn trust(&mut self, now: Instant, header: Header, held: Vec<Held>) {
        if self.starts.len() >= STARTS_MAX {
            self.forget_some();
        }
        self.heard += 1;
        let mut start = Start::new(&self.ring, header.counter, self.heard);
        for held in held {
            match start.admit(&self.ring, held.key, held.counter) {
                Ok(()) if held.is_fresh(now) => {
                    self.counters.opened();
                    self.released.push_back((held.from, held.frame));
                }
                Ok(()) => self.counters.rejected(Rejection::Unproven),
                Err(rejection) => self.counters.rejected(rejection),
            }
        }
        self.starts.insert(header.start, start);
    }

    /// Forgets the eighth that was heard longest ago.
    fn forget_some(&mut self) {
        let mut heard: Vec<_> = self.starts.values().map(|start| start.heard).collect();
        heard.sort_unstable();
        let oldest = heard.get(heard.len() / 8).copied().unwrap_or_default();
        self.starts.retain(|_, start| start.heard > oldest);
    }

    fn challenge(&mut self, start: StartId) -> Vec<u8> {
        self.counters.challenged();
        let number = self.unproven.number(start);
        [&[CHALLENGE], &number.to_be_bytes()[..]].concat()
    }

    /// Sealed as if it had this counter.
    #[cfg(test)]
    pub(super) fn seal_at(&mut self, counter: u64, frame: Vec<u8>) -> Vec<u8> {
        self.counter = counter - 1;
        self.seal(frame)
    }

    /// `None` where there is no key.
    fn seal_as(&mut self, magic: u8, body: &[u8]) -> Option<Vec<u8>> {
        let key = self.ring.primary()?;
        let id = key.id();
        let (_, cipher) = self.sealing.get_or_insert_with(|| {
            let cipher = key.derive(PURPOSE, &self.me.0, self.ring.cluster());
            (id, cipher)
        });
        self.counter += 1;
        let header = Header {
            magic,
            cluster: self.ring.cluster_hash(),
            key: id,
            start: self.me,
            counter: self.counter,
        };
        let header = header.encode();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + TAG_BYTES);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(body);
        let tag = cipher.seal(self.counter, &header, &mut bytes[HEADER_BYTES..]);
        bytes.extend_from_slice(&tag);
        self.counters.sealed();
        Some(bytes)
    }
}

impl Start {
    /// One whose proof had this counter: what it sealed long before, with whichever key of the ring, is late.
    fn new(ring: &Ring, counter: u64, heard: u64) -> Self {
        let windows = ring.ids().map(|id| (id, Window::new(counter)));
        Self {
            ciphers: Vec::new(),
            windows: windows.collect(),
            heard,
        }
    }

    fn check(&self, id: KeyId, counter: u64) -> Result<(), Rejection> {
        let window = self.windows.iter().find(|(other, _)| *other == id);
        window.map_or(Ok(()), |(_, window)| window.check(counter))
    }

    fn admit(&mut self, ring: &Ring, id: KeyId, counter: u64) -> Result<(), Rejection> {
        if let Some((_, window)) = self.windows.iter_mut().find(|(other, _)| *other == id) {
            return window.admit(counter);
        }
        ring.find(id).ok_or(Rejection::UnknownKey)?;
        // Its first frame under a key that is new here. Windows of retired keys stay as long as there is
        // room for them: one may come back.
        if self.windows.len() >= WINDOWS_MAX {
            let retired = |(id, _): &(KeyId, Window)| ring.find(*id).is_none();
            let oldest = self.windows.iter().position(retired);
            self.windows.remove(oldest.unwrap_or(0));
        }
        self.windows.reserve_exact(1);
        self.windows.push((id, Window::new(counter)));
        Ok(())
    }

    fn cipher(&mut self, id: KeyId, derive: impl FnOnce() -> Cipher) -> &Cipher {
        let at = self.ciphers.iter().position(|(other, _)| *other == id);
        let at = at.unwrap_or_else(|| {
            self.ciphers.push((id, derive()));
            self.ciphers.len() - 1
        });
        &self.ciphers[at].1
    }
}

impl Header {
    fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.magic;
        bytes[1] = VERSION;
        bytes[2..6].copy_from_slice(&self.cluster.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.key.0);
        bytes[10..26].copy_from_slice(&self.start.0);
        bytes[26..34].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, Rejection> {
        if bytes.len() < HEADER_BYTES + TAG_BYTES {
            return Err(Rejection::Malformed);
        }
        Self::read(bytes).map_err(|_| Rejection::Malformed)
    }

    fn read(bytes: &[u8]) -> crate::wire::Decoded<Self> {
        let mut reader = Reader::new(bytes);
        let magic = reader.u8()?;
        if reader.u8()? != VERSION {
            return Err(crate::wire::Malformed("version"));
        }
        Ok(Self {
            magic,
            cluster: reader.u32()?,
            key: KeyId(reader.array::<ID_BYTES>()?),
            start: StartId(reader.array::<START_BYTES>()?),
            counter: reader.u64()?,
        })
    }

    fn decrypt(&self, cipher: &Cipher, bytes: &mut [u8]) -> Result<(), Rejection> {
        let (header, rest) = bytes.split_at_mut(HEADER_BYTES);
        let (body, tag) = rest
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(Rejection::Malformed)?;
        cipher.open(self.counter, header, body, *tag)
    }
}

/// What was encrypted in a datagram.
fn body(bytes: &[u8]) -> &[u8] {
    &bytes[HEADER_BYTES..bytes.len() - TAG_BYTES]
}

/// Where the frame lies in a decrypted datagram: what it shares with the header moves to its front.
fn unsealed(bytes: &mut [u8]) -> Range<usize> {
    const FRONT: usize = HEADER_BYTES - SHARED_BYTES;
    bytes.copy_within(..SHARED_BYTES, FRONT);
    bytes[FRONT] = MAGIC;
    FRONT..bytes.len() - TAG_BYTES
}

impl fmt::Debug for StartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StartId({:032x})", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{SealKey, SealMode};

    #[test]
    fn a_datagram_full_of_challenges_is_answered_with_one_proof() {
        let key = SealKey::from_bytes(std::array::from_fn(|at| at as u8)).unwrap();
        let ring = Arc::new(Ring::new("tidings", vec![key], SealMode::Required).unwrap());
        let member = |start| Datagrams::new(ring.clone(), StartId([start; 16]), Arc::default());
        let (mut forger, mut victim) = (member(1), member(2));
        let challenge = [&[CHALLENGE], &7_u64.to_be_bytes()[..]].concat();
        for count in [1, 100] {
            let asked = forger.seal_as(MAGIC_CONTROL, &challenge.repeat(count));
            let mut asked = asked.unwrap();
            let from = SocketAddr::from(([10, 0, 0, 1], 1));
            let Opened::Reply(answer) = victim.open(Instant::now(), from, &mut asked) else {
                panic!("no answer");
            };
            // One proof, and one challenge of its own.
            let longest = HEADER_BYTES + 1 + START_BYTES + 8 + 1 + 8 + TAG_BYTES;
            assert_eq!(answer.len(), longest, "for {count} challenges");
        }
    }
}
