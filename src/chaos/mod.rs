//! A checked load: clients that write down everything they ask and are told, and a judge of it.
//!
//! Whether a store keeps its promises while its processes are killed and frozen cannot be seen from
//! replies one by one: a lost write shows in a read much later, perhaps of another client. So the
//! clients of a [`Load`] record each operation with the times of its invocation and answer, and the
//! whole goes to the judge that the simulation uses,
//! [`check_register`](crate::logic::history::check_register): is there an order of the operations
//! of each key, each within its own times, that makes sense of all answers? The store is a black
//! box behind its line protocol, which tells no versions; nothing is taken on trust.
//!
//! What makes the judge's work possible:
//!
//! * No value is written twice, so that a value names its write.
//! * A key belongs to a group of at most [`CLIENTS_PER_KEY`] clients, as many as can be searched.
//! * A key is retired after [`Options::operations_per_key`] operations, and a new one begun. A
//!   retired key is judged at once and all but its last state let go, so that memory and the search
//!   stay bounded however long a load runs.
//! * At the end every key that was ever written is read once more: nothing acknowledged may have
//!   been lost meanwhile, no delete undone.
//!
//! What is recorded errs on no side: a connection that breaks, or an answer that does not come
//! within [`Options::reply_within`], leaves the outcome open, as `ERROR UNCERTAIN` does: the write
//! may take effect at any time or never. Any other `ERROR` says that it never does, and is held to
//! it. Where there was no connection nothing was sent, and nothing is recorded.
//!
//! A [`Verdict`] says in words what was wrong. It passes only if something was shown: a key that
//! could not be read back at the end, or a history that could not be searched, is no success.
//!
//! Beside the history a load keeps [`Stalls`]: for how long nobody's, or one client's, writes
//! succeeded, and how much was answered in each second.
//!
//! Histories are kept in files ([`mod@file`]) and judged again by [`judge`], without any cluster.

mod client;
mod explain;
pub mod file;
mod group;
mod keeper;
mod load;
mod meter;
mod options;
mod random;
mod verdict;

#[cfg(test)]
mod tests;

pub use load::{Load, Recorded};
pub use meter::{Counts, Gap, Second, Stalls};
pub use options::{CLIENTS_PER_KEY, Options};
pub use random::Random;
pub use verdict::{Finding, Verdict, Wrong, judge};
