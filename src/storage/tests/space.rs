//! Room: what a store takes, how it makes room, and how it behaves when there is none.

use super::model::shown;
use super::support::*;
use crate::protocol::control::Control;
use crate::storage::disk::simulated::Seeded;
use crate::storage::{Disk, Options, Reserve, SimulatedDisk, StorageError, Store};

fn maintain(store: &mut Store<SimulatedDisk>) {
    for _ in 0..10_000 {
        if !store.maintain().unwrap().more {
            return;
        }
    }
    panic!("maintenance never comes to an end");
}

/// Overwrites keys at random with values of one size; says how many bytes of disk each byte of
/// live records takes, at most, once every key has been written.
fn amplification(keys: u64, value_bytes: usize, batch: u64) -> f64 {
    let disk = SimulatedDisk::new(1);
    let options = Options { tail_bytes: 256 << 10, ..options() };
    let (mut store, _) = open(&disk, options);
    let mut random = Seeded::new(2);
    let value = "v".repeat(value_bytes);
    let mut worst = 0.0f64;
    let mut seq = 0;
    let mut write = |key: u64| {
        seq += 1;
        put(&format!("key{key:05}"), seq, &value)
    };
    for first in (0..keys).step_by(usize::try_from(batch).unwrap()) {
        let records: Vec<_> = (first..first + batch).map(&mut write).collect();
        store.commit(&records).unwrap();
        maintain(&mut store);
    }
    let live = put("key00000", 1, &value).len() as u64 * keys;
    for _ in 0..keys * 4 / batch {
        let records: Vec<_> = (0..batch).map(|_| write(random.below(keys))).collect();
        store.commit(&records).unwrap();
        maintain(&mut store);
        let space = disk.space().unwrap();
        worst = worst.max((space.total - space.free) as f64 / live as f64);
    }
    maintain(&mut store);
    assert_eq!(store.reader().live_records(P0), keys);
    worst
}

#[test]
fn overwriting_takes_no_more_than_twice_the_live_bytes() {
    // The tail and the spare segments are a fixed cost, 10 segments here: so the store is made
    // ten times as large as they are.
    let small = amplification(60_000, 100, 200);
    assert!(small <= 2.0, "100-byte values take {small:.2} bytes a byte");
    let large = amplification(10_000, 1024, 40);
    assert!(large <= 1.6, "1 KiB values take {large:.2} bytes a byte");
}

#[test]
fn the_tail_stays_as_short_as_it_is_told_to() {
    let disk = SimulatedDisk::new(2);
    let options = Options { tail_bytes: 1 << 20, ..options() };
    let (mut store, _) = open(&disk, options.clone());
    let mut longest = 0;
    for seq in 1..2000 {
        store.commit(&[put(&format!("k{}", seq % 50), seq, &"x".repeat(6000))]).unwrap();
        maintain(&mut store);
        longest = longest.max(store.root.listed.len() as u64);
    }
    assert!(longest * options.segment_bytes <= (1 << 20) + 2 * options.segment_bytes, "{longest}");
    assert!(longest > 4, "and no shorter than it may be: {longest}");
}

#[test]
fn a_full_disk_is_refused_in_time_and_deletes_make_room_again() {
    let disk = SimulatedDisk::new(3);
    disk.set_capacity(4 << 20);
    let options = Options { reserve: Reserve::Bytes(512 << 10), ..options() };
    let (mut store, _) = open(&disk, options.clone());
    let value = "x".repeat(10_000);
    let mut seq = 0;
    let mut full = |store: &mut Store<SimulatedDisk>| -> u64 {
        for number in 0.. {
            seq += 1;
            match store.commit(&[put(&format!("key{seq}"), seq, &value)]) {
                Ok(_) => maintain(store),
                Err(StorageError::DiskFull { .. }) => return number,
                Err(error) => panic!("{error}"),
            }
        }
        0
    };
    let first = full(&mut store);
    assert!(first > 100, "only {first} values of 10 KB fit on 4 MiB");
    let space = store.reader().space().unwrap();
    // Compaction and checkpoints may use the reserve, values may not.
    assert!(space.free >= space.reserve / 2, "{space:?}");
    let before = shown(&store).unwrap();
    drop(store);
    disk.power_cut();
    let (mut store, _) = open(&disk, options);
    assert_eq!(shown(&store).unwrap(), before, "a refused write leaves nothing");
    // A third of the keys go; their tombstones with the garbage floor.
    for number in 1..=first / 3 {
        store.commit(&[delete(&format!("key{number}"), 10_000 + number)]).unwrap();
        maintain(&mut store);
    }
    let floor = Control::GarbageFloor(version(10_000 + first / 3));
    store.commit(&[control(P0, &floor)]).unwrap();
    maintain(&mut store);
    let mut fits = 0;
    for number in 0..first / 4 {
        let record = put(&format!("new{number}"), 20_000 + number, &value);
        if store.commit(&[record]).is_err() {
            break;
        }
        fits += 1;
        maintain(&mut store);
    }
    assert!(fits > first / 6, "deleting {} of {first} made room for {fits}", first / 3);
}

