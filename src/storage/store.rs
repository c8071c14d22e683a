//! The store as its one owner, the commit thread, sees it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::change::{Carried, Change, What};
use super::disk::{self, Disk, DiskFile};
use super::entry::{Place, readable_bytes};
use super::error::StorageError;
use super::frame;
use super::guards::Guard;
use super::log::{Active, Appended, Log};
use super::maintenance::Progress;
use super::options::{IoMode, Options};
use super::positions::Positions;
use super::reader::{Reader, Syncer};
use super::root::{self, Listed, Root};
use super::segment::{self, Segment};
use super::shared::Shared;
use super::usage::Usage;
use crate::protocol::record::{Flags, Records, set_flags};
use crate::types::PartitionId;

/// A log and its index. One thread owns it; others read through [`Reader`]s.
#[derive(Debug)]
pub struct Store<D: Disk> {
    pub(super) shared: Arc<Shared<D>>,
    pub(super) log: Log<D>,
    pub(super) usage: Usage,
    pub(super) root: Root,
    pub(super) positions: Positions,
    pub(super) options: Options,
    pub(super) progress: Progress<D::File>,
    planned: Vec<Planned>,
    /// The last frame, if it holds nothing and everything before it is synced.
    quiet_at: u64,
}

/// What a commit came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// How many records were written.
    pub records: usize,
    /// How many frames they took.
    pub frames: usize,
    /// The number of the last frame; 0 if there was nothing to write.
    pub last_frame: u64,
}

/// A record that is to be written, and what it will ask for once it is durable.
#[derive(Debug)]
pub(super) struct Planned {
    pub change: Change,
    pub length: u32,
}

type Frames = SmallVec<[(Appended, Range<usize>); 2]>;

/// Room is short when less than this many segments are left above the reserve.
const SHORT_SEGMENTS: u64 = 4;

/// Frames of a large batch hold at most this much, unless a single record is larger.
const FRAME_BYTES: usize = 4 << 20;

impl<D: Disk> Store<D> {
    pub(super) fn from_parts(
        shared: Arc<Shared<D>>,
        log: Log<D>,
        usage: Usage,
        root: Root,
        positions: Positions,
        options: Options,
    ) -> Self {
        let progress = Progress::default();
        let mut store = Self {
            shared,
            log,
            usage,
            root,
            positions,
            options,
            progress,
            planned: Vec::new(),
            quiet_at: 0,
        };
        store.refresh_space();
        store
    }

    /// Writes encoded records, each `Bytes` holding some back to back, with one write and one sync,
    /// and applies them once they are durable. A batch too large for one frame takes several.
    ///
    /// After an error that is not a refusal, every later call fails: what is durable is known
    /// only after reopening.
    pub fn commit(&mut self, records: &[Bytes]) -> Result<Committed, StorageError> {
        self.shared.healthy()?;
        self.plan(records)?;
        let bytes = records.iter().map(Bytes::len).sum();
        let adds_value = self.planned.iter().any(|planned| planned.change.adds_value());
        self.admit(bytes, adds_value)?;
        let frames = self.write(records, bytes)?;
        if self.options.io_mode == IoMode::Unbuffered {
            self.shared.sync()?;
        }
        self.apply(&frames);
        self.progress.note_foreground(frame::stored_bytes(bytes) as u64);
        Ok(Committed {
            records: self.planned.len(),
            frames: frames.len(),
            last_frame: frames.last().map_or(0, |(appended, _)| appended.number),
        })
    }

    /// A handle for other threads, which read while commits run.
    pub fn reader(&self) -> Reader<D> {
        Reader::new(Arc::clone(&self.shared))
    }

    /// A handle with which another thread syncs a buffered store every second.
    pub fn syncer(&self) -> Syncer<D> {
        Syncer::new(Arc::clone(&self.shared))
    }

