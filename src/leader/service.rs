//! A leader from start to end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Unit;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::api::{self, Api};
use super::audit::Audit;
use super::gateway::recall::Recall;
use super::gateway::{ShardBatch, gateway, router};
use super::health::LeaderHealth;
use super::membership::{self, Handle as Coordination};
use super::shard::inbox::{self, Event, Proposal, Summary};
use super::view::Views;
use super::{Error, metrics, proposals, report, shard};
use crate::admin::{self, Admin};
use crate::logic::detector::DetectorSettings;
use crate::logic::membership::{Change, Cluster, Membership, MembershipSettings, State};
use crate::logic::partition::Settings;
use crate::logic::partition::cache::Cache;
use crate::meta::local::{LocalMetadata, MetadataHandle};
use crate::meta::{Metadata, MetadataError};
use crate::net::budget::Budget;
use crate::net::listener::{self, Listener};
use crate::net::patience::Timeouts;
use crate::protocol::command::Mode;
use crate::protocol::line::Limits;
use crate::rpc::transport;
use crate::rpc::v1::membership_server::MembershipServer;
use crate::runtime::listen::listen;
use crate::runtime::metrics::{self as registries, ClientMetrics, DurationHistogram};
use crate::runtime::signals::Terminations;
use crate::runtime::sockets::TcpListener;
use crate::runtime::tasks::Tasks;
use crate::runtime::{clock, identity, workers};
use crate::types::PartitionCount;

/// When the leader is told to stop, clients get the answers to what was accepted within the time a
/// request may take, and this.
const CLIENTS_END: Duration = Duration::from_secs(2);
/// Everything else has this long to end.
const TASKS_END: Duration = Duration::from_secs(5);

/// A port for clients.
#[derive(Clone, Copy, Debug)]
pub struct ClientPort {
    /// Where; port 0 picks a free one.
    pub address: SocketAddr,
    /// The form of its replies.
    pub mode: Mode,
}

/// How a leader is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the metadata is kept.
    pub data_dir: PathBuf,
    /// Where clients connect.
    pub clients: Vec<ClientPort>,
    /// Where nodes connect; port 0 picks a free one.
    pub grpc: SocketAddr,
    /// Where operators connect; port 0 picks a free one.
    pub admin: SocketAddr,
    /// The greatest key and value.
    pub limits: Limits,
    /// Connections of clients at once, on each port.
    pub max_connections: usize,
    /// Requests of one connection in flight at once.
    pub max_pipeline: usize,
    /// Bytes that all connections together may hold.
    pub max_inflight_bytes: usize,
    /// How long a client may keep its connection waiting.
    pub timeouts: Timeouts,
    /// Into how many partitions a new cluster is cut.
    pub partitions: PartitionCount,
    /// Copies each value should have.
    pub copies: usize,
    /// Live copies that a write needs.
    pub floor: usize,
    /// With how many nodes a new cluster begins, if not with as many as come.
    pub bootstrap_nodes: Option<usize>,
    /// Silence or lateness that makes a node suspect.
    pub suspect_after: Duration,
    /// Silence after which its copies are made anew.
    pub evict_after: Duration,
    /// How often nodes are to show that they live.
    pub heartbeat_interval: Duration,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// Bytes of values that are remembered; with none, every read asks a node.
    pub cache_bytes: usize,
    /// How many tasks own the partitions: as many as there are threads to run them.
    pub shards: usize,
}

/// Where a leader listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For clients, in the order of the options.
    pub clients: Vec<SocketAddr>,
    /// For nodes.
    pub grpc: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    addresses: watch::Sender<Option<Addresses>>,
    coordination: watch::Sender<Option<Coordination>>,
    stop: CancellationToken,
    views: Views,
}

/// A leader that is yet to run.
#[derive(Debug)]
pub struct Service {
    options: Options,
    shared: Arc<Shared>,
}

/// A way to a leader, before and while it runs. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Where it listens, once it does; nothing if it ended before.
    pub async fn addresses(&self) -> Option<Addresses> {
        let mut addresses = self.0.addresses.subscribe();
        tokio::select! {
            found = addresses.wait_for(Option::is_some) => found.ok()?.clone(),
            () = self.0.stop.cancelled() => None,
        }
    }

    /// The cluster as it sees it.
    pub fn views(&self) -> &Views {
        &self.0.views
    }

    /// Changes how many copies each value should have, and how many live ones a write needs.
    pub async fn set_copies(&self, copies: usize, floor: usize) {
        let coordination = self.0.coordination.borrow().clone();
        if let Some(coordination) = coordination {
            coordination.set_copies(copies, floor).await;
        }
    }

    /// Ends it: nothing new is accepted, what was accepted is answered.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }
}

impl Service {
    /// A leader with these options.
    pub fn new(options: Options) -> Self {
        let shared = Shared {
            addresses: watch::Sender::new(None),
            coordination: watch::Sender::new(None),
            stop: CancellationToken::new(),
            views: Views::new(),
        };
        Self { options, shared: Arc::new(shared) }
    }

