//! A node: one store, and the services through which a leader uses it.
//!
//! A node decides nothing. It takes the first free place under its data directory, tells the leader
//! who its store is until it is let in, and then does what batches say: store records, answer
//! reads, tell what is unsettled, fill copies, drop what it no longer holds. What it refuses, and
//! why that keeps data safe, is in [`logic::replica`](crate::logic::replica).
//!
//! ```text
//! leader --stream of batches--> service --queue, bounded in bytes--> commit thread --> log
//!                                  |                                     |
//!                                  +--reads--> reader threads            +--> copies (mover)
//!                                                  |                     |
//! leader <--one message with everything ready-- stream <-----------------+
//! ```
//!
//! What it guarantees:
//!
//! * Nothing is acknowledged before it is durable and applied; one number acknowledges all.
//! * A leader's epoch is durably promised before the leader hears anything on its stream, and there
//!   is one stream: a later one ends the one before.
//! * Records are verified before they are stored. One that is damaged ends the stream.
//! * A storage that fails ends the node ([`Error::Storage`]): the process must exit and be started
//!   again. A full disk does not.
//! * Copies give way to clients: they pass at a limited rate, which falls while writes of clients take
//!   long ([`logic::pace`](crate::logic::pace)), and never to nothing.
//! * Everything that waits, waits in a queue with a bound; a full queue stops reading from the
//!   leader's connection.
//!
//! The runtime carries messages and never waits for the disk: one thread commits, a few read.

mod commit;
mod core;
mod figures;
mod health;
mod holdings;
mod leaves;
mod membership;
pub mod metrics;
mod mover;
mod pacing;
mod reads;
mod reporter;
mod running;
mod served;
mod service;
mod stream;
mod transfer;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

pub use self::figures::Counts;
pub use self::health::{Handle, Health};

use self::health::Shared;
use self::running::Node;
use crate::rpc::Malformed;
use crate::rpc::transport::AddressError;
use crate::runtime::signals::Terminations;
use crate::storage::slots::SlotError;
use crate::storage::{self, StorageError, VolumeDisk};

type Store = storage::Store<VolumeDisk>;
type Reader = storage::Reader<VolumeDisk>;

/// How a node is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its place is found or made.
    pub data_dir: PathBuf,
    /// How many places there may be.
    pub max_slots: u16,
    /// How the store keeps its data.
    pub storage: storage::Options,
    /// Where the services listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where the leader and other nodes find them, `host` or `host:port`; nothing for the address
    /// that the leader sees.
    pub advertise: Option<String>,
    /// The node's admin service, as `host:port` or `:port`, if it has one.
    pub admin_address: Option<String>,
    /// The leader, as `host:port`.
    pub leader_address: String,
    /// How often signs of life are sent, unless the leader says otherwise.
    pub heartbeat_interval: Duration,
    /// How fast copies are made, and given to others, each at most; nothing is no limit.
    pub repair_bytes_per_second: Option<NonZeroU64>,
    /// The largest value.
    pub max_value_bytes: usize,
    /// Threads that read.
    pub reader_threads: usize,
}

/// A node that could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No place for the store.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The address to listen at is taken or not this machine's.
    #[error("cannot listen at {address}: {source}; set node.listen and node.port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The leader's address is not one.
    #[error("node.leader_addr: {0}")]
    Leader(#[from] AddressError),
    /// The leader does not want this store, and waiting would not help.
    #[error("the leader refuses this node: {0}")]
    Refused(String),
    /// What the leader said about the cluster makes no sense.
    #[error("the leader's answer to the registration is wrong: {0}")]
    Answer(#[from] Malformed),
    /// The storage failed, or the store could not be opened. The process must end: what a failed
    /// write left behind is only known after a restart.
    #[error("the storage failed: {0}")]
    Storage(#[from] StorageError),
    /// Threads or sockets of the machine ran out.
    #[error("the operating system refused: {0}")]
    System(#[from] io::Error),
    /// The services ended by themselves.
    #[error("the node's services failed: {0}")]
    Services(#[from] tonic::transport::Error),
    /// Something ended that must not.
    #[error("the commit thread ended unexpectedly")]
    CommitThread,
}

/// A node that is yet to run.
#[derive(Debug)]
pub struct Service {
    options: Options,
    shared: Arc<Shared>,
}

impl Service {
    /// A node with these options.
    pub fn new(options: Options) -> Self {
        Self { options, shared: Arc::new(Shared::new()) }
    }

    /// Tells others where the node's admin service is, which needs a handle before it can listen.
    #[must_use]
    pub fn with_admin_address(mut self, address: String) -> Self {
        self.options.admin_address = Some(address);
        self
    }

    /// The way to it, before and while it runs.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Runs until [`Handle::leave`] or [`Handle::stop`], or until it cannot go on.
    pub async fn run(self) -> Result<(), Error> {
        Node::start(self.options, self.shared).await?.run().await
    }

    /// As [`Self::run`]; SIGTERM and SIGINT ask the leader to let the node go, a second one ends it
    /// at once.
    pub async fn run_until_signalled(self) -> Result<(), Error> {
        let mut terminations = Terminations::listen()?;
        let handle = self.handle();
        let mut running = pin!(self.run());
        loop {
            tokio::select! {
                outcome = &mut running => return outcome,
                signal = terminations.next() => {
                    tracing::info!(signal, "the node is asked to end");
                    if handle.0.leave.is_cancelled() {
                        handle.stop();
                    }
                    handle.leave();
                }
            }
        }
    }
}
