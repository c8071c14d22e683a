//! A leader and nodes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::Process;
use super::proxy::{Proxy, Weather};
use super::{LineClient, eventually};

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) nodes: usize,
    pub(crate) tolerance: usize,
    /// Whether the number of copies is written to `tolerance.conf`, where it can be changed.
    pub(crate) tolerance_file: bool,
    /// Further arguments of the leader.
    pub(crate) leader: Vec<String>,
    /// Further arguments of the nodes.
    pub(crate) node: Vec<String>,
    /// Settings in the environment of all processes.
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    /// Whether what the nodes say and hear goes through proxies.
    pub(crate) proxied: bool,
}

impl Options {
    pub(crate) fn new(nodes: usize, tolerance: usize) -> Self {
        Self {
            nodes,
            tolerance,
            tolerance_file: false,
            leader: Vec::new(),
            node: Vec::new(),
            settings: Vec::new(),
            proxied: false,
        }
    }

    /// A setting for all processes, by the name of its variable.
    pub(crate) fn with(mut self, variable: &'static str, value: &'static str) -> Self {
        self.settings.push((variable, value));
        self
    }

    /// Segments as small as can be, so that a short load fills many.
    pub(crate) fn small_segments(self) -> Self {
        self.with("HATOKUSE_STORAGE__SEGMENT_BYTES", "1MiB")
            .with("HATOKUSE_LIMITS__MAX_VALUE_BYTES", "256KiB")
    }

    /// The network can be made bad.
    pub(crate) fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// The number of copies is in `tolerance.conf`.
    pub(crate) fn changeable(mut self) -> Self {
        self.tolerance_file = true;
        self
    }

    /// Gives up nodes sooner than is usual, for tests of what comes after.
    pub(crate) fn impatient(mut self) -> Self {
        self.leader.extend(["--evict-after".to_owned(), "2s".to_owned()]);
        self
    }
}

/// A running cluster. Its processes end with it.
#[derive(Debug)]
pub(crate) struct Cluster {
    options: Options,
    leader: Option<Process>,
    nodes: Vec<Node>,
    /// Where clients connect; stays the same when the leader is started again.
    pub(crate) client: SocketAddr,
    pub(crate) admin: SocketAddr,
    grpc: SocketAddr,
    directory: TempDir,
}

/// A node, and where it was last.
#[derive(Debug)]
struct Node {
    process: Option<Process>,
    port: u16,
    address: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    network: Option<Network>,
}

/// The network around a node.
#[derive(Debug)]
pub(crate) struct Network {
    /// Where the node reaches the leader.
    leader: Proxy,
    /// Where the leader and other nodes reach the node.
    node: Proxy,
}

impl Network {
    /// How it goes with what the node says, to whomever, and with what it is told.
    pub(crate) fn set(&self, says: Weather, hears: Weather) {
        self.leader.set(says, hears);
        self.node.set(hears, says);
    }

    /// As [`Self::set`], for the node and other nodes only: the leader notices nothing.
    pub(crate) fn set_between_nodes(&self, weather: Weather) {
        self.node.set_for_others(weather, weather);
    }

    pub(crate) fn break_connections(&self) {
        self.leader.break_connections();
        self.node.break_connections();
    }

    /// Nothing connects any more, or it does again.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.leader.refuse(refuse);
        self.node.refuse(refuse);
    }
}

/// What `STATUS` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) live: usize,
    pub(crate) partitions: usize,
    pub(crate) serving: usize,
    pub(crate) under_replicated: usize,
    pub(crate) unavailable: usize,
    /// Copies that are still to be compared.
    pub(crate) in_doubt: usize,
    pub(crate) restored: usize,
    pub(crate) possible_losses: usize,
}

impl Cluster {
    /// A cluster whose every partition serves with all its copies.
    pub(crate) fn start(nodes: usize, tolerance: usize) -> Self {
        Self::start_with(Options::new(nodes, tolerance))
    }

