//! Both judges accept what registers answer, and reject each way in which a store may lie.

use proptest::prelude::*;

use super::*;
use crate::types::Epoch;

fn version(seq: u64) -> Version {
    Version::new(Epoch(1), seq)
}

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn operation(client: u32, at: (u64, u64), kind: Kind, outcome: Outcome) -> Operation {
    let key = Key(value("key"));
    Operation { client, key, kind, invoked: Moment(at.0), returned: Some(Moment(at.1)), outcome }
}

fn set(client: u32, at: (u64, u64), text: &'static str, seq: u64) -> Operation {
    operation(client, at, Kind::Set(value(text)), Outcome::Stored { version: Some(version(seq)) })
}

fn get(client: u32, at: (u64, u64), text: &'static str, seq: u64) -> Operation {
    let outcome = Outcome::Value { version: Some(version(seq)), value: value(text) };
    operation(client, at, Kind::Get, outcome)
}

fn miss(client: u32, at: (u64, u64), seq: Option<u64>) -> Operation {
    let version = seq.map(version);
    operation(client, at, Kind::Get, Outcome::NotFound { version })
}

fn delete(client: u32, at: (u64, u64), seq: u64) -> Operation {
    operation(client, at, Kind::Delete, Outcome::Stored { version: Some(version(seq)) })
}

/// Without versions, so that only the search can judge it.
fn blind(history: &[Operation]) -> Vec<Operation> {
    let mut history = history.to_vec();
    for operation in &mut history {
        match &mut operation.outcome {
            Outcome::Stored { version }
            | Outcome::Value { version, .. }
            | Outcome::NotFound { version } => *version = None,
            _ => {}
        }
    }
    history
}

#[track_caller]
fn accepted(history: &[Operation]) {
    assert_eq!(check_versions(history), Ok(()));
    assert_eq!(check_versions(&blind(history)), Ok(()));
    assert_eq!(check_register(&blind(history)), Ok(()));
}

#[track_caller]
fn rejected(history: &[Operation]) {
    assert!(check_versions(history).is_err(), "by versions");
    assert!(check_register(&blind(history)).is_err(), "by search");
}

#[test]
fn a_stale_read_is_rejected() {
    let writes = [set(1, (0, 1), "a", 1), set(1, (2, 3), "b", 2)];
    accepted(&[&writes[..], &[get(2, (4, 5), "b", 2)]].concat());
    rejected(&[&writes[..], &[get(2, (4, 5), "a", 1)]].concat());
    accepted(&[&writes[..], &[get(2, (2, 5), "a", 1)]].concat());
}

#[test]
fn two_reads_must_not_go_back_even_beside_a_write() {
    let history = [
        set(1, (0, 1), "a", 1),
        set(1, (2, 20), "b", 2),
        get(2, (3, 4), "b", 2),
        get(3, (5, 6), "a", 1),
    ];
    rejected(&history);
}

#[test]
fn a_lost_write_is_rejected() {
    rejected(&[set(1, (0, 1), "a", 1), miss(2, (2, 3), None)]);
    accepted(&[set(1, (0, 2), "a", 1), miss(2, (1, 3), None)]);
}

#[test]
fn an_undone_delete_is_rejected() {
    let deleted = [set(1, (0, 1), "a", 1), delete(1, (2, 3), 2)];
    rejected(&[&deleted[..], &[get(2, (4, 5), "a", 1)]].concat());
    accepted(&[&deleted[..], &[miss(2, (4, 5), Some(2))]].concat());
    accepted(&[&deleted[..], &[miss(2, (4, 5), None)]].concat());
}

#[test]
fn an_uncertain_delete_explains_one_absence_only() {
    let open = operation(9, (2, 3), Kind::Delete, Outcome::Uncertain);
    let history = [set(1, (0, 1), "a", 1), open, miss(2, (4, 5), Some(2)), set(1, (6, 7), "b", 3)];
    accepted(&history);
    rejected(&[&history[..], &[miss(2, (8, 9), Some(4))]].concat());
}

