//! The mode `simple`: every reply is one line that begins with `OK` or `ERROR CODE`, but for
//! listings, which are lines that end with the line `OK`.

use bytes::Bytes;
use memchr::memchr;

use super::{Code, Location, Outcome, Refusal, Reply, Sink};
use crate::protocol::command::{Command, Mode};
use crate::protocol::line::LineEnd;

/// What is said when nothing could be taken on.
const BUSY: &str = "too much is in flight, nothing changed; send less at once, or try later";

/// Writes one reply and says of what kind it is.
pub(super) fn render(reply: Reply, end: LineEnd, into: &mut impl Sink) -> Code {
    let code = match reply {
        Reply::Store(outcome) => store(outcome, end, into),
        Reply::Refused(refusal) => refused(&refusal, into),
        Reply::Pong => {
            into.text(b"PONG");
            Code::Ok
        }
        Reply::Help => listing(&help_lines(), end, into),
        Reply::Done => ok(into),
    };
    into.text(end.as_bytes());
    code
}

fn store(outcome: Outcome, end: LineEnd, into: &mut impl Sink) -> Code {
    let (code, text) = match outcome {
        Outcome::Stored { copies, wanted } => return stored(copies, wanted, into),
        Outcome::Deleted => return ok(into),
        Outcome::Value(bytes) => return value(bytes, into),
        Outcome::Lines(lines) => return listing(&lines, end, into),
        Outcome::Located(location) => return listing(&location_lines(&location), end, into),
        Outcome::NotEnoughNodes { have, need } => {
            let text = format!("{have}/{need} live copies, nothing changed; start more nodes");
            return error(Code::NotEnoughNodes, &text, into);
        }
        Outcome::NotFound => (Code::NotFound, "there is no such key; SET stores one"),
        Outcome::Unavailable => {
            (Code::Unavailable, "cannot be answered now, nothing changed; try again")
        }
        Outcome::NoMetadata => (
            Code::Unavailable,
            "the leader's metadata is lost or out of date, nothing changed; an operator must bring \
             its data directory back, or run: hatokuse rebuild-metadata",
        ),
        Outcome::Uncertain => (
            Code::Uncertain,
            "the write may still take effect or not; read the key, or write it again",
        ),
        Outcome::Busy => (Code::Busy, BUSY),
        Outcome::DiskFull => {
            (Code::DiskFull, "the disks are full, nothing changed; free space or add nodes")
        }
        Outcome::Damaged => {
            (Code::Damaged, "copies of the key disagree; an operator must look, see WHERE <key>")
        }
    };
    error(code, text, into)
}

fn ok(into: &mut impl Sink) -> Code {
    into.text(b"OK");
    Code::Ok
}

fn stored(copies: usize, wanted: usize, into: &mut impl Sink) -> Code {
    if copies >= wanted {
        return ok(into);
    }
    into.text(format!("OK DEGRADED {copies}/{wanted}").as_bytes());
    Code::Degraded
}

/// A value that holds a line end would be taken for several replies. A CR alone ends no line: a
/// request may bring one, so a reply may too.
fn value(bytes: Bytes, into: &mut impl Sink) -> Code {
    if memchr(b'\n', &bytes).is_some() {
        return error(Code::Binary, "the value holds a line end; read it over RESP", into);
    }
    into.text(b"OK ");
    into.value(bytes);
    Code::Ok
}

fn listing(lines: &[String], end: LineEnd, into: &mut impl Sink) -> Code {
    for line in lines {
        into.text(line.as_bytes());
        into.text(end.as_bytes());
    }
    ok(into)
}

fn location_lines(location: &Location) -> Vec<String> {
    let version = location.version.map_or_else(|| "none".into(), |version| version.to_string());
    let copies = location.copies.iter();
    let copies = copies.map(|c| format!("Copy: {} -> {} {}", c.store, c.address, c.state));
    [format!("Partition: {}", location.partition), format!("Version: {version}")]
        .into_iter()
        .chain(copies)
        .collect()
}

fn help_lines() -> Vec<String> {
    let width = Command::ALL.map(|command| command.usage().len()).into_iter().max().unwrap_or(0);
    let line = |command: Command| format!("{:width$}  {}", command.usage(), command.about());
    Command::ALL.into_iter().map(line).collect()
}

fn error(code: Code, text: &str, into: &mut impl Sink) -> Code {
    into.text(b"ERROR ");
    into.text(code.word().as_bytes());
    into.text(b" ");
    into.text(text.as_bytes());
    code
}

