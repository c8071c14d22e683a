//! Up to which frame each partition's checkpoint goes.

use crate::types::{PartitionCount, PartitionId};

/// The position of every partition's checkpoint, and of the store-wide one; 0 if there is none.
#[derive(Clone, Debug)]
pub(crate) struct Positions {
    partitions: Vec<u64>,
    store: u64,
}

impl Positions {
    pub(crate) fn new(count: PartitionCount) -> Self {
        Self { partitions: vec![0; usize::from(count.get())], store: 0 }
    }

    pub(crate) fn of(&self, partition: PartitionId) -> u64 {
        self.partitions.get(partition.index()).copied().unwrap_or(self.store)
    }

    pub(crate) fn set(&mut self, partition: PartitionId, position: u64) {
        *self.partitions.get_mut(partition.index()).unwrap_or(&mut self.store) = position;
    }

    /// What every checkpoint has passed.
    pub(crate) fn lowest(&self) -> u64 {
        self.partitions.iter().copied().min().unwrap_or(0).min(self.store)
    }

    /// What some checkpoint has passed.
    pub(crate) fn highest(&self) -> u64 {
        self.partitions.iter().copied().max().unwrap_or(0).max(self.store)
    }

    /// The partitions whose checkpoints are oldest, that many of them.
    pub(crate) fn oldest(&self, count: usize) -> Vec<PartitionId> {
        let partitions = (0..).map(PartitionId).zip(self.partitions.iter().copied());
        let mut all: Vec<_> = partitions.chain([(PartitionId::STORE, self.store)]).collect();
        let count = count.min(all.len());
        if count < all.len() {
            all.select_nth_unstable_by_key(count, |(partition, position)| (*position, *partition));
        }
        all.truncate(count);
        all.into_iter().map(|(partition, _)| partition).collect()
    }
}