#[test]
fn a_dirty_read_is_rejected() {
    let open = operation(1, (2, 3), Kind::Set(value("b")), Outcome::Uncertain);
    let seen = [set(1, (0, 1), "a", 1), open.clone(), get(2, (4, 5), "b", 2)];
    accepted(&seen);
    rejected(&[&seen[..], &[get(2, (6, 7), "a", 1)]].concat());
    let unseen = [set(1, (0, 1), "a", 1), open, get(2, (6, 7), "a", 1)];
    accepted(&unseen);
}

#[test]
fn the_effect_of_a_failure_is_rejected() {
    let failed = operation(1, (0, 1), Kind::Set(value("a")), Outcome::Failed);
    rejected(&[failed, get(2, (2, 3), "a", 1)]);
    let failed = operation(1, (2, 3), Kind::Delete, Outcome::Failed);
    rejected(&[set(1, (0, 1), "a", 1), failed, miss(2, (4, 5), Some(2))]);
    let refused = Outcome::NotFound { version: None };
    let refused = operation(1, (0, 1), Kind::Update(value("a")), refused);
    rejected(&[refused, get(2, (2, 3), "a", 1)]);
}

#[test]
fn a_value_from_nowhere_or_from_the_future_is_rejected() {
    rejected(&[get(2, (2, 3), "a", 1)]);
    rejected(&[get(2, (2, 3), "a", 1), set(1, (4, 5), "a", 1)]);
}

#[test]
fn one_version_is_one_write() {
    let two = [set(1, (0, 5), "a", 1), set(2, (0, 5), "b", 1)];
    assert!(matches!(check_versions(&two), Err(Violation::Shared { .. })));
    let moved = [set(1, (0, 5), "a", 1), get(2, (0, 5), "a", 2)];
    assert!(matches!(check_versions(&moved), Err(Violation::Shared { .. })));
}

#[test]
fn an_update_needs_something_to_update() {
    let update = |at, seq| {
        let outcome = Outcome::Stored { version: Some(version(seq)) };
        operation(1, at, Kind::Update(value("b")), outcome)
    };
    assert!(check_register(&[update((0, 1), 1)]).is_err());
    accepted(&[set(1, (0, 1), "a", 1), update((2, 3), 2)]);
    let open = operation(2, (0, 1), Kind::Set(value("a")), Outcome::Pending);
    accepted(&[open.clone(), update((2, 3), 2)]);
    assert!(
        check_register(&[update((2, 3), 2), Operation { invoked: Moment(4), ..open }]).is_err()
    );
}

#[test]
fn what_cannot_be_judged_is_said() {
    let twice = [set(1, (0, 1), "a", 1), set(1, (2, 3), "a", 2)];
    assert!(matches!(check_register(&twice), Err(Violation::Unfit { .. })));
    let overlap = [set(1, (0, 5), "a", 1), set(1, (2, 3), "b", 2)];
    assert!(matches!(check_register(&overlap), Err(Violation::Unfit { .. })));
    let crowd: Vec<_> = (0..7).map(|client| miss(client, (0, 1), None)).collect();
    assert!(matches!(check_register(&crowd), Err(Violation::Unfit { .. })));
}

/// What a client of the real register does: how long it thinks, how long the operation takes to
/// arrive and to come back, what it does (a number), and what becomes of the answer.
type Plan = Vec<(u64, u64, u64, u8, u8)>;

