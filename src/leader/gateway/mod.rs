//! The front of the leader: from batches of requests to shards, within limits.
//!
//! A connection hands over all requests of one chunk as a [`Batch`](crate::net::batch::Batch). The
//! [`Router`](router::Router) at the bottom groups them by the shard that owns their partition and
//! sends each shard one [`ShardBatch`]; questions about the cluster it answers itself from the
//! latest [`ClusterView`](crate::leader::view::ClusterView), and reads of keys that the leader
//! remembers from its [memory](recall). Answers of shards never pass here: a shard sends them straight
//! to the connection.
//!
//! Above the router stand layers that only limit and shed load, each paid once a chunk. None of
//! them is a time-out: a future that is dropped would lose the outcome of a write. Deadlines are
//! in the requests, and the shards' state machines keep them.

pub mod limit;
pub mod recall;
pub mod router;
#[cfg(test)]
mod tests;

use tower::ServiceBuilder;
use tower::load_shed::LoadShed;

use crate::net::batch::ReplySender;
use crate::net::budget::Budget;
use crate::protocol::command::Operation;
use crate::types::{Moment, PartitionId};

/// What one connection asks one shard, in the order it was asked.
#[derive(Debug)]
pub struct ShardBatch {
    /// Takes the answers, each exactly once.
    pub connection: ReplySender,
    /// The requests.
    pub requests: Vec<ShardRequest>,
}

/// One request to a shard.
#[derive(Debug)]
pub struct ShardRequest {
    /// The place of the answer on the connection.
    pub slot: u64,
    /// The partition of the key.
    pub partition: PartitionId,
    /// When it must have been answered.
    pub deadline: Moment,
    /// What is asked.
    pub operation: Operation,
}

/// What stands behind every client connection.
pub type Gateway = LoadShed<limit::InflightBytes<router::Router>>;

/// The gateway to these shards: the one place where its layers are stacked.
///
/// A batch that comes while connections together hold more than the budget is shed, and each of
/// its requests answered `ERROR BUSY`.
pub fn gateway(options: router::Options, budget: Budget) -> Gateway {
    ServiceBuilder::new()
        .load_shed()
        .layer(limit::InflightBytesLayer::new(budget))
        .service(router::Router::new(options))
}
