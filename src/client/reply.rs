//! Replies, as the lines that came and what they mean.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;

use super::ClientError;

/// An `ERROR` of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The word after `ERROR`, such as `NOT_FOUND`.
    pub code: String,
    /// The rest of the line: what is wrong and what to do.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.as_str(), self.text.as_str()) {
            ("", _) => f.write_str("ERROR"),
            (code, "") => f.write_str(code),
            (code, text) => write!(f, "{code} {text}"),
        }
    }
}

/// What became of an accepted write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Written {
    /// As many copies as asked for.
    Full {},
    /// Fewer copies than asked for.
    Degraded {
        /// Copies there are.
        copies: u32,
        /// Copies asked for.
        tolerance: u32,
    },
}

/// A line of `NODES`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    /// The identity of the node's store.
    pub id: String,
    /// Where it answers the leader.
    pub address: String,
}

/// A line of `FILES`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileRow {
    /// The address of the node.
    pub address: String,
    /// Its records.
    pub records: u64,
}

/// The lines of one reply, without their ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    lines: Vec<Bytes>,
}

impl Reply {
    pub(super) fn new(lines: Vec<Bytes>) -> Self {
        Self { lines }
    }

    /// The lines as they came.
    pub fn lines(&self) -> &[Bytes] {
        &self.lines
    }

    /// The error, if the reply is one.
    pub fn refusal(&self) -> Option<Refusal> {
        let rest = after_word(self.first(), b"ERROR")?;
        let text = String::from_utf8_lossy(rest);
        let (code, text) = text.split_once(' ').unwrap_or((&text, ""));
        Some(Refusal { code: code.to_owned(), text: text.to_owned() })
    }

    /// Reads the reply to a write.
    pub fn written(&self) -> Result<Written, ClientError> {
        self.check()?;
        let rest = after_word(self.first(), b"OK").ok_or_else(|| self.unexpected())?;
        if rest.is_empty() {
            return Ok(Written::Full {});
        }
        parse_degraded(rest).ok_or_else(|| self.unexpected())
    }

    /// Reads the reply to `GET`: `None` if there is no such key.
    pub fn value(&self) -> Result<Option<Bytes>, ClientError> {
        if let Some(refusal) = self.refusal() {
            let absent = refusal.code == "NOT_FOUND";
            return if absent { Ok(None) } else { Err(ClientError::Refused(refusal)) };
        }
        let first = self.lines.first().ok_or_else(|| self.unexpected())?;
        let rest = after_word(first, b"OK").ok_or_else(|| self.unexpected())?;
        Ok(Some(first.slice_ref(rest)))
    }

    /// Reads a reply of several lines: all but the last, which is `OK`.
    pub fn rows(&self) -> Result<Vec<String>, ClientError> {
        self.check()?;
        match self.lines.split_last() {
            Some((last, rows)) if last.as_ref() == b"OK" => {
                Ok(rows.iter().map(|row| String::from_utf8_lossy(row).into_owned()).collect())
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Reads the reply to `NODES`.
    pub fn nodes(&self) -> Result<Vec<NodeRow>, ClientError> {
        self.rows()?.iter().map(|row| parse_node(row)).collect()
    }

    /// Reads the reply to `FILES`.
    pub fn files(&self) -> Result<Vec<FileRow>, ClientError> {
        self.rows()?.iter().map(|row| parse_file(row)).collect()
    }

    fn first(&self) -> &[u8] {
        self.lines.first().map(AsRef::as_ref).unwrap_or_default()
    }

    fn check(&self) -> Result<(), ClientError> {
        self.refusal().map_or(Ok(()), |refusal| Err(ClientError::Refused(refusal)))
    }

    fn unexpected(&self) -> ClientError {
        ClientError::unexpected(self.first())
    }
}

/// What follows a word that begins the line, and the one space after it.
fn after_word<'a>(line: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(word)? {
        [] => Some(&[]),
        [b' ', rest @ ..] => Some(rest),
        _ => None,
    }
}

fn parse_degraded(rest: &[u8]) -> Option<Written> {
    let text = std::str::from_utf8(rest).ok()?;
    let (copies, tolerance) = text.strip_prefix("DEGRADED ")?.split_once('/')?;
    Some(Written::Degraded { copies: copies.parse().ok()?, tolerance: tolerance.parse().ok()? })
}

fn parse_node(row: &str) -> Result<NodeRow, ClientError> {
    let parts = row.strip_prefix("Node: ").and_then(|rest| rest.split_once(" -> "));
    let (id, address) = parts.ok_or_else(|| ClientError::unexpected(row.as_bytes()))?;
    Ok(NodeRow { id: id.to_owned(), address: address.to_owned() })
}

fn parse_file(row: &str) -> Result<FileRow, ClientError> {
    let unexpected = || ClientError::unexpected(row.as_bytes());
    let (address, records) = row.rsplit_once(": ").ok_or_else(unexpected)?;
    let records = records.parse().map_err(|_| unexpected())?;
    Ok(FileRow { address: address.to_owned(), records })
}