    /// Makes everything durable that was committed.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.shared.sync()
    }

    /// To be called after a second without a commit: an empty frame carries the mark of what was
    /// synced, so that damage to the last batch is not taken for a torn tail.
    pub fn mark_quiet(&mut self) -> Result<(), StorageError> {
        self.progress.note_idle();
        if self.quiet_at + 1 == self.log.next_number {
            return self.shared.healthy();
        }
        self.shared.sync()?;
        match self.append_empty(false) {
            // It is marked when there is room again.
            Err(StorageError::DiskFull { .. }) => Ok(()),
            marked => marked,
        }
    }

    /// Appends an empty frame as a commit would: to see how long that takes.
    pub fn probe(&mut self) -> Result<(), StorageError> {
        self.shared.healthy()?;
        if self.log.room().is_none() {
            match self.rotate() {
                // A full disk is not a slow one.
                Err(StorageError::DiskFull { .. }) => return Ok(()),
                rotated => rotated?,
            }
        }
        self.log.begin();
        self.log.append(false)?;
        if self.options.io_mode == IoMode::Unbuffered { self.shared.sync() } else { Ok(()) }
    }

    /// Stops the store so that reopening finds a clean end.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.shared.sync()?;
        self.append_empty(true)
    }

    /// For the simulation: where the next frame goes.
    #[cfg(test)]
    pub(crate) fn end(&self) -> (String, u64) {
        (segment::name_of(self.log.active.id), self.log.active.offset)
    }

    /// Appends an empty frame and syncs it.
    pub(super) fn append_empty(&mut self, closed: bool) -> Result<(), StorageError> {
        self.shared.healthy()?;
        if self.log.room().is_none() {
            self.rotate()?;
        }
        self.log.begin();
        self.quiet_at = self.log.append(closed)?.number;
        self.shared.sync()
    }

    /// Writes again what was fetched from another store because it cannot be read here: each record
    /// takes the place of an entry of its very version and checksum, others are passed over. Says
    /// how many were restored.
    pub fn restore(&mut self, records: &[Bytes]) -> Result<usize, StorageError> {
        self.shared.healthy()?;
        self.plan(records)?;
        let mut kept = BytesMut::new();
        let mut planned = std::mem::take(&mut self.planned);
        let pieces = records.iter().flat_map(|bytes| Records::new(bytes)).flatten();
        let mut pieces = pieces.map(|(_, bytes)| bytes);
        planned.retain_mut(|planned| {
            let Some(bytes) = pieces.next() else { return false };
            let What::Write(write) = &mut planned.change.what else { return false };
            write.carried = Carried::Move;
            let partition = self.shared.index.partition(planned.change.partition);
            let wanted = partition.is_some_and(|partition| partition.read().has(write));
            if wanted {
                append_moved(bytes, &mut kept);
            }
            wanted
        });
        let restored = planned.len();
        self.commit_moves(planned, kept.freeze())?;
        self.shared.sync()?;
        Ok(restored)
    }

    /// Writes records in their new places, unsynced: until the next sync the old places stay.
    pub(super) fn commit_moves(
        &mut self,
        planned: Vec<Planned>,
        records: Bytes,
    ) -> Result<(), StorageError> {
        self.planned = planned;
        let bytes = records.len();
        self.admit(bytes, false)?;
        let frames = self.write(&[records], bytes)?;
        self.apply(&frames);
        Ok(())
    }

    /// Checks every record before anything is written.
    fn plan(&mut self, records: &[Bytes]) -> Result<(), StorageError> {
        self.planned.clear();
        if self.shared.index.is_crowded() {
            return Err(StorageError::TooManyEpochs);
        }
        let bytes = usize::try_from(self.options.segment_bytes).unwrap_or(usize::MAX);
        let limit = bytes.saturating_sub(frame::HEADER_BYTES);
        let (key, count) = (self.shared.index.key(), self.shared.index.count());
        for record in records.iter().flat_map(|bytes| Records::new(bytes)) {
            let position = self.planned.len();
            let (record, bytes) =
                record.map_err(|source| StorageError::Record { position, source })?;
            if bytes.len() > limit {
                return Err(StorageError::TooLarge { bytes: bytes.len(), limit });
            }
            let change = Change::of(&record, bytes, Place::default(), key, count)
                .and_then(Change::if_from_outside)
                .map_err(|source| StorageError::Unusable { position, source })?;
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            self.planned.push(Planned { change, length });
        }
        Ok(())
    }

    /// Refuses what the disk has no room for, before anything is written.
    pub(super) fn admit(&self, bytes: usize, adds_value: bool) -> Result<(), StorageError> {
        let needed = frame::stored_bytes(bytes) as u64;
        let kept = if adds_value && self.options.guards().keep(Guard::ReserveIsKept) {
            self.shared.reserve_bytes.load(Ordering::Relaxed)
        } else {
            0
        };
        let reusable = self.shared.reusable_bytes.load(Ordering::Relaxed) + self.active_room();
        if reusable >= needed + kept {
            return Ok(());
        }
        let space = self.shared.disk.space().map_err(StorageError::io("ask for free space"))?;
        let available = reusable + space.free;
        if available >= needed + kept {
            return Ok(());
        }
        let reserve = self.shared.reserve_bytes.load(Ordering::Relaxed);
        Err(StorageError::DiskFull { available, reserve })
    }

    fn active_room(&self) -> u64 {
        self.log.active.segment.bytes.saturating_sub(self.log.active.offset)
    }

    /// Writes the planned records in as few frames as possible. A failure after the first frame is
    /// final: the log then holds a part of the batch that the index does not.
    fn write(&mut self, records: &[Bytes], bytes: usize) -> Result<Frames, StorageError> {
        let mut frames = Frames::new();
        let mut rest = bytes;
        let mut source = Source { records, offset: 0 };
        let mut next = 0;
        while next < self.planned.len() {
            let room = match self.make_room(next, rest) {
                // Nothing was written yet: a refusal.
                Err(full @ StorageError::DiskFull { .. }) if next == 0 => return Err(full),
                room => self.shared.guarded(room)?,
            };
            let (end, taken) = self.fill(next, room);
            self.log.begin();
            let log = &mut self.log;
            source.take(taken, |part| log.push(part));
            frames.push((self.log.append(false)?, next..end));
            rest -= taken;
            next = end;
        }
        Ok(frames)
    }

    /// How many bytes of records the next frame may hold; rotates if it pays.
    fn make_room(&mut self, next: usize, rest: usize) -> Result<usize, StorageError> {
        let first = self.planned.get(next).map_or(0, |planned| planned.length as usize);
        // Frames are cut smaller to fill a segment's end only if that end is worth it.
        let worth = usize::try_from(self.options.segment_bytes / 64).unwrap_or(0);
        let wanted = rest.min(worth).max(first);
        if self.log.room().is_none_or(|room| room < wanted) {
            self.rotate()?;
        }
        Ok(self.log.room().unwrap_or(0).min(FRAME_BYTES.max(first)))
    }

    /// The end of the records, and their bytes, that fit into this room.
    fn fill(&self, next: usize, room: usize) -> (usize, usize) {
        let mut end = next;
        let mut taken = 0;
        for planned in self.planned.iter().skip(next) {
            let length = planned.length as usize;
            if taken + length > room && end > next {
                break;
            }
            taken += length;
            end += 1;
        }
        (end, taken)
    }

    fn apply(&mut self, frames: &Frames) {
        let Self { planned, usage, shared, .. } = self;
        for (appended, range) in frames {
            usage.frame = appended.number;
            let mut offset = appended.offset;
            for Planned { change, length } in planned.get_mut(range.clone()).unwrap_or_default() {
                if let What::Write(write) = &mut change.what {
                    write.place = place(appended.segment, offset, *length);
                }
                offset += u64::from(*length);
                shared.index.apply(change, usage);
            }
        }
    }

    /// Makes a free segment the active one: the old one is synced, the root is replaced, and only
    /// then are frames written.
    pub(super) fn rotate(&mut self) -> Result<(), StorageError> {
        if self.options.guards().keep(Guard::RotationSyncs) {
            self.shared.sync()?;
        }
        let id = match self.free_segment() {
            Err(full @ StorageError::DiskFull { .. }) => return Err(full),
            id => self.shared.guarded(id)?,
        };
        let mut root = self.root.clone();
        let passed = self.positions.lowest();
        let generation = root.next_generation;
        root.listed.push(Listed { id, generation, first: self.log.next_number });
        while root.listed.get(1).is_some_and(|second| second.first <= passed + 1) {
            root.listed.remove(0);
        }
        root.next_generation += 1;
        root.mark = self.shared.synced();
        self.write_root(&root)?;
        self.root = root;
        self.progress.forget(id);
        let segment = self.shared.segments.get(id).ok_or(StorageError::Failed)?;
        self.log.active = Active { id, generation, segment, offset: 0 };
        self.refresh_space();
        Ok(())
    }

    pub(super) fn write_root(&self, root: &Root) -> Result<(), StorageError> {
        let index = &self.shared.index;
        let bytes = root.encode(index.key(), index.count());
        let disk = &self.shared.disk;
        let durable = self.options.guards().keep(Guard::RootIsDurable);
        let written = match disk::prepare(disk, root::NAME, &bytes, durable) {
            Err(error) if is_full(&error) => return Err(self.not_replaced(error)),
            Ok(()) if durable => disk::publish(disk, &[root::NAME.to_owned()]),
            Ok(()) => disk.rename("root.tmp", root::NAME),
            Err(error) => Err(error),
        };
        self.shared.guarded(written.map_err(StorageError::io("write the root")))
    }

    /// There was no room for a file that was to take another's place. The old one is as it was, so
    /// this is no failure of the store.
    pub(super) fn not_replaced(&self, full: std::io::Error) -> StorageError {
        match disk::remove_temporaries(&self.shared.disk) {
            Ok(()) => self.full_or_failed(full),
            Err(error) => StorageError::io("remove an unfinished file")(error),
        }
    }

    /// A segment that may be written from the front; made now if there is none.
    fn free_segment(&mut self) -> Result<u32, StorageError> {
        let free = self.shared.segments.ids().into_iter().find(|id| self.is_free(*id));
        match free {
            Some(id) => Ok(id),
            None => self.add_segment(),
        }
    }

    /// Not listed, nothing points into it, nobody reads it, what emptied it is synced.
    pub(super) fn is_free(&self, id: u32) -> bool {
        let usage = self.usage.of(id);
        if usage.entries > 0 || id == self.log.active.id {
            return false;
        }
        let guards = self.options.guards();
        let listed = || self.root.lists(id) && guards.keep(Guard::ListedIsNotFree);
        let death_synced =
            usage.last_death <= self.shared.synced() || !guards.keep(Guard::DeathIsSynced);
        let held = || self.shared.segments.is_held(id) && guards.keep(Guard::ReadIsNotFree);
        death_synced && !listed() && self.is_whole(id) && !held()
    }

    /// Whether the segment has the size that segments have.
    fn is_whole(&self, id: u32) -> bool {
        let segment = self.shared.segments.get(id);
        segment.is_some_and(|segment| segment.bytes == self.options.segment_bytes)
    }

    /// Removes segments that hold nothing and cannot be used: cut short when they were made, or of
    /// another size.
    pub(super) fn remove_unusable(&mut self) -> Result<(), StorageError> {
        for id in self.shared.segments.ids() {
            let used = self.usage.of(id).entries > 0 || self.root.lists(id);
            if !used && !self.is_whole(id) {
                let removed = self.shared.disk.remove(&segment::name_of(id));
                self.shared.guarded(removed.map_err(StorageError::io("remove a segment")))?;
                self.shared.segments.forget(id);
            }
        }
        Ok(())
    }

    /// Makes a segment without filling it with zeroes: slower to write to, and ready at once.
    pub(super) fn add_segment(&mut self) -> Result<u32, StorageError> {
        let (id, file) = self.allocate_segment()?;
        let durable = file.sync().and_then(|()| self.shared.disk.sync_dir());
        self.shared.guarded(durable.map_err(StorageError::io("make a segment durable")))?;
        self.shared.segments.put(id, Segment { file, bytes: self.options.segment_bytes });
        Ok(id)
    }

    /// Takes room for a segment. A disk that is full is no failure of the store.
    pub(super) fn allocate_segment(&self) -> Result<(u32, D::File), StorageError> {
        let Some(id) = self.shared.segments.unused_id() else {
            return Err(StorageError::DiskFull { available: 0, reserve: 0 });
        };
        let name = segment::name_of(id);
        let file = self.shared.disk.create(&name).map_err(|error| self.full_or_failed(error))?;
        if let Err(error) = file.allocate(self.options.segment_bytes) {
            let removed = self.shared.disk.remove(&name);
            removed.map_err(StorageError::io("remove a segment that found no room"))?;
            return Err(self.full_or_failed(error));
        }
        Ok((id, file))
    }

    /// What a failure to get room means.
    pub(super) fn full_or_failed(&self, error: std::io::Error) -> StorageError {
        if is_full(&error) {
            let available = self.shared.disk.space().map_or(0, |space| space.free);
            let reserve = self.shared.reserve_bytes.load(Ordering::Relaxed);
            StorageError::DiskFull { available, reserve }
        } else {
            StorageError::io("take room on the disk")(error)
        }
    }

    /// Counts anew what can be written without asking for room; says whether room is short.
    pub(super) fn refresh_space(&mut self) -> bool {
        let ids = self.shared.segments.ids();
        let free = ids.into_iter().filter(|id| self.is_free(*id)).count();
        self.progress.free_segments = free;
        let segment_bytes = self.options.segment_bytes;
        let reusable = segment_bytes * free as u64;
        self.shared.reusable_bytes.store(reusable, Ordering::Relaxed);
        let Ok(space) = self.shared.disk.space() else { return false };
        let reserve = self.options.reserve.bytes(space.total, segment_bytes);
        self.shared.reserve_bytes.store(reserve, Ordering::Relaxed);
        space.free + reusable < reserve + SHORT_SEGMENTS * segment_bytes
    }

    /// Every partition, and the store-wide facts.
    pub(super) fn all_checkpoints(&self) -> Vec<PartitionId> {
        self.shared.index.count().all().chain([PartitionId::STORE]).collect()
    }
}

