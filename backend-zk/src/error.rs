//! From the client library's errors to those of the contract.

use tidings_api::{Error, ErrorKind};
use zookeeper_client as zk;

/// The backend's name: the URL scheme and the Cargo feature.
pub(crate) const BACKEND: &str = "zk";

/// Why a request to ZooKeeper was not done, or is not known to be.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// ZooKeeper, or the client library in its place, says so.
    Refused(zk::Error),
    /// No answer came in time; what was asked for may still happen.
    Silent,
}

impl Failure {
    /// Whether a write that failed so may have happened all the same, or may happen yet.
    pub(crate) fn is_ambiguous(&self) -> bool {
        match self {
            Self::Silent => true,
            Self::Refused(error) => matches!(
                error,
                zk::Error::ConnectionLoss
                    | zk::Error::SessionExpired
                    | zk::Error::SessionMoved
                    | zk::Error::ClientClosed
                    | zk::Error::Timeout
                    | zk::Error::UnexpectedError(_)
                    | zk::Error::UnmarshalError { .. }
                    | zk::Error::Custom(_)
            ),
        }
    }

    /// Whether what was read before has changed meanwhile.
    pub(crate) fn is_change(&self) -> bool {
        matches!(
            self,
            Self::Refused(zk::Error::BadVersion | zk::Error::NoNode | zk::Error::NodeExists)
        )
    }

    /// Whether these credentials may not do it.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(
            self,
            Self::Refused(zk::Error::NoAuth | zk::Error::AuthFailed | zk::Error::InvalidAcl)
        )
    }

    /// Whether the server doesn't know the request.
    pub(crate) fn is_unknown_request(&self) -> bool {
        matches!(self, Self::Refused(zk::Error::Unimplemented))
    }

    pub(crate) fn into_error(self, operation: impl Into<String>) -> Error {
        let (kind, message) = match &self {
            Self::Silent => (ErrorKind::Timeout, "no answer in time"),
            Self::Refused(error) => (kind_of(error), "the request failed"),
        };
        let error = Error::new(kind, message)
            .with_backend(BACKEND)
            .with_operation(operation.into());
        match self {
            Self::Refused(source) => error.with_source(source),
            Self::Silent => error,
        }
    }
}

impl From<zk::Error> for Failure {
    fn from(error: zk::Error) -> Self {
        Self::Refused(error)
    }
}

impl From<zk::MultiWriteError> for Failure {
    fn from(error: zk::MultiWriteError) -> Self {
        Self::Refused(error.into())
    }
}

fn kind_of(error: &zk::Error) -> ErrorKind {
    match error {
        zk::Error::NoAuth | zk::Error::AuthFailed | zk::Error::InvalidAcl => ErrorKind::Denied,
        zk::Error::Timeout => ErrorKind::Timeout,
        zk::Error::Unimplemented => ErrorKind::Unsupported,
        zk::Error::UnmarshalError { .. } | zk::Error::MarshallingError => ErrorKind::Protocol,
        zk::Error::BadArguments(_) => ErrorKind::Internal,
        _ => ErrorKind::Unavailable,
    }
}
