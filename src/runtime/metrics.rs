//! Metrics: a registry for each instance, and counters cheap enough for the data path.
//!
//! A registry belongs to one leader or node rather than to the process, so that several can live
//! in one process and be told apart. All names begin with `hatokuse_` and use base units.
//!
//! The data path never touches a shared counter for a single request: a connection keeps a
//! [`Tally`] of what it answered and adds it to [`RequestMetrics`] once for each chunk, with plain
//! atomic additions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use smallvec::SmallVec;

use crate::protocol::command::Command;
use crate::protocol::reply::Code;

/// A registry for one instance, with its build information.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("hatokuse");
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "Which build this is", build);
    registry
}

/// Upper bounds of the buckets of a [`DurationHistogram`], in microseconds. What is longer falls
/// into one more bucket without a bound.
const BOUNDS: [u64; 17] = [
    50, 100, 200, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000,
    500_000, 1_000_000, 2_000_000, 5_000_000,
];
const BUCKETS: usize = BOUNDS.len() + 1;

/// The bucket a duration falls into.
fn bucket_of(duration: Duration) -> usize {
    BOUNDS.partition_point(|bound| u128::from(*bound) < duration.as_micros())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

/// A histogram of durations without a lock. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct DurationHistogram {
    shared: Arc<HistogramCounts>,
}

#[derive(Debug, Default)]
struct HistogramCounts {
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

impl DurationHistogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        self.add(bucket_of(duration), 1, micros(duration));
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.shared.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    fn add(&self, bucket: usize, count: u64, sum_micros: u64) {
        if let Some(bucket) = self.shared.buckets.get(bucket) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.shared.sum_micros.fetch_add(sum_micros, Ordering::Relaxed);
    }
}

impl EncodeMetric for DurationHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
        let counts = self.shared.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = seconds(self.shared.sum_micros.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Commands, and one place for requests that were none.
const COMMANDS: usize = Command::ALL.len() + 1;
const CODES: usize = Code::ALL.len();

/// The name under which a command's place in the table is counted.
fn command_name(place: usize) -> String {
    let command = Command::ALL.get(place).map_or("invalid", |command| command.word());
    command.to_ascii_lowercase()
}

fn place_of(command: Option<Command>) -> usize {
    let found = command.and_then(|command| Command::ALL.iter().position(|each| *each == command));
    found.unwrap_or(Command::ALL.len())
}

/// Requests by command and result, and how long they took. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct RequestMetrics {
    shared: Arc<RequestCounts>,
}

#[derive(Debug, Default)]
struct RequestCounts {
    results: [[AtomicU64; CODES]; COMMANDS],
    durations: [DurationHistogram; COMMANDS],
}

impl RequestMetrics {
    /// How many requests of a command ended so; without a command, requests that were none.
    pub fn count(&self, command: Option<Command>, code: Code) -> u64 {
        let code = Code::ALL.iter().position(|each| *each == code);
        let row = self.shared.results.get(place_of(command));
        let counter = row.zip(code).and_then(|(row, code)| row.get(code));
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    fn encode_results(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (place, row) in self.shared.results.iter().enumerate() {
            let command = command_name(place);
            for (code, counter) in Code::ALL.iter().zip(row) {
                let count = counter.load(Ordering::Relaxed);
                if count > 0 {
                    let result = code.word().to_ascii_lowercase();
                    encoder
                        .encode_family(&[("command", command.clone()), ("result", result)])?
                        .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
                }
            }
        }
        Ok(())
    }

    fn encode_durations(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (place, histogram) in self.shared.durations.iter().enumerate() {
            if histogram.count() > 0 {
                histogram.encode(encoder.encode_family(&[("command", command_name(place))])?)?;
            }
        }
        Ok(())
    }
}

impl Collector for RequestMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests answered, by command and result";
        self.encode_results(encoder.encode_descriptor(
            "requests",
            help,
            None,
            MetricType::Counter,
        )?)?;
        let help = "From the arrival of a request to its reply being ready";
        let unit = Unit::Seconds;
        self.encode_durations(encoder.encode_descriptor(
            "request_duration",
            help,
            Some(&unit),
            MetricType::Histogram,
        )?)
    }
}

/// What one connection answered since it last told.
#[derive(Debug, Default)]
pub struct Tally {
    entries: SmallVec<[TallyEntry; 4]>,
}

#[derive(Debug)]
struct TallyEntry {
    command: usize,
    code: Code,
    bucket: usize,
    count: u64,
    sum_micros: u64,
}

