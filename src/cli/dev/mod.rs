//! `dev`: a whole cluster on this machine, as child processes of the same binary.
//!
//! What it guarantees:
//!
//! * What it prints on standard output is the contract of [`announce`](super::announce), and
//!   nothing else.
//! * Children end when `dev` does, however it ends: each has the end of a pipe as its standard
//!   input, and stops when the other end is gone. Each is in a process group of its own, so that a
//!   Ctrl-C at the terminal reaches `dev` alone, which stops them in good order.
//! * The leader stops first, then the nodes. A leader that saw the nodes go would take them for
//!   lost and write that down; as it is, the next start finds everybody where they were.
//! * The same data directory brings the same cluster back.
//!
//! One task looks after each child ([`child`]) and tells the [`cluster`] what happens to it; the
//! cluster decides what is printed, and when all is ready.

mod child;
mod cluster;
mod data;
mod readiness;

use anyhow::Context;

use super::arguments::{DevArguments, Global};
use super::output::Outcome;
use super::serve::Parent;
use crate::runtime::signals::{Hangups, Terminations};
use cluster::Cluster;
use data::DataDirectory;

pub(super) use data::temporary;

pub(super) fn run(global: &Global, arguments: &DevArguments) -> anyhow::Result<Outcome> {
    let data = DataDirectory::open(arguments)?;
    let outcome = Parent::watch(arguments.exit_with_parent).and_then(|parent| {
        super::client_runtime()?.block_on(serve(global, arguments, &data, parent))
    });
    data.close();
    outcome
}

async fn serve(
    global: &Global,
    arguments: &DevArguments,
    data: &DataDirectory,
    mut parent: Parent,
) -> anyhow::Result<Outcome> {
    let mut terminations = Terminations::listen().context("cannot listen to signals")?;
    let mut hangups = Hangups::listen().context("cannot listen to signals")?;
    let mut cluster = Cluster::start(global, arguments, data)?;
    let ended = tokio::select! {
        ended = cluster.run() => Some(ended),
        _ = terminations.next() => None,
        () = hangups.next() => None,
        () = parent.gone() => None,
    };
    if let Some(outcome) = ended {
        return outcome;
    }
    tokio::select! {
        outcome = cluster.stop() => Ok(outcome),
        // Whoever asks twice wants it at once; dropped children are killed.
        _ = terminations.next() => Ok(Outcome::Failed),
    }
}
