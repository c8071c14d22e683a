//! Tombstones that nobody needs any more (rule 25).
//!
//! A tombstone is kept for those who may still hold what it deletes. Once everything at or below the
//! watermark is on every member, and no copy is being filled that was begun before, nobody does: a
//! store that returns later counts for nothing until a member has vouched for what it has, and a
//! member's silence about a key vouches for nothing (rule 16). So no time has to pass, and no clock
//! says when.
//!
//! The leader decides: it raises the partition's *garbage floor* to the watermark and orders every
//! member to log it. A member drops its tombstones at or below the floor when that record is durable
//! in its log, and because of it, and takes no write at or below it from then on: whatever is
//! repeated late, or replayed, brings nothing back. The floor is logged as a watermark, too: what
//! nobody else would know to be settled any more, its owner does.
//!
//! * Members may be at different floors for a while. One that has an older floor has the tombstones
//!   that the others have not; nobody misses them. It is told again when it has answered a fence.
//! * A copy begins at the partition's floor, so that tombstones which its source has dropped make no
//!   difference between the two: what the store has of them goes first, and none will come.
//! * While a member is in doubt the floor stays: it may have lost a tombstone. One that had when the
//!   floor was raised forgets what its source has not, below the source's floor
//!   ([`crate::logic::comparison::is_deleted`]).
//! * No member hears of a floor before it has heard of the configuration under which it was reached,
//!   so metadata made anew (rule 30) names nobody who has not heard of a delete that is forgotten.

use std::time::Duration;

use crate::logic::comparison::Doubt;
use crate::logic::mutants::{self, Mutant};
use crate::types::{Moment, PartitionId, Version};

use super::Partition;
use super::io::{FenceAnswer, Order, Output};
use super::replicas::Replica;

/// Partitions take their turns one after the other: a node goes through the index of each.
const TURNS: u16 = 1024;

/// What the leader knows of a partition's tombstones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Garbage {
    /// The floor: some member may have dropped every tombstone at or below it.
    pub(super) floor: Version,
    /// No tombstone is newer, as far as it is known.
    newest: Version,
    /// When the floor is looked at next.
    turn: Moment,
}

impl Garbage {
    /// Nothing is known.
    pub(super) fn new(partition: PartitionId, began: Moment, interval: Duration) -> Self {
        let turn = began + interval * u32::from(partition.0 % TURNS) / u32::from(TURNS);
        Self { floor: Version::ZERO, newest: Version::ZERO, turn }
    }

    /// A delete was given this version.
    pub(super) fn deleted(&mut self, version: Version) {
        self.newest = self.newest.max(version);
    }

    /// A member has told what it holds.
    pub(super) fn told(&mut self, answer: &FenceAnswer) {
        self.floor = self.floor.max(answer.floor);
        if answer.tombstones > 0 {
            let newest = answer.records.iter().map(|record| record.version).max();
            self.deleted(newest.unwrap_or_default().max(answer.watermark));
        }
    }

    /// Whether it is this partition's turn. The next is an interval later, whatever is missed.
    fn take_turn(&mut self, now: Moment, interval: Duration) -> bool {
        let due = now >= self.turn;
        if due {
            let missed = now.since(self.turn).as_micros() / interval.as_micros().max(1);
            self.turn = self.turn + interval * u32::try_from(missed + 1).unwrap_or(u32::MAX);
        }
        due
    }
}

impl Partition {
    /// Raises the garbage floor, and tells it to whoever has an older one.
    pub(super) fn drop_tombstones(&mut self, out: &mut Vec<Output>) {
        if !self.garbage.take_turn(self.now, self.settings.tombstone_interval)
            || !self.may_raise_floor()
        {
            return;
        }
        let settled = if mutants::enabled(Mutant::FloorAboveWatermark) {
            Version::new(self.epoch, self.seq)
        } else {
            self.watermark
        };
        if self.garbage.newest > self.garbage.floor {
            self.garbage.floor = self.garbage.floor.max(settled);
        }
        let floor = self.garbage.floor;
        for (_, replica) in self.replicas.iter_mut().filter(|(_, replica)| replica.floor < floor) {
            replica.floor = floor;
            out.push(Output::Order { to: replica.address(), order: Order::GarbageFloor(floor) });
        }
    }

    /// Every copy is a member that has all that is settled, for certain, and none is about to come
    /// or to go.
    fn may_raise_floor(&self) -> bool {
        let fit = |replica: &Replica| {
            let member = replica.is_member() || mutants::enabled(Mutant::FloorWhileFilling);
            let sound = replica.doubt == Doubt::None || mutants::enabled(Mutant::FloorInDoubt);
            let there = replica.peered && self.state_of(replica.store).is_live();
            member && sound && there && !replica.disowned
        };
        let steady = self.serving && self.told && self.proposed.is_none() && !self.unconfirmed;
        steady && self.replicas.iter().all(|(_, replica)| fit(replica))
    }
}
