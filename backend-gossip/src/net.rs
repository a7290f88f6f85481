//! The sockets: one port, UDP for datagrams and TCP for links. Datagrams are sealed on their way out
//! and opened on their way in.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tidings_api::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tracing::{debug, trace};

use crate::seal::{Datagrams, Opened, Ring};

/// Tries to find a port that is free for UDP and TCP alike, where any port will do. On a machine
/// with room for it the first try nearly always succeeds.
const BIND_TRIES: usize = 64;
/// Socket buffers asked for, so that a burst of datagrams waits instead of being lost; the system
/// grants what its own limit allows.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Handshakes that may wait for the driver: all members of a big cluster that join at once.
const ACCEPT_BACKLOG: i32 = 1024;
/// Rest after a failed `accept`, which happens where descriptors run out and repeats until one is
/// free: those of links that made room are in a moment.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Datagrams that wait for the socket to take them; what comes on top is dropped, as any datagram
/// may be.
const UNSENT_MAX: usize = 512;
/// Datagrams that the queue keeps room for while fewer wait.
const UNSENT_ROOM: usize = 8;
/// Bytes of a datagram that are read: half as much again as a member sends. What is larger is cut, and so
/// refused; room for the largest there is, 64 KiB, would be more than all else that a member keeps.
const DATAGRAM_BYTES_MAX: usize = 2_048;

/// Counters of the UDP socket and the listener (all since start).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Datagrams the system had no room for.
    pub dropped: u64,
    /// Datagrams the system refused to send or receive.
    pub errors: u64,
    /// Bytes of the largest datagram sent.
    pub largest_sent: usize,
}

/// The UDP socket and the listener of one port.
#[derive(Debug)]
pub(crate) struct Net {
    udp: UdpSocket,
    listener: TcpListener,
    local: SocketAddr,
    unsent: VecDeque<(SocketAddr, Vec<u8>)>,
    buffer: Box<[u8]>,
    seal: Datagrams,
    stats: NetStats,
    /// When connections are accepted again.
    accept_from: Instant,
    /// Drops every datagram both ways; only fault injection turns it on.
    cut_off: bool,
}

impl Net {
    /// Binds UDP and TCP to `addr`; port 0 takes one that is free for both.
    pub(crate) fn bind(addr: SocketAddr, seal: Datagrams) -> Result<Self> {
        let (udp, listener) = bind_pair(addr).map_err(|error| bind_error(addr, error))?;
        let sockets = || -> io::Result<_> {
            let local = listener.local_addr()?.as_socket().unwrap_or(addr);
            let udp = UdpSocket::from_std(udp.into())?;
            Ok((udp, TcpListener::from_std(listener.into())?, local))
        };
        let (udp, listener, local) = sockets().map_err(|error| bind_error(addr, error))?;
        Ok(Self {
            udp,
            listener,
            local,
            unsent: VecDeque::new(),
            buffer: vec![0; DATAGRAM_BYTES_MAX].into(),
            seal,
            stats: NetStats::default(),
            accept_from: Instant::now(),
            cut_off: false,
        })
    }

    /// Where it is bound, with the port that was taken.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether datagrams to `addr` end up here.
    pub(crate) fn is_own(&self, addr: SocketAddr) -> bool {
        if !self.local.ip().is_unspecified() {
            return addr == self.local;
        }
        // An address of this machine is the one that packets to it leave with.
        addr.port() == self.local.port()
            && (addr.ip().is_loopback() || local_ip_towards(self.local, addr) == Some(addr.ip()))
    }

    /// Datagrams that wait for the socket.
    pub(crate) fn waiting(&self) -> usize {
        self.unsent.len()
    }

    pub(crate) fn stats(&self) -> NetStats {
        self.stats
    }

    /// Seals and opens with other keys, or in another mode.
    pub(crate) fn set_ring(&mut self, ring: Arc<Ring>) {
        self.seal.set_ring(ring);
    }

    /// Waits until a datagram can be read, or one that waits can be sent.
    pub(crate) async fn ready(&self) {
        if self.seal.has_released() {
            return;
        }
        // An error of the wait itself shows again, with its text, in the call that follows.
        let _ = if self.unsent.is_empty() {
            self.udp.readable().await
        } else {
            tokio::select! {
                ready = self.udp.readable() => ready,
                ready = self.udp.writable() => ready,
            }
        };
    }

