//! A cluster of its own: a `dev` as a child process, on free ports, in a directory of its own.
//!
//! `dev` starts again what ends, and says on its standard output which processes there are. It ends
//! when we do, however we end: it holds the other end of a pipe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::announce::{Event, Exit, Kind};
use super::super::arguments::Global;
use super::super::dev;
use super::arguments::ChaosArguments;

/// How long the cluster may take until every partition serves.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// How long it may take to stop: `dev` gives each half of its children 15 s.
const STOP_WITHIN: Duration = Duration::from_secs(40);
/// How long what was killed stays away, in seconds.
const RESTART_AFTER: &str = "1";

/// The processes that are there.
#[derive(Debug, Default)]
struct Members {
    leader: Option<u32>,
    /// By the directory of the store, which outlives the process.
    nodes: BTreeMap<PathBuf, u32>,
    /// Those that we have killed.
    killed: Vec<u32>,
    /// What ended though nobody had killed it.
    crashes: Vec<String>,
}

/// A cluster that may be hurt.
#[derive(Debug)]
pub(super) struct OwnCluster {
    dev: Child,
    _stdin: ChildStdin,
    directory: PathBuf,
    members: Arc<Mutex<Members>>,
    address: String,
}

impl OwnCluster {
    /// Starts it, and waits until every partition serves.
    pub(super) async fn start(global: &Global, arguments: &ChaosArguments) -> anyhow::Result<Self> {
        let directory = dev::temporary("chaos")?;
        let started = Self::start_in(&directory, global, arguments).await;
        if started.is_err() {
            remove(&directory);
        }
        started
    }

    async fn start_in(
        directory: &Path,
        global: &Global,
        arguments: &ChaosArguments,
    ) -> anyhow::Result<Self> {
        let log_path = directory.join("dev.log");
        let log = std::fs::File::create(&log_path)
            .with_context(|| format!("cannot write {}", log_path.display()))?;
        let mut command = Command::new(std::env::current_exe().context("cannot find the binary")?);
        command.args(["dev", "--exit-with-parent", "--restart", RESTART_AFTER]);
        command.args(["--client-port", "0", "--admin-port", "0", "--grpc-port", "0"]);
        command.arg("--data").arg(directory.join("data"));
        if let Some(nodes) = arguments.nodes {
            command.args(["--nodes".to_owned(), nodes.to_string()]);
        }
        if let Some(tolerance) = &arguments.tolerance {
            command.args(["--tolerance", tolerance]);
        }
        if let Some(config) = &global.config {
            command.arg("--config").arg(config);
        }
        let mut dev = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a cluster")?;
        let stdin = dev.stdin.take().context("the cluster has no standard input")?;
        let stdout = dev.stdout.take().context("the cluster has no standard output")?;
        let members = Arc::new(Mutex::new(Members::default()));
        let (ready, mut address) = watch::channel(None);
        tokio::spawn(listen(stdout, Arc::clone(&members), ready));
        let serving = timeout(READY_WITHIN, address.wait_for(Option::is_some)).await;
        let Ok(Ok(address)) = serving.map(|told| told.map(|told| told.clone())) else {
            let said = std::fs::read_to_string(&log_path).unwrap_or_default();
            bail!("the cluster did not come up:\n{}", said.trim_end());
        };
        let address = address.context("the cluster has no address")?;
        let directory = directory.to_owned();
        Ok(Self { dev, _stdin: stdin, directory, members, address })
    }

    /// Where clients connect.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Where its data and logs are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The leader's process, if there is one.
    pub(super) fn leader(&self) -> Option<u32> {
        self.members.lock().leader
    }

    /// The nodes' processes, by the names of their slots.
    pub(super) fn nodes(&self) -> Vec<(String, u32)> {
        let slot = |path: &PathBuf| {
            let name = path.file_name().unwrap_or(path.as_os_str());
            name.to_string_lossy().into_owned()
        };
        self.members.lock().nodes.iter().map(|(path, pid)| (slot(path), *pid)).collect()
    }

    /// Sends a signal to one of its processes; one that has just ended does not hear it.
    pub(super) fn send(&self, process: u32, signal: Signal) {
        if signal == Signal::KILL {
            self.members.lock().killed.push(process);
        }
        if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// What ended by itself, in words.
    pub(super) fn crashes(&self) -> Vec<String> {
        self.members.lock().crashes.clone()
    }

    /// Stops it, and removes its directory unless that is worth keeping.
    pub(super) async fn stop(mut self, keep: bool) {
        if let Some(pid) = self.dev.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP_WITHIN, self.dev.wait()).await.is_err() {
            let _ = self.dev.kill().await;
        }
        if !keep {
            remove(&self.directory);
        }
    }
}

fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        anstream::eprintln!("cannot remove {}: {error}", directory.display());
    }
}

/// Keeps the list of members as `dev` tells it.
async fn listen(
    stdout: ChildStdout,
    members: Arc<Mutex<Members>>,
    ready: watch::Sender<Option<String>>,
) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match Event::parse(&line) {
            Some(Event::Ready { client, .. }) => {
                let _ = ready.send(Some(client.to_string()));
            }
            Some(event) => members.lock().hear(&event),
            None => {}
        }
    }
}

impl Members {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Leader { pid, .. } => self.leader = Some(*pid),
            Event::Node { pid, registered } => {
                self.nodes.insert(registered.data.clone(), *pid);
            }
            Event::Exited { kind, pid, how } => self.part(*kind, *pid, *how),
            Event::Ready { .. } => {}
        }
    }

    fn part(&mut self, kind: Kind, pid: u32, how: Exit) {
        match kind {
            Kind::Leader => self.leader = None,
            Kind::Node => self.nodes.retain(|_, node| *node != pid),
        }
        let killed = self.killed.iter().position(|killed| *killed == pid);
        match killed {
            Some(place) => drop(self.killed.swap_remove(place)),
            None => self.crashes.push(format!("{kind} pid={pid} ended by itself: {how}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_without_being_killed_is_a_crash() {
        let mut members = Members { killed: vec![8], ..Members::default() };
        let lines = [
            "leader pid=7 client=127.0.0.1:1 admin=127.0.0.1:2 grpc=127.0.0.1:3 data=d/leader",
            "node pid=8 id=a addr=127.0.0.1:4 admin=127.0.0.1:5 data=d/slots/0001",
            "node pid=9 id=b addr=127.0.0.1:6 admin=127.0.0.1:7 data=d/slots/0002",
            "exited node pid=8 signal=9",
            "exited leader pid=7 code=101",
        ];
        for line in lines {
            members.hear(&Event::parse(line).unwrap());
        }
        assert_eq!(members.leader, None);
        assert_eq!(members.nodes.values().copied().collect::<Vec<_>>(), [9]);
        assert_eq!(members.crashes, ["leader pid=7 ended by itself: code=101"]);
    }
}
