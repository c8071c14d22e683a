//! Reading beside the commit thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::RwLockReadGuard;

use super::digest::Digest;
use super::disk::{Disk, DiskFile, Space};
use super::entry::Entry;
use super::error::{ReadError, StorageError};
use super::guards::Guard;
use super::partition_index::{Counts, Membership, PartitionIndex, Summary};
use super::segment::Segment;
use super::shared::Shared;
use crate::protocol::record::{Flags, Kind, Record, checksum_of, set_flags};
use crate::runtime::metrics::DurationHistogram;
use crate::types::{Epoch, KeyHash, PartitionId, Version};

/// Reads a store beside its commit thread. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Reader<D: Disk> {
    shared: Arc<Shared<D>>,
}

/// Syncs a buffered store beside its commit thread.
#[derive(Clone, Debug)]
pub struct Syncer<D: Disk> {
    shared: Arc<Shared<D>>,
}

impl<D: Disk> Syncer<D> {
    pub(crate) fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared }
    }

    /// Makes everything durable that was committed before the call.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.shared.sync()
    }
}

/// An entry of the index, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef {
    /// The partition.
    pub partition: PartitionId,
    /// Key, version and checksum.
    pub summary: Summary,
    /// The key is deleted.
    pub tombstone: bool,
    /// The entry counts; otherwise it waits for an in-sync store to vouch for it.
    pub vouched: bool,
    /// About how many bytes the record takes.
    pub bytes: u32,
}

/// The volume and what of it is to be kept free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSpace {
    /// Bytes that can still be written: free on the volume, or in segments that can be reused.
    pub free: u64,
    /// Bytes of the volume.
    pub total: u64,
    /// Writes of values are refused when less than this would be left.
    pub reserve: u64,
}

/// What syncing costs.
#[derive(Clone, Debug, Default)]
pub struct SyncStatistics {
    /// How long each took since the store was opened.
    pub durations: DurationHistogram,
    /// How long the last one took.
    pub last: Duration,
}

/// What to read, and what it must turn out to be.
#[derive(Debug)]
struct Target<F> {
    entry: Entry,
    version: Version,
    segment: Option<Arc<Segment<F>>>,
}

