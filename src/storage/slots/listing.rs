//! What lies in the slots of a data directory, without taking any of them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Identity, LOCK, RETIRED, SlotError, failed, last_used, read_identity};

/// The unit in which file systems count what a file takes.
const BLOCK_BYTES: u64 = 512;

/// How a slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// A running node has it.
    Running,
    /// No node has it; the next to start may take it.
    Asleep,
    /// Its store was taken out of its cluster: no node takes it, and it may be deleted.
    Retired,
    /// There is no store in it yet.
    Empty,
    /// Its identity cannot be read, for this reason; a node that takes it ends.
    Damaged(String),
}

impl SlotState {
    /// In one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Asleep => "asleep",
            Self::Retired => "retired",
            Self::Empty => "empty",
            Self::Damaged(_) => "damaged",
        }
    }
}

/// What is known of a slot.
#[derive(Clone, Debug)]
pub struct SlotStatus {
    /// Its number, as its directory is called.
    pub name: String,
    /// How it is.
    pub state: SlotState,
    /// Who its store is, if that is known.
    pub identity: Option<Identity>,
    /// When a node had it last.
    pub used: Option<SystemTime>,
    /// What its files take on the disk, in bytes.
    pub bytes: u64,
}

/// The slots under a data directory, by number. None, if no node has used the directory yet.
///
/// Each lock is tried for a moment, shared. A node that starts in that very moment tries again.
pub fn list(data_dir: &Path) -> Result<Vec<SlotStatus>, SlotError> {
    let slots = data_dir.join("slots");
    let entries = match fs::read_dir(&slots) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound && data_dir.is_dir() => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed("list", &slots)(error)),
    };
    let mut directories: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(failed("list", &slots))?;
    directories.retain(|path| path.is_dir());
    directories.sort_unstable();
    directories.iter().map(|directory| status(directory)).collect()
}

fn status(directory: &Path) -> Result<SlotStatus, SlotError> {
    let (identity, problem) = match read_identity(directory) {
        Ok(identity) => (identity, None),
        Err(error @ SlotError::Identity { .. }) => (None, Some(error.to_string())),
        Err(error) => return Err(error),
    };
    let state = if let Some(problem) = problem {
        SlotState::Damaged(problem)
    } else if is_locked(directory)? {
        SlotState::Running
    } else if directory.join(RETIRED).exists() {
        SlotState::Retired
    } else if identity.is_none() {
        SlotState::Empty
    } else {
        SlotState::Asleep
    };
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(SlotStatus {
        name: name.unwrap_or_default(),
        state,
        identity,
        used: last_used(directory),
        bytes: bytes_in(directory).map_err(failed("measure", directory))?,
    })
}

fn is_locked(directory: &Path) -> Result<bool, SlotError> {
    let path = directory.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

/// What lies in a directory, in bytes. What goes while this looks counts for nothing.
fn bytes_in(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += bytes_in(&entry.path())?,
            Ok(metadata) => bytes += metadata.blocks() * BLOCK_BYTES,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::{IDENTITY, Slot};
    use super::*;
    use crate::types::StoreId;

    #[test]
    fn each_slot_is_listed_as_it_is() {
        let data = tempfile::tempdir().unwrap();
        assert!(list(data.path()).unwrap().is_empty());
        assert!(list(&data.path().join("elsewhere")).is_err(), "no such directory");
        let slots: Vec<_> = (1..=4)
            .map(|number| Slot::take(data.path(), 9, || StoreId::from_number(number)).unwrap())
            .collect();
        slots[1].retire().unwrap();
        fs::write(slots[2].directory().join(IDENTITY), "nonsense").unwrap();
        let mut slots = slots.into_iter();
        let running = slots.next();
        drop(slots);
        fs::create_dir(data.path().join("slots/0005")).unwrap();
        let listed = list(data.path()).unwrap();
        let states: Vec<_> =
            listed.iter().map(|slot| (slot.name.as_str(), slot.state.name())).collect();
        let expected = [
            ("0001", "running"),
            ("0002", "retired"),
            ("0003", "damaged"),
            ("0004", "asleep"),
            ("0005", "empty"),
        ];
        assert_eq!(states, expected);
        assert_eq!(listed[3].identity.map(|it| it.store), Some(StoreId::from_number(4)));
        assert!(listed[0].used.is_some() && listed[4].used.is_none());
        drop(running);
    }
}
