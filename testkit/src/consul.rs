//! Consul: an agent that is a server, or a client agent of one, with ACLs where a test wants them.

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

/// The token that may do everything, where [`Options::acl`] is set.
pub const ROOT_TOKEN: &str = "e95b599e-166e-7d80-08ad-aee76e7ddf19";

/// How long an agent may take until there is a leader, on a machine that is busy.
const READY_TIME_MAX: Duration = Duration::from_secs(60);
const READY_POLL_INTERVAL: Duration = Duration::from_millis(20);
const CALL_TIME_MAX: Duration = Duration::from_secs(20);

/// What an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A server in memory (`-dev`): there in a moment, and without its data after a restart.
    Dev,
    /// A server with data on disk.
    Server,
    /// A client agent of the server whose gossip address this is.
    Client(SocketAddr),
}

/// What agent to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// What it is.
    pub role: Role,
    /// Whether there are access lists; [`ROOT_TOKEN`] is there then, and whoever has no token may
    /// do what `default_policy` says: `allow` or `deny`.
    pub acl: Option<&'static str>,
    /// HTTPS with client certificates, instead of HTTP.
    pub tls: bool,
    /// More configuration, as HCL.
    pub configuration: Vec<String>,
}

impl Options {
    /// An agent in the clear, without access lists.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            acl: None,
            tls: false,
            configuration: Vec::new(),
        }
    }

    /// The same with access lists.
    #[must_use]
    pub fn acl(mut self, default_policy: &'static str) -> Self {
        self.acl = Some(default_policy);
        self
    }

    /// The same with TLS.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }
}

/// A running agent; ends when dropped.
#[derive(Debug)]
pub struct Agent {
    options: Options,
    name: String,
    http: SocketAddr,
    https: SocketAddr,
    dns: SocketAddr,
    serf: SocketAddr,
    server: SocketAddr,
    certificates: Option<Certificates>,
    process: Option<Process>,
    // Last, so that the directory goes after the process in it.
    folder: TempDir,
}

impl Agent {
    /// Starts an agent and waits until it answers and there is a leader.
    ///
    /// # Errors
    /// Where it ends early, or there is no leader in time.
    pub async fn start(options: Options) -> Result<Self> {
        let mut agent = Self::prepare(options)?;
        agent.restart().await?;
        Ok(agent)
    }

    /// An agent with ports and a folder that doesn't run yet: its addresses are known, and nobody is
    /// there. [`restart`](Self::restart) starts it.
    ///
    /// # Errors
    /// Where the folder can't be made.
    pub fn prepare(options: Options) -> Result<Self> {
        let folder = TempDir::with_prefix("tidings-consul-")?;
        let certificates = options.tls.then(|| Certificates::create(folder.path()));
        let http = ports::free();
        Ok(Self {
            name: format!("node-{}", http.port()),
            http,
            https: ports::free(),
            dns: ports::free(),
            serf: ports::free(),
            server: ports::free(),
            certificates: certificates.transpose()?,
            process: None,
            options,
            folder,
        })
    }

    /// Where its HTTP API is.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where its HTTPS API is, with [`Options::tls`].
    #[must_use]
    pub fn https(&self) -> SocketAddr {
        self.https
    }

    /// Where its DNS is, over UDP and TCP.
    #[must_use]
    pub fn dns(&self) -> SocketAddr {
        self.dns
    }

    /// Where it gossips, for [`Role::Client`].
    #[must_use]
    pub fn serf(&self) -> SocketAddr {
        self.serf
    }

