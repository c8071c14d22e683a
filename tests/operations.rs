//! What operators do to a running cluster of real processes: drain and decommission nodes, change the
//! number of copies; and what it costs when a node returns.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use common::{Cluster, LineClient, Load, Options, eventually, timed};
use serde_json::Value;

/// Runs an operator's command: its exit code, what it printed, and what it said to people.
fn operate(cluster: &Cluster, arguments: &[&str]) -> (i32, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hatokuse"));
    let admin = cluster.admin.to_string();
    command.args(arguments).args(["--admin-addr", &admin, "-o", "json", "--timeout", "30s"]);
    let output = command.output().unwrap();
    let printed = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), printed, said)
}

/// As [`operate`], for a command that must succeed.
fn done(cluster: &Cluster, arguments: &[&str]) -> Value {
    let (code, printed, said) = operate(cluster, arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}");
    printed
}

/// The identity of a node.
fn id(cluster: &Cluster, node: usize) -> String {
    let address = cluster.node_address(node).to_string();
    let nodes = done(cluster, &["nodes"]);
    let node = nodes.as_array().unwrap().iter().find(|node| node["address"] == address.as_str());
    node.unwrap()["id"].as_str().unwrap().to_owned()
}

/// How a node is, as operators see it; nothing if it is no member.
fn node(cluster: &Cluster, id: &str) -> Option<Value> {
    let nodes = done(cluster, &["nodes"]);
    nodes.as_array().unwrap().iter().find(|node| node["id"] == id).cloned()
}

#[test]
fn a_drained_node_gives_everything_away_stays_out_and_can_be_forgotten() {
    let mut cluster = Cluster::start(4, 3);
    let load = Load::start(&cluster);
    load.await_writes(500);
    let leaving = id(&cluster, 3);

    let (code, _, said) = operate(&cluster, &["node", "decommission", &leaving]);
    assert!(code == 1 && said.contains("is in use") && said.contains("node drain"), "{said}");
    let drained = timed("a drain", || done(&cluster, &["node", "drain", &leaving, "--wait"]));
    assert_eq!(drained["drain"]["state"], "drained", "{drained}");
    assert_eq!(drained["partitions"], 0, "{drained}");
    // Three nodes hold three copies: nobody else can be spared.
    let (code, _, said) = operate(&cluster, &["node", "drain", &id(&cluster, 0)]);
    assert!(code == 1 && said.contains("2 nodes would stay"), "{said}");
    cluster.await_health();

    // Neither a restart of the leader nor one of the node brings it back.
    cluster.kill_leader();
    cluster.start_leader();
    cluster.await_health();
    cluster.stop_node(3);
    cluster.start_node(3);
    cluster.await_health();
    let seen = node(&cluster, &leaving).unwrap();
    assert_eq!((&seen["drain"]["state"], &seen["state"]), (&"drained".into(), &"live".into()));
    assert_eq!(seen["partitions"], 0, "{seen}");

    // Put back, it gets its share; drained again, it can be forgotten.
    done(&cluster, &["node", "undrain", &leaving]);
    eventually("a share for the node that was put back", || {
        let seen = node(&cluster, &leaving).unwrap();
        if seen["partitions"].as_u64() > Some(700) { Ok(()) } else { Err(seen) }
    });
    done(&cluster, &["node", "drain", &leaving, "--wait"]);
    cluster.stop_node(3);
    done(&cluster, &["node", "decommission", &leaving]);
    assert_eq!(node(&cluster, &leaving), None);
    load.finish();

    // Its store is not taken any more, and its slot is left alone from then on.
    cluster.start_in_doubt(3);
    let log = cluster.await_end(3);
    assert!(log.contains("was decommissioned"), "{log}");
    assert!(cluster.node_data(3).join("slots/0001/retired").exists());
    cluster.start_node(3);
    cluster.await_health();
    assert!(node(&cluster, &leaving).is_none());
    assert!(cluster.node_data(3).join("slots/0002/identity").exists());
}

/// Changes `tolerance.conf`, tells the leader, and waits until every partition has as many copies.
fn change_copies(cluster: &Cluster, text: &str, copies: usize) {
    cluster.write_tolerance(text);
    cluster.hang_up();
    let wanted = format!("Copies: {copies} wanted, ");
    eventually("the new number of copies", || {
        let status = cluster.connect().rows("STATUS");
        if status.iter().any(|row| row.starts_with(&wanted)) { Ok(()) } else { Err(status) }
    });
    cluster.await_health();
}

