//! What an owner says about its instance.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest health note in bytes of UTF-8; a longer one is cut at a character.
/// Check output can be anything, and a note is for people: cutting loses less than refusing.
pub const NOTE_BYTES_MAX: usize = 512;

/// How an instance is, in its owner's words: a state and an optional note.
///
/// Health is not liveness: liveness is what keeps the registration on the backend's side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Health {
    state: HealthState,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<Arc<str>>,
}

/// The four states of [`Health`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Serves as it should. What a new instance starts with.
    #[default]
    Passing,
    /// Serves, but somebody should look.
    Warning,
    /// Does not serve.
    Critical,
    /// Finishes what it has and takes nothing new: about to leave.
    Draining,
}

impl Health {
    /// Serves as it should.
    #[must_use]
    pub fn passing() -> Self {
        Self::default()
    }

    /// Serves, but somebody should look; `note` says why.
    #[must_use]
    pub fn warning(note: impl AsRef<str>) -> Self {
        Self::from(HealthState::Warning).with_note(note)
    }

    /// Does not serve; `note` says why.
    #[must_use]
    pub fn critical(note: impl AsRef<str>) -> Self {
        Self::from(HealthState::Critical).with_note(note)
    }

    /// Finishes what it has and takes nothing new.
    #[must_use]
    pub fn draining() -> Self {
        Self::from(HealthState::Draining)
    }

    /// The same state with a note, cut to [`NOTE_BYTES_MAX`] bytes; an empty note is none.
    #[must_use]
    pub fn with_note(mut self, note: impl AsRef<str>) -> Self {
        let note = note.as_ref();
        let end = (0..=note.len().min(NOTE_BYTES_MAX)).rfind(|&at| note.is_char_boundary(at));
        let cut = &note[..end.unwrap_or(0)];
        self.note = (!cut.is_empty()).then(|| cut.into());
        self
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> HealthState {
        self.state
    }

    /// The note, where there is one.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Whether clients should send work there: [`Passing`](HealthState::Passing) or
    /// [`Warning`](HealthState::Warning).
    #[must_use]
    pub fn is_serving(&self) -> bool {
        matches!(self.state, HealthState::Passing | HealthState::Warning)
    }
}

impl From<HealthState> for Health {
    fn from(state: HealthState) -> Self {
        Self { state, note: None }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)?;
        self.note().map_or(Ok(()), |note| write!(f, " ({note})"))
    }
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Draining => "draining",
        })
    }
}

/// The serialised form, so that what is read goes through the same cut as what is said.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    state: HealthState,
    #[serde(default)]
    note: String,
}

impl From<Written> for Health {
    fn from(written: Written) -> Self {
        Self::from(written.state).with_note(written.note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_at_a_character() {
        let health = Health::critical("é".repeat(400));
        assert_eq!(health.note().unwrap().len(), 512);
        let odd = Health::critical(format!("x{}", "é".repeat(400)));
        assert_eq!(odd.note().unwrap().len(), 511);
        assert_eq!(Health::passing().with_note("").note(), None);
    }

    #[test]
    fn passing_and_warning_serve() {
        assert!(Health::passing().is_serving() && Health::warning("hot").is_serving());
        assert!(!Health::critical("down").is_serving() && !Health::draining().is_serving());
        assert_eq!(Health::warning("hot").to_string(), "warning (hot)");
    }
}
