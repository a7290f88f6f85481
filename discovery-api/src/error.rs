//! One error type for every backend.

use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: a [`kind`](Error::kind) that programs react to, and a text for people.
///
/// `Display` prints this level only; walk [`source`](StdError::source) for the causes. Neither
/// prints a secret. Cloning is cheap.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    backend: Option<&'static str>,
    operation: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The class of an [`Error`], for programs to react to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, address, metadata entry or another argument breaks the contract's limits.
    /// Nothing was sent.
    InvalidInput,
    /// The configuration has an unknown key, an impossible value, or names a backend that is not
    /// compiled in.
    InvalidConfig,
    /// The key is not registered by this handle (never, no longer, or a newer owner has it).
    NotOwned,
    /// The backend refuses these credentials or this operation.
    Denied,
    /// The backend can't be reached or can't answer now.
    Unavailable,
    /// No answer came in time; whether the operation happened is not known.
    Timeout,
    /// The backend has no way to do this.
    Unsupported,
    /// The other side answered with something that makes no sense.
    Protocol,
    /// The handle is closed.
    Closed,
    /// A defect of this library.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout)
    }
}

impl Error {
    /// An error of `kind`; `message` says what is wrong and with which value, in lower case and
    /// without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                kind,
                backend: None,
                operation: None,
                message: message.into(),
                source: None,
            }),
        }
    }

    /// Shorthand for [`ErrorKind::InvalidInput`].
    pub fn invalid_input(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Shorthand for [`ErrorKind::InvalidConfig`].
    pub fn invalid_config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidConfig, message)
    }

    /// The error of every verb after `close` (CLO-3).
    #[must_use]
    pub fn closed() -> Self {
        Self::new(ErrorKind::Closed, "this handle is closed")
    }

    /// Names the backend it came from.
    #[must_use]
    pub fn with_backend(self, backend: &'static str) -> Self {
        self.change(|inner| inner.backend = Some(backend))
    }

    /// Says what was being done, for example `register payments/web-1`.
    #[must_use]
    pub fn with_operation(self, operation: impl Into<Cow<'static, str>>) -> Self {
        self.change(|inner| inner.operation = Some(operation.into()))
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.change(|inner| inner.source = Some(Arc::new(source)))
    }

    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The backend it came from, where one was involved.
    #[must_use]
    pub fn backend(&self) -> Option<&'static str> {
        self.inner.backend
    }

    /// Whether the same call may succeed later; a function of the kind alone.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.inner.kind.is_retryable()
    }

    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.inner));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(backend) = self.inner.backend {
            write!(f, "{backend}: ")?;
        }
        if let Some(operation) = &self.inner.operation {
            write!(f, "{operation}: ")?;
        }
        f.write_str(&self.inner.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.inner.kind)?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, "; caused by: {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner
            .source
            .as_ref()
            .map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// For calls that take anything that may become a configuration, also what can't fail to.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_one_level_and_debug_the_chain() {
        let error = Error::new(ErrorKind::Unavailable, "no answer from 10.0.0.1:7946")
            .with_backend("gossip")
            .with_operation("join")
            .with_source(std::io::Error::other("refused"));
        assert_eq!(
            error.to_string(),
            "gossip: join: no answer from 10.0.0.1:7946"
        );
        assert_eq!(
            format!("{error:?}"),
            "Unavailable: gossip: join: no answer from 10.0.0.1:7946; caused by: refused"
        );
    }

    #[test]
    fn only_unavailable_and_timeout_are_retryable() {
        assert!(ErrorKind::Unavailable.is_retryable() && ErrorKind::Timeout.is_retryable());
        assert!(!ErrorKind::Denied.is_retryable() && !ErrorKind::Closed.is_retryable());
    }
}
