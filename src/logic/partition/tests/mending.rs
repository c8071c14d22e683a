//! Records that a copy cannot read.

use super::*;

#[test]
fn a_record_that_a_source_cannot_read_is_written_anew_from_another_member() {
    let mut bench = Bench::serving(3, Settings { copies: 3, ..Settings::default() });
    let at = bench.partition.configuration().members[0];
    bench.out.clear();
    bench.step(Input::Unreadable { at, key_hash: INDEX_KEY.hash(b"k") });
    let (from, id) = bench.last_read().expect("another is asked");
    assert_ne!(from, at.store);
    bench.step(Input::Read { id, answer: ReadAnswer::Damaged });
    let (from, id) = bench.last_read().expect("the third is asked");
    bench.step(Input::Read { id, answer: found("k", "value", old(3)) });
    let restored = bench.out.iter().filter_map(|output| match output {
        Output::Order { to, order: Order::Restore(write) } => Some((to.store, write.version)),
        _ => None,
    });
    let restored: Vec<_> = restored.collect();
    assert_eq!(restored.len(), 2, "both that cannot read it: {restored:?}");
    assert!(restored.iter().all(|(to, version)| *to != from && *version == old(3)));
    assert_eq!(bench.partition.status().unreadable, 0);
}

#[test]
fn a_record_that_nobody_can_read_is_said_once_and_counted_until_it_is_overwritten() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    let at = bench.partition.configuration().members[0];
    for _ in 0..2 {
        bench.step(Input::Unreadable { at, key_hash: INDEX_KEY.hash(b"k") });
        let (_, id) = bench.last_read().expect("the other is asked");
        bench.step(Input::Read { id, answer: ReadAnswer::Damaged });
    }
    let said = bench.out.iter().filter(|output| matches!(output, Output::Unreadable(_)));
    assert_eq!((said.count(), bench.partition.status().unreadable), (1, 1));
    bench.set("k", "value");
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    assert_eq!(bench.partition.status().unreadable, 0);
}

#[test]
fn what_is_asked_for_no_client_is_not_asked_for_ever() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    let at = bench.partition.configuration().members[0];
    bench.step(Input::Unreadable { at, key_hash: INDEX_KEY.hash(b"k") });
    bench.later(Duration::from_secs(6));
    bench.out.clear();
    bench.later(Duration::from_secs(1));
    assert_eq!(bench.last_read(), None);
}
