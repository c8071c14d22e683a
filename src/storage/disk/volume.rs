//! The disk that a leader or a node keeps its data on: a directory of the machine's file system.
//!
//! In test builds a path may also lead to a [`SimulatedDisk`](super::simulated::SimulatedDisk) that
//! was mounted there, so that the very same leader and node lose their power in a simulation.

#[cfg(not(test))]
pub use super::real::RealDisk as VolumeDisk;

#[cfg(test)]
pub use either::VolumeDisk;
#[cfg(test)]
pub(crate) use either::{mount, unmount_all};

#[cfg(test)]
mod either {
    use std::cell::RefCell;
    use std::io;
    use std::path::{Path, PathBuf};

    use crate::storage::disk::real::{RealDisk, RealFile};
    use crate::storage::disk::simulated::{SimulatedDisk, SimulatedFile};
    use crate::storage::disk::{Disk, DiskFile, Space};

    thread_local! {
        static MOUNTS: RefCell<Vec<(PathBuf, SimulatedDisk)>> = const { RefCell::new(Vec::new()) };
    }

    /// For this thread, everything under this path lies on that disk.
    pub(crate) fn mount(path: &Path, disk: SimulatedDisk) {
        MOUNTS.with_borrow_mut(|mounts| mounts.push((path.to_owned(), disk)));
    }

    /// For this thread, paths lead to the file system again.
    pub(crate) fn unmount_all() {
        MOUNTS.with_borrow_mut(Vec::clear);
    }

    /// A directory of the file system, or what was mounted there.
    #[derive(Clone, Debug)]
    pub enum VolumeDisk {
        /// A directory.
        Real(RealDisk),
        /// What was mounted.
        Simulated(SimulatedDisk),
    }

    /// A file on either.
    #[derive(Debug)]
    pub enum VolumeFile {
        /// In a directory.
        Real(RealFile),
        /// On what was mounted.
        Simulated(SimulatedFile),
    }

    impl VolumeDisk {
        /// The directory at this path, which must exist.
        pub fn new(path: &Path) -> io::Result<Self> {
            let mounted = MOUNTS.with_borrow(|mounts| {
                let mount = mounts.iter().find(|(mount, _)| path.starts_with(mount));
                mount.map(|(_, disk)| disk.clone())
            });
            match mounted {
                Some(disk) => Ok(Self::Simulated(disk)),
                None => RealDisk::new(path).map(Self::Real),
            }
        }
    }

    impl Disk for VolumeDisk {
        type File = VolumeFile;

        fn open(&self, name: &str) -> io::Result<VolumeFile> {
            match self {
                Self::Real(disk) => disk.open(name).map(VolumeFile::Real),
                Self::Simulated(disk) => disk.open(name).map(VolumeFile::Simulated),
            }
        }

        fn create(&self, name: &str) -> io::Result<VolumeFile> {
            match self {
                Self::Real(disk) => disk.create(name).map(VolumeFile::Real),
                Self::Simulated(disk) => disk.create(name).map(VolumeFile::Simulated),
            }
        }

        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            match self {
                Self::Real(disk) => disk.rename(from, to),
                Self::Simulated(disk) => disk.rename(from, to),
            }
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            match self {
                Self::Real(disk) => disk.remove(name),
                Self::Simulated(disk) => disk.remove(name),
            }
        }

        fn sync_dir(&self) -> io::Result<()> {
            match self {
                Self::Real(disk) => disk.sync_dir(),
                Self::Simulated(disk) => disk.sync_dir(),
            }
        }

        fn list(&self) -> io::Result<Vec<String>> {
            match self {
                Self::Real(disk) => disk.list(),
                Self::Simulated(disk) => disk.list(),
            }
        }

        fn space(&self) -> io::Result<Space> {
            match self {
                Self::Real(disk) => disk.space(),
                Self::Simulated(disk) => disk.space(),
            }
        }
    }

    impl DiskFile for VolumeFile {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            match self {
                Self::Real(file) => file.read_at(offset, buffer),
                Self::Simulated(file) => file.read_at(offset, buffer),
            }
        }

        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            match self {
                Self::Real(file) => file.write_at(offset, bytes),
                Self::Simulated(file) => file.write_at(offset, bytes),
            }
        }

        fn sync(&self) -> io::Result<()> {
            match self {
                Self::Real(file) => file.sync(),
                Self::Simulated(file) => file.sync(),
            }
        }

        fn allocate(&self, bytes: u64) -> io::Result<()> {
            match self {
                Self::Real(file) => file.allocate(bytes),
                Self::Simulated(file) => file.allocate(bytes),
            }
        }

        fn size(&self) -> io::Result<u64> {
            match self {
                Self::Real(file) => file.size(),
                Self::Simulated(file) => file.size(),
            }
        }

        fn drop_cache(&self) -> io::Result<()> {
            match self {
                Self::Real(file) => file.drop_cache(),
                Self::Simulated(file) => file.drop_cache(),
            }
        }
    }
}
