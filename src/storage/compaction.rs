//! Compaction: the live records of the emptiest segments move to the end of the log.
//!
//! They move as records of the log, through the commit thread, and an entry follows only if it
//! still names that very version: so compaction can neither bring a record back nor lose one. It
//! waits for no sync. Until the next one has made the new places durable the old segment is not
//! written anew, and a power cut leaves the old places true.
//!
//! A segment is worth emptying while more than a quarter of all sealed bytes is garbage. The bytes
//! it may move are bounded by what was committed, so that it never starves the foreground.

use std::io;

use bytes::BytesMut;

use super::change::{Carried, Change, What};
use super::disk::{Disk, DiskFile};
use super::entry::Place;
use super::error::StorageError;
use super::frame;
use super::log;
use super::store::{Planned, Store, append_moved};
use crate::protocol::record::Records;

/// A step reads this much, or one frame.
const WINDOW_BYTES: u64 = 256 << 10;
/// Reading this many bytes counts as moving one.
const READ_SHARE: u64 = 4;
/// Garbage is tolerated up to this part of the live bytes, in hundredths.
const GARBAGE_PERCENT: u64 = 35;
/// When room is short, a segment is emptied if this part of it is garbage, in hundredths.
const SHORT_PERCENT: u64 = 10;

/// A segment that is being emptied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compaction {
    pub id: u32,
    offset: u64,
}

/// What of a segment still counts.
#[derive(Debug, Default)]
struct Live {
    planned: Vec<Planned>,
    records: BytesMut,
}

impl<D: Disk> Store<D> {
    /// Moves some live records out of the segment that holds the least.
    pub(super) fn compact(&mut self, short: bool) -> Result<bool, StorageError> {
        let credit = if short { self.progress.short_credit } else { self.progress.credit };
        if credit == 0 {
            return Ok(false);
        }
        let current = self.progress.compaction.take();
        let Some(compaction) = current.or_else(|| self.choose(short)) else { return Ok(false) };
        let Some(segment) = self.shared.segments.get(compaction.id) else { return Ok(true) };
        if self.usage.of(compaction.id).entries == 0 {
            return Ok(true);
        }
        if compaction.offset >= segment.bytes {
            self.progress.pinned.push(compaction.id);
            return Ok(true);
        }
        let Ok((live, next)) = self.live_from(&segment.file, segment.bytes, compaction) else {
            // It cannot be read: what is in it has to be fetched from elsewhere.
            self.progress.pinned.push(compaction.id);
            return Ok(true);
        };
        drop(segment);
        let moved = live.records.len() as u64;
        if !live.planned.is_empty() {
            match self.commit_moves(live.planned, live.records.freeze()) {
                Ok(()) => {}
                Err(StorageError::DiskFull { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let cost = moved + (next - compaction.offset) / READ_SHARE;
        self.progress.credit = self.progress.credit.saturating_sub(cost);
        self.progress.short_credit = self.progress.short_credit.saturating_sub(cost);
        self.progress.compaction = Some(Compaction { offset: next, ..compaction });
        Ok(true)
    }

    /// The emptiest sealed segment, if there is enough garbage to bother.
    fn choose(&self, short: bool) -> Option<Compaction> {
        let sealed = self.sealed();
        let total: u64 = sealed.iter().map(|(_, segment)| segment.bytes).sum();
        let live: u64 = sealed.iter().map(|(id, _)| self.usage.of(*id).bytes).sum();
        let percent = if short { SHORT_PERCENT } else { GARBAGE_PERCENT };
        // The last segment or two are never worth it unless they are nearly empty.
        let slack = if short { 0 } else { self.options.segment_bytes };
        let wasteful = total > live + live * percent / 100 + slack;
        let candidates = sealed.iter().filter(|(id, _)| !self.progress.pinned.contains(id));
        let (id, segment) = candidates.min_by_key(|(id, _)| self.usage.of(*id).bytes)?;
        let garbage = segment.bytes.saturating_sub(self.usage.of(*id).bytes);
        let pays = garbage * 100 >= segment.bytes * SHORT_PERCENT;
        ((wasteful || short) && pays).then_some(Compaction { id: *id, offset: 0 })
    }

    /// The live records of the next stretch of a segment, and where it ends.
    fn live_from(
        &self,
        file: &D::File,
        size: u64,
        compaction: Compaction,
    ) -> io::Result<(Live, u64)> {
        let mut live = Live::default();
        let mut window = read_window(file, size, compaction.offset, WINDOW_BYTES)?;
        if let Some(length) = frame::length_of(&window).filter(|length| *length > window.len()) {
            window = read_window(file, size, compaction.offset, length as u64)?;
        }
        let step = log::step(self.options.guards());
        let mut at = 0;
        while at < window.len() {
            let offset = compaction.offset + at as u64;
            let rest = window.get(at..).unwrap_or(&[]);
            let cut = frame::length_of(rest).is_some_and(|length| length > rest.len());
            let reaches_on = offset + (rest.len() as u64) < size;
            if cut && at > 0 && reaches_on {
                break;
            }
            let stored = match frame::decode(self.shared.frame_key, offset, rest) {
                Some(frame) => {
                    self.collect(compaction.id, offset, frame.payload, &mut live);
                    (frame::HEADER_BYTES + frame.payload.len()).next_multiple_of(step)
                }
                None => step,
            };
            at += stored;
        }
        Ok((live, compaction.offset + at as u64))
    }

    /// Adds those records of a frame that the index still points to.
    fn collect(&self, segment: u32, offset: u64, payload: &[u8], live: &mut Live) {
        let index = &self.shared.index;
        let mut at = offset + frame::HEADER_BYTES as u64;
        for (record, bytes) in Records::new(payload).map_while(Result::ok) {
            let here = u32::try_from(at).unwrap_or(u32::MAX);
            at += bytes.len() as u64;
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let place = Place { segment, offset: here, length };
            let Ok(change) = Change::of(&record, bytes, place, index.key(), index.count()) else {
                continue;
            };
            let Some(change) = self.moved(change, place) else { continue };
            append_moved(bytes, &mut live.records);
            live.planned.push(Planned { change, length });
        }
    }

    /// The change that moves this record; nothing if the index does not point to it.
    fn moved(&self, mut change: Change, place: Place) -> Option<Change> {
        let What::Write(write) = &mut change.what else { return None };
        let partition = self.shared.index.partition(change.partition)?.read();
        let entry = partition.find(write.key_hash)?.place();
        let points_here = (entry.segment, entry.offset) == (place.segment, place.offset);
        if !points_here || !partition.has(write) {
            return None;
        }
        write.carried = Carried::Move;
        Some(change)
    }
}

/// A stretch of a file, cut at its end.
fn read_window<F: DiskFile>(file: &F, size: u64, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let length = length.min(size.saturating_sub(offset));
    let mut window = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = file.read_at(offset, &mut window)?;
    window.truncate(read);
    Ok(window)
}
