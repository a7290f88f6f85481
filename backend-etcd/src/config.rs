//! How the etcd backend is configured.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tidings_api::config::{self, Options, Secret};
use tidings_api::{DiscoveryUrl, Error, HostPort, Result};

/// The port of an endpoint that names none.
pub const PORT_DEFAULT: u16 = 2379;

/// How many leases a handle may spread its registrations over.
const LEASES_MAX: u16 = 64;

/// How a handle reaches etcd, and what it keeps there.
///
/// As URL, `etcd://USER:PASSWORD@ENDPOINT,ENDPOINT/NAMESPACE?OPTION=VALUE&…`, where every field but
/// `endpoints`, `namespace`, `user` and `password` is an option, and these may be:
///
/// ```
/// use std::time::Duration;
/// use tidings_etcd::EtcdConfig;
///
/// let config = EtcdConfig::from_url(&"etcd://e1,e2:2380/prod?ttl=5s".parse()?)?;
/// assert_eq!(config.endpoints, ["e1", "e2:2380"]);
/// assert_eq!(config.namespace, "prod");
/// assert_eq!(config.ttl, Duration::from_secs(5));
/// # Ok::<(), tidings_api::Error>(())
/// ```
///
/// `Debug` doesn't show the password.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// The members of the cluster: each `host`, `host:port`, or either behind `http://` or
    /// `https://`, with port 2379 by default. Default `127.0.0.1:2379`.
    ///
    /// One of them is used at a time, and the next one as soon as it fails, so name all of them.
    pub endpoints: Vec<String>,

    /// What all keys start with: `NAMESPACE/SERVICE/INSTANCE`. One or more names of 1–128 of
    /// `A-Za-z0-9._:-` with slashes between. Default `tidings`.
    pub namespace: String,

    /// How long etcd keeps the registrations of a handle that it doesn't hear any more. 2 s to
    /// 10 min, default 10 s; parts of a second are rounded up.
    ///
    /// It bounds how long a crashed instance stays in the views; etcd starts it anew when its leader
    /// changes. How often etcd is asked whether it is there follows from it as well. Too low: an
    /// owner that pauses for a moment loses its registrations, and etcd has more to do. Too high:
    /// crashed instances stay, and a hung etcd is noticed late.
    #[serde(with = "config::duration")]
    pub ttl: Duration,

    /// How long a call waits for etcd, over all endpoints it tries: after it, registrations go on in
    /// the background as `Pending`, and a view starts stale. Closing may take as long, and 2 ms for
    /// each registration. 100 ms to 1 min, default 5 s.
    ///
    /// Too low: calls return before an election in the cluster is over. Too high: programs that
    /// start in an outage start that much later.
    #[serde(with = "config::duration")]
    pub timeout: Duration,

    /// How long, after an outage, instances that vanished without their owners asking stay in the
    /// views, stale, so that their owners can register them again. 0 to 24 h, default 10 s; 0 lets
    /// every loss pass at once.
    ///
    /// Too low: instances that never went away vanish for a moment after an outage. Too high: those
    /// that crashed in an outage stay that much longer. An instance that was deregistered goes at
    /// once either way.
    #[serde(with = "config::duration")]
    pub loss_hold: Duration,

    /// Over how many leases the registrations of this handle are spread; only as many as needed are
    /// asked for. 1 to 64, default 1.
    ///
    /// More than one gains nothing where writes are alone or few: measure before raising it. Too
    /// high: more leases for etcd to keep, and more messages to keep them.
    pub leases: u16,

    /// The user to log in as. Default none.
    pub user: Option<String>,

    /// The user's password. Default none.
    pub password: Option<Secret>,

    /// Whether to talk TLS to every endpoint, as `https://` in the endpoints says as well. Default
    /// `false`. Needs the feature `tls-ring` or `tls-aws-lc`.
    pub tls: bool,

    /// PEM file with the authorities that may vouch for the servers. Default: those of the system,
    /// which needs the feature `tls-native-roots`.
    pub ca_file: Option<PathBuf>,

    /// PEM file with the certificate that this handle shows to the servers. Default none.
    pub cert_file: Option<PathBuf>,

    /// PEM file with the key of that certificate. Default none.
    pub key_file: Option<PathBuf>,

    /// The name that the servers' certificates have to be for. Default: the host of the endpoint.
    pub server_name: Option<String>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec![format!("127.0.0.1:{PORT_DEFAULT}")],
            namespace: "tidings".to_owned(),
            ttl: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            loss_hold: Duration::from_secs(10),
            leases: 1,
            user: None,
            password: None,
            tls: false,
            ca_file: None,
            cert_file: None,
            key_file: None,
            server_name: None,
        }
    }
}

