//! What may be written after `chaos`.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(in crate::cli) const EXAMPLES: &str = "\
Without --addr a cluster of its own is started, hurt and removed again. With it, the load runs on
yours, and the faults are those that you name, or make yourself while it runs.

Examples:
  hatokuse chaos                                       a minute of kills and pauses, five nodes
  hatokuse chaos --seconds 600 --nodes 3 --tolerance 2 --seed 7
                                                       longer, on a smaller one; the same faults again
  hatokuse chaos --faults kill-leader,pause-leader     only the leader is hurt
  hatokuse chaos --addr 127.0.0.1:6000 --every 20 \\
      --fault 'docker compose kill -s KILL node && docker compose up -d --wait'
                                                       your cluster, your faults
  hatokuse chaos --check hatokuse-chaos-7.history      judge a kept history again

Clients set, get, update and delete keys of their own, and write down every request with its answer
and times. At the end every key is read back, and a judge looks for an order of all requests in
which the answers make sense. Exit code 0 only if there is one for each key: nothing that was
acknowledged was lost, no old value was read, no delete undone, no failed write seen.

Progress goes to standard error, the verdict to standard output (-o json for programs). Ctrl-C ends
the run early, with a verdict. If anything is wrong the history is kept, and the data of the
cluster, if it was its own.";

/// How to try a cluster.
#[derive(Args, Debug)]
pub(in crate::cli) struct ChaosArguments {
    /// How long the load runs, in seconds
    #[arg(long, value_name = "COUNT", default_value = "60")]
    pub(super) seconds: NonZeroU64,
    /// How many clients there are; every five of them share keys
    #[arg(long, value_name = "COUNT", default_value = "10")]
    pub(super) clients: NonZeroUsize,
    /// How many keys are in use at a time; after 2,000 requests each gives way to a new one
    #[arg(long, value_name = "COUNT", default_value = "20")]
    pub(super) keys: NonZeroUsize,
    /// How long a client waits from answer to request, on average
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = humantime::parse_duration)]
    pub(super) pace: std::time::Duration,
    /// Which faults come in which order, and what clients choose [default: another each time]
    #[arg(long, value_name = "NUMBER")]
    pub(super) seed: Option<u64>,
    /// Seconds from one fault to the next, about
    #[arg(long, value_name = "COUNT", default_value = "5")]
    pub(super) every: NonZeroU64,
    /// Nodes of the own cluster [default: 5]
    #[arg(long, value_name = "COUNT")]
    pub(super) nodes: Option<NonZeroUsize>,
    /// Copies in the own cluster, 1 to 7 [default: as in tolerance.conf, else 4]
    #[arg(long, value_name = "COPIES", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(super) tolerance: Option<u8>,
    /// Faults made in the own cluster, separated by commas [default: all]
    #[arg(long, value_name = "FAULTS", value_enum, value_delimiter = ',')]
    pub(super) faults: Vec<Fault>,
    /// A command that makes a fault in your cluster, and mends it; may be given several times
    #[arg(long, value_name = "COMMAND")]
    pub(super) fault: Vec<String>,
    /// Run on a cluster that holds keys; those of the load have a prefix, and are deleted at the end
    #[arg(long)]
    pub(super) production: bool,
    /// Write the whole history to a file
    #[arg(long, value_name = "FILE")]
    pub(super) history: Option<PathBuf>,
    /// Judge a history that was kept, without any cluster
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "seconds", "clients", "keys", "pace", "seed", "every", "nodes", "tolerance", "faults",
        "fault", "production", "history",
    ])]
    pub(super) check: Option<PathBuf>,
}

/// What is done to the processes of the own cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Fault {
    /// A node is killed; it is back a second later.
    KillNode,
    /// The leader is killed; it is back a second later.
    KillLeader,
    /// A node is frozen for half a second to 15 s.
    PauseNode,
    /// The leader is frozen for half a second to 15 s.
    PauseLeader,
    /// Everything is killed at once.
    KillAll,
}

impl Fault {
    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KillNode => "kill-node",
            Self::KillLeader => "kill-leader",
            Self::PauseNode => "pause-node",
            Self::PauseLeader => "pause-leader",
            Self::KillAll => "kill-all",
        }
    }
}
