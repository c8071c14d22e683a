//! What leader and nodes say to each other: the messages of `proto/`, without their encoding.

use crate::logic::comparison::Point;
use crate::logic::partition::io::{Attempt, FenceAnswer, ReadAnswer, ReadId, Write};
use crate::types::{
    Configuration, ConfigurationVersion, Epoch, KeyHash, PartitionId, StoreId, Token, Version,
};

/// From leader to node.
#[derive(Clone, Debug)]
pub(super) enum ToNode {
    Open(Epoch),
    Batch(Batch),
}

/// Orders come first, then records, then reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) orders: Vec<(PartitionId, Token, NodeOrder)>,
    pub(super) sections: Vec<Section>,
    pub(super) reads: Vec<ReadRequest>,
    pub(super) probe: bool,
}

impl Batch {
    /// Whether a node has to write something for it.
    pub(super) fn stores(&self) -> bool {
        self.probe || self.sections.iter().any(|section| !section.writes.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        let silent = self.orders.is_empty() && self.sections.is_empty() && self.reads.is_empty();
        silent && !self.probe
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeOrder {
    Begin,
    Fence(Attempt),
    Start { source: StoreId, node: usize, floor: Version },
    Finish,
    Remove(ConfigurationVersion),
    Configuration(Configuration),
    Compare { attempt: Attempt, source: StoreId, node: usize, point: Point },
    Trust,
    GarbageFloor(Version),
}

/// Records of one partition.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) partition: PartitionId,
    pub(super) token: Token,
    pub(super) watermark: Version,
    pub(super) writes: Vec<Write>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ReadRequest {
    pub(super) id: ReadId,
    pub(super) partition: PartitionId,
    pub(super) token: Token,
    pub(super) key_hash: KeyHash,
}

/// From node to leader.
#[derive(Clone, Debug)]
pub(super) enum ToLeader {
    Opened(StoreId),
    Reply(Reply),
    /// The node ends the stream.
    Closed,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Reply {
    /// Every batch of the stream up to this one is durable, refusals apart.
    pub(super) through: u64,
    pub(super) refusals: Vec<Refused>,
    pub(super) reads: Vec<(PartitionId, ReadId, ReadAnswer)>,
    pub(super) fences: Vec<(PartitionId, Token, FenceAnswer)>,
    pub(super) copies: Vec<(PartitionId, Token, bool)>,
    pub(super) comparisons: Vec<Comparison>,
}

/// A comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) partition: PartitionId,
    pub(super) token: Token,
    pub(super) attempt: Attempt,
    pub(super) complete: bool,
    pub(super) restored: u64,
}

/// A section or order that was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) batch: u64,
    pub(super) partition: PartitionId,
    pub(super) token: Token,
}
