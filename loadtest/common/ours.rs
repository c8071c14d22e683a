//! A cluster of the real binary.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use hatokuse::bench::Protocol;
use hatokuse::bench::options::Plan;
use hatokuse::client::http;

use super::process::{Running, directory, eventually};
use super::system::System;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hatokuse");
/// How long the leader may take to say whether it is ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A leader and nodes whose every partition serves with all its copies.
pub(super) async fn start(plan: &Plan) -> anyhow::Result<System> {
    let data = directory()?;
    let (copies, nodes) = (plan.copies.to_string(), plan.nodes.to_string());
    let mut arguments = vec!["leader", "--exit-with-parent", "--listen", "127.0.0.1"];
    arguments.extend(["--client-port", "0", "--admin-port", "0", "--grpc-port", "0"]);
    arguments.extend(["--data", "leader", "--tolerance", &copies, "--bootstrap-nodes", &nodes]);
    let leader = Running::start(PROGRAM, &arguments, &data.path().join("leader.log"))?;
    let said = leader.line()?;
    let (client, admin) = (field(&said, "client")?, field(&said, "admin")?);
    let grpc = field(&said, "grpc")?.to_string();

    let mut back = Vec::new();
    for number in 1..=plan.nodes {
        let name = format!("node-{number}");
        let mut arguments = vec!["node", "--exit-with-parent", "--listen", "127.0.0.1"];
        arguments.extend(["--port", "0", "--admin-port", "0", "--leader", &grpc]);
        arguments.extend(["--data", &name, "--io-mode", plan.io_mode.name()]);
        let log = data.path().join(format!("{name}.log"));
        back.push(Running::start(PROGRAM, &arguments, &log)?);
    }
    let scraped = back.iter().map(|node| field(&node.line()?, "admin"));
    let scraped = scraped.collect::<anyhow::Result<_>>()?;
    eventually(&leader, async || is_ready(admin).await).await?;
    Ok(System {
        protocol: Protocol::Line,
        address: client,
        front: leader,
        back,
        scraped,
        counters: &["hatokuse_fsyncs_total"],
        data,
    })
}

/// A field `name=address` of a line that a process announces itself with.
fn field(line: &str, name: &str) -> anyhow::Result<SocketAddr> {
    let value = line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let value = value.and_then(|value| value.parse().ok());
    value.with_context(|| format!("no {name} in `{line}`"))
}

async fn is_ready(admin: SocketAddr) -> anyhow::Result<()> {
    for page in ["/readyz?verbose", "/healthz"] {
        let answer = http::get(&admin.to_string(), page, ANSWER_WITHIN).await?;
        if !answer.is_success() {
            bail!("the leader says {}", answer.body.trim());
        }
    }
    Ok(())
}
