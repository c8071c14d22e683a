//! What the leader answers to probes.

use tokio::sync::watch;

use super::view::{NodeState, Views};
use crate::admin::{Check, Health, Probe};

/// The leader's health, made of the latest view.
#[derive(Debug)]
pub(super) struct LeaderHealth {
    pub(super) views: Views,
    /// Why the leader does not serve, if it must not.
    pub(super) refusal: watch::Receiver<Option<String>>,
}

impl Health for LeaderHealth {
    fn checks(&self, probe: Probe) -> Vec<Check> {
        match probe {
            // That it answers is all there is to see.
            Probe::Live => vec![Check::passed("process")],
            Probe::Ready => vec![self.cluster(), self.partitions()],
            Probe::Healthy => vec![self.refused(), self.copies(), self.nodes()],
        }
    }
}

fn check(name: &'static str, failure: Option<String>) -> Check {
    failure.map_or_else(|| Check::passed(name), |reason| Check::failed(name, reason))
}

impl LeaderHealth {
    fn refused(&self) -> Check {
        check("metadata", self.refusal.borrow().clone())
    }

    fn cluster(&self) -> Check {
        let view = self.views.current();
        if let Some(reason) = self.refusal.borrow().clone() {
            return Check::failed("cluster", reason);
        }
        let (have, need) = (view.nodes.len(), view.min_replicas);
        let missing = view.cluster.is_none();
        let reason = || format!("no cluster yet: {have} nodes have come, {need} are needed");
        check("cluster", missing.then(reason))
    }

    fn partitions(&self) -> Check {
        let view = self.views.current();
        let counted = &view.partitions;
        let missing = counted.total - counted.serving;
        let reason = || format!("{missing} of {} partitions do not serve", counted.total);
        check("partitions", (missing > 0).then(reason))
    }

    /// Before there is a cluster nothing is missing: a leader may wait for nodes.
    fn copies(&self) -> Check {
        let view = self.views.current();
        let short = view.partitions.under_replicated;
        check("copies", (short > 0).then(|| format!("{short} partitions have too few copies")))
    }

    fn nodes(&self) -> Check {
        let view = self.views.current();
        let suspect = view.nodes_in(NodeState::Suspect).count();
        let away = view.nodes_in(NodeState::Away).filter(|node| node.partitions > 0).count();
        let reason = || format!("{suspect} nodes are suspect, {away} that hold copies are away");
        check("nodes", (suspect + away > 0).then(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::view::{ClusterView, PartitionsView};
    use crate::types::ClusterId;

    fn health(view: ClusterView, refusal: Option<&str>) -> LeaderHealth {
        let views = Views::new();
        views.publish(view);
        LeaderHealth { views, refusal: watch::channel(refusal.map(str::to_owned)).1 }
    }

    fn failures(health: &LeaderHealth, probe: Probe) -> Vec<&'static str> {
        let checks = health.checks(probe).into_iter();
        checks.filter(|check| check.reason.is_some()).map(|check| check.check).collect()
    }

    #[test]
    fn a_leader_without_any_node_is_healthy_but_not_ready() {
        let health = health(ClusterView::default(), None);
        assert_eq!(failures(&health, Probe::Healthy), [""; 0]);
        assert_eq!(failures(&health, Probe::Ready), ["cluster"]);
    }

    #[test]
    fn a_partition_that_does_not_serve_is_seen() {
        let partitions = PartitionsView {
            total: 4,
            serving: 3,
            under_replicated: 2,
            unavailable: 1,
            damaged_keys: 0,
            unreadable_keys: 0,
        };
        let cluster = Some(ClusterId::from_number(1));
        let view = ClusterView { cluster, partitions, ..ClusterView::default() };
        let health = health(view, None);
        assert_eq!(failures(&health, Probe::Ready), ["partitions"]);
        assert_eq!(failures(&health, Probe::Healthy), ["copies"]);
    }

    #[test]
    fn a_leader_that_must_not_serve_says_so() {
        let health = health(ClusterView::default(), Some("full stores"));
        assert_eq!(failures(&health, Probe::Healthy), ["metadata"]);
        assert_eq!(failures(&health, Probe::Ready), ["cluster"]);
    }
}
