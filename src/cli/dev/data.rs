//! Where a cluster of `dev` keeps its data and logs.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::super::arguments::DevArguments;

/// A log that is larger when its process starts is set aside, replacing the one set aside before.
const MAX_LOG_BYTES: u64 = 16 << 20;

/// A directory that exists.
#[derive(Clone, Debug)]
pub(super) struct DataDirectory {
    path: PathBuf,
    ephemeral: bool,
}

impl DataDirectory {
    pub(super) fn open(arguments: &DevArguments) -> anyhow::Result<Self> {
        let path = if arguments.ephemeral { temporary("dev")? } else { arguments.data.clone() };
        let data = Self { path, ephemeral: arguments.ephemeral };
        let log = data.path.join("log");
        fs::create_dir_all(&log).with_context(|| format!("cannot create {}", log.display()))?;
        Ok(data)
    }

    /// What nodes share: each takes a slot in it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn leader(&self) -> PathBuf {
        self.path.join("leader")
    }

    /// The log of a child, by its name.
    pub(super) fn log_path(&self, name: &str) -> PathBuf {
        self.path.join("log").join(format!("{name}.log"))
    }

    /// Removes it, if nothing is to remain.
    pub(super) fn close(self) {
        if self.ephemeral
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            anstream::eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// A new directory that only we can read, named for what it is for.
pub(in crate::cli) fn temporary(purpose: &str) -> anyhow::Result<PathBuf> {
    let name = format!("hatokuse-{purpose}-{}", std::process::id());
    let base = std::env::temp_dir();
    for attempt in 0..1000 {
        let path = base.join(format!("{name}-{attempt}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot create {}", path.display()));
            }
            Ok(()) => return Ok(path),
        }
    }
    anyhow::bail!("{} is full of {name}-...; remove them", base.display())
}

/// Opens a log to be appended to.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > MAX_LOG_BYTES) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_grew_large_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leader.log");
        let log = open_log(&path).unwrap();
        log.set_len(MAX_LOG_BYTES).unwrap();
        assert_eq!(open_log(&path).unwrap().metadata().unwrap().len(), MAX_LOG_BYTES);
        log.set_len(MAX_LOG_BYTES + 1).unwrap();
        assert_eq!(open_log(&path).unwrap().metadata().unwrap().len(), 0);
        assert!(directory.path().join("leader.log.old").exists());
    }
}
