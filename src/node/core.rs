//! What a node has once its store is open, and what its services share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;
use tonic::Status;

use super::Reader;
use super::commit::Commits;
use super::pacing::Pacing;
use super::reads::Readers;
use super::served::Served;
use super::stream::LeaderStream;
use crate::rpc::{Malformed, convert, v1};
use crate::runtime::tasks::Tasks;
use crate::types::{BootId, ClusterId, Epoch, IndexKey, PartitionCount, StoreId};

/// How long a caller waits for a store that is being opened.
const OPENING: Duration = Duration::from_secs(5);

/// An open store and the threads around it.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) cluster: ClusterId,
    /// The secret of the cluster, and into how many partitions it is cut.
    pub(crate) terms: (IndexKey, PartitionCount),
    pub(crate) store: StoreId,
    pub(crate) boot: BootId,
    pub(crate) commits: Commits,
    pub(crate) readers: Readers,
    pub(crate) reader: Reader,
    pub(crate) served: Arc<Served>,
    pub(crate) pacing: Arc<Pacing>,
    pub(crate) tasks: Tasks,
    pub(crate) streams: AtomicU64,
}

impl Core {
    /// Checks that a leader means this store, and begins a stream for it.
    pub(crate) fn stream(&self, open: &v1::Open) -> Result<Arc<LeaderStream>, Status> {
        self.check_addressee(&open.cluster_id, &open.store_id)?;
        if convert::identity::<BootId>(&open.boot_id)? != self.boot {
            return Err(Status::failed_precondition(
                "the node was started again since; wait until it has registered",
            ));
        }
        let id = self.streams.fetch_add(1, Relaxed) + 1;
        let leader = convert::optional_identity(&open.leader_boot_id)?;
        Ok(Arc::new(LeaderStream::new(id, Epoch(open.epoch)).opened_by(leader)))
    }

    /// Checks that a message is for this store and from its cluster.
    pub(crate) fn check_addressee(&self, cluster: &[u8], store: &[u8]) -> Result<(), Status> {
        let (cluster, store) = (convert::identity(cluster)?, convert::identity(store)?);
        if self.cluster != cluster {
            return Err(Status::failed_precondition(format!(
                "this store belongs to cluster {}, not to {cluster}",
                self.cluster
            )));
        }
        if self.store != store {
            return Err(Status::failed_precondition(format!(
                "store {} is at this address, not {store}",
                self.store
            )));
        }
        Ok(())
    }

    /// Takes one batch: what is to be stored goes to the commit thread, reads go to the readers.
    pub(crate) async fn accept(
        &self,
        stream: &Arc<LeaderStream>,
        mut batch: v1::Batch,
    ) -> Result<(), Status> {
        let reads = std::mem::take(&mut batch.reads);
        let to_be_committed = batch.probe
            || !batch.sections.is_empty()
            || !batch.orders.is_empty()
            || !batch.records.is_empty();
        stream.arrived(batch.number, to_be_committed)?;
        if to_be_committed {
            self.commits.batch(stream, batch).await?;
        }
        self.readers.read(stream, reads).await;
        Ok(())
    }
}

/// Where services find the store, once it is open.
pub(crate) type CoreWatch = watch::Receiver<Option<Arc<Core>>>;

/// The open store; waits a while for one that is being opened.
pub(crate) async fn opened(watch: &CoreWatch) -> Result<Arc<Core>, Status> {
    let mut watch = watch.clone();
    let found = tokio::time::timeout(OPENING, watch.wait_for(Option::is_some)).await;
    let core = found.ok().and_then(Result::ok).and_then(|core| core.clone());
    core.ok_or_else(|| Status::unavailable("the store of this node is not open yet"))
}

/// What is wrong with a stream whose sender does not keep to the protocol.
pub(crate) fn protocol(what: &'static str) -> Status {
    Malformed(what).into()
}
