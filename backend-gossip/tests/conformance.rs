//! The contract, against members on real sockets of the loopback interface.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::config::Options;
use tidings_api::{Connection, Discovery};
use tidings_conformance::{Configuration, Failure, Fixture, Handle};
use tidings_gossip::{GossipConfig, GossipDiscovery};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};

tidings_conformance::suite!(
    gossip,
    GossipFixture,
    ignore {
        reg_3_lost_data_is_registered_again = "there is no server",
        reg_3_a_lost_session_is_registered_again = "there are no sessions",
        reg_4_deregistered_without_a_server_stays_gone = "there is no server",
        reg_7_a_refused_registration_disturbs_no_other = "nobody can refuse a registration",
        wat_4_without_a_server_nothing_is_empty = "there is no server",
        wat_6_a_restart_without_data_is_invisible = "there is no server",
        wat_9_foreign_entries_appear = "no other tool speaks the protocol",
        wat_9_unreadable_entries_are_skipped = "no other tool speaks the protocol",
        wat_10_losses_without_a_server_are_held = "there is no server",
        hea_2_health_survives_a_lost_session = "there are no sessions",
        hea_2_health_survives_lost_data = "there is no server",
    }
);

/// A cluster on loopback, named after the namespace. Each member joins through all before it.
struct GossipFixture {
    cluster: String,
    members: Mutex<Vec<Weak<GossipDiscovery>>>,
}

impl GossipFixture {
    /// Where those members listen that are not closed or crashed.
    fn addresses(&self) -> Vec<SocketAddr> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let present = members.iter().filter_map(Weak::upgrade);
        let open = present.filter(|member| {
            let status = member.status();
            !matches!(status.connection(), Connection::Closed)
        });
        open.map(|member| member.local_addr()).collect()
    }

    /// Five times as fast as by default, so that crashes are found in about a second.
    fn config(&self) -> GossipConfig {
        let mut config = GossipConfig::default();
        config.bind = SocketAddr::from(([127, 0, 0, 1], 0));
        config.cluster.clone_from(&self.cluster);
        config.join = self.addresses().iter().map(ToString::to_string).collect();
        config.join_wait = Duration::from_secs(30);
        config.probe_interval = Duration::from_millis(200);
        config.probe_timeout = Duration::from_millis(100);
        config
    }
}

#[async_trait]
impl Fixture for GossipFixture {
    async fn start(namespace: &str) -> Result<Self, Failure> {
        Ok(Self {
            cluster: namespace.to_owned(),
            members: Mutex::default(),
        })
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let member = GossipDiscovery::start(self.config()).await;
        let member = Arc::new(member.map_err(Failure::setup)?);
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.push(Arc::downgrade(&member));
        Ok(Box::new(GossipHandle { member }))
    }

    async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
        let socket = UdpSocket::bind("127.0.0.1:0").await;
        let socket = socket.map_err(Failure::setup)?;
        let len = u32::try_from(garbage.len()).map_err(Failure::setup)?;
        for address in self.addresses() {
            // Too long for a datagram: what the transport refuses is skipped.
            let _ = socket.send_to(garbage, address).await;
            for framed in [false, true] {
                let link = TcpStream::connect(address).await;
                let mut link = link.map_err(Failure::setup)?;
                let prefix = len.to_be_bytes();
                let bytes = [if framed { &prefix[..] } else { &[] }, garbage].concat();
                // The member may hang up at the first bytes.
                let _ = link.write_all(&bytes).await;
            }
        }
        Ok(())
    }

    fn configuration(&self) -> Result<Configuration, Failure> {
        Ok(Configuration {
            parse: |given| {
                let mut options = Options::default();
                for (key, value) in given {
                    options.add(*key, *value);
                }
                GossipConfig::from_options(&options).map(|config| format!("{config:?}"))
            },
            valid: vec![("bind", "127.0.0.1:7946"), ("join", "10.0.0.5,seed:7947")],
            refused: vec![
                ("advertise", "0.0.0.0:1"),
                ("name", "not a name"),
                ("cluster", "a/b"),
                ("join_wait", "soon"),
                ("probe_interval", "0s"),
                ("probe_timeout", "1h"),
                ("suspicion_multiplier", "0"),
                ("leave_timeout", "1000000y"),
                ("loss_hold", "-1s"),
                ("state", "/tmp"),
                ("seal", "required"),
                ("keys", "hunter2"),
                ("keys_file", ""),
            ],
            secrets: vec![(
                "keys",
                "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
            )],
        })
    }
}

struct GossipHandle {
    member: Arc<GossipDiscovery>,
}

#[async_trait]
impl Handle for GossipHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.member.clone()
    }

    async fn crash(&self) -> Result<(), Failure> {
        self.member.faults().crash().await;
        Ok(())
    }

    async fn cut_off(&self) -> Result<(), Failure> {
        self.member.faults().cut_off().await;
        Ok(())
    }

    async fn restore(&self) -> Result<(), Failure> {
        self.member.faults().restore().await;
        Ok(())
    }

    fn subscriptions(&self) -> Result<usize, Failure> {
        Ok(self.member.subscriptions())
    }
}
