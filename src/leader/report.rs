//! The cluster in a few lines of the log, every ten seconds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::shard::inbox::Summary;
use super::view::{ClusterView, NodeState, NodeView, Views};
use crate::runtime::tasks::Tasks;

/// How often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Starts the reports, which go on until the tasks are told to stop.
pub(super) fn start(views: Views, shards: Vec<watch::Receiver<Arc<Summary>>>, tasks: &Tasks) {
    let stop = tasks.clone();
    tasks.spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.tick().await;
        let mut before = Figures::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.stopping() => return,
            }
            let now = Figures::of(&shards);
            report(&views.current(), &now, now.answered - before.answered);
            before = now;
        }
    });
}

/// What all shards have done since the leader began.
#[derive(Debug, Default)]
struct Figures {
    answered: u64,
    copied_bytes: u64,
}

impl Figures {
    fn of(shards: &[watch::Receiver<Arc<Summary>>]) -> Self {
        shards.iter().fold(Self::default(), |sum, shard| {
            let summary = shard.borrow();
            let (answered, copied_bytes) = (summary.answered, summary.copied_bytes);
            Self {
                answered: sum.answered + answered,
                copied_bytes: sum.copied_bytes + copied_bytes,
            }
        })
    }
}

fn report(view: &ClusterView, figures: &Figures, lately: u64) {
    let partitions = &view.partitions;
    tracing::info!(
        messages = figures.answered,
        in_ten_seconds = lately,
        copied_bytes = figures.copied_bytes,
        live = view.nodes_in(NodeState::Live).count(),
        under_replicated = partitions.under_replicated,
        unavailable = partitions.unavailable,
        "cluster report"
    );
    let copies = view.nodes.iter().map(|node| node.partitions).sum::<usize>();
    for node in view.nodes_in(NodeState::Live) {
        let NodeView { store, address, records, partitions, .. } = node;
        let share = share_in_percent(*partitions, copies);
        tracing::info!(%store, address, records, partitions, share = format_args!("{share} %"),
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
