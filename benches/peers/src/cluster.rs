//! The running nodes of a subject.

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::board::Board;
use crate::peer::{Node, Peer, Spot};

/// The node by way of which all others join; it is never ended.
const SEED: Spot = Spot(0);
/// For nodes to say that they run.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Cluster {
    peer: Arc<dyn Peer>,
    board: Arc<Board>,
    nodes: BTreeMap<usize, Box<dyn Node>>,
    /// Numbers below are taken.
    next: usize,
    value: u64,
}

impl Cluster {
    /// For at most `capacity` nodes over the whole run.
    pub(crate) fn new(peer: Box<dyn Peer>, capacity: usize) -> Self {
        Self {
            peer: peer.into(),
            board: Arc::new(Board::new(capacity)),
            nodes: BTreeMap::new(),
            next: 0,
            value: 0,
        }
    }

    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Takes the numbers of the next nodes, so that from now on they are expected to be seen.
    pub(crate) fn reserve(&mut self, count: usize) {
        for number in self.next..self.next + count {
            self.board.enter(number);
        }
        self.next += count;
    }

    /// Starts the nodes reserved last, all at once but for the very first, which has to be there
    /// to be joined. Answers when the last was launched.
    pub(crate) async fn start_reserved(&mut self, count: usize) -> Result<Instant> {
        let mut starting = JoinSet::new();
        let mut last_launch = Instant::now();
        for number in self.next - count..self.next {
            last_launch = Instant::now();
            let (peer, board) = (self.peer.clone(), self.board.clone());
            if number == SEED.0 {
                self.nodes
                    .insert(number, peer.start(SEED, None, board).await?);
                continue;
            }
            starting.spawn(async move {
                let node = peer.start(Spot(number), Some(SEED), board).await;
                (number, node)
            });
        }
        let all = async {
            while let Some(started) = starting.join_next().await {
                let (number, node) = started?;
                let node = node.with_context(|| format!("start node {number}"))?;
                self.nodes.insert(number, node);
            }
            Ok(last_launch)
        };
        timeout(PATIENCE, all)
            .await
            .context("starting took too long")?
    }

    /// Takes a node out, to be ended; from now on nobody is expected to see it.
    pub(crate) fn take(&mut self, number: usize) -> Result<Box<dyn Node>> {
        self.board.exit(number);
        self.nodes.remove(&number).context("no such node")
    }

    pub(crate) fn node(&self, number: usize) -> Result<&dyn Node> {
        let node = self.nodes.get(&number).context("no such node")?;
        Ok(node.as_ref())
    }

    /// A random node.
    pub(crate) fn any(&self, rng: &mut fastrand::Rng) -> usize {
        let numbers: Vec<_> = self.nodes.keys().copied().collect();
        rng.choice(numbers).unwrap_or(SEED.0)
    }

    /// A random node other than the seed.
    pub(crate) fn any_but_the_seed(&self, rng: &mut fastrand::Rng) -> usize {
        let numbers: Vec<_> = self.nodes.keys().copied().skip(1).collect();
        rng.choice(numbers).unwrap_or(SEED.0)
    }

    /// A value that no node had yet; later ones are greater.
    pub(crate) fn next_value(&mut self) -> u64 {
        self.value += 1;
        self.value
    }

    /// The processes of the nodes, where they have some of their own.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.values().filter_map(|node| node.pid()).collect()
    }

    /// How many nodes were declared dead, by all nodes that run; `None` where that isn't counted.
    pub(crate) async fn verdicts(&self) -> Option<u64> {
        let mut sum = 0;
        for node in self.nodes.values() {
            sum += node.deaths().await?;
        }
        Some(sum)
    }

    /// Checks that the sockets of a node that was ended are closed: its addresses can be bound.
    pub(crate) fn ensure_closed(&self, number: usize) -> Result<()> {
        let address = Spot(number).address();
        UdpSocket::bind(address).with_context(|| format!("udp {address} is still open"))?;
        TcpListener::bind(address).with_context(|| format!("tcp {address} is still open"))?;
        Ok(())
    }

    /// Asks up to `most` nodes whom they see, and answers how many were asked, and about how many
    /// running others the answer is not what the board shows.
    pub(crate) async fn compare(&self, most: usize) -> Result<(usize, usize)> {
        let mut differing = 0;
        let asked = self.nodes.iter().take(most);
        for (number, node) in asked.clone() {
            let alive = node.alive().await?;
            let reported = self.board.seen_by(*number);
            let running = self.nodes.keys().filter(|other| *other != number);
            differing += running
                .filter(|other| alive.contains(other) != reported.contains(other))
                .count();
        }
        Ok((asked.count(), differing))
    }
}
