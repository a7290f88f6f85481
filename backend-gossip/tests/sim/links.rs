//! Links: reliable, ordered streams of frames between processes, as TCP gives them to the driver.
//!
//! Loss shows as delay, a partition stalls a link until it breaks, and a process that ends closes
//! its links, unless its host ends with it. The driver's part is played here too: one link per
//! address, opened on demand, and a link that is closed from the other side is dialled once more to
//! learn whether the process is gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tidings_gossip::engine::{LinkFailure, LinkId};

use crate::counters::Counters;
use crate::history::ProcessId;
use crate::net::{Answer, HostId, Net};
use crate::process::Input;

/// The driver's patience with a connection that isn't answered.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// First repetition of a lost request to connect (Linux), doubled each time.
const REQUEST_AGAIN: Duration = Duration::from_secs(1);
/// First retransmission of a lost segment (Linux: 200 ms at least), doubled each time.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// How long a link may wait for the other side before the driver gives it up.
const STALL_MAX: Duration = Duration::from_secs(5);

/// Names a link in the world; the processes know it by a [`LinkId`] each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkKey(u64);

/// The two ends of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Opener,
    Acceptor,
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::Opener => Self::Acceptor,
            Self::Acceptor => Self::Opener,
        }
    }
}

/// What happens to a link at a later time.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The opener's kernel repeats its request.
    Dial(LinkKey),
    /// The opener's request arrives.
    Request(LinkKey),
    /// The opener hears that the link is open.
    Open(LinkKey),
    /// The opener hears that there will be no link.
    Fail(LinkKey, LinkFailure),
    /// An end tries again to send what waits.
    Send(LinkKey, End),
    /// A frame arrives at this end.
    Frame(LinkKey, End, Arc<[u8]>),
    /// An end looks whether what it sent was ever acknowledged.
    Unacknowledged(LinkKey, End),
    /// This end hears that the other one is gone.
    Close(LinkKey, End),
}

/// What links need of the world, and what they do to it.
pub(crate) struct Context<'a> {
    pub(crate) now: Duration,
    pub(crate) rng: &'a mut Rng,
    pub(crate) net: &'a Net,
    pub(crate) counters: &'a mut Counters,
    pub(crate) later: &'a mut Vec<(Duration, LinkEvent)>,
    pub(crate) inputs: &'a mut Vec<(ProcessId, Input)>,
}

#[derive(Debug)]
struct Link {
    opener: Side,
    /// `None` until the request has arrived.
    acceptor: Option<Side>,
    target: SocketAddr,
    requested: Duration,
    /// Requests so far.
    dialled: u32,
    open: bool,
}

#[derive(Debug)]
struct Side {
    process: ProcessId,
    host: HostId,
    id: LinkId,
    waiting: VecDeque<Arc<[u8]>>,
    latest_arrival: Duration,
    stalled: Option<Duration>,
    retrying: bool,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Links {
    patience: Duration,
    links: BTreeMap<LinkKey, Link>,
    by_target: BTreeMap<(ProcessId, SocketAddr), LinkKey>,
    by_id: BTreeMap<LinkId, (LinkKey, End)>,
    running: BTreeSet<ProcessId>,
    made: u64,
}

impl Default for Links {
    fn default() -> Self {
        Self::patient(CONNECT_TIMEOUT)
    }
}

impl Links {
    /// Links between processes that wait so long for one to open.
    pub(crate) fn patient(patience: Duration) -> Self {
        Self {
            patience,
            links: BTreeMap::new(),
            by_target: BTreeMap::new(),
            by_id: BTreeMap::new(),
            running: BTreeSet::new(),
            made: 0,
        }
    }

    pub(crate) fn start(&mut self, process: ProcessId) {
        self.running.insert(process);
    }

