//! al8n's Rust port of HashiCorp's memberlist, with the profile for local networks.
//!
//! The value is the node's metadata.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, iter};

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use bytes::Bytes;
use memberlist::Options;
use memberlist::delegate::{
    AliveDelegate, ConflictDelegate, Delegate, EventDelegate, MergeDelegate, NodeDelegate,
    PingDelegate, VoidDelegateError,
};
use memberlist::net::NetTransportOptions;
use memberlist::proto::{MaybeResolvedAddress, Meta, NodeState};
use memberlist::tokio::{TokioSocketAddrResolver, TokioTcp, TokioTcpMemberlist};
use smol_str::SmolStr;

use crate::board::Board;
use crate::peer::{Node, Peer, Spot};

/// For leaves and updates to leave the queue; not a part of what is measured.
const PATIENCE: Duration = Duration::from_secs(10);

type Address = std::net::SocketAddr;
type Memberlist = TokioTcpMemberlist<SmolStr, TokioSocketAddrResolver, Reporter>;

#[derive(Debug)]
pub(crate) struct MemberlistPeer;

#[async_trait]
impl Peer for MemberlistPeer {
    async fn start(
        &self,
        spot: Spot,
        seed: Option<Spot>,
        board: Arc<Board>,
    ) -> Result<Box<dyn Node>> {
        let mut transport =
            NetTransportOptions::<_, TokioSocketAddrResolver, TokioTcp>::new(spot.name().into());
        transport.add_bind_address(spot.address());
        let value = Arc::new(AtomicU64::new(0));
        let reporter = Reporter {
            spot,
            board,
            value: value.clone(),
        };
        let list = Memberlist::with_delegate(reporter, transport, Options::lan())
            .await
            .map_err(message)?;
        if let Some(seed) = seed {
            let seed = MaybeResolvedAddress::resolved(seed.address());
            list.join(seed).await.map_err(message)?;
        }
        Ok(Box::new(MemberlistNode { list, value }))
    }
}

struct MemberlistNode {
    list: Memberlist,
    value: Arc<AtomicU64>,
}

#[async_trait]
impl Node for MemberlistNode {
    async fn update(&self, value: u64) -> Result<()> {
        self.value.store(value, Ordering::Release);
        self.list.update_node(PATIENCE).await.map_err(message)
    }

    async fn kill(self: Box<Self>) {
        let _ = self.list.shutdown().await;
    }

    async fn leave(self: Box<Self>) -> Result<()> {
        let left = self.list.leave(PATIENCE).await.map_err(message);
        self.list.shutdown().await.map_err(message)?;
        left.map(drop)
    }

    async fn alive(&self) -> Result<Vec<usize>> {
        let members = self.list.online_members().await;
        let spots = members.iter().filter_map(|member| Spot::named(member.id()));
        Ok(spots.map(|spot| spot.0).collect())
    }
}

/// Tells the board what the node hears, and the node its own value.
struct Reporter {
    spot: Spot,
    board: Arc<Board>,
    value: Arc<AtomicU64>,
}

impl Reporter {
    fn report(&self, node: &NodeState<SmolStr, Address>, how: impl Fn(&Board, usize, usize)) {
        if let Some(subject) = Spot::named(node.id()) {
            how(&self.board, self.spot.0, subject.0);
        }
    }

    fn report_value(&self, node: &NodeState<SmolStr, Address>) {
        let text = std::str::from_utf8(node.meta().as_bytes());
        if let (Some(subject), Some(value)) = (
            Spot::named(node.id()),
            text.ok().and_then(|text| text.parse().ok()),
        ) {
            self.board.value(self.spot.0, subject.0, value);
        }
    }
}

impl EventDelegate for Reporter {
    type Id = SmolStr;
    type Address = Address;

    async fn notify_join(&self, node: Arc<NodeState<SmolStr, Address>>) {
        self.report(&node, Board::up);
        self.report_value(&node);
    }

    async fn notify_leave(&self, node: Arc<NodeState<SmolStr, Address>>) {
        self.report(&node, Board::down);
    }

    async fn notify_update(&self, node: Arc<NodeState<SmolStr, Address>>) {
        self.report_value(&node);
    }
}

impl NodeDelegate for Reporter {
    async fn node_meta(&self, _limit: usize) -> Meta {
        let value = self.value.load(Ordering::Acquire).to_string();
        Meta::try_from(value.as_str()).unwrap_or_default()
    }

    async fn notify_message(&self, _message: Cow<'_, [u8]>) {}

    async fn broadcast_messages<F>(
        &self,
        _limit: usize,
        _encoded_len: F,
    ) -> impl Iterator<Item = Bytes> + Send
    where
        F: Fn(Bytes) -> (usize, Bytes) + Send + Sync + 'static,
    {
        iter::empty()
    }
}

impl PingDelegate for Reporter {
    type Id = SmolStr;
    type Address = Address;

    async fn ack_payload(&self) -> Bytes {
        Bytes::new()
    }

    async fn notify_ping_complete(
        &self,
        _node: Arc<NodeState<SmolStr, Address>>,
        _round_trip: Duration,
        _payload: Bytes,
    ) {
    }

    fn disable_reliable_pings(&self, _target: &SmolStr) -> bool {
        false
    }
}

impl AliveDelegate for Reporter {
    type Error = VoidDelegateError;
    type Id = SmolStr;
    type Address = Address;

    async fn notify_alive(
        &self,
        _peer: Arc<NodeState<SmolStr, Address>>,
    ) -> Result<(), VoidDelegateError> {
        Ok(())
    }
}

impl ConflictDelegate for Reporter {
    type Id = SmolStr;
    type Address = Address;

    async fn notify_conflict(
        &self,
        _existing: Arc<NodeState<SmolStr, Address>>,
        _other: Arc<NodeState<SmolStr, Address>>,
    ) {
    }
}

impl MergeDelegate for Reporter {
    type Error = VoidDelegateError;
    type Id = SmolStr;
    type Address = Address;

    async fn notify_merge(
        &self,
        _peers: Arc<[NodeState<SmolStr, Address>]>,
    ) -> Result<(), VoidDelegateError> {
        Ok(())
    }
}

impl Delegate for Reporter {
    type Id = SmolStr;
    type Address = Address;
}

/// The library's errors can't be kept: they hold what isn't `Sync`.
fn message(error: impl fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}
