//! Servers and channels, with the settings that all of them share.

use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};

/// Version of the wire and disk formats that this build speaks.
pub const FORMAT: u32 = 1;
/// Batches are filled to this size, unless one record alone is larger.
pub const BATCH_BYTES: usize = 1 << 20;
/// How many full batches a stream holds before flow control stops its sender.
const BATCHES_IN_WINDOW: u32 = 64;
const STREAM_WINDOW_BYTES: u32 = BATCHES_IN_WINDOW << 20;
/// Two streams may be full before a third waits.
const CONNECTION_WINDOW_BYTES: u32 = 2 * STREAM_WINDOW_BYTES;
/// A full batch is four frames.
const FRAME_BYTES: u32 = 256 << 10;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// An address that cannot be one.
#[derive(Debug, thiserror::Error)]
#[error("'{address}' is not an address; it must be host:port, like leader:50051")]
pub struct AddressError {
    address: String,
    source: tonic::transport::Error,
}

/// The largest message where values may have `max_value_bytes`: one such record, or one full batch,
/// and what describes it.
pub fn message_limit(max_value_bytes: usize) -> usize {
    max_value_bytes.saturating_add(2 * BATCH_BYTES)
}

/// A server to which services are added.
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// The connections of a listener, none of which delays small packets.
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

/// Where a channel may be opened to, by `host:port`.
pub fn endpoint(address: &str) -> Result<Endpoint, AddressError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|source| AddressError { address: address.into(), source })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}
