//! What the configuration says, validated: every value is possible, alone and with the others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use super::document::{self, Assignment, Node};
use super::error::{ConfigError, Origin};
use super::tolerance::{self, DEFAULT_TOLERANCE};
use super::{Sources, keys, value};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many copies each value gets, 1 to 7.
    pub tolerance: usize,
    /// The leader.
    pub leader: LeaderSettings,
    /// A node.
    pub node: NodeSettings,
    /// The stores of nodes.
    pub storage: StorageSettings,
    /// What clients may ask for.
    pub limits: Limits,
    /// How clients prove who they are; must be said before a leader listens beyond its machine.
    pub client_authentication: Option<ClientAuthentication>,
    /// Logs.
    pub telemetry: TelemetrySettings,
}

/// The leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderSettings {
    /// The address that clients and nodes connect to.
    pub listen: IpAddr,
    /// The ports for clients, at least one.
    pub listeners: Vec<Listener>,
    /// The port for nodes.
    pub grpc_port: u16,
    /// The address of the admin port.
    pub admin_listen: IpAddr,
    /// The port for operators, metrics and health.
    pub admin_port: u16,
    /// Where the metadata is kept.
    pub data_dir: PathBuf,
    /// The floor: writes need this many live copies.
    pub min_replicas: usize,
    /// A new cluster is made once this many nodes have registered, at least `min_replicas`; if it
    /// is not said, once there are `min_replicas` and no further one comes.
    pub bootstrap_nodes: Option<usize>,
    /// After this long without a sign of life a node is no longer waited for.
    pub suspect_after: Duration,
    /// After this long without a sign of life its copies are made anew elsewhere.
    pub evict_after: Duration,
    /// After this long a request is answered, whatever its state.
    pub request_timeout: Duration,
    /// Bytes of values that the leader remembers; 0 is none.
    pub cache_bytes: u64,
    /// Worker threads, and shards; one for each two processors, four at most, if it is not said.
    pub threads: Option<usize>,
}

/// A port for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The port; 0 picks a free one.
    pub port: u16,
    /// The form of its replies.
    pub mode: ReplyMode,
}

/// The form of replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// One line that begins with `OK` or `ERROR`.
    #[default]
    Simple,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// The address that the leader and other nodes connect to.
    pub listen: IpAddr,
    /// Its port.
    pub port: u16,
    /// The address of the admin port.
    pub admin_listen: IpAddr,
    /// The port for health and metrics.
    pub admin_port: u16,
    /// The host under which others reach this node; the address the leader sees if it is not said.
    pub advertise: Option<String>,
    /// The volume, which holds one slot for each store.
    pub data_dir: PathBuf,
    /// Where the leader is, `host:port`.
    pub leader_addr: String,
    /// How often the node shows that it is alive.
    pub heartbeat_interval: Duration,
    /// Worker threads besides those that wait for the disk; one if it is not said.
    pub threads: Option<usize>,
}

/// When a write counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoMode {
    /// Once it is on disk: survives a crash of the machine.
    #[default]
    Unbuffered,
    /// Once the operating system has it: survives a crash of the process.
    Buffered,
}

/// How much of a disk is never filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reserve {
    /// The larger of 5 % of the disk and 64 MiB.
    #[default]
    Auto,
    /// This many bytes.
    Bytes(u64),
}

impl Reserve {
    /// No writes are taken below this many free bytes of a disk of that size.
    pub fn of(self, total_bytes: u64) -> u64 {
        match self {
            Self::Auto => (total_bytes / 20).max(64 << 20),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// The stores of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageSettings {
    /// When a write counts as written.
    pub io_mode: IoMode,
    /// The size of a segment of the log.
    pub segment_bytes: u64,
    /// How much of a disk is never filled.
    pub reserve: Reserve,
    /// How fast a node makes copies and gives them, each at most; nothing is no limit.
    pub repair_bytes_per_second: Option<NonZeroU64>,
    /// How many stores may share one volume.
    pub max_slots: usize,
}

/// What clients may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest key.
    pub max_key_bytes: u64,
    /// The largest value.
    pub max_value_bytes: u64,
    /// Connections of clients at a time.
    pub max_connections: usize,
    /// Requests of one connection that are not answered yet.
    pub max_pipeline: usize,
    /// Bytes of requests that are not answered yet, of all connections.
    pub max_inflight_bytes: u64,
    /// From the first byte of a request to its end.
    pub read_timeout: Duration,
    /// For reading anything at all of the replies that wait.
    pub write_timeout: Duration,
}

/// How clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// Not at all: whoever reaches the port may read and write.
    None,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// What is logged, like `info` or `hatokuse=debug,warn`.
    pub log: String,
    /// How it looks.
    pub log_format: LogFormat,
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DEFAULT_CLIENT_PORT: u16 = 6000;

impl Default for Settings {
    fn default() -> Self {
        Self {
            tolerance: DEFAULT_TOLERANCE,
            leader: LeaderSettings::default(),
            node: NodeSettings::default(),
            storage: StorageSettings::default(),
            limits: Limits::default(),
            client_authentication: None,
            telemetry: TelemetrySettings { log: "info".into(), log_format: LogFormat::Text },
        }
    }
}

impl Default for LeaderSettings {
    fn default() -> Self {
        Self {
            listen: LOOPBACK,
            listeners: vec![Listener { port: DEFAULT_CLIENT_PORT, mode: ReplyMode::Simple }],
            grpc_port: 50051,
            admin_listen: LOOPBACK,
            admin_port: 8080,
            data_dir: "hatokuse-data/leader".into(),
            min_replicas: default_floor(DEFAULT_TOLERANCE),
            bootstrap_nodes: None,
            suspect_after: Duration::from_secs(1),
            evict_after: Duration::from_secs(10),
            request_timeout: Duration::from_secs(5),
            cache_bytes: 64 << 20,
            threads: None,
        }
    }
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            listen: LOOPBACK,
            port: 50052,
            admin_listen: LOOPBACK,
            admin_port: 8081,
            advertise: None,
            data_dir: "hatokuse-data".into(),
            leader_addr: "leader:50051".into(),
            heartbeat_interval: Duration::from_millis(250),
            threads: None,
        }
    }
}

