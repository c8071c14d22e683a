//! The index as it should be, told a second time in the plainest way, and what a store shows of
//! itself to compare with it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::support::*;
use crate::protocol::control::Control;
use crate::protocol::record::{Flags, Kind, Record, value_of};
use crate::storage::digest::{LEAVES, share};
use crate::storage::{SimulatedDisk, Store};
use crate::types::{Configuration, Epoch, PartitionId, Token, Version};

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub version: Version,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub vouched: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelPartition {
    pub token: Option<Token>,
    pub shadow: bool,
    pub watermark: Version,
    pub floor: Version,
    pub configuration: Option<Configuration>,
    pub entries: BTreeMap<String, Held>,
}

/// A store as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub promised: Epoch,
    pub partitions: Vec<ModelPartition>,
}

/// An instruction to store and model alike.
#[derive(Clone, Debug)]
pub(super) enum Order {
    Write { key: String, version: Version, value: Option<Vec<u8>>, install: bool },
    Control(Control),
}

/// An instruction, and to which partition.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub partition: PartitionId,
    pub order: Order,
}

impl Step {
    pub(super) fn encode(&self) -> Bytes {
        match &self.order {
            Order::Control(it) => control(self.partition, it),
            Order::Write { key, version, value, install } => {
                let flags = if *install { Flags::INSTALL } else { Flags::NONE };
                record(self.partition, key, *version, value.as_deref(), flags)
            }
        }
    }
}

impl ModelPartition {
    fn write(&mut self, key: &str, version: Version, value: Option<&Vec<u8>>, install: bool) {
        let spared = install && value.is_some();
        if (install && !self.shadow) || (version <= self.floor && !spared) {
            return;
        }
        let newer = |held: &Held| held.vouched && held.version >= version;
        if !self.entries.get(key).is_some_and(newer) {
            let held = Held { version, value: value.cloned(), vouched: true };
            self.entries.insert(key.into(), held);
        }
    }

    fn control(&mut self, control: &Control) {
        match control {
            Control::Promise(_) => {}
            Control::Configuration(new) => {
                if self.configuration.as_ref().is_none_or(|old| old.version < new.version) {
                    self.configuration = Some(new.clone());
                }
            }
            Control::Watermark(version) => self.watermark = self.watermark.max(*version),
            Control::Begin(token) => {
                if self.token != Some(*token) {
                    self.entries.clear();
                    self.token = Some(*token);
                    self.shadow = false;
                }
            }
            Control::Start(token) => {
                self.token = Some(*token);
                self.shadow = true;
                self.entries.values_mut().for_each(|held| held.vouched = false);
            }
            Control::Vouch { key_hash, version } => {
                for (key, held) in &mut self.entries {
                    if self.shadow && hash(key) == *key_hash && held.version == *version {
                        held.vouched = true;
                    }
                }
            }
            Control::Finish(token) => {
                if self.shadow && self.token == Some(*token) {
                    self.shadow = false;
                    self.entries.retain(|_, held| held.vouched);
                }
            }
            Control::Remove(_) => {
                self.entries.clear();
                self.token = None;
                self.shadow = false;
            }
            Control::Forget { key_hash, version } => {
                let is_it = |key: &str, held: &Held| {
                    held.vouched && hash(key) == *key_hash && held.version == *version
                };
                self.entries.retain(|key, held| !is_it(key, held));
            }
            Control::Adopt(token) => {
                self.entries.values_mut().for_each(|held| held.vouched = true);
                self.token = Some(*token);
                self.shadow = false;
            }
            Control::GarbageFloor(version) => {
                self.floor = self.floor.max(*version);
                self.watermark = self.watermark.max(self.floor);
                let floor = self.floor;
                self.entries.retain(|_, held| held.value.is_some() || held.version > floor);
            }
        }
    }
}

impl Model {
    pub(super) fn new() -> Self {
        let count = usize::from(partitions().get());
        Self { promised: Epoch(0), partitions: vec![ModelPartition::default(); count] }
    }

    pub(super) fn apply(&mut self, step: &Step) {
        if let Order::Control(Control::Promise(epoch)) = &step.order {
            self.promised = self.promised.max(*epoch);
            return;
        }
        let Some(partition) = self.partitions.get_mut(step.partition.index()) else { return };
        match &step.order {
            Order::Write { key, version, value, install } => {
                partition.write(key, *version, value.as_ref(), *install);
            }
            Order::Control(control) => partition.control(control),
        }
    }

    /// No partition is held any more, every record waits to be vouched for.
    pub(super) fn demoted(mut self) -> Self {
        for partition in &mut self.partitions {
            partition.token = None;
            partition.shadow = false;
            partition.entries.values_mut().for_each(|held| held.vouched = false);
        }
        self
    }
}

/// What a store shows of itself, every value read and every sum checked.
pub(super) fn shown(store: &Store<SimulatedDisk>) -> Result<Model, String> {
    let reader = store.reader();
    let mut model = Model { promised: reader.promised(), partitions: Vec::new() };
    for partition in partitions().all() {
        let membership = reader.membership(partition);
        let mut shown = ModelPartition {
            token: membership.token,
            shadow: membership.shadow,
            watermark: membership.watermark,
            floor: membership.garbage_floor,
            configuration: membership.configuration,
            entries: BTreeMap::new(),
        };
        let entries = [reader.entries(partition), reader.unvouched(partition)].concat();
        let mut leaves = vec![0u64; LEAVES];
        for entry in entries {
            let bytes = reader.read_unvouched(partition, entry.summary.key_hash);
            let bytes = bytes.map_err(|error| error.to_string())?.ok_or("an entry is gone")?;
            let (record, _) = Record::decode(&bytes).map_err(|error| error.to_string())?;
            let value = (record.kind == Kind::Put).then(|| value_of(&bytes).unwrap().to_vec());
            let (key, version) = (String::from_utf8_lossy(record.key).into(), record.version);
            if KEY.hash(record.key) != entry.summary.key_hash || version != entry.summary.version {
                return Err(format!("asked for {entry:?}, got key {key} version {version}"));
            }
            if entry.vouched {
                let hash = entry.summary.key_hash;
                let share = share(&KEY, hash, version, entry.summary.checksum);
                let sum = &mut leaves[usize::from(hash.leaf())];
                *sum = sum.wrapping_add(share);
            }
            shown.entries.insert(key, Held { version, value, vouched: entry.vouched });
        }
        if reader.digest(partition).map(|digest| digest.leaves) != Some(leaves) {
            return Err(format!("the digest of partition {partition} is wrong"));
        }
        check_short_list(store, partition, &shown)?;
        model.partitions.push(shown);
    }
    Ok(model)
}

fn check_short_list(
    store: &Store<SimulatedDisk>,
    partition: PartitionId,
    shown: &ModelPartition,
) -> Result<(), String> {
    let listed = store.reader().above_watermark(partition);
    let listed: Vec<_> = listed.iter().map(|item| (item.version, item.key_hash)).collect();
    let above = |held: &Held| held.vouched && held.version > shown.watermark;
    let entries = shown.entries.iter().filter(|(_, held)| above(held));
    let mut expected: Vec<_> = entries.map(|(key, held)| (held.version, hash(key))).collect();
    expected.sort();
    if listed == expected {
        Ok(())
    } else {
        Err(format!("above the watermark: {listed:?}, expected {expected:?}"))
    }
}
