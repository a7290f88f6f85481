//! The contract with observers watching: each handle is a member that registers, and an observer of the
//! cluster through which everything is watched.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{
    Connection, Discovery, Health, Instance, InstanceKey, Removal, Result, Selector, Status, Watch,
};
use tidings_conformance::{Failure, Fixture, Handle};
use tidings_gossip::{GossipConfig, GossipDiscovery, GossipObserver};

tidings_conformance::suite!(
    observed,
    ObservedFixture,
    ignore {
        reg_1_registered_is_shown_on_the_same_handle = "the handle that watches is another one",
        reg_3_lost_data_is_registered_again = "there is no server",
        reg_3_a_lost_session_is_registered_again = "there are no sessions",
        reg_3_status_tells_what_is_pending = "the two handles notice an outage at different times",
        reg_4_deregistered_in_an_outage_stays_gone = "the handle that watches is another one",
        reg_4_deregistered_without_a_server_stays_gone = "there is no server",
        reg_6_deregistered_is_gone_at_once_on_the_same_handle = "the handle that watches is another one",
        reg_7_a_refused_registration_disturbs_no_other = "nobody can refuse a registration",
        reg_8_calls_take_effect_in_call_order = "the handle that watches is another one",
        wat_4_without_a_server_nothing_is_empty = "there is no server",
        wat_6_a_restart_without_data_is_invisible = "there is no server",
        wat_9_foreign_entries_appear = "no other tool speaks the protocol",
        wat_9_unreadable_entries_are_skipped = "no other tool speaks the protocol",
        wat_10_losses_without_a_server_are_held = "there is no server",
        wat_10_deregistration_is_obeyed_in_an_outage = "the handle that watches is another one",
        hea_2_health_survives_a_lost_session = "there are no sessions",
        hea_2_health_survives_lost_data = "there is no server",
        clo_2_a_dropped_handle_leaks_no_task = "the pair of them isn't one handle",
        lim_3_an_unknown_option_is_refused = "the configuration is that of members",
        lim_3_a_bad_value_is_refused = "the configuration is that of members",
        lim_3_secrets_are_not_shown = "the configuration is that of members",
        lim_4_garbage_does_no_harm = "the ports are those of members",
    }
);

/// A cluster on loopback, named after the namespace. Each member joins through all before it.
struct ObservedFixture {
    cluster: String,
    members: Mutex<Vec<Weak<GossipDiscovery>>>,
}

impl ObservedFixture {
    fn push(&self, member: &Arc<GossipDiscovery>) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.push(Arc::downgrade(member));
    }

    fn config(&self) -> GossipConfig {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let present = members.iter().filter_map(Weak::upgrade);
        let open = present.filter(|member| {
            let status = member.status();
            !matches!(status.connection(), Connection::Closed)
        });
        let mut config = GossipConfig::default();
        config.cluster.clone_from(&self.cluster);
        config.join = open.map(|member| member.local_addr().to_string()).collect();
        config.join_wait = Duration::from_secs(30);
        config.probe_interval = Duration::from_millis(200);
        config
    }
}

#[async_trait]
impl Fixture for ObservedFixture {
    async fn start(namespace: &str) -> Result<Self, Failure> {
        Ok(Self {
            cluster: namespace.to_owned(),
            members: Mutex::default(),
        })
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let mut config = self.config();
        config.bind = "127.0.0.1:0".parse().map_err(Failure::setup)?;
        config.probe_timeout = Duration::from_millis(100);
        let member = GossipDiscovery::start(config).await;
        let member = Arc::new(member.map_err(Failure::setup)?);
        self.push(&member);
        let mut config = self.config();
        config.observe = true;
        let observer = GossipObserver::start(config).await;
        let observer = observer.map_err(Failure::setup)?;
        let pair = Arc::new(Pair { member, observer });
        Ok(Box::new(ObservedHandle { pair }))
    }
}

/// A member that registers and an observer that watches.
#[derive(Debug)]
struct Pair {
    member: Arc<GossipDiscovery>,
    observer: GossipObserver,
}

#[async_trait]
impl Discovery for Pair {
    async fn register(&self, instance: Instance) -> Result<InstanceKey> {
        self.member.register(instance).await
    }

    async fn deregister(&self, key: &InstanceKey) -> Result<Removal> {
        self.member.deregister(key).await
    }

    async fn watch(&self, selector: Selector) -> Result<Watch> {
        self.observer.watch(selector).await
    }

    async fn health(&self, key: &InstanceKey, health: Health) -> Result<()> {
        self.member.health(key, health).await
    }

    fn status(&self) -> Status {
        let (observed, member) = (self.observer.status(), self.member.status());
        let (connection, bounds) = (observed.connection().clone(), *observed.bounds());
        let registrations = member.registrations().clone();
        Status::new(observed.backend(), connection, bounds).with_registrations(registrations)
    }

    async fn close(&self) -> Result<()> {
        self.member.close().await?;
        self.observer.close().await
    }
}

struct ObservedHandle {
    pair: Arc<Pair>,
}

#[async_trait]
impl Handle for ObservedHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.pair.clone()
    }

    async fn crash(&self) -> Result<(), Failure> {
        self.pair.member.faults().crash().await;
        self.pair.observer.faults().crash().await;
        Ok(())
    }

    async fn cut_off(&self) -> Result<(), Failure> {
        self.pair.member.faults().cut_off().await;
        self.pair.observer.faults().cut_off().await;
        Ok(())
    }

    async fn restore(&self) -> Result<(), Failure> {
        self.pair.member.faults().restore().await;
        self.pair.observer.faults().restore().await;
        Ok(())
    }

    fn subscriptions(&self) -> Result<usize, Failure> {
        Ok(self.pair.observer.subscriptions())
    }
}
