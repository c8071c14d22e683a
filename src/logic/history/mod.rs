//! Judges what clients saw: was each key one register that nobody ever lied about?
//!
//! A history is the list of all operations, each with the times at which it was invoked and
//! answered. It is *linearizable* (Herlihy and Wing, 1990) if each operation can be given one
//! instant between the two at which it took effect, so that all of them in that order make sense.
//! Keys are independent, so each is judged alone. There are two judges:
//!
//! - [`check_versions`] uses the versions that come with the answers. They say in which order
//!   writes took effect, so nothing needs to be searched: operations that did not overlap must
//!   have versions in the order of time, each value must come from the write of its version, and
//!   what was said to have failed must never be seen. O(n log n), for histories of any length.
//! - [`check_register`] trusts no version. It searches for an order (Wing and Gong, 1993, with the
//!   memory of Lowe, 2017), for at most [`MAX_CLIENTS`] clients a key: what sixteen clients that
//!   always overlap may have seen cannot be searched.
//!
//! Both demand that no value is written twice to one key, so that a value names its write. What is
//! uncertain, or was never answered, may take effect at any time after its invocation or never;
//! what failed definitely never does.

mod register;
#[cfg(test)]
mod tests;
mod versions;

use bytes::Bytes;

pub use self::register::{MAX_CLIENTS, check_register};
pub use self::versions::check_versions;
use crate::types::{Key, Moment, Version};

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The value.
    Get,
    /// Store this value.
    Set(Bytes),
    /// Store this value if the key exists.
    Update(Bytes),
    /// Delete the key.
    Delete,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The write took effect.
    Stored {
        /// As what, if that was told.
        version: Option<Version>,
    },
    /// The key holds this value.
    Value {
        /// Its version, if that was told.
        version: Option<Version>,
        /// The value.
        value: Bytes,
    },
    /// The key does not exist; an update changed nothing.
    NotFound {
        /// The version of the tombstone, if there is one and it was told.
        version: Option<Version>,
    },
    /// It took no effect and never will.
    Failed,
    /// It may have taken effect, or may yet.
    Uncertain,
    /// No answer came.
    Pending,
}

/// One operation of one client on one key.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who asked. A client waits for an answer before it asks again; what was never answered must
    /// be its last, or recorded with the moment at which it gave up.
    pub client: u32,
    /// The key.
    pub key: Key,
    /// What was asked.
    pub kind: Kind,
    /// When.
    pub invoked: Moment,
    /// When the answer came, or the client gave up.
    pub returned: Option<Moment>,
    /// The answer.
    pub outcome: Outcome,
}

impl Operation {
    /// The value it would store.
    pub fn written(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Set(value) | Kind::Update(value) => Some(value),
            Kind::Get | Kind::Delete => None,
        }
    }

    fn is_write(&self) -> bool {
        self.kind != Kind::Get
    }

    /// Whether it may take effect without anybody having been told so.
    fn is_open(&self) -> bool {
        self.is_write() && matches!(self.outcome, Outcome::Uncertain | Outcome::Pending)
    }

    fn end(&self) -> Moment {
        self.returned.unwrap_or(Moment(u64::MAX))
    }
}

/// Why a history is not that of registers. Operations are named by their place in the history.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Violation {
    /// An operation saw or made something older than what an earlier one had seen or made.
    #[error("{key}: operation {later} has version {found}, but {earlier} had {known} before it")]
    Backwards {
        /// The key.
        key: Key,
        /// The operation that answered first.
        earlier: usize,
        /// Its version.
        known: Version,
        /// The operation that began after that.
        later: usize,
        /// Its version.
        found: Version,
    },
    /// A key was said not to exist although it had been written and nobody can have deleted it.
    #[error("{key}: operation {read} found nothing, but {earlier} had seen or stored {known}")]
    Lost {
        /// The key.
        key: Key,
        /// The operation that saw or stored it.
        earlier: usize,
        /// Its version.
        known: Version,
        /// The operation that found nothing.
        read: usize,
    },
    /// A version was returned that no write can have made with this content.
    #[error("{key}: operation {read} returned {version}, which nobody wrote like that")]
    Invented {
        /// The key.
        key: Key,
        /// The operation.
        read: usize,
        /// What it returned.
        version: Version,
    },
    /// The effect of an operation was seen that had definitely failed.
    #[error("{key}: operation {read} saw what operation {write} wrote, which had failed")]
    Phantom {
        /// The key.
        key: Key,
        /// The operation that failed.
        write: usize,
        /// The operation that saw it.
        read: usize,
    },
    /// Two writes have one version, or one write has two.
    #[error("{key}: operations {first} and {second} cannot both have version {version}")]
    Shared {
        /// The key.
        key: Key,
        /// One operation.
        first: usize,
        /// The other.
        second: usize,
        /// The version of the second.
        version: Version,
    },
    /// A value was returned before its write was invoked.
    #[error("{key}: operation {read} returned what operation {write} wrote only afterwards")]
    Early {
        /// The key.
        key: Key,
        /// The write.
        write: usize,
        /// The read.
        read: usize,
    },
    /// No order of the operations makes sense.
    #[error("{key}: no order explains what clients saw; at most {explained} of {operations}")]
    NoOrder {
        /// The key.
        key: Key,
        /// The most operations that some order explained.
        explained: usize,
        /// How many there are.
        operations: usize,
    },
    /// The history cannot be judged.
    #[error("{key}: {problem}")]
    Unfit {
        /// The key.
        key: Key,
        /// Why not.
        problem: Unfit,
    },
}

/// Why a history cannot be judged.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unfit {
    /// Two writes of one value.
    #[error("a value was written twice; a value must name its write")]
    Value,
    /// A client asked again before it was answered.
    #[error("client {0} asked again before it had an answer")]
    Overlap(u32),
    /// More clients than can be searched.
    #[error("{0} clients are more than the {MAX_CLIENTS} that can be searched")]
    Clients(usize),
    /// The search was given up.
    #[error("the search was given up after {0} steps")]
    Steps(usize),
}

/// The operations of one key, with their places in the history, in order of invocation.
type OfKey<'a> = Vec<(usize, &'a Operation)>;

/// Sorts a history by key.
fn by_key(history: &[Operation]) -> Vec<(&Key, OfKey<'_>)> {
    let mut all: OfKey<'_> = history.iter().enumerate().collect();
    all.sort_by_key(|(place, operation)| (&operation.key, operation.invoked, *place));
    let mut keys: Vec<(&Key, OfKey<'_>)> = Vec::new();
    for (place, operation) in all {
        match keys.last_mut() {
            Some((key, operations)) if **key == operation.key => {
                operations.push((place, operation));
            }
            _ => keys.push((&operation.key, vec![(place, operation)])),
        }
    }
    keys
}
