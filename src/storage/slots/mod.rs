//! Slots: how a node finds its own store on a volume that it shares with its siblings.
//!
//! Under the data directory lie `slots/0001`, `0002` and so on, one store each. A node takes one whose
//! lock it can get, or makes the next. The lock is the kernel's: held as long as the process lives,
//! gone with it however it ends.
//!
//! Of several it takes the one that was *used last*, by a mark that its node renews every few
//! seconds. So a node that is started again finds its own store, and not one that has been asleep
//! since there were more nodes; and as many nodes as there were at the end find the stores there were
//! at the end, whichever numbers these have. The slot's identity - a random `store_id`, and
//! the cluster once it has joined one - lies in a small text file that is replaced atomically.
//!
//! Where locks do not work - some network file systems say that they lock and do not - two nodes would
//! take one store, and destroy it. So each lock is tried a second time, when it must be refused; a
//! file system that grants it is refused itself.
//!
//! [`list`] tells what lies in the slots of a data directory, for people.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::disk;
use super::disk::real::RealDisk;
use crate::runtime::clock;
use crate::types::{ClusterId, IndexKey, PartitionCount, StoreId};

mod listing;

pub use listing::{SlotState, SlotStatus, list};

const IDENTITY: &str = "identity";
const LOCK: &str = "lock";
/// The file that makes a slot a retired one.
const RETIRED: &str = "retired";
const FORMAT: &str = "1";
/// A node marks its slot as used at least this often. A lock on one that was not is somebody's who only
/// looks.
const IN_USE: Duration = Duration::from_secs(30);
/// How long somebody who only looks is waited for, how often.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: u32 = 10;

/// A slot could not be taken or used.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The file system refused.
    #[error("cannot {what} {}: {source}; check that the directory exists and may be written", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Every slot is taken by a live process.
    #[error(
        "all {max} slots under {} are taken by running nodes or retired; stop one, delete a \
         retired one or raise storage.max_slots",
        path.display()
    )]
    NoneLeft {
        /// How many there may be.
        max: u16,
        /// Where they are.
        path: PathBuf,
    },
    /// Another live process has the directory.
    #[error("{} is in use by another process; stop it or choose another directory", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// Two processes could take one directory.
    #[error(
        "file locks do not work in {}: {problem}; two nodes could take one store. Use a local \
         file system, or one that supports flock(2)",
        path.display()
    )]
    NoLocks {
        /// The directory.
        path: PathBuf,
        /// What was seen.
        problem: String,
    },
    /// The identity file makes no sense to this build.
    #[error("{}: {problem}; restore the file from a copy, or move the slot away", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The store belongs to another cluster.
    #[error(
        "store {store} belongs to cluster {ours}, not to {theirs}; start it with its own leader"
    )]
    OtherCluster {
        /// The store.
        store: StoreId,
        /// Its cluster.
        ours: ClusterId,
        /// The cluster that asked.
        theirs: ClusterId,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SlotError {
    let path = path.to_owned();
    move |source| SlotError::Io { what, path, source }
}

/// A directory that this process has for itself, until dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Locks a directory, which must exist; [`SlotError::Taken`] if another process has it.
    pub fn take(directory: &Path) -> Result<Self, SlotError> {
        let file = open_lock(directory)?;
        match file.try_lock() {
            Ok(()) => {
                let second = open_lock(directory)?;
                is_kept(directory, second.try_lock())?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => Err(SlotError::Taken { path: directory.to_owned() }),
            Err(TryLockError::Error(error)) => {
                Err(SlotError::NoLocks { path: directory.to_owned(), problem: error.to_string() })
            }
        }
    }
}

fn open_lock(directory: &Path) -> Result<File, SlotError> {
    let path = directory.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(&path).map_err(failed("open", &path))
}

/// Whether a lock that is held is refused to whoever asks for it next, by what he was answered.
fn is_kept(directory: &Path, second: Result<(), TryLockError>) -> Result<(), SlotError> {
    let problem = match second {
        Err(TryLockError::WouldBlock) => return Ok(()),
        Ok(()) => "the same lock was granted twice".to_owned(),
        Err(TryLockError::Error(error)) => error.to_string(),
    };
    Err(SlotError::NoLocks { path: directory.to_owned(), problem })
}

/// What a store learns when it joins a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// The secret that keys the hashes of keys.
    pub index_key: IndexKey,
    /// How many partitions there are.
    pub partitions: PartitionCount,
}

/// Who a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Made with the slot.
    pub store: StoreId,
    /// None until the store has joined a cluster.
    pub joined: Option<Joined>,
}

