//! The cluster's metrics, made of the latest view whenever somebody scrapes, and the cache's.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::view::{ClusterView, NodeState, NodeView, Views};
use crate::logic::partition::cache::{Cache, Figures};
use crate::runtime::clock;

/// Shows the views, and what the cache has done, in a registry.
pub fn register(views: &Views, cache: &Cache, registry: &mut Registry) {
    let metrics = ClusterMetrics { views: views.clone(), cache: cache.clone() };
    registry.register_collector(Box::new(metrics));
}

#[derive(Debug)]
struct ClusterMetrics {
    views: Views,
    cache: Cache,
}

/// Writes figures to a scrape.
struct Scrape<'a>(DescriptorEncoder<'a>);

impl Scrape<'_> {
    /// One gauge without labels.
    fn one(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A counter without labels.
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
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
        let mut scrape = Scrape(encoder);
        encode_cluster(&view, &mut scrape)?;
        encode_nodes(&view, &mut scrape)?;
        encode_cache(self.cache.figures(), &mut scrape)
    }
}

fn encode_cache(figures: Figures, scrape: &mut Scrape<'_>) -> fmt::Result {
    scrape.counter("cache_hits", "Reads answered from the leader's memory", figures.hits)?;
    scrape.counter("cache_misses", "Reads for which a copy was asked", figures.misses)?;
    let bytes = usize::try_from(figures.bytes).unwrap_or(usize::MAX);
    scrape.one("cache_bytes", "Bytes of values in the leader's memory", bytes)
}

fn encode_cluster(view: &ClusterView, scrape: &mut Scrape<'_>) -> fmt::Result {
    let partitions = &view.partitions;
    let epoch = usize::try_from(view.epoch.0).unwrap_or(usize::MAX);
    let help = "1 if every partition serves and has all its copies";
    scrape.one("cluster_healthy", help, view.is_healthy().into())?;
    let help = "1 if every partition serves";
    scrape.one("cluster_available", help, view.is_available().into())?;
    scrape.one("epoch", "The epoch of this leader", epoch)?;
    scrape.one("partitions", "Partitions in all", partitions.total)?;
    let help = "Partitions with fewer in-sync copies than they should have";
    scrape.one("under_replicated_partitions", help, partitions.under_replicated)?;
    let help = "Partitions that serve no reads";
    scrape.one("unavailable_partitions", help, partitions.unavailable)?;
    let help = "Settled records that stores had lost and fetched again since the leader began";
    scrape.one("restored_records", help, number(view.doubt.restored_records))?;
    let help = "Partitions of which every copy may have lost something since the leader began";
    scrape.one("possible_losses", help, number(view.doubt.possible_losses))?;
    let help = "Keys that are frozen because their copies disagree";
    scrape.one("damaged_keys", help, partitions.damaged_keys)?;
    let help = "Keys whose record no copy can read";
    scrape.one("unreadable_keys", help, partitions.unreadable_keys)?;
    let help = "Copies that are to be made, those in the making included";
    scrape.one("repair_queue_length", help, view.repair.queued)?;
    let help = "Bytes that came to nodes for copies since the leader began";
    scrape.counter("repair_bytes", help, view.repair.copied_bytes)
}

fn encode_nodes(view: &ClusterView, scrape: &mut Scrape<'_>) -> fmt::Result {
    let now = clock::now();
    let state = |state: NodeState| ([("state", state.name())], count(view.nodes_in(state).count()));
    scrape.family(("nodes", None), "Nodes by state", NodeState::ALL.map(state))?;
    let age = |node: &NodeView| Some((label(node), now.since(node.heard?).as_secs_f64()));
    let help = "Since the last heartbeat of a node";
    let ages = view.nodes.iter().filter_map(age);
    scrape.family(("node_heartbeat_age", Some(Unit::Seconds)), help, ages)?;
    let records = view.nodes.iter().map(|node| (label(node), node.records));
    scrape.family(("node_records", None), "Records a node holds", records)?;
    let slow = view.nodes.iter().map(|node| (label(node), u64::from(node.slow)));
    let help = "1 if a node is slower than the others by far";
    scrape.family(("node_slow", None), help, slow)?;
    let doubt = view.nodes.iter().map(|node| (label(node), count(node.in_doubt)));
    let help = "Copies of a node that are to be compared, since it stopped uncleanly";
    scrape.family(("node_copies_in_doubt", None), help, doubt)?;
    let free = view.nodes.iter().map(|node| (label(node), node.disk.free));
    scrape.family(("disk_free", Some(Unit::Bytes)), "Free on a node's disk", free)?;
    let total = view.nodes.iter().map(|node| (label(node), node.disk.total));
    scrape.family(("disk_total", Some(Unit::Bytes)), "Size of a node's disk", total)
}

fn label(node: &NodeView) -> [(&'static str, String); 1] {
    [("node", node.store.to_string())]
}

fn number(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::view::{DiskView, DoubtView, PartitionsView, RepairView};
    use crate::runtime::metrics;
    use crate::types::{Epoch, StoreId};

    #[test]
    fn a_scrape_shows_the_latest_view() {
        let views = Views::new();
        let mut registry = metrics::registry();
        let cache = Cache::new(1000);
        cache.count_hits(7);
        register(&views, &cache, &mut registry);
        let node = NodeView {
            store: StoreId::from_number(1),
            address: "10.0.0.1:50052".into(),
            state: NodeState::Live,
            heard: Some(clock::now()),
            records: 12,
            partitions: 3,
            in_doubt: 2,
            slow: true,
            disk: DiskView { free: 5, total: 10 },
            drain: None,
        };
        views.publish(ClusterView {
            epoch: Epoch(9),
            nodes: vec![node],
            partitions: PartitionsView {
                total: 4,
                serving: 4,
                under_replicated: 1,
                unavailable: 0,
                damaged_keys: 2,
                unreadable_keys: 3,
            },
            doubt: DoubtView { restored_records: 7, possible_losses: 1 },
            repair: RepairView { queued: 7, copied_bytes: 99, ..RepairView::default() },
            ..ClusterView::default()
        });
        let text = metrics::encode(&registry).unwrap();
        let node = r#"{node="00000000-0000-0000-0000-000000000001"}"#;
        for line in [
            "hatokuse_cluster_healthy 0",
            "hatokuse_cluster_available 1",
            "hatokuse_epoch 9",
            "hatokuse_cache_hits_total 7",
            "hatokuse_cache_misses_total 0",
            "hatokuse_cache_bytes 0",
            "hatokuse_under_replicated_partitions 1",
            "hatokuse_unavailable_partitions 0",
            "hatokuse_restored_records 7",
            "hatokuse_possible_losses 1",
            &format!("hatokuse_node_copies_in_doubt{node} 2"),
            &format!("hatokuse_node_slow{node} 1"),
            "hatokuse_damaged_keys 2",
            "hatokuse_unreadable_keys 3",
            "hatokuse_repair_queue_length 7",
            "hatokuse_repair_bytes_total 99",
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
