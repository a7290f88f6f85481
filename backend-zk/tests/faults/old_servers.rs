//! Servers before 3.6, which end the connection of whoever asks for a persistent watch.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidings_api::{Discovery, View};
use tidings_testkit::zookeeper::{Ensemble, Options};
use tidings_zk::ZkDiscovery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::recorder::{Recorder, eventually, is_registered, key, number, web};
use crate::support::{config, path, raw};

const NAMESPACE: &str = "services";
/// So many that they would share a watch.
const MANY: u32 = 30;
/// One more for each of the two handles than if nobody had asked, and some for bad luck.
const CONNECTIONS_MAX: usize = 8;
const ADD_WATCH: i32 = 106;
const UNIMPLEMENTED: i32 = -6;

tidings_testkit::server_tests! { zookeeper_3_8:
    async fn a_server_without_persistent_watches() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let server = OldServer::start(ensemble.addresses()[0]).await;
        let config = config(&[server.address], NAMESPACE);
        let owner = ZkDiscovery::start(config.clone()).await.unwrap();
        let other = ZkDiscovery::start(config).await.unwrap();
        let seen = Recorder::start(&other, "web").await;
        for round in 1..=2 {
            for n in 0..MANY {
                owner.register(web(&format!("web-{n}"), round)).await.unwrap();
            }
            let all = |view: &View| (0..MANY).all(|n| number(view, &format!("web-{n}")) == Some(round));
            seen.until("all of this round", |view| all(view) && view.is_live()).await;
        }
        let client = raw(&ensemble.addresses()).await;
        let path = path(NAMESPACE, &key("web-7"));
        client.delete(&path, None).await.unwrap();
        eventually("it is there again", async || client.check_stat(&path).await.unwrap().is_some()).await;
        is_registered(&owner, "web-7").await;
        let count = server.connections.load(Ordering::SeqCst);
        assert!(count <= CONNECTIONS_MAX, "{count} connections");
    }
}

/// Between clients and a server, whose new requests it doesn't know.
struct OldServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl OldServer {
    async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let count = connections.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                // A connection that fails is one that ends.
                tokio::spawn(async move { drop(forward(client, server).await) });
            }
        });
        Self {
            address,
            connections,
            accepting,
        }
    }
}

impl Drop for OldServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        // The first one is of another form.
        let mut request = frame(&mut from_client).await?;
        loop {
            to_server.write_all(&request).await?;
            request = frame(&mut from_client).await?;
            if request[8..12] == ADD_WATCH.to_be_bytes() {
                return Ok(request);
            }
        }
    };
    let answers = async {
        loop {
            let answer = frame(&mut from_server).await?;
            to_client.write_all(&answer).await?;
        }
    };
    let request: std::io::Result<_> = tokio::select! {
        request = requests => request,
        ended = answers => ended,
    };
    let mut answer = 16_i32.to_be_bytes().to_vec();
    answer.extend(&request?[4..8]);
    answer.extend([0; 8]);
    answer.extend(UNIMPLEMENTED.to_be_bytes());
    to_client.write_all(&answer).await?;
    to_client.shutdown().await?;
    // Or what it has sent meanwhile would end the connection before it has the answer.
    tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await?;
    Ok(())
}

/// The next one, with its length.
async fn frame(from: &mut OwnedReadHalf) -> std::io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + length as usize, 0);
    from.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}
