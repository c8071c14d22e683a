//! Why there is no figure.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::wire::Malformed;

/// A run that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No connection could be opened.
    #[error("cannot connect to {address}")]
    Connect {
        /// Whom we tried.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// etcd could not be reached.
    #[error("cannot connect to etcd")]
    Channel(#[from] tonic::transport::Error),
    /// The connection ended under a request.
    #[error("client {client}: the connection ended with {missing} replies missing")]
    Disconnected {
        /// Which client's.
        client: usize,
        /// How many replies had not come.
        missing: usize,
        /// What the system said, if it was not a plain end.
        source: Option<io::Error>,
    },
    /// A reply did not come in time.
    #[error("client {client}: {missing} replies missing after {}", humantime::format_duration(*.within))]
    Missing {
        /// Which client's.
        client: usize,
        /// How many replies had not come.
        missing: usize,
        /// How long was waited.
        within: Duration,
    },
    /// A reply came that nobody asked for.
    #[error("client {client}: a reply to no request: `{shown}`")]
    Extra {
        /// Which client's.
        client: usize,
        /// Its beginning.
        shown: String,
    },
    /// A reply that is none of the protocol, or does not fit the request.
    #[error("client {client}: {request} was answered {malformed}")]
    Malformed {
        /// Which client's.
        client: usize,
        /// What was asked.
        request: &'static str,
        /// What came.
        malformed: Malformed,
    },
    /// A key that was stored is gone.
    #[error("client {client}: the key {key} was stored and is gone")]
    Lost {
        /// Which client's.
        client: usize,
        /// The key.
        key: String,
    },
    /// A value that is not what was last stored.
    #[error("client {client}: GET {key} must return `{expected}`, and returned `{found}`")]
    Wrong {
        /// Which client's.
        client: usize,
        /// The key.
        key: String,
        /// The beginning of the value that was last stored.
        expected: String,
        /// The beginning of the value that came.
        found: String,
    },
    /// The driver's thread or runtime cannot be started, or has gone.
    #[error("the load driver cannot run")]
    Driver(#[source] io::Error),
}

/// The beginning of some bytes, for a message.
pub(super) fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 48;
    let cut = bytes.get(..SHOWN).unwrap_or(bytes);
    let dots = if cut.len() < bytes.len() { "..." } else { "" };
    format!("{}{dots}", cut.escape_ascii())
}
