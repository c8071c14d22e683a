//! What comes back, and how it is written.
//!
//! An [`Outcome`] is what the store says, without any dialect; a [`Refusal`] is what the front says
//! about a request that never got that far; a [`Reply`] is either, or what a connection says by
//! itself. A [`Renderer`] turns a reply into the bytes of one mode: everything that a mode decides
//! about its looks is in its renderer and nowhere else.

mod simple;

use std::fmt;

use bytes::Bytes;

use super::command::{Command, Mode};
use super::line::LineEnd;
use crate::types::{PartitionId, StoreId, Version};

/// What the store says about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write is durable on this many copies.
    Stored {
        /// Copies that have it.
        copies: usize,
        /// Copies that `tolerance` asks for.
        wanted: usize,
    },
    /// The key is gone.
    Deleted,
    /// The value of the key.
    Value(Bytes),
    /// Where the key lives.
    Located(Box<Location>),
    /// An answer in several lines, none of which holds a line end.
    Lines(Vec<String>),
    /// A healthy copy says that there is no such key.
    NotFound,
    /// It cannot be answered now; nothing changed.
    Unavailable,
    /// The leader has lost its metadata, or has an older copy of it; nothing changed.
    NoMetadata,
    /// Fewer live copies than a write needs; nothing changed.
    NotEnoughNodes {
        /// Live copies.
        have: usize,
        /// What a write needs.
        need: usize,
    },
    /// The write may or may not take effect.
    Uncertain,
    /// Too much is in flight; nothing changed.
    Busy,
    /// No room for the write; nothing changed.
    DiskFull,
    /// Copies of the key disagree.
    Damaged,
}

/// Where a key lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The partition of the key.
    pub partition: PartitionId,
    /// The version of its value, if the key exists and a copy could be asked.
    pub version: Option<Version>,
    /// The copies of the partition.
    pub copies: Vec<CopyLocation>,
}

/// One copy of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyLocation {
    /// The store that has it.
    pub store: StoreId,
    /// Where its node listens.
    pub address: String,
    /// What it is worth.
    pub state: CopyState,
}

/// What a copy is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// Holds every settled write.
    InSync,
    /// In the in-sync set, but its node does not answer.
    Away,
    /// Being filled.
    CatchingUp,
}

impl fmt::Display for CopyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InSync => "in sync",
            Self::Away => "away",
            Self::CatchingUp => "catching up",
        })
    }
}

/// A request that the front refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The command has other arguments.
    Usage(Command),
    /// The key holds white space or control bytes.
    Key(Command),
    /// No such command.
    UnknownCommand(Word),
    /// The key is longer than this many bytes.
    KeyTooLarge(usize),
    /// The value is longer than this many bytes.
    ValueTooLarge(usize),
    /// The mode is not built.
    Mode(Mode),
    /// The line would not fit into what all connections together may hold.
    Busy,
    /// The stream ended within the line.
    Unfinished,
    /// The rest of a large line did not come.
    Stalled,
}

/// The beginning of a word that a client sent, made fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word(Bytes);

impl Word {
    /// More of a word than this is not shown.
    pub const MAX_BYTES: usize = 32;

    /// The word, or its beginning.
    pub fn new(word: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(word.get(..Self::MAX_BYTES).unwrap_or(word)))
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// What is written for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// What the store says.
    Store(Outcome),
    /// The request was wrong.
    Refused(Refusal),
    /// `PING` was heard.
    Pong,
    /// The list of commands.
    Help,
    /// It was done.
    Done,
}

/// The kind of a reply: the word after `ERROR`, or that it was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Done.
    Ok,
    /// Done, with fewer copies than wanted.
    Degraded,
    /// No such key.
    NotFound,
    /// The request was written wrongly.
    Usage,
    /// No such command.
    UnknownCommand,
    /// Over a limit.
    TooLarge,
    /// Cannot be answered now; nothing changed.
    Unavailable,
    /// Too few live copies; nothing changed.
    NotEnoughNodes,
    /// The outcome of the write is not known.
    Uncertain,
    /// Too much in flight; nothing changed.
    Busy,
    /// No room; nothing changed.
    DiskFull,
    /// Copies disagree.
    Damaged,
    /// The value cannot be written in one line.
    Binary,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Degraded,
        Self::NotFound,
        Self::Usage,
        Self::UnknownCommand,
        Self::TooLarge,
        Self::Unavailable,
        Self::NotEnoughNodes,
        Self::Uncertain,
        Self::Busy,
        Self::DiskFull,
        Self::Damaged,
        Self::Binary,
    ];

    /// The word that clients see after `ERROR` (or `OK`).
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Degraded => "DEGRADED",
            Self::NotFound => "NOT_FOUND",
            Self::Usage => "USAGE",
            Self::UnknownCommand => "UNKNOWN_COMMAND",
            Self::TooLarge => "TOO_LARGE",
            Self::Unavailable => "UNAVAILABLE",
            Self::NotEnoughNodes => "NOT_ENOUGH_NODES",
            Self::Uncertain => "UNCERTAIN",
            Self::Busy => "BUSY",
            Self::DiskFull => "DISK_FULL",
            Self::Damaged => "DAMAGED",
            Self::Binary => "BINARY",
        }
    }
}

/// Where a renderer writes: text is copied, values need not be.
pub trait Sink {
    /// Appends text.
    fn text(&mut self, text: &[u8]);
    /// Appends a value.
    fn value(&mut self, value: Bytes);
}

impl Sink for Vec<u8> {
    fn text(&mut self, text: &[u8]) {
        self.extend_from_slice(text);
    }

    fn value(&mut self, value: Bytes) {
        self.extend_from_slice(&value);
    }
}

/// Writes replies in the form of one mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renderer {
    /// The mode `simple`.
    Simple,
}

impl Renderer {
    /// The renderer of a mode; none while the mode is only reserved.
    pub fn for_mode(mode: Mode) -> Option<Self> {
        match mode {
            Mode::Simple => Some(Self::Simple),
            Mode::Register | Mode::Plain | Mode::Detailed => None,
        }
    }

    /// Writes one reply, ended as its request was, and says of what kind it turned out to be.
    pub fn render(self, reply: Reply, end: LineEnd, into: &mut impl Sink) -> Code {
        match self {
            Self::Simple => simple::render(reply, end, into),
        }
    }
}
