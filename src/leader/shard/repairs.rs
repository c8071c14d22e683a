//! When copies are begun: the partitions say what they want, [`repair`] says what may be now.

use super::Shard;
use crate::logic::partition::io::Input;
use crate::logic::partition::{Partition, Status};
use crate::logic::repair::{self, Copying, Limits, Wish};
use crate::types::StoreId;

impl Shard {
    /// Admits copies of which there is room for.
    pub(super) fn repair(&mut self) {
        self.forget_ended_copies();
        let wishes: Vec<Wish> = self.partitions.iter().filter_map(wish).collect();
        if wishes.is_empty() {
            return;
        }
        let running: Vec<Copying> = self
            .carrier
            .copying
            .values()
            .map(|(target, source)| Copying { target: *target, source: *source })
            .collect();
        let limits = Limits::CLUSTER.divided_by(self.shards);
        for Wish { partition, target, .. } in repair::admit(limits, &running, wishes) {
            self.step(partition, Input::Admit(target));
        }
    }

    fn forget_ended_copies(&mut self) {
        let (partitions, shards) = (&self.partitions, self.shards);
        self.carrier.copying.retain(|id, (target, _)| {
            let status = partitions.get(id.index() / shards).map(Partition::status);
            status.is_some_and(|status| is_filling(&status, *target))
        });
    }
}

fn is_filling(status: &Status, target: StoreId) -> bool {
    status.copies.iter().any(|copy| copy.store == target && !copy.in_sync)
}

fn wish(partition: &Partition) -> Option<Wish> {
    let target = partition.wanted()?;
    let status = partition.status();
    let sound = status.copies.iter().filter(|copy| copy.is_sound());
    let sources = sound.map(|copy| copy.store).collect();
    Some(Wish { partition: partition.id(), target, copies: status.live_copies(), sources })
}
