//! The real store of a node, over a simulated disk, beside the simple one that says what it should
//! hold: whatever the real one answers is used, and each reopening is compared.

use bytes::{Bytes, BytesMut};

use super::random::Random;
use super::store::{Copy, Entry, Item, Store, checksum, encode};
use crate::logic::partition::io::{Content, ReadAnswer, Summary, Write};
use crate::protocol::control::Control;
use crate::protocol::record::{Flags, Kind, Record, value_of};
use crate::storage::{Options, Reader, Reserve, SimulatedDisk, Store as Log, Tail};
use crate::types::{IndexKey, Key, KeyHash, PartitionCount, PartitionId, Version};

/// A store on its disk, open while the node's process runs.
#[derive(Debug)]
pub(super) struct RealStore {
    disk: SimulatedDisk,
    log: Option<Log<SimulatedDisk>>,
    segment_bytes: u64,
    key: IndexKey,
    count: PartitionCount,
}

impl RealStore {
    pub(super) fn new(key: IndexKey, count: PartitionCount, random: &mut Random) -> Self {
        let disk = SimulatedDisk::new(random.next());
        let segment_bytes = *random.pick(&[64 << 10, 256 << 10]);
        Self { disk, log: None, segment_bytes, key, count }
    }

    /// Opens it, and compares it with what must be there: what was committed, and a prefix of what
    /// was being committed.
    pub(super) fn open(&mut self, expected: &mut Store, pending: Vec<Item>) -> Result<(), String> {
        let options = Options {
            segment_bytes: self.segment_bytes,
            reserve: Reserve::Bytes(0),
            tail_bytes: 8 * self.segment_bytes,
            ..Options::default()
        };
        let opened = Log::open(self.disk.clone(), self.key, self.count, options);
        let (log, opened) = opened.map_err(|error| format!("the store does not open: {error}"))?;
        let reader = self.log.insert(log).reader();
        if !opened.damaged.is_empty() || !matches!(opened.tail, Tail::Clean | Tail::Torn) {
            return Err(format!("the store takes itself for damaged: {opened:?}"));
        }
        let mut difference = self.difference(&reader, expected);
        for item in pending {
            if difference.is_none() {
                break;
            }
            expected.apply(item);
            difference = self.difference(&reader, expected);
        }
        difference
            .map_or(Ok(()), |it| Err(format!("the store came back with something else: {it}")))
    }

    fn difference(&self, reader: &Reader<SimulatedDisk>, expected: &Store) -> Option<String> {
        if reader.promised() != expected.promised {
            return Some(format!("promised {} for {}", reader.promised(), expected.promised));
        }
        let empty = Copy::default();
        self.count.all().find_map(|partition| {
            let copy = expected.copies.get(&partition).unwrap_or(&empty);
            copy_difference(reader, partition, copy)
        })
    }

    pub(super) fn commit(&mut self, items: &[Item]) -> Result<(), String> {
        let records: Vec<Bytes> = items.iter().map(encode_item).collect();
        let Some(log) = &mut self.log else { return Err("the store is not open".into()) };
        log.commit(&records).map_err(|error| format!("a commit failed: {error}"))?;
        Ok(())
    }

