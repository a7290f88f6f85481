//! Random changes of inputs, for runs without a fuzzer.

use fastrand::Rng;

/// Longest input made: what a fuzzer makes by default.
const BYTES_MAX: usize = 4_096;

/// `bytes` with a few changes; `other` is what parts may be taken from.
#[must_use]
pub fn mutated(rng: &mut Rng, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.usize(1..=4) {
        let at = rng.usize(..=bytes.len());
        let end = rng.usize(at..=bytes.len().min(at + 32));
        match rng.u8(..8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            2 if at < bytes.len() => bytes[at] = rng.u8(..),
            3 if at < bytes.len() => {
                bytes[at] = *rng.choice(&[0, 1, 0x7f, 0x80, 0xff]).unwrap_or(&0);
            }
            4 => drop(bytes.drain(at..end)),
            5 => bytes.truncate(at),
            6 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            _ => {
                let from = rng.usize(..=other.len());
                let to = rng.usize(from..=other.len().min(from + 128));
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
        }
    }
    bytes.truncate(BYTES_MAX);
    bytes
}
