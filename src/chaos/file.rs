//! Histories in files: a line of JSON for each operation, between a line that says what the file is
//! and one that says that it is whole.
//!
//! ```text
//! {"format":"hatokuse-history","version":1}
//! {"client":3,"key":"chaos-0.7","kind":"set","value":"3.12","invoked":51002,"returned":51840,"outcome":"stored"}
//! {"client":4,"key":"chaos-0.7","kind":"get","invoked":52100,"returned":52391,"outcome":"value","read":"3.12"}
//! {"client":3,"key":"chaos-0.7","kind":"delete","invoked":60000,"outcome":"pending"}
//! {"operations":3}
//! ```
//!
//! Times are microseconds of a clock that never goes back; `returned` is missing where no answer
//! came and the client did not go on. Keys and values are text in which whatever is not printable
//! ASCII is escaped as `\xff`, `\n`, `\\` and so on. Kinds are `get set update delete`, outcomes
//! `stored value not_found failed uncertain pending`. Versions are not kept: the line protocol does
//! not tell them.
//!
//! A file is read with distrust: whatever is not exactly of this form, or could not have happened,
//! is refused with its line and what is allowed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::logic::history::{Kind, Operation, Outcome};
use crate::types::{Key, Moment};

/// The format that is written, and the only one that is read.
pub const FORMAT_VERSION: u32 = 1;
const FORMAT: &str = "hatokuse-history";
/// More operations are not read: they would not fit into memory.
const MAX_OPERATIONS: u64 = 50_000_000;
/// Longer lines are not read: the largest value a leader may be configured for, escaped.
const MAX_LINE_BYTES: u64 = 8 << 30;

/// A file that holds no history.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else, or of another version.
    #[error(
        "line 1 must be {{\"format\":\"{FORMAT}\",\"version\":{FORMAT_VERSION}}}, as written by \
         `hatokuse chaos --history`; this is no history, or one of another version"
    )]
    Header,
    /// A line is no operation.
    #[error("line {line}: {problem}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// Lines are missing.
    #[error(
        "the file ends after {found} operations without the line {{\"operations\":{found}}}; it was \
         cut short, and what is missing may explain what is there"
    )]
    Cut {
        /// How many operations there are.
        found: u64,
    },
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u32,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    operations: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum KindWord {
    Get,
    Set,
    Update,
    Delete,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeWord {
    Stored,
    Value,
    NotFound,
    Failed,
    Uncertain,
    Pending,
}

/// A line, in the order in which it is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    client: u32,
    key: String,
    kind: KindWord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    invoked: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    returned: Option<u64>,
    outcome: OutcomeWord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read: Option<String>,
}

/// Writes a history operation by operation.
#[derive(Debug)]
pub struct HistoryWriter {
    file: BufWriter<File>,
    written: u64,
}

impl HistoryWriter {
    /// Begins a file, in place of what may have been there.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        write_line(&mut file, &Header { format: FORMAT.to_owned(), version: FORMAT_VERSION })?;
        Ok(Self { file, written: 0 })
    }

    /// Appends an operation; those of one key in any order.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, operation: &Operation) -> io::Result<()> {
        self.written += 1;
        write_line(&mut self.file, &Line::from(operation))
    }

    /// Ends the file: only now it is whole.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        write_line(&mut self.file, &Footer { operations: self.written })?;
        self.file.flush()
    }
}

/// Writes a whole history.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, history: &[Operation]) -> io::Result<()> {
    let mut writer = HistoryWriter::create(path)?;
    history.iter().try_for_each(|operation| writer.write(operation))?;
    writer.finish()
}

/// Reads a history.
///
/// # Errors
/// If the file cannot be read, or is not a whole history.
pub fn read(path: &Path) -> Result<Vec<Operation>, FileError> {
    parse(BufReader::new(File::open(path)?))
}

/// Reads a history from whatever gives its bytes.
///
/// # Errors
/// As [`read`].
pub fn parse(input: impl BufRead) -> Result<Vec<Operation>, FileError> {
    let mut lines = Lines { input, number: 0, bytes: Vec::new() };
    let expected = Header { format: FORMAT.to_owned(), version: FORMAT_VERSION };
    let header = lines.next()?.and_then(|line| serde_json::from_slice::<Header>(line).ok());
    if header != Some(expected) {
        return Err(FileError::Header);
    }
    let mut history = Vec::new();
    loop {
        let found = history.len() as u64;
        let number = lines.number + 1;
        let wrong = |problem: String| FileError::Line { line: number, problem };
        let Some(line) = lines.next()? else { return Err(FileError::Cut { found }) };
        if let Ok(footer) = serde_json::from_slice::<Footer>(line) {
            if footer.operations != found {
                let told = footer.operations;
                return Err(wrong(format!("says that there are {told} operations; {found} are")));
            }
            return match lines.next()? {
                None => Ok(history),
                Some(_) => Err(FileError::Line {
                    line: number + 1,
                    problem: "the history ended on the line before; nothing may follow".to_owned(),
                }),
            };
        }
        if found == MAX_OPERATIONS {
            return Err(wrong(format!("more than {MAX_OPERATIONS} operations are not read")));
        }
        let line = serde_json::from_slice::<Line>(line)
            .map_err(|error| wrong(format!("no operation: {}", without_line(&error))))?;
        history.push(Operation::try_from(line).map_err(wrong)?);
    }
}