/// A slot that this process has taken.
#[derive(Debug)]
pub struct Slot {
    directory: PathBuf,
    identity: Identity,
    is_new: bool,
    _lock: DirectoryLock,
}

impl Slot {
    /// Takes the slot under a data directory that was used last and that nobody else has, or makes
    /// one.
    pub fn take(
        data_dir: &Path,
        max_slots: u16,
        new_store_id: impl FnOnce() -> StoreId,
    ) -> Result<Self, SlotError> {
        let slots = data_dir.join("slots");
        fs::create_dir_all(&slots).map_err(failed("create", &slots))?;
        for directory in in_order(&slots, max_slots) {
            fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
            if directory.join(RETIRED).exists() {
                continue;
            }
            match take_if_free(&directory) {
                Ok(lock) => {
                    mark_used(&directory);
                    return Self::settle(directory, lock, new_store_id);
                }
                Err(SlotError::Taken { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(SlotError::NoneLeft { max: max_slots, path: slots })
    }

    fn settle(
        directory: PathBuf,
        lock: DirectoryLock,
        new_store_id: impl FnOnce() -> StoreId,
    ) -> Result<Self, SlotError> {
        let found = read_identity(&directory)?;
        let is_new = found.is_none();
        let identity = if let Some(identity) = found {
            identity
        } else {
            sync_parents(&directory)?;
            let identity = Identity { store: new_store_id(), joined: None };
            write_identity(&directory, &identity)?;
            identity
        };
        Ok(Self { directory, identity, is_new, _lock: lock })
    }

    /// Who the store is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where the store is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The slot was made just now.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Makes sure that nobody takes the slot after this process, durably.
    pub fn retire(&self) -> Result<(), SlotError> {
        let text = format!("store {} was taken out of its cluster\n", self.identity.store);
        let written = RealDisk::new(&self.directory)
            .and_then(|disk| disk::replace(&disk, RETIRED, text.as_bytes()));
        written.map_err(failed("retire", &self.directory))
    }

    /// Makes the store part of a cluster for good. Repeating it changes nothing.
    pub fn join(
        &mut self,
        cluster: ClusterId,
        index_key: IndexKey,
        partitions: PartitionCount,
    ) -> Result<(), SlotError> {
        let joined = Joined { cluster, index_key, partitions };
        match self.identity.joined {
            Some(ours) if ours == joined => return Ok(()),
            Some(ours) if ours.cluster == cluster => {
                return Err(SlotError::Identity {
                    path: self.directory.join(IDENTITY),
                    problem: format!("cluster {cluster} changed its index key or partitions"),
                });
            }
            Some(ours) => {
                let store = self.identity.store;
                return Err(SlotError::OtherCluster { store, ours: ours.cluster, theirs: cluster });
            }
            None => {}
        }
        let identity = Identity { joined: Some(joined), ..self.identity };
        write_identity(&self.directory, &identity)?;
        self.identity = identity;
        Ok(())
    }
}

/// Takes a slot. A lock on one that no node can be using is looked at again: somebody lists the slots.
#[allow(clippy::disallowed_methods, reason = "between two looks at a lock, a few times, at start")]
fn take_if_free(directory: &Path) -> Result<DirectoryLock, SlotError> {
    let mut taken = DirectoryLock::take(directory);
    for _ in 0..LOOKS {
        if !matches!(taken, Err(SlotError::Taken { .. })) || is_in_use(directory) {
            break;
        }
        thread::sleep(LOOK);
        taken = DirectoryLock::take(directory);
    }
    taken
}

/// Whether a slot was marked as used lately, or it is not known when.
fn is_in_use(directory: &Path) -> bool {
    let age = last_used(directory).map(|used| now().duration_since(used));
    age.is_none_or(|age| age.is_ok_and(|age| age < IN_USE))
}

fn last_used(directory: &Path) -> Option<SystemTime> {
    directory.join(LOCK).metadata().and_then(|it| it.modified()).ok()
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(clock::wall_milliseconds()).unwrap_or(0))
}

/// The slots there may be: those used last first, those that nobody has used by their number.
fn in_order(slots: &Path, max_slots: u16) -> Vec<PathBuf> {
    let mut all: Vec<_> = (1..=max_slots)
        .map(|number| slots.join(format!("{number:04}")))
        .map(|directory| (Reverse(last_used(&directory)), directory))
        .collect();
    all.sort_unstable();
    all.into_iter().map(|(_, directory)| directory).collect()
}

/// Marks a slot as in use now. Without the mark it may be found later than others; no more.
pub fn mark_used(directory: &Path) {
    let file = OpenOptions::new().write(true).open(directory.join(LOCK));
    if let Err(error) = file.and_then(|file| file.set_modified(now())) {
        tracing::debug!(%error, path = %directory.display(), "a slot cannot be marked as used");
    }
}

/// Makes the names of a new slot durable.
fn sync_parents(directory: &Path) -> Result<(), SlotError> {
    for parent in directory.ancestors().skip(1).take(3).filter(|path| path.is_dir()) {
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(failed("sync", parent))?;
    }
    Ok(())
}

fn write_identity(directory: &Path, identity: &Identity) -> Result<(), SlotError> {
    let written = RealDisk::new(directory)
        .and_then(|disk| disk::replace(&disk, IDENTITY, encode(identity).as_bytes()));
    written.map_err(failed("write the identity in", directory))
}

fn read_identity(directory: &Path) -> Result<Option<Identity>, SlotError> {
    let path = directory.join(IDENTITY);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    parse(&text).map(Some).map_err(|problem| SlotError::Identity { path, problem })
}

fn encode(identity: &Identity) -> String {
    let mut text = format!("format={FORMAT}\nstore_id={}\n", identity.store);
    if let Some(Joined { cluster, index_key, partitions }) = &identity.joined {
        let index_key = uuid::Uuid::from_bytes(index_key.0);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "cluster_id={cluster}\nindex_key={}", index_key.simple());
        let _ = writeln!(text, "partitions={}", partitions.get());
    }
    text
}

fn parse(text: &str) -> Result<Identity, String> {
    let mut lines = text.lines();
    let mut value = |name: &str| {
        let line = lines.next()?;
        Some(
            line.strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('='))
                .ok_or_else(|| format!("'{}' should be '{name}=...'", line.escape_debug())),
        )
    };
    let needed = |line: Option<Result<_, String>>, name| {
        line.unwrap_or_else(|| Err(format!("the line '{name}=...' is missing")))
    };
    let format: &str = needed(value("format"), "format")?;
    if format != FORMAT {
        return Err(format!(
            "its format is '{}', this build knows {FORMAT}",
            format.escape_debug()
        ));
    }
    let store = needed(value("store_id"), "store_id")?;
    let store = store.parse().map_err(|error| format!("store_id: {error}"))?;
    let Some(cluster) = value("cluster_id") else { return Ok(Identity { store, joined: None }) };
    let cluster = cluster?.parse().map_err(|error| format!("cluster_id: {error}"))?;
    let index_key = needed(value("index_key"), "index_key")?;
    let index_key = uuid::Uuid::try_parse(index_key)
        .map_err(|_| "index_key is not 32 hexadecimal digits".to_owned())?;
    let partitions = needed(value("partitions"), "partitions")?;
    let partitions = partitions.parse().ok().and_then(PartitionCount::new);
    let partitions = partitions.ok_or("partitions is not a power of two up to 32768")?;
    if let Some(more) = lines.next() {
        return Err(format!("there is a line too many: '{}'", more.escape_debug()));
    }
    let index_key = IndexKey(index_key.into_bytes());
    Ok(Identity { store, joined: Some(Joined { cluster, index_key, partitions }) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined() -> Joined {
        Joined {
            cluster: ClusterId::from_number(5),
            index_key: IndexKey([0xab; 16]),
            partitions: PartitionCount::DEFAULT,
        }
    }

    fn take(path: &Path, max: u16, number: u128) -> Result<Slot, SlotError> {
        Slot::take(path, max, || StoreId::from_number(number))
    }

    #[test]
    fn each_taker_gets_a_slot_of_its_own_and_a_freed_one_is_taken_first() {
        let data = tempfile::tempdir().unwrap();
        let first = take(data.path(), 2, 1).unwrap();
        let second = take(data.path(), 2, 2).unwrap();
        assert!(first.directory().ends_with("slots/0001") && first.is_new());
        assert!(second.directory().ends_with("slots/0002"));
        let error = take(data.path(), 2, 3).unwrap_err();
        assert!(error.to_string().contains("all 2 slots"), "{error}");
        drop(first);
        let again = take(data.path(), 2, 4).unwrap();
        assert_eq!(again.identity().store, StoreId::from_number(1), "the store stays who it is");
        assert!(!again.is_new());
    }

    #[test]
    fn of_several_slots_the_one_that_was_used_last_is_taken() {
        let data = tempfile::tempdir().unwrap();
        let slots: Vec<_> = (1..=4).map(|number| take(data.path(), 9, number).unwrap()).collect();
        let paths: Vec<_> = slots.iter().map(|slot| slot.directory().to_owned()).collect();
        drop(slots);
        for (path, second) in paths.iter().zip([20, 10, 40, 30]) {
            let lock = OpenOptions::new().write(true).open(path.join(LOCK)).unwrap();
            lock.set_modified(UNIX_EPOCH + Duration::from_secs(second)).unwrap();
        }
        let order: Vec<_> = (5..=9).map(|number| take(data.path(), 9, number).unwrap()).collect();
        let taken = order.iter().map(|slot| slot.identity().store);
        assert_eq!(taken.collect::<Vec<_>>(), [3, 4, 1, 2, 9].map(StoreId::from_number));
        assert!(order[4].directory().ends_with("slots/0005"), "only then a new one");
    }

    #[test]
    fn a_retired_slot_keeps_its_data_and_is_passed_over() {
        let data = tempfile::tempdir().unwrap();
        let slot = take(data.path(), 2, 1).unwrap();
        slot.retire().unwrap();
        let directory = slot.directory().to_owned();
        drop(slot);
        let next = take(data.path(), 2, 2).unwrap();
        assert!(next.directory().ends_with("slots/0002"));
        assert!(directory.join(IDENTITY).exists());
        let error = take(data.path(), 2, 3).unwrap_err();
        assert!(error.to_string().contains("delete a retired one"), "{error}");
    }

    #[test]
    fn joining_lasts_and_another_cluster_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let Joined { cluster, index_key, partitions } = joined();
        let mut slot = take(data.path(), 1, 1).unwrap();
        slot.join(cluster, index_key, partitions).unwrap();
        drop(slot);
        let mut slot = take(data.path(), 1, 2).unwrap();
        assert_eq!(slot.identity().joined, Some(joined()));
        slot.join(cluster, index_key, partitions).unwrap();
        let error = slot.join(ClusterId::from_number(6), index_key, partitions).unwrap_err();
        assert!(matches!(error, SlotError::OtherCluster { .. }), "{error}");
        let error = slot.join(cluster, IndexKey([1; 16]), partitions).unwrap_err();
        assert!(matches!(error, SlotError::Identity { .. }), "{error}");
    }

    #[test]
    fn an_identity_that_is_not_understood_is_refused_with_a_reason() {
        let text = encode(&Identity { store: StoreId::from_number(1), joined: Some(joined()) });
        assert_eq!(parse(&text).unwrap().joined, Some(joined()));
        let refused = |text: &str, reason: &str| {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(reason), "{problem}");
        };
        refused("", "'format=...' is missing");
        refused(&text.replace("format=1", "format=2"), "format is '2'");
        refused(&text.replace("store_id=0", "store_id=x"), "store_id");
        refused(&text.replace("cluster_id", "clusterid"), "should be 'cluster_id=...'");
        refused(&text.replace("index_key=ab", "index_key="), "32 hexadecimal digits");
        refused(&text.replace("partitions=1024", "partitions=1000"), "power of two");
        refused(&format!("{text}more=1\n"), "a line too many");
        let short = text.lines().take(4).collect::<Vec<_>>().join("\n");
        refused(&short, "'partitions=...' is missing");
    }

    #[test]
    fn a_file_system_that_grants_a_lock_twice_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let file = open_lock(data.path()).unwrap();
        let second = open_lock(data.path()).unwrap();
        let unlocked = second.try_lock();
        let error = is_kept(data.path(), unlocked).unwrap_err();
        assert!(error.to_string().contains("granted twice"), "{error}");
        is_kept(data.path(), file.try_lock()).unwrap();
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a look that takes a while is what is waited for")]
    fn a_slot_that_somebody_only_looks_at_is_waited_for() {
        let data = tempfile::tempdir().unwrap();
        let slot = take(data.path(), 2, 1).unwrap();
        let directory = slot.directory().to_owned();
        drop(slot);
        let looking = open_lock(&directory).unwrap();
        looking.set_modified(UNIX_EPOCH).unwrap();
        looking.lock_shared().unwrap();
        let taking = thread::spawn(move || take(data.path(), 2, 2).unwrap().identity().store);
        thread::sleep(LOOK);
        drop(looking);
        assert_eq!(taking.join().unwrap(), StoreId::from_number(1), "it was not passed over");
    }

    #[test]
    fn a_directory_has_one_owner() {
        let data = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::take(data.path()).unwrap();
        assert!(matches!(DirectoryLock::take(data.path()), Err(SlotError::Taken { .. })));
        drop(lock);
        DirectoryLock::take(data.path()).unwrap();
    }
}
