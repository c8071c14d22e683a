//! What the leader must never forget: its epoch, the cluster, its stores, and who holds what.
//!
//! Whoever proposes [`Change`]s is told when they are durable, and not before. Behind [`Metadata`]
//! there is one implementation today, a log in the leader's data directory; a consensus log among
//! several leaders will be another.
//!
//! # What it guarantees
//!
//! * What [`Metadata::propose`] has accepted is there after a crash of the process and after a power
//!   cut. All changes of one proposal are there, or none.
//! * Proposals that wait for the disk together cost one fsync together: when a node dies, some 800
//!   configurations change within the stall of one write.
//! * No epoch and no configuration ever goes back, live or at replay ([`State::apply`]).
//! * One directory, one leader: it is locked for the life of the process.
//! * **An interrupted write is not damage, and damage is not an interrupted write.** The first is cut
//!   off, the second stops the start: a leader that forgets a configuration believes in copies that
//!   lack what was acknowledged since.
//! * After a write or sync has failed nothing is accepted any more: what is durable is known only
//!   after reopening. A leader whose metadata has failed must stop.
//!
//! # How
//!
//! * [`log`] - one file: a snapshot of the state, then a frame for each batch of changes; the frames
//!   are those of the nodes' stores. When it is full, the state replaces it as a new snapshot.
//! * [`local`] - the thread that owns the log and gathers what queues while the disk is busy.
//! * `codec` - changes as bytes.

mod codec;
mod error;
pub mod local;
pub mod log;

#[cfg(test)]
mod tests;

use std::future::Future;

pub use crate::logic::membership::{Change, Cluster, MemberInfo, Regression, State};
pub use error::MetadataError;

/// Durable metadata. Clones propose to the same.
pub trait Metadata: Clone + Send + Sync + 'static {
    /// Makes changes durable, all or none; completes when they are.
    ///
    /// The proposal is queued by the call itself, in order with others of the same caller; dropping
    /// the future does not take it back.
    fn propose(
        &self,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<(), MetadataError>> + Send + 'static;

    /// As [`Self::propose`], for callers that have no task to wait in. `done` must be quick: it
    /// runs where the disk is served.
    fn propose_then(
        &self,
        changes: Vec<Change>,
        done: impl FnOnce(Result<(), MetadataError>) + Send + 'static,
    );
}
