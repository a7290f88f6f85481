//! One running member: its engine, and what decides when that gets to handle what has arrived.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidings_gossip::engine::{LinkFailure, LinkId};

/// Datagrams that a socket holds for a process which doesn't read: Linux' default of 208 KiB, with
/// about a KiB accounted for each.
const SOCKET_DATAGRAMS_MAX: usize = 200;

/// What a process gets to handle.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Datagram(SocketAddr, Arc<[u8]>),
    Link(LinkId, Arc<[u8]>),
    LinkFailure(SocketAddr, LinkFailure),
    LinkClosed(SocketAddr),
    Seeds,
    Timeout,
}

/// How fast a process handles what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// At once.
    Normal,
    /// Not at all, as after SIGSTOP.
    Paused,
    /// One input per this time.
    Slow(Duration),
}

/// A running member.
#[derive(Debug)]
pub(crate) struct Process<N> {
    pub(crate) node: N,
    pub(crate) pace: Pace,
    /// When its timer goes off, and the number of that timer: earlier ones are void.
    pub(crate) timer: Option<Duration>,
    pub(crate) timers: u64,
    /// Slow: the next input is being handled already.
    pub(crate) busy: bool,
    /// Where its driver keeps links open to.
    pub(crate) kept: Vec<SocketAddr>,
    inbox: VecDeque<Input>,
    datagrams: usize,
}

impl<N> Process<N> {
    pub(crate) fn new(node: N) -> Self {
        Self {
            node,
            pace: Pace::Normal,
            timer: None,
            timers: 0,
            busy: false,
            kept: Vec::new(),
            inbox: VecDeque::new(),
            datagrams: 0,
        }
    }

    /// Whether an input can be handled the moment it arrives.
    pub(crate) fn is_ready(&self) -> bool {
        self.pace == Pace::Normal && self.inbox.is_empty()
    }

    /// Keeps an input for later, unless it is a datagram for which there is no room.
    pub(crate) fn keep(&mut self, input: Input) {
        if matches!(input, Input::Datagram(..)) {
            if self.datagrams >= SOCKET_DATAGRAMS_MAX {
                return;
            }
            self.datagrams += 1;
        }
        self.inbox.push_back(input);
    }

    /// What was kept first.
    pub(crate) fn next_input(&mut self) -> Option<Input> {
        let input = self.inbox.pop_front()?;
        if matches!(input, Input::Datagram(..)) {
            self.datagrams -= 1;
        }
        Some(input)
    }

    /// Whether its timer has gone off and waits to be handled.
    pub(crate) fn timeout_waits(&self) -> bool {
        self.inbox.iter().any(|i| matches!(i, Input::Timeout))
    }

    /// After a pause the timer and the sockets are ready at once, and either may come first.
    pub(crate) fn timeout_first(&mut self) {
        if let Some(at) = self.inbox.iter().position(|i| matches!(i, Input::Timeout)) {
            self.inbox.remove(at);
            self.inbox.push_front(Input::Timeout);
        }
    }
}
