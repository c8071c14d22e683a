//! A running node: from its place on the volume to the last word of its store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::core::Core;
use super::health::{Identity, Place, Shared};
use super::membership::{Membership, Refused};
use super::mover::Mover;
use super::pacing::Pacing;
use super::reads::{Readers, Source};
use super::served::Served;
use super::{Error, Options, Store, commit, holdings, reporter, service, transfer};
use crate::logic::comparison::Doubt;
use crate::rpc::v1::replica_server::ReplicaServer;
use crate::rpc::v1::transfer_server::TransferServer;
use crate::rpc::{Malformed, convert, transport, v1};
use crate::runtime::sockets::TcpListener;
use crate::runtime::tasks::Tasks;
use crate::runtime::{identity, workers};
use crate::storage::slots::{self, Joined, Slot};
use crate::storage::{IoMode, Opened, StorageError, Tail, VolumeDisk};
use crate::types::{IndexKey, PartitionCount};

/// Copies and streams are given this long to end when the node does.
const TASKS_END: Duration = Duration::from_secs(2);
/// The commit thread is given this long to finish what it was given and close the store.
const STORE_CLOSE: Duration = Duration::from_secs(20);

/// A node that has taken its place and listens.
pub(super) struct Node {
    options: Options,
    shared: Arc<Shared>,
    slot: Slot,
    me: Identity,
    tasks: Tasks,
    membership: Membership,
    tail: v1::TailState,
    doubt: Doubt,
    doubted: bool,
    /// Taken by the commit thread when the store is opened.
    ended: Option<oneshot::Sender<Result<(), StorageError>>>,
    end: Option<oneshot::Receiver<Result<(), StorageError>>>,
}

impl Node {
    pub(super) async fn start(options: Options, shared: Arc<Shared>) -> Result<Self, Error> {
        let membership = Membership::new(&options.leader_address)?;
        let slot = Slot::take(&options.data_dir, options.max_slots, identity::store_id)?;
        let listen = options.listen;
        let bound =
            async { TcpListener::bind(listen).await.and_then(|it| Ok((it.local_addr()?, it))) };
        let (address, listener) =
            bound.await.map_err(|source| Error::Listen { address: listen, source })?;
        let me = Identity { store: slot.identity().store, boot: identity::boot_id(), address };
        tracing::info!(store = %me.store, boot = %me.boot, %address, path = %slot.directory().display(),
            "the node has taken its place");
        let directory = slot.directory().to_owned();
        shared.place.send_replace(Some(Place { identity: me, directory }));
        let (ended, end) = oneshot::channel();
        let (ended, end) = (Some(ended), Some(end));
        let (tasks, tail) = (Tasks::new(), v1::TailState::Clean);
        let (doubt, doubted) = (Doubt::None, false);
        let node =
            Self { options, shared, slot, me, tasks, membership, tail, doubt, doubted, ended, end };
        node.serve(listener);
        Ok(node)
    }

