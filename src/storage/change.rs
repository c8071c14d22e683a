//! A record of the log as an instruction to the index.

use super::entry::{MAX_SEQ, Place};
use crate::protocol::control::Control;
use crate::protocol::record::{Flags, Kind, Record, checksum_of};
use crate::types::{IndexKey, KeyHash, PartitionCount, PartitionId, Version};

/// How a write came to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// Sequenced by the leader just now.
    Put,
    /// Copied from an in-sync store.
    Install,
    /// Moved by compaction.
    Move,
}

/// A version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub key_hash: KeyHash,
    pub version: Version,
    pub checksum: u32,
    pub tombstone: bool,
    pub carried: Carried,
    pub place: Place,
}

/// What a record asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Write(Write),
    Control(Box<Control>),
}

/// What a record asks for, and of which partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub partition: PartitionId,
    pub what: What,
}

/// A record that verifies and still cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is no such partition.
    #[error("partition {0} does not exist")]
    Partition(PartitionId),
    /// The counter of the version is beyond 48 bits.
    #[error("the version's counter {0} is over {MAX_SEQ}")]
    Seq(u64),
    /// The control record cannot be read, or is not for what it is addressed to.
    #[error("the control record is malformed or from a newer build")]
    Control,
    /// A put or tombstone without a key.
    #[error("the record has no key")]
    Key,
    /// Only compaction moves records.
    #[error("the record is carried in a way that is reserved to the store")]
    Flags,
}

impl Change {
    /// What a record that lies in this place asks for.
    pub(crate) fn of(
        record: &Record<'_>,
        bytes: &[u8],
        place: Place,
        key: &IndexKey,
        partitions: PartitionCount,
    ) -> Result<Self, Unusable> {
        let what = match record.kind {
            Kind::Control => What::Control(Box::new(control(record)?)),
            Kind::Put | Kind::Tombstone => What::Write(write(record, bytes, place, key)?),
        };
        let store_wide = matches!(&what, What::Control(it) if matches!(**it, Control::Promise(_)));
        let partition = record.partition;
        let exists = if store_wide {
            partition == PartitionId::STORE
        } else {
            partition.0 < partitions.get()
        };
        if exists { Ok(Self { partition, what }) } else { Err(Unusable::Partition(partition)) }
    }

    /// The change, unless only the store itself may ask for it.
    pub(crate) fn if_from_outside(self) -> Result<Self, Unusable> {
        match &self.what {
            What::Write(Write { carried: Carried::Move, .. }) => Err(Unusable::Flags),
            _ => Ok(self),
        }
    }

    /// Whether the change is a write that adds a value, which a full disk refuses.
    pub(crate) fn adds_value(&self) -> bool {
        matches!(&self.what, What::Write(Write { tombstone: false, .. }))
    }
}

fn control(record: &Record<'_>) -> Result<Control, Unusable> {
    Control::decode(record).map_err(|_| Unusable::Control)
}

fn write(
    record: &Record<'_>,
    bytes: &[u8],
    place: Place,
    key: &IndexKey,
) -> Result<Write, Unusable> {
    if record.version.seq > MAX_SEQ {
        return Err(Unusable::Seq(record.version.seq));
    }
    if record.key.is_empty() {
        return Err(Unusable::Key);
    }
    let carried = match record.flags {
        Flags::NONE => Carried::Put,
        Flags::INSTALL => Carried::Install,
        Flags::MOVE => Carried::Move,
        _ => return Err(Unusable::Flags),
    };
    Ok(Write {
        key_hash: key.hash(record.key),
        version: record.version,
        checksum: checksum_of(bytes).unwrap_or(0),
        tombstone: record.kind == Kind::Tombstone,
        carried,
        place,
    })
}