    /// The name of its node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.name
    }

    /// The certificates, with [`Options::tls`].
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Whether it hasn't ended.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// What it has logged since it was first started: warnings and errors.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Kills it; its data stays, unless it is a [`Role::Dev`].
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it without its knowing (SIGSTOP).
    ///
    /// # Errors
    /// Where it doesn't run.
    pub fn pause(&self) -> Result<()> {
        self.running()?.pause()
    }

    /// Ends [`pause`](Self::pause).
    ///
    /// # Errors
    /// Where it doesn't run.
    pub fn resume(&self) -> Result<()> {
        self.running()?.resume()
    }

    /// Starts it, where it was killed, and waits until it is ready.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.is_none() {
            let arguments = self.arguments()?;
            self.process = Some(Process::start(program()?, &arguments, &self.log_file())?);
        }
        self.ready().await
    }

    /// Kills it and deletes its data: the next start is that of a new agent.
    ///
    /// # Errors
    /// Where data can't be deleted.
    pub fn lose_data(&mut self) -> Result<()> {
        self.kill();
        match fs::remove_dir_all(self.data()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Calls its HTTP API with [`ROOT_TOKEN`], and returns the answer's body.
    ///
    /// # Errors
    /// Where it doesn't answer, or not with 200.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let answer = self.call_bytes(method, path, body.as_bytes()).await?;
        Ok(String::from_utf8(answer)?)
    }

    /// The same for bodies that aren't text, such as snapshots.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_bytes(&self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        call(self.http, method, path, body).await
    }

    fn running(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .ok_or_else(|| "the agent does not run".into())
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn arguments(&self) -> Result<Vec<String>> {
        let mut arguments: Vec<String> = vec!["agent".into()];
        let data = format!("-data-dir={}", self.data().display());
        match self.options.role {
            Role::Dev => arguments.push("-dev".into()),
            Role::Server => {
                arguments.extend(["-server".into(), "-bootstrap-expect=1".into(), data]);
            }
            Role::Client(server) => arguments.extend([
                data,
                format!("-retry-join={server}"),
                "-retry-interval=1s".into(),
            ]),
        }
        arguments.extend([
            format!("-node={}", self.name),
            "-bind=127.0.0.1".into(),
            "-client=127.0.0.1".into(),
            format!("-http-port={}", self.http.port()),
            format!("-dns-port={}", self.dns.port()),
            format!("-serf-lan-port={}", self.serf.port()),
            format!("-server-port={}", self.server.port()),
            "-serf-wan-port=-1".into(),
            "-grpc-port=-1".into(),
            "-log-level=warn".into(),
        ]);
        for hcl in self.configuration()? {
            arguments.extend(["-hcl".into(), hcl]);
        }
        Ok(arguments)
    }

    fn configuration(&self) -> Result<Vec<String>> {
        let version = version()?;
        let mut configuration = vec![
            // Elections in a second rather than in five.
            "performance { raft_multiplier = 1 }".to_owned(),
            "disable_update_check = true".to_owned(),
        ];
        if version >= (1, 14) {
            configuration.push("ports { grpc_tls = -1 }".into());
        }
        if let Some(policy) = self.options.acl {
            let root = if version >= (1, 11) {
                "initial_management"
            } else {
                "master"
            };
            // Until there is a leader the token isn't known, and the agent's first try to pass on
            // what it has fails with it; the next is a quarter of a minute later.
            let agent = match policy {
                "allow" => String::new(),
                _ => format!("agent = \"{ROOT_TOKEN}\""),
            };
            configuration.push(format!(
                "acl {{ enabled = true default_policy = \"{policy}\" down_policy = \"extend-cache\" \
                 tokens {{ {root} = \"{ROOT_TOKEN}\" {agent} }} }}"
            ));
        }
        if let Some(certificates) = &self.certificates {
            let (certificate, key) = certificates.server();
            configuration.push(format!(
                "ports {{ https = {} }} verify_incoming_https = true ca_file = {:?} \
                 cert_file = {certificate:?} key_file = {key:?}",
                self.https.port(),
                certificates.ca(),
            ));
        }
        configuration.extend(self.options.configuration.iter().cloned());
        Ok(configuration)
    }

    async fn ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let missing = match self.missing().await {
                Ok(None) => return Ok(()),
                Ok(Some(missing)) => missing.to_owned(),
                Err(error) => error.to_string(),
            };
            let process = self.process.as_mut().ok_or("the agent does not run")?;
            if !process.is_running() {
                return Err(format!("consul ended: {}", process.log_tail()).into());
            }
            if start.elapsed() > READY_TIME_MAX {
                let log = process.log_tail();
                return Err(format!("consul is not ready, {missing}: {log}").into());
            }
            tokio::time::sleep(READY_POLL_INTERVAL).await;
        }
    }

    /// What it takes until it is ready.
    ///
    /// A leader alone is not enough: writes may still fail. Nor is that: what happens in the agent
    /// itself, such as a TTL that runs out, is not passed on before it has once passed on all it
    /// has. Its node's metadata is a part of that.
    async fn missing(&self) -> Result<Option<&'static str>> {
        let leader = self.call("GET", "/v1/status/leader", "").await?;
        let ready = format!("/v1/kv/ready/{}", self.name);
        if leader.len() <= 2 {
            return Ok(Some("there is no leader"));
        }
        if self.call("PUT", &ready, "1").await?.trim() != "true" {
            return Ok(Some("nothing can be written"));
        }
        if self.options.acl.is_some_and(|policy| policy != "allow") {
            return Ok(None);
        }
        let node = format!("/v1/catalog/node/{}", self.name);
        let found = self.call("GET", &node, "").await?;
        let synced = found.contains("\"consul-network-segment\"");
        Ok((!synced).then_some("it has not passed on what it has"))
    }
}

