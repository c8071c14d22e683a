//! What a node has done, counted.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Counters since the start of the process. Threads add to them without waiting for each other.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    commits: AtomicU64,
    batches: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    commit_micros: AtomicU64,
    reads: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commits, each one write and one sync.
    pub commits: u64,
    /// Batches of the leader that were committed.
    pub batches: u64,
    /// Records that were stored, copies included.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Time spent in commits.
    pub commit_time: Duration,
    /// Reads that were answered.
    pub reads: u64,
}

impl Figures {
    pub(crate) fn committed(&self, records: u64, batches: u64, bytes: usize, took: Duration) {
        self.commits.fetch_add(1, Relaxed);
        self.batches.fetch_add(batches, Relaxed);
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.commit_micros.fetch_add(micros, Relaxed);
    }

    pub(crate) fn read(&self, count: usize) {
        self.reads.fetch_add(count as u64, Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            commits: self.commits.load(Relaxed),
            batches: self.batches.load(Relaxed),
            records: self.records.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            commit_time: Duration::from_micros(self.commit_micros.load(Relaxed)),
            reads: self.reads.load(Relaxed),
        }
    }
}
