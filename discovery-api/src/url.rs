//! The URL that names a backend: `scheme://user:password@host:port,host:port/path?key=value`.

use std::fmt;
use std::str::FromStr;

use crate::config::{Options, Secret};
use crate::name::shown;
use crate::{Error, HostPort, Result};

/// What a discovery URL says, taken apart; which parts have a meaning is the backend's to decide.
///
/// ```
/// use tidings_api::DiscoveryUrl;
///
/// let url: DiscoveryUrl = "etcd://a:2379,[::1]:2379/prod?ttl=10s".parse()?;
/// assert_eq!(url.scheme(), "etcd");
/// assert_eq!(url.hosts()[1].to_string(), "[::1]:2379");
/// assert_eq!(url.path(), "prod");
/// # Ok::<(), tidings_api::Error>(())
/// ```
///
/// Own rules rather than the web's, which know one host only:
/// * several hosts stand with commas between, each with or without a port;
/// * user, password, path and options are percent-decoded; `+` stands for itself;
/// * behind the hosts, an `@` stands in the value of an option alone; anywhere else it is written `%40`;
/// * an option that is given again becomes a list, as does one with commas where a list is wanted;
/// * a fragment (`#`), white space and control characters are refused.
///
/// Parsing is strict, and what it refuses it names. `Debug` and errors show neither user and
/// password nor the values of options.
#[derive(Clone, PartialEq, Eq)]
pub struct DiscoveryUrl {
    scheme: String,
    user: Option<String>,
    password: Option<Secret>,
    hosts: Vec<HostPort>,
    path: String,
    options: Options,
}

impl DiscoveryUrl {
    /// The scheme in lower case: the backend's name.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user, where one is given.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password, where one is given.
    #[must_use]
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// The hosts, in the order given; empty where there are none.
    #[must_use]
    pub fn hosts(&self) -> &[HostPort] {
        &self.hosts
    }

    /// The path without its first slash; empty where there is none.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The options behind the `?`.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }
}

impl FromStr for DiscoveryUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        check_characters(text)?;
        let (scheme, rest) = split_scheme(text)?;
        let (rest, query) = split_once_or_all(rest, '?');
        let (authority, path) = split_once_or_all(rest, '/');
        check_behind_hosts(path, query)?;
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(userinfo), hosts),
            None => (None, authority),
        };
        let (user, password) = userinfo.map(split_userinfo).transpose()?.unzip();
        let hosts = split_hosts(hosts).map_err(|error| {
            // A password with a raw `/` or `?` ends the authority early, and its first half would
            // stand in the error as a port or host.
            if userinfo.is_none() && text.contains('@') {
                unescaped("the hosts can't be read, and there is an \"@\" further on")
            } else {
                refused(error.to_string())
            }
        })?;
        Ok(Self {
            scheme,
            user,
            password: password.flatten(),
            hosts,
            path: decode(path.unwrap_or_default(), "the path")?,
            options: query.map(split_options).transpose()?.unwrap_or_default(),
        })
    }
}

impl TryFrom<&str> for DiscoveryUrl {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

/// The URL without what may be secret.
impl fmt::Debug for DiscoveryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if self.user.is_some() {
            f.write_str("***@")?;
        }
        for (at, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if at == 0 { "" } else { "," })?;
        }
        if !self.path.is_empty() {
            write!(f, "/{}", self.path.escape_debug())?;
        }
        for (at, key) in self.options.keys().enumerate() {
            let mark = if at == 0 { '?' } else { '&' };
            write!(f, "{mark}{}=***", key.escape_debug())?;
        }
        Ok(())
    }
}

fn check_characters(text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(refused(
            "it is empty: accepted is a URL such as gossip://127.0.0.1:7946?join=seed.internal",
        ));
    }
    match text.find(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        Some(at) if text[at..].starts_with('#') => Err(refused(format!(
            "\"#\" at byte {at}: a URL here has no fragment, and # itself is written %23"
        ))),
        Some(at) => Err(refused(format!(
            "white space or a control character at byte {at}: accepted is its percent-encoding, \
             such as %20"
        ))),
        None => Ok(()),
    }
}

/// A password with a raw `/` or `?` ends the authority early, which may read as hosts then, and its second
/// half would be shown as a path or as the name of an option.
fn check_behind_hosts(path: Option<&str>, query: Option<&str>) -> Result<()> {
    let pairs = query.into_iter().flat_map(|query| query.split('&'));
    let names = pairs.map(|pair| split_once_or_all(pair, '=').0);
    match path.into_iter().chain(names).any(|part| part.contains('@')) {
        true => Err(unescaped(
            "there is an \"@\" in the path or in the name of an option",
        )),
        false => Ok(()),
    }
}

fn split_scheme(text: &str) -> Result<(String, &str)> {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
    let (scheme, rest) = text.split_at(text.find(|c| !is_scheme(c)).unwrap_or(text.len()));
    match rest.strip_prefix("://") {
        Some(rest) if scheme.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            Ok((scheme.to_ascii_lowercase(), rest))
        }
        // Only the scheme is shown: the rest may hold a password.
        _ => Err(refused(format!(
            "no \"scheme://\" but {}: accepted is scheme://host:port/path?key=value",
            shown(scheme)
        ))),
    }
}

fn split_once_or_all(text: &str, mark: char) -> (&str, Option<&str>) {
    match text.split_once(mark) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn split_userinfo(text: &str) -> Result<(String, Option<Secret>)> {
    let (user, password) = split_once_or_all(text, ':');
    if user.is_empty() {
        return Err(refused("the user before the \"@\" is empty"));
    }
    let password = password.map(|text| decode(text, "the password").map(Secret::new));
    Ok((decode(user, "the user")?, password.transpose()?))
}

fn split_hosts(text: &str) -> Result<Vec<HostPort>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(str::parse).collect()
}

