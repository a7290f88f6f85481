//! How the gossip backend is configured.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use tidings_api::config::{self, Options};
use tidings_api::{Address, DiscoveryUrl, Error, Host, HostPort, Result};

use crate::engine::is_of_one_host;
use crate::seal::{Ring, SealKey, SealMode};

/// The port where an address in the configuration names none (the one Serf and memberlist use).
pub const PORT_DEFAULT: u16 = 7946;

/// How a member takes part in a cluster.
///
/// As URL, `gossip://BIND/CLUSTER?OPTION=VALUE&…`, where every field but `bind` and `cluster` is an
/// option, and these two may be:
///
/// ```
/// use tidings_gossip::GossipConfig;
///
/// let url = "gossip://0.0.0.0:7946/prod?join=10.0.0.5,10.0.0.6:8000&keys_file=/etc/web/key".parse()?;
/// let config = GossipConfig::from_url(&url)?;
/// assert_eq!(config.cluster, "prod");
/// assert_eq!(config.join, ["10.0.0.5", "10.0.0.6:8000"]);
/// # Ok::<(), tidings_api::Error>(())
/// ```
///
/// In code, start from the default and change fields:
///
/// ```
/// # use tidings_gossip::GossipConfig;
/// let mut config = GossipConfig::default();
/// config.bind = "0.0.0.0:7946".parse()?;
/// config.join.push("seed.internal".into());
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
///
/// The times suit a data centre. All members of a cluster should have the same ones.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GossipConfig {
    /// Where to listen, UDP and TCP alike: an IP address, as text with port 7946 unless it names
    /// one. Port 0 takes a free one. Default `127.0.0.1:7946`.
    ///
    /// Loopback is heard by members on the same machine only; use `0.0.0.0` or `[::]` to be reached
    /// from others, and then look at [`advertise`](Self::advertise).
    #[serde(deserialize_with = "bind")]
    pub bind: SocketAddr,

    /// Where the others reach this member: an IP address, and a port unless it is the bound one,
    /// which port 0 stands for too. Default: the bound address or, where that is `0.0.0.0` or
    /// `[::]`, the address from which this machine reaches the first seed. Where the machine loses that
    /// address, or had no network at the start, it is looked for again, and the member goes on at the
    /// one that is found as a new start.
    ///
    /// Set it behind address translation and in containers. An address that the others can't
    /// reach makes them take this member for dead.
    #[serde(deserialize_with = "advertise")]
    pub advertise: Option<SocketAddr>,

    /// Seeds: members to ask first, each `host` or `host:port`, with port 7946 by default. Names
    /// are resolved anew at every try. Default none: a cluster of its own, for others to join.
    ///
    /// Name at least two, so that one of them may be down. Every member may have the same list;
    /// finding oneself in it is no error.
    pub join: Vec<String>,

    /// Whether to look on only, as a [`GossipObserver`](crate::GossipObserver), instead of being a
    /// member. Default `false`.
    ///
    /// An observer binds nothing and is nobody, so it has no [`bind`](Self::bind),
    /// [`advertise`](Self::advertise), [`name`](Self::name), [`state`](Self::state_dir),
    /// [`probe_timeout`](Self::probe_timeout), [`suspicion_multiplier`](Self::suspicion_multiplier) or
    /// [`leave_timeout`](Self::leave_timeout), and it needs [`join`](Self::join). Name several seeds, or a
    /// name with several addresses: observers spread over them.
    pub observe: bool,

    /// The member's name, unique in the cluster: 1–128 of `A-Za-z0-9._:-`. Default: generated at
    /// every start.
    ///
    /// With a name that stays the same, a member that restarts takes the place of its former self
    /// at once, even before that was found dead. Of two live members of one name, the older goes
    /// on under another one, and warns.
    pub name: Option<String>,

    /// The cluster's name: 1–128 of `A-Za-z0-9._:-`. Default `tidings`.
    ///
    /// Members of other clusters are not heard, so that two clusters that come to share a network
    /// don't merge.
    pub cluster: String,

    /// How long starting waits for the first seed to answer, so that the first view is not empty;
    /// without an answer it goes on trying in the background. 0 to 1 min, default 1 s.
    ///
    /// Too low: views start stale and fill up a moment later. Too high: a member whose seeds are
    /// all down starts that much later. Without effect where [`join`](Self::join) is empty.
    #[serde(with = "config::duration")]
    pub join_wait: Duration,

    /// Time between two probes that a member sends, each to another member. 10 ms to 1 min, default
    /// 1 s.
    ///
    /// Bounds how late a crash is found that leaves no trace (a lost host, a partition): suspicion
    /// starts after about one interval, whatever the size of the cluster. Too low: more packets,
    /// and a short hiccup of the network or scheduler counts as a failure. Too high: such a crash
    /// is found late. A process that dies on a host that lives is found at once either way.
    #[serde(with = "config::duration")]
    pub probe_interval: Duration,

    /// How long a probe waits for its answer before other members are asked to try. At least 1 ms,
    /// and less than [`probe_interval`](Self::probe_interval), the rest of which is theirs. Default
    /// 500 ms.
    ///
    /// Should be above the slowest round trip in the cluster. Too low: needless indirect probes.
    /// Too high: little time is left for them, and a lost packet is more often taken for a failure.
    #[serde(with = "config::duration")]
    pub probe_timeout: Duration,

    /// How long a suspect has to refute before it is dead where a quarter of the packets or more is
    /// lost, in [probe intervals](Self::probe_interval) of a cluster of up to ten; it grows with
    /// the logarithm of the size. Where nothing is lost it is one and a half intervals. 1 to 20,
    /// default 4.
    ///
    /// Too low: in a bad network members are taken for dead, and their instances vanish and return.
    /// Too high: there, a lost host stays in the views that much longer.
    pub suspicion_multiplier: u32,

    /// How long closing waits for other members to confirm that they know of the leave. 10 ms to
    /// 10 s, default 500 ms; alone in a cluster it doesn't wait.
    ///
    /// Too low: where packets are lost, the others find out as after a crash. Too high: a process
    /// that has lost its network takes that much longer to end.
    #[serde(with = "config::duration")]
    pub leave_timeout: Duration,

    /// How long the instances of lost members stay in the views, stale, while this member itself
    /// is cut off from most of the cluster. 0 to 24 h, default 5 min; 0 lets every loss pass.
    ///
    /// Too low: a member on the small side of a partition sees the other side's instances vanish.
    /// Too high: after a real loss of most of the cluster it goes on showing what is gone.
    #[serde(with = "config::duration")]
    pub loss_hold: Duration,

    /// A folder where the member keeps what it needs at its next start: its generation, which then
    /// rises even where the clock was set back, and where other members were, which it asks like
    /// seeds. In options `state`. It is made where only it itself is missing, and needs
    /// [`name`](Self::name), which its content belongs to. Default none: nothing is kept.
    ///
    /// So a member rejoins while no seed is up, and finds members that were lost for longer than
    /// the others remember them. Up to 128 addresses are kept, and written at most every 10 s when
    /// they have changed. Members may share a folder; one member should not run twice on it. A file
    /// that is damaged is ignored, and said.
    #[serde(rename = "state")]
    pub state_dir: Option<PathBuf>,

    /// The cluster's keys, which seal what goes over the network; all members have the same. Each is 32
    /// random bytes in base64 or hexadecimal, as `openssl rand -hex 32` writes them. The first one
    /// seals, all of them open: up to 8. Default none.
    ///
    /// To change keys while the cluster runs, use [`keys_file`](Self::keys_file) or
    /// [`Keyring`](crate::Keyring). In a URL, hexadecimal needs no escapes.
    pub keys: Vec<SealKey>,

    /// A file with the [`keys`](Self::keys), one a line, and `#` before comments. It is looked at
    /// every two seconds, so keys change without a restart. Default none.
    ///
    /// Only the user the process runs as should be able to read it.
    pub keys_file: Option<PathBuf>,

    /// Whether frames are sealed: `off`, `accept` (sends unsealed, understands both), `send` (sends
    /// sealed, understands both) or `required` (hears nothing unsealed). Default `required` with
    /// keys, and `off` without, which on any address but loopback has to be said: then whoever
    /// reaches the port can read and change everything that is registered.
    ///
    /// The two in the middle are for sealing a cluster that runs, one step on all members after the
    /// other. They hear what anybody sends, as `off` does.
    pub seal: Option<SealMode>,
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self {
            bind: (Ipv4Addr::LOCALHOST, PORT_DEFAULT).into(),
            advertise: None,
            join: Vec::new(),
            observe: false,
            name: None,
            cluster: "tidings".to_owned(),
            join_wait: Duration::from_secs(1),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            suspicion_multiplier: 4,
            leave_timeout: Duration::from_millis(500),
            loss_hold: Duration::from_secs(5 * 60),
            state_dir: None,
            keys: Vec::new(),
            keys_file: None,
            seal: None,
        }
    }
}

