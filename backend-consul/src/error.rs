//! What an agent's refusals become.

use std::fmt::Write;
use std::time::Duration;

use http::StatusCode;
use tidings_api::{Error, ErrorKind};

use crate::BACKEND;

/// Longest part of an agent's own words in an error.
const WORDS_CHARS_MAX: usize = 200;

/// An error of `kind` of this backend.
pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::new(kind, message.into()).with_backend(BACKEND)
}

/// The agent could not be talked to.
pub(crate) fn unreachable(
    agent: &str,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let message = format!("no answer from the agent at {agent}");
    error(ErrorKind::Unavailable, message).with_source(cause)
}

/// The agent took too long; whether it has done it is not known.
pub(crate) fn late(agent: &str, limit: Duration) -> Error {
    let message = format!("no answer from the agent at {agent} within {limit:?}");
    error(ErrorKind::Timeout, message)
}

/// The agent answered with something that makes no sense.
pub(crate) fn nonsense(what: &str, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    let message = format!("{what}: the answer can't be read");
    error(ErrorKind::Protocol, message).with_source(cause)
}

/// The agent said no.
pub(crate) fn refused(status: StatusCode, words: &[u8]) -> Error {
    let kind = match status.as_u16() {
        400 | 401 | 403 | 405 | 413 => ErrorKind::Denied,
        404 => ErrorKind::Protocol,
        _ => ErrorKind::Unavailable,
    };
    error(kind, format!("{status}: {}", in_short(words)))
}

/// Whether the agent says that it doesn't know the check or service. Older ones do so with the
/// status of a failure, and in other words where there are no access lists.
pub(crate) fn is_unknown(status: StatusCode, words: &[u8]) -> bool {
    match status {
        StatusCode::NOT_FOUND => true,
        StatusCode::INTERNAL_SERVER_ERROR => {
            let text = String::from_utf8_lossy(words);
            text.starts_with("Unknown check")
                || text.starts_with("Unknown service")
                || text.ends_with("does not have associated TTL")
        }
        _ => false,
    }
}

/// An error with its causes, for people.
pub(crate) fn whole(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// Whether trying again has a point without anybody changing anything on Consul's side.
pub(crate) fn is_final(error: &Error) -> bool {
    !error.is_retryable()
}

fn in_short(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = shown.take(WORDS_CHARS_MAX).collect();
    shown.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_failures() {
        let kind = |status| refused(StatusCode::from_u16(status).unwrap(), b"x").kind();
        assert_eq!(kind(403), ErrorKind::Denied);
        assert_eq!(kind(500), ErrorKind::Unavailable);
        assert_eq!(kind(429), ErrorKind::Unavailable);
        let text = refused(StatusCode::FORBIDDEN, b"ACL not found\n\x1b").to_string();
        assert_eq!(text, "consul: 403 Forbidden: ACL not found");
    }

    #[test]
    fn every_way_to_say_unknown_is_known() {
        let server_error = StatusCode::INTERNAL_SERVER_ERROR;
        assert!(is_unknown(server_error, br#"Unknown check "nope""#));
        assert!(is_unknown(server_error, br#"Unknown service {"nope" {}}"#));
        let no_ttl = br#"CheckID "nope" does not have associated TTL"#;
        assert!(is_unknown(server_error, no_ttl));
        assert!(is_unknown(StatusCode::NOT_FOUND, b""));
        assert!(!is_unknown(server_error, b"No cluster leader"));
    }
}
