//! etcd: one member or three, with TLS and users where a test wants them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Process;
use crate::tls::Certificates;
use crate::{Result, ports};

/// The user that may do everything, where [`Options::users`] is set.
pub const ROOT: (&str, &str) = ("root", "root-secret");

/// How long a cluster may take until it has a leader, on a machine that is busy.
const READY_TIME_MAX: Duration = Duration::from_secs(60);
const READY_POLL_INTERVAL: Duration = Duration::from_millis(20);
const PROBE_TIME_MAX: Duration = Duration::from_secs(1);

/// Which etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one of the system's packages, 3.4 on Debian bookworm.
    V3_4,
    /// 3.5.
    V3_5,
}

/// How the servers talk to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In the clear.
    Plain,
    /// TLS with the server's certificate only.
    Tls,
    /// TLS where clients need a certificate too.
    MutualTls,
}

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which etcd.
    pub version: Version,
    /// How many members.
    pub members: usize,
    /// How they talk to clients.
    pub transport: Transport,
    /// Whether clients have to name a user; [`ROOT`] is there then, and no other.
    pub users: bool,
    /// More command line arguments.
    pub arguments: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: Version::V3_4,
            members: 1,
            transport: Transport::Plain,
            users: false,
            arguments: Vec::new(),
        }
    }
}

impl Options {
    /// The same with so many members.
    #[must_use]
    pub fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// The same with another version.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }
}

impl Version {
    fn program(self) -> Result<&'static Path> {
        let (path, how) = match self {
            Self::V3_4 => (env!("TESTKIT_ETCD_3_4"), "etcd 3.4 is not installed"),
            Self::V3_5 => (env!("TESTKIT_ETCD_3_5"), "etcd 3.5 is not installed"),
        };
        if path.is_empty() {
            return Err(how.into());
        }
        Ok(Path::new(path))
    }
}

/// A running etcd cluster; ends when dropped.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    members: Vec<Member>,
    certificates: Option<Certificates>,
    // Last, so that the directory goes after the processes in it.
    folder: TempDir,
}

/// One member of it.
#[derive(Debug)]
struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    /// Health, in the clear whatever clients have to use.
    metrics: SocketAddr,
    process: Option<Process>,
}

impl Cluster {
    /// Starts a cluster and waits until it has a leader.
    ///
    /// # Errors
    /// Where a member ends early, or there is no leader in time.
    pub async fn start(options: Options) -> Result<Self> {
        let cluster = Self::prepare(options)?;
        cluster.begin().await
    }

    /// A cluster with ports and folders, of which no member runs yet: its addresses are known, and
    /// nobody is there.
    ///
    /// # Errors
    /// Where the folder can't be made.
    pub fn prepare(options: Options) -> Result<Self> {
        let folder = TempDir::with_prefix("tidings-etcd-")?;
        let certificates = match options.transport {
            Transport::Plain => None,
            Transport::Tls | Transport::MutualTls => Some(Certificates::create(folder.path())?),
        };
        let member = |number| Member {
            name: format!("m{number}"),
            client: ports::free(),
            peer: ports::free(),
            metrics: ports::free(),
            process: None,
        };
        Ok(Self {
            members: (0..options.members).map(member).collect(),
            options,
            certificates,
            folder,
        })
    }

