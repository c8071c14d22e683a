//! Processes that are killed, frozen and slowed down under a load of which every answer is judged.
//!
//! `HATOKUSE_KILLS=500 cargo test --test kills kill_minus_nine -- --nocapture` kills more often;
//! `HATOKUSE_SEED` chooses the same victims again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::fs;
use std::time::Duration;

use common::{CheckedLoad, Cluster, Numbers, Options, hold, seed};

/// How many processes are killed, unless `HATOKUSE_KILLS` says another number.
const KILLS: u64 = 30;

#[allow(clippy::disallowed_methods, reason = "a switch of the tests, no configuration")]
fn kills() -> u64 {
    let set = std::env::var("HATOKUSE_KILLS").ok();
    set.map_or(KILLS, |text| text.parse().expect("HATOKUSE_KILLS must be a whole number"))
}

fn pick(numbers: &mut Numbers, limit: usize) -> usize {
    usize::try_from(numbers.below(limit as u64)).unwrap()
}

/// A node, the leader, or one node after another before the first is whole again: whatever comes.
#[test]
fn kill_minus_nine_of_nodes_and_leader_loses_nothing() {
    const NODES: usize = 5;
    let mut numbers = seed();
    let mut cluster = Cluster::start(NODES, 3);
    let mut load = CheckedLoad::start("kills", &cluster, &mut numbers);
    for _ in 0..kills() {
        let pause = Duration::from_millis(numbers.below(1000));
        match pick(&mut numbers, NODES + 2) {
            node if node < NODES => {
                load.fault(format!("kill -9 of node {node}"), || {
                    cluster.kill_node(node);
                    hold(pause);
                    cluster.start_node(node);
                });
            }
            _ => load.fault("kill -9 of the leader", || {
                cluster.kill_leader();
                hold(pause / 4);
                cluster.start_leader();
            }),
        }
        // In every other case the next one is killed while copies are still compared.
        match numbers.below(2) {
            0 => load.await_recovery(&cluster),
            _ => load.await_writes(numbers.below(100)),
        }
    }
    load.finish(&cluster);
}

#[test]
fn a_frozen_node_and_a_frozen_leader_cost_time_and_nothing_else() {
    let mut numbers = seed();
    let cluster = Cluster::start(4, 3);
    let mut load = CheckedLoad::start("frozen", &cluster, &mut numbers);
    for millis in [500, 1500, 15_000] {
        let node = pick(&mut numbers, 4);
        let time = Duration::from_millis(millis);
        load.fault(format!("node {node} frozen for {time:?}"), || {
            cluster.freeze_node(node);
            hold(time);
            cluster.thaw_node(node);
        });
        load.await_recovery(&cluster);
    }
    for millis in [500, 1500, 15_000] {
        let time = Duration::from_millis(millis);
        load.fault(format!("the leader frozen for {time:?}"), || {
            cluster.freeze_leader();
            hold(time);
            cluster.thaw_leader();
        });
        load.await_recovery(&cluster);
    }
    load.finish(&cluster);
}

#[test]
fn all_processes_killed_at_once_again_and_again_lose_nothing() {
    let mut numbers = seed();
    let mut cluster = Cluster::start(4, 3);
    let mut load = CheckedLoad::start("all-killed", &cluster, &mut numbers);
    for round in 0..4 {
        load.fault("kill -9 of everything", || {
            cluster.kill_all();
            cluster.start_all();
        });
        // The next time in the middle of whatever comes first.
        load.await_writes(if round % 2 == 0 { 1 } else { 500 });
    }
    load.finish(&cluster);
}

#[test]
fn a_node_whose_directory_is_wiped_is_filled_anew() {
    let mut numbers = seed();
    let mut cluster = Cluster::start_with(Options::new(4, 3).impatient());
    let mut load = CheckedLoad::start("wiped", &cluster, &mut numbers);
    for node in 0..3 {
        load.fault_with_writes(format!("node {node} killed and its directory wiped"), 500, || {
            cluster.kill_node(node);
            fs::remove_dir_all(cluster.node_data(node)).unwrap();
            cluster.start_node(node);
        });
        // What lies on a wiped disk is a copy less until it is there again; the next one must wait.
        load.await_recovery(&cluster);
    }
    load.finish(&cluster);
}

/// A node that runs for a tenth of the time: slow, but never silent for long.
#[test]
fn a_node_that_is_slowed_down_slows_writes_and_nothing_else() {
    const RUNS: Duration = Duration::from_millis(5);
    const RESTS: Duration = Duration::from_millis(45);
    let mut numbers = seed();
    let cluster = Cluster::start(4, 3);
    let mut load = CheckedLoad::start("slowed", &cluster, &mut numbers);
    let node = pick(&mut numbers, 4);
    load.fault_with_writes(format!("node {node} runs a tenth of the time"), 100, || {
        for _ in 0..200 {
            cluster.freeze_node(node);
            hold(RESTS);
            cluster.thaw_node(node);
            hold(RUNS);
        }
    });
    load.finish(&cluster);
}
