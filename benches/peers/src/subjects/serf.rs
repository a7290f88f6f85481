//! al8n's Rust port of HashiCorp's serf, with its default options.
//!
//! The value is a tag of the node.

use std::fmt;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use serf::event::{Event, EventProducer, EventSubscriber, MemberEventType};
use serf::net::NetTransportOptions;
use serf::tokio::{TokioSocketAddrResolver, TokioTcp, TokioTcpSerf};
use serf::types::{MaybeResolvedAddress, Member, MemberStatus, Tags};
use serf::{DefaultDelegate, Options};
use smol_str::SmolStr;

use crate::board::Board;
use crate::peer::{Node, Peer, Spot};

const VALUE: &str = "value";

type Address = std::net::SocketAddr;
type Transport = serf::tokio::TokioNetTransport<SmolStr, TokioSocketAddrResolver, TokioTcp>;
type Serf = TokioTcpSerf<SmolStr, TokioSocketAddrResolver, DefaultDelegate<Transport>>;

#[derive(Debug)]
pub(crate) struct SerfPeer;

#[async_trait]
impl Peer for SerfPeer {
    async fn start(
        &self,
        spot: Spot,
        seed: Option<Spot>,
        board: Arc<Board>,
    ) -> Result<Box<dyn Node>> {
        let mut transport =
            NetTransportOptions::<_, TokioSocketAddrResolver, TokioTcp>::new(spot.name().into());
        transport.add_bind_address(spot.address());
        let options = Options::new().with_tags([(VALUE, "0")].into_iter());
        let (producer, events) = EventProducer::unbounded();
        let serf = Serf::with_event_producer(transport, options, producer)
            .await
            .map_err(message)?;
        tokio::spawn(report(spot, events, board));
        if let Some(seed) = seed {
            let seed = MaybeResolvedAddress::resolved(seed.address());
            serf.join(seed, false).await.map_err(message)?;
        }
        Ok(Box::new(SerfNode { serf }))
    }
}

/// Ends with the node, whose side of the channel ends then.
async fn report(
    spot: Spot,
    events: EventSubscriber<Transport, DefaultDelegate<Transport>>,
    board: Arc<Board>,
) {
    while let Ok(event) = events.recv().await {
        let Event::Member(event) = event else {
            continue;
        };
        for member in event.members() {
            let Some(Spot(subject)) = Spot::named(member.node().id()) else {
                continue;
            };
            match event.ty() {
                MemberEventType::Join => board.up(spot.0, subject),
                MemberEventType::Update => {}
                MemberEventType::Leave | MemberEventType::Failed | MemberEventType::Reap => {
                    board.down(spot.0, subject);
                    continue;
                }
            }
            if let Some(value) = value_of(member) {
                board.value(spot.0, subject, value);
            }
        }
    }
}

fn value_of(member: &Member<SmolStr, Address>) -> Option<u64> {
    member.tags().get(VALUE)?.parse().ok()
}

struct SerfNode {
    serf: Serf,
}

#[async_trait]
impl Node for SerfNode {
    async fn update(&self, value: u64) -> Result<()> {
        let tags: Tags = [(VALUE, value.to_string())].into_iter().collect();
        self.serf.set_tags(tags).await.map_err(message)
    }

    async fn kill(self: Box<Self>) {
        let _ = self.serf.shutdown().await;
    }

    async fn leave(self: Box<Self>) -> Result<()> {
        let left = self.serf.leave().await.map_err(message);
        self.serf.shutdown().await.map_err(message)?;
        left
    }

    async fn alive(&self) -> Result<Vec<usize>> {
        let members = self.serf.members().await;
        let alive = members
            .iter()
            .filter(|member| *member.status() == MemberStatus::Alive);
        let spots = alive.filter_map(|member| Spot::named(member.node().id()));
        Ok(spots.map(|spot| spot.0).collect())
    }
}

/// The library's errors can't be kept: they hold what isn't `Sync`.
fn message(error: impl fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}
