//! `chaos`: tries whether a cluster keeps its promises while it is hurt.
//!
//! A checked load ([`crate::chaos`]) runs on a cluster while faults are made: on a `dev` of its own
//! ([`own`]), whose processes are killed and frozen, or on the user's cluster, which only the
//! user's own commands hurt. At the end there is a verdict, and the exit code says it.
//!
//! What it guarantees:
//!
//! * Exit code 0 only if the history was judged whole and nothing was found wrong: a run that could
//!   not write anything, a key that could not be read back, or a process that ended though nobody
//!   had killed it, is no success.
//! * A cluster that holds keys is not touched unless `--production` says so. The load's own keys
//!   have a prefix that nothing else has, and are deleted at the end.
//! * What was found can be looked at: the history is kept, and the data of the own cluster with its
//!   logs. Otherwise nothing remains.
//! * The same seed makes the same faults in the same order. When exactly they meet the load is the
//!   operating system's choice.

mod arguments;
mod faults;
mod own;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::arguments::Global;
use super::output::{Outcome, Output};
use crate::chaos::{Load, Options, Recorded, Verdict, file, judge};
use crate::client::FileRow;
use crate::runtime::clock;
use crate::runtime::signals::Terminations;
use faults::{Diary, Made, Source};
use own::OwnCluster;
use report::Report;

pub(super) use arguments::{ChaosArguments, EXAMPLES};

use arguments::Fault;

/// How often it is said how it goes.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Nodes tell now and then how many records they hold: after a run has deleted its keys, it takes a
/// moment until that is known. So often, and with such pauses, it is asked again.
const COUNT_LOOKS: usize = 12;
const COUNT_PAUSE: Duration = Duration::from_millis(250);

pub(super) async fn run(
    global: &Global,
    output: &mut Output,
    arguments: &ChaosArguments,
) -> anyhow::Result<Outcome> {
    if let Some(path) = &arguments.check {
        return check(output, path);
    }
    if let Some(wrong) = misuse(global, arguments) {
        anstream::eprintln!("error: {wrong}");
        return Ok(Outcome::Misused);
    }
    let mut ends = Terminations::listen().context("cannot listen to signals")?;
    let seed =
        arguments.seed.unwrap_or_else(|| clock::wall_milliseconds().unsigned_abs() % 1_000_000);
    if global.addr.is_none() {
        let started = tokio::select! {
            started = OwnCluster::start(global, arguments) => started,
            _ = ends.next() => anyhow::bail!("ended before the cluster was ready"),
        };
        let cluster = started?;
        let tried = on_own_cluster(&cluster, arguments, seed, &mut ends, output).await;
        let keep = matches!(tried, Ok(Outcome::Failed));
        if keep {
            anstream::eprintln!("its data and logs are kept in {}", cluster.directory().display());
        }
        cluster.stop(keep).await;
        return tried;
    }
    refuse_strangers(global, arguments).await?;
    let mut options = options(global.client_addr(), arguments, seed);
    options.delete_keys = true;
    anstream::eprintln!(
        "seed {seed}; {} s on {}, keys {}...",
        arguments.seconds,
        global.client_addr(),
        options.prefix
    );
    let source = match arguments.fault.as_slice() {
        [] => Source::Nobody,
        commands => Source::Commands(commands),
    };
    if matches!(source, Source::Nobody) {
        anstream::eprintln!("no --fault is given: make faults yourself now, as you like");
    }
    let ran = load_and_hurt(options, &source, arguments, seed, &mut ends).await?;
    ran.tell(output, arguments, seed, &[])
}

