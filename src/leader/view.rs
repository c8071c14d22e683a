//! The cluster as the leader sees it, published for whoever wants to look.
//!
//! The membership shell [publishes](Views::publish) a new [`ClusterView`] whenever something
//! changed; readers take the [current](Views::current) one without a lock and without asking
//! anybody. A view is a snapshot: old by as much as the time since it was published.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytesize::ByteSize;

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
    /// What became of stores that did not stop in order.
    pub doubt: DoubtView,
    /// Why this leader does not serve, if it must not.
    pub refusal: Option<String>,
    /// Copies that are to be made.
    pub repair: RepairView,
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
    /// Those of which its copy is still to be compared with another, since it stopped uncleanly.
    pub in_doubt: usize,
    /// It is slower than the others by far, and goes where it can be spared.
    pub slow: bool,
    /// Its disk, as of its last heartbeat.
    pub disk: DiskView,
    /// How far it is with giving away what it holds, where an operator wants that.
    pub drain: Option<DrainView>,
}

/// How far a store is with giving away what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainView {
    /// Partitions that still have a copy on it.
    pub partitions_left: usize,
    /// About how many bytes these take.
    pub bytes_left: u64,
    /// About how long it takes until nothing is left; none while nothing moves.
    pub time_left: Option<Duration>,
}

/// Copies that are to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairView {
    /// Copies that the ring proposes and that are not there yet.
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
    pub time_left: Option<Duration>,
}

/// A size and how long it takes, for people.
struct Left(u64, Option<Duration>);

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "about {} left", ByteSize(self.0))?;
        match self.1 {
            Some(time) => write!(f, ", {}", humantime::format_duration(time)),
            None => f.write_str(", nothing moves now"),
        }
    }
}

impl fmt::Display for RepairView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queued, running, bytes_left, time_left, .. } = *self;
        if queued == 0 {
            return f.write_str("Repair: nothing to copy");
        }
        let (rate, left) = (ByteSize(self.bytes_per_second), Left(bytes_left, time_left));
        write!(f, "Repair: {queued} copies to make, {running} under way, {rate}/s, {left}")
    }
}

impl fmt::Display for DrainView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_done() {
            return f.write_str("drained: it may be stopped");
        }
        let left = Left(self.bytes_left, self.time_left);
        write!(f, "draining: {} partitions, {left}", self.partitions_left)
    }
}

impl DrainView {
    /// Whether nothing is left, so that its node may stop.
    pub fn is_done(self) -> bool {
        self.partitions_left == 0
    }
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
    /// Keys that are frozen because copies hold one version of them with different contents.
    pub damaged_keys: usize,
    /// Keys whose record no copy can read.
    pub unreadable_keys: usize,
}

/// What became of stores that did not stop in order, since the leader began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoubtView {
    /// Settled records that stores had lost, and fetched again from other copies.
    pub restored_records: u64,
    /// Partitions of which every copy may have lost what it acknowledged.
    pub possible_losses: u64,
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
        let slow = self.nodes.iter().filter(|node| node.slow).count();
        let in_doubt: usize = self.nodes.iter().map(|node| node.in_doubt).sum();
        let DoubtView { restored_records, possible_losses } = self.doubt;
        let damaged = Some(partitions.damaged_keys).filter(|keys| *keys > 0).map(|keys| {
            format!("Damaged: {keys} keys, whose copies disagree; they are not served")
        });
        let unreadable = Some(partitions.unreadable_keys).filter(|keys| *keys > 0).map(|keys| {
            format!("Unreadable: {keys} keys, of which no copy can be read; see the log")
        });
        let drains = self.nodes.iter().filter_map(|node| Some((node, node.drain?)));
        let drains = drains.map(|(node, drain)| format!("Drain: {} {drain}", node.store));
        let refusal = self.refusal.iter().map(|reason| format!("Not serving: {reason}"));
        let lines = vec![
            format!("Cluster: {cluster}"),
            format!("Epoch: {}", self.epoch),
            format!("Copies: {} wanted, {} needed to write", self.tolerance, self.min_replicas),
            format!("Nodes: {}, {slow} slow", NodeState::ALL.map(count).join(", ")),
            format!(
                "Partitions: {} in all, {} serving, {} under-replicated, {} unavailable",
                partitions.total,
                partitions.serving,
                partitions.under_replicated,
                partitions.unavailable
            ),
            format!(
                "Doubt: {in_doubt} copies to be compared, {restored_records} lost records restored, \
                 {possible_losses} partitions with possible loss"
            ),
            self.repair.to_string(),
        ];
        lines.into_iter().chain(drains).chain(damaged).chain(unreadable).chain(refusal).collect()
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
            in_doubt: usize::from(state == NodeState::Live),
            slow: state == NodeState::Live,
            disk: DiskView::default(),
            drain: None,
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
        assert!(status.contains("Nodes: 1 live, 0 suspect, 0 leaving, 1 away, 1 slow"), "{status}");
        assert!(
            status.contains("Doubt: 1 copies to be compared, 0 lost records restored"),
            "{status}"
        );
        assert!(status.contains("Cluster: not created yet"), "{status}");
        assert!(status.ends_with("Repair: nothing to copy"), "{status}");
        let refusal = Some("no metadata".into());
        let lines = ClusterView { refusal, ..ClusterView::default() }.answer(Question::Status);
        assert_eq!(lines.last().map(String::as_str), Some("Not serving: no metadata"));
    }

    #[test]
    fn what_is_left_is_told_with_how_long_it_takes() {
        let drain = DrainView { partitions_left: 3, bytes_left: 3 << 20, time_left: None };
        let nodes = vec![NodeView { drain: Some(drain), ..node(1, NodeState::Live) }];
        let repair = RepairView {
            queued: 12,
            running: 4,
            bytes_left: 12 << 20,
            bytes_per_second: 2 << 20,
            time_left: Some(Duration::from_secs(7)),
            ..RepairView::default()
        };
        let view = ClusterView { nodes, repair, ..ClusterView::default() };
        let status = view.answer(Question::Status);
        assert_eq!(
            status[status.len() - 2..],
            [
                "Repair: 12 copies to make, 4 under way, 2.0 MiB/s, about 12.0 MiB left, 7s",
                "Drain: 00000000-0000-0000-0000-000000000001 draining: 3 partitions, about 3.0 MiB \
                 left, nothing moves now",
            ]
        );
    }
}
