//! Connections over real sockets, before a store in memory.

mod backend;
mod connections;
mod overload;
mod scripts;

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::budget::Budget;
use super::listener::{Listener, Options};
use super::patience::Timeouts;
use crate::protocol::command::Mode;
use crate::protocol::line::Limits;
use crate::runtime::metrics::ClientMetrics;
use crate::runtime::tasks::Tasks;
use backend::{Answers, Backend};

/// Whatever a test waits for has come by then, or never comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A listener and what is around it.
struct Server {
    address: std::net::SocketAddr,
    backend: Backend,
    budget: Budget,
    metrics: ClientMetrics,
    tasks: Tasks,
}

fn options() -> Options {
    Options {
        address: ([127, 0, 0, 1], 0).into(),
        mode: Mode::Simple,
        limits: Limits::default(),
        max_connections: 100,
        max_pipeline: 10_000,
        timeouts: Timeouts { read: PATIENCE, write: PATIENCE, stall: PATIENCE },
    }
}

impl Server {
    async fn start(answers: Answers, options: Options) -> Self {
        let (backend, budget) = (Backend::new(answers), Budget::new(64 << 20));
        let (metrics, tasks) = (ClientMetrics::new(), Tasks::new());
        let listener = Listener::bind(options, budget.clone(), metrics.clone()).await.unwrap();
        let address = listener.address();
        listener.start(backend.clone(), &tasks);
        Self { address, backend, budget, metrics, tasks }
    }

    async fn connect(&self) -> Client {
        Client(BufStream::new(TcpStream::connect(self.address).await.unwrap()))
    }
}

/// A client that sends and expects bytes.
struct Client(BufStream<TcpStream>);

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    async fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut got = vec![0; expected.len()];
        within(self.0.read_exact(&mut got)).await.unwrap();
        assert!(got == expected, "expected {}, got {}", show(expected), show(&got));
    }

    async fn line(&mut self) -> String {
        String::from_utf8(self.line_of_bytes().await).unwrap()
    }

    /// The next line with its end.
    async fn line_of_bytes(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        within(self.0.read_until(b'\n', &mut line)).await.unwrap();
        line
    }

    /// Everything up to the end of the connection.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        within(self.0.read_to_end(&mut rest)).await.unwrap();
        String::from_utf8(rest).unwrap()
    }
}

fn show(bytes: &[u8]) -> String {
    bytes.get(..200).unwrap_or(bytes).escape_ascii().to_string()
}

async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.expect("it does not come")
}

/// Waits until something is so.
async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
