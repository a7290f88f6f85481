//! What a call to etcd can end with, and what to do then.

use etcd_client::Error as ClientError;
use tidings_api::{Error, ErrorKind};
use tonic::Code;

/// How a call ended that did not succeed, by what has to be done about it.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This member didn't answer, or can't now: another one may.
    Unreachable(Error),
    /// The cluster answered that it can't do it now: the same call may succeed later.
    Busy(Error),
    /// The cluster has no space left: it takes nothing but plain deletions, until somebody makes some.
    Full(Error),
    /// The login has expired: log in again.
    Token,
    /// A login where nobody can: there are no users.
    NoUsers,
    /// The lease is gone, with everything that hung on it: ask for a new one.
    LeaseGone,
    /// The history asked for is gone: read the present.
    Compacted,
    /// The user may not do it, or doesn't exist.
    Denied(Error),
    /// It makes no sense to the server, and never will.
    Refused(Error),
}

impl Fault {
    /// The time is over in which a member should have answered.
    pub(crate) fn no_answer() -> Self {
        Self::Unreachable(error(ErrorKind::Timeout, "no answer in time"))
    }

    /// A stream that ended without saying why.
    pub(crate) fn ended() -> Self {
        Self::Unreachable(error(ErrorKind::Unavailable, "the stream ended"))
    }

    /// A watch that the server canceled, for this reason.
    pub(crate) fn canceled(compact_revision: i64, reason: &str) -> Self {
        if compact_revision != 0 || reason.contains("compacted") {
            return Self::Compacted;
        }
        // The server knows these only as text, since the stream itself lives on.
        if reason.contains("auth token") {
            return Self::Token;
        }
        if reason.contains("permission denied") {
            return Self::Denied(error(ErrorKind::Denied, reason.to_owned()));
        }
        let reason = format!("the watch was canceled: {reason}");
        Self::Unreachable(error(ErrorKind::Unavailable, reason))
    }

    /// For the user.
    pub(crate) fn to_error(&self) -> Error {
        match self {
            Self::Unreachable(error)
            | Self::Busy(error)
            | Self::Full(error)
            | Self::Denied(error)
            | Self::Refused(error) => error.clone(),
            Self::Token => error(ErrorKind::Denied, "the login is refused again and again"),
            Self::NoUsers => error(ErrorKind::Protocol, "a login to an etcd that has no users"),
            Self::LeaseGone => error(ErrorKind::Unavailable, "the lease is gone"),
            Self::Compacted => error(ErrorKind::Unavailable, "the history is compacted"),
        }
    }
}

impl From<ClientError> for Fault {
    fn from(cause: ClientError) -> Self {
        let status = match cause {
            ClientError::GRpcStatus(status) => status,
            ClientError::LeaseKeepAliveError(text) if text.contains("not found") => {
                return Self::LeaseGone;
            }
            ClientError::InvalidArgs(text) => {
                return Self::Refused(error(ErrorKind::Internal, text));
            }
            ClientError::InvalidUri(cause) => {
                return Self::Refused(error(ErrorKind::InvalidConfig, cause.to_string()));
            }
            other => return Self::Unreachable(error(ErrorKind::Unavailable, other.to_string())),
        };
        let code = status.code();
        let text = format!("{code:?}: {}", status.message());
        match code {
            Code::Unauthenticated => Self::Token,
            Code::Unknown if status.message().contains("invalid auth token") => Self::Token,
            Code::PermissionDenied => Self::Denied(error(ErrorKind::Denied, text)),
            Code::InvalidArgument if is_login_failure(status.message()) => {
                Self::Denied(error(ErrorKind::Denied, text))
            }
            Code::InvalidArgument if is_old_login(status.message()) => Self::Token,
            Code::FailedPrecondition
                if status.message().contains("authentication is not enabled") =>
            {
                Self::NoUsers
            }
            Code::FailedPrecondition if is_about_the_member(status.message()) => {
                Self::Unreachable(error(ErrorKind::Unavailable, text))
            }
            Code::NotFound if status.message().contains("lease not found") => Self::LeaseGone,
            Code::OutOfRange if status.message().contains("compacted") => Self::Compacted,
            Code::ResourceExhausted if status.message().contains("space exceeded") => {
                Self::Full(error(ErrorKind::Unavailable, text))
            }
            Code::ResourceExhausted => Self::Busy(error(ErrorKind::Unavailable, text)),
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::OutOfRange => Self::Refused(error(ErrorKind::Protocol, text)),
            Code::DeadlineExceeded => Self::Unreachable(error(ErrorKind::Timeout, text)),
            _ => Self::Unreachable(error(ErrorKind::Unavailable, text)),
        }
    }
}

/// An error of this backend.
pub(crate) fn error(kind: ErrorKind, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(kind, message).with_backend("etcd")
}

fn is_login_failure(message: &str) -> bool {
    ["authentication failed", "user name not found"]
        .iter()
        .any(|text| message.contains(text))
}

/// The login is from before users were asked for, or for another state of theirs; a new one helps.
fn is_old_login(message: &str) -> bool {
    ["user name is empty", "revision of auth store is old"]
        .iter()
        .any(|text| message.contains(text))
}

/// What this member can't, and another one can. Since 3.6 the code doesn't tell.
fn is_about_the_member(message: &str) -> bool {
    ["not supported for learner", "not capable", "not leader"]
        .iter()
        .any(|text| message.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_this_member_cannot_do_is_tried_on_another() {
        for text in [
            "etcdserver: rpc not supported for learner",
            "etcdserver: not capable",
            "etcdserver: not leader",
        ] {
            for code in [Code::Unavailable, Code::FailedPrecondition] {
                let fault = Fault::from(ClientError::GRpcStatus(tonic::Status::new(code, text)));
                assert!(
                    matches!(fault, Fault::Unreachable(_)),
                    "{code:?}: {fault:?}"
                );
            }
        }
        let text = "etcdserver: mvcc: something else";
        let other = tonic::Status::new(Code::FailedPrecondition, text);
        let fault = Fault::from(ClientError::GRpcStatus(other));
        assert!(matches!(fault, Fault::Refused(_)), "{fault:?}");
    }

    #[test]
    fn a_cancel_is_told_by_its_revision_where_it_has_no_text() {
        assert!(matches!(Fault::canceled(21, ""), Fault::Compacted));
        let token = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
        assert!(matches!(Fault::canceled(0, token), Fault::Token));
        assert!(matches!(
            Fault::canceled(0, "etcdserver: permission denied"),
            Fault::Denied(_)
        ));
        assert!(matches!(Fault::canceled(0, ""), Fault::Unreachable(_)));
    }
}
