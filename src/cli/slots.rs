//! `slots ls`: what lies on a volume that nodes share.

use std::time::SystemTime;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::arguments::Global;
use super::output::{Outcome, Output};
use super::serve;
use crate::config::Override;
use crate::runtime::clock;
use crate::storage::slots::{self, SlotState, SlotStatus};

pub(super) const EXAMPLES: &str = "\
Examples:
  hatokuse slots ls                                 of ./hatokuse-data, or what the configuration names
  hatokuse slots ls --data /var/lib/hatokuse
  docker compose exec node hatokuse slots ls        of the volume that the nodes of a project share

Reads the data directory itself, and needs no leader. A slot holds one store. A node that starts takes
the one that was used last of those that are asleep, and makes the next if there is none.";

/// What to do with slots.
#[derive(Debug, Subcommand)]
pub(super) enum SlotsCommand {
    /// List the slots of a data directory: which are in use, by which stores, and how large they are
    #[command(after_help = EXAMPLES)]
    Ls(ListArguments),
}

/// Which slots.
#[derive(Args, Debug)]
pub(super) struct ListArguments {
    /// The volume [default: as the configuration says]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
}

/// A slot, as JSON.
#[derive(Serialize)]
struct SlotDocument {
    slot: String,
    /// running, asleep, retired, empty or damaged.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    /// Seconds since a node had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    unused_seconds: Option<u64>,
    bytes: u64,
}

#[derive(Serialize)]
struct SlotsDocument {
    slots: Vec<SlotDocument>,
}

pub(super) fn run(
    global: &Global,
    output: &mut Output,
    command: SlotsCommand,
) -> anyhow::Result<Outcome> {
    let SlotsCommand::Ls(arguments) = command;
    let data = arguments.data.map(|value| Override {
        path: "node.data_dir".to_owned(),
        value,
        flag: "--data".to_owned(),
    });
    let settings = serve::settings(global, data.into_iter().collect())?;
    let slots = slots::list(&settings.node.data_dir)?;
    let slots: Vec<_> = slots.into_iter().map(document).collect();
    if slots.is_empty() {
        let directory = settings.node.data_dir.display();
        anstream::eprintln!("no node has used {directory} yet: there are no slots in it");
    }
    for slot in &slots {
        if let Some(problem) = &slot.problem {
            anstream::eprintln!("warning: {problem}");
        }
    }
    let rows: Vec<_> = slots.iter().map(row).collect();
    let headings = ["SLOT", "STATE", "STORE", "CLUSTER", "UNUSED FOR", "SIZE"];
    output.rows(headings, rows, &SlotsDocument { slots })?;
    Ok(Outcome::Done)
}

fn document(slot: SlotStatus) -> SlotDocument {
    let SlotStatus { name, state, identity, used, bytes } = slot;
    let unused = used.filter(|_| state != SlotState::Running).map(unused_seconds);
    let joined = identity.and_then(|identity| identity.joined);
    SlotDocument {
        slot: name,
        state: state.name(),
        problem: if let SlotState::Damaged(problem) = state { Some(problem) } else { None },
        store: identity.map(|identity| identity.store.to_string()),
        cluster: joined.map(|joined| joined.cluster.to_string()),
        unused_seconds: unused,
        bytes,
    }
}

fn unused_seconds(used: SystemTime) -> u64 {
    let since = used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(clock::wall_milliseconds()).unwrap_or(0) / 1000;
    now.saturating_sub(since.as_secs())
}

fn row(slot: &SlotDocument) -> [String; 6] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let unused = slot.unused_seconds.map(|seconds| {
        humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
    });
    [
        slot.slot.clone(),
        slot.state.to_owned(),
        or_dash(&slot.store),
        or_dash(&slot.cluster),
        or_dash(&unused),
        ByteSize(slot.bytes).to_string(),
    ]
}