    pub(crate) fn start_with(options: Options) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut cluster = Self {
            leader: None,
            nodes: Vec::new(),
            client: nowhere,
            admin: nowhere,
            grpc: nowhere,
            directory: tempfile::Builder::new().prefix("hatokuse-test-").tempdir().unwrap(),
            options,
        };
        if cluster.options.tolerance_file {
            cluster.write_tolerance(&cluster.options.tolerance.to_string());
        }
        cluster.start_leader();
        for _ in 0..cluster.options.nodes {
            cluster.launch_node();
        }
        (0..cluster.options.nodes).for_each(|node| cluster.await_node(node));
        cluster.await_health();
        cluster
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where a node keeps its data.
    pub(crate) fn node_data(&self, node: usize) -> PathBuf {
        self.directory().join(format!("node-{node}"))
    }

    pub(crate) fn connect(&self) -> LineClient {
        eventually("a connection to the leader", || LineClient::connect(self.client))
    }

    pub(crate) fn node_address(&self, node: usize) -> SocketAddr {
        self.nodes[node].address.unwrap()
    }

    pub(crate) fn node_admin(&self, node: usize) -> SocketAddr {
        self.nodes[node].admin.unwrap()
    }

    pub(crate) fn leader_pid(&self) -> u32 {
        self.leader.as_ref().unwrap().pid()
    }

    /// The process of a node that runs.
    pub(crate) fn node_pid(&self, node: usize) -> u32 {
        self.nodes[node].process.as_ref().unwrap().pid()
    }

    /// Starts the leader, at its old ports if it had any.
    pub(crate) fn start_leader(&mut self) {
        let leader = self.launch_leader();
        let said = leader.announcement("listening");
        self.client = said.get("client");
        self.admin = said.get("admin");
        self.grpc = said.get("grpc");
        for network in self.nodes.iter().filter_map(|node| node.network.as_ref()) {
            network.node.know_leader(leader.pid());
        }
        self.leader = Some(leader);
    }

    /// Starts a leader that finds a reason not to run; the end of its log.
    pub(crate) fn start_leader_in_vain(&mut self) -> String {
        let mut leader = self.launch_leader();
        let status = leader.wait();
        assert!(!status.success(), "the leader ended with {status}");
        leader.log()
    }

    fn launch_leader(&self) -> Process {
        let port = |address: SocketAddr| address.port().to_string();
        let tolerance = self.options.tolerance.to_string();
        let nodes = self.options.nodes.to_string();
        let data = self.directory().join("leader").to_str().unwrap().to_owned();
        let (client, admin, grpc) = (port(self.client), port(self.admin), port(self.grpc));
        let mut arguments = vec!["leader", "--exit-with-parent", "--listen", "127.0.0.1"];
        arguments.extend(["--client-port", &client, "--admin-port", &admin]);
        arguments.extend(["--grpc-port", &grpc, "--data", &data]);
        arguments.extend(["--bootstrap-nodes", &nodes]);
        if !self.options.tolerance_file {
            arguments.extend(["--tolerance", &tolerance]);
        }
        arguments.extend(self.options.leader.iter().map(String::as_str));
        self.launch_process(&arguments, "leader.log")
    }

    fn launch_process(&self, arguments: &[&str], log: &str) -> Process {
        let (directory, settings) = (self.directory(), &self.options.settings);
        Process::start_with(arguments, settings, directory, &directory.join(log))
    }

    /// Writes `tolerance.conf`.
    pub(crate) fn write_tolerance(&self, text: &str) {
        fs::write(self.directory().join("tolerance.conf"), text).unwrap();
    }

    /// Makes the leader read its configuration again.
    pub(crate) fn hang_up(&self) {
        self.leader.as_ref().unwrap().signal(Signal::HUP);
    }

    /// The end of the leader's log.
    pub(crate) fn leader_log(&self) -> String {
        self.leader.as_ref().unwrap().log()
    }

    /// All of a node's log.
    pub(crate) fn node_log(&self, node: usize) -> String {
        fs::read_to_string(self.directory().join(format!("node-{node}.log"))).unwrap()
    }

    /// One more node; its number.
    pub(crate) fn add_node(&mut self) -> usize {
        let node = self.launch_node();
        self.await_node(node);
        node
    }