/// The message of an error without its own count of lines, which is always 1.
fn without_line(error: &serde_json::Error) -> String {
    let (text, column) = (error.to_string(), error.column());
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    format!("{text} (byte {column})")
}

fn write_line(file: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *file, line)?;
    file.write_all(b"\n")
}

/// Lines with their numbers, none longer than allowed.
struct Lines<R> {
    input: R,
    number: u64,
    bytes: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<&[u8]>, FileError> {
        self.bytes.clear();
        let mut limited = io::Read::take(&mut self.input, MAX_LINE_BYTES);
        if limited.read_until(b'\n', &mut self.bytes)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some(&self.bytes))
    }
}

impl From<&Operation> for Line {
    fn from(operation: &Operation) -> Self {
        let (outcome, read) = match &operation.outcome {
            Outcome::Stored { .. } => (OutcomeWord::Stored, None),
            Outcome::Value { value, .. } => (OutcomeWord::Value, Some(escape(value))),
            Outcome::NotFound { .. } => (OutcomeWord::NotFound, None),
            Outcome::Failed => (OutcomeWord::Failed, None),
            Outcome::Uncertain => (OutcomeWord::Uncertain, None),
            Outcome::Pending => (OutcomeWord::Pending, None),
        };
        let kind = match operation.kind {
            Kind::Get => KindWord::Get,
            Kind::Set(_) => KindWord::Set,
            Kind::Update(_) => KindWord::Update,
            Kind::Delete => KindWord::Delete,
        };
        Self {
            client: operation.client,
            key: escape(&operation.key.0),
            kind,
            value: operation.written().map(escape),
            invoked: operation.invoked.0,
            returned: operation.returned.map(|returned| returned.0),
            outcome,
            read,
        }
    }
}

impl TryFrom<Line> for Operation {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        let kind = match (line.kind, line.value) {
            (KindWord::Get, None) => Kind::Get,
            (KindWord::Delete, None) => Kind::Delete,
            (KindWord::Set, Some(value)) => Kind::Set(unescape("value", &value)?),
            (KindWord::Update, Some(value)) => Kind::Update(unescape("value", &value)?),
            (_, None) => return Err("a set or an update needs a \"value\"".to_owned()),
            (_, Some(_)) => return Err("a get or a delete has no \"value\"".to_owned()),
        };
        let outcome = outcome(&kind, line.outcome, line.read.as_deref())?;
        if line.returned.is_none() && outcome != Outcome::Pending {
            return Err("only what is \"pending\" may lack \"returned\"".to_owned());
        }
        if line.returned.is_some_and(|returned| returned < line.invoked) {
            return Err("\"returned\" must not be before \"invoked\"".to_owned());
        }
        let key = unescape("key", &line.key)?;
        if key.is_empty() {
            return Err("a \"key\" has at least one byte".to_owned());
        }
        Ok(Self {
            client: line.client,
            key: Key(key),
            kind,
            invoked: Moment(line.invoked),
            returned: line.returned.map(Moment),
            outcome,
        })
    }
}

fn outcome(kind: &Kind, word: OutcomeWord, read: Option<&str>) -> Result<Outcome, String> {
    let version = None;
    let reads = *kind == Kind::Get;
    match (word, read) {
        (OutcomeWord::Value, Some(value)) if reads => {
            Ok(Outcome::Value { version, value: unescape("read", value)? })
        }
        (OutcomeWord::Value, None) => Err("the outcome \"value\" needs what was \"read\"".into()),
        (OutcomeWord::Value, Some(_)) => Err("only a get has the outcome \"value\"".into()),
        (_, Some(_)) => Err("only the outcome \"value\" has what was \"read\"".into()),
        (OutcomeWord::Stored, None) if !reads => Ok(Outcome::Stored { version }),
        (OutcomeWord::Stored, None) => Err("a get has no outcome \"stored\"".into()),
        (OutcomeWord::NotFound, None) if matches!(kind, Kind::Get | Kind::Update(_)) => {
            Ok(Outcome::NotFound { version })
        }
        (OutcomeWord::NotFound, None) => {
            Err("only a get or an update has the outcome \"not_found\"".into())
        }
        (OutcomeWord::Failed, None) => Ok(Outcome::Failed),
        (OutcomeWord::Uncertain, None) => Ok(Outcome::Uncertain),
        (OutcomeWord::Pending, None) => Ok(Outcome::Pending),
    }
}

fn escape(bytes: &Bytes) -> String {
    bytes.escape_ascii().to_string()
}

/// The bytes that were escaped so.
fn unescape(field: &str, text: &str) -> Result<Bytes, String> {
    let wrong = || {
        format!(
            "\"{field}\" holds an escape that is none: allowed are \\\\ \\n \\r \\t \\' \\\" and \
             \\x with two digits"
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let plain = match rest.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(quoted @ (b'\\' | b'\'' | b'"')) => quoted,
            Some(b'x') => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                u8::try_from(high * 16 + low).map_err(|_| wrong())?
            }
            _ => return Err(wrong()),
        };
        bytes.push(plain);
    }
    Ok(bytes.into())
}
