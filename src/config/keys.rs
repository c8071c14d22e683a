//! The table of all keys: what each is called, how its value is read, and where it goes.

use std::time::Duration;

use super::document::Node;
use super::settings::Draft;
use super::{suggestion, value};

/// The sections of `config.yaml`.
pub(super) const SECTIONS: [&str; 6] =
    ["leader", "node", "storage", "limits", "security", "telemetry"];

type Set = fn(&mut Draft, &Node) -> Result<(), String>;

/// A key of the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) path: &'static str,
    set: Set,
}

impl Key {
    const fn new(path: &'static str, set: Set) -> Self {
        Self { path, set }
    }
}

/// The one key outside the sections: environment and flags may give it, files have
/// `tolerance.conf`.
pub(super) const TOLERANCE: &str = "tolerance";

const KEYS: &[Key] = &[
    Key::new("leader.listen", |d, v| put(&mut d.settings.leader.listen, value::address(v))),
    Key::new("leader.client_port", |d, v| put(&mut d.client_port, value::port(v).map(Some))),
    Key::new("leader.listeners", |d, v| put(&mut d.listeners, value::listeners(v).map(Some))),
    Key::new("leader.grpc_port", |d, v| put(&mut d.settings.leader.grpc_port, value::port(v))),
    Key::new("leader.admin_listen", |d, v| {
        put(&mut d.settings.leader.admin_listen, value::address(v))
    }),
    Key::new("leader.admin_port", |d, v| put(&mut d.settings.leader.admin_port, value::port(v))),
    Key::new("leader.data_dir", |d, v| put(&mut d.settings.leader.data_dir, value::path(v))),
    Key::new("leader.min_replicas", |d, v| {
        put(&mut d.min_replicas, value::auto_or_count(v, 1..=7))
    }),
    Key::new("leader.bootstrap_nodes", |d, v| {
        put(&mut d.settings.leader.bootstrap_nodes, value::auto_or_count(v, 1..=1000))
    }),
    Key::new("leader.suspect_after", |d, v| {
        put(&mut d.settings.leader.suspect_after, value::duration(v, millis(100)..=secs(60)))
    }),
    Key::new("leader.evict_after", |d, v| {
        put(&mut d.settings.leader.evict_after, value::duration(v, millis(200)..=secs(86_400)))
    }),
    Key::new("leader.request_timeout", |d, v| {
        put(&mut d.settings.leader.request_timeout, value::duration(v, millis(100)..=secs(600)))
    }),
    Key::new("leader.cache_bytes", |d, v| {
        put(&mut d.settings.leader.cache_bytes, value::size(v, 0..=(1 << 40)))
    }),
    Key::new("leader.threads", |d, v| {
        put(&mut d.settings.leader.threads, value::auto_or_count(v, 1..=1024))
    }),
    Key::new("node.listen", |d, v| put(&mut d.settings.node.listen, value::address(v))),
    Key::new("node.port", |d, v| put(&mut d.settings.node.port, value::port(v))),
    Key::new("node.admin_listen", |d, v| put(&mut d.settings.node.admin_listen, value::address(v))),
    Key::new("node.admin_port", |d, v| put(&mut d.settings.node.admin_port, value::port(v))),
    Key::new("node.advertise", |d, v| {
        put(&mut d.settings.node.advertise, value::host(v).map(Some))
    }),
    Key::new("node.data_dir", |d, v| put(&mut d.settings.node.data_dir, value::path(v))),
    Key::new("node.leader_addr", |d, v| {
        put(&mut d.settings.node.leader_addr, value::host_and_port(v))
    }),
    Key::new("node.heartbeat_interval", |d, v| {
        put(&mut d.settings.node.heartbeat_interval, value::duration(v, millis(10)..=secs(30)))
    }),
    Key::new("node.threads", |d, v| {
        put(&mut d.settings.node.threads, value::auto_or_count(v, 1..=1024))
    }),
    Key::new("storage.io_mode", |d, v| put(&mut d.settings.storage.io_mode, value::io_mode(v))),
    Key::new("storage.segment_bytes", |d, v| {
        put(&mut d.settings.storage.segment_bytes, value::size(v, (1 << 20)..=(4 << 30)))
    }),
    Key::new("storage.reserve_bytes", |d, v| {
        put(&mut d.settings.storage.reserve, value::reserve(v))
    }),
    Key::new("storage.repair_bytes_per_second", |d, v| {
        put(&mut d.settings.storage.repair_bytes_per_second, value::rate(v))
    }),
    Key::new("storage.max_slots", |d, v| {
        put(&mut d.settings.storage.max_slots, value::count(v, 1..=9999))
    }),
    Key::new("limits.max_key_bytes", |d, v| {
        put(&mut d.settings.limits.max_key_bytes, value::size(v, 1..=(32 << 10)))
    }),
    Key::new("limits.max_value_bytes", |d, v| {
        put(&mut d.settings.limits.max_value_bytes, value::size(v, 1..=(256 << 20)))
    }),
    Key::new("limits.max_connections", |d, v| {
        put(&mut d.settings.limits.max_connections, value::count(v, 1..=1_000_000))
    }),
    Key::new("limits.max_pipeline", |d, v| {
        put(&mut d.settings.limits.max_pipeline, value::count(v, 1..=1_000_000))
    }),
    Key::new("limits.max_inflight_bytes", |d, v| {
        put(&mut d.settings.limits.max_inflight_bytes, value::size(v, (1 << 20)..=(1 << 40)))
    }),
    Key::new("limits.read_timeout", |d, v| {
        put(&mut d.settings.limits.read_timeout, value::duration(v, millis(100)..=secs(86_400)))
    }),
    Key::new("limits.write_timeout", |d, v| {
        put(&mut d.settings.limits.write_timeout, value::duration(v, millis(100)..=secs(86_400)))
    }),
    Key::new("security.client_auth", |d, v| {
        put(&mut d.settings.client_authentication, value::client_authentication(v).map(Some))
    }),
    Key::new("telemetry.log", |d, v| put(&mut d.settings.telemetry.log, value::log_filter(v))),
    Key::new("telemetry.log_format", |d, v| {
        put(&mut d.settings.telemetry.log_format, value::log_format(v))
    }),
    Key::new(TOLERANCE, |d, v| put(&mut d.settings.tolerance, value::tolerance(v))),
];

/// Keys that the documentation names for versions to come. A setting that does nothing would be a
/// lie, so they are refused until they do something.
const LATER: &[&str] = &["limits.allow_flush"];

const fn secs(number: u64) -> Duration {
    Duration::from_secs(number)
}

const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

/// Every key of the file.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.path)
}

/// Sets one key, and says which it was.
pub(super) fn set(draft: &mut Draft, path: &str, node: &Node) -> Result<&'static str, String> {
    let Some(key) = KEYS.iter().find(|key| key.path == path) else { return Err(unknown(path)) };
    (key.set)(draft, node).map_err(|problem| format!("{path}: {problem}"))?;
    Ok(key.path)
}

/// What is said of a key that is not in the table: the keys of its section, if it has one.
fn unknown(path: &str) -> String {
    if LATER.contains(&path) {
        return format!("{path} is not supported yet; leave it out");
    }
    let section = path.split_once('.').map_or("", |(section, _)| section);
    let mut known: Vec<&str> =
        paths().filter(|known| known.split('.').next() == Some(section)).collect();
    if known.is_empty() {
        known = paths().collect();
    }
    suggestion::unknown(path, "setting", &known)
}
