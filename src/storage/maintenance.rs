//! What the commit thread does between commits, one bounded step at a time.
//!
//! * Segments are made ahead of need and filled with zeroes: a sync of a write into a file that is
//!   already there costs two thirds of one that changes the file's size.
//! * Checkpoints roll over the partitions, oldest first, at a pace that keeps the tail of the log
//!   near [`Options::tail_bytes`](super::Options).
//! * Compaction empties the segments that hold the least; see [`compaction`](super::compaction).
//! * When room gets short, all this is done sooner.

use std::sync::Arc;

use super::compaction::Compaction;
use super::disk::{Disk, DiskFile};
use super::error::StorageError;
use super::guards::Guard;
use super::segment::{Segment, name_of};
use super::store::Store;
use crate::types::PartitionId;

/// A step fills this much of a new segment with zeroes.
const ZEROED_BYTES: u64 = 1 << 20;
/// A step takes this many checkpoints.
const CHECKPOINTS: usize = 4;
/// Free segments beyond the spare ones that are kept rather than removed.
const KEPT_SEGMENTS: usize = 4;
/// Bytes that compaction may move for each byte that was committed.
const CREDIT: u64 = 2;
/// Bytes that it may move, when room is short, for each byte that died.
const SHORT_CREDIT: u64 = 4;
/// Bytes of zeroes that may be written for each byte that was committed.
const ZERO_CREDIT: u64 = 2;
/// Compaction never saves up more than this.
const MOST_CREDIT: u64 = 64 << 20;

/// How far maintenance has come.
#[derive(Debug)]
pub(crate) struct Progress<F> {
    /// Segments that could be written now.
    pub free_segments: usize,
    /// Partitions whose checkpoint must be replaced at once.
    pub damaged: Vec<PartitionId>,
    /// The segment that compaction is emptying.
    pub compaction: Option<Compaction>,
    /// Segments that compaction could not empty: something in them cannot be read.
    pub pinned: Vec<u32>,
    /// Bytes that compaction may still move.
    pub credit: u64,
    /// Bytes that compaction may still move when room is short.
    pub short_credit: u64,
    /// How many bytes had died when the short credit was last raised.
    pub counted_died: u64,
    /// Bytes of zeroes that may still be written.
    zero_credit: u64,
    /// How much had been appended when the last checkpoint was taken.
    checkpointed_at: u64,
    preparing: Option<Preparing<F>>,
}

/// A segment that is being filled with zeroes.
#[derive(Debug)]
struct Preparing<F> {
    id: u32,
    file: F,
    zeroed: u64,
}

impl<F> Default for Progress<F> {
    fn default() -> Self {
        Self {
            free_segments: 0,
            damaged: Vec::new(),
            compaction: None,
            pinned: Vec::new(),
            credit: MOST_CREDIT,
            short_credit: 0,
            counted_died: 0,
            zero_credit: 0,
            checkpointed_at: 0,
            preparing: None,
        }
    }
}

impl<F> Progress<F> {
    /// So much was committed.
    pub(crate) fn note_foreground(&mut self, bytes: u64) {
        self.credit = (self.credit + bytes * CREDIT).min(MOST_CREDIT);
        self.zero_credit = (self.zero_credit + bytes * ZERO_CREDIT).min(MOST_CREDIT);
    }

    /// So many bytes have died since the store was opened. When room is short, compaction moves a
    /// few times as much as that: it must not go on for ever where the size of records, not
    /// garbage, keeps segments from being full.
    pub(crate) fn note_died(&mut self, died: u64) {
        self.short_credit += died.saturating_sub(self.counted_died) * SHORT_CREDIT;
        self.counted_died = died;
    }

    /// A segment begins anew.
    pub(crate) fn forget(&mut self, id: u32) {
        self.pinned.retain(|pinned| *pinned != id);
        if self.compaction.is_some_and(|compaction| compaction.id == id) {
            self.compaction = None;
        }
    }

    /// Nothing was committed for a while.
    pub(crate) fn note_idle(&mut self) {
        self.credit = MOST_CREDIT;
        self.zero_credit = MOST_CREDIT;
    }
}

/// What a step of maintenance came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// There may be more to do now.
    pub more: bool,
}

impl<D: Disk> Store<D> {
    /// One bounded step of what is due: to be called between commits, again and again while it
    /// says that there is more. A few milliseconds at most on a common disk.
    pub fn maintain(&mut self) -> Result<Maintenance, StorageError> {
        self.shared.healthy()?;
        let short = self.refresh_space();
        self.progress.note_died(self.usage.died_bytes);
        let more = self.prepare(short)?
            || self.roll_checkpoints(short)?
            || self.shorten_tail(short)?
            || self.compact(short)?
            || self.remove_surplus()?;
        Ok(Maintenance { more })
    }

