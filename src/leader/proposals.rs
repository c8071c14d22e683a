//! Makes the partitions' proposals durable.
//!
//! The death of a node changes some hundred configurations at once. They come from all shards to
//! one task, which makes everything that has queued while the last write was under way durable with
//! the next one: one fsync for all of them (rule 3b).

use tokio::sync::mpsc;

use super::shard::inbox::{Event, Proposal};
use crate::logic::membership::Change;
use crate::meta::local::MetadataHandle;
use crate::meta::{Metadata, MetadataError};
use crate::runtime::tasks::Tasks;

/// Proposals taken at once; there is at most one of each partition.
const TAKE: usize = 4096;

/// Starts the task, which runs until the tasks are told to stop. If the metadata fails it says so
/// and makes nothing durable any more: what was proposed stays undecided, and the leader must stop.
pub(super) fn start(
    mut proposals: mpsc::UnboundedReceiver<Proposal>,
    metadata: MetadataHandle,
    shards: Vec<mpsc::Sender<Event>>,
    failed: mpsc::Sender<MetadataError>,
    tasks: &Tasks,
) {
    let stop = tasks.clone();
    tasks.spawn(async move {
        let mut taken = Vec::new();
        loop {
            tokio::select! {
                count = proposals.recv_many(&mut taken, TAKE) => if count == 0 { return },
                () = stop.stopping() => return,
            }
            if let Err(error) = make_durable(&mut taken, &metadata, &shards).await {
                tracing::error!(%error, "the metadata failed; the leader must stop");
                let _ = failed.send(error).await;
                return;
            }
        }
    });
}

async fn make_durable(
    proposals: &mut Vec<Proposal>,
    metadata: &MetadataHandle,
    shards: &[mpsc::Sender<Event>],
) -> Result<(), MetadataError> {
    let mut done: Vec<Vec<_>> = shards.iter().map(|_| Vec::new()).collect();
    let mut changes = Vec::with_capacity(proposals.len());
    for Proposal { shard, partition, configuration, forced } in proposals.drain(..) {
        if let Some(done) = done.get_mut(shard) {
            done.push((partition, configuration.version));
        }
        changes.push(if forced {
            Change::Rebuilt(partition, configuration)
        } else {
            Change::Configuration(partition, configuration)
        });
    }
    metadata.propose(changes).await?;
    for (shard, done) in shards.iter().zip(done).filter(|(_, done)| !done.is_empty()) {
        // Nobody listens only when the leader stops.
        let _ = shard.send(Event::Configured(done)).await;
    }
    Ok(())
}
