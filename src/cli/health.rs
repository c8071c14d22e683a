//! `health`: whether the leader or node on this machine is well.
//!
//! Made for the health checks of containers, where nodes start only once their leader is well. So a
//! leader is well while nodes are missing, and when it is back before them: its `/livez` is asked.
//! Whether the cluster is whole, its `/healthz` tells. A node is well once a leader knows it.

use serde::Serialize;

use super::admin::LEADER;
use super::arguments::{Global, HealthArguments, Role};
use super::output::{Outcome, Output};
use crate::client::http;

/// The answer, as JSON.
#[derive(Serialize)]
struct Health<'a> {
    healthy: bool,
    status: u16,
    body: &'a str,
}

pub(super) async fn run(
    global: &Global,
    output: &mut Output,
    arguments: HealthArguments,
) -> anyhow::Result<Outcome> {
    let (usual, path) = match arguments.role {
        Role::Leader => (LEADER, "/livez"),
        Role::Node => ("127.0.0.1:8081", "/healthz"),
    };
    let address = global.admin_addr.as_deref().unwrap_or(usual);
    let answer = http::get(address, path, global.timeout).await?;
    let (status, body) = (answer.status, answer.body.trim());
    let healthy = answer.is_success();
    let line = if healthy { "healthy" } else { "not healthy" };
    output.result(line, &Health { healthy, status, body })?;
    if healthy {
        return Ok(Outcome::Done);
    }
    anstream::eprintln!("{address} answered {status}: {body}");
    Ok(Outcome::Failed)
}
