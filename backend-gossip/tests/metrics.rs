//! What members report through the `metrics` facade, heard by a recorder of this thread's.

#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tidings_api::{Discovery, DiscoveryExt, Instance};
use tidings_gossip::{GossipConfig, GossipDiscovery, SealKey};
use tokio::net::UdpSocket;
use tokio::time::sleep;

/// What was reported so far: counters and gauges by name and labels, and how many samples there were.
#[derive(Default)]
struct Heard {
    values: BTreeMap<String, f64>,
    samples: Vec<f64>,
    /// Name, kind and unit.
    described: BTreeSet<(String, &'static str, String)>,
}

impl Heard {
    fn hear(&mut self, snapshotter: &Snapshotter) {
        for (key, unit, _, value) in snapshotter.snapshot().into_vec() {
            let kind = match key.kind() {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
                MetricKind::Histogram => "histogram",
            };
            let name = key.key().name().to_owned();
            let unit = unit.map_or("", |unit| unit.as_str()).to_owned();
            self.described.insert((name.clone(), kind, unit));
            let labels = key.key().labels().filter(|label| label.key() != "cluster");
            let labels: Vec<_> = labels.map(|label| label.value().to_owned()).collect();
            let name = format!("{name} {}", labels.join(" "));
            match value {
                DebugValue::Counter(count) => {
                    self.values.insert(name, count as f64);
                }
                DebugValue::Gauge(value) => {
                    self.values.insert(name, value.into_inner());
                }
                DebugValue::Histogram(samples) => {
                    self.samples
                        .extend(samples.iter().map(|sample| sample.into_inner()));
                }
            }
        }
    }

    fn value(&self, name: &str) -> f64 {
        let name = format!("tidings_gossip_{name}");
        self.values.get(&name).copied().unwrap_or(-1.0)
    }
}

async fn member(name: &str, join: &[&GossipDiscovery]) -> GossipDiscovery {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.name = Some(name.to_owned());
    config.join = join
        .iter()
        .map(|seed| seed.local_addr().to_string())
        .collect();
    config.probe_interval = Duration::from_millis(100);
    config.probe_timeout = Duration::from_millis(50);
    config.keys = vec![SealKey::from_bytes(std::array::from_fn(|at| at as u8)).unwrap()];
    GossipDiscovery::start(config).await.unwrap()
}

#[tokio::test]
async fn what_happens_is_reported_under_the_names_that_are_documented() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);

    let first = member("first", &[]).await;
    let second = member("second", &[&first]).await;
    let third = member("third", &[&first]).await;
    let web = Instance::new("web", "10.0.0.7:80").unwrap();
    second.register(web).await.unwrap();
    let _watch = first.wait_for("web", 1).await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket
        .send_to(b"not sealed", first.local_addr())
        .await
        .unwrap();
    third.faults().crash().await;

    let mut heard = Heard::default();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        heard.hear(&snapshotter);
        let seen = heard.value("members first dead") == 1.0
            && heard.value("members first alive") == 2.0
            && heard.value("probes_total second") >= 3.0
            && heard.value("rejected_frames_total first unsealed") == 1.0
            && heard.value("opened_frames_total first") >= 3.0
            && heard.value("sealed_frames_total second") >= 3.0
            && heard.value("syncs_total second") >= 1.0
            && heard.value("sync_bytes_total first") >= 50.0
            && heard.value("views_published_total first") >= 1.0
            && heard.value("links_open first") >= 1.0
            && heard.samples.len() >= 3;
        if seen {
            break;
        }
        assert!(Instant::now() < deadline, "{:#?}", heard.values);
        sleep(Duration::from_millis(20)).await;
    }
    assert!(
        heard
            .samples
            .iter()
            .all(|seconds| (0.0..0.05).contains(seconds)),
        "not seconds"
    );
    let (sent, sync) = (
        heard.value("sent_bytes_total first"),
        heard.value("sync_bytes_total first"),
    );
    assert!(sync < sent, "{sync} of {sent}");
    assert_eq!(heard.value("rejected_frames_total second unsealed"), 0.0);

    assert_eq!(heard.described, documented());
}

/// Name, kind and unit of each row of the table.
fn documented() -> BTreeSet<(String, &'static str, String)> {
    let page = include_str!("../../docs/metrics.md");
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `tidings_gossip_"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let name = format!("tidings_gossip_{}", cells[0].trim_end_matches('`'));
        let kind = ["counter", "gauge", "histogram"];
        let kind = kind.into_iter().find(|kind| *kind == cells[1]).unwrap();
        let unit = match cells[2] {
            "" => "count",
            unit => unit,
        };
        (name, kind, unit.to_owned())
    })
    .collect()
}
