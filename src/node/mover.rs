//! Copies, the asking side: fills a shadow copy from a store that holds the partition whole, or
//! compares a whole one with it.
//!
//! Copied records go through the commit thread like live ones, marked as installed, so that a newer
//! live write is never undone by an older copied one. What the store still has from before is used
//! only where the source says that it has the same, and is then vouched for in the log. A copy ends with a report to the leader on the
//! stream that asked for it, after everything it brought is durable; it is given up silently when
//! that stream ends or the partition gets another token, since then nobody waits for it.
//!
//! A comparison (rule 15) asks for the same, with the sums of all it holds: so what comes is what the
//! two differ in. Of that it stores what was settled when the leader gave the order and is missing
//! here, as the live writes that they once were.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::commit::{Commits, Stopped};
use super::leaves::Leaves;
use super::pacing::Pacing;
use super::stream::LeaderStream;
use crate::logic::comparison::{Finding, Point, is_deleted};
use crate::protocol::control::Control;
use crate::protocol::record::{self, Flags, RecordError, Records};
use crate::rpc::transport::{self, AddressError};
use crate::rpc::{convert, v1};
use crate::runtime::tasks::Tasks;
use crate::runtime::workers;
use crate::storage::{Disk, Reader, Summary};
use crate::types::{ClusterId, KeyHash, PartitionId, StoreId, Token, Version};

/// Copies that run at a time, and comparisons; others wait.
const COPIES: usize = 4;
const COMPARISONS: usize = 4;
/// How long a source may take to answer, or to go on.
const SOURCE_PATIENCE: Duration = Duration::from_secs(10);
/// What a source may send ahead of what was stored.
const WINDOW_BYTES: u32 = 4 << 20;
/// Connections to sources that are kept.
const CHANNELS: usize = 64;

/// What is to come of a copy.
#[derive(Debug)]
enum Purpose {
    /// A shadow copy is filled.
    Fill,
    /// A whole copy is compared, as of a point.
    Compare { attempt: u64, point: Point },
}

/// One copy to be made, for the stream that asked for it.
#[derive(Debug)]
pub(crate) struct Copy {
    stream: Arc<LeaderStream>,
    partition: PartitionId,
    token: Token,
    source_store: Bytes,
    source_address: String,
    purpose: Purpose,
    records: AtomicU64,
    cancelled: CancellationToken,
}

impl Copy {
    fn new(
        stream: Arc<LeaderStream>,
        (partition, token): (PartitionId, Token),
        (source_store, source_address): (Bytes, String),
        purpose: Purpose,
    ) -> Self {
        let (records, cancelled) = (AtomicU64::new(0), CancellationToken::new());
        Self { stream, partition, token, source_store, source_address, purpose, records, cancelled }
    }

    /// A copy that fills a shadow copy.
    pub(crate) fn fill(
        stream: Arc<LeaderStream>,
        partition: PartitionId,
        token: Token,
        start: v1::Start,
    ) -> Self {
        let source = (start.source_store_id, start.source_address);
        Self::new(stream, (partition, token), source, Purpose::Fill)
    }

    /// A comparison.
    pub(crate) fn compare(
        stream: Arc<LeaderStream>,
        partition: PartitionId,
        token: Token,
        compare: v1::Compare,
    ) -> Self {
        let purpose = Purpose::Compare { attempt: compare.attempt, point: compare.point() };
        let source = (compare.source_store_id, compare.source_address);
        Self::new(stream, (partition, token), source, purpose)
    }

    /// Whether a whole copy is being compared.
    pub(crate) fn is_comparison(&self) -> bool {
        self.attempt().is_some()
    }

    /// The attempt that is to be reported, of a comparison.
    pub(crate) fn attempt(&self) -> Option<u64> {
        match self.purpose {
            Purpose::Fill => None,
            Purpose::Compare { attempt, .. } => Some(attempt),
        }
    }

