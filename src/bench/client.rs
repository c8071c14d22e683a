//! One client: fills its keys, then sends batch after batch until it is told to stop.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::book::Book;
use super::error::BenchError;
use super::etcd::{Channels, EtcdSession};
use super::load::{Load, Operation, Protocol, Target};
use super::recorder::{Ending, Recorder, Window};
use super::session::Session;
use super::wire::Wire;
use crate::types::Moment;

/// How many keys are filled with one batch.
const FILL_BATCH: u32 = 64;

/// One request, on one of the client's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) operation: Operation,
    pub(super) slot: u32,
}

/// Where a client reports what happened to its requests.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    client: usize,
    window: Arc<Window>,
    recorder: Rc<RefCell<Recorder>>,
}

impl Watch {
    pub(super) fn new(
        client: usize,
        window: &Arc<Window>,
        recorder: &Rc<RefCell<Recorder>>,
    ) -> Self {
        Self { client, window: Arc::clone(window), recorder: Rc::clone(recorder) }
    }

    pub(super) fn client(&self) -> usize {
        self.client
    }

    pub(super) fn record(&self, what: Operation, times: (Moment, Moment), ending: Ending<'_>) {
        self.recorder.borrow_mut().record(&self.window, (self.client, what), times, ending);
    }
}

/// How clients reach a server.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// Over a connection of their own.
    Socket(Wire, SocketAddr),
    /// Over connections that they share.
    Etcd(Channels),
}

impl Way {
    pub(super) async fn to(target: Target, within: Duration) -> Result<Self, BenchError> {
        Ok(match target.protocol {
            Protocol::Line => Self::Socket(Wire::Line, target.address),
            Protocol::Resp { replicas } => Self::Socket(Wire::Resp { replicas }, target.address),
            Protocol::Etcd => Self::Etcd(Channels::connect(target.address, within).await?),
        })
    }

    async fn open(&self, client: usize, within: Duration) -> Result<Connection, BenchError> {
        match self {
            Self::Socket(wire, address) => {
                let session = Session::connect(client, *address, *wire, within).await?;
                Ok(Connection::Socket(session))
            }
            Self::Etcd(channels) => Ok(Connection::Etcd(channels.session(client, within))),
        }
    }
}

/// A connection in whatever protocol.
#[derive(Debug)]
enum Connection {
    Socket(Session),
    Etcd(EtcdSession),
}

/// A client that is connected.
#[derive(Debug)]
pub(super) struct Client {
    load: Load,
    book: Book,
    watch: Watch,
    connection: Connection,
    random: Random,
    /// The batch that is being made; kept for its memory.
    requests: Vec<Request>,
}

impl Client {
    pub(super) async fn connect(
        load: Load,
        way: &Way,
        book: Book,
        watch: Watch,
    ) -> Result<Self, BenchError> {
        let connection = way.open(watch.client, load.reply_within).await?;
        let random = Random(watch.client as u64);
        Ok(Self { load, book, watch, connection, random, requests: Vec::new() })
    }

    /// Stores every key once, so that there is something to read.
    pub(super) async fn fill(&mut self) -> Result<(), BenchError> {
        let slots = self.load.slots();
        let batch = FILL_BATCH.min(u32::try_from(self.load.pipeline.max(16)).unwrap_or(u32::MAX));
        for first in (0..slots).step_by(batch as usize) {
            let last = slots.min(first.saturating_add(batch));
            let set = |slot| Request { operation: Operation::Set, slot };
            self.requests.clear();
            self.requests.extend((first..last).map(set));
            self.send().await?;
        }
        Ok(())
    }

    /// Sends batch after batch until the measured time is over.
    pub(super) async fn run(&mut self) -> Result<(), BenchError> {
        while !self.watch.window.is_stopped() {
            self.compose();
            self.send().await?;
        }
        Ok(())
    }

    /// Ends the connection in good order.
    pub(super) async fn finish(mut self) -> Result<(), BenchError> {
        match self.connection {
            Connection::Socket(session) => session.finish(&mut self.book, &self.watch).await,
            Connection::Etcd(_) => Ok(()),
        }
    }

    async fn send(&mut self) -> Result<(), BenchError> {
        let (requests, book, watch) = (&self.requests, &mut self.book, &self.watch);
        match &mut self.connection {
            Connection::Socket(session) => session.batch(requests, book, watch).await,
            Connection::Etcd(session) => session.batch(requests, book, watch).await,
        }
    }

    /// The next batch: neighbours from a random key on, so that no key is in it twice.
    fn compose(&mut self) {
        let slots = self.load.slots();
        let first = self.random.below(slots);
        self.requests.clear();
        for offset in 0..u32::try_from(self.load.pipeline).unwrap_or(u32::MAX) {
            let slot = first.wrapping_add(offset) % slots;
            let operation = self.load.mix.choose(self.random.next());
            self.requests.push(Request { operation, slot });
        }
    }
}

/// Numbers that look random and are the same in each run (splitmix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound.max(1))).unwrap_or_default()
    }
}