#[test]
fn the_number_of_copies_follows_tolerance_conf_up_and_down() {
    let cluster = Cluster::start_with(Options::new(5, 2).changeable());
    let load = Load::start(&cluster);
    load.await_writes(500);
    assert!(
        cluster.connect().rows("STATUS").contains(&"Copies: 2 wanted, 1 needed to write".into())
    );
    timed("2 to 4 copies", || change_copies(&cluster, "tolerance=4  # for a while\n", 4));
    assert!(
        cluster.connect().rows("STATUS").contains(&"Copies: 4 wanted, 2 needed to write".into())
    );
    let all = |copies: u64| move |files: &[u64]| files.iter().sum::<u64>() == 500 * copies;
    cluster.await_files("500 keys on four nodes each", all(4));
    assert_eq!(cluster.connect().ask("SET load-0-4 x"), "OK", "four copies, not degraded");
    assert_eq!(cluster.connect().ask("DEL load-0-4"), "OK");
    load.await_writes(500);

    // What is wrong changes nothing, and is told with file and line.
    for (wrong, said) in
        [("nine\n", "tolerance.conf:1: 'nine' is not a tolerance"), ("", "there is no number")]
    {
        cluster.write_tolerance(wrong);
        cluster.hang_up();
        eventually("a refusal in the log", || {
            let log = cluster.leader_log();
            let told = log.contains("nothing changes") && log.contains(said);
            if told { Ok(()) } else { Err(log) }
        });
    }
    std::fs::remove_file(cluster.directory().join("tolerance.conf")).unwrap();
    cluster.hang_up();
    eventually("a refusal in the log", || {
        let log = cluster.leader_log();
        if log.contains("cannot read it") { Ok(()) } else { Err(log) }
    });
    assert!(
        cluster.connect().rows("STATUS").contains(&"Copies: 4 wanted, 2 needed to write".into())
    );

    timed("4 to 2 copies", || change_copies(&cluster, "2", 2));
    cluster.await_files("500 keys on two nodes each", all(2));
    load.await_writes(500);
    load.finish();
}

