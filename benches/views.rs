//! What a watch costs: reading its view, and publishing a change to many of them.
//!
//! `cargo bench --bench views`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tidings_api::{Feed, Freshness, Instance, Publisher, Selector, Subscription, Watch};

const INSTANCES: usize = 100;

fn instances() -> Vec<Arc<Instance>> {
    let instance = |at: usize| {
        let address = format!("10.0.0.{at}:8080");
        let instance = Instance::new("web", address).and_then(|i| i.with_id(format!("web-{at}")));
        Arc::new(instance.expect("within the limits"))
    };
    (1..=INSTANCES).map(instance).collect()
}

/// `count` watches of one service, and the feed behind them.
fn watches(count: usize) -> (Vec<Watch>, Feed) {
    let publisher = Publisher::new();
    let web = || Selector::Service("web".parse().expect("a name"));
    let Ok(Subscription::First(first, feed)) = publisher.watch(web()) else {
        unreachable!()
    };
    let joined = (1..count).map(|_| match publisher.watch(web()) {
        Ok(Subscription::Joined(watch)) => watch,
        Ok(Subscription::First(..)) | Err(_) => unreachable!(),
    });
    let watches = [first].into_iter().chain(joined).collect();
    feed.publish(instances(), Freshness::Live);
    (watches, feed)
}

fn read(c: &mut Criterion) {
    let (watches, _feed) = watches(1);
    c.bench_function("read a view", |b| {
        b.iter(|| black_box(watches[0].view().len()));
    });
    c.bench_function("pick a healthy instance", |b| {
        b.iter(|| black_box(watches[0].view().healthy().next()));
    });
}

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish a change of 1 in 100 instances");
    for count in [1, 1_000] {
        let (_watches, feed) = watches(count);
        let (one, mut other) = (instances(), instances());
        other[7] = Arc::new(Instance::clone(&one[7]).with_weight(2).expect("a weight"));
        let mut turn = false;
        group.bench_function(BenchmarkId::new("watches", count), |b| {
            b.iter(|| {
                turn = !turn;
                let next = if turn { &other } else { &one };
                feed.publish(next.clone(), Freshness::Live);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, read, publish);
criterion_main!(benches);
