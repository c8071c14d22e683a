//! The index of a store: one table for each partition, behind a lock of its own.
//!
//! The commit thread alone changes it; readers take a partition's lock for as long as it takes to
//! copy an entry.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use super::change::{Change, What};
use super::entry::MAX_EPOCHS;
use super::guards::Guards;
use super::partition_index::{Context, PartitionIndex};
use super::usage::Usage;
use crate::protocol::control::Control;
use crate::types::{Epoch, IndexKey, PartitionCount, PartitionId};

/// The index of a store.
#[derive(Debug)]
pub(crate) struct Index {
    key: IndexKey,
    count: PartitionCount,
    guards: Guards,
    partitions: Vec<RwLock<PartitionIndex>>,
    promised: AtomicU64,
    crowded: AtomicBool,
}

impl Index {
    /// An empty index.
    pub(crate) fn new(key: IndexKey, count: PartitionCount, guards: Guards) -> Self {
        Self {
            key,
            count,
            guards,
            partitions: count.all().map(|_| RwLock::default()).collect(),
            promised: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
        }
    }

    /// The secret that keys the hashes.
    pub(crate) fn key(&self) -> &IndexKey {
        &self.key
    }

    /// How many partitions there are.
    pub(crate) fn count(&self) -> PartitionCount {
        self.count
    }

    /// A partition's index; nothing if there is no such partition.
    pub(crate) fn partition(&self, partition: PartitionId) -> Option<&RwLock<PartitionIndex>> {
        self.partitions.get(partition.index())
    }

    /// The highest epoch that was promised.
    pub(crate) fn promised(&self) -> Epoch {
        Epoch(self.promised.load(Ordering::Acquire))
    }

    /// Raises the promised epoch.
    pub(crate) fn promise(&self, epoch: Epoch) {
        self.promised.fetch_max(epoch.0, Ordering::AcqRel);
    }

    /// Carries out what a record asks for: the only way in which the index changes, live and at
    /// replay.
    pub(crate) fn apply(&self, change: &Change, usage: &mut Usage) {
        if let What::Control(control) = &change.what
            && let Control::Promise(epoch) = **control
        {
            return self.promise(epoch);
        }
        let Some(partition) = self.partition(change.partition) else { return };
        let mut partition = partition.write();
        let mut context = Context { key: &self.key, guards: self.guards, usage };
        partition.apply(&change.what, &mut context);
        if partition.epochs() > MAX_EPOCHS / 2 {
            self.crowded.store(true, Ordering::Release);
        }
    }

    /// Some partition has entries of so many epochs that it can soon hold no more.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Acquire)
    }

    /// Puts in place what a checkpoint held.
    pub(crate) fn restore(&self, partition: PartitionId, index: PartitionIndex) {
        if let Some(place) = self.partition(partition) {
            *place.write() = index;
        }
    }
}
