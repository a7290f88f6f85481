//! The two ends of a move: real servers, or the seeds of a gossip cluster.

use std::net::SocketAddr;

use tidings::Phase;
use tidings::moving::Side;
use tidings_testkit::{consul, etcd, ports, zookeeper};

/// Members that others join through, at ports that stay the same.
const SEEDS: usize = 3;

/// A kind of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gossip,
    Etcd,
    ZooKeeper,
    Consul,
}

impl Kind {
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::Gossip => "gossip",
            Self::Etcd => "etcd",
            Self::ZooKeeper => "zk",
            Self::Consul => "consul",
        }
    }
}

/// From where to where a fleet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) from: Kind,
    pub(crate) to: Kind,
}

/// Both ends of a move.
pub(crate) struct Ends {
    old: End,
    new: End,
}

/// One end.
#[allow(clippy::large_enum_variant, reason = "there are two")]
enum End {
    /// It has no server: it lives as long as its members.
    Gossip {
        seeds: Vec<SocketAddr>,
    },
    Etcd(etcd::Cluster),
    ZooKeeper(zookeeper::Ensemble),
    Consul(Box<consul::Agent>),
}

impl Ends {
    pub(crate) async fn start(on: Move) -> Self {
        let (old, new) = tokio::join!(End::start(on.from), End::start(on.to));
        Self { old, new }
    }

    /// The sides that have a server to be killed.
    pub(crate) fn servers(&self) -> impl Iterator<Item = Side> + use<> {
        let is_one = Side::BOTH.map(|side| !matches!(self.end(side), End::Gossip { .. }));
        Side::BOTH
            .into_iter()
            .zip(is_one)
            .filter_map(|(side, is_one)| is_one.then_some(side))
    }

    pub(crate) fn kill(&mut self, side: Side) {
        match self.end_mut(side) {
            End::Gossip { .. } => panic!("gossip has no server"),
            End::Etcd(cluster) => cluster.kill_all(),
            End::ZooKeeper(ensemble) => ensemble.kill_all(),
            End::Consul(agent) => {
                agent.kill();
                assert!(!agent.is_running());
            }
        }
    }

    pub(crate) async fn restart(&mut self, side: Side) {
        let restarted = match self.end_mut(side) {
            End::Gossip { .. } => panic!("gossip has no server"),
            End::Etcd(cluster) => cluster.restart_all().await,
            End::ZooKeeper(ensemble) => ensemble.restart_all().await,
            End::Consul(agent) => agent.restart().await,
        };
        restarted.unwrap();
    }

    /// The configuration of the process with this number among the services; clients have none.
    pub(crate) fn config(&self, course: Course, name: &str, number: Option<usize>) -> String {
        format!(
            "[discovery.migration]\nfrom = \"{}\"\nto = \"{}\"\nphase = \"{}\"\n\
             name = \"{name}\"\nsteady = \"2s\"\n",
            self.old.url(number),
            self.new.url(number),
            course.as_str(),
        )
    }

    /// The configuration of a process that knows the old backend alone.
    pub(crate) fn plain(&self) -> String {
        format!("[discovery]\nurl = \"{}\"\n", self.old.url(None))
    }

    fn end(&self, side: Side) -> &End {
        match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        }
    }

    fn end_mut(&mut self, side: Side) -> &mut End {
        match side {
            Side::Old => &mut self.old,
            Side::New => &mut self.new,
        }
    }
}

impl End {
    async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Gossip => Self::Gossip {
                seeds: (0..SEEDS).map(|_| ports::free()).collect(),
            },
            Kind::Etcd => Self::Etcd(
                etcd::Cluster::start(etcd::Options::default())
                    .await
                    .unwrap(),
            ),
            Kind::ZooKeeper => {
                let options = zookeeper::Options::default();
                Self::ZooKeeper(zookeeper::Ensemble::start(options).await.unwrap())
            }
            Kind::Consul => {
                let options = consul::Options::new(consul::Role::Server);
                Self::Consul(Box::new(consul::Agent::start(options).await.unwrap()))
            }
        }
    }

    fn url(&self, number: Option<usize>) -> String {
        match self {
            Self::Gossip { seeds } => {
                let own = number.and_then(|number| seeds.get(number));
                let own = own.map_or("127.0.0.1:0".to_owned(), ToString::to_string);
                let seeds: Vec<_> = seeds.iter().map(ToString::to_string).collect();
                format!(
                    "gossip://{own}?join={}&probe_interval=500ms&probe_timeout=250ms&join_wait=5s",
                    seeds.join(",")
                )
            }
            Self::Etcd(cluster) => format!("etcd://{}/prod?ttl=5s", cluster.addresses()[0]),
            Self::ZooKeeper(ensemble) => {
                let server = ensemble.addresses()[0];
                format!("zk://{server}/prod?session_timeout=6s&call_timeout=3s&loss_hold=5s")
            }
            Self::Consul(agent) => format!("consul://{}/prod?ttl=8s", agent.http()),
        }
    }
}

/// The phase that a process is configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    Phase(Phase),
    Automatic,
}

impl Course {
    fn as_str(self) -> &'static str {
        match self {
            Self::Phase(phase) => phase.as_str(),
            Self::Automatic => "automatic",
        }
    }
}

impl From<Phase> for Course {
    fn from(phase: Phase) -> Self {
        Self::Phase(phase)
    }
}
