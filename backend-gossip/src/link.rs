//! Links: TCP connections that carry frames, one task each.
//!
//! On the wire a frame is its length (`u32`, big-endian) and its bytes; an empty one says nothing
//! but that the link is in use. A link carries frames both ways, whoever opened it. `Links` is the
//! driver's side of them: it never waits, opens a link when a frame needs one, and lets neither
//! silent nor slow peers hold more than their share. The tasks' side is in `carrier`; they seal what
//! they write and open what they read.

pub mod bare;
mod carrier;
mod greeting;
#[cfg(test)]
mod half_open_tests;
mod queue;
mod single;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::{Instrument, debug, error, trace, warn};

use self::carrier::{Carrier, End, Framed, Outbox, framed};
use self::queue::{Inlet, Total, queue};
use crate::engine::{LinkFailure, LinkId};
use crate::seal::{Counters, Ring, Side};
use crate::spans;
use crate::wire::limits::{
    LINK_FRAME_BYTES_MAX, LINK_FRAME_BYTES_TARGET, OBSERVER_WAITING_BYTES_MAX,
};

pub(crate) use self::single::{Single, SingleEvent};

/// Links opened by this member at once; above it the one unused longest makes room.
const LINKS_OUT_MAX: usize = 128;
/// Links accepted at once: all members of a big cluster may want to join through this one. Above
/// it the one unused longest makes room, so that silent connections keep nobody out.
const LINKS_IN_MAX: usize = 1_024;
/// Links accepted at once where descriptors ran out, at least: so few aren't the reason.
const LINKS_IN_MIN: usize = 64;
/// Links used within this time make no room: what their peers came for would have to begin anew, and
/// where too many want to join at once none would. Who finds no room comes again.
const IN_USE: Duration = Duration::from_secs(1);
/// Frames that wait to be written on one link.
const FRAMES_WAITING_MAX: usize = 256;
/// Bytes that wait to be written on one link: a sync of some thousand records.
const BYTES_WAITING_MAX: usize = 16 * LINK_FRAME_BYTES_MAX;
/// Bytes that wait to be written on all links together: who asks over many links and reads none of them is
/// held to this. A link on which less than a batch waits isn't held to anything.
const BYTES_WAITING_TOTAL_MAX: usize = 64 << 20;
/// Bytes of frames that are being read, of all links together, but for frames no longer than members' own
/// batches: those need no leave.
const BYTES_READ_MAX: usize = 16 << 20;
/// Frames that were read and wait for the driver, of all links together. When it is full readers
/// wait, and so do their peers.
const FRAMES_READ_MAX: usize = 64;
/// How long a link this member opened may be without a frame either way.
const IDLE_OUT: Duration = Duration::from_secs(5);
/// The same for one that is kept open; then an empty frame is sent.
const IDLE_KEPT: Duration = Duration::from_secs(90);
/// The same for one that a peer opened. Longer, so that it is the opener who closes: where the
/// other side does, there is a reason for it that members want to know.
const IDLE_IN: Duration = Duration::from_secs(180);
/// How long observers have to take what waits for them when this member ends.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(100);
/// A link that was lost sooner than this, twice in a row, isn't tried again: a peer without room
/// would be asked for it for ever.
const SHORT_LIVED: Duration = Duration::from_secs(1);

/// Counters of the links (all since start).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Links that are open now, either way.
    pub open: usize,
    /// Bytes that wait to be written now, on all of them.
    pub queued: usize,
    /// Links this member opened.
    pub opened: u64,
    /// Links others opened.
    pub accepted: u64,
    /// Links ended because too many were open.
    pub evicted: u64,
    /// Links of observers, open now.
    pub observers: usize,
    /// Links not accepted because too many were in use.
    pub turned_away: u64,
    /// Links ended because what came was no frame.
    pub malformed: u64,
    /// Links ended because their peer opened them and said nothing, didn't finish a frame, or read nothing.
    pub timed_out: u64,
    /// Frames dropped because their link was gone, or too much waited for it already.
    pub dropped: u64,
}