/// Appends a record marked as moved.
pub(super) fn append_moved(bytes: &[u8], records: &mut BytesMut) {
    let start = records.len();
    records.extend_from_slice(bytes);
    if let Some(moved) = records.get_mut(start..) {
        set_flags(moved, Flags::MOVE);
    }
}

/// Where a record that was written lies.
pub(super) fn place(segment: u32, offset: u64, length: u32) -> Place {
    let offset = u32::try_from(offset).unwrap_or(u32::MAX);
    Place { segment, offset, length: readable_bytes(length) }
}

/// Whether an error means that the disk is full.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// The bytes of a batch, cut where frames end.
#[derive(Debug)]
struct Source<'a> {
    records: &'a [Bytes],
    offset: usize,
}

impl Source<'_> {
    fn take(&mut self, bytes: usize, mut push: impl FnMut(&[u8])) {
        let mut wanted = bytes;
        while let Some((first, rest)) = self.records.split_first() {
            let left = first.get(self.offset..).unwrap_or(&[]);
            let taken = left.len().min(wanted);
            push(left.get(..taken).unwrap_or(&[]));
            wanted -= taken;
            self.offset += taken;
            if self.offset < first.len() {
                return;
            }
            (self.records, self.offset) = (rest, 0);
        }
    }
}
