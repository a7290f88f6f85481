//! The contract, against the agent of a real Consul: handles each behind a proxy of their own.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod support;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use support::quick;
use tidings_api::config::Options as Text;
use tidings_api::{Discovery, Instance, ServiceName};
use tidings_conformance::{Configuration, Data, Failure, Fixture, Handle};
use tidings_consul::{ConsulConfig, ConsulDiscovery};
use tidings_testkit::consul::{Agent, Options, Role};
use tidings_testkit::proxy::Proxy;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

tidings_testkit::server_suite!(consul, tidings_conformance, consul, ConsulFixture);

/// The policy of whoever has no token.
const ANONYMOUS: &str = "/v1/acl/token/00000000-0000-0000-0000-000000000002";

/// One server agent, on which handles share a namespace.
struct ConsulFixture {
    agent: Mutex<Agent>,
    namespace: String,
}

/// A handle, and what lies between it and the agent.
struct ConsulHandle {
    consul: Arc<ConsulDiscovery>,
    proxy: Proxy,
    agent: std::net::SocketAddr,
}

#[async_trait]
impl Fixture for ConsulFixture {
    async fn start(namespace: &str) -> Result<Self, Failure> {
        let options = Options::new(Role::Server).acl("allow");
        let agent = Agent::start(options).await.map_err(Failure::setup)?;
        Ok(Self {
            agent: Mutex::new(agent),
            namespace: namespace.to_owned(),
        })
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let agent = self.agent.lock().await.http();
        let proxy = elsewhere(Proxy::start(agent)).await?;
        let mut config = quick(proxy.address());
        config.namespace = Some(self.namespace.clone());
        let consul = ConsulDiscovery::start(config)
            .await
            .map_err(Failure::setup)?;
        Ok(Box::new(ConsulHandle {
            consul: Arc::new(consul),
            proxy,
            agent,
        }))
    }

    async fn stop_server(&self) -> Result<(), Failure> {
        self.agent.lock().await.kill();
        Ok(())
    }

    async fn start_server(&self, data: Data) -> Result<(), Failure> {
        let mut agent = self.agent.lock().await;
        if data == Data::Lost {
            agent.lose_data().map_err(Failure::setup)?;
        }
        agent.restart().await.map_err(Failure::setup)
    }

    /// Half a thousand instances are a thousand reports in ten seconds, each a write to disk.
    fn deadline(&self) -> Duration {
        Duration::from_secs(400)
    }

    fn slack(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn recovery(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn put_foreign(&self, instance: &Instance) -> Result<(), Failure> {
        let service = json!({
            "ID": format!("foreign-{}", instance.id()),
            "Name": instance.service().as_str(),
            "Address": instance.address().host().to_string(),
            "Port": instance.address().port(),
            "Tags": [self.namespace],
            "Meta": {"tidings-id": instance.id().as_str()},
        });
        self.register(&service).await
    }

    async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(garbage);
        // Where our record is read from, as another tool's service, and as the answer's own text.
        for service in [
            json!({
                "ID": "web:garbage:1", "Name": "web", "Port": 80, "Tags": [self.namespace],
                "Checks": [{"CheckID": "web:garbage:1:alive", "Name": text, "TTL": "60s",
                            "Notes": text, "Status": "passing"}],
            }),
            json!({
                "ID": "garbage", "Name": "web", "Address": text, "Port": 0, "Tags": [self.namespace, text],
                "TaggedAddresses": {"metrics": {"Address": text, "Port": garbage.len()}},
            }),
        ] {
            // What the agent refuses is skipped.
            let _ = self.register(&service).await;
        }
        Ok(())
    }

    async fn deny(&self, service: &ServiceName) -> Result<(), Failure> {
        let agent = self.agent.lock().await;
        let rules = format!("service \"{service}\" {{ policy = \"deny\" }}");
        let policy = json!({"Name": format!("deny-{service}"), "Rules": rules});
        call(&agent, "/v1/acl/policy", &policy).await?;
        let anonymous = json!({
            "AccessorID": "00000000-0000-0000-0000-000000000002",
            "Policies": [{"Name": format!("deny-{service}")}],
        });
        call(&agent, ANONYMOUS, &anonymous).await
    }

    fn configuration(&self) -> Result<Configuration, Failure> {
        Ok(Configuration {
            parse: |pairs| {
                let mut options = Text::default();
                for (key, value) in pairs {
                    options.add(*key, *value);
                }
                ConsulConfig::from_options(&options).map(|config| format!("{config:?}"))
            },
            valid: vec![
                ("agent", "127.0.0.1:8500"),
                ("ttl", "10s"),
                ("namespace", "a"),
            ],
            refused: vec![
                ("agent", "a b"),
                ("ttl", "10"),
                ("ttl", "1ms"),
                ("deregister_after", "1s"),
                ("wait", "1h"),
                ("request_timeout", "0s"),
                ("consistency", "strong"),
                ("environment", "perhaps"),
                ("namespace", "a/b"),
            ],
            secrets: vec![("token", "b1gs3cr3t")],
        })
    }
}

impl ConsulFixture {
    async fn register(&self, service: &Value) -> Result<(), Failure> {
        let agent = self.agent.lock().await;
        call(&agent, "/v1/agent/service/register", service).await
    }
}

#[async_trait]
impl Handle for ConsulHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.consul.clone()
    }

    async fn crash(&self) -> Result<(), Failure> {
        self.proxy.cut();
        Ok(())
    }

    async fn cut_off(&self) -> Result<(), Failure> {
        self.proxy.black_hole();
        Ok(())
    }

    async fn restore(&self) -> Result<(), Failure> {
        self.proxy.restore();
        Ok(())
    }

    async fn expire(&self) -> Result<(), Failure> {
        let status = self.consul.status();
        let keys: Vec<String> = status
            .registrations()
            .keys()
            .map(ToString::to_string)
            .collect();
        for key in keys {
            let prefix = format!("{}:", key.replace('/', ":"));
            for id in services_at(self.agent).await? {
                if id.starts_with(&prefix) {
                    let path = format!("/v1/agent/service/deregister/{id}");
                    plain_call(self.agent, "PUT", &path).await?;
                }
            }
        }
        Ok(())
    }

    fn subscriptions(&self) -> Result<usize, Failure> {
        Ok(self.consul.stats().feeds)
    }
}

/// Runs what belongs to the test bed on a runtime of its own, as cases count the tasks of theirs.
async fn elsewhere<T: Send + 'static>(
    future: impl Future<Output = tidings_testkit::Result<T>> + Send + 'static,
) -> Result<T, Failure> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Runtime::new().expect("a runtime can be made"));
    let result = runtime.spawn(future).await.map_err(Failure::setup)?;
    result.map_err(Failure::setup)
}

async fn call(agent: &Agent, path: &str, body: &Value) -> Result<(), Failure> {
    let answer = agent.call("PUT", path, &body.to_string()).await;
    answer.map(drop).map_err(Failure::setup)
}

async fn services_at(agent: std::net::SocketAddr) -> Result<Vec<String>, Failure> {
    let text = plain_call(agent, "GET", "/v1/agent/services").await?;
    let services: serde_json::Map<String, Value> =
        serde_json::from_str(&text).map_err(Failure::setup)?;
    Ok(services.keys().cloned().collect())
}

async fn plain_call(
    agent: std::net::SocketAddr,
    method: &str,
    path: &str,
) -> Result<String, Failure> {
    tidings_testkit::consul::call(agent, method, path, b"")
        .await
        .and_then(|body| Ok(String::from_utf8(body)?))
        .map_err(Failure::setup)
}
