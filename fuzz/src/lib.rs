//! What must hold for everything that reads bytes from a network or a disk, whatever the bytes.
//!
//! Each function takes any bytes and panics if its decoder does something it must not: the fuzzer
//! looks for such bytes for as long as it is let, and `tests/decoders.rs` tries some at every change.
//! A checksum would keep all but a few from the code behind it; so where there is one, the bytes are
//! tried as they are and once more with the right checksum.

use bytes::{Bytes, BytesMut};
use hatokuse::meta::Change;
use hatokuse::meta::log::{LogOptions, MetadataLog};
use hatokuse::protocol::command::Request;
use hatokuse::protocol::control::Control;
use hatokuse::protocol::line::{Item, Limits, LineParser};
use hatokuse::protocol::record::{self, Record, Records};
use hatokuse::rpc::{convert, v1};
use hatokuse::storage::frame::{self, Builder, FrameKey, Header};
use hatokuse::storage::{Disk, DiskFile, SimulatedDisk};
use hatokuse::types::{Epoch, IndexKey, PartitionId};
use prost::Message;

/// Requests of the line protocol: what is made of a stream does not depend on how it was cut, no
/// request is longer than the limits allow, and there are no more of them than line ends.
pub fn line(bytes: &[u8]) {
    let limits = Limits { max_key_bytes: 16, max_value_bytes: 64 };
    let cut = bytes.first().map_or(0, |first| usize::from(*first) % (bytes.len() + 1));
    let (front, back) = bytes.split_at(cut);
    let whole = requests(limits, &[bytes]);
    assert_eq!(whole, requests(limits, &[front, back]), "cut at {cut}");
    assert!(whole.len() <= bytes.len() + 1);
    for item in &whole {
        let Item::Request(parsed) = item else { continue };
        if let Ok(Request::Key(operation)) = &parsed.request {
            assert!(operation.key().0.len() <= limits.max_key_bytes, "{operation:?}");
            let most = limits.max_key_bytes + limits.max_value_bytes;
            assert!(operation.bytes() <= most, "{operation:?}");
        }
    }
}

fn requests(limits: Limits, pieces: &[&[u8]]) -> Vec<Item> {
    let mut parser = LineParser::new(limits);
    let mut buffer = BytesMut::new();
    let mut items = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        items.extend(std::iter::from_fn(|| parser.next(&mut buffer)));
    }
    items
}

/// Records, as they travel and lie on disk: what is read is written and read back the same, and a
/// control record either says something or is refused.
pub fn record(bytes: &[u8]) {
    read_records(bytes);
    read_records(&with_checksum(bytes));
}

fn read_records(bytes: &[u8]) {
    let mut taken = 0;
    for read in Records::new(bytes) {
        let Ok((read, encoded)) = read else { break };
        taken += encoded.len();
        let again = read.to_bytes().expect("what was read is within the limits");
        assert_eq!(again.len(), encoded.len());
        assert_eq!(Record::decode(&again), Ok((read, encoded.len())));
        assert_eq!(record::value_of(&again).as_deref(), Ok(read.value));
        if let Ok(control) = Control::decode(&read) {
            let mut buffer = BytesMut::new();
            control.encode(PartitionId(1), &mut buffer).expect("what was read can be written");
            let (back, _) = Record::decode(&buffer).expect("what was written can be read");
            assert_eq!(Control::decode(&back).as_ref(), Ok(&control));
        }
    }
    assert!(taken <= bytes.len());
}

/// The bytes with the checksum of the record that begins them, if they hold a whole one.
fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let Some([key, key2, value @ ..]) = bytes.get(6..12) else { return bytes };
    let key = usize::from(u16::from_le_bytes([*key, *key2]));
    let value = value.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let end = record::HEADER_BYTES + key + value;
    let checksum = bytes.get(5..end).map(crc32fast::hash);
    if let (Some(checksum), Some(place)) = (checksum, bytes.get_mut(..4)) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
    bytes
}

/// Frames of the log: any bytes are a payload that comes back, and bytes that verify are what would
/// have been written, for this place of this log and no other. (Here that can happen: the fuzzer
/// reads the secret checksum that its bytes are compared with, as no client can.)
pub fn frame(bytes: &[u8]) {
    let (key, other) = (FrameKey::new(IndexKey([7; 16])), FrameKey::new(IndexKey([8; 16])));
    if let Some(read) = frame::decode(key, 0, bytes) {
        let length = frame::HEADER_BYTES + read.payload.len();
        let built = build(key, 0, read.header, read.payload);
        assert_eq!(built.get(..length), bytes.get(..length));
        assert_eq!(frame::decode(key, 4096, bytes), None, "in another place");
        assert_eq!(frame::decode(other, 0, bytes), None, "in another log");
    }
    let header =
        Header { number: 5, mark: 4, generation: 3, closed: bytes.len().is_multiple_of(2) };
    let built = build(key, 4096, header, bytes);
    let read = frame::decode(key, 4096, &built).expect("what was built can be read");
    assert_eq!((read.header, read.payload), (header, bytes));
    assert_eq!(frame::decode(key, 8192, &built), None, "in another place");
}

