//! The contract, on a real ZooKeeper.
#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::config::Options;
use tidings_api::{Discovery, Instance, ServiceName};
use tidings_conformance::{Configuration, Data, Failure, Fixture, Handle};
use tidings_testkit::zookeeper::{Ensemble, Options as ServerOptions};
use tidings_zk::{Watches, ZkConfig};
use tokio::sync::Mutex;
use zookeeper_client as zk;

use self::support::{Proxied, curator_json, path, put, raw};

/// One server, and handles with one kind of watches.
struct ZkFixture<const ONESHOT: bool> {
    namespace: String,
    ensemble: Mutex<Ensemble>,
    server: SocketAddr,
}

type Persistent = ZkFixture<false>;
type Oneshot = ZkFixture<true>;

struct ZkHandle(Proxied);

impl<const ONESHOT: bool> ZkFixture<ONESHOT> {
    async fn inject_at(&self, client: &zk::Client, path: &str, garbage: &[u8]) {
        match put(client, path, garbage).await {
            // Not every text is a path.
            Ok(()) | Err(zk::Error::BadArguments(_) | zk::Error::MarshallingError) => {}
            Err(error) => eprintln!("{path:?} was not injected: {error}"),
        }
    }
}

#[async_trait]
impl<const ONESHOT: bool> Fixture for ZkFixture<ONESHOT> {
    async fn start(namespace: &str) -> Result<Self, Failure> {
        let ensemble = Ensemble::start(ServerOptions::default()).await;
        let ensemble = ensemble.map_err(Failure::setup)?;
        Ok(Self {
            namespace: namespace.to_owned(),
            server: ensemble.addresses()[0],
            ensemble: Mutex::new(ensemble),
        })
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let mut config = support::config(&[], &self.namespace);
        config.watches = if ONESHOT {
            Watches::Oneshot
        } else {
            Watches::Auto
        };
        Ok(Box::new(ZkHandle(
            Proxied::start(self.server, &config).await,
        )))
    }

    async fn stop_server(&self) -> Result<(), Failure> {
        self.ensemble.lock().await.kill(0);
        Ok(())
    }

    async fn start_server(&self, data: Data) -> Result<(), Failure> {
        let mut ensemble = self.ensemble.lock().await;
        if data == Data::Lost {
            ensemble.lose_data().map_err(Failure::setup)?;
        }
        ensemble.restart(0).await.map_err(Failure::setup)
    }

    async fn put_foreign(&self, instance: &Instance) -> Result<(), Failure> {
        let client = raw(&[self.server]).await;
        let path = path(&self.namespace, instance.key());
        let json = curator_json(instance);
        put(&client, &path, json.as_bytes())
            .await
            .map_err(Failure::setup)
    }

    async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
        let client = raw(&[self.server]).await;
        let namespace = &self.namespace;
        let name = String::from_utf8_lossy(&garbage[..garbage.len().min(200)]);
        for path in [
            format!("/{namespace}"),
            format!("/{namespace}/web"),
            format!("/{namespace}/web/garbage"),
            format!("/{namespace}/web/below/it"),
            format!("/{namespace}/web/{name}"),
            format!("/{namespace}/{name}"),
        ] {
            self.inject_at(&client, &path, garbage).await;
        }
        Ok(())
    }

    async fn deny(&self, service: &ServiceName) -> Result<(), Failure> {
        let client = raw(&[self.server]).await;
        let path = format!("/{}/{service}", self.namespace);
        client
            .mkdir(&path, &support::OPEN)
            .await
            .map_err(Failure::setup)?;
        let read_only = [zk::Acl::new(zk::Permission::READ, zk::AuthId::anyone())];
        let denied = client.set_acl(&path, &read_only, None).await;
        denied.map(drop).map_err(Failure::setup)
    }

    fn configuration(&self) -> Result<Configuration, Failure> {
        Ok(Configuration {
            parse: |pairs| {
                let mut options = Options::default();
                for (key, value) in pairs {
                    options.add(*key, *value);
                }
                ZkConfig::from_options(&options).map(|config| format!("{config:?}"))
            },
            valid: vec![("hosts", "a,b:2181"), ("namespace", "prod")],
            refused: vec![
                ("hosts", "a:0"),
                ("namespace", "a//b"),
                ("session_timeout", "10"),
                ("session_timeout", "1ms"),
                ("call_timeout", "0s"),
                ("connect_wait", "2h"),
                ("retry_max", "-1s"),
                ("loss_hold", "99999y"),
                ("watches", "none"),
                ("payload", "xml"),
                ("content_max", "10"),
                ("acl", "world:anyone"),
                ("auth", "kerberos"),
                ("tls", "yes"),
            ],
            secrets: vec![("user", "somebody"), ("password", "hunter2")],
        })
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(300)
    }
}

#[async_trait]
impl Handle for ZkHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.0.discovery.clone()
    }

    async fn crash(&self) -> Result<(), Failure> {
        // The server hears nothing more of the session, and is not told that it has ended.
        self.0.proxy.cut();
        Ok(())
    }

    async fn cut_off(&self) -> Result<(), Failure> {
        self.0.proxy.black_hole();
        Ok(())
    }

    async fn restore(&self) -> Result<(), Failure> {
        self.0.proxy.restore();
        Ok(())
    }

    async fn expire(&self) -> Result<(), Failure> {
        self.0.expire().await.map_err(Failure::setup)
    }

    fn subscriptions(&self) -> Result<usize, Failure> {
        Ok(self.0.discovery.subscriptions())
    }
}

tidings_testkit::server_suite!(zookeeper_3_8, tidings_conformance, persistent, Persistent);
tidings_testkit::server_suite!(zookeeper_3_8, tidings_conformance, oneshot, Oneshot);
