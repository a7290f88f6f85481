//! Names that parse (LIM-1): what exists is valid, so that no backend validates again.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Longest service name, instance id, metadata key, zone and port name, in bytes (all ASCII).
/// Long enough for `my.package.Service` of the neighbours, short enough for every backend's keys.
pub const NAME_BYTES_MAX: usize = 128;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $field:literal, $extra:literal, $edges:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the rule of LIM-1 and keeps the text as it is.
            ///
            /// # Errors
            /// [`InvalidInput`](crate::ErrorKind::InvalidInput) that names the field, the value
            /// and what is accepted.
            pub fn new(text: impl AsRef<str>) -> Result<Self> {
                let text = text.as_ref();
                check($field, text, $extra, $edges)?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.as_str().to_owned()
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// The name that clients look up: 1–128 of `A-Za-z0-9._-`, starting and ending with a letter
    /// or digit, case-sensitive.
    ///
    /// A name that is also a [DNS label](Self::is_dns_label) is recommended: it works in every
    /// neighbour's DNS, certificates and metrics.
    ServiceName, "service name", "._-", true
}

name! {
    /// Tells the instances of one service apart: 1–128 of `A-Za-z0-9._:-`.
    InstanceId, "instance id", "._:-", false
}

name! {
    /// The key of a metadata entry: 1–128 of `A-Za-z0-9._-`.
    MetadataKey, "metadata key", "._-", false
}

name! {
    /// The name of a further port, such as `metrics`: 1–128 of `A-Za-z0-9._-`.
    PortName, "port name", "._-", false
}

name! {
    /// Where an instance runs, such as `eu-1a`: 1–128 of `A-Za-z0-9._-`.
    Zone, "zone", "._-", false
}

impl ServiceName {
    /// Whether the name is a DNS label as well (RFC 1123: 1–63 of `a-z0-9-`, starting and ending
    /// with a letter or digit).
    #[must_use]
    pub fn is_dns_label(&self) -> bool {
        self.0.len() <= 63
            && self
                .0
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
}

impl InstanceId {
    /// A new id that nobody else has: 16 hexadecimal digits of the system's randomness.
    ///
    /// # Panics
    /// Where the operating system has no source of randomness.
    #[must_use]
    pub fn generate() -> Self {
        let random = getrandom::u64().expect("the system has a source of randomness");
        Self(format!("{random:016x}").into())
    }
}

/// The identity of an instance in a namespace: the service and the instance id. Written
/// `service/id`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceKey {
    service: ServiceName,
    id: InstanceId,
}

impl InstanceKey {
    /// The key of instance `id` of `service`.
    #[must_use]
    pub fn new(service: ServiceName, id: InstanceId) -> Self {
        Self { service, id }
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The instance id.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        &self.id
    }
}

impl FromStr for InstanceKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (service, id) = text.split_once('/').ok_or_else(|| {
            Error::invalid_input(format!(
                "instance key {}: accepted is service/id",
                shown(text)
            ))
        })?;
        Ok(Self::new(ServiceName::new(service)?, InstanceId::new(id)?))
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.id)
    }
}

impl fmt::Debug for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

pub(crate) fn check(field: &str, text: &str, extra: &str, edges_alphanumeric: bool) -> Result<()> {
    let accepted = |b: u8| b.is_ascii_alphanumeric() || extra.as_bytes().contains(&b);
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let valid = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(accepted)
        && (!edges_alphanumeric || (edge(text.bytes().next()) && edge(text.bytes().next_back())));
    if valid {
        return Ok(());
    }
    let edges = if edges_alphanumeric {
        ", starting and ending with a letter or digit"
    } else {
        ""
    };
    Err(Error::invalid_input(format!(
        "{field} {} ({} bytes): accepted are 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 {extra}{edges}",
        shown(text),
        text.len(),
    )))
}

/// A value as it may stand in an error: quoted, escaped and cut to a readable length.
#[must_use]
pub fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 40;
    let cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{dots}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_follow_the_rule_and_keep_their_case() {
        for good in [
            "a",
            "orderService",
            "my.package.Service",
            "web-2",
            "9",
            &"x".repeat(128),
        ] {
            assert_eq!(ServiceName::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-web",
            "web-",
            ".a",
            "a b",
            "a/b",
            "naïve",
            "a\0",
            &"x".repeat(129),
        ] {
            assert!(ServiceName::new(bad).is_err(), "{bad:?}");
        }
        assert!(InstanceId::new("10.0.0.7:8080").is_ok() && InstanceId::new("-").is_ok());
    }

    #[test]
    fn an_error_names_field_value_and_rule() {
        let error = ServiceName::new("web 1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "service name \"web 1\" (5 bytes): accepted are 1 to 128 of A-Z a-z 0-9 ._-, \
             starting and ending with a letter or digit"
        );
        let long = InstanceId::new("x".repeat(5_000)).unwrap_err().to_string();
        assert!(long.len() < 200 && long.contains("(5000 bytes)"), "{long}");
    }

    #[test]
    fn dns_labels_are_recognised() {
        assert!(ServiceName::new("web-1").unwrap().is_dns_label());
        for not in ["Web", "a.b", "a_b", &"x".repeat(64)] {
            assert!(!ServiceName::new(not).unwrap().is_dns_label(), "{not}");
        }
    }

    #[test]
    fn keys_print_as_they_parse() {
        let key: InstanceKey = "payments/10.0.0.7:8080".parse().unwrap();
        assert_eq!(key.to_string(), "payments/10.0.0.7:8080");
        assert!("payments".parse::<InstanceKey>().is_err());
        assert_ne!(InstanceId::generate(), InstanceId::generate());
    }

    #[test]
    fn deserialising_validates() {
        assert!(serde_json::from_str::<ServiceName>("\"web\"").is_ok());
        assert!(serde_json::from_str::<ServiceName>("\"web/1\"").is_err());
    }
}
