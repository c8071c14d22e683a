//! Cuts a failing run down to the faults that matter.
//!
//! A run meets dozens of faults, and most have nothing to do with what went wrong. What is left out
//! of a run is named by an [`Omission`]: kinds of faults, and single faults by their number. The
//! search is greedy - first kinds, then halves, quarters and single ones of what is left, as in
//! Zeller and Hildebrandt, *Simplifying and Isolating Failure-Inducing Input* (IEEE TSE 28(2), 2002) -
//! and keeps what still fails. A fault left out shifts the chance of all that follows, so the smaller
//! run may fail in another way; it is a failing run all the same, and a shorter read.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::faults::{ALL, Fault};

/// So many runs a reduction may take.
const RUNS: usize = 400;

/// What is left out of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Omission {
    kinds: BTreeSet<Fault>,
    numbers: BTreeSet<u64>,
}

impl Omission {
    /// Whether the fault of this number is left out.
    pub(super) fn covers(&self, fault: Fault, number: u64) -> bool {
        self.kinds.contains(&fault) || self.numbers.contains(&number)
    }

    fn and_kind(&self, kind: Fault) -> Self {
        let mut more = self.clone();
        more.kinds.insert(kind);
        more
    }

    fn and_numbers(&self, numbers: &[u64]) -> Self {
        let mut more = self.clone();
        more.numbers.extend(numbers);
        more
    }
}

impl fmt::Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.kinds.iter().map(|kind| format!("{kind:?}"));
        let numbers = self.numbers.iter().map(u64::to_string);
        f.write_str(&kinds.chain(numbers).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Omission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut omission = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            if let Ok(number) = word.parse() {
                omission.numbers.insert(number);
            } else if let Some(kind) = ALL.into_iter().find(|kind| format!("{kind:?}") == word) {
                omission.kinds.insert(kind);
            } else {
                return Err(format!("{word:?} is neither a number nor one of {ALL:?}"));
            }
        }
        Ok(omission)
    }
}

/// The faults that a run met, by number, if it failed.
pub(super) type Failure = Option<Vec<(u64, Fault)>>;

/// Finds an omission, as large as it can, with which the run still fails; `run` runs it.
pub(super) fn reduce(mut run: impl FnMut(&Omission) -> Failure) -> Omission {
    let mut left_out = Omission::default();
    let Some(mut met) = run(&left_out) else { return left_out };
    let mut runs = 1;
    let mut try_without = |more: Omission, left_out: &mut Omission, met: &mut Vec<_>| {
        runs += 1;
        let failed = (runs <= RUNS).then(|| run(&more)).flatten();
        let smaller = failed.is_some();
        if let Some(still) = failed {
            (*left_out, *met) = (more, still);
        }
        smaller
    };
    for kind in ALL {
        if met.iter().any(|(_, fault)| *fault == kind) {
            let more = left_out.and_kind(kind);
            try_without(more, &mut left_out, &mut met);
        }
    }
    let mut size = met.len().div_ceil(2);
    while size > 0 {
        let mut start = 0;
        while start < met.len() {
            let end = met.len().min(start + size);
            let numbers: Vec<u64> = met[start..end].iter().map(|(number, _)| *number).collect();
            let more = left_out.and_numbers(&numbers);
            if !try_without(more, &mut left_out, &mut met) {
                start = end;
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    left_out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let all: Vec<(u64, Fault)> = (0..40)
            .map(|number| (number, if number % 2 == 0 { Fault::Wipe } else { Fault::NodeCrash }))
            .collect();
        let fails = |left_out: &Omission| {
            let met: Vec<_> =
                all.iter().filter(|(n, f)| !left_out.covers(*f, *n)).copied().collect();
            [7, 23].iter().all(|needed| met.iter().any(|(n, _)| n == needed)).then_some(met)
        };
        let left_out = reduce(fails);
        let left = fails(&left_out).expect("it still fails");
        assert_eq!(left, [(7, Fault::NodeCrash), (23, Fault::NodeCrash)]);
        assert_eq!(left_out.to_string().parse(), Ok(left_out));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let refused = "Wipe,Earthquake".parse::<Omission>();
        assert!(refused.is_err_and(|error| error.contains("Earthquake")));
    }
}
