//! The configuration of the memory backend, and the registries it names.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use tidings_api::config::{self, Options};
use tidings_api::{DiscoveryUrl, Error, MemoryRegistry, Result};

/// `memory://NAME`: the registry of this name in this process; `memory://`: one of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MemoryConfig {
    /// The name that handles share a registry by: 1–128 of `A-Za-z0-9._:-`.
    name: Option<String>,
}

impl MemoryConfig {
    pub(crate) fn from_url(url: &DiscoveryUrl) -> Result<Self> {
        options_of(url)
            .map_err(|error| error.with_backend("memory"))
            .and_then(|options| Self::from_options(&options))
    }

    pub(crate) fn from_options(options: &Options) -> Result<Self> {
        let read = || {
            let config: Self = config::from_options(options)?;
            match &config.name {
                Some(name) => config::check_name("name", name).map(|()| config),
                None => Ok(config),
            }
        };
        read().map_err(|error| error.with_backend("memory"))
    }

    /// The registry, made at the first use of its name and kept until the process ends.
    pub(crate) fn registry(&self) -> MemoryRegistry {
        static REGISTRIES: Mutex<BTreeMap<String, MemoryRegistry>> = Mutex::new(BTreeMap::new());
        let Some(name) = &self.name else {
            return MemoryRegistry::new();
        };
        let mut registries = REGISTRIES.lock().unwrap_or_else(PoisonError::into_inner);
        registries.entry(name.clone()).or_default().clone()
    }
}

fn options_of(url: &DiscoveryUrl) -> Result<Options> {
    if url.user().is_some() || url.hosts().len() > 1 || !url.path().is_empty() {
        return Err(Error::invalid_config(
            "user, path or a second host in the url: accepted are memory://NAME and memory://",
        ));
    }
    let mut options = url.options().clone();
    if let [name] = url.hosts() {
        options.set("name", name.to_string(), "the host of the url")?;
    }
    Ok(options)
}
