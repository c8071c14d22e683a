//! Seeds that must hold.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::checks::Counts;
use super::{Report, run};
use crate::logic::mutants::{self, Mutant};

fn environment(name: &str) -> Option<u64> {
    #[allow(clippy::disallowed_methods, reason = "a test's own switch, no configuration")]
    let value = std::env::var(name).ok()?;
    value.parse().ok()
}

#[track_caller]
fn must_hold(seed: u64, report: &Report) {
    if let Some(violation) = &report.violation {
        for line in &report.trace {
            println!("{line}");
        }
        panic!(
            "seed {seed}: {violation}\nto repeat it: HATOKUSE_SEED={seed} HATOKUSE_TRACE=1 cargo \
             test --lib simulation::tests::one_seed -- --nocapture"
        );
    }
}

#[test]
fn one_seed() {
    let seed = environment("HATOKUSE_SEED").unwrap_or(1);
    let with_lines = environment("HATOKUSE_TRACE").is_some();
    let report = run(seed, with_lines);
    for line in &report.trace {
        println!("{line}");
    }
    println!("{:?}", report.counts);
    must_hold(seed, &Report { trace: Vec::new(), ..report });
}

/// Runs seeds on two threads; says which did not hold, and what all of them came to.
fn run_many(first: u64, count: u64) -> (Vec<u64>, Counts) {
    let next = AtomicU64::new(first);
    let work = || {
        let (mut failed, mut counts) = (Vec::new(), Counts::default());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return (failed, counts);
            }
            let report = run(seed, false);
            counts.add(&report.counts);
            if let Some(violation) = report.violation {
                println!("seed {seed}: {violation}");
                failed.push(seed);
            }
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let (mut failed, mut counts) = work();
        let other = other.join().unwrap_or_default();
        failed.extend(other.0);
        counts.add(&other.1);
        (failed, counts)
    })
}

/// The first seed that notices a mistake, and what it noticed.
fn caught(mutant: Mutant, first: u64, seeds: u64) -> Option<(u64, String)> {
    (first..first + seeds).find_map(|seed| {
        let ran = std::panic::catch_unwind(|| mutants::with(Some(mutant), || run(seed, false)));
        let violation = ran.map_or(Some("an assertion failed".into()), |report| report.violation);
        violation.map(|violation| (seed, violation))
    })
}

/// Mistakes that show only where several rare things meet, each with the seed at which it last
/// showed: from there on it is looked for.
const RARE: [(Mutant, u64); 7] = [
    (Mutant::EarlyBase, 18),
    (Mutant::AnyEpoch, 215),
    (Mutant::UnpeeredCounts, 1_432),
    (Mutant::EarlyWatermark, 57),
    (Mutant::KeptRecords, 95),
    (Mutant::KeptAcknowledgements, 751),
    (Mutant::MissingMerged, 577),
];

/// Mistakes that something else makes up for, as far as this simulation goes: messages of one stream
/// keep their order, so no late answer meets a new token; and what a member reports a second time is
/// found to have been replaced when its value is fetched.
const HARMLESS: [Mutant; 2] = [Mutant::AnyToken, Mutant::AnyAttempt];

/// Looks for seeds that notice these mistakes; says which nobody noticed.
fn missed(mutants: &[(Mutant, u64)], seeds: u64) -> Vec<Mutant> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut missed = Vec::new();
        while let Some((mutant, first)) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
            match caught(*mutant, *first, seeds) {
                Some((seed, how)) => println!("{mutant:?}: seed {seed}: {how}"),
                None => missed.push(*mutant),
            }
        }
        missed
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut missed = work();
        missed.extend(other.join().unwrap_or_default());
        missed
    })
}

#[test]
fn mutants_are_caught() {
    let seeds = environment("HATOKUSE_SEEDS").unwrap_or(100);
    let is_rare = |mutant: &Mutant| RARE.iter().any(|(rare, _)| rare == mutant);
    let common: Vec<(Mutant, u64)> = Mutant::ALL
        .into_iter()
        .filter(|mutant| !is_rare(mutant) && !HARMLESS.contains(mutant))
        .map(|mutant| (mutant, 1))
        .collect();
    assert_eq!(missed(&common, seeds), []);
}

#[test]
fn rare_mutants_are_caught() {
    let seeds = environment("HATOKUSE_SEEDS").unwrap_or(3_000);
    assert_eq!(missed(&RARE, seeds), []);
}

#[test]
fn many_seeds() {
    let count = environment("HATOKUSE_SEEDS").unwrap_or(200);
    let first = environment("HATOKUSE_FIRST").unwrap_or(1);
    let (failed, counts) = run_many(first, count);
    println!("{counts:?}");
    assert!(
        failed.is_empty(),
        "seeds {failed:?} failed; to repeat one: HATOKUSE_SEED=n HATOKUSE_TRACE=1 cargo test --lib \
         simulation::tests::one_seed -- --nocapture"
    );
}

#[test]
fn a_seed_is_a_run() {
    assert_eq!(run(3, false).hash, run(3, true).hash);
    assert_ne!(run(3, false).hash, run(4, false).hash);
}
