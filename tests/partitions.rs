//! Networks between real processes that are silent, one-way, late, slow or broken, under a load of
//! which every answer is judged. `HATOKUSE_SEED` chooses the same again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::fs;
use std::ops::Range;
use std::time::Duration;

use common::Weather::{Drip, Fair, Late, Silent};
use common::{CheckedLoad, Cluster, Numbers, Options, Weather, hold, seed};

const NODES: usize = 4;

fn pick(numbers: &mut Numbers, limit: usize) -> usize {
    usize::try_from(numbers.below(limit as u64)).unwrap()
}

fn set(cluster: &Cluster, nodes: Range<usize>, says: Weather, hears: Weather) {
    nodes.for_each(|node| cluster.network(node).set(says, hears));
}

/// Long enough for it to be noticed that somebody is away, short enough for nobody to be given up.
const CUT: Duration = Duration::from_secs(4);

#[test]
fn a_node_that_is_cut_off_is_done_without_and_comes_back() {
    let mut numbers = seed();
    let cluster = Cluster::start_with(Options::new(NODES, 3).proxied());
    let mut load = CheckedLoad::start("cut-off", &cluster, &mut numbers);
    let cuts = [
        ("says and hears nothing", Silent, Silent),
        ("is not heard", Silent, Fair),
        ("hears nothing", Fair, Silent),
    ];
    for (what, says, hears) in cuts {
        let node = pick(&mut numbers, NODES);
        load.fault_with_writes(format!("node {node} {what}"), 200, || {
            cluster.network(node).set(says, hears);
            hold(CUT);
        });
        cluster.network(node).set(Fair, Fair);
        load.await_recovery(&cluster);
    }
    let node = pick(&mut numbers, NODES);
    load.fault_with_writes(format!("node {node} is refused by all and refuses all"), 200, || {
        cluster.network(node).refuse(true);
        hold(CUT);
    });
    cluster.network(node).refuse(false);
    load.finish(&cluster);
}

/// Nodes that reach the leader and not each other: clients notice nothing, copies wait.
#[test]
fn nodes_that_are_cut_off_from_each_other_copy_when_they_meet_again() {
    let mut numbers = seed();
    let mut cluster = Cluster::start_with(Options::new(NODES, 3).proxied().impatient());
    let mut load = CheckedLoad::start("apart", &cluster, &mut numbers);
    let apart = |cluster: &Cluster, weather| {
        (0..NODES).for_each(|node| cluster.network(node).set_between_nodes(weather));
    };
    load.fault_with_writes(
        "nodes are cut off from each other, and one loses its disk",
        200,
        || {
            apart(&cluster, Silent);
            cluster.kill_node(2);
            fs::remove_dir_all(cluster.node_data(2)).unwrap();
            cluster.start_node(2);
            hold(CUT);
            let status = cluster.status().unwrap();
            assert!(status.live == NODES && status.under_replicated > 0, "{status:?}");
            apart(&cluster, Fair);
        },
    );
    load.finish(&cluster);
}

/// Away for so long that others have its copies when it is heard again, with what it had to say.
#[test]
fn a_node_that_was_given_up_behind_a_cut_has_nothing_to_say_any_more() {
    let mut numbers = seed();
    let cluster = Cluster::start_with(Options::new(NODES, 3).proxied().impatient());
    let mut load = CheckedLoad::start("given-up", &cluster, &mut numbers);
    for (what, says, hears) in [("says nothing", Silent, Fair), ("hears nothing", Fair, Silent)] {
        let node = pick(&mut numbers, NODES);
        load.fault_with_writes(format!("node {node} {what} until it is replaced"), 200, || {
            cluster.network(node).set(says, hears);
            cluster.await_status("full copies without the node", |status| {
                status.live == NODES - 1 && status.under_replicated == 0
            });
        });
        cluster.network(node).set(Fair, Fair);
        load.await_recovery(&cluster);
    }
    load.finish(&cluster);
}

/// The leader alone in its half, or with too few nodes for any write to count.
#[test]
fn a_leader_that_is_cut_off_from_nodes_acknowledges_nothing_that_they_lack() {
    let mut numbers = seed();
    let cluster = Cluster::start_with(Options::new(NODES, 3).proxied());
    let mut load = CheckedLoad::start("leader-cut-off", &cluster, &mut numbers);
    let halves = [
        ("all nodes, both ways", 0..NODES, Silent, Silent),
        ("all nodes, which do not hear it", 0..NODES, Fair, Silent),
        ("all nodes, which it does not hear", 0..NODES, Silent, Fair),
        ("half of the nodes", 0..NODES / 2, Silent, Silent),
        ("the other half", NODES / 2..NODES, Silent, Silent),
    ];
    for (what, nodes, says, hears) in halves {
        load.fault(format!("the leader is cut off from {what}"), || {
            set(&cluster, nodes.clone(), says, hears);
            hold(CUT);
            set(&cluster, nodes, Fair, Fair);
        });
        load.await_recovery(&cluster);
    }
    load.finish(&cluster);
}

#[test]
fn late_and_slow_networks_cost_time_and_nothing_else() {
    let mut numbers = seed();
    let cluster = Cluster::start_with(Options::new(NODES, 3).proxied());
    let mut load = CheckedLoad::start("late-and-slow", &cluster, &mut numbers);
    let late = |millis| Late(Duration::from_millis(millis));
    let kinds = [
        ("20 ms away", late(20), late(20)),
        ("half a second late to be heard", late(500), Fair),
        ("half a second late to hear", Fair, late(500)),
        ("heard 4 bytes at a time", Drip(4), Fair),
        ("told 4 bytes at a time", Fair, Drip(4)),
    ];
    for (what, says, hears) in kinds {
        let node = pick(&mut numbers, NODES);
        load.fault_with_writes(format!("node {node} is {what}"), 50, || {
            cluster.network(node).set(says, hears);
            hold(CUT);
        });
        cluster.network(node).set(Fair, Fair);
        load.await_recovery(&cluster);
    }
    load.fault_with_writes("all nodes are 20 ms away", 50, || {
        set(&cluster, 0..NODES, late(20), late(20));
        hold(CUT);
    });
    set(&cluster, 0..NODES, Fair, Fair);
    load.finish(&cluster);
}

/// Faults that come before the last one is over.
#[test]
fn a_network_that_breaks_all_the_time_loses_nothing() {
    let mut numbers = seed();
    let cluster = Cluster::start_with(Options::new(NODES, 3).proxied());
    let mut load = CheckedLoad::start("breaking", &cluster, &mut numbers);
    load.fault("connections break, directions fall silent", || {
        for _ in 0..120 {
            let network = cluster.network(pick(&mut numbers, NODES));
            match numbers.below(6) {
                0 => network.break_connections(),
                1 => network.set(Silent, Fair),
                2 => network.set(Fair, Silent),
                3 => network.set(Late(Duration::from_millis(numbers.below(300))), Fair),
                _ => network.set(Fair, Fair),
            }
            hold(Duration::from_millis(numbers.below(200)));
        }
    });
    set(&cluster, 0..NODES, Fair, Fair);
    load.finish(&cluster);
}
