//! Real processes on loopback: the scenarios of the systems that this one must be able to replace,
//! and what happens to a cluster whose processes are killed, stopped, frozen and started again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::collections::BTreeMap;

use common::{Cluster, LineClient, Numbers, eventually, timed};
use hatokuse::logic::hash::partition_of;
use hatokuse::types::PartitionCount;

/// Stores `key-N` for every number, each with a value made from it, and checks every reply.
fn store(client: &mut LineClient, numbers: std::ops::Range<usize>, round: &str) {
    let lines: Vec<_> = numbers.map(|n| format!("SET key-{n} {}", value(n, round))).collect();
    for (line, reply) in lines.iter().zip(client.pipeline(&lines)) {
        assert!(reply.starts_with("OK"), "{line}: {reply}");
    }
}

/// Checks that every key has the value of this round.
fn check(client: &mut LineClient, numbers: std::ops::Range<usize>, round: &str) {
    let lines: Vec<_> = numbers.clone().map(|n| format!("GET key-{n}")).collect();
    let replies = client.pipeline(&lines);
    let wrong: Vec<_> = numbers
        .zip(replies)
        .filter(|(n, reply)| *reply != format!("OK {}", value(*n, round)))
        .collect();
    assert!(wrong.is_empty(), "{} keys are wrong, the first: {:?}", wrong.len(), wrong[0]);
}

fn value(number: usize, round: &str) -> String {
    format!("value {number} of round {round}")
}

/// Whether each is within so many percent of an equal share, or at the next whole number.
fn even(counts: &[u64], percent: u64) -> bool {
    let (sum, shares) = (counts.iter().sum::<u64>(), counts.len() as u64);
    let slack = sum * percent + shares * 100;
    counts.iter().all(|count| (count * shares).abs_diff(sum) * 100 <= slack)
}

/// How many partitions have a copy on each node, asked of the cluster.
fn copies(client: &mut LineClient) -> BTreeMap<String, u64> {
    let mut keys: BTreeMap<_, String> = BTreeMap::new();
    for number in 0.. {
        let key = format!("probe-{number}");
        keys.entry(partition_of(key.as_bytes(), PartitionCount::DEFAULT)).or_insert(key);
        if keys.len() == 1024 {
            break;
        }
    }
    let mut copies = BTreeMap::new();
    for key in keys.values() {
        for row in client.rows(&format!("WHERE {key}")) {
            if let Some((_, address)) =
                row.strip_prefix("Copy: ").and_then(|r| r.split_once(" -> "))
            {
                let address = address.split(' ').next().unwrap().to_owned();
                *copies.entry(address).or_default() += 1;
            }
        }
    }
    copies
}

fn assert_even_copies(client: &mut LineClient, nodes: usize) {
    let copies = copies(client);
    let counts: Vec<_> = copies.values().copied().collect();
    assert_eq!(counts.len(), nodes, "{copies:?}");
    assert!(even(&counts, 5), "partition copies differ by more than 5 %: {copies:?}");
}

#[test]
fn two_copies_on_four_nodes_share_1000_keys_and_outlive_one_node() {
    let mut cluster = Cluster::start(4, 2);
    let mut client = cluster.connect();
    assert_even_copies(&mut client, 4);
    store(&mut client, 0..1000, "1");
    cluster.await_files("500 records on each node", |files| {
        files.len() == 4 && files.iter().sum::<u64>() == 2000 && even(files, 15)
    });
    cluster.kill_node(0);
    check(&mut client, 0..1000, "1");
}

#[test]
fn three_copies_on_six_nodes_share_9000_keys_and_outlive_two_nodes() {
    let mut cluster = Cluster::start(6, 3);
    let mut client = cluster.connect();
    assert_even_copies(&mut client, 6);
    timed("9000 SETs", || store(&mut client, 0..9000, "1"));
    cluster.await_files("4500 records on each node", |files| {
        files.len() == 6 && files.iter().sum::<u64>() == 27_000 && even(files, 8)
    });
    cluster.kill_node(1);
    cluster.kill_node(4);
    timed("9000 GETs with two nodes dead", || check(&mut client, 0..9000, "1"));
}

#[test]
fn a_node_that_joins_while_the_cluster_runs_takes_its_share() {
    let mut cluster = Cluster::start(3, 2);
    let mut client = cluster.connect();
    store(&mut client, 0..500, "1");
    let fourth = cluster.add_node();
    let address = cluster.node_address(fourth);
    store(&mut client, 500..1000, "1");
    eventually("records on the new node", || {
        let files = cluster.files();
        let used = files.iter().any(|(at, records)| *at == address && *records > 0);
        if used { Ok(()) } else { Err(files) }
    });
    cluster.await_files("shares that are even again", |files| {
        files.len() == 4 && files.iter().sum::<u64>() == 2000 && even(files, 15)
    });
    cluster.await_health();
    assert_even_copies(&mut client, 4);
    check(&mut client, 0..1000, "1");
}

#[test]
fn five_copies_on_six_nodes_share_equally() {
    let cluster = Cluster::start(6, 5);
    let mut client = cluster.connect();
    assert_even_copies(&mut client, 6);
    store(&mut client, 0..1000, "1");
    cluster.await_files("833 records on each node", |files| {
        files.len() == 6 && files.iter().sum::<u64>() == 5000 && even(files, 8)
    });
}

