//! `nodes`, `files`, `status` and `where`.

use bytesize::ByteSize;
use serde::Serialize;

use super::admin::AdminClient;
use super::arguments::{Global, KeyArgument};
use super::output::{Outcome, Output};
use crate::leader::api::documents::NodeDocument;

/// Lines for people, as JSON.
#[derive(Serialize)]
struct Lines<'a> {
    lines: &'a [String],
}

/// Every node as operators see it; where only the client port is known, the live ones.
pub(super) async fn nodes(global: &Global, output: &mut Output) -> anyhow::Result<Outcome> {
    if global.asks_as_a_client() {
        return live_nodes(global, output).await;
    }
    let nodes: Vec<NodeDocument> = AdminClient::new(global).get("nodes").await?;
    let row = |node: &NodeDocument| {
        let free = ByteSize(node.disk_free_bytes).to_string();
        let (partitions, records) = (node.partitions.to_string(), node.records.to_string());
        [node.id.clone(), node.address.clone(), state(node), partitions, records, free]
    };
    let headings = ["ID", "ADDRESS", "STATE", "PARTITIONS", "RECORDS", "FREE"];
    output.rows(headings, nodes.iter().map(row), &nodes)?;
    Ok(Outcome::Done)
}

/// How a node is, and whether it gives away what it holds.
fn state(node: &NodeDocument) -> String {
    match &node.drain {
        None => node.state.clone(),
        Some(drain) => format!("{}, {}", node.state, drain.state),
    }
}

async fn live_nodes(global: &Global, output: &mut Output) -> anyhow::Result<Outcome> {
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
