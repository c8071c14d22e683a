//! Bytes that change on the disk: never a wrong value, never a silent loss, never a record thrown
//! away that could be read.

use super::model::{Model, shown};
use super::random::{Profile, USUAL, settled};
use super::support::*;
use crate::protocol::control::Control;
use crate::protocol::record::{Flags, Kind, Record};
use crate::storage::disk::DiskFile;
use crate::storage::disk::simulated::Seeded;
use crate::storage::{Damage, Disk, Options, ReadError, SimulatedDisk, Store, Tail};
use crate::types::{PartitionId, Token};

fn filled(seed: u64, options: &Options) -> (SimulatedDisk, Store<SimulatedDisk>) {
    let disk = SimulatedDisk::new(seed);
    let (mut store, _) = open(&disk, options.clone());
    let begin = [P0, P1].map(|partition| control(partition, &Control::Begin(TOKEN)));
    store.commit(&begin).unwrap();
    for seq in 1..=12 {
        let key = format!("k{}", seq % 6);
        let other = record(P1, &key, version(seq), Some(b"other"), Flags::NONE);
        store.commit(&[put(&key, seq, &format!("value {seq}")), other]).unwrap();
    }
    (disk, store)
}

/// What a damaged store shows: everything that could be read, nothing that counts.
fn is_demoted(before: &Model, after: &Model) {
    for (before, after) in before.partitions.iter().zip(&after.partitions) {
        assert_eq!(after.token, None);
        assert!(after.entries.values().all(|held| !held.vouched));
        assert_eq!(before.watermark, after.watermark);
    }
}

#[test]
fn every_flipped_byte_of_the_log_is_damage_but_for_the_last_frame() {
    let options = options();
    let (disk, store) = filled(1, &options);
    let before = shown(&store).unwrap();
    let end = store.log.active.offset;
    drop(store);
    disk.kill();
    let mut judged = 0;
    // The header of each frame and its first record, if it has one: padding is not read.
    for frame in (0..end).step_by(4096) {
        for byte in (0..if frame == 0 { 40 } else { 90 }).step_by(7) {
            let flipped = disk.copy(frame);
            assert!(flipped.flip("segment-0000000", frame + byte, 0x10));
            let (store, opened) = open(&flipped, options.clone());
            let shown = shown(&store).unwrap();
            if frame + 4096 < end {
                assert_eq!(opened.tail, Tail::Damaged(Damage::Frame(frame / 4096 + 1)));
                is_demoted(&before, &shown);
                judged += 1;
            } else {
                assert_eq!(opened.tail, Tail::Torn, "nothing tells that it had been synced");
            }
        }
    }
    assert!(judged > 100);
}

#[test]
fn the_quiet_mark_lets_damage_to_the_last_commit_be_seen() {
    let options = options();
    let (disk, mut store) = filled(2, &options);
    let last = store.log.active.offset - 4096;
    store.mark_quiet().unwrap();
    let operations = disk.operations();
    store.mark_quiet().unwrap();
    assert_eq!(disk.operations(), operations, "it is written once");
    drop(store);
    disk.kill();
    disk.flip("segment-0000000", last + 50, 1);
    let (_, opened) = open(&disk, options);
    assert!(matches!(opened.tail, Tail::Damaged(Damage::Frame(_))), "{:?}", opened.tail);
}

#[test]
fn a_damaged_store_keeps_its_records_and_is_made_whole_by_vouching() {
    let options = options();
    let (disk, store) = filled(3, &options);
    drop(store);
    disk.kill();
    // The frame of version 3 goes, everything later can still be read.
    disk.flip("segment-0000000", 4096 * 4 + 60, 1);
    let (mut store, opened) = open(&disk, options.clone());
    assert!(matches!(opened.tail, Tail::Damaged(_)));
    assert_eq!(opened.damaged.len(), usize::from(partitions().get()));
    assert_eq!(get(&store, "k5"), None, "nothing is served");
    let reader = store.reader();
    assert_eq!(reader.unvouched(P0).len(), 6, "every key's newest version is there");
    store.commit(&[control(P0, &Control::Start(Token(2)))]).unwrap();
    let vouches: Vec<_> = (7..=11).map(|seq| vouch(&format!("k{}", seq % 6), seq)).collect();
    store.commit(&vouches).unwrap();
    store.commit(&[control(P0, &Control::Finish(Token(2)))]).unwrap();
    drop(store);
    disk.power_cut();
    let (store, opened) = open(&disk, options);
    assert_eq!((opened.tail, opened.damaged), (Tail::Torn, vec![]), "the damage is settled");
    assert_eq!(get(&store, "k5").as_deref(), Some("value 11"));
    assert_eq!(get(&store, "k0"), None, "nobody vouched for it");
    assert_eq!(store.reader().membership(P1).token, None);
}