/// What happens on the links.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A frame came.
    Frame(LinkId, Vec<u8>),
    /// Nothing can be sent to this address.
    Failed(SocketAddr, LinkFailure),
}

/// All links of a member.
#[derive(Debug)]
pub(crate) struct Links {
    open: HashMap<LinkId, Link>,
    /// The open link to each address this member opened one to.
    outgoing: HashMap<SocketAddr, LinkId>,
    /// Addresses that a link is kept open to, used or not.
    kept: Vec<SocketAddr>,
    /// How many of the open ones are observers'. The engine bounds them; they count for themselves, so
    /// that neither they nor members keep the others out.
    observers: usize,
    /// [`LINKS_IN_MAX`], or fewer where the process can't open so many.
    incoming_max: usize,
    frames: (Sender<Frame>, Receiver<Frame>),
    /// Bytes of large frames that may be read still.
    reading: Arc<Semaphore>,
    /// Bytes that wait to be written, on all of them.
    waiting: Total,
    keys: LinkKeys,
    tasks: JoinSet<(Carrier, End)>,
    last: LinkId,
    stats: LinkStats,
    warned: bool,
    /// Lets nothing through either way; only fault injection turns it on.
    cut_off: bool,
}

/// A frame that was read, and where.
type Frame = (LinkId, Vec<u8>);

/// What links are sealed with, now and from the next change on.
#[derive(Clone, Debug)]
pub(crate) struct LinkKeys {
    ring: watch::Receiver<Arc<Ring>>,
    counters: Arc<Counters>,
}

impl LinkKeys {
    pub(crate) fn new(ring: watch::Receiver<Arc<Ring>>, counters: Arc<Counters>) -> Self {
        Self { ring, counters }
    }

    fn ring(&self) -> Arc<Ring> {
        self.ring.borrow().clone()
    }
}

impl Links {
    pub(crate) fn new(keys: LinkKeys) -> Self {
        Self {
            open: HashMap::new(),
            outgoing: HashMap::new(),
            kept: Vec::new(),
            observers: 0,
            incoming_max: LINKS_IN_MAX,
            frames: mpsc::channel(FRAMES_READ_MAX),
            reading: Arc::new(Semaphore::new(BYTES_READ_MAX)),
            waiting: Total::default(),
            keys,
            tasks: JoinSet::new(),
            last: LinkId(0),
            stats: LinkStats::default(),
            warned: false,
            cut_off: false,
        }
    }

    pub(crate) fn stats(&self) -> LinkStats {
        LinkStats {
            open: self.open.len(),
            observers: self.observers,
            queued: self.open.values().map(|link| link.queue.bytes()).sum(),
            ..self.stats
        }
    }

    /// Sends over the link to `to`: the open one, or a new one.
    pub(crate) fn send(&mut self, now: Instant, to: SocketAddr, frame: &[u8]) {
        if let Some(id) = self.outgoing.get(&to).copied() {
            if self.send_over(now, id, frame) {
                return;
            }
            // It ended a moment ago, and the driver is about to hear why.
            self.remove(id);
        }
        let id = self.connect(now, to);
        self.send_over(now, id, frame);
    }

    /// Sends over this link; where it is gone the frame is dropped.
    pub(crate) fn reply(&mut self, now: Instant, id: LinkId, frame: &[u8]) {
        if !self.send_over(now, id, frame) {
            self.stats.dropped += 1;
            trace!(?id, "frame dropped: its link is gone");
        }
    }

    /// Sends one frame over all of these links; answers which of them are gone.
    pub(crate) fn deliver(&mut self, now: Instant, links: &[LinkId], frame: &[u8]) -> Vec<LinkId> {
        let framed = framed(frame);
        let mut gone = Vec::new();
        for id in links {
            if !self.send_framed(now, *id, &framed) {
                gone.push(*id);
            }
        }
        gone
    }

    /// Takes the link for an observer's from now on.
    pub(crate) fn set_observer(&mut self, id: LinkId) {
        if let Some(link) = self.open.get_mut(&id)
            && link.to.is_none()
            && !std::mem::replace(&mut link.is_observer, true)
        {
            self.observers += 1;
        }
    }