/// A number of the metrics at an admin port.
fn metric(admin: SocketAddr, name: &str) -> u64 {
    let mut admin = LineClient::connect(admin).unwrap();
    admin.send(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let metrics = admin.rest();
    let value = metrics.lines().find_map(|line| line.strip_prefix(&format!("hatokuse_{name} ")));
    value.unwrap_or_else(|| panic!("no {name} in:\n{metrics}")).parse().unwrap()
}

/// Bytes that came to this node for copies since it started, once there is nothing to copy.
fn copied_bytes(cluster: &Cluster, node: usize) -> u64 {
    cluster.await_health();
    eventually("the end of all copying", || match metric(cluster.admin, "repair_queue_length") {
        0 => Ok(()),
        queued => Err(queued),
    });
    metric(cluster.node_admin(node), "repair_bytes_total")
}

#[test]
fn a_node_that_returns_soon_costs_what_it_missed_and_no_more() {
    const KEYS: u64 = 4000;
    const MISSED: u64 = 100;
    const BYTES: u64 = 1000;
    let mut cluster = Cluster::start(3, 3);
    let mut client = cluster.connect();
    let set = |key: u64, letter: &str| {
        format!("SET key-{key} {}", letter.repeat(usize::try_from(BYTES).unwrap()))
    };
    let store = |client: &mut LineClient, keys: u64, letter: &str| {
        let lines: Vec<_> = (0..keys).map(|key| set(key, letter)).collect();
        let replies = client.pipeline(&lines);
        assert!(replies.iter().all(|reply| reply.starts_with("OK")), "{replies:?}");
    };
    store(&mut client, KEYS, "a");
    assert_eq!(copied_bytes(&cluster, 2), 0, "a new cluster has nothing to copy");

    cluster.kill_node(2);
    store(&mut client, MISSED, "b");
    cluster.start_node(2);
    let delta = copied_bytes(&cluster, 2);
    println!("{delta} bytes were copied for {MISSED} of {KEYS} values that were missed");
    assert!(delta >= MISSED * BYTES, "{delta} bytes cannot be all that was missed");
    assert!(delta < KEYS * BYTES / 10, "{delta} bytes are no delta");
    eventually("the leader's word for it", || {
        let told = metric(cluster.admin, "repair_bytes_total");
        if told >= delta { Ok(()) } else { Err(told) }
    });
    // What it says now is what it missed, and what it had before.
    cluster.kill_node(0);
    cluster.kill_node(1);
    for (key, letter) in [(0, "b"), (MISSED - 1, "b"), (MISSED, "a"), (KEYS - 1, "a")] {
        let expected = format!("OK {}", letter.repeat(usize::try_from(BYTES).unwrap()));
        eventually("an answer of the node that returned", || {
            let reply = client.ask(&format!("GET key-{key}"));
            if reply == expected { Ok(()) } else { Err(reply[..20].to_owned()) }
        });
    }
    cluster.start_node(0);
    cluster.start_node(1);

    // A node that lost its disk costs everything: what was measured is what is measured.
    cluster.await_health();
    cluster.kill_node(2);
    cluster.start_without_data(2);
    eventually("a full copy", || {
        let full = copied_bytes(&cluster, 2);
        if full >= KEYS * BYTES { Ok(()) } else { Err(full) }
    });
}

/// Deleted keys that these nodes still remember.
fn tombstones(cluster: &Cluster, nodes: &[usize]) -> u64 {
    nodes.iter().map(|node| metric(cluster.node_admin(*node), "tombstones")).sum()
}

fn await_forgotten(cluster: &Cluster, nodes: &[usize]) {
    timed("forgetting deleted keys", || {
        eventually("every deleted key to be forgotten", || match tombstones(cluster, nodes) {
            0 => Ok(()),
            left => Err(left),
        });
    });
}

#[test]
fn deleted_keys_are_forgotten_and_stay_deleted_when_a_node_returns() {
    const KEYS: usize = 3000;
    const KEPT: usize = 100;
    let mut cluster = Cluster::start(3, 3);
    let mut client = cluster.connect();
    let mut all = |line: &dyn Fn(usize) -> String, keys: std::ops::Range<usize>| {
        let replies = client.pipeline(&keys.map(line).collect::<Vec<_>>());
        assert!(replies.iter().all(|reply| reply.starts_with("OK")), "{replies:?}");
    };
    all(&|key| format!("SET key-{key} {}", "x".repeat(200)), 0..KEYS);
    cluster.kill_node(2);
    all(&|key| format!("DEL key-{key}"), KEPT..KEYS);
    assert!(tombstones(&cluster, &[0, 1]) > 0, "they are remembered for a while");
    // Another leader has to find out what there is to be forgotten.
    cluster.kill_leader();
    cluster.start_leader();
    await_forgotten(&cluster, &[0, 1]);
    for node in [0, 1] {
        assert_eq!(metric(cluster.node_admin(node), "records"), KEPT as u64);
    }

    cluster.start_node(2);
    let copied = copied_bytes(&cluster, 2);
    println!("{copied} bytes were copied to a node that had missed {} deletes", KEYS - KEPT);
    await_forgotten(&cluster, &[0, 1, 2]);
    assert_eq!(metric(cluster.node_admin(2), "records"), KEPT as u64);
    cluster.kill_node(0);
    cluster.kill_node(1);
    let mut client = cluster.connect();
    for (key, expected) in [(KEPT, "ERROR NOT_FOUND"), (KEYS - 1, "ERROR NOT_FOUND"), (0, "OK x")] {
        eventually("an answer of the node that returned", || {
            let reply = client.ask(&format!("GET key-{key}"));
            if reply.starts_with(expected) { Ok(()) } else { Err(reply) }
        });
    }
}

#[test]
fn slots_are_listed_with_whoever_has_them() {
    let mut cluster = Cluster::start(2, 2);
    let list = |data: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hatokuse"));
        let output = command.args(["slots", "ls", "-o", "json", "--data"]).arg(data).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
        listed["slots"].as_array().unwrap().clone()
    };
    let data = cluster.node_data(0);
    let running = list(&data);
    assert_eq!(running.len(), 1);
    assert_eq!(running[0]["state"], "running");
    assert_eq!(running[0]["store"], id(&cluster, 0));
    assert!(running[0]["bytes"].as_u64().unwrap() > 0, "{running:?}");
    cluster.kill_node(0);
    let asleep = list(&data);
    assert_eq!(asleep[0]["state"], "asleep", "its lock is gone with its process");
    assert_eq!(asleep[0]["cluster"], running[0]["cluster"]);
    assert!(list(cluster.directory()).is_empty(), "there are no slots elsewhere");
}
