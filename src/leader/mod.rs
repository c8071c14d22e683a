//! The leader: gateway for clients, owner of the partitions, keeper of the membership.
//!
//! ```text
//! client --lines--> connection --batch--> gateway --by shard--> shard --piece--> link --batch--> node
//!                                                                 |
//!    answers, gathered by connection  <---------------------------+<--------- one number back
//! ```
//!
//! What it guarantees is what its partitions do ([`logic::partition`](crate::logic::partition)):
//! every key is one linearizable register, and an acknowledged write survives all but one of its
//! copies. This floor adds no decision of its own. It carries messages between pure machines and
//! the world, in batches, and sees to what they take for granted:
//!
//! * one directory has one leader, and an epoch is durable before anything is said in it;
//! * what a machine wants durable is durable before it is told so;
//! * each partition hears what happened in order, from one task;
//! * everything queued is bounded, and what is too much is refused before it changes anything.
//!
//! # The parts
//!
//! * [`gateway`] - from clients' batches to shards, within limits.
//! * `shard` - tasks that own the partitions.
//! * `link` - the connection to each node.
//! * `proposals` - makes the partitions' configurations durable.
//! * `membership` - who belongs to the cluster, who is there, what the ring proposes.
//! * `audit` - what operators decided that may cost data, written down.
//! * [`view`], [`metrics`], `health`, `report` - the cluster as people and probes see it.
//! * [`api`] - what operators ask and tell it.
//!
//! A [`Service`] puts them together and takes them apart again: at the end, clients get the answers
//! to what was accepted before anything else stops.

pub mod api;
mod audit;
pub mod gateway;
mod health;
mod link;
mod membership;
pub mod metrics;
mod proposals;
mod report;
mod service;
mod shard;
pub mod view;

use std::io;

pub use service::{Addresses, ClientPort, Handle, Options, Service};

use crate::meta::MetadataError;
use crate::net::listener::ListenerError;
use crate::runtime::listen::ListenError;

/// A leader that could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port for clients could not be opened.
    #[error(transparent)]
    Clients(#[from] ListenerError),
    /// Another port could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The metadata could not be opened, or failed. The process must end: what a failed write left
    /// behind is only known after a restart.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Signals cannot be listened to.
    #[error("the operating system refused to deliver signals: {0}")]
    Signals(io::Error),
}
