//! `node`: from settings to a running node with its admin port.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytesize::ByteSize;

use super::super::announce::{Announcement, Registered};
use super::super::arguments::{Global, NodeArguments};
use super::super::output::Outcome;
use super::parent::Parent;
use crate::admin::{self, Admin, Check, Probe};
use crate::config::{IoMode, Reserve, Settings};
use crate::node::{self, Handle, Options};
use crate::runtime::metrics;
use crate::runtime::signals::Terminations;
use crate::runtime::tasks::Tasks;
use crate::storage;

/// How often a node that is not registered yet looks whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// More threads than these do not make reads faster.
const MAX_READERS: usize = 4;
/// How long connections to the admin port may take to end.
const ADMIN_ENDS: Duration = Duration::from_secs(2);

pub(in super::super) fn run(global: &Global, arguments: &NodeArguments) -> anyhow::Result<Outcome> {
    let settings = super::read(&super::paths(global, None), arguments.overrides())?;
    super::start_log(&settings)?;
    let parent = Parent::watch(arguments.exit_with_parent)?;
    super::runtime(settings.node.threads.unwrap_or(1))?.block_on(serve(&settings, parent))
}

async fn serve(settings: &Settings, mut parent: Parent) -> anyhow::Result<Outcome> {
    let mut terminations = Terminations::listen().context("cannot listen to signals")?;
    let service = node::Service::new(options(settings)?);
    let handle = service.handle();
    let admin = Admin::bind(admin_options(settings, &handle)).await?;
    let admin_address = admin.address();
    let service = service.with_admin_address(format!(":{}", admin_address.port()));
    let tasks = Tasks::new();
    admin.start(&tasks);
    let announcing = tokio::spawn(announce(handle.clone(), admin_address));
    let outcome = {
        let mut running = pin!(service.run());
        let mut asked = false;
        loop {
            tokio::select! {
                outcome = &mut running => break outcome,
                signal = terminations.next() => {
                    tracing::info!(signal, "the node is asked to end");
                    if asked { handle.stop() } else { handle.leave() }
                    asked = true;
                }
                // Whoever started this node started its leader, too: there is nobody to ask.
                () = parent.gone() => handle.stop(),
            }
        }
    };
    announcing.abort();
    tasks.finish(ADMIN_ENDS).await;
    outcome?;
    Ok(Outcome::Done)
}

fn options(settings: &Settings) -> anyhow::Result<Options> {
    let (node, storage) = (&settings.node, &settings.storage);
    Ok(Options {
        data_dir: node.data_dir.clone(),
        max_slots: u16::try_from(storage.max_slots).context("storage.max_slots")?,
        storage: storage::Options {
            segment_bytes: storage.segment_bytes,
            io_mode: match storage.io_mode {
                IoMode::Unbuffered => storage::IoMode::Unbuffered,
                IoMode::Buffered => storage::IoMode::Buffered,
            },
            reserve: match storage.reserve {
                Reserve::Auto => storage::Reserve::Standard,
                Reserve::Bytes(bytes) => storage::Reserve::Bytes(bytes),
            },
            ..storage::Options::default()
        },
        listen: (node.listen, node.port).into(),
        advertise: node.advertise.clone(),
        admin_address: None,
        leader_address: node.leader_addr.clone(),
        heartbeat_interval: node.heartbeat_interval,
        repair_bytes_per_second: storage.repair_bytes_per_second,
        max_value_bytes: usize::try_from(settings.limits.max_value_bytes)
            .context("limits.max_value_bytes")?,
        reader_threads: super::processors().min(MAX_READERS),
    })
}

fn admin_options(settings: &Settings, handle: &Handle) -> admin::Options {
    let mut registry = metrics::registry();
    node::metrics::register(handle, &mut registry);
    let handle = handle.clone();
    admin::Options {
        address: (settings.node.admin_listen, settings.node.admin_port).into(),
        health: Arc::new(move |probe| checks(probe, &handle)),
        registry: Arc::new(registry),
    }
}

/// A process that answers at all is alive: what fails it ends it.
fn checks(probe: Probe, handle: &Handle) -> Vec<Check> {
    if probe == Probe::Live {
        return Vec::new();
    }
    let Some(health) = handle.health() else {
        return vec![Check::failed("store", "the node has not taken its store yet")];
    };
    let mut checks = vec![if health.registered {
        Check::passed("leader")
    } else {
        Check::failed("leader", "no leader has let this node in; is one at node.leader_addr?")
    }];
    if let Some(disk) = health.disk {
        checks.push(if disk.free >= disk.reserve {
            Check::passed("disk")
        } else {
            let (free, reserve) = (ByteSize(disk.free), ByteSize(disk.reserve));
            let reason = format!("{free} can be written, writes need {reserve}; free some space");
            Check::failed("disk", reason)
        });
    }
    checks
}

/// Says that the node is there, once a leader has let it in.
async fn announce(handle: Handle, admin: SocketAddr) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        if let Some(health) = handle.health().filter(|health| health.registered) {
            let (id, addr) = (health.store.to_string(), health.address);
            let registered = Registered { id, addr, admin, data: health.directory };
            return Announcement::Registered(registered).print();
        }
    }
}
