//! ZooKeeper: one server or an ensemble, with TLS and SASL where a test wants them.

use std::fmt::Write as _;
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

/// The user that SASL knows, where [`Options::sasl`] is set.
pub const SASL_USER: (&str, &str) = ("app", "app-secret");

/// How long an ensemble may take until it serves, on a machine that is busy.
const READY_TIME_MAX: Duration = Duration::from_secs(60);
const READY_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// What the server needs for TLS, of which its own list has not all.
const NETTY: [&str; 6] = [
    "netty-buffer",
    "netty-codec",
    "netty-common",
    "netty-handler",
    "netty-resolver",
    "netty-transport",
];
/// The port accepts before the server works, and a word sent then may stay unanswered for ever.
const PROBE_TIME_MAX: Duration = Duration::from_secs(1);

/// What ensemble to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many servers.
    pub members: usize,
    /// The server's unit of time: sessions live for 2 to 20 of it, and are looked at once in each.
    pub tick: Duration,
    /// Whether clients use TLS, with certificates of their own.
    pub tls: bool,
    /// Whether clients may authenticate with SASL, as [`SASL_USER`].
    pub sasl: bool,
    /// More lines of the configuration.
    pub lines: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            members: 1,
            tick: Duration::from_millis(500),
            tls: false,
            sasl: false,
            lines: Vec::new(),
        }
    }
}

impl Options {
    /// The same with so many servers.
    #[must_use]
    pub fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }
}

/// A running ensemble; ends when dropped.
#[derive(Debug)]
pub struct Ensemble {
    options: Options,
    members: Vec<Member>,
    certificates: Option<Certificates>,
    // Last, so that the directory goes after the processes in it.
    folder: TempDir,
}

#[derive(Debug)]
struct Member {
    number: usize,
    /// In the clear, also where clients use TLS: for probes.
    plain: SocketAddr,
    secure: SocketAddr,
    peer: SocketAddr,
    election: SocketAddr,
    process: Option<Process>,
}

impl Ensemble {
    /// Starts an ensemble and waits until every server serves.
    ///
    /// # Errors
    /// Where a server ends early, or doesn't serve in time.
    pub async fn start(options: Options) -> Result<Self> {
        let mut ensemble = Self::prepare(options)?;
        ensemble.restart_all().await?;
        Ok(ensemble)
    }

    /// An ensemble with ports and folders, of which no server runs yet: its addresses are known, and
    /// nobody is there. [`restart_all`](Self::restart_all) starts it.
    ///
    /// # Errors
    /// Where the folder can't be made.
    pub fn prepare(options: Options) -> Result<Self> {
        let folder = TempDir::with_prefix("tidings-zookeeper-")?;
        let certificates = match options.tls {
            true => Some(Certificates::create(folder.path())?),
            false => None,
        };
        let member = |number| Member {
            number,
            plain: ports::free(),
            secure: ports::free(),
            peer: ports::free(),
            election: ports::free(),
            process: None,
        };
        let ensemble = Self {
            members: (1..=options.members).map(member).collect(),
            options,
            certificates,
            folder,
        };
        ensemble.write_configuration()?;
        Ok(ensemble)
    }

