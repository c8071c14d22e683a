//! How a node is doing: for its log, its admin port and its heartbeats.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::core::{Core, CoreWatch};
use super::figures::{Counts, Figures};
use super::reporter;
use crate::storage::{StoreSpace, SyncStatistics};
use crate::types::{BootId, ClusterId, Epoch, StoreId};

/// How a node is doing.
#[derive(Clone, Debug)]
pub struct Health {
    /// The store it has opened.
    pub store: StoreId,
    /// The directory of the store.
    pub directory: PathBuf,
    /// This start of its process.
    pub boot: BootId,
    /// Where its services listen.
    pub address: SocketAddr,
    /// The cluster, once it belongs to one.
    pub cluster: Option<ClusterId>,
    /// Whether a leader knows it and answers its heartbeats.
    pub registered: bool,
    /// How the leader sees it, in its own word.
    pub state: String,
    /// The epoch it has promised.
    pub epoch: Epoch,
    /// Partitions it holds whole.
    pub partitions: usize,
    /// Live records in them.
    pub records: u64,
    /// Deleted keys that are still remembered in them.
    pub tombstones: u64,
    /// Its disk, once its store is open.
    pub disk: Option<StoreSpace>,
    /// What making commits durable costs.
    pub syncs: SyncStatistics,
    /// What it has done since it started.
    pub counts: Counts,
}

/// What is true of a node from its start on.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) identity: Identity,
    pub(crate) directory: PathBuf,
}

/// Who a node is, as long as it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) store: StoreId,
    pub(crate) boot: BootId,
    pub(crate) address: SocketAddr,
}

#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(crate) registered: bool,
    pub(crate) state: String,
}

/// What the service and its handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) place: watch::Sender<Option<Place>>,
    pub(crate) standing: Mutex<Standing>,
    pub(crate) core: watch::Sender<Option<Arc<Core>>>,
    pub(crate) figures: Arc<Figures>,
    pub(crate) leave: CancellationToken,
    pub(crate) at_once: CancellationToken,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            place: watch::Sender::new(None),
            standing: Mutex::default(),
            core: watch::Sender::new(None),
            figures: Arc::default(),
            leave: CancellationToken::new(),
            at_once: CancellationToken::new(),
        }
    }

    pub(crate) fn cores(&self) -> CoreWatch {
        self.core.subscribe()
    }

    /// The open store, if it is open.
    pub(crate) fn core(&self) -> Option<Arc<Core>> {
        self.core.borrow().clone()
    }

    pub(crate) fn set_standing(&self, registered: bool, state: &str) {
        let mut standing = self.standing.lock();
        standing.registered = registered;
        if standing.state != state {
            state.clone_into(&mut standing.state);
        }
    }

    pub(crate) fn health(&self) -> Option<Health> {
        let Place { identity, directory } = self.place.borrow().clone()?;
        let core = self.core();
        let core = core.as_deref();
        let standing = self.standing.lock();
        Some(Health {
            store: identity.store,
            directory,
            boot: identity.boot,
            address: identity.address,
            cluster: core.map(|core| core.cluster),
            registered: standing.registered,
            state: standing.state.clone(),
            epoch: core.map(|core| core.reader.promised()).unwrap_or_default(),
            partitions: core.map_or(0, |core| core.served.partitions().count()),
            records: core.map_or(0, reporter::records),
            tombstones: core.map_or(0, reporter::tombstones),
            disk: core.and_then(|core| core.reader.space().ok()),
            syncs: core.map(|core| core.reader.sync_statistics()).unwrap_or_default(),
            counts: self.figures.counts(),
        })
    }
}

/// The way to a running node: clones are cheap.
#[derive(Clone, Debug)]
pub struct Handle(pub(crate) Arc<Shared>);

impl Handle {
    /// How the node is doing; nothing before it has taken its store and listens.
    pub fn health(&self) -> Option<Health> {
        self.0.health()
    }

    /// Waits until the node has taken its store and listens.
    pub async fn listening(&self) -> Option<SocketAddr> {
        let mut place = self.0.place.subscribe();
        let place = place.wait_for(Option::is_some).await.ok()?;
        place.as_ref().map(|place| place.identity.address)
    }

    /// Asks the leader to let the node go, and then ends it in order.
    pub fn leave(&self) {
        self.0.leave.cancel();
    }

    /// Ends the node without asking; what it was given is still finished.
    pub fn stop(&self) {
        self.0.at_once.cancel();
    }
}