    /// Lets go of a link once what waits on it is written.
    pub(crate) fn close(&mut self, id: LinkId) {
        self.remove(id);
    }

    pub(crate) fn is_open(&self, id: LinkId) -> bool {
        self.open.contains_key(&id)
    }

    /// Keeps a link open to each of these addresses, and no longer to those named before: when the
    /// process behind one ends, the link tells at once.
    pub(crate) fn keep(&mut self, now: Instant, addresses: Vec<SocketAddr>) {
        self.kept = addresses;
        self.open_kept(now);
    }

    /// Takes a connection that a peer opened.
    pub(crate) fn accept(&mut self, now: Instant, stream: TcpStream) {
        let full = self.incoming() >= self.incoming_max;
        if full && !self.evict_incoming(now) {
            self.stats.turned_away += 1;
            return;
        }
        self.stats.accepted += 1;
        let peer = stream.peer_addr().ok();
        if self.cut_off {
            // Held and never read, as behind a broken network.
            self.start(now, None, peer, async move |_carrier| {
                let _held = stream;
                std::future::pending().await
            });
        } else {
            self.start(now, None, peer, move |carrier| carrier.serve(stream));
        }
    }

    /// No connection could be accepted: descriptors have run out. Leaves some to the application, and to what
    /// this member opens itself, by doing with fewer links for a while.
    pub(crate) fn do_with_fewer(&mut self, now: Instant, error: &io::Error) {
        if !std::mem::replace(&mut self.warned, true) {
            warn!(%error, links = self.open.len(), "no link can be accepted by this process (said once)");
        }
        let incoming = self.incoming();
        let fewer = (incoming - incoming / 8).max(LINKS_IN_MIN);
        self.incoming_max = fewer.min(self.incoming_max);
        while self.incoming() > self.incoming_max && self.evict_incoming(now) {}
    }

