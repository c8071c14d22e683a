//! `U` of the rules: writes that were sent and are not yet known to be on every member.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::types::{KeyHash, Moment, Version};

use super::io::{Content, OperationId, ReadId};
use super::replicas::Slots;

/// What somebody waits to hear once a version is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// The writer.
    Stored,
    /// A reader of this version.
    Value,
    /// An operation that found its base to be a tombstone (rule 38).
    NotFound,
}

/// A client that waits for a version to settle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) id: OperationId,
    pub(super) waiting: Waiting,
    pub(super) deadline: Moment,
}

/// One unsettled write.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key_hash: KeyHash,
    /// What it stores; unknown while only its summary was heard in peering.
    pub(super) content: Option<Content>,
    /// The checksum heard in peering, to notice that two members disagree.
    pub(super) checksum: Option<u32>,
    /// Copies on which it is durable.
    pub(super) acknowledged: Slots,
    /// Copies that hold it and could not be read.
    pub(super) unreadable: Slots,
    pub(super) waiters: SmallVec<[Waiter; 1]>,
    /// The read that is to bring the content, and when it was sent.
    pub(super) fetch: Option<(ReadId, Moment)>,
    /// No copy has it any longer: a newer version took its place and will settle it.
    pub(super) superseded: bool,
}

/// All unsettled writes of a partition, by version.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsettled {
    entries: BTreeMap<Version, Entry>,
}

impl Unsettled {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn insert(&mut self, version: Version, entry: Entry) {
        self.entries.insert(version, entry);
    }

    pub(super) fn remove(&mut self, version: Version) -> Option<Entry> {
        self.entries.remove(&version)
    }

    pub(super) fn get(&self, version: Version) -> Option<&Entry> {
        self.entries.get(&version)
    }

    pub(super) fn get_mut(&mut self, version: Version) -> Option<&mut Entry> {
        self.entries.get_mut(&version)
    }

    pub(super) fn oldest(&self) -> Option<Version> {
        self.entries.keys().next().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Version, &Entry)> {
        self.entries.iter().map(|(version, entry)| (*version, entry))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Version, &mut Entry)> {
        self.entries.iter_mut().map(|(version, entry)| (*version, entry))
    }

    /// Forgets what a freed slot had acknowledged.
    pub(super) fn forget_slot(&mut self, slot: usize) {
        for entry in self.entries.values_mut() {
            entry.acknowledged.remove(Slots::one(slot));
            entry.unreadable.remove(Slots::one(slot));
        }
    }
}
