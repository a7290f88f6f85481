//! The fixture of the memory backend: the worked example.

use std::sync::Arc;

use async_trait::async_trait;
use tidings_api::{Discovery, Instance, MemoryDiscovery, MemoryRegistry, ServiceName};

use crate::{Data, Failure, Fixture, Handle};

/// The memory backend, which can do all there is to do except being configured.
///
/// A registry of its own is the namespace: nothing has to be cleaned up.
#[derive(Debug)]
pub struct MemoryFixture {
    registry: MemoryRegistry,
}

/// A handle of the memory backend.
#[derive(Debug)]
pub struct MemoryHandle {
    memory: Arc<MemoryDiscovery>,
}

#[async_trait]
impl Fixture for MemoryFixture {
    async fn start(_namespace: &str) -> Result<Self, Failure> {
        let registry = MemoryRegistry::new();
        Ok(Self { registry })
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let memory = Arc::new(self.registry.connect());
        Ok(Box::new(MemoryHandle { memory }))
    }

    async fn stop_server(&self) -> Result<(), Failure> {
        self.registry.stop();
        Ok(())
    }

    async fn start_server(&self, data: Data) -> Result<(), Failure> {
        match data {
            Data::Kept => self.registry.start(),
            Data::Lost => self.registry.start_empty(),
        }
        Ok(())
    }

    async fn put_foreign(&self, instance: &Instance) -> Result<(), Failure> {
        let json = serde_json::to_vec(instance).map_err(Failure::setup)?;
        let key = instance.key().to_string();
        self.registry.put_foreign(&key, &json);
        Ok(())
    }

    async fn inject(&self, garbage: &[u8]) -> Result<(), Failure> {
        self.registry.put_foreign("web/garbage", garbage);
        let key = String::from_utf8_lossy(garbage);
        self.registry.put_foreign(&key, garbage);
        Ok(())
    }

    async fn deny(&self, service: &ServiceName) -> Result<(), Failure> {
        self.registry.deny(service.clone());
        Ok(())
    }
}

#[async_trait]
impl Handle for MemoryHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.memory.clone()
    }

    async fn crash(&self) -> Result<(), Failure> {
        self.memory.crash();
        Ok(())
    }

    async fn cut_off(&self) -> Result<(), Failure> {
        self.memory.cut_off();
        Ok(())
    }

    async fn restore(&self) -> Result<(), Failure> {
        self.memory.restore();
        Ok(())
    }

    async fn expire(&self) -> Result<(), Failure> {
        self.memory.expire();
        Ok(())
    }

    fn subscriptions(&self) -> Result<usize, Failure> {
        Ok(self.memory.subscriptions())
    }
}