impl GossipConfig {
    /// Reads `gossip://BIND/CLUSTER?OPTION=VALUE&…`.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) naming what is wrong and what is
    /// accepted: a part of the URL that has no meaning here, an unknown option, a value out of range.
    pub fn from_url(url: &DiscoveryUrl) -> Result<Self> {
        options_of(url)
            .map_err(|error| error.with_backend("gossip"))
            .and_then(|options| Self::from_options(&options))
    }

    /// Reads the fields from text, where [durations](config::duration) have their unit and lists
    /// commas.
    ///
    /// # Errors
    /// As [`from_url`](Self::from_url).
    pub fn from_options(options: &Options) -> Result<Self> {
        config::from_options(options)
            .map_err(|error| error.with_backend("gossip"))
            .and_then(|config: Self| config.validate().map(|()| config))
    }

    /// Checks every field against its rule. Whatever starts from the configuration does it.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) naming the field, its value and what
    /// is accepted.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|error| error.with_backend("gossip"))
    }

    /// The addresses of the seeds, to be resolved.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) naming the seed that is none.
    pub fn seeds(&self) -> Result<Vec<Address>> {
        self.join.iter().map(|seed| parse_seed(seed)).collect()
    }

    /// What is sealed: as configured, or what follows from whether there are keys.
    #[must_use]
    pub fn seal_mode(&self) -> SealMode {
        let default = if self.has_keys() {
            SealMode::Required
        } else {
            SealMode::Off
        };
        self.seal.unwrap_or(default)
    }

    fn has_keys(&self) -> bool {
        !self.keys.is_empty() || self.keys_file.is_some()
    }

    fn check(&self) -> Result<()> {
        const MILLISECOND: Duration = Duration::from_millis(1);
        const SECOND: Duration = Duration::from_secs(1);
        const HOUR: Duration = Duration::from_secs(60 * 60);

        if let Some(advertise) = self.advertise
            && !is_of_one_host(advertise.ip())
        {
            return Err(Error::invalid_config(format!(
                "advertise \"{advertise}\": accepted is an address that others can reach"
            )));
        }
        self.seeds()?;
        if let Some(name) = &self.name {
            config::check_name("name", name)?;
        }
        config::check_name("cluster", &self.cluster)?;
        if let Some(folder) = &self.state_dir {
            check_state_dir(folder, self.name.as_deref())?;
        }
        self.check_keys()?;
        for (field, value, range) in [
            ("join_wait", self.join_wait, Duration::ZERO..=60 * SECOND),
            (
                "probe_interval",
                self.probe_interval,
                10 * MILLISECOND..=60 * SECOND,
            ),
            (
                "probe_timeout",
                self.probe_timeout,
                MILLISECOND..=60 * SECOND,
            ),
            (
                "leave_timeout",
                self.leave_timeout,
                10 * MILLISECOND..=10 * SECOND,
            ),
            ("loss_hold", self.loss_hold, Duration::ZERO..=24 * HOUR),
        ] {
            config::check_duration(field, value, range)?;
        }
        config::check_range("suspicion_multiplier", self.suspicion_multiplier, 1..=20)?;
        if self.observe {
            return self.check_observer();
        }
        if self.probe_timeout >= self.probe_interval {
            return Err(Error::invalid_config(format!(
                "probe_timeout {:?}: accepted is less than probe_interval, which is {:?}",
                self.probe_timeout, self.probe_interval
            )));
        }
        Ok(())
    }
}

