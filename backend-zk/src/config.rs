//! How the ZooKeeper backend is configured.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use tidings_api::config::{self, Options, Secret, shown};
use tidings_api::{Address, DiscoveryUrl, Error, HostPort, Result};
use zookeeper_client as zk;

use crate::error::BACKEND;

/// The port where a host in the configuration names none.
pub const PORT_DEFAULT: u16 = 2181;
/// Default of [`ZkConfig::content_max`]: any instance within the contract's limits fits.
pub(crate) const CONTENT_MAX_DEFAULT: usize = 64 * 1024;

/// How a handle uses a ZooKeeper ensemble.
///
/// As URL, `zk://USER:PASSWORD@HOST,HOST/NAMESPACE?OPTION=VALUE&…`, where every field but `hosts`,
/// `namespace`, `user` and `password` is an option, and these may be:
///
/// ```
/// use tidings_zk::ZkConfig;
///
/// let url = "zk://zk1:2181,zk2,zk3/prod/services?session_timeout=15s".parse()?;
/// let config = ZkConfig::from_url(&url)?;
/// assert_eq!(config.hosts, ["zk1:2181", "zk2", "zk3"]);
/// assert_eq!(config.namespace, "prod/services");
/// # Ok::<(), tidings_api::Error>(())
/// ```
///
/// In code, start from the default and change fields.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ZkConfig {
    /// The servers of the ensemble, each `host` or `host:port`, with port 2181 by default. Default
    /// `localhost`. Names are resolved anew at every try.
    ///
    /// Name them all: one that isn't named takes no part in failover.
    pub hosts: Vec<String>,

    /// The path below which the services are, without its first slash: names of
    /// `A-Za-z0-9._:-` with `/` between. Default `services`, where Spring Cloud has them; for other
    /// users of Curator it is their base path.
    ///
    /// It is created where it isn't there.
    pub namespace: String,

    /// How long a session lives on when the server hears nothing: how late a crash is noticed.
    /// 1 s to 10 min, default 10 s. The server has bounds of its own, 2 to 20 of its ticks (4 s to
    /// 40 s as it comes), and clamps it silently.
    ///
    /// Too low: a pause of the process or a slow disk of the leader ends sessions, and instances
    /// leave and return. Too high: the instances of crashed processes stay that much longer.
    #[serde(with = "config::duration")]
    pub session_timeout: Duration,

    /// How long one request may take before it is tried again, and thus how long `register`,
    /// `deregister`, `health` and `close` wait at most for a server that does not answer. 100 ms to
    /// 1 min, default 5 s.
    ///
    /// Too low: a busy ensemble is asked everything twice. Too high: calls made in the first moments
    /// of an outage last that much longer. Should be below the session timeout.
    #[serde(with = "config::duration")]
    pub call_timeout: Duration,

    /// How long starting waits for the first connection, so that the first views are live; without
    /// one it goes on trying in the background. 0 to 1 min, default 2 s.
    #[serde(with = "config::duration")]
    pub connect_wait: Duration,

    /// Longest pause between two tries to connect or to register; pauses start at 100 ms, double
    /// and are jittered. 100 ms to 1 min, default 5 s.
    ///
    /// Too low: an ensemble that comes back meets everybody at once. Too high: it is used late.
    #[serde(with = "config::duration")]
    pub retry_max: Duration,

    /// How long instances stay in the views, stale, that vanished in an outage without being
    /// deregistered; counted from the end of the outage. 0 to 24 h, default 30 s; 0 lets every loss
    /// pass.
    ///
    /// Sessions may expire by an outage alone, and owners that live need a moment to return. Too
    /// low: their instances leave and return. Too high: what did crash in the outage stays longer.
    #[serde(with = "config::duration")]
    pub loss_hold: Duration,

    /// How changes are watched: `auto`, `persistent` or `oneshot`. Default `auto`.
    pub watches: Watches,

    /// What the JVM's clients find as payload: `none`, `map` or `spring`. Default `none`.
    pub payload: Payload,

    /// Most bytes of a node this handle writes; what has more is refused before anything is sent.
    /// 1024 to 1000000, default 65536, in which any instance within the limits of the contract
    /// fits.
    ///
    /// Has to be well below `jute.maxbuffer` of the servers (1 MiB as it comes): they end the
    /// connection of whoever sends more.
    pub content_max: usize,

    /// Access list of the nodes this handle creates, as `zkCli` writes it: `scheme:id:permissions`
    /// with permissions of `cdrwa`. Default `world:anyone:cdrwa`.
    ///
    /// `auth::cdrwa,world:anyone:r` lets others read and nobody else write.
    pub acl: Vec<String>,

    /// The user to authenticate as, half of the credentials and shown as little as the other half.
    /// Default none.
    pub user: Option<Secret>,

    /// The password to authenticate with.
    pub password: Option<Secret>,

    /// How to authenticate: `digest`, or `sasl` for DIGEST-MD5, which needs the Cargo feature
    /// `sasl`. Default `digest`.
    pub auth: Auth,

    /// Whether to connect over TLS, which needs the Cargo feature `tls`. Default `false`.
    pub tls: bool,

    /// File of the certificates (PEM) that servers have to be signed by. Has to be given for TLS:
    /// there is no default.
    pub ca_file: Option<String>,

    /// File of the certificate (PEM) to show to servers. Read anew for every session.
    pub cert_file: Option<String>,

    /// File of the private key (PEM) of [`cert_file`](Self::cert_file).
    pub key_file: Option<String>,
}