    /// Housekeeping, as in a node's quiet moments.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        let Some(log) = &mut self.log else { return Ok(()) };
        log.mark_quiet().map_err(|error| format!("a mark failed: {error}"))?;
        log.maintain().map_err(|error| format!("maintenance failed: {error}"))?;
        Ok(())
    }

    /// The process dies, perhaps in the middle of a commit, and perhaps the machine with it.
    pub(super) fn crash(&mut self, items: &[Item], random: &mut Random) {
        if let Some(mut log) = self.log.take() {
            let records: Vec<Bytes> = items.iter().map(encode_item).collect();
            self.disk.cut_after(random.below(4));
            let _ = log.commit(&records);
        }
        if random.percent(50) { self.disk.power_cut() } else { self.disk.kill() }
    }

    fn reader(&self) -> Option<Reader<SimulatedDisk>> {
        self.log.as_ref().map(Log::reader)
    }

    pub(super) fn read(&self, partition: PartitionId, key_hash: KeyHash) -> ReadAnswer {
        match self.reader().map(|reader| reader.get(partition, key_hash)) {
            Some(Ok(Some(bytes))) => decode(&bytes).map_or(ReadAnswer::Damaged, ReadAnswer::Found),
            Some(Ok(None)) => ReadAnswer::Absent,
            Some(Err(_)) | None => ReadAnswer::Damaged,
        }
    }

    /// What lies above a watermark that the node has heard.
    pub(super) fn above(&self, partition: PartitionId, watermark: Version) -> Vec<Summary> {
        let Some(reader) = self.reader() else { return Vec::new() };
        reader.set_watermark(partition, watermark);
        let above = reader.above_watermark(partition).into_iter();
        let mut above: Vec<Summary> = above
            .map(|it| Summary { key_hash: it.key_hash, version: it.version, checksum: it.checksum })
            .collect();
        above.sort_by_key(|summary| summary.key_hash);
        above
    }

    pub(super) fn keys(&self, partition: PartitionId) -> Vec<KeyHash> {
        let entries = self.reader().map(|reader| reader.entries(partition));
        let mut keys: Vec<KeyHash> =
            entries.unwrap_or_default().iter().map(|entry| entry.summary.key_hash).collect();
        keys.sort();
        keys
    }
}

fn copy_difference(
    reader: &Reader<SimulatedDisk>,
    partition: PartitionId,
    copy: &Copy,
) -> Option<String> {
    let membership = reader.membership(partition);
    let version = membership.configuration.as_ref().map(|it| it.version).unwrap_or_default();
    let found = (membership.token, membership.shadow, membership.watermark, version);
    let wanted = (copy.token, copy.shadow, copy.watermark, copy.configuration);
    if found != wanted {
        return Some(format!("partition {partition}: {found:?} instead of {wanted:?}"));
    }
    let entries = reader.entries(partition).into_iter().chain(reader.unvouched(partition));
    let mut found: Vec<_> = entries
        .map(|it| {
            let summary = it.summary;
            (summary.key_hash, summary.version, summary.checksum, !it.vouched)
        })
        .collect();
    found.sort();
    let wanted = |(key_hash, entry): (&KeyHash, &Entry)| {
        (*key_hash, entry.write.version, entry.checksum, entry.unvouched)
    };
    let wanted: Vec<_> = copy.records.iter().map(wanted).collect();
    (found != wanted).then(|| format!("partition {partition}: {found:?} instead of {wanted:?}"))
}

/// The record of an item, as it is committed.
fn encode_item(item: &Item) -> Bytes {
    let (partition, control) = match item.clone() {
        Item::Put(partition, _, write) => return encode(partition, &write, Flags::NONE),
        Item::Install(partition, _, write) => return encode(partition, &write, Flags::INSTALL),
        Item::Promise(epoch) => (PartitionId::STORE, Control::Promise(epoch)),
        Item::Begin(partition, token) => (partition, Control::Begin(token)),
        Item::Start(partition, token) => (partition, Control::Start(token)),
        Item::Finish(partition, token) => (partition, Control::Finish(token)),
        Item::Remove(partition, version) => (partition, Control::Remove(version)),
        Item::Configuration(partition, configuration) => {
            (partition, Control::Configuration(configuration))
        }
        Item::Watermark(partition, version) => (partition, Control::Watermark(version)),
        Item::Vouch(partition, key_hash, version) => {
            (partition, Control::Vouch { key_hash, version })
        }
    };
    let mut buffer = BytesMut::new();
    control.encode(partition, &mut buffer).unwrap();
    buffer.freeze()
}

fn decode(bytes: &Bytes) -> Option<Write> {
    let (record, _) = Record::decode(bytes).ok()?;
    let value = match record.kind {
        Kind::Put => Some(value_of(bytes).ok()?),
        Kind::Tombstone => None,
        Kind::Control => return None,
    };
    let key = Key(Bytes::copy_from_slice(record.key));
    let content = Content { key, value, expires: record.expires };
    let write = Write { version: record.version, content };
    debug_assert_eq!(Some(checksum(record.partition, &write)), crate_checksum(bytes));
    Some(write)
}

fn crate_checksum(bytes: &[u8]) -> Option<u32> {
    crate::protocol::record::checksum_of(bytes).ok()
}
