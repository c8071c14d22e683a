//! `get`, `set` and `del`.

use std::io::Read;

use anyhow::Context;
use serde::Serialize;

use super::arguments::{Global, KeyArgument, PairArguments};
use super::output::{Outcome, Output};
use crate::client::Written;

/// More is not read from standard input: no server accepts it.
const MAX_INPUT_BYTES: u64 = 1 << 30;

/// A value and its key, as JSON.
#[derive(Serialize)]
struct Entry<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

impl<'a> Entry<'a> {
    fn new(key: &'a str, value: &'a [u8]) -> Self {
        let text = std::str::from_utf8(value).ok();
        Self { key, value: text, value_hex: text.is_none().then(|| hex(value)) }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// What became of a write, as JSON.
#[derive(Serialize)]
struct Receipt {
    result: &'static str,
    #[serde(flatten)]
    written: Written,
}

pub(super) async fn get(
    global: &Global,
    output: &mut Output,
    argument: KeyArgument,
) -> anyhow::Result<Outcome> {
    let key = argument.key;
    let Some(value) = super::client(global).get(key.as_bytes()).await? else {
        anstream::eprintln!("error: NOT_FOUND there is no key `{}`", key.escape_debug());
        return Ok(Outcome::Failed);
    };
    output.value(&value, &Entry::new(&key, &value))?;
    Ok(Outcome::Done)
}

pub(super) async fn set(
    global: &Global,
    output: &mut Output,
    arguments: PairArguments,
) -> anyhow::Result<Outcome> {
    let value = match arguments.value {
        Some(value) => value.into_bytes(),
        None => read_value()?,
    };
    let written = super::client(global).set(arguments.key.as_bytes(), &value).await?;
    receipt(output, written)
}

pub(super) async fn delete(
    global: &Global,
    output: &mut Output,
    argument: KeyArgument,
) -> anyhow::Result<Outcome> {
    let written = super::client(global).delete(argument.key.as_bytes()).await?;
    receipt(output, written)
}

fn receipt(output: &mut Output, written: Written) -> anyhow::Result<Outcome> {
    match written {
        Written::Full {} => {
            output.result("OK", &Receipt { result: "ok", written })?;
            Ok(Outcome::Done)
        }
        Written::Degraded { copies, tolerance } => {
            let line = format!("OK DEGRADED {copies}/{tolerance}");
            output.result(line, &Receipt { result: "degraded", written })?;
            anstream::eprintln!("warning: {copies} copies instead of {tolerance}");
            Ok(Outcome::Degraded)
        }
    }
}

/// The value from standard input, without the one line end that `echo` and editors add.
fn read_value() -> anyhow::Result<Vec<u8>> {
    let mut value = Vec::new();
    std::io::stdin()
        .take(MAX_INPUT_BYTES)
        .read_to_end(&mut value)
        .context("cannot read the value from standard input")?;
    if value.ends_with(b"\n") {
        value.pop();
        if value.ends_with(b"\r") {
            value.pop();
        }
    }
    Ok(value)
}
