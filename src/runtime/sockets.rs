//! The sockets of everything that listens or connects: tokio's.
//!
//! In test builds they are either tokio's or, within a simulation, those of its network, so that
//! the very same leader and node run on both. Whoever needs a socket takes it from here.

#[cfg(not(test))]
pub use tokio::net::{TcpListener, TcpStream};

#[cfg(test)]
pub use either::{TcpListener, TcpStream};

#[cfg(test)]
mod either {
    use std::io;
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio::net as real;
    use turmoil::net as simulated;

    /// A listening socket of the machine or of a simulated host.
    pub enum TcpListener {
        /// Of the machine.
        Real(real::TcpListener),
        /// Of a simulated host.
        Simulated(simulated::TcpListener),
    }

    /// A connection of the machine or of a simulated host.
    #[derive(Debug)]
    pub enum TcpStream {
        /// Of the machine.
        Real(real::TcpStream),
        /// Of a simulated host.
        Simulated(simulated::TcpStream),
    }

    impl std::fmt::Debug for TcpListener {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_tuple("TcpListener").field(&self.local_addr()).finish()
        }
    }

    impl TcpListener {
        /// Listens where the caller runs.
        pub async fn bind(address: SocketAddr) -> io::Result<Self> {
            if turmoil::in_simulation() {
                return simulated::TcpListener::bind(address).await.map(Self::Simulated);
            }
            real::TcpListener::bind(address).await.map(Self::Real)
        }

        /// The next connection, and where it comes from.
        pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            match self {
                Self::Real(listener) => {
                    listener.accept().await.map(|(stream, from)| (TcpStream::Real(stream), from))
                }
                Self::Simulated(listener) => {
                    let (stream, from) = listener.accept().await?;
                    Ok((TcpStream::Simulated(stream), from))
                }
            }
        }

        /// The address of this side.
        pub fn local_addr(&self) -> io::Result<SocketAddr> {
            match self {
                Self::Real(listener) => listener.local_addr(),
                Self::Simulated(listener) => listener.local_addr(),
            }
        }
    }

    impl TcpStream {
        /// Connects to a host of the simulated network.
        pub async fn connect_simulated(address: String) -> io::Result<Self> {
            simulated::TcpStream::connect(address).await.map(Self::Simulated)
        }

        /// Whether small packets are sent at once.
        pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
            match self {
                Self::Real(stream) => stream.set_nodelay(nodelay),
                Self::Simulated(stream) => stream.set_nodelay(nodelay),
            }
        }

        /// The address of this side.
        pub fn local_addr(&self) -> io::Result<SocketAddr> {
            match self {
                Self::Real(stream) => stream.local_addr(),
                Self::Simulated(stream) => stream.local_addr(),
            }
        }

        /// The address of the other side.
        pub fn peer_addr(&self) -> io::Result<SocketAddr> {
            match self {
                Self::Real(stream) => stream.peer_addr(),
                Self::Simulated(stream) => stream.peer_addr(),
            }
        }
    }

    impl AsyncRead for TcpStream {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match self.get_mut() {
                Self::Real(stream) => Pin::new(stream).poll_read(context, buffer),
                Self::Simulated(stream) => Pin::new(stream).poll_read(context, buffer),
            }
        }
    }

    impl AsyncWrite for TcpStream {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            match self.get_mut() {
                Self::Real(stream) => Pin::new(stream).poll_write(context, bytes),
                Self::Simulated(stream) => Pin::new(stream).poll_write(context, bytes),
            }
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            slices: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            match self.get_mut() {
                Self::Real(stream) => Pin::new(stream).poll_write_vectored(context, slices),
                Self::Simulated(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            }
        }

        fn is_write_vectored(&self) -> bool {
            matches!(self, Self::Real(_))
        }

        fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.get_mut() {
                Self::Real(stream) => Pin::new(stream).poll_flush(context),
                Self::Simulated(stream) => Pin::new(stream).poll_flush(context),
            }
        }

        fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.get_mut() {
                Self::Real(stream) => Pin::new(stream).poll_shutdown(context),
                Self::Simulated(stream) => Pin::new(stream).poll_shutdown(context),
            }
        }
    }
}
