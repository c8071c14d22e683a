//! A leader and real nodes in one process: what clients see over a socket, when a node goes, when
//! the leader starts again, and at the end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hatokuse::client::{self, Client, Written};
use hatokuse::leader::view::NodeState;
use hatokuse::leader::{self, ClientPort};
use hatokuse::net::patience::Timeouts;
use hatokuse::node;
use hatokuse::protocol::command::Mode;
use hatokuse::protocol::line::Limits;
use hatokuse::storage;
use hatokuse::types::PartitionCount;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(30);

struct Leader {
    handle: leader::Handle,
    addresses: leader::Addresses,
    running: JoinHandle<Result<(), leader::Error>>,
}

struct Node {
    handle: node::Handle,
    running: JoinHandle<Result<(), node::Error>>,
}

fn leader_options(data_dir: PathBuf, nodes: usize, copies: usize) -> leader::Options {
    let any = "127.0.0.1:0".parse().unwrap();
    leader::Options {
        data_dir,
        clients: vec![ClientPort { address: any, mode: Mode::Simple }],
        grpc: any,
        admin: any,
        limits: Limits { max_key_bytes: 1 << 10, max_value_bytes: 1 << 20 },
        max_connections: 100,
        max_pipeline: 1000,
        max_inflight_bytes: 64 << 20,
        timeouts: Timeouts::default(),
        partitions: PartitionCount::new(64).unwrap(),
        copies,
        floor: 2,
        bootstrap_nodes: Some(nodes),
        suspect_after: Duration::from_secs(1),
        evict_after: Duration::from_secs(2),
        heartbeat_interval: Duration::from_millis(100),
        request_timeout: Duration::from_secs(5),
        cache_bytes: 64 << 20,
        shards: 2,
    }
}

impl Leader {
    async fn start(options: leader::Options) -> Self {
        let service = leader::Service::new(options);
        let handle = service.handle();
        let running = tokio::spawn(service.run());
        let addresses = timeout(SOON, handle.addresses()).await.unwrap();
        let addresses = addresses.expect("the leader ended at its start");
        Self { handle, addresses, running }
    }

    fn client(&self) -> Client {
        Client::new(client::Options::new(self.addresses.clients[0].to_string()))
    }

    /// Waits until every partition serves and has all its copies.
    async fn healthy(&self, nodes: usize) {
        let views = self.handle.views();
        eventually("the cluster is whole", || {
            let view = views.current();
            view.is_healthy() && view.nodes_in(NodeState::Live).count() == nodes
        })
        .await;
    }

    async fn stop(self) {
        self.handle.stop();
        timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}

impl Node {
    fn start(data_dir: &Path, leader: &Leader) -> Self {
        let service = node::Service::new(node::Options {
            data_dir: data_dir.to_owned(),
            max_slots: 8,
            storage: storage::Options { segment_bytes: 4 << 20, ..storage::Options::default() },
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            admin_address: None,
            leader_address: leader.addresses.grpc.to_string(),
            heartbeat_interval: Duration::from_millis(100),
            repair_bytes_per_second: None,
            max_value_bytes: 1 << 20,
            reader_threads: 1,
        });
        let handle = service.handle();
        Self { handle, running: tokio::spawn(service.run()) }
    }

