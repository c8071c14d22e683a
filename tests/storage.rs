//! The store over real files, and the simulated disk as others use it: through the public names.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use hatokuse::protocol::control::Control;
use hatokuse::protocol::record::{Flags, Kind, Record};
use hatokuse::runtime::clock;
use hatokuse::storage::disk::simulated::{Seeded, SimulatedDisk};
use hatokuse::storage::{Disk, Opened, Options, Reader, RealDisk, Reserve, Store, Tail};
use hatokuse::types::{Epoch, IndexKey, KeyHash, PartitionCount, PartitionId, Token, Version};

const KEY: IndexKey = IndexKey([5; 16]);
const P0: PartitionId = PartitionId(0);

fn partitions() -> PartitionCount {
    PartitionCount::new(8).unwrap()
}

fn small() -> Options {
    Options {
        segment_bytes: 64 << 10,
        tail_bytes: 512 << 10,
        reserve: Reserve::Bytes(0),
        ..Options::default()
    }
}

/// A value that tells its version, so that a reader can check what it gets.
fn value(seq: u64, length: usize) -> Vec<u8> {
    seq.to_le_bytes().iter().copied().cycle().take(length.max(8)).collect()
}

fn record(partition: PartitionId, key: &str, seq: u64, value: Option<&[u8]>) -> Bytes {
    let record = Record {
        kind: if value.is_some() { Kind::Put } else { Kind::Tombstone },
        flags: Flags::NONE,
        partition,
        version: Version::new(Epoch(1), seq),
        expires: 0,
        key: key.as_bytes(),
        value: value.unwrap_or(&[]),
    };
    record.to_bytes().unwrap()
}

fn put(key: &str, seq: u64, length: usize) -> Bytes {
    record(P0, key, seq, Some(&value(seq, length)))
}

fn hash(key: &str) -> KeyHash {
    KEY.hash(key.as_bytes())
}

fn open_at(path: &Path, options: Options) -> (Store<RealDisk>, Opened) {
    Store::open(RealDisk::new(path).unwrap(), KEY, partitions(), options).unwrap()
}

/// The version and value of a key; nothing if it is absent or deleted.
fn get<D: Disk>(reader: &Reader<D>, key: &str) -> Option<(u64, Vec<u8>)> {
    let bytes = reader.get(P0, hash(key)).unwrap()?;
    let (record, _) = Record::decode(&bytes).unwrap();
    (record.kind == Kind::Put).then(|| (record.version.seq, record.value.to_vec()))
}

#[test]
fn real_files_keep_what_was_committed_over_reopenings_and_maintenance() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Seeded::new(1);
    let mut model: BTreeMap<String, u64> = BTreeMap::new();
    let mut seq = 0;
    for round in 0..9 {
        let (mut store, opened) = open_at(directory.path(), small());
        // Two stops out of three are those of a process that is killed.
        let expected = if round % 3 == 0 { Tail::Clean } else { Tail::Torn };
        assert_eq!(opened.tail, expected, "round {round}");
        assert_eq!(opened.records, model.len() as u64);
        store.trust().unwrap();
        for _ in 0..60 {
            let mut batch = Vec::new();
            for _ in 0..=random.below(8) {
                seq += 1;
                let key = format!("key{}", random.below(60));
                if random.chance(200) {
                    batch.push(record(P0, &key, seq, None));
                    model.remove(&key);
                } else {
                    let length = usize::try_from(random.below(4000)).unwrap();
                    batch.push(put(&key, seq, length));
                    model.insert(key, seq);
                }
            }
            store.commit(&batch).unwrap();
            store.maintain().unwrap();
        }
        let reader = store.reader();
        for number in 0..60 {
            let key = format!("key{number}");
            let held = get(&reader, &key);
            assert_eq!(held.as_ref().map(|(seq, _)| *seq), model.get(&key).copied());
            if let Some((seq, bytes)) = held {
                assert_eq!(bytes, value(seq, bytes.len()));
            }
        }
        if round % 3 == 2 {
            store.close().unwrap();
        }
    }
}

/// Reads keys at random until told to stop: every value is whole, and none is older than one that
/// was seen before. Says how many it read.
fn read_until<D: Disk>(reader: &Reader<D>, keys: u64, seed: u64, done: &AtomicBool) -> u64 {
    let mut random = Seeded::new(seed);
    let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
    let mut reads = 0;
    while !done.load(Ordering::Relaxed) {
        let number = random.below(keys);
        let (seq, bytes) = get(reader, &format!("key{number}")).expect("it is never deleted");
        assert_eq!(bytes, value(seq, bytes.len()));
        let before = newest.insert(number, seq).unwrap_or(0);
        assert!(seq >= before, "an older version came back");
        reads += 1;
    }
    reads
}

