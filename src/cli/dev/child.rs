//! One child process: started, listened to, stopped, and perhaps started again.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::announce::{Announcement, Exit};
use super::super::arguments::Restart;
use super::data;

/// How long a child may take to stop after it was asked to.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(15);

/// What a child is started with.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Its name in logs: `leader`, `node-1`.
    pub(super) name: String,
    /// The binary.
    pub(super) program: PathBuf,
    /// Its arguments, but for the ports.
    pub(super) arguments: Vec<String>,
    /// The flags of its ports, and the ports: those asked for, later those it got.
    pub(super) ports: Vec<(&'static str, u16)>,
    /// Its log.
    pub(super) log: PathBuf,
    /// Whether the log is shown as well.
    pub(super) show_log: bool,
    /// What happens when it ends.
    pub(super) restart: Restart,
}

/// What happened to a child.
#[derive(Debug)]
pub(super) struct News {
    /// Its name.
    pub(super) name: String,
    /// Its process.
    pub(super) pid: u32,
    /// What happened.
    pub(super) event: ChildEvent,
}

/// What may happen to a child.
#[derive(Debug)]
pub(super) enum ChildEvent {
    /// It said that it is there.
    Announced(Announcement),
    /// It ended.
    Exited(Exit),
}

/// Starts the child and looks after it until it ends for good. Says whether it stopped in time.
pub(super) async fn supervise(
    mut plan: Plan,
    news: mpsc::Sender<News>,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    loop {
        let mut running = Running::start(&plan)?;
        let exit = tokio::select! {
            exit = running.listen(&mut plan, &news) => exit?,
            () = stop.cancelled() => return running.stop().await,
        };
        let (name, pid, event) = (plan.name.clone(), running.pid, ChildEvent::Exited(exit));
        let _ = news.send(News { name, pid, event }).await;
        let Restart::After(pause) = plan.restart else { return Ok(true) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(true),
        }
    }
}

/// A child that was started.
struct Running {
    pid: u32,
    child: Child,
    /// We hold the other end of the child's standard input, and the system closes it for us even
    /// if we are killed: that tells the child to stop.
    _stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(plan: &Plan) -> anyhow::Result<Self> {
        let log = data::open_log(&plan.log)
            .with_context(|| format!("cannot write the log {}", plan.log.display()))?;
        let mut command = Command::new(&plan.program);
        command.args(&plan.arguments);
        for (flag, port) in &plan.ports {
            command.args([flag.to_string(), port.to_string()]);
        }
        let stderr = if plan.show_log { Stdio::piped() } else { log.try_clone()?.into() };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", plan.program.display()))?;
        let stdin = child.stdin.take().context("the child has no standard input")?;
        let stdout = child.stdout.take().context("the child has no standard output")?;
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(show_log(plan.name.clone(), stderr, log));
        }
        let pid = child.id().context("the child has no process id")?;
        Ok(Self { pid, child, _stdin: stdin, lines: BufReader::new(stdout).lines() })
    }

    /// Passes on what the child says, until it has ended. From then on it keeps its ports.
    async fn listen(&mut self, plan: &mut Plan, news: &mpsc::Sender<News>) -> io::Result<Exit> {
        while let Ok(Some(line)) = self.lines.next_line().await {
            let Some(announcement) = Announcement::parse(&line) else { continue };
            keep_ports(plan, &announcement);
            let event = ChildEvent::Announced(announcement);
            let _ = news.send(News { name: plan.name.clone(), pid: self.pid, event }).await;
        }
        // Its standard output has ended, which only happens when it does.
        self.child.wait().await.map(Exit::from)
    }

    /// Asks the child to stop, and kills it if it does not in time. Says whether it did.
    async fn stop(mut self) -> anyhow::Result<bool> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let Some(pid) = pid else { return Ok(true) };
        kill_process(pid, Signal::TERM).context("cannot stop a child")?;
        if tokio::time::timeout(STOP_WITHIN, self.child.wait()).await.is_ok() {
            return Ok(true);
        }
        self.child.kill().await.context("cannot kill a child")?;
        Ok(false)
    }
}

/// A child that is started again keeps the ports it got: clients and other processes know them.
fn keep_ports(plan: &mut Plan, announcement: &Announcement) {
    plan.ports = match announcement {
        Announcement::Listening(at) => vec![
            ("--client-port", at.client.port()),
            ("--admin-port", at.admin.port()),
            ("--grpc-port", at.grpc.port()),
        ],
        Announcement::Registered(at) => {
            vec![("--port", at.addr.port()), ("--admin-port", at.admin.port())]
        }
    };
}

/// Writes a child's log to its file and, with its name before each line, to standard error.
async fn show_log(name: String, stderr: impl AsyncRead + Unpin, mut log: impl Write) {
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(mut line)) = lines.next_segment().await {
        anstream::eprintln!("{name}: {}", String::from_utf8_lossy(&line));
        line.push(b'\n');
        let _ = log.write_all(&line);
    }
}
