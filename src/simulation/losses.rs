//! Disks that lose what was synced, and machines that lose what was not.
//!
//! Two losses are within the contract. The last synced batch of a store may be damaged so that it
//! looks like a torn end; and a buffered store loses what came after its last sync when its machine
//! goes down. Both make the store say, when it starts again, that it may lack what it acknowledged;
//! until it was compared, nothing is asserted of what it lost. Where nobody else is left who has it,
//! the data is gone, as the contract says: those keys are excused from then on, and counted.

use std::collections::BTreeSet;

use super::node::Node;
use super::profile::{MILLISECOND, SECOND};
use super::random::Random;
use super::store::{Item, Store};
use super::world::{Event, World};
use crate::logic::comparison::Doubt;
use crate::types::{KeyHash, Moment, PartitionId, StoreId};

/// How often a buffered store is synced.
const SYNC_INTERVAL: u64 = SECOND;

/// What a store may lose: what it was at an earlier time, and what was committed since.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    buffered: bool,
    base: Store,
    since: Vec<Item>,
    synced: Moment,
}

impl Journal {
    pub(super) fn new(buffered: bool, store: &Store) -> Self {
        Self { buffered, base: store.clone(), since: Vec::new(), synced: Moment::ZERO }
    }

    pub(super) fn is_buffered(&self) -> bool {
        self.buffered
    }

    /// A commit is about to be applied to the store.
    pub(super) fn note(&mut self, store: &Store, items: &[Item]) {
        if !self.buffered {
            self.base = store.clone();
            self.since.clear();
        }
        self.since.extend_from_slice(items);
    }

    /// Everything up to now is durable.
    fn sync(&mut self, now: Moment, store: &Store) {
        (self.base, self.synced) = (store.clone(), now);
        self.since.clear();
    }

    /// Whether the last batch has nothing in it but values and what is repeated anyway.
    fn is_plain(&self) -> bool {
        let plain = |item: &Item| {
            matches!(item, Item::Put(..) | Item::Watermark(..) | Item::GarbageFloor(..))
        };
        !self.since.is_empty() && self.since.iter().all(plain)
    }
}

/// Whether a commit changed what the store is: such a one is synced even if it is buffered.
pub(super) fn has_changes(items: &[Item]) -> bool {
    items.iter().any(|item| {
        !matches!(
            item,
            Item::Put(..)
                | Item::Install(..)
                | Item::Vouch(..)
                | Item::Watermark(..)
                | Item::GarbageFloor(..)
                | Item::Forget(..)
        )
    })
}

/// The partitions of which a store holds less than before.
pub(super) fn lost(before: &Store, after: &Store) -> Vec<PartitionId> {
    let lacks = |partition: &PartitionId| {
        let held = before.copies.get(partition).map(|copy| copy.records.iter());
        held.into_iter()
            .flatten()
            .any(|(key_hash, entry)| after.version(*partition, *key_hash) < entry.write.version)
            || after.floor(*partition) < before.floor(*partition)
    };
    before.copies.keys().copied().filter(lacks).collect()
}

impl Node {
    pub(super) fn is_buffered(&self) -> bool {
        self.journal.as_ref().is_some_and(Journal::is_buffered)
    }

    /// Makes what was committed durable.
    pub(super) fn sync(&mut self, now: Moment) -> Result<(), String> {
        if let Some(journal) = &mut self.journal {
            journal.sync(now, &self.store);
        }
        self.real.as_mut().map_or(Ok(()), super::disk::RealStore::sync)
    }

    /// Whether a second has passed since the last sync of a buffered store.
    pub(super) fn is_sync_due(&self, now: Moment) -> bool {
        self.journal.as_ref().is_some_and(|it| it.buffered && now.0 - it.synced.0 > SYNC_INTERVAL)
    }

