//! The cluster as the leader sees it, published for whoever wants to look.
//!
//! The membership shell [publishes](Views::publish) a new [`ClusterView`] whenever something
//! changed; readers take the [current](Views::current) one without a lock and without asking
//! anybody. A view is a snapshot: old by as much as the time since it was published.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::protocol::command::Question;
use crate::types::{ClusterId, Epoch, Moment, StoreId};

/// The cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// The cluster's identity; none before it was created.
    pub cluster: Option<ClusterId>,
    /// The epoch of this leader.
    pub epoch: Epoch,
    /// Copies each value should have.
    pub tolerance: usize,
    /// Live copies a write needs.
    pub min_replicas: usize,
    /// Every store known, in a stable order.
    pub nodes: Vec<NodeView>,
    /// The partitions, counted.
    pub partitions: PartitionsView,
}

/// One store and the node that has it open.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// The store.
    pub store: StoreId,
    /// Where its node is reached, as `ip:port`.
    pub address: String,
    /// What the leader thinks of it.
    pub state: NodeState,
    /// When it was last heard of; none if not since this leader started.
    pub heard: Option<Moment>,
    /// Records it holds, as of its last heartbeat.
    pub records: u64,
    /// Partitions it is in the in-sync set of.
    pub partitions: usize,
    /// Its disk, as of its last heartbeat.
    pub disk: DiskView,
}

/// A node's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskView {
    /// Bytes free.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What the leader thinks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Heartbeats come.
    Live,
    /// No heartbeat for `leader.suspect_after`.
    Suspect,
    /// It asked to leave.
    Leaving,
    /// No heartbeat for `leader.evict_after`, or not seen since the leader started.
    Away,
}

impl NodeState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Live, Self::Suspect, Self::Leaving, Self::Away];

    /// Its name, as shown and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Suspect => "suspect",
            Self::Leaving => "leaving",
            Self::Away => "away",
        }
    }
}

/// The partitions, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionsView {
    /// All of them; 0 before the cluster was created.
    pub total: usize,
    /// Those that serve reads and writes.
    pub serving: usize,
    /// Those with fewer in-sync copies than `tolerance` (or than there are nodes).
    pub under_replicated: usize,
    /// Those that serve no reads.
    pub unavailable: usize,
}

impl ClusterView {
    /// The nodes in this state.
    pub fn nodes_in(&self, state: NodeState) -> impl Iterator<Item = &NodeView> {
        self.nodes.iter().filter(move |node| node.state == state)
    }

    /// Whether every partition serves.
    pub fn is_available(&self) -> bool {
        let partitions = &self.partitions;
        partitions.total > 0 && partitions.serving == partitions.total
    }

    /// Whether every partition serves and has all its copies.
    pub fn is_healthy(&self) -> bool {
        self.is_available() && self.partitions.under_replicated == 0
    }

    /// The answer to a question about the cluster, a line each, without the final `OK`.
    pub fn answer(&self, question: Question) -> Vec<String> {
        match question {
            Question::Nodes => self.node_lines(),
            Question::Files => self.file_lines(),
            Question::Status => self.status_lines(),
        }
    }

    fn node_lines(&self) -> Vec<String> {
        let live = self.nodes_in(NodeState::Live);
        live.map(|node| format!("Node: {} -> {}", node.store, node.address)).collect()
    }

    fn file_lines(&self) -> Vec<String> {
        let live = self.nodes_in(NodeState::Live);
        live.map(|node| format!("{}: {}", node.address, node.records)).collect()
    }

    fn status_lines(&self) -> Vec<String> {
        let cluster = self.cluster.map_or_else(|| "not created yet".into(), |id| id.to_string());
        let count = |state: NodeState| format!("{} {}", self.nodes_in(state).count(), state.name());
        let partitions = &self.partitions;
        vec![
            format!("Cluster: {cluster}"),
            format!("Epoch: {}", self.epoch),
            format!("Copies: {} wanted, {} needed to write", self.tolerance, self.min_replicas),
            format!("Nodes: {}", NodeState::ALL.map(count).join(", ")),
            format!(
                "Partitions: {} in all, {} serving, {} under-replicated, {} unavailable",
                partitions.total,
                partitions.serving,
                partitions.under_replicated,
                partitions.unavailable
            ),
        ]
    }
}

/// The latest view, shared. Clones are cheap and see what any of them publishes.
#[derive(Clone, Debug, Default)]
pub struct Views {
    latest: Arc<ArcSwap<ClusterView>>,
}

impl Views {
    /// A view of nothing, until something is published.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the view that everybody sees.
    pub fn publish(&self, view: ClusterView) {
        self.latest.store(Arc::new(view));
    }

    /// The view published last.
    pub fn current(&self) -> Arc<ClusterView> {
        self.latest.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u128, state: NodeState) -> NodeView {
        NodeView {
            store: StoreId::from_number(number),
            address: format!("10.0.0.{number}:50052"),
            state,
            heard: None,
            records: u64::try_from(number * 100).unwrap(),
            partitions: 0,
            disk: DiskView::default(),
        }
    }

    #[test]
    fn only_live_nodes_are_listed_and_counted() {
        let views = Views::new();
        let nodes = vec![node(1, NodeState::Live), node(2, NodeState::Away)];
        views.publish(ClusterView { nodes, ..ClusterView::default() });
        let view = views.current();
        assert_eq!(
            view.answer(Question::Nodes),
            ["Node: 00000000-0000-0000-0000-000000000001 -> 10.0.0.1:50052"]
        );
        assert_eq!(view.answer(Question::Files), ["10.0.0.1:50052: 100"]);
        let status = view.answer(Question::Status).join("\n");
        assert!(status.contains("Nodes: 1 live, 0 suspect, 0 leaving, 1 away"), "{status}");
        assert!(status.contains("Cluster: not created yet"), "{status}");
    }
}
