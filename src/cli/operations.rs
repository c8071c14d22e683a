//! `nodes`, `files`, `status` and `where`.

use serde::Serialize;

use super::arguments::{Global, KeyArgument};
use super::output::{Outcome, Output};

/// Lines for people, as JSON.
#[derive(Serialize)]
struct Lines<'a> {
    lines: &'a [String],
}

pub(super) async fn nodes(global: &Global, output: &mut Output) -> anyhow::Result<Outcome> {
    let nodes = super::client(global).nodes().await?;
    let rows = nodes.iter().map(|node| [node.id.clone(), node.address.clone()]);
    output.rows(["ID", "ADDRESS"], rows, &nodes)?;
    Ok(Outcome::Done)
}

pub(super) async fn files(global: &Global, output: &mut Output) -> anyhow::Result<Outcome> {
    let files = super::client(global).files().await?;
    let rows = files.iter().map(|row| [row.address.clone(), row.records.to_string()]);
    output.rows(["ADDRESS", "RECORDS"], rows, &files)?;
    Ok(Outcome::Done)
}

pub(super) async fn status(global: &Global, output: &mut Output) -> anyhow::Result<Outcome> {
    let lines = super::client(global).status().await?;
    show(output, &lines)
}

pub(super) async fn where_(
    global: &Global,
    output: &mut Output,
    argument: KeyArgument,
) -> anyhow::Result<Outcome> {
    let lines = super::client(global).where_(argument.key.as_bytes()).await?;
    show(output, &lines)
}

fn show(output: &mut Output, lines: &[String]) -> anyhow::Result<Outcome> {
    output.result(lines.join("\n"), &Lines { lines })?;
    Ok(Outcome::Done)
}
