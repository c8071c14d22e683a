//! Each kind of violation is named, files come back as they were, a load finds out a liar.

mod files;
mod loads;
mod server;

use std::time::Duration;

use super::meter::Meter;
use super::{Gap, Wrong, judge};
use crate::logic::history::{Kind, Operation, Outcome};
use crate::types::{Key, Moment};

const STORED: Outcome = Outcome::Stored { version: None };
const NOTHING: Outcome = Outcome::NotFound { version: None };

fn found(value: &'static str) -> Outcome {
    Outcome::Value { version: None, value: value.into() }
}

fn set(value: &'static str) -> Kind {
    Kind::Set(value.into())
}

/// An operation of a client on one key, from one time to another.
fn operation(client: u32, times: (u64, u64), kind: Kind, outcome: Outcome) -> Operation {
    Operation {
        client,
        key: Key("key".into()),
        kind,
        invoked: Moment(times.0),
        returned: Some(Moment(times.1)),
        outcome,
    }
}

/// What the judge says is wrong, if anything.
fn judged(history: &[Operation]) -> Option<Wrong> {
    let verdict = judge(history);
    assert_eq!(verdict.passed(), verdict.findings.is_empty());
    assert!(verdict.findings.len() < 2, "{verdict}");
    verdict.findings.first().map(|finding| finding.wrong)
}

#[test]
fn what_a_register_answers_passes() {
    let history = [
        operation(0, (0, 9), Kind::Get, NOTHING),
        operation(1, (5, 20), set("a"), STORED),
        operation(0, (10, 30), Kind::Get, found("a")),
        operation(2, (12, 25), set("b"), Outcome::Uncertain),
        operation(0, (40, 50), Kind::Get, found("a")),
        operation(1, (60, 70), Kind::Update("c".into()), STORED),
        // What was uncertain takes effect long afterwards.
        operation(0, (80, 90), Kind::Get, found("b")),
        operation(1, (91, 95), Kind::Delete, STORED),
        operation(0, (96, 99), Kind::Update("d".into()), NOTHING),
        operation(0, (100, 101), set("e"), Outcome::Failed),
        operation(0, (110, 111), Kind::Get, NOTHING),
    ];
    assert_eq!(judged(&history), None);
    assert_eq!(judge(&history).operations, 11);
}

#[test]
fn a_lost_write_is_named() {
    let gone =
        [operation(0, (0, 10), set("a"), STORED), operation(1, (20, 30), Kind::Get, NOTHING)];
    assert_eq!(judged(&gone), Some(Wrong::Lost));
    let text = judge(&gone).to_string();
    assert!(text.contains("client 0 set `a` [0.000000 to 0.000010 s]: done"), "{text}");
    assert!(text.contains("client 1 read [0.000020 to 0.000030 s]: found nothing"), "{text}");
    let older_is_back = [
        operation(0, (0, 10), set("a"), STORED),
        operation(0, (20, 30), set("b"), STORED),
        operation(1, (40, 50), Kind::Get, found("a")),
        operation(1, (60, 70), Kind::Get, found("a")),
    ];
    assert_eq!(judged(&older_is_back), Some(Wrong::Lost));
    // Nobody was told that it was stored, but somebody saw it.
    let seen = [
        operation(0, (0, 10), set("a"), Outcome::Pending),
        operation(1, (20, 30), Kind::Get, found("a")),
        operation(1, (40, 50), Kind::Get, NOTHING),
    ];
    assert_eq!(judged(&seen), Some(Wrong::Lost));
    let missed_by_an_update = [
        operation(0, (0, 10), set("a"), STORED),
        operation(1, (20, 30), Kind::Update("b".into()), NOTHING),
    ];
    assert_eq!(judged(&missed_by_an_update), Some(Wrong::Lost));
}

