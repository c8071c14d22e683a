//! The invariants of the contract, asserted whenever something happens that could break them.

use std::collections::{BTreeMap, BTreeSet};

use super::store::{Item, checksum};
use super::world::World;
use crate::logic::comparison::Doubt;
use crate::logic::history::{Kind, Operation, Outcome};
use crate::logic::partition::io::{ReadAnswer, Reply};
use crate::types::{Configuration, Epoch, KeyHash, Member, PartitionId, StoreId, Version};

/// What was promised to clients, and what was seen.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) violation: Option<String>,
    /// The newest version of each key that a client was told of.
    told: BTreeMap<(usize, KeyHash), Version>,
    /// Keys that were lost with all who had them.
    excused: BTreeSet<(usize, KeyHash)>,
    /// Every delete that any store has heard of.
    pub(super) deletes: BTreeSet<(PartitionId, KeyHash, Version)>,
    /// The one checksum of each version.
    checksums: BTreeMap<(PartitionId, KeyHash, Version), u32>,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) stored: u64,
    pub(super) read: u64,
    /// Of those, what the leader remembered.
    pub(super) hits: u64,
    pub(super) failed: u64,
    pub(super) uncertain: u64,
    pub(super) configurations: u64,
    pub(super) node_crashes: u64,
    pub(super) leader_crashes: u64,
    pub(super) wipes: u64,
    /// Stores that were found slow.
    pub(super) slow: u64,
    /// Losses of what was durable or taken to be.
    pub(super) losses: u64,
    /// Records that came back from another copy.
    pub(super) restored: u64,
    /// Floors that were logged.
    pub(super) floors: u64,
    /// Records that came back with a store that had lost a delete, and were forgotten.
    pub(super) forgotten: u64,
    /// Keys of which nobody was left who had not lost them.
    pub(super) excused: u64,
    /// Disks that were damaged while nobody looked.
    pub(super) rotten: u64,
    pub(super) metadata_losses: u64,
    pub(super) rebuilds: u64,
    /// Configurations made anew that became like any other.
    pub(super) confirmed: u64,
    pub(super) events: u64,
    /// Simulated microseconds.
    pub(super) time: u64,
}

impl Checks {
    /// The keys of a partition of which clients were told, and the newest versions.
    pub(super) fn told_in(&self, index: usize) -> impl Iterator<Item = (KeyHash, Version)> {
        let told = self.told.iter().filter(move |((partition, _), _)| *partition == index);
        told.map(|((_, key_hash), version)| (*key_hash, *version))
    }

    /// Nothing more is expected of a key. Says whether that is news.
    pub(super) fn excuse(&mut self, index: usize, key_hash: KeyHash) -> bool {
        self.told.remove(&(index, key_hash));
        self.excused.insert((index, key_hash))
    }
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.read += other.read;
        self.hits += other.hits;
        self.failed += other.failed;
        self.uncertain += other.uncertain;
        self.configurations += other.configurations;
        self.node_crashes += other.node_crashes;
        self.leader_crashes += other.leader_crashes;
        self.wipes += other.wipes;
        self.slow += other.slow;
        self.losses += other.losses;
        self.restored += other.restored;
        self.floors += other.floors;
        self.forgotten += other.forgotten;
        self.excused += other.excused;
        self.rotten += other.rotten;
        self.metadata_losses += other.metadata_losses;
        self.rebuilds += other.rebuilds;
        self.confirmed += other.confirmed;
        self.events += other.events;
        self.time += other.time;
    }
}

/// Which version deletes a key, if an item is of one.
fn delete_of(item: &Item) -> Option<(PartitionId, KeyHash, Version)> {
    let (Item::Put(partition, key_hash, write) | Item::Install(partition, key_hash, write)) = item
    else {
        return None;
    };
    write.content.value.is_none().then_some((*partition, *key_hash, write.version))
}

impl World {
    pub(super) fn violate(&mut self, violation: String) {
        let now = self.now;
        self.trace.line(now, || format!("VIOLATION: {violation}"));
        self.checks.violation.get_or_insert(violation);
    }

    pub(super) fn count_outcome(&mut self, place: usize, outcome: &Outcome) {
        let counts = &mut self.counts;
        match outcome {
            Outcome::Stored { .. } => counts.stored += 1,
            Outcome::Value { .. } | Outcome::NotFound { .. } => counts.read += 1,
            Outcome::Failed => counts.failed += 1,
            Outcome::Uncertain | Outcome::Pending => counts.uncertain += 1,
        }
        let kind = match self.history[place].kind {
            Kind::Get => 0,
            Kind::Set(_) => 1,
            Kind::Update(_) => 2,
            Kind::Delete => 3,
        };
        let version = match outcome {
            Outcome::Stored { version }
            | Outcome::Value { version, .. }
            | Outcome::NotFound { version } => version.unwrap_or_default(),
            _ => Version::ZERO,
        };
        self.trace.mix(&[place as u64, kind, version.epoch.0, version.seq]);
        let (now, operation) = (self.now, &self.history[place]);
        self.trace.line(now, || format!("client hears {place} {operation:?} {outcome:?}"));
    }

