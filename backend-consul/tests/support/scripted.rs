//! An agent that answers as a test tells it: what no agent that can be installed here does, or does
//! only by chance.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What is asked of the agent.
#[derive(Debug)]
pub(crate) struct Request {
    /// Method and path: `GET /v1/status/leader`.
    pub(crate) what: String,
    parameters: HashMap<String, String>,
}

impl Request {
    /// A parameter; empty where it has no value, or isn't there.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    /// The index behind which a change is waited for; 0 where none is.
    pub(crate) fn index(&self) -> u64 {
        self.parameter("index").parse().unwrap_or_default()
    }

    /// How long a change is waited for.
    pub(crate) fn wait(&self) -> Duration {
        let millis = self.parameter("wait").trim_end_matches("ms");
        Duration::from_millis(millis.parse().unwrap_or_default())
    }
}

/// What the agent says.
#[derive(Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: String,
    body: String,
}

impl Answer {
    /// What the catalog has at an index.
    pub(crate) fn catalog(index: u64, found: &Value) -> Self {
        Self {
            status: 200,
            headers: format!("x-consul-index: {index}\r\n"),
            body: found.to_string(),
        }
    }

    /// The same, from an agent that says that the servers have no leader.
    pub(crate) fn leaderless(mut self) -> Self {
        self.headers.push_str("x-consul-knownleader: false\r\n");
        self
    }

    /// A failure, or a refusal.
    pub(crate) fn no(status: u16) -> Self {
        Self {
            status,
            headers: String::new(),
            body: "as told".to_owned(),
        }
    }

    /// That of a well agent without anything in its catalog.
    pub(crate) async fn nothing(request: &Request) -> Self {
        tokio::time::sleep(request.wait()).await;
        let found = match request.what.as_str() {
            "GET /v1/status/leader" => json!("192.0.2.1:8300"),
            "GET /v1/catalog/services" => json!({}),
            _ => json!([]),
        };
        Self::catalog(1, &found)
    }
}

/// The agent. Like Consul, it does what it was asked also where nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct ScriptedAgent {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl ScriptedAgent {
    pub(crate) async fn start<S, A>(script: S) -> Self
    where
        S: Fn(Request) -> A + Clone + Send + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = script.clone();
                tokio::spawn(async move { serve(stream, script).await });
            }
        });
        Self { address, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for ScriptedAgent {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Answers one request after the other, until the connection ends.
async fn serve<S, A>(stream: TcpStream, script: S) -> Option<()>
where
    S: Fn(Request) -> A,
    A: Future<Output = Answer>,
{
    let mut stream = BufReader::new(stream);
    loop {
        let request = read(&mut stream).await?;
        let Answer {
            status,
            headers,
            body,
        } = script(request).await;
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let first = line(stream).await?;
    let (what, _version) = first.rsplit_once(' ')?;
    let (what, query) = what.split_once('?').unwrap_or((what, ""));
    let parameters = query.split('&').map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (name.to_owned(), value.to_owned())
    });
    let request = Request {
        what: what.to_owned(),
        parameters: parameters.collect(),
    };
    let mut length = 0;
    loop {
        let header = line(stream).await?;
        match header.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    stream.read_exact(&mut vec![0; length]).await.ok()?;
    Some(request)
}

async fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let length = stream.read_line(&mut line).await.ok()?;
    (length > 0).then(|| line.trim_end().to_owned())
}
