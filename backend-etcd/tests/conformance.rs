//! The contract, against real etcd.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, Permission};
use tidings_api::config::Options;
use tidings_api::{Discovery, Instance, ServiceName};
use tidings_conformance::{Configuration, Data, Failure, Fixture, Handle};
use tidings_etcd::{EtcdConfig, EtcdDiscovery};
use tidings_testkit::etcd::{self, Cluster, Version};
use tidings_testkit::proxy::Proxy;
use tokio::sync::Mutex;

tidings_testkit::server_suite!(etcd_3_4, tidings_conformance, etcd_3_4, Etcd34);
tidings_testkit::server_suite!(etcd_3_5, tidings_conformance, etcd_3_5, Etcd35);

const USER: &str = "app";
const PASSWORD: &str = "app-secret";

/// One etcd with users, of which handles are one; and between each handle and etcd a proxy.
struct EtcdFixture {
    cluster: Mutex<Cluster>,
    config: EtcdConfig,
}

struct EtcdHandle {
    etcd: Arc<EtcdDiscovery>,
    proxy: Proxy,
    server: SocketAddr,
}

impl EtcdFixture {
    async fn start(namespace: &str, version: Version) -> Result<Self, Failure> {
        let options = etcd::Options {
            users: true,
            ..etcd::Options::default().version(version)
        };
        let cluster = Cluster::start(options).await.map_err(Failure::setup)?;
        let mut config = support::config(&cluster);
        config.namespace = namespace.to_owned();
        config.user = Some(USER.to_owned());
        config.password = Some(PASSWORD.into());
        let fixture = Self {
            cluster: Mutex::new(cluster),
            config,
        };
        fixture.add_user().await?;
        Ok(fixture)
    }

    /// The handles' user, who may do everything in the namespace.
    async fn add_user(&self) -> Result<(), Failure> {
        let mut admin = self.admin().await?;
        let name = self.prefix();
        let all = Permission::read_write(name).with_prefix();
        let roles = async {
            admin.role_add(USER).await?;
            admin.role_grant_permission(USER, all).await?;
            admin.user_add(USER, PASSWORD, None).await?;
            admin.user_grant_role(USER, USER).await
        };
        roles.await.map(drop).map_err(Failure::setup)
    }

    async fn admin(&self) -> Result<Client, Failure> {
        let server = self.cluster.lock().await.addresses()[0];
        support::admin(server, true).await.map_err(Failure::setup)
    }

    fn prefix(&self) -> String {
        format!("{}/", self.config.namespace)
    }

    async fn put(&self, key: Vec<u8>, value: &[u8]) -> Result<(), Failure> {
        let mut admin = self.admin().await?;
        admin
            .put(key, value, None)
            .await
            .map(drop)
            .map_err(Failure::setup)
    }
}

macro_rules! fixture {
    ($fixture:ident, $version:expr) => {
        struct $fixture(EtcdFixture);

        #[async_trait]
        impl Fixture for $fixture {
            async fn start(namespace: &str) -> Result<Self, Failure> {
                EtcdFixture::start(namespace, $version).await.map(Self)
            }

            async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
                self.0.connect().await
            }

            async fn stop_server(&self) -> Result<(), Failure> {
                self.0.cluster.lock().await.kill_all();
                Ok(())
            }

            async fn start_server(&self, data: Data) -> Result<(), Failure> {
                self.0.start_server(data).await
            }

            async fn put_foreign(&self, instance: &Instance) -> Result<(), Failure> {
                // As Go's naming package writes it.
                let address = instance.address();
                let value = format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#);
                let key = format!("{}{}", self.0.prefix(), instance.key());
                self.0.put(key.into_bytes(), value.as_bytes()).await
            }

            async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
                let under = |key: &[u8]| [self.0.prefix().as_bytes(), key].concat();
                self.0.put(under(b"web/garbage"), garbage).await?;
                self.0.put(under(garbage), garbage).await?;
                self.0
                    .put(under(&[b"web/", garbage].concat()), garbage)
                    .await
            }

            async fn deny(&self, service: &ServiceName) -> Result<(), Failure> {
                self.0.deny(service).await
            }

            fn configuration(&self) -> Result<Configuration, Failure> {
                Ok(Configuration {
                    parse: |options| {
                        let mut text = Options::default();
                        for (key, value) in options {
                            text.add(*key, *value);
                            if *key == "password" {
                                // A password is accepted beside a user only.
                                text.add("user", USER);
                            }
                        }
                        EtcdConfig::from_options(&text).map(|config| format!("{config:?}"))
                    },
                    valid: vec![("endpoints", "e1:2379,e2"), ("ttl", "5s")],
                    refused: vec![
                        ("endpoints", "e1:port"),
                        ("ttl", "1s"),
                        ("namespace", "a//b"),
                        ("leases", "65"),
                        ("tls", "yes"),
                    ],
                    secrets: vec![("password", "correct-horse")],
                })
            }

            fn slack(&self) -> Duration {
                Duration::from_secs(15)
            }

            fn deadline(&self) -> Duration {
                Duration::from_secs(300)
            }
        }
    };
}

fixture!(Etcd34, Version::V3_4);
fixture!(Etcd35, Version::V3_5);

impl EtcdFixture {
    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let server = self.cluster.lock().await.addresses()[0];
        let proxy = Proxy::start(server).await.map_err(Failure::setup)?;
        let mut config = self.config.clone();
        config.endpoints = vec![proxy.address().to_string()];
        let etcd = EtcdDiscovery::start(config).await.map_err(Failure::setup)?;
        Ok(Box::new(EtcdHandle {
            etcd: Arc::new(etcd),
            proxy,
            server,
        }))
    }

    async fn start_server(&self, data: Data) -> Result<(), Failure> {
        {
            let mut cluster = self.cluster.lock().await;
            if data == Data::Lost {
                cluster.lose_data().map_err(Failure::setup)?;
            }
            cluster.restart_all().await.map_err(Failure::setup)?;
            if data == Data::Kept {
                return Ok(());
            }
            cluster.set_up_users().map_err(Failure::setup)?;
        }
        self.add_user().await
    }

    /// Takes away the permission to write the service's keys.
    async fn deny(&self, service: &ServiceName) -> Result<(), Failure> {
        let mut admin = self.admin().await?;
        let prefix = self.prefix();
        let end = format!("{}0", self.config.namespace);
        let (first, last) = (format!("{prefix}{service}/"), format!("{prefix}{service}0"));
        let grant = async {
            for (from, to) in [(prefix.clone(), first), (last, end)] {
                let range = Permission::write(from).with_range_end(to);
                admin.role_grant_permission(USER, range).await?;
            }
            let all = Permission::read(prefix).with_prefix();
            admin.role_grant_permission(USER, all).await
        };
        grant.await.map(drop).map_err(Failure::setup)
    }
}

#[async_trait]
impl Handle for EtcdHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.etcd.clone()
    }

    async fn crash(&self) -> Result<(), Failure> {
        self.etcd.crash().await;
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
        // Not kept: a case counts the tasks that a handle leaves behind.
        let mut admin = support::admin(self.server, true)
            .await
            .map_err(Failure::setup)?;
        for lease in self.etcd.leases() {
            admin.lease_revoke(lease).await.map_err(Failure::setup)?;
        }
        Ok(())
    }

    fn subscriptions(&self) -> Result<usize, Failure> {
        Ok(self.etcd.subscriptions())
    }
}