impl Default for StorageSettings {
    fn default() -> Self {
        Self {
            io_mode: IoMode::Unbuffered,
            segment_bytes: 64 << 20,
            reserve: Reserve::Auto,
            repair_bytes_per_second: NonZeroU64::new(64 << 20),
            max_slots: 64,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_key_bytes: 1 << 10,
            max_value_bytes: 8 << 20,
            max_connections: 10_000,
            max_pipeline: 10_000,
            max_inflight_bytes: 256 << 20,
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_mins(1),
        }
    }
}

/// With two copies or one, a floor of two would stop all writes at the first failure.
fn default_floor(tolerance: usize) -> usize {
    if tolerance <= 2 { 1 } else { 2 }
}

impl Settings {
    /// Merges the sources and checks what they say.
    ///
    /// # Errors
    /// The first thing that is wrong, with where it was written and what is allowed.
    pub fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        let mut draft = Draft::default();
        if let Some(file) = &sources.tolerance {
            let (number, origin) = tolerance::located(file)?;
            draft.settings.tolerance = number;
            draft.origins.insert(keys::TOLERANCE, origin);
        }
        for assignment in assignments(sources)? {
            draft.assign(assignment)?;
        }
        draft.finish()
    }

    /// What somebody who starts this configuration should be told.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let open = |address: &IpAddr| !address.is_loopback();
        if open(&self.leader.listen) {
            let address = self.leader.listen;
            warnings.push(format!(
                "the leader listens on {address} and clients need no password: \
                 whoever reaches it may read, write and delete everything"
            ));
        }
        if self.storage.io_mode == IoMode::Buffered {
            warnings.push(
                "storage.io_mode is buffered: a power cut may lose writes that were acknowledged"
                    .into(),
            );
        }
        warnings
    }
}

/// The assignments of all sources, weakest first.
fn assignments(sources: &Sources) -> Result<Vec<Assignment>, ConfigError> {
    let mut all = match &sources.config {
        Some(file) => document::assignments(file)?,
        None => Vec::new(),
    };
    all.extend(sources.environment.iter().map(|variable| Assignment {
        path: path_of_variable(&variable.name),
        node: Node::Text(variable.value.clone()),
        origin: Origin::Variable(variable.name.clone()),
    }));
    all.extend(sources.overrides.iter().map(|given| Assignment {
        path: given.path.clone(),
        node: Node::Text(given.value.clone()),
        origin: Origin::Flag(given.flag.clone()),
    }));
    Ok(all)
}

/// The prefix of variables that give settings.
pub(super) const VARIABLE_PREFIX: &str = "HATOKUSE_";

/// `HATOKUSE_LEADER__CLIENT_PORT` is `leader.client_port`, with `_FILE` after it as without.
pub(super) fn path_of_variable(name: &str) -> String {
    let path = name.strip_prefix(VARIABLE_PREFIX).unwrap_or(name).to_lowercase().replace("__", ".");
    match path.strip_suffix("_file") {
        Some(key) => key.to_owned(),
        None => path,
    }
}

/// Settings in the making: what depends on other settings is not decided yet.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) settings: Settings,
    pub(super) client_port: Option<u16>,
    pub(super) listeners: Option<Vec<Listener>>,
    pub(super) min_replicas: Option<usize>,
    origins: BTreeMap<&'static str, Origin>,
}