#[test]
fn a_stale_read_is_named() {
    let history = [
        operation(0, (0, 10), set("a"), STORED),
        operation(0, (20, 30), set("b"), STORED),
        operation(1, (40, 50), Kind::Get, found("a")),
        operation(1, (60, 70), Kind::Get, found("b")),
    ];
    assert_eq!(judged(&history), Some(Wrong::Stale));
    assert_eq!(judge(&history).stale(), 1);
}

#[test]
fn an_undone_delete_is_named() {
    let history = [
        operation(0, (0, 10), set("a"), STORED),
        operation(1, (20, 30), Kind::Delete, STORED),
        operation(0, (40, 50), Kind::Get, found("a")),
    ];
    assert_eq!(judged(&history), Some(Wrong::Undone));
    assert_eq!(judge(&history).undone(), 1);
}

#[test]
fn a_failed_write_that_is_seen_is_named() {
    for (kind, outcome) in [(set("a"), Outcome::Failed), (Kind::Update("a".into()), NOTHING)] {
        let history =
            [operation(0, (0, 10), kind, outcome), operation(1, (20, 30), Kind::Get, found("a"))];
        assert_eq!(judged(&history), Some(Wrong::Phantom));
    }
}

#[test]
fn a_value_that_nobody_wrote_yet_is_named() {
    let never = [operation(0, (0, 10), Kind::Get, found("a"))];
    assert_eq!(judged(&never), Some(Wrong::Invented));
    let early =
        [operation(0, (0, 10), Kind::Get, found("a")), operation(1, (20, 30), set("a"), STORED)];
    assert_eq!(judged(&early), Some(Wrong::Invented));
}

/// Two reads at the same time see two writes in different orders: no two operations contradict.
#[test]
fn what_only_the_search_finds_is_no_order() {
    let history = [
        operation(0, (0, 100), set("a"), STORED),
        operation(1, (0, 100), set("b"), STORED),
        operation(2, (1, 40), Kind::Get, found("a")),
        operation(2, (50, 98), Kind::Get, found("b")),
        operation(3, (1, 40), Kind::Get, found("b")),
        operation(3, (50, 98), Kind::Get, found("a")),
    ];
    assert_eq!(judged(&history), Some(Wrong::Disordered));
}

#[test]
fn what_cannot_be_judged_does_not_pass() {
    let twice = [operation(0, (0, 10), set("a"), STORED), operation(1, (20, 30), set("a"), STORED)];
    assert_eq!(judged(&twice), Some(Wrong::Unjudged));
}

#[test]
fn the_longest_time_without_a_write_is_found() {
    let second = |seconds: u64| Moment(seconds * 1_000_000);
    let mut meter = Meter::new(2, second(100));
    let times = |from, to| Gap { from: second(from), to: second(to) };
    meter.record(0, &set("a"), times(100, 101), &STORED);
    meter.record(1, &set("b"), times(101, 103), &STORED);
    meter.record(1, &Kind::Get, times(103, 109), &NOTHING);
    meter.record(1, &set("c"), times(104, 108), &Outcome::Uncertain);
    meter.record(1, &set("d"), times(109, 110), &STORED);
    meter.end(second(112));
    // Read back afterwards: no measure of anything.
    meter.record(0, &Kind::Get, times(112, 150), &NOTHING);
    let stalls = meter.stalls(second(160));
    assert_eq!(stalls.longest, times(103, 110));
    assert_eq!(stalls.longest_of_a_client, times(101, 112));
    assert_eq!(stalls.longest_operation, times(103, 109));
    assert_eq!(stalls.gaps.len(), 4);
    let answered: Vec<_> = stalls.seconds.iter().map(|second| second.answered).collect();
    assert_eq!(answered, [0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1]);
    assert_eq!(stalls.longest.within(second(105), second(200)), Duration::from_secs(5));
    let counts = meter.counts();
    assert_eq!((counts.operations, counts.writes, counts.reads, counts.open), (6, 3, 2, 1));
}