    /// The next thing that happens. Cancel-safe.
    pub(crate) async fn next(&mut self) -> LinkEvent {
        loop {
            let event = tokio::select! {
                Some(frame) = self.frames.1.recv() => self.received(frame),
                Some(end) = self.tasks.join_next() => self.ended(end),
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// The next frame that is there already.
    pub(crate) fn try_next(&mut self) -> Option<LinkEvent> {
        let frame = self.frames.1.try_recv().ok()?;
        self.received(frame)
    }

    /// Closes the links that were not used for long, and keeps open those to be kept. Once a second.
    pub(crate) fn tend(&mut self, now: Instant) {
        if self.incoming() < self.incoming_max {
            // What took the descriptors may be gone.
            self.incoming_max = LINKS_IN_MAX.min(self.incoming_max + 1);
        }
        let is_kept = |link: &Link| link.to.is_some_and(|to| self.kept.contains(&to));
        let links = self
            .open
            .iter()
            .map(|(id, link)| (*id, is_kept(link), link));
        let idle = links.filter(|(_, kept, link)| link.is_idle(now, *kept));
        for (id, kept) in idle.map(|(id, kept, _)| (id, kept)).collect::<Vec<_>>() {
            if kept {
                self.send_over(now, id, b"");
            } else {
                trace!(?id, "idle link closed");
                let link = self.remove(id);
                self.stats.timed_out += u64::from(link.is_some_and(|link| link.to.is_none()));
            }
        }
        self.open_kept(now);
    }

    /// Whether there is anything to [`tend`](Self::tend).
    pub(crate) fn want_tending(&self) -> bool {
        !self.open.is_empty() || !self.kept.is_empty()
    }

    /// Ends all links and waits until their sockets are closed.
    pub(crate) async fn shutdown(&mut self) {
        let goodbye = self.observers > 0;
        self.open.clear();
        self.outgoing.clear();
        self.observers = 0;
        if goodbye {
            // Other members are told by datagrams; observers hear of it here or not at all.
            let written = async { while self.tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, written).await;
        }
        self.tasks.shutdown().await;
    }

    /// Breaks all links, and from now on lets nothing through, or everything again.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn cut_off(&mut self, cut_off: bool) {
        self.cut_off = cut_off;
        self.open.clear();
        self.outgoing.clear();
        self.observers = 0;
        self.tasks.abort_all();
    }

    fn connect(&mut self, now: Instant, to: SocketAddr) -> LinkId {
        if self.outgoing.len() >= LINKS_OUT_MAX {
            self.evict(|link| link.to.is_some());
        }
        self.stats.opened += 1;
        let id = if self.cut_off {
            self.start(now, Some(to), Some(to), async move |carrier| {
                tokio::time::sleep(carrier::CONNECT_TIMEOUT).await;
                (carrier, End::Failed(LinkFailure::Unreachable))
            })
        } else {
            self.start(now, Some(to), Some(to), move |carrier| carrier.open(to))
        };
        self.outgoing.insert(to, id);
        id
    }

    fn start<F>(
        &mut self,
        now: Instant,
        to: Option<SocketAddr>,
        peer: Option<SocketAddr>,
        run: impl FnOnce(Carrier) -> F,
    ) -> LinkId
    where
        F: Future<Output = (Carrier, End)> + Send + 'static,
    {
        self.last.0 += 1;
        let id = self.last;
        let (inlet, outlet) = queue(&self.waiting);
        let read = (self.frames.0.clone(), self.reading.clone());
        let carrier = Carrier::new(id, Outbox::new(outlet), read, self.keys.clone());
        let side = to.map_or(Side::Acceptor, |_| Side::Opener);
        let span = spans::link(id, side, peer);
        let link = Link {
            to,
            queue: inlet,
            opened: now,
            used: now,
            lost_young: false,
            is_observer: false,
            task: self.tasks.spawn(run(carrier).instrument(span)),
        };
        self.open.insert(id, link);
        id
    }

    /// Whether the link is there; one that is there but too slow drops the frame.
    fn send_over(&mut self, now: Instant, id: LinkId, frame: &[u8]) -> bool {
        self.send_framed(now, id, &framed(frame))
    }

    fn send_framed(&mut self, now: Instant, id: LinkId, frame: &Framed) -> bool {
        let Some(link) = self.open.get_mut(&id) else {
            return false;
        };
        match link.send(now, frame) {
            Ok(()) => true,
            Err(TrySendError::Closed(())) => false,
            Err(TrySendError::Full(())) if link.is_observer => {
                debug!(?id, "observer hung up on: it can't have read what it says");
                self.stats.dropped += 1;
                if let Some(link) = self.remove(id) {
                    link.task.abort();
                }
                false
            }
            Err(TrySendError::Full(())) => {
                self.stats.dropped += 1;
                debug!(
                    ?id,
                    bytes = frame.len(),
                    "frame dropped: its link is too slow"
                );
                true
            }
        }
    }

    fn received(&mut self, (id, frame): Frame) -> Option<LinkEvent> {
        if let Some(link) = self.open.get_mut(&id) {
            link.used = Instant::now();
        }
        (!frame.is_empty() && !self.cut_off).then_some(LinkEvent::Frame(id, frame))
    }

    fn ended(&mut self, ended: Result<(Carrier, End), JoinError>) -> Option<LinkEvent> {
        let (carrier, end) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                if error.is_panic() {
                    error!(%error, "defect: a link's task panicked");
                    self.open.retain(|_, link| !link.task.is_finished());
                    self.outgoing.retain(|_, id| self.open.contains_key(id));
                    let observers = self.open.values().filter(|link| link.is_observer);
                    self.observers = observers.count();
                }
                return None;
            }
        };
        trace!(id = ?carrier.id, ?end, "link ended");
        match end {
            End::Malformed => self.stats.malformed += 1,
            End::TimedOut => self.stats.timed_out += 1,
            _ => {}
        }
        let id = carrier.id;
        let link = self.open.get_mut(&id)?;
        let Some(to) = link.to else {
            self.remove(id);
            return None;
        };
        if matches!(end, End::Lost | End::TimedOut) && link.may_try_again(Instant::now()) {
            // Opening it again tells why it ended: the process is gone, which the others want to
            // know at once; or it restarted, and takes what waits.
            let span = spans::link(id, Side::Opener, Some(to));
            link.task = self.tasks.spawn(carrier.open(to).instrument(span));
            return None;
        }
        let unreachable = LinkEvent::Failed(to, LinkFailure::Unreachable);
        self.remove(id);
        match end {
            End::Failed(LinkFailure::Refused) => Some(LinkEvent::Failed(to, LinkFailure::Refused)),
            // Where nothing was to be sent there is nothing to tell.
            End::Failed(LinkFailure::Unreachable) | End::Lost | End::TimedOut => {
                carrier.is_waiting().then_some(unreachable)
            }
            End::Local(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    warn!(%to, %error, "no link can be opened from this machine (said once)");
                }
                None
            }
            End::Done | End::Malformed | End::Rejected => None,
        }
    }

    fn open_kept(&mut self, now: Instant) {
        for to in self.kept.clone() {
            if !self.outgoing.contains_key(&to) {
                self.connect(now, to);
            }
        }
    }

    /// How many links members have opened to this one.
    fn incoming(&self) -> usize {
        self.open.len() - self.outgoing.len() - self.observers
    }

    fn evict_incoming(&mut self, now: Instant) -> bool {
        self.evict(|link| link.to.is_none() && !link.is_observer && !link.is_in_use(now))
    }

    /// Ends the link unused longest; answers whether there was one.
    fn evict(&mut self, among: impl Fn(&Link) -> bool) -> bool {
        let kept = |link: &Link| link.to.is_some_and(|to| self.kept.contains(&to));
        let candidates = self.open.iter();
        let candidates = candidates.filter(|(_, link)| among(link) && !kept(link));
        let oldest = candidates.min_by_key(|(_, link)| link.used);
        let oldest = oldest.map(|(id, _)| *id);
        let Some(link) = oldest.and_then(|id| self.remove(id)) else {
            return false;
        };
        link.task.abort();
        self.stats.evicted += 1;
        true
    }

    /// Lets go of a link: its task writes what waits and ends.
    fn remove(&mut self, id: LinkId) -> Option<Link> {
        let link = self.open.remove(&id)?;
        if let Some(to) = link.to {
            self.outgoing.remove(&to);
        }
        self.observers -= usize::from(link.is_observer);
        Some(link)
    }
}

