//! What can go wrong with a socket, in Linux's words. Nothing here says why in the agent's terms.

use super::DialFailure;
use nix::errno::Errno;
use std::io;
use thiserror::Error;

/// Why a socket did not do what a guest asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum SocketError {
    #[error("address in use")]
    AddressInUse,
    #[error("address not available")]
    AddressNotAvailable,
    #[error("invalid argument")]
    InvalidArgument,
    #[error("connection refused")]
    Refused,
    #[error("unreachable")]
    Unreachable,
    #[error("timed out")]
    TimedOut,
    #[error("permission denied")]
    Denied,
    #[error("too many sockets")]
    TooMany,
    #[error("datagram too large")]
    TooLarge,
}

impl SocketError {
    /// The same as the number that Linux gives for it.
    pub(crate) fn errno(self) -> Errno {
        match self {
            Self::AddressInUse => Errno::EADDRINUSE,
            Self::AddressNotAvailable => Errno::EADDRNOTAVAIL,
            Self::InvalidArgument => Errno::EINVAL,
            Self::Refused => Errno::ECONNREFUSED,
            Self::Unreachable => Errno::EHOSTUNREACH,
            Self::TimedOut => Errno::ETIMEDOUT,
            Self::Denied => Errno::EACCES,
            Self::TooMany => Errno::EMFILE,
            Self::TooLarge => Errno::EMSGSIZE,
        }
    }
}

impl From<SocketError> for io::Error {
    fn from(error: SocketError) -> Self {
        error.errno().into()
    }
}

impl From<DialFailure> for SocketError {
    fn from(failure: DialFailure) -> Self {
        match failure {
            DialFailure::Refused => Self::Refused,
            DialFailure::Unreachable => Self::Unreachable,
            DialFailure::TimedOut => Self::TimedOut,
            DialFailure::Denied => Self::Denied,
            DialFailure::TooMany => Self::TooMany,
        }
    }
}
