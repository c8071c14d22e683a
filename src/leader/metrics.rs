//! The cluster's metrics, made of the latest view whenever somebody scrapes.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::view::{ClusterView, NodeState, NodeView, Views};
use crate::runtime::clock;

/// Shows the views in a registry.
pub fn register(views: &Views, registry: &mut Registry) {
    registry.register_collector(Box::new(ClusterMetrics { views: views.clone() }));
}

#[derive(Debug)]
struct ClusterMetrics {
    views: Views,
}

/// Writes gauges to a scrape.
struct Gauges<'a>(DescriptorEncoder<'a>);

impl Gauges<'_> {
    /// One gauge without labels.
    fn one(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A gauge with a value for each label.
    fn family<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in values {
            encoder.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

impl Collector for ClusterMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.views.current();
        let mut gauges = Gauges(encoder);
        encode_cluster(&view, &mut gauges)?;
        encode_nodes(&view, &mut gauges)
    }
}

fn encode_cluster(view: &ClusterView, gauges: &mut Gauges<'_>) -> fmt::Result {
    let partitions = &view.partitions;
    let epoch = usize::try_from(view.epoch.0).unwrap_or(usize::MAX);
    let help = "1 if every partition serves and has all its copies";
    gauges.one("cluster_healthy", help, view.is_healthy().into())?;
    let help = "1 if every partition serves";
    gauges.one("cluster_available", help, view.is_available().into())?;
    gauges.one("epoch", "The epoch of this leader", epoch)?;
    gauges.one("partitions", "Partitions in all", partitions.total)?;
    let help = "Partitions with fewer in-sync copies than they should have";
    gauges.one("under_replicated_partitions", help, partitions.under_replicated)?;
    let help = "Partitions that serve no reads";
    gauges.one("unavailable_partitions", help, partitions.unavailable)
}

fn encode_nodes(view: &ClusterView, gauges: &mut Gauges<'_>) -> fmt::Result {
    let now = clock::now();
    let state = |state: NodeState| ([("state", state.name())], count(view.nodes_in(state).count()));
    gauges.family(("nodes", None), "Nodes by state", NodeState::ALL.map(state))?;
    let age = |node: &NodeView| Some((label(node), now.since(node.heard?).as_secs_f64()));
    let help = "Since the last heartbeat of a node";
    let ages = view.nodes.iter().filter_map(age);
    gauges.family(("node_heartbeat_age", Some(Unit::Seconds)), help, ages)?;
    let records = view.nodes.iter().map(|node| (label(node), node.records));
    gauges.family(("node_records", None), "Records a node holds", records)?;
    let free = view.nodes.iter().map(|node| (label(node), node.disk.free));
    gauges.family(("disk_free", Some(Unit::Bytes)), "Free on a node's disk", free)?;
    let total = view.nodes.iter().map(|node| (label(node), node.disk.total));
    gauges.family(("disk_total", Some(Unit::Bytes)), "Size of a node's disk", total)
}

fn label(node: &NodeView) -> [(&'static str, String); 1] {
    [("node", node.store.to_string())]
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::view::{DiskView, PartitionsView};
    use crate::runtime::metrics;
    use crate::types::{Epoch, StoreId};

    #[test]
    fn a_scrape_shows_the_latest_view() {
        let views = Views::new();
        let mut registry = metrics::registry();
        register(&views, &mut registry);
        let node = NodeView {
            store: StoreId::from_number(1),
            address: "10.0.0.1:50052".into(),
            state: NodeState::Live,
            heard: Some(clock::now()),
            records: 12,
            partitions: 3,
            disk: DiskView { free: 5, total: 10 },
        };
        views.publish(ClusterView {
            epoch: Epoch(9),
            nodes: vec![node],
            partitions: PartitionsView {
                total: 4,
                serving: 4,
                under_replicated: 1,
                unavailable: 0,
            },
            ..ClusterView::default()
        });
        let text = metrics::encode(&registry).unwrap();
        let node = r#"{node="00000000-0000-0000-0000-000000000001"}"#;
        for line in [
            "hatokuse_cluster_healthy 0",
            "hatokuse_cluster_available 1",
            "hatokuse_epoch 9",
            "hatokuse_under_replicated_partitions 1",
            "hatokuse_unavailable_partitions 0",
            r#"hatokuse_nodes{state="live"} 1"#,
            r#"hatokuse_nodes{state="away"} 0"#,
            &format!("hatokuse_node_records{node} 12"),
            &format!("hatokuse_disk_free_bytes{node} 5"),
            &format!("hatokuse_disk_total_bytes{node} 10"),
        ] {
            assert!(text.lines().any(|each| each == line), "no line {line} in:\n{text}");
        }
        assert!(text.contains(&format!("hatokuse_node_heartbeat_age_seconds{node} ")), "{text}");
    }
}
