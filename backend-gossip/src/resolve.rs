//! From the seeds' names to their addresses, over and over.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidings_api::{Address, Host};
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// How long one name may take: a resolver that asks its second server after 5 s still gets there.
/// A name that takes longer doesn't hold up the others.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);
/// Pauses between tries while no name resolves: doubled each time, jittered by up to a quarter.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// What one round of resolving came to.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    /// All addresses of all seeds that resolved, each once, in the order configured.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The seeds that did not, and why.
    failures: Vec<(Address, String)>,
}

/// The seeds, and at most one round of resolving them at a time.
#[derive(Debug)]
pub(crate) struct Seeds {
    seeds: Arc<[Address]>,
    round: JoinSet<Resolution>,
    failed_rounds: u32,
    /// The seeds that the last round found no address for, so that each is warned of once.
    failing: Vec<Address>,
    problem: Option<Arc<str>>,
}

impl Seeds {
    pub(crate) fn new(seeds: Vec<Address>) -> Self {
        Self {
            seeds: seeds.into(),
            round: JoinSet::new(),
            failed_rounds: 0,
            failing: Vec::new(),
            problem: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.seeds.is_empty()
    }

    /// Starts a round, unless there is one, or there are no seeds.
    pub(crate) fn resolve(&mut self) {
        self.resolve_after(Duration::ZERO);
    }

    /// Waits for the round's end; for ever while there is none. Cancel-safe.
    pub(crate) async fn resolved(&mut self) -> Resolution {
        match self.round.join_next().await {
            Some(Ok(resolution)) => self.finish(resolution),
            Some(Err(error)) => self.finish(Resolution::failed(&self.seeds, &error)),
            None => std::future::pending().await,
        }
    }

    /// Why no seed has an address, if that is so.
    pub(crate) fn problem(&self) -> Option<&Arc<str>> {
        self.problem.as_ref()
    }

    fn resolve_after(&mut self, pause: Duration) {
        if self.seeds.is_empty() || !self.round.is_empty() {
            return;
        }
        let seeds = self.seeds.clone();
        self.round.spawn(async move {
            sleep(pause).await;
            Resolution::of(&seeds).await
        });
    }

    /// Notes what came of a round. One without any address is followed by the next after a pause.
    fn finish(&mut self, resolution: Resolution) -> Resolution {
        for (seed, reason) in &resolution.failures {
            if self.failing.contains(seed) {
                debug!(%seed, reason, "seed still can't be resolved");
            } else {
                warn!(%seed, reason, "seed can't be resolved; trying for ever");
            }
        }
        self.failing = resolution
            .failures
            .iter()
            .map(|(seed, _)| seed.clone())
            .collect();
        let problem = resolution
            .failures
            .first()
            .map(|(seed, reason)| Arc::from(format!("seed {seed} can't be resolved: {reason}")));
        self.problem = problem.filter(|_| resolution.addresses.is_empty());
        if self.problem.is_some() {
            let pause = retry_pause(self.failed_rounds);
            self.failed_rounds = self.failed_rounds.saturating_add(1);
            self.resolve_after(pause);
        } else {
            self.failed_rounds = 0;
        }
        resolution
    }
}

impl Resolution {
    async fn of(seeds: &Arc<[Address]>) -> Self {
        let mut lookups = JoinSet::new();
        for (at, seed) in seeds.iter().cloned().enumerate() {
            lookups.spawn(async move { (at, lookup(&seed).await) });
        }
        let mut found = lookups.join_all().await;
        found.sort_by_key(|(at, _)| *at);
        let mut resolution = Self::default();
        for (at, found) in found {
            match found {
                Ok(addresses) => resolution.add(addresses),
                Err(error) => resolution
                    .failures
                    .push((seeds[at].clone(), error.to_string())),
            }
        }
        resolution
    }

    fn failed(seeds: &Arc<[Address]>, reason: &dyn fmt::Display) -> Self {
        let failed = |seed: &Address| (seed.clone(), reason.to_string());
        Self {
            addresses: Vec::new(),
            failures: seeds.iter().map(failed).collect(),
        }
    }

    fn add(&mut self, addresses: Vec<SocketAddr>) {
        for address in addresses {
            if !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
    }
}

async fn lookup(seed: &Address) -> io::Result<Vec<SocketAddr>> {
    let name = match seed.host() {
        Host::Ip(ip) => return Ok(vec![(*ip, seed.port()).into()]),
        Host::Name(name) => name,
    };
    let addresses = timeout(LOOKUP_TIMEOUT, lookup_host((&**name, seed.port()))).await??;
    Ok(addresses.collect())
}

fn retry_pause(failed_rounds: u32) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1_u32 << failed_rounds.min(16));
    doubled
        .min(RETRY_LAST)
        .mul_f64(0.75 + fastrand::f64() / 2.0)
}
