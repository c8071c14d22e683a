//! Links: the leader's connections to its nodes, one link for each registration of a store.
//!
//! A link is a task that connects, says which epoch the leader speaks for, waits until the node has
//! promised it durably, and then carries what the shards have for the store: everything that is
//! queued leaves as one batch, and one number acknowledges it. When the connection breaks, whatever
//! was outstanding is forgotten and the shards are told; the partitions fence the store anew on the
//! next connection and send again what it lacks. So a link keeps no state that outlives a
//! connection, and nothing of an old one can be mistaken for the new.
//!
//! # What it guarantees
//!
//! * Shards hear of a session in order: connected, then what the store says, then disconnected.
//! * A piece is reported durable only after everything sent before it on its lane, and a refusal is
//!   reported before the number that covers it.
//! * A session may have two lanes, two TCP connections: records over [`LARGE_BYTES`] travel on the
//!   second, so that a large value does not hold up small ones. If either breaks, both are closed.
//!
//! # How
//!
//! * [`piece`] - what shards hand over, and the gauge that says how full a link is.
//! * [`outgoing`] - the stream of batches, made when the connection asks for one.
//! * [`news`] - the replies, taken apart by shard.

pub(crate) mod news;
pub(crate) mod outgoing;
pub(crate) mod piece;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::leader::shard::inbox::Event;
use crate::rpc::v1::replica_client::ReplicaClient;
use crate::rpc::{Malformed, convert, transport, v1};
use crate::runtime::clock;
use crate::runtime::metrics::DurationHistogram;
use crate::runtime::tasks::Tasks;
use crate::types::{BootId, ClusterId, Epoch, StoreId};
use news::{Ledger, LinkEvent, News, Session};
use outgoing::Outgoing;
use piece::{Gauge, Lane, LinkSender};

/// Records larger than this, key and value together, travel on the second lane.
pub(crate) const LARGE_BYTES: usize = 64 << 10;
/// From the first packet to the node's promise of the epoch, which takes it one fsync.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// Whom a link leads to, and who uses it.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The store.
    pub(crate) store: StoreId,
    /// The start of the node's process that has it open.
    pub(crate) boot: BootId,
    /// Where the node listens, as `host:port`.
    pub(crate) address: Arc<str>,
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// The leader's epoch.
    pub(crate) epoch: Epoch,
    /// This start of the leader's process.
    pub(crate) leader: BootId,
    /// Who is told, by number of shard.
    pub(crate) shards: Vec<mpsc::Sender<Event>>,
    /// The largest value a client may store.
    pub(crate) max_value_bytes: usize,
    /// Takes how long batches of writes took to be durable on a node.
    pub(crate) durations: DurationHistogram,
    /// Whether the node takes a second stream for large records.
    pub(crate) large_lane: bool,
}

/// A link. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    sender: watch::Receiver<Option<LinkSender>>,
    _stop: DropGuard,
}

/// Why a connection could not be opened, or ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Address(#[from] transport::AddressError),
    #[error("cannot connect")]
    Connect(#[from] tonic::transport::Error),
    #[error("no promise of the epoch within {OPEN_TIMEOUT:?}")]
    Timeout,
    #[error("the node answered: {}", .0.message())]
    Status(#[from] tonic::Status),
    #[error("the node ended the stream")]
    Ended,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the leader stops")]
    Stopping,
}

impl Link {
    /// Begins to connect, again and again until the link is dropped.
    pub(crate) fn start(options: Options, tasks: &Tasks) -> Self {
        let stop = CancellationToken::new();
        let (tell, sender) = watch::channel(None);
        let task = Task { options, tell };
        let (own, all) = (stop.clone(), tasks.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = task.run() => {}
                () = own.cancelled() => {}
                () = all.stopping() => {}
            }
        });
        Self { sender, _stop: stop.drop_guard() }
    }

    /// How full the connection is; `None` while there is none.
    pub(crate) fn gauge(&self) -> Option<Arc<Gauge>> {
        self.sender.borrow().as_ref().map(|sender| Arc::clone(sender.gauge()))
    }

    /// Has the store write something, if it is connected, so that it is seen how long that takes.
    pub(crate) fn probe(&self) {
        if let Some(sender) = self.sender.borrow().as_ref() {
            sender.probe();
        }
    }
}

struct Task {
    options: Options,
    tell: watch::Sender<Option<LinkSender>>,
}