impl EtcdConfig {
    /// Reads `etcd://USER:PASSWORD@ENDPOINT,ENDPOINT/NAMESPACE?OPTION=VALUE&…`.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) naming what is wrong and what is
    /// accepted: an unknown option, something that is given twice, a value out of range.
    pub fn from_url(url: &DiscoveryUrl) -> Result<Self> {
        options_of(url)
            .map_err(|error| error.with_backend("etcd"))
            .and_then(|options| Self::from_options(&options))
    }

    /// Reads the fields from text, where [durations](config::duration) have their unit and lists
    /// commas.
    ///
    /// # Errors
    /// As [`from_url`](Self::from_url).
    pub fn from_options(options: &Options) -> Result<Self> {
        config::from_options(options)
            .map_err(|error| error.with_backend("etcd"))
            .and_then(|config: Self| config.validate().map(|()| config))
    }

    /// Checks every field against its rule. Whatever starts from the configuration does it.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) naming the field, its value and what
    /// is accepted.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|error| error.with_backend("etcd"))
    }

    /// The endpoints as URLs.
    pub(crate) fn urls(&self) -> Result<Vec<String>> {
        let tls = self.has_tls();
        let urls = self.endpoints.iter().map(|text| endpoint_url(text, tls));
        urls.collect()
    }

    /// Whether any part of the configuration asks for TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls || self.endpoints.iter().any(|text| text.starts_with(HTTPS))
    }

    fn check(&self) -> Result<()> {
        const MILLISECOND: Duration = Duration::from_millis(1);
        const SECOND: Duration = Duration::from_secs(1);
        const HOUR: Duration = Duration::from_secs(60 * 60);

        if self.endpoints.is_empty() {
            return Err(Error::invalid_config(
                "endpoints: an empty list: accepted is at least one, such as e1:2379",
            ));
        }
        self.urls()?;
        for part in self.namespace.split('/') {
            config::check_name("namespace", part)?;
        }
        for (field, value, range) in [
            ("ttl", self.ttl, 2 * SECOND..=600 * SECOND),
            ("timeout", self.timeout, 100 * MILLISECOND..=60 * SECOND),
            ("loss_hold", self.loss_hold, Duration::ZERO..=24 * HOUR),
        ] {
            config::check_duration(field, value, range)?;
        }
        config::check_range("leases", self.leases, 1..=LEASES_MAX)?;
        for (field, given, other, missing) in [
            (
                "user",
                self.user.is_some(),
                "password",
                self.password.is_none(),
            ),
            (
                "password",
                self.password.is_some(),
                "user",
                self.user.is_none(),
            ),
            (
                "cert_file",
                self.cert_file.is_some(),
                "key_file",
                self.key_file.is_none(),
            ),
            (
                "key_file",
                self.key_file.is_some(),
                "cert_file",
                self.cert_file.is_none(),
            ),
        ] {
            if given && missing {
                return Err(Error::invalid_config(format!(
                    "{field} without {other}: accepted are both or neither"
                )));
            }
        }
        self.check_tls()
    }

    fn check_tls(&self) -> Result<()> {
        let options = [
            ("ca_file", self.ca_file.is_some()),
            ("cert_file", self.cert_file.is_some()),
            ("server_name", self.server_name.is_some()),
        ];
        if !self.has_tls() {
            return match options.iter().find(|(_, given)| *given) {
                None => Ok(()),
                Some((field, _)) => Err(Error::invalid_config(format!(
                    "{field} without TLS: accepted with tls=true or https endpoints"
                ))),
            };
        }
        if !cfg!(any(feature = "tls-ring", feature = "tls-aws-lc")) {
            return Err(Error::invalid_config(
                "TLS is not compiled in: enable the feature \"tls-ring\" or \"tls-aws-lc\"",
            ));
        }
        if self.ca_file.is_none() && !cfg!(feature = "tls-native-roots") {
            return Err(Error::invalid_config(
                "TLS without ca_file: accepted with the feature \"tls-native-roots\", which is not \
                 compiled in",
            ));
        }
        Ok(())
    }
}

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

