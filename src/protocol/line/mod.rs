//! The line protocol's requests: one line each, read chunk by chunk.
//!
//! A request is a command word, arguments after single spaces, and LF or CRLF. A value is the rest
//! of the line, bytes as they come. Blank lines are ignored.
//!
//! The [`LineParser`] is fed whatever has arrived, in whatever pieces, and takes whole requests off
//! its front. What it makes of a stream does not depend on how the stream was cut.
//!
//! # Limits
//!
//! A line that is too long is refused as soon as that is certain, from its beginning alone, and
//! the rest of it is thrown away as it arrives: nobody has to hold it, and the connection stays
//! usable. Such a line has not ended when it is answered, so its answer ends like that of the
//! request before it.
//!
//! # Copies
//!
//! Keys and values are slices of the buffer they arrived in.

#[cfg(test)]
mod tests;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use super::command::{Command, Local, Mode, Operation, Question, Request};
use super::reply::{Refusal, Renderer, Word};
use crate::types::Key;

/// What a client may send at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of a key.
    pub max_key_bytes: usize,
    /// Of a value.
    pub max_value_bytes: usize,
}

impl Limits {
    /// A line without key and value is never shorter than this limit allows.
    const MIN_LINE_BYTES: usize = 64;

    /// What a line that carries neither key nor value may be long.
    fn plain_line(self) -> usize {
        self.max_key_bytes.saturating_add(16).max(Self::MIN_LINE_BYTES)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_key_bytes: 1 << 10, max_value_bytes: 8 << 20 }
    }
}

/// How a line ends; the reply ends as its request did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineEnd {
    /// `\n`
    #[default]
    Lf,
    /// `\r\n`
    CrLf,
}

impl LineEnd {
    /// Its bytes.
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Lf => b"\n",
            Self::CrLf => b"\r\n",
        }
    }
}

/// One request, or what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// How its reply must end.
    pub end: LineEnd,
    /// What was asked.
    pub request: Result<Request, Refusal>,
}

/// What came next on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A request of the line protocol.
    Request(Parsed),
    /// The connection's first byte is `*`: the client speaks RESP, nothing further is parsed.
    Resp,
}

/// Where the parser is in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte.
    Start,
    /// In a line, of which this many bytes have been searched for its end.
    Line { searched: usize },
    /// In a line that was refused already.
    Skipping,
    /// Of another protocol.
    Foreign,
}

/// Takes requests off the front of a stream.
#[derive(Clone, Debug)]
pub struct LineParser {
    limits: Limits,
    state: State,
    /// How the line before ended.
    last_end: LineEnd,
}

impl LineParser {
    /// A parser at the beginning of a connection.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Start, last_end: LineEnd::default() }
    }

    /// Takes the next request off the front of `buffer`, if it is whole or already known to be too
    /// long. What is left in the buffer belongs to the next one; more is to be appended to it.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Option<Item> {
        loop {
            match self.state {
                State::Start if *buffer.first()? == b'*' => {
                    self.state = State::Foreign;
                    return Some(Item::Resp);
                }
                State::Foreign => {
                    buffer.clear();
                    return None;
                }
                State::Skipping if !skip_line(buffer) => return None,
                State::Start | State::Skipping => self.state = State::Line { searched: 0 },
                State::Line { searched } => match self.take_line(buffer, searched) {
                    Some(line) => {
                        if let Some(parsed) = self.parse_line(line) {
                            return Some(Item::Request(parsed));
                        }
                    }
                    None => return self.refuse_early(buffer).map(Item::Request),
                },
            }
        }
    }

    /// Refuses the line that has begun in `buffer`, for a reason of the caller's, and skips the rest
    /// of it. Nothing to refuse if no line has begun.
    pub fn abandon(&mut self, buffer: &mut BytesMut, refusal: Refusal) -> Option<Parsed> {
        let begun = matches!(self.state, State::Line { .. }) && !buffer.is_empty();
        begun.then(|| self.refuse(buffer, refusal))
    }

    /// Whether a line has begun, in `buffer` or before it, whose end has not come.
    pub fn is_within_line(&self, buffer: &BytesMut) -> bool {
        match self.state {
            State::Start | State::Foreign => false,
            State::Line { .. } => !buffer.is_empty(),
            State::Skipping => true,
        }
    }

    /// Takes a whole line, with its end, off the buffer; searches no byte twice.
    fn take_line(&mut self, buffer: &mut BytesMut, from: usize) -> Option<Bytes> {
        let found = buffer.get(from..).and_then(|rest| memchr(b'\n', rest));
        let next = if found.is_some() { 0 } else { buffer.len() };
        self.state = State::Line { searched: next };
        found.map(|at| buffer.split_to(from + at + 1).freeze())
    }

    /// Makes a request of a whole line; nothing of a blank one.
    fn parse_line(&mut self, mut line: Bytes) -> Option<Parsed> {
        line.truncate(line.len().saturating_sub(1));
        let content = without_cr(&line).len();
        let end = if content < line.len() { LineEnd::CrLf } else { LineEnd::Lf };
        line.truncate(content);
        if let Some(refusal) = self.oversized(&line) {
            return Some(Parsed { end: self.last_end, request: Err(refusal) });
        }
        self.last_end = end;
        let blank = line.iter().all(|byte| *byte == b' ');
        (!blank).then(|| Parsed { end, request: request(&line) })
    }

    /// Refuses a line of which only the beginning is there, if that is too long already.
    fn refuse_early(&mut self, buffer: &mut BytesMut) -> Option<Parsed> {
        let refusal = self.oversized(without_cr(buffer))?;
        Some(self.refuse(buffer, refusal))
    }

    fn refuse(&mut self, buffer: &mut BytesMut, refusal: Refusal) -> Parsed {
        self.state = State::Skipping;
        // Its memory goes too: it may have grown to the size of a value.
        *buffer = BytesMut::new();
        Parsed { end: self.last_end, request: Err(refusal) }
    }

    /// What is too long about a line of which this is the beginning or all. Once it says so of a
    /// beginning, it says the same of every longer one.
    fn oversized(&self, line: &[u8]) -> Option<Refusal> {
        let Limits { max_key_bytes, max_value_bytes } = self.limits;
        if line.len() <= max_key_bytes.min(max_value_bytes) {
            return None;
        }
        let (word, rest) = split_at_space(line);
        let too_long = line.len() > self.limits.plain_line();
        match (Command::from_word(word), rest) {
            (Some(Command::Set | Command::Update), Some(rest)) => {
                let (key, value) = split_at_space(rest);
                if key.len() > max_key_bytes {
                    return Some(Refusal::KeyTooLarge(max_key_bytes));
                }
                let over = value.is_some_and(|value| value.len() > max_value_bytes);
                over.then_some(Refusal::ValueTooLarge(max_value_bytes))
            }
            (Some(Command::Get | Command::Delete | Command::Where), Some(rest)) => {
                (rest.len() > max_key_bytes).then_some(Refusal::KeyTooLarge(max_key_bytes))
            }
            (Some(command), _) => too_long.then_some(Refusal::Usage(command)),
            (None, _) => too_long.then(|| Refusal::UnknownCommand(Word::new(word))),
        }
    }
}

