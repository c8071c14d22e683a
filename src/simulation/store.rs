//! A store as the promises of storage say it is: what was committed is there after a crash, and of
//! a commit that was under way a prefix is.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::logic::membership::Heard;
use crate::logic::mutants::{self, Mutant};
use crate::logic::partition::io::{Content, Summary, Write};
use crate::logic::replica::Held;
use crate::protocol::record::{Flags, Kind, Record, checksum_of};
use crate::types::{
    Configuration, ConfigurationVersion, Epoch, KeyHash, PartitionId, StoreId, Token, Version,
};

/// What goes to the log.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Promise(Epoch),
    Begin(PartitionId, Token),
    Start(PartitionId, Token),
    Finish(PartitionId, Token),
    Remove(PartitionId, ConfigurationVersion),
    Configuration(PartitionId, Configuration),
    Watermark(PartitionId, Version),
    Put(PartitionId, KeyHash, Write),
    Install(PartitionId, KeyHash, Write),
    Vouch(PartitionId, KeyHash, Version),
    GarbageFloor(PartitionId, Version),
    Forget(PartitionId, KeyHash, Version),
}

/// One record.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) write: Write,
    pub(super) checksum: u32,
    pub(super) unvouched: bool,
}

/// What a store holds of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Copy {
    pub(super) token: Option<Token>,
    pub(super) shadow: bool,
    pub(super) records: BTreeMap<KeyHash, Entry>,
    /// The newest configuration it heard of.
    pub(super) configuration: Option<Configuration>,
    pub(super) watermark: Version,
    /// Tombstones at or below it are gone.
    pub(super) floor: Version,
}

/// One data directory.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) id: StoreId,
    pub(super) promised: Epoch,
    pub(super) copies: BTreeMap<PartitionId, Copy>,
    /// It was damaged once: that nothing is there does not mean that nothing was.
    pub(super) doubted: bool,
}

/// A record as it travels and is stored.
pub(super) fn encode(partition: PartitionId, write: &Write, flags: Flags) -> Bytes {
    let Content { key, value, expires } = &write.content;
    let record = Record {
        kind: if value.is_some() { Kind::Put } else { Kind::Tombstone },
        flags,
        partition,
        version: write.version,
        expires: *expires,
        key: key.as_bytes(),
        value: value.as_deref().unwrap_or_default(),
    };
    record.to_bytes().unwrap()
}

/// The checksum of a record.
pub(super) fn checksum(partition: PartitionId, write: &Write) -> u32 {
    checksum_of(&encode(partition, write, Flags::NONE)).unwrap()
}

impl Store {
    pub(super) fn new(id: StoreId) -> Self {
        Self { id, promised: Epoch(0), copies: BTreeMap::new(), doubted: false }
    }

    /// What it has heard of leaders.
    pub(super) fn heard(&self) -> Heard {
        let version = |copy: &Copy| copy.configuration.as_ref().map(|one| one.version);
        let last = self.copies.keys().map(|id| id.index() + 1).max().unwrap_or(0);
        let mut configurations = vec![ConfigurationVersion::default(); last];
        for (partition, copy) in &self.copies {
            configurations[partition.index()] = version(copy).unwrap_or_default();
        }
        Heard { promised: self.promised, configurations }
    }

    fn copy(&mut self, partition: PartitionId) -> &mut Copy {
        self.copies.entry(partition).or_default()
    }

    pub(super) fn held(&self, partition: PartitionId) -> Held {
        let doubted = self.doubted;
        let Some(copy) = self.copies.get(&partition) else {
            return Held { doubted, ..Held::default() };
        };
        Held {
            doubted,
            token: copy.token,
            shadow: copy.shadow,
            records: !copy.records.is_empty(),
            configuration: copy.configuration.as_ref().map(|it| it.version).unwrap_or_default(),
            named: copy.configuration.as_ref().and_then(|it| it.token_of(self.id)),
        }
    }

    /// Whether it holds the partition whole, under this token.
    pub(super) fn is_member(&self, partition: PartitionId, token: Token) -> bool {
        let by_name = mutants::enabled(Mutant::KnownByName);
        match self.copies.get(&partition) {
            Some(copy) => (by_name || copy.token == Some(token)) && !copy.shadow,
            None => by_name,
        }
    }

    pub(super) fn entry(&self, partition: PartitionId, key_hash: KeyHash) -> Option<&Entry> {
        self.copies.get(&partition)?.records.get(&key_hash)
    }

    pub(super) fn version(&self, partition: PartitionId, key_hash: KeyHash) -> Version {
        self.entry(partition, key_hash).map_or(Version::ZERO, |entry| entry.write.version)
    }

    /// What lies above a watermark.
    pub(super) fn above(&self, partition: PartitionId, watermark: Version) -> Vec<Summary> {
        let Some(copy) = self.copies.get(&partition) else { return Vec::new() };
        let above = copy.records.iter().filter(|(_, entry)| entry.write.version > watermark);
        above
            .map(|(key_hash, entry)| Summary {
                key_hash: *key_hash,
                version: entry.write.version,
                checksum: entry.checksum,
            })
            .collect()
    }

    pub(super) fn apply(&mut self, item: Item) {
        match item {
            Item::Promise(epoch) => self.promised = epoch,
            Item::Begin(partition, token) => {
                let copy = self.copy(partition);
                copy.records.clear();
                (copy.token, copy.shadow) = (Some(token), false);
            }
            Item::Start(partition, token) => {
                let copy = self.copy(partition);
                (copy.token, copy.shadow) = (Some(token), true);
                let unvouched = !mutants::enabled(Mutant::KeptRecords);
                copy.records.values_mut().for_each(|entry| entry.unvouched = unvouched);
            }
            Item::Finish(partition, token) => {
                let copy = self.copy(partition);
                (copy.token, copy.shadow) = (Some(token), false);
                copy.records.retain(|_, entry| !entry.unvouched);
            }
            Item::Remove(partition, _) => {
                let copy = self.copy(partition);
                copy.records.clear();
                (copy.token, copy.shadow) = (None, false);
            }
            Item::Configuration(partition, configuration) => {
                self.copy(partition).configuration = Some(configuration);
            }
            Item::Watermark(partition, version) => self.copy(partition).watermark = version,
            Item::GarbageFloor(partition, version) => self.copy(partition).raise_floor(version),
            Item::Forget(partition, key_hash, version) => {
                self.copy(partition).forget(key_hash, version);
            }
            Item::Put(partition, key_hash, write) => {
                if write.version > self.copy(partition).floor {
                    self.put(partition, key_hash, write, false);
                }
            }
            Item::Install(partition, key_hash, write) => {
                let wins = mutants::enabled(Mutant::InstallWins);
                let deletes = write.content.value.is_none();
                if !deletes || write.version > self.copy(partition).floor {
                    self.put(partition, key_hash, write, wins);
                }
            }
            Item::Vouch(partition, key_hash, version) => {
                if let Some(entry) = self.copy(partition).records.get_mut(&key_hash)
                    && entry.write.version == version
                {
                    entry.unvouched = false;
                }
            }
        }
    }

    /// The newer version stays; what nobody vouched for loses every comparison.
    fn put(&mut self, partition: PartitionId, key_hash: KeyHash, write: Write, wins: bool) {
        let records = &mut self.copy(partition).records;
        let newer = records
            .get(&key_hash)
            .is_none_or(|entry| entry.unvouched || entry.write.version < write.version);
        if newer || wins {
            let checksum = checksum(partition, &write);
            records.insert(key_hash, Entry { write, checksum, unvouched: false });
        }
    }
}
