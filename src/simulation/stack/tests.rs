//! Seeds that must hold.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Report, run};
use crate::runtime::clock;

fn environment(name: &str) -> Option<u64> {
    #[allow(clippy::disallowed_methods, reason = "a test's own switch, no configuration")]
    let value = std::env::var(name).ok()?;
    value.parse().ok()
}

#[track_caller]
fn must_hold(seed: u64, report: &Report) {
    if let Some(violation) = &report.violation {
        panic!(
            "seed {seed}: {}\n{violation}\nto repeat it: HATOKUSE_SEED={seed} HATOKUSE_TIMES=20 cargo \
             test --lib simulation::stack::tests::one_seed -- --nocapture",
            report.trace
        );
    }
}

#[test]
fn one_seed() {
    let seed = environment("HATOKUSE_SEED").unwrap_or(1);
    if environment("HATOKUSE_TRACE").is_some() {
        super::trace::start();
    }
    for _ in 0..environment("HATOKUSE_TIMES").unwrap_or(1) {
        run_one(seed);
    }
}

fn run_one(seed: u64) {
    let began = clock::now();
    let report = run(seed);
    println!("{}", report.trace);
    println!(
        "{} operations in {:?} simulated, {:?}, hash {:x}",
        report.operations,
        report.simulated,
        clock::now().since(began),
        report.hash
    );
    must_hold(seed, &report);
}

#[test]
fn many_seeds() {
    let seeds = environment("HATOKUSE_SEEDS").unwrap_or(50);
    let first = environment("HATOKUSE_FIRST").unwrap_or(1);
    let next = AtomicU64::new(first);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            let began = clock::now();
            let report = run(seed);
            println!(
                "seed {seed}: {} operations in {:?} simulated, {:?}",
                report.operations,
                report.simulated,
                clock::now().since(began)
            );
            must_hold(seed, &report);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
}
