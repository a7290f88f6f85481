//! Where instances stand in etcd: `NAMESPACE/SERVICE/INSTANCE`.
//!
//! This is also where Go's naming resolver looks for them, with the target
//! `etcd:///NAMESPACE/SERVICE`; versions before 3.5.10 need a slash at its end to keep out services
//! whose names only start the same.

use tidings_api::{InstanceId, InstanceKey, NAME_BYTES_MAX, Selector, ServiceName};

/// The keys of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// With the slash at its end.
    prefix: String,
}

impl Keys {
    pub(crate) fn new(namespace: &str) -> Self {
        Self {
            prefix: format!("{namespace}/"),
        }
    }

    /// What all keys of a selector start with, and no others.
    pub(crate) fn prefix(&self, selector: &Selector) -> Vec<u8> {
        match selector {
            Selector::Service(service) => format!("{}{service}/", self.prefix).into_bytes(),
            Selector::All => self.prefix.clone().into_bytes(),
        }
    }

    /// Where an instance of this backend stands.
    pub(crate) fn of(&self, key: &InstanceKey) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }

    /// Which instance stands at `raw`; `None` where it can't be one.
    ///
    /// What others write behind the service's name may be anything, such as `[::1]:80` or a path. It
    /// becomes an id that is valid, always the same, and nobody else's.
    pub(crate) fn parse(&self, raw: &[u8]) -> Option<InstanceKey> {
        let rest = std::str::from_utf8(raw).ok()?.strip_prefix(&self.prefix)?;
        let (service, id) = rest.split_once('/')?;
        let id = InstanceId::new(id).or_else(|_| InstanceId::new(derived(id)));
        Some(InstanceKey::new(ServiceName::new(service).ok()?, id.ok()?))
    }
}

/// A valid id for a text that is none.
fn derived(text: &str) -> String {
    const HASH_DIGITS: usize = 16;
    let accepted = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    let kept = NAME_BYTES_MAX - HASH_DIGITS - 1;
    let readable: String = text
        .chars()
        .map(|c| if accepted(c) { c } else { '_' })
        .take(kept)
        .collect();
    format!("{readable}-{:016x}", fnv1a(text.as_bytes()))
}

/// FNV-1a: the same on every machine and version, which the standard library's hash is not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_parse_as_they_are_written() {
        let keys = Keys::new("prod/eu");
        let key: InstanceKey = "web/a:1".parse().unwrap();
        assert_eq!(keys.of(&key), b"prod/eu/web/a:1");
        assert_eq!(keys.parse(b"prod/eu/web/a:1"), Some(key));
        let web = Selector::Service("web".parse().unwrap());
        assert_eq!(keys.prefix(&web), b"prod/eu/web/");
    }

    #[test]
    fn what_others_write_becomes_a_valid_id_or_nothing() {
        let keys = Keys::new("n");
        let id = |raw: &[u8]| keys.parse(raw).map(|key| key.id().to_string());
        let v6 = id(b"n/web/[::1]:80").unwrap();
        assert!(v6.starts_with("_::1_:80-"), "{v6}");
        assert_ne!(id(b"n/web/a b"), id(b"n/web/a_b"));
        assert_eq!(id(b"n/web/a b"), id(b"n/web/a b"));
        assert_eq!(id(b"n/web/a/b"), id(b"n/web/a/b"));
        let long = [b"n/web/".to_vec(), vec![b'x'; 5_000]].concat();
        assert_eq!(id(&long).unwrap().len(), NAME_BYTES_MAX);
        for none in [
            &b"n/web"[..],
            b"other/web/a",
            b"n/-/a",
            b"n/web/\xff",
            b"n//a",
            b"",
        ] {
            assert_eq!(id(none), None, "{none:?}");
        }
    }
}
