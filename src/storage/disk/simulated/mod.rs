//! A disk in memory that can lose its power.
//!
//! For each file it keeps what programs see and, for every page they have written since the last
//! sync, what the device holds. Cutting the power takes sectors of such pages back to the old
//! content, lets some through and garbles a few; names that were not synced survive as a prefix
//! of what was done to the directory. A sync that fails leaves pages that look written and are
//! not, as Linux does. Everything is drawn from one seed: same seed, same calls, same outcome.

mod content;
mod seeded;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use self::content::FileState;
use super::{Disk, DiskFile, Space};

pub use self::content::Survival;
pub use self::seeded::Seeded;

/// What a call does to the disk, for faults and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading from a file.
    Read,
    /// Writing to a file, or allocating room.
    Write,
    /// Syncing a file or the directory.
    Sync,
    /// Creating, renaming or removing a name.
    Name,
}

/// How often operations fail by themselves, in a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Reads that fail.
    pub reads: u64,
    /// Writes that fail, with part of the bytes written.
    pub writes: u64,
    /// Syncs that fail.
    pub syncs: u64,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(String, u64),
    Rename(String, String),
    Unlink(String),
}

fn change_names(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Link(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        NameChange::Unlink(name) => {
            names.remove(name);
        }
    }
}

#[derive(Clone, Debug)]
struct State {
    random: Seeded,
    files: BTreeMap<u64, FileState>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    next_file: u64,
    /// Raised by a crash; handles of an earlier boot are dead.
    boot: u64,
    operations: u64,
    cut_at: Option<u64>,
    planned: Vec<(Operation, u64)>,
    faults: Faults,
    capacity: u64,
}

/// A disk in memory. Clones share it; [`Self::copy`] makes another.
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

/// A file of a [`SimulatedDisk`].
#[derive(Clone, Debug)]
pub struct SimulatedFile {
    state: Arc<Mutex<State>>,
    file: u64,
    boot: u64,
}

fn injected(what: &str) -> io::Error {
    io::Error::other(format!("injected: {what}"))
}

impl SimulatedDisk {
    /// An empty disk whose misfortunes are drawn from this seed.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: Seeded::new(seed),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            next_file: 0,
            boot: 0,
            operations: 0,
            cut_at: None,
            planned: Vec::new(),
            faults: Faults::default(),
            capacity: 1 << 40,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// A disk of its own with the same content, unsynced content included, and this seed.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        let mut state = self.state.lock().clone();
        state.random = Seeded::new(seed);
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Limits the bytes of all files together.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// From now on, operations fail this often.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// The operation of this kind after `skip` others of it will fail, once.
    pub fn fail(&self, operation: Operation, skip: u64) {
        self.state.lock().planned.push((operation, skip));
    }

    /// How many operations there were, reads apart.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// After this many further operations (reads apart) the power goes off, in the middle of the
    /// next: it and all later ones fail, until [`Self::power_cut`].
    pub fn cut_after(&self, operations: u64) {
        let mut state = self.state.lock();
        state.cut_at = Some(state.operations + operations);
    }

    /// Takes away what was not synced, as the seed decides, and turns the power on again. Files
    /// that were open are dead.
    pub fn power_cut(&self) {
        self.power_cut_with(Survival::Random);
    }

    /// As [`Self::power_cut`], with a say in what survives.
    pub fn power_cut_with(&self, survival: Survival) {
        let mut state = self.state.lock();
        state.lose_names(survival);
        state.lose_content(survival);
        state.restart();
    }

    /// The process ends, the machine does not: nothing is lost, but files that were open are dead.
    pub fn kill(&self) {
        self.state.lock().restart();
    }

    /// Whether a file of this name can be seen.
    pub fn exists(&self, name: &str) -> bool {
        self.state.lock().names.contains_key(name)
    }

    /// Changes bits of a byte behind everybody's back, on the device too. False if there is none.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) -> bool {
        let mut state = self.state.lock();
        let Some(file) = state.names.get(name).copied() else { return false };
        let Some(file) = state.files.get_mut(&file) else { return false };
        let Ok(offset) = usize::try_from(offset) else { return false };
        file.flip(offset, mask)
    }

    fn begin(&self, operation: Operation) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        state.admit(operation)?;
        Ok(state)
    }
}

impl State {
    fn restart(&mut self) {
        self.boot += 1;
        self.cut_at = None;
        self.planned.clear();
        self.faults = Faults::default();
        self.forget_unnamed();
    }

    /// Drops the content of files that no name leads to, now or after a power cut.
    fn forget_unnamed(&mut self) {
        let Self { files, names, durable_names, name_changes, .. } = self;
        if name_changes.is_empty() {
            let named: BTreeSet<u64> =
                names.values().chain(durable_names.values()).copied().collect();
            files.retain(|file, _| named.contains(file));
        }
    }

    /// Counts an operation and decides whether it fails.
    fn admit(&mut self, operation: Operation) -> io::Result<()> {
        if self.cut_at.is_some_and(|at| self.operations > at) {
            return Err(injected("the power is off"));
        }
        if operation != Operation::Read {
            self.operations += 1;
        }
        if self.cut_at.is_some_and(|at| self.operations > at) {
            return Err(injected("the power goes off"));
        }
        let rate = match operation {
            Operation::Read => self.faults.reads,
            Operation::Write => self.faults.writes,
            Operation::Sync => self.faults.syncs,
            Operation::Name => 0,
        };
        if self.fails_as_planned(operation) || (rate > 0 && self.random.chance(rate)) {
            return Err(injected("the device failed"));
        }
        Ok(())
    }

