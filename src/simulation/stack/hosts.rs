//! The hosts of the simulated network: a leader and nodes, as they run in production.

use std::cell::RefCell;
use std::fmt::Display;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::leader::{self, ClientPort};
use crate::net::patience::Timeouts;
use crate::node;
use crate::protocol::command::Mode;
use crate::protocol::line::Limits;
use crate::storage::{self, Reserve};
use crate::types::PartitionCount;

/// Where the leader listens for clients.
pub(super) const CLIENT_PORT: u16 = 6000;
/// Where the leader listens for nodes.
pub(super) const LEADER_PORT: u16 = 50051;
/// Where nodes listen.
pub(super) const NODE_PORT: u16 = 50052;
/// Where the leader listens for operators.
pub(super) const ADMIN_PORT: u16 = 8080;
/// The host of the leader.
pub(super) const LEADER: &str = "leader";
/// How long a request may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Copies each value should have.
pub(super) const COPIES: usize = 3;
pub(super) const PARTITIONS: u16 = 8;
const MAX_VALUE_BYTES: usize = 1 << 20;

/// One process, as the world outside sees it: `handle` is the way to it while it runs.
#[derive(Debug)]
pub(super) struct Process<H> {
    handle: Option<H>,
    ended: Option<Result<(), String>>,
}

/// A process that is started anew whenever its host is.
#[derive(Debug)]
pub(super) struct Shown<H>(Rc<RefCell<Process<H>>>);

impl<H> Clone for Shown<H> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<H: Clone> Shown<H> {
    pub(super) fn new() -> Self {
        Self(Rc::new(RefCell::new(Process { handle: None, ended: None })))
    }

    /// The way to it; nothing when it does not run.
    pub(super) fn handle(&self) -> Option<H> {
        self.0.borrow().handle.clone()
    }

    /// How it ended, if it did so by itself.
    pub(super) fn ended(&self) -> Option<Result<(), String>> {
        self.0.borrow().ended.clone()
    }

    /// It was killed.
    pub(super) fn forget(&self) {
        *self.0.borrow_mut() = Process { handle: None, ended: None };
    }

    /// Runs it to its end. Then its host waits to be crashed, which closes its sockets, as the end of
    /// a process does.
    async fn run<E: Display>(
        self,
        handle: H,
        running: impl Future<Output = Result<(), E>>,
    ) -> turmoil::Result {
        *self.0.borrow_mut() = Process { handle: Some(handle), ended: None };
        let ended = running.await.map_err(|error| error.to_string());
        *self.0.borrow_mut() = Process { handle: None, ended: Some(ended) };
        pending().await
    }
}

pub(super) type Leader = Shown<leader::Handle>;
pub(super) type Node = Shown<node::Handle>;

/// The name of a node's host.
pub(super) fn node_name(node: usize) -> String {
    format!("node-{node}")
}

/// How the leader of a run is set.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) directory: PathBuf,
    pub(super) shards: usize,
    pub(super) evict_after: Duration,
}

pub(super) fn leader_options(setting: &Setting) -> leader::Options {
    leader::Options {
        data_dir: setting.directory.join(LEADER),
        clients: vec![ClientPort { address: anywhere(CLIENT_PORT), mode: Mode::Simple }],
        grpc: anywhere(LEADER_PORT),
        admin: anywhere(ADMIN_PORT),
        limits: Limits { max_key_bytes: 512, max_value_bytes: MAX_VALUE_BYTES },
        max_connections: 64,
        max_pipeline: 64,
        max_inflight_bytes: 64 << 20,
        timeouts: Timeouts::default(),
        partitions: PartitionCount::new(PARTITIONS).expect("a power of two"),
        copies: COPIES,
        floor: 2,
        bootstrap_nodes: None,
        suspect_after: Duration::from_secs(1),
        evict_after: setting.evict_after,
        heartbeat_interval: Duration::from_millis(250),
        request_timeout: REQUEST_TIMEOUT,
        shards: setting.shards,
        cache_bytes: 1 << 20,
    }
}

pub(super) fn node_options(directory: &Path, name: &str) -> node::Options {
    node::Options {
        data_dir: directory.join(name),
        max_slots: 1,
        storage: storage::Options {
            segment_bytes: 1 << 20,
            reserve: Reserve::Bytes(8 << 20),
            ..storage::Options::default()
        },
        listen: anywhere(NODE_PORT),
        advertise: Some(name.to_owned()),
        admin_address: None,
        leader_address: format!("{LEADER}:{LEADER_PORT}"),
        heartbeat_interval: Duration::from_millis(250),
        max_value_bytes: MAX_VALUE_BYTES,
        reader_threads: 1,
        repair_bytes_per_second: None,
    }
}

fn anywhere(port: u16) -> std::net::SocketAddr {
    ([0, 0, 0, 0], port).into()
}

/// Adds the host of the leader.
pub(super) fn add_leader(sim: &mut turmoil::Sim<'_>, setting: &Setting) -> Leader {
    let shown = Leader::new();
    let (setting, started) = (setting.clone(), shown.clone());
    sim.host(LEADER, move || {
        let service = leader::Service::new(leader_options(&setting));
        let shown = started.clone();
        async move { shown.run(service.handle(), service.run()).await }
    });
    shown
}

/// Adds the host of a node.
pub(super) fn add_node(sim: &mut turmoil::Sim<'_>, directory: &Path, node: usize) -> Node {
    let shown = Node::new();
    let (directory, started) = (directory.to_owned(), shown.clone());
    sim.host(node_name(node), move || {
        let service = node::Service::new(node_options(&directory, &node_name(node)));
        let shown = started.clone();
        async move { shown.run(service.handle(), service.run()).await }
    });
    shown
}
