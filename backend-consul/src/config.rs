//! How the Consul backend is configured.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use tidings_api::config::{self, Options, Secret};
use tidings_api::{Address, DiscoveryUrl, Error, HostPort, Result};

use crate::BACKEND;
use crate::registration::REPORTS_PER_TTL;

mod environment;

/// The port of an agent's HTTP API where the configuration names none.
pub const PORT_DEFAULT: u16 = 8500;

/// Longest time between two questions whether Consul can be heard, whatever the TTL.
const BEAT_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// How a handle uses a Consul agent.
///
/// As URL, `consul://AGENT/NAMESPACE?OPTION=VALUE&…`, where every field but `agent` and `namespace`
/// is an option, and these two may be:
///
/// ```
/// use std::time::Duration;
/// use tidings_consul::ConsulConfig;
///
/// let url = "consul://127.0.0.1:8500/prod?ttl=10s&token=b1gs3cr3t".parse()?;
/// let config = ConsulConfig::from_url(&url)?;
/// assert_eq!(config.namespace.as_deref(), Some("prod"));
/// assert_eq!(config.ttl, Duration::from_secs(10));
/// # Ok::<(), tidings_api::Error>(())
/// ```
///
/// In code, start from the default and change fields.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ConsulConfig {
    /// The agent's HTTP API: `host` or `host:port`, with port 8500 by default. Default
    /// `127.0.0.1:8500`.
    ///
    /// It should be the agent on the same machine: the agent is the owner of what is registered
    /// through it, and when it dies, Consul takes the instances for dead as well.
    #[serde(deserialize_with = "agent")]
    pub agent: HostPort,

    /// What isolates the users of one datacenter from each other: 1–128 of `A-Za-z0-9._:-`. Default
    /// none.
    ///
    /// A namespace is a *tag* in Consul, and no part of the service's name, so that Consul's DNS
    /// goes on to answer `web.service.consul` (all namespaces) and `prod.web.service.consul` (this
    /// one). A handle sees its own namespace, and services of other tools that carry the tag;
    /// without a namespace, all services of other tools and what was registered without one.
    pub namespace: Option<String>,

    /// Takes the agent's address, the token, the TLS files, Consul's namespace and the partition
    /// from `CONSUL_HTTP_ADDR`, `CONSUL_HTTP_TOKEN` and their like, where this configuration leaves
    /// them out. Default `false`: the environment is not looked at.
    pub environment: bool,

    /// How long Consul takes an owner for alive without hearing from it; it is heard every third of
    /// this. 1 s to 24 h, default 10 s.
    ///
    /// It bounds how long a crashed owner stays in the views. Too low: a short hiccup makes
    /// instances vanish and return. Too high: crashed instances are seen that long.
    #[serde(with = "config::duration")]
    pub ttl: Duration,

    /// After how long without its owner an instance, no longer in any view, is cleared from Consul
    /// itself. 1 min (Consul's own minimum) to 7 days, default 1 min.
    #[serde(with = "config::duration")]
    pub deregister_after: Duration,

    /// Tags for everything this handle registers, for tools that read them, such as load balancers.
    /// Default none.
    pub tags: Vec<String>,

    /// The ACL token. Default none. Not beside [`token_file`](Self::token_file).
    pub token: Option<Secret>,

    /// A file with the ACL token, which is read again when it changes. Default none.
    pub token_file: Option<PathBuf>,

    /// Talks HTTPS to the agent. Default `false`, unless one of the files below is given. Needs the
    /// feature `tls`.
    pub tls: bool,

    /// The certificates of the authorities to trust, as PEM. Default: those of the system.
    pub ca_file: Option<PathBuf>,

    /// The client certificate with its chain, as PEM, beside [`key_file`](Self::key_file). Default
    /// none.
    pub cert_file: Option<PathBuf>,

    /// The key of the client certificate, as PEM. Default none.
    pub key_file: Option<PathBuf>,

    /// The name the agent's certificate is for, where it isn't the host of
    /// [`agent`](Self::agent). Default none.
    pub tls_server_name: Option<String>,

    /// The datacenter to watch. Default: the agent's own.
    ///
    /// For handles that only watch: what a handle registers is always in its agent's datacenter.
    pub datacenter: Option<String>,

    /// The namespace of Consul Enterprise, an isolation of its own beside
    /// [`namespace`](Self::namespace). Default: the token's.
    pub consul_namespace: Option<String>,

    /// The admin partition of Consul Enterprise. Default: the agent's.
    pub partition: Option<String>,

    /// Which servers may answer a watch. Default `default`.
    pub consistency: Consistency,

    /// How long one query of a watch waits for a change. 1 s to 10 min (Consul's maximum), default
    /// 1 min.
    ///
    /// Too low: needless requests, each with the whole list. Too high: something between here and
    /// the agent may forget the silent connection; and it bounds how late it shows where a snapshot
    /// was restored while no query waited.
    #[serde(with = "config::duration")]
    pub wait: Duration,

    /// How long any other request may take. 100 ms to 1 min, default 5 s.
    ///
    /// Together with a third of [`ttl`](Self::ttl), 10 s at most, it bounds how late an agent that has fallen
    /// silent is noticed. Too low: a busy agent counts as silent.
    #[serde(with = "config::duration")]
    pub request_timeout: Duration,

    /// How long closing waits for the agent to deregister everything. 10 ms to 1 min, default 5 s.
    #[serde(with = "config::duration")]
    pub leave_timeout: Duration,

    /// How long instances that vanish without their owners asking stay in the views, stale, after
    /// the backend itself was unwell: owners need a moment to be heard again. 0 to 24 h, default
    /// 20 s; 0 lets every loss pass.
    ///
    /// Should be above [`ttl`](Self::ttl).
    #[serde(with = "config::duration")]
    pub loss_hold: Duration,
}

