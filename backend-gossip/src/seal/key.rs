//! Cluster keys, and the keys that are derived from them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use hkdf::Hkdf;
use serde::Deserialize;
use sha2::Sha256;
use tidings_api::config::Secret;
use tidings_api::{Error, Result};
use zeroize::{Zeroize, Zeroizing};

use super::{Rejection, TAG_BYTES};

/// Length of a key in bytes.
const KEY_BYTES: usize = 32;
/// Length of a key's id in bytes.
pub(super) const ID_BYTES: usize = 4;
/// Begins the context of everything that is derived; names the scheme and its version.
const CONTEXT: &[u8] = b"tidings gossip seal 1 ";

/// Longest text that is shown where it should have been a key's id: a slip of one, and little of a key.
const ID_CHARS_SHOWN_MAX: usize = 16;

const ACCEPTED: &str = "accepted are 32 random bytes, as base64 (44 characters) or hexadecimal (64), such as \
                        \"openssl rand -base64 32\" writes";

/// A cluster key: 32 random bytes that all members have.
///
/// Reads from base64 or hexadecimal text. `Debug` shows its [id](Self::id) and nothing else, and its
/// bytes are wiped when it is dropped.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Secret")]
pub struct SealKey {
    bytes: [u8; KEY_BYTES],
    id: KeyId,
}

/// Names a cluster key without giving it away: derived from it one way. Prints as eight hexadecimal
/// digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(super) [u8; ID_BYTES]);

impl SealKey {
    /// Takes a key of 32 bytes as it is.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) where all bytes are equal: nobody drew that.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Result<Self> {
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            let message = "a key of equal bytes: accepted are 32 random bytes";
            return Err(Error::invalid_config(message));
        }
        Ok(Self::new(bytes))
    }

    /// Names it without giving it away.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key in base64, for whoever hands it on to other members: to be kept as secret as itself.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.bytes))
    }

    /// The key that the holder of `salt` seals with, for one `purpose` in one cluster.
    pub(super) fn derive(&self, purpose: &[u8], salt: &[u8], cluster: &str) -> Cipher {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        // The length keeps purposes and names apart.
        let info = [CONTEXT, &[purpose.len() as u8], purpose, cluster.as_bytes()];
        expand(&self.bytes, salt, &info, &mut *key);
        Cipher(ChaCha20Poly1305::new(&(*key).into()))
    }

    fn new(bytes: [u8; KEY_BYTES]) -> Self {
        let mut id = [0; ID_BYTES];
        expand(&bytes, &[], &[CONTEXT, b"\x02id"], &mut id);
        Self {
            bytes,
            id: KeyId(id),
        }
    }
}

/// A derived key.
pub(super) struct Cipher(ChaCha20Poly1305);

impl Cipher {
    /// Encrypts in place; answers the tag.
    pub(super) fn seal(&self, counter: u64, context: &[u8], bytes: &mut [u8]) -> [u8; TAG_BYTES] {
        let sealed = self
            .0
            .encrypt_inout_detached(&nonce(counter), context, bytes.into());
        // It fails for more than 256 GiB alone; the tag of none of them would open.
        sealed.map_or([0; TAG_BYTES], Into::into)
    }

    /// Decrypts in place what was sealed with this key, counter and context.
    pub(super) fn open(
        &self,
        counter: u64,
        context: &[u8],
        bytes: &mut [u8],
        tag: [u8; TAG_BYTES],
    ) -> std::result::Result<(), Rejection> {
        let tag = Tag::from(tag);
        self.0
            .decrypt_inout_detached(&nonce(counter), context, bytes.into(), &tag)
            .map_err(|_| Rejection::Forged)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce.into()
}

fn expand(key: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let expanded = Hkdf::<Sha256>::new(Some(salt), key).expand_multi_info(info, out);
    debug_assert!(expanded.is_ok(), "32 bytes and less can always be derived");
}

impl FromStr for SealKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let bytes = if text.len() == 2 * KEY_BYTES {
            from_hex(text)
        } else {
            let text = text.trim_end_matches('=');
            STANDARD_NO_PAD.decode(text).ok().map(Zeroizing::new)
        };
        let bytes = bytes.and_then(|bytes| <[u8; KEY_BYTES]>::try_from(&**bytes).ok());
        // Not the text: it may be a key with a letter too many.
        let key = bytes.ok_or_else(|| Error::invalid_config(format!("a key: {ACCEPTED}")))?;
        Self::from_bytes(key)
    }
}

