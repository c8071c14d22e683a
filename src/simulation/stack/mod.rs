//! The whole processes, in simulated time: what the pure machines cannot show.
//!
//! A leader and its nodes run here as they do in production, from their options to their sockets: the
//! same services, tasks, queues, gRPC streams and deadlines, logs and recovery. Only what lies below is
//! simulated. Hosts, network and time are turmoil's; disks are [`SimulatedDisk`]s, which lose what was
//! not synced; threads that wait for the disk are tasks of their host that take the same turns
//! ([`workers`](crate::runtime::workers)). Clients speak the line protocol over connections of that
//! network.
//!
//! # What is shown
//!
//! Of every seed ([`cluster`]): links are held, cut, cut one way and slowed down; nodes and leader are
//! killed, lose their power, and are told to stop in the middle of everything. Meanwhile
//!
//! * each operation of a client is answered within the time a request may take, or its connection ends;
//! * whoever is told to stop has ended within his limit and in good order, and nobody ends otherwise;
//! * no task panics.
//!
//! When the faults are over, all partitions serve again and have all their copies within a bound, every
//! key is read, the whole cluster is stopped in order, loses its power, starts and is read once more,
//! and what clients saw is that of one register a key ([`crate::logic::history`]).
//!
//! Apart from seeds: every call between processes is made to a peer that accepts it and never answers,
//! and must be given up within its deadline ([`deadlines`]); a client that asks and does not listen
//! must not be answered without bound, nor hold up others ([`pressure`]).
//!
//! # What a seed fixes, and what it does not
//!
//! Faults, latencies, disks, identities and what clients ask follow from the seed. Not fixed is the
//! order of what happens in one process at the same instant: `select!` chooses at random among what is
//! ready, and so do hash maps when they are walked. So a seed is the same story each time, and not the
//! same to the last byte; a failure is a failure all the same, and prints what was done. To repeat it:
//! `HATOKUSE_SEED=n cargo test --lib simulation::stack::tests::one_seed`, `HATOKUSE_TIMES=n` times until
//! it fails again, with `HATOKUSE_TRACE=1` and `-- --nocapture` to read what the processes say.
//!
//! Not simulated are the files that hold identities and locks (they lie in a directory of the test), and
//! the wait of a copy's source for the store that asks: what it gives is made all at once.
//!
//! [`SimulatedDisk`]: crate::storage::SimulatedDisk

mod clients;
mod cluster;
mod deadlines;
mod faults;
mod hosts;
mod panics;
mod peers;
mod pressure;
mod scene;
mod tests;
mod trace;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use self::cluster::Cluster;
use crate::logic::history::check_register;

/// What a run came to.
#[derive(Debug)]
struct Report {
    /// Differs if clients saw anything else, or at another time.
    hash: u64,
    operations: usize,
    simulated: Duration,
    violation: Option<String>,
    trace: String,
}

/// Runs one seed.
fn run(seed: u64) -> Report {
    panics::watch();
    panics::take();
    let mut cluster = Cluster::new(seed);
    let outcome = cluster.run();
    let history = std::mem::take(&mut cluster.log.borrow_mut().history);
    let judged = || check_register(&history).map_err(|violation| violation.to_string());
    let violation = outcome.and_then(|()| judged()).err();
    let mut hasher = DefaultHasher::new();
    for operation in &history {
        (operation.client, &operation.kind, operation.invoked, operation.returned)
            .hash(&mut hasher);
        operation.outcome.hash(&mut hasher);
    }
    Report {
        hash: hasher.finish(),
        operations: history.len(),
        simulated: cluster.elapsed(),
        violation,
        trace: std::mem::take(&mut cluster.trace),
    }
}