    /// Where clients reach each server.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let address = |member: &Member| match self.options.tls {
            true => member.secure,
            false => member.plain,
        };
        self.members.iter().map(address).collect()
    }

    /// The certificates, where clients use TLS.
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The number of the server that leads, from 0.
    ///
    /// # Errors
    /// Where none does.
    pub async fn leader(&self) -> Result<usize> {
        for (number, member) in self.members.iter().enumerate() {
            if member.process.is_some()
                && let Ok(answer) = ask(member.plain, "srvr").await
                && answer.contains("Mode: leader")
            {
                return Ok(number);
            }
        }
        Err("no server leads".into())
    }

    /// Answer of a server to a four-letter word, such as `srvr` or `wchs`.
    ///
    /// # Errors
    /// Where it doesn't answer.
    pub async fn ask(&self, member: usize, word: &str) -> Result<String> {
        ask(self.members[member].plain, word).await
    }

    /// Kills a server; its data stays.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process = None;
    }

    /// Kills every server; their data stays.
    pub fn kill_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }

    /// Stops a server without its knowing (SIGSTOP).
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

    /// Starts a killed server with its data and waits until it serves.
    ///
    /// # Errors
    /// Where it ends early, or doesn't serve in time.
    pub async fn restart(&mut self, member: usize) -> Result<()> {
        self.launch(member)?;
        self.ready(member).await
    }

    /// Starts every server that doesn't run, with its data, and waits until all serve.
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

    /// Kills every server and deletes all data: the next start is that of a new ensemble.
    ///
    /// # Errors
    /// Where data can't be deleted.
    pub fn lose_data(&mut self) -> Result<()> {
        self.kill_all();
        for member in &self.members {
            fs::remove_dir_all(self.data(member))?;
        }
        self.write_configuration()
    }

    /// A copy of the data of every server, none of which may run.
    ///
    /// # Errors
    /// Where data can't be copied.
    pub fn save_data(&self) -> Result<TempDir> {
        let saved = TempDir::with_prefix("tidings-zookeeper-saved-")?;
        for member in &self.members {
            let data = self.data(member);
            copy_folder(&data, &saved.path().join(member.number.to_string()))?;
        }
        Ok(saved)
    }

    /// Kills every server and puts older data in the place of theirs.
    ///
    /// # Errors
    /// Where data can't be deleted or copied.
    pub fn restore_data(&mut self, saved: &TempDir) -> Result<()> {
        self.lose_data()?;
        for member in &self.members {
            let number = member.number.to_string();
            copy_folder(&saved.path().join(number), &self.data(member))?;
        }
        Ok(())
    }

    fn process(&self, member: usize) -> Result<&Process> {
        let process = self.members[member].process.as_ref();
        process.ok_or_else(|| format!("server {member} does not run").into())
    }

    fn data(&self, member: &Member) -> PathBuf {
        self.folder.path().join(format!("data-{}", member.number))
    }

    fn configuration(&self, member: &Member) -> PathBuf {
        self.folder.path().join(format!("{}.cfg", member.number))
    }

    fn jaas(&self) -> PathBuf {
        self.folder.path().join("jaas.conf")
    }

    fn write_configuration(&self) -> Result<()> {
        for member in &self.members {
            fs::create_dir_all(self.data(member))?;
            fs::write(self.data(member).join("myid"), member.number.to_string())?;
            fs::write(self.configuration(member), self.lines(member)?)?;
        }
        let (user, password) = SASL_USER;
        let jaas = format!(
            "Server {{ org.apache.zookeeper.server.auth.DigestLoginModule required \
             user_{user}=\"{password}\"; }};\n"
        );
        Ok(fs::write(self.jaas(), jaas)?)
    }

    fn lines(&self, member: &Member) -> Result<String> {
        let mut text = String::new();
        for (name, value) in [
            ("tickTime", self.options.tick.as_millis().to_string()),
            ("initLimit", "60".into()),
            ("syncLimit", "20".into()),
            ("dataDir", self.data(member).display().to_string()),
            ("clientPort", member.plain.port().to_string()),
            ("clientPortAddress", member.plain.ip().to_string()),
            ("admin.enableServer", "false".into()),
            ("maxClientCnxns", "0".into()),
            ("4lw.commands.whitelist", "*".into()),
        ] {
            writeln!(text, "{name}={value}")?;
        }
        if self.members.len() > 1 {
            for other in &self.members {
                let (number, ip) = (other.number, other.peer.ip());
                let (peer, election) = (other.peer.port(), other.election.port());
                writeln!(text, "server.{number}={ip}:{peer}:{election}")?;
            }
        }
        if let Some(certificates) = &self.certificates {
            self.write_tls(&mut text, member, certificates)?;
        }
        for line in &self.options.lines {
            writeln!(text, "{line}")?;
        }
        Ok(text)
    }

    fn write_tls(&self, text: &mut String, member: &Member, all: &Certificates) -> Result<()> {
        let (certificate, key) = all.server();
        // The server wants both in one file.
        let store = self.folder.path().join("server-store.pem");
        fs::write(
            &store,
            fs::read_to_string(key)? + &fs::read_to_string(certificate)?,
        )?;
        let factory = "org.apache.zookeeper.server.NettyServerCnxnFactory";
        for (name, value) in [
            ("secureClientPort", member.secure.port().to_string()),
            ("secureClientPortAddress", member.secure.ip().to_string()),
            ("serverCnxnFactory", factory.into()),
            ("ssl.keyStore.location", store.display().to_string()),
            ("ssl.keyStore.type", "PEM".into()),
            ("ssl.trustStore.location", all.ca().display().to_string()),
            ("ssl.trustStore.type", "PEM".into()),
            ("ssl.clientAuth", "need".into()),
        ] {
            writeln!(text, "{name}={value}")?;
        }
        Ok(())
    }

    fn launch(&mut self, number: usize) -> Result<()> {
        let jar = env!("TESTKIT_ZOOKEEPER_3_8");
        if jar.is_empty() {
            return Err("ZooKeeper 3.8 is not installed".into());
        }
        let member = &self.members[number];
        let mut class_path = jar.to_owned();
        // Without a binding for its logs it says nothing at all.
        let mut others = vec!["slf4j-simple"];
        if self.options.tls {
            others.extend(NETTY);
        }
        for other in others {
            let other = Path::new(jar).with_file_name(format!("{other}.jar"));
            write!(class_path, ":{}", other.display())?;
        }
        let mut arguments: Vec<String> = [
            "-Xmx256m",
            // A server that lives for a second needs no optimised code.
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ]
        .map(String::from)
        .into();
        if self.options.sasl {
            let provider = "org.apache.zookeeper.server.auth.SASLAuthenticationProvider";
            arguments.push(format!("-Dzookeeper.authProvider.1={provider}"));
            let jaas = self.jaas();
            arguments.push(format!(
                "-Djava.security.auth.login.config={}",
                jaas.display()
            ));
        }
        arguments.extend([
            "-cp".into(),
            class_path,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain".into(),
            self.configuration(member).display().to_string(),
        ]);
        let log = self.folder.path().join(format!("{}.log", member.number));
        let process = Process::start(Path::new(env!("TESTKIT_JAVA")), &arguments, &log)?;
        self.members[number].process = Some(process);
        Ok(())
    }

    async fn ready(&mut self, number: usize) -> Result<()> {
        let member = &mut self.members[number];
        let process = member.process.as_mut();
        let process = process.ok_or_else(|| format!("server {number} does not run"))?;
        let start = Instant::now();
        loop {
            let answer = ask(member.plain, "srvr").await;
            if answer.is_ok_and(|answer| answer.contains("Mode: ")) {
                return Ok(());
            }
            if !process.is_running() {
                return Err(format!("ZooKeeper ended: {}", process.log_tail()).into());
            }
            if start.elapsed() > READY_TIME_MAX {
                return Err(format!("ZooKeeper does not serve: {}", process.log_tail()).into());
            }
            tokio::time::sleep(READY_POLL_INTERVAL).await;
        }
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &copy)?;
        } else {
            fs::copy(entry.path(), copy)?;
        }
    }
    Ok(())
}

