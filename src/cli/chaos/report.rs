//! What a run has shown: for people in a few lines, for programs as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::faults::Made;
use crate::chaos::{Gap, Recorded, Stalls, Verdict};
use crate::types::Moment;

/// All that is known at the end.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether everything was judged and nothing found wrong.
    pub(super) passed: bool,
    seed: u64,
    seconds: f64,
    operations: u64,
    keys: u64,
    answered: u64,
    refused: u64,
    open: u64,
    errors: BTreeMap<String, u64>,
    lost: usize,
    stale: usize,
    undone: usize,
    otherwise_wrong: usize,
    not_read_back: usize,
    /// Everything that is wrong, in words.
    wrong: Vec<String>,
    faults: Vec<FaultRow>,
    longest_without_a_write_seconds: f64,
    longest_without_a_write_of_one_client_seconds: f64,
    longest_operation_seconds: f64,
    operations_per_second: Vec<u32>,
}

/// A fault and what clients saw of it.
#[derive(Debug, Serialize)]
struct FaultRow {
    fault: String,
    /// Since the load began.
    at_seconds: f64,
    lasted_seconds: f64,
    /// The longest time without a write until the next fault.
    longest_without_a_write_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

impl Report {
    /// Puts together what was recorded, what the judge said, which faults there were, and what
    /// ended by itself.
    pub(super) fn new(
        seed: u64,
        recorded: &Recorded,
        verdict: &Verdict,
        faults: &[Made],
        crashes: &[String],
    ) -> Self {
        let (stalls, counts) = (&recorded.stalls, &recorded.counts);
        let mut wrong: Vec<String> = verdict.findings.iter().map(ToString::to_string).collect();
        wrong.extend_from_slice(&verdict.complaints);
        wrong.extend_from_slice(crashes);
        if verdict.unread > 0 {
            wrong.push(format!("{} keys could not be read back at the end", verdict.unread));
        }
        if counts.writes == 0 {
            wrong.push("not one write was acknowledged: nothing was shown".to_owned());
        }
        Self {
            passed: wrong.is_empty() && verdict.passed(),
            seed,
            seconds: length(stalls).as_secs_f64(),
            operations: verdict.operations,
            keys: verdict.keys,
            answered: counts.reads + counts.writes,
            refused: counts.refused,
            open: counts.open,
            errors: counts.errors.clone(),
            lost: verdict.lost(),
            stale: verdict.stale(),
            undone: verdict.undone(),
            otherwise_wrong: verdict.otherwise(),
            not_read_back: verdict.unread,
            wrong,
            faults: rows(stalls, faults),
            longest_without_a_write_seconds: stalls.longest.duration().as_secs_f64(),
            longest_without_a_write_of_one_client_seconds: seconds(stalls.longest_of_a_client),
            longest_operation_seconds: seconds(stalls.longest_operation),
            operations_per_second: stalls.seconds.iter().map(|second| second.answered).collect(),
        }
    }
}

fn seconds(gap: Gap) -> f64 {
    gap.duration().as_secs_f64()
}

fn length(stalls: &Stalls) -> Duration {
    stalls.ended.since(stalls.begun)
}

/// The faults with the stalls that belong to them: each stall to the fault in whose time, until the
/// next one, most of it lies.
fn rows(stalls: &Stalls, faults: &[Made]) -> Vec<FaultRow> {
    let ends = faults.iter().skip(1).map(|next| next.from).chain([Moment(u64::MAX)]);
    let times: Vec<(Moment, Moment)> = faults.iter().map(|made| made.from).zip(ends).collect();
    let mut longest = vec![Duration::ZERO; faults.len()];
    for gap in &stalls.gaps {
        let within = |place: &usize| {
            times.get(*place).map_or(Duration::ZERO, |(from, to)| gap.within(*from, *to))
        };
        let place = (0..times.len()).max_by_key(within).filter(|place| !within(place).is_zero());
        if let Some(stall) = place.and_then(|place| longest.get_mut(place)) {
            *stall = gap.duration().max(*stall);
        }
    }
    let row = |(made, stall): (&Made, Duration)| FaultRow {
        fault: made.fault.clone(),
        at_seconds: made.from.since(stalls.begun).as_secs_f64(),
        lasted_seconds: made.to.unwrap_or(stalls.ended).since(made.from).as_secs_f64(),
        longest_without_a_write_seconds: stall.as_secs_f64(),
        failure: made.failure.clone(),
    };
    faults.iter().zip(longest).map(row).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, seconds, operations, keys, .. } = self;
        writeln!(f, "operations: {operations} on {keys} keys in {seconds:.1} s, seed {seed}")?;
        let Self { answered, refused, open, .. } = self;
        writeln!(f, "answered: {answered}; refused: {refused}; outcome not known: {open}")?;
        for (error, count) in &self.errors {
            writeln!(f, "  {error}: {count}")?;
        }
        self.write_faults(f)?;
        writeln!(
            f,
            "longest without a write: {:.3} s; of one client: {:.3} s; longest operation: {:.3} s",
            self.longest_without_a_write_seconds,
            self.longest_without_a_write_of_one_client_seconds,
            self.longest_operation_seconds
        )?;
        for wrong in &self.wrong {
            writeln!(f, "wrong: {wrong}")?;
        }
        let verdict = if self.passed { "passed" } else { "FAILED" };
        let Self { lost, stale, undone, .. } = self;
        write!(f, "verdict: {verdict}: lost {lost}, stale {stale}, undone {undone}")?;
        match self.otherwise_wrong {
            0 => Ok(()),
            other => write!(f, ", otherwise wrong {other}"),
        }
    }
}

impl Report {
    /// A line for each kind of fault.
    fn write_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.faults.iter().filter(|row| row.failure.is_none());
        let mut kinds: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for row in made.clone() {
            let (count, longest) = kinds.entry(&row.fault).or_default();
            *count += 1;
            *longest = longest.max(row.longest_without_a_write_seconds);
        }
        let failed = self.faults.len() - made.count();
        write!(f, "faults: {}", self.faults.len() - failed)?;
        if failed > 0 {
            write!(f, "; {failed} could not be made")?;
        }
        writeln!(f)?;
        for (kind, (count, longest)) in kinds {
            if longest > 0.0 {
                writeln!(f, "  {kind}: {count}; without a write for {longest:.3} s at most")?;
            } else {
                writeln!(f, "  {kind}: {count}; never without a write for 0.1 s")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_belongs_to_the_fault_it_lies_with() {
        let second = |seconds: u64| Moment(seconds * 1_000_000);
        let gap = |from, to| Gap { from: second(from), to: second(to) };
        let stalls = Stalls {
            begun: second(0),
            ended: second(30),
            gaps: vec![gap(1, 2), gap(9, 13), gap(19, 21), gap(24, 25)],
            ..Stalls::default()
        };
        let made = |fault: &str, from| Made {
            fault: fault.to_owned(),
            from: second(from),
            to: None,
            failure: None,
        };
        let rows = rows(&stalls, &[made("a", 10), made("b", 20), made("c", 28)]);
        let stalls: Vec<_> = rows.iter().map(|row| row.longest_without_a_write_seconds).collect();
        assert_eq!(stalls, [4.0, 2.0, 0.0]);
    }
}
