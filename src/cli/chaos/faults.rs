//! Faults, one after the other: which, when and to whom follows from the seed.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::arguments::Fault;
use super::own::OwnCluster;
use crate::chaos::Random;
use crate::runtime::clock;
use crate::types::Moment;

/// The shortest and longest time for which a process is frozen, in milliseconds.
const PAUSES: (u64, u64) = (500, 15_000);

/// A fault that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Made {
    /// What kind of fault it was: its name, or the command.
    pub(super) fault: String,
    /// When it began.
    pub(super) from: Moment,
    /// When it was mended, as far as that is up to us; nothing while it lasts.
    pub(super) to: Option<Moment>,
    /// Why it was none.
    pub(super) failure: Option<String>,
}

/// The faults of a run, as they are made.
#[derive(Clone, Debug)]
pub(super) struct Diary {
    begun: Moment,
    made: Arc<Mutex<Vec<Made>>>,
}

impl Diary {
    /// No faults yet, of a run that began then.
    pub(super) fn new(begun: Moment) -> Self {
        Self { begun, made: Arc::default() }
    }

    /// How long the run has been going on, for people.
    pub(super) fn time(&self) -> String {
        format!("{:5.1} s", clock::now().since(self.begun).as_secs_f64())
    }

    /// The faults up to now.
    pub(super) fn made(&self) -> Vec<Made> {
        self.made.lock().clone()
    }

    /// The fault that lasts.
    pub(super) fn under_way(&self) -> Option<String> {
        let made = self.made.lock();
        made.last().filter(|made| made.to.is_none()).map(|made| made.fault.clone())
    }

    fn begin(&self, fault: String) {
        let from = clock::now();
        self.made.lock().push(Made { fault, from, to: None, failure: None });
    }

    fn end(&self, failure: Option<String>) {
        if let Some(made) = self.made.lock().last_mut() {
            made.to = Some(clock::now());
            made.failure = failure;
        }
    }
}

/// Where faults come from.
#[derive(Debug)]
pub(super) enum Source<'a> {
    /// The processes of our own cluster are hurt.
    Own(&'a OwnCluster, Vec<Fault>),
    /// The user's commands are run.
    Commands(&'a [String]),
    /// The user makes them.
    Nobody,
}

/// Makes faults until it is told to stop. What is frozen then is thawed; a command of the user that
/// runs is waited for, since it may be about to mend what it did.
pub(super) async fn make(
    source: &Source<'_>,
    every: Duration,
    seed: u64,
    diary: &Diary,
    stop: &CancellationToken,
) {
    let mut random = Random::new(seed);
    let mut pause = around(every, &mut random);
    while stop.run_until_cancelled(sleep(pause)).await.is_some() {
        match source {
            Source::Own(cluster, faults) => {
                if let Some(fault) = random.pick(faults).copied() {
                    hurt(cluster, fault, &mut random, diary, stop).await;
                }
            }
            Source::Commands(commands) => {
                if let Some(command) = random.pick(commands) {
                    run(command, diary).await;
                }
            }
            Source::Nobody => {}
        }
        pause = around(every, &mut random);
    }
}

/// Half as long to one and a half times as long.
fn around(every: Duration, random: &mut Random) -> Duration {
    let millis = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis / 2 + random.below(millis))
}

async fn hurt(
    cluster: &OwnCluster,
    fault: Fault,
    random: &mut Random,
    diary: &Diary,
    stop: &CancellationToken,
) {
    let nodes = cluster.nodes();
    let node = random.pick(&nodes).cloned();
    let leader = cluster.leader().map(|pid| ("leader".to_owned(), pid));
    let pause = Duration::from_millis(PAUSES.0 + random.below(PAUSES.1 - PAUSES.0 + 1));
    let victims: Vec<(String, u32)> = match fault {
        Fault::KillNode | Fault::PauseNode => node.into_iter().collect(),
        Fault::KillLeader | Fault::PauseLeader => leader.into_iter().collect(),
        Fault::KillAll => nodes.into_iter().chain(leader).collect(),
    };
    // What was killed before is not back yet: there is nothing to hurt.
    let Some((name, _)) = victims.first() else { return };
    diary.begin(fault.name().to_owned());
    match fault {
        Fault::KillNode | Fault::KillLeader | Fault::KillAll => {
            let whom = if fault == Fault::KillAll { "everything" } else { name };
            anstream::eprintln!("{}: kill -9 of {}", diary.time(), called(whom));
            send(cluster, &victims, Signal::KILL);
        }
        Fault::PauseNode | Fault::PauseLeader => {
            let (time, seconds) = (diary.time(), pause.as_secs_f64());
            anstream::eprintln!("{time}: {} frozen for {seconds:.1} s", called(name));
            send(cluster, &victims, Signal::STOP);
            let _ = stop.run_until_cancelled(sleep(pause)).await;
            send(cluster, &victims, Signal::CONT);
        }
    }
    diary.end(None);
}

fn send(cluster: &OwnCluster, victims: &[(String, u32)], signal: Signal) {
    for (_, pid) in victims {
        cluster.send(*pid, signal);
    }
}

/// A process as people call it.
fn called(name: &str) -> String {
    match name {
        "leader" => "the leader".to_owned(),
        "everything" => name.to_owned(),
        slot => format!("the node in slot {slot}"),
    }
}

/// Runs a command of the user. What it prints goes to standard error.
async fn run(command: &str, diary: &Diary) {
    anstream::eprintln!("{}: {command}", diary.time());
    diary.begin(command.to_owned());
    let mut shell = Command::new("sh");
    // In a group of its own: Ctrl-C must not keep it from mending what it did.
    shell.args(["-c", command]).stdin(Stdio::null()).process_group(0);
    shell.stdout(io::stderr()).stderr(io::stderr());
    let failure = match shell.status().await {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("`{command}` ended with {status}")),
        Err(error) => Some(format!("`{command}` could not be run: {error}")),
    };
    if let Some(failure) = &failure {
        anstream::eprintln!("warning: {failure}");
    }
    diary.end(failure);
}
