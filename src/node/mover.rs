//! Copies, the asking side: fills a shadow copy from a store that holds the partition whole.
//!
//! Copied records go through the commit thread like live ones, marked as installed, so that a newer
//! live write is never undone by an older copied one. What the store still has from before is used
//! only where the source says that it has the same, and is then vouched for in the log. A copy ends with a report to the leader on the
//! stream that asked for it, after everything it brought is durable; it is given up silently when
//! that stream ends or the partition gets another token, since then nobody waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use super::commit::{Commits, Stopped};
use super::leaves::Leaves;
use super::stream::LeaderStream;
use crate::protocol::control::Control;
use crate::protocol::record::{self, Flags, RecordError};
use crate::rpc::transport::{self, AddressError};
use crate::rpc::{convert, v1};
use crate::runtime::tasks::Tasks;
use crate::storage::{Disk, Reader, Summary};
use crate::types::{ClusterId, PartitionId, StoreId, Token};

/// Copies that run at a time; others wait.
const COPIES: usize = 4;
/// How long a source may take to answer, or to go on.
const SOURCE_PATIENCE: Duration = Duration::from_secs(10);
/// What a source may send ahead of what was stored.
const WINDOW_BYTES: u32 = 4 << 20;
/// Connections to sources that are kept.
const CHANNELS: usize = 64;

/// One copy to be made, for the stream that asked for it.
#[derive(Debug)]
pub(crate) struct Copy {
    stream: Arc<LeaderStream>,
    partition: PartitionId,
    token: Token,
    source: v1::Start,
    cancelled: CancellationToken,
}

impl Copy {
    pub(crate) fn new(
        stream: Arc<LeaderStream>,
        partition: PartitionId,
        token: Token,
        source: v1::Start,
    ) -> Self {
        Self { stream, partition, token, source, cancelled: CancellationToken::new() }
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
    tasks: Tasks,
    places: Semaphore,
    channels: Mutex<HashMap<String, Channel>>,
}

impl<D: Disk> Mover<D> {
    pub(crate) fn new(
        cluster: ClusterId,
        store: StoreId,
        message_limit: usize,
        reader: Reader<D>,
        commits: Commits,
        tasks: Tasks,
    ) -> Self {
        let (places, channels) = (Semaphore::new(COPIES), Mutex::default());
        Self(Arc::new(Shared {
            cluster,
            store,
            message_limit,
            reader,
            commits,
            tasks,
            places,
            channels,
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
                tracing::warn!(partition = %copy.partition, reason, "a copy failed");
            }
            shared.commits.copied(copy, outcome);
        });
    }
}

impl<D: Disk> Shared<D> {
    /// Pulls until the source says that it was everything; answers with the bytes that came.
    async fn run(&self, copy: &Arc<Copy>) -> Result<u64, CopyError> {
        let _place = self.places.acquire().await.map_err(|_| Stopped)?;
        tracing::debug!(partition = %copy.partition, source = copy.source.source_address, "copying");
        let client = v1::transfer_client::TransferClient::new(self.channel(copy)?);
        let mut client = client.max_decoding_message_size(self.message_limit);
        let old = self.old_entries(copy.partition).await?;
        let request = self.request(copy, &old);
        let replies = tokio::time::timeout(SOURCE_PATIENCE, client.pull(request));
        let mut replies = replies.await??.into_inner();
        let mut bytes = 0;
        loop {
            let reply = tokio::time::timeout(SOURCE_PATIENCE, replies.message()).await??;
            let reply = reply.ok_or(CopyError::Incomplete)?;
            bytes += reply.records.len() as u64;
            for vouched in vouch(copy.partition, &old, &reply.same_leaves)? {
                self.commits.install(copy, vouched).await?;
            }
            if !reply.records.is_empty() {
                self.commits.install(copy, mark_installed(reply.records)?).await?;
            }
            if reply.complete {
                return Ok(bytes);
            }
        }
    }

    /// What there is from before, and waits to be vouched for.
    async fn old_entries(&self, partition: PartitionId) -> Result<Vec<Summary>, CopyError> {
        let reader = self.reader.clone();
        let reading = tokio::task::spawn_blocking(move || reader.unvouched(partition));
        let entries = reading.await.map_err(|_| Stopped)?;
        Ok(entries.into_iter().map(|entry| entry.summary).collect())
    }

    fn request(&self, copy: &Copy, old: &[Summary]) -> v1::PullRequest {
        let leaves = if old.is_empty() { Vec::new() } else { Leaves::of(old.iter()).to_bytes() };
        v1::PullRequest {
            cluster_id: convert::id_bytes(self.cluster.as_bytes()),
            source_store_id: copy.source.source_store_id.clone(),
            store_id: convert::id_bytes(self.store.as_bytes()),
            epoch: copy.stream.epoch().0,
            partition: u32::from(copy.partition.0),
            token: copy.token.0,
            leaves: leaves.into(),
        }
    }

    fn channel(&self, copy: &Copy) -> Result<Channel, AddressError> {
        let address = &copy.source.source_address;
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        if channels.len() >= CHANNELS {
            channels.clear();
        }
        let channel = transport::endpoint(address)?
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES.saturating_mul(2))
            .connect_lazy();
        channels.insert(address.clone(), channel.clone());
        Ok(channel)
    }
}

/// Control records that vouch for the entries of some leaves, in buffers of a batch's size.
fn vouch(
    partition: PartitionId,
    old: &[Summary],
    leaves: &[u8],
) -> Result<Vec<Bytes>, RecordError> {
    let same = |entry: &&Summary| leaves.contains(&entry.key_hash.leaf());
    let mut buffers = Vec::new();
    let mut buffer = BytesMut::new();
    for Summary { key_hash, version, .. } in old.iter().filter(same).copied() {
        Control::Vouch { key_hash, version }.encode(partition, &mut buffer)?;
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
