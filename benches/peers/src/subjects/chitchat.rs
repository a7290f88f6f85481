//! chitchat, with the configuration of its own tests: the crate has no public default.
//!
//! The value is a key of the node's state. There is no polite leave: it ends like a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use chitchat::transport::UdpTransport;
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, ProtocolVersion,
    spawn_chitchat,
};
use tokio::sync::watch;

use crate::board::Board;
use crate::peer::{Node, Peer, Spot};

const VALUE: &str = "value";

#[derive(Debug)]
pub(crate) struct ChitchatPeer;

#[async_trait]
impl Peer for ChitchatPeer {
    async fn start(
        &self,
        spot: Spot,
        seed: Option<Spot>,
        board: Arc<Board>,
    ) -> Result<Box<dyn Node>> {
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(spot.name(), 0, spot.address()),
            cluster_id: "peers".to_owned(),
            gossip_interval: Duration::from_secs(1),
            listen_addr: spot.address(),
            seed_nodes: seed.iter().map(|seed| seed.address().to_string()).collect(),
            failure_detector_config: FailureDetectorConfig::default(),
            marked_for_deletion_grace_period: Duration::from_secs(15 * 60),
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V0,
        };
        let values = vec![(VALUE.to_owned(), "0".to_owned())];
        let handle = spawn_chitchat(config, values, &UdpTransport).await?;
        let for_values = board.clone();
        let live = handle
            .with_chitchat(|chitchat| {
                let board = for_values.clone();
                let listener = chitchat.subscribe_event(VALUE, move |event| {
                    let subject = Spot::named(&event.node.node_id);
                    if let (Some(subject), Ok(value)) = (subject, event.value.parse()) {
                        board.value(spot.0, subject.0, value);
                    }
                });
                listener.forever();
                chitchat.live_nodes_watcher()
            })
            .await;
        tokio::spawn(report_liveness(spot, live, board));
        Ok(Box::new(ChitchatNode { handle }))
    }
}

/// Ends with the node, whose side of the watch ends then.
async fn report_liveness(
    spot: Spot,
    mut live: watch::Receiver<BTreeMap<ChitchatId, NodeState>>,
    board: Arc<Board>,
) {
    let mut before = BTreeSet::new();
    loop {
        let now: BTreeSet<_> = spots(live.borrow_and_update().keys()).collect();
        for subject in now.difference(&before) {
            board.up(spot.0, *subject);
        }
        for subject in before.difference(&now) {
            board.down(spot.0, *subject);
        }
        before = now;
        if live.changed().await.is_err() {
            return;
        }
    }
}

fn spots<'a>(ids: impl Iterator<Item = &'a ChitchatId>) -> impl Iterator<Item = usize> {
    ids.filter_map(|id| Some(Spot::named(&id.node_id)?.0))
}

struct ChitchatNode {
    handle: ChitchatHandle,
}

#[async_trait]
impl Node for ChitchatNode {
    async fn update(&self, value: u64) -> Result<()> {
        let set = |chitchat: &mut chitchat::Chitchat| chitchat.self_node_state().set(VALUE, value);
        self.handle.with_chitchat(set).await;
        Ok(())
    }

    async fn kill(self: Box<Self>) {
        self.handle.abort();
        let _ = self.handle.shutdown().await;
    }

    async fn leave(self: Box<Self>) -> Result<()> {
        self.handle.shutdown().await
    }

    async fn alive(&self) -> Result<Vec<usize>> {
        let list = |chitchat: &mut chitchat::Chitchat| spots(chitchat.live_nodes()).collect();
        Ok(self.handle.with_chitchat(list).await)
    }
}
