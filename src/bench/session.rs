//! One client's connection over a plain socket, and its batches.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::timeout;

use super::book::Book;
use super::client::{Request, Watch};
use super::error::{BenchError, shown};
use super::load::Operation;
use super::recorder::Ending;
use super::wire::{Asked, Reply, Wire};
use crate::runtime::clock;
use crate::types::Moment;

/// Room for what one read may bring.
const CHUNK_BYTES: usize = 64 << 10;

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    client: usize,
    within: Duration,
    wire: Wire,
    stream: TcpStream,
    out: Vec<u8>,
    incoming: Incoming,
}

impl Session {
    pub(super) async fn connect(
        client: usize,
        address: SocketAddr,
        wire: Wire,
        within: Duration,
    ) -> Result<Self, BenchError> {
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = timeout(within, connect).await.unwrap_or_else(|late| Err(late.into()));
        let stream = stream.map_err(|source| BenchError::Connect { address, source })?;
        Ok(Self { client, within, wire, stream, out: Vec::new(), incoming: Incoming::default() })
    }

    /// Sends all requests at once and takes the reply to each.
    pub(super) async fn batch(
        &mut self,
        requests: &[Request],
        book: &mut Book,
        watch: &Watch,
    ) -> Result<(), BenchError> {
        self.out.clear();
        for request in requests {
            match request.operation {
                Operation::Set => {
                    let version = book.write(request.slot);
                    self.wire.set(book.keys(), request.slot, version, &mut self.out);
                }
                Operation::Get => self.wire.get(book.keys(), request.slot, &mut self.out),
            }
        }
        let writes = requests.iter().any(|request| request.operation == Operation::Set);
        let barrier = writes && self.wire.barrier(&mut self.out);
        let last = barrier.then_some(Asked::Barrier);
        self.exchange(Batch::new(requests, last), book, watch).await
    }

    /// Closes the connection in agreement: nothing but the farewell may come any more.
    pub(super) async fn finish(mut self, book: &mut Book, watch: &Watch) -> Result<(), BenchError> {
        self.out.clear();
        self.wire.goodbye(&mut self.out);
        self.exchange(Batch::new(&[], Some(Asked::Goodbye)), book, watch).await?;
        let (mut reading, _) = self.stream.split();
        let rest = async { while let Ok(1..) = self.incoming.read(&mut reading).await {} };
        // A server that does not close has said nothing wrong.
        let _ = timeout(self.within, rest).await;
        self.incoming.must_be_empty(self.client)
    }

    /// Writes and reads at once, so that neither side waits for the other with full buffers.
    async fn exchange(
        &mut self,
        mut batch: Batch<'_>,
        book: &mut Book,
        watch: &Watch,
    ) -> Result<(), BenchError> {
        let (client, wire, within) = (self.client, self.wire, self.within);
        batch.begun = clock::now();
        let (mut reading, mut writing) = self.stream.split();
        let exchange = async {
            let send = async { writing.write_all(&self.out).await.map_err(Broken::Io) };
            let receive = self.incoming.receive(&mut reading, wire, &mut batch, book, watch);
            tokio::try_join!(send, receive).map(|_| ())
        };
        let outcome = timeout(within, exchange).await;
        let missing = batch.missing();
        match outcome {
            Ok(Ok(())) => self.incoming.must_be_empty(client),
            Ok(Err(Broken::Told(error))) => Err(error),
            Ok(Err(Broken::Io(error))) => {
                let source = (error.kind() != io::ErrorKind::UnexpectedEof).then_some(error);
                Err(BenchError::Disconnected { client, missing, source })
            }
            Err(_) => Err(BenchError::Missing { client, missing, within }),
        }
    }
}

/// Why a batch came to no end.
enum Broken {
    /// The connection broke.
    Io(io::Error),
    /// A reply was wrong.
    Told(BenchError),
}

