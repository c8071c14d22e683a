//! Sends each request to the shard that owns its partition.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tower::{BoxError, Service};

use super::recall::Recall;
use super::{ShardBatch, ShardRequest};
use crate::leader::view::Views;
use crate::logic::hash::partition_of;
use crate::net::batch::{Answer, Asked, Batch, ReplySender};
use crate::protocol::reply::Outcome;
use crate::types::{PartitionCount, PartitionId};

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
    /// Answers reads of keys that the leader remembers.
    pub recall: Recall,
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
    ///
    /// What is answered from memory overtakes what a shard still has to do. So that a client who
    /// pipelines sees its own requests in their order, that is done only from the front of a batch
    /// before which nothing is under way, up to the first request that a shard must answer.
    fn sort(&self, batch: Batch) -> (Vec<Vec<ShardRequest>>, Vec<Answer>) {
        let options = &self.options;
        let deadline = batch.arrived + options.request_timeout;
        let mut by_shard: Vec<_> = options.shards.iter().map(|_| Vec::new()).collect();
        let mut answers = Vec::new();
        let (mut recalls, mut recalled) = (batch.alone, 0);
        for (slot, asked) in batch.requests {
            match asked {
                Asked::Key(operation) => {
                    let partition = partition_of(operation.key().as_bytes(), options.partitions);
                    if recalls && let Some(outcome) = options.recall.answer(partition, &operation) {
                        answers.push((slot, outcome));
                        recalled += 1;
                        continue;
                    }
                    recalls = false;
                    let request = ShardRequest { slot, partition, deadline, operation };
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
        options.recall.count(recalled);
        (by_shard, answers)
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
    type Response = Vec<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Vec<Answer>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch) -> Self::Future {
        let replies = batch.replies.clone();
        let (by_shard, answers) = self.sort(batch);
        let options = Arc::clone(&self.options);
        Box::pin(async move {
            for (inbox, requests) in options.shards.iter().zip(by_shard) {
                if !requests.is_empty() {
                    deliver(inbox, &replies, requests).await;
                }
            }
            Ok(answers)
        })
    }
}