    /// Invariants A and E: what a client is told is on every surviving member of the durable set.
    pub(super) fn check_reply(&mut self, index: usize, place: usize, reply: &Reply) {
        let version = match reply {
            Reply::Stored { version, .. }
            | Reply::Value { version, .. }
            | Reply::NotFound { version: Some(version) } => *version,
            Reply::Damaged => return self.violate(format!("C: operation {place} met damage")),
            _ => return,
        };
        let key_hash = self.index_key.hash(self.history[place].key.as_bytes());
        if self.checks.excused.contains(&(index, key_hash)) {
            return;
        }
        let told = self.checks.told.entry((index, key_hash)).or_default();
        *told = version.max(*told);
        self.check_durable(index, key_hash, version, "was told to a client");
    }

    fn check_durable(&mut self, index: usize, key_hash: KeyHash, version: Version, why: &str) {
        let partition = PartitionId(u16::try_from(index).unwrap_or(0));
        let members = self.metadata.configurations()[index].members.clone();
        for member in members {
            let Some(node) = self.nodes.iter().find(|node| node.store.id == member.store) else {
                continue;
            };
            let damaged = node.damaged.contains(&(partition, member.token));
            if damaged || node.lost.contains(&partition) {
                continue;
            }
            let held = node.store.version(partition, key_hash);
            let forgotten = self.is_forgotten(&node.store, partition, key_hash, version);
            let has = held >= version || forgotten;
            if !node.store.is_member(partition, member.token) || !has {
                let store = member.store;
                let copy = node.store.held(partition);
                self.violate(format!(
                    "A: version {version} of partition {index} {why}, but member {store} of the \
                     durable set has {held} and is {copy:?}"
                ));
            }
        }
    }

    /// What clients saw of the keys that are not excused.
    pub(super) fn judged(&self) -> Vec<Operation> {
        let excused: BTreeSet<KeyHash> =
            self.checks.excused.iter().map(|(_, key_hash)| *key_hash).collect();
        let counts = |operation: &&Operation| {
            !excused.contains(&self.index_key.hash(operation.key.as_bytes()))
        };
        self.history.iter().filter(counts).cloned().collect()
    }

    /// The leader says that every member may have lost something.
    pub(super) fn check_possible_loss(&mut self, index: usize) {
        let members = self.metadata.configurations()[index].members.clone();
        let whole = members.iter().find(|member| {
            let node = self.nodes.iter().find(|node| node.store.id == member.store);
            node.is_some_and(|node| !node.is_buffered())
        });
        if let Some(whole) = whole {
            let store = whole.store;
            self.violate(format!("15a: partition {index} is called lost, but {store} is not"));
        }
    }

    /// Invariants B and D of a proposal.
    pub(super) fn check_proposal(&mut self, index: usize, next: &Configuration) {
        let before = self.metadata.configurations()[index].clone();
        if next.version != before.version.next() {
            self.violate(format!("D: {next:?} was proposed after {before:?}"));
        }
        let floor = self.profile.floor.min(before.members.len());
        if next.members.len() < floor {
            self.violate(format!("B: {next:?} is below the floor of {floor}"));
        }
        let mut stores: Vec<_> = next.members.iter().map(|member| member.store).collect();
        stores.sort();
        stores.dedup();
        if stores.len() != next.members.len() {
            self.violate(format!("{next:?} names a store twice"));
        }
    }

    /// A configuration is durable: its members hold whatever any client was told.
    pub(super) fn check_configuration(&mut self, index: usize) {
        self.counts.configurations += 1;
        let told: Vec<_> = self
            .checks
            .told
            .iter()
            .filter(|((partition, _), _)| *partition == index)
            .map(|((_, key_hash), version)| (*key_hash, *version))
            .collect();
        for (key_hash, version) in told {
            self.check_durable(index, key_hash, version, "was told before this configuration");
        }
    }

    fn is_unconfirmed(&self, index: usize) -> bool {
        let mut unconfirmed = self.metadata.state.unconfirmed.iter();
        unconfirmed.any(|partition| partition.index() == index)
    }

    /// A store comes back with all that it is a member for.
    pub(super) fn check_store(&mut self, node: usize) {
        let store = self.nodes[node].store.id;
        for index in 0..self.metadata.configurations().len() {
            let confirmed = !self.is_unconfirmed(index);
            if confirmed && self.metadata.configurations()[index].contains(store) {
                self.check_configuration(index);
                self.counts.configurations -= 1;
            }
        }
    }

    /// A node goes down: what it was committing may be durable all the same.
    pub(super) fn note_deletes_under_way(&mut self, node: usize) {
        let under_way = self.nodes[node].committing.as_ref();
        let deletes = under_way.iter().flat_map(|group| &group.items).filter_map(delete_of);
        self.checks.deletes.extend(deletes);
    }

