//! What can go wrong.

use std::io;

use super::change::Unusable;
use crate::protocol::record::RecordError;
use crate::types::{KeyHash, PartitionId, Version};

/// The store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk failed.
    #[error("cannot {what}: {source}; look at the disk, then start the node again")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A write or sync has failed before: what is durable is known only after reopening.
    #[error("a write or sync has failed before; the store must be opened again")]
    Failed,
    /// There is no room but the reserve. Nothing was written.
    #[error(
        "the disk is full: {available} bytes are left, of which {reserve} are kept for deletes; \
         delete something or add room"
    )]
    DiskFull {
        /// Bytes that could still be written.
        available: u64,
        /// Bytes that are kept back.
        reserve: u64,
    },
    /// A record to be written does not verify. Nothing was written.
    #[error("record {position} of the batch is refused: {source}")]
    Record {
        /// Which record of the batch, from 0.
        position: usize,
        /// What is wrong with it.
        source: RecordError,
    },
    /// A record to be written cannot be carried out. Nothing was written.
    #[error("record {position} of the batch is refused: {source}")]
    Unusable {
        /// Which record of the batch, from 0.
        position: usize,
        /// What is wrong with it.
        source: Unusable,
    },
    /// A record does not fit into a segment. Nothing was written.
    #[error("a record of {bytes} bytes does not fit; at most {limit} do; raise segment_bytes")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The largest length.
        limit: usize,
    },
    /// A partition has records of too many epochs. Nothing was written.
    #[error("a partition has records of over 32,768 epochs; copy the partition to a new store")]
    TooManyEpochs,
    /// The files are of another format, cluster or number of partitions.
    #[error("the store cannot be opened: {0}")]
    Format(String),
    /// An option is out of its range.
    #[error("storage option {name} is {value}; it must be {allowed}")]
    Option {
        /// Which.
        name: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        allowed: &'static str,
    },
}

impl StorageError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// A record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error("cannot read a record: {0}")]
    Io(#[from] io::Error),
    /// The bytes are not those of the record: fetch this version from another store.
    #[error("version {version} of a record of partition {partition} is damaged on disk")]
    Damaged {
        /// The partition.
        partition: PartitionId,
        /// The key.
        key_hash: KeyHash,
        /// The version that the index names.
        version: Version,
    },
    /// There is no such partition.
    #[error("partition {0} does not exist")]
    Partition(PartitionId),
    /// A write or sync has failed: the store serves no more.
    #[error("the store has failed and must be opened again")]
    Failed,
}
