//! What reads are answered for: the token of each partition that the store holds whole.
//!
//! The commit thread writes it, after what it says has become durable; readers look at it without
//! a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::{PartitionCount, PartitionId, Token};

/// No membership has this token.
const NONE: u64 = 0;

/// The token of each partition that is held whole.
#[derive(Debug)]
pub(crate) struct Served(Box<[AtomicU64]>);

impl Served {
    pub(crate) fn new(count: PartitionCount) -> Self {
        Self(count.all().map(|_| AtomicU64::new(NONE)).collect())
    }

    pub(crate) fn set(&self, partition: PartitionId, token: Option<Token>) {
        if let Some(place) = self.0.get(partition.index()) {
            place.store(token.map_or(NONE, |token| token.0), Ordering::Release);
        }
    }

    pub(crate) fn token(&self, partition: PartitionId) -> Option<Token> {
        let token = self.0.get(partition.index())?.load(Ordering::Acquire);
        (token != NONE).then_some(Token(token))
    }

    /// Nothing is served any more.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|place| place.store(NONE, Ordering::Release));
    }

    /// The partitions that are served.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        (0..).map(PartitionId).zip(&self.0).filter_map(|(partition, place)| {
            (place.load(Ordering::Acquire) != NONE).then_some(partition)
        })
    }
}
