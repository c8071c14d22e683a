//! Reading back what was written, over reopenings.

use super::support::*;
use crate::protocol::control::Control;
use crate::storage::{SimulatedDisk, StorageError, Tail};
use crate::types::{Epoch, PartitionId};

#[test]
fn what_was_committed_is_read_back_now_and_after_reopening() {
    let disk = SimulatedDisk::new(1);
    let (mut store, opened) = open(&disk, options());
    assert!(opened.fresh);
    assert_eq!(opened.tail, Tail::Clean);
    let begin = control(P0, &Control::Begin(TOKEN));
    store.commit(&[begin, put("a", 1, "one"), put("b", 2, "two")]).unwrap();
    store.commit(&[put("a", 3, "three"), delete("b", 4)]).unwrap();
    store.commit(&[control(PartitionId::STORE, &Control::Promise(Epoch(6)))]).unwrap();
    let check = |store: &_| {
        assert_eq!(get(store, "a").as_deref(), Some("three"));
        assert_eq!(get(store, "b"), None);
        assert_eq!(get(store, "c"), None);
        assert!(store.reader().get(P0, hash("b")).unwrap().is_some(), "the tombstone is there");
        assert_eq!(store.reader().promised(), Epoch(6));
        assert_eq!(store.reader().membership(P0).token, Some(TOKEN));
        assert_eq!(store.reader().live_records(P0), 1);
        assert_eq!(store.reader().counts(P0).tombstones, 1);
    };
    check(&store);
    let digest = store.reader().digest(P0);
    store.close().unwrap();
    for survives in [true, false] {
        if survives {
            disk.kill();
        } else {
            disk.power_cut();
        }
        let (store, opened) = open(&disk, options());
        assert_eq!(opened.tail, Tail::Clean);
        assert!(!opened.fresh);
        assert_eq!(opened.records, 1);
        check(&store);
        assert_eq!(store.reader().digest(P0), digest);
        store.close().unwrap();
    }
}

#[test]
fn a_stop_without_close_is_torn_until_the_store_is_trusted() {
    let disk = SimulatedDisk::new(2);
    let (mut store, _) = open(&disk, options());
    store.commit(&[put("a", 1, "one")]).unwrap();
    disk.power_cut();
    let (store, opened) = open(&disk, options());
    assert_eq!(opened.tail, Tail::Torn);
    assert_eq!(get(&store, "a").as_deref(), Some("one"));
    store.close().unwrap();
    let (mut store, opened) = open(&disk, options());
    assert_eq!(opened.tail, Tail::Torn, "nobody has compared it yet");
    store.trust().unwrap();
    store.close().unwrap();
    let (_, opened) = open(&disk, options());
    assert_eq!(opened.tail, Tail::Clean);
}

#[test]
fn a_large_batch_takes_several_frames_and_segments() {
    let disk = SimulatedDisk::new(3);
    let (mut store, _) = open(&disk, options());
    let value = "x".repeat(30_000);
    let keys: Vec<String> = (0..20).map(|number| format!("key{number}")).collect();
    let batch: Vec<_> = keys.iter().zip(1..).map(|(key, seq)| put(key, seq, &value)).collect();
    let committed = store.commit(&batch).unwrap();
    assert_eq!(committed.records, 20);
    assert!(committed.frames >= 10);
    disk.power_cut();
    let (store, opened) = open(&disk, options());
    assert_eq!(opened.records, 20);
    for key in &keys {
        assert_eq!(get(&store, key).as_deref(), Some(value.as_str()));
    }
}

#[test]
fn what_cannot_be_stored_is_refused_before_anything_is_written() {
    let disk = SimulatedDisk::new(4);
    let (mut store, _) = open(&disk, options());
    let mut bad = put("a", 1, "one").to_vec();
    bad[42] ^= 1;
    let refused = |store: &mut crate::storage::Store<_>, records: &[bytes::Bytes]| {
        let before = disk.operations();
        let error = store.commit(records).unwrap_err();
        assert_eq!(disk.operations(), before, "nothing was written");
        error
    };
    let error = refused(&mut store, &[put("b", 2, "two"), bad.into()]);
    assert!(matches!(error, StorageError::Record { position: 1, .. }));
    let error = refused(&mut store, &[put("a", 3, &"x".repeat(70_000))]);
    assert!(matches!(error, StorageError::TooLarge { .. }));
    let error = refused(&mut store, &[put("a", 1 << 48, "late")]);
    assert!(matches!(error, StorageError::Unusable { position: 0, .. }));
    let elsewhere = control(PartitionId(4), &Control::Begin(TOKEN));
    let error = refused(&mut store, &[elsewhere]);
    assert!(error.to_string().contains("partition 4 does not exist"), "{error}");
    store.commit(&[put("a", 3, "fine")]).unwrap();
    assert_eq!(get(&store, "b"), None);
}
