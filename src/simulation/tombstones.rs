//! Tombstones that are dropped (rule 25): what stores do with a floor, and what is asserted of it.
//!
//! A delete that is forgotten is as good as held by a store whose floor is at or above it, as long as
//! nothing of the key is there. A store without it is one in which the key may come back.

use std::collections::BTreeSet;

use super::node::Node;
use super::node_shell::NODE_TICK;
use super::profile::{MILLISECOND, Profile, SECOND};
use super::store::{Copy, Entry, Item, Store};
use super::world::World;
use crate::logic::comparison::is_deleted;
use crate::logic::mutants::{self, Mutant};
use crate::types::{Epoch, KeyHash, Member, PartitionId, Version};

/// Where mistaken nodes drop tombstones by themselves, they do so about as often.
const AGE: u64 = 500 * MILLISECOND;

/// How a copy or a comparison ended, and the source's floor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) complete: bool,
    pub(super) floor: Version,
}

impl Ended {
    pub(super) const FAILED: Self = Self { complete: false, floor: Version::ZERO };
}

impl Profile {
    /// How often a partition's floor is raised: follows from another draw, so that runs stay what
    /// they are.
    pub(super) fn tombstone_interval(&self) -> u64 {
        match self.chaos % 3 {
            0 => 20 * MILLISECOND,
            1 => 200 * MILLISECOND,
            _ => SECOND,
        }
    }
}

impl Entry {
    fn is_tombstone(&self) -> bool {
        self.write.content.value.is_none()
    }
}

impl Copy {
    pub(super) fn raise_floor(&mut self, version: Version) {
        let floor = self.floor.max(version);
        self.watermark = self.watermark.max(floor);
        self.records.retain(|_, entry| !entry.is_tombstone() || entry.write.version > floor);
        if !mutants::enabled(Mutant::NoFloor) {
            self.floor = floor;
        }
    }

    pub(super) fn forget(&mut self, key_hash: KeyHash, version: Version) {
        let is_it = |entry: &Entry| !entry.unvouched && entry.write.version == version;
        if self.records.get(&key_hash).is_some_and(is_it) {
            self.records.remove(&key_hash);
        }
    }
}

impl Store {
    pub(super) fn floor(&self, partition: PartitionId) -> Version {
        self.copies.get(&partition).map(|copy| copy.floor).unwrap_or_default()
    }

    /// The floor, and how many tombstones there are.
    pub(super) fn tombstones(&self, partition: PartitionId) -> (Version, u64) {
        let Some(copy) = self.copies.get(&partition) else { return (Version::ZERO, 0) };
        let tombstones = copy.records.values().filter(|entry| entry.is_tombstone());
        (copy.floor, tombstones.count() as u64)
    }

    /// What a source with this floor, which has these keys, shows to have been deleted.
    pub(super) fn deleted(
        &self,
        partition: PartitionId,
        there: &BTreeSet<KeyHash>,
        floor: Version,
    ) -> Vec<Item> {
        let records = self.copies.get(&partition).into_iter().flat_map(|copy| &copy.records);
        let gone = records.filter(|(key_hash, entry)| {
            let deleted = is_deleted(entry.write.version, floor) && !entry.is_tombstone();
            deleted && !there.contains(key_hash)
        });
        gone.map(|(key_hash, entry)| Item::Forget(partition, *key_hash, entry.write.version))
            .collect()
    }
}

impl Node {
    /// What is at or below a floor is settled.
    pub(super) fn learn_floor(&mut self, partition: PartitionId, floor: Version) {
        let known = self.watermarks.entry(partition).or_default();
        *known = floor.max(*known);
    }
}

impl World {
    /// Whether nothing of a key is there because it was deleted at this version or a later one, and
    /// nothing older can come back.
    pub(super) fn is_forgotten(
        &self,
        store: &Store,
        partition: PartitionId,
        key_hash: KeyHash,
        version: Version,
    ) -> bool {
        let place = |version| (partition, key_hash, version);
        let floor = store.floor(partition);
        let absent = store.entry(partition, key_hash).is_none();
        // These are to be noticed by what comes of them.
        let floorless = mutants::enabled(Mutant::DroppedByAge) || mutants::enabled(Mutant::NoFloor);
        let floor = if floorless { Version::new(Epoch(u64::MAX), 0) } else { floor };
        let mut newer = self.checks.deletes.range(place(version)..);
        absent && version <= floor && newer.next().is_some_and(|delete| *delete <= place(floor))
    }

    /// A mistake: tombstones go after a while, and nothing is made durable.
    pub(super) fn drop_by_age(&mut self, node: usize) {
        if !mutants::enabled(Mutant::DroppedByAge) || self.now.0 % AGE >= NODE_TICK {
            return;
        }
        for copy in self.nodes[node].store.copies.values_mut() {
            copy.records.retain(|_, entry| !entry.is_tombstone());
        }
    }

    /// At rest no member has a tombstone.
    pub(super) fn are_clean(&self, index: usize) -> Result<(), String> {
        let partition = PartitionId(u16::try_from(index).unwrap_or(0));
        let tombstones = |member: &Member| {
            let node = self.nodes.iter().find(|node| node.store.id == member.store);
            node.map_or(0, |node| node.store.tombstones(partition).1)
        };
        let members = &self.metadata.configurations()[index].members;
        match members.iter().map(tombstones).sum() {
            0 => Ok(()),
            left => Err(format!("partition {index}: {left} tombstones are left")),
        }
    }
}
