//! Accepts clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{BoxError, Service};

use super::batch::{Answer, Batch};
use super::budget::Budget;
use super::connection::{Connection, Settings, linger};
use super::patience::Timeouts;
use super::window::WindowLimits;
use crate::protocol::command::Mode;
use crate::protocol::line::Limits;
use crate::protocol::reply::Renderer;
use crate::runtime::listen::{ListenError, listen};
use crate::runtime::metrics::ClientMetrics;
use crate::runtime::sockets::{TcpListener, TcpStream};
use crate::runtime::tasks::Tasks;

/// Clients that are being turned away at once; further ones are closed without a word.
const MAX_REFUSALS: usize = 64;
/// How long to wait after the system could not accept, usually for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// A connection may hold at least this much.
const MIN_CONNECTION_BYTES: usize = 16 << 20;
/// And this many values of the greatest length.
const VALUES_PER_CONNECTION: usize = 4;

/// What a listener needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 picks a free port.
    pub address: SocketAddr,
    /// The form of the replies to begin with.
    pub mode: Mode,
    /// The greatest key and value.
    pub limits: Limits,
    /// Connections at once.
    pub max_connections: usize,
    /// Requests of one connection in flight at once.
    pub max_pipeline: usize,
    /// How long a client may keep its connection waiting.
    pub timeouts: Timeouts,
}

/// A listener that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The socket could not be made to listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The mode is only reserved.
    #[error("the reply mode '{}' is not available yet; use 'simple'", .0.name())]
    Mode(Mode),
}

/// A socket that clients can connect to.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    settings: Settings,
    places: Arc<Semaphore>,
    max_connections: usize,
    budget: Budget,
    metrics: ClientMetrics,
}

impl Listener {
    /// Listens. Clients that connect wait until [`Self::start`].
    pub async fn bind(
        options: Options,
        budget: Budget,
        metrics: ClientMetrics,
    ) -> Result<Self, ListenerError> {
        let renderer = Renderer::for_mode(options.mode).ok_or(ListenerError::Mode(options.mode))?;
        let (socket, address) = listen(options.address).await?;
        let value_bytes = options.limits.max_value_bytes;
        let bytes = value_bytes.saturating_mul(VALUES_PER_CONNECTION).max(MIN_CONNECTION_BYTES);
        let requests = options.max_pipeline.max(1);
        let window = WindowLimits { requests, bytes, value_bytes };
        let max_connections = options.max_connections.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            socket,
            address,
            settings: Settings {
                renderer,
                limits: options.limits,
                window,
                timeouts: options.timeouts,
            },
            places: Arc::new(Semaphore::new(max_connections)),
            max_connections,
            budget,
            metrics,
        })
    }

    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts clients, each a task of `tasks`, until those are told to stop. Whoever waits for the
    /// tasks waits until every request accepted was answered.
    pub fn start<S>(self, service: S, tasks: &Tasks)
    where
        S: Service<Batch, Response = Vec<Answer>, Error = BoxError> + Clone + Send + 'static,
        S::Future: Send,
    {
        tasks.spawn({
            let tasks = tasks.clone();
            async move {
                tokio::select! {
                    () = tasks.stopping() => {}
                    () = self.accept(service, &tasks) => {}
                }
            }
        });
    }

    async fn accept<S>(&self, service: S, tasks: &Tasks)
    where
        S: Service<Batch, Response = Vec<Answer>, Error = BoxError> + Clone + Send + 'static,
        S::Future: Send,
    {
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        loop {
            let stream = match self.socket.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a client could not be accepted");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                self.serve(stream, service.clone(), place, tasks);
            } else {
                self.metrics.refused_connections.inc();
                if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    tasks.spawn(refuse(stream, self.max_connections, permit));
                }
            }
        }
    }

    fn serve<S>(&self, stream: TcpStream, service: S, place: OwnedSemaphorePermit, tasks: &Tasks)
    where
        S: Service<Batch, Response = Vec<Answer>, Error = BoxError> + Send + 'static,
        S::Future: Send,
    {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "the client was gone before it was served");
            return;
        }
        let share = self.budget.share();
        let metrics = self.metrics.clone();
        let connection = Connection::new(stream, service, self.settings, share, metrics.clone());
        let stopping = tasks.clone();
        tasks.spawn(async move {
            metrics.connections.inc();
            connection.run(stopping.stopping()).await;
            metrics.connections.dec();
            drop(place);
        });
    }
}

/// Tells a client that there are too many.
async fn refuse(mut stream: TcpStream, limit: usize, permit: OwnedSemaphorePermit) {
    let text = format!("ERROR BUSY all {limit} connections are taken; close one, or try later\n");
    if stream.write_all(text.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
        linger(&mut stream).await;
    }
    drop(permit);
}