/// Runs plans, one per client, against a real register.
fn run(plans: &[Plan]) -> Vec<Operation> {
    let mut queue = Vec::new();
    for (client, plan) in (0u32..).zip(plans) {
        let mut now = 0;
        for (number, &(think, there, back, what, fate)) in plan.iter().enumerate() {
            let invoked = now + think;
            now = invoked + there + back;
            let name = Bytes::from(format!("{client}.{number}"));
            queue.push((invoked + there, client, invoked, now, what, fate, name));
        }
    }
    queue.sort();
    let (mut holds, mut seq) = (None, 0);
    queue
        .into_iter()
        .map(|(_, client, invoked, returned, what, fate, name)| {
            let kind = match what % 8 {
                0..=2 => Kind::Get,
                3 | 4 => Kind::Set(name.clone()),
                5 => Kind::Update(name.clone()),
                _ => Kind::Delete,
            };
            let uncertain = fate % 10 == 0;
            let applies = fate % 20 != 0
                && (holds.as_ref().is_some_and(|held: &(Option<Bytes>, u64)| held.0.is_some())
                    || !matches!(kind, Kind::Update(_)));
            let outcome = if kind == Kind::Get
                || (matches!(kind, Kind::Update(_)) && !applies && !uncertain)
            {
                match &holds {
                    Some((Some(value), seq)) => {
                        Outcome::Value { version: Some(version(*seq)), value: value.clone() }
                    }
                    Some((None, seq)) => Outcome::NotFound { version: Some(version(*seq)) },
                    None => Outcome::NotFound { version: None },
                }
            } else {
                if applies {
                    seq += 1;
                    holds = Some(((kind != Kind::Delete).then_some(name), seq));
                }
                if uncertain {
                    Outcome::Uncertain
                } else {
                    Outcome::Stored { version: Some(version(seq)) }
                }
            };
            let key = Key(value("key"));
            Operation {
                client,
                key,
                kind,
                invoked: Moment(invoked),
                returned: Some(Moment(returned)),
                outcome,
            }
        })
        .collect()
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let one = (0u64..30, 1u64..30, 1u64..30, any::<u8>(), any::<u8>());
    prop::collection::vec(prop::collection::vec(one, 0..40), 1..=MAX_CLIENTS)
}

/// A read that began after a write had overwritten an older value is given that older value.
fn make_stale(history: &mut [Operation], choice: usize) -> bool {
    let mut candidates = Vec::new();
    let stored = |operation: &Operation| matches!(operation.outcome, Outcome::Stored { .. });
    for (old, first) in history.iter().enumerate() {
        for second in history.iter().filter(|second| stored(second) && second.invoked > first.end())
        {
            for (read, third) in history.iter().enumerate() {
                if stored(first)
                    && first.written().is_some()
                    && third.kind == Kind::Get
                    && third.invoked > second.end()
                {
                    candidates.push((old, read));
                }
            }
        }
    }
    let Some(&(old, read)) = candidates.get(choice % candidates.len().max(1)) else { return false };
    let Outcome::Stored { version } = history[old].outcome else { return false };
    let value = history[old].written().cloned().unwrap_or_default();
    history[read].outcome = Outcome::Value { version, value };
    true
}

/// A write whose value was read is said to have failed.
fn make_phantom(history: &mut [Operation], choice: usize) -> bool {
    let read: Vec<_> = history
        .iter()
        .filter_map(|operation| match &operation.outcome {
            Outcome::Value { value, .. } => Some(value.clone()),
            _ => None,
        })
        .collect();
    let Some(value) = read.get(choice % read.len().max(1)) else { return false };
    let writer = history.iter_mut().find(|operation| operation.written() == Some(value));
    writer.map(|writer| writer.outcome = Outcome::Failed).is_some()
}

proptest! {
    #[test]
    fn what_a_real_register_answers_is_accepted(plans in plans()) {
        let history = run(&plans);
        prop_assert_eq!(check_versions(&history), Ok(()));
        prop_assert_eq!(check_register(&blind(&history)), Ok(()));
    }

    #[test]
    fn what_no_register_answers_is_rejected(plans in plans(), choice in any::<usize>(), phantom: bool) {
        let mut history = run(&plans);
        let spoilt = if phantom { make_phantom(&mut history, choice) } else { make_stale(&mut history, choice) };
        prop_assume!(spoilt);
        prop_assert!(check_versions(&history).is_err());
        prop_assert!(check_register(&blind(&history)).is_err());
    }
}