    /// The way to it, before and while it runs.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Runs until [`Handle::stop`], or until it cannot go on.
    ///
    /// # Errors
    /// If it cannot start, or its metadata fails: the process must then end.
    pub async fn run(self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let ended = self.run_to_the_end().await;
        // Whoever waits for addresses must not wait for ever.
        shared.stop.cancel();
        ended
    }

    /// As [`Self::run`]; SIGTERM and SIGINT end it.
    ///
    /// # Errors
    /// As [`Self::run`], or if signals cannot be listened to.
    pub async fn run_until_signalled(self) -> Result<(), Error> {
        let mut terminations = Terminations::listen().map_err(Error::Signals)?;
        let handle = self.handle();
        let signals = async {
            let signal = terminations.next().await;
            tracing::info!(signal, "the leader is asked to end");
            handle.stop();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = self.run() => ended,
            () = signals => Ok(()),
        }
    }

    async fn run_to_the_end(self) -> Result<(), Error> {
        let Self { options, shared } = self;
        let recall = Recall::new(Cache::new(options.cache_bytes));
        let sockets = Sockets::bind(&options, &shared, &recall).await?;
        let (metadata, state) = begin_epoch(&options).await?;
        tracing::info!(epoch = %state.epoch, cluster = ?state.cluster.map(|cluster| cluster.id),
            "the leader begins");
        let (failed, mut failure) = mpsc::channel(2);
        let (clients, rest) = (Tasks::new(), Tasks::new());
        let addresses = sockets.addresses();
        let clients_end = options.request_timeout + CLIENTS_END;
        let parts = Parts { options, shared: &shared, recall, failed, tasks: &rest };
        parts.start(sockets, metadata.handle(), state, &clients);
        shared.addresses.send_replace(Some(addresses));
        let ended = tokio::select! {
            () = shared.stop.cancelled() => Ok(()),
            Some(error) = failure.recv() => Err(Error::Metadata(error)),
        };
        if !clients.finish(clients_end).await {
            tracing::warn!("clients were still being answered at the end");
        }
        if !rest.finish(TASKS_END).await {
            tracing::warn!("some tasks were still busy at the end");
        }
        tracing::info!("the leader has ended");
        ended
    }
}

/// Opens the metadata and makes a new epoch durable, before anything is said to anybody (rule 2).
async fn begin_epoch(options: &Options) -> Result<(LocalMetadata, State), Error> {
    let directory = options.data_dir.clone();
    let opening = workers::once(move || LocalMetadata::open(&directory));
    let metadata = opening.await.unwrap_or(Err(MetadataError::Closed))?;
    let mut state = metadata.state().clone();
    let epoch = Change::Epoch(state.epoch.next());
    metadata.handle().propose(vec![epoch.clone()]).await?;
    state.apply(&epoch).map_err(MetadataError::from)?;
    Ok((metadata, state))
}

/// Every socket a leader listens on, bound.
struct Sockets {
    clients: Vec<Listener>,
    grpc: (TcpListener, SocketAddr),
    admin: Admin,
    refusal: watch::Sender<Option<String>>,
    budget: Budget,
    durations: DurationHistogram,
}

impl Sockets {
    async fn bind(options: &Options, shared: &Shared, recall: &Recall) -> Result<Self, Error> {
        let mut registry = registries::registry();
        let client_metrics = ClientMetrics::new();
        client_metrics.register(&mut registry);
        metrics::register(&shared.views, recall.cache(), &mut registry);
        let durations = DurationHistogram::default();
        let help = "From when a batch of writes leaves until it is durable on the node";
        registry.register_with_unit("replication_duration", help, Unit::Seconds, durations.clone());
        let budget = Budget::new(options.max_inflight_bytes);
        let mut clients = Vec::new();
        for port in &options.clients {
            let options = listener::Options {
                address: port.address,
                mode: port.mode,
                limits: options.limits,
                max_connections: options.max_connections,
                max_pipeline: options.max_pipeline,
                timeouts: options.timeouts,
            };
            let bound = Listener::bind(options, budget.clone(), client_metrics.clone()).await?;
            clients.push(bound);
        }
        let (refusal, refused) = watch::channel(None);
        let health = LeaderHealth { views: shared.views.clone(), refusal: refused };
        let admin = admin::Options {
            address: options.admin,
            health: Arc::new(health),
            registry: Arc::new(registry),
        };
        let (views, coordination) = (shared.views.clone(), shared.coordination.subscribe());
        let api = api::routes(Api { views, coordination });
        let admin = Admin::bind(admin).await?.with_routes(api);
        let grpc = listen(options.grpc).await?;
        Ok(Self { clients, grpc, admin, refusal, budget, durations })
    }

    fn addresses(&self) -> Addresses {
        Addresses {
            clients: self.clients.iter().map(Listener::address).collect(),
            grpc: self.grpc.1,
            admin: self.admin.address(),
        }
    }
}

