//! etcd: members of one cluster.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use hatokuse::bench::Protocol;
use hatokuse::bench::options::Plan;

use super::process::{Running, directory, eventually, free_ports, local, metric};
use super::system::{System, scrape};

/// Its log and its database are synced apart.
const COUNTERS: [&str; 2] = [
    "etcd_disk_wal_fsync_duration_seconds_count",
    "etcd_disk_backend_commit_duration_seconds_count",
];

/// Members that have a leader.
pub(super) async fn start(plan: &Plan) -> anyhow::Result<System> {
    let data = directory()?;
    let ports = free_ports::<14>()?;
    let members: Vec<_> = ports.chunks(2).take(usize::from(plan.copies)).collect();
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let named = members.iter().map(|ports| format!("m{}={}", ports[0], url(ports[1])));
    let cluster = named.collect::<Vec<_>>().join(",");
    let mut running = Vec::new();
    for ports in &members {
        let (name, client, peer) = (format!("m{}", ports[0]), url(ports[0]), url(ports[1]));
        let mut arguments = vec!["--name", &name, "--data-dir", &name];
        arguments.extend(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        arguments.extend(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        arguments.extend(["--initial-cluster", &cluster, "--initial-cluster-state", "new"]);
        arguments.extend(["--log-level", "warn", "--logger", "zap"]);
        let log = data.path().join(format!("{name}.log"));
        running.push(Running::guarded("etcd", &arguments, &log)?);
    }
    let clients: Vec<_> = members.iter().map(|ports| local(ports[0])).collect();
    let first = running.first().context("there is at least one member")?;
    let leader = eventually(first, async || leader(&clients).await).await?;
    let front = running.remove(leader);
    Ok(System {
        protocol: Protocol::Etcd,
        address: clients[leader],
        front,
        back: running,
        scraped: clients,
        counters: &COUNTERS,
        data,
    })
}

/// Which member leads, once all know one.
async fn leader(clients: &[SocketAddr]) -> anyhow::Result<usize> {
    let mut leader = None;
    for (member, client) in clients.iter().enumerate() {
        let text = scrape(*client).await?;
        let is = |name| metric(&text, name) == Some(1);
        ensure!(is("etcd_server_has_leader"), "member {member} has no leader");
        if is("etcd_server_is_leader") {
            leader = Some(member);
        }
    }
    leader.context("no member leads")
}
