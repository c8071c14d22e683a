//! What can go wrong with the metadata.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::logic::membership::Regression;
use crate::storage::slots::SlotError;

/// The metadata could not be opened, or a proposal not be made durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MetadataError {
    /// The directory is in use, or cannot be used.
    #[error("the leader's data directory cannot be used: {0}")]
    Directory(Arc<SlotError>),
    /// The disk failed.
    #[error("cannot {what} the metadata: {source}; look at the disk, then start the leader again")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The directory cannot be made.
    #[error("cannot make the directory {}: {source}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Something that was durable is not there any more.
    #[error(
        "the metadata is damaged at byte {offset}: {problem}; nothing was changed. Keep the file, \
         restore the directory from a copy, or make the metadata anew from the nodes with \
         rebuild-metadata"
    )]
    Damaged {
        /// Where.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// The metadata is from a newer build.
    #[error("the metadata has format {found}, this build knows {known}; use a newer build")]
    Format {
        /// Its format.
        found: u32,
        /// The highest that is known.
        known: u32,
    },
    /// The changes must not be. Nothing was changed.
    #[error("the change is refused: {0}")]
    Refused(#[from] Regression),
    /// The changes have a text or a list that is too long. Nothing was changed.
    #[error("the change is too large: {0}")]
    TooLarge(&'static str),
    /// Too many proposals wait. Nothing was changed.
    #[error("too many changes of the metadata wait for the disk; try again later")]
    Busy,
    /// A write or sync has failed before: what is durable is known only after reopening.
    #[error("a write of the metadata has failed before; the leader must be started again")]
    Failed,
    /// The metadata was closed.
    #[error("the metadata is closed")]
    Closed,
}

impl MetadataError {
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source: Arc::new(source) }
    }
}