    /// Its machine goes down, and with it what was buffered: a prefix is there.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        let items = self.stop();
        let Some(journal) = &mut self.journal else { return };
        self.doubt = Doubt::Lost;
        let before = std::mem::replace(&mut self.store, journal.base.clone());
        let mut pending = std::mem::take(&mut journal.since);
        self.lost.extend(lost(&before, &self.store));
        if let Some(real) = &mut self.real {
            real.lose_power(&items, random);
            pending.extend(items);
            self.half_done = pending;
            return;
        }
        let count = random.index(pending.len() + 1);
        pending.into_iter().take(count).for_each(|item| self.store.apply(item));
    }

    /// Its process dies between two commits.
    pub(super) fn stop_between(&mut self) {
        self.stop();
        self.doubt = self.doubt.max(Doubt::Unclean);
        if let Some(real) = &mut self.real {
            real.kill();
        }
    }

    /// The last synced batch is damaged while nobody looks.
    fn lose_batch(&mut self) -> bool {
        let Some(journal) = self.journal.as_mut().filter(|it| !it.buffered && it.is_plain()) else {
            return false;
        };
        if self.real.as_mut().is_some_and(|real| !real.lose_batch()) {
            return false;
        }
        let before = std::mem::replace(&mut self.store, journal.base.clone());
        journal.since.clear();
        self.lost.extend(lost(&before, &self.store));
        true
    }
}

impl World {
    /// A node crashes between two commits; while it is down, its last batch may be damaged.
    pub(super) fn crash_before_damage(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        let longest = self.profile.longest_outage.clamp(50 * MILLISECOND, 3 * SECOND);
        let outage = self.random.between(20 * MILLISECOND, longest);
        self.nodes[node].stop_between();
        self.after_crash(node, outage + 1);
        self.queue.plan(Moment(self.now.0 + outage), Event::BatchFails { node });
    }

    /// Only where another copy of each set survives that has not lost anything itself, and when the
    /// leader has noticed that the node is gone: or it may just be removing that other one. Nor while
    /// it is open which copies count: that one may have been removed before.
    pub(super) fn batch_fails(&mut self, node: usize) {
        let noticed = self.leader.as_ref().is_none_or(|leader| !leader.is_connected(node));
        let safe = self.metadata_is_whole() && self.survivors(node) >= 1;
        let fit = self.chaos && !self.nodes[node].up && noticed && safe;
        if fit && self.nodes[node].lose_batch() {
            self.counts.losses += 1;
            let (now, lost) = (self.now, self.nodes[node].lost.clone());
            self.trace.line(now, || format!("node {node} loses its last batch, of {lost:?}"));
        }
    }

    /// The machine of a node goes down. While the leader's disk is lost, too, that is one loss too many
    /// for a buffered store: a copy that is no member as far as stores know may be the only other one.
    pub(super) fn cut_power_of(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        if !self.nodes[node].is_buffered() || !self.metadata_is_whole() {
            return self.crash_node(node);
        }
        self.counts.losses += 1;
        let now = self.now;
        self.note_deletes_under_way(node);
        self.nodes[node].lose_power(&mut self.random);
        self.trace.line(now, || format!("node {node} loses its power"));
        let outage = self.outage();
        self.after_crash(node, outage);
    }

    fn node_of(&self, store: StoreId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.store.id == store)
    }

    fn has_sound(&self, index: usize, without: StoreId) -> bool {
        let Some(leader) = &self.leader else { return false };
        let copies = leader.partitions[index].status().copies;
        copies.iter().any(|copy| copy.store != without && copy.is_sound())
    }

    /// The leader reads a member, or trusts it. If that one lost something that nobody sound is
    /// there to make good, clients may be told less from now on.
    pub(super) fn excuse(&mut self, index: usize, store: StoreId, key: Option<KeyHash>) {
        let partition = PartitionId(u16::try_from(index).unwrap_or(0));
        let Some(node) = self.node_of(store).filter(|node| node.lost.contains(&partition)) else {
            return;
        };
        if self.has_sound(index, store) {
            return;
        }
        let lacking: BTreeSet<KeyHash> = self
            .checks
            .told_in(index)
            .filter(|(told, version)| {
                key.is_none_or(|key| key == *told)
                    && node.store.version(partition, *told) < *version
                    && !self.is_forgotten(&node.store, partition, *told, *version)
            })
            .map(|(told, _)| told)
            .collect();
        for key_hash in lacking {
            self.counts.excused += u64::from(self.checks.excuse(index, key_hash));
        }
    }
}