    /// One more node, not waited for; its number.
    pub(crate) fn launch_node(&mut self) -> usize {
        let network = self.options.proxied.then(|| {
            let network = Network { leader: Proxy::start(), node: Proxy::start() };
            network.leader.lead_to(self.grpc);
            network.node.know_leader(self.leader_pid());
            network
        });
        self.nodes.push(Node { process: None, port: 0, address: None, admin: None, network });
        let node = self.nodes.len() - 1;
        self.launch(node);
        node
    }

    /// The network around a node of a cluster that is [`Options::proxied`].
    pub(crate) fn network(&self, node: usize) -> &Network {
        self.nodes[node].network.as_ref().unwrap()
    }

    fn launch(&mut self, node: usize) {
        let data = self.node_data(node).to_str().unwrap().to_owned();
        let (port, network) = (self.nodes[node].port.to_string(), &self.nodes[node].network);
        let leader = network.as_ref().map_or(self.grpc, |network| network.leader.address);
        let leader = leader.to_string();
        let advertised = network.as_ref().map(|network| network.node.address.to_string());
        let mut arguments = vec!["node", "--exit-with-parent", "--listen", "127.0.0.1"];
        arguments.extend(["--port", &port, "--admin-port", "0"]);
        arguments.extend(["--data", &data, "--leader", &leader]);
        if let Some(advertised) = &advertised {
            arguments.extend(["--advertise", advertised]);
        }
        arguments.extend(self.options.node.iter().map(String::as_str));
        let process = self.launch_process(&arguments, &format!("node-{node}.log"));
        self.nodes[node].process = Some(process);
    }

    /// Waits until a node has registered.
    pub(crate) fn await_node(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let said = node.process.as_ref().unwrap().announcement("registered");
        let address: SocketAddr = said.get("addr");
        node.port = address.port();
        node.address = Some(address);
        node.admin = Some(said.get("admin"));
        if let Some(network) = &node.network {
            network.node.lead_to(address);
        }
    }

    /// Starts a node that was stopped or killed, with its data, and waits until it has registered.
    pub(crate) fn start_node(&mut self, node: usize) {
        self.launch(node);
        self.await_node(node);
    }

    /// Starts a node that was killed, its disk lost, and waits until it has registered.
    pub(crate) fn start_without_data(&mut self, node: usize) {
        fs::remove_dir_all(self.node_data(node)).unwrap();
        self.start_node(node);
    }

    /// Starts a node that may find a reason not to run.
    pub(crate) fn start_in_doubt(&mut self, node: usize) {
        self.launch(node);
    }

    /// Waits until a node has ended by itself; the end of its log.
    pub(crate) fn await_end(&mut self, node: usize) -> String {
        let mut process = self.nodes[node].process.take().unwrap();
        process.wait();
        process.log()
    }

    /// Kills a node, if it has not ended by itself.
    pub(crate) fn kill_if_running(&mut self, node: usize) {
        self.nodes[node].process.take();
    }

    pub(crate) fn kill_node(&mut self, node: usize) {
        self.nodes[node].process.take().unwrap().kill();
    }

    /// Stops a node in good order.
    pub(crate) fn stop_node(&mut self, node: usize) {
        let status = self.nodes[node].process.take().unwrap().stop();
        assert!(status.success(), "node {node} ended with {status}");
    }

    /// A node that neither works nor dies.
    pub(crate) fn freeze_node(&self, node: usize) {
        self.nodes[node].process.as_ref().unwrap().signal(Signal::STOP);
    }

    pub(crate) fn thaw_node(&self, node: usize) {
        self.nodes[node].process.as_ref().unwrap().signal(Signal::CONT);
    }

    /// A leader that neither works nor dies.
    pub(crate) fn freeze_leader(&self) {
        self.leader.as_ref().unwrap().signal(Signal::STOP);
    }

    pub(crate) fn thaw_leader(&self) {
        self.leader.as_ref().unwrap().signal(Signal::CONT);
    }