async fn ask(server: SocketAddr, word: &str) -> Result<String> {
    let probe = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(word.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(PROBE_TIME_MAX, probe).await?
}

/// A program on the JVM that uses Apache Curator, for the tests of living beside it.
#[derive(Debug)]
pub struct Curator {
    class_path: String,
    classes: TempDir,
}

impl Curator {
    /// Compiles Java source files.
    ///
    /// # Errors
    /// Where Curator or the compiler isn't there, or a source doesn't compile.
    pub fn compile(sources: &[PathBuf]) -> Result<Self> {
        let jar = env!("TESTKIT_CURATOR");
        if jar.is_empty() {
            return Err("Curator is not installed".into());
        }
        let folder = Path::new(jar).parent().ok_or("a file has a folder")?;
        let jars = [
            "curator-x-discovery.jar",
            "curator-recipes.jar",
            "curator-framework.jar",
            "curator-client.jar",
            "zookeeper.jar",
            "zookeeper-jute.jar",
            "jackson-core.jar",
            "jackson-databind.jar",
            "jackson-annotations.jar",
            "guava.jar",
            "slf4j-api.jar",
            "slf4j-simple.jar",
        ];
        let jars = jars.map(|jar| folder.join(jar).display().to_string());
        let classes = TempDir::with_prefix("tidings-curator-")?;
        let class_path = format!("{}:{}", jars.join(":"), classes.path().display());
        let output = Command::new(Path::new(env!("TESTKIT_JAVA")).with_file_name("javac"))
            .args(["-cp", &class_path, "-d"])
            .arg(classes.path())
            .args(sources)
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(Self {
            class_path,
            classes,
        })
    }

    /// Starts its class `main`, which is told things through its log and standard files only.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start(&self, main: &str, arguments: &[&str], log: &Path) -> Result<Process> {
        let mut all: Vec<String> = [
            "-Xmx256m",
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            &self.class_path,
            main,
        ]
        .map(String::from)
        .into();
        all.extend(arguments.iter().map(ToString::to_string));
        Process::start(Path::new(env!("TESTKIT_JAVA")), &all, log)
    }

    /// Where its classes are, and where it may leave files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.classes.path()
    }
}