/// Which servers may answer a watch, as Consul calls it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Consistency {
    /// The leader, as it was shortly ago: stale only for moments, around an election.
    #[default]
    Default,
    /// The leader, which asks the others whether it still is.
    Consistent,
    /// Any server: cheapest, and may lag behind.
    Stale,
}

impl Default for ConsulConfig {
    fn default() -> Self {
        Self {
            agent: HostPort::new(
                tidings_api::Host::Ip(std::net::Ipv4Addr::LOCALHOST.into()),
                Some(PORT_DEFAULT),
            ),
            namespace: None,
            environment: false,
            ttl: Duration::from_secs(10),
            deregister_after: Duration::from_secs(60),
            tags: Vec::new(),
            token: None,
            token_file: None,
            tls: false,
            ca_file: None,
            cert_file: None,
            key_file: None,
            tls_server_name: None,
            datacenter: None,
            consul_namespace: None,
            partition: None,
            consistency: Consistency::Default,
            wait: Duration::from_secs(60),
            request_timeout: Duration::from_secs(5),
            leave_timeout: Duration::from_secs(5),
            loss_hold: Duration::from_secs(20),
        }
    }
}

impl ConsulConfig {
    /// Reads `consul://AGENT/NAMESPACE?OPTION=VALUE&…`.
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

    /// Whether the agent is talked to over TLS.
    #[must_use]
    pub fn uses_tls(&self) -> bool {
        let files = [&self.ca_file, &self.cert_file, &self.key_file];
        self.tls || files.iter().any(|file| file.is_some()) || self.tls_server_name.is_some()
    }

    /// Where the agent's HTTP API is.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) where the port is 0.
    pub fn agent_address(&self) -> Result<Address> {
        self.agent
            .to_address(PORT_DEFAULT)
            .map_err(|error| Error::invalid_config(format!("agent: {error}")))
    }

