//! As much of serf's RPC as is needed: MessagePack objects over TCP, without lengths.
//!
//! Each request is a header and, for most commands, a body; each reply a header and, for commands
//! that answer something, a body.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rmpv::Value;
use rmpv::decode::read_value;
use rmpv::encode::write_value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const CONNECT_ATTEMPTS: usize = 100;
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
const REPLY_LIMIT: Duration = Duration::from_secs(30);

/// A connection to one agent, used by one request at a time.
#[derive(Debug)]
pub(super) struct Rpc {
    stream: TcpStream,
    received: Vec<u8>,
    sequence: u64,
}

impl Rpc {
    pub(super) async fn connect(address: SocketAddr) -> Result<Self> {
        let mut attempts = 0;
        let stream = loop {
            attempts += 1;
            match TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(error) if attempts == CONNECT_ATTEMPTS => return Err(error.into()),
                Err(_) => sleep(CONNECT_PAUSE).await,
            }
        };
        stream.set_nodelay(true)?;
        let mut rpc = Self {
            stream,
            received: Vec::new(),
            sequence: 0,
        };
        rpc.call("handshake", Some(map([("Version", 1.into())])), false)
            .await?;
        Ok(rpc)
    }

    /// Sets the agent's tag `value`.
    pub(super) async fn set_value(&mut self, value: u64) -> Result<()> {
        let tags = map([("value", value.to_string().into())]);
        let body = map([("Tags", tags), ("DeleteTags", Value::Array(Vec::new()))]);
        self.call("tags", Some(body), false).await.map(drop)
    }

    /// The tag `value` of a member.
    pub(super) async fn value_of(&mut self, name: &str) -> Result<u64> {
        let members = self.members(name, "").await?;
        let member = members.first().context("unknown member")?;
        let value = field(member, "Tags").and_then(|tags| field(tags, "value"));
        let text = value.and_then(Value::as_str).context("no tag \"value\"")?;
        Ok(text.parse()?)
    }

    /// The names of the members that are alive.
    pub(super) async fn alive(&mut self) -> Result<Vec<String>> {
        let members = self.members("", "alive").await?;
        let names = members.iter().filter_map(|member| field(member, "Name"));
        Ok(names.filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Makes the agent leave and end.
    pub(super) async fn leave(&mut self) -> Result<()> {
        self.call("leave", None, false).await.map(drop)
    }

    async fn members(&mut self, name: &str, status: &str) -> Result<Vec<Value>> {
        let filter = map([
            ("Tags", map([])),
            ("Status", status.into()),
            ("Name", name.into()),
        ]);
        let reply = self.call("members-filtered", Some(filter), true).await?;
        match reply.as_ref().and_then(|reply| field(reply, "Members")) {
            Some(Value::Array(members)) => Ok(members.clone()),
            _ => bail!("no \"Members\" in the reply"),
        }
    }

    async fn call(
        &mut self,
        command: &str,
        body: Option<Value>,
        answers: bool,
    ) -> Result<Option<Value>> {
        let header = map([("Command", command.into()), ("Seq", self.sequence.into())]);
        self.sequence += 1;
        let mut request = Vec::new();
        for value in [Some(header), body].into_iter().flatten() {
            write_value(&mut request, &value)?;
        }
        self.stream.write_all(&request).await?;
        let reply = async {
            let header = self.read().await?;
            let error = field(&header, "Error")
                .and_then(Value::as_str)
                .unwrap_or("");
            ensure!(error.is_empty(), "{command}: {error}");
            Ok(if answers {
                Some(self.read().await?)
            } else {
                None
            })
        };
        timeout(REPLY_LIMIT, reply).await?
    }

    /// Reads one object; its end is known only by reading it.
    async fn read(&mut self) -> Result<Value> {
        loop {
            let mut rest = self.received.as_slice();
            match read_value(&mut rest) {
                Ok(value) => {
                    let used = self.received.len() - rest.len();
                    self.received.drain(..used);
                    return Ok(value);
                }
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(error.into()),
            }
            let read = self.stream.read_buf(&mut self.received).await?;
            ensure!(read > 0, "the agent closed the connection");
        }
    }
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(entries.map(|(key, value)| (key.into(), value)).to_vec())
}

fn field<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    let entries = map.as_map()?;
    let found = entries.iter().find(|(key, _)| key.as_str() == Some(name));
    found.map(|(_, value)| value)
}
