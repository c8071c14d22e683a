//! The cluster as a whole, put together from what shards, nodes and the membership say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Beat;
use super::progress::Progress;
use crate::leader::shard::inbox::Summary;
use crate::leader::view::{
    ClusterView, DiskView, DoubtView, DrainView, NodeState, NodeView, PartitionsView, RepairView,
};
use crate::logic::comparison::Doubt;
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

    /// How many partitions have a copy on this store, or are making one there.
    pub(super) fn held_by(&self, store: StoreId) -> usize {
        let holds = |status: &Status| status.copies.iter().any(|copy| copy.store == store);
        let held = |summary: &Arc<Summary>| {
            summary.partitions.iter().filter(|(_, status)| holds(status)).count()
        };
        self.latest().iter().map(held).sum()
    }

    /// The partitions that would have fewer than `floor` live copies without these stores.
    pub(super) fn short(&self, floor: usize, without: &BTreeSet<StoreId>) -> Vec<PartitionId> {
        let is_short = |status: &Status| {
            let stays = |store: &StoreId| !without.contains(store);
            let live = status.copies.iter().filter(|copy| copy.is_sound());
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
    pub(super) progress: &'a Progress,
    /// Stores that wait for a cluster, and where they are.
    pub(super) candidates: Vec<(StoreId, String)>,
}

/// How many copies a store has, how many of them count, and how many of those are in doubt.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    in_sync: usize,
    in_doubt: usize,
    any: usize,
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
    let mut held: BTreeMap<StoreId, Held> = BTreeMap::new();
    for copy in partitions().flat_map(|(_, status)| &status.copies) {
        let held = held.entry(copy.store).or_default();
        held.in_sync += usize::from(copy.in_sync);
        held.in_doubt += usize::from(copy.in_sync && copy.doubt != Doubt::None);
        held.any += 1;
    }
    let bytes = |store: &StoreId| context.beats.get(store).map_or(0, |beat| beat.bytes);
    let mut nodes: Vec<NodeView> = membership
        .nodes(now)
        .map(|node| node_view(&node, context.beats.get(&node.store), now))
        .collect();
    for node in &mut nodes {
        let held = held.get(&node.store).copied().unwrap_or_default();
        (node.partitions, node.in_doubt) = (held.in_sync, held.in_doubt);
        if let Some(drain) = &mut node.drain {
            drain.partitions_left = held.any;
            drain.bytes_left = if held.any == 0 { 0 } else { bytes(&node.store) };
            drain.time_left = time_left(drain.bytes_left, context.progress.rate());
        }
    }
    nodes.extend(context.candidates.iter().map(|(store, address)| candidate(*store, address, now)));
    let present = nodes.iter().filter(|node| node.state != NodeState::Away).count();
    // The shards hear of a loss a moment later, and until then count what the lost node holds.
    let lost = |node: &&NodeView| matches!(node.state, NodeState::Suspect | NodeState::Away);
    let lost: BTreeSet<_> = nodes.iter().filter(lost).map(|node| node.store).collect();
    let statuses = partitions().map(|(_, status)| status);
    ClusterView {
        cluster: membership.cluster().map(|cluster| cluster.id),
        epoch: context.epoch,
        tolerance: context.copies,
        min_replicas: context.floor,
        partitions: count(statuses, context.copies.min(present), &lost),
        repair: repair(context, &nodes, &summaries),
        nodes,
        doubt: doubt(&summaries),
        refusal: membership.refusal(),
    }
}

fn doubt(shards: &[Arc<Summary>]) -> DoubtView {
    DoubtView {
        restored_records: shards.iter().map(|shard| shard.restored_records).sum(),
        possible_losses: shards.iter().map(|shard| shard.possible_losses).sum(),
    }
}

/// What is left to be copied is guessed: every copy to come is as large as those there are on
/// average.
fn repair(context: &Context<'_>, nodes: &[NodeView], summaries: &[Arc<Summary>]) -> RepairView {
    let statuses = summaries.iter().flat_map(|summary| &summary.partitions);
    let queued = statuses.map(|(_, status)| status.missing).sum::<usize>();
    let beats = nodes.iter().filter_map(|node| Some((node, context.beats.get(&node.store)?)));
    let (copies, bytes) = beats.fold((0, 0), |(copies, bytes), (node, beat)| {
        (copies + node.partitions as u128, bytes + u128::from(beat.bytes))
    });
    let left = (bytes * queued as u128).checked_div(copies).unwrap_or(0);
    let bytes_left = u64::try_from(left).unwrap_or(u64::MAX);
    let bytes_per_second = context.progress.rate();
    RepairView {
        queued,
        running: summaries.iter().map(|summary| summary.copying).sum(),
        copied_bytes: context.progress.total(),
        bytes_left,
        bytes_per_second,
        time_left: time_left(bytes_left, bytes_per_second),
    }
}

/// How long so much takes at this rate; nothing while nothing moves.
fn time_left(bytes: u64, per_second: u64) -> Option<Duration> {
    if bytes == 0 {
        return Some(Duration::ZERO);
    }
    bytes.checked_div(per_second).map(|seconds| Duration::from_secs(seconds + 1))
}

/// Counts the partitions, of which each should have so many copies on stores that are not lost.
fn count<'a>(
    statuses: impl Iterator<Item = &'a Status>,
    copies: usize,
    lost: &BTreeSet<StoreId>,
) -> PartitionsView {
    let mut counted = PartitionsView::default();
    for status in statuses {
        counted.total += 1;
        counted.serving += usize::from(status.serving && status.writable);
        counted.unavailable += usize::from(!status.serving);
        counted.damaged_keys += status.frozen;
        counted.unreadable_keys += status.unreadable;
        let sound = status.copies.iter().filter(|copy| copy.is_sound());
        let there = sound.filter(|copy| !lost.contains(&copy.store)).count();
        counted.under_replicated += usize::from(there < copies);
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
        in_doubt: 0,
        slow: node.slow,
        disk: beat.map(|beat| disk(&beat.disk)).unwrap_or_default(),
        drain: node.info.drained.then(DrainView::default),
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
        in_doubt: 0,
        slow: false,
        disk: DiskView::default(),
        drain: None,
    }
}

fn disk(disk: &crate::rpc::v1::Disk) -> DiskView {
    DiskView { free: disk.free_bytes, total: disk.total_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::partition::CopyStatus;

    #[test]
    fn a_copy_on_a_lost_node_does_not_count_although_its_shard_has_not_heard_of_it() {
        let stores = [1, 2, 3].map(StoreId::from_number);
        let copy = |store| CopyStatus {
            store,
            in_sync: true,
            live: true,
            peered: true,
            doubt: Doubt::None,
        };
        let status = Status {
            serving: true,
            writable: true,
            copies: stores.map(copy).to_vec(),
            wanted: 3,
            missing: 0,
            unsettled: 0,
            frozen: 0,
            unreadable: 0,
        };
        let short = |lost: &[StoreId]| {
            count([&status].into_iter(), 3, &lost.iter().copied().collect()).under_replicated
        };
        assert_eq!(short(&[]), 0);
        assert_eq!(short(&stores[1..2]), 1);
    }
}
