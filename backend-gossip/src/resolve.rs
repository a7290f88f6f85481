//! From the seeds' names to their addresses, over and over.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidings_api::{Address, Host};
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

/// How long one name may take: a resolver that asks its second server after 5 s still gets there.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);
/// How long the seeds that have resolved wait for the others, to be told in one and in the order
/// configured.
const PATIENCE: Duration = Duration::from_millis(300);
/// Pauses between tries while no name resolves: doubled each time, jittered by up to a quarter.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// What a round of resolving has come to, at its end or so far.
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
    /// The round: a lookup for each seed.
    lookups: JoinSet<(usize, Found)>,
    /// What came of those that have ended, by seed.
    found: BTreeMap<usize, Found>,
    /// When what there is will be told although lookups are under way.
    patience: Option<Instant>,
    failed_rounds: u32,
    /// The seeds that the last round found no address for, so that each is warned of once.
    failing: Vec<Address>,
    problem: Option<Arc<str>>,
}

/// The addresses of a seed, or why there are none.
type Found = Result<Vec<SocketAddr>, String>;

impl Seeds {
    pub(crate) fn new(seeds: Vec<Address>) -> Self {
        Self {
            seeds: seeds.into(),
            lookups: JoinSet::new(),
            found: BTreeMap::new(),
            patience: None,
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

    /// Waits for the round's end, or for what it has found when some names take long; for ever while
    /// there is none. Cancel-safe.
    pub(crate) async fn resolved(&mut self) -> Resolution {
        loop {
            let is_late = self.patience.filter(|_| self.has_found());
            let late = sleep_until(is_late.unwrap_or_else(Instant::now));
            tokio::select! {
                Some(ended) = self.lookups.join_next() => {
                    // A lookup that panics is one that found nothing: the end of the round says so.
                    self.found.extend(ended.ok());
                    if self.lookups.is_empty() {
                        return self.finish();
                    }
                }
                () = late, if is_late.is_some() => {
                    self.patience = None;
                    return self.so_far();
                }
                else => return std::future::pending().await,
            }
        }
    }

    /// Why no seed has an address, if that is so.
    pub(crate) fn problem(&self) -> Option<&Arc<str>> {
        self.problem.as_ref()
    }

    fn resolve_after(&mut self, pause: Duration) {
        if !self.lookups.is_empty() {
            return;
        }
        self.patience = Some(Instant::now() + pause + PATIENCE);
        for (at, seed) in self.seeds.iter().cloned().enumerate() {
            self.lookups.spawn(async move {
                sleep(pause).await;
                (at, lookup(&seed).await.map_err(|error| error.to_string()))
            });
        }
    }

    fn has_found(&self) -> bool {
        self.found.values().any(Result::is_ok)
    }

    fn so_far(&self) -> Resolution {
        let mut resolution = Resolution::default();
        for (at, found) in &self.found {
            match found {
                Ok(addresses) => resolution.add(addresses),
                Err(reason) => {
                    let failed = (self.seeds[*at].clone(), reason.clone());
                    resolution.failures.push(failed);
                }
            }
        }
        resolution
    }

    /// Notes what came of a round. One without any address is followed by the next after a pause.
    fn finish(&mut self) -> Resolution {
        for at in 0..self.seeds.len() {
            let lost = || Err("its lookup ended without a word".to_owned());
            self.found.entry(at).or_insert_with(lost);
        }
        let resolution = self.so_far();
        self.found.clear();
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
    fn add(&mut self, addresses: &[SocketAddr]) {
        for address in addresses {
            if !self.addresses.contains(address) {
                self.addresses.push(*address);
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

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Refused by resolvers without asking anybody, for its leading hyphen.
    const NOWHERE: &str = "-nowhere.invalid:7946";

    fn seeds(texts: &[&str]) -> Seeds {
        Seeds::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    async fn resolved(seeds: &mut Seeds) -> Vec<String> {
        let resolution = timeout(Duration::from_secs(30), seeds.resolved()).await;
        let addresses = resolution.expect("it takes too long").addresses;
        addresses.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn addresses_come_in_the_order_of_the_seeds_and_once() {
        let mut seeds = seeds(&["127.0.0.9:1", "[::1]:2", "127.0.0.1:3", "127.0.0.9:1"]);
        seeds.resolve();
        let expected = ["127.0.0.9:1", "[::1]:2", "127.0.0.1:3"];
        assert_eq!(resolved(&mut seeds).await, expected);
        assert_eq!(seeds.problem(), None);
    }

    #[tokio::test]
    async fn while_no_seed_resolves_it_is_tried_again_and_said_why() {
        let mut seeds = seeds(&[NOWHERE]);
        seeds.resolve();
        for _ in 0..2 {
            assert!(resolved(&mut seeds).await.is_empty());
            let problem = seeds.problem().expect("no problem").to_string();
            let start = "seed -nowhere.invalid:7946 can't be resolved: ";
            assert!(problem.starts_with(start), "{problem}");
        }
    }

    #[tokio::test]
    async fn one_seed_that_resolves_is_enough() {
        let mut seeds = seeds(&[NOWHERE, "127.0.0.1:3"]);
        seeds.resolve();
        seeds.resolve();
        assert_eq!(resolved(&mut seeds).await, ["127.0.0.1:3"]);
        assert_eq!(seeds.problem(), None);
        let next = timeout(Duration::from_millis(20), seeds.resolved()).await;
        assert!(next.is_err(), "a second round without being asked for");
    }

    #[tokio::test]
    async fn a_name_that_takes_long_holds_up_nobody() {
        let mut seeds = seeds(&["127.0.0.1:3", "slow.internal:4"]);
        seeds.lookups.spawn(std::future::pending());
        seeds.lookups.spawn(async {
            (
                0,
                lookup(&"127.0.0.1:3".parse().unwrap())
                    .await
                    .map_err(|_| String::new()),
            )
        });
        seeds.patience = Some(Instant::now() + PATIENCE);
        assert_eq!(resolved(&mut seeds).await, ["127.0.0.1:3"]);
        let told_again = timeout(PATIENCE, seeds.resolved()).await;
        assert!(told_again.is_err(), "the same once more");
    }

    #[test]
    fn pauses_double_up_to_their_limit() {
        for failed in 0..100 {
            let pause = retry_pause(failed);
            let doubled = RETRY_FIRST * 2_u32.pow(failed.min(10));
            let middle = doubled.min(RETRY_LAST);
            assert!(pause >= middle.mul_f64(0.75) && pause <= middle.mul_f64(1.25));
        }
    }
}
