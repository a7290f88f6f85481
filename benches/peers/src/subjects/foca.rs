//! foca: a state machine, driven here by one task a node with a socket and a timer heap.
//!
//! The value is a custom broadcast. A node announces itself once, as foca leaves it to its user.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use async_trait::async_trait;
use foca::{
    AccumulatingRuntime, BroadcastHandler, Config, Foca, Identity, Invalidates, OwnedNotification,
    PostcardCodec, Timer,
};
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::board::Board;
use crate::peer::{Node, Peer, Spot};

#[derive(Debug)]
pub(crate) struct FocaPeer {
    config: Config,
}

impl FocaPeer {
    pub(crate) fn new(nodes: usize) -> Self {
        let nodes = u32::try_from(nodes).ok().and_then(NonZeroU32::new);
        Self {
            config: Config::new_lan(nodes.unwrap_or(NonZeroU32::MIN)),
        }
    }
}

#[async_trait]
impl Peer for FocaPeer {
    async fn start(
        &self,
        spot: Spot,
        seed: Option<Spot>,
        board: Arc<Board>,
    ) -> Result<Box<dyn Node>> {
        let socket = UdpSocket::bind(spot.address()).await.context("bind")?;
        let id = Id::new(spot.address());
        let values = Values {
            observer: spot,
            board: board.clone(),
            newest: HashMap::new(),
        };
        let rng: StdRng = rand::make_rng();
        let (commands, waiting) = mpsc::channel(16);
        let driver = Driver {
            spot,
            board,
            buffer: vec![0; self.config.max_packet_size.get()],
            foca: Foca::with_custom_broadcast(id, self.config.clone(), rng, PostcardCodec, values),
            outputs: AccumulatingRuntime::new(),
            timers: BinaryHeap::new(),
            socket,
            commands: waiting,
        };
        let task = tokio::spawn(driver.run(seed));
        Ok(Box::new(FocaNode {
            spot,
            commands,
            task,
        }))
    }
}

#[derive(Debug)]
struct FocaNode {
    spot: Spot,
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

enum Command {
    Update(Vec<u8>),
    Members(oneshot::Sender<Vec<usize>>),
    Leave,
}

#[async_trait]
impl Node for FocaNode {
    async fn update(&self, value: u64) -> Result<()> {
        let broadcast = encode(self.spot, value);
        let sent = self.commands.send(Command::Update(broadcast)).await;
        sent.map_err(|_| anyhow!("the node has ended"))
    }

    async fn kill(self: Box<Self>) {
        self.task.abort();
        let _ = self.task.await;
    }

    async fn leave(self: Box<Self>) -> Result<()> {
        let _ = self.commands.send(Command::Leave).await;
        Ok(self.task.await?)
    }

    async fn alive(&self) -> Result<Vec<usize>> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Members(reply)).await;
        Ok(answer.await?)
    }
}

/// The task of a node.
struct Driver {
    spot: Spot,
    board: Arc<Board>,
    foca: Foca<Id, PostcardCodec, StdRng, Values>,
    outputs: AccumulatingRuntime<Id>,
    timers: BinaryHeap<Reverse<(Instant, Timer<Id>)>>,
    socket: UdpSocket,
    buffer: Vec<u8>,
    commands: mpsc::Receiver<Command>,
}

impl Driver {
    async fn run(mut self, seed: Option<Spot>) {
        if let Some(seed) = seed {
            let _ = self
                .foca
                .announce(Id::new(seed.address()), &mut self.outputs);
            self.drain().await;
        }
        loop {
            let due = self.timers.peek().map(|Reverse((at, _))| *at);
            // Errors are foca's way to say that it ignores an input.
            tokio::select! {
                received = self.socket.recv_from(&mut self.buffer) => {
                    // An error is a report that something sent before was refused.
                    if let Ok((length, _)) = received {
                        let _ = self.foca.handle_data(&self.buffer[..length], &mut self.outputs);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.fire_timers();
                }
                command = self.commands.recv() => match command {
                    Some(Command::Update(broadcast)) => {
                        let _ = self.foca.add_broadcast(&broadcast);
                    }
                    Some(Command::Members(reply)) => {
                        let members = self.foca.iter_members();
                        let spots = members.filter_map(|member| Spot::at(member.id().address));
                        let _ = reply.send(spots.map(|spot| spot.0).collect());
                    }
                    Some(Command::Leave) | None => {
                        let _ = self.foca.leave_cluster(&mut self.outputs);
                        self.drain().await;
                        return;
                    }
                },
            }
            self.drain().await;
        }
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while self
            .timers
            .peek()
            .is_some_and(|Reverse((at, _))| *at <= now)
        {
            if let Some(Reverse((_, timer))) = self.timers.pop() {
                let _ = self.foca.handle_timer(timer, &mut self.outputs);
            }
        }
    }

    async fn drain(&mut self) {
        while let Some((to, data)) = self.outputs.to_send() {
            let _ = self.socket.send_to(&data, to.address).await;
        }
        let now = Instant::now();
        while let Some((delay, timer)) = self.outputs.to_schedule() {
            self.timers.push(Reverse((now + delay, timer)));
        }
        while let Some(notification) = self.outputs.to_notify() {
            match notification {
                OwnedNotification::MemberUp(id) => self.report(&id, Board::up),
                OwnedNotification::MemberDown(id) => self.report(&id, Board::down),
                // The same node under a new identity, no change of who is there.
                OwnedNotification::Rename(..)
                | OwnedNotification::Active
                | OwnedNotification::Idle
                | OwnedNotification::Defunct
                | OwnedNotification::Rejoin(_) => {}
            }
        }
    }

    fn report(&self, id: &Id, how: impl Fn(&Board, usize, usize)) {
        if let Some(subject) = Spot::at(id.address) {
            how(&self.board, self.spot.0, subject.0);
        }
    }
}

/// An identity that renews itself, so that a node that was declared down comes back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Id {
    address: SocketAddr,
    renewed: u16,
}

impl Id {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            renewed: 0,
        }
    }
}

impl Identity for Id {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            address: self.address,
            renewed: self.renewed.wrapping_add(1),
        })
    }

    fn addr(&self) -> SocketAddr {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.renewed > adversary.renewed
    }
}

/// The values a node has heard of.
struct Values {
    observer: Spot,
    board: Arc<Board>,
    newest: HashMap<usize, u64>,
}

struct Key {
    subject: usize,
    value: u64,
}

impl Invalidates for Key {
    fn invalidates(&self, other: &Self) -> bool {
        self.subject == other.subject && self.value > other.value
    }
}

impl BroadcastHandler<Id> for Values {
    type Key = Key;
    type Error = Infallible;

    fn receive_item(&mut self, data: &[u8], _: Option<&Id>) -> Result<Option<Key>, Infallible> {
        let Some((subject, value)) = decode(data) else {
            return Ok(None);
        };
        let newest = self.newest.entry(subject).or_insert(0);
        if *newest >= value {
            return Ok(None);
        }
        *newest = value;
        self.board.value(self.observer.0, subject, value);
        Ok(Some(Key { subject, value }))
    }
}

fn encode(subject: Spot, value: u64) -> Vec<u8> {
    [subject.0 as u64, value]
        .iter()
        .flat_map(|number| number.to_be_bytes())
        .collect()
}

fn decode(data: &[u8]) -> Option<(usize, u64)> {
    let (subject, value) = data.split_first_chunk()?;
    let value = value.first_chunk()?;
    let subject = usize::try_from(u64::from_be_bytes(*subject)).ok()?;
    Some((subject, u64::from_be_bytes(*value)))
}