    /// The services answer from now on; as long as there is no store, by asking for patience.
    fn serve(&self, listener: TcpListener) {
        let limit = transport::message_limit(self.options.max_value_bytes);
        let replica = service::ReplicaService::new(self.shared.cores());
        let replica = ReplicaServer::new(replica).max_decoding_message_size(limit);
        let transfer = TransferServer::new(transfer::TransferService::new(self.shared.cores()));
        let router = transport::server()
            .add_service(replica.max_encoding_message_size(limit))
            .add_service(transfer.max_encoding_message_size(limit));
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            let stopping = tasks.stopping();
            let incoming = transport::incoming(listener);
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopping).await {
                tracing::error!(%error, "the node's services failed");
            }
        });
        self.tasks.spawn(reporter::report(Arc::clone(&self.shared), self.tasks.clone()));
    }

    pub(super) async fn run(mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let mut end = self.end.take();
        let outcome = tokio::select! {
            outcome = storage_end(&shared, &mut end) => return outcome,
            error = self.take_part() => Err(error),
            () = shared.at_once.cancelled() => Ok(()),
            () = shared.leave.cancelled() => Ok(()),
        };
        if outcome.is_ok() && !shared.at_once.is_cancelled() {
            tokio::select! {
                () = self.leave() => {}
                () = shared.at_once.cancelled() => {}
                outcome = storage_end(&shared, &mut end) => return outcome,
            }
        }
        let closed = self.close(end).await;
        outcome.and(closed)
    }

    /// Registers, opens the store when it is known to which cluster it belongs, and shows that it
    /// lives; all over again whenever the leader has lost sight of this node.
    async fn take_part(&mut self) -> Error {
        loop {
            if let Err(error) = self.take_part_once().await {
                return error;
            }
            self.shared.set_standing(false, "");
        }
    }

    async fn take_part_once(&mut self) -> Result<(), Error> {
        if let Some(joined) = self.slot.identity().joined {
            self.open(joined).await?;
        }
        let request = self.register_request();
        let accepted = self.membership.register(&request).await;
        let accepted = accepted.map_err(|refused| self.refused(refused))?;
        let joined = self.join(&accepted)?;
        self.open(joined).await?;
        tracing::info!(cluster = %joined.cluster, epoch = accepted.epoch, "registered at the leader");
        let interval = heartbeat_interval(&accepted, self.options.heartbeat_interval);
        let shared = Arc::clone(&self.shared);
        shared.set_standing(true, "live");
        let me = self.me;
        let beat = || heartbeat(&shared, me);
        self.membership.beat(interval, beat, |state| shared.set_standing(true, state)).await;
        Ok(())
    }

    fn register_request(&self) -> v1::RegisterRequest {
        let core = self.shared.core();
        let cluster = core.as_ref().map(|core| convert::id_bytes(core.cluster.as_bytes()));
        v1::RegisterRequest {
            store_id: convert::id_bytes(self.me.store.as_bytes()),
            cluster_id: cluster.unwrap_or_default(),
            boot_id: convert::id_bytes(self.me.boot.as_bytes()),
            address: advertised(self.options.advertise.as_deref(), self.me.address.port()),
            admin_address: self.options.admin_address.clone().unwrap_or_default(),
            format: transport::FORMAT,
            software: env!("CARGO_PKG_VERSION").into(),
            tail: self.tail.into(),
            disk: reporter::disk(core.as_deref())
                .or_else(|| reporter::disk_at(self.slot.directory(), &self.options.storage)),
            promised_epoch: core.as_ref().map_or(0, |core| core.reader.promised().0),
            configuration_versions: core.as_deref().map(holdings::versions).unwrap_or_default(),
        }
    }

    /// A store that was taken out of the cluster leaves its place to no one: the next start of this
    /// process must not find it again.
    fn refused(&self, refused: Refused) -> Error {
        if refused.decommissioned {
            let path = self.slot.directory().display();
            match self.slot.retire() {
                Ok(()) => tracing::warn!(
                    %path, "the slot is retired: nothing uses it any more, and it may be deleted"
                ),
                Err(error) => tracing::error!(%error, "the slot cannot be retired; delete it"),
            }
        }
        Error::Refused(refused.reason)
    }

    /// Joins the cluster durably, or checks that it is the one joined before.
    fn join(&mut self, accepted: &v1::Accepted) -> Result<Joined, Error> {
        let joined = read_joined(accepted)?;
        self.slot.join(joined.cluster, joined.index_key, joined.partitions)?;
        Ok(joined)
    }

    /// Opens the store, unless it is open, and starts the threads around it.
    async fn open(&mut self, joined: Joined) -> Result<(), Error> {
        let Some(ended) = self.ended.take() else { return Ok(()) };
        let (path, mut options) = (self.slot.directory().to_owned(), self.options.storage.clone());
        options.machine_boot = options.machine_boot.or_else(identity::machine_boot);
        let opening = workers::once(move || {
            let disk = VolumeDisk::new(&path)?;
            Ok::<_, Error>(Store::open(disk, joined.index_key, joined.partitions, options)?)
        });
        let (store, found) = opening.await??;
        self.tail = tail_state(&found);
        (self.doubt, self.doubted) = (doubt(&found), found.doubted);
        tracing::info!(tail = ?found.tail, records = found.records, "the store is open");
        if found.possible_loss {
            tracing::error!(
                "the store may lack what it acknowledged: it was buffered, and the machine was \
                 started anew; it has no say until it was compared with the other copies"
            );
        } else if matches!(found.tail, Tail::Damaged(_)) {
            tracing::error!(
                "the log is damaged: the store has no say until its partitions were copied anew"
            );
        } else if !found.damaged.is_empty() {
            tracing::error!(
                partitions = found.damaged.len(),
                "checkpoints are damaged: the store has no say in their partitions until they were \
                 copied anew"
            );
        }
        let core = self.assemble(joined, store, ended)?;
        self.shared.core.send_replace(Some(Arc::new(core)));
        Ok(())
    }

    fn assemble(
        &self,
        joined: Joined,
        store: Store,
        ended: oneshot::Sender<Result<(), StorageError>>,
    ) -> Result<Core, Error> {
        let message_limit = transport::message_limit(self.options.max_value_bytes);
        let (commits, inputs) = commit::queue();
        let (tasks, figures) = (self.tasks.clone(), Arc::clone(&self.shared.figures));
        let (cluster, reader) = (joined.cluster, store.reader());
        let pacing = Pacing::new(self.options.repair_bytes_per_second, Arc::clone(&figures));
        let pacing = Arc::new(pacing);
        let mover = Mover::new(
            cluster,
            self.me.store,
            message_limit,
            reader.clone(),
            commits.clone(),
            Arc::clone(&pacing),
            tasks.clone(),
        );
        let served = Arc::new(Served::new(joined.partitions));
        let parts = commit::Parts {
            store_id: self.me.store,
            store,
            partitions: joined.partitions,
            buffered: self.options.storage.io_mode == IoMode::Buffered,
            doubt: self.doubt,
            doubted: self.doubted,
            mover,
            served: Arc::clone(&served),
            figures: Arc::clone(&figures),
        };
        commit::start(parts, inputs, ended)?;
        let source = Source { reader: reader.clone(), served: Arc::clone(&served), figures };
        Ok(Core {
            cluster,
            terms: (joined.index_key, joined.partitions),
            store: self.me.store,
            boot: self.me.boot,
            commits,
            readers: Readers::start(self.options.reader_threads, &source)?,
            reader,
            served,
            pacing,
            tasks,
            streams: 0.into(),
        })
    }

    async fn leave(&mut self) {
        if !self.shared.standing.lock().registered {
            return;
        }
        tracing::info!("asking the leader to let this node go");
        let request = v1::LeaveRequest {
            store_id: convert::id_bytes(self.me.store.as_bytes()),
            boot_id: convert::id_bytes(self.me.boot.as_bytes()),
        };
        // Signs of life go on meanwhile: a node that falls silent would be taken for dead.
        let (shared, me) = (Arc::clone(&self.shared), self.me);
        let mut living = self.membership.clone();
        let interval = self.options.heartbeat_interval;
        tokio::select! {
            () = self.membership.leave(request) => {}
            () = async {
                living.beat(interval, || heartbeat(&shared, me), |_| ()).await;
                std::future::pending::<()>().await;
            } => {}
        }
    }

    /// Finishes what was accepted, and closes the store.
    async fn close(
        self,
        mut end: Option<oneshot::Receiver<Result<(), StorageError>>>,
    ) -> Result<(), Error> {
        let closed = match self.shared.core() {
            None => Ok(()),
            Some(core) => {
                core.commits.stop();
                let closing =
                    tokio::time::timeout(STORE_CLOSE, storage_end(&self.shared, &mut end));
                closing.await.unwrap_or(Err(Error::CommitThread))
            }
        };
        self.shared.core.send_replace(None);
        slots::mark_used(self.slot.directory());
        if !self.tasks.finish(TASKS_END).await {
            tracing::warn!("connections were still open at the end");
        }
        tracing::info!("the node has ended");
        closed
    }
}

