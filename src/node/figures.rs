//! What a node has done, counted.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::logic::pace::Foreground;

/// Counters since the start of the process. Threads add to them without waiting for each other.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    commits: AtomicU64,
    batches: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    commit_micros: AtomicU64,
    reads: AtomicU64,
    copied_bytes: AtomicU64,
    foreground_commits: AtomicU64,
    foreground_micros: AtomicU64,
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
    /// Bytes that came from other stores, for copies that are made here.
    pub copied_bytes: u64,
}

impl Figures {
    pub(crate) fn committed(&self, records: u64, batches: u64, bytes: usize, took: Duration) {
        self.commits.fetch_add(1, Relaxed);
        self.batches.fetch_add(batches, Relaxed);
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.commit_micros.fetch_add(micros(took), Relaxed);
    }

    /// A commit stored something for clients, so long after the first of it had arrived.
    pub(crate) fn foreground_committed(&self, took: Duration) {
        self.foreground_commits.fetch_add(1, Relaxed);
        self.foreground_micros.fetch_add(micros(took), Relaxed);
    }

    /// What clients had to wait so far.
    pub(crate) fn foreground(&self) -> Foreground {
        Foreground {
            commits: self.foreground_commits.load(Relaxed),
            time: Duration::from_micros(self.foreground_micros.load(Relaxed)),
        }
    }

    /// Bytes came for a copy.
    pub(crate) fn copied(&self, bytes: usize) {
        self.copied_bytes.fetch_add(bytes as u64, Relaxed);
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
            copied_bytes: self.copied_bytes.load(Relaxed),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