/// What cannot go together, in words.
fn misuse(global: &Global, arguments: &ChaosArguments) -> Option<String> {
    let own =
        arguments.nodes.is_some() || arguments.tolerance.is_some() || !arguments.faults.is_empty();
    let theirs = arguments.production || !arguments.fault.is_empty();
    if global.addr.is_some() && own {
        let why = "--nodes, --tolerance and --faults are for a cluster of its own; in yours, faults \
                   are made by --fault 'COMMAND', or by you (leave out --addr, and HATOKUSE_ADDR in \
                   the environment, for a cluster of its own)";
        return Some(why.to_owned());
    }
    if global.addr.is_none() && theirs {
        let why = "--fault and --production are for your cluster: name its leader with --addr \
                   HOST:PORT (a cluster of its own is hurt by --faults)";
        return Some(why.to_owned());
    }
    None
}

/// A cluster that is in use is not touched by mistake.
async fn refuse_strangers(global: &Global, arguments: &ChaosArguments) -> anyhow::Result<()> {
    let mut client = super::client(global);
    let mut files = client.files().await?;
    if arguments.production {
        return Ok(());
    }
    let count = |files: &[FileRow]| -> u64 { files.iter().map(|row| row.records).sum() };
    for _ in 0..COUNT_LOOKS {
        if count(&files) == 0 {
            break;
        }
        sleep(COUNT_PAUSE).await;
        files = client.files().await?;
    }
    let records = count(&files);
    anyhow::ensure!(
        records == 0,
        "the cluster at {} holds keys ({records} records on {} nodes). The load leaves them alone, \
         but takes its share of the cluster, and your faults hurt everybody: say --production if \
         that is what you want",
        global.client_addr(),
        files.len()
    );
    anyhow::ensure!(
        !files.is_empty(),
        "the cluster at {} has no live node, so that nobody can say whether it holds keys: start \
         its nodes, or say --production",
        global.client_addr()
    );
    Ok(())
}

fn options(address: &str, arguments: &ChaosArguments, seed: u64) -> Options {
    Options {
        clients: arguments.clients.get(),
        keys: arguments.keys.get(),
        pace: arguments.pace,
        duration: Some(Duration::from_secs(arguments.seconds.get())),
        seed,
        history: arguments.history.clone(),
        ..Options::new(address)
    }
}

async fn on_own_cluster(
    cluster: &OwnCluster,
    arguments: &ChaosArguments,
    seed: u64,
    ends: &mut Terminations,
    output: &mut Output,
) -> anyhow::Result<Outcome> {
    let faults = match arguments.faults.as_slice() {
        [] => Fault::value_variants().to_vec(),
        some => some.to_vec(),
    };
    anstream::eprintln!(
        "seed {seed}; {} s on a cluster of {} nodes at {}, in {}",
        arguments.seconds,
        cluster.nodes().len(),
        cluster.address(),
        cluster.directory().display()
    );
    let options = options(cluster.address(), arguments, seed);
    let source = Source::Own(cluster, faults);
    let ran = load_and_hurt(options, &source, arguments, seed, ends).await?;
    ran.tell(output, arguments, seed, &cluster.crashes())
}

/// A run that is over.
struct Ran {
    recorded: Recorded,
    faults: Vec<Made>,
    verdict: Verdict,
}

async fn load_and_hurt(
    options: Options,
    source: &Source<'_>,
    arguments: &ChaosArguments,
    seed: u64,
    ends: &mut Terminations,
) -> anyhow::Result<Ran> {
    let shown = options.history.clone().unwrap_or_default();
    let load = Load::start(options)
        .with_context(|| format!("cannot write the history {}", shown.display()))?;
    let diary = Diary::new(load.stalls().begun);
    let every = Duration::from_secs(arguments.every.get());
    let stop = CancellationToken::new();
    let mut hurting = std::pin::pin!(faults::make(source, every, seed, &diary, &stop));
    tokio::select! {
        () = load.finished() => {}
        _ = ends.next() => anstream::eprintln!("ending early; once more ends at once"),
        () = &mut hurting => {}
        () = tell_progress(&load, &diary) => {}
    }
    stop.cancel();
    if matches!(source, Source::Commands(_))
        && let Some(fault) = diary.under_way()
    {
        anstream::eprintln!("waiting for the end of: {fault}");
    }
    tokio::select! {
        () = &mut hurting => {}
        _ = ends.next() => anyhow::bail!("ended while a fault was being made: no verdict"),
    }
    anstream::eprintln!("reading every key back");
    let recorded = tokio::select! {
        recorded = load.stop() => recorded,
        _ = ends.next() => anyhow::bail!("ended before every key was read back: no verdict"),
    };
    let verdict = recorded.judge();
    Ok(Ran { recorded, faults: diary.made(), verdict })
}

