//! A TCP proxy between a client and a server, for partitions.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Result;

/// How much is read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Forwards TCP connections to a server, until it is told otherwise. Ends when dropped, with its
/// connections. Runs beside the test's runtime, which may count its tasks, or block.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    server: watch::Sender<SocketAddr>,
    mode: watch::Sender<Mode>,
    accepting: JoinHandle<()>,
}

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Pass {
        delay: Duration,
    },
    /// Connections end, and new ones are closed at once.
    Cut,
    /// Nothing arrives, and nobody is told: what is sent waits, as in a network that drops packets.
    BlackHole,
}

impl Proxy {
    /// Starts forwarding from a port of its own to `server`, which need not be there yet.
    ///
    /// # Errors
    /// Where no port can be had.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let delay = Duration::ZERO;
        let mode = watch::Sender::new(Mode::Pass { delay });
        let accepted = mode.subscribe();
        let server = watch::Sender::new(server);
        let servers = server.subscribe();
        let start = async move {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            let address = listener.local_addr()?;
            let accepting = tokio::spawn(accept(listener, servers, accepted));
            Ok::<_, std::io::Error>((address, accepting))
        };
        let (address, accepting) = runtime()?.spawn(start).await??;
        Ok(Self {
            address,
            server,
            mode,
            accepting,
        })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards new connections to another server, as what balances load does; those that are there
    /// stay.
    pub fn redirect(&self, server: SocketAddr) {
        self.server.send_replace(server);
    }

    /// Ends all connections, and new ones at once.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Lets nothing through any more, without a word to either side.
    pub fn black_hole(&self) {
        self.mode.send_replace(Mode::BlackHole);
    }

    /// Forwards again; what waited in a black hole arrives.
    pub fn restore(&self) {
        self.delay(Duration::ZERO);
    }

    /// Forwards, each chunk so much later.
    pub fn delay(&self, delay: Duration) {
        self.mode.send_replace(Mode::Pass { delay });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

/// The runtime of all proxies.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let make = || {
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
    };
    let runtime = RUNTIME.get_or_init(|| make().ok());
    runtime
        .as_ref()
        .ok_or_else(|| "no runtime for proxies".into())
}

async fn accept(
    listener: TcpListener,
    servers: watch::Receiver<SocketAddr>,
    mode: watch::Receiver<Mode>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let (server, mode) = (*servers.borrow(), mode.clone());
        tokio::spawn(async move {
            // A connection that fails is one that ends, for both sides.
            let _ = forward(client, server, mode).await;
        });
    }
}

async fn forward(
    client: TcpStream,
    server: SocketAddr,
    mut mode: watch::Receiver<Mode>,
) -> Result<()> {
    if pass(&mut mode).await.is_none() {
        return Ok(());
    }
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut ended = mode.clone();
    tokio::select! {
        result = copy(from_client, to_server, mode.clone()) => result,
        result = copy(from_server, to_client, mode) => result,
        _ = ended.wait_for(|mode| *mode == Mode::Cut) => Ok(()),
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
) -> Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = from.read(&mut chunk).await?;
        let Some(delay) = pass(&mut mode).await else {
            return Ok(());
        };
        tokio::time::sleep(delay).await;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..length]).await?;
    }
}

/// Waits out a black hole; `None` where the connection has to end.
async fn pass(mode: &mut watch::Receiver<Mode>) -> Option<Duration> {
    let open = mode.wait_for(|mode| *mode != Mode::BlackHole).await;
    match *open.ok()? {
        Mode::Pass { delay } => Some(delay),
        Mode::Cut | Mode::BlackHole => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo_server() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_black_hole_holds_what_is_sent_and_a_cut_ends_connections() {
        let proxy = Proxy::start(echo_server().await).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let mut byte = [0];
        client.write_all(&[1]).await.unwrap();
        client.read_exact(&mut byte).await.unwrap();

        proxy.black_hole();
        client.write_all(&[2]).await.unwrap();
        let held = tokio::time::timeout(Duration::from_millis(200), client.read(&mut byte)).await;
        assert!(held.is_err(), "a byte came through a black hole");
        proxy.restore();
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, [2]);

        proxy.cut();
        assert!(matches!(client.read(&mut byte).await, Ok(0) | Err(_)));
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(matches!(again.read(&mut byte).await, Ok(0) | Err(_)));
    }
}
