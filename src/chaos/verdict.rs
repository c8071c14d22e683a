//! What the judge says, in numbers and in words.

use std::collections::BTreeMap;
use std::fmt;

use super::explain::explain;
use crate::logic::history::{Operation, Violation, check_register};
use crate::types::Key;

/// In which way a history is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wrong {
    /// A write that was acknowledged, or whose value had been read, is gone.
    Lost,
    /// A read returned a value that had been overwritten; the newer one was seen again, or
    /// overwritten in its turn.
    Stale,
    /// A value came back that had been deleted.
    Undone,
    /// A write that was said to have failed was seen all the same.
    Phantom,
    /// A value that nobody wrote, or not yet.
    Invented,
    /// No order of the operations explains the answers, though no single one is wrong.
    Disordered,
    /// Whether there is an order could not be found out.
    Unjudged,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost write",
            Self::Stale => "stale read",
            Self::Undone => "undone delete",
            Self::Phantom => "failed write seen",
            Self::Invented => "invented value",
            Self::Disordered => "no order explains the answers",
            Self::Unjudged => "could not be judged",
        })
    }
}

/// What is wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The key.
    pub key: Key,
    /// In which way.
    pub wrong: Wrong,
    /// The operations that show it, in words; times are in seconds of the history's clock.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: key {}: {}", self.wrong, self.key, self.text)
    }
}

/// What the judge says of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many operations were judged.
    pub operations: u64,
    /// On how many keys.
    pub keys: u64,
    /// What is wrong: at most one finding for each key.
    pub findings: Vec<Finding>,
    /// How many keys could not be read back at the end.
    pub unread: usize,
    /// Answers that no server should ever give, in words; the first few.
    pub complaints: Vec<String>,
}

impl Verdict {
    /// On how many keys something is wrong in this way.
    pub fn count(&self, wrong: Wrong) -> usize {
        self.findings.iter().filter(|finding| finding.wrong == wrong).count()
    }

    /// Keys of which a write is gone that was acknowledged or had been seen.
    pub fn lost(&self) -> usize {
        self.count(Wrong::Lost)
    }

    /// Keys of which an overwritten value was read.
    pub fn stale(&self) -> usize {
        self.count(Wrong::Stale)
    }

    /// Keys that came back after they had been deleted.
    pub fn undone(&self) -> usize {
        self.count(Wrong::Undone)
    }

    /// Keys that are wrong in any other way, or could not be judged.
    pub fn otherwise(&self) -> usize {
        self.findings.len() - self.lost() - self.stale() - self.undone()
    }

    /// Whether everything was judged and nothing found wrong.
    pub fn passed(&self) -> bool {
        self.findings.is_empty() && self.unread == 0 && self.complaints.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lost, stale, undone) = (self.lost(), self.stale(), self.undone());
        let Self { operations, keys, .. } = self;
        let word = if *keys == 1 { "key" } else { "keys" };
        write!(f, "{operations} operations on {keys} {word}: ")?;
        write!(f, "lost {lost}, stale {stale}, undone {undone}")?;
        if self.otherwise() > 0 {
            write!(f, ", otherwise wrong {}", self.otherwise())?;
        }
        if self.unread > 0 {
            write!(f, ", not read back {}", self.unread)?;
        }
        if !self.complaints.is_empty() {
            write!(f, ", answers without sense {}", self.complaints.len())?;
        }
        for finding in &self.findings {
            write!(f, "\n  {finding}")?;
        }
        for complaint in &self.complaints {
            write!(f, "\n  {complaint}")?;
        }
        Ok(())
    }
}

/// Judges a history, key by key. Every key must have been absent in the beginning.
pub fn judge(history: &[Operation]) -> Verdict {
    let mut keys: BTreeMap<&Key, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation.clone());
    }
    Verdict {
        operations: history.len() as u64,
        keys: keys.len() as u64,
        findings: keys.values().filter_map(|operations| judge_key(operations)).collect(),
        ..Verdict::default()
    }
}

/// Judges the operations of one key.
pub(super) fn judge_key(operations: &[Operation]) -> Option<Finding> {
    let violation = check_register(operations).err()?;
    let key = operations.first()?.key.clone();
    let (wrong, text) = explain(operations).unwrap_or_else(|| {
        let wrong = match violation {
            Violation::Unfit { .. } => Wrong::Unjudged,
            _ => Wrong::Disordered,
        };
        (wrong, violation.to_string())
    });
    Some(Finding { key, wrong, text })
}