/// Says every few seconds how it goes.
async fn tell_progress(load: &Load, diary: &Diary) {
    let mut ticks = interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await;
    let mut before = load.counts();
    let mut at = clock::now();
    loop {
        ticks.tick().await;
        let (counts, now) = (load.counts(), clock::now());
        let done = counts.reads + counts.writes - before.reads - before.writes;
        let millis = u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = done.saturating_mul(1000) / millis;
        let fault = diary.under_way().map(|fault| format!("; {fault}")).unwrap_or_default();
        anstream::eprintln!(
            "{}: {} operations, {rate}/s; {} refused, {} open{fault}",
            diary.time(),
            counts.operations,
            counts.refused,
            counts.open
        );
        (before, at) = (counts, now);
    }
}

impl Ran {
    /// Says what was found, and keeps it if it is worth it.
    fn tell(
        self,
        output: &mut Output,
        arguments: &ChaosArguments,
        seed: u64,
        crashes: &[String],
    ) -> anyhow::Result<Outcome> {
        let Self { recorded, faults, verdict } = self;
        let report = Report::new(seed, &recorded, &verdict, &faults, crashes);
        output.result(&report, &report)?;
        if recorded.undeleted > 0 {
            anstream::eprintln!("warning: {} keys could not be deleted", recorded.undeleted);
        }
        if let Some(error) = &recorded.file_error {
            anstream::eprintln!("warning: the history could not be written: {error}");
        }
        if report.passed {
            let whole = recorded.file_error.is_none();
            return Ok(if whole { Outcome::Done } else { Outcome::Failed });
        }
        let written = arguments.history.clone().filter(|_| recorded.file_error.is_none());
        let path = match written {
            Some(path) => path,
            None => keep(&recorded, seed)?,
        };
        let path = path.display();
        anstream::eprintln!("the history is kept in {path}; to judge it again:");
        anstream::eprintln!("  hatokuse chaos --check '{path}'");
        Ok(Outcome::Failed)
    }
}

/// Writes down what is left of a history, where it is found again.
fn keep(recorded: &Recorded, seed: u64) -> anyhow::Result<PathBuf> {
    let name = format!("hatokuse-chaos-{seed}.history");
    let here = PathBuf::from(&name);
    if file::write(&here, &recorded.history).is_ok() {
        return Ok(here);
    }
    let elsewhere = std::env::temp_dir().join(name);
    file::write(&elsewhere, &recorded.history)
        .with_context(|| format!("cannot keep the history in {}", elsewhere.display()))?;
    Ok(elsewhere)
}

/// A verdict, as JSON.
#[derive(Serialize)]
struct Checked {
    passed: bool,
    operations: u64,
    keys: u64,
    lost: usize,
    stale: usize,
    undone: usize,
    otherwise_wrong: usize,
    wrong: Vec<String>,
}

/// Judges a history that was kept.
fn check(output: &mut Output, path: &Path) -> anyhow::Result<Outcome> {
    let history = file::read(path).with_context(|| format!("cannot judge {}", path.display()))?;
    let verdict = judge(&history);
    let checked = Checked {
        passed: verdict.passed(),
        operations: verdict.operations,
        keys: verdict.keys,
        lost: verdict.lost(),
        stale: verdict.stale(),
        undone: verdict.undone(),
        otherwise_wrong: verdict.otherwise(),
        wrong: verdict.findings.iter().map(ToString::to_string).collect(),
    };
    output.result(&verdict, &checked)?;
    Ok(if checked.passed { Outcome::Done } else { Outcome::Failed })
}
