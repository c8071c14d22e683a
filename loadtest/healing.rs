//! How soon failures are noticed and healed, and what clients feel of it, in real processes on this
//! machine. `-- --help` lists the options, `loadtest/README.md` says how to read the figures.
//!
//! Clients write and read all the while, and what they were told is judged at the end: a figure of a
//! cluster that loses something is none. Times are reported beside their goals, never asserted.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a test that prints a table, and fails if it cannot go on"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use common::{Cluster, LineClient, eventually, hold};
use hatokuse::chaos::{Load, Options, Recorded};
use hatokuse::client::http;
use hatokuse::logic::history::Outcome;
use hatokuse::runtime::clock;
use hatokuse::types::Moment;
use serde_json::Value;
use tokio::runtime::Runtime;

const GIB: f64 = (1u64 << 30) as f64;
const VALUE_BYTES: usize = 64 << 10;
/// Values that a filling client sends at once.
const BATCH: usize = 16;
const FILLING_CLIENTS: usize = 4;
/// How long a load is looked at before anything is done to the cluster.
const QUIET: Duration = Duration::from_secs(5);
/// How long it is looked at after a node was killed.
const AFTER_KILL: Duration = Duration::from_secs(4);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Operations of which all times are kept.
const HELD_OPERATIONS: usize = 20_000_000;

/// How soon failures are noticed and healed, measured beside the goals.
#[derive(Parser)]
#[command(
    name = "healing",
    after_help = "\
Examples:
  cargo test --release --test healing                      1 GiB to be restored: some minutes, 6 GiB of disk
  cargo test --release --test healing -- --gib 0.05        in a minute, with figures that say less"
)]
struct Plan {
    /// GiB of copies on the node that is lost
    #[arg(long, default_value_t = 1.0)]
    gib: f64,
}

/// One line of what comes out.
struct Figure {
    what: &'static str,
    measured: String,
    goal: &'static str,
}

