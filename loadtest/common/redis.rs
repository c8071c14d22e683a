//! Redis: a primary and replicas.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{bail, ensure};
use hatokuse::bench::Protocol;
use hatokuse::bench::options::{IoMode, Plan};

use super::process::{Running, directory, eventually, free_ports, local};
use super::system::System;

/// How long a server may take to tell about itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A primary whose replicas are all online.
pub(super) async fn start(plan: &Plan) -> anyhow::Result<System> {
    let data = directory()?;
    let ports = &free_ports::<7>()?[..usize::from(plan.copies)];
    let synced = plan.io_mode == IoMode::Unbuffered;
    let primary = ports[0].to_string();
    let mut servers = Vec::new();
    for port in ports {
        let name = port.to_string();
        let folder = data.path().join(&name);
        std::fs::create_dir(&folder)?;
        let folder = folder.display().to_string();
        let mut arguments = vec!["--port", &name, "--bind", "127.0.0.1", "--dir", &folder];
        arguments.extend(["--save", "", "--appendonly", if synced { "yes" } else { "no" }]);
        // No rewrite of the log while it is measured; replicas are filled at once.
        arguments.extend(["--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]);
        arguments.extend(["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]);
        if name != primary {
            arguments.extend(["--replicaof", "127.0.0.1", &primary]);
        }
        let log = data.path().join(format!("{name}.log"));
        servers.push(Running::guarded("redis-server", &arguments, &log)?);
    }
    let replicas = ports.len() - 1;
    for (port, server) in ports.iter().zip(&servers) {
        let online = if *port == ports[0] { replicas } else { 0 };
        eventually(server, async || is_ready(*port, online)).await?;
    }
    let front = servers.remove(0);
    let protocol = Protocol::Resp { replicas: u32::try_from(replicas)? };
    let (back, address) = (servers, local(ports[0]));
    // It does not count its syncs.
    Ok(System { protocol, address, front, back, scraped: vec![], counters: &[], data })
}

fn is_ready(port: u16, replicas: usize) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&local(port), ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(b"INFO\r\nQUIT\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    for done in ["loading:0", "aof_rewrite_in_progress:0", "rdb_bgsave_in_progress:0"] {
        ensure!(text.contains(done), "no {done}");
    }
    ensure!(!text.contains("master_link_status:down"), "the replica is not connected");
    let online = text.matches("state=online").count();
    if online < replicas {
        bail!("{online} of {replicas} replicas are online");
    }
    Ok(())
}
