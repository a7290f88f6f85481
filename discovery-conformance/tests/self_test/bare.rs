//! Fixtures that can do next to nothing.

use std::sync::Arc;

use async_trait::async_trait;
use tidings_api::{Discovery, MemoryDiscovery, MemoryRegistry};
use tidings_conformance::{Failure, Fixture, Handle};

/// All that a fixture must have.
pub(crate) struct Bare {
    registry: MemoryRegistry,
}

struct BareHandle {
    memory: Arc<MemoryDiscovery>,
}

#[async_trait]
impl Fixture for Bare {
    async fn start(_namespace: &str) -> Result<Self, Failure> {
        let registry = MemoryRegistry::new();
        Ok(Self { registry })
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        let memory = Arc::new(self.registry.connect());
        Ok(Box::new(BareHandle { memory }))
    }
}

impl Handle for BareHandle {
    fn discovery(&self) -> Arc<dyn Discovery> {
        self.memory.clone()
    }
}

/// A fixture that doesn't start.
pub(crate) struct Broken;

#[async_trait]
impl Fixture for Broken {
    async fn start(namespace: &str) -> Result<Self, Failure> {
        Err(Failure::setup(format!("no server for {namespace}")))
    }

    async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
        Err(Failure::setup("it never started"))
    }
}
