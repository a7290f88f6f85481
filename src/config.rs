//! The configuration as a value: from a URL, a TOML file, the environment or any serde format.

use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;
use tidings_api::config::{Options, shown};
use tidings_api::{DiscoveryUrl, Error, Result};

use crate::connect::{Backend, COMPILED_IN, MIGRATION, Source};

/// Which backend to use, and how: either a URL, or the name of a backend with its fields.
///
/// ```
/// use tidings::Config;
///
/// let url = Config::try_from("memory://shop")?;
/// let table = Config::from_toml("[discovery]\nbackend = \"memory\"\nname = \"shop\"")?;
/// let variables = [("TIDINGS_BACKEND", "memory"), ("TIDINGS_NAME", "shop")];
/// let environment = Config::from_vars("TIDINGS_", variables)?;
/// assert!(url == table && table == environment);
/// # Ok::<(), tidings::Error>(())
/// ```
///
/// It is checked when it is made: a `Config` that exists starts, unless the machine refuses what
/// it asks for, such as a port.
///
/// As part of a service's own serde configuration it is a table with `url`, or with `backend` and
/// that backend's fields:
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     discovery: tidings::Config,
/// }
///
/// let settings = r#"{ "discovery": { "url": "memory://shop" } }"#;
/// let settings: Settings = serde_json::from_str(settings)?;
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Options")]
pub struct Config {
    backend: Backend,
}

impl Config {
    /// Reads the table `[discovery]` of a TOML text, or `[discovery.migration]` for a move from one
    /// backend to another; other tables are the service's own.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where the text is no TOML, has no such
    /// table, or the table has an unknown key or an impossible value.
    pub fn from_toml(text: &str) -> Result<Self> {
        // `message` and not `Display`, which quotes the line: it may be the one with the password.
        let mut tables: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            Error::invalid_config(format!("toml, line {line}: {}", error.message()))
        })?;
        let table = tables.remove("discovery").ok_or_else(|| {
            Error::invalid_config(
                "toml has no table [discovery]: accepted is one with url, or with backend and its \
                 fields",
            )
        })?;
        let (table, place) = migration_in(table);
        let options: Options = table
            .try_into()
            .map_err(|error| Error::invalid_config(format!("{place}: {}", error.message())))?;
        options.try_into()
    }

    /// Reads the table `[discovery]` of a TOML file.
    ///
    /// # Errors
    /// As [`from_toml`](Self::from_toml), and where the file can't be read.
    pub fn from_toml_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let operation = format!("read {}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::invalid_config("the file can't be read")
                .with_operation(operation.clone())
                .with_source(error)
        })?;
        Self::from_toml(&text).map_err(|error| error.with_operation(operation))
    }

    /// Reads the environment: `TIDINGS_URL`, or `TIDINGS_BACKEND` with that backend's fields, such
    /// as `TIDINGS_BIND`.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where neither is set, both are, or a
    /// variable that starts with `TIDINGS_` is unknown or has an impossible value.
    pub fn from_env() -> Result<Self> {
        Self::from_env_with_prefix("TIDINGS_")
    }

    /// The same with another prefix, such as `PAYMENTS_DISCOVERY_`.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn from_env_with_prefix(prefix: &str) -> Result<Self> {
        Self::from_vars(prefix, std::env::vars_os())
    }

    /// The same from variables that come from elsewhere, such as an `.env` file. Those that don't
    /// start with the prefix are somebody else's.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn from_vars<K, V>(prefix: &str, vars: impl IntoIterator<Item = (K, V)>) -> Result<Self>
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let mut options = Options::from_variables(prefix);
        for (name, value) in vars {
            let name = name.into().to_string_lossy().into_owned();
            let Some(field) = name.strip_prefix(prefix) else {
                continue;
            };
            let Ok(value) = value.into().into_string() else {
                return Err(Error::invalid_config(format!(
                    "{} is not UTF-8",
                    shown(&name)
                )));
            };
            if field.is_empty() || field.contains(|c: char| c.is_lowercase()) {
                return Err(Error::invalid_config(format!(
                    "unknown variable {}: accepted are {prefix} and a field in upper case",
                    shown(&name)
                )));
            }
            options.add(field.to_ascii_lowercase(), value);
        }
        options.try_into()
    }

    pub(crate) fn into_backend(self) -> Backend {
        self.backend
    }
}

impl TryFrom<Options> for Config {
    type Error = Error;

    fn try_from(mut options: Options) -> Result<Self> {
        let url = options.take("url")?;
        let backend = options.take("backend")?;
        let label = |key: &str| options.label(key);
        match (url, backend) {
            (Some(url), None) if options.is_empty() => url.as_str().try_into(),
            (Some(_), backend) => {
                let backend = backend.map(|_| "backend");
                let other = backend.or(options.keys().next()).unwrap_or_default();
                Err(Error::invalid_config(format!(
                    "{} and {} are both given: accepted is {} alone, or {} with that backend's fields",
                    label("url"),
                    label(other),
                    label("url"),
                    label("backend"),
                )))
            }
            (None, Some(name)) => Ok(Self {
                backend: Backend::read(&name, Source::Options(&options))?,
            }),
            (None, None) => Err(Error::invalid_config(format!(
                "neither {} nor {} is given: accepted is one of them (compiled in: {})",
                label("url"),
                label("backend"),
                COMPILED_IN.join(", "),
            ))),
        }
    }
}

impl TryFrom<&DiscoveryUrl> for Config {
    type Error = Error;

    fn try_from(url: &DiscoveryUrl) -> Result<Self> {
        let backend = Backend::read(url.scheme(), Source::Url(url))?;
        Ok(Self { backend })
    }
}

impl TryFrom<&str> for Config {
    type Error = Error;

    fn try_from(url: &str) -> Result<Self> {
        Self::try_from(&url.parse::<DiscoveryUrl>()?)
    }
}

impl TryFrom<&String> for Config {
    type Error = Error;

    fn try_from(url: &String) -> Result<Self> {
        url.as_str().try_into()
    }
}

impl TryFrom<String> for Config {
    type Error = Error;

    fn try_from(url: String) -> Result<Self> {
        url.as_str().try_into()
    }
}

#[cfg(feature = "gossip")]
impl TryFrom<tidings_gossip::GossipConfig> for Config {
    type Error = Error;

    fn try_from(config: tidings_gossip::GossipConfig) -> Result<Self> {
        config.validate()?;
        let backend = Backend::Gossip(config);
        Ok(Self { backend })
    }
}

/// `[discovery.migration]` alone is short for `[discovery]` with `backend = "migration"` and its
/// fields.
fn migration_in(discovery: toml::Value) -> (toml::Value, &'static str) {
    let migration = |value: &toml::Value| {
        let table = value.as_table().filter(|table| table.len() == 1)?;
        let mut fields = table.get(MIGRATION)?.as_table()?.clone();
        let name = fields.insert("backend".into(), MIGRATION.into());
        name.is_none().then_some(fields)
    };
    match migration(&discovery) {
        Some(fields) => (fields.into(), "[discovery.migration]"),
        None => (discovery, "[discovery]"),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|b| *b == b'\n').count()
}
