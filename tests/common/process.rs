//! One process of a cluster.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, eventually};

/// How much of a log is shown when a test fails.
const LOG_LINES: usize = 12;

/// A process of ours that prints the lines of the contract.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts the binary in this directory. Its log is appended to this file.
    pub(crate) fn start(arguments: &[&str], directory: &Path, log: &Path) -> Self {
        Self::start_with(arguments, &[], directory, log)
    }

    /// As [`Self::start`], with these in its environment.
    pub(crate) fn start_with(
        arguments: &[&str],
        variables: &[(&str, &str)],
        directory: &Path,
        log: &Path,
    ) -> Self {
        let stderr = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hatokuse"));
        let mut child = command
            .args(arguments)
            .current_dir(directory)
            .env("HATOKUSE_STORAGE__SEGMENT_BYTES", "16MiB")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines, log: log.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it prints.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).unwrap_or_else(|error| {
            panic!("no line from process {} ({error}); its log:\n{}", self.pid(), self.log())
        })
    }

    /// The next line that begins with this word, and its fields.
    pub(crate) fn announcement(&self, word: &str) -> Fields {
        loop {
            let line = self.line();
            if let Some(rest) = line.strip_prefix(word).and_then(|rest| rest.strip_prefix(' ')) {
                return Fields(rest.to_owned());
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Kills it, as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let pid = self.pid();
        let ended = || self.child.try_wait().unwrap().ok_or("it runs");
        eventually(&format!("the end of process {pid}"), ended)
    }

    /// The end of its log.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("--- {}\n{}", self.log.display(), self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process.
pub(crate) fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// The fields `name=value` of a line.
#[derive(Clone, Debug)]
pub(crate) struct Fields(pub(crate) String);

impl Fields {
    /// The value of a field, in the form that is asked for.
    pub(crate) fn get<T: std::str::FromStr>(&self, name: &str) -> T {
        let value = self.0.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let value = value.unwrap_or_else(|| panic!("no {name} in `{}`", self.0));
        value.parse().unwrap_or_else(|_| panic!("{name}={value} in `{}` is wrong", self.0))
    }
}