impl<D: Disk> Reader<D> {
    pub(crate) fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared }
    }

    /// The whole encoded record of a key, verified; a tombstone too. Records that wait to be
    /// vouched for are as good as absent.
    pub fn get(
        &self,
        partition: PartitionId,
        key_hash: KeyHash,
    ) -> Result<Option<Bytes>, ReadError> {
        self.read_where(partition, key_hash, Entry::is_vouched)
    }

    /// The record of an entry of [`Self::entries`], or a newer one; nothing if it is gone by now.
    pub fn read(&self, entry: &EntryRef) -> Result<Option<Bytes>, ReadError> {
        self.get(entry.partition, entry.summary.key_hash)
    }

    /// The record of a key even if it waits to be vouched for.
    pub fn read_unvouched(
        &self,
        partition: PartitionId,
        key_hash: KeyHash,
    ) -> Result<Option<Bytes>, ReadError> {
        self.read_where(partition, key_hash, |_| true)
    }

    fn read_where(
        &self,
        partition: PartitionId,
        key_hash: KeyHash,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Result<Option<Bytes>, ReadError> {
        if self.shared.has_failed() {
            return Err(ReadError::Failed);
        }
        let target = {
            let index = self.index(partition).ok_or(ReadError::Partition(partition))?;
            let Some(entry) = index.find(key_hash).copied().filter(wanted) else {
                return Ok(None);
            };
            // Taken under the lock: from here on the segment is not written anew.
            let segment = self.shared.segments.get(entry.place().segment);
            Target { entry, version: index.version_of(&entry), segment }
        };
        self.fetch(partition, key_hash, &target).map(Some)
    }

    fn fetch(
        &self,
        partition: PartitionId,
        key_hash: KeyHash,
        target: &Target<D::File>,
    ) -> Result<Bytes, ReadError> {
        let damaged = ReadError::Damaged { partition, key_hash, version: target.version };
        let Some(segment) = &target.segment else { return Err(damaged) };
        let place = target.entry.place();
        let mut bytes = BytesMut::zeroed(place.length as usize);
        let read = segment.file.read_at(u64::from(place.offset), &mut bytes)?;
        bytes.truncate(read);
        let Ok((record, length)) = Record::decode(&bytes) else { return Err(damaged) };
        let right = record.partition == partition
            && record.version == target.version
            && (record.kind == Kind::Tombstone) == target.entry.is_tombstone()
            && checksum_of(&bytes) == Ok(target.entry.checksum)
            && self.shared.index.key().hash(record.key) == key_hash;
        if !right && self.shared.guards.keep(Guard::ReadsVerified) {
            return Err(damaged);
        }
        bytes.truncate(length);
        set_flags(&mut bytes, Flags::NONE);
        Ok(bytes.freeze())
    }

    /// The hash under which the index knows a key.
    pub fn key_hash(&self, key: &[u8]) -> KeyHash {
        self.shared.index.key().hash(key)
    }

    fn index(&self, partition: PartitionId) -> Option<RwLockReadGuard<'_, PartitionIndex>> {
        self.shared.index.partition(partition).map(|index| index.read())
    }

    /// The store's place in a partition.
    pub fn membership(&self, partition: PartitionId) -> Membership {
        self.index(partition).map(|index| index.membership()).unwrap_or_default()
    }

    /// The highest epoch that was promised.
    pub fn promised(&self) -> Epoch {
        self.shared.index.promised()
    }

    /// The vouched records above the watermark, by version.
    pub fn above_watermark(&self, partition: PartitionId) -> Vec<Summary> {
        self.index(partition).map(|index| index.above_watermark()).unwrap_or_default()
    }

    /// Everything at or below this version is settled. Kept in memory only; a control record of
    /// the next batch makes it last.
    pub fn set_watermark(&self, partition: PartitionId, version: Version) {
        if let Some(index) = self.shared.index.partition(partition) {
            index.write().hear_watermark(version);
        }
    }

    /// The vouched entries of a partition, tombstones included, in no order.
    pub fn entries(&self, partition: PartitionId) -> Vec<EntryRef> {
        self.entries_where(partition, Entry::is_vouched)
    }

    /// The vouched entries of one leaf of a partition.
    pub fn leaf(&self, partition: PartitionId, leaf: u8) -> Vec<EntryRef> {
        self.entries_where(partition, |entry| entry.is_vouched() && entry.key_hash().leaf() == leaf)
    }

    /// The entries that wait to be vouched for.
    pub fn unvouched(&self, partition: PartitionId) -> Vec<EntryRef> {
        self.entries_where(partition, |entry| !entry.is_vouched())
    }

    fn entries_where(
        &self,
        partition: PartitionId,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Vec<EntryRef> {
        let Some(index) = self.index(partition) else { return Vec::new() };
        let entries = index.iter().filter(|entry| wanted(entry));
        entries.map(|entry| entry_ref(partition, &index, entry)).collect()
    }

    /// What the index holds of a key, vouched or not.
    pub fn entry(&self, partition: PartitionId, key_hash: KeyHash) -> Option<EntryRef> {
        let index = self.index(partition)?;
        index.find(key_hash).map(|entry| entry_ref(partition, &index, entry))
    }

    /// How many records of each sort a partition has.
    pub fn counts(&self, partition: PartitionId) -> Counts {
        self.index(partition).map(|index| index.counts()).unwrap_or_default()
    }

    /// How many live records a partition has.
    pub fn live_records(&self, partition: PartitionId) -> u64 {
        self.counts(partition).records
    }

    /// About how many bytes the records of a partition take.
    pub fn bytes(&self, partition: PartitionId) -> u64 {
        self.counts(partition).bytes
    }

    /// How many live records the store has.
    pub fn records(&self) -> u64 {
        self.shared.index.count().all().map(|partition| self.live_records(partition)).sum()
    }

    /// What tells this copy of a partition from another.
    pub fn digest(&self, partition: PartitionId) -> Option<Digest> {
        self.index(partition).map(|index| index.digest())
    }

    /// How much room there is.
    pub fn space(&self) -> Result<StoreSpace, ReadError> {
        let Space { free, total } = self.shared.disk.space()?;
        Ok(StoreSpace {
            free: free + self.shared.reusable_bytes.load(Ordering::Relaxed),
            total,
            reserve: self.shared.reserve_bytes.load(Ordering::Relaxed),
        })
    }

    /// What syncing costs.
    pub fn sync_statistics(&self) -> SyncStatistics {
        SyncStatistics {
            durations: self.shared.sync_durations().clone(),
            last: Duration::from_micros(self.shared.last_sync_micros()),
        }
    }

    /// Whether a write or sync has failed, so that the store serves no more.
    pub fn has_failed(&self) -> bool {
        self.shared.has_failed()
    }
}

fn entry_ref(partition: PartitionId, index: &PartitionIndex, entry: &Entry) -> EntryRef {
    EntryRef {
        partition,
        summary: index.summary(entry),
        tombstone: entry.is_tombstone(),
        vouched: entry.is_vouched(),
        bytes: entry.place().length,
    }
}