/// How changes are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Watches {
    /// Persistent where the server knows it, else one-shot. A server before 3.6 ends the connection
    /// of whoever asks; a handle asks once.
    #[default]
    Auto,
    /// One persistent recursive watch a selector, and one a service in which this handle offers
    /// many instances: ZooKeeper 3.6 and later.
    Persistent,
    /// One-shot watches on the children and each instance: ZooKeeper 3.5 and later, as everything
    /// else here.
    Oneshot,
}

/// What the JVM's clients find as payload of our instances, beside the members that Curator knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Payload {
    /// Nothing: clients of any payload class can read it.
    #[default]
    None,
    /// The metadata as a map, for clients whose payload class is `Object` or `Map`. Those of
    /// another class fail to read the service.
    Map,
    /// What Spring Cloud ZooKeeper expects: its class, with the metadata and the status.
    Spring,
}

/// How to authenticate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Auth {
    /// ZooKeeper's own scheme: the password travels as it is, so use TLS.
    #[default]
    Digest,
    /// SASL with DIGEST-MD5.
    Sasl,
}

impl Default for ZkConfig {
    fn default() -> Self {
        Self {
            hosts: vec!["localhost".to_owned()],
            namespace: "services".to_owned(),
            session_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(5),
            connect_wait: Duration::from_secs(2),
            retry_max: Duration::from_secs(5),
            loss_hold: Duration::from_secs(30),
            watches: Watches::default(),
            payload: Payload::default(),
            content_max: CONTENT_MAX_DEFAULT,
            acl: vec!["world:anyone:cdrwa".to_owned()],
            user: None,
            password: None,
            auth: Auth::default(),
            tls: false,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

impl fmt::Debug for ZkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            hosts,
            namespace,
            session_timeout,
            call_timeout,
            connect_wait,
            retry_max,
            loss_hold,
            watches,
            payload,
            content_max,
            acl,
            user,
            password,
            auth,
            tls,
            ca_file,
            cert_file,
            key_file,
        } = self;
        let acl: Vec<_> = acl.iter().map(|entry| without_id(entry)).collect();
        f.debug_struct("ZkConfig")
            .field("hosts", hosts)
            .field("namespace", namespace)
            .field("session_timeout", session_timeout)
            .field("call_timeout", call_timeout)
            .field("connect_wait", connect_wait)
            .field("retry_max", retry_max)
            .field("loss_hold", loss_hold)
            .field("watches", watches)
            .field("payload", payload)
            .field("content_max", content_max)
            .field("acl", &acl)
            .field("user", user)
            .field("password", password)
            .field("auth", auth)
            .field("tls", tls)
            .field("ca_file", ca_file)
            .field("cert_file", cert_file)
            .field("key_file", key_file)
            .finish()
    }
}