#[test]
fn a_node_that_was_down_has_the_newest_values_when_it_is_back() {
    let mut cluster = Cluster::start(3, 3);
    let mut client = cluster.connect();
    store(&mut client, 0..300, "1");
    cluster.stop_node(1);
    store(&mut client, 0..200, "2");
    for number in 200..250 {
        assert_eq!(client.ask(&format!("DEL key-{number}")), "OK");
        let reply = client.ask(&format!("UPD key-{number} x"));
        assert!(reply.starts_with("ERROR NOT_FOUND"), "{reply}");
    }
    cluster.start_node(1);
    cluster.await_health();
    cluster.await_files("equal counts on all nodes", |files| files == [250, 250, 250]);
    // Now only the node that was down can answer.
    cluster.kill_node(0);
    cluster.kill_node(2);
    check(&mut client, 0..200, "2");
    check(&mut client, 250..300, "1");
    for number in 200..250 {
        let reply = client.ask(&format!("GET key-{number}"));
        assert!(reply.starts_with("ERROR NOT_FOUND"), "{reply}");
    }
}

#[test]
fn a_leader_killed_and_started_again_has_all_keys() {
    let mut cluster = Cluster::start(5, 3);
    store(&mut cluster.connect(), 0..3000, "1");
    cluster.kill_leader();
    timed("leader back to serving", || {
        cluster.start_leader();
        cluster.await_service();
    });
    let mut client = cluster.connect();
    check(&mut client, 0..3000, "1");
    store(&mut client, 0..3000, "2");
    check(&mut client, 0..3000, "2");
}

#[test]
fn all_processes_killed_at_once_and_started_again_have_all_acknowledged_keys() {
    let mut cluster = Cluster::start(5, 3);
    let mut client = cluster.connect();
    store(&mut client, 0..1000, "1");
    // In the middle of a stream of writes: what was acknowledged must be there, the rest may.
    let lines: Vec<_> = (0..20_000).map(|n| format!("SET key-{n} {}\n", value(n, "2"))).collect();
    let mut sending = cluster.connect();
    let sender = std::thread::spawn(move || {
        let _ = sending.send(lines.concat().as_bytes());
        let acknowledged = |reply: &String| reply.starts_with("OK");
        std::iter::from_fn(|| sending.line().ok()).take_while(acknowledged).count()
    });
    eventually("writes of the second round", || {
        let reply = client.ask("GET key-500");
        if reply == format!("OK {}", value(500, "2")) { Ok(()) } else { Err(reply) }
    });
    cluster.kill_all();
    let acknowledged = sender.join().unwrap();
    println!("{acknowledged} writes were acknowledged before the end");
    timed("all processes back to serving", || cluster.start_all());
    let mut client = cluster.connect();
    check(&mut client, 0..acknowledged, "2");
    // What was not acknowledged is old, new, or never was; never something else.
    for number in acknowledged..1000 {
        let reply = client.ask(&format!("GET key-{number}"));
        let possible = [value(number, "1"), value(number, "2")].map(|value| format!("OK {value}"));
        assert!(possible.contains(&reply), "key-{number}: {reply}");
    }
}

#[test]
fn the_transcript_of_the_readme_is_true() {
    let cluster = Cluster::start(5, 4);
    let script = "SET k hello world\r\nGET k\r\nGET nope\r\nFILES\r\nQUIT\r\n";
    let mut client = cluster.connect();
    client.send(script.as_bytes()).unwrap();
    check_transcript(&client.rest());
    match nc(&cluster, script) {
        Some(shown) => check_transcript(&shown),
        None => println!("skipped with nc: it is not installed"),
    }
}

fn check_transcript(shown: &str) {
    let lines: Vec<_> = shown.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 10, "{shown}");
    assert_eq!(lines[..2], ["OK", "OK hello world"]);
    assert!(lines[2].starts_with("ERROR NOT_FOUND "), "{shown}");
    for row in &lines[3..8] {
        let (address, records) = row.rsplit_once(": ").unwrap();
        assert!(address.starts_with("127.0.0.1:") && records.parse::<u64>().is_ok(), "{row}");
    }
    assert_eq!(lines[8..], ["OK", "OK"]);
}

/// What `nc` shows, if there is one.
fn nc(cluster: &Cluster, script: &str) -> Option<String> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut command = Command::new("nc");
    command.args(["127.0.0.1", &cluster.client.port().to_string()]);
    let mut nc = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    nc.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let shown = nc.wait_with_output().unwrap().stdout;
    Some(String::from_utf8(shown).unwrap())
}

#[test]
fn the_course_client_counts_no_error_while_a_node_dies_and_returns() {
    const REQUESTS: u32 = 4000;
    let mut cluster = Cluster::start(5, 3);
    let mut client = cluster.connect();
    let mut numbers = Numbers(3);
    let mut stored: Vec<(String, String)> = Vec::new();
    let mut sets = 0;
    for request in 0..REQUESTS {
        if request == REQUESTS / 4 {
            cluster.kill_node(2);
        }
        if request == REQUESTS / 2 {
            cluster.start_node(2);
        }
        let reads = !stored.is_empty() && numbers.below(5) == 0;
        if reads {
            let (key, value) =
                &stored[usize::try_from(numbers.below(stored.len() as u64)).unwrap()];
            assert_eq!(client.ask(&format!("GET {key}")), format!("OK {value}"));
            continue;
        }
        sets += 1;
        let length = if sets % 200 == 0 { 1_000_000 } else { 5 + numbers.below(1996) };
        let (key, value) = (numbers.uuid(), numbers.text(usize::try_from(length).unwrap()));
        let reply = client.ask(&format!("SET {key} {value}"));
        assert!(reply.starts_with("OK"), "SET {sets} of {length} bytes: {reply}");
        stored.push((key, value));
    }
    cluster.await_health();
    for (key, value) in &stored {
        assert_eq!(client.ask(&format!("GET {key}")), format!("OK {value}"));
    }
}
