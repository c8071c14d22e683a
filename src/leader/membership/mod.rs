//! The membership's shell: nodes call it, the pure machine decides, this carries it out.
//!
//! One task, the coordinator, owns the machine ([`logic::membership`](crate::logic::membership)):
//! who belongs to the cluster, who is there, what the ring proposes. Nodes' calls come to it as
//! messages; what links do, it looks at once a tick. What follows it carries out in order: what has
//! to be durable is, before anything that depends on it is done or answered.
//!
//! # What it guarantees
//!
//! * Nothing is answered or told to a shard that rests on metadata which is not durable.
//! * A tick comes after everything that had queued was taken in, so that nobody is blamed for what
//!   the leader had not yet heard.
//! * Shards hear of a store's state in the order in which the machine decided it.
//!
//! # How
//!
//! * [`rpc`] - the service that nodes call.
//! * [`coordinator`] - the task: takes calls, steps the machine, carries out what it says.
//! * [`links`] - the links, and what the failure detector is told of them.
//! * [`rebuild`] - asks stores what they know, when the metadata is lost.
//! * [`recovery`] - what is left of partitions that lost all members.
//! * [`overview`] - the view that is published, and what a leaving node would leave behind.
//! * [`progress`] - how fast copies are made.

mod coordinator;
mod links;
mod overview;
mod progress;
pub(crate) mod rebuild;
pub(crate) mod recovery;
pub(crate) mod rpc;

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot, watch};

use crate::leader::audit::Audit;
use crate::leader::shard::inbox::{Event, Summary};
use crate::leader::view::Views;
use crate::logic::membership::{Membership, Objection, Registration, State};
use crate::meta::MetadataError;
use crate::meta::local::MetadataHandle;
use crate::rpc::v1;
use crate::runtime::metrics::DurationHistogram;
use crate::runtime::tasks::Tasks;
use crate::types::{BootId, PartitionId, StoreId};
use coordinator::Coordinator;
use rebuild::{Rebuilding, Refugees};
use recovery::Recoverable;
use rpc::MembershipService;

/// Calls that wait for the coordinator before nodes are held back.
const CALLS: usize = 1024;

/// A sign of life of a node, and how it does.
#[derive(Clone, Debug)]
pub(crate) struct Beat {
    pub(crate) store: StoreId,
    pub(crate) boot: BootId,
    pub(crate) disk: v1::Disk,
    pub(crate) records: u64,
    /// About how many bytes its copies take.
    pub(crate) bytes: u64,
    /// Bytes that came for copies since its process started.
    pub(crate) copied_bytes: u64,
}

/// What the coordinator is asked.
#[derive(Debug)]
pub(crate) enum Call {
    /// A node registers.
    Register {
        registration: Registration,
        software: String,
        tail: v1::TailState,
        disk: v1::Disk,
        reply: oneshot::Sender<v1::RegisterReply>,
    },
    /// A node shows that it lives.
    Heartbeat { beat: Beat, reply: oneshot::Sender<v1::HeartbeatReply> },
    /// A node asks to go.
    Leave { store: StoreId, boot: BootId, progress: mpsc::Sender<v1::LeaveProgress> },
    /// An operator changed the number of copies.
    Copies { copies: usize, floor: usize },
    /// An operator decides about a store.
    Operate {
        store: StoreId,
        command: Command,
        /// Answered when it is durable, or why it is not done.
        reply: oneshot::Sender<Result<(), Objection>>,
    },
    /// Somebody wants to know which stores wait for lost metadata.
    Refugees { reply: oneshot::Sender<Option<Refugees>> },
    /// Somebody wants to know what could be forced.
    Recoverable { reply: oneshot::Sender<Recoverable> },
    /// An operator decided with which stores partitions go on that have lost all members.
    Force { decided: Vec<(PartitionId, SmallVec<[StoreId; 4]>)>, reply: oneshot::Sender<()> },
    /// An operator wants lost metadata to be made anew from this.
    Rebuild(Box<Rebuilding>),
}

/// What an operator may decide about a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Move everything off it, and keep it off the ring.
    Drain,
    /// Put it back on the ring.
    Undrain,
    /// Forget it.
    Decommission,
}

/// The leader stops: nobody carries out commands any more.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the leader stops")]
pub(crate) struct Stopping;

/// What a coordinator is made of.
#[derive(Debug)]
pub(crate) struct Options {
    /// The machine, new.
    pub(crate) membership: Membership,
    /// The metadata the leader begins with.
    pub(crate) state: State,
    /// This start of the leader's process.
    pub(crate) boot: BootId,
    /// Takes changes of it.
    pub(crate) metadata: MetadataHandle,
    /// How often nodes are to show that they live.
    pub(crate) heartbeat_interval: Duration,
    /// How often the machine looks at the time.
    pub(crate) tick: Duration,
    /// Copies each value should have, and live copies that a write needs.
    pub(crate) copies: usize,
    pub(crate) floor: usize,
    /// Takes how long batches of writes took to be durable on a node.
    pub(crate) durations: DurationHistogram,
    /// The largest value a client may store.
    pub(crate) max_value_bytes: usize,
    /// Where shards are told things.
    pub(crate) shards: Vec<mpsc::Sender<Event>>,
    /// Where shards show their partitions.
    pub(crate) summaries: Vec<watch::Receiver<Arc<Summary>>>,
    /// Where the cluster is shown.
    pub(crate) views: Views,
    /// Where it is said why the leader does not serve, if it must not.
    pub(crate) refusal: watch::Sender<Option<String>>,
    /// Where a failure of the metadata is reported: the leader must stop.
    pub(crate) failed: mpsc::Sender<MetadataError>,
    /// Where operators' decisions that may cost data are written down.
    pub(crate) audit: Audit,
}

/// A way to the coordinator. Clones are cheap.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    calls: mpsc::Sender<Call>,
    tasks: Tasks,
    audit: Audit,
    boot: BootId,
}

impl Handle {
    /// The service for nodes.
    pub(crate) fn service(&self) -> MembershipService {
        MembershipService::new(self.calls.clone(), self.tasks.clone())
    }

    /// Changes how many copies each value should have.
    pub(crate) async fn set_copies(&self, copies: usize, floor: usize) {
        // Nobody listens only when the leader stops.
        let _ = self.calls.send(Call::Copies { copies, floor }).await;
    }

    /// Carries out what an operator decided about a store; completes when that is durable.
    pub(crate) async fn operate(
        &self,
        store: StoreId,
        command: Command,
    ) -> Result<Result<(), Objection>, Stopping> {
        let (reply, answer) = oneshot::channel();
        let call = Call::Operate { store, command, reply };
        self.calls.send(call).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }
}

/// Starts a coordinator, which runs until the tasks are told to stop.
pub(crate) fn start(options: Options, tasks: &Tasks) -> Handle {
    let (calls, queue) = mpsc::channel(CALLS);
    let (audit, boot) = (options.audit.clone(), options.boot);
    let handle = Handle { calls, tasks: tasks.clone(), audit, boot };
    let coordinator = Coordinator::new(options, tasks.clone());
    let stop = tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = coordinator.run(queue) => {}
            () = stop.stopping() => {}
        }
    });
    handle
}
