//! What the tests of this backend share.

#![allow(dead_code, reason = "no test uses all of it")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tidings_api::{Change, Discovery, Instance, InstanceKey, Registration, View, Watch};
use tidings_consul::{ConsulConfig, ConsulDiscovery};
use tidings_testkit::consul::Agent;
use tokio::time::{sleep, timeout};

pub(crate) mod scripted;

/// Longer than anything takes that is waited for, unless a test says otherwise.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Times that make tests quick, and leave a busy machine room to breathe.
pub(crate) fn quick(agent: SocketAddr) -> ConsulConfig {
    let mut config = ConsulConfig::default();
    config.agent = agent
        .to_string()
        .parse()
        .expect("an address is a host and a port");
    config.ttl = Duration::from_secs(8);
    config.request_timeout = Duration::from_secs(4);
    config.leave_timeout = Duration::from_secs(4);
    config.loss_hold = Duration::from_secs(20);
    config
}

pub(crate) async fn start(agent: &Agent) -> ConsulDiscovery {
    ConsulDiscovery::start(quick(agent.http())).await.unwrap()
}

pub(crate) fn web(id: &str) -> Instance {
    let instance = Instance::new("web", "192.0.2.1:8080").unwrap();
    instance.with_id(id).unwrap()
}

/// The ids of a view, in order.
pub(crate) fn ids(view: &View) -> String {
    let ids: Vec<_> = view.iter().map(|found| found.id().as_str()).collect();
    ids.join(" ")
}

/// Waits until a view meets a condition.
pub(crate) async fn seen(
    watch: &mut Watch,
    what: &str,
    condition: impl Fn(&View) -> bool + Send + Sync,
) -> View {
    match timeout(DEADLINE, watch.wait_until(&condition)).await {
        Ok(view) => view.unwrap(),
        Err(_) => panic!("not seen: {what}; the view is {:?}", watch.view()),
    }
}

/// Every change of a watch from now on, what is there already first: `+a`, `~a`, `-a`.
pub(crate) fn record(watch: &Watch) -> Arc<Mutex<Vec<String>>> {
    let recorded = Arc::<Mutex<Vec<String>>>::default();
    let (recorder, mut changes) = (recorded.clone(), watch.clone().into_changes());
    tokio::spawn(async move {
        while let Some(change) = changes.next().await {
            let sign = match change {
                Change::Added(_) => '+',
                Change::Removed(_) => '-',
                _ => '~',
            };
            recorder
                .lock()
                .unwrap()
                .push(format!("{sign}{}", change.key().id()));
        }
    });
    recorded
}

/// Checks what was recorded, once it is as long as it should be.
pub(crate) async fn expect(recorded: &Mutex<Vec<String>>, changes: &[&str]) {
    until("as many changes", || {
        recorded.lock().unwrap().len() >= changes.len()
    })
    .await;
    assert_eq!(*recorded.lock().unwrap(), changes);
}

/// Waits for a condition that nothing announces.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, async || condition()).await;
}

pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    // Consul itself clears services only after minutes, for which the caller has its own limit.
    let limit = DEADLINE * 5;
    let met = async {
        while !condition().await {
            sleep(POLL_INTERVAL).await;
        }
    };
    assert!(timeout(limit, met).await.is_ok(), "never: {what}");
}

pub(crate) fn registration(consul: &ConsulDiscovery, key: &InstanceKey) -> Registration {
    consul
        .status()
        .registration(key)
        .cloned()
        .expect("it is registered, or on its way")
}

pub(crate) async fn is_registered(consul: &ConsulDiscovery, key: &InstanceKey) {
    until("the status says registered", || {
        registration(consul, key).is_registered()
    })
    .await;
}

/// The ids of the services at an agent.
pub(crate) async fn services(agent: &Agent) -> Vec<String> {
    let text = agent.call("GET", "/v1/agent/services", "").await.unwrap();
    let services: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    services.keys().cloned().collect()
}

/// What the catalog has under a name.
pub(crate) async fn catalog(agent: &Agent, service: &str) -> Vec<Value> {
    let text = agent
        .call("GET", &format!("/v1/health/service/{service}"), "")
        .await
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(crate) async fn put(agent: &Agent, path: &str, body: &Value) {
    agent.call("PUT", path, &body.to_string()).await.unwrap();
}
