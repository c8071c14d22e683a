//! Keeps the history: in memory as long as there is room, and in a file if asked to.

use std::collections::HashSet;
use std::io;

use tokio::sync::mpsc;

use super::file::HistoryWriter;
use super::group::KeyLog;
use super::verdict::{Finding, judge_key};
use crate::logic::history::Operation;
use crate::types::Key;

/// How many operations are held beyond the limit because something is wrong with them.
const HELD_FAULTY: usize = 100_000;

/// What was kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// How many operations are held. Beyond, a retired key is judged at once and let go, unless
    /// something is wrong with it.
    limit: usize,
    pub(super) held: Vec<Operation>,
    /// The keys of which everything is held.
    whole: HashSet<Key>,
    /// How many operations were held because something was wrong with them.
    faulty: usize,
    /// What was wrong with keys that had to be let go.
    pub(super) findings: Vec<Finding>,
    pub(super) keys: u64,
    pub(super) operations: u64,
    /// Why the file is not complete.
    pub(super) error: Option<io::Error>,
}

/// Takes closed keys until there are no more. Judging takes time: this belongs on a thread of its
/// own.
pub(super) fn keep(
    mut logs: mpsc::Receiver<KeyLog>,
    mut file: Option<HistoryWriter>,
    limit: usize,
) -> Kept {
    let mut kept = Kept { limit, ..Kept::default() };
    while let Some(log) = logs.blocking_recv() {
        let fresh = log.operations.get(log.handed_over..).unwrap_or_default();
        kept.operations += fresh.len() as u64;
        if let Some(writer) = &mut file
            && let Err(error) = fresh.iter().try_for_each(|operation| writer.write(operation))
        {
            kept.error = Some(error);
            file = None;
        }
        kept.take(log);
    }
    if let Some(writer) = file
        && let Err(error) = writer.finish()
    {
        kept.error = Some(error);
    }
    kept
}

impl Kept {
    fn take(&mut self, log: KeyLog) {
        let KeyLog { mut operations, handed_over, key, .. } = log;
        if handed_over > 0 {
            if self.whole.contains(&key) {
                operations.drain(..handed_over.min(operations.len()));
            }
            self.held.append(&mut operations);
            return;
        }
        self.keys += 1;
        if self.held.len() >= self.limit + self.faulty {
            let Some(finding) = judge_key(&operations) else { return };
            if self.faulty >= HELD_FAULTY {
                self.findings.push(finding);
                return;
            }
            self.faulty += operations.len();
        }
        self.whole.insert(key);
        self.held.append(&mut operations);
    }
}
