//! What the load tests are asked for on their command lines.
//!
//! They are started as `cargo test --test throughput -- OPTIONS`, so they take the options of
//! Rust's own test harness, too, and a filter selects among the works by name.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, ValueEnum};

use super::load::{Load, Mix};

/// Bytes in a value unless asked otherwise.
const VALUE_BYTES: usize = 100;
/// The sizes whose latencies are told unless one is asked for.
const PACKETS: [usize; 3] = [100, 10 << 10, 1_000_000];
/// A server takes no larger values unless told to.
const MAX_VALUE_BYTES: u64 = 8 << 20;

const THROUGHPUT_EXAMPLES: &str = "\
Examples:
  cargo test --release --test throughput                     all works, within a minute
  cargo test --release --test throughput -- GET              those with GET in their names
  cargo test --release --test throughput -- --clients 8 --pipeline 4 --value-size 1024
  cargo test --release --test throughput -- --peer redis     the same against Redis, in turns

How to read the figures: loadtest/README.md";

const LATENCY_EXAMPLES: &str = "\
Examples:
  cargo test --release --test latency                        one client, three sizes of values
  cargo test --release --test latency -- --packet-size 1000
  cargo test --release --test latency -- --csv times.csv     every operation's time, too

How to read the figures: loadtest/README.md";

/// How many operations per second a cluster of this machine does, and what each costs.
#[derive(Debug, Parser)]
#[command(name = "throughput", after_help = THROUGHPUT_EXAMPLES)]
struct Throughput {
    /// Clients, each with a connection of its own [default: 50, and 200]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=9000))]
    clients: Option<u64>,
    /// Requests that a client sends before it waits for the replies [default: 1, and 16]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=5000))]
    pipeline: Option<u64>,
    /// Bytes in each value
    #[arg(long, value_name = "BYTES", default_value_t = VALUE_BYTES as u64,
          value_parser = clap::value_parser!(u64).range(0..=MAX_VALUE_BYTES))]
    value_size: u64,
    #[command(flatten)]
    common: Common,
}

/// How long one client waits for its replies.
#[derive(Debug, Parser)]
#[command(name = "latency", after_help = LATENCY_EXAMPLES)]
struct Latency {
    /// Bytes in each value [default: 100, 10240 and 1000000]
    #[arg(long, value_name = "BYTES", visible_alias = "value-size",
          value_parser = clap::value_parser!(u64).range(0..=MAX_VALUE_BYTES))]
    packet_size: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// What both understand.
#[derive(Args, Debug)]
struct Common {
    /// Measured time of each work
    #[arg(long, default_value = "3", value_parser = seconds)]
    seconds: Duration,
    /// Copies of each value, 1 to 7; of a peer as many processes
    #[arg(long, value_name = "COUNT", default_value_t = 3,
          value_parser = clap::value_parser!(u8).range(1..=7))]
    copies: u8,
    /// Nodes [default: as many as copies]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: Option<u8>,
    /// When a write counts as written: on every copy's disk, or in every system's hands
    #[arg(long, value_enum, default_value_t)]
    io_mode: IoMode,
    /// Write every operation's time to this file (16 bytes of memory each until the end)
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Measure another system in turns with this one, and print the ratios
    #[arg(long, value_enum)]
    peer: Option<Peer>,
    /// How many turns
    #[arg(long, value_name = "COUNT", default_value_t = 3, requires = "peer",
          value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: u8,
    /// Only works whose names hold one of these
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    #[command(flatten)]
    harness: Harness,
}

/// What Rust's test harness understands, and cargo or an editor may pass on.
#[derive(Args, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own there")]
struct Harness {
    /// List the works
    #[arg(long)]
    list: bool,
    #[arg(long, hide = true)]
    exact: bool,
    #[arg(long, hide = true, value_name = "FILTER")]
    skip: Vec<String>,
    #[arg(long, hide = true, alias = "no-capture")]
    nocapture: bool,
    #[arg(long, hide = true)]
    show_output: bool,
    #[arg(long, hide = true)]
    ignored: bool,
    #[arg(long, hide = true)]
    include_ignored: bool,
    #[arg(long, hide = true)]
    test: bool,
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    test_threads: Option<String>,
    #[arg(long, hide = true)]
    color: Option<String>,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(long, hide = true)]
    logfile: Option<PathBuf>,
    #[arg(short = 'Z', hide = true)]
    unstable: Vec<String>,
}

