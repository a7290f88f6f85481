//! The gauges that a migration sets, as a recorder of its own sees them.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use tidings_api::{Discovery, Health, Instance, MemoryRegistry};
use tidings_migration::{Migration, Phase};

/// Remembers the last value of each gauge, by its name and its labels' values.
#[derive(Clone, Debug, Default)]
struct Gauges {
    values: Arc<Mutex<BTreeMap<String, f64>>>,
    units: Arc<Mutex<BTreeMap<String, Unit>>>,
}

struct One {
    name: String,
    gauges: Gauges,
}

impl GaugeFn for One {
    fn increment(&self, _: f64) {
        unreachable!("they are set")
    }
    fn decrement(&self, _: f64) {
        unreachable!("they are set")
    }
    fn set(&self, value: f64) {
        let mut values = self.gauges.values.lock().unwrap();
        values.insert(self.name.clone(), value);
    }
}

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        let mut units = self.units.lock().unwrap();
        units.insert(name.as_str().to_owned(), unit.unwrap());
    }
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let labels: Vec<_> = key.labels().map(|label| label.value()).collect();
        let name = format!("{} {}", key.name(), labels.join(" "));
        let gauges = self.clone();
        Gauge::from_arc(Arc::new(One { name, gauges }))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

impl Gauges {
    async fn reach(&self, expected: &[(&str, f64)]) {
        let is_reached = || {
            let values = self.values.lock().unwrap();
            expected.iter().all(|(name, value)| {
                values.get(&format!("tidings_migration_{name}")) == Some(value)
            })
        };
        let reached = async {
            while !is_reached() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(30), reached).await;
        assert!(
            reached.is_ok(),
            "not {expected:?}: {:?}",
            self.values.lock()
        );
    }
}

fn web(id: &str) -> Instance {
    let instance = Instance::new("web", "10.0.0.1:80").unwrap();
    instance.with_id(id).unwrap()
}

// On one thread, whose recorder it is.
#[tokio::test]
async fn what_the_report_says_is_there_as_metrics() {
    let gauges = Gauges::default();
    let _here = metrics::set_default_local_recorder(&gauges);
    let (old, new) = (MemoryRegistry::default(), MemoryRegistry::default());
    let [on_old, on_new, both_old, both_new]: [Arc<dyn Discovery>; 4] = [
        Arc::new(old.connect()),
        Arc::new(new.connect()),
        Arc::new(old.connect()),
        Arc::new(new.connect()),
    ];
    let builder = Migration::builder(both_old, both_new).phase(Phase::BothReadMerged);
    let process = builder.start().await.unwrap();
    process.register(web("both")).await.unwrap();
    for id in ["missing-1", "missing-2", "different"] {
        on_old.register(web(id)).await.unwrap();
    }
    let ill = web("different").with_health(Health::critical("ill"));
    for instance in [web("extra"), ill] {
        on_new.register(instance).await.unwrap();
    }
    gauges
        .reach(&[
            ("matching web", 1.0),
            ("missing web", 2.0),
            ("extra web", 1.0),
            ("different web", 1.0),
            ("complete_seconds web new", 0.0),
            ("participants both-read-merged", 1.0),
            ("participants new", 0.0),
        ])
        .await;
    let expected = process.report().services[web("any").service()].clone();
    assert_eq!((expected.matching, expected.differences.len()), (1, 4));

    for (discovery, ids) in [
        (&on_old, ["missing-1", "missing-2", "different"].as_slice()),
        (&on_new, &["extra", "different"]),
    ] {
        for id in ids {
            discovery.deregister(web(id).key()).await.unwrap();
        }
    }
    gauges
        .reach(&[
            ("matching web", 1.0),
            ("missing web", 0.0),
            ("extra web", 0.0),
            ("different web", 0.0),
        ])
        .await;
    let complete = || gauges.values.lock().unwrap()["tidings_migration_complete_seconds web new"];
    let is_complete = async {
        while complete() < 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), is_complete)
        .await
        .unwrap();
    // Nothing stays that isn't there any more.
    process.deregister(web("both").key()).await.unwrap();
    gauges
        .reach(&[("matching web", 0.0), ("complete_seconds web new", 0.0)])
        .await;

    let units = gauges.units.lock().unwrap().clone();
    assert_eq!(units["tidings_migration_complete_seconds"], Unit::Seconds);
    assert_eq!(units.len(), 6);
}
