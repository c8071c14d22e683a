//! Seeds that must hold.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::reduce::Omission;
use super::soak::{self, Limits};
use super::{run, run_without};
use crate::logic::mutants::{self, Mutant};

fn text(name: &str) -> Option<String> {
    #[allow(clippy::disallowed_methods, reason = "a test's own switch, no configuration")]
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    text(name)?.parse().ok()
}

#[test]
fn one_seed() {
    let seed = number("HATOKUSE_SEED").unwrap_or(1);
    let with_lines = text("HATOKUSE_TRACE").is_some();
    let omission: Omission = text("HATOKUSE_OMIT").unwrap_or_default().parse().expect("faults");
    let report = run_without(seed, omission, with_lines);
    for line in &report.trace {
        println!("{line}");
    }
    println!("{:?}", report.counts);
    assert_eq!(report.violation, None, "seed {seed}");
}

/// What the run of a seed notices of a mistake, if it holds without.
fn noticed(mutant: Mutant, seed: u64) -> Option<String> {
    let ran = std::panic::catch_unwind(|| mutants::with(Some(mutant), || run(seed, false)));
    let violation = ran.map_or(Some("an assertion failed".into()), |report| report.violation);
    violation.filter(|_| mutants::with(None, || run(seed, false)).violation.is_none())
}

/// The first seed that notices a mistake, and what it noticed.
fn caught(mutant: Mutant, first: u64, seeds: u64) -> Option<(u64, String)> {
    let mut tried = first..first + seeds;
    tried.find_map(|seed| noticed(mutant, seed).map(|violation| (seed, violation)))
}

/// Mistakes that show only where several rare things meet, each with a seed that notices it while the
/// right code holds; where a change of the simulation has moved it, `one_mutant` finds another.
const RARE: [(Mutant, u64); 14] = [
    (Mutant::ServedUnconfirmed, 267),
    (Mutant::UncleanReadAtOnce, 196),
    (Mutant::UncleanAcknowledgements, 19),
    (Mutant::PossibleLossAnswers, 989),
    (Mutant::ForgottenMember, 99),
    (Mutant::EarlyBase, 82),
    (Mutant::AnyEpoch, 28),
    (Mutant::UnpeeredCounts, 445),
    (Mutant::EarlyWatermark, 186),
    (Mutant::KeptRecords, 967),
    (Mutant::KeptAcknowledgements, 114),
    (Mutant::MissingMerged, 224),
    (Mutant::FloorWhileFilling, 234),
    (Mutant::FloorInDoubt, 96),
];

/// Mistakes that are rarer still, and have a script instead of a seed: the partition's own test
/// `what_a_copy_said_is_recalled_unless_something_settled_meanwhile`, and
/// `below_a_garbage_floor_absence_is_a_delete` of the comparison, make them.
const SCRIPTED: [Mutant; 3] =
    [Mutant::OverwritingRead, Mutant::ComparingRead, Mutant::AbsenceKeeps];

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
    let seeds = number("HATOKUSE_SEEDS").unwrap_or(100);
    let is_rare = |mutant: &Mutant| RARE.iter().any(|(rare, _)| rare == mutant);
    let common: Vec<(Mutant, u64)> = Mutant::ALL
        .into_iter()
        .filter(|mutant| !is_rare(mutant) && !HARMLESS.contains(mutant))
        .filter(|mutant| !SCRIPTED.contains(mutant))
        .map(|mutant| (mutant, 1))
        .collect();
    assert_eq!(missed(&common, seeds), []);
}

#[test]
fn rare_mutants_are_caught() {
    let seeds = number("HATOKUSE_SEEDS").unwrap_or(3_000);
    assert_eq!(missed(&RARE, seeds), []);
}

#[test]
#[ignore = "finds the seeds that notice HATOKUSE_MUTANT, for the list of rare ones"]
fn one_mutant() {
    let name = text("HATOKUSE_MUTANT").unwrap_or_default();
    let mutant = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name);
    let mutant = mutant.expect("HATOKUSE_MUTANT names a mistake");
    let first = number("HATOKUSE_FIRST").unwrap_or(1);
    for seed in first..first + number("HATOKUSE_SEEDS").unwrap_or(1_000) {
        if let Some(violation) = noticed(mutant, seed) {
            println!("{mutant:?}: seed {seed}: {violation}");
        }
    }
}

#[test]
fn many_seeds() {
    let seeds = number("HATOKUSE_SEEDS").unwrap_or(300);
    let first = number("HATOKUSE_FIRST").unwrap_or(1);
    soak::run(Limits { first, seeds, hours: 0 }, None);
}

/// Without `HATOKUSE_SEEDS` and `HATOKUSE_HOURS`, which are both to be reached, it runs until it is
/// told to stop.
#[test]
#[ignore = "takes as long as it is told to: `just soak`"]
fn soak() {
    let limits = Limits {
        first: number("HATOKUSE_FIRST").unwrap_or(1),
        seeds: number("HATOKUSE_SEEDS").unwrap_or(u64::MAX),
        hours: number("HATOKUSE_HOURS").unwrap_or(0),
    };
    let failures = concat!(env!("CARGO_MANIFEST_DIR"), "/target/failing-seeds.txt");
    soak::run(limits, Some(failures.as_ref()));
}

#[test]
fn a_failing_run_is_cut_down_to_what_matters() {
    let (reduced, left) = mutants::with(Some(Mutant::RemovedInMemory), || {
        let fails = |seed: &u64| run(*seed, false).violation.is_some();
        let seed = (1..1_000).find(fails).expect("a seed fails");
        let omission = soak::reduce(seed);
        (run(seed, false), run_without(seed, omission, false))
    });
    assert!(left.violation.is_some());
    assert!(left.faults.len() * 2 < reduced.faults.len() + 2, "{:?}", left.faults);
}

#[test]
fn a_seed_is_a_run() {
    assert_eq!(run(3, false).hash, run(3, true).hash);
    assert_ne!(run(3, false).hash, run(4, false).hash);
}
