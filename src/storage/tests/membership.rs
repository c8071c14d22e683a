//! What readers are told about partitions: memberships, short lists, copies.

use super::support::*;
use crate::protocol::control::Control;
use crate::storage::SimulatedDisk;
use crate::types::Token;

#[test]
fn the_short_list_follows_the_watermark_heard_and_logged() {
    let disk = SimulatedDisk::new(1);
    let (mut store, _) = open(&disk, options());
    let reader = store.reader();
    let listed = |reader: &crate::storage::Reader<_>| -> Vec<u64> {
        reader.above_watermark(P0).iter().map(|item| item.version.seq).collect()
    };
    store.commit(&[put("a", 2, "x"), put("b", 1, "x"), put("c", 3, "x")]).unwrap();
    assert_eq!(listed(&reader), [1, 2, 3], "by version, however they came");
    store.commit(&[put("a", 4, "y")]).unwrap();
    assert_eq!(listed(&reader), [1, 3, 4], "an overwritten version is gone");
    store.commit(&[control(P0, &Control::Watermark(version(1)))]).unwrap();
    reader.set_watermark(P0, version(3));
    assert_eq!(listed(&reader), [4]);
    assert_eq!(reader.membership(P0).watermark, version(3));
    reader.set_watermark(P0, version(2));
    assert_eq!(reader.membership(P0).watermark, version(3), "it never goes back");
    drop(store);
    disk.power_cut();
    let (store, _) = open(&disk, options());
    assert_eq!(store.reader().membership(P0).watermark, version(1), "what was heard is forgotten");
    assert_eq!(listed(&store.reader()), [3, 4]);
}

#[test]
fn a_long_run_of_overwrites_keeps_the_short_list_short() {
    let disk = SimulatedDisk::new(2);
    let (mut store, _) = open(&disk, options());
    for batch in 0..200 {
        let records: Vec<_> = (0..50)
            .map(|number| put(&format!("k{}", number % 5), batch * 50 + number + 1, "v"))
            .collect();
        store.commit(&records).unwrap();
    }
    assert_eq!(store.reader().above_watermark(P0).len(), 5);
    let partition = store.shared.index.partition(P0).unwrap().read();
    assert!(partition.short_list_length() < 2100, "{}", partition.short_list_length());
}

#[test]
fn a_copy_is_filled_by_vouching_and_installing_and_only_then_counts() {
    let disk = SimulatedDisk::new(3);
    let (mut store, _) = open(&disk, options());
    let begin = control(P0, &Control::Begin(TOKEN));
    store.commit(&[begin.clone(), put("kept", 1, "old"), put("wrong", 2, "old")]).unwrap();
    store.commit(&[put("newer", 3, "old")]).unwrap();
    store.commit(&[begin]).unwrap();
    assert_eq!(store.reader().live_records(P0), 3, "a repeated order changes nothing");
    store.commit(&[install("stray", 9, "x")]).unwrap();
    assert_eq!(get(&store, "stray"), None, "nothing is installed outside a copy");
    let token = Token(78);
    store.commit(&[control(P0, &Control::Start(token))]).unwrap();
    let reader = store.reader();
    assert!(reader.membership(P0).shadow);
    assert_eq!((reader.entries(P0).len(), reader.unvouched(P0).len()), (0, 3));
    assert_eq!(get(&store, "kept"), None);
    // A live write and a copied record, each of a lower version than the old one.
    store.commit(&[put("wrong", 1, "live"), install("newer", 2, "copied")]).unwrap();
    store.commit(&[vouch("kept", 1), vouch("kept", 5)]).unwrap();
    store.commit(&[control(P0, &Control::Finish(Token(5)))]).unwrap();
    assert!(reader.membership(P0).shadow, "that was another admission");
    store.commit(&[control(P0, &Control::Finish(token))]).unwrap();
    assert!(!reader.membership(P0).shadow);
    assert_eq!(get(&store, "kept").as_deref(), Some("old"));
    assert_eq!(get(&store, "wrong").as_deref(), Some("live"));
    assert_eq!(get(&store, "newer").as_deref(), Some("copied"));
    let held: Vec<_> = reader.entries(P0).iter().map(|it| reader.read(it).unwrap()).collect();
    assert_eq!(held.len(), 3);
    assert!(held.iter().all(Option::is_some));
}

#[test]
fn two_copies_of_the_same_records_have_the_same_digest_however_they_came() {
    let digest = |records: &[&[bytes::Bytes]]| {
        let disk = SimulatedDisk::new(4);
        let (mut store, _) = open(&disk, options());
        for batch in records {
            store.commit(batch).unwrap();
        }
        store.reader().digest(P0).unwrap()
    };
    let floor = control(P0, &Control::GarbageFloor(version(4)));
    let one = digest(&[&[put("a", 1, "x"), put("b", 2, "y")], &[put("a", 3, "z")]]);
    let other = digest(&[&[put("a", 3, "z")], &[put("b", 2, "y"), put("a", 1, "x")]]);
    assert_eq!(one, other);
    let deleted =
        digest(&[&[put("a", 3, "z"), put("b", 2, "y"), put("c", 1, "w")], &[delete("c", 4)]]);
    assert_ne!(one.leaves, deleted.leaves, "a tombstone counts");
    let dropped = digest(&[&[put("a", 3, "z"), put("b", 2, "y"), delete("c", 4), floor]]);
    assert_eq!(one.leaves, dropped.leaves, "until it is dropped");
}

#[test]
fn what_is_left_of_an_unfinished_copy_counts_once_it_is_adopted() {
    let disk = SimulatedDisk::new(9);
    let (mut store, _) = open(&disk, options());
    let begin = control(P0, &Control::Begin(TOKEN));
    store.commit(&[begin, put("old", 1, "v"), put("newer", 2, "v")]).unwrap();
    store.commit(&[control(P0, &Control::Start(Token(78)))]).unwrap();
    store.commit(&[install("newer", 3, "w")]).unwrap();
    assert_eq!(get(&store, "old"), None, "nobody has vouched for it");
    let digest = |store: &crate::storage::Store<SimulatedDisk>| store.reader().digest(P0);
    let (whole, _) = open(&SimulatedDisk::new(10), options());
    let mut whole = whole;
    whole.commit(&[control(P0, &Control::Begin(TOKEN)), put("old", 1, "v")]).unwrap();
    whole.commit(&[put("newer", 3, "w")]).unwrap();
    store.commit(&[control(P0, &Control::Adopt(Token(79)))]).unwrap();
    drop(store);
    disk.power_cut();
    let (store, _) = open(&disk, options());
    assert_eq!(store.reader().membership(P0).token, Some(Token(79)));
    assert!(get(&store, "old").is_some() && get(&store, "newer").is_some());
    assert_eq!(store.reader().counts(P0).unvouched, 0);
    assert_eq!(digest(&store).map(|it| it.entries), digest(&whole).map(|it| it.entries));
    assert_eq!(store.reader().above_watermark(P0).len(), 2, "both are told to who fences it");
}
