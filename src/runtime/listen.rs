//! Listening sockets, with errors that say what to do.

use std::io;
use std::net::SocketAddr;

use super::sockets::TcpListener;

/// A socket that could not be made to listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; {}", advice(.source))]
pub struct ListenError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has the port: stop it, or choose another port (0 picks a free one)"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: use one of its own, 127.0.0.1, or 0.0.0.0 for all"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose a higher one",
        _ => "choose another address or port",
    }
}

/// Listens on an address and says which one it became: port 0 picks a free port.
pub async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    let failed = |source| ListenError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_said_with_what_to_do() {
        let (_held, address) = listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        assert_ne!(address.port(), 0);
        let text = listen(address).await.unwrap_err().to_string();
        assert!(text.contains(&address.to_string()) && text.contains("another process"), "{text}");
    }
}
