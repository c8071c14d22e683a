//! A client of our own line protocol: what the command line, `dev` and the load driver speak with.
//!
//! A [`Client`] owns one connection at a time and opens it when it is first needed. Requests may be
//! pipelined: [`Client::pipeline`] writes and reads at once, so that however much is sent, neither
//! side waits for the other with full buffers.
//!
//! What it guarantees:
//!
//! * A request is sent at most once, unless it only reads. A connection that breaks under a write
//!   is reported as [`ClientError::Disconnected`], with its outcome unknown: to send it again could
//!   undo somebody else's later write, and only the caller knows whether that matters.
//! * A connection that the server closed while it was idle is noticed before it is used, and opened
//!   anew, with growing pauses while the server is away (up to [`Options::patience`]).
//! * Whatever cannot be said in the line protocol - a key with a space, a value with a line end -
//!   is refused here, before a byte is sent: it would arrive as something else.
//! * Every wait has a limit, and so has the length of a reply.
//!
//! Replies are kept as the lines that came ([`Reply`]); what they mean is asked of them. So the
//! interactive client shows exactly what a person at `nc` would see.

mod connection;
mod error;
pub mod http;
mod reply;
mod request;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

use connection::Connection;

pub use error::ClientError;
pub use reply::{FileRow, NodeRow, Refusal, Reply, Written};
pub use request::{Request, RequestError};

/// The first pause between attempts to connect; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// No pause between attempts to connect is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whom a client talks to, and how long it waits.
#[derive(Clone, Debug)]
pub struct Options {
    /// The client port of a leader, as `host:port`.
    pub address: String,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long to wait for (more of) a reply.
    pub reply_timeout: Duration,
    /// How long to go on trying while the server cannot be reached. Zero: one attempt.
    pub patience: Duration,
    /// The longest line of a reply that is accepted.
    pub max_reply_bytes: usize,
}

impl Options {
    /// Everything but the address as is usual: 2 s to connect, one attempt, 15 s for a reply.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            connect_timeout: Duration::from_secs(2),
            reply_timeout: Duration::from_secs(15),
            patience: Duration::ZERO,
            max_reply_bytes: (1 << 30) + 64,
        }
    }
}

/// A client with one connection, opened when it is first needed and again after it broke.
#[derive(Debug)]
pub struct Client {
    options: Options,
    connection: Option<Connection>,
}

impl Client {
    /// A client that is not connected yet.
    pub fn new(options: Options) -> Self {
        Self { options, connection: None }
    }

    /// Connects, if the client is not connected already.
    pub async fn connect(&mut self) -> Result<(), ClientError> {
        let open = self.open().await?;
        self.connection = Some(open);
        Ok(())
    }

    /// Sends one request and waits for its reply. A request that only reads is repeated once if
    /// the connection breaks under it.
    pub async fn call(&mut self, request: &Request) -> Result<Reply, ClientError> {
        match self.call_once(request).await {
            Err(ClientError::Disconnected { .. }) if request.only_reads() => {
                self.call_once(request).await
            }
            outcome => outcome,
        }
    }

    async fn call_once(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let mut replies = Vec::with_capacity(1);
        self.pipeline(std::slice::from_ref(request), &mut replies).await?;
        replies.pop().ok_or_else(|| ClientError::disconnected(&self.options.address))
    }

    /// Sends requests back to back and appends the replies as they come, in the order of the
    /// requests. After an error, the outcome of every request without a reply is unknown.
    pub async fn pipeline(
        &mut self,
        requests: &[Request],
        replies: &mut Vec<Reply>,
    ) -> Result<(), ClientError> {
        let mut connection = self.open().await?;
        // Only a connection with no reply outstanding is kept: after an error the next reply to
        // come would be taken for that of another request.
        connection.exchange(requests, replies, &self.options).await?;
        self.connection = Some(connection);
        Ok(())
    }

    /// The value of a key, or `None` if there is no such key.
    pub async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ClientError> {
        self.call(&Request::get(key)?).await?.value()
    }

    /// Stores a value.
    pub async fn set(&mut self, key: &[u8], value: &[u8]) -> Result<Written, ClientError> {
        self.call(&Request::set(key, value)?).await?.written()
    }

    /// Stores a value under a key that exists; refused with `NOT_FOUND` otherwise.
    pub async fn update(&mut self, key: &[u8], value: &[u8]) -> Result<Written, ClientError> {
        self.call(&Request::update(key, value)?).await?.written()
    }

    /// Deletes a key.
    pub async fn delete(&mut self, key: &[u8]) -> Result<Written, ClientError> {
        self.call(&Request::delete(key)?).await?.written()
    }

    /// The live nodes.
    pub async fn nodes(&mut self) -> Result<Vec<NodeRow>, ClientError> {
        self.call(&Request::nodes()).await?.nodes()
    }

    /// How many records each live node holds.
    pub async fn files(&mut self) -> Result<Vec<FileRow>, ClientError> {
        self.call(&Request::files()).await?.files()
    }

    /// The state of the cluster, in a few lines for people.
    pub async fn status(&mut self) -> Result<Vec<String>, ClientError> {
        self.call(&Request::status()).await?.rows()
    }

    /// Where a key lives, in lines for people.
    pub async fn where_(&mut self, key: &[u8]) -> Result<Vec<String>, ClientError> {
        self.call(&Request::where_(key)?).await?.rows()
    }

    /// The open connection if it is still good, else a new one.
    async fn open(&mut self) -> Result<Connection, ClientError> {
        if let Some(connection) = self.connection.take()
            && connection.is_open().await
        {
            return Ok(connection);
        }
        self.connect_patiently().await
    }

    async fn connect_patiently(&self) -> Result<Connection, ClientError> {
        let mut left = self.options.patience;
        let mut pause = FIRST_PAUSE;
        loop {
            match Connection::open(&self.options).await {
                Err(error) if left.is_zero() => return Err(error),
                Err(_) => {}
                Ok(connection) => return Ok(connection),
            }
            let now = pause.min(left);
            tokio::time::sleep(now).await;
            left -= now;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