/// The shards' ends that others hold.
struct Shards {
    batches: Vec<mpsc::Sender<ShardBatch>>,
    events: Vec<mpsc::Sender<Event>>,
    summaries: Vec<watch::Receiver<Arc<Summary>>>,
}

/// What the parts of a leader are started with.
struct Parts<'a> {
    options: Options,
    shared: &'a Shared,
    recall: Recall,
    failed: mpsc::Sender<MetadataError>,
    tasks: &'a Tasks,
}

impl Parts<'_> {
    fn start(self, sockets: Sockets, metadata: MetadataHandle, state: State, clients: &Tasks) {
        let partitions =
            state.cluster.map_or(self.options.partitions, |cluster| cluster.partitions);
        let (proposals, proposed) = mpsc::unbounded_channel();
        let shards = self.start_shards(&proposals);
        let events = shards.events.clone();
        proposals::start(proposed, metadata.clone(), events, self.failed.clone(), self.tasks);
        let Sockets { clients: listeners, grpc, admin, refusal, budget, durations } = sockets;
        let coordination = self.coordinate(&shards, metadata, state, (refusal, durations));
        serve_nodes(grpc, &coordination, self.tasks);
        self.shared.coordination.send_replace(Some(coordination));
        admin.start(self.tasks);
        let recall = self.recall.clone();
        report::start(self.shared.views.clone(), shards.summaries, recall, self.tasks);
        let options = router::Options {
            shards: shards.batches,
            partitions,
            request_timeout: self.options.request_timeout,
            views: self.shared.views.clone(),
            recall: self.recall,
        };
        let gateway = gateway(options, budget);
        for listener in listeners {
            listener.start(gateway.clone(), clients);
        }
    }

    fn start_shards(&self, proposals: &mpsc::UnboundedSender<Proposal>) -> Shards {
        let (copies, floor) = (self.options.copies, self.options.floor);
        let evict_after = self.options.evict_after;
        let settings = Settings { copies, floor, evict_after, ..Settings::default() };
        let count = self.options.shards.max(1);
        let mut started = Shards { batches: vec![], events: vec![], summaries: vec![] };
        for index in 0..count {
            let (to_batches, batches) = mpsc::channel(inbox::BATCHES);
            let (to_events, events) = mpsc::channel(inbox::EVENTS);
            let (summary, shown) = watch::channel(Arc::default());
            let options = shard::Options {
                index,
                shards: count,
                settings,
                batches,
                events,
                proposals: proposals.clone(),
                summary,
                views: self.shared.views.clone(),
                recall: self.recall.clone(),
            };
            shard::start(options, self.tasks);
            started.batches.push(to_batches);
            started.events.push(to_events);
            started.summaries.push(shown);
        }
        started
    }

    fn coordinate(
        &self,
        shards: &Shards,
        metadata: MetadataHandle,
        state: State,
        (refusal, durations): (watch::Sender<Option<String>>, DurationHistogram),
    ) -> Coordination {
        let Options { copies, floor, heartbeat_interval, limits, .. } = self.options;
        let settings = self.membership_settings();
        let membership = Membership::new(settings, clock::now(), &state, self.spare_cluster());
        let options = membership::Options {
            membership,
            state,
            boot: identity::boot_id(),
            metadata,
            heartbeat_interval,
            tick: settings.detector.tick_interval,
            copies,
            floor,
            durations,
            max_value_bytes: limits.max_value_bytes,
            shards: shards.events.clone(),
            summaries: shards.summaries.clone(),
            views: self.shared.views.clone(),
            refusal,
            failed: self.failed.clone(),
            audit: Audit::in_directory(&self.options.data_dir),
        };
        membership::start(options, self.tasks)
    }

    fn membership_settings(&self) -> MembershipSettings {
        let options = &self.options;
        MembershipSettings {
            copies: options.copies,
            floor: options.floor,
            bootstrap_nodes: options.bootstrap_nodes,
            format: transport::FORMAT,
            detector: DetectorSettings {
                suspect_after: options.suspect_after,
                evict_after: options.evict_after,
                ..DetectorSettings::default()
            },
            ..MembershipSettings::default()
        }
    }

    /// What a cluster will be, if one is to be created.
    fn spare_cluster(&self) -> Cluster {
        Cluster {
            id: identity::cluster_id(),
            index_key: identity::index_key(),
            partitions: self.options.partitions,
            created: clock::wall_milliseconds(),
        }
    }
}

fn serve_nodes(socket: (TcpListener, SocketAddr), coordination: &Coordination, tasks: &Tasks) {
    let service = MembershipServer::new(coordination.service());
    let (stop, listener) = (tasks.clone(), socket.0);
    tasks.spawn(async move {
        let server = transport::server().add_service(service);
        let incoming = transport::incoming(listener);
        let stopping = async { stop.stopping().await };
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopping).await {
            tracing::error!(%error, "the service for nodes ended");
        }
    });
}
