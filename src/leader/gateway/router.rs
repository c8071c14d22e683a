//! Sends each request to the shard that owns its partition.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tower::{BoxError, Service};

use super::{ShardBatch, ShardRequest};
use crate::leader::view::Views;
use crate::logic::hash::partition_of;
use crate::net::batch::{Answer, Asked, Batch, ReplySender};
use crate::protocol::command::Operation;
use crate::protocol::reply::Outcome;
use crate::types::{Moment, PartitionCount, PartitionId};

/// What a router needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The inbox of each shard; a partition belongs to shard `partition % shards`.
    pub shards: Vec<mpsc::Sender<ShardBatch>>,
    /// How many partitions the cluster has.
    pub partitions: PartitionCount,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// Answers questions about the cluster.
    pub views: Views,
}

/// Groups the requests of a batch by shard and sends each shard one message.
///
/// A full inbox makes the call wait, and with it the connection, which then reads no further: that
/// is how load is pushed back to the clients' sockets.
#[derive(Clone, Debug)]
pub struct Router {
    options: Arc<Options>,
}

/// The shard that owns a partition, of this many.
pub fn shard_of(partition: PartitionId, shards: usize) -> usize {
    partition.index().checked_rem(shards).unwrap_or(0)
}

impl Router {
    /// A router to these shards.
    pub fn new(options: Options) -> Self {
        Self { options: Arc::new(options) }
    }

    /// Sorts a batch: a message for each shard, and answers to what needs none.
    fn sort(&self, batch: Batch) -> (Vec<Vec<ShardRequest>>, Vec<Answer>) {
        let options = &self.options;
        let deadline = batch.arrived + options.request_timeout;
        let mut by_shard: Vec<_> = options.shards.iter().map(|_| Vec::new()).collect();
        let mut answers = Vec::new();
        for (slot, asked) in batch.requests {
            match asked {
                Asked::Key(operation) => {
                    let request = self.address(slot, operation, deadline);
                    match by_shard.get_mut(shard_of(request.partition, options.shards.len())) {
                        Some(requests) => requests.push(request),
                        None => answers.push((slot, Outcome::Unavailable)),
                    }
                }
                Asked::Cluster(question) => {
                    let lines = options.views.current().answer(question);
                    answers.push((slot, Outcome::Lines(lines)));
                }
            }
        }
        (by_shard, answers)
    }

    fn address(&self, slot: u64, operation: Operation, deadline: Moment) -> ShardRequest {
        let partition = partition_of(operation.key().as_bytes(), self.options.partitions);
        ShardRequest { slot, partition, deadline, operation }
    }
}

/// Sends one shard its requests. A shard that has ended took none: nothing changed.
async fn deliver(
    inbox: &mpsc::Sender<ShardBatch>,
    replies: &ReplySender,
    requests: Vec<ShardRequest>,
) {
    let batch = ShardBatch { connection: replies.clone(), requests };
    if let Err(mpsc::error::SendError(refused)) = inbox.send(batch).await {
        let unavailable = |request: ShardRequest| (request.slot, Outcome::Unavailable);
        replies.send(refused.requests.into_iter().map(unavailable).collect());
    }
}

impl Service<Batch> for Router {
    type Response = ();
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch) -> Self::Future {
        let replies = batch.replies.clone();
        let (by_shard, answers) = self.sort(batch);
        let options = Arc::clone(&self.options);
        Box::pin(async move {
            replies.send(answers);
            for (inbox, requests) in options.shards.iter().zip(by_shard) {
                if !requests.is_empty() {
                    deliver(inbox, &replies, requests).await;
                }
            }
            Ok(())
        })
    }
}