fn build(key: FrameKey, offset: u64, header: Header, payload: &[u8]) -> Vec<u8> {
    let mut builder = Builder::default();
    builder.begin();
    builder.push(payload);
    builder.finish(key, offset, header).to_vec()
}

/// What leader and nodes say to each other: each part is taken or refused, and nothing more.
pub fn replica(bytes: &[u8]) {
    if let Ok(request) = v1::ReplicateRequest::decode(bytes) {
        let again = request.encode_to_vec();
        assert_eq!(v1::ReplicateRequest::decode(again.as_slice()).as_ref(), Ok(&request));
        if let Some(v1::replicate_request::Kind::Batch(batch)) = request.kind {
            record(&batch.records);
            for section in &batch.sections {
                let _ = (convert::partition(section.partition), section.watermark());
            }
            for read in &batch.reads {
                let _ = (convert::partition(read.partition), convert::key_hash(&read.key_hash));
            }
        }
    }
    if let Ok(reply) = v1::ReplicateReply::decode(bytes) {
        for answer in &reply.reads {
            let _ = record::value_of(&Bytes::copy_from_slice(&answer.record));
        }
        for fence in &reply.fences {
            let _ = (convert::partition(fence.partition), fence.watermark());
            let hashes = fence.records.iter().map(|record| convert::key_hash(&record.key_hash));
            assert_eq!(hashes.count(), fence.records.len());
        }
    }
}

const METADATA: &str = "metadata";
const LOG: LogOptions = LogOptions { log_bytes: 1 << 16 };

/// The leader's metadata: a file of any bytes is opened or refused, with nothing changed if refused,
/// and a log that was opened takes no harm from being opened once more. A log of some epochs with
/// one byte changed is refused, or nothing of it is lost.
pub fn metadata(bytes: &[u8]) {
    open_any(bytes);
    let opened = open_any(&as_log(bytes));
    assert!(opened || !bytes.is_empty(), "this is not how a log is written any more");
    if let [low, high, mask @ 1..=255, ..] = bytes {
        open_changed(u16::from_le_bytes([*low, *high]), *mask);
    }
}

fn open_changed(offset: u16, mask: u8) {
    let disk = SimulatedDisk::new(1);
    let (mut log, _) = MetadataLog::open(disk.clone(), LOG).expect("an empty disk takes a log");
    for epoch in 1..=3 {
        log.append(&[Change::Epoch(Epoch(epoch))]).expect("an empty disk has room");
    }
    log.settle().expect("an empty disk has room");
    let state = log.state().clone();
    drop(log);
    disk.flip(METADATA, u64::from(offset), mask);
    if let Ok((log, _)) = MetadataLog::open(disk, LOG) {
        assert_eq!(*log.state(), state, "byte {offset} changed by {mask}");
    }
}

/// A log that verifies and has the bytes where its changes belong: the first of them in its
/// snapshot, the others in the frame after it.
fn as_log(bytes: &[u8]) -> Vec<u8> {
    let cut = bytes.first().map_or(0, |first| usize::from(*first) % (bytes.len() + 1));
    let (front, back) = bytes.split_at(cut);
    let snapshot = [b"HKMETA\r\n".as_slice(), &1u32.to_le_bytes(), front].concat();
    let key = FrameKey::new(IndexKey(*b"hatokuse metadat"));
    let header = Header { number: 1, mark: 1, generation: 1, closed: false };
    let mut file = build(key, 0, header, &snapshot);
    let offset = file.len() as u64;
    file.extend(build(key, offset, Header { number: 2, ..header }, back));
    file
}

/// Says whether it could be opened.
fn open_any(bytes: &[u8]) -> bool {
    let disk = SimulatedDisk::new(1);
    let file = disk.create(METADATA).expect("an empty disk takes a file");
    file.write_at(0, bytes).and_then(|()| file.sync()).expect("an empty disk has room");
    disk.sync_dir().expect("the name is kept");
    let Ok((log, _)) = MetadataLog::open(disk.clone(), LOG) else {
        let mut left = vec![0; bytes.len()];
        assert_eq!(file.read_at(0, &mut left).ok(), Some(bytes.len()));
        assert_eq!(left, bytes, "what could not be read was changed");
        return false;
    };
    let state = log.state().clone();
    drop(log);
    let (again, _) = MetadataLog::open(disk, LOG).expect("it could be opened before");
    assert_eq!(*again.state(), state);
    true
}