    /// Sends over the link to this address, which is opened where there is none.
    pub(crate) fn send(
        &mut self,
        context: &mut Context<'_>,
        (process, host): (ProcessId, HostId),
        target: SocketAddr,
        frame: Arc<[u8]>,
    ) {
        let key = match self.by_target.get(&(process, target)) {
            Some(key) => *key,
            None => self.request(context, (process, host), target),
        };
        let Some(link) = self.links.get_mut(&key) else {
            return;
        };
        link.opener.waiting.push_back(frame);
        if link.open {
            self.flush(context, key, End::Opener);
        }
    }

    /// Sends back over a link, if it is still there.
    pub(crate) fn reply(&mut self, context: &mut Context<'_>, id: LinkId, frame: Arc<[u8]>) {
        let Some((key, end)) = self.by_id.get(&id).copied() else {
            return;
        };
        if let Some(side) = self.side_mut(key, end) {
            side.waiting.push_back(frame);
            self.flush(context, key, end);
        }
    }

    /// Opens a link to this address where there is none: to keep it, or because the other side has
    /// closed it and one more try tells whether the process is gone.
    pub(crate) fn open(
        &mut self,
        context: &mut Context<'_>,
        opener: (ProcessId, HostId),
        target: SocketAddr,
    ) {
        if !self.by_target.contains_key(&(opener.0, target)) {
            self.request(context, opener, target);
        }
    }