    /// Invariants C, D and H, as something becomes durable on a node.
    pub(super) fn check_item(&mut self, node: usize, item: &Item) {
        match item {
            Item::Put(partition, key_hash, write) | Item::Install(partition, key_hash, write) => {
                let checksum = checksum(*partition, write);
                let place = (*partition, *key_hash, write.version);
                self.checks.deletes.extend(delete_of(item));
                if *self.checks.checksums.entry(place).or_insert(checksum) != checksum {
                    self.violate(format!("C: {place:?} has two contents"));
                }
            }
            Item::Promise(epoch) => self.check_epoch(node, *epoch),
            Item::Watermark(partition, version) => {
                let copy = self.nodes[node].store.copies.get(partition);
                if copy.is_some_and(|copy| copy.watermark > *version) {
                    self.violate(format!("D: the watermark of node {node} went back"));
                }
            }
            Item::Start(partition, _) | Item::Begin(partition, _) | Item::Remove(partition, _) => {
                self.check_member_keeps(node, *partition, item);
            }
            Item::Configuration(partition, configuration) => {
                let known = self.nodes[node].store.held(*partition).configuration;
                if known > configuration.version {
                    self.violate(format!("D: the configuration of node {node} went back"));
                }
            }
            Item::GarbageFloor(..) => self.counts.floors += 1,
            Item::Forget(..) => self.counts.forgotten += 1,
            Item::Finish(..) | Item::Vouch(..) => {}
        }
    }

    fn check_epoch(&mut self, node: usize, epoch: Epoch) {
        if self.nodes[node].store.promised > epoch {
            self.violate(format!("D: the promise of node {node} went back"));
        }
    }

    fn check_member_keeps(&mut self, node: usize, partition: PartitionId, item: &Item) {
        let store = &self.nodes[node].store;
        let Some(known) = self.metadata.configurations().get(partition.index()) else { return };
        let token = known.token_of(store.id);
        let is = |member: &Member| store.is_member(partition, member.token);
        if token.is_some_and(|token| is(&Member { store: store.id, token })) {
            self.violate(format!("H: node {node}, a member of {partition}, carries out {item:?}"));
        }
    }

    /// Invariant F: nothing is under way, and all members hold the same.
    pub(super) fn is_at_rest(&self) -> Result<(), String> {
        let Some(leader) = &self.leader else { return Err("there is no leader".into()) };
        let wanted = self.profile.copies.min(self.nodes.len());
        for (index, partition) in leader.partitions.iter().enumerate() {
            let configuration = &self.metadata.configurations()[index];
            let status = partition.status();
            if configuration.members.len() != wanted || status.live_copies() != wanted {
                return Err(format!("partition {index}: {configuration:?} {status:?}"));
            }
            if status.copies.iter().any(|copy| copy.doubt != Doubt::None) {
                return Err(format!("partition {index}: in doubt: {status:?}"));
            }
            if let Some(store) = self.member_that_lacks(index) {
                return Err(format!("partition {index}: {store} lacks something"));
            }
            if !status.serving {
                return Err(format!("partition {index} does not serve"));
            }
            if status.unsettled > 0 {
                return Err(format!("partition {index}: {} unsettled", status.unsettled));
            }
            self.are_equal(index)?;
            self.are_clean(index)?;
        }
        Ok(())
    }

    /// A member that lost something and was not compared since. Of others nothing is expected.
    fn member_that_lacks(&self, index: usize) -> Option<StoreId> {
        let partition = PartitionId(u16::try_from(index).unwrap_or(0));
        let configuration = &self.metadata.configurations()[index];
        let lacking = self.nodes.iter().filter(|node| node.lost.contains(&partition));
        let mut lacking = lacking.map(|node| node.store.id);
        lacking.find(|store| configuration.contains(*store))
    }

    /// A record of a member that cannot be read back. There was no damage but such as ends a copy, and
    /// the next one is to be whole.
    fn unreadable(&self, partition: PartitionId, member: &Member) -> Option<String> {
        let node = self.nodes.iter().find(|node| node.store.id == member.store)?;
        let mut keys = node.keys(partition).into_iter();
        let key = keys.find(|key| node.read_held(partition, *key) == ReadAnswer::Damaged)?;
        Some(format!("{}: {key:?} of {partition} cannot be read", member.store))
    }

    fn are_equal(&self, index: usize) -> Result<(), String> {
        let partition = PartitionId(u16::try_from(index).unwrap_or(0));
        let contents = |member: &Member| {
            let node = self.nodes.iter().find(|node| node.store.id == member.store)?;
            if !node.store.is_member(partition, member.token) {
                return None;
            }
            Some(node.store.above(partition, Version::ZERO))
        };
        let members = &self.metadata.configurations()[index].members;
        if let Some(unreadable) = members.iter().find_map(|it| self.unreadable(partition, it)) {
            return Err(unreadable);
        }
        let all: Vec<_> = members.iter().map(contents).collect();
        match all.first() {
            Some(Some(first)) if all.iter().all(|other| other.as_ref() == Some(first)) => Ok(()),
            _ => Err(format!("partition {index}: its members differ: {all:?}")),
        }
    }
}