impl Task {
    async fn run(self) {
        let mut backoff = FIRST_BACKOFF;
        let mut told = false;
        loop {
            let store = self.options.store;
            match Connection::open(&self.options).await {
                Ok(connection) => {
                    (backoff, told) = (FIRST_BACKOFF, false);
                    let error = self.serve(connection).await;
                    tracing::info!(%store, %error, "the link to a node broke");
                }
                Err(error) if told => tracing::debug!(%store, %error, "no link to a node"),
                Err(error) => {
                    let address = &self.options.address;
                    tracing::warn!(%store, %address, %error, "no link to a node; trying on");
                    told = true;
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (2 * backoff).min(LONGEST_BACKOFF);
        }
    }

    /// Carries a connection to its end, and says why it ended. Shards hear of the end even if the
    /// task is cancelled in the middle.
    async fn serve(&self, connection: Connection) -> LinkError {
        let session = next_session();
        let store = self.options.store;
        tracing::info!(%store, boot = %self.options.boot, address = %self.options.address, "linked");
        let farewell = Farewell { task: self, session };
        let _ = self.tell.send(Some(connection.sender.clone()));
        let connected = || News::Connected {
            sender: connection.sender.clone(),
            address: Arc::clone(&self.options.address),
        };
        for shard in &self.options.shards {
            if tell(shard, LinkEvent { store, session, news: connected() }).await.is_err() {
                return LinkError::Stopping;
            }
        }
        let error = self.listen(session, connection.small, connection.large).await;
        drop(farewell);
        error
    }

    async fn listen(
        &self,
        session: Session,
        mut small: Incoming,
        mut large: Option<Incoming>,
    ) -> LinkError {
        loop {
            let done = tokio::select! {
                heard = small.next() => self.spread(session, &mut small, heard).await,
                heard = next_of(large.as_mut()) => match large.as_mut() {
                    Some(large) => self.spread(session, large, heard).await,
                    None => Ok(()),
                },
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    async fn spread(
        &self,
        session: Session,
        lane: &mut Incoming,
        heard: Result<v1::ReplicateReply, LinkError>,
    ) -> Result<(), LinkError> {
        let store = self.options.store;
        for (shard, heard) in lane.ledger.read(heard?, clock::now())? {
            if let Some(shard) = self.options.shards.get(shard) {
                tell(shard, LinkEvent { store, session, news: News::Heard(heard) }).await?;
            }
        }
        Ok(())
    }
}

async fn tell(shard: &mpsc::Sender<Event>, event: LinkEvent) -> Result<(), LinkError> {
    shard.send(Event::Link(event)).await.map_err(|_| LinkError::Stopping)
}

fn next_session() -> Session {
    static SESSIONS: AtomicU64 = AtomicU64::new(1);
    Session(SESSIONS.fetch_add(1, Ordering::Relaxed))
}

/// Tells everybody that a session is over, when it is dropped. A cancelled task cannot wait for room
/// in an inbox, so a full one gets the message from a task of its own.
struct Farewell<'a> {
    task: &'a Task,
    session: Session,
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let _ = self.task.tell.send(None);
        let (store, session) = (self.task.options.store, self.session);
        for shard in &self.task.options.shards {
            let event = Event::Link(LinkEvent { store, session, news: News::Disconnected });
            if let Err(mpsc::error::TrySendError::Full(event)) = shard.try_send(event) {
                let shard = shard.clone();
                tokio::spawn(async move {
                    let _ = shard.send(event).await;
                });
            }
        }
    }
}

/// The lanes of a session.
struct Connection {
    sender: LinkSender,
    small: Incoming,
    large: Option<Incoming>,
}

impl Connection {
    async fn open(options: &Options) -> Result<Self, LinkError> {
        let opening = tokio::time::timeout(OPEN_TIMEOUT, Self::open_lanes(options)).await;
        opening.map_err(|_| LinkError::Timeout)?
    }

    async fn open_lanes(options: &Options) -> Result<Self, LinkError> {
        let endpoint = transport::endpoint(&options.address)?;
        let (sender, queues) = LinkSender::new();
        let open = |lane, queue| Incoming::open(options, &endpoint, lane, queue, sender.gauge());
        let small = open(Lane::Small, queues.small).await?;
        if !options.large_lane {
            return Ok(Self { sender: sender.single_lane(), small, large: None });
        }
        let large = open(Lane::Large, queues.large).await?;
        Ok(Self { sender, small, large: Some(large) })
    }
}

/// The receiving half of a lane.
struct Incoming {
    replies: Streaming<v1::ReplicateReply>,
    ledger: Ledger,
}

impl Incoming {
    async fn open(
        options: &Options,
        endpoint: &Endpoint,
        lane: Lane,
        pieces: mpsc::UnboundedReceiver<piece::Piece>,
        gauge: &Arc<Gauge>,
    ) -> Result<Self, LinkError> {
        let (tell, sent) = mpsc::unbounded_channel();
        let outgoing = Outgoing::new(opening(options), pieces, tell, Arc::clone(gauge));
        let limit = transport::message_limit(options.max_value_bytes);
        let client = ReplicaClient::new(transport::connect(endpoint).await?);
        let mut client = client.max_decoding_message_size(limit);
        // The answer to the call says that the epoch is promised.
        let replies = client.replicate(outgoing).await?.into_inner();
        let (shards, durations) = (options.shards.len(), options.durations.clone());
        let ledger = Ledger::new(lane, shards, sent, Arc::clone(gauge), durations);
        Ok(Self { replies, ledger })
    }

    async fn next(&mut self) -> Result<v1::ReplicateReply, LinkError> {
        self.replies.message().await?.ok_or(LinkError::Ended)
    }
}

/// The next reply on a lane; of one that there is not, never.
async fn next_of(lane: Option<&mut Incoming>) -> Result<v1::ReplicateReply, LinkError> {
    match lane {
        Some(lane) => lane.next().await,
        None => std::future::pending().await,
    }
}

fn opening(options: &Options) -> v1::Open {
    v1::Open {
        cluster_id: convert::id_bytes(options.cluster.as_bytes()),
        store_id: convert::id_bytes(options.store.as_bytes()),
        boot_id: convert::id_bytes(options.boot.as_bytes()),
        epoch: options.epoch.0,
        leader_boot_id: convert::id_bytes(options.leader.as_bytes()),
    }
}

#[cfg(test)]
mod tests;