#[test]
fn without_its_root_the_store_is_damaged_and_keeps_every_record() {
    let options = Options { tail_bytes: 1, ..options() };
    for flipped in 0..60 {
        let (disk, mut store) = filled(4, &options);
        while store.maintain().unwrap().more {}
        let value = "x".repeat(15_000);
        for seq in 20..40 {
            store.commit(&[put(&format!("k{}", seq % 6), seq, &value)]).unwrap();
            while store.maintain().unwrap().more {}
        }
        let before = shown(&store).unwrap();
        drop(store);
        disk.kill();
        if !disk.flip("root", flipped, 1) {
            break;
        }
        let (store, opened) = open(&disk, options.clone());
        assert_eq!(opened.tail, Tail::Damaged(Damage::Root));
        let after = shown(&store).unwrap();
        is_demoted(&before, &after);
        assert_eq!(after, before.demoted(), "all of it can still be vouched for");
        drop(store);
        disk.power_cut();
        let (_, opened) = open(&disk, options.clone());
        assert_eq!(opened.tail, Tail::Torn, "it has a root again");
    }
}

#[test]
fn a_damaged_checkpoint_costs_its_own_partition_only() {
    let options = Options { tail_bytes: 1, ..options() };
    let (disk, mut store) = filled(5, &options);
    while store.maintain().unwrap().more {}
    let before = shown(&store).unwrap();
    drop(store);
    disk.kill();
    for byte in (0..5000).step_by(97) {
        let flipped = disk.copy(byte);
        if !flipped.flip("checkpoint-00001", byte, 4) {
            break;
        }
        let (store, opened) = open(&flipped, options.clone());
        assert_eq!(opened.damaged, [P1], "byte {byte}");
        assert_eq!(opened.tail, Tail::Torn);
        let after = shown(&store).unwrap();
        assert_eq!(after.partitions[0], before.partitions[0]);
        assert_eq!(after.partitions[1].token, None);
        drop(store);
        flipped.power_cut();
        let (store, opened) = open(&flipped, options.clone());
        assert_eq!(opened.damaged, [], "it is settled");
        assert_eq!(store.reader().membership(P1).token, None, "and not forgotten");
    }
    let lost = disk.copy(1);
    lost.flip("checkpoint-65535", 20, 1);
    let (_, opened) = open(&lost, options);
    assert_eq!(opened.tail, Tail::Damaged(Damage::Store), "the promised epoch is not known");
}

#[test]
fn the_power_may_go_off_while_damage_is_settled() {
    let options = options();
    let (disk, store) = filled(6, &options);
    drop(store);
    disk.kill();
    disk.flip("segment-0000000", 4096 * 4 + 60, 1);
    for cut in 0..60 {
        let disk = disk.copy(cut);
        disk.cut_after(cut);
        let opened = Store::open(disk.clone(), KEY, partitions(), options.clone());
        let whole = opened.is_ok();
        drop(opened);
        disk.power_cut();
        let (store, opened) = open(&disk, options.clone());
        let settled = store.reader().membership(P0).token.is_none();
        assert!(settled, "cut at {cut}: {:?}", opened.tail);
        assert_eq!(store.reader().unvouched(P0).len(), 6, "cut at {cut}");
        if whole {
            return;
        }
    }
    panic!("opening never came to an end");
}

