//! The bytes of the two protocols that are spoken over plain sockets: ours and Redis's.

use std::fmt;
use std::io::Write;
use std::ops::Range;

use memchr::memchr;

use super::error::shown;
use super::load::Operation;
use super::value::Keyspace;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// Ours.
    Line,
    /// Redis's.
    Resp {
        /// How many replicas a write must have reached; 0 if it need not.
        replicas: u32,
    },
}

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A request of the load.
    Operation(Operation),
    /// Whether the writes before it have reached their replicas.
    Barrier,
    /// To close the connection.
    Goodbye,
}

impl Asked {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Operation(operation) => operation.name(),
            Self::Barrier => "WAIT",
            Self::Goodbye => "QUIT",
        }
    }
}

/// What a reply says; texts by their place in the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// It is done.
    Done,
    /// It is done, on fewer copies than asked for.
    Degraded,
    /// The value.
    Value(Range<usize>),
    /// There is no such key.
    NotFound,
    /// The server could not or would not; what it said.
    Refused(Range<usize>),
}

/// A reply that means nothing to us; its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl Malformed {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(shown(bytes))
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, which is no reply to that", self.0)
    }
}

impl Wire {
    /// Appends a request to store a value.
    pub(super) fn set(self, keys: &Keyspace, slot: u32, version: u32, out: &mut Vec<u8>) {
        match self {
            Self::Line => {
                out.extend_from_slice(b"SET ");
                keys.key(slot, out);
                out.push(b' ');
                keys.value(slot, version, out);
                out.push(b'\n');
            }
            Self::Resp { .. } => {
                out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
                bulk(keys.key_bytes(), out, |out| keys.key(slot, out));
                bulk(keys.value_bytes(), out, |out| keys.value(slot, version, out));
            }
        }
    }

    /// Appends a request to read a value.
    pub(super) fn get(self, keys: &Keyspace, slot: u32, out: &mut Vec<u8>) {
        match self {
            Self::Line => {
                out.extend_from_slice(b"GET ");
                keys.key(slot, out);
                out.push(b'\n');
            }
            Self::Resp { .. } => {
                out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
                bulk(keys.key_bytes(), out, |out| keys.key(slot, out));
            }
        }
    }

    /// Appends what asks whether all writes so far are as safe as they should be. Says whether
    /// that is a question at all: our own acknowledgement needs none.
    pub(super) fn barrier(self, out: &mut Vec<u8>) -> bool {
        let Self::Resp { replicas: replicas @ 1.. } = self else { return false };
        out.extend_from_slice(b"*3\r\n$4\r\nWAIT\r\n");
        let count = replicas.to_string();
        bulk(count.len(), out, |out| out.extend_from_slice(count.as_bytes()));
        // No time-out there: the client has one of its own.
        bulk(1, out, |out| out.push(b'0'));
        true
    }

    /// Appends the request to close the connection.
    pub(super) fn goodbye(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Self::Line => b"QUIT\n".as_slice(),
            Self::Resp { .. } => b"*1\r\n$4\r\nQUIT\r\n".as_slice(),
        });
    }

    /// The first reply in `input` and its length, if it is there to the end. `scanned` is how much
    /// of it was looked at in vain before.
    pub(super) fn reply(
        self,
        asked: Asked,
        input: &[u8],
        scanned: &mut usize,
    ) -> Result<Option<(Reply, usize)>, Malformed> {
        let Some(length) = find_line(input, scanned) else { return Ok(None) };
        let line = input.get(..length).unwrap_or_default();
        let parsed = match self {
            Self::Line => line_reply(asked, line).map(|reply| (reply, length)),
            Self::Resp { replicas } => {
                let head = line.strip_suffix(b"\r\n").unwrap_or_default();
                match bulk_size(head).filter(|_| asked == GET) {
                    None => resp_reply(asked, head, replicas).map(|reply| (reply, length)),
                    Some(size) => {
                        let value = length..length.saturating_add(size);
                        let end = value.end.saturating_add(2);
                        if input.len() < end {
                            return Ok(None);
                        }
                        let ends_well = input.get(value.end..end) == Some(b"\r\n".as_slice());
                        ends_well.then_some((Reply::Value(value), end))
                    }
                }
            }
        };
        *scanned = 0;
        parsed.map(Some).ok_or_else(|| Malformed::new(line))
    }
}

const GET: Asked = Asked::Operation(Operation::Get);
const SET: Asked = Asked::Operation(Operation::Set);

/// The length of the first line, its end included.
fn find_line(input: &[u8], scanned: &mut usize) -> Option<usize> {
    let from = (*scanned).min(input.len());
    let found = memchr(b'\n', input.get(from..).unwrap_or_default());
    // A long bulk string may have to be waited for: its head is found again at once.
    *scanned = found.map_or(input.len(), |at| from + at);
    found.map(|at| from + at + 1)
}

