//! The contract, on two memory backends at once.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;

use async_trait::async_trait;
use tidings_api::{Discovery, Instance, MemoryDiscovery, MemoryRegistry, ServiceName};
use tidings_conformance::{Data, Failure, Fixture, Handle};
use tidings_migration::{Migration, Phase};

macro_rules! suite {
    ($name:ident, $fixture:ident, $phase:expr) => {
        struct $fixture(Pair);

        #[async_trait]
        impl Fixture for $fixture {
            async fn start(_namespace: &str) -> Result<Self, Failure> {
                Ok(Self(Pair::default()))
            }

            async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
                self.0.connect($phase).await
            }

            async fn stop_server(&self) -> Result<(), Failure> {
                self.0.each(MemoryRegistry::stop)
            }

            async fn start_server(&self, data: Data) -> Result<(), Failure> {
                self.0.each(match data {
                    Data::Kept => MemoryRegistry::start,
                    Data::Lost => MemoryRegistry::start_empty,
                })
            }

            async fn put_foreign(&self, instance: &Instance) -> Result<(), Failure> {
                let value = serde_json::to_vec(instance).map_err(Failure::setup)?;
                let key = instance.key().to_string();
                self.0.each(|registry| registry.put_foreign(&key, &value))
            }

            async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
                let key = String::from_utf8_lossy(garbage);
                self.0.each(|registry| registry.put_foreign(&key, garbage))
            }

            async fn deny(&self, service: &ServiceName) -> Result<(), Failure> {
                self.0.each(|registry| registry.deny(service.clone()))
            }
        }

        tidings_conformance::suite!(
            $name,
            $fixture,
            ignore {
                lim_3_an_unknown_option_is_refused = "two handles are no configuration",
                lim_3_a_bad_value_is_refused = "two handles are no configuration",
                lim_3_secrets_are_not_shown = "two handles are no configuration",
            }
        );
    };
}

suite!(old, OldFixture, Phase::Old);
suite!(both_read_old, BothReadOldFixture, Phase::BothReadOld);
suite!(
    both_read_merged,
    BothReadMergedFixture,
    Phase::BothReadMerged
);
suite!(both_read_new, BothReadNewFixture, Phase::BothReadNew);
suite!(new, NewFixture, Phase::New);

/// The two "servers".
#[derive(Default)]
struct Pair {
    old: MemoryRegistry,
    new: MemoryRegistry,
}

struct PairHandle {
    migration: Arc<Migration>,
    old: Arc<MemoryDiscovery>,
    new: Arc<MemoryDiscovery>,
}

impl Pair {
    async fn connect(&self, phase: Phase) -> Result<Box<dyn Handle>, Failure> {
        let (old, new) = (Arc::new(self.old.connect()), Arc::new(self.new.connect()));
        let sides: [Arc<dyn Discovery>; 2] = [old.clone(), new.clone()];
        let [old_side, new_side] = sides;
        let builder = Migration::builder(old_side, new_side).phase(phase);
        let migration = builder.start().await.map_err(Failure::setup)?;
        Ok(Box::new(PairHandle {
            migration: Arc::new(migration),
            old,
            new,
        }))
    }

    fn each(&self, fault: impl Fn(&MemoryRegistry)) -> Result<(), Failure> {
        fault(&self.old);
        fault(&self.new);
        Ok(())
    }
}

impl PairHandle {
    fn each(&self, fault: impl Fn(&MemoryDiscovery)) -> Result<(), Failure> {
        fault(&self.old);
        fault(&self.new);
        Ok(())
    }
}

#[async_trait]
impl Handle for PairHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.migration.clone()
    }

    async fn crash(&self) -> Result<(), Failure> {
        self.each(MemoryDiscovery::crash)
    }

    async fn cut_off(&self) -> Result<(), Failure> {
        self.each(MemoryDiscovery::cut_off)
    }

    async fn restore(&self) -> Result<(), Failure> {
        self.each(MemoryDiscovery::restore)
    }

    async fn expire(&self) -> Result<(), Failure> {
        self.each(MemoryDiscovery::expire)
    }

    fn subscriptions(&self) -> Result<usize, Failure> {
        Ok(self.migration.subscriptions())
    }
}
