//! How much was answered, and for how long nothing was.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::logic::history::{Kind, Outcome};
use crate::types::Moment;

/// A gap between writes that is remembered by itself is at least so long.
const NOTABLE: Duration = Duration::from_millis(100);
/// How many gaps are remembered by themselves.
const MAX_GAPS: usize = 100_000;
/// How many seconds are counted one by one: more than a week.
const MAX_SECONDS: usize = 1_000_000;

/// A time in which something did not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// From when.
    pub from: Moment,
    /// Until when.
    pub to: Moment,
}

impl Gap {
    /// How long it was.
    pub fn duration(&self) -> Duration {
        self.to.since(self.from)
    }

    /// How much of it lies within another time.
    pub fn within(&self, from: Moment, to: Moment) -> Duration {
        self.to.min(to).since(self.from.max(from))
    }

    fn keep_longest(&mut self, other: Self) {
        if other.duration() > self.duration() {
            *self = other;
        }
    }
}

/// What was answered within one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Requests that were carried out.
    pub answered: u32,
    /// Requests that were refused, or whose outcome is open.
    pub failed: u32,
}

/// For how long nothing was answered, and how much was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    /// When the load began.
    pub begun: Moment,
    /// When it ended, or when it was asked how it goes.
    pub ended: Moment,
    /// The longest time in which no write of anybody succeeded.
    pub longest: Gap,
    /// The longest time in which no write of one client succeeded, though it asked for other things
    /// as well.
    pub longest_of_a_client: Gap,
    /// The operation that took longest, answered or given up.
    pub longest_operation: Gap,
    /// Each time of 100 ms and more in which no write of anybody succeeded, in order.
    pub gaps: Vec<Gap>,
    /// What was answered in each second since the beginning.
    pub seconds: Vec<Second>,
}

/// How many operations came to which end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All that were recorded.
    pub operations: u64,
    /// Reads that were answered, with a value or with `NOT_FOUND`.
    pub reads: u64,
    /// Writes that were acknowledged, and updates of keys that did not exist.
    pub writes: u64,
    /// Definite errors: they had no effect.
    pub refused: u64,
    /// Writes whose outcome is open, and reads that were not answered.
    pub open: u64,
    /// Attempts to connect in vain; nothing was sent.
    pub unconnected: u64,
    /// Errors by their code.
    pub errors: BTreeMap<String, u64>,
}

/// Measures while the load runs.
#[derive(Debug)]
pub(super) struct Meter {
    stalls: Stalls,
    counts: Counts,
    /// When a write of anybody succeeded last, and of each client.
    last: Moment,
    last_of: Vec<Moment>,
    /// When the load ended; what comes later is counted, but no measure of anything.
    ended: Option<Moment>,
}

impl Meter {
    pub(super) fn new(clients: usize, now: Moment) -> Self {
        let stalls = Stalls { begun: now, ..Stalls::default() };
        Self {
            stalls,
            counts: Counts::default(),
            last: now,
            last_of: vec![now; clients],
            ended: None,
        }
    }

    /// An operation has come to its end.
    pub(super) fn record(&mut self, client: u32, kind: &Kind, times: Gap, outcome: &Outcome) {
        self.counts.operations += 1;
        let count = match outcome {
            Outcome::Failed => &mut self.counts.refused,
            Outcome::Uncertain | Outcome::Pending => &mut self.counts.open,
            _ if *kind == Kind::Get => &mut self.counts.reads,
            _ => &mut self.counts.writes,
        };
        *count += 1;
        if self.ended.is_some_and(|ended| times.from >= ended) {
            return;
        }
        self.stalls.longest_operation.keep_longest(times);
        let answered = !matches!(outcome, Outcome::Failed | Outcome::Uncertain | Outcome::Pending);
        self.count_second(times.to, answered);
        if answered && *kind != Kind::Get {
            self.succeed(client, times.to);
        }
    }

    pub(super) fn record_error(&mut self, code: &str) {
        match self.counts.errors.get_mut(code) {
            Some(count) => *count += 1,
            None => drop(self.counts.errors.insert(code.to_owned(), 1)),
        }
    }

    pub(super) fn record_unconnected(&mut self) {
        self.counts.unconnected += 1;
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The load has ended, if it had not before.
    pub(super) fn end(&mut self, now: Moment) {
        self.ended.get_or_insert(now);
    }

    /// What was measured up to now: a time in which nothing succeeds ends here.
    pub(super) fn stalls(&self, now: Moment) -> Stalls {
        let mut stalls = self.stalls.clone();
        let now = self.ended.unwrap_or(now);
        stalls.ended = now;
        note(&mut stalls, Gap { from: self.last, to: now });
        for last in &self.last_of {
            stalls.longest_of_a_client.keep_longest(Gap { from: *last, to: now });
        }
        stalls
    }

    fn succeed(&mut self, client: u32, now: Moment) {
        note(&mut self.stalls, Gap { from: self.last, to: now });
        self.last = self.last.max(now);
        let last = usize::try_from(client).ok().and_then(|client| self.last_of.get_mut(client));
        if let Some(last) = last {
            self.stalls.longest_of_a_client.keep_longest(Gap { from: *last, to: now });
            *last = now;
        }
    }

    fn count_second(&mut self, now: Moment, answered: bool) {
        let second = usize::try_from(now.since(self.stalls.begun).as_secs()).unwrap_or(usize::MAX);
        if second >= MAX_SECONDS {
            return;
        }
        if self.stalls.seconds.len() <= second {
            self.stalls.seconds.resize(second + 1, Second::default());
        }
        if let Some(second) = self.stalls.seconds.get_mut(second) {
            let count = if answered { &mut second.answered } else { &mut second.failed };
            *count += 1;
        }
    }
}

fn note(stalls: &mut Stalls, gap: Gap) {
    stalls.longest.keep_longest(gap);
    if gap.duration() >= NOTABLE && stalls.gaps.len() < MAX_GAPS {
        stalls.gaps.push(gap);
    }
}
