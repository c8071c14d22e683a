//! What shards are told, apart from clients' requests.

use std::collections::BTreeSet;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::leader::link::news::LinkEvent;
use crate::logic::partition::Status;
use crate::logic::partition::io::StoreEvent;
use crate::logic::placement::Table;
use crate::types::{
    Configuration, ConfigurationVersion, Epoch, IndexKey, Moment, PartitionId, StoreId,
};

/// Batches of requests that wait for one shard before its connections are held back.
pub(crate) const BATCHES: usize = 1024;
/// Events that wait for one shard before links and coordinator are held back.
pub(crate) const EVENTS: usize = 1024;

/// What a shard is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A link connected, broke, or brought something.
    Link(LinkEvent),
    /// Something happened to a store that its link does not know of.
    Store(StoreId, StoreEvent),
    /// The cluster exists: its partitions begin.
    Founded(Arc<Founding>),
    /// The leader's metadata is an older copy: there are no partitions any more.
    Outdated,
    /// The ring proposes these stores.
    Targets(Arc<Table>),
    /// How many copies each value is to have, and the fewest that take writes.
    Copies {
        /// How many are wanted.
        wanted: usize,
        /// `min_replicas`.
        floor: usize,
    },
    /// An operator decided that all members of these partitions are lost, and with which stores they
    /// go on.
    Force(Arc<Vec<(PartitionId, SmallVec<[StoreId; 4]>)>>),
    /// These proposals are durable.
    Configured(Vec<(PartitionId, ConfigurationVersion)>),
}

/// A cluster, as shards need to know it.
#[derive(Debug)]
pub(crate) struct Founding {
    /// Keys the hashes of clients' keys.
    pub(crate) index_key: IndexKey,
    /// The leader's epoch: another than at its start if its metadata was made anew since.
    pub(crate) epoch: Epoch,
    /// When its partitions begin.
    pub(crate) began: Moment,
    /// The latest durable configuration of each partition.
    pub(crate) configurations: Vec<(PartitionId, Configuration)>,
    /// Those whose configuration was made anew from what stores knew.
    pub(crate) unconfirmed: BTreeSet<PartitionId>,
}

/// A proposal that a shard wants to become durable.
#[derive(Debug)]
pub(crate) struct Proposal {
    /// Who is to be told.
    pub(crate) shard: usize,
    /// Of which partition.
    pub(crate) partition: PartitionId,
    /// What.
    pub(crate) configuration: Configuration,
    /// An operator decided it; it is to be confirmed when its members have answered.
    pub(crate) forced: bool,
}

/// How the partitions of one shard are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// Each with its state; empty before the cluster exists.
    pub(crate) partitions: Vec<(PartitionId, Status)>,
    /// Requests answered since the leader began.
    pub(crate) answered: u64,
    /// Copies that are being made.
    pub(crate) copying: usize,
    /// Settled records that stores had lost and fetched again, since the leader began.
    pub(crate) restored_records: u64,
    /// Partitions of which every member may have lost something, since the leader began.
    pub(crate) possible_losses: u64,
}