    /// Makes a segment ahead of need.
    fn prepare(&mut self, short: bool) -> Result<bool, StorageError> {
        let pressing = self.progress.free_segments == 0
            && self.log.active.offset > self.log.active.segment.bytes / 2;
        if self.progress.zero_credit < ZEROED_BYTES && !pressing {
            return Ok(false);
        }
        if self.progress.preparing.is_none() {
            if short || self.progress.free_segments >= self.options.spare_segments {
                return Ok(false);
            }
            let (id, file) = match self.allocate_segment() {
                Ok(made) => made,
                Err(StorageError::DiskFull { .. }) => return Ok(false),
                Err(error) => return self.shared.guarded(Err(error)),
            };
            self.shared.segments.reserve(id);
            self.progress.preparing = Some(Preparing { id, file, zeroed: 0 });
        }
        let size = self.options.segment_bytes;
        let Some(preparing) = &mut self.progress.preparing else { return Ok(false) };
        let length = ZEROED_BYTES.min(size - preparing.zeroed);
        let zeroes = vec![0; usize::try_from(length).unwrap_or(0)];
        let written = preparing.file.write_at(preparing.zeroed, &zeroes);
        let synced = written.and_then(|()| preparing.file.sync());
        self.shared.guarded(synced.map_err(StorageError::io("prepare a segment")))?;
        preparing.zeroed += length;
        self.progress.zero_credit = self.progress.zero_credit.saturating_sub(length);
        if preparing.zeroed == size
            && let Some(Preparing { id, file, .. }) = self.progress.preparing.take()
        {
            let durable = self.shared.disk.sync_dir();
            self.shared.guarded(durable.map_err(StorageError::io("name a segment")))?;
            self.shared.segments.put(id, Segment { file, bytes: size });
            self.refresh_space();
        }
        Ok(true)
    }

    /// Takes the checkpoints that are due, oldest first.
    fn roll_checkpoints(&mut self, short: bool) -> Result<bool, StorageError> {
        let partitions = u64::from(self.shared.index.count().get()) + 1;
        let pace = (self.options.tail_bytes / partitions).max(1);
        let appended = self.log.appended_bytes - self.progress.checkpointed_at;
        let listed = self.root.listed.len() as u64 * self.options.segment_bytes;
        let newest = self.root.listed.last().map_or(0, |last| last.first);
        let behind = self.positions.lowest() + 1 < newest;
        if self.positions.lowest() + 1 == self.log.next_number {
            self.progress.checkpointed_at = self.log.appended_bytes;
            return Ok(false);
        }
        let mut due = usize::try_from(appended / pace).unwrap_or(CHECKPOINTS);
        if behind && (short || listed > self.options.tail_bytes) {
            due = CHECKPOINTS;
        }
        if due == 0 {
            return Ok(false);
        }
        let due = due.min(CHECKPOINTS);
        if self.options.guards().keep(Guard::CheckpointIsSynced) {
            self.shared.sync()?;
        }
        let oldest = self.positions.oldest(due);
        match self.write_checkpoints(&oldest) {
            Ok(()) => {}
            // Room for it will be made, or the disk stays full: writes say so.
            Err(StorageError::DiskFull { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        let taken = (pace * due as u64).min(appended);
        self.progress.checkpointed_at += taken;
        Ok(true)
    }

    /// When room is short, lets go of segments that every checkpoint has passed without waiting
    /// for the active one to be full.
    fn shorten_tail(&mut self, short: bool) -> Result<bool, StorageError> {
        let passed = self.positions.lowest() + 1;
        let droppable = self.root.listed.get(1).is_some_and(|second| second.first <= passed);
        if !short || !droppable {
            return Ok(false);
        }
        match self.rotate() {
            Ok(()) => Ok(true),
            Err(StorageError::DiskFull { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives back segments that are free beyond what is worth keeping.
    fn remove_surplus(&mut self) -> Result<bool, StorageError> {
        let kept = self.options.spare_segments + KEPT_SEGMENTS;
        if self.progress.free_segments <= kept {
            return Ok(false);
        }
        let free = self.shared.segments.ids().into_iter().rev().find(|id| self.is_free(*id));
        let Some(id) = free else { return Ok(false) };
        let removed = self.shared.disk.remove(&name_of(id));
        let removed = removed.and_then(|()| self.shared.disk.sync_dir());
        self.shared.guarded(removed.map_err(StorageError::io("remove a segment")))?;
        self.shared.segments.forget(id);
        self.refresh_space();
        Ok(true)
    }

    /// Gives back everything that may be given back, whether or not it is worth keeping.
    #[cfg(test)]
    pub(super) fn remove_surplus_for_test(&mut self) {
        let free: Vec<u32> = self.shared.segments.ids();
        for id in free.into_iter().filter(|id| self.is_free(*id)) {
            self.shared.disk.remove(&name_of(id)).unwrap();
            self.shared.segments.forget(id);
        }
        self.shared.disk.sync_dir().unwrap();
    }

    /// The segments that hold records and that no reopening reads: what compaction may empty.
    pub(super) fn sealed(&self) -> Vec<(u32, Arc<Segment<D::File>>)> {
        let ids = self.shared.segments.ids().into_iter();
        ids.filter(|id| !self.root.lists(*id) && self.usage.of(*id).entries > 0)
            .filter_map(|id| Some((id, self.shared.segments.get(id)?)))
            .collect()
    }
}