    /// The next connection, or why there is none: that is of this machine's making.
    pub(crate) async fn accept(&self) -> io::Result<TcpStream> {
        let rest = self.accept_from.saturating_duration_since(Instant::now());
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return Ok(stream),
                Err(error) if is_of_the_way(&error) => {
                    debug!(%error, "connection lost in accepting it");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Accepts nothing for a while.
    pub(crate) fn rest_from_accepting(&mut self, now: Instant) {
        self.accept_from = now + ACCEPT_REST;
    }

    /// The next datagram that is there, opened, with its sender. Takes as many as there is `room` for,
    /// those that are dropped among them, or a flood of forged ones would keep it here.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        room: &mut usize,
    ) -> Option<(SocketAddr, &[u8])> {
        while let Some(left) = room.checked_sub(1) {
            *room = left;
            if let Some((from, frame)) = self.seal.next_released() {
                // It came in this buffer, so it fits.
                let len = frame.len().min(self.buffer.len());
                self.buffer[..len].copy_from_slice(&frame[..len]);
                return Some((from, &self.buffer[..len]));
            }
            match self.udp.try_recv_from(&mut self.buffer) {
                Ok(_) if self.cut_off => {}
                Ok((len, from)) => {
                    let from = canonical(from);
                    trace!(%from, len, "datagram received");
                    match self.seal.open(now, from, &mut self.buffer[..len]) {
                        Opened::Frame(place) => return Some((from, &self.buffer[place])),
                        Opened::Reply(bytes) => self.put(from, bytes),
                        Opened::Nothing => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    *room += 1;
                    return None;
                }
                // Some systems report here that an earlier datagram reached nobody; the socket is
                // well. Others are as little of our making, and what can be read is read next turn.
                Err(error) => {
                    trace!(%error, "no datagram received");
                    self.stats.errors += 1;
                    return None;
                }
            }
        }
        None
    }

    /// Sends a frame as a datagram, or keeps it until the socket has room.
    pub(crate) fn send(&mut self, to: SocketAddr, frame: Vec<u8>) {
        let bytes = self.seal.seal(frame);
        self.put(to, bytes);
    }

    /// Sends what waits, as far as the socket has room.
    pub(crate) fn flush(&mut self) {
        while let Some((to, frame)) = self.unsent.pop_front() {
            if !self.try_send(to, &frame) {
                self.unsent.push_front((to, frame));
                return;
            }
        }
    }

    /// Gives back what the queue has grown to in a burst.
    pub(crate) fn give_back_room(&mut self) {
        self.unsent.shrink_to(UNSENT_ROOM);
    }

    /// Drops everything both ways, or no longer.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn cut_off(&mut self, cut_off: bool) {
        self.cut_off = cut_off;
        self.unsent.clear();
    }

    fn put(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        if self.cut_off {
            return;
        }
        if self.unsent.is_empty() && self.try_send(to, &bytes) {
            return;
        }
        if self.unsent.len() < UNSENT_MAX {
            self.unsent.push_back((to, bytes));
        } else {
            self.stats.dropped += 1;
        }
    }

    /// Whether the datagram is dealt with: sent, or refused for good.
    fn try_send(&mut self, to: SocketAddr, frame: &[u8]) -> bool {
        match self.udp.try_send_to(frame, self.reachable(to)) {
            Ok(len) => {
                trace!(%to, len, "datagram sent");
                self.stats.largest_sent = self.stats.largest_sent.max(len);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                debug!(%to, %error, "datagram not sent");
                self.stats.errors += 1;
            }
        }
        true
    }

    /// `to` as the socket has to hear it: one that is bound to all of IPv6 reaches IPv4 through
    /// mapped addresses.
    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match (self.local, to.ip()) {
            (SocketAddr::V6(_), IpAddr::V4(ip)) => (ip.to_ipv6_mapped(), to.port()).into(),
            _ => to,
        }
    }
}

