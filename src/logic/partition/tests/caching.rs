//! What is remembered, and when it may be told.

use super::doubt::comparison;
use super::*;

#[test]
fn what_has_settled_is_recalled_and_what_is_changing_is_not() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.set("k", "old");
    let waiting = bench.submit("k", Action::Get);
    bench.acknowledge(1, v(1));
    assert_eq!(bench.recalled("k"), None, "not before it has settled");
    bench.acknowledge(2, v(1));
    assert_eq!(bench.recalled("k").as_deref(), Some("old".as_bytes()));
    let read = bench.submit("k", Action::Get);
    let value = Bytes::from_static(b"old");
    let reply = Some(&Reply::Value { version: v(1), value });
    assert_eq!((bench.reply(waiting), bench.reply(read)), (reply, reply));
    assert_eq!(bench.last_read(), None, "no copy was asked");
    bench.set("k", "new");
    assert_eq!(bench.recalled("k"), None);
    bench.acknowledge(1, v(2));
    bench.acknowledge(2, v(2));
    assert_eq!(bench.recalled("k").as_deref(), Some("new".as_bytes()));
}

#[test]
fn what_nobody_reads_is_not_remembered() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    for seq in [1, 2] {
        bench.set("k", "value");
        bench.acknowledge(1, v(seq));
        bench.acknowledge(2, v(seq));
    }
    assert_eq!(bench.cache.figures().bytes, 0);
}

/// While a copy is read for `k`, a member that was away tells of a version that nobody else has, it
/// settles, and the cache lets it go again. What is recalled after the copy's answer.
fn recalled_after_a_read_that_was_overtaken() -> Option<Bytes> {
    let mut bench = Bench::new(3, Settings { copies: 3, floor: 1, ..Settings::default() });
    for number in [1, 2] {
        bench.connect(number);
        bench.answer_fence(number, old(5), vec![]);
    }
    bench.later(Duration::from_millis(600));
    bench.submit("k", Action::Get);
    let (_, slow) = bench.last_read().expect("a copy is asked");
    bench.connect(3);
    bench.answer_fence(3, old(5), vec![summary("k", old(7), 1)]);
    let (_, content) = bench.last_read().expect("its content is fetched");
    bench.step(Input::Read { id: content, answer: found("k", "late", old(7)) });
    bench.acknowledge(1, old(7));
    bench.acknowledge(2, old(7));
    assert_eq!(bench.recalled("k").as_deref(), Some("late".as_bytes()));
    bench.cache.forget(INDEX_KEY.hash(b"k"));
    bench.step(Input::Read { id: slow, answer: found("k", "early", old(3)) });
    bench.recalled("k")
}

#[test]
fn what_a_copy_said_is_recalled_unless_something_settled_meanwhile() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.submit("k", Action::Get);
    let (_, id) = bench.last_read().expect("a copy is asked");
    bench.step(Input::Read { id, answer: found("k", "value", old(3)) });
    assert_eq!(bench.recalled("k").as_deref(), Some("value".as_bytes()));

    assert_eq!(recalled_after_a_read_that_was_overtaken(), None);
    for mutant in [Mutant::OverwritingRead, Mutant::ComparingRead] {
        let recalled = mutants::with(Some(mutant), recalled_after_a_read_that_was_overtaken);
        assert_eq!(recalled.as_deref(), Some("early".as_bytes()), "{mutant:?} would be noticed");
    }
}

/// Two members report one version; it settles before its content was known, so whoever waits for it
/// asks a copy. A newer version settles before the copy answers.
#[test]
fn whoever_comes_after_a_write_has_settled_is_not_told_what_was_before() {
    let mut bench = Bench::new(2, Settings { copies: 2, floor: 1, ..Settings::default() });
    bench.connect(1);
    bench.answer_fence(1, old(6), vec![summary("k", old(7), 1)]);
    bench.later(Duration::from_millis(600));
    let early = bench.submit("k", Action::Get);
    bench.connect(2);
    let write = bench.set("k", "new");
    bench.answer_fence(2, old(6), vec![summary("k", old(7), 1)]);
    let (_, slow) = bench.last_read().expect("a copy is asked");
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    assert!(matches!(bench.reply(write), Some(Reply::Stored { .. })));
    let late = bench.submit("k", Action::Get);
    bench.step(Input::Read { id: slow, answer: found("k", "old", old(7)) });
    assert!(bench.reply(early).is_some());
    let value = Bytes::from_static(b"new");
    assert_eq!(bench.reply(late), Some(&Reply::Value { version: v(1), value }));
}

#[test]
fn nothing_is_recalled_once_no_member_stands_behind_it() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.set("k", "value");
    bench.submit("k", Action::Get);
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    bench.event(1, StoreEvent::Disconnected);
    assert!(bench.recalled("k").is_some(), "reads need one member");
    bench.event(2, StoreEvent::Suspected);
    assert_eq!(bench.recalled("k"), None);
    let read = bench.submit("k", Action::Get);
    assert_eq!(bench.reply(read), None);
    bench.event(2, StoreEvent::Recovered);
    assert!(bench.recalled("k").is_some());
}

#[test]
fn what_may_be_newer_than_what_survived_is_recalled_no_more() {
    let mut bench = Bench::serving(2, Settings { copies: 2, floor: 1, ..Settings::default() });
    bench.set("k", "lost");
    bench.submit("k", Action::Get);
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    bench.event(1, StoreEvent::Disconnected);
    bench.event(2, StoreEvent::Disconnected);
    bench.return_in(1, Doubt::Lost);
    bench.return_in(2, Doubt::Lost);
    let (_, attempt, _) = comparison(&bench, 1).expect("they are compared with each other");
    bench.compared(1, attempt, 0);
    assert!(bench.out.contains(&Output::PossibleLoss));
    assert_eq!(bench.recalled("k"), None, "no copy has it any more");
    let read = bench.submit("k", Action::Get);
    let (_, id) = bench.last_read().expect("a copy is asked");
    bench.step(Input::Read { id, answer: ReadAnswer::Absent });
    assert_eq!(bench.reply(read), Some(&Reply::NotFound { version: None }));
}

#[test]
fn an_update_finds_its_base_in_the_cache() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.submit("k", Action::Delete);
    bench.submit("k", Action::Get);
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    let update = bench.submit("k", Action::Update(Bytes::from_static(b"new")));
    assert_eq!(bench.reply(update), Some(&Reply::NotFound { version: Some(v(1)) }));
    assert_eq!(bench.last_read(), None);
}

#[test]
fn a_frozen_key_is_never_recalled() {
    let mut bench = Bench::new(3, Settings { copies: 3, ..Settings::default() });
    for number in [1, 2, 3] {
        bench.connect(number);
    }
    bench.answer_fence(1, old(6), vec![]);
    bench.later(Duration::from_millis(600));
    bench.submit("k", Action::Get);
    let (_, id) = bench.last_read().expect("a copy is asked");
    bench.answer_fence(2, old(6), vec![summary("k", old(7), 1)]);
    bench.answer_fence(3, old(6), vec![summary("k", old(7), 2)]);
    bench.step(Input::Read { id, answer: found("k", "value", old(3)) });
    assert_eq!(bench.recalled("k"), None);
}
