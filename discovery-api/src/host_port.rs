//! A host where the port may be left to a default.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::name::shown;
use crate::{Address, Error, Host, Result};

/// A host with or without a port, where configuration names one: `10.0.0.7`, `[::1]:7946`,
/// `seed.internal:0`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: Host,
    port: Option<u16>,
}

impl HostPort {
    /// A host with or without a port.
    #[must_use]
    pub fn new(host: Host, port: Option<u16>) -> Self {
        Self { host, port }
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, where one is given; 0 is left to whoever gives it a meaning.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// An address that can be connected to, with `default_port` where no port is given.
    ///
    /// # Errors
    /// Where the port is 0.
    pub fn to_address(&self, default_port: u16) -> Result<Address> {
        Address::new(self.host.to_string(), self.port.unwrap_or(default_port))
    }
}

impl FromStr for HostPort {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (host, port) = split(text)?;
        let port = port.map(|port| parse_port(&host, port)).transpose()?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) if ip.is_ipv6() => write!(f, "[{ip}]")?,
            host => host.fmt(f)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

fn split(text: &str) -> Result<(Host, Option<&str>)> {
    if let Some((bare, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let ip: Ipv6Addr = bare.parse().map_err(|_| {
            Error::invalid_input(format!(
                "host {} in brackets: accepted is an IPv6 address",
                shown(bare)
            ))
        })?;
        return match rest.strip_prefix(':') {
            None if !rest.is_empty() => Err(not_a_host_port(text)),
            port => Ok((Host::Ip(ip.into()), port)),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(not_a_host_port(text)),
        Some((host, port)) => Ok((host.parse()?, Some(port))),
        None => Ok((text.parse()?, None)),
    }
}

fn parse_port(host: &Host, text: &str) -> Result<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits => Ok(port),
        // Anything but a number isn't shown: it may be a password that lost its `@`.
        _ => Err(Error::invalid_input(format!(
            "port {} of host {host}: accepted are 0 to 65535",
            if digits {
                shown(text)
            } else {
                "(no number)".into()
            },
        ))),
    }
}

fn not_a_host_port(text: &str) -> Error {
    // Only an address is shown whole: behind the first colon of anything else may be a password.
    let start = match text.parse::<Ipv6Addr>() {
        Ok(_) => text,
        Err(_) => text.split(':').next().unwrap_or_default(),
    };
    Error::invalid_input(format!(
        "what starts with {} is no host: accepted are host, host:port and, for IPv6, [address] \
         and [address]:port",
        shown(start)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_print_as_they_parse() {
        for text in ["a", "a:0", "10.0.0.7:1", "[::1]", "[::1]:7946"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        let address = |text: &str| text.parse::<HostPort>().unwrap().to_address(7946);
        assert_eq!(address("[::1]").unwrap().to_string(), "[::1]:7946");
        assert!(address("a:0").is_err());
    }
}
