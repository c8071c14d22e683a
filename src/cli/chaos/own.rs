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
use tokio::sync::oneshot;
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
/// How much is shown of what a cluster said that did not come up.
const LOG_LINES: usize = 12;

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
            command.args(["--tolerance".to_owned(), tolerance.to_string()]);
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
        let (sender, start) = oneshot::channel();
        tokio::spawn(listen(stdout, Arc::clone(&members), sender));
        let Ok(Ok(Some(address))) = timeout(READY_WITHIN, start).await else {
            end(&mut dev).await;
            bail!("the cluster did not come up; it said:\n{}", last_lines(&log_path));
        };
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
        end(&mut self.dev).await;
        if !keep {
            remove(&self.directory);
        }
    }
}

/// Stops a `dev` in good order, if it can be.
async fn end(dev: &mut Child) {
    if let Some(pid) = dev.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(STOP_WITHIN, dev.wait()).await.is_err() {
        let _ = dev.kill().await;
    }
}

/// The end of a log.
fn last_lines(path: &Path) -> String {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
    last.join("\n")
}

fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        anstream::eprintln!("cannot remove {}: {error}", directory.display());
    }
}

/// Keeps the list of members as `dev` tells it. Says once where clients connect; or nothing, if
/// something ends before the cluster is ready: then it never will be.
async fn listen(
    stdout: ChildStdout,
    members: Arc<Mutex<Members>>,
    start: oneshot::Sender<Option<String>>,
) {
    let mut start = Some(start);
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Some(event) = Event::parse(&line) else { continue };
        members.lock().hear(&event);
        let address = match event {
            Event::Ready { client, .. } => Some(client.to_string()),
            Event::Exited { .. } => None,
            Event::Leader { .. } | Event::Node { .. } => continue,
        };
        if let Some(start) = start.take() {
            let _ = start.send(address);
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
