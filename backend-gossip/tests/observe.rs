//! What can be seen of a member from outside: the member table as it changes, and metrics.

#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tidings_api::{Discovery, DiscoveryExt, ErrorKind};
use tidings_gossip::{GossipConfig, GossipDiscovery, MemberState, MemberWatch};
use tokio::time::{sleep, timeout};

/// How long anything may take before the test fails; far above what it takes.
const LONG: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

#[tokio::test]
async fn every_change_of_a_member_is_told() {
    use MemberState::{Alive, Dead, Left, Suspect};
    let a = member("a", &[]).await;
    let mut watch = a.watch_members().await.unwrap();
    assert_eq!(next(&mut watch).await, [("a".to_owned(), None, Alive)]);

    let b = member("b", &[a.local_addr()]).await;
    assert_eq!(next(&mut watch).await, [("b".to_owned(), None, Alive)]);
    b.faults().crash().await;
    let mut told = Vec::new();
    while told.last() != Some(&Dead) {
        for (name, before, now) in next(&mut watch).await {
            assert_eq!(
                (name.as_str(), before),
                ("b", Some(*told.last().unwrap_or(&Alive)))
            );
            told.push(now);
        }
    }
    assert!(
        [&[Suspect, Dead][..], &[Dead]].contains(&&told[..]),
        "{told:?}"
    );

    // Under the same name it is a new start, whatever became of the last.
    let b = member("b", &[a.local_addr()]).await;
    assert_eq!(next(&mut watch).await, [("b".to_owned(), None, Alive)]);
    let table = watch.members();
    let info = table
        .iter()
        .find(|info| &*info.identity.name == "b")
        .unwrap();
    assert_eq!(info.identity, b.identity());
    b.close().await.unwrap();
    assert_eq!(
        next(&mut watch).await,
        [("b".to_owned(), Some(Alive), Left)]
    );

    // Who begins to look now is told everybody, once.
    let mut late = a.watch_members().await.unwrap();
    let everybody = [("a".to_owned(), None, Alive), ("b".to_owned(), None, Left)];
    let mut told = next(&mut late).await;
    told.sort();
    assert_eq!(told, everybody);
    a.close().await.unwrap();
    let ended = late.changes().await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn answers_of_members_are_timed() {
    let a = member("a", &[]).await;
    let b = member("b", &[a.local_addr()]).await;
    let timed = async || {
        let members = a.members().await.unwrap();
        let b = members.iter().find(|info| &*info.identity.name == "b");
        b.and_then(|b| b.round_trip)
    };
    until("b was pinged", async || timed().await.is_some()).await;
    assert!(timed().await.unwrap() < LONG);
    drop(b);
}

/// A recorder of one thread sees what the members on it record.
#[tokio::test(flavor = "current_thread")]
async fn metrics_say_what_happened_and_are_documented() {
    let recorder = DebuggingRecorder::new();
    let seen = recorder.snapshotter();
    let guard = metrics::set_default_local_recorder(&recorder);
    let a = member("a", &[]).await;
    let b = member("b", &[a.local_addr()]).await;
    let watch = a.watch_service("web").await.unwrap();
    b.register_at("web", "10.0.0.7:80").await.unwrap();
    let mut all = Metrics::default();
    until("the cluster shows", async || {
        all.take(&seen);
        all.of("a", "tidings_gossip_members/alive") == 2.0
            && all.of("a", "tidings_gossip_records") == 1.0
            && all.of("a", "tidings_gossip_round_trip_seconds") >= 1.0
            && all.of("a", "tidings_gossip_views_published_total") >= 2.0
            && all.of("a", "tidings_gossip_probes_total") >= 1.0
            && all.of("b", "tidings_gossip_syncs_total") >= 1.0
            && all.of("a", "tidings_gossip_sync_sent_bytes_total") >= 1.0
            && all.of("b", "tidings_gossip_links_opened_total") >= 1.0
    })
    .await;
    b.faults().crash().await;
    until("the crash shows", async || {
        all.take(&seen);
        all.of("a", "tidings_gossip_members/dead") == 1.0
            && all.of("a", "tidings_gossip_suspicions_total") >= 1.0
            && all.of("a", "tidings_gossip_deaths_total") >= 1.0
    })
    .await;
    assert!(watch.view().is_empty());

    let documentation = include_str!("../../docs/metrics.md");
    assert!(all.described.len() > 20, "{:?}", all.described);
    for (name, unit) in &all.described {
        let row = format!("| `{name}` | {unit} |");
        assert!(documentation.contains(&row), "docs/metrics.md lacks {row}");
    }
    let listed = documentation.matches("| `tidings_gossip_").count();
    assert_eq!(listed, all.described.len(), "docs/metrics.md lists others");
    drop(guard);
}

/// The newest values, by member and name, with state or reason behind a slash.
#[derive(Default)]
struct Metrics {
    values: BTreeMap<(String, String), f64>,
    /// Names with their units.
    described: BTreeMap<String, &'static str>,
}

impl Metrics {
    fn take(&mut self, seen: &Snapshotter) {
        for (key, unit, description, value) in seen.snapshot().into_vec() {
            let label = |name: &str| {
                let mut labels = key.key().labels();
                let found = labels.find(|label| label.key() == name);
                found.map(|label| label.value().to_owned())
            };
            assert_eq!(label("cluster").unwrap(), "tidings");
            assert!(description.is_some(), "{key:?} has no description");
            let unit = unit.unwrap().as_canonical_label();
            let unit = if unit.is_empty() { "count" } else { unit };
            self.described.insert(key.key().name().to_owned(), unit);
            let name = match label("state").or(label("reason")) {
                Some(state) => format!("{}/{state}", key.key().name()),
                None => key.key().name().to_owned(),
            };
            let value = match value {
                DebugValue::Counter(value) => value as f64,
                DebugValue::Gauge(value) => value.0,
                // How many there were; taken from the recorder, so they add up here.
                DebugValue::Histogram(values) => {
                    values.len() as f64 + self.of(&label("member").unwrap(), &name)
                }
            };
            self.values.insert((label("member").unwrap(), name), value);
        }
    }

    fn of(&self, member: &str, name: &str) -> f64 {
        let key = (member.to_owned(), name.to_owned());
        self.values.get(&key).copied().unwrap_or(0.0)
    }
}

async fn member(name: &str, join: &[SocketAddr]) -> GossipDiscovery {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.name = Some(name.to_owned());
    config.join = join.iter().map(ToString::to_string).collect();
    config.join_wait = LONG;
    config.probe_interval = Duration::from_millis(100);
    config.probe_timeout = Duration::from_millis(50);
    GossipDiscovery::start(config).await.unwrap()
}

/// The next changes: name, state before, state now.
async fn next(watch: &mut MemberWatch) -> Vec<(String, Option<MemberState>, MemberState)> {
    let changes = timeout(LONG, watch.changes()).await.unwrap().unwrap();
    let shown = changes.into_iter().map(|change| {
        let name = change.member.identity.name.to_string();
        (name, change.before, change.member.state)
    });
    shown.collect()
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(POLL).await;
    }
}