/// When a write counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IoMode {
    /// When it was synced to the disk of every copy.
    #[default]
    Unbuffered,
    /// When the operating system of every copy has it.
    Buffered,
}

impl IoMode {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unbuffered => "unbuffered",
            Self::Buffered => "buffered",
        }
    }
}

/// Another system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// A primary and replicas; `WAIT` for all of them after each write, or batch of writes
    Redis,
    /// As many members as copies; clients talk to the leader
    Etcd,
}

/// What a load test is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to measure, one after the other.
    pub works: Vec<Load>,
    /// How long each.
    pub time: Duration,
    /// Copies of each value.
    pub copies: u8,
    /// Nodes.
    pub nodes: u8,
    /// When a write counts as written.
    pub io_mode: IoMode,
    /// Where every operation's time goes.
    pub csv: Option<PathBuf>,
    /// Whom to compare with.
    pub peer: Option<Peer>,
    /// How many turns each system gets.
    pub rounds: u8,
    /// Whether the works are to be listed only.
    pub list: bool,
}

/// Reads the command line of the throughput test, the program's name first.
pub fn throughput(arguments: impl IntoIterator<Item = OsString>) -> Result<Plan, clap::Error> {
    let given = Throughput::try_parse_from(arguments)?;
    let load = |mix, clients, pipeline| load(mix, clients, pipeline, to_usize(given.value_size));
    let works = if given.clients.is_none() && given.pipeline.is_none() {
        vec![
            load(Mix::SET, 50, 1),
            load(Mix::SET, 200, 1),
            load(Mix::SET, 50, 16),
            load(Mix::GET, 50, 1),
            load(Mix::GET, 50, 16),
            load(Mix::MOSTLY_GET, 50, 1),
        ]
    } else {
        let clients = to_usize(given.clients.unwrap_or(50));
        let pipeline = to_usize(given.pipeline.unwrap_or(1));
        [Mix::SET, Mix::GET, Mix::MOSTLY_GET].map(|mix| load(mix, clients, pipeline)).to_vec()
    };
    given.common.plan(works).map_err(|(kind, text)| Throughput::command().error(kind, text))
}

/// Reads the command line of the latency test, the program's name first.
pub fn latency(arguments: impl IntoIterator<Item = OsString>) -> Result<Plan, clap::Error> {
    let given = Latency::try_parse_from(arguments)?;
    let sizes = given.packet_size.map_or(PACKETS.to_vec(), |size| vec![to_usize(size)]);
    let works =
        sizes.iter().flat_map(|size| [Mix::SET, Mix::GET].map(|mix| load(mix, 1, 1, *size)));
    let works = works.collect();
    given.common.plan(works).map_err(|(kind, text)| Latency::command().error(kind, text))
}

impl Common {
    fn plan(self, works: Vec<Load>) -> Result<Plan, (ErrorKind, String)> {
        let nodes = self.nodes.unwrap_or(self.copies);
        if nodes < self.copies {
            let copies = self.copies;
            let text = format!(
                "--nodes {nodes} cannot hold --copies {copies}: every write would be degraded; \
                 start {copies} nodes or more"
            );
            return Err((ErrorKind::ValueValidation, text));
        }
        if self.peer == Some(Peer::Etcd) && self.io_mode == IoMode::Buffered {
            let text = "etcd syncs every write, so it can be compared with --io-mode unbuffered \
                        only";
            return Err((ErrorKind::ArgumentConflict, text.to_owned()));
        }
        let works = works.into_iter().filter(|work| self.selects(&work.to_string())).collect();
        Ok(Plan {
            works,
            time: self.seconds,
            copies: self.copies,
            nodes,
            io_mode: self.io_mode,
            csv: self.csv,
            peer: self.peer,
            rounds: if self.peer.is_some() { self.rounds } else { 1 },
            list: self.harness.list,
        })
    }

