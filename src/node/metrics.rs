//! The node's metrics, made of its health whenever somebody scrapes.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::health::{Handle, Health};

/// Shows the node in a registry.
pub fn register(handle: &Handle, registry: &mut Registry) {
    registry.register_collector(Box::new(NodeMetrics { handle: handle.clone() }));
}

#[derive(Debug)]
struct NodeMetrics {
    handle: Handle,
}

impl Collector for NodeMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Before the node has taken its store there is nothing to tell.
        self.handle.health().map_or(Ok(()), |health| encode(&health, encoder))
    }
}

fn encode(health: &Health, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
    let mut gauge = |name: &str, unit: Option<Unit>, help: &str, value: u64| {
        let mut gauge = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        gauge.encode_gauge(&value)
    };
    let known = "1 if a leader knows the node and answers its heartbeats";
    gauge("node_registered", None, known, health.registered.into())?;
    gauge("epoch", None, "The epoch the node has promised", health.epoch.0)?;
    let partitions = health.partitions as u64;
    gauge("partitions", None, "Partitions the node holds whole", partitions)?;
    gauge("records", None, "Records the node holds", health.records)?;
    let help = "Deleted keys that the node still remembers";
    gauge("tombstones", None, help, health.tombstones)?;
    if let Some(disk) = &health.disk {
        gauge("disk_free", Some(Unit::Bytes), "What can still be written", disk.free)?;
        gauge("disk_total", Some(Unit::Bytes), "Size of the volume", disk.total)?;
    }
    let counts = &health.counts;
    let mut counter = |name: &str, unit: Option<Unit>, help: &str, value: u64| {
        let kind = MetricType::Counter;
        let mut counter = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        counter.encode_counter::<NoLabelSet, _, u64>(&value, None)
    };
    counter("batches", None, "Batches of the leader that were committed", counts.batches)?;
    counter("stored_records", None, "Records that were stored", counts.records)?;
    counter("stored", Some(Unit::Bytes), "Bytes that were stored", counts.bytes)?;
    counter("reads", None, "Reads that were answered", counts.reads)?;
    let help = "Bytes that came from other stores, for copies that are made here";
    counter("repair", Some(Unit::Bytes), help, counts.copied_bytes)?;
    counter("fsyncs", None, "Syncs of the log", health.syncs.durations.count())?;
    let (help, unit) = ("Syncs of the log, and the time they took", Unit::Seconds);
    let kind = MetricType::Histogram;
    let syncs = encoder.encode_descriptor("fsync_duration", help, Some(&unit), kind)?;
    health.syncs.durations.encode(syncs)?;
    durations(&mut encoder, "commit_duration", "Commits", counts.commits, counts.commit_time)
}

/// How often something was done, and how long it took in all.
fn durations(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    what: &str,
    count: u64,
    total: Duration,
) -> fmt::Result {
    let help = format!("{what}, and the time they took");
    let kind = MetricType::Histogram;
    let mut histogram = encoder.encode_descriptor(name, &help, Some(&Unit::Seconds), kind)?;
    let all = [(f64::INFINITY, count)];
    histogram.encode_histogram::<NoLabelSet>(total.as_secs_f64(), count, &all, None)
}
