//! Records, stores and disks for tests.

use bytes::{Bytes, BytesMut};

use crate::protocol::control::Control;
use crate::protocol::record::{Flags, Kind, Record, value_of};
use crate::storage::{IoMode, Opened, Options, Reserve, SimulatedDisk, Store};
use crate::types::{Epoch, IndexKey, KeyHash, PartitionCount, PartitionId, Token, Version};

pub(super) const KEY: IndexKey = IndexKey([9; 16]);

pub(super) fn partitions() -> PartitionCount {
    PartitionCount::new(4).unwrap()
}

pub(super) const P0: PartitionId = PartitionId(0);
pub(super) const P1: PartitionId = PartitionId(1);

pub(super) fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        reserve: Reserve::Bytes(0),
        tail_bytes: 512 << 10,
        machine_boot: Some("boot".into()),
        ..Options::default()
    }
}

pub(super) fn buffered() -> Options {
    Options { io_mode: IoMode::Buffered, ..options() }
}

pub(super) fn version(seq: u64) -> Version {
    Version::new(Epoch(1), seq)
}

/// A record to be written; `None` is a delete.
pub(super) fn record(
    partition: PartitionId,
    key: &str,
    version: Version,
    value: Option<&[u8]>,
    flags: Flags,
) -> Bytes {
    let record = Record {
        kind: if value.is_some() { Kind::Put } else { Kind::Tombstone },
        flags,
        partition,
        version,
        expires: 0,
        key: key.as_bytes(),
        value: value.unwrap_or(&[]),
    };
    record.to_bytes().unwrap()
}

pub(super) fn put(key: &str, seq: u64, value: &str) -> Bytes {
    record(P0, key, version(seq), Some(value.as_bytes()), Flags::NONE)
}

pub(super) fn install(key: &str, seq: u64, value: &str) -> Bytes {
    record(P0, key, version(seq), Some(value.as_bytes()), Flags::INSTALL)
}

pub(super) fn delete(key: &str, seq: u64) -> Bytes {
    record(P0, key, version(seq), None, Flags::NONE)
}

pub(super) fn control(partition: PartitionId, control: &Control) -> Bytes {
    let mut buffer = BytesMut::new();
    control.encode(partition, &mut buffer).unwrap();
    buffer.freeze()
}

pub(super) fn vouch(key: &str, seq: u64) -> Bytes {
    control(P0, &Control::Vouch { key_hash: hash(key), version: version(seq) })
}

pub(super) fn hash(key: &str) -> KeyHash {
    KEY.hash(key.as_bytes())
}

pub(super) fn open(disk: &SimulatedDisk, options: Options) -> (Store<SimulatedDisk>, Opened) {
    Store::open(disk.clone(), KEY, partitions(), options).unwrap()
}

/// The value of a key of the first partition; `None` if it is absent or deleted.
pub(super) fn get(store: &Store<SimulatedDisk>, key: &str) -> Option<String> {
    let bytes = store.reader().get(P0, hash(key)).unwrap()?;
    let (record, _) = Record::decode(&bytes).unwrap();
    if record.kind == Kind::Tombstone {
        return None;
    }
    Some(String::from_utf8(value_of(&bytes).unwrap().to_vec()).unwrap())
}

pub(super) const TOKEN: Token = Token(77);
