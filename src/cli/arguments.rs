//! What may be written on the command line, and the help that teaches it.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::chaos::{ChaosArguments, EXAMPLES as CHAOS_EXAMPLES};
use super::output::Format;
use super::slots::SlotsCommand;
use crate::config::Override;
use crate::types::StoreId;

const EXAMPLES: &str = "\
Examples:
  hatokuse dev                        a leader and five nodes on this machine, data in ./hatokuse-data
  hatokuse set greeting 'hello world' store a value
  hatokuse get greeting               read it back
  hatokuse nodes                      the live nodes
  hatokuse client                     talk to the cluster, with history and completion
  hatokuse chaos                      kill and freeze a cluster of its own, and see what it loses

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but degraded (fewer copies than asked for).";

/// A replicated key-value and message store that never loses what it acknowledged.
#[derive(Debug, Parser)]
#[command(name = "hatokuse", version, propagate_version = true, after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Flags that every command understands.
#[derive(Args, Debug)]
pub(super) struct Global {
    /// Client port of the leader, for commands that read and write [default: 127.0.0.1:6000]
    #[arg(long, global = true, env = "HATOKUSE_ADDR", value_name = "HOST:PORT")]
    pub(super) addr: Option<String>,
    /// Admin port, for operators' commands [default: 127.0.0.1:8080; of a node 127.0.0.1:8081]
    #[arg(long, global = true, env = "HATOKUSE_ADMIN_ADDR", value_name = "HOST:PORT")]
    pub(super) admin_addr: Option<String>,
    /// Form of what is written to standard output
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(super) output: Format,
    /// How long to wait for an answer
    #[arg(long, global = true, value_name = "TIME", default_value = "10s",
          value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
    /// Configuration file [default: config.yaml in the working directory, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

impl Global {
    /// The client port of the leader.
    pub(super) fn client_addr(&self) -> &str {
        self.addr.as_deref().unwrap_or("127.0.0.1:6000")
    }