    /// As Rust's test harness selects tests.
    fn selects(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let matches = |filter: &String| {
            let filter = filter.to_lowercase();
            if self.harness.exact { name == filter } else { name.contains(&filter) }
        };
        let wanted = self.filters.is_empty() || self.filters.iter().any(matches);
        wanted && !self.harness.skip.iter().any(matches)
    }
}

fn load(mix: Mix, clients: usize, pipeline: usize, value_bytes: usize) -> Load {
    Load { clients, pipeline, value_bytes, mix, reply_within: Duration::from_secs(15) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| "write a number from 0.1 to 3600".to_owned())
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, String> {
        throughput(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
            .map_err(|error| error.to_string())
    }

    fn names(plan: &Plan) -> Vec<String> {
        plan.works.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_options_there_are_six_works_within_a_minute() {
        let plan = plan("throughput").unwrap();
        let expected = [
            "SET, 50 clients",
            "SET, 200 clients",
            "SET, 50 clients x 16 pipelined",
            "GET, 50 clients",
            "GET, 50 clients x 16 pipelined",
            "80 % GET, 20 % SET, 50 clients",
        ];
        assert_eq!(names(&plan), expected);
        assert_eq!((plan.copies, plan.nodes, plan.rounds), (3, 3, 1));
        assert_eq!(plan.io_mode, IoMode::Unbuffered);
        assert!(plan.works.iter().all(|work| work.value_bytes == 100));
        assert!(plan.time * 6 < Duration::from_secs(30));
    }

    #[test]
    fn options_are_taken() {
        let plan = plan(
            "throughput --clients 8 --pipeline 4 --value-size 9 --seconds 0.5 --copies 2 --nodes 5 \
             --io-mode buffered --csv a.csv --peer redis --rounds 7",
        )
        .unwrap();
        let works =
            ["SET", "GET", "80 % GET, 20 % SET"].map(|m| format!("{m}, 8 clients x 4 pipelined"));
        assert_eq!(names(&plan), works);
        assert_eq!(plan.works[0].value_bytes, 9);
        assert_eq!((plan.copies, plan.nodes, plan.rounds), (2, 5, 7));
        assert_eq!((plan.io_mode, plan.peer), (IoMode::Buffered, Some(Peer::Redis)));
        assert_eq!((plan.time, plan.csv), (Duration::from_millis(500), Some("a.csv".into())));
    }

    #[test]
    fn a_packet_size_of_latency_is_taken() {
        let plan = |line: &str| latency(line.split(' ').map(OsString::from)).unwrap();
        let usual = plan("latency");
        assert_eq!(usual.works.len(), 6);
        let one = plan("latency --packet-size 1000");
        assert_eq!(names(&one), ["SET, 1 client", "GET, 1 client"]);
        assert!(one.works.iter().all(|work| work.value_bytes == 1000));
    }

    #[test]
    fn what_the_test_harness_takes_is_taken() {
        let all = plan("throughput --nocapture --test-threads 1 --test-threads=2 -q --color never");
        assert!(all.unwrap_err().contains("--test-threads"), "twice is once too often");
        let all = plan("throughput --no-capture --test-threads=1 -q --color never -Z x --format a");
        assert_eq!(all.unwrap().works.len(), 6);
        assert_eq!(names(&plan("throughput set,").unwrap()).len(), 4);
        assert_eq!(names(&plan("throughput get --skip set").unwrap()).len(), 2);
        assert_eq!(names(&plan("throughput nothing").unwrap()).len(), 0);
        assert!(plan("throughput --list").unwrap().list);
    }

    #[test]
    fn wrong_options_are_explained() {
        let refused = |line: &str| plan(line).unwrap_err();
        assert!(refused("throughput --seconds 0").contains("from 0.1 to 3600"));
        assert!(refused("throughput --clients 0").contains("1..=9000"));
        assert!(refused("throughput --copies 4 --nodes 3").contains("start 4 nodes or more"));
        assert!(refused("throughput --peer etcd --io-mode buffered").contains("unbuffered only"));
        assert!(refused("throughput --peer mongo").contains("redis"));
        assert!(refused("throughput --rounds 2").contains("--peer"));
        assert!(refused("throughput --packet-size 2").contains("--packet-size"));
    }
}