impl GossipConfig {
    /// Checks that nothing is set that an observer has no use for.
    fn check_observer(&self) -> Result<()> {
        let members = Self::default();
        let of_members = [
            ("bind", self.bind != members.bind),
            ("advertise", self.advertise.is_some()),
            ("name", self.name.is_some()),
            ("state", self.state_dir.is_some()),
            ("probe_timeout", self.probe_timeout != members.probe_timeout),
            (
                "suspicion_multiplier",
                self.suspicion_multiplier != members.suspicion_multiplier,
            ),
            ("leave_timeout", self.leave_timeout != members.leave_timeout),
        ];
        if let Some((field, _)) = of_members.into_iter().find(|(_, set)| *set) {
            return Err(Error::invalid_config(format!(
                "{field} with observe=true: accepted is none, since an observer is no member"
            )));
        }
        if self.join.is_empty() {
            return Err(Error::invalid_config(
                "observe=true without join: accepted is at least one member to look through",
            ));
        }
        Ok(())
    }

    fn check_keys(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::invalid_config(message));
        if let Some(file) = &self.keys_file {
            if file.as_os_str().is_empty() {
                return wrong("keys_file \"\": accepted is the path of a file".to_owned());
            }
            if !self.keys.is_empty() {
                return wrong("keys and keys_file: accepted is one of them".to_owned());
            }
        }
        if !self.keys.is_empty() {
            Ring::new(&self.cluster, self.keys.clone(), SealMode::Required)
                .map_err(|error| Error::invalid_config(format!("keys: {error}")))?;
        }
        match (self.seal, self.has_keys()) {
            (Some(SealMode::Off), true) => wrong(
                "seal off with keys: accepted are accept, send and required, or no keys".to_owned(),
            ),
            (Some(mode), false) if mode != SealMode::Off => wrong(format!(
                "seal {mode} without keys: accepted is keys or keys_file with it"
            )),
            (None, false) if !self.bind.ip().is_loopback() => wrong(format!(
                "bind {} without keys: accepted are keys or keys_file, which seal what is sent, or \
                 seal=off where whoever reaches this address may read and change everything",
                self.bind
            )),
            _ => Ok(()),
        }
    }
}

