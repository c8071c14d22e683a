//! `client`: a conversation with the cluster, by hand or from a script.

mod editor;
mod script;

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use clap::builder::styling::{AnsiColor, Style};

use super::arguments::Global;
use super::output::Outcome;
use crate::client::{Client, ClientError, Reply, Request};
use editor::{Editor, Input};

const BAD: Style = AnsiColor::Red.on_default();
const GOOD: Style = AnsiColor::Green.on_default();

pub(super) fn run(global: &Global) -> anyhow::Result<Outcome> {
    let runtime = super::client_runtime()?;
    let mut client = super::client(global);
    if !io::stdin().is_terminal() {
        let outcome = runtime.block_on(script::run(&mut client));
        // A read of standard input may still wait for its next line; nobody else does.
        runtime.shutdown_background();
        return outcome;
    }
    runtime.block_on(client.connect())?;
    anstream::eprintln!(
        "connected to {}; HELP lists the commands, Ctrl-D ends",
        global.client_addr()
    );
    converse(&runtime, &mut client, global.client_addr())
}

fn converse(
    runtime: &tokio::runtime::Runtime,
    client: &mut Client,
    address: &str,
) -> anyhow::Result<Outcome> {
    let mut editor = Editor::new(address);
    loop {
        let line = match editor.read().context("cannot read from the terminal")? {
            Input::Line(line) => line,
            Input::Again => continue,
            Input::End => return Ok(Outcome::Done),
        };
        match runtime.block_on(turn(client, line.as_bytes())) {
            Ok(reply) => show(&reply)?,
            // The next line connects again; a conversation does not end because a server did.
            Err(error) => anstream::eprintln!("{BAD}{:#}{BAD:#}", anyhow::Error::from(error)),
        }
        if is_farewell(line.as_bytes()) {
            return Ok(Outcome::Done);
        }
    }
}

async fn turn(client: &mut Client, line: &[u8]) -> Result<Reply, ClientError> {
    client.call(&Request::raw(line)?).await
}

/// Prints a reply as it came, in colour where the terminal has any.
fn show(reply: &Reply) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    for line in reply.lines() {
        let style = match line.as_ref() {
            line if line.starts_with(b"ERROR") => BAD,
            line if line.starts_with(b"OK") => GOOD,
            _ => Style::new(),
        };
        // A value is somebody else's bytes: they must not command our terminal.
        let text = String::from_utf8_lossy(line);
        let text: String = text.chars().flat_map(visible).collect();
        let (word, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
        writeln!(stdout, "{style}{word}{style:#}{rest}")?;
    }
    stdout.flush()
}

/// The character, or its escape if it is a control character.
fn visible(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control() && c != '\t';
    let (plain, escape) = if escaped { (None, Some(c.escape_default())) } else { (Some(c), None) };
    plain.into_iter().chain(escape.into_iter().flatten())
}

fn is_farewell(line: &[u8]) -> bool {
    let word = line.trim_ascii();
    word.eq_ignore_ascii_case(b"QUIT") || word.eq_ignore_ascii_case(b"EXIT")
}

/// Asks the server to end the conversation in a mode whose replies have no end that we know of.
fn is_unreadable(line: &[u8]) -> bool {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let mut next_is = |word: &[u8]| words.next().is_some_and(|w| w.eq_ignore_ascii_case(word));
    next_is(b"MODE") && next_is(b"DETAILED")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_of_a_value_are_shown_not_obeyed() {
        let text: String = "a\u{1b}[2J\tb\u{131}".chars().flat_map(visible).collect();
        assert_eq!(text, "a\\u{1b}[2J\tb\u{131}");
    }

    #[test]
    fn farewells_and_the_mode_that_cannot_be_read_are_known() {
        assert!(is_farewell(b"quit") && is_farewell(b" EXIT ") && !is_farewell(b"SET quit x"));
        assert!(is_unreadable(b"mode detailed") && !is_unreadable(b"MODE plain"));
        assert!(!is_unreadable(b"SET mode detailed"));
    }
}