#[test]
fn deleted_keys_cost_neither_memory_nor_disk_once_they_are_forgotten() {
    const KEYS: u64 = 20_000;
    let disk = SimulatedDisk::new(5);
    let options = Options { tail_bytes: 256 << 10, ..options() };
    let (mut store, _) = open(&disk, options.clone());
    let used = || {
        let space = disk.space().unwrap();
        space.total - space.free
    };
    let room = |store: &Store<SimulatedDisk>| {
        store.shared.index.partition(P0).unwrap().read().table.capacity()
    };
    for first in (0..KEYS).step_by(200) {
        let keys = (first..first + 200).map(|key| put(&format!("k{key}"), key + 1, "value"));
        store.commit(&keys.collect::<Vec<_>>()).unwrap();
        maintain(&mut store);
    }
    for first in (10..KEYS).step_by(190) {
        let keys = (first..KEYS.min(first + 190)).map(|key| delete(&format!("k{key}"), KEYS + key));
        store.commit(&keys.collect::<Vec<_>>()).unwrap();
        maintain(&mut store);
    }
    let (full, crowded) = (used(), room(&store));
    assert_eq!(store.reader().counts(P0).tombstones, KEYS - 10);
    let floor = Control::GarbageFloor(version(2 * KEYS));
    store.commit(&[control(P0, &floor)]).unwrap();
    maintain(&mut store);
    assert_eq!(store.reader().counts(P0).tombstones, 0);
    assert!(room(&store) < 64, "room for {} entries, of {crowded}", room(&store));
    // The tail that a reopening reads, and some spare segments, are always there.
    for seq in 0..200 {
        store.commit(&[put("k0", 2 * KEYS + 1 + seq, &"x".repeat(4000))]).unwrap();
        maintain(&mut store);
    }
    assert!(used() * 2 < full, "{} bytes of {full} are left", used());
    // What comes late brings nothing back, not even after the power was off.
    store.commit(&[put("k77", 78, "value")]).unwrap();
    drop(store);
    disk.power_cut();
    let (store, _) = open(&disk, options);
    assert_eq!(get(&store, "k77"), None);
    assert_eq!(get(&store, "k9").as_deref(), Some("value"));
    assert_eq!(store.reader().entries(P0).len(), 10);
    assert!(room(&store) < 64);
}

#[test]
fn the_device_may_turn_out_full_although_it_said_otherwise() {
    let disk = SimulatedDisk::new(4);
    let (mut store, _) = open(&disk, options());
    let value = "x".repeat(20_000);
    let mut refused = 0;
    for seq in 1..100 {
        // Somebody else has filled the volume.
        if seq == 30 {
            let space = disk.space().unwrap();
            disk.set_capacity(space.total - space.free);
        }
        match store.commit(&[put(&format!("k{seq}"), seq, &value)]) {
            Ok(_) => {}
            Err(StorageError::DiskFull { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        maintain(&mut store);
    }
    assert!(refused > 0);
    disk.set_capacity(1 << 40);
    store.commit(&[put("late", 200, &value)]).unwrap();
    assert_eq!(get(&store, "k1").as_deref(), Some(value.as_str()));
}

#[test]
fn a_disk_that_somebody_else_filled_to_the_last_byte_is_full_and_not_broken() {
    let disk = SimulatedDisk::new(5);
    let (mut store, _) = open(&disk, options());
    store.commit(&[put("kept", 1, "value")]).unwrap();
    drop(store);
    disk.power_cut();
    let (mut store, _) = open(&disk, options());
    // Spare segments are there, and orders may use them; there is no room for another root.
    maintain(&mut store);
    let space = disk.space().unwrap();
    disk.set_capacity(space.total - space.free);
    let mut refused = 0;
    for seq in 2..200 {
        match store.commit(&[delete("k", seq)]) {
            Ok(_) => {}
            Err(StorageError::DiskFull { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        store.probe().unwrap();
        store.mark_quiet().unwrap();
        maintain(&mut store);
    }
    assert!(refused > 0);
    assert!(matches!(store.trust(), Err(StorageError::DiskFull { .. })));
    disk.set_capacity(1 << 40);
    store.trust().unwrap();
    store.commit(&[put("late", 200, "value")]).unwrap();
    drop(store);
    disk.power_cut();
    let (store, _) = open(&disk, options());
    assert_eq!(get(&store, "kept").as_deref(), Some("value"));
    assert_eq!(get(&store, "late").as_deref(), Some("value"));
}
