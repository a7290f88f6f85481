//! The single backends that pairs are made of.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex as Lock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, ConnectOptions, Permission};
use tidings_api::{Connection, Discovery, Instance, ServiceName};
use tidings_conformance::{Data, Failure, Fixture, Handle};
use tidings_consul::{ConsulConfig, ConsulDiscovery};
use tidings_etcd::{EtcdConfig, EtcdDiscovery};
use tidings_gossip::{GossipConfig, GossipDiscovery};
use tidings_testkit::consul::{Agent, Role};
use tidings_testkit::etcd::{Cluster, ROOT};
use tidings_testkit::proxy::Proxy;
use tidings_testkit::zookeeper::Ensemble;
use tidings_testkit::{consul, etcd, zookeeper};
use tidings_zk::{ZkConfig, ZkDiscovery};
use tokio::net::UdpSocket;
use tokio::sync::Mutex;

const USER: &str = "app";
const PASSWORD: &str = "app-secret";

/// A cluster on loopback. Each member joins through all before it.
pub(crate) struct Gossip {
    cluster: String,
    members: Lock<Vec<Weak<GossipDiscovery>>>,
}

struct GossipHandle(Arc<GossipDiscovery>);

impl Gossip {
    fn addresses(&self) -> Vec<SocketAddr> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let present = members.iter().filter_map(Weak::upgrade);
        let is_closed = |connection: &Connection| matches!(connection, Connection::Closed);
        let open = present.filter(|member| !is_closed(member.status().connection()));
        open.map(|member| member.local_addr()).collect()
    }
}

#[async_trait]
impl Fixture for Gossip {
    async fn start(namespace: &str) -> Result<Self, Failure> {
        Ok(Self {
            cluster: namespace.to_owned(),
            members: Lock::default(),
        })
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let mut config = GossipConfig::default();
        config.bind = SocketAddr::from(([127, 0, 0, 1], 0));
        config.cluster.clone_from(&self.cluster);
        config.join = self.addresses().iter().map(ToString::to_string).collect();
        config.join_wait = Duration::from_secs(30);
        config.probe_interval = Duration::from_millis(200);
        config.probe_timeout = Duration::from_millis(100);
        let member = GossipDiscovery::start(config).await;
        let member = Arc::new(member.map_err(Failure::setup)?);
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.push(Arc::downgrade(&member));
        Ok(Box::new(GossipHandle(member)))
    }

    async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
        let socket = UdpSocket::bind("127.0.0.1:0").await;
        let socket = socket.map_err(Failure::setup)?;
        for address in self.addresses() {
            // Too long for a datagram: what the transport refuses is skipped.
            let _ = socket.send_to(garbage, address).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Handle for GossipHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.0.clone()
    }

    async fn crash(&self) -> Result<(), Failure> {
        self.0.faults().crash().await;
        Ok(())
    }

    async fn cut_off(&self) -> Result<(), Failure> {
        self.0.faults().cut_off().await;
        Ok(())
    }

    async fn restore(&self) -> Result<(), Failure> {
        self.0.faults().restore().await;
        Ok(())
    }
}

/// One etcd with users, of which handles are one; and between each handle and etcd a proxy.
pub(crate) struct Etcd {
    cluster: Mutex<Cluster>,
    namespace: String,
}

struct EtcdHandle {
    etcd: Arc<EtcdDiscovery>,
    proxy: Proxy,
    server: SocketAddr,
}

impl Etcd {
    async fn add_user(&self) -> Result<(), Failure> {
        let mut admin = admin(self.server().await).await?;
        let all = Permission::read_write(self.prefix()).with_prefix();
        let roles = async {
            admin.role_add(USER).await?;
            admin.role_grant_permission(USER, all).await?;
            admin.user_add(USER, PASSWORD, None).await?;
            admin.user_grant_role(USER, USER).await
        };
        roles.await.map(drop).map_err(Failure::setup)
    }

    async fn server(&self) -> SocketAddr {
        self.cluster.lock().await.addresses()[0]
    }

    fn prefix(&self) -> String {
        format!("{}/", self.namespace)
    }

    async fn put(&self, key: Vec<u8>, value: &[u8]) -> Result<(), Failure> {
        let mut admin = admin(self.server().await).await?;
        let put = admin.put(key, value, None).await;
        put.map(drop).map_err(Failure::setup)
    }
}

async fn admin(server: SocketAddr) -> Result<Client, Failure> {
    let options = ConnectOptions::new().with_timeout(Duration::from_secs(10));
    let options = options.with_user(ROOT.0, ROOT.1);
    let client = Client::connect([server.to_string()], Some(options)).await;
    client.map_err(Failure::setup)
}

#[async_trait]
impl Fixture for Etcd {
    async fn start(namespace: &str) -> Result<Self, Failure> {
        let options = etcd::Options {
            users: true,
            ..etcd::Options::default()
        };
        let cluster = Cluster::start(options).await.map_err(Failure::setup)?;
        let fixture = Self {
            cluster: Mutex::new(cluster),
            namespace: namespace.to_owned(),
        };
        fixture.add_user().await?;
        Ok(fixture)
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let server = self.server().await;
        let proxy = Proxy::start(server).await.map_err(Failure::setup)?;
        let mut config = EtcdConfig::default();
        config.endpoints = vec![proxy.address().to_string()];
        config.ttl = Duration::from_secs(3);
        config.namespace.clone_from(&self.namespace);
        config.user = Some(USER.to_owned());
        config.password = Some(PASSWORD.into());
        let etcd = EtcdDiscovery::start(config).await.map_err(Failure::setup)?;
        Ok(Box::new(EtcdHandle {
            etcd: Arc::new(etcd),
            proxy,
            server,
        }))
    }

