//! Servers and channels, with the settings that all of them share.

use std::time::Duration;

#[cfg(not(test))]
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

#[cfg(not(test))]
use crate::runtime::sockets::TcpListener;

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
#[cfg(not(test))]
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

#[cfg(test)]
pub use simulated::incoming;

/// Opens a channel.
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    #[cfg(test)]
    if turmoil::in_simulation() {
        return endpoint.connect_with_connector(simulated::connector()).await;
    }
    endpoint.connect().await
}

/// A channel that is opened when it is first used, and again whenever it broke.
pub fn connect_lazy(endpoint: &Endpoint) -> Channel {
    #[cfg(test)]
    if turmoil::in_simulation() {
        return endpoint.connect_with_connector_lazy(simulated::connector());
    }
    endpoint.connect_lazy()
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

/// The same over the sockets of test builds, which may be those of a simulated network.
#[cfg(test)]
mod simulated {
    use std::io;
    use std::pin::Pin;

    use futures::Stream;
    use hyper_util::rt::TokioIo;
    use tonic::transport::Uri;
    use tonic::transport::server::{Connected, TcpConnectInfo};
    use tower::Service;

    use crate::runtime::sockets::{TcpListener, TcpStream};

    /// The connections of a listener.
    pub fn incoming(listener: TcpListener) -> Incoming {
        Box::pin(futures::stream::unfold(listener, |listener| async {
            let accepted = match listener.accept().await {
                Ok((stream, _)) => stream.set_nodelay(true).map(|()| stream),
                Err(error) => Err(error),
            };
            Some((accepted, listener))
        }))
    }

    type Incoming = Pin<Box<dyn Stream<Item = io::Result<TcpStream>> + Send>>;

    impl Connected for TcpStream {
        type ConnectInfo = TcpConnectInfo;

        fn connect_info(&self) -> TcpConnectInfo {
            TcpConnectInfo {
                local_addr: self.local_addr().ok(),
                remote_addr: self.peer_addr().ok(),
            }
        }
    }

    type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    /// Connects to hosts of a simulated network.
    pub(super) fn connector()
    -> impl Service<Uri, Response = TokioIo<TcpStream>, Error = io::Error, Future = Connecting> + Send
    {
        tower::service_fn(|uri: Uri| -> Connecting {
            Box::pin(async move {
                let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
                let address = format!("{host}:{port}");
                TcpStream::connect_simulated(address).await.map(TokioIo::new)
            })
        })
    }
}
