//! What can go wrong between a client and its server.

use std::io;
use std::time::Duration;

use super::{Refusal, RequestError};

/// A request without the reply that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The request cannot be said in the line protocol; nothing was sent.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No connection could be opened; nothing was sent.
    #[error("cannot connect to {address}")]
    Connect {
        /// Whom we tried.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection ended before the reply.
    #[error(
        "the connection to {address} ended before the reply came; whether the request took effect \
         is not known"
    )]
    Disconnected {
        /// Whom we were talking to.
        address: String,
        /// What the system said, if it was not a plain end.
        source: Option<io::Error>,
    },
    /// No reply came in time.
    #[error(
        "no reply from {address} within {}; whether the request took effect is not known",
        humantime::format_duration(*.within)
    )]
    Timeout {
        /// Whom we were talking to.
        address: String,
        /// How long we waited.
        within: Duration,
    },
    /// A line of the reply is longer than we accept.
    #[error("a line of the reply is longer than the {limit} bytes that this client accepts")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The reply is none of those that the protocol knows.
    #[error("the reply `{line}` is not one of this protocol; is this the client port of a leader?")]
    Unexpected {
        /// The beginning of the line, with control bytes escaped.
        line: String,
    },
    /// The server said `ERROR`.
    #[error("{0}")]
    Refused(Refusal),
}

impl ClientError {
    pub(super) fn disconnected(address: &str) -> Self {
        Self::Disconnected { address: address.to_owned(), source: None }
    }

    pub(super) fn broken(address: &str, source: io::Error) -> Self {
        Self::Disconnected { address: address.to_owned(), source: Some(source) }
    }

    /// A line that means nothing to us, shown in part.
    pub(super) fn unexpected(line: &[u8]) -> Self {
        const SHOWN: usize = 80;
        let shown = line.get(..SHOWN).unwrap_or(line);
        Self::Unexpected { line: shown.escape_ascii().to_string() }
    }

    /// The code after `ERROR`, if the server refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => Some(&refusal.code),
            _ => None,
        }
    }
}
