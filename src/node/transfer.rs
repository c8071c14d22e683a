//! Copies, the giving side: every record of a partition, as it was when the copy was asked for.
//!
//! What is written later reaches the asking store from the leader, so nothing is missed between.
//! Leaves of which the asking store already has the same are named and not sent.
//!
//! A record that cannot be read is told to the leader, who has it written anew here from another
//! member. All others are sent, but not that these were all: who lacks a record must not take its
//! copy for whole. The next copy needs to bring only what is missing.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::core::{Core, CoreWatch, opened};
use super::leaves::Leaves;
use crate::rpc::transport::BATCH_BYTES;
use crate::rpc::{convert, v1};
use crate::runtime::workers::{self, Outlet};
use crate::storage::ReadError;
use crate::types::{Epoch, KeyHash, PartitionId, StoreId, Token, Version};

/// Messages that wait for the asking store.
const WAITING_MESSAGES: usize = 2;
/// No reply is later than this, whatever the pace: the asking store gives up a silent source.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// A disk of which so many records of one partition cannot be read is not read further.
const UNREADABLE: u64 = 256;
/// Copies given at a time.
const COPIES: usize = 16;

/// The service `Transfer`.
#[derive(Clone, Debug)]
pub(crate) struct TransferService {
    core: CoreWatch,
    places: Arc<tokio::sync::Semaphore>,
}

impl TransferService {
    pub(crate) fn new(core: CoreWatch) -> Self {
        Self { core, places: Arc::new(tokio::sync::Semaphore::new(COPIES)) }
    }
}

type Reply = Result<v1::PullReply, Status>;

#[tonic::async_trait]
impl v1::transfer_server::Transfer for TransferService {
    type PullStream = ReceiverStream<Reply>;

    async fn pull(
        &self,
        request: Request<v1::PullRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let core = opened(&self.core).await?;
        let request = request.into_inner();
        let (partition, token) = check(&core, &request)?;
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted("too many copies at a time"))?;
        let asking: StoreId = convert::identity(&request.store_id)?;
        tracing::debug!(%partition, %asking, "copying a partition to another store");
        Ok(Response::new(workers::produce(WAITING_MESSAGES, move |replies| {
            let comparison = request.comparison;
            let giving = Giving { core, partition, token, comparison, replies };
            giving.run(&request.leaves);
            drop(place);
        })))
    }
}

/// Only a store with authority gives copies, and only in the epoch it knows or a later one. One in
/// doubt has none: the order to copy from it may be older than its start.
fn check(core: &Core, request: &v1::PullRequest) -> Result<(PartitionId, Token), Status> {
    core.check_addressee(&request.cluster_id, &request.source_store_id)?;
    let promised = core.reader.promised();
    if Epoch(request.epoch) < promised {
        return Err(Status::failed_precondition(format!(
            "epoch {} is over, {promised} is promised here",
            request.epoch
        )));
    }
    let partition = convert::partition(request.partition)?;
    let token = core.served.token(partition);
    let token = token.ok_or_else(|| no_authority(partition))?;
    if !request.comparison && !core.served.is_sound(partition) {
        return Err(no_authority(partition));
    }
    Ok((partition, token))
}

fn no_authority(partition: PartitionId) -> Status {
    Status::failed_precondition(format!("this store has no whole copy of partition {partition}"))
}

/// One copy being given, on a thread that may wait for the disk.
struct Giving<'a> {
    core: Arc<Core>,
    partition: PartitionId,
    token: Token,
    comparison: bool,
    replies: &'a Outlet<Reply>,
}

impl Giving<'_> {
    fn run(&self, leaves: &[u8]) {
        if let Err(status) = self.give(leaves) {
            let _ = self.replies.send(Err(status));
        }
    }

    fn give(&self, leaves: &[u8]) -> Result<(), Status> {
        let floor = self.floor();
        let mut entries = self.core.reader.entries(self.partition);
        let same = Leaves::of(entries.iter().map(|entry| &entry.summary)).same_as(leaves);
        entries.retain(|entry| same.binary_search(&entry.summary.key_hash.leaf()).is_err());
        let mut left = entries.len() as u64;
        let first = v1::PullReply { same_leaves: same.into(), ..v1::PullReply::default() };
        self.reply(v1::PullReply { records_left: left, ..first })?;
        let mut batch = BytesMut::new();
        let mut unreadable = 0;
        for entry in &entries {
            left -= 1;
            match self.core.reader.read(entry) {
                Ok(Some(record)) => self.add(&mut batch, record, left)?,
                Ok(None) => {}
                Err(error @ (ReadError::Failed | ReadError::Partition(_))) => {
                    return Err(Status::unavailable(error.to_string()));
                }
                Err(error) => {
                    unreadable += 1;
                    self.report(entry.summary.key_hash, &error);
                }
            }
            if unreadable >= UNREADABLE {
                break;
            }
        }
        if unreadable > 0 {
            self.send(batch.freeze(), left)?;
            let reason = format!("{unreadable} records of the source cannot be read");
            return Err(Status::data_loss(reason));
        }
        self.send(batch.freeze(), 0)?;
        // A tombstone that was dropped meanwhile may not have been given: then the silence about its
        // key says nothing.
        if self.comparison && self.floor() != floor {
            return Err(Status::aborted("the source dropped tombstones meanwhile"));
        }
        let (floor_epoch, floor_seq) = (floor.epoch.0, floor.seq);
        let last =
            v1::PullReply { complete: true, floor_epoch, floor_seq, ..v1::PullReply::default() };
        self.reply(last)
    }

    fn report(&self, key_hash: KeyHash, error: &ReadError) {
        let (partition, key) = (self.partition, key_hash.bits());
        tracing::error!(
            %partition, key = format_args!("{key:032x}"), %error,
            "a record to be copied could not be read"
        );
        self.core.commits.unreadable(v1::Unreadable {
            partition: u32::from(partition.0),
            token: self.token.0,
            key_hash: convert::id_bytes(&key_hash.to_bytes()),
        });
    }

    fn floor(&self) -> Version {
        self.core.reader.membership(self.partition).garbage_floor
    }

    /// A record too large to be gathered travels alone, without being copied.
    fn add(&self, batch: &mut BytesMut, record: Bytes, left: u64) -> Result<(), Status> {
        if batch.len() + record.len() > BATCH_BYTES && !batch.is_empty() {
            self.send(batch.split().freeze(), left + 1)?;
        }
        if record.len() > BATCH_BYTES / 2 {
            return self.send(record, left);
        }
        batch.extend_from_slice(&record);
        Ok(())
    }

    fn send(&self, records: Bytes, records_left: u64) -> Result<(), Status> {
        if self.core.served.token(self.partition) != Some(self.token) {
            return Err(no_authority(self.partition));
        }
        self.pause(records.len())?;
        self.reply(v1::PullReply { records, records_left, ..v1::PullReply::default() })
    }

    /// Waits as long as copies have to. The asking store hears every so often that it is not
    /// forgotten.
    fn pause(&self, bytes: usize) -> Result<(), Status> {
        let mut left = self.core.pacing.give(bytes);
        while !left.is_zero() {
            let part = left.min(SIGN_OF_LIFE);
            self.replies.pause(part);
            left -= part;
            if !left.is_zero() {
                self.reply(v1::PullReply::default())?;
            }
        }
        Ok(())
    }

    fn reply(&self, reply: v1::PullReply) -> Result<(), Status> {
        let sent = self.replies.send(Ok(reply));
        sent.then_some(()).ok_or_else(|| Status::cancelled("the asking store went away"))
    }
}
