//! Two fixtures as one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{Discovery, Instance, ServiceName};
use tidings_conformance::{Data, Failure, Fixture, Handle};
use tidings_migration::{Migration, Phase};

/// Two fixtures as one, and the phase of every handle.
pub(crate) struct Pair<A, B> {
    old: A,
    new: B,
}

struct PairHandle {
    migration: Arc<Migration>,
    old: Box<dyn Handle>,
    new: Box<dyn Handle>,
}

#[async_trait]
impl<A: Fixture, B: Fixture> Fixture for Pair<A, B> {
    async fn start(namespace: &str) -> Result<Self, Failure> {
        let (old, new) = tokio::join!(A::start(namespace), B::start(namespace));
        let (old, new) = (old?, new?);
        Ok(Self { old, new })
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let (old, new) = tokio::join!(self.old.connect(), self.new.connect());
        let (old, new) = (old?, new?);
        let builder = Migration::builder(old.discovery(), new.discovery());
        let migration = builder.phase(Phase::BothReadMerged).start().await;
        Ok(Box::new(PairHandle {
            migration: Arc::new(migration.map_err(Failure::setup)?),
            old,
            new,
        }))
    }

    async fn stop_server(&self) -> Result<(), Failure> {
        self.old.stop_server().await?;
        self.new.stop_server().await
    }

    async fn start_server(&self, data: Data) -> Result<(), Failure> {
        let (old, new) = tokio::join!(self.old.start_server(data), self.new.start_server(data));
        old.and(new)
    }

    async fn put_foreign(&self, instance: &Instance) -> Result<(), Failure> {
        either(
            self.old.put_foreign(instance),
            self.new.put_foreign(instance),
        )
        .await
    }

    async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
        either(self.old.inject(garbage), self.new.inject(garbage)).await
    }

    async fn deny(&self, service: &ServiceName) -> Result<(), Failure> {
        either(self.old.deny(service), self.new.deny(service)).await
    }

    fn slack(&self) -> Duration {
        self.old.slack().max(self.new.slack())
    }

    fn recovery(&self) -> Duration {
        self.old.recovery().max(self.new.recovery())
    }

    fn deadline(&self) -> Duration {
        self.old.deadline() + self.new.deadline()
    }
}

#[async_trait]
impl Handle for PairHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.migration.clone()
    }

    async fn crash(&self) -> Result<(), Failure> {
        let (old, new) = tokio::join!(self.old.crash(), self.new.crash());
        old.and(new)
    }

    async fn cut_off(&self) -> Result<(), Failure> {
        let (old, new) = tokio::join!(self.old.cut_off(), self.new.cut_off());
        old.and(new)
    }

    async fn restore(&self) -> Result<(), Failure> {
        let (old, new) = tokio::join!(self.old.restore(), self.new.restore());
        old.and(new)
    }

    async fn expire(&self) -> Result<(), Failure> {
        either(self.old.expire(), self.new.expire()).await
    }

    fn subscriptions(&self) -> Result<usize, Failure> {
        Ok(self.migration.subscriptions())
    }
}

/// What either half can do is enough.
async fn either<F>(old: F, new: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    match tokio::join!(old, new) {
        (Err(Failure::Unsupported(_)), other) | (other, Err(Failure::Unsupported(_))) => other,
        (old, new) => old.and(new),
    }
}

/// A suite with the cases left out that need what gossip hasn't got; with a server's name first, all
/// cases are ignored where it isn't installed.
macro_rules! with_gossip {
    ($server:ident: $($pair:tt)*) => {
        with_gossip!(@ tidings_testkit::server_suite, [$server, tidings_conformance,] $($pair)*);
    };
    (@ $($suite:ident)::+, [$($server:tt)*]
        $name:ident, $old:ty, $new:ty $(, $more:ident = $reason:literal)* $(,)?) => {
        $($suite)::+! {
            $($server)* $name,
            Pair<$old, $new>,
            ignore {
                reg_3_lost_data_is_registered_again = "gossip has no server",
                reg_4_deregistered_without_a_server_stays_gone = "gossip has no server",
                wat_4_without_a_server_nothing_is_empty = "gossip has no server",
                wat_6_a_restart_without_data_is_invisible = "gossip has no server",
                wat_10_losses_without_a_server_are_held = "gossip has no server",
                hea_2_health_survives_lost_data = "gossip has no server",
                lim_3_an_unknown_option_is_refused = "two handles are no configuration",
                lim_3_a_bad_value_is_refused = "two handles are no configuration",
                lim_3_secrets_are_not_shown = "two handles are no configuration",
                $($more = $reason,)*
            }
        }
    };
    ($($pair:tt)*) => {
        with_gossip!(@ tidings_conformance::suite, [] $($pair)*);
    };
}
pub(crate) use with_gossip;