fn line_reply(asked: Asked, line: &[u8]) -> Option<Reply> {
    let line = line.strip_suffix(b"\n")?;
    if let Some(error) = line.strip_prefix(b"ERROR ") {
        let not_found = asked == GET && error.starts_with(b"NOT_FOUND");
        return Some(if not_found { Reply::NotFound } else { Reply::Refused(6..line.len()) });
    }
    if asked == GET {
        return line.starts_with(b"OK ").then_some(Reply::Value(3..line.len()));
    }
    match line {
        b"OK" => Some(Reply::Done),
        _ if asked == SET && line.starts_with(b"OK DEGRADED ") => Some(Reply::Degraded),
        _ => None,
    }
}

fn resp_reply(asked: Asked, head: &[u8], replicas: u32) -> Option<Reply> {
    match (asked, head) {
        (_, [b'-', ..]) => Some(Reply::Refused(1..head.len())),
        (GET, b"$-1" | b"_") => Some(Reply::NotFound),
        (Asked::Barrier, [b':', count @ ..]) => {
            let enough = number(count)? >= replicas as usize;
            Some(if enough { Reply::Done } else { Reply::Degraded })
        }
        (SET | Asked::Goodbye, b"+OK") => Some(Reply::Done),
        _ => None,
    }
}

fn bulk_size(head: &[u8]) -> Option<usize> {
    number(head.strip_prefix(b"$")?)
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn bulk(size: usize, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    // Writing to memory does not fail.
    let _ = write!(out, "${size}\r\n");
    write(out);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESP: Wire = Wire::Resp { replicas: 2 };

    #[track_caller]
    fn check(wire: Wire, asked: Asked, input: &[u8], expected: Option<Reply>) {
        let whole = wire.reply(asked, input, &mut 0);
        let expected = expected.map(|reply| (reply, input.len()));
        assert_eq!(whole, expected.map(Some).ok_or_else(|| whole.clone().unwrap_err()));
        // Byte by byte, with a next reply behind it, it is the same.
        let mut scanned = 0;
        for end in 0..input.len() {
            let part = wire.reply(asked, &input[..end], &mut scanned);
            assert!(matches!(part, Ok(None) | Err(_)), "{part:?}");
            if part.is_err() {
                return;
            }
        }
        let more = [input, b"+OK\r\n"].concat();
        assert_eq!(wire.reply(asked, &more, &mut scanned), whole);
    }

    #[test]
    fn replies_of_the_line_protocol() {
        check(Wire::Line, SET, b"OK\n", Some(Reply::Done));
        check(Wire::Line, SET, b"OK DEGRADED 2/3\n", Some(Reply::Degraded));
        check(Wire::Line, SET, b"ERROR BUSY later\n", Some(Reply::Refused(6..16)));
        check(Wire::Line, GET, b"OK a value\n", Some(Reply::Value(3..10)));
        check(Wire::Line, GET, b"OK \n", Some(Reply::Value(3..3)));
        check(Wire::Line, GET, b"ERROR NOT_FOUND x\n", Some(Reply::NotFound));
        check(Wire::Line, Asked::Goodbye, b"OK\n", Some(Reply::Done));
        check(Wire::Line, SET, b"OK value\n", None);
        check(Wire::Line, SET, b"PONG\n", None);
        check(Wire::Line, GET, b"OK\n", None);
        check(Wire::Line, GET, b"\n", None);
    }

    #[test]
    fn replies_of_redis() {
        check(RESP, SET, b"+OK\r\n", Some(Reply::Done));
        check(RESP, SET, b"-OOM no\r\n", Some(Reply::Refused(1..7)));
        check(RESP, GET, b"$5\r\na\r\nbc\r\n", Some(Reply::Value(4..9)));
        check(RESP, GET, b"$0\r\n\r\n", Some(Reply::Value(4..4)));
        check(RESP, GET, b"$-1\r\n", Some(Reply::NotFound));
        check(RESP, Asked::Barrier, b":2\r\n", Some(Reply::Done));
        check(RESP, Asked::Barrier, b":1\r\n", Some(Reply::Degraded));
        check(RESP, SET, b"$2\r\nOK\r\n", None);
        check(RESP, SET, b":2\r\n", None);
        check(RESP, GET, b"+OK\r\n", None);
        check(RESP, Asked::Barrier, b"+OK\r\n", None);
    }

    #[test]
    fn requests_are_as_the_protocols_want_them() {
        let keys = Keyspace::new("r", 1, super::super::value::Text::new(3));
        let text = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(&|out| Wire::Line.set(&keys, 2, 1, out)), "SET load:r:1:20000000 100\n");
        assert_eq!(text(&|out| Wire::Line.get(&keys, 2, out)), "GET load:r:1:20000000\n");
        let set = "*3\r\n$3\r\nSET\r\n$17\r\nload:r:1:20000000\r\n$3\r\n100\r\n";
        assert_eq!(text(&|out| RESP.set(&keys, 2, 1, out)), set);
        let get = "*2\r\n$3\r\nGET\r\n$17\r\nload:r:1:20000000\r\n";
        assert_eq!(text(&|out| RESP.get(&keys, 2, out)), get);
        let wait = "*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$1\r\n0\r\n";
        assert_eq!(text(&|out| assert!(RESP.barrier(out))), wait);
        assert!(!Wire::Line.barrier(&mut Vec::new()));
        assert!(!Wire::Resp { replicas: 0 }.barrier(&mut Vec::new()));
    }
}
