//! How much of each segment is still in use.

use super::entry::Place;

/// The use of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentUse {
    /// Entries that point into it.
    pub entries: u64,
    /// Bytes of the records they point to, rounded up.
    pub bytes: u64,
    /// The frame that made an entry stop pointing into it, the last time that happened.
    pub last_death: u64,
}

/// The use of all segments. Kept by the commit thread alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    segments: Vec<SegmentUse>,
    /// The frame that is being applied.
    pub frame: u64,
    /// Bytes of records that have died, other than by being moved.
    pub died_bytes: u64,
}

impl Usage {
    fn of_mut(&mut self, segment: u32) -> Option<&mut SegmentUse> {
        let at = segment as usize;
        if self.segments.len() <= at {
            self.segments.resize(at + 1, SegmentUse::default());
        }
        self.segments.get_mut(at)
    }

    /// An entry points there from now on.
    pub(crate) fn take(&mut self, place: Place) {
        if let Some(segment) = self.of_mut(place.segment) {
            segment.entries += 1;
            segment.bytes += u64::from(place.length);
        }
    }

    /// An entry is gone that pointed there.
    pub(crate) fn release(&mut self, place: Place) {
        self.died_bytes += u64::from(place.length);
        self.leave(place);
    }

    /// An entry points elsewhere.
    pub(crate) fn relocate(&mut self, from: Place, to: Place) {
        self.leave(from);
        self.take(to);
    }

    fn leave(&mut self, place: Place) {
        let frame = self.frame;
        if let Some(segment) = self.of_mut(place.segment) {
            segment.entries = segment.entries.saturating_sub(1);
            segment.bytes = segment.bytes.saturating_sub(u64::from(place.length));
            segment.last_death = frame;
        }
    }

    /// The use of this segment.
    pub(crate) fn of(&self, segment: u32) -> SegmentUse {
        self.segments.get(segment as usize).copied().unwrap_or_default()
    }
}