impl Draft {
    fn assign(&mut self, assignment: Assignment) -> Result<(), ConfigError> {
        let set = keys::set(self, &assignment.path, &assignment.node);
        let path = set.map_err(|problem| ConfigError::new(&assignment.origin, problem))?;
        self.origins.insert(path, assignment.origin);
        Ok(())
    }

    fn finish(mut self) -> Result<Settings, ConfigError> {
        self.choose_floor()?;
        self.choose_listeners()?;
        self.check_times()?;
        self.check_sizes()?;
        self.check_exposure()?;
        Ok(self.settings)
    }

    /// An error about the first of these keys that somebody wrote.
    fn conflict<T>(&self, paths: &[&str], problem: impl Into<String>) -> Result<T, ConfigError> {
        let written = paths.iter().find_map(|path| self.origins.get(path));
        Err(ConfigError::new(written.unwrap_or(&Origin::Default), problem))
    }

    fn choose_floor(&mut self) -> Result<(), ConfigError> {
        let tolerance = self.settings.tolerance;
        let floor = self.min_replicas.unwrap_or_else(|| default_floor(tolerance));
        if floor > tolerance {
            let problem = format!(
                "leader.min_replicas: {floor} is more than the {tolerance} copies that tolerance asks for; \
                 write a number from 1 to {tolerance}, or auto"
            );
            return self.conflict(&["leader.min_replicas", keys::TOLERANCE], problem);
        }
        if let Some(nodes) = self.settings.leader.bootstrap_nodes.filter(|nodes| *nodes < floor) {
            let problem = format!(
                "leader.bootstrap_nodes: {nodes} nodes cannot hold the {floor} copies that \
                 leader.min_replicas asks for; write {floor} or more, or auto"
            );
            return self.conflict(&["leader.bootstrap_nodes", "leader.min_replicas"], problem);
        }
        self.settings.leader.min_replicas = floor;
        Ok(())
    }

    fn choose_listeners(&mut self) -> Result<(), ConfigError> {
        self.settings.leader.listeners = match (self.listeners.take(), self.client_port) {
            (None, port) => {
                let port = port.unwrap_or(DEFAULT_CLIENT_PORT);
                vec![Listener { port, mode: ReplyMode::Simple }]
            }
            (Some(listeners), None) => listeners,
            (Some(listeners), Some(port)) if listeners.iter().any(|one| one.port == port) => {
                listeners
            }
            (Some(_), Some(port)) => {
                let problem = format!(
                    "leader.client_port: {port} is not among leader.listeners; add it there, or \
                     leave one of the two keys out"
                );
                return self.conflict(&["leader.client_port"], problem);
            }
        };
        Ok(())
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let leader = &self.settings.leader;
        let heartbeat = self.settings.node.heartbeat_interval;
        let show = humantime::format_duration;
        if leader.evict_after <= leader.suspect_after {
            let problem = format!(
                "leader.evict_after: {} is not longer than leader.suspect_after, {}",
                show(leader.evict_after),
                show(leader.suspect_after)
            );
            return self.conflict(&["leader.evict_after", "leader.suspect_after"], problem);
        }
        if leader.suspect_after < heartbeat * 2 {
            let problem = format!(
                "leader.suspect_after: {} is less than two of node.heartbeat_interval, {}: \
                 one late heartbeat would cost a node its place",
                show(leader.suspect_after),
                show(heartbeat)
            );
            return self.conflict(&["leader.suspect_after", "node.heartbeat_interval"], problem);
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let limits = &self.settings.limits;
        let show = value::show_size;
        let (largest, segment) = (limits.max_value_bytes, self.settings.storage.segment_bytes);
        if segment < largest * 2 {
            let problem = format!(
                "storage.segment_bytes: {} is less than two of limits.max_value_bytes, {}",
                show(segment),
                show(largest)
            );
            return self.conflict(&["storage.segment_bytes", "limits.max_value_bytes"], problem);
        }
        if limits.max_inflight_bytes < largest * 2 {
            let problem = format!(
                "limits.max_inflight_bytes: {} is less than two of limits.max_value_bytes, {}",
                show(limits.max_inflight_bytes),
                show(largest)
            );
            return self
                .conflict(&["limits.max_inflight_bytes", "limits.max_value_bytes"], problem);
        }
        Ok(())
    }

    /// A leader that listens beyond its machine, open to everybody, must be meant so.
    fn check_exposure(&self) -> Result<(), ConfigError> {
        let leader = &self.settings.leader;
        let open = [("leader.listen", leader.listen), ("leader.admin_listen", leader.admin_listen)]
            .into_iter()
            .find(|(_, address)| !address.is_loopback());
        match (open, self.settings.client_authentication) {
            (Some((path, address)), None) => {
                let problem = format!(
                    "{path}: {address} is open to other machines, and whoever reaches it may read \
                     and write; if that is meant, write security.client_auth: none"
                );
                self.conflict(&[path], problem)
            }
            _ => Ok(()),
        }
    }
}