    /// Ends without asking anybody.
    async fn stop(self) {
        self.handle.stop();
        timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(SOON, waiting).await.is_ok(), "{what}: not in time");
}

fn nodes(directory: &TempDir, leader: &Leader, count: usize) -> Vec<Node> {
    (0..count).map(|_| Node::start(&directory.path().join("nodes"), leader)).collect()
}

/// Stores under each number's key the key itself.
async fn store(client: &mut Client, numbers: Range<usize>) {
    for number in numbers {
        let key = format!("key-{number}");
        client.set(key.as_bytes(), key.as_bytes()).await.unwrap();
    }
}

async fn check(client: &mut Client, numbers: Range<usize>) {
    for number in numbers {
        let key = format!("key-{number}");
        let value = client.get(key.as_bytes()).await.unwrap();
        assert_eq!(value.as_deref(), Some(key.as_bytes()), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_write_and_read_and_a_new_leader_finds_everything() {
    let directory = TempDir::new().unwrap();
    let options = leader_options(directory.path().join("leader"), 3, 3);
    let leader = Leader::start(options.clone()).await;
    let refused = leader.client().set(b"key", b"value").await.unwrap_err().to_string();
    assert!(refused.contains("0/2"), "{refused}");

    let nodes = nodes(&directory, &leader, 3);
    leader.healthy(3).await;
    let mut client = leader.client();
    assert_eq!(client.set(b"key", b"value").await.unwrap(), Written::Full {});
    assert_eq!(client.get(b"key").await.unwrap().as_deref(), Some(&b"value"[..]));
    assert_eq!(client.update(b"key", b"other").await.unwrap(), Written::Full {});
    assert!(
        client.update(b"absent", b"value").await.unwrap_err().to_string().contains("NOT_FOUND")
    );
    let large = vec![b'x'; 500_000];
    client.set(b"large", &large).await.unwrap();
    client.set(b"gone", b"value").await.unwrap();
    client.delete(b"gone").await.unwrap();
    let lines = client.where_(b"key").await.unwrap().join("\n");
    assert_eq!(lines.matches("in sync").count(), 3, "{lines}");
    assert_eq!(client.nodes().await.unwrap().len(), 3);

    let grpc = leader.addresses.grpc;
    leader.stop().await;
    let leader = Leader::start(leader::Options { grpc, ..options }).await;
    leader.healthy(3).await;
    let mut client = leader.client();
    assert_eq!(client.get(b"key").await.unwrap().as_deref(), Some(&b"other"[..]));
    assert_eq!(client.get(b"large").await.unwrap().as_deref(), Some(large.as_slice()));
    assert_eq!(client.get(b"gone").await.unwrap(), None);
    assert_eq!(client.set(b"key", b"third").await.unwrap(), Written::Full {});
    assert_eq!(leader.handle.views().current().epoch.0, 2);
    leader.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_is_replaced_and_loses_nothing() {
    let directory = TempDir::new().unwrap();
    let options = leader_options(directory.path().join("leader"), 4, 3);
    let leader = Leader::start(options).await;
    let mut nodes = nodes(&directory, &leader, 4);
    leader.healthy(4).await;
    let mut client = leader.client();
    store(&mut client, 0..200).await;
    nodes.pop().unwrap().stop().await;
    store(&mut client, 200..400).await;
    leader.healthy(3).await;
    check(&mut client, 0..400).await;
    leader.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_asks_to_go_is_let_go_once_nobody_needs_it() {
    let directory = TempDir::new().unwrap();
    let options = leader_options(directory.path().join("leader"), 3, 2);
    let leader = Leader::start(options).await;
    let mut nodes = nodes(&directory, &leader, 3);
    leader.healthy(3).await;
    let mut client = leader.client();
    store(&mut client, 0..200).await;
    let Node { handle, running } = nodes.pop().unwrap();
    handle.leave();
    store(&mut client, 200..300).await;
    timeout(SOON, running).await.unwrap().unwrap().unwrap();
    let views = leader.handle.views();
    eventually("the node is away", || {
        let view = views.current();
        assert!(view.is_available(), "no partition may lack a copy: {:?}", view.partitions);
        view.nodes_in(NodeState::Away).count() == 1
    })
    .await;
    store(&mut client, 300..400).await;
    check(&mut client, 0..400).await;
    leader.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_is_filled_again() {
    let directory = TempDir::new().unwrap();
    let options = leader_options(directory.path().join("leader"), 3, 3);
    let leader = Leader::start(options).await;
    let mut all = nodes(&directory, &leader, 3);
    leader.healthy(3).await;
    let mut client = leader.client();
    store(&mut client, 0..100).await;
    all.pop().unwrap().stop().await;
    store(&mut client, 100..300).await;
    all.extend(nodes(&directory, &leader, 1));
    leader.healthy(3).await;
    // Only the one that came back and one other are left to tell.
    all.remove(0).stop().await;
    check(&mut client, 0..300).await;
    leader.stop().await;
    for node in all {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lost_its_metadata_does_not_begin_anew() {
    let directory = TempDir::new().unwrap();
    let options = leader_options(directory.path().join("leader"), 2, 2);
    let leader = Leader::start(options.clone()).await;
    let nodes = nodes(&directory, &leader, 2);
    leader.healthy(2).await;
    let grpc = leader.addresses.grpc;
    leader.stop().await;
    let data_dir = directory.path().join("empty");
    let leader = Leader::start(leader::Options { data_dir, grpc, ..options }).await;
    let admin = leader.addresses.admin.to_string();
    let waiting = async {
        loop {
            let answer = client::http::get(&admin, "/healthz", SOON).await.unwrap();
            if answer.body.contains("rebuild-metadata") {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, waiting).await.expect("it says what is wrong");
    assert!(leader.client().set(b"key", b"value").await.is_err());
    leader.stop().await;
    for node in nodes {
        node.stop().await;
    }
}
