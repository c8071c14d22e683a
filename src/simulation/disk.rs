//! The real store of a node, over a simulated disk, beside the simple one that says what it should
//! hold: whatever the real one answers is used, and each reopening is compared.

use bytes::{Bytes, BytesMut};

use super::random::Random;
use super::store::{Copy, Entry, Item, Store, checksum, encode};
use crate::logic::comparison::Doubt;
use crate::logic::partition::io::{Content, ReadAnswer, Summary as Told, Write};
use crate::protocol::control::Control;
use crate::protocol::record::{Flags, Kind, Record, value_of};
use crate::storage::{
    Disk, EntryRef, IoMode, Opened, Options, Reader, Reserve, SimulatedDisk, Store as Log, Summary,
    Tail, disk,
};
use crate::types::{IndexKey, Key, KeyHash, PartitionCount, PartitionId, Version};

/// A store on its disk, open while the node's process runs.
#[derive(Debug)]
pub(super) struct RealStore {
    disk: SimulatedDisk,
    log: Option<Log<SimulatedDisk>>,
    segment_bytes: u64,
    key: IndexKey,
    count: PartitionCount,
    buffered: bool,
    /// Counts the starts of the machine.
    machine: u64,
    /// Where the last batch lies, as long as nothing was written after it.
    last: Option<(String, u64)>,
    /// It was damaged since it was last open.
    rotten: bool,
}

impl RealStore {
    pub(super) fn new(
        key: IndexKey,
        count: PartitionCount,
        buffered: bool,
        random: &mut Random,
    ) -> Self {
        let disk = SimulatedDisk::new(random.next());
        let segment_bytes = *random.pick(&[64 << 10, 256 << 10]);
        let (log, last, machine, rotten) = (None, None, 0, false);
        Self { disk, log, segment_bytes, key, count, buffered, machine, last, rotten }
    }

    /// Opens it, and compares it with what must be there: what was committed, and a prefix of what
    /// was being committed. Says how far the store takes itself to be trusted.
    pub(super) fn open(
        &mut self,
        expected: &mut Store,
        pending: Vec<Item>,
    ) -> Result<Doubt, String> {
        let (log, opened) = self.open_from(self.disk.clone())?;
        let reader = self.log.insert(log).reader();
        if is_damaged(&opened) != std::mem::take(&mut self.rotten) {
            return Err(format!("what the store takes itself for is wrong: {opened:?}"));
        }
        let doubt = match opened.tail {
            _ if opened.possible_loss => Doubt::Lost,
            Tail::Clean => Doubt::None,
            _ => Doubt::Unclean,
        };
        self.last = None;
        let first = self.difference(&reader, expected);
        let mut difference = first.clone();
        for item in pending {
            if difference.is_none() {
                break;
            }
            expected.apply(item);
            difference = self.difference(&reader, expected);
        }
        difference
            .and(first)
            .map_or(Ok(doubt), |it| Err(format!("the store came back with something else: {it}")))
    }

    fn open_from(&self, disk: SimulatedDisk) -> Result<(Log<SimulatedDisk>, Opened), String> {
        let options = Options {
            segment_bytes: self.segment_bytes,
            reserve: Reserve::Bytes(0),
            tail_bytes: 8 * self.segment_bytes,
            io_mode: if self.buffered { IoMode::Buffered } else { IoMode::Unbuffered },
            machine_boot: Some(format!("boot-{}", self.machine)),
            ..Options::default()
        };
        let opened = Log::open(disk, self.key, self.count, options);
        opened.map_err(|error| format!("the store does not open: {error}"))
    }

    /// Some byte of the log, its root or its checkpoints that is not empty space.
    pub(super) fn some_byte(&self, random: &mut Random) -> Option<(String, u64)> {
        let mut names = self.disk.list().ok()?;
        names.retain(|name| name != "status");
        let name = names.get(random.index(names.len().max(1)))?.clone();
        let bytes = disk::read_whole(&self.disk, &name).ok()?;
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        (!used.is_empty()).then(|| (name, *random.pick(&used) as u64))
    }

    pub(super) fn flip(&self, name: &str, offset: u64, mask: u8) {
        self.disk.flip(name, offset, mask);
    }

    /// What the store will hold when it is opened, if it then finds itself damaged. What it does not
    /// give up must be as it was.
    pub(super) fn as_damaged(&mut self, before: &Store) -> Result<Option<Store>, String> {
        let (log, opened) = self.open_from(self.disk.copy(0))?;
        if !is_damaged(&opened) {
            return Ok(None);
        }
        (self.rotten, self.last) = (true, None);
        let reader = log.reader();
        let all = !matches!(opened.tail, Tail::Clean | Tail::Torn);
        let mut after = Store { doubted: true, ..before.clone() };
        if all {
            after.promised = reader.promised();
        }
        for partition in self.count.all() {
            if all || opened.damaged.contains(&partition) {
                let copy = after.copies.entry(partition).or_default();
                *copy = left_of(&reader, partition, copy)?;
            }
        }
        let wrong = self.difference(&reader, &after);
        wrong.map_or(Ok(Some(after)), |it| Err(format!("damage changed something else: {it}")))
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
        let records = encode_items(items);
        let Some(log) = &mut self.log else { return Err("the store is not open".into()) };
        let before = log.end();
        let done = log.commit(&records).map_err(|error| format!("a commit failed: {error}"))?;
        let after = log.end();
        if done.frames > 0 {
            self.last = (done.frames == 1 && before.0 == after.0).then_some(before);
        }
        Ok(())
    }