impl ZkConfig {
    /// Reads `zk://USER:PASSWORD@HOST,HOST/NAMESPACE?OPTION=VALUE&…`.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) naming what is wrong and what is
    /// accepted: a part of the URL that has no meaning here, an unknown option, a value out of range.
    pub fn from_url(url: &DiscoveryUrl) -> Result<Self> {
        options_of(url)
            .map_err(|error| error.with_backend(BACKEND))
            .and_then(|options| Self::from_options(&options))
    }

    /// Reads the fields from text, where [durations](config::duration) have their unit and lists
    /// commas.
    ///
    /// # Errors
    /// As [`from_url`](Self::from_url).
    pub fn from_options(options: &Options) -> Result<Self> {
        config::from_options(options)
            .map_err(|error| error.with_backend(BACKEND))
            .and_then(|config: Self| config.validate().map(|()| config))
    }

    /// Checks every field against its rule. Whatever starts from the configuration does it.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) naming the field, its value and what
    /// is accepted.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|error| error.with_backend(BACKEND))
    }

    /// The servers, in the order given.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) naming the host that is none.
    pub fn addresses(&self) -> Result<Vec<Address>> {
        if self.hosts.is_empty() {
            return Err(Error::invalid_config(
                "hosts is empty: accepted is at least one host",
            ));
        }
        self.hosts.iter().map(|host| parse_host(host)).collect()
    }

    /// The access list, parsed.
    pub(crate) fn acls(&self) -> Result<Vec<zk::Acl>> {
        if self.acl.is_empty() {
            return Err(Error::invalid_config(
                "acl is empty: accepted is at least one scheme:id:permissions",
            ));
        }
        self.acl.iter().map(|entry| parse_acl(entry)).collect()
    }

    fn check(&self) -> Result<()> {
        const MILLISECOND: Duration = Duration::from_millis(1);
        const SECOND: Duration = Duration::from_secs(1);
        const HOUR: Duration = Duration::from_secs(60 * 60);

        self.addresses()?;
        self.acls()?;
        self.check_namespace()?;
        for (field, value, range) in [
            (
                "session_timeout",
                self.session_timeout,
                SECOND..=600 * SECOND,
            ),
            (
                "call_timeout",
                self.call_timeout,
                100 * MILLISECOND..=60 * SECOND,
            ),
            (
                "connect_wait",
                self.connect_wait,
                Duration::ZERO..=60 * SECOND,
            ),
            ("retry_max", self.retry_max, 100 * MILLISECOND..=60 * SECOND),
            ("loss_hold", self.loss_hold, Duration::ZERO..=24 * HOUR),
        ] {
            config::check_duration(field, value, range)?;
        }
        config::check_range("content_max", self.content_max, 1024..=1_000_000)?;
        self.check_credentials()?;
        self.check_tls()
    }

    fn check_namespace(&self) -> Result<()> {
        let names: Vec<&str> = self.namespace.split('/').collect();
        for name in &names {
            config::check_name("namespace", name)?;
        }
        let total = self.namespace.len();
        if total > 512 || names[0] == "zookeeper" || names.iter().any(|name| is_dots(name)) {
            return Err(Error::invalid_config(format!(
                "namespace {} ({total} bytes): accepted are names with / between, at most 512 \
                 bytes, none of them . or .. and the first not zookeeper",
                shown(&self.namespace)
            )));
        }
        Ok(())
    }

    fn check_credentials(&self) -> Result<()> {
        let wrong = match (&self.user, &self.password) {
            (Some(_), None) => "a user without a password: accepted are both or neither",
            (None, Some(_)) => "a password without a user: accepted are both or neither",
            (None, None) if self.auth == Auth::Sasl => {
                "auth \"sasl\" without a user: accepted is one with user and password"
            }
            (Some(user), Some(_)) if user.expose().is_empty() || user.expose().contains(':') => {
                "user is empty or has a \":\": accepted is any other text"
            }
            _ if self.auth == Auth::Sasl && !cfg!(feature = "sasl") => {
                "auth \"sasl\" is not compiled in: accepted is \"digest\", or enable the feature \
                 \"sasl\" of the crate \"tidings-zk\""
            }
            _ => return Ok(()),
        };
        Err(Error::invalid_config(wrong))
    }

    fn check_tls(&self) -> Result<()> {
        let files = [&self.ca_file, &self.cert_file, &self.key_file];
        let wrong = if self.tls && !cfg!(feature = "tls") {
            "tls is not compiled in: accepted is false, or enable the feature \"tls\" of the \
             crate \"tidings-zk\""
        } else if self.tls && self.ca_file.is_none() {
            "tls without ca_file: accepted is the file of the certificates to trust"
        } else if !self.tls && files.iter().any(|file| file.is_some()) {
            "ca_file, cert_file or key_file without tls: accepted are they with tls=true"
        } else if self.cert_file.is_some() != self.key_file.is_some() {
            "cert_file and key_file: accepted are both or neither"
        } else {
            return Ok(());
        };
        Err(Error::invalid_config(wrong))
    }
}