    /// Time between two questions whether Consul can be heard.
    pub(crate) fn beat_interval(&self) -> Duration {
        BEAT_INTERVAL_MAX.min(self.ttl / REPORTS_PER_TTL)
    }

    fn check(&self) -> Result<()> {
        const MILLISECOND: Duration = Duration::from_millis(1);
        const SECOND: Duration = Duration::from_secs(1);
        const HOUR: Duration = Duration::from_secs(60 * 60);

        self.agent_address()?;
        for (field, name) in [
            ("namespace", &self.namespace),
            ("datacenter", &self.datacenter),
            ("consul_namespace", &self.consul_namespace),
            ("partition", &self.partition),
        ] {
            if let Some(name) = name {
                config::check_name(field, name)?;
            }
        }
        for (field, value, range) in [
            ("ttl", self.ttl, SECOND..=24 * HOUR),
            (
                "deregister_after",
                self.deregister_after,
                60 * SECOND..=7 * 24 * HOUR,
            ),
            ("wait", self.wait, SECOND..=600 * SECOND),
            (
                "request_timeout",
                self.request_timeout,
                100 * MILLISECOND..=60 * SECOND,
            ),
            (
                "leave_timeout",
                self.leave_timeout,
                10 * MILLISECOND..=60 * SECOND,
            ),
            ("loss_hold", self.loss_hold, Duration::ZERO..=24 * HOUR),
        ] {
            config::check_duration(field, value, range)?;
        }
        self.check_tags()?;
        self.check_token()?;
        self.check_tls()
    }

    fn check_tags(&self) -> Result<()> {
        let bad = |tag: &&String| tag.is_empty() || tag.chars().any(char::is_control);
        match self.tags.iter().find(bad) {
            None => Ok(()),
            Some(tag) => Err(Error::invalid_config(format!(
                "tags {}: accepted is a text without control characters",
                config::shown(tag)
            ))),
        }
    }

    fn check_token(&self) -> Result<()> {
        let Some(token) = &self.token else {
            return Ok(());
        };
        if self.token_file.is_some() {
            return Err(Error::invalid_config(
                "token and token_file are both given: accepted is one of them",
            ));
        }
        let valid =
            !token.expose().is_empty() && token.expose().bytes().all(|b| b.is_ascii_graphic());
        if valid {
            return Ok(());
        }
        Err(Error::invalid_config(
            "token: accepted are printable ASCII characters, and at least one",
        ))
    }

    fn check_tls(&self) -> Result<()> {
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(Error::invalid_config(
                "cert_file and key_file: accepted are both or neither",
            ));
        }
        if self.uses_tls() && !cfg!(feature = "tls") {
            return Err(Error::invalid_config(
                "tls is not compiled in: enable the feature \"tls\" of the crate \"tidings-consul\"",
            ));
        }
        Ok(())
    }
}

fn options_of(url: &DiscoveryUrl) -> Result<Options> {
    if url.user().is_some() {
        return Err(Error::invalid_config(
            "a user in the url: accepted is none (an ACL token is ?token=… or ?token_file=…)",
        ));
    }
    let mut options = url.options().clone();
    match url.hosts() {
        [] => {}
        [agent] => options.set("agent", agent.to_string(), "the host of the url")?,
        hosts => {
            return Err(Error::invalid_config(format!(
                "{} hosts in the url: accepted is one, the agent on this machine, which knows the \
                 servers",
                hosts.len()
            )));
        }
    }
    if !url.path().is_empty() {
        options.set("namespace", url.path(), "the path of the url")?;
    }
    Ok(options)
}

