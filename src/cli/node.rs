//! `node drain`, `node undrain` and `node decommission`: what an operator decides about a node.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;

use super::admin::AdminClient;
use super::arguments::{DrainArguments, Global, NodeOperation};
use super::output::{Outcome, Output};
use crate::leader::api::documents::{DecommissionedDocument, DrainDocument, NodeDocument};

/// How often a drain that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A command without anything to say.
#[derive(Serialize)]
struct Nothing {}

pub(super) async fn run(
    global: &Global,
    output: &mut Output,
    operation: NodeOperation,
) -> anyhow::Result<Outcome> {
    let client = AdminClient::new(global);
    match operation {
        NodeOperation::Drain(arguments) => drain(&client, output, &arguments).await,
        NodeOperation::Undrain(node) => {
            let path = format!("nodes/{}/undrain", node.id);
            let node: NodeDocument = client.post(&path, &Nothing {}).await?;
            output.result(format!("node {} takes copies again", node.id), &node)?;
            Ok(Outcome::Done)
        }
        NodeOperation::Decommission(node) => {
            let path = format!("nodes/{}/decommission", node.id);
            let done: DecommissionedDocument = client.post(&path, &Nothing {}).await?;
            let line = format!("node {} belongs to the cluster no more", done.decommissioned);
            output.result(line, &done)?;
            Ok(Outcome::Done)
        }
    }
}

async fn drain(
    client: &AdminClient,
    output: &mut Output,
    arguments: &DrainArguments,
) -> anyhow::Result<Outcome> {
    let id = &arguments.node.id;
    let mut node: NodeDocument = client.post(&format!("nodes/{id}/drain"), &Nothing {}).await?;
    let mut told = String::new();
    while arguments.wait && !is_drained(&node) {
        let line = progress(&node);
        if line != told {
            anstream::eprintln!("{line}");
            told = line;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        node = client.get(&format!("nodes/{id}")).await?;
        anyhow::ensure!(node.drain.is_some(), "somebody has put node {id} back on the ring");
    }
    output.result(progress(&node), &node)?;
    Ok(Outcome::Done)
}

fn is_drained(node: &NodeDocument) -> bool {
    node.drain.as_ref().is_some_and(DrainDocument::is_done)
}

/// How far a drain is, and what may be done about the node.
fn progress(node: &NodeDocument) -> String {
    let id = &node.id;
    match &node.drain {
        None => format!("node {id} is not drained"),
        Some(drain) if drain.is_done() => {
            format!("node {id} is drained: nothing is left on it, and it may be stopped")
        }
        Some(drain) => {
            let (partitions, bytes) = (drain.partitions_left, ByteSize(drain.bytes_left));
            let time = drain.seconds_left.map_or_else(
                || "nothing moves now".to_owned(),
                |seconds| {
                    format!("{} left", humantime::format_duration(Duration::from_secs(seconds)))
                },
            );
            format!("node {id} is draining: {partitions} partitions left, about {bytes}, {time}")
        }
    }
}
