//! The seam below the store: a flat directory of files, real or simulated.
//!
//! Everything the engine does to the outside goes through [`Disk`] and [`DiskFile`], a dozen calls
//! that mean what POSIX means by them and promise no more: what was written is durable only once
//! `sync` has returned, and a name only once `sync_dir` has. [`simulated::SimulatedDisk`] takes
//! that at its word, and takes back whatever was not synced when its power is cut.

pub mod real;
pub mod simulated;
pub mod volume;

use std::fmt;
use std::io;

/// Room on the volume that holds a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be allocated.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A directory of files, without folders in it. Clones are the same directory.
pub trait Disk: Clone + Send + Sync + fmt::Debug + 'static {
    /// An open file.
    type File: DiskFile;

    /// Opens a file that exists; [`io::ErrorKind::NotFound`] if it does not.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Makes an empty file, in place of one that has the name.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Gives a file another name, in place of one that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names durable: what was created, renamed and removed.
    fn sync_dir(&self) -> io::Result<()>;

    /// The names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// How much room there is.
    fn space(&self) -> io::Result<Space>;
}

/// A file of a [`Disk`]; may be read and written by several threads at once.
pub trait DiskFile: Send + Sync + fmt::Debug + 'static {
    /// Reads from an offset until the buffer is full or the file ends; says how many bytes.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all bytes at an offset. Not durable before [`Self::sync`].
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written durable, and the size.
    fn sync(&self) -> io::Result<()>;

    /// Takes the room for this many bytes now, and makes the file that long.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// How long the file is.
    fn size(&self) -> io::Result<u64>;

    /// Lets reads go to the device: after a failed `sync`, memory may show what the device lacks.
    fn drop_cache(&self) -> io::Result<()>;
}

/// The name under which a file is written before it replaces another.
const TEMPORARY: &str = ".tmp";

/// Reads a whole file.
pub fn read_whole<D: Disk>(disk: &D, name: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let size = usize::try_from(file.size()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; size];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Writes and syncs a file under a temporary name; [`publish`] then gives it its own.
pub(crate) fn prepare<D: Disk>(disk: &D, name: &str, bytes: &[u8], synced: bool) -> io::Result<()> {
    let temporary = format!("{name}{TEMPORARY}");
    let file = disk.create(&temporary)?;
    file.write_at(0, bytes)?;
    if synced { file.sync() } else { Ok(()) }
}

/// Gives prepared files their names, all durable when this returns.
pub(crate) fn publish<D: Disk>(disk: &D, names: &[String]) -> io::Result<()> {
    for name in names {
        disk.rename(&format!("{name}{TEMPORARY}"), name)?;
    }
    disk.sync_dir()
}

/// Replaces a file so that a crash leaves the old content or the new, never a mixture: temporary
/// file, sync, rename, sync of the directory.
pub fn replace<D: Disk>(disk: &D, name: &str, bytes: &[u8]) -> io::Result<()> {
    prepare(disk, name, bytes, true)?;
    publish(disk, &[name.to_owned()])
}

/// Removes what an interrupted [`replace`] left behind.
pub fn remove_temporaries<D: Disk>(disk: &D) -> io::Result<()> {
    for name in disk.list()?.iter().filter(|name| name.ends_with(TEMPORARY)) {
        disk.remove(name)?;
    }
    Ok(())
}
