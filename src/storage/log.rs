//! The end of the log, where frames are appended.

use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::error::StorageError;
use super::frame::{self, Builder, Header, PAGE_BYTES};
use super::guards::{Guard, Guards};
use super::segment::Segment;
use super::shared::Shared;

/// Where the next frame goes.
#[derive(Debug)]
pub(crate) struct Active<F> {
    pub id: u32,
    pub generation: u64,
    pub segment: Arc<Segment<F>>,
    pub offset: u64,
}

/// Where a frame's records lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub number: u64,
    pub segment: u32,
    /// Of the first record.
    pub offset: u64,
}

/// The end of the log.
#[derive(Debug)]
pub(crate) struct Log<D: Disk> {
    shared: Arc<Shared<D>>,
    pub active: Active<D::File>,
    pub next_number: u64,
    /// Bytes appended since the store was opened.
    pub appended_bytes: u64,
    builder: Builder,
}

/// Frames begin at multiples of this.
pub(crate) fn step(guards: Guards) -> usize {
    if guards.keep(Guard::FramesAligned) { PAGE_BYTES } else { 64 }
}

impl<D: Disk> Log<D> {
    pub(crate) fn new(shared: Arc<Shared<D>>, active: Active<D::File>, next_number: u64) -> Self {
        Self { shared, active, next_number, appended_bytes: 0, builder: Builder::default() }
    }

    /// How many bytes of records fit into one more frame of the active segment; none if no frame
    /// does.
    pub(crate) fn room(&self) -> Option<usize> {
        let left = self.active.segment.bytes.saturating_sub(self.active.offset);
        usize::try_from(left).ok()?.checked_sub(frame::HEADER_BYTES)
    }

    /// Begins a frame; records are then pushed, and [`Self::append`] writes it.
    pub(crate) fn begin(&mut self) {
        self.builder.begin();
    }

    /// Adds records to the frame that was begun.
    pub(crate) fn push(&mut self, records: &[u8]) {
        self.builder.push(records);
    }

    /// Writes the frame that was begun with one call. The caller has made sure that it fits.
    pub(crate) fn append(&mut self, closed: bool) -> Result<Appended, StorageError> {
        let number = self.next_number;
        let header = Header {
            number,
            mark: self.shared.synced(),
            generation: self.active.generation,
            closed,
        };
        let content = frame::HEADER_BYTES + self.builder.payload_bytes();
        let offset = self.active.offset;
        let bytes = self.builder.finish(self.shared.frame_key, offset, header);
        let stored = content.next_multiple_of(step(self.shared.guards));
        let bytes = bytes.get(..stored).unwrap_or(bytes);
        let written = self.active.segment.file.write_at(offset, bytes);
        self.shared.guarded(written.map_err(StorageError::io("write to the log")))?;
        self.active.offset += stored as u64;
        self.appended_bytes += stored as u64;
        self.next_number += 1;
        self.shared.note_written(&self.active.segment, number);
        let offset = offset + frame::HEADER_BYTES as u64;
        Ok(Appended { number, segment: self.active.id, offset })
    }
}