    async fn stop_server(&self) -> Result<(), Failure> {
        self.cluster.lock().await.kill_all();
        Ok(())
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

    async fn put_foreign(&self, instance: &Instance) -> Result<(), Failure> {
        let value = format!(
            r#"{{"Op":0,"Addr":"{}","Metadata":null}}"#,
            instance.address()
        );
        let key = format!("{}{}", self.prefix(), instance.key());
        self.put(key.into_bytes(), value.as_bytes()).await
    }

    async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
        let under = |key: &[u8]| [self.prefix().as_bytes(), key].concat();
        self.put(under(b"web/garbage"), garbage).await?;
        self.put(under(garbage), garbage).await?;
        self.put(under(&[b"web/", garbage].concat()), garbage).await
    }

    async fn deny(&self, service: &ServiceName) -> Result<(), Failure> {
        let mut admin = admin(self.server().await).await?;
        let prefix = self.prefix();
        let end = format!("{}0", self.namespace);
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

    fn slack(&self) -> Duration {
        Duration::from_secs(15)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(300)
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
        let mut admin = admin(self.server).await?;
        for lease in self.etcd.leases() {
            admin.lease_revoke(lease).await.map_err(Failure::setup)?;
        }
        Ok(())
    }
}

/// One ZooKeeper, and a proxy for each handle.
pub(crate) struct Zk {
    ensemble: Mutex<Ensemble>,
    namespace: String,
    server: SocketAddr,
}

struct ZkHandle {
    zk: Arc<ZkDiscovery>,
    proxy: Proxy,
    server: SocketAddr,
}

impl Zk {
    async fn put(&self, path: &str, data: &[u8]) -> Result<(), Failure> {
        use zookeeper_client as zk;
        let open = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        let connector = zk::Client::connector();
        let client = connector.connect(&self.server.to_string()).await;
        let client = client.map_err(Failure::setup)?;
        let parent = &path[..path.rfind('/').unwrap()];
        client.mkdir(parent, &open).await.map_err(Failure::setup)?;
        let created = client.create(path, data, &open).await;
        created.map(drop).map_err(Failure::setup)
    }
}

#[async_trait]
impl Fixture for Zk {
    async fn start(namespace: &str) -> Result<Self, Failure> {
        let ensemble = Ensemble::start(zookeeper::Options::default()).await;
        let ensemble = ensemble.map_err(Failure::setup)?;
        Ok(Self {
            server: ensemble.addresses()[0],
            ensemble: Mutex::new(ensemble),
            namespace: namespace.to_owned(),
        })
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let proxy = Proxy::start(self.server).await.map_err(Failure::setup)?;
        let mut config = ZkConfig::default();
        config.hosts = vec![proxy.address().to_string()];
        config.namespace.clone_from(&self.namespace);
        config.session_timeout = Duration::from_secs(4);
        config.call_timeout = Duration::from_secs(3);
        config.connect_wait = Duration::from_secs(10);
        config.retry_max = Duration::from_secs(1);
        config.loss_hold = Duration::from_secs(5);
        let zk = ZkDiscovery::start(config).await.map_err(Failure::setup)?;
        Ok(Box::new(ZkHandle {
            zk: Arc::new(zk),
            proxy,
            server: self.server,
        }))
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
        let json = format!(
            r#"{{"name":"{}","id":"{}","address":"{}","port":{},"registrationTimeUTC":1700000000000,
            "payload":null,"serviceType":"DYNAMIC","uriSpec":null}}"#,
            instance.service(),
            instance.id(),
            instance.address().host(),
            instance.address().port()
        );
        let path = format!("/{}/{}", self.namespace, instance.key());
        self.put(&path, json.as_bytes()).await
    }

    async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
        let path = format!("/{}/web/garbage-{}", self.namespace, garbage.len());
        // The second time, it is there.
        let _ = self.put(&path, garbage).await;
        Ok(())
    }

    fn slack(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn recovery(&self) -> Duration {
        Duration::from_secs(40)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(300)
    }
}

#[async_trait]
impl Handle for ZkHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.zk.clone()
    }

    async fn crash(&self) -> Result<(), Failure> {
        // The server hears nothing more of the session, and is not told that it has ended.
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
        // Or it takes the session back before it is ended.
        self.proxy.black_hole();
        let expired = self.zk.expire(&self.server.to_string()).await;
        self.proxy.restore();
        expired.map_err(Failure::setup)
    }
}

/// One Consul agent, and a proxy for each handle.
pub(crate) struct Consul {
    agent: Mutex<Agent>,
    namespace: String,
}

struct ConsulHandle {
    consul: Arc<ConsulDiscovery>,
    proxy: Proxy,
}

#[async_trait]
impl Fixture for Consul {
    async fn start(namespace: &str) -> Result<Self, Failure> {
        let agent = Agent::start(consul::Options::new(Role::Server)).await;
        Ok(Self {
            agent: Mutex::new(agent.map_err(Failure::setup)?),
            namespace: namespace.to_owned(),
        })
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let agent = self.agent.lock().await.http();
        let proxy = Proxy::start(agent).await.map_err(Failure::setup)?;
        let mut config = ConsulConfig::default();
        config.agent = proxy
            .address()
            .to_string()
            .parse()
            .map_err(Failure::setup)?;
        config.ttl = Duration::from_secs(8);
        config.request_timeout = Duration::from_secs(4);
        config.leave_timeout = Duration::from_secs(4);
        config.loss_hold = Duration::from_secs(20);
        config.namespace = Some(self.namespace.clone());
        let consul = ConsulDiscovery::start(config).await;
        Ok(Box::new(ConsulHandle {
            consul: Arc::new(consul.map_err(Failure::setup)?),
            proxy,
        }))
    }

    fn slack(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn recovery(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(400)
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
}
