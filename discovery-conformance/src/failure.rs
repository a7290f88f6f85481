//! How a case ends when it doesn't pass.

use std::fmt;

/// Why a case did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The backend broke a clause of the contract.
    Violation {
        /// The clause, such as `WAT-4`.
        clause: String,
        /// What was seen, and what should have been.
        seen: String,
    },
    /// The fixture could not prepare what the case needs; nothing is said about the backend.
    Setup(String),
    /// The fixture hasn't got this fault. The case has to be listed as ignored.
    Unsupported(&'static str),
}

impl Failure {
    /// The fixture could not prepare something; for `map_err` in fixtures.
    pub fn setup(cause: impl fmt::Display) -> Self {
        Self::Setup(cause.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation { clause, seen } => write!(f, "{clause} is broken: {seen}"),
            Self::Setup(cause) => write!(f, "the fixture failed: {cause}"),
            Self::Unsupported(fault) => write!(f, "the fixture can't {fault}"),
        }
    }
}

impl std::error::Error for Failure {}