fn refused(refusal: &Refusal, into: &mut impl Sink) -> Code {
    let (code, text) = match refusal {
        Refusal::Usage(command) => (Code::Usage, command.usage().to_owned()),
        Refusal::Key(command) => {
            (Code::Usage, format!("{}; a key has no control bytes", command.usage()))
        }
        Refusal::UnknownCommand(word) => {
            (Code::UnknownCommand, format!("'{word}' is no command; HELP lists them"))
        }
        Refusal::KeyTooLarge(limit) => {
            (Code::TooLarge, format!("a key has at most {limit} bytes; send a shorter one"))
        }
        Refusal::ValueTooLarge(limit) => {
            (Code::TooLarge, format!("a value has at most {limit} bytes; send a shorter one"))
        }
        Refusal::Mode(mode) => (Code::Usage, mode_text(*mode)),
        Refusal::Busy => (Code::Busy, BUSY.to_owned()),
        Refusal::Stalled => {
            let text = "the rest of the line did not come and it was dropped; send it all at once";
            (Code::Busy, text.to_owned())
        }
        Refusal::Unfinished => {
            let text = "the last line has no end and was not carried out; end it with LF";
            (Code::Usage, text.to_owned())
        }
    };
    error(code, &text, into)
}

fn mode_text(mode: Mode) -> String {
    format!("{}; the mode '{}' is not available yet", Command::Mode.usage(), mode.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::reply::{CopyLocation, CopyState, Renderer};
    use crate::types::{Epoch, PartitionId, StoreId, Version};

    fn rendered(reply: Reply) -> (String, Code) {
        let mut bytes = Vec::new();
        let code = Renderer::Simple.render(reply, LineEnd::CrLf, &mut bytes);
        (String::from_utf8(bytes).unwrap(), code)
    }

    #[test]
    fn fewer_copies_than_wanted_are_said() {
        let stored = |copies| rendered(Reply::Store(Outcome::Stored { copies, wanted: 4 }));
        assert_eq!(stored(4), ("OK\r\n".into(), Code::Ok));
        assert_eq!(stored(3), ("OK DEGRADED 3/4\r\n".into(), Code::Degraded));
    }

    #[test]
    fn a_value_with_a_line_end_is_never_written_as_lines() {
        for bytes in ["a\nb", "\r\n", "end\n"] {
            let (text, code) = rendered(Reply::Store(Outcome::Value(bytes.into())));
            assert_eq!(code, Code::Binary);
            assert_eq!(text.matches('\n').count(), 1, "{text}");
        }
    }

    #[test]
    fn a_value_with_a_cr_comes_back_as_it_was_stored() {
        let (text, code) = rendered(Reply::Store(Outcome::Value("a\rb".into())));
        assert_eq!((text.as_str(), code), ("OK a\rb\r\n", Code::Ok));
    }

    #[test]
    fn every_failure_is_one_line_with_its_code_and_what_to_do() {
        let failures = [
            Outcome::NotFound,
            Outcome::Unavailable,
            Outcome::NoMetadata,
            Outcome::NotEnoughNodes { have: 1, need: 2 },
            Outcome::Uncertain,
            Outcome::Busy,
            Outcome::DiskFull,
            Outcome::Damaged,
        ];
        for failure in failures {
            let (text, code) = rendered(Reply::Store(failure));
            assert!(text.starts_with(&format!("ERROR {} ", code.word())), "{text}");
            assert!(text.contains("; ") && text.ends_with("\r\n"), "{text}");
            assert_eq!(text.matches('\n').count(), 1);
        }
    }

    #[test]
    fn a_location_names_every_copy_and_its_worth() {
        let copy = |number, state| CopyLocation {
            store: StoreId::from_number(number),
            address: format!("10.0.0.{number}:50052"),
            state,
        };
        let (text, _) = rendered(Reply::Store(Outcome::Located(Box::new(Location {
            partition: PartitionId(7),
            version: Some(Version::new(Epoch(3), 12)),
            copies: vec![copy(1, CopyState::InSync), copy(2, CopyState::CatchingUp)],
        }))));
        assert_eq!(
            text,
            format!(
                "Partition: 7\r\nVersion: {}\r\n\
                 Copy: 00000000-0000-0000-0000-000000000001 -> 10.0.0.1:50052 in sync\r\n\
                 Copy: 00000000-0000-0000-0000-000000000002 -> 10.0.0.2:50052 catching up\r\nOK\r\n",
                Version::new(Epoch(3), 12)
            )
        );
    }
}