    fn fails_as_planned(&mut self, operation: Operation) -> bool {
        let mut fails = false;
        self.planned.retain_mut(|(planned, skip)| {
            if *planned != operation {
                return true;
            }
            let now = *skip == 0;
            fails |= now;
            *skip = skip.saturating_sub(1);
            !now
        });
        fails
    }

    fn lose_names(&mut self, survival: Survival) {
        let changes = std::mem::take(&mut self.name_changes);
        let all = changes.len() as u64;
        let kept = match survival {
            Survival::Random => self.random.below(all + 1),
            Survival::Nothing => 0,
            Survival::Everything | Survival::Below(_) => all,
        };
        let kept = usize::try_from(kept).unwrap_or(0);
        for change in changes.iter().take(kept) {
            change_names(&mut self.durable_names, change);
        }
        self.names = self.durable_names.clone();
    }

    fn lose_content(&mut self, survival: Survival) {
        // Mild cuts and harsh ones: how many sectors are old, and how many are garbage.
        let (old, garbage) = match self.random.below(4) {
            0 => (500, 0),
            1 => (300, 100),
            2 => (50, 5),
            _ => (self.random.below(1000), self.random.below(100)),
        };
        for file in self.files.values_mut() {
            file.lose(survival, old, garbage, &mut self.random);
        }
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.live.len() as u64).sum()
    }

    fn room_for(&self, file: u64, size: usize) -> io::Result<()> {
        let before = self.files.get(&file).map_or(0, |file| file.live.len());
        let growth = size.saturating_sub(before) as u64;
        if self.used() + growth > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no file '{name}'"))
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;

    fn open(&self, name: &str) -> io::Result<SimulatedFile> {
        let state = self.begin(Operation::Read)?;
        let file = *state.names.get(name).ok_or_else(|| not_found(name))?;
        Ok(SimulatedFile { state: Arc::clone(&self.state), file, boot: state.boot })
    }

    fn create(&self, name: &str) -> io::Result<SimulatedFile> {
        let mut state = self.begin(Operation::Name)?;
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, FileState::default());
        let change = NameChange::Link(name.to_owned(), file);
        change_names(&mut state.names, &change);
        state.name_changes.push(change);
        Ok(SimulatedFile { state: Arc::clone(&self.state), file, boot: state.boot })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.begin(Operation::Name)?;
        if !state.names.contains_key(from) {
            return Err(not_found(from));
        }
        let change = NameChange::Rename(from.to_owned(), to.to_owned());
        change_names(&mut state.names, &change);
        state.name_changes.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.begin(Operation::Name)?;
        if !state.names.contains_key(name) {
            return Err(not_found(name));
        }
        let change = NameChange::Unlink(name.to_owned());
        change_names(&mut state.names, &change);
        state.name_changes.push(change);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.begin(Operation::Sync)?;
        for change in std::mem::take(&mut state.name_changes) {
            change_names(&mut state.durable_names, &change);
        }
        state.forget_unnamed();
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.begin(Operation::Read)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.state.lock();
        let free = state.capacity.saturating_sub(state.used());
        Ok(Space { free, total: state.capacity })
    }
}

impl SimulatedFile {
    fn with<T>(
        &self,
        operation: Operation,
        act: impl FnOnce(&mut State, io::Result<()>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.boot != self.boot {
            return Err(injected("the file was opened before a crash"));
        }
        let admitted = state.admit(operation);
        act(&mut state, admitted)
    }
}

fn offset_of(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(Operation::Read, |state, admitted| {
            admitted?;
            let file = state.files.get(&self.file).ok_or(io::ErrorKind::NotFound)?;
            let start = offset_of(offset)?.min(file.live.len());
            let held = file.live.get(start..).unwrap_or(&[]);
            let length = held.len().min(buffer.len());
            let (Some(into), Some(from)) = (buffer.get_mut(..length), held.get(..length)) else {
                return Ok(0);
            };
            into.copy_from_slice(from);
            Ok(length)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(Operation::Write, |state, admitted| {
            let at = offset_of(offset)?;
            if admitted.is_ok() {
                state.room_for(self.file, at + bytes.len())?;
            }
            // A write that fails may have written some of its bytes.
            let kept = match &admitted {
                Ok(()) => bytes.len(),
                Err(_) if state.room_for(self.file, at + bytes.len()).is_err() => 0,
                Err(_) => usize::try_from(state.random.below(bytes.len() as u64 + 1)).unwrap_or(0),
            };
            let file = state.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            file.write(at, bytes.get(..kept).unwrap_or(bytes));
            admitted
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(Operation::Sync, |state, admitted| {
            let State { files, random, .. } = state;
            let file = files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            if admitted.is_ok() {
                file.sync();
            } else {
                file.sync_badly(random);
            }
            admitted
        })
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.with(Operation::Write, |state, admitted| {
            admitted?;
            let size = offset_of(bytes)?;
            state.room_for(self.file, size)?;
            let file = state.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            if file.live.len() < size {
                file.live.resize(size, 0);
            }
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.with(Operation::Read, |state, admitted| {
            admitted?;
            let file = state.files.get(&self.file).ok_or(io::ErrorKind::NotFound)?;
            Ok(file.live.len() as u64)
        })
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.with(Operation::Read, |state, admitted| {
            admitted?;
            let file = state.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            file.drop_cache();
            Ok(())
        })
    }
}