fn agent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HostPort, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> ConsulConfig {
        ConsulConfig::from_url(&url.parse().unwrap()).expect(url)
    }

    fn error(url: &str) -> String {
        let error = ConsulConfig::from_url(&url.parse().unwrap()).expect_err(url);
        assert_eq!(error.kind(), tidings_api::ErrorKind::InvalidConfig);
        error.to_string()
    }

    #[test]
    fn the_default_is_valid_and_what_an_empty_url_says() {
        ConsulConfig::default().validate().unwrap();
        assert_eq!(config("consul://"), ConsulConfig::default());
    }

    #[test]
    fn every_field_is_read_from_the_url() {
        let read = config(
            "consul://consul.internal:8501/prod?environment=true&ttl=30s&deregister_after=2m\
             &tags=a,b&token=t0k3n&datacenter=dc2&consul_namespace=team&partition=part\
             &consistency=stale&wait=1m&request_timeout=1s&leave_timeout=2s&loss_hold=0s",
        );
        let expected = ConsulConfig {
            agent: "consul.internal:8501".parse().unwrap(),
            namespace: Some("prod".into()),
            environment: true,
            ttl: Duration::from_secs(30),
            deregister_after: Duration::from_secs(120),
            tags: vec!["a".into(), "b".into()],
            token: Some("t0k3n".into()),
            datacenter: Some("dc2".into()),
            consul_namespace: Some("team".into()),
            partition: Some("part".into()),
            consistency: Consistency::Stale,
            wait: Duration::from_secs(60),
            request_timeout: Duration::from_secs(1),
            leave_timeout: Duration::from_secs(2),
            loss_hold: Duration::ZERO,
            ..ConsulConfig::default()
        };
        assert_eq!(read, expected);
        assert!(!format!("{read:?}").contains("t0k3n"));
        let file = config("consul://?token_file=/run/token");
        assert_eq!(file.token_file, Some("/run/token".into()));
    }

    #[test]
    fn the_port_of_the_agent_may_be_left_out() {
        let address = |url| config(url).agent_address().unwrap().to_string();
        assert_eq!(address("consul://consul"), "consul:8500");
        assert_eq!(address("consul://[::1]"), "[::1]:8500");
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_is_asked_for_by_any_of_its_fields() {
        for url in [
            "consul://?tls=true",
            "consul://?ca_file=/ca.pem",
            "consul://?cert_file=/cert.pem&key_file=/key.pem",
            "consul://?tls_server_name=server.dc1.consul",
        ] {
            assert!(config(url).uses_tls(), "{url}");
        }
        assert!(!config("consul://").uses_tls());
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn without_its_feature_tls_is_refused() {
        assert_eq!(
            error("consul://?tls=true"),
            "consul: tls is not compiled in: enable the feature \"tls\" of the crate \
             \"tidings-consul\""
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_accepted() {
        for (url, text) in [
            (
                "consul://a,b",
                "consul: 2 hosts in the url: accepted is one, the agent on this machine, which \
                 knows the servers",
            ),
            (
                "consul://u@a",
                "consul: a user in the url: accepted is none (an ACL token is ?token=… or \
                 ?token_file=…)",
            ),
            (
                "consul://a:0",
                "consul: agent: port 0 of address \"a\": accepted are 1 to 65535",
            ),
            (
                "consul:///a/b",
                "consul: namespace \"a/b\" (3 bytes): accepted are 1 to 128 of A-Z a-z 0-9 ._:-",
            ),
            (
                "consul://?ttl=500ms",
                "consul: ttl 500ms: accepted are 1s to 1day",
            ),
            (
                "consul://?deregister_after=10s",
                "consul: deregister_after 10s: accepted are 1m to 7days",
            ),
            (
                "consul://?consistency=strong",
                "consul: consistency \"strong\": accepted are default, consistent, stale",
            ),
            (
                "consul://?token=",
                "consul: token: accepted are printable ASCII characters, and at least one",
            ),
            (
                "consul://?token=a&token_file=b",
                "consul: token and token_file are both given: accepted is one of them",
            ),
            (
                "consul://?cert_file=a",
                "consul: cert_file and key_file: accepted are both or neither",
            ),
        ] {
            assert_eq!(error(url), text);
        }
        assert!(error("consul://?tok=a").contains("unknown option \"tok\": accepted are agent"));
    }
}