/// The driver's side of one link.
#[derive(Debug)]
struct Link {
    /// Where to, if this member opened it.
    to: Option<SocketAddr>,
    queue: Inlet,
    opened: Instant,
    used: Instant,
    /// Whether the last connection of this link was lost soon after it was opened.
    lost_young: bool,
    /// Whether an observer opened it.
    is_observer: bool,
    task: AbortHandle,
}

impl Link {
    fn send(&mut self, now: Instant, frame: &Framed) -> Result<(), TrySendError<()>> {
        self.used = now;
        let most = if self.is_observer {
            OBSERVER_WAITING_BYTES_MAX
        } else {
            BYTES_WAITING_MAX
        };
        if frame.len() > carrier::LENGTH_BYTES + LINK_FRAME_BYTES_MAX {
            return Err(TrySendError::Full(()));
        }
        self.queue.try_send(frame.clone(), most)
    }

    /// Whether a link that was lost may be opened once more.
    fn may_try_again(&mut self, now: Instant) -> bool {
        let young = now.saturating_duration_since(self.opened) < SHORT_LIVED;
        let twice = young && self.lost_young;
        (self.opened, self.lost_young) = (now, young);
        !twice
    }

    fn is_in_use(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < IN_USE
    }

    fn is_idle(&self, now: Instant, kept: bool) -> bool {
        let limit = match self.to {
            Some(_) if kept => IDLE_KEPT,
            Some(_) => IDLE_OUT,
            None => IDLE_IN,
        };
        now.saturating_duration_since(self.used) >= limit
    }
}