impl Tally {
    /// Counts one request.
    pub fn count(&mut self, command: Option<Command>, code: Code, took: Duration) {
        let (command, bucket) = (place_of(command), bucket_of(took));
        let same = |entry: &&mut TallyEntry| {
            entry.command == command && entry.code == code && entry.bucket == bucket
        };
        match self.entries.iter_mut().find(same) {
            Some(entry) => {
                entry.count += 1;
                entry.sum_micros += micros(took);
            }
            None => self.entries.push(TallyEntry {
                command,
                code,
                bucket,
                count: 1,
                sum_micros: micros(took),
            }),
        }
    }

    /// Adds everything counted to the shared counters, and begins anew.
    pub fn flush(&mut self, into: &RequestMetrics) {
        for entry in self.entries.drain(..) {
            let code = Code::ALL.iter().position(|each| *each == entry.code);
            let row = into.shared.results.get(entry.command);
            if let Some(counter) = row.zip(code).and_then(|(row, code)| row.get(code)) {
                counter.fetch_add(entry.count, Ordering::Relaxed);
            }
            if let Some(histogram) = into.shared.durations.get(entry.command) {
                histogram.add(entry.bucket, entry.count, entry.sum_micros);
            }
        }
    }
}

/// What is counted about clients. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct ClientMetrics {
    /// Requests answered.
    pub requests: RequestMetrics,
    /// Connections open now.
    pub connections: Gauge,
    /// Connections turned away because there were too many.
    pub refused_connections: Counter,
    /// Connections ended because their clients kept them waiting.
    pub timed_out_connections: Counter,
    /// Bytes read from clients.
    pub received: Counter,
    /// Bytes written to clients.
    pub sent: Counter,
}

impl ClientMetrics {
    /// Counters that nobody has seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows them in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.requests.clone()));
        let help = "Client connections that are open";
        registry.register("connections", help, self.connections.clone());
        let help = "Client connections turned away because there were too many";
        registry.register("refused_connections", help, self.refused_connections.clone());
        let help =
            "Client connections ended because no end of a request came, or no reply was read";
        registry.register("timed_out_connections", help, self.timed_out_connections.clone());
        let help = "Bytes read from clients";
        registry.register_with_unit("client_received", help, Unit::Bytes, self.received.clone());
        let help = "Bytes written to clients";
        registry.register_with_unit("client_sent", help, Unit::Bytes, self.sent.clone());
    }
}

/// Everything in a registry, in the text format that Prometheus scrapes.
pub fn encode(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    Ok(text)
}

/// The content type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tallied_is_scraped() {
        let metrics = ClientMetrics::new();
        let mut registry = registry();
        metrics.register(&mut registry);
        let mut tally = Tally::default();
        for _ in 0..3 {
            tally.count(Some(Command::Set), Code::Ok, Duration::from_micros(150));
        }
        tally.count(Some(Command::Set), Code::Uncertain, Duration::from_secs(9));
        tally.count(None, Code::UnknownCommand, Duration::ZERO);
        assert_eq!(metrics.requests.count(Some(Command::Set), Code::Ok), 0, "not told yet");
        tally.flush(&metrics.requests);
        tally.flush(&metrics.requests);
        assert_eq!(metrics.requests.count(Some(Command::Set), Code::Ok), 3);

        let text = encode(&registry).unwrap();
        for line in [
            r#"hatokuse_requests_total{command="set",result="ok"} 3"#,
            r#"hatokuse_requests_total{command="set",result="uncertain"} 1"#,
            r#"hatokuse_requests_total{command="invalid",result="unknown_command"} 1"#,
            r#"hatokuse_request_duration_seconds_bucket{le="0.0001",command="set"} 0"#,
            r#"hatokuse_request_duration_seconds_bucket{le="0.0002",command="set"} 3"#,
            r#"hatokuse_request_duration_seconds_bucket{le="+Inf",command="set"} 4"#,
            r#"hatokuse_request_duration_seconds_sum{command="set"} 9.00045"#,
            "hatokuse_connections 0",
            concat!(r#"hatokuse_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ] {
            assert!(text.lines().any(|each| each == line), "no line {line} in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        assert_eq!(bucket_of(Duration::ZERO), 0);
        assert_eq!(bucket_of(Duration::from_micros(50)), 0);
        assert_eq!(bucket_of(Duration::from_micros(51)), 1);
        assert_eq!(bucket_of(Duration::from_hours(1)), BUCKETS - 1);
    }
}
