//! This repository's gossip backend, with its default configuration.
//!
//! A node registers one instance, whose metadata is the value, and watches all of them. What it
//! sees is what that watch shows: an application's view, not the protocol's.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use tidings_api::{Change, Discovery, DiscoveryExt, Instance, Watch};
use tidings_gossip::{GossipConfig, GossipDiscovery, SealMode};

use crate::board::Board;
use crate::peer::{Node, Peer, Spot};

const SERVICE: &str = "peers";
const VALUE: &str = "value";

#[derive(Debug)]
pub(crate) struct Tidings;

#[async_trait]
impl Peer for Tidings {
    async fn start(
        &self,
        spot: Spot,
        seed: Option<Spot>,
        board: Arc<Board>,
    ) -> Result<Box<dyn Node>> {
        let mut config = GossipConfig::default();
        config.bind = spot.address();
        config.seal = Some(SealMode::Off);
        config.name = Some(spot.name());
        config.join = seed.iter().map(|seed| seed.address().to_string()).collect();
        let member = GossipDiscovery::start(config).await?;
        member.register(instance(spot, 0)?).await?;
        let watch = member.watch_service(SERVICE).await?;
        tokio::spawn(report(spot, watch, board));
        Ok(Box::new(TidingsNode { spot, member }))
    }
}

fn instance(spot: Spot, value: u64) -> Result<Instance> {
    let instance = Instance::new(SERVICE, spot.address().to_string())?;
    Ok(instance
        .with_id(spot.name())?
        .with_metadata(VALUE, value.to_string())?)
}

/// Ends with the member, whose watches end then.
async fn report(spot: Spot, watch: Watch, board: Arc<Board>) {
    let mut watch = watch;
    let mut before: Option<tidings_api::View> = None;
    while let Ok(view) = watch.changed().await {
        let changes = match &before {
            Some(before) => view.since(before),
            None => view.iter().cloned().map(Change::Added).collect(),
        };
        for change in changes {
            let Some(Spot(subject)) = Spot::named(change.key().id().as_str()) else {
                continue;
            };
            match &change {
                Change::Added(_) => board.up(spot.0, subject),
                Change::Removed(_) => board.down(spot.0, subject),
                _ => {}
            }
            if let Some(value) = value_of(change.instance()) {
                board.value(spot.0, subject, value);
            }
        }
        before = Some(view);
    }
}

fn value_of(instance: &Instance) -> Option<u64> {
    instance.metadata().get(VALUE)?.parse().ok()
}

#[derive(Debug)]
struct TidingsNode {
    spot: Spot,
    member: GossipDiscovery,
}

#[async_trait]
impl Node for TidingsNode {
    async fn update(&self, value: u64) -> Result<()> {
        self.member.register(instance(self.spot, value)?).await?;
        Ok(())
    }

    async fn kill(self: Box<Self>) {
        self.member.faults().crash().await;
    }

    async fn leave(self: Box<Self>) -> Result<()> {
        Ok(self.member.close().await?)
    }

    async fn alive(&self) -> Result<Vec<usize>> {
        let view = self.member.resolve(SERVICE).await?;
        let spots = view
            .iter()
            .filter_map(|instance| Spot::named(instance.id().as_str()));
        Ok(spots.map(|spot| spot.0).collect())
    }

    async fn deaths(&self) -> Option<u64> {
        Some(self.member.stats().await.ok()?.engine.deaths)
    }
}