    /// Whether a question that both ports answer goes to the client port: only there is known.
    pub(super) fn asks_as_a_client(&self) -> bool {
        self.addr.is_some() && self.admin_addr.is_none()
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a leader: the gateway that clients talk to
    #[command(after_help = "\
Examples:
  hatokuse leader                              ports 6000, 8080 and 50051, data in hatokuse-data/leader
  hatokuse leader --listen 0.0.0.0             for other machines (needs security.client_auth)
  hatokuse leader --tolerance 3 --data /var/lib/hatokuse

Settings come from config.yaml and tolerance.conf, then the environment, then these flags. Prints
one line, `listening client=... admin=... grpc=... data=...`, once its ports are open. SIGTERM stops
it in good order; SIGHUP makes it read tolerance.conf again.")]
    Leader(LeaderArguments),
    /// Run a node: a store that a leader keeps copies in
    #[command(after_help = "\
Examples:
  hatokuse node --leader 10.0.0.1:50051        data in hatokuse-data, in the first slot that is free
  hatokuse node --leader 127.0.0.1:50051 --port 0 --admin-port 0
                                               one more on this machine, on free ports

A node may start before its leader. Prints one line, `registered id=... addr=... admin=... data=...`,
once a leader has let it in. SIGTERM makes it ask the leader to let it go; a second one ends it at
once.

  hatokuse node drain ID --wait                move everything off a node, then stop it
  hatokuse node decommission ID                and forget it")]
    Node(NodeCommand),
    /// Run a whole cluster on this machine: a leader and nodes as child processes
    #[command(after_help = "\
Examples:
  hatokuse dev                                      five nodes, data in ./hatokuse-data, port 6000
  hatokuse dev --ephemeral --nodes 3 --tolerance 2  a cluster that leaves nothing behind
  hatokuse dev --client-port 0 --admin-port 0 --grpc-port 0 --data /tmp/two
                                                    a second one beside it, on free ports
  hatokuse dev --restart 2                          what dies is started again after two seconds

The lines on standard output are for scripts: leader, node, ready, exited. Logs go to files in
DATA/log. Ctrl-C stops the cluster cleanly; the same --data brings it back.")]
    Dev(DevArguments),
    /// Talk to the cluster: interactive, or a script from standard input
    #[command(after_help = "\
Examples:
  hatokuse client                                interactive: Tab completes, Up recalls, Ctrl-D ends
  hatokuse client --addr leader:6000             another cluster
  printf 'SET k v\\nGET k\\n' | hatokuse client    a script; exit code 1 if any reply is an ERROR

Blank lines of a script are skipped. HELP lists the commands.")]
    Client,
    /// Print the value of a key
    #[command(after_help = "\
Examples:
  hatokuse get greeting            the value and a line end; exit code 1 if there is no such key
  hatokuse get greeting -o json    {\"key\":\"greeting\",\"value\":\"hello world\"}

A value that is not UTF-8 comes as \"value_hex\" in JSON.")]
    Get(KeyArgument),
    /// Store a value
    #[command(after_help = "\
Examples:
  hatokuse set greeting 'hello world'
  date | hatokuse set last-run      the value from standard input, without its last line end

Prints OK when the value is durable on as many nodes as `tolerance` asks for, and OK DEGRADED with
exit code 3 when it is durable on fewer. A value holds no line end; Redis clients may store those.")]
    Set(PairArguments),
    /// Delete a key
    #[command(after_help = "\
Example:
  hatokuse del greeting    OK whether or not the key existed")]
    Del(KeyArgument),
    /// List the nodes, and how each of them is
    #[command(after_help = "\
Examples:
  hatokuse nodes                          every node, from the admin port
  hatokuse nodes -o json                  [{\"id\":\"0197...\",\"address\":\"127.0.0.1:50052\",\"state\":...
  hatokuse nodes --addr 10.0.0.1:6000     only the live ones, as a client may see them

With --addr and without --admin-addr the client port is asked, which tells less.")]
    Nodes,
    /// Count the records of each live node
    #[command(after_help = "\
Example:
  hatokuse files -o json    [{\"address\":\"127.0.0.1:50052\",\"records\":800}, ...]")]
    Files,
    /// Show the state of the cluster
    #[command(after_help = "\
Example:
  watch hatokuse status")]
    Status,
    /// Show where a key lives: its partition, copies and version
    #[command(after_help = "\
Example:
  hatokuse where greeting")]
    Where(KeyArgument),
    /// Make the metadata of a leader that lost its disk anew, from what the nodes know
    #[command(after_help = "\
Examples:
  docker compose exec leader hatokuse rebuild-metadata     to the leader that refuses to serve
  hatokuse rebuild-metadata --accept-missing 0197...        without a store whose disk is lost for good

Start every node of the cluster first: one that stays away may be the only one that has the newest
writes. Shows who has come and what is missing, and asks before it does anything; until then nothing
is changed. Exit code 3 if some partitions have no whole copy on any node that came.")]
    RebuildMetadata(RebuildArguments),
    /// Look at the slots of a data directory, each of which holds a node's store
    Slots(SlotsArguments),
    /// Go on with what is left of partitions that lost all their copies
    #[command(after_help = "\
Example:
  docker compose exec leader hatokuse force-recover

Shows for each such partition what it would go on with and what would be lost, and asks before it
does anything. As long as a node that has a copy may come back, start it instead.")]
    ForceRecover(ForceArguments),
    /// Try a cluster: a checked load, faults, and a verdict on whether anything was lost
    #[command(after_help = CHAOS_EXAMPLES)]
    Chaos(ChaosArguments),
    /// Ask a leader or a node on this machine whether it is well (for container health checks)
    #[command(after_help = "\
Examples:
  hatokuse health                                    the leader at 127.0.0.1:8080
  hatokuse health node                               a node at 127.0.0.1:8081
  hatokuse health node --admin-addr 127.0.0.1:41873  another port

Exit code 0 if it is well, else 1 with the reasons on standard error.")]
    Health(HealthArguments),
    /// Write a completion script for a shell
    #[command(after_help = "\
Examples:
  source <(hatokuse completion bash)
  hatokuse completion fish > ~/.config/fish/completions/hatokuse.fish")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// A key.
#[derive(Args, Debug)]
pub(super) struct KeyArgument {
    /// The key: 1 byte to 1 KiB, no white space
    pub(super) key: String,
}

/// A key and perhaps its value.
#[derive(Args, Debug)]
pub(super) struct PairArguments {
    /// The key: 1 byte to 1 KiB, no white space
    pub(super) key: String,
    /// The value; from standard input if left out
    pub(super) value: Option<String>,
}

/// Whom to ask.
#[derive(Args, Debug)]
pub(super) struct HealthArguments {
    /// What runs here
    #[arg(value_enum, default_value_t)]
    pub(super) role: Role,
}

/// What a process of a cluster is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// The gateway.
    #[default]
    Leader,
    /// A store of shards.
    Node,
}

/// Settings of a leader that flags may give.
#[derive(Args, Debug)]
pub(super) struct LeaderArguments {
    /// Address that clients and nodes connect to
    #[arg(long, value_name = "IP")]
    listen: Option<String>,
    /// Port for clients; 0 picks a free one
    #[arg(long, value_name = "PORT")]
    client_port: Option<String>,
    /// Port that nodes connect to; 0 picks a free one
    #[arg(long, value_name = "PORT")]
    grpc_port: Option<String>,
    /// Address of the admin port
    #[arg(long, value_name = "IP")]
    admin_listen: Option<String>,
    /// Port for health and metrics; 0 picks a free one
    #[arg(long, value_name = "PORT")]
    admin_port: Option<String>,
    /// Where the metadata is kept
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// How many copies each value gets, 1 to 7
    #[arg(long, value_name = "COPIES")]
    tolerance: Option<String>,
    /// File with that number [default: tolerance.conf beside config.yaml]
    #[arg(long, value_name = "FILE")]
    pub(super) tolerance_file: Option<PathBuf>,
    /// Live copies without which writes are refused
    #[arg(long, value_name = "COPIES")]
    min_replicas: Option<String>,
    /// Nodes without which a new cluster is not created
    #[arg(long, value_name = "COUNT")]
    bootstrap_nodes: Option<String>,
    /// Silence after which a node is not waited for
    #[arg(long, value_name = "TIME")]
    suspect_after: Option<String>,
    /// Silence after which a node's copies are made anew elsewhere
    #[arg(long, value_name = "TIME")]
    evict_after: Option<String>,
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    pub(super) exit_with_parent: bool,
}

impl LeaderArguments {
    /// The settings that were given.
    pub(super) fn overrides(&self) -> Vec<Override> {
        given([
            ("leader.listen", "--listen", &self.listen),
            ("leader.client_port", "--client-port", &self.client_port),
            ("leader.grpc_port", "--grpc-port", &self.grpc_port),
            ("leader.admin_listen", "--admin-listen", &self.admin_listen),
            ("leader.admin_port", "--admin-port", &self.admin_port),
            ("leader.data_dir", "--data", &self.data),
            ("tolerance", "--tolerance", &self.tolerance),
            ("leader.min_replicas", "--min-replicas", &self.min_replicas),
            ("leader.bootstrap_nodes", "--bootstrap-nodes", &self.bootstrap_nodes),
            ("leader.suspect_after", "--suspect-after", &self.suspect_after),
            ("leader.evict_after", "--evict-after", &self.evict_after),
        ])
    }
}

/// Runs a node, or tells the leader what is to become of one.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct NodeCommand {
    /// What is to become of a node; without it, one is run here
    #[command(subcommand)]
    pub(super) operation: Option<NodeOperation>,
    #[command(flatten)]
    pub(super) run: NodeArguments,
}

/// What an operator may decide about a node.
#[derive(Debug, Subcommand)]
pub(super) enum NodeOperation {
    /// Move everything off a node; it gets nothing new, also after restarts, until it is undrained
    #[command(after_help = "\
Examples:
  hatokuse node drain 0197c5f2-7a30-7e10-b7e5-5d0d1f6a2b3c          begin, and say how far it is
  hatokuse node drain 0197c5f2-7a30-7e10-b7e5-5d0d1f6a2b3c --wait   return when the node may be stopped

Asks the leader's admin port (--admin-addr). A node that is drained already is left as it is, so the
command may be repeated to see how far it is. `hatokuse nodes` lists the identities.")]
    Drain(DrainArguments),
    /// Give a drained node copies again
    #[command(after_help = "\
Example:
  hatokuse node undrain 0197c5f2-7a30-7e10-b7e5-5d0d1f6a2b3c")]
    Undrain(NodeIdentity),
    /// Forget a node that is drained, or gone for good: it is never taken again
    #[command(after_help = "\
Example:
  hatokuse node decommission 0197c5f2-7a30-7e10-b7e5-5d0d1f6a2b3c

Refused, with what to do, while the node is in use or a partition still counts on it. A node that
brings the store back ends, retires its slot, and takes another at its next start.")]
    Decommission(NodeIdentity),
}

/// Which node.
#[derive(Args, Debug)]
pub(super) struct NodeIdentity {
    /// Its identity, as `hatokuse nodes` lists it
    #[arg(value_name = "ID")]
    pub(super) id: StoreId,
}

/// What to do with slots.
#[derive(Args, Debug)]
pub(super) struct SlotsArguments {
    #[command(subcommand)]
    pub(super) command: SlotsCommand,
}

/// What to drain, and how.
#[derive(Args, Debug)]
pub(super) struct DrainArguments {
    #[command(flatten)]
    pub(super) node: NodeIdentity,
    /// Return only when nothing is left on it
    #[arg(long)]
    pub(super) wait: bool,
}

/// Settings of a node that flags may give.
#[derive(Args, Debug)]
pub(super) struct NodeArguments {
    /// Where the leader is
    #[arg(long, value_name = "HOST:PORT")]
    leader: Option<String>,
    /// Address that the leader connects to
    #[arg(long, value_name = "IP")]
    listen: Option<String>,
    /// Port that the leader connects to; 0 picks a free one
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Host under which the leader reaches this node [default: the address the leader sees]
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Address of the admin port
    #[arg(long, value_name = "IP")]
    admin_listen: Option<String>,
    /// Port for health and metrics; 0 picks a free one
    #[arg(long, value_name = "PORT")]
    admin_port: Option<String>,
    /// The volume; nodes may share one, each takes a slot of its own
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// When a write counts as written: unbuffered (on disk) or buffered (in the system's hands)
    #[arg(long, value_name = "MODE")]
    io_mode: Option<String>,
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    pub(super) exit_with_parent: bool,
}

impl NodeArguments {
    /// The settings that were given.
    pub(super) fn overrides(&self) -> Vec<Override> {
        given([
            ("node.leader_addr", "--leader", &self.leader),
            ("node.listen", "--listen", &self.listen),
            ("node.port", "--port", &self.port),
            ("node.advertise", "--advertise", &self.advertise),
            ("node.admin_listen", "--admin-listen", &self.admin_listen),
            ("node.admin_port", "--admin-port", &self.admin_port),
            ("node.data_dir", "--data", &self.data),
            ("storage.io_mode", "--io-mode", &self.io_mode),
        ])
    }
}

fn given<const N: usize>(flags: [(&str, &str, &Option<String>); N]) -> Vec<Override> {
    let given = flags.into_iter().filter_map(|(path, flag, value)| {
        let value = value.clone()?;
        Some(Override { path: path.to_owned(), value, flag: flag.to_owned() })
    });
    given.collect()
}

/// A cluster on this machine.
#[derive(Args, Debug)]
pub(super) struct DevArguments {
    /// How many nodes
    #[arg(long, value_name = "COUNT", default_value = "5")]
    pub(super) nodes: NonZeroUsize,
    /// How many copies each value gets, 1 to 7 [default: as in tolerance.conf, else 4]
    #[arg(long, value_name = "COPIES")]
    pub(super) tolerance: Option<String>,
    /// Port for clients; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 6000)]
    pub(super) client_port: u16,
    /// Admin port; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub(super) admin_port: u16,
    /// Port that nodes connect to; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 50051)]
    pub(super) grpc_port: u16,
    /// Where all data and logs go; the same again brings the same cluster back
    #[arg(long, value_name = "DIR", default_value = "hatokuse-data")]
    pub(super) data: PathBuf,
    /// Keep data in a temporary directory, and remove it at the end
    #[arg(long, conflicts_with = "data")]
    pub(super) ephemeral: bool,
    /// When a write counts as written: unbuffered (on disk) or buffered (in the system's hands)
    #[arg(long, value_name = "MODE")]
    pub(super) io_mode: Option<String>,
    /// Start a child that ended again after this many seconds
    #[arg(long, value_name = "never|SECONDS", default_value = "never")]
    pub(super) restart: Restart,
    /// Show the logs on standard error, too
    #[arg(long)]
    pub(super) log: bool,
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    pub(super) exit_with_parent: bool,
}

/// What an operator decides about lost metadata.
#[derive(Args, Debug)]
pub(super) struct RebuildArguments {
    /// A store that is lost for good; may be given several times
    #[arg(long, value_name = "STORE")]
    pub(super) accept_missing: Vec<String>,
    /// Let partitions begin empty that no node holds or heard of
    #[arg(long)]
    pub(super) begin_empty: bool,
    /// How long to wait for nodes
    #[arg(long, value_name = "TIME", default_value = "60s",
          value_parser = humantime::parse_duration)]
    pub(super) wait: Duration,
    /// Every node of the cluster has come: do not ask
    #[arg(long)]
    pub(super) yes: bool,
}

/// What an operator decides about lost copies.
#[derive(Args, Debug)]
pub(super) struct ForceArguments {
    /// Lose what is said to be lost: do not ask
    #[arg(long)]
    pub(super) yes_lose_data: bool,
}

/// What becomes of a child that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// It stays away.
    Never,
    /// It is started again after this long.
    After(Duration),
}

impl FromStr for Restart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self::Never);
        }
        let seconds = text.parse().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
        let after = seconds.or_else(|| humantime::parse_duration(text).ok());
        after.map(Self::After).ok_or_else(|| "write never, or a number of seconds".to_owned())
    }
}
