//! The contract of Tidings: service discovery as one small trait.
//!
//! Users depend on the facade crate `tidings`; this crate is for those who write backends and
//! wrappers. Start with [`Discovery`], whose documentation holds the contract's clauses; a backend
//! feeds its watches through a [`Publisher`] and proves itself with the suite in
//! `tidings-conformance`.

mod discovery;
pub use discovery::{Discovery, DiscoveryExt, Removal};

mod instance;
pub use instance::{
    Generation, Instance, METADATA_ENTRIES_MAX, METADATA_MIRROR_KEY, METADATA_RESERVED_PREFIX,
    METADATA_VALUE_BYTES_MAX, PORTS_MAX,
};

mod name;
pub use name::{InstanceId, InstanceKey, MetadataKey, NAME_BYTES_MAX, PortName, ServiceName, Zone};

mod address;
pub use address::{Address, Host};

mod entries;
pub use entries::{Entries, EntriesIter};

mod health;
pub use health::{Health, HealthState, NOTE_BYTES_MAX};

mod view;
pub use view::{Change, Freshness, Selector, View};

mod watch;
pub use watch::{Changes, Views, Watch};

mod publisher;
pub use publisher::{Feed, Publisher, Subscription};

mod status;
pub use status::{Bounds, Connection, Registration, Status};

mod loss;
pub use loss::LossPolicy;

mod memory;
pub use memory::{MemoryDiscovery, MemoryRegistry};

mod host_port;
pub use host_port::HostPort;

mod url;
pub use url::DiscoveryUrl;

pub mod config;

mod error;
pub use error::{Error, ErrorKind, Result};
