//! Processes that end with the load test, however that ends, and directories for their data.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

/// How long a process may take until it says or does what is waited for.
const PATIENCE: Duration = Duration::from_mins(1);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// How much of a log is shown if something goes wrong.
const LOG_LINES: usize = 12;
/// Where data goes: beside what was built, hence on a disk.
const DATA: &str = env!("CARGO_TARGET_TMPDIR");
/// `f_type` of a file system in memory.
const TMPFS: i64 = 0x0102_1994;

/// Runs a program in the background, says its process id, and kills it when the standard input of
/// the shell ends: that happens even if the load test is killed.
const GUARD: &str =
    r#""$@" </dev/null >"$0" 2>&1 & echo $!; read -r _; kill -9 $! 2>/dev/null; wait"#;

/// A directory that is removed at the end.
pub(super) fn directory() -> anyhow::Result<TempDir> {
    let builder = tempfile::Builder::new().prefix("load-").tempdir_in(DATA);
    builder.with_context(|| format!("cannot make a directory in {DATA}"))
}

/// Whether data lies in memory rather than on a disk.
pub(super) fn in_memory() -> bool {
    rustix::fs::statfs(DATA).is_ok_and(|stat| stat.f_type == TMPFS)
}

/// Ports on this machine that nobody uses.
pub(super) fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    // All are held until all are known: so they differ.
    let held: Vec<_> =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let ports = held.iter().map(|port| Ok(port.local_addr()?.port()));
    let ports: Vec<_> = ports.collect::<std::io::Result<_>>()?;
    ports.try_into().map_err(|_| anyhow::anyhow!("no free ports"))
}

/// This machine at a port.
pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A process.
pub(super) struct Running {
    child: Child,
    pid: u32,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Running {
    /// Starts a program of ours, which ends itself when its standard input does.
    pub(super) fn start(program: &str, arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
        let stderr = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command.args(arguments).stderr(stderr);
        let mut running = Self::spawn(command, log)?;
        running.pid = running.child.id();
        Ok(running)
    }

    /// Starts any program.
    pub(super) fn guarded(program: &str, arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", GUARD]).arg(log).arg(program).args(arguments).stderr(Stdio::null());
        let mut running = Self::spawn(command, log)?;
        running.pid = running.line()?.trim().parse()?;
        Ok(running)
    }

    /// In a group of its own, so that a Ctrl-C reaches us alone.
    fn spawn(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt;

        let directory = log.parent().context("a log lies in a directory")?;
        command
            .current_dir(directory)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, pid: 0, lines, log: log.to_owned() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// The next line it prints.
    pub(super) fn line(&self) -> anyhow::Result<String> {
        let line = self.lines.recv_timeout(PATIENCE);
        line.with_context(|| format!("a process said nothing; its log:\n{}", self.log()))
    }

    /// The end of its log.
    pub(super) fn log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.id() == self.pid {
            let _ = self.child.kill();
        }
        // A guard kills whom it guards now.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Waits until something is found, and says what is missing if that takes too long.
pub(super) async fn eventually<T>(
    process: &Running,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut last = None;
    let looking = async {
        loop {
            match look().await {
                Ok(found) => return found,
                Err(missing) => last = Some(missing),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    if let Ok(found) = tokio::time::timeout(PATIENCE, looking).await {
        return Ok(found);
    }
    let missing = last.unwrap_or_else(|| anyhow::anyhow!("no answer"));
    bail!("not ready after {PATIENCE:?}: {missing:#}; its log:\n{}", process.log())
}

/// The sum of all samples of a metric with this name, labels aside.
pub(super) fn metric(text: &str, name: &str) -> Option<u64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = if rest.starts_with('{') { rest.split_once('}')?.1 } else { rest };
        rest.strip_prefix(' ')?.trim().parse::<f64>().ok()
    };
    let values: Vec<f64> = text.lines().filter_map(value).collect();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
}
