//! The task of one link: connects, reads, writes, and says how it ended.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::Sender;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::trace;

use super::greeting::{Sealed, greet};
use super::queue::Outlet;
use super::{Frame, LinkKeys};
use crate::engine::{LinkFailure, LinkId};
use crate::seal::{LINK_OVERHEAD_BYTES, LinkOpener, LinkSealer, Rejection, Ring, Side};
use crate::wire::limits::{LINK_FRAME_BYTES_MAX, LINK_FRAME_BYTES_TARGET};

/// How long a connection may take to open: several round trips around the globe, with one packet
/// lost.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one frame may take, from its first byte to its last: a megabyte at 1 Mbit/s, about.
/// It bounds how long a slow peer holds a task and the memory of a frame.
pub(super) const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what was written may stay unconfirmed by the peer's host before the link counts as
/// broken. Without it a lost host would swallow frames for a quarter of an hour.
#[cfg(target_os = "linux")]
const UNCONFIRMED_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes read ahead: enough for the length of a frame, which then is read past the buffer. Most
/// links are idle nearly always, and a member has several.
const READ_BUFFER_BYTES: usize = 64;
/// Longest frame that is read without leave: a batch, or one record at all limits.
const FREE_FRAME_BYTES: usize = LINK_FRAME_BYTES_TARGET + 16 * 1024;
/// What stands before each frame: its length.
pub(super) const LENGTH_BYTES: usize = 4;

/// How the task of a link ended.
#[derive(Debug)]
pub(super) enum End {
    /// The driver let go, and everything is written.
    Done,
    /// The peer let go, or the network broke.
    Lost,
    /// The peer didn't finish what it had begun to say, or doesn't read, or its host confirms nothing.
    TimedOut,
    /// What came was no frame.
    Malformed,
    /// What came was not sealed as it should be; the reason is counted.
    Rejected,
    /// It could not be opened, for a reason on the peer's side or on the way.
    Failed(LinkFailure),
    /// It could not be opened since this machine lacks what it takes: descriptors, ports, memory.
    Local(io::Error),
}

/// One link, as its task sees it. When the task ends it gives it back, with what was not written.
pub(super) struct Carrier {
    pub(super) id: LinkId,
    outbox: Outbox,
    read: Read,
    keys: LinkKeys,
}

/// Where frames that were read go, and the leave to read large ones.
pub(super) type Read = (Sender<Frame>, Arc<Semaphore>);

impl Carrier {
    pub(super) fn new(id: LinkId, outbox: Outbox, read: Read, keys: LinkKeys) -> Self {
        Self {
            id,
            outbox,
            read,
            keys,
        }
    }

    /// Opens a connection to `to`, and carries what goes there and comes from there.
    pub(super) async fn open(mut self, to: SocketAddr) -> (Self, End) {
        let end = match connect(to).await {
            Ok(stream) => self.exchange(stream, Side::Opener).await,
            Err(end) => end,
        };
        (self, end)
    }

    /// Carries what comes and goes over a connection that the peer opened.
    pub(super) async fn serve(mut self, stream: TcpStream) -> (Self, End) {
        // An option that can't be set costs speed, not correctness.
        let _ = configure(&stream);
        let end = self.exchange(stream, Side::Acceptor).await;
        (self, end)
    }

    /// Whether something is not written yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.outbox.current.is_some() || !self.outbox.queue.is_empty()
    }

    async fn exchange(&mut self, mut stream: TcpStream, side: Side) -> End {
        let (reader, writer) = stream.split();
        self.carry(reader, writer, side).await
    }

    /// Carries frames both ways over any connection.
    pub(super) async fn carry(
        &mut self,
        reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
        side: Side,
    ) -> End {
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
        let greeted = tokio::select! {
            greeted = greet(&self.keys, side, &mut reader, &mut writer) => greeted,
            // Nothing is written before, so it takes an eye on the driver.
            () = self.outbox.closed() => Err(End::Done),
        };
        let (seal, open) = match greeted {
            Ok(Some(Sealed { seal, open })) => (Some(seal), Some(open)),
            Ok(None) => (None, None),
            Err(end) => return end,
        };
        let unsealed = seal.is_none();
        trace!(sealed = !unsealed, "link carries frames");
        tokio::select! {
            // Reading first: what is written after the peer's end is known would be lost.
            biased;
            end = read_frames(reader, self.id, &self.read, open, &self.keys) => end,
            end = write_frames(writer, &mut self.outbox, seal, &self.keys) => end,
            () = self.keys.unsealed_refused(side), if unsealed => match side {
                Side::Opener => End::Lost,
                Side::Acceptor => End::Done,
            },
        }
    }
}

/// What waits to be written.
pub(super) struct Outbox {
    queue: Outlet,
    /// Taken from the queue and not written to the end.
    current: Option<Framed>,
}

impl Outbox {
    pub(super) fn new(queue: Outlet) -> Self {
        Self {
            queue,
            current: None,
        }
    }

    /// The frame to write, until [`written`](Self::written) says that it is; `None` after the
    /// driver let go. Cancel-safe.
    async fn next(&mut self) -> Option<&[u8]> {
        if self.current.is_none() {
            self.current = Some(self.queue.recv().await?);
        }
        self.current.as_deref()
    }

    /// Waits until the driver has let go and nothing waits. Cancel-safe.
    async fn closed(&mut self) {
        if self.next().await.is_some() {
            std::future::pending::<()>().await;
        }
    }

