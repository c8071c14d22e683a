//! One connection: lines out, lines in, both at once.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::request::Shape;
use super::{ClientError, Options, Reply, Request};

/// What is read from the socket at once, at least.
const READ_BYTES: usize = 64 * 1024;
/// More lines than this are no reply of ours.
const MAX_LINES: usize = 100_000;

/// A connection with no reply outstanding.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
}

impl Connection {
    pub(super) async fn open(options: &Options) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { address: options.address.clone(), source };
        let stream = timeout(options.connect_timeout, TcpStream::connect(&options.address))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self { stream })
    }

    /// Whether the connection can be used: the server did not close it and sent nothing unasked.
    pub(super) async fn is_open(&self) -> bool {
        // What came while we were not looking is known only after the runtime looked.
        tokio::task::yield_now().await;
        self.stream.peek(&mut [0]).now_or_never().is_none()
    }

    /// Writes all requests and reads their replies. If the server stops listening, the replies
    /// that are on their way are still read: they tell what took effect.
    pub(super) async fn exchange(
        &mut self,
        requests: &[Request],
        replies: &mut Vec<Reply>,
        options: &Options,
    ) -> Result<(), ClientError> {
        let (reading, writing) = self.stream.split();
        let mut reader = Reader::new(reading, options);
        let read = async {
            for request in requests {
                replies.push(reader.reply(request.shape()).await?);
            }
            Ok(())
        };
        let mut writing = std::pin::pin!(write(writing, requests));
        let mut read = std::pin::pin!(read);
        let mut written = false;
        loop {
            tokio::select! {
                outcome = &mut read => return outcome,
                _ = &mut writing, if !written => written = true,
            }
        }
    }
}

async fn write(half: WriteHalf<'_>, requests: &[Request]) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(READ_BYTES, half);
    for request in requests {
        writer.write_all(request.line()).await?;
    }
    writer.flush().await
}

/// Cuts what comes into lines.
struct Reader<'a> {
    half: ReadHalf<'a>,
    options: &'a Options,
    buffer: BytesMut,
}

impl<'a> Reader<'a> {
    fn new(half: ReadHalf<'a>, options: &'a Options) -> Self {
        Self { half, options, buffer: BytesMut::new() }
    }

    async fn reply(&mut self, shape: Shape) -> Result<Reply, ClientError> {
        let mut lines = vec![self.line().await?];
        while shape == Shape::Multiple && !is_last(&lines) {
            if lines.len() == MAX_LINES {
                return Err(ClientError::TooLong { limit: MAX_LINES });
            }
            lines.push(self.line().await?);
        }
        Ok(Reply::new(lines))
    }

    async fn line(&mut self) -> Result<Bytes, ClientError> {
        let mut searched = 0;
        loop {
            let fresh = self.buffer.get(searched..).unwrap_or_default();
            if let Some(found) = fresh.iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(searched + found + 1);
                line.truncate(searched + found);
                return Ok(line.freeze());
            }
            searched = self.buffer.len();
            if searched > self.options.max_reply_bytes {
                return Err(ClientError::TooLong { limit: self.options.max_reply_bytes });
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), ClientError> {
        self.buffer.reserve(READ_BYTES);
        let within = self.options.reply_timeout;
        let address = &self.options.address;
        match timeout(within, self.half.read_buf(&mut self.buffer)).await {
            Err(_) => Err(ClientError::Timeout { address: address.clone(), within }),
            Ok(Err(error)) => Err(ClientError::broken(address, error)),
            Ok(Ok(0)) => Err(ClientError::disconnected(address)),
            Ok(Ok(_)) => Ok(()),
        }
    }
}

fn is_last(lines: &[Bytes]) -> bool {
    let refused = lines.len() == 1 && lines.first().is_some_and(|line| line.starts_with(b"ERROR"));
    refused || lines.last().is_some_and(|line| line.as_ref() == b"OK")
}
