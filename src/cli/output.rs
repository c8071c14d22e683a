//! What goes to standard output, and the exit code.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

/// In which form results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people; a value is written as it is.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// How a command went, when it went at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All that was asked for.
    Done,
    /// Nothing, or not all.
    Failed,
    /// Nothing: it was asked for wrongly.
    Misused,
    /// Done with fewer copies than asked for.
    Degraded,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::Failed => 1,
            Outcome::Misused => 2,
            Outcome::Degraded => 3,
        })
    }
}

/// Standard output, in the form that was asked for.
#[derive(Debug)]
pub(super) struct Output {
    format: Format,
    stdout: io::Stdout,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        Self { format, stdout: io::stdout() }
    }

    /// One result: a line for people, or a document for programs.
    pub(super) fn result(&mut self, line: impl Display, json: &impl Serialize) -> io::Result<()> {
        match self.format {
            Format::Table => self.line(line),
            Format::Json => self.json(json),
        }
    }

    /// Rows under headings, or a document for programs.
    pub(super) fn rows<const N: usize>(
        &mut self,
        headings: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
        json: &impl Serialize,
    ) -> io::Result<()> {
        if self.format == Format::Json {
            return self.json(json);
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(headings).add_rows(rows);
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// A value as it is and a line end, or a document for programs.
    pub(super) fn value(&mut self, value: &[u8], json: &impl Serialize) -> io::Result<()> {
        if self.format == Format::Json {
            return self.json(json);
        }
        self.stdout.write_all(value)?;
        self.line("")
    }

    /// Bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)?;
        self.stdout.flush()
    }

    fn line(&mut self, line: impl Display) -> io::Result<()> {
        writeln!(self.stdout, "{line}")?;
        self.stdout.flush()
    }

    fn json(&mut self, document: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(document)?;
        self.line(text)
    }
}

/// Whether whoever read our output has gone: `hatokuse nodes | head -1` is no failure.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
