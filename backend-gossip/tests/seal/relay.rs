//! Somebody on the wire between two members: sees all, and may change, repeat and invent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tidings_gossip::{GossipConfig, GossipDiscovery};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// What a relay does to what it passes on.
type Tamper = Box<dyn FnMut(&mut Vec<u8>) + Send>;

/// Stands between two members, each of which knows the other at one of its addresses.
pub(crate) struct Relay {
    places: Arc<[Place; 2]>,
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

/// Where one of the two members seems to be.
struct Place {
    udp: UdpSocket,
    address: SocketAddr,
    /// Where it is.
    member: Mutex<Option<SocketAddr>>,
}

#[derive(Default)]
struct Seen {
    datagrams: Vec<Captured>,
    /// Each way of each connection.
    links: Vec<Captured>,
    tamper_datagrams: Option<Tamper>,
    tamper_links: Option<Tamper>,
}

/// What went to one of the two.
#[derive(Clone)]
pub(crate) struct Captured {
    /// To the first or the second.
    pub(crate) to: usize,
    /// Whether the one it goes to opened the link.
    pub(crate) to_opener: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Relay {
    pub(crate) async fn new() -> Self {
        let mut tasks = JoinSet::new();
        let (first, first_tcp) = Place::new().await;
        let (second, second_tcp) = Place::new().await;
        let places = Arc::new([first, second]);
        let seen = Arc::<Mutex<Seen>>::default();
        for (at, listener) in [first_tcp, second_tcp].into_iter().enumerate() {
            tasks.spawn(relay_datagrams(places.clone(), at, seen.clone()));
            tasks.spawn(relay_links(places.clone(), at, listener, seen.clone()));
        }
        Self {
            places,
            seen,
            _tasks: tasks,
        }
    }

    /// The address at which the first or second member is known.
    pub(crate) fn address(&self, at: usize) -> SocketAddr {
        self.places[at].address
    }

    /// Passes on what comes for the first or second member to where it is.
    pub(crate) fn attach(&self, at: usize, member: SocketAddr) {
        *self.places[at].member.lock().unwrap() = Some(member);
    }

    /// All datagrams that went through, as they came.
    pub(crate) fn datagrams(&self) -> Vec<Captured> {
        self.seen.lock().unwrap().datagrams.clone()
    }

    /// All that went through in links, one way of one link each.
    pub(crate) fn links(&self) -> Vec<Captured> {
        self.seen.lock().unwrap().links.clone()
    }

    pub(crate) fn tamper_with_datagrams(&self, tamper: impl FnMut(&mut Vec<u8>) + Send + 'static) {
        self.seen.lock().unwrap().tamper_datagrams = Some(Box::new(tamper));
    }

    pub(crate) fn tamper_with_links(&self, tamper: impl FnMut(&mut Vec<u8>) + Send + 'static) {
        self.seen.lock().unwrap().tamper_links = Some(Box::new(tamper));
    }

    pub(crate) fn behave(&self) {
        let mut seen = self.seen.lock().unwrap();
        (seen.tamper_datagrams, seen.tamper_links) = (None, None);
    }

    /// Sends a datagram to the first or second member, as if the other one had.
    pub(crate) async fn inject(&self, to: usize, bytes: &[u8]) {
        let member = self.places[to].member.lock().unwrap().unwrap();
        self.places[1 - to]
            .udp
            .send_to(bytes, member)
            .await
            .unwrap();
    }
}

/// Two members that know each other through the relay alone.
pub(crate) async fn pair(
    relay: &Relay,
    config: impl Fn(&[SocketAddr]) -> GossipConfig,
) -> [GossipDiscovery; 2] {
    let first = start(relay, 0, config(&[])).await;
    let second = start(relay, 1, config(&[relay.address(0)])).await;
    for member in [&first, &second] {
        super::until_alive(member, 2).await;
    }
    [first, second]
}

/// One of the two.
pub(crate) async fn start(relay: &Relay, at: usize, mut config: GossipConfig) -> GossipDiscovery {
    // Reserves the address: what joins through the relay is answered through it.
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config.bind = reserved.local_addr().unwrap();
    config.advertise = Some(relay.address(at));
    relay.attach(at, config.bind);
    drop(reserved);
    GossipDiscovery::start(config).await.unwrap()
}

impl Place {
    async fn new() -> (Self, TcpListener) {
        loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            if let Ok(udp) = UdpSocket::bind(address).await {
                let member = Mutex::default();
                return (
                    Self {
                        udp,
                        address,
                        member,
                    },
                    listener,
                );
            }
        }
    }
}

async fn relay_datagrams(places: Arc<[Place; 2]>, at: usize, seen: Arc<Mutex<Seen>>) {
    let mut buffer = vec![0; 65_535];
    loop {
        let Ok((len, _)) = places[at].udp.recv_from(&mut buffer).await else {
            continue;
        };
        let mut bytes = buffer[..len].to_vec();
        {
            let mut seen = seen.lock().unwrap();
            seen.datagrams.push(Captured {
                to: at,
                to_opener: false,
                bytes: bytes.clone(),
            });
            if let Some(tamper) = &mut seen.tamper_datagrams {
                tamper(&mut bytes);
            }
        }
        let member = *places[at].member.lock().unwrap();
        if let Some(member) = member {
            let _ = places[1 - at].udp.send_to(&bytes, member).await;
        }
    }
}

async fn relay_links(
    places: Arc<[Place; 2]>,
    at: usize,
    listener: TcpListener,
    seen: Arc<Mutex<Seen>>,
) {
    let mut ways = JoinSet::new();
    loop {
        let Ok((opener, _)) = listener.accept().await else {
            continue;
        };
        let member = *places[at].member.lock().unwrap();
        let Some(member) = member else { continue };
        let Ok(acceptor) = TcpStream::connect(member).await else {
            continue;
        };
        opener.set_nodelay(true).unwrap();
        acceptor.set_nodelay(true).unwrap();
        let (from_opener, to_opener) = opener.into_split();
        let (from_acceptor, to_acceptor) = acceptor.into_split();
        ways.spawn(copy(from_opener, to_acceptor, at, false, seen.clone()));
        ways.spawn(copy(from_acceptor, to_opener, 1 - at, true, seen.clone()));
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    at: usize,
    to_opener: bool,
    seen: Arc<Mutex<Seen>>,
) {
    let place = {
        let mut seen = seen.lock().unwrap();
        seen.links.push(Captured {
            to: at,
            to_opener,
            bytes: Vec::new(),
        });
        seen.links.len() - 1
    };
    let mut buffer = vec![0; 65_535];
    while let Ok(len) = from.read(&mut buffer).await {
        if len == 0 {
            break;
        }
        let mut bytes = buffer[..len].to_vec();
        {
            let mut seen = seen.lock().unwrap();
            seen.links[place].bytes.extend_from_slice(&bytes);
            if let Some(tamper) = &mut seen.tamper_links {
                tamper(&mut bytes);
            }
        }
        if to.write_all(&bytes).await.is_err() {
            break;
        }
    }
}
