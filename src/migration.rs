//! The configuration of a move from one backend to another.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tidings_api::config::{self, Options, Secret};
use tidings_api::{Discovery, DiscoveryUrl, Error, InstanceId, Result};
use tidings_migration::{Migration, Phase};

use crate::connect::{Backend, Source};

/// The fields of `[discovery.migration]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    /// The backend that everybody is on, as a URL.
    from: Secret,
    /// The one that everybody goes to.
    to: Secret,
    /// The phase, or `automatic`. Default: `old`.
    phase: String,
    /// The name of this process in reports: 1–128 of `A-Za-z0-9._:-`. Default: a generated one.
    name: Option<String>,
    /// How long both sides have to match before reads leave one of them: 0 s to 1 day. Default:
    /// 1 min.
    #[serde(with = "config::duration")]
    steady: Duration,
}

/// Both ends, and how to go from one to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MigrationConfig {
    from: Box<Backend>,
    to: Box<Backend>,
    course: Course,
    name: Option<InstanceId>,
    steady: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Phase(Phase),
    Automatic,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            from: Secret::new(""),
            to: Secret::new(""),
            phase: Phase::Old.to_string(),
            name: None,
            steady: Duration::from_secs(60),
        }
    }
}

impl MigrationConfig {
    pub(crate) fn from_options(options: &Options) -> Result<Self> {
        let read = || {
            let written: Written = config::from_options(options)?;
            config::check_duration(
                "steady",
                written.steady,
                Duration::ZERO..=Duration::from_secs(24 * 3600),
            )?;
            Ok(Self {
                from: end("from", &written.from)?,
                to: end("to", &written.to)?,
                course: Course::read(&written.phase)?,
                name: written.name.map(|name| name_of(&name)).transpose()?,
                steady: written.steady,
            })
        };
        read().map_err(|error: Error| error.with_backend(tidings_migration::BACKEND))
    }

    /// Starts what the phase needs.
    pub(crate) async fn start(self) -> Result<Migration> {
        let backend = |backend: Box<Backend>| {
            let traits = backend.traits();
            tidings_migration::Backend::new(move || -> Starting { backend.clone().start_boxed() })
                .with_traits(traits)
        };
        let builder = Migration::builder(backend(self.from), backend(self.to)).steady(self.steady);
        let builder = match self.course {
            Course::Phase(phase) => builder.toward(phase),
            Course::Automatic => builder.automatic(),
        };
        let builder = match self.name {
            Some(name) => builder.name(name),
            None => builder,
        };
        builder.start().await
    }
}

/// A backend that starts; boxed, since a migration is one and has two.
pub(crate) type Starting =
    std::pin::Pin<Box<dyn Future<Output = Result<Arc<dyn Discovery>>> + Send>>;

impl Course {
    fn read(text: &str) -> Result<Self> {
        if text == "automatic" {
            return Ok(Self::Automatic);
        }
        text.parse()
            .map(Self::Phase)
            .map_err(|error: Error| Error::invalid_config(format!("{error}, automatic")))
    }
}

/// Reads one end.
fn end(field: &str, url: &Secret) -> Result<Box<Backend>> {
    if url.expose().is_empty() {
        return Err(Error::invalid_config(format!(
            "{field} is missing: accepted is the url of a backend"
        )));
    }
    let read = || {
        let url: DiscoveryUrl = url.expose().parse()?;
        Backend::read(url.scheme(), Source::Url(&url))
    };
    read().map(Box::new).map_err(|error: Error| {
        Error::invalid_config(format!("{field}: {error}")).with_source(error)
    })
}

fn name_of(name: &str) -> Result<InstanceId> {
    InstanceId::new(name).map_err(|error| Error::invalid_config(format!("name: {error}")))
}
