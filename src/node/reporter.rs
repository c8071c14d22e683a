//! The line about itself that a node writes to its log every few seconds, and what it tells the
//! leader with its signs of life.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::figures::Counts;
use super::health::{Health, Shared};
use crate::rpc::v1;
use crate::runtime::tasks::Tasks;
use crate::storage::{self, Disk, Space, StoreSpace, VolumeDisk, slots};

/// How often a node reports.
const INTERVAL: Duration = Duration::from_secs(5);

/// Live records in the partitions that are held whole.
pub(crate) fn records(core: &Core) -> u64 {
    core.served.partitions().map(|partition| core.reader.live_records(partition)).sum()
}

/// Tombstones in these partitions.
pub(crate) fn tombstones(core: &Core) -> u64 {
    core.served.partitions().map(|partition| core.reader.counts(partition).tombstones).sum()
}

/// About how many bytes these take.
pub(crate) fn bytes(core: &Core) -> u64 {
    core.served.partitions().map(|partition| core.reader.bytes(partition)).sum()
}

/// The disk of an open store, as it travels.
pub(crate) fn disk(core: Option<&Core>) -> Option<v1::Disk> {
    core?.reader.space().ok().map(travelling)
}

/// The disk of a store that is yet to be opened.
pub(crate) fn disk_at(directory: &Path, options: &storage::Options) -> Option<v1::Disk> {
    let Space { free, total } = VolumeDisk::new(directory).and_then(|disk| disk.space()).ok()?;
    let reserve = options.reserve.bytes(total, options.segment_bytes);
    Some(travelling(StoreSpace { free, total, reserve }))
}

fn travelling(space: StoreSpace) -> v1::Disk {
    v1::Disk { free_bytes: space.free, total_bytes: space.total, reserve_bytes: space.reserve }
}

/// Reports until the tasks are to stop.
pub(crate) async fn report(shared: Arc<Shared>, tasks: Tasks) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.tick().await;
    let mut before = shared.figures.counts();
    loop {
        tokio::select! {
            () = tasks.stopping() => return,
            _ = ticks.tick() => {}
        }
        if let Some(health) = shared.health() {
            slots::mark_used(&health.directory);
            log(&health, before);
            before = health.counts;
        }
    }
}

fn log(health: &Health, before: Counts) {
    let seconds = INTERVAL.as_secs();
    let counts = health.counts;
    tracing::info!(
        store = %health.store,
        state = health.state,
        partitions = health.partitions,
        records = health.records,
        disk_free_bytes = health.disk.map(|disk| disk.free),
        commits_per_second = (counts.commits - before.commits) / seconds,
        stored_per_second = (counts.records - before.records) / seconds,
        reads_per_second = (counts.reads - before.reads) / seconds,
        copied_bytes_per_second = (counts.copied_bytes - before.copied_bytes) / seconds,
        sync_microseconds = health.syncs.last.as_micros(),
        "node report"
    );
}
