//! `hatokuse dev`: its lines, its children, what remains of it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use common::{LineClient, Process, eventually, send};
use rustix::process::{Pid, Signal, test_kill_process};

/// A `dev` that is ready.
struct Dev {
    process: Process,
    leader: u32,
    nodes: Vec<u32>,
    stores: Vec<String>,
    client: SocketAddr,
}

const FREE_PORTS: [&str; 6] = ["--client-port", "0", "--admin-port", "0", "--grpc-port", "0"];

fn start(directory: &Path, nodes: usize, arguments: &[&str]) -> Dev {
    let count = nodes.to_string();
    let all =
        [&["dev", "--nodes", &count, "--tolerance", "2"], &FREE_PORTS[..], arguments].concat();
    let process = Process::start(&all, directory, &directory.join("dev.log"));
    let leader = process.announcement("leader");
    let said: Vec<_> = (0..nodes).map(|_| process.announcement("node")).collect();
    let ready = process.announcement("ready");
    assert_eq!(ready.get::<usize>("nodes"), nodes);
    let client: SocketAddr = ready.get("client");
    assert_eq!(client, leader.get("client"));
    assert_eq!(ready.get::<SocketAddr>("admin"), leader.get("admin"));
    Dev {
        client,
        leader: leader.get("pid"),
        nodes: said.iter().map(|node| node.get("pid")).collect(),
        stores: said.iter().map(|node| node.get("id")).collect(),
        process,
    }
}

impl Dev {
    fn connect(&self) -> LineClient {
        LineClient::connect(self.client).unwrap()
    }

    fn children(&self) -> Vec<u32> {
        self.nodes.iter().copied().chain([self.leader]).collect()
    }
}

fn await_end(processes: &[u32]) {
    eventually("the end of the children", || {
        let alive: Vec<_> = processes.iter().copied().filter(|pid| is_alive(*pid)).collect();
        if alive.is_empty() { Ok(()) } else { Err(alive) }
    });
}

fn is_alive(pid: u32) -> bool {
    test_kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()).is_ok()
}

#[test]
fn a_cluster_comes_up_and_goes_in_good_order_and_its_data_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let dev = start(directory.path(), 3, &["--data", "kept here"]);
    assert_eq!(dev.connect().ask("SET k v"), "OK");
    assert_eq!(dev.connect().rows("NODES").len(), 3);
    assert!(directory.path().join("kept here/leader").is_dir());
    assert!(directory.path().join("kept here/slots/0003").is_dir());
    let log = fs::read_to_string(directory.path().join("kept here/log/leader.log")).unwrap();
    assert!(!log.is_empty());
    let (children, mut stores) = (dev.children(), dev.stores.clone());
    assert!(dev.process.stop().success());
    await_end(&children);

    let mut again = start(directory.path(), 3, &["--data", "kept here"]);
    assert_eq!(again.connect().ask("GET k"), "OK v");
    stores.sort();
    again.stores.sort();
    assert_eq!(again.stores, stores);
    assert!(again.process.stop().success());
}

#[test]
fn children_end_with_dev_however_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let dev = start(directory.path(), 2, &[]);
    let children = dev.children();
    dev.process.kill();
    await_end(&children);
}

#[test]
fn nothing_remains_of_an_ephemeral_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let temporary = directory.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let arguments = [&["dev", "--ephemeral", "--nodes", "2", "--tolerance", "2"], &FREE_PORTS[..]];
    let variable = [("TMPDIR", temporary.to_str().unwrap())];
    let log = directory.path().join("dev.log");
    let process = Process::start_with(&arguments.concat(), &variable, directory.path(), &log);
    let leader = process.announcement("leader");
    assert!(leader.get::<String>("data").starts_with(temporary.to_str().unwrap()));
    process.announcement("ready");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 1);
    assert!(process.stop().success());
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    let left: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_child_that_ends_is_reported_and_stays_away() {
    let directory = tempfile::tempdir().unwrap();
    let dev = start(directory.path(), 3, &[]);
    send(dev.nodes[1], Signal::KILL);
    let exited = dev.process.announcement("exited node");
    assert_eq!(exited.get::<u32>("pid"), dev.nodes[1]);
    assert_eq!(exited.get::<i32>("signal"), 9);
    send(dev.leader, Signal::KILL);
    assert_eq!(dev.process.announcement("exited leader").get::<i32>("signal"), 9);
    assert!(dev.process.stop().success());
}

#[test]
fn a_child_that_ends_is_started_again_with_its_data_and_ports() {
    let directory = tempfile::tempdir().unwrap();
    let dev = start(directory.path(), 3, &["--restart", "0.1"]);
    assert_eq!(dev.connect().ask("SET k v"), "OK");
    send(dev.nodes[0], Signal::KILL);
    dev.process.announcement("exited node");
    let node = dev.process.announcement("node");
    assert_ne!(node.get::<u32>("pid"), dev.nodes[0]);
    assert_eq!(node.get::<String>("id"), dev.stores[0]);
    send(dev.leader, Signal::KILL);
    dev.process.announcement("exited leader");
    let leader = dev.process.announcement("leader");
    assert_eq!(leader.get::<SocketAddr>("client"), dev.client);
    eventually("the value, from the leader started again", || {
        let reply = dev.connect().ask("GET k");
        if reply == "OK v" { Ok(()) } else { Err(reply) }
    });
    assert!(dev.process.stop().success());
}

#[test]
fn a_leader_that_cannot_start_ends_dev_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let arguments = ["dev", "--client-port", &port, "--admin-port", "0", "--grpc-port", "0"];
    let log = directory.path().join("dev.log");
    let mut process = Process::start(&arguments, directory.path(), &log);
    process.announcement("exited leader");
    assert_eq!(process.wait().code(), Some(1));
    assert!(process.log().contains(&port), "{}", process.log());
}
