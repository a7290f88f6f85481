//! One process: it offers an instance in one backend, or bridges two, until its input ends.

use std::time::Duration;

use tidings::moving::BridgeState;
use tidings::{Bridge, BridgeOptions, DiscoveryExt, Health, Instance};
use tokio::io::{AsyncBufReadExt, BufReader};

pub(crate) fn run() {
    let Ok(from) = std::env::var("BRIDGE_TEST_FROM") else {
        return;
    };
    let name = std::env::var("BRIDGE_TEST_NAME").unwrap();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        match std::env::var("BRIDGE_TEST_TO") {
            Ok(to) => bridge(&from, &to, &name).await,
            Err(_) => offer(&from, &name).await,
        }
    });
}

/// Offers `ID:PORT`, and says how it is now and then.
async fn offer(url: &str, name: &str) {
    let discovery = tidings::connect(url).await.unwrap();
    let (id, port) = name.split_once(':').unwrap();
    let instance = Instance::new("web", format!("127.0.0.1:{port}")).unwrap();
    let key = discovery
        .register(instance.with_id(id).unwrap())
        .await
        .unwrap();
    say("ready");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    for number in 1_u64.. {
        tokio::select! {
            _ = input.next_line() => break,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                let health = Health::warning(number.to_string());
                discovery.health(&key, health).await.unwrap();
            }
        }
    }
    say("ending");
    discovery.close().await.unwrap();
    say("ended");
}

async fn bridge(from: &str, to: &str, name: &str) {
    let (from, to) = (
        tidings::connect(from).await.unwrap(),
        tidings::connect(to).await.unwrap(),
    );
    let mut view = from.watch_service("web").await.unwrap();
    let options = BridgeOptions::new().with_name(name).unwrap();
    let bridge = Bridge::start(from.clone(), to.clone(), options)
        .await
        .unwrap();
    // Ready is who knows both sides, and has taken over what is its own.
    view.wait_until(|view| view.is_live()).await.unwrap();
    let is_ready = || {
        let report = bridge.report();
        let knows = |key| report.mirrored.contains(key) || report.skipped.contains_key(key);
        report.state == BridgeState::Ready
            && report.target.is_live()
            && view.view().iter().all(|found| knows(found.key()))
    };
    while !is_ready() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    say("ready");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let _ = input.next_line().await;
    say("ending");
    println!("{}", bridge.report());
    bridge.close().await.unwrap();
    to.close().await.unwrap();
    from.close().await.unwrap();
    say("ended");
}

fn say(text: &str) {
    println!("@ {text}");
}