fn from_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = Zeroizing::new(digits?);
    let bytes = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]);
    Some(Zeroizing::new(bytes.collect()))
}

/// Without the value: errors about secrets don't show it.
impl TryFrom<Secret> for SealKey {
    type Error = &'static str;

    fn try_from(secret: Secret) -> std::result::Result<Self, &'static str> {
        secret.expose().parse().map_err(|_| ACCEPTED)
    }
}

impl Drop for SealKey {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.id)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher(***)")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl FromStr for KeyId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.len() == 2 * ID_BYTES && text.chars().all(|c| c.is_ascii_hexdigit());
        let id = u32::from_str_radix(text, 16).ok().filter(|_| digits);
        id.map(|id| Self(id.to_be_bytes())).ok_or_else(|| {
            // A long text may be a key, pasted where its id belongs.
            let shown = match text.len() {
                0..=ID_CHARS_SHOWN_MAX => tidings_api::config::shown(text),
                _ => "too long to be shown".to_owned(),
            };
            Error::invalid_config(format!("key id {shown}: accepted are 8 hexadecimal digits"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE64: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
    const HEX: &str = "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20";

    #[test]
    fn a_key_is_read_from_base64_and_hexadecimal() {
        let key: SealKey = BASE64.parse().unwrap();
        assert_eq!(HEX.parse::<SealKey>().unwrap(), key);
        assert_eq!(
            BASE64.trim_end_matches('=').parse::<SealKey>().unwrap(),
            key
        );
        assert_eq!(key.expose().as_str(), BASE64);
        assert_ne!(SealKey::generate().unwrap(), SealKey::generate().unwrap());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let short = &BASE64[..40];
        let odd = format!("{}g", &HEX[..63]);
        for text in ["", "hunter2", short, &odd, &"A".repeat(44)] {
            let error = text.parse::<SealKey>().unwrap_err();
            assert_eq!(error.kind(), tidings_api::ErrorKind::InvalidConfig);
            let said = error.to_string();
            assert!(said.contains("accepted are 32 random bytes"), "{said}");
            assert!(text.is_empty() || !said.contains(text), "{said}");
        }
    }

    #[test]
    fn a_key_shows_its_id_alone_and_the_id_is_frozen() {
        let key: SealKey = BASE64.parse().unwrap();
        assert_eq!(format!("{key:?}"), format!("SealKey({})", key.id()));
        assert_eq!(key.id().to_string().parse::<KeyId>().unwrap(), key.id());
        assert_eq!(key.id().to_string(), "7fcdae54");
        assert!("7fcdae5".parse::<KeyId>().is_err() && "+fcdae54".parse::<KeyId>().is_err());
    }

    #[test]
    fn a_key_where_an_id_belongs_is_refused_without_being_shown() {
        for text in [BASE64, HEX, BASE64.trim_end_matches('=')] {
            let said = text.parse::<KeyId>().unwrap_err().to_string();
            assert!(said.contains("8 hexadecimal digits"), "{said}");
            assert!(!said.contains(&text[..8]), "{said}");
        }
        let said = "7fcdae5".parse::<KeyId>().unwrap_err().to_string();
        assert!(said.contains("7fcdae5"), "{said}");
    }

    #[test]
    fn derived_keys_differ_in_key_purpose_salt_and_cluster() {
        let (one, other) = (
            BASE64.parse::<SealKey>().unwrap(),
            SealKey::generate().unwrap(),
        );
        let sealed = |cipher: Cipher| cipher.seal(1, b"", &mut [0; 4]);
        let tags = [
            sealed(one.derive(b"datagram", &[1; 16], "tidings")),
            sealed(other.derive(b"datagram", &[1; 16], "tidings")),
            sealed(one.derive(b"link", &[1; 16], "tidings")),
            sealed(one.derive(b"datagram", &[2; 16], "tidings")),
            sealed(one.derive(b"datagram", &[1; 16], "tidings2")),
        ];
        for (at, tag) in tags.iter().enumerate() {
            assert!(!tags[..at].contains(tag), "{at}");
        }
    }
}