    pub(crate) fn kill_leader(&mut self) {
        self.leader.take().unwrap().kill();
    }

    /// Stops the leader in good order.
    pub(crate) fn stop_leader(&mut self) {
        let status = self.leader.take().unwrap().stop();
        assert!(status.success(), "the leader ended with {status}");
    }

    /// Kills all processes, none knowing of the others' end.
    pub(crate) fn kill_all(&mut self) {
        let running =
            self.nodes.iter().filter_map(|node| node.process.as_ref()).chain(&self.leader);
        running.for_each(|process| process.signal(Signal::KILL));
        self.leader = None;
        self.nodes.iter_mut().for_each(|node| node.process = None);
    }

    /// Starts all that do not run, and waits until every partition serves with all its copies.
    pub(crate) fn start_all(&mut self) {
        if self.leader.is_none() {
            self.start_leader();
        }
        let away: Vec<_> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].process.is_none()).collect();
        for node in &away {
            self.launch(*node);
        }
        for node in &away {
            self.await_node(*node);
        }
        self.await_health();
    }

    fn running_nodes(&self) -> usize {
        self.nodes.iter().filter(|node| node.process.is_some()).count()
    }

    pub(crate) fn status(&self) -> Option<Status> {
        let mut client = LineClient::connect(self.client).ok()?;
        Status::parse(&client.rows("STATUS"))
    }

    /// Waits until every node that runs is live, and every partition serves with all its copies.
    pub(crate) fn await_health(&self) -> Status {
        let running = self.running_nodes();
        self.await_status("a whole cluster", |status| status.live == running && status.is_whole())
    }

    /// Waits until every partition serves, with whatever copies.
    pub(crate) fn await_service(&self) -> Status {
        self.await_status("a cluster that serves", Status::serves)
    }

    pub(crate) fn await_status(&self, what: &str, good: impl Fn(&Status) -> bool) -> Status {
        eventually(what, || match self.status() {
            Some(status) if good(&status) => Ok(status),
            other => Err(other),
        })
    }

    /// The records of each live node, as `FILES` says.
    pub(crate) fn files(&self) -> Vec<(SocketAddr, u64)> {
        let parse = |row: &String| {
            let (address, records) = row.rsplit_once(": ").unwrap();
            (address.parse().unwrap(), records.parse().unwrap())
        };
        self.connect().rows("FILES").iter().map(parse).collect()
    }

    /// Waits until the nodes' records are as they should be: each node counts them for itself, and
    /// tells the leader with its heartbeats.
    pub(crate) fn await_files(&self, what: &str, good: impl Fn(&[u64]) -> bool) -> Vec<u64> {
        eventually(what, || {
            let files: Vec<_> = self.files().into_iter().map(|(_, records)| records).collect();
            if good(&files) { Ok(files) } else { Err(files) }
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("data and logs are kept in {}", self.directory().display());
            self.directory.disable_cleanup(true);
        }
    }
}

impl Status {
    fn parse(rows: &[String]) -> Option<Self> {
        let row = |name: &str| rows.iter().find_map(|row| row.strip_prefix(name));
        let (nodes, partitions) = (row("Nodes: ")?, row("Partitions: ")?);
        let doubt = row("Doubt: ")?;
        let number = |text: &str, what: &str| -> Option<usize> {
            text.split(", ").find_map(|part| part.strip_suffix(what))?.trim().parse().ok()
        };
        Some(Self {
            live: number(nodes, " live")?,
            partitions: number(partitions, " in all")?,
            serving: number(partitions, " serving")?,
            under_replicated: number(partitions, " under-replicated")?,
            unavailable: number(partitions, " unavailable")?,
            in_doubt: number(doubt, " copies to be compared")?,
            restored: number(doubt, " lost records restored")?,
            possible_losses: number(doubt, " partitions with possible loss")?,
        })
    }

    fn serves(&self) -> bool {
        self.partitions > 0 && self.unavailable == 0 && self.serving == self.partitions
    }

    fn is_whole(&self) -> bool {
        self.serves() && self.under_replicated == 0
    }
}
