//! Where an instance can be reached.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::shown;
use crate::{Error, Result};

/// Longest host name in bytes (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// A host (IPv4, IPv6 or DNS name) with a port: `10.0.0.7:8080`, `[::1]:80`, `web-1.internal:80`.
///
/// The port is 1–65535; it is what an instance *offers*, so 0 has no meaning here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: Host,
    port: u16,
}

/// The host of an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS host name, kept as written: 1–253 of `A-Za-z0-9._-`.
    Name(Arc<str>),
}

impl Address {
    /// An address of a host, as text without brackets, and a port.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) where the host is neither an IP address nor
    /// a DNS name, or the port is 0.
    pub fn new(host: impl AsRef<str>, port: u16) -> Result<Self> {
        let host = host.as_ref();
        if port == 0 {
            return Err(Error::invalid_input(format!(
                "port 0 of address {}: accepted are 1 to 65535",
                shown(host)
            )));
        }
        Ok(Self {
            host: host.parse()?,
            port,
        })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host at another port, for the named ports of an instance.
    #[must_use]
    pub fn at_port(&self, port: u16) -> Self {
        Self {
            host: self.host.clone(),
            port,
        }
    }

    /// The socket address, where the host is an IP address.
    #[must_use]
    pub fn to_socket_addr(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        let valid = (1..=HOST_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && text.split('.').all(|label| (1..=63).contains(&label.len()))
            // Digits and dots only is a mistyped IPv4 address, which no resolver may guess at.
            && !text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if valid {
            return Ok(Self::Name(text.into()));
        }
        Err(Error::invalid_input(format!(
            "host {} ({} bytes): accepted are an IPv4 or IPv6 address or a DNS host name",
            shown(text),
            text.len(),
        )))
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid_input(format!(
                "address {}: accepted is host:port, such as 10.0.0.7:8080, [::1]:80 or \
                 web-1.internal:80",
                shown(text)
            ))
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        if let Some(bare) = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            bare.parse::<Ipv6Addr>().map_err(|_| wrong())?;
            return Self::new(bare, port);
        }
        if host.contains(':') {
            return Err(wrong());
        }
        Self::new(host, port)
    }
}

impl TryFrom<String> for Address {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<&str> for Address {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<SocketAddr> for Address {
    type Error = Error;

    fn try_from(addr: SocketAddr) -> Result<Self> {
        Self::new(addr.ip().to_string(), addr.port())
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_parse() {
        for text in [
            "10.0.0.7:8080",
            "[::1]:80",
            "web-1.internal:65535",
            "My_Host:1",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let bad = [
            "",
            "web",
            "web:",
            ":80",
            "web:0",
            "web:65536",
            "::1:80",
            "[::1]",
            "[web]:80",
            "a..b:1",
            "10.0.0:80",
            "10.0.0.256:80",
            "we b:80",
            "[fe80::1%eth0]:80",
            "web:-1",
            "web:80/x",
        ];
        for text in bad {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains("accepted"), "{text}: {error}");
        }
    }
}