#[test]
fn a_flipped_byte_in_a_sealed_segment_is_noticed_when_read_and_can_be_restored() {
    let options = Options { tail_bytes: 1, ..options() };
    let disk = SimulatedDisk::new(7);
    let (mut store, _) = open(&disk, options.clone());
    let value = "v".repeat(10_000);
    let precious = put("precious", 1, &value);
    store.commit(std::slice::from_ref(&precious)).unwrap();
    for seq in 2..40 {
        store.commit(&[put(&format!("k{seq}"), seq, &value)]).unwrap();
        while store.maintain().unwrap().more {}
    }
    let entry = *store.shared.index.partition(P0).unwrap().read().find(hash("precious")).unwrap();
    let place = entry.place();
    assert!(!store.root.lists(place.segment), "the segment is sealed");
    drop(store);
    disk.kill();
    let name = format!("segment-{:07}", place.segment);
    assert!(disk.flip(&name, u64::from(place.offset) + 5000, 8));
    let (mut store, opened) = open(&disk, options.clone());
    assert_eq!(opened.tail, Tail::Torn, "no reopening reads it");
    let read = store.reader().get(P0, hash("precious"));
    assert!(matches!(read, Err(ReadError::Damaged { .. })), "{read:?}");
    assert_eq!(get(&store, "k2").as_deref(), Some(value.as_str()), "its neighbours are fine");
    // Compaction must not lose it, nor turn it into anything else.
    for seq in 100..160 {
        store.commit(&[put(&format!("k{}", seq % 38 + 2), seq, &value)]).unwrap();
        while store.maintain().unwrap().more {}
    }
    assert!(store.reader().get(P0, hash("precious")).is_err());
    let other = put("precious", 1, "another value under the same version");
    assert_eq!(store.restore(&[other]).unwrap(), 0, "that would be another record");
    assert_eq!(store.restore(&[precious]).unwrap(), 1);
    assert_eq!(get(&store, "precious").as_deref(), Some(value.as_str()));
    drop(store);
    disk.power_cut();
    let (store, _) = open(&disk, options);
    assert_eq!(get(&store, "precious").as_deref(), Some(value.as_str()));
}

/// Flips a few bits of the files that a store reads; says where.
fn flip_some(disk: &SimulatedDisk, random: &mut Seeded) -> Vec<(String, u64)> {
    let mut names = disk.list().unwrap();
    names.retain(|name| name != "status");
    (0..=random.below(3))
        .map(|_| {
            let at = usize::try_from(random.below(names.len() as u64)).unwrap();
            let name = names[at].clone();
            let offset = random.below(disk.open(&name).unwrap().size().unwrap());
            disk.flip(&name, offset, 1 << random.below(8));
            (name, offset)
        })
        .collect()
}

/// What a store over flipped bits may show of a partition: the truth, or nothing that counts.
fn check_partition(
    store: &Store<SimulatedDisk>,
    partition: PartitionId,
    demoted: bool,
    truth: &Model,
) -> Result<(), String> {
    let reader = store.reader();
    let truth = &truth.partitions[partition.index()];
    let entries = reader.entries(partition);
    if demoted && !(entries.is_empty() && reader.membership(partition).token.is_none()) {
        return Err(format!("partition {partition} is damaged and counts"));
    }
    if !demoted && entries.len() != truth.entries.values().filter(|held| held.vouched).count() {
        return Err(format!("partition {partition} is not damaged and lacks entries"));
    }
    for (key, held) in &truth.entries {
        let Ok(Some(bytes)) = reader.get(partition, hash(key)) else { continue };
        let (record, _) = Record::decode(&bytes).map_err(|error| error.to_string())?;
        let value = (record.kind == Kind::Put).then(|| record.value.to_vec());
        if (record.version, &value) != (held.version, &held.value) {
            return Err(format!("{key} of partition {partition} is {}", record.version));
        }
    }
    Ok(())
}

#[test]
fn flipped_bits_anywhere_never_show_as_wrong_values_or_silent_loss() {
    let mut damaged = 0;
    for seed in 0..60 {
        let (disk, truth) = settled(seed, Profile { steps: 60, ..USUAL }).unwrap();
        let mut random = Seeded::new(seed);
        for copy in 0..12 {
            let disk = disk.copy(copy);
            let flips = flip_some(&disk, &mut random);
            let (store, opened) = open(&disk, options());
            damaged += usize::from(opened.tail != Tail::Torn || !opened.damaged.is_empty());
            for partition in partitions().all() {
                let demoted = opened.damaged.contains(&partition);
                check_partition(&store, partition, demoted, &truth)
                    .unwrap_or_else(|problem| panic!("seed {seed}, {flips:?}: {problem}"));
            }
        }
    }
    assert!(damaged > 100, "only {damaged} flips did any harm");
}
