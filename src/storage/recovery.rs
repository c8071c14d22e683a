//! Reopening: what the disk holds, and whether it is all that was promised.
//!
//! The tail is walked by frame number up to the first one missing, n. That is *damage* if anything
//! durable says that n had been synced - the root's mark, a checkpoint's position, a later segment
//! of the root, the mark of any later frame that verifies - and a *torn tail* otherwise: what the
//! power took before its sync had returned. A later frame that verifies is no damage by itself:
//! several can be in flight, and the disk writes them in any order.
//!
//! What a damaged store holds is kept, as records that only a healthy copy's word makes good again:
//! it may be the last copy, and nothing here ever throws away a record that could be read.

use std::io;

use super::change::Change;
use super::checkpoint;
use super::disk::{self, Disk, DiskFile};
use super::entry::Place;
use super::error::StorageError;
use super::frame::{self, Frame, FrameKey};
use super::guards::Guard;
use super::index::Index;
use super::log;
use super::options::Options;
use super::positions::Positions;
use super::root::{self, Listed, Parsed, Root};
use super::segment::{self, Segments};
use super::usage::Usage;
use crate::protocol::record::Records;
use crate::types::{IndexKey, PartitionCount, PartitionId};

/// What was found missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The root is missing or unreadable.
    #[error("the root of the log cannot be read")]
    Root,
    /// A frame that was durable is missing or unreadable.
    #[error("frame {0} of the log cannot be read")]
    Frame(u64),
    /// The checkpoint of the store-wide facts is missing or unreadable.
    #[error("the checkpoint of the store cannot be read")]
    Store,
}

/// How the log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// The store was closed, or is new.
    Clean,
    /// The process or the machine stopped; what was not yet durable is gone.
    Torn,
    /// Something durable is gone: the store holds no partition any more, and its records wait to
    /// be vouched for.
    Damaged(Damage),
}

/// A store as it was found.
#[derive(Debug)]
pub(crate) struct Recovered<D: Disk> {
    pub index: Index,
    pub usage: Usage,
    pub segments: Segments<D::File>,
    pub root: Root,
    pub positions: Positions,
    pub next_number: u64,
    /// Where the next frame goes in the last listed segment; if damaged, a new one is needed.
    pub offset: u64,
    pub tail: Tail,
    /// Partitions whose checkpoint cannot be read.
    pub damaged: Vec<PartitionId>,
}

/// A frame behind the first one missing.
#[derive(Clone, Copy, Debug)]
struct Found {
    listed: usize,
    offset: u64,
    number: u64,
    mark: u64,
}

/// Where the walk ended.
#[derive(Clone, Copy, Debug)]
struct End {
    listed: usize,
    offset: u64,
    /// The first frame missing.
    missing: u64,
    closed: bool,
}

/// What reading the root came to.
#[derive(Debug)]
pub(crate) enum RootState {
    Fresh,
    Found(Root),
    Unreadable,
}

/// Reads the root as the device holds it.
pub(crate) fn read_root<D: Disk>(
    disk: &D,
    key: &IndexKey,
    partitions: PartitionCount,
    past_cache: bool,
) -> Result<RootState, StorageError> {
    let failed = || StorageError::io("read the root");
    let bytes = match disk.open(root::NAME) {
        Ok(file) => {
            if past_cache {
                file.sync().and_then(|()| file.drop_cache()).map_err(failed())?;
            }
            disk::read_whole(disk, root::NAME).map_err(failed())?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let fresh = is_fresh(disk).map_err(failed())?;
            return Ok(if fresh { RootState::Fresh } else { RootState::Unreadable });
        }
        Err(error) => return Err(failed()(error)),
    };
    Ok(match Root::parse(&bytes, key, partitions)? {
        Parsed::Root(root) => RootState::Found(root),
        Parsed::Unreadable => RootState::Unreadable,
    })
}