/// Completes when the commit thread was started and has ended.
async fn storage_end(
    shared: &Shared,
    end: &mut Option<oneshot::Receiver<Result<(), StorageError>>>,
) -> Result<(), Error> {
    let started = shared.cores().wait_for(Option::is_some).await.is_ok();
    match end.as_mut().filter(|_| started) {
        Some(end) => Ok(end.await.map_err(|_| Error::CommitThread)??),
        None => std::future::pending().await,
    }
}

fn read_joined(accepted: &v1::Accepted) -> Result<Joined, Malformed> {
    let index_key = accepted.index_key.as_ref().try_into();
    let partitions = u16::try_from(accepted.partitions).ok().and_then(PartitionCount::new);
    Ok(Joined {
        cluster: convert::identity(&accepted.cluster_id)?,
        index_key: IndexKey(index_key.map_err(|_| Malformed("an index key has 16 bytes"))?),
        partitions: partitions.ok_or(Malformed("partitions are a power of two up to 32,768"))?,
    })
}

fn tail_state(opened: &Opened) -> v1::TailState {
    match opened.tail {
        // What it acknowledged may be missing, though nothing in its log shows it.
        _ if opened.possible_loss => v1::TailState::Damaged,
        Tail::Clean => v1::TailState::Clean,
        Tail::Torn => v1::TailState::Torn,
        Tail::Damaged(_) => v1::TailState::Damaged,
    }
}

/// How far what the store holds is to be trusted; one that is damaged holds nothing.
fn doubt(opened: &Opened) -> Doubt {
    match opened.tail {
        _ if opened.possible_loss => Doubt::Lost,
        Tail::Clean => Doubt::None,
        Tail::Torn | Tail::Damaged(_) => Doubt::Unclean,
    }
}

fn heartbeat_interval(accepted: &v1::Accepted, otherwise: Duration) -> Duration {
    match accepted.heartbeat_interval_ms {
        0 => otherwise,
        millis => Duration::from_millis(u64::from(millis)),
    }
}

/// The address under which a node is to be found: what was set, completed by the port it listens at.
fn advertised(set: Option<&str>, port: u16) -> String {
    match set {
        None => format!(":{port}"),
        Some(host) if has_port(host) => host.into(),
        Some(host) => format!("{host}:{port}"),
    }
}

fn has_port(address: &str) -> bool {
    let after_host = address.rsplit_once(']').map_or(address, |(_, rest)| rest);
    after_host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

fn heartbeat(shared: &Shared, me: Identity) -> v1::HeartbeatRequest {
    let core = shared.core();
    let core = core.as_deref();
    let sync_time = core.map(|core| core.reader.sync_statistics().last).unwrap_or_default();
    v1::HeartbeatRequest {
        store_id: convert::id_bytes(me.store.as_bytes()),
        boot_id: convert::id_bytes(me.boot.as_bytes()),
        disk: reporter::disk(core),
        records: core.map_or(0, reporter::records),
        bytes: core.map_or(0, reporter::bytes),
        copied_bytes: shared.figures.counts().copied_bytes,
        fsync_microseconds: u64::try_from(sync_time.as_micros()).unwrap_or(u64::MAX),
        received_batches: shared.figures.counts().batches,
    }
}
