//! The fixture of a flawed backend.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tidings_api::{Discovery, Error, Instance, Result, ServiceName};
use tidings_conformance::{Configuration, Data, Failure, Fixture, Handle};

use crate::discovery::{Flawed, Shared};
use crate::flaw::Flaw;

/// The memory backend, with one flaw.
pub(crate) struct FlawedFixture {
    shared: Arc<Shared>,
}

struct FlawedHandle {
    flawed: Arc<Flawed>,
}

impl FlawedFixture {
    pub(crate) fn new(flaw: Flaw) -> Self {
        let shared = Shared::new(flaw);
        Self { shared }
    }

    /// A flaw is there from the start: nothing has to be waited for longer than it takes to see
    /// it. What is sound gets the time that a loaded machine may need.
    fn patience(&self, sound: u64) -> Duration {
        match self.shared.flaw {
            Flaw::None => Duration::from_secs(sound),
            _ => Duration::from_millis(150),
        }
    }
}

#[async_trait]
impl Fixture for FlawedFixture {
    async fn start(_namespace: &str) -> Result<Self, Failure> {
        Ok(Self::new(Flaw::None))
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let flawed = self.shared.connect();
        Ok(Box::new(FlawedHandle { flawed }))
    }

    async fn stop_server(&self) -> Result<(), Failure> {
        self.shared.registry.stop();
        Ok(())
    }

    async fn start_server(&self, data: Data) -> Result<(), Failure> {
        self.shared.returns.fetch_add(1, Ordering::SeqCst);
        match data {
            Data::Kept => self.shared.registry.start(),
            Data::Lost => self.shared.registry.start_empty(),
        }
        for handle in self.shared.handles() {
            if self.shared.flaw == Flaw::ForgetsLostData {
                handle.deregister_all().await;
            }
            handle.returned().await;
        }
        Ok(())
    }

    async fn put_foreign(&self, instance: &Instance) -> Result<(), Failure> {
        let json = serde_json::to_vec(instance).map_err(Failure::setup)?;
        let key = instance.key().to_string();
        self.shared.registry.put_foreign(&key, &json);
        Ok(())
    }

    async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
        self.shared.registry.put_foreign("web/garbage", garbage);
        match self.shared.flaw {
            Flaw::GarbageEndsWatches => {
                let handles = self.shared.handles();
                handles.iter().for_each(|handle| handle.end_watches());
            }
            Flaw::PanicsOnGarbage => {
                let first = garbage.first().copied();
                // Awaited, so that the panic has happened whatever else the machine is busy with.
                let panicked =
                    tokio::spawn(async move { first.expect("garbage has a first byte") });
                let _ = panicked.await;
            }
            Flaw::HangsOnGarbage => {
                tokio::spawn(async { block() });
                block();
            }
            _ => {}
        }
        Ok(())
    }

    async fn deny(&self, service: &ServiceName) -> Result<(), Failure> {
        self.shared.registry.deny(service.clone());
        Ok(())
    }

    fn configuration(&self) -> Result<Configuration, Failure> {
        Ok(Configuration {
            parse: match self.shared.flaw {
                Flaw::IgnoresUnknownOptions => |options| Options::parse(options, false, true),
                Flaw::AcceptsAnyValue => |options| Options::parse(options, true, false),
                Flaw::ShowsSecrets => |options| {
                    let parsed = Options::parse(options, true, true);
                    parsed.map(|parsed| format!("{parsed} from {options:?}"))
                },
                _ => |options| Options::parse(options, true, true),
            },
            valid: vec![("ttl", "10")],
            refused: vec![("ttl", "0"), ("ttl", "soon"), ("ttl", "")],
            secrets: vec![("token", "correct horse battery staple")],
        })
    }

    fn slack(&self) -> Duration {
        self.patience(10)
    }

    fn recovery(&self) -> Duration {
        self.patience(20)
    }

    fn deadline(&self) -> Duration {
        match self.shared.flaw {
            Flaw::HangsOnGarbage => Duration::from_secs(2),
            _ => Duration::from_secs(60),
        }
    }
}

#[async_trait]
impl Handle for FlawedHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.flawed.clone()
    }

    async fn crash(&self) -> Result<(), Failure> {
        self.flawed.crash().await;
        Ok(())
    }

    async fn cut_off(&self) -> Result<(), Failure> {
        self.flawed.cut_off();
        Ok(())
    }

    async fn restore(&self) -> Result<(), Failure> {
        self.flawed.restore().await;
        Ok(())
    }

    async fn expire(&self) -> Result<(), Failure> {
        self.flawed.expire().await;
        Ok(())
    }

    fn subscriptions(&self) -> Result<usize, Failure> {
        Ok(self.flawed.subscriptions())
    }
}

/// A configuration to get wrong.
#[derive(Debug, Default)]
struct Options {
    ttl: u64,
}

impl Options {
    fn parse(options: &[(&str, &str)], knows_all: bool, checks: bool) -> Result<String> {
        let mut parsed = Self::default();
        for (key, value) in options {
            match *key {
                "ttl" => match value.parse() {
                    Ok(0) | Err(_) if checks => {
                        return Err(Error::invalid_config(format!(
                            "ttl {value:?}: accepted are seconds from 1 on"
                        )));
                    }
                    ttl => parsed.ttl = ttl.unwrap_or_default(),
                },
                "token" => {}
                _ if knows_all => {
                    return Err(Error::invalid_config(format!(
                        "unknown option {key:?}: accepted are ttl and token"
                    )));
                }
                _ => {}
            }
        }
        Ok(format!("{parsed:?}"))
    }
}

/// Blocks a thread of the runtime until the process ends.
fn block() {
    loop {
        std::thread::park();
    }
}