fn options_of(url: &DiscoveryUrl) -> Result<Options> {
    let mut options = url.options().clone();
    if !url.hosts().is_empty() {
        let hosts: Vec<String> = url.hosts().iter().map(ToString::to_string).collect();
        options.set("hosts", hosts.join(","), "the hosts of the url")?;
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

fn is_dots(name: &str) -> bool {
    matches!(name, "." | "..")
}

fn parse_host(host: &str) -> Result<Address> {
    host.parse::<HostPort>()
        .and_then(|host| host.to_address(PORT_DEFAULT))
        .map_err(|error| Error::invalid_config(format!("hosts: {error}")))
}

/// An entry of an access list for people: the id may be a user with the hash of a password.
fn without_id(entry: &str) -> String {
    let (scheme, rest) = entry.split_once(':').unwrap_or_default();
    let (_, letters) = rest.rsplit_once(':').unwrap_or_default();
    format!("{scheme}:…:{letters}")
}

fn parse_acl(entry: &str) -> Result<zk::Acl> {
    // The id may be a digest, which is not for error texts.
    let wrong = |scheme: &str| {
        Error::invalid_config(format!(
            "acl entry of scheme {}: accepted is scheme:id:permissions with permissions of c, d, \
             r, w and a",
            shown(scheme)
        ))
    };
    let (scheme, rest) = entry.split_once(':').ok_or_else(|| wrong(""))?;
    let (id, letters) = rest.rsplit_once(':').ok_or_else(|| wrong(scheme))?;
    let mut permission = zk::Permission::NONE;
    for letter in letters.chars() {
        permission = permission
            | match letter {
                'c' => zk::Permission::CREATE,
                'd' => zk::Permission::DELETE,
                'r' => zk::Permission::READ,
                'w' => zk::Permission::WRITE,
                'a' => zk::Permission::ADMIN,
                _ => return Err(wrong(scheme)),
            };
    }
    if scheme.is_empty() || permission == zk::Permission::NONE {
        return Err(wrong(scheme));
    }
    Ok(zk::Acl::new(permission, zk::AuthId::new(scheme, id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> ZkConfig {
        ZkConfig::from_url(&url.parse().unwrap()).expect(url)
    }

    fn error(url: &str) -> String {
        let error = ZkConfig::from_url(&url.parse().unwrap()).expect_err(url);
        assert_eq!(error.kind(), tidings_api::ErrorKind::InvalidConfig);
        error.to_string()
    }

    #[test]
    fn the_default_is_valid_and_what_an_empty_url_says() {
        ZkConfig::default().validate().unwrap();
        assert_eq!(config("zk://"), ZkConfig::default());
    }

    #[test]
    fn every_field_is_read_from_the_url() {
        let read = config(
            "zk://me:hunter2@a:1,b,[::1]/prod/services?session_timeout=15s&call_timeout=3s\
             &connect_wait=0s&retry_max=1s&loss_hold=1m&watches=oneshot&payload=spring\
             &content_max=4096&acl=world:anyone:r,digest:me:aGFzaA==:cdrwa&auth=digest&tls=false",
        );
        let expected = ZkConfig {
            hosts: vec!["a:1".into(), "b".into(), "[::1]".into()],
            namespace: "prod/services".into(),
            session_timeout: Duration::from_secs(15),
            call_timeout: Duration::from_secs(3),
            connect_wait: Duration::ZERO,
            retry_max: Duration::from_secs(1),
            loss_hold: Duration::from_secs(60),
            watches: Watches::Oneshot,
            payload: Payload::Spring,
            content_max: 4096,
            acl: vec!["world:anyone:r".into(), "digest:me:aGFzaA==:cdrwa".into()],
            user: Some("me".into()),
            password: Some("hunter2".into()),
            ..ZkConfig::default()
        };
        assert_eq!(read, expected);
        let addresses: Vec<_> = read.addresses().unwrap();
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["a:1", "b:2181", "[::1]:2181"]);
        assert_eq!(read.acls().unwrap()[1].id(), "me:aGFzaA==");
        let text = format!("{read:?}");
        assert!(
            !text.contains("hunter2") && !text.contains("aGFzaA"),
            "{text}"
        );
        assert!(
            text.contains("[\"world:…:r\", \"digest:…:cdrwa\"]"),
            "{text}"
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_accepted() {
        for (url, text) in [
            (
                "zk://a:0",
                "zk: hosts: port 0 of address \"a\": accepted are 1 to 65535",
            ),
            (
                "zk://?hosts=",
                "zk: hosts is empty: accepted is at least one host",
            ),
            (
                "zk://a?hosts=b",
                "zk: hosts is given twice: as the hosts of the url and as an option",
            ),
            (
                "zk:///a//b",
                "zk: namespace \"\" (0 bytes): accepted are 1 to 128 of A-Z a-z 0-9 ._:-",
            ),
            (
                "zk:///zookeeper/x",
                "zk: namespace \"zookeeper/x\" (11 bytes): accepted are names with / between, at \
                 most 512 bytes, none of them . or .. and the first not zookeeper",
            ),
            (
                "zk://?session_timeout=0s",
                "zk: session_timeout 0s: accepted are 1s to 10m",
            ),
            (
                "zk://?content_max=1",
                "zk: content_max 1: accepted are 1024 to 1000000",
            ),
            (
                "zk://?watches=x",
                "zk: watches \"x\": accepted are auto, persistent, oneshot",
            ),
            (
                "zk://?payload=x",
                "zk: payload \"x\": accepted are none, map, spring",
            ),
            (
                "zk://?acl=digest:me:hash",
                "zk: acl entry of scheme \"digest\": accepted is scheme:id:permissions with \
                 permissions of c, d, r, w and a",
            ),
            (
                "zk://me@a",
                "zk: a user without a password: accepted are both or neither",
            ),
            (
                "zk://?cert_file=x",
                "zk: ca_file, cert_file or key_file without tls: accepted are they with tls=true",
            ),
        ] {
            assert_eq!(error(url), text);
        }
        assert!(error("zk:///..").contains("none of them . or .."));
        assert!(error("zk://?ttl=1s").contains("unknown option \"ttl\": accepted are hosts"));
        let feature = |url| error(url).contains("not compiled in");
        assert_eq!(feature("zk://?tls=true"), !cfg!(feature = "tls"));
        assert!(error("zk://?auth=sasl").contains("without a user"));
    }
}