fn endpoint_url(text: &str, tls: bool) -> Result<String> {
    let (https, bare) = match (text.strip_prefix(HTTP), text.strip_prefix(HTTPS)) {
        (Some(bare), _) => (false, bare),
        (_, Some(bare)) => (true, bare),
        (None, None) => (tls, text),
    };
    if tls && !https {
        return Err(Error::invalid_config(
            "endpoints: http:// beside https:// or tls=true: accepted is one of them for all",
        ));
    }
    let address = bare
        .parse::<HostPort>()
        .and_then(|host| host.to_address(PORT_DEFAULT))
        .map_err(|error| Error::invalid_config(format!("endpoints: {error}")))?;
    Ok(format!("{}{address}", if https { HTTPS } else { HTTP }))
}

fn options_of(url: &DiscoveryUrl) -> Result<Options> {
    let mut options = url.options().clone();
    if !url.hosts().is_empty() {
        let hosts: Vec<_> = url.hosts().iter().map(ToString::to_string).collect();
        options.set("endpoints", hosts.join(","), "the hosts of the url")?;
    }
    if !url.path().is_empty() {
        options.set("namespace", url.path(), "the path of the url")?;
    }
    if let Some(user) = url.user() {
        options.set("user", user, "the user of the url")?;
    }
    if let Some(password) = url.password() {
        options.set("password", password.expose(), "the password of the url")?;
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> EtcdConfig {
        EtcdConfig::from_url(&url.parse().unwrap()).expect(url)
    }

    fn error(url: &str) -> String {
        let error = EtcdConfig::from_url(&url.parse().unwrap()).expect_err(url);
        assert_eq!(error.kind(), tidings_api::ErrorKind::InvalidConfig);
        error.to_string()
    }

    #[test]
    fn the_default_is_valid_and_what_an_empty_url_says() {
        EtcdConfig::default().validate().unwrap();
        assert_eq!(config("etcd://"), EtcdConfig::default());
    }

    #[test]
    fn every_field_is_read_from_the_url() {
        let read =
            config("etcd://root:p%40ss@e1,[::1]:7/prod/eu?ttl=5s&timeout=1s&loss_hold=0s&leases=2");
        let expected = EtcdConfig {
            endpoints: vec!["e1".into(), "[::1]:7".into()],
            namespace: "prod/eu".into(),
            ttl: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            loss_hold: Duration::ZERO,
            leases: 2,
            user: Some("root".into()),
            password: Some("p@ss".into()),
            ..EtcdConfig::default()
        };
        assert_eq!(read, expected);
        assert_eq!(read.urls().unwrap(), ["http://e1:2379", "http://[::1]:7"]);
        assert!(!format!("{read:?}").contains("p@ss"));
        let read = config("etcd://?endpoints=http://a,b:1");
        assert_eq!(read.urls().unwrap(), ["http://a:2379", "http://b:1"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_accepted() {
        for (url, text) in [
            (
                "etcd://a:0",
                "etcd: endpoints: port 0 of address \"a\": accepted are 1 to 65535",
            ),
            (
                "etcd://a?endpoints=b",
                "etcd: endpoints is given twice: as the hosts of the url and as an option",
            ),
            (
                "etcd://?endpoints=",
                "etcd: endpoints: an empty list: accepted is at least one, such as e1:2379",
            ),
            (
                "etcd:///a//b",
                "etcd: namespace \"\" (0 bytes): accepted are 1 to 128 of A-Z a-z 0-9 ._:-",
            ),
            ("etcd://?ttl=1s", "etcd: ttl 1s: accepted are 2s to 10m"),
            ("etcd://?leases=0", "etcd: leases 0: accepted are 1 to 64"),
            (
                "etcd://u@a",
                "etcd: user without password: accepted are both or neither",
            ),
            (
                "etcd://?ca_file=x",
                "etcd: ca_file without TLS: accepted with tls=true or https endpoints",
            ),
            (
                "etcd://?endpoints=http://a,https://b",
                "etcd: endpoints: http:// beside https:// or tls=true: accepted is one of them \
                 for all",
            ),
            (
                "etcd://?tll=1s",
                "etcd: unknown option \"tll\": accepted are endpoints, namespace, ttl, timeout, \
                 loss_hold, leases, user, password, tls, ca_file, cert_file, key_file, server_name",
            ),
        ] {
            assert_eq!(error(url), text);
        }
        assert!(!error("etcd://u:hunter2@a?ttl=0s").contains("hunter2"));
    }

    #[test]
    #[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc")))]
    fn tls_that_is_not_compiled_in_names_the_feature() {
        assert!(error("etcd://a?tls=true").contains("\"tls-ring\" or \"tls-aws-lc\""));
    }
}
