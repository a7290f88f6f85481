//! Durations as text with their unit: `500ms`, `10s`, `1m 30s`.
//!
//! For fields of type `Duration` and `Option<Duration>`: `#[serde(with = "config::duration")]`,
//! the latter with `#[serde(default)]` beside it.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// Reads a duration.
///
/// # Errors
/// Where the text is no number with a unit.
pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: From<Duration>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text).map_err(|_| {
        de::Error::custom("accepted is a duration with its unit, such as 500ms, 10s or 1m 30s")
    })?;
    Ok(duration.into())
}