fn split_options(query: &str) -> Result<Options> {
    let mut options = Options::default();
    for pair in query.split('&') {
        let (key, value) = split_once_or_all(pair, '=');
        let key = decode(key, "the name of an option")?;
        if key.is_empty() {
            return Err(refused(
                "an option without a name: accepted is ?key=value&key=value",
            ));
        }
        let Some(value) = value else {
            return Err(refused(format!(
                "option {} without a value: accepted is key=value",
                shown(&key)
            )));
        };
        let value = decode(value, &format!("option {}", shown(&key)))?;
        options.add(key, value);
    }
    Ok(options)
}

/// Decodes `%41` and the like; `part` names what is decoded, whose value stays out of errors.
fn decode(text: &str, part: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(refused(format!(
                "{part} has a % without two hexadecimal digits: % itself is written %25"
            )));
        };
        bytes.extend(u8::try_from(high * 16 + low));
    }
    String::from_utf8(bytes)
        .map_err(|_| refused(format!("{part} is not UTF-8 once percent-decoded")))
}

fn unescaped(what: &str) -> Error {
    refused(format!(
        "{what}: in a user or password / is written %2F, ? is %3F and @ is %40"
    ))
}

fn refused(message: impl fmt::Display) -> Error {
    Error::invalid_config(format!("discovery url: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> DiscoveryUrl {
        text.parse().expect(text)
    }

    fn error(text: &str) -> String {
        let error = text.parse::<DiscoveryUrl>().expect_err(text);
        assert_eq!(error.kind(), crate::ErrorKind::InvalidConfig);
        error.to_string()
    }

    #[test]
    fn every_part_is_read_and_decoded() {
        let whole = url("ETCD://ro%40ot:p%2Fw:1@a:2379,10.0.0.1,[::1]:7/pr%20od/x?ttl=10s&k=a%26b");
        assert_eq!(whole.scheme(), "etcd");
        assert_eq!(whole.user(), Some("ro@ot"));
        assert_eq!(whole.password().map(Secret::expose), Some("p/w:1"));
        let hosts: Vec<_> = whole.hosts().iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["a:2379", "10.0.0.1", "[::1]:7"]);
        assert_eq!(whole.path(), "pr od/x");
        let mut options = Options::default();
        options.add("ttl", "10s");
        options.add("k", "a&b");
        assert_eq!(whole.options(), &options);
    }

    #[test]
    fn parts_that_are_absent_are_empty() {
        for text in ["memory://", "memory:///"] {
            assert!(url(text).hosts().is_empty() && url(text).path().is_empty());
        }
        assert_eq!(url("gossip://?name=a").options().keys().count(), 1);
        assert_eq!(url("gossip://a?x=/?@:&y=").path(), "");
        assert_eq!(url("gossip://u@a").user(), Some("u"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "empty"),
            ("gossip", r#""gossip""#),
            ("gossip:/a", r#""gossip""#),
            ("://a", "scheme"),
            ("1a://a", r#""1a""#),
            (
                "gossip://a b",
                "white space or a control character at byte 10",
            ),
            ("gossip://a\0", "at byte 10"),
            ("gossip://a#x", r##""#" at byte 10"##),
            (
                "gossip://a:99999",
                "port \"99999\" of host a: accepted are 0 to 65535",
            ),
            ("gossip://a:-1", "port (no number) of host a"),
            ("gossip://a:", "port (no number) of host a"),
            ("gossip://a,,b", "host \"\""),
            ("gossip://[::1", "starts with \"[\""),
            ("gossip://[::1]7", "no host"),
            ("gossip://[web]:1", "host \"web\" in brackets"),
            (
                "gossip://::1",
                "\"::1\" is no host: accepted are host, host:port and, for IPv6, [",
            ),
            ("gossip://10.0.0:1", "host \"10.0.0\""),
            ("gossip://@a", "user before the"),
            (
                "gossip://a/%zz",
                "the path has a % without two hexadecimal digits",
            ),
            ("gossip://a/%f", "the path has a %"),
            ("gossip://a?k=%ff", "option \"k\" is not UTF-8"),
            ("gossip://a?", "an option without a name"),
            ("gossip://a?k=1&&l=2", "an option without a name"),
            ("gossip://a?key", "option \"key\" without a value"),
        ] {
            let error = error(text);
            assert!(
                error.starts_with("discovery url: ") && error.contains(part),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn no_part_that_may_be_secret_is_ever_shown() {
        let shown = format!(
            "{:?}",
            url("etcd://root:hunter2@a:1,[::1]/p?token=hunter2&ttl=1s")
        );
        assert_eq!(shown, "etcd://***@a:1,[::1]/p?token=***&ttl=***");
        for text in [
            "etcd://root:hunter2/x@host:1",
            "etcd://root:hunter2?x@host:1",
            "etcd://root:12?hunter2@host:1",
            "etcd://root:12/hunter2@host:1",
            "etcd://root:12?x&hunter2@host:1",
            "etcd://root:1@2/hunter2@host:1",
            "etcd://root:hunter2#x@host:1",
            "etcd://root:hunter2 x@host:1",
            "etcd://root:hunter2%x@host:1",
            "etcd://root:hunter2%ff@host:1",
            "etcd://root:hunter2",
            "etcd://root:hunter2:1",
            "etcd:/root:hunter2@host",
            "root:hunter2@host",
            "etcd://a?token=hunter2%",
            "etcd://a?token=hunter2&x",
        ] {
            let error = error(text);
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }
}
