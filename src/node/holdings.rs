//! What the store holds and knows of each partition, told to a leader that has lost its metadata, or
//! that looks for what is left of a partition.

use std::sync::Arc;

use tonic::Status;

use super::core::Core;
use crate::rpc::{convert, v1};
use crate::runtime::workers;
use crate::types::{Epoch, PartitionId, Version};

/// The version of the newest configuration heard of, of each partition up to the last of which any
/// was.
pub(super) fn versions(core: &Core) -> Vec<u64> {
    let heard = |partition| {
        let membership = core.reader.membership(partition);
        membership.configuration.map_or(0, |configuration| configuration.version.0)
    };
    let (_, partitions) = core.terms;
    let mut versions: Vec<u64> = partitions.all().map(heard).collect();
    let last = versions.iter().rposition(|version| *version > 0);
    versions.truncate(last.map_or(0, |last| last + 1));
    versions
}

/// Answers a leader. If it names an epoch, that is promised first, durably: what is told then is not
/// changed by any earlier leader, whatever of it is still on its way.
pub(super) async fn holdings(
    core: Arc<Core>,
    open: &v1::Open,
) -> Result<v1::HoldingsReply, Status> {
    if open.epoch > 0 {
        let stream = core.stream(open)?;
        core.commits.open(Arc::clone(&stream)).await?;
        core.commits.ended(stream);
    } else {
        core.check_addressee(&open.cluster_id, &open.store_id)?;
    }
    let told = workers::once(move || told(&core)).await;
    told.map_err(|_| Status::internal("the store could not be asked"))
}

fn told(core: &Core) -> v1::HoldingsReply {
    let (index_key, partitions) = core.terms;
    let Epoch(promised) = core.reader.promised();
    v1::HoldingsReply {
        index_key: convert::id_bytes(&index_key.0),
        partitions: u32::from(partitions.get()),
        promised,
        holdings: partitions.all().filter_map(|partition| holding(core, partition)).collect(),
    }
}

/// A partition that the store was told to drop is not held, though it is kept aside for a while.
fn holding(core: &Core, partition: PartitionId) -> Option<v1::Holding> {
    let token = core.served.token(partition).map_or(0, |token| token.0);
    let membership = core.reader.membership(partition);
    let configuration = membership.configuration.as_ref().map(v1::Configuration::from);
    let counts = core.reader.counts(partition);
    let nothing = counts.records + counts.unvouched == 0;
    if token == 0 && configuration.is_none() && nothing {
        return None;
    }
    let above = core.reader.above_watermark(partition);
    let newest = above.last().map_or(Version::ZERO, |summary| summary.version);
    let newest = newest.max(membership.watermark);
    Some(v1::Holding {
        partition: u32::from(partition.0),
        token,
        configuration,
        newest_epoch: newest.epoch.0,
        newest_seq: newest.seq,
        records: counts.records,
        loose_records: counts.unvouched,
    })
}
