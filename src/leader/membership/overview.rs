//! The cluster as a whole, put together from what shards, nodes and the membership say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use super::Beat;
use crate::leader::shard::inbox::Summary;
use crate::leader::view::{ClusterView, DiskView, NodeState, NodeView, PartitionsView};
use crate::logic::detector;
use crate::logic::membership::{Membership, Node};
use crate::logic::partition::Status;
use crate::types::{Epoch, Moment, PartitionId, StoreId};

/// How the partitions are, by the last word of each shard.
#[derive(Clone, Debug)]
pub(super) struct Summaries(Vec<watch::Receiver<Arc<Summary>>>);

impl Summaries {
    pub(super) fn new(shards: Vec<watch::Receiver<Arc<Summary>>>) -> Self {
        Self(shards)
    }

    /// The latest summaries.
    pub(super) fn latest(&self) -> Vec<Arc<Summary>> {
        self.0.iter().map(|shard| Arc::clone(&shard.borrow())).collect()
    }

    /// The partitions that would have fewer than `floor` live copies without these stores.
    pub(super) fn short(&self, floor: usize, without: &BTreeSet<StoreId>) -> Vec<PartitionId> {
        let is_short = |status: &Status| {
            let stays = |store: &StoreId| !without.contains(store);
            let live = status.copies.iter().filter(|copy| copy.in_sync && copy.live && copy.peered);
            live.filter(|copy| stays(&copy.store)).count() < floor
        };
        let mut short = Vec::new();
        for summary in self.latest() {
            let found = summary.partitions.iter().filter(|(_, status)| is_short(status));
            short.extend(found.map(|(partition, _)| *partition));
        }
        short
    }
}

/// What the coordinator adds to what the others know.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) epoch: Epoch,
    pub(super) copies: usize,
    pub(super) floor: usize,
    pub(super) beats: &'a BTreeMap<StoreId, Beat>,
    /// Stores that wait for a cluster, and where they are.
    pub(super) candidates: Vec<(StoreId, String)>,
}

/// Puts the view together.
pub(super) fn view(
    context: &Context<'_>,
    membership: &Membership,
    summaries: &Summaries,
    now: Moment,
) -> ClusterView {
    let summaries = summaries.latest();
    let partitions = || summaries.iter().flat_map(|summary| &summary.partitions);
    let mut held: BTreeMap<StoreId, usize> = BTreeMap::new();
    for (_, status) in partitions() {
        for copy in status.copies.iter().filter(|copy| copy.in_sync) {
            *held.entry(copy.store).or_default() += 1;
        }
    }
    let mut nodes: Vec<NodeView> = membership
        .nodes(now)
        .map(|node| node_view(&node, context.beats.get(&node.store), now))
        .collect();
    for node in &mut nodes {
        node.partitions = held.get(&node.store).copied().unwrap_or(0);
    }
    nodes.extend(context.candidates.iter().map(|(store, address)| candidate(*store, address, now)));
    let present = nodes.iter().filter(|node| node.state != NodeState::Away).count();
    ClusterView {
        cluster: membership.cluster().map(|cluster| cluster.id),
        epoch: context.epoch,
        tolerance: context.copies,
        min_replicas: context.floor,
        partitions: count(partitions().map(|(_, status)| status), context.copies.min(present)),
        nodes,
    }
}

fn count<'a>(statuses: impl Iterator<Item = &'a Status>, copies: usize) -> PartitionsView {
    let mut counted = PartitionsView::default();
    for status in statuses {
        counted.total += 1;
        counted.serving += usize::from(status.serving && status.writable);
        counted.unavailable += usize::from(!status.serving);
        counted.under_replicated += usize::from(status.live_copies() < copies);
    }
    counted
}

fn node_view(node: &Node<'_>, beat: Option<&Beat>, now: Moment) -> NodeView {
    let state = match node.status {
        _ if node.boot.is_none() => NodeState::Away,
        detector::Status::Live => NodeState::Live,
        detector::Status::Suspect => NodeState::Suspect,
        detector::Status::Leaving => NodeState::Leaving,
        detector::Status::Evicted => NodeState::Away,
    };
    let heard = node.silence.map(|silence| {
        Moment(now.0.saturating_sub(u64::try_from(silence.as_micros()).unwrap_or(u64::MAX)))
    });
    NodeView {
        store: node.store,
        address: node.info.address.clone(),
        state,
        heard,
        records: beat.map_or(0, |beat| beat.records),
        partitions: 0,
        disk: beat.map(|beat| disk(&beat.disk)).unwrap_or_default(),
    }
}

fn candidate(store: StoreId, address: &str, now: Moment) -> NodeView {
    NodeView {
        store,
        address: address.into(),
        state: NodeState::Live,
        heard: Some(now),
        records: 0,
        partitions: 0,
        disk: DiskView::default(),
    }
}

fn disk(disk: &crate::rpc::v1::Disk) -> DiskView {
    DiskView { free: disk.free_bytes, total: disk.total_bytes }
}
