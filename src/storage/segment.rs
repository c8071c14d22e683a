//! The files of the log.
//!
//! A segment is a file of fixed size that is written from front to back, once in each generation.
//! Readers hold it for the length of a read; it is written anew only when nobody does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;

use super::disk::{Disk, DiskFile};
use super::entry::MAX_SEGMENTS;

/// A segment's file.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    pub file: F,
    pub bytes: u64,
}

/// The name of a segment's file.
pub(crate) fn name_of(id: u32) -> String {
    format!("segment-{id:07}")
}

/// The segment that a file's name means.
pub(crate) fn id_of(name: &str) -> Option<u32> {
    let id = name.strip_prefix("segment-")?.parse().ok()?;
    (id < MAX_SEGMENTS && name_of(id) == name).then_some(id)
}

/// The segments that exist, shared between the commit thread and readers.
#[derive(Debug)]
pub(crate) struct Segments<F> {
    files: RwLock<Vec<Option<Arc<Segment<F>>>>>,
    /// The number of a segment that is being made.
    reserved: AtomicU32,
}

const NONE_RESERVED: u32 = u32::MAX;

impl<F: DiskFile> Segments<F> {
    /// Opens every segment on a disk.
    pub(crate) fn open<D: Disk<File = F>>(disk: &D) -> io::Result<Self> {
        let segments = Self { files: RwLock::default(), reserved: AtomicU32::new(NONE_RESERVED) };
        for name in disk.list()? {
            if let Some(id) = id_of(&name) {
                let file = disk.open(&name)?;
                let bytes = file.size()?;
                segments.put(id, Segment { file, bytes });
            }
        }
        Ok(segments)
    }

    /// Adds a segment.
    pub(crate) fn put(&self, id: u32, segment: Segment<F>) -> Arc<Segment<F>> {
        let at = id as usize;
        let mut files = self.files.write();
        if files.len() <= at {
            files.resize_with(at + 1, || None);
        }
        if self.reserved.load(Ordering::Relaxed) == id {
            self.reserve(NONE_RESERVED);
        }
        let segment = Arc::new(segment);
        if let Some(place) = files.get_mut(at) {
            *place = Some(Arc::clone(&segment));
        }
        segment
    }

    /// Forgets a segment.
    pub(crate) fn forget(&self, id: u32) {
        if let Some(place) = self.files.write().get_mut(id as usize) {
            *place = None;
        }
    }

    /// A segment, held by the caller until dropped.
    pub(crate) fn get(&self, id: u32) -> Option<Arc<Segment<F>>> {
        self.files.read().get(id as usize).and_then(Clone::clone)
    }

    /// Whether a reader holds the segment now. One that no entry points into stays free of new
    /// readers: they take it under the lock of the entry's partition.
    pub(crate) fn is_held(&self, id: u32) -> bool {
        let mut files = self.files.write();
        let segment = files.get_mut(id as usize).and_then(Option::as_mut);
        segment.is_some_and(|segment| Arc::get_mut(segment).is_none())
    }

    /// The segments that exist.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let files = self.files.read();
        let ids = (0..MAX_SEGMENTS).zip(files.iter());
        ids.filter(|(_, segment)| segment.is_some()).map(|(id, _)| id).collect()
    }

    /// A number that no segment has; nothing if there are as many as there can be.
    pub(crate) fn unused_id(&self) -> Option<u32> {
        let files = self.files.read();
        let reserved = self.reserved.load(Ordering::Relaxed);
        let is_used = |id: u32| files.get(id as usize).is_some_and(Option::is_some);
        (0..MAX_SEGMENTS).find(|id| !is_used(*id) && *id != reserved)
    }

    /// Keeps a number for a segment that is being made.
    pub(crate) fn reserve(&self, id: u32) {
        self.reserved.store(id, Ordering::Relaxed);
    }
}
