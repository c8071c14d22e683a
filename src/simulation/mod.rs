//! A cluster in one thread, driven by chance that can be repeated.
//!
//! The machines that decide in production - a partition, a node's admission - are pure, so they run
//! here unchanged; only what surrounds them is simulated: streams that are slow and break, disks that
//! lose what was not yet durable, processes that crash, pause and return, and clients who write down
//! everything they are told. Time is a number, and the order of events follows from a seed: the same
//! seed is the same run, to the last event.
//!
//! A run has three parts. In the *chaos* faults are injected at rates drawn from the seed. Then they
//! stop and the cluster must *heal*: as many in-sync copies as wanted, nothing unsettled, all copies
//! equal (invariant F). At last every key is read once more, and what clients saw is judged
//! ([`crate::logic::history`]). The invariants that can be seen from outside are asserted all along.
//!
//! What surrounds the machines - calls, connections, shutdown - runs in [`stack`]: the same processes as
//! in production, on a simulated network.
//!
//! To repeat the run of a seed: `HATOKUSE_SEED=n cargo test --lib simulation::tests::one_seed`, with
//! `HATOKUSE_TRACE=1` and `-- --nocapture` to read it. A seed that fails is run again with faults left
//! out until only those are left that matter; `HATOKUSE_OMIT` repeats that shorter run.

mod checks;
mod clients;
mod copies;
mod disk;
mod faults;
mod leader;
mod links;
mod losses;
mod members;
mod messages;
mod network;
mod node;
mod node_shell;
mod operator;
mod profile;
mod queue;
mod random;
mod rebuild;
mod reduce;
mod rot;
mod soak;
mod stack;
mod store;
mod tests;
mod tombstones;
mod trace;
mod world;

use self::checks::Counts;
use self::faults::Fault;
use self::reduce::Omission;
use self::world::World;
use crate::logic::history::{check_register, check_versions};

/// What a run came to.
#[derive(Debug)]
struct Report {
    hash: u64,
    counts: Counts,
    violation: Option<String>,
    /// The faults it met, by number.
    faults: Vec<(u64, Fault)>,
    trace: Vec<String>,
}

/// Runs one seed.
fn run(seed: u64, with_lines: bool) -> Report {
    run_without(seed, Omission::default(), with_lines)
}

/// Runs one seed, with some faults left out.
fn run_without(seed: u64, omission: Omission, with_lines: bool) -> Report {
    let mut world = World::new(seed, omission, with_lines);
    world.run();
    let judged = || {
        let history = world.judged();
        check_versions(&history)?;
        check_register(&history)
    };
    let violation = world
        .checks
        .violation
        .clone()
        .or_else(|| judged().err().map(|violation| format!("not linearizable: {violation}")));
    Report {
        hash: world.trace.hash(),
        counts: Counts {
            time: world.now.0,
            hits: world.counts.hits + world.cache.figures().hits,
            ..world.counts
        },
        violation,
        faults: world.faults,
        trace: world.trace.lines().to_vec(),
    }
}