/// Requests that were sent, and how far their replies have come.
struct Batch<'a> {
    requests: &'a [Request],
    /// What was asked after the requests.
    last: Option<Asked>,
    taken: usize,
    /// Writes that were accepted, and are not known to be safe before the barrier's reply.
    held: usize,
    begun: Moment,
}

impl<'a> Batch<'a> {
    fn new(requests: &'a [Request], last: Option<Asked>) -> Self {
        Self { requests, last, taken: 0, held: 0, begun: Moment::ZERO }
    }

    fn missing(&self) -> usize {
        (self.requests.len() + usize::from(self.last.is_some())).saturating_sub(self.taken)
    }

    /// What the next reply answers; nothing once all have come.
    fn asked(&self) -> Option<Asked> {
        match self.requests.get(self.taken) {
            Some(request) => Some(Asked::Operation(request.operation)),
            None => self.last.filter(|_| self.taken == self.requests.len()),
        }
    }

    /// Judges the next reply.
    fn take(
        &mut self,
        reply: &Reply,
        bytes: &[u8],
        (book, watch): (&mut Book, &Watch),
        arrived: Moment,
    ) -> Result<(), BenchError> {
        let request = self.requests.get(self.taken);
        self.taken += 1;
        let text = |place: &std::ops::Range<usize>| bytes.get(place.clone()).unwrap_or_default();
        let ending = match (request, reply) {
            (_, Reply::Refused(place)) => Ending::Refused(text(place)),
            (Some(request), Reply::Value(place)) => {
                book.read(request.slot, Some(text(place)))?;
                Ending::Done
            }
            (Some(request), Reply::NotFound) => {
                book.read(request.slot, None)?;
                Ending::Done
            }
            (Some(request), Reply::Done | Reply::Degraded) => {
                book.settle(request.slot);
                if *reply == Reply::Done { Ending::Done } else { Ending::Degraded }
            }
            (None, Reply::Degraded) => Ending::Degraded,
            (None, _) => Ending::Done,
        };
        let times = (self.begun, arrived);
        match request {
            Some(Request { operation: Operation::Set, .. })
                if self.last.is_some() && ending == Ending::Done =>
            {
                self.held += 1;
            }
            Some(request) => watch.record(request.operation, times, ending),
            // The barrier's reply is that of all writes it stands behind.
            None => (0..self.held).for_each(|_| watch.record(Operation::Set, times, ending)),
        }
        Ok(())
    }
}

/// What has come and was not looked at yet.
#[derive(Debug, Default)]
struct Incoming {
    bytes: BytesMut,
    /// How much of it was searched in vain for the end of a line.
    scanned: usize,
}

impl Incoming {
    /// Takes the replies to a batch. All that come in one chunk came at the same time.
    async fn receive(
        &mut self,
        reading: &mut ReadHalf<'_>,
        wire: Wire,
        batch: &mut Batch<'_>,
        book: &mut Book,
        watch: &Watch,
    ) -> Result<(), Broken> {
        let mut arrived = batch.begun;
        while let Some(asked) = batch.asked() {
            let parsed = wire.reply(asked, &self.bytes, &mut self.scanned);
            let parsed = parsed.map_err(|malformed| {
                let (client, request) = (watch.client(), asked.name());
                Broken::Told(BenchError::Malformed { client, request, malformed })
            })?;
            let Some((reply, length)) = parsed else {
                if self.read(reading).await.map_err(Broken::Io)? == 0 {
                    return Err(Broken::Io(io::ErrorKind::UnexpectedEof.into()));
                }
                arrived = clock::now();
                continue;
            };
            batch.take(&reply, &self.bytes, (book, watch), arrived).map_err(Broken::Told)?;
            self.bytes.advance(length);
        }
        Ok(())
    }

    async fn read(&mut self, reading: &mut ReadHalf<'_>) -> io::Result<usize> {
        self.bytes.reserve(CHUNK_BYTES);
        reading.read_buf(&mut self.bytes).await
    }

    fn must_be_empty(&self, client: usize) -> Result<(), BenchError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(BenchError::Extra { client, shown: shown(&self.bytes) })
    }
}
