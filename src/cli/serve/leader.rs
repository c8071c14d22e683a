//! `leader`: from settings to a running leader.

use std::pin::pin;

use anyhow::Context;

use super::super::announce::{Announcement, Listening};
use super::super::arguments::{Global, LeaderArguments};
use super::super::output::Outcome;
use super::parent::Parent;
use crate::config::{LeaderSettings, ReplyMode, Settings};
use crate::leader::{self, ClientPort, Handle, Options};
use crate::net::patience::Timeouts;
use crate::protocol::command::Mode;
use crate::protocol::line::Limits;
use crate::runtime::files;
use crate::runtime::signals::{Hangups, Terminations};
use crate::types::PartitionCount;

/// More threads than these do not make the gateway faster.
const MAX_THREADS: usize = 4;
/// Open files that are not for clients: logs, links to nodes, calls of operators.
const OWN_FILES: u64 = 256;

pub(in super::super) fn run(
    global: &Global,
    arguments: &LeaderArguments,
) -> anyhow::Result<Outcome> {
    let paths = super::paths(global, arguments.tolerance_file.as_ref());
    let read = || super::read(&paths, arguments.overrides());
    let settings = read()?;
    super::start_log(&settings)?;
    let parent = Parent::watch(arguments.exit_with_parent)?;
    super::runtime(threads(&settings.leader))?.block_on(serve(&settings, parent, read))
}

/// Takes no more clients than the system has open files for: the leader needs some itself, and a
/// client that it cannot accept would wait instead of being told.
fn max_connections(wanted: usize, open_files: Option<u64>) -> usize {
    let possible = open_files.map_or(usize::MAX, |files| {
        usize::try_from(files.saturating_sub(OWN_FILES)).unwrap_or(usize::MAX).max(1)
    });
    if possible < wanted {
        tracing::warn!(
            possible,
            wanted,
            "the system allows fewer open files than limits.max_connections asks for; raise its \
             limit (ulimit -Hn, LimitNOFILE, --ulimit nofile) or lower the setting"
        );
    }
    possible.min(wanted)
}

/// One for each two processors, but no more than pays: nodes, clients and the system want theirs. On
/// two processors one thread served 1.1 to 1.3 times as much as two.
fn threads(settings: &LeaderSettings) -> usize {
    settings.threads.unwrap_or_else(|| (super::processors() / 2).clamp(1, MAX_THREADS))
}

async fn serve(
    settings: &Settings,
    mut parent: Parent,
    read: impl Fn() -> anyhow::Result<Settings>,
) -> anyhow::Result<Outcome> {
    let mut terminations = Terminations::listen().context("cannot listen to signals")?;
    let mut hangups = Hangups::listen().context("cannot listen to signals")?;
    let service = leader::Service::new(options(settings)?);
    let handle = service.handle();
    let announcing = tokio::spawn(announce(handle.clone(), settings.leader.data_dir.clone()));
    let mut running = pin!(service.run());
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome,
            signal = terminations.next() => {
                tracing::info!(signal, "the leader is asked to end");
                handle.stop();
            }
            () = parent.gone() => handle.stop(),
            () = hangups.next() => reread(&handle, settings, read()).await,
        }
    };
    announcing.abort();
    outcome?;
    Ok(Outcome::Done)
}

fn options(settings: &Settings) -> anyhow::Result<Options> {
    let (leader, limits) = (&settings.leader, &settings.limits);
    let clients = leader.listeners.iter().map(|listener| ClientPort {
        address: (leader.listen, listener.port).into(),
        mode: match listener.mode {
            ReplyMode::Simple => Mode::Simple,
        },
    });
    Ok(Options {
        data_dir: leader.data_dir.clone(),
        clients: clients.collect(),
        grpc: (leader.listen, leader.grpc_port).into(),
        admin: (leader.admin_listen, leader.admin_port).into(),
        limits: Limits {
            max_key_bytes: bytes("limits.max_key_bytes", limits.max_key_bytes)?,
            max_value_bytes: bytes("limits.max_value_bytes", limits.max_value_bytes)?,
        },
        max_connections: max_connections(limits.max_connections, files::raise_limit()),
        max_pipeline: limits.max_pipeline,
        max_inflight_bytes: bytes("limits.max_inflight_bytes", limits.max_inflight_bytes)?,
        timeouts: Timeouts {
            read: limits.read_timeout,
            write: limits.write_timeout,
            ..Timeouts::default()
        },
        partitions: PartitionCount::DEFAULT,
        copies: settings.tolerance,
        floor: leader.min_replicas,
        bootstrap_nodes: leader.bootstrap_nodes,
        suspect_after: leader.suspect_after,
        evict_after: leader.evict_after,
        heartbeat_interval: settings.node.heartbeat_interval,
        request_timeout: leader.request_timeout,
        cache_bytes: bytes("leader.cache_bytes", leader.cache_bytes)?,
        shards: threads(leader),
    })
}

fn bytes(name: &'static str, number: u64) -> anyhow::Result<usize> {
    usize::try_from(number).with_context(|| format!("{name} is more than this machine can address"))
}

/// Takes up a changed number of copies. A wrong configuration changes nothing.
async fn reread(handle: &Handle, began_with: &Settings, read: anyhow::Result<Settings>) {
    match read {
        Ok(settings) => {
            let (copies, floor) = (settings.tolerance, settings.leader.min_replicas);
            tracing::info!(copies, floor, "read the configuration again");
            if differ_otherwise(began_with, settings) {
                tracing::warn!("other settings have changed, too: they count from the next start");
            }
            handle.set_copies(copies, floor).await;
        }
        Err(error) => tracing::error!("the configuration is wrong, nothing changes: {error:#}"),
    }
}

/// Whether something changed that is not taken up while the leader runs.
fn differ_otherwise(began_with: &Settings, mut settings: Settings) -> bool {
    settings.tolerance = began_with.tolerance;
    settings.leader.min_replicas = began_with.leader.min_replicas;
    settings != *began_with
}

/// Says that the leader is there, once its ports are open.
async fn announce(handle: Handle, data: std::path::PathBuf) {
    let Some(addresses) = handle.addresses().await else { return };
    let Some(client) = addresses.clients.first().copied() else { return };
    let (admin, grpc) = (addresses.admin, addresses.grpc);
    Announcement::Listening(Listening { client, admin, grpc, data }).print();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_clients_than_the_system_has_files_for() {
        let taken = |files| max_connections(10_000, files);
        assert_eq!(taken(None), 10_000);
        assert_eq!(taken(Some(1 << 20)), 10_000);
        assert_eq!(taken(Some(1024)), 768);
        assert_eq!(taken(Some(100)), 1, "it would say so to everybody, and not hang");
    }
}