#[test]
fn readers_see_only_whole_values_while_segments_are_written_anew() {
    const KEYS: u64 = 40;
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open_at(directory.path(), small());
    let done = AtomicBool::new(false);
    let first: Vec<_> =
        (0..KEYS).map(|number| put(&format!("key{number}"), number + 1, 500)).collect();
    store.commit(&first).unwrap();
    std::thread::scope(|scope| {
        let spawn = |seed| {
            let (reader, done) = (store.reader(), &done);
            scope.spawn(move || read_until(&reader, KEYS, seed, done))
        };
        let readers: Vec<_> = (0..2).map(spawn).collect();
        let mut random = Seeded::new(9);
        for seq in 100..1500 {
            let length = usize::try_from(random.below(9000)).unwrap();
            let key = format!("key{}", random.below(KEYS));
            store.commit(&[put(&key, seq, length)]).unwrap();
            while store.maintain().unwrap().more {}
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}

#[test]
fn a_flipped_byte_of_a_real_file_is_damage_and_costs_the_authority() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open_at(directory.path(), small());
    let mut begin = BytesMut::new();
    Control::Begin(Token(3)).encode(P0, &mut begin).unwrap();
    store.commit(&[begin.freeze(), put("a", 1, 100)]).unwrap();
    store.commit(&[put("b", 2, 100)]).unwrap();
    store.close().unwrap();
    let segment = directory.path().join("segment-0000000");
    let file = OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4096 + 200).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 4096 + 200).unwrap();
    let (store, opened) = open_at(directory.path(), small());
    assert!(matches!(opened.tail, Tail::Damaged(_)), "{:?}", opened.tail);
    assert_eq!(store.reader().membership(P0).token, None);
    assert_eq!(store.reader().unvouched(P0).len(), 1, "what can be read is kept");
}

#[test]
fn a_simulated_power_cut_at_any_operation_loses_nothing_that_was_acknowledged() {
    for cut in 0..120 {
        let disk = SimulatedDisk::new(cut);
        disk.cut_after(cut);
        let mut acknowledged = 0;
        if let Ok((mut store, _)) = Store::open(disk.clone(), KEY, partitions(), small()) {
            for seq in 1..40 {
                if store.commit(&[put("a", seq, 3000)]).is_err() {
                    break;
                }
                acknowledged = seq;
                let _ = store.maintain();
            }
        }
        disk.power_cut();
        let (store, opened) = Store::open(disk, KEY, partitions(), small()).unwrap();
        assert!(!matches!(opened.tail, Tail::Damaged(_)), "cut at {cut}");
        let seq = get(&store.reader(), "a").map_or(0, |(seq, _)| seq);
        assert!(seq == acknowledged || seq == acknowledged + 1, "cut at {cut}: {seq}");
    }
}

/// Where the key of this number lies.
fn partition_of(seq: u64) -> PartitionId {
    PartitionId(u16::try_from(seq % 1024).unwrap())
}

/// A number or name that the one who runs a measurement may give.
#[allow(clippy::disallowed_methods, reason = "settings of a measurement that is run by hand")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Prints what the design sets goals for: `cargo test --test storage -- --ignored --nocapture`.
/// `STORE_KEYS` may say how many keys, `STORE_DIR` where.
#[test]
#[ignore = "a measurement: takes a minute and 4 GB of disk"]
fn measure_ten_million_keys() {
    let keys: u64 = setting("STORE_KEYS").map_or(10_000_000, |keys| keys.parse().unwrap());
    let within = setting("STORE_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let directory = tempfile::tempdir_in(within).unwrap();
    let open = || {
        let disk = RealDisk::new(directory.path()).unwrap();
        Store::open(disk, KEY, PartitionCount::DEFAULT, Options::default()).unwrap()
    };
    let rate = |count: u64, since| {
        let micros = u64::try_from(clock::now().since(since).as_micros()).unwrap();
        count * 1_000_000 / micros.max(1)
    };
    let (mut store, _) = open();
    let start = clock::now();
    let mut batch = BytesMut::new();
    for first in (0..keys).step_by(256) {
        for seq in first + 1..=first + 256 {
            let key = format!("key{seq:012}");
            batch.extend_from_slice(&record(partition_of(seq), &key, seq, Some(&[7; 100])));
        }
        if first % (1 << 18) == 0 {
            let watermark = Control::Watermark(Version::new(Epoch(1), first));
            for partition in PartitionCount::DEFAULT.all() {
                watermark.encode(partition, &mut batch).unwrap();
            }
        }
        store.commit(&[batch.split().freeze()]).unwrap();
        store.maintain().unwrap();
    }
    println!("{} puts/s in batches of 256 with maintenance", rate(keys, start));
    println!("resident {} MiB", resident_mebibytes());
    drop(store);
    let start = clock::now();
    let (store, opened) = open();
    println!("reopened {} records in {:?}", opened.records, clock::now().since(start));
    assert!(opened.records >= keys);
    let reader = store.reader();
    let start = clock::now();
    let mut random = Seeded::new(1);
    for _ in 0..200_000 {
        let seq = 1 + random.below(keys);
        let held = reader.get(partition_of(seq), hash(&format!("key{seq:012}")));
        assert!(held.unwrap().is_some());
    }
    println!("{} gets/s", rate(200_000, start));
}

fn resident_mebibytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) / 256
}
