//! What a simulated file holds: for programs, and on the device.

use std::collections::BTreeMap;

use super::seeded::Seeded;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// What of the unsynced survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Sector by sector as the seed decides: old, new or garbage.
    Random,
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// Of every file, what lies below this offset.
    Below(u64),
}

/// The device's content of a page that programs see differently.
#[derive(Clone, Debug)]
struct Behind {
    durable: Vec<u8>,
    /// Waits to be written; otherwise a failed sync has forgotten it.
    dirty: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct FileState {
    pub(super) live: Vec<u8>,
    behind: BTreeMap<usize, Behind>,
    durable_size: usize,
}

impl FileState {
    pub(super) fn lose(&mut self, survival: Survival, old: u64, garbage: u64, random: &mut Seeded) {
        let behind = std::mem::take(&mut self.behind);
        for (page, Behind { mut durable, dirty }) in behind {
            let start = page * PAGE;
            durable.resize(PAGE, 0);
            for (index, sector) in durable.chunks_mut(SECTOR).enumerate() {
                let at = start + index * SECTOR;
                match survival {
                    Survival::Nothing => {}
                    _ if !dirty => {}
                    Survival::Below(end) => {
                        let end = usize::try_from(end).unwrap_or(usize::MAX);
                        copy_overlap(sector, &self.live, at, end);
                    }
                    Survival::Random if random.chance(garbage) => random.fill(sector),
                    Survival::Random if random.chance(old) => {}
                    Survival::Random | Survival::Everything => {
                        copy_overlap(sector, &self.live, at, usize::MAX);
                    }
                }
            }
            self.put(start, &durable);
        }
        let keeps_size = match survival {
            Survival::Nothing => false,
            Survival::Random => random.chance(500),
            Survival::Everything | Survival::Below(_) => true,
        };
        if !keeps_size {
            self.live.resize(self.durable_size, 0);
        }
        self.durable_size = self.live.len();
    }

    /// Changes bits of a byte, on the device too.
    pub(super) fn flip(&mut self, offset: usize, mask: u8) -> bool {
        if let Some(behind) = self.behind.get_mut(&(offset / PAGE))
            && let Some(byte) = behind.durable.get_mut(offset % PAGE)
        {
            *byte ^= mask;
        }
        self.live.get_mut(offset).map(|byte| *byte ^= mask).is_some()
    }

    /// Overwrites what lies within the file.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (place, byte) in self.live.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    }

    /// Remembers what the device holds of the pages that are about to change.
    fn touch(&mut self, at: usize, length: usize) {
        for page in at / PAGE..(at + length).div_ceil(PAGE) {
            let start = page * PAGE;
            let end = (start + PAGE).min(self.live.len());
            let held = self.live.get(start..end).unwrap_or(&[]);
            let behind = self
                .behind
                .entry(page)
                .or_insert_with(|| Behind { durable: held.to_vec(), dirty: true });
            behind.dirty = true;
        }
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        self.touch(at, bytes.len());
        if self.live.len() < at + bytes.len() {
            self.live.resize(at + bytes.len(), 0);
        }
        if let Some(place) = self.live.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    pub(super) fn sync(&mut self) {
        // What an earlier failed sync has forgotten stays forgotten.
        self.behind.retain(|_, behind| !behind.dirty);
        self.durable_size = self.live.len();
    }

    pub(super) fn sync_badly(&mut self, random: &mut Seeded) {
        self.behind.retain(|_, behind| {
            let reached = behind.dirty && random.chance(500);
            behind.dirty = false;
            !reached
        });
    }

    pub(super) fn drop_cache(&mut self) {
        let forgotten: Vec<usize> =
            self.behind.iter().filter(|(_, held)| !held.dirty).map(|(page, _)| *page).collect();
        for page in forgotten {
            if let Some(mut behind) = self.behind.remove(&page) {
                behind.durable.resize(PAGE, 0);
                self.put(page * PAGE, &behind.durable);
            }
        }
    }
}

/// Copies the part of `from` below `end` that belongs at this offset into a sector.
fn copy_overlap(sector: &mut [u8], from: &[u8], at: usize, end: usize) {
    let end = end.min(from.len()).min(at + sector.len());
    let source = from.get(at..end).unwrap_or(&[]);
    for (place, byte) in sector.iter_mut().zip(source) {
        *place = *byte;
    }
}
