//! The ACL token, fixed or in a file.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock};

use http::HeaderValue;
use tidings_api::{ErrorKind, Result};
use tracing::{info, warn};

use crate::ConsulConfig;
use crate::error::error;

/// Longest token file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

pub(super) struct Token {
    value: RwLock<Option<HeaderValue>>,
    file: Option<PathBuf>,
    /// Why the file could not be used when it was last read, to be logged once.
    complaint: Mutex<Option<String>>,
}

impl Token {
    /// The token of a valid configuration. A file that isn't there yet is no error: it is looked
    /// for again and again.
    pub(super) fn new(config: &ConsulConfig) -> Result<Self> {
        let fixed = config.token.as_ref().map(|token| header(token.expose()));
        let value = fixed.transpose()?;
        let token = Self {
            value: RwLock::new(value),
            file: config.token_file.clone(),
            complaint: Mutex::default(),
        };
        token.reload();
        Ok(token)
    }

    pub(super) fn value(&self) -> Option<HeaderValue> {
        let value = self.value.read().unwrap_or_else(PoisonError::into_inner);
        value.clone()
    }

    /// Reads the file again. True if it holds another token now; what can't be read leaves the last
    /// one in use, since a file may be replaced at this moment.
    pub(super) fn reload(&self) -> bool {
        let Some(file) = &self.file else {
            return false;
        };
        let read = fs::metadata(file)
            .map_err(|cause| cause.to_string())
            .and_then(|found| {
                if found.len() > FILE_BYTES_MAX {
                    return Err("it is too long".to_owned());
                }
                fs::read_to_string(file).map_err(|cause| cause.to_string())
            })
            .and_then(|text| header(text.trim()).map_err(|error| error.to_string()));
        let mut complaint = self
            .complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let new = match read {
            Ok(new) => new,
            Err(cause) => {
                if complaint.as_ref() != Some(&cause) {
                    warn!(file = %file.display(), cause, "the token file can't be used");
                    *complaint = Some(cause);
                }
                return false;
            }
        };
        *complaint = None;
        let mut value = self.value.write().unwrap_or_else(PoisonError::into_inner);
        let changed = value.as_ref() != Some(&new);
        if changed {
            info!(file = %file.display(), "token taken from its file");
            *value = Some(new);
        }
        changed
    }
}

fn header(token: &str) -> Result<HeaderValue> {
    let refused = || {
        error(
            ErrorKind::InvalidConfig,
            "token: accepted are printable ASCII characters, and at least one",
        )
    };
    if token.is_empty() {
        return Err(refused());
    }
    let mut value = HeaderValue::from_str(token).map_err(|_| refused())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_and_never_lost() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let config = ConsulConfig {
            token_file: Some(file.clone()),
            ..ConsulConfig::default()
        };
        let token = Token::new(&config).unwrap();
        assert_eq!(token.value(), None);
        fs::write(&file, "one\n").unwrap();
        assert!(token.reload() && !token.reload());
        assert_eq!(token.value().unwrap(), "one");
        fs::remove_file(&file).unwrap();
        assert!(!token.reload());
        assert_eq!(token.value().unwrap(), "one");
        assert!(!format!("{:?}", token.value()).contains("one"));
    }
}