/// Calls the HTTP API of the agent at `address` with [`ROOT_TOKEN`], and returns the answer's body.
///
/// # Errors
/// Where it doesn't answer, or not with 200.
pub async fn call(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
    // HTTP/1.0: the answer comes whole, and its end is the end of the connection.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nX-Consul-Token: {ROOT_TOKEN}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    // In one piece: where a call doesn't want a body, one that comes after its head is still unread as
    // the agent closes, and the answer is lost to a reset.
    let request = [head.as_bytes(), body].concat();
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&request).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(CALL_TIME_MAX, exchange).await??;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.ok_or("the answer has no end of its head")? + 4);
    let head = String::from_utf8_lossy(head);
    if head.split(' ').nth(1) != Some("200") {
        let body = String::from_utf8_lossy(body);
        return Err(format!("{method} {path}: {}: {body}", head.trim()).into());
    }
    Ok(body.to_vec())
}

/// The version's first two numbers.
///
/// # Errors
/// Where Consul isn't installed.
pub fn version() -> Result<(u32, u32)> {
    let output = Command::new(program()?).arg("version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text
        .split_once('v')
        .map(|(_, rest)| rest)
        .unwrap_or_default();
    let mut parts = number.split(['.', '-', '\n', ' ']);
    let mut next = || parts.next().and_then(|part| part.parse().ok());
    let version = next().zip(next());
    version.ok_or_else(|| format!("consul's version can't be read: {text}").into())
}

/// Asks the DNS server at `address` with dig for what `name` has of a `kind` (`A`, `SRV`), and returns
/// the data of each record.
///
/// # Errors
/// Where dig isn't installed, or has no answer.
pub fn dig(address: SocketAddr, name: &str, kind: &str) -> Result<Vec<String>> {
    let program = match env!("TESTKIT_DIG") {
        "" => return Err("dig is not installed".into()),
        path => Path::new(path),
    };
    let output = Command::new(program)
        .args([
            &format!("@{}", address.ip()),
            "-p",
            &address.port().to_string(),
        ])
        .args(["+short", "+time=3", "+tries=5", name, kind])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        return Err(format!("dig {name} {kind}: {}: {}", output.status, text.trim()).into());
    }
    Ok(text.lines().map(str::to_owned).collect())
}

fn program() -> Result<&'static Path> {
    match env!("TESTKIT_CONSUL") {
        "" => Err("consul is not installed".into()),
        path => Ok(Path::new(path)),
    }
}
