//! What the commit thread and readers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};
use super::error::StorageError;
use super::frame::FrameKey;
use super::guards::{Guard, Guards};
use super::index::Index;
use super::segment::{Segment, Segments};
use crate::runtime::clock;
use crate::runtime::metrics::DurationHistogram;

/// How far the log is written, and into which file.
#[derive(Debug)]
struct Written<F> {
    segment: Option<Arc<Segment<F>>>,
    number: u64,
}

/// What the commit thread and readers share.
#[derive(Debug)]
pub(crate) struct Shared<D: Disk> {
    pub disk: D,
    pub index: Index,
    pub segments: Segments<D::File>,
    pub frame_key: FrameKey,
    pub guards: Guards,
    written: Mutex<Written<D::File>>,
    synced: AtomicU64,
    failed: AtomicBool,
    sync_durations: DurationHistogram,
    last_sync_micros: AtomicU64,
    /// Bytes that can be written without asking the file system for room.
    pub reusable_bytes: AtomicU64,
    /// Bytes that are kept back.
    pub reserve_bytes: AtomicU64,
}

impl<D: Disk> Shared<D> {
    pub(crate) fn new(
        disk: D,
        index: Index,
        segments: Segments<D::File>,
        guards: Guards,
        synced: u64,
    ) -> Self {
        Self {
            disk,
            frame_key: FrameKey::new(*index.key()),
            index,
            segments,
            guards,
            written: Mutex::new(Written { segment: None, number: synced }),
            synced: AtomicU64::new(synced),
            failed: AtomicBool::new(false),
            sync_durations: DurationHistogram::default(),
            last_sync_micros: AtomicU64::new(0),
            reusable_bytes: AtomicU64::new(0),
            reserve_bytes: AtomicU64::new(0),
        }
    }

    /// The highest frame whose sync has returned.
    pub(crate) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// A frame was written into this segment.
    pub(crate) fn note_written(&self, segment: &Arc<Segment<D::File>>, number: u64) {
        let mut written = self.written.lock();
        written.number = number;
        if !written.segment.as_ref().is_some_and(|held| Arc::ptr_eq(held, segment)) {
            written.segment = Some(Arc::clone(segment));
        }
    }

    /// Makes every frame durable that was written before the call. Rotation has synced whatever
    /// lies in other segments.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        self.healthy()?;
        let (segment, number) = {
            let written = self.written.lock();
            (written.segment.clone(), written.number)
        };
        let Some(segment) = segment.filter(|_| number > self.synced()) else { return Ok(()) };
        let before = clock::now();
        self.guarded(segment.file.sync().map_err(StorageError::io("sync the log")))?;
        let took = clock::now().since(before);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.last_sync_micros.store(micros, Ordering::Relaxed);
        self.sync_durations.observe(took);
        self.synced.fetch_max(number, Ordering::AcqRel);
        Ok(())
    }

    /// How long syncs took.
    pub(crate) fn sync_durations(&self) -> &DurationHistogram {
        &self.sync_durations
    }

    /// How long the last sync took, in microseconds.
    pub(crate) fn last_sync_micros(&self) -> u64 {
        self.last_sync_micros.load(Ordering::Relaxed)
    }

    /// Passes an outcome on; a failure ends the store's service.
    pub(crate) fn guarded<T>(&self, outcome: Result<T, StorageError>) -> Result<T, StorageError> {
        if outcome.is_err() && self.guards.keep(Guard::FailureIsFinal) {
            self.failed.store(true, Ordering::Release);
        }
        outcome
    }

    /// Whether the store has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// An error if the store has failed.
    pub(crate) fn healthy(&self) -> Result<(), StorageError> {
        if self.has_failed() { Err(StorageError::Failed) } else { Ok(()) }
    }
}