/// Drops everything up to and with the next line end. Says whether there was one.
fn skip_line(buffer: &mut BytesMut) -> bool {
    let end = memchr(b'\n', buffer);
    buffer.advance(end.map_or(buffer.len(), |at| at + 1));
    end.is_some()
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// What comes before the first space, and what after it.
fn split_at_space(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    let space = memchr(b' ', bytes).and_then(|at| bytes.split_at_checked(at));
    space.map_or((bytes, None), |(before, rest)| (before, rest.get(1..)))
}

/// Makes a request of a line that is within the limits, without its end.
fn request(line: &Bytes) -> Result<Request, Refusal> {
    let (word, rest) = split_at_space(line);
    let Some(command) = Command::from_word(word) else {
        return Err(Refusal::UnknownCommand(Word::new(word)));
    };
    let mut arguments = rest.map(|rest| line.slice_ref(rest)).unwrap_or_default();
    match command {
        Command::Set | Command::Update => {
            let (key, value) = key_and_value(command, arguments)?;
            Ok(Request::Key(match command {
                Command::Set => Operation::Set { key, value },
                _ => Operation::Update { key, value },
            }))
        }
        _ => {
            trim_end(&mut arguments);
            without_value(command, arguments)
        }
    }
}

fn key_and_value(command: Command, mut arguments: Bytes) -> Result<(Key, Bytes), Refusal> {
    let space = memchr(b' ', &arguments).ok_or(Refusal::Usage(command))?;
    let key = key(command, arguments.split_to(space))?;
    arguments.advance(1);
    Ok((key, arguments))
}

fn without_value(command: Command, arguments: Bytes) -> Result<Request, Refusal> {
    Ok(match command {
        Command::Get => Request::Key(Operation::Get { key: key(command, arguments)? }),
        Command::Delete => Request::Key(Operation::Delete { key: key(command, arguments)? }),
        Command::Where => Request::Key(Operation::Where { key: key(command, arguments)? }),
        Command::Mode => Request::Connection(Local::Mode(mode(&arguments)?)),
        _ if !arguments.is_empty() => return Err(Refusal::Usage(command)),
        Command::Nodes => Request::Cluster(Question::Nodes),
        Command::Files => Request::Cluster(Question::Files),
        Command::Status => Request::Cluster(Question::Status),
        Command::Ping => Request::Connection(Local::Ping),
        Command::Help => Request::Connection(Local::Help),
        Command::Quit => Request::Connection(Local::Quit),
        Command::Set | Command::Update => return Err(Refusal::Usage(command)),
    })
}

fn trim_end(arguments: &mut Bytes) {
    let kept = arguments.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    arguments.truncate(kept);
}

fn key(command: Command, bytes: Bytes) -> Result<Key, Refusal> {
    if bytes.is_empty() || bytes.contains(&b' ') {
        return Err(Refusal::Usage(command));
    }
    if bytes.iter().any(u8::is_ascii_control) {
        return Err(Refusal::Key(command));
    }
    Ok(Key(bytes))
}

fn mode(name: &[u8]) -> Result<Mode, Refusal> {
    let mode = Mode::from_name(name).ok_or(Refusal::Usage(Command::Mode))?;
    Renderer::for_mode(mode).map(|_| mode).ok_or(Refusal::Mode(mode))
}
