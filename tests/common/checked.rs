//! A load whose every operation is recorded and judged, and the faults that are made meanwhile.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hatokuse::chaos::{Counts, Load, Options, Recorded, Stalls, Verdict};
use hatokuse::runtime::clock;
use hatokuse::types::Moment;
use tokio::runtime::Runtime;

use super::{Cluster, Numbers, eventually};

/// A run in which fewer operations succeeded has shown nothing.
const FEWEST_OPERATIONS: u64 = 2000;

/// A checked load on a cluster.
///
/// Everything is judged in [`CheckedLoad::finish`]: nothing may be lost, stale or undone. The history
/// lies in a file until that has been found; where a test fails, the file stays and is named.
#[derive(Debug)]
pub(crate) struct CheckedLoad {
    name: String,
    load: Option<Load>,
    history: PathBuf,
    faults: Vec<Fault>,
    runtime: Runtime,
}

/// What was done to the cluster, and when.
#[derive(Debug)]
struct Fault {
    what: String,
    from: Moment,
    to: Moment,
}

/// The number from which everything in a test follows that is chosen at random, but for the order in
/// which processes run: `HATOKUSE_SEED`, or another one each time. It is printed.
#[allow(clippy::disallowed_methods, reason = "a switch of the tests, no configuration")]
pub(crate) fn seed() -> Numbers {
    let set = std::env::var("HATOKUSE_SEED").ok();
    let seed = set.map_or_else(
        || u64::from(std::process::id()) << 8 | clock::now().0 & 0xff,
        |text| text.parse().expect("HATOKUSE_SEED must be a whole number"),
    );
    println!("to choose the same again: HATOKUSE_SEED={seed}");
    Numbers(seed)
}

impl CheckedLoad {
    /// Ten clients on twenty keys of this cluster.
    pub(crate) fn start(name: &str, cluster: &Cluster, numbers: &mut Numbers) -> Self {
        Self::start_with(name, cluster, numbers, |_| ())
    }

    /// As [`Self::start`], with other options.
    pub(crate) fn start_with(
        name: &str,
        cluster: &Cluster,
        numbers: &mut Numbers,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        Self::start_at(name, &cluster.client.to_string(), numbers, change)
    }

    /// As [`Self::start_with`], where the leader has this client port, whoever runs it.
    pub(crate) fn start_at(
        name: &str,
        address: &str,
        numbers: &mut Numbers,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let history = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}.history", std::process::id()));
        let mut options = Options::new(address);
        options.seed = numbers.next();
        options.history = Some(history.clone());
        change(&mut options);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let load = runtime.block_on(async { Load::start(options).unwrap() });
        let name = name.to_owned();
        let load = Self { name, load: Some(load), history, faults: Vec::new(), runtime };
        load.await_writes(200);
        load
    }

    fn counts(&self) -> Counts {
        self.load.as_ref().unwrap().counts()
    }

    /// Waits until so many more writes were acknowledged.
    pub(crate) fn await_writes(&self, more: u64) {
        let before = self.counts().writes;
        eventually("acknowledged writes", || {
            let counts = self.counts();
            if counts.writes >= before + more { Ok(()) } else { Err(counts) }
        });
    }

    /// Does this to the cluster, and writes down when. Returns when it is over.
    pub(crate) fn fault<T>(&mut self, what: impl Into<String>, make: impl FnOnce() -> T) -> T {
        let from = clock::now();
        let result = make();
        self.faults.push(Fault { what: what.into(), from, to: clock::now() });
        result
    }

    /// As [`Self::fault`], while which this many writes have to be acknowledged at least.
    pub(crate) fn fault_with_writes(
        &mut self,
        what: impl Into<String>,
        writes: u64,
        make: impl FnOnce(),
    ) {
        let from = clock::now();
        make();
        self.await_writes(writes);
        self.faults.push(Fault { what: what.into(), from, to: clock::now() });
    }

    /// The cluster is whole again, and takes writes.
    pub(crate) fn await_recovery(&self, cluster: &Cluster) {
        cluster.await_health();
        self.await_writes(200);
    }

    /// Ends the load on a cluster that has to be whole, and has it judged: nothing may be wrong.
    pub(crate) fn finish(mut self, cluster: &Cluster) {
        self.await_recovery(cluster);
        self.pass();
        cluster.await_health();
    }

    /// Ends the load, and has it judged: nothing may be wrong.
    pub(crate) fn pass(&mut self) {
        let (counts, verdict) = self.judge();
        assert!(verdict.passed(), "{verdict}");
        assert!(counts.reads + counts.writes >= FEWEST_OPERATIONS, "{counts:?}");
    }

    /// Ends the load, and has it judged.
    pub(crate) fn judge(&mut self) -> (Counts, Verdict) {
        let recorded = self.runtime.block_on(self.load.take().unwrap().stop());
        let verdict = recorded.judge();
        println!("{}: {verdict}\n{}", self.name, self.report(&recorded));
        assert!(recorded.file_error.is_none(), "{:?}", recorded.file_error);
        (recorded.counts, verdict)
    }

    /// What clients saw, and how long they had to wait. Times are reported, never asserted.
    fn report(&self, recorded: &Recorded) -> String {
        let (counts, stalls) = (&recorded.counts, &recorded.stalls);
        let mut text = format!(
            "  {} writes and {} reads answered, {} refused, {} left open {:?}\n",
            counts.writes, counts.reads, counts.refused, counts.open, counts.errors
        );
        let nexts = self.faults.iter().skip(1).map(|next| next.from).chain([stalls.ended]);
        for (fault, next) in self.faults.iter().zip(nexts) {
            let at = fault.from.since(stalls.begun).as_secs_f64();
            let lasted = fault.to.since(fault.from).as_secs_f64();
            let stall = longest_stall(stalls, fault.from, next);
            let what = &fault.what;
            writeln!(text, "  at {at:5.1} s, for {lasted:4.1} s: {what}: stall {stall}").unwrap();
        }
        let seconds = |gap: hatokuse::chaos::Gap| gap.duration().as_secs_f64();
        write!(
            text,
            "  longest without a write {:.3} s, of one client {:.3} s, longest operation {:.3} s",
            seconds(stalls.longest),
            seconds(stalls.longest_of_a_client),
            seconds(stalls.longest_operation)
        )
        .unwrap();
        text
    }
}

/// The longest time without a write of anybody between two moments, as far as it was measured.
fn longest_stall(stalls: &Stalls, from: Moment, to: Moment) -> String {
    let within = stalls.gaps.iter().map(|gap| gap.within(from, to)).max().unwrap_or_default();
    if within < Duration::from_millis(100) {
        "below 0.1 s".to_owned()
    } else {
        format!("{:.2} s", within.as_secs_f64())
    }
}

impl Drop for CheckedLoad {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_file(&self.history);
            return;
        }
        for fault in &self.faults {
            println!("{:?} to {:?}: {}", fault.from, fault.to, fault.what);
        }
        let history = self.history.display();
        println!("the history is kept: hatokuse chaos --check {history}");
    }
}