    /// Starts every member of a [prepared](Self::prepare) cluster.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn begin(mut self) -> Result<Self> {
        self.restart_all().await?;
        if self.options.users {
            self.set_up_users()?;
        }
        Ok(self)
    }

    /// Makes a cluster that has no users ask for one, with [`ROOT`] as the only one.
    ///
    /// # Errors
    /// Where `etcdctl` fails.
    pub fn set_up_users(&self) -> Result<()> {
        let (user, password) = ROOT;
        let with_password = format!("{user}:{password}");
        for order in [
            &["user", "add", &with_password][..],
            &["role", "add", "root"],
            &["user", "grant-role", user, "root"],
            &["auth", "enable"],
        ] {
            self.ctl_without_user(order)?;
        }
        Ok(())
    }

    /// Where clients reach each member.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// The certificates, where the transport has any.
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The number of the member that leads.
    ///
    /// # Errors
    /// Where none does.
    pub fn leader(&self) -> Result<usize> {
        for (number, member) in self.members.iter().enumerate() {
            if member.process.is_none() {
                continue;
            }
            let endpoint = self.url(member.client);
            let text = self.ctl(&["--endpoints", &endpoint, "endpoint", "status"])?;
            if text.split(", ").nth(4) == Some("true") {
                return Ok(number);
            }
        }
        Err("no member leads".into())
    }

    /// Kills a member; its data stays.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process = None;
    }

    /// Kills every member; their data stays.
    pub fn kill_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }

    /// Stops a member without its knowing (SIGSTOP).
    ///
    /// # Errors
    /// Where it doesn't run.
    pub fn pause(&self, member: usize) -> Result<()> {
        self.process(member)?.pause()
    }

    /// Ends [`pause`](Self::pause).
    ///
    /// # Errors
    /// Where it doesn't run.
    pub fn resume(&self, member: usize) -> Result<()> {
        self.process(member)?.resume()
    }

    /// Starts a killed member with its data and waits until the cluster has a leader, as it sees
    /// it.
    ///
    /// # Errors
    /// Where it ends early, or sees no leader in time.
    pub async fn restart(&mut self, member: usize) -> Result<()> {
        self.launch(member)?;
        self.ready(member).await
    }

    /// Starts every killed member with its data, and waits for a leader.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    pub async fn restart_all(&mut self) -> Result<()> {
        for member in 0..self.members.len() {
            if self.members[member].process.is_none() {
                self.launch(member)?;
            }
        }
        for member in 0..self.members.len() {
            self.ready(member).await?;
        }
        Ok(())
    }

    /// Kills every member and deletes all data: the next start is that of a new cluster.
    ///
    /// # Errors
    /// Where data can't be deleted.
    pub fn lose_data(&mut self) -> Result<()> {
        self.kill_all();
        for member in &self.members {
            match fs::remove_dir_all(self.data(member)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The value of one of a member's metrics, such as `etcd_debugging_mvcc_watcher_total`.
    ///
    /// # Errors
    /// Where the member doesn't answer, or hasn't got it.
    pub async fn metric(&self, member: usize, name: &str) -> Result<f64> {
        let text = http_get(self.members[member].metrics, "/metrics").await?;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.ok_or_else(|| format!("no metric {name}"))?.parse()?)
    }

    /// Runs `etcdctl`, as [`ROOT`] where there are users, and returns what it prints.
    ///
    /// # Errors
    /// Where it fails, with what it printed.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let user = format!("{}:{}", ROOT.0, ROOT.1);
        let user = ["--user", &user];
        let user = if self.options.users { &user[..] } else { &[] };
        self.ctl_without_user(&[user, arguments].concat())
    }

    fn ctl_without_user(&self, arguments: &[&str]) -> Result<String> {
        let program = self.options.version.program()?.with_file_name("etcdctl");
        let mut command = Command::new(program);
        command.env("ETCDCTL_API", "3");
        if !arguments.contains(&"--endpoints") {
            let running = self
                .members
                .iter()
                .filter(|member| member.process.is_some());
            let endpoints: Vec<_> = running.map(|member| self.url(member.client)).collect();
            command.args(["--endpoints", &endpoints.join(",")]);
        }
        if let Some(certificates) = &self.certificates {
            let (certificate, key) = certificates.client();
            command.arg("--cacert").arg(certificates.ca());
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        let output = command.args(arguments).output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(format!("etcdctl {arguments:?}: {error}").into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn process(&self, member: usize) -> Result<&Process> {
        let process = self.members[member].process.as_ref();
        process.ok_or_else(|| format!("member {member} does not run").into())
    }

    fn data(&self, member: &Member) -> PathBuf {
        self.folder.path().join(&member.name)
    }

    fn url(&self, address: SocketAddr) -> String {
        match self.options.transport {
            Transport::Plain => format!("http://{address}"),
            Transport::Tls | Transport::MutualTls => format!("https://{address}"),
        }
    }

    fn launch(&mut self, number: usize) -> Result<()> {
        let member = &self.members[number];
        let log = self.folder.path().join(format!("{}.log", member.name));
        let program = self.options.version.program()?;
        let process = Process::start(program, &self.arguments(member), &log)?;
        self.members[number].process = Some(process);
        Ok(())
    }

    fn arguments(&self, member: &Member) -> Vec<String> {
        let peer = |member: &Member| format!("http://{}", member.peer);
        let all = self.members.iter();
        let all: Vec<_> = all.map(|m| format!("{}={}", m.name, peer(m))).collect();
        let mut arguments: Vec<String> = [
            ("name", member.name.clone()),
            ("data-dir", self.data(member).display().to_string()),
            ("listen-client-urls", self.url(member.client)),
            ("advertise-client-urls", self.url(member.client)),
            ("listen-peer-urls", peer(member)),
            ("initial-advertise-peer-urls", peer(member)),
            ("initial-cluster", all.join(",")),
            ("initial-cluster-state", "new".into()),
            ("listen-metrics-urls", format!("http://{}", member.metrics)),
            ("logger", "zap".into()),
            ("log-level", "warn".into()),
            ("bcrypt-cost", "4".into()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [format!("--{name}"), value])
        .collect();
        if let Some(certificates) = &self.certificates {
            let (certificate, key) = certificates.server();
            for (name, path) in [("cert-file", certificate), ("key-file", key)] {
                arguments.extend([format!("--{name}"), path.display().to_string()]);
            }
            if self.options.transport == Transport::MutualTls {
                let ca = certificates.ca().display().to_string();
                arguments.extend(["--client-cert-auth".into(), "--trusted-ca-file".into(), ca]);
            }
        }
        arguments.extend(self.options.arguments.iter().cloned());
        arguments
    }

    async fn ready(&mut self, number: usize) -> Result<()> {
        let member = &mut self.members[number];
        let process = member.process.as_mut();
        let process = process.ok_or_else(|| format!("member {number} does not run"))?;
        let start = Instant::now();
        loop {
            if matches!(is_healthy(member.metrics).await, Ok(true)) {
                return Ok(());
            }
            if !process.is_running() {
                return Err(format!("etcd ended: {}", process.log_tail()).into());
            }
            if start.elapsed() > READY_TIME_MAX {
                return Err(format!("etcd sees no leader: {}", process.log_tail()).into());
            }
            tokio::time::sleep(READY_POLL_INTERVAL).await;
        }
    }
}

/// Whether the member sees a leader.
async fn is_healthy(metrics: SocketAddr) -> Result<bool> {
    let answer = http_get(metrics, "/health").await?;
    Ok(answer.contains("\"health\":\"true\""))
}

async fn http_get(server: SocketAddr, path: &str) -> Result<String> {
    let get = async {
        let mut stream = TcpStream::connect(server).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(PROBE_TIME_MAX, get).await?
}
