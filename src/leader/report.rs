//! The cluster in a few lines of the log, every ten seconds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::gateway::recall::Recall;
use super::shard::inbox::Summary;
use super::view::{ClusterView, NodeState, NodeView, Views};
use crate::runtime::tasks::Tasks;

/// How often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Starts the reports, which go on until the tasks are told to stop.
pub(super) fn start(
    views: Views,
    shards: Vec<watch::Receiver<Arc<Summary>>>,
    recall: Recall,
    tasks: &Tasks,
) {
    let stop = tasks.clone();
    tasks.spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.tick().await;
        let mut before = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.stopping() => return,
            }
            let now = answered(&shards, &recall);
            report(&views.current(), now, now - before);
            before = now;
        }
    });
}

/// Requests that were answered since the leader began: by shards, and from the cache before them.
fn answered(shards: &[watch::Receiver<Arc<Summary>>], recall: &Recall) -> u64 {
    recall.answered() + shards.iter().map(|shard| shard.borrow().answered).sum::<u64>()
}

fn report(view: &ClusterView, messages: u64, lately: u64) {
    let (partitions, repair) = (&view.partitions, &view.repair);
    tracing::info!(
        messages,
        in_ten_seconds = lately,
        copied_bytes = repair.copied_bytes,
        live = view.nodes_in(NodeState::Live).count(),
        under_replicated = partitions.under_replicated,
        unavailable = partitions.unavailable,
        "cluster report"
    );
    if repair.queued > 0 {
        tracing::info!(
            copies_left = repair.queued,
            under_way = repair.running,
            bytes_left = repair.bytes_left,
            bytes_per_second = repair.bytes_per_second,
            seconds_left = repair.time_left.map(|time| time.as_secs()),
            "copies are being made"
        );
    }
    for (node, drain) in view.nodes.iter().filter_map(|node| Some((node, node.drain?))) {
        tracing::info!(store = %node.store, "{drain}");
    }
    let copies = view.nodes.iter().map(|node| node.partitions).sum::<usize>();
    for node in view.nodes_in(NodeState::Live) {
        let NodeView { store, address, records, partitions, slow, .. } = node;
        let share = share_in_percent(*partitions, copies);
        tracing::info!(%store, address, records, partitions, slow, share = format_args!("{share} %"),
            "node");
    }
}

/// Rounded.
fn share_in_percent(part: usize, whole: usize) -> usize {
    (100 * part + whole / 2).checked_div(whole).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_and_of_nothing_nothing() {
        assert_eq!(share_in_percent(0, 0), 0);
        assert_eq!(share_in_percent(1, 3), 33);
        assert_eq!(share_in_percent(2, 3), 67);
    }
}
