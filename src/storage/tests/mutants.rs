//! Each rule that can be broken on purpose, and what then goes wrong.

use bytes::BytesMut;

use super::model::shown;
use super::random::{BUFFERED, Profile, USUAL, first_violation};
use super::support::*;
use crate::protocol::control::Control;
use crate::protocol::record::{Flags, Record};
use crate::storage::change::{Change, What};
use crate::storage::disk::DiskFile;
use crate::storage::disk::simulated::Survival;
use crate::storage::entry::Place;
use crate::storage::guards::{Guard, Guards};
use crate::storage::index::Index;
use crate::storage::usage::Usage;
use crate::storage::{Damage, Options, Reserve, SimulatedDisk, StorageError, Store, Tail};
use crate::types::{ConfigurationVersion, PartitionId};

/// Random histories notice when this rule is broken.
fn is_noticed(guard: Guard, profile: Profile) {
    let broken = Profile { guard_off: Some(guard), ..profile };
    let violation = first_violation(0..300, broken);
    assert!(violation.is_some(), "nothing goes wrong without {guard:?}");
}

#[test]
fn histories_go_wrong_without_the_rules_of_writing() {
    is_noticed(Guard::RotationSyncs, BUFFERED);
    is_noticed(Guard::RootIsDurable, USUAL);
    is_noticed(Guard::ListedIsNotFree, USUAL);
    is_noticed(Guard::CheckpointIsSynced, BUFFERED);
    is_noticed(Guard::CheckpointContentSynced, USUAL);
    is_noticed(Guard::FramesAligned, USUAL);
    is_noticed(Guard::FailureIsFinal, USUAL);
}

#[test]
fn histories_go_wrong_without_the_rules_of_reopening() {
    is_noticed(Guard::ReadsPastCache, USUAL);
    is_noticed(Guard::LaterFramesZeroed, BUFFERED);
    is_noticed(Guard::LaterFrameIsNotDamage, BUFFERED);
}

#[test]
fn histories_go_wrong_without_the_rules_of_the_index() {
    is_noticed(Guard::UnvouchedLoses, USUAL);
    is_noticed(Guard::FinishDrops, USUAL);
    is_noticed(Guard::FloorStopsPuts, USUAL);
    is_noticed(Guard::FloorSparesInstalls, USUAL);
    is_noticed(Guard::InstallOnlyInShadow, USUAL);
}

fn without(guard: Option<Guard>) -> Guards {
    guard.map_or_else(Guards::default, Guards::without)
}

/// A property holds, and does not without the rule.
fn holds_only_with(guard: Guard, holds: impl Fn(Guards) -> bool) {
    assert!(holds(without(None)));
    assert!(!holds(without(Some(guard))), "the property holds without {guard:?} too");
}

/// The change that a moved record asks for.
fn moved(key: &str, seq: u64, place: Place) -> Change {
    let mut bytes = BytesMut::from(&put(key, seq, "value")[..]);
    crate::protocol::record::set_flags(&mut bytes, Flags::MOVE);
    let (record, _) = Record::decode(&bytes).unwrap();
    Change::of(&record, &bytes, place, &KEY, partitions()).unwrap()
}

#[test]
fn a_move_changes_the_place_of_that_very_version_and_nothing_else() {
    let old = Place { segment: 1, offset: 8, length: 64 };
    let new = Place { segment: 2, offset: 16, length: 64 };
    let holds = |guards| {
        let index = Index::new(KEY, partitions(), guards);
        let mut usage = Usage::default();
        let mut write = moved("a", 5, old);
        if let What::Write(write) = &mut write.what {
            write.carried = crate::storage::change::Carried::Put;
        }
        index.apply(&write, &mut usage);
        index.apply(&moved("b", 5, new), &mut usage);
        index.apply(&moved("a", 6, new), &mut usage);
        index.apply(&moved("a", 4, new), &mut usage);
        let place_of = |key: &str| {
            let partition = index.partition(P0).unwrap().read();
            partition.find(hash(key)).map(crate::storage::entry::Entry::place)
        };
        let unchanged = place_of("a") == Some(old) && place_of("b").is_none();
        index.apply(&moved("a", 5, new), &mut usage);
        unchanged && place_of("a") == Some(new) && usage.of(1).entries == 0
    };
    holds_only_with(Guard::MoveNeverCreates, holds);
}

/// Overwrites keys until maintenance has nothing left to do, many times.
fn churn(store: &mut Store<SimulatedDisk>, seq: &mut u64, rounds: u64) {
    for _ in 0..rounds {
        *seq += 1;
        store.commit(&[put("churn", *seq, &"x".repeat(20_000))]).unwrap();
        while store.maintain().unwrap().more {}
    }
}