fn options_of(url: &DiscoveryUrl) -> Result<Options> {
    if url.user().is_some() {
        return Err(Error::invalid_config("a user in the url: accepted is none"));
    }
    let mut options = url.options().clone();
    match url.hosts() {
        [] => {}
        [bind] => options.set("bind", bind.to_string(), "the host of the url")?,
        hosts => {
            return Err(Error::invalid_config(format!(
                "{} hosts in the url: accepted is one, to bind to (seeds are ?join=host,host)",
                hosts.len()
            )));
        }
    }
    if !url.path().is_empty() {
        options.set("cluster", url.path(), "the path of the url")?;
    }
    Ok(options)
}

fn check_state_dir(folder: &Path, name: Option<&str>) -> Result<()> {
    let accepted = match name {
        _ if folder.as_os_str().is_empty() => "the path of a folder",
        None => "a folder together with name, whose state is kept in it",
        Some(_) => return Ok(()),
    };
    Err(Error::invalid_config(format!(
        "state \"{}\": accepted is {accepted}",
        folder.display()
    )))
}

fn parse_seed(seed: &str) -> Result<Address> {
    seed.parse::<HostPort>()
        .and_then(|seed| seed.to_address(PORT_DEFAULT))
        .map_err(|error| Error::invalid_config(format!("join: {error}")))
}

fn bind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    socket_addr(deserializer, PORT_DEFAULT)
}

fn advertise<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    socket_addr(deserializer, 0).map(Some)
}

