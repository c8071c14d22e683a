//! What the leader answers operators, as JSON. Fields may be added; none changes its meaning.

use serde::{Deserialize, Serialize};

use crate::leader::view::{ClusterView, DrainView, NodeView, RepairView};
use crate::types::Moment;

/// `GET /api/v1/cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterDocument {
    /// The cluster's identity; none before it was created.
    pub id: Option<String>,
    /// The epoch of this leader.
    pub epoch: u64,
    /// Copies each value should have.
    pub tolerance: usize,
    /// Live copies a write needs.
    pub min_replicas: usize,
    /// Whether every partition serves and has all its copies.
    pub healthy: bool,
    /// The partitions, counted.
    pub partitions: PartitionsDocument,
    /// Copies that are to be made.
    pub repair: RepairDocument,
}

/// Copies that are to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairDocument {
    /// Copies that are not there yet.
    pub queued: usize,
    /// Those of them that are being made.
    pub running: usize,
    /// Bytes that came for copies since this leader began.
    pub copied_bytes: u64,
    /// About how many bytes are left to come.
    pub bytes_left: u64,
    /// How many came per second lately.
    pub bytes_per_second: u64,
    /// About how long the rest takes; none while nothing moves.
    pub seconds_left: Option<u64>,
}

impl From<RepairView> for RepairDocument {
    fn from(repair: RepairView) -> Self {
        Self {
            queued: repair.queued,
            running: repair.running,
            copied_bytes: repair.copied_bytes,
            bytes_left: repair.bytes_left,
            bytes_per_second: repair.bytes_per_second,
            seconds_left: repair.time_left.map(|time| time.as_secs()),
        }
    }
}

/// The partitions, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionsDocument {
    /// All of them.
    pub total: usize,
    /// Those that serve reads and writes.
    pub serving: usize,
    /// Those with too few copies.
    pub under_replicated: usize,
    /// Those that serve no reads.
    pub unavailable: usize,
}

/// A store and the node that has it open: one of `GET /api/v1/nodes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeDocument {
    /// The store.
    pub id: String,
    /// Where its node is reached, as `ip:port`.
    pub address: String,
    /// `live`, `suspect`, `leaving` or `away`.
    pub state: String,
    /// Partitions it is in the in-sync set of.
    pub partitions: usize,
    /// Records it holds.
    pub records: u64,
    /// Seconds since it was heard of; none if not since this leader began.
    pub heard_seconds: Option<f64>,
    /// Bytes free on its disk.
    pub disk_free_bytes: u64,
    /// Size of its disk.
    pub disk_total_bytes: u64,
    /// How far it is with giving away what it holds; none if no operator wants that.
    pub drain: Option<DrainDocument>,
}

/// How far a store is with giving away what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainDocument {
    /// `draining`, or `drained`: then its node may stop.
    pub state: String,
    /// Partitions that still have a copy on it.
    pub partitions_left: usize,
    /// About how many bytes these take.
    pub bytes_left: u64,
    /// About how long it takes until nothing is left; none while nothing moves.
    pub seconds_left: Option<u64>,
}

impl DrainDocument {
    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.partitions_left == 0
    }
}

impl From<DrainView> for DrainDocument {
    fn from(drain: DrainView) -> Self {
        let state = if drain.is_done() { "drained" } else { "draining" };
        Self {
            state: state.into(),
            partitions_left: drain.partitions_left,
            bytes_left: drain.bytes_left,
            seconds_left: drain.time_left.map(|time| time.as_secs()),
        }
    }
}

/// The answer to `POST /api/v1/nodes/{id}/decommission`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecommissionedDocument {
    /// The store that belongs to the cluster no more.
    pub decommissioned: String,
}

impl From<&ClusterView> for ClusterDocument {
    fn from(view: &ClusterView) -> Self {
        let partitions = &view.partitions;
        Self {
            id: view.cluster.map(|id| id.to_string()),
            epoch: view.epoch.0,
            tolerance: view.tolerance,
            min_replicas: view.min_replicas,
            healthy: view.is_healthy(),
            partitions: PartitionsDocument {
                total: partitions.total,
                serving: partitions.serving,
                under_replicated: partitions.under_replicated,
                unavailable: partitions.unavailable,
            },
            repair: RepairDocument::from(view.repair),
        }
    }
}

impl NodeDocument {
    /// A node as it is seen at this moment.
    pub fn new(node: &NodeView, now: Moment) -> Self {
        Self {
            id: node.store.to_string(),
            address: node.address.clone(),
            state: node.state.name().into(),
            partitions: node.partitions,
            records: node.records,
            heard_seconds: node.heard.map(|heard| now.since(heard).as_secs_f64()),
            disk_free_bytes: node.disk.free,
            disk_total_bytes: node.disk.total,
            drain: node.drain.map(DrainDocument::from),
        }
    }
}