    /// Makes everything durable that was committed.
    pub(super) fn sync(&mut self) -> Result<(), String> {
        let Some(log) = &mut self.log else { return Ok(()) };
        log.sync().map_err(|error| format!("a sync failed: {error}"))
    }

    /// The store was compared.
    pub(super) fn trust(&mut self) -> Result<(), String> {
        let Some(log) = &mut self.log else { return Ok(()) };
        log.trust().map_err(|error| format!("the status was not written: {error}"))
    }

    /// Housekeeping, as in a node's quiet moments.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        self.last = None;
        let Some(log) = &mut self.log else { return Ok(()) };
        log.mark_quiet().map_err(|error| format!("a mark failed: {error}"))?;
        log.maintain().map_err(|error| format!("maintenance failed: {error}"))?;
        Ok(())
    }

    /// The process dies, perhaps in the middle of a commit, and perhaps the machine with it where
    /// that makes no difference.
    pub(super) fn crash(&mut self, items: &[Item], random: &mut Random) {
        if self.buffered {
            self.commit_some(items, random);
        } else {
            self.commit_in_part(items, random);
        }
        if !self.buffered && random.percent(50) {
            self.machine += 1;
            self.disk.power_cut();
        } else {
            self.disk.kill();
        }
    }

    /// The machine goes down, perhaps in the middle of a commit.
    pub(super) fn lose_power(&mut self, items: &[Item], random: &mut Random) {
        self.commit_in_part(items, random);
        self.machine += 1;
        self.disk.power_cut();
    }

    /// The process dies between two commits.
    pub(super) fn kill(&mut self) {
        self.log = None;
        self.disk.kill();
    }

    /// The last batch is damaged, if nothing came after it.
    pub(super) fn lose_batch(&mut self) -> bool {
        self.last.take().is_some_and(|(name, offset)| self.disk.flip(&name, offset, 0xff))
    }

    /// A process that dies makes no sync fail, and a buffered store would lose by that what the
    /// machine still has.
    fn commit_some(&mut self, items: &[Item], random: &mut Random) {
        if let Some(mut log) = self.log.take() {
            let count = random.index(items.len() + 1);
            let _ = log.commit(&encode_items(items.get(..count).unwrap_or(items)));
        }
    }

    fn commit_in_part(&mut self, items: &[Item], random: &mut Random) {
        if let Some(mut log) = self.log.take() {
            self.disk.cut_after(random.below(4));
            let _ = log.commit(&encode_items(items));
        }
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
    pub(super) fn above(&self, partition: PartitionId, watermark: Version) -> Vec<Told> {
        let Some(reader) = self.reader() else { return Vec::new() };
        reader.set_watermark(partition, watermark);
        let above = reader.above_watermark(partition).into_iter();
        let mut above: Vec<Told> = above
            .map(|it| Told { key_hash: it.key_hash, version: it.version, checksum: it.checksum })
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

fn is_damaged(opened: &Opened) -> bool {
    !opened.damaged.is_empty() || !matches!(opened.tail, Tail::Clean | Tail::Torn)
}

/// What damage has left of a partition: no membership, and records that wait to be vouched for.
fn left_of(
    reader: &Reader<SimulatedDisk>,
    partition: PartitionId,
    before: &Copy,
) -> Result<Copy, String> {
    let membership = reader.membership(partition);
    if membership.token.is_some() || !reader.entries(partition).is_empty() {
        return Err(format!("damage has left a copy of partition {partition}: {membership:?}"));
    }
    let entry = |found: &EntryRef| {
        let Summary { key_hash, version, checksum } = found.summary;
        let same = |entry: &&Entry| (entry.write.version, entry.checksum) == (version, checksum);
        let known = before.records.get(&key_hash).filter(same).map(|entry| entry.write.clone());
        let read = || decode(&reader.read_unvouched(partition, key_hash).ok()??);
        // What cannot be read is in the index all the same, for as long as nobody vouches for it.
        let unread = || {
            let content = Content { key: Key(Bytes::new()), value: None, expires: 0 };
            Write { version, content }
        };
        let write = known.or_else(read).unwrap_or_else(unread);
        (key_hash, Entry { write, checksum, unvouched: true })
    };
    Ok(Copy {
        token: None,
        shadow: false,
        records: reader.unvouched(partition).iter().map(entry).collect(),
        configuration: membership.configuration,
        watermark: membership.watermark,
        floor: membership.garbage_floor,
    })
}

fn copy_difference(
    reader: &Reader<SimulatedDisk>,
    partition: PartitionId,
    copy: &Copy,
) -> Option<String> {
    let membership = reader.membership(partition);
    let found =
        (membership.token, membership.shadow, membership.watermark, membership.configuration);
    if membership.garbage_floor != copy.floor {
        let found = membership.garbage_floor;
        return Some(format!("partition {partition}: floor {found} instead of {}", copy.floor));
    }
    let wanted = (copy.token, copy.shadow, copy.watermark, copy.configuration.clone());
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

fn encode_items(items: &[Item]) -> Vec<Bytes> {
    items.iter().map(encode_item).collect()
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
        Item::GarbageFloor(partition, version) => (partition, Control::GarbageFloor(version)),
        Item::Forget(partition, key_hash, version) => {
            (partition, Control::Forget { key_hash, version })
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
