//! Requests, as lines.

use bytes::{BufMut, Bytes, BytesMut};

/// Why something cannot be said in the line protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The key is empty.
    #[error("a key has at least one byte; this one is empty")]
    EmptyKey,
    /// The key holds what ends a key.
    #[error(
        "a key holds no white space or control bytes in the line protocol; byte {at} of this one \
         is one (use a Redis client for such keys)"
    )]
    KeyByte {
        /// Which byte, from 1.
        at: usize,
    },
    /// The value holds what ends a request.
    #[error(
        "a value holds no line end in the line protocol; byte {at} of this one is one (use a Redis \
         client, which may store any bytes)"
    )]
    ValueLineEnd {
        /// Which byte, from 1.
        at: usize,
    },
    /// The line holds another line.
    #[error("a request is one line; this one holds a line end")]
    LineEnd,
}

/// How many lines the reply has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One.
    Single,
    /// Any number, the last of them `OK`; or one that begins with `ERROR`.
    Multiple,
}

/// One request, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The line with its end.
    line: Bytes,
    shape: Shape,
    only_reads: bool,
}

impl Request {
    /// Asks for the value of a key.
    pub fn get(key: &[u8]) -> Result<Self, RequestError> {
        Ok(Self { only_reads: true, ..Self::with_key("GET", key)? })
    }

    /// Stores a value.
    pub fn set(key: &[u8], value: &[u8]) -> Result<Self, RequestError> {
        Self::with_value("SET", key, value)
    }

    /// Stores a value under a key that exists.
    pub fn update(key: &[u8], value: &[u8]) -> Result<Self, RequestError> {
        Self::with_value("UPD", key, value)
    }

    /// Deletes a key.
    pub fn delete(key: &[u8]) -> Result<Self, RequestError> {
        Self::with_key("DEL", key)
    }

    /// Asks where a key lives.
    pub fn where_(key: &[u8]) -> Result<Self, RequestError> {
        Ok(Self { shape: Shape::Multiple, only_reads: true, ..Self::with_key("WHERE", key)? })
    }

    /// Asks for the live nodes.
    pub fn nodes() -> Self {
        Self::question("NODES")
    }

    /// Asks how many records each live node holds.
    pub fn files() -> Self {
        Self::question("FILES")
    }

    /// Asks for the state of the cluster.
    pub fn status() -> Self {
        Self::question("STATUS")
    }

    /// A line that somebody typed, sent as it is.
    pub fn raw(line: &[u8]) -> Result<Self, RequestError> {
        if line.contains(&b'\n') || line.ends_with(b"\r") {
            return Err(RequestError::LineEnd);
        }
        let word = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let is = |name: &&str| word.eq_ignore_ascii_case(name.as_bytes());
        let multiple = ["NODES", "FILES", "WHERE", "STATUS", "HELP"].iter().any(is);
        let shape = if multiple { Shape::Multiple } else { Shape::Single };
        let only_reads = multiple || ["GET", "PING"].iter().any(is);
        Ok(Self { line: end_line(line), shape, only_reads })
    }

    /// Whether the request may be sent twice without anybody noticing.
    pub fn only_reads(&self) -> bool {
        self.only_reads
    }

    pub(super) fn line(&self) -> &Bytes {
        &self.line
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    fn question(verb: &str) -> Self {
        Self { line: end_line(verb.as_bytes()), shape: Shape::Multiple, only_reads: true }
    }

    fn with_key(verb: &str, key: &[u8]) -> Result<Self, RequestError> {
        check_key(key)?;
        let mut line = BytesMut::with_capacity(verb.len() + key.len() + 2);
        line.put_slice(verb.as_bytes());
        line.put_u8(b' ');
        line.put_slice(key);
        line.put_u8(b'\n');
        Ok(Self { line: line.freeze(), shape: Shape::Single, only_reads: false })
    }

    fn with_value(verb: &str, key: &[u8], value: &[u8]) -> Result<Self, RequestError> {
        check_key(key)?;
        check_value(value)?;
        let mut line = BytesMut::with_capacity(verb.len() + key.len() + value.len() + 3);
        line.put_slice(verb.as_bytes());
        line.put_u8(b' ');
        line.put_slice(key);
        line.put_u8(b' ');
        line.put_slice(value);
        line.put_u8(b'\n');
        Ok(Self { line: line.freeze(), shape: Shape::Single, only_reads: false })
    }
}

fn end_line(line: &[u8]) -> Bytes {
    let mut ended = BytesMut::with_capacity(line.len() + 1);
    ended.put_slice(line);
    ended.put_u8(b'\n');
    ended.freeze()
}

fn check_key(key: &[u8]) -> Result<(), RequestError> {
    if key.is_empty() {
        return Err(RequestError::EmptyKey);
    }
    let ends_a_key = |byte: &u8| byte.is_ascii_control() || *byte == b' ';
    match key.iter().position(ends_a_key) {
        Some(index) => Err(RequestError::KeyByte { at: index + 1 }),
        None => Ok(()),
    }
}

/// A CR within a value is a byte like any other; at its end it would be taken for half a CRLF.
fn check_value(value: &[u8]) -> Result<(), RequestError> {
    if let Some(index) = value.iter().position(|byte| *byte == b'\n') {
        return Err(RequestError::ValueLineEnd { at: index + 1 });
    }
    if value.ends_with(b"\r") {
        return Err(RequestError::ValueLineEnd { at: value.len() });
    }
    Ok(())
}