    /// Closes the link to this address, so that the next frame to it takes a new one.
    #[allow(
        dead_code,
        reason = "benches/detection uses it, for engines that keep no links"
    )]
    pub(crate) fn hang_up(&mut self, process: ProcessId, target: SocketAddr) {
        if let Some(key) = self.by_target.get(&(process, target)) {
            self.remove(*key);
        }
    }

    /// The kernel closes what a process had open; a host that is gone closes nothing.
    pub(crate) fn end(&mut self, context: &mut Context<'_>, process: ProcessId, silent: bool) {
        self.running.remove(&process);
        let mut orphans = Vec::new();
        for (key, link) in &self.links {
            let end = if link.opener.process == process {
                End::Opener
            } else if link.acceptor.as_ref().is_some_and(|a| a.process == process) {
                End::Acceptor
            } else {
                continue;
            };
            match link.side(end.other()) {
                Some(other) if self.running.contains(&other.process) => {
                    let host = link.side(end).map_or(link.opener.host, |side| side.host);
                    if !silent && !context.net.is_cut(host, other.host) {
                        let at = context.now + context.net.delay(context.rng);
                        context
                            .later
                            .push((at, LinkEvent::Close(*key, end.other())));
                    }
                }
                _ => orphans.push(*key),
            }
        }
        for key in orphans {
            self.remove(key);
        }
    }

    pub(crate) fn handle(&mut self, context: &mut Context<'_>, event: LinkEvent) {
        match event {
            LinkEvent::Dial(key) => self.dial(context, key),
            LinkEvent::Request(key) => self.accept(context, key),
            LinkEvent::Open(key) => {
                if let Some(link) = self.links.get_mut(&key) {
                    link.open = true;
                    self.flush(context, key, End::Opener);
                }
            }
            LinkEvent::Fail(key, failure) => self.fail(context, key, failure),
            LinkEvent::Send(key, end) => {
                if let Some(side) = self.side_mut(key, end) {
                    side.retrying = false;
                    self.flush(context, key, end);
                }
            }
            LinkEvent::Frame(key, end, frame) => self.deliver(context, key, end, frame),
            LinkEvent::Unacknowledged(key, end) => {
                if let Some((from, to)) = self.hosts(key, end)
                    && context.net.is_blocked(to, from.address())
                {
                    self.give_up(context, key, end);
                }
            }
            LinkEvent::Close(key, end) => self.close(context, key, end),
        }
    }

    fn request(
        &mut self,
        context: &mut Context<'_>,
        (process, host): (ProcessId, HostId),
        target: SocketAddr,
    ) -> LinkKey {
        self.made += 1;
        let key = LinkKey(self.made);
        let opener = Side::new(process, host, LinkId(2 * self.made));
        self.by_id.insert(opener.id, (key, End::Opener));
        self.by_target.insert((process, target), key);
        self.links.insert(
            key,
            Link {
                opener,
                acceptor: None,
                target,
                requested: context.now,
                dialled: 0,
                open: false,
            },
        );
        self.dial(context, key);
        key
    }

    fn dial(&mut self, context: &mut Context<'_>, key: LinkKey) {
        let Some(link) = self.links.get_mut(&key) else {
            return;
        };
        link.dialled += 1;
        let (host, target) = (link.opener.host, link.target);
        let loss = context.net.loss(host, target);
        // The request, or the answer to it.
        let lost = context.rng.f64() < loss || context.rng.f64() < loss;
        if lost || context.net.is_blocked(host, target) {
            self.dial_again(context, key);
        } else {
            let at = context.now + context.net.delay(context.rng);
            context.later.push((at, LinkEvent::Request(key)));
        }
    }

    /// Repeats an unanswered request, or gives up where the next one would come too late.
    fn dial_again(&self, context: &mut Context<'_>, key: LinkKey) {
        let Some(link) = self.links.get(&key) else {
            return;
        };
        let waited = REQUEST_AGAIN * 2_u32.saturating_pow(link.dialled).saturating_sub(1);
        let (again, too_late) = (link.requested + waited, link.requested + self.patience);
        let next = if again < too_late {
            (again, LinkEvent::Dial(key))
        } else {
            (too_late, LinkEvent::Fail(key, LinkFailure::Unreachable))
        };
        context.later.push((next.0.max(context.now), next.1));
    }

    fn accept(&mut self, context: &mut Context<'_>, key: LinkKey) {
        let Some(link) = self.links.get_mut(&key) else {
            return;
        };
        let answered = context.now + context.net.delay(context.rng);
        let too_late = link.requested + self.patience;
        let answer = match context.net.answer(link.target) {
            _ if answered > too_late => Answer::Nothing,
            _ if context.net.is_blocked(link.opener.host, link.target) => Answer::Nothing,
            answer => answer,
        };
        let host = HostId::at(link.target);
        match (answer, host) {
            (Answer::Process(process), Some(host))
                if !context.net.is_cut(host, link.opener.host) =>
            {
                let acceptor = Side::new(process, host, LinkId(link.opener.id.0 + 1));
                self.by_id.insert(acceptor.id, (key, End::Acceptor));
                link.acceptor = Some(acceptor);
                context.counters.links_opened += 1;
                context.later.push((answered, LinkEvent::Open(key)));
            }
            (Answer::Refused, Some(host)) if !context.net.is_cut(host, link.opener.host) => {
                let refused = LinkEvent::Fail(key, LinkFailure::Refused);
                context.later.push((answered, refused));
            }
            _ => self.dial_again(context, key),
        }
    }

    fn fail(&mut self, context: &mut Context<'_>, key: LinkKey, failure: LinkFailure) {
        let Some(link) = self.links.get(&key) else {
            return;
        };
        match failure {
            LinkFailure::Refused => context.counters.links_refused += 1,
            LinkFailure::Unreachable => context.counters.links_unreachable += 1,
        }
        let input = Input::LinkFailure(link.target, failure);
        context.inputs.push((link.opener.process, input));
        self.remove(key);
    }

    /// Puts on the wire what waits at this end.
    fn flush(&mut self, context: &mut Context<'_>, key: LinkKey, end: End) {
        let Some((from, to)) = self.hosts(key, end) else {
            return;
        };
        let blocked = context.net.is_blocked(from, to.address());
        let unheard = context.net.is_blocked(to, from.address());
        let loss = context.net.loss(from, to.address());
        let Some(side) = self.side_mut(key, end) else {
            return;
        };
        if side.waiting.is_empty() {
            return;
        }
        if blocked {
            let since = *side.stalled.get_or_insert(context.now);
            context.counters.link_frames_delayed += 1;
            if context.now - since >= STALL_MAX {
                self.give_up(context, key, end);
            } else if !side.retrying {
                side.retrying = true;
                let at = context.now + 2 * RETRANSMIT;
                context.later.push((at, LinkEvent::Send(key, end)));
            }
            return;
        }
        side.stalled = None;
        for frame in std::mem::take(&mut side.waiting) {
            let mut arrival = context.now + context.net.delay(context.rng);
            let mut retransmit = RETRANSMIT;
            while context.rng.f64() < loss && retransmit < STALL_MAX {
                arrival += retransmit;
                retransmit *= 2;
            }
            if retransmit > RETRANSMIT {
                context.counters.link_frames_delayed += 1;
            }
            side.latest_arrival = arrival.max(side.latest_arrival + Duration::from_nanos(1));
            context.counters.link_frames += 1;
            let arrives = LinkEvent::Frame(key, end.other(), frame);
            context.later.push((side.latest_arrival, arrives));
        }
        if unheard {
            let at = context.now + STALL_MAX;
            context
                .later
                .push((at, LinkEvent::Unacknowledged(key, end)));
        }
    }

    fn deliver(&mut self, context: &mut Context<'_>, key: LinkKey, end: End, frame: Arc<[u8]>) {
        let Some(link) = self.links.get(&key) else {
            return;
        };
        let (Some(to), Some(from)) = (link.side(end), link.side(end.other())) else {
            return;
        };
        if self.running.contains(&to.process) {
            context.inputs.push((to.process, Input::Link(to.id, frame)));
        } else if !context.net.is_blocked(to.host, from.host.address()) {
            let at = context.now + context.net.delay(context.rng);
            context.later.push((at, LinkEvent::Close(key, end.other())));
        }
    }

    /// The driver's patience with a link that makes no progress is over.
    fn give_up(&mut self, context: &mut Context<'_>, key: LinkKey, end: End) {
        let Some(link) = self.links.get(&key) else {
            return;
        };
        context.counters.links_broken += 1;
        if end == End::Opener {
            let input = Input::LinkFailure(link.target, LinkFailure::Unreachable);
            context.inputs.push((link.opener.process, input));
        }
        self.remove(key);
    }

    fn close(&mut self, context: &mut Context<'_>, key: LinkKey, end: End) {
        let Some(link) = self.links.get(&key) else {
            return;
        };
        if end == End::Opener {
            let input = Input::LinkClosed(link.target);
            context.inputs.push((link.opener.process, input));
        }
        self.remove(key);
    }

    fn remove(&mut self, key: LinkKey) {
        if let Some(link) = self.links.remove(&key) {
            self.by_target.remove(&(link.opener.process, link.target));
            self.by_id.remove(&link.opener.id);
            if let Some(acceptor) = link.acceptor {
                self.by_id.remove(&acceptor.id);
            }
        }
    }

    /// The hosts that an end sends from and to.
    fn hosts(&self, key: LinkKey, end: End) -> Option<(HostId, HostId)> {
        let link = self.links.get(&key)?;
        Some((link.side(end)?.host, link.side(end.other())?.host))
    }

    fn side_mut(&mut self, key: LinkKey, end: End) -> Option<&mut Side> {
        let link = self.links.get_mut(&key)?;
        match end {
            End::Opener => Some(&mut link.opener),
            End::Acceptor => link.acceptor.as_mut(),
        }
    }
}

impl Link {
    fn side(&self, end: End) -> Option<&Side> {
        match end {
            End::Opener => Some(&self.opener),
            End::Acceptor => self.acceptor.as_ref(),
        }
    }
}

impl Side {
    fn new(process: ProcessId, host: HostId, id: LinkId) -> Self {
        Self {
            process,
            host,
            id,
            waiting: VecDeque::new(),
            latest_arrival: Duration::ZERO,
            stalled: None,
            retrying: false,
        }
    }
}