/// A disk without a root is fresh only if nothing was ever written into a segment: the root comes
/// before the first frame.
fn is_fresh<D: Disk>(disk: &D) -> io::Result<bool> {
    for name in disk.list()? {
        if checkpoint::is_name(&name) {
            return Ok(false);
        }
        if segment::id_of(&name).is_some() {
            let mut page = [0; frame::PAGE_BYTES];
            let read = disk.open(&name)?.read_at(0, &mut page)?;
            if page.iter().take(read).any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Reads a store back.
#[derive(Debug)]
pub(crate) struct Recovery<'a, D: Disk> {
    disk: &'a D,
    options: &'a Options,
    frame_key: FrameKey,
    index: Index,
    usage: Usage,
    segments: Segments<D::File>,
    positions: Positions,
    damaged: Vec<PartitionId>,
    store_damaged: bool,
    buffer: Vec<u8>,
}

impl<'a, D: Disk> Recovery<'a, D> {
    pub(crate) fn new(
        disk: &'a D,
        key: IndexKey,
        partitions: PartitionCount,
        options: &'a Options,
    ) -> Result<Self, StorageError> {
        let segments = Segments::open(disk).map_err(StorageError::io("open the segments"))?;
        Ok(Self {
            disk,
            options,
            frame_key: FrameKey::new(key),
            index: Index::new(key, partitions, options.guards()),
            usage: Usage::default(),
            segments,
            positions: Positions::new(partitions),
            damaged: Vec::new(),
            store_damaged: false,
            buffer: Vec::new(),
        })
    }

    /// Reads everything back under this root; without one, everything that can be read.
    pub(crate) fn run(mut self, root: Option<Root>) -> Result<Recovered<D>, StorageError> {
        let root_damaged = root.is_none();
        let root = match root {
            Some(root) => root,
            None => self.guess_root()?,
        };
        self.sync_last(&root)?;
        self.load_checkpoints(&root)?;
        let end = self.walk(&root)?;
        let found = self.survey(&root, end.listed, end.offset)?;
        let tail =
            if root_damaged { Tail::Damaged(Damage::Root) } else { self.judge(&root, end, &found) };
        let highest = found.iter().map(|frame| frame.number.max(frame.mark)).max().unwrap_or(0);
        let next_number = match tail {
            Tail::Damaged(_) => {
                self.salvage(&root, &found)?;
                highest.max(end.missing).max(root.mark).max(self.positions.highest()) + 1
            }
            Tail::Clean | Tail::Torn => {
                self.destroy(&root, &found)?;
                end.missing
            }
        };
        self.demote_damaged();
        Ok(Recovered {
            index: self.index,
            usage: self.usage,
            segments: self.segments,
            root,
            positions: self.positions,
            next_number,
            offset: end.offset,
            tail,
            damaged: self.damaged,
        })
    }

    /// After a kill or a failed sync, memory shows frames that the next power cut takes away.
    fn sync_last(&self, root: &Root) -> Result<(), StorageError> {
        let last = root.listed.last().and_then(|last| self.segments.get(last.id));
        if let Some(last) = last.filter(|_| self.options.guards().keep(Guard::ReadsPastCache)) {
            let synced = last.file.sync().and_then(|()| last.file.drop_cache());
            synced.map_err(StorageError::io("sync the end of the log"))?;
        }
        Ok(())
    }

    fn load_checkpoints(&mut self, root: &Root) -> Result<(), StorageError> {
        let first = root.listed.first().map_or(1, |listed| listed.first);
        for partition in self.index.count().all().collect::<Vec<_>>() {
            let bytes = self.read_checkpoint(partition)?;
            let usage = &mut self.usage;
            let loaded =
                bytes.as_ref().and_then(|bytes| checkpoint::decode(bytes, partition, usage));
            let position = loaded.as_ref().map_or(0, |(position, _)| *position);
            let unreadable = bytes.is_some() && loaded.is_none();
            if let Some((_, index)) = loaded {
                self.index.restore(partition, index);
            }
            self.positions.set(partition, position);
            let needed = self.options.guards().keep(Guard::CheckpointIsNeeded);
            if needed && (unreadable || position + 1 < first) {
                self.damaged.push(partition);
            }
        }
        let bytes = self.read_checkpoint(PartitionId::STORE)?;
        let loaded = bytes.as_ref().and_then(|bytes| checkpoint::decode_store(bytes));
        let position = loaded.map_or(0, |(position, _)| position);
        if let Some((_, promised)) = loaded {
            self.index.promise(promised);
        }
        self.positions.set(PartitionId::STORE, position);
        self.store_damaged = bytes.is_some() && loaded.is_none() || position + 1 < first;
        Ok(())
    }

    fn read_checkpoint(&self, partition: PartitionId) -> Result<Option<Vec<u8>>, StorageError> {
        match disk::read_whole(self.disk, &checkpoint::name_of(partition)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("read a checkpoint")(error)),
        }
    }

    /// The bytes of a segment, in a buffer to be given back; none if there is no such file.
    fn load(&mut self, id: u32) -> Result<Vec<u8>, StorageError> {
        let mut bytes = std::mem::take(&mut self.buffer);
        let Some(segment) = self.segments.get(id) else {
            bytes.clear();
            return Ok(bytes);
        };
        bytes.resize(usize::try_from(segment.bytes).unwrap_or(0), 0);
        let read = segment.file.read_at(0, &mut bytes);
        let read = read.map_err(StorageError::io(format!("read segment {id}")))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// The frame at this offset of the loaded segment, if it verifies and is of this generation.
    fn frame_at<'b>(&self, bytes: &'b [u8], offset: u64, generation: u64) -> Option<Frame<'b>> {
        let bytes = bytes.get(usize::try_from(offset).ok()?..)?;
        let frame = frame::decode(self.frame_key, offset, bytes)?;
        (frame.header.generation == generation).then_some(frame)
    }

    /// How many bytes a frame takes, the space to the next one included.
    fn stored(&self, frame: &Frame<'_>) -> u64 {
        let content = frame::HEADER_BYTES + frame.payload.len();
        content.next_multiple_of(log::step(self.options.guards())) as u64
    }

    /// Applies the tail, frame by frame, up to the first one missing.
    fn walk(&mut self, root: &Root) -> Result<End, StorageError> {
        let expected = root.listed.first().map_or(1, |listed| listed.first);
        let mut end = End { listed: 0, offset: 0, missing: expected, closed: false };
        for (position, listed) in root.listed.iter().enumerate() {
            if listed.first != end.missing {
                break;
            }
            end = End { listed: position, offset: 0, ..end };
            let next = root.listed.get(position + 1).map(|next| next.first);
            let bytes = self.load(listed.id)?;
            self.walk_segment(&bytes, *listed, next, &mut end)?;
            self.buffer = bytes;
        }
        Ok(end)
    }

    /// Applies the frames of one segment, up to the first of the next.
    fn walk_segment(
        &mut self,
        bytes: &[u8],
        listed: Listed,
        next: Option<u64>,
        end: &mut End,
    ) -> Result<(), StorageError> {
        while next != Some(end.missing) {
            let frame = self.frame_at(bytes, end.offset, listed.generation);
            let Some(frame) = frame.filter(|frame| frame.header.number == end.missing) else {
                break;
            };
            self.apply(&frame, listed.id, end.offset)?;
            end.closed = frame.header.closed;
            end.missing += 1;
            end.offset += self.stored(&frame);
        }
        Ok(())
    }

    /// Applies a frame that lies at this offset of a segment.
    fn apply(&mut self, frame: &Frame<'_>, segment: u32, offset: u64) -> Result<(), StorageError> {
        let Self { index, usage, positions, .. } = self;
        let number = frame.header.number;
        usage.frame = number;
        let mut at = offset + frame::HEADER_BYTES as u64;
        for record in Records::new(frame.payload) {
            let (record, bytes) = record.map_err(|_| newer(number))?;
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let place = Place { segment, offset: u32::try_from(at).unwrap_or(u32::MAX), length };
            at += u64::from(length);
            if number <= positions.of(record.partition) {
                continue;
            }
            let change = Change::of(&record, bytes, place, index.key(), index.count());
            index.apply(&change.map_err(|_| newer(number))?, usage);
        }
        Ok(())
    }

    /// Finds every frame that verifies from here to the end of the listed segments.
    fn survey(
        &mut self,
        root: &Root,
        from: usize,
        offset: u64,
    ) -> Result<Vec<Found>, StorageError> {
        let mut found = Vec::new();
        let step = log::step(self.options.guards()) as u64;
        let mut offset = offset;
        for (position, listed) in root.listed.iter().enumerate().skip(from) {
            let bytes = self.load(listed.id)?;
            while offset < bytes.len() as u64 {
                let Some(frame) = self.frame_at(&bytes, offset, listed.generation) else {
                    offset += step;
                    continue;
                };
                let (number, mark) = (frame.header.number, frame.header.mark);
                let stored = self.stored(&frame);
                found.push(Found { listed: position, offset, number, mark });
                offset += stored;
            }
            offset = 0;
            self.buffer = bytes;
        }
        Ok(found)
    }

    fn judge(&self, root: &Root, end: End, found: &[Found]) -> Tail {
        let missing = end.missing;
        let guards = self.options.guards();
        let later_segment = root.listed.iter().skip(end.listed + 1).any(|it| it.first > missing);
        let marked = missing <= root.mark
            || missing <= self.positions.highest()
            || later_segment
            || found.iter().any(|frame| frame.mark >= missing);
        let naive = !found.is_empty() && !guards.keep(Guard::LaterFrameIsNotDamage);
        if marked && guards.keep(Guard::MarksShowDamage) || naive {
            Tail::Damaged(Damage::Frame(missing))
        } else if self.store_damaged {
            Tail::Damaged(Damage::Store)
        } else if end.closed && found.is_empty() {
            Tail::Clean
        } else {
            Tail::Torn
        }
    }

    /// Frames that were in flight with the missing one must never be taken for its successors.
    fn destroy(&self, root: &Root, found: &[Found]) -> Result<(), StorageError> {
        if !self.options.guards().keep(Guard::LaterFramesZeroed) {
            return Ok(());
        }
        for frame in found {
            let listed = root.listed.get(frame.listed);
            let Some(segment) = listed.and_then(|listed| self.segments.get(listed.id)) else {
                continue;
            };
            let zeroes = [0; frame::PAGE_BYTES];
            let zeroes = zeroes.get(..log::step(self.options.guards())).unwrap_or(&zeroes);
            let written = segment.file.write_at(frame.offset, zeroes);
            let synced = written.and_then(|()| segment.file.sync());
            synced.map_err(StorageError::io("clear the torn end of the log"))?;
        }
        Ok(())
    }

    /// Applies what still verifies behind the damage. All of it will have to be vouched for.
    fn salvage(&mut self, root: &Root, found: &[Found]) -> Result<(), StorageError> {
        for frames in found.chunk_by(|one, next| one.listed == next.listed) {
            let listed = frames.first().and_then(|frame| root.listed.get(frame.listed));
            let Some(listed) = listed else { continue };
            let bytes = self.load(listed.id)?;
            for found in frames {
                if let Some(frame) = self.frame_at(&bytes, found.offset, listed.generation) {
                    self.apply(&frame, listed.id, found.offset)?;
                }
            }
            self.buffer = bytes;
        }
        self.damaged = self.index.count().all().collect();
        Ok(())
    }

    fn demote_damaged(&self) {
        for partition in self.damaged.iter().filter_map(|damaged| self.index.partition(*damaged)) {
            partition.write().demote();
        }
    }

    /// Without a root: every segment, in the order of the first frame that verifies in it.
    fn guess_root(&mut self) -> Result<Root, StorageError> {
        let mut root = Root::default();
        for id in self.segments.ids() {
            let bytes = self.load(id)?;
            let step = log::step(self.options.guards());
            let first = (0..bytes.len()).step_by(step).find_map(|offset| {
                let frame = frame::decode(self.frame_key, offset as u64, bytes.get(offset..)?)?;
                Some(frame.header)
            });
            self.buffer = bytes;
            if let Some(first) = first {
                let generation = first.generation;
                root.next_generation = root.next_generation.max(generation + 1);
                root.listed.push(Listed { id, generation, first: first.number });
            }
        }
        root.listed.sort_by_key(|listed| listed.first);
        Ok(root)
    }
}

fn newer(number: u64) -> StorageError {
    StorageError::Format(format!(
        "frame {number} verifies and holds a record that this build cannot read; use the build \
         that wrote it"
    ))
}
