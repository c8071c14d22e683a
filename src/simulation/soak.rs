//! Many seeds on every core, as long as wanted.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::checks::Counts;
use super::reduce::{self, Omission};
use super::run_without;
use crate::runtime::clock;
use crate::types::Moment;

const HOUR: u64 = 3_600_000_000;
/// So often it says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// How long it goes on: both limits are to be reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The first seed.
    pub(super) first: u64,
    /// So many seeds.
    pub(super) seeds: u64,
    /// So many simulated hours of a cluster.
    pub(super) hours: u64,
}

/// What all threads have come to.
#[derive(Debug)]
struct Progress {
    began: Moment,
    said: Moment,
    seeds: u64,
    counts: Counts,
    failed: Vec<u64>,
}

impl Progress {
    fn say(&mut self) {
        self.said = clock::now();
        let Counts { stored, read, failed, uncertain, time, .. } = self.counts;
        let hours = time / (HOUR / 100);
        println!(
            "{} seeds, {}.{:02} cluster-hours, {} operations checked, {} seeds failed, {} s",
            self.seeds,
            hours / 100,
            hours % 100,
            stored + read + failed + uncertain,
            self.failed.len(),
            self.said.since(self.began).as_secs(),
        );
    }
}

/// Runs seeds until the limits are reached, and panics if any did not hold; each that did not is
/// printed with what repeats it, and appended to a file.
pub(super) fn run(limits: Limits, failures: Option<&Path>) {
    let (began, counts) = (clock::now(), Counts::default());
    let progress =
        Mutex::new(Progress { began, said: began, seeds: 0, counts, failed: Vec::new() });
    let next = AtomicU64::new(limits.first);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let enough = progress.lock().counts.time >= limits.hours * HOUR;
            if seed - limits.first >= limits.seeds && enough {
                return;
            }
            let (counts, failed) = run_one(seed, failures);
            let mut progress = progress.lock();
            progress.seeds += 1;
            progress.counts.add(&counts);
            progress.failed.extend(failed.then_some(seed));
            if clock::now().since(progress.said) > PROGRESS {
                progress.say();
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut progress = progress.into_inner();
    progress.say();
    println!("{:?}", progress.counts);
    assert!(progress.failed.is_empty(), "seeds {:?} failed", progress.failed);
}

/// Runs a seed. Says what it came to, and whether it failed.
fn run_one(seed: u64, failures: Option<&Path>) -> (Counts, bool) {
    let Ok(report) = std::panic::catch_unwind(|| super::run(seed, false)) else {
        tell(seed, "an assertion failed", &Omission::default(), failures);
        return (Counts::default(), true);
    };
    if let Some(violation) = &report.violation {
        tell(seed, violation, &reduce(seed), failures);
    }
    (report.counts, report.violation.is_some())
}

/// Prints what repeats a failing run, whole and cut down.
fn tell(seed: u64, violation: &str, omission: &Omission, failures: Option<&Path>) {
    let command = "cargo test --lib simulation::tests::one_seed -- --nocapture";
    println!(
        "seed {seed}: {violation}\nto repeat it: HATOKUSE_SEED={seed} HATOKUSE_TRACE=1 {command}\n\
         with the faults that matter: HATOKUSE_SEED={seed} HATOKUSE_TRACE=1 \
         HATOKUSE_OMIT={omission} {command}"
    );
    let Some(path) = failures else { return };
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| writeln!(file, "{seed} HATOKUSE_OMIT={omission} {violation}"));
    if let Err(error) = written {
        println!("could not write {}: {error}", path.display());
    }
}

/// What can be left out of the run of a seed that fails, so that it still does.
pub(super) fn reduce(seed: u64) -> Omission {
    reduce::reduce(|omission| {
        let report = run_without(seed, omission.clone(), false);
        report.violation.map(|_| report.faults)
    })
}