    fn written(&mut self) {
        if let Some(frame) = self.current.take() {
            self.queue.written(&frame);
        }
    }
}

/// A frame with its length before it, shared by all links it goes over.
pub(super) type Framed = Arc<[u8]>;

/// The bytes of `frame` on a link.
pub(super) fn framed(frame: &[u8]) -> Framed {
    let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    [&len.to_be_bytes(), frame].concat().into()
}

impl LinkKeys {
    /// Counts why nothing more is read from a link.
    pub(super) fn rejected(&self, rejection: Rejection) -> End {
        self.counters.rejected(rejection);
        End::Rejected
    }

    /// Waits until an unsealed link should not go on: its opener would open a sealed one now, or its
    /// acceptor would accept no other.
    async fn unsealed_refused(&self, side: Side) {
        let refused = |ring: &Arc<Ring>| match side {
            Side::Opener => ring.mode().sends_sealed(),
            Side::Acceptor => !ring.mode().hears_unsealed(),
        };
        if self.ring.clone().wait_for(refused).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

pub(super) async fn connect(to: SocketAddr) -> Result<TcpStream, End> {
    let connecting = async {
        let socket = if to.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // So that a link whose own port happens to be a member's doesn't keep that member from
        // starting again.
        #[cfg(not(windows))]
        socket.set_reuseaddr(true)?;
        let stream = socket.connect(to).await?;
        // Where nobody listens on a port of the ephemeral range, the system may pick that very
        // port for this end, and the connection meets itself.
        if stream.local_addr()? == to {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        configure(&stream)?;
        Ok::<_, io::Error>(stream)
    };
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(match error.kind() {
            io::ErrorKind::ConnectionRefused => End::Failed(LinkFailure::Refused),
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected => End::Failed(LinkFailure::Unreachable),
            _ => End::Local(error),
        }),
        Err(_) => Err(End::Failed(LinkFailure::Unreachable)),
    }
}

fn configure(stream: &TcpStream) -> io::Result<()> {
    // Frames are small and complete; waiting for more to send would only delay them.
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNCONFIRMED_TIMEOUT))?;
    Ok(())
}

async fn read_frames(
    mut reader: BufReader<impl AsyncRead + Unpin>,
    id: LinkId,
    (frames, reading): &Read,
    mut open: Option<LinkOpener>,
    keys: &LinkKeys,
) -> End {
    let longest = LINK_FRAME_BYTES_MAX + open.as_ref().map_or(0, |_| LINK_OVERHEAD_BYTES);
    loop {
        // No deadline between frames: the driver closes what is idle.
        match reader.fill_buf().await {
            Ok([]) => return End::Lost,
            Ok(_) => {}
            Err(error) => return lost(&error),
        }
        let read = timeout(FRAME_TIMEOUT, read_frame(&mut reader, longest, reading)).await;
        // The leave lasts until the driver has taken the frame, or there is room for it to wait.
        let (mut frame, _leave) = match read {
            Ok(Ok(Some(read))) => read,
            Ok(Ok(None)) => return End::Malformed,
            Ok(Err(error)) => return lost(&error),
            Err(_) => return End::TimedOut,
        };
        if let Some(open) = &mut open {
            if let Err(rejection) = open.open(&keys.ring(), &mut frame) {
                return keys.rejected(rejection);
            }
            keys.counters.opened();
        }
        if frames.send((id, frame)).await.is_err() {
            return End::Done;
        }
    }
}

/// How a link has ended whose connection is broken: the system gives up as well where nothing is confirmed.
fn lost(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::TimedOut => End::TimedOut,
        _ => End::Lost,
    }
}

/// The next frame with the leave to hold it, or `None` where its length is not one.
async fn read_frame<'a>(
    reader: &mut BufReader<impl AsyncRead + Unpin>,
    longest: usize,
    reading: &'a Semaphore,
) -> io::Result<Option<(Vec<u8>, Option<SemaphorePermit<'a>>)>> {
    let len = reader.read_u32().await?;
    if len as usize > longest {
        return Ok(None);
    }
    let leave = match len as usize > FREE_FRAME_BYTES {
        true => Some(reading.acquire_many(len).await.map_err(io::Error::other)?),
        false => None,
    };
    // Grows with what comes, not with what was announced.
    let mut frame = Vec::new();
    reader.take(len.into()).read_to_end(&mut frame).await?;
    if frame.len() < len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((frame, leave)))
}

async fn write_frames(
    mut writer: impl AsyncWrite + Unpin,
    outbox: &mut Outbox,
    mut seal: Option<LinkSealer>,
    keys: &LinkKeys,
) -> End {
    while let Some(frame) = outbox.next().await {
        let sealed;
        let frame = match &mut seal {
            None => frame,
            Some(seal) => {
                let bytes = frame.get(LENGTH_BYTES..).unwrap_or_default();
                let Some(bytes) = seal.seal(&keys.ring(), bytes) else {
                    return End::Lost;
                };
                keys.counters.sealed();
                sealed = bytes;
                &sealed
            }
        };
        match timeout(FRAME_TIMEOUT, writer.write_all(frame)).await {
            Ok(Ok(())) => outbox.written(),
            Ok(Err(error)) => return lost(&error),
            Err(_) => return End::TimedOut,
        }
    }
    End::Done
}
