//! Histories in files: what was written is read back, and nothing else is.

use proptest::prelude::*;

use crate::chaos::file::{self, FileError, parse};
use crate::logic::history::{Kind, Operation, Outcome};
use crate::types::{Key, Moment};

const HEADER: &str = "{\"format\":\"hatokuse-history\",\"version\":1}";
const LINE: &str = "{\"client\":0,\"key\":\"k\",\"kind\":\"set\",\"value\":\"v\",\"invoked\":1,\
                    \"returned\":2,\"outcome\":\"stored\"}";

fn bytes() -> impl Strategy<Value = bytes::Bytes> {
    prop::collection::vec(any::<u8>(), 0..12).prop_map(bytes::Bytes::from)
}

fn operation() -> impl Strategy<Value = Operation> {
    let parts = (any::<u32>(), bytes(), bytes(), 0..4u8, any::<u32>(), any::<u32>(), 0..5u8);
    parts.prop_map(|(client, key, value, kind, invoked, lasted, outcome)| {
        let version = None;
        let kind = match kind {
            0 => Kind::Get,
            1 => Kind::Set(value.clone()),
            2 => Kind::Update(value.clone()),
            _ => Kind::Delete,
        };
        let outcome = match (outcome, &kind) {
            (0, _) => Outcome::Failed,
            (1, _) => Outcome::Uncertain,
            (2, _) => Outcome::Pending,
            (3, Kind::Get) => Outcome::Value { version, value },
            (_, Kind::Get) | (3, Kind::Update(_)) => Outcome::NotFound { version },
            _ => Outcome::Stored { version },
        };
        let unanswered = outcome == Outcome::Pending && lasted.is_multiple_of(2);
        let end = Moment(u64::from(invoked) + u64::from(lasted));
        Operation {
            client,
            key: Key([b"k", &key[..]].concat().into()),
            kind,
            invoked: Moment(u64::from(invoked)),
            returned: (!unanswered).then_some(end),
            outcome,
        }
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read_back(history in prop::collection::vec(operation(), 0..20)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        file::write(&path, &history).unwrap();
        let read = file::read(&path).unwrap();
        prop_assert_eq!(format!("{read:?}"), format!("{history:?}"));
    }

    #[test]
    fn whatever_a_file_holds_nothing_panics(
        lines in prop::collection::vec("[ -~]{0,40}|\\{\"client\":[0-9]{1,3}\\}", 0..5),
        at in any::<usize>(),
        byte: u8,
    ) {
        let text = format!("{HEADER}\n{}\n", lines.join("\n"));
        let _ = parse(text.as_bytes());
        let mut text = format!("{HEADER}\n{LINE}\n{{\"operations\":1}}\n").into_bytes();
        let at = at % text.len();
        text[at] = byte;
        let _ = parse(&text[..]);
        prop_assert!(at + 1 == text.len() || parse(&text[..at]).is_err());
    }
}

fn refused(text: &str) -> String {
    match parse(text.as_bytes()) {
        Ok(history) => panic!("accepted: {history:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_whole_file_is_read() {
    let text = format!("{HEADER}\n{LINE}\n{{\"operations\":1}}\n");
    assert_eq!(parse(text.as_bytes()).unwrap().len(), 1);
}

#[test]
fn another_file_is_refused() {
    for text in ["", "leader pid=1\n", "{\"format\":\"hatokuse-history\",\"version\":2}\n", LINE] {
        let error = parse(text.as_bytes()).unwrap_err();
        assert!(matches!(error, FileError::Header), "{text}: {error}");
    }
}

#[test]
fn a_file_that_was_cut_short_is_refused() {
    let error = refused(&format!("{HEADER}\n{LINE}\n"));
    assert!(error.contains("ends after 1 operations"), "{error}");
    let error = refused(&format!("{HEADER}\n{LINE}\n{}", &LINE[..30]));
    assert!(error.starts_with("line 3: no operation: EOF"), "{error}");
    let error = refused(&format!("{HEADER}\n{LINE}\n{{\"operations\":2}}\n"));
    assert!(error.starts_with("line 3: says that there are 2 operations; 1 are"), "{error}");
    let error = refused(&format!("{HEADER}\n{{\"operations\":0}}\n{LINE}\n"));
    assert!(error.starts_with("line 3: the history ended"), "{error}");
}

#[test]
fn a_line_that_is_no_operation_is_refused_with_what_is_allowed() {
    let cases = [
        ("\"kind\":\"set\"", "\"kind\":\"push\"", "expected one of `get`, `set`"),
        ("\"kind\":\"set\"", "\"kind\":\"get\"", "a get or a delete has no \"value\""),
        ("\"value\":\"v\",", "", "needs a \"value\""),
        ("\"returned\":2,", "", "only what is \"pending\" may lack \"returned\""),
        ("\"returned\":2", "\"returned\":0", "\"returned\" must not be before \"invoked\""),
        ("\"stored\"", "\"value\"", "needs what was \"read\""),
        ("\"stored\"", "\"not_found\"", "only a get or an update"),
        ("\"stored\"", "\"stored\",\"read\":\"x\"", "only the outcome \"value\" has"),
        ("\"stored\"", "\"stored\",\"size\":1", "unknown field `size`"),
        ("\"client\":0", "\"client\":-1", "invalid value"),
        ("\"key\":\"k\"", "\"key\":\"\"", "at least one byte"),
        ("\"key\":\"k\"", "\"key\":\"\\\\xg0\"", "holds an escape that is none"),
        ("\"value\":\"v\"", "\"value\":\"\\\\\"", "holds an escape that is none"),
    ];
    for (from, to, expected) in cases {
        let line = LINE.replace(from, to);
        assert_ne!(line, LINE);
        let error = refused(&format!("{HEADER}\n{LINE}\n{line}\n{{\"operations\":2}}\n"));
        assert!(error.starts_with("line 3: ") && error.contains(expected), "{to}: {error}");
    }
}
