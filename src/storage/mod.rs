//! The store of a node: one append-only log in segments, and an index of all keys in memory.
//!
//! # What it promises
//!
//! * What [`Store::commit`] has returned is there after a crash of the process and after a power
//!   cut; in buffered mode after a crash of the process.
//! * Of what was not yet committed a prefix survives, never a hole.
//! * No byte is returned whose checksum fails, and no value of another key: both are checked on
//!   every read.
//! * A torn tail is not damage, and damage is not a torn tail. A store that has lost something
//!   durable says so ([`Tail::Damaged`]), holds no partition any more, and keeps its records for
//!   healthy copies to vouch for.
//! * A failed write or sync ends its service for good; a full disk is refused before it happens.
//!
//! # How
//!
//! ```text
//! leader's bytes -> frame -> segment -> sync -> index          commit thread: Store
//!                                        |         |
//!                               root, checkpoints  +-- entry -> pread -> verified bytes   Reader
//! ```
//!
//! Records are encoded once, by the leader, and lie on disk as they travelled. A commit copies a
//! batch of them into one *frame* ([`frame`]) and writes it with one call and one sync at the end
//! of the active *segment*. Frames are numbered without gaps, and each carries a *mark*: the
//! highest number that was synced when it was written. The *root* lists the segments of the tail,
//! *checkpoints* hold the state of each partition as of some frame, and everything in memory is
//! `apply(log prefix)`: the same function runs when a frame has become durable and when a reopened
//! store replays it.
//!
//! Control records - promised epochs, admissions, vouching, watermarks, the garbage floor - go
//! through the same log, in order with the data they govern. So there is one thing to recover and
//! one order of events.
//!
//! # Why so
//!
//! The log *is* the data path, and an index in memory needs no second write for it. What that costs:
//! the index holds every key (32 bytes each, and the table's slack), and listing keys is a scan. The
//! interface is kept narrow so that something else could stand behind it one day; there is no second
//! engine and no trait for one. The seam lies below: [`Disk`] is a directory of files, real or
//! simulated, and the simulated one loses power, tears sectors, fails and fills up by a seed. Each
//! rule of the design can be switched off in tests, which then show what breaks.
//!
//! A store has one owner, the commit thread; it is synchronous and starts no threads. Between
//! commits the owner calls [`Store::maintain`], and after a second of quiet [`Store::mark_quiet`];
//! in buffered mode some thread calls [`Syncer::sync`] every second. Any number of threads read
//! through [`Reader`]s meanwhile.

pub mod disk;
pub mod frame;
pub mod slots;

mod change;
mod checkpoint;
mod compaction;
mod digest;
mod entry;
mod error;
mod guards;
mod index;
mod log;
mod maintenance;
mod open;
mod options;
mod partition_index;
mod positions;
mod reader;
mod recent;
mod recovery;
mod root;
mod segment;
mod shared;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod usage;

pub use change::Unusable;
pub use digest::{Digest, LEAVES};
pub use disk::real::RealDisk;
pub use disk::simulated::SimulatedDisk;
pub use disk::volume::VolumeDisk;
pub use disk::{Disk, DiskFile, Space};
pub use error::{ReadError, StorageError};
pub use maintenance::Maintenance;
pub use open::Opened;
pub use options::{IoMode, Options, Reserve};
pub use partition_index::{Counts, Membership, Summary};
pub use reader::{EntryRef, Reader, StoreSpace, SyncStatistics, Syncer};
pub use recovery::{Damage, Tail};
pub use store::{Committed, Store};