    /// So many records of it go to the log.
    pub(crate) fn brought(&self, records: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
    }

    /// How many records of it went to the log.
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    pub(crate) fn stream(&self) -> &Arc<LeaderStream> {
        &self.stream
    }

    pub(crate) fn partition(&self) -> PartitionId {
        self.partition
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// Nobody waits for this copy any more.
    pub(crate) fn cancel(&self) {
        self.cancelled.cancel();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}

/// Why a copy failed; the leader is told.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("the source refused or failed: {}", .0.message())]
    Source(#[from] Status),
    #[error("the source did not answer for {} s", SOURCE_PATIENCE.as_secs())]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("the source ended before it was complete")]
    Incomplete,
    #[error("the source sent something else than records: {0}")]
    Record(#[from] RecordError),
    #[error("{0} keys were written meanwhile and could not be compared")]
    Unclear(usize),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Makes copies.
#[derive(Clone, Debug)]
pub(crate) struct Mover<D: Disk>(Arc<Shared<D>>);

#[derive(Debug)]
struct Shared<D: Disk> {
    cluster: ClusterId,
    store: StoreId,
    message_limit: usize,
    reader: Reader<D>,
    commits: Commits,
    pacing: Arc<Pacing>,
    tasks: Tasks,
    places: Semaphore,
    comparisons: Semaphore,
    channels: Mutex<HashMap<String, Channel>>,
}

impl<D: Disk> Mover<D> {
    pub(crate) fn new(
        cluster: ClusterId,
        store: StoreId,
        message_limit: usize,
        reader: Reader<D>,
        commits: Commits,
        pacing: Arc<Pacing>,
        tasks: Tasks,
    ) -> Self {
        let (places, comparisons) = (Semaphore::new(COPIES), Semaphore::new(COMPARISONS));
        Self(Arc::new(Shared {
            cluster,
            store,
            message_limit,
            reader,
            commits,
            pacing,
            tasks,
            places,
            comparisons,
            channels: Mutex::default(),
        }))
    }

    /// Begins a copy. Must be called within a runtime.
    pub(crate) fn start(&self, copy: Arc<Copy>) {
        let shared = Arc::clone(&self.0);
        self.0.tasks.spawn(async move {
            let outcome = tokio::select! {
                () = copy.cancelled.cancelled() => return,
                () = shared.tasks.stopping() => return,
                outcome = shared.run(&copy) => outcome,
            };
            let outcome = outcome.map_err(|error| error.to_string());
            if let Err(reason) = &outcome {
                tracing::warn!(partition = %copy.partition, reason, "a copy or comparison failed");
            }
            shared.commits.copied(copy, outcome);
        });
    }
}

impl<D: Disk> Shared<D> {
    /// Answers with the bytes that came.
    async fn run(&self, copy: &Arc<Copy>) -> Result<u64, CopyError> {
        match &copy.purpose {
            Purpose::Fill => self.fill(copy).await,
            Purpose::Compare { point, .. } => self.compare(copy, point).await,
        }
    }

    /// Pulls what the source has and this store, which holds this before, has not.
    async fn pull(
        &self,
        copy: &Copy,
        held: &[Summary],
    ) -> Result<Streaming<v1::PullReply>, CopyError> {
        let source = &copy.source_address;
        tracing::debug!(partition = %copy.partition, source, "copying");
        let client = v1::transfer_client::TransferClient::new(self.channel(copy)?);
        let mut client = client.max_decoding_message_size(self.message_limit);
        let request = self.request(copy, held);
        let replies = tokio::time::timeout(SOURCE_PATIENCE, client.pull(request));
        Ok(replies.await??.into_inner())
    }

    /// Goes on until the source says that it was everything.
    async fn fill(&self, copy: &Arc<Copy>) -> Result<u64, CopyError> {
        let _place = self.places.acquire().await.map_err(|_| Stopped)?;
        let old = self.held(copy).await?;
        let mut replies = self.pull(copy, &old).await?;
        let mut bytes = 0;
        loop {
            let reply = next(&mut replies).await?;
            let length = reply.records.len();
            bytes += length as u64;
            for vouched in vouch(copy.partition, &old, &reply.same_leaves)? {
                self.commits.install(copy, vouched).await?;
            }
            if !reply.records.is_empty() {
                self.commits.install(copy, mark_installed(reply.records)?).await?;
            }
            if reply.complete {
                self.pacing.taken(length);
                return Ok(bytes);
            }
            // What is not read fills the connection's window, and so slows the source down.
            let pause = self.pacing.taken(length);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// The same with a whole copy: only what it lacks is stored. A key that the source has newer by
    /// now, and this store not yet, hides what was settled: then it has to be done again.
    async fn compare(&self, copy: &Arc<Copy>, point: &Point) -> Result<u64, CopyError> {
        let _place = self.comparisons.acquire().await.map_err(|_| Stopped)?;
        let held = self.held(copy).await?;
        let mut replies = self.pull(copy, &held).await?;
        let mut bytes = 0;
        let mut there = There::default();
        loop {
            let reply = next(&mut replies).await?;
            bytes += reply.records.len() as u64;
            there.leaves.extend_from_slice(&reply.same_leaves);
            let missing = self.missing(copy.partition, point, &reply.records, &mut there)?;
            if !missing.is_empty() {
                self.commits.install(copy, missing).await?;
            }
            if reply.complete {
                let unclear = there.unclear;
                for deleted in self.deleted(copy.partition, &held, &there, reply.floor())? {
                    self.commits.install(copy, deleted).await?;
                }
                return if unclear == 0 { Ok(bytes) } else { Err(CopyError::Unclear(unclear)) };
            }
        }
    }

    /// Those of the source's records that are settled and missing here.
    fn missing(
        &self,
        partition: PartitionId,
        point: &Point,
        records: &Bytes,
        there: &mut There,
    ) -> Result<Bytes, CopyError> {
        let floor = self.reader.membership(partition).garbage_floor;
        let mut missing = BytesMut::new();
        for record in Records::new(records) {
            let (record, bytes) = record?;
            let key_hash = self.reader.key_hash(record.key);
            there.keys.insert(key_hash);
            let own = self.reader.entry(partition, key_hash);
            match point.judge(own.map(|own| own.summary.version), floor, record.version) {
                Finding::Held => {}
                Finding::Unclear => there.unclear += 1,
                Finding::Missing => {
                    let (version, own) = (record.version, own.map(|own| own.summary.version));
                    tracing::error!(%partition, %version, ?own, "a settled record was lost here");
                    missing.extend_from_slice(bytes);
                }
            }
        }
        Ok(missing.freeze())
    }

    /// What is here and not there although it is at or below the floor up to which the source knows
    /// everything: it was deleted, and the delete was lost here.
    fn deleted(
        &self,
        partition: PartitionId,
        held: &[Summary],
        there: &There,
        floor: Version,
    ) -> Result<Vec<Bytes>, CopyError> {
        let gone = held.iter().filter(|own| is_deleted(own.version, floor) && !there.has(own));
        // Its own tombstones are no less true for being older than the source remembers.
        let live = gone.filter(|own| {
            let entry = self.reader.entry(partition, own.key_hash);
            entry.is_some_and(|entry| entry.summary == **own && !entry.tombstone)
        });
        let forget = live.map(|own| {
            let Summary { key_hash, version, .. } = *own;
            tracing::error!(%partition, %version, "a settled delete was lost here");
            Control::Forget { key_hash, version }
        });
        // From now on it knows as much: others may be compared with it.
        let known = self.reader.membership(partition).garbage_floor;
        let raised = (floor > known).then_some(Control::GarbageFloor(floor));
        Ok(encode(partition, forget.chain(raised))?)
    }

    /// What the source may have too: of a shadow copy what is there from before and waits to be
    /// vouched for, of a whole one everything.
    async fn held(&self, copy: &Copy) -> Result<Vec<Summary>, CopyError> {
        let (reader, partition, whole) =
            (self.reader.clone(), copy.partition, copy.is_comparison());
        let reading = workers::once(move || {
            if whole { reader.entries(partition) } else { reader.unvouched(partition) }
        });
        let entries = reading.await.map_err(|_| Stopped)?;
        Ok(entries.into_iter().map(|entry| entry.summary).collect())
    }

    fn request(&self, copy: &Copy, old: &[Summary]) -> v1::PullRequest {
        let leaves = if old.is_empty() { Vec::new() } else { Leaves::of(old.iter()).to_bytes() };
        v1::PullRequest {
            cluster_id: convert::id_bytes(self.cluster.as_bytes()),
            source_store_id: copy.source_store.clone(),
            store_id: convert::id_bytes(self.store.as_bytes()),
            epoch: copy.stream.epoch().0,
            partition: u32::from(copy.partition.0),
            token: copy.token.0,
            leaves: leaves.into(),
            comparison: copy.is_comparison(),
        }
    }

    fn channel(&self, copy: &Copy) -> Result<Channel, AddressError> {
        let address = &copy.source_address;
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        if channels.len() >= CHANNELS {
            channels.clear();
        }
        let endpoint = transport::endpoint(address)?
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES.saturating_mul(2));
        let channel = transport::connect_lazy(&endpoint);
        channels.insert(address.clone(), channel.clone());
        Ok(channel)
    }
}

/// What a source has of the partition, as far as it is not the same here.
#[derive(Debug, Default)]
struct There {
    /// Leaves of which it has exactly what is here.
    leaves: Vec<u8>,
    /// Of the others, all keys.
    keys: HashSet<KeyHash>,
    /// Keys that hide what was settled.
    unclear: usize,
}

impl There {
    fn has(&self, own: &Summary) -> bool {
        self.leaves.contains(&own.key_hash.leaf()) || self.keys.contains(&own.key_hash)
    }
}

/// The next message of a source, which must not be silent for too long.
async fn next(replies: &mut Streaming<v1::PullReply>) -> Result<v1::PullReply, CopyError> {
    let reply = tokio::time::timeout(SOURCE_PATIENCE, replies.message()).await??;
    reply.ok_or(CopyError::Incomplete)
}

/// Control records that vouch for the entries of some leaves.
fn vouch(
    partition: PartitionId,
    old: &[Summary],
    leaves: &[u8],
) -> Result<Vec<Bytes>, RecordError> {
    let same = old.iter().filter(|entry| leaves.contains(&entry.key_hash.leaf()));
    encode(
        partition,
        same.map(|own| Control::Vouch { key_hash: own.key_hash, version: own.version }),
    )
}

/// Control records in buffers of a batch's size.
fn encode(
    partition: PartitionId,
    controls: impl Iterator<Item = Control>,
) -> Result<Vec<Bytes>, RecordError> {
    let mut buffers = Vec::new();
    let mut buffer = BytesMut::new();
    for control in controls {
        control.encode(partition, &mut buffer)?;
        if buffer.len() >= transport::BATCH_BYTES {
            buffers.push(buffer.split().freeze());
        }
    }
    buffers.extend((!buffer.is_empty()).then(|| buffer.freeze()));
    Ok(buffers)
}

/// Marks every record of a buffer as installed, in place where nobody else looks at the buffer.
fn mark_installed(records: Bytes) -> Result<Bytes, RecordError> {
    let mut records =
        records.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
    let mut at = 0;
    while let Some(rest) = records.get_mut(at..).filter(|rest| !rest.is_empty()) {
        at += record::length_of_first(rest)?;
        record::set_flags(rest, Flags::INSTALL);
    }
    Ok(records.freeze())
}