#[test]
fn a_segment_that_is_being_read_is_not_written_anew() {
    let holds = |guards| {
        let disk = SimulatedDisk::new(5);
        let (mut store, _) = open(&disk, Options { guards, ..options() });
        store.commit(&[put("a", 1, "one")]).unwrap();
        let entry = *store.shared.index.partition(P0).unwrap().read().find(hash("a")).unwrap();
        let held = store.shared.segments.get(entry.place().segment).unwrap();
        let read = || {
            let mut bytes = vec![0; entry.place().length as usize];
            held.file.read_at(u64::from(entry.place().offset), &mut bytes).unwrap();
            bytes
        };
        let before = read();
        let mut seq = 10;
        churn(&mut store, &mut seq, 10);
        store.commit(&[put("a", 2, "two")]).unwrap();
        churn(&mut store, &mut seq, 200);
        read() == before
    };
    holds_only_with(Guard::ReadIsNotFree, holds);
}

#[test]
fn a_segment_is_kept_until_what_emptied_it_is_synced() {
    let holds = |guards| {
        let disk = SimulatedDisk::new(6);
        let small_tail = Options { guards, tail_bytes: 1, ..buffered() };
        let (mut store, _) = open(&disk, small_tail.clone());
        for number in 0..60 {
            let key = format!("key{number}");
            store.commit(&[put(&key, number + 1, &"x".repeat(20_000))]).unwrap();
            while store.maintain().unwrap().more {}
        }
        // Many segments are sealed now, and every checkpoint has passed them.
        store.sync().unwrap();
        let before = shown(&store).unwrap();
        let remove = Control::Remove(ConfigurationVersion(1));
        store.commit(&[control(P0, &remove)]).unwrap();
        store.remove_surplus_for_test();
        drop(store);
        disk.power_cut_with(Survival::Nothing);
        let (store, _) = open(&disk, small_tail);
        shown(&store).is_ok_and(|shown| shown == before)
    };
    holds_only_with(Guard::DeathIsSynced, holds);
}

#[test]
fn damage_below_a_mark_is_never_taken_for_a_torn_tail() {
    let holds = |guards| {
        let disk = SimulatedDisk::new(7);
        let options = Options { guards, ..options() };
        let (mut store, _) = open(&disk, options.clone());
        store.commit(&[put("a", 1, "one")]).unwrap();
        store.commit(&[put("a", 2, "two")]).unwrap();
        drop(store);
        disk.kill();
        // The frames: one when the store was made, then the two commits.
        assert!(disk.flip("segment-0000000", 4096 + 20, 1));
        let (_, opened) = open(&disk, options);
        opened.tail == Tail::Damaged(Damage::Frame(2)) && opened.damaged.contains(&P0)
    };
    holds_only_with(Guard::MarksShowDamage, holds);
}

#[test]
fn a_missing_checkpoint_is_no_empty_partition() {
    let holds = |guards| {
        let disk = SimulatedDisk::new(8);
        let options = Options { guards, tail_bytes: 1, ..options() };
        let (mut store, _) = open(&disk, options.clone());
        store.commit(&[control(P0, &Control::Begin(TOKEN)), put("a", 1, "one")]).unwrap();
        let mut seq = 1;
        churn(&mut store, &mut seq, 30);
        drop(store);
        disk.kill();
        assert!(disk.flip("checkpoint-00000", 30, 1));
        let (store, opened) = open(&disk, options);
        opened.damaged == [P0] && store.reader().membership(P0).token.is_none()
    };
    holds_only_with(Guard::CheckpointIsNeeded, holds);
}

#[test]
fn no_value_is_returned_that_is_not_of_the_key() {
    let holds = |guards| {
        let disk = SimulatedDisk::new(9);
        let (mut store, _) = open(&disk, Options { guards, ..options() });
        store.commit(&[put("a", 1, "one")]).unwrap();
        // The index entry of one key is made to point to the record of another.
        let entry = *store.shared.index.partition(P0).unwrap().read().find(hash("a")).unwrap();
        let mut other = moved("b", 1, entry.place());
        if let What::Write(write) = &mut other.what {
            write.carried = crate::storage::change::Carried::Put;
        }
        store.shared.index.apply(&other, &mut Usage::default());
        store.reader().get(P0, hash("b")).is_err()
    };
    holds_only_with(Guard::ReadsVerified, holds);
}

#[test]
fn values_leave_the_reserve_to_deletes() {
    let holds = |guards| {
        let disk = SimulatedDisk::new(10);
        disk.set_capacity(2 << 20);
        let reserve = Reserve::Bytes(512 << 10);
        let (mut store, _) = open(&disk, Options { reserve, guards, ..options() });
        let mut refused = false;
        for number in 0..200u64 {
            let key = format!("key{number}");
            match store.commit(&[put(&key, number + 1, &"x".repeat(20_000))]) {
                Ok(_) => {}
                Err(StorageError::DiskFull { .. }) => refused = true,
                Err(error) => panic!("{error}"),
            }
        }
        let promise = control(PartitionId::STORE, &Control::Promise(crate::types::Epoch(9)));
        refused
            && (0..20).all(|number| {
                store.commit(&[delete(&format!("key{number}"), 1000 + number)]).is_ok()
            })
            && store.commit(&[promise]).is_ok()
    };
    holds_only_with(Guard::ReserveIsKept, holds);
}