fn socket_addr<'de, D: Deserializer<'de>>(
    deserializer: D,
    port_default: u16,
) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed: HostPort = text.parse().map_err(de::Error::custom)?;
    let ip: IpAddr = match parsed.host() {
        Host::Ip(ip) => *ip,
        Host::Name(_) => {
            return Err(de::Error::custom(
                "accepted is an IP address, with or without a port, such as 0.0.0.0:7946 or [::]",
            ));
        }
    };
    Ok((ip, parsed.port().unwrap_or(port_default)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> GossipConfig {
        GossipConfig::from_url(&url.parse().unwrap()).expect(url)
    }

    fn error(url: &str) -> String {
        let error = GossipConfig::from_url(&url.parse().unwrap()).expect_err(url);
        assert_eq!(error.kind(), tidings_api::ErrorKind::InvalidConfig);
        error.to_string()
    }

    #[test]
    fn the_default_is_valid_and_what_an_empty_url_says() {
        GossipConfig::default().validate().unwrap();
        assert_eq!(config("gossip://"), GossipConfig::default());
    }

    #[test]
    fn every_field_is_read_from_the_url() {
        let read = config(
            "gossip://0.0.0.0:8000/prod?advertise=10.0.0.7&join=10.0.0.5&join=seed,[::1]:1\
             &name=web-1&join_wait=0s&probe_interval=200ms&probe_timeout=100ms\
             &suspicion_multiplier=5&leave_timeout=1s&loss_hold=1m\
             &state=/var/lib/web,1&keys_file=/etc/web/keys,1&seal=send",
        );
        let expected = GossipConfig {
            bind: "0.0.0.0:8000".parse().unwrap(),
            advertise: Some("10.0.0.7:0".parse().unwrap()),
            join: vec!["10.0.0.5".into(), "seed".into(), "[::1]:1".into()],
            observe: false,
            name: Some("web-1".into()),
            cluster: "prod".into(),
            join_wait: Duration::ZERO,
            probe_interval: Duration::from_millis(200),
            probe_timeout: Duration::from_millis(100),
            suspicion_multiplier: 5,
            leave_timeout: Duration::from_secs(1),
            loss_hold: Duration::from_secs(60),
            state_dir: Some("/var/lib/web,1".into()),
            keys: Vec::new(),
            keys_file: Some("/etc/web/keys,1".into()),
            seal: Some(SealMode::Send),
        };
        assert_eq!(read, expected);
        let seeds: Vec<_> = read
            .seeds()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(seeds, ["10.0.0.5:7946", "seed:7946", "[::1]:1"]);
        assert_eq!(
            config("gossip://[::]?seal=off").bind,
            "[::]:7946".parse().unwrap()
        );
        assert_eq!(
            config("gossip://?bind=[::1]:0&cluster=x").bind,
            "[::1]:0".parse().unwrap()
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_accepted() {
        for (url, text) in [
            (
                "gossip://a:1",
                "gossip: bind \"a:1\": accepted is an IP address, with or without a port, such as \
                 0.0.0.0:7946 or [::]",
            ),
            (
                "gossip://?bind=10.0.0.1:70000",
                "gossip: bind \"10.0.0.1:70000\": port \"70000\" of host 10.0.0.1: accepted are 0 \
                 to 65535",
            ),
            (
                "gossip://?advertise=0.0.0.0:1",
                "gossip: advertise \"0.0.0.0:1\": accepted is an address that others can reach",
            ),
            (
                "gossip://?advertise=224.0.0.1:1",
                "gossip: advertise \"224.0.0.1:1\": accepted is an address that others can reach",
            ),
            (
                "gossip://10.0.0.1,10.0.0.2",
                "gossip: 2 hosts in the url: accepted is one, to bind to (seeds are \
                 ?join=host,host)",
            ),
            (
                "gossip://u@a",
                "gossip: a user in the url: accepted is none",
            ),
            (
                "gossip://10.0.0.1?bind=10.0.0.1",
                "gossip: bind is given twice: as the host of the url and as an option",
            ),
            (
                "gossip:///prod?cluster=prod",
                "gossip: cluster is given twice: as the path of the url and as an option",
            ),
            (
                "gossip:///a/b",
                "gossip: cluster \"a/b\" (3 bytes): accepted are 1 to 128 of A-Z a-z 0-9 ._:-",
            ),
            (
                "gossip://?name=",
                "gossip: name \"\" (0 bytes): accepted are 1 to 128 of A-Z a-z 0-9 ._:-",
            ),
            (
                "gossip://?join=a:0",
                "gossip: join: port 0 of address \"a\": accepted are 1 to 65535",
            ),
            (
                "gossip://?join=a,b%20c",
                "gossip: join: host \"b c\" (3 bytes): accepted are an IPv4 or IPv6 address or a \
                 DNS host name",
            ),
            (
                "gossip://?suspicion_multiplier=0",
                "gossip: suspicion_multiplier 0: accepted are 1 to 20",
            ),
            (
                "gossip://?leave_timeout=1m",
                "gossip: leave_timeout 1m: accepted are 10ms to 10s",
            ),
            (
                "gossip://?loss_hold=1000000y",
                "gossip: loss_hold 1000000years: accepted are 0s to 1day",
            ),
            (
                "gossip://?probe_timeout=1s",
                "gossip: probe_timeout 1s: accepted is less than probe_interval, which is 1s",
            ),
            (
                "gossip://?state=/tmp",
                "gossip: state \"/tmp\": accepted is a folder together with name, whose state is \
                 kept in it",
            ),
            (
                "gossip://?state=&name=a",
                "gossip: state \"\": accepted is the path of a folder",
            ),
            (
                "gossip://?seed=a",
                "gossip: unknown option \"seed\": accepted are bind, advertise, join, observe, \
                 name, cluster, join_wait, probe_interval, probe_timeout, suspicion_multiplier, \
                 leave_timeout, loss_hold, state, keys, keys_file, seal",
            ),
            (
                "gossip://10.0.0.1",
                "gossip: bind 10.0.0.1:7946 without keys: accepted are keys or keys_file, which \
                 seal what is sent, or seal=off where whoever reaches this address may read and \
                 change everything",
            ),
            (
                "gossip://?seal=required",
                "gossip: seal required without keys: accepted is keys or keys_file with it",
            ),
            (
                "gossip://?seal=off&keys_file=/keys",
                "gossip: seal off with keys: accepted are accept, send and required, or no keys",
            ),
            (
                "gossip://?seal=on",
                "gossip: seal \"on\": accepted are off, accept, send, required",
            ),
            (
                "gossip://?keys=0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20&keys_file=/keys",
                "gossip: keys and keys_file: accepted is one of them",
            ),
            (
                "gossip://?keys_file=",
                "gossip: keys_file \"\": accepted is the path of a file",
            ),
            (
                "gossip://10.0.0.1?observe=true&join=a&seal=off",
                "gossip: bind with observe=true: accepted is none, since an observer is no member",
            ),
            (
                "gossip://?name=a&observe=true&join=a",
                "gossip: name with observe=true: accepted is none, since an observer is no member",
            ),
            (
                "gossip://?state=/a&name=a&observe=true&join=a",
                "gossip: name with observe=true: accepted is none, since an observer is no member",
            ),
            (
                "gossip://?advertise=10.0.0.1&observe=true&join=a",
                "gossip: advertise with observe=true: accepted is none, since an observer is no \
                 member",
            ),
            (
                "gossip://?observe=true",
                "gossip: observe=true without join: accepted is at least one member to look through",
            ),
            (
                "gossip://?keys=hunter2",
                "gossip: keys: accepted are 32 random bytes, as base64 (44 characters) or \
                 hexadecimal (64), such as \"openssl rand -base64 32\" writes",
            ),
        ] {
            assert_eq!(error(url), text);
        }
    }

    #[test]
    fn an_observer_has_what_it_needs_and_no_more() {
        let read =
            config("gossip:///prod?join=a,b:1&observe=true&probe_interval=200ms&join_wait=0s");
        assert!(read.observe);
        assert_eq!((read.join.len(), &*read.cluster), (2, "prod"));
    }

    #[test]
    fn keys_seal_unless_something_else_is_said() {
        const KEY: &str = "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20";
        assert_eq!(config("gossip://").seal_mode(), SealMode::Off);
        assert_eq!(
            config("gossip://10.0.0.1?seal=off").seal_mode(),
            SealMode::Off
        );
        let sealed = config(&format!("gossip://10.0.0.1?keys={KEY}"));
        assert_eq!(sealed.seal_mode(), SealMode::Required);
        assert!(!format!("{sealed:?}").contains(&KEY[..8]), "{sealed:?}");
        let accepting = config(&format!("gossip://10.0.0.1?keys={KEY}&seal=accept"));
        assert_eq!(accepting.seal_mode(), SealMode::Accept);
        let twice = error(&format!("gossip://?keys={KEY},{KEY}"));
        assert!(
            twice.contains("keys: key") && twice.contains("is given twice"),
            "{twice}"
        );
    }
}
