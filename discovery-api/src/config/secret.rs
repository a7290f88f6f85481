//! A text that never shows itself.

use std::fmt;

use serde::Deserialize;

/// A password, token or key: prints as `***`, and errors about it don't show it.
///
/// A configuration struct that has its secrets in this type can derive `Debug`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename = "tidings::Secret")]
pub struct Secret(String);

/// The name under which serde formats see a [`Secret`].
pub(super) const SECRET: &str = "tidings::Secret";

impl Secret {
    /// Takes the text in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever sends it to the server.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