fn main() -> ExitCode {
    let plan = Plan::parse();
    if cfg!(debug_assertions) {
        println!("Built for tests: figures that are told to others are measured with --release");
    }
    let mut figures = Vec::new();
    let passed = a_node_of_five(&plan, &mut figures) & a_ninth_node(&plan, &mut figures);
    let width = figures.iter().map(|figure| figure.what.len()).max().unwrap_or(0);
    println!();
    for Figure { what, measured, goal } in &figures {
        println!("{what:width$}  {measured:>22}  goal {goal}");
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// A cluster with data in it, under load.
struct Subject {
    cluster: Cluster,
    runtime: Runtime,
    load: Load,
    /// Bytes of all copies of what was stored in the beginning.
    held: usize,
}

impl Subject {
    /// Every node gets this many bytes of copies.
    fn start(nodes: usize, copies: usize, bytes_per_node: f64) -> Self {
        let cluster = Cluster::start(nodes, copies);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let values = (bytes_per_node * nodes as f64 / copies as f64) as usize / VALUE_BYTES;
        common::timed(&format!("{values} values of 64 KiB stored on {nodes} nodes"), || {
            fill(&cluster, values);
        });
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let mut options = Options::new(cluster.client.to_string());
        options.held_operations = HELD_OPERATIONS;
        let load = runtime.block_on(async { Load::start(options).unwrap() });
        hold(QUIET);
        Self { cluster, runtime, load, held: values * VALUE_BYTES * copies }
    }

    fn get(&self, path: &str) -> Value {
        eventually("an answer of the leader", || {
            let admin = self.cluster.admin.to_string();
            let answer = self.runtime.block_on(http::get(&admin, path, ANSWER_WITHIN));
            let answer = answer.map_err(|error| error.to_string())?;
            serde_json::from_str(&answer.body).map_err(|error| error.to_string())
        })
    }

    fn id(&self, node: usize) -> String {
        let address = self.cluster.node_address(node).to_string();
        let nodes = self.get("/api/v1/nodes");
        let node = nodes.as_array().unwrap().iter().find(|node| node["address"] == *address);
        node.unwrap()["id"].as_str().unwrap().to_owned()
    }

    fn await_state(&self, id: &str, state: &str) -> Moment {
        eventually(&format!("node {id} {state}"), || {
            let node = self.get(&format!("/api/v1/nodes/{id}"));
            if node["state"] == *state { Ok(clock::now()) } else { Err(node) }
        })
    }

    fn copied_bytes(&self) -> u64 {
        self.get("/api/v1/cluster")["repair"]["copied_bytes"].as_u64().unwrap()
    }

    /// Waits until copies are being made, or were.
    fn await_copies(&self, before: u64) -> Moment {
        eventually("copies to be made", || {
            let repair = self.get("/api/v1/cluster")["repair"].take();
            let begun = repair["running"] != 0 || repair["copied_bytes"].as_u64() > Some(before);
            if begun { Ok(clock::now()) } else { Err(repair) }
        })
    }

    /// Waits, however long, until nothing is left to be copied.
    fn await_rest(&self) -> Moment {
        loop {
            let cluster = self.get("/api/v1/cluster");
            if cluster["healthy"] == true && cluster["repair"]["queued"] == 0 {
                return clock::now();
            }
            hold(Duration::from_millis(50));
        }
    }

    /// Ends the load: what clients saw, and whether all of it was right.
    fn finish(self) -> (Recorded, bool) {
        let recorded = self.runtime.block_on(self.load.stop());
        let verdict = recorded.judge();
        println!("{verdict}");
        let passed = verdict.passed();
        (recorded, passed)
    }
}

/// Stores values of 64 KiB.
fn fill(cluster: &Cluster, values: usize) {
    let address = cluster.client;
    let filling: Vec<_> = (0..FILLING_CLIENTS)
        .map(|number| {
            thread::spawn(move || {
                let mut client = LineClient::connect(address).unwrap();
                let mine: Vec<_> = (number..values).step_by(FILLING_CLIENTS).collect();
                for batch in mine.chunks(BATCH) {
                    let lines: Vec<_> = batch.iter().map(|key| line(*key)).collect();
                    for reply in client.pipeline(&lines) {
                        assert!(reply.starts_with("OK"), "{reply}");
                    }
                }
            })
        })
        .collect();
    filling.into_iter().for_each(|client| client.join().unwrap());
}

/// The request that stores the value of a number.
fn line(number: usize) -> String {
    let filling = "x".repeat(VALUE_BYTES - 12);
    format!("SET filling-{number} {number:012}{filling}")
}

/// Within which time 99 of 100 writes were answered, of those that began between two moments.
fn p99(recorded: &Recorded, from: Moment, to: Moment) -> Duration {
    let writes = recorded.history.iter().filter(|it| {
        from <= it.invoked && it.invoked < to && matches!(it.outcome, Outcome::Stored { .. })
    });
    let mut times: Vec<_> = writes.filter_map(|it| Some(it.returned?.since(it.invoked))).collect();
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

/// The longest time without a write of anybody. Less than 100 ms is not measured.
fn stall(recorded: &Recorded, from: Moment, to: Moment) -> String {
    let stalls = recorded.stalls.gaps.iter().map(|gap| gap.within(from, to));
    let longest = stalls.max().unwrap_or_default();
    if longest < Duration::from_millis(100) { "below 0.1 s".to_owned() } else { seconds(longest) }
}

/// A node is frozen until its copies are made anew, another killed, then the leader.
fn a_node_of_five(plan: &Plan, figures: &mut Vec<Figure>) -> bool {
    let began = clock::now();
    let mut subject = Subject::start(5, 3, plan.gib * GIB);
    let quiet = clock::now();
    let (id, before) = (subject.id(0), subject.copied_bytes());

    let frozen = clock::now();
    subject.cluster.freeze_node(0);
    let suspect = subject.await_state(&id, "suspect");
    let evicted = subject.await_state(&id, "away");
    let begun = subject.await_copies(before);
    let healed = subject.await_rest();
    let copied = subject.copied_bytes() - before;
    subject.cluster.thaw_node(0);
    subject.cluster.await_health();

    let killed = clock::now();
    subject.cluster.kill_node(1);
    hold(AFTER_KILL);
    let over = clock::now();
    subject.cluster.start_node(1);
    subject.cluster.await_health();

    let leaderless = clock::now();
    subject.cluster.kill_leader();
    let started = clock::now();
    subject.cluster.start_leader();
    subject.cluster.await_service();
    let serving = clock::now();
    subject.cluster.await_health();
    hold(QUIET);
    let end = clock::now();

    let (recorded, passed) = subject.finish();
    let mut say = |what, measured, goal| figures.push(Figure { what, measured, goal });
    say("a frozen node: suspect after", seconds(suspect.since(frozen)), "1 s");
    say("  longest time without a write", stall(&recorded, frozen, evicted), "1.5 s");
    say("  evicted after", seconds(evicted.since(frozen)), "10 s");
    say("  after that, copies begin to be made in", seconds(begun.since(evicted)), "1 s");
    let (time, gib) = (healed.since(begun).as_secs_f64(), copied as f64 / GIB);
    say("  and are made", format!("{gib:.2} GiB in {time:.1} s"), "1 GiB in 60 s");
    let (calm, busy) = (p99(&recorded, began, quiet), p99(&recorded, begun, healed));
    say("  p99 of writes before", milliseconds(calm), "-");
    say("  p99 of writes meanwhile", times(busy, calm), "2 x");
    say("a killed node: longest time without a write", stall(&recorded, killed, over), "1.5 s");
    let restart = "a killed leader: 1024 partitions served after";
    say(restart, seconds(serving.since(started)), "3 s");
    say("  longest time without a write", stall(&recorded, leaderless, end), "-");
    passed
}

/// A node joins eight others.
fn a_ninth_node(plan: &Plan, figures: &mut Vec<Figure>) -> bool {
    let (nodes, copies) = (8, 3);
    let began = clock::now();
    let mut subject = Subject::start(nodes, copies, plan.gib * GIB / 4.0);
    let quiet = clock::now();
    let (before, held) = (subject.copied_bytes(), subject.held);

    let joined = clock::now();
    subject.cluster.add_node();
    subject.await_copies(before);
    let settled = subject.await_rest();
    let copied = subject.copied_bytes() - before;
    hold(QUIET);

    let (recorded, passed) = subject.finish();
    let mut say = |what, measured, goal| figures.push(Figure { what, measured, goal });
    let ideal = held as f64 / (nodes + 1) as f64;
    let share = format!("{:.2} x the ideal share", copied as f64 / ideal);
    say("8 to 9 nodes: moved", share, "1.15 x");
    let (time, mib) = (settled.since(joined).as_secs_f64(), copied as f64 / GIB * 1024.0);
    say("  ", format!("{mib:.0} MiB in {time:.1} s"), "-");
    let (calm, busy) = (p99(&recorded, began, quiet), p99(&recorded, joined, settled));
    say("  p99 of writes before", milliseconds(calm), "-");
    say("  p99 of writes meanwhile", times(busy, calm), "2 x");
    passed
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn times(time: Duration, calm: Duration) -> String {
    let ratio = time.as_secs_f64() / calm.as_secs_f64().max(f64::MIN_POSITIVE);
    format!("{} = {ratio:.1} x", milliseconds(time))
}