/// Where others reach a member that is bound to `local`: there, if that is one address; otherwise
/// the address that packets to the first of `seeds` leave with, or to the rest of the world.
pub(crate) fn reachable_addr(local: SocketAddr, seeds: &[SocketAddr]) -> SocketAddr {
    /// Addresses set aside for documentation: routed like any other, used by nobody.
    const FAR_AWAY: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    ];
    if !local.ip().is_unspecified() {
        return local;
    }
    let far_away = FAR_AWAY.map(|ip| SocketAddr::new(ip, local.port()));
    let ip = seeds
        .iter()
        .chain(&far_away)
        .find_map(|target| local_ip_towards(local, *target))
        .unwrap_or(match local {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    SocketAddr::new(ip, local.port())
}

/// Where others reach a member that said `former` before, where that is elsewhere now: its network came
/// up late, or has changed. An address that the host still has is kept, whatever else it has: whoever
/// moves is a new start to all others.
pub(crate) fn moved_to(
    local: SocketAddr,
    former: SocketAddr,
    seeds: &[SocketAddr],
) -> Option<SocketAddr> {
    let is_lost = |ip: IpAddr| ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_err();
    if !local.ip().is_unspecified() || !is_lost(former.ip()) {
        return None;
    }
    let found = reachable_addr(local, seeds);
    (found != former && !found.ip().is_loopback()).then_some(found)
}

/// The local IP that packets from a socket bound to `local` to `target` leave with. Nothing is
/// sent: connecting a UDP socket only asks for the route.
pub(crate) fn local_ip_towards(local: SocketAddr, target: SocketAddr) -> Option<IpAddr> {
    if local.is_ipv4() && target.is_ipv6() {
        return None;
    }
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

fn bind_pair(addr: SocketAddr) -> io::Result<(Socket, Socket)> {
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..BIND_TRIES {
        let listener = bind_tcp(addr)?;
        let port = listener.local_addr()?.as_socket().unwrap_or(addr).port();
        match bind_udp(SocketAddr::new(addr.ip(), port)) {
            Ok(udp) => return Ok((udp, listener)),
            Err(error) if addr.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {
                last = error;
            }
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn bind_tcp(addr: SocketAddr) -> io::Result<Socket> {
    let socket = socket(addr, Type::STREAM, Protocol::TCP)?;
    // So that a restarted member needn't wait for the links of its former self to time out. On
    // Windows the option means something else: that anybody may take the port over.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket)
}

fn bind_udp(addr: SocketAddr) -> io::Result<Socket> {
    let socket = socket(addr, Type::DGRAM, Protocol::UDP)?;
    // Smaller buffers than asked for are no reason not to start.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn socket(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        // All addresses of the machine means the IPv4 ones too, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

fn bind_error(addr: SocketAddr, error: io::Error) -> Error {
    let (kind, hint) = match error.kind() {
        io::ErrorKind::AddrInUse => (ErrorKind::Unavailable, "the port is in use"),
        io::ErrorKind::AddrNotAvailable => {
            let hint = "this machine has no such address: accepted are its own, or 0.0.0.0 for all";
            (ErrorKind::InvalidConfig, hint)
        }
        io::ErrorKind::PermissionDenied => (
            ErrorKind::InvalidConfig,
            "this process may not use the port",
        ),
        _ => (ErrorKind::Unavailable, "the sockets could not be opened"),
    };
    Error::new(kind, format!("bind {addr} (UDP and TCP): {hint}")).with_source(error)
}

/// Whether what went wrong with a connection is of the peer's making, or the network's between.
fn is_of_the_way(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut
    )
}

/// One form for each peer, however the socket says it: IPv4 as such, IPv6 without a flow label.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => addr,
        SocketAddr::V6(mut v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => (ip, v6.port()).into(),
            None => {
                v6.set_flowinfo(0);
                v6.into()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::seal::StartId;

    fn bind(addr: SocketAddr) -> Result<Net> {
        let ring = Arc::new(Ring::off("tidings"));
        Net::bind(addr, Datagrams::new(ring, StartId([0; 16]), Arc::default()))
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let net = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = bind(net.local()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.to_string();
        assert!(
            text.contains(&net.local().to_string()) && text.contains("in use"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_a_wrong_configuration() {
        let error = bind("192.0.2.77:0".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("192.0.2.77:0"), "{error}");
    }

    #[tokio::test]
    async fn both_families_meet_on_a_socket_bound_to_all() {
        let mut all = bind("[::]:0".parse().unwrap()).unwrap();
        let mut v4 = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let all_addr: SocketAddr = (Ipv4Addr::LOCALHOST, all.local().port()).into();
        for (from, to, to_addr) in [(1, 2, v4.local()), (2, 1, all_addr)] {
            let (sender, receiver) = match (from, to) {
                (1, 2) => (&mut all, &mut v4),
                _ => (&mut v4, &mut all),
            };
            sender.send(to_addr, b"hello".to_vec());
            let deadline = Instant::now() + Duration::from_secs(30);
            let seen = loop {
                assert!(Instant::now() < deadline, "nothing arrives");
                sender.flush();
                let _ = timeout(Duration::from_millis(5), receiver.ready()).await;
                if let Some((from, bytes)) = receiver.receive(Instant::now(), &mut 1) {
                    break (from, bytes.to_vec());
                }
            };
            let sender_addr: SocketAddr = (Ipv4Addr::LOCALHOST, sender.local().port()).into();
            assert_eq!(seen, (sender_addr, b"hello".to_vec()));
        }
    }

    #[tokio::test]
    async fn a_member_knows_its_own_addresses() {
        let all = bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let one = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let is_own = |net: &Net, ip: [u8; 4], port| net.is_own((ip, port).into());
        let port = all.local().port();
        for ip in [[127, 0, 0, 1], [127, 0, 0, 9]] {
            assert!(is_own(&all, ip, port) && !is_own(&all, ip, port ^ 1));
        }
        assert!(!is_own(&all, [192, 0, 2, 77], port));
        assert!(is_own(&one, [127, 0, 0, 1], one.local().port()));
        assert!(!is_own(&one, [127, 0, 0, 9], one.local().port()));
    }

    #[test]
    fn a_member_bound_to_all_is_reached_where_its_packets_come_from() {
        let (v4, v6) = ("0.0.0.0:7".parse().unwrap(), "[::]:7".parse().unwrap());
        let seed = "127.0.0.1:9".parse().unwrap();
        let seed_v6 = "[::1]:9".parse().unwrap();
        let reached = |local, seeds: &[SocketAddr]| reachable_addr(local, seeds).to_string();
        assert_eq!(reached(v4, &[seed_v6, seed]), "127.0.0.1:7");
        assert_eq!(reached(v6, &[seed]), "127.0.0.1:7");
        assert_eq!(reached(v6, &[seed_v6]), "[::1]:7");
        assert!(!reachable_addr(v4, &[]).ip().is_unspecified());
        assert_eq!(reached(seed, &[seed_v6]), "127.0.0.1:9");
    }

    #[test]
    fn a_member_moves_only_when_its_address_is_lost() {
        let any: SocketAddr = "0.0.0.0:7".parse().unwrap();
        let seed = "127.0.0.2:9".parse().unwrap();
        let moved = |local, former: &str| moved_to(local, former.parse().unwrap(), &[seed]);
        // Nobody outside is known, or reached.
        assert_eq!(moved(any, "127.0.0.1:7"), None);
        let lost = "192.0.2.77:7";
        assert_eq!(moved(any, lost), None);
        assert_eq!(moved(seed, lost), None, "it is bound to one address");
        if let Some(ip) = local_ip_towards(any, "192.0.2.1:9".parse().unwrap()) {
            let here = SocketAddr::new(ip, 7);
            assert_eq!(
                moved_to(any, here, &[seed]),
                None,
                "it is here all the same"
            );
            assert_eq!(moved_to(any, lost.parse().unwrap(), &[]), Some(here));
            assert_eq!(
                moved_to(any, "127.0.0.1:7".parse().unwrap(), &[]),
                Some(here)
            );
        }
    }

    #[test]
    fn the_route_to_loopback_is_loopback() {
        let any = "0.0.0.0:0".parse().unwrap();
        let ip = local_ip_towards(any, "127.0.0.1:9".parse().unwrap());
        assert_eq!(ip, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(local_ip_towards(any, "[::1]:9".parse().unwrap()), None);
    }
}
